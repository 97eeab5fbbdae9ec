"""gsplat (Ye et al. 2024, arXiv 2409.06765) as a renderer backend: CUDA only, never taken by 'auto'.

Two names: 'gsplat' renders scene after scene, as GaussGym does; 'gsplat-batched' hands it all scenes in one call, which needs
them equally large: they are padded to the largest with splats of no opacity, and their cameras to the most of any scene. Written
against gsplat 1.5.3; what comes after it clamps alpha at 0.99 and shares harmonics between scenes. Frames go through main memory.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from gaussgym_scene import InputError, Splats
from numpy.typing import NDArray

from gaussgym_render.oracle import EPS_2D

if TYPE_CHECKING:
    from gaussgym_render.backends import AnySplats, RasterizerCfg
    from gaussgym_render.frames import FrameArrays

GSPLAT_VERSION = "1.5.3"


@dataclass(frozen=True, kw_only=True)
class GsplatCfg:
    """How gsplat is called.

    Attributes:
        batch_scenes: All scenes in one call, padded to equal size, rather than one call a scene.
        cameras_per_call: Most cameras of a call; bounds gsplat's memory, several hundred bytes a visible splat and camera.
    """

    batch_scenes: bool = False
    cameras_per_call: int = 256


def missing() -> str | None:
    """What gsplat would need and this machine does not have; None if nothing is missing."""
    found = []
    if importlib.util.find_spec("gsplat") is None:
        found.append("gsplat is not installed")
    elif version("gsplat").split("+")[0] != GSPLAT_VERSION:
        found.append(f"gsplat {version('gsplat')} is installed")
    import torch

    if not torch.cuda.is_available():
        found.append(f"torch {torch.__version__} finds no CUDA device")
    if not found:
        return None
    return (
        f"{' and '.join(found)}; it needs an NVIDIA GPU, a CUDA build of torch, the CUDA toolkit (nvcc) and gsplat "
        f"{GSPLAT_VERSION} (pip install gsplat=={GSPLAT_VERSION})"
    )


def make_gsplat(
    splats: Sequence[AnySplats], cfg: RasterizerCfg, *, gsplat_cfg: GsplatCfg | None = None
) -> GsplatRasterizer:
    """The rasterizer on the current CUDA device.

    Raises:
        InputError: gsplat has no kernels (what else may be lacking says `missing`), or a scene has levels of detail.
    """
    from gsplat import rasterization
    from gsplat.cuda import _backend  # compiles gsplat's kernels on first use, which takes minutes

    if _backend._C is None:
        raise InputError(
            "renderer backend 'gsplat' cannot run here: gsplat has no compiled kernels and found no CUDA toolkit to make them; "
            "install nvcc, or a wheel of gsplat with kernels"
        )
    return GsplatRasterizer(splats, cfg, gsplat_cfg or GsplatCfg(), rasterization, "cuda")


class GsplatRasterizer:
    """Renders with gsplat's `rasterization`, behind the backends' interface.

    Args:
        splats: The scenes, without levels of detail.
        cfg: Image size and conventions.
        gsplat_cfg: How gsplat is called.
        rasterization: `gsplat.rasterization`.
        device: Where it runs.

    Raises:
        InputError: A scene has levels of detail.
    """

    def __init__(
        self,
        splats: Sequence[AnySplats],
        cfg: RasterizerCfg,
        gsplat_cfg: GsplatCfg,
        rasterization: Callable[..., Any],
        device: Any,
    ) -> None:
        scenes = [scene for scene in splats if isinstance(scene, Splats)]
        if len(scenes) < len(splats):
            raise InputError(
                "renderer backend 'gsplat' draws no levels of detail; give it the scene they were made from, or take 'cpu'"
            )
        if gsplat_cfg.cameras_per_call < 1:
            raise InputError(f"{gsplat_cfg.cameras_per_call} cameras a call, expected at least 1")
        self.cfg, self.gsplat_cfg, self.device = cfg, gsplat_cfg, device
        self._rasterization = rasterization
        self._sizes = [len(scene) for scene in scenes]
        self._degrees = [
            min(scene.sh_degree, 3 if cfg.sh_degree is None else cfg.sh_degree) for scene in scenes
        ]
        if gsplat_cfg.batch_scenes:
            size = (max(self._sizes), max(scene.sh.shape[1] for scene in scenes))
            padded = [_padded(scene, *size) for scene in scenes]
            self._all = [self._upload(np.stack(column)) for column in zip(*padded)]
        else:
            self._scenes = [[self._upload(array) for array in _padded(scene)] for scene in scenes]

    def render(
        self,
        c2w: NDArray[np.float64],
        ks: NDArray[np.float64],
        scene_ids: NDArray[np.int64],
        cameras: NDArray[np.int64],
        background: NDArray[np.float32],
        frames: FrameArrays,
        objects: Any = None,
        seen: Any = None,
        changes: Any = None,
        extra: Any = None,
        sizes: Any = None,
    ) -> None:
        """See `gaussgym_render.cpu.CpuRasterizer.render`; without `ABILITIES` the last five are never given."""
        counts = np.asarray(self._sizes, np.int64)
        empty = cameras[counts[scene_ids[cameras]] == 0]
        frames[0][empty] = np.floor(np.clip(background, 0.0, 1.0) * 255.0 + 0.5)
        frames[1][empty] = frames[2][empty] = 0.0
        rows = [cameras[scene_ids[cameras] == scene] for scene in range(len(counts))]
        shown = [scene for scene in range(len(counts)) if counts[scene] and len(rows[scene])]
        if self.gsplat_cfg.batch_scenes:
            if shown:
                self._render_batched(c2w, ks, [rows[scene] for scene in shown], shown, background, frames)
            return
        step = self.gsplat_cfg.cameras_per_call
        for scene in shown:
            for start in range(0, len(rows[scene]), step):
                part = rows[scene][start : start + step]
                images = self._call(
                    self._scenes[scene], self._degrees[scene], c2w[part], ks[part], background
                )
                for frame, image in zip(frames, images):
                    frame[part] = image

    def _render_batched(
        self,
        c2w: NDArray[np.float64],
        ks: NDArray[np.float64],
        rows: list[NDArray[np.int64]],
        shown: list[int],
        background: NDArray[np.float32],
        frames: FrameArrays,
    ) -> None:
        """Render the cameras `rows` of the scenes `shown`, all scenes in each call."""
        degree = max(self._degrees[scene] for scene in shown)
        arrays = self._all if len(shown) == len(self._sizes) else [array[shown] for array in self._all]
        step = max(1, self.gsplat_cfg.cameras_per_call // len(shown))
        for start in range(0, max(map(len, rows)), step):
            parts = [part[start : start + step] for part in rows]
            count = max(map(len, parts))
            # A scene with fewer cameras repeats its first one; those images are thrown away.
            index = np.stack(
                [np.append(part, np.full(count - len(part), own[0])) for part, own in zip(parts, rows)]
            )
            images = self._call(arrays, degree, c2w[index], ks[index], background)
            for frame, image in zip(frames, images):
                for scene, part in enumerate(parts):
                    frame[part] = image[scene, : len(part)]

    def _call(
        self,
        arrays: list[Any],
        degree: int,
        c2w: NDArray[np.float64],
        ks: NDArray[np.float64],
        background: NDArray[np.float32],
    ) -> tuple[NDArray[Any], ...]:
        """One call of gsplat for cameras `[..., C]`: rgb uint8, depth and alpha float32, in main memory."""
        import torch

        means, quats, scales, opacities, sh = arrays
        viewmats = np.zeros(c2w.shape)
        viewmats[..., :3, :3] = np.swapaxes(c2w[..., :3, :3], -1, -2)
        viewmats[..., :3, 3:] = -viewmats[..., :3, :3] @ c2w[..., :3, 3:]
        viewmats[..., 3, 3] = 1.0
        with torch.inference_mode():
            colors, alphas, _ = self._rasterization(
                means,
                quats,
                scales,
                opacities,
                sh,
                self._upload(viewmats),
                self._upload(ks),
                self.cfg.width,
                self.cfg.height,
                near_plane=self.cfg.near,
                radius_clip=0.0,
                eps2d=EPS_2D,
                sh_degree=degree,
                packed=True,
                backgrounds=self._upload(np.broadcast_to(background, (*c2w.shape[:-2], 3))),
                render_mode="RGB+ED",
                rasterize_mode="antialiased" if self.cfg.antialiased else "classic",
            )
            rgb = (colors[..., :3].clamp(0.0, 1.0) * 255.0 + 0.5).to(torch.uint8)
            return rgb.cpu().numpy(), colors[..., 3].cpu().numpy(), alphas[..., 0].cpu().numpy()

    def _upload(self, array: NDArray[Any]) -> Any:
        import torch

        return torch.from_numpy(np.array(array, np.float32, order="C")).to(self.device)


def _padded(scene: Splats, count: int | None = None, coefficients: int | None = None) -> list[NDArray[Any]]:
    """Means, quaternions, scales, opacities and harmonics of a scene, filled up with splats that nobody sees."""
    n, k = len(scene), scene.sh.shape[1]
    more, higher = (count or n) - n, max(0, (coefficients or k) - k)
    return [
        np.pad(scene.means, ((0, more), (0, 0))),
        np.concatenate([scene.quats_wxyz, np.tile(np.array([1, 0, 0, 0], np.float32), (more, 1))]),
        np.pad(scene.scales, ((0, more), (0, 0)), constant_values=1e-3),
        np.pad(scene.opacities, (0, more)),
        np.pad(scene.sh, ((0, more), (0, higher), (0, 0))),
    ]
