"""Other splat renderers on a GPU, each in the way it is meant to be used, with images that stay there.

Unlike `rivals`, where images are fetched, a call here launches work and returns: learners read images where they are drawn.
What is called in parts (minibatches, scenes, cameras) is called with the parts that suit it best, where the rival leaves the
choice. What a rival draws less (no depth, one band of colour, no filter) is timed as it is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import torch
from gaussgym_scene import InputError
from numpy.typing import NDArray

from gaussgym_render import harmonics
from gaussgym_render.bench.device import numbered
from gaussgym_render.bench.rivals import _OPENGL_FROM_OPENCV, _vertical_fov_deg, plain_scenes
from gaussgym_render.bench.scenes import Workload
from gaussgym_render.low_resolution import RADIUS_CLIP_PX

GSPLAT = "1.5.3"
GAUSSGYM_MINIBATCH = 1024
"""Cameras a call in the published GaussGym."""
MINIBATCHES = (4096, 1024, 256)
"""What gsplat's batched calls are tried with: the largest that fits is not always the fastest."""


@dataclass(frozen=True)
class Drawn:
    """A rival at work on one workload.

    Attributes:
        draw: Launches the drawing of all cameras.
        images: The first so many images of the last `draw`, uint8 `[n, H, W, 3]`, fetched.
        setting: How it is called, where there is a choice.
    """

    draw: Callable[[], object]
    images: Callable[[int], NDArray[np.uint8]]
    setting: str = ""


@dataclass(frozen=True, kw_only=True)
class DeviceRival:
    """A renderer to compare with.

    Attributes:
        name: What it is called here.
        make: Builds it for a workload on a device, one `Drawn` for each way to call it.
        differs: What it draws otherwise.
        package: Whose version counts.
        absence: Why it cannot run here, None if it can.
    """

    name: str
    make: Callable[[Workload, Any], Iterator[Drawn]]
    differs: str
    package: str
    absence: Callable[[], str | None]

    def version(self) -> str:
        """Of its package."""
        return metadata.version(self.package)


def _not_installed(package: str, install: str) -> Callable[[], str | None]:
    def absence() -> str | None:
        found = importlib.util.find_spec(package.replace("-", "_"))
        return None if found else f"{package} is not installed: {install}"

    return absence


def _lacks_gsplat() -> str | None:
    if (absent := _not_installed("gsplat", f"pip install gsplat=={GSPLAT}")()) is not None:
        return absent
    if not torch.cuda.is_available():
        return "needs a CUDA device"
    found = metadata.version("gsplat").split("+")[0]
    if found != GSPLAT:
        return f"gsplat {found} is installed, expected {GSPLAT}"
    from gsplat.cuda import _backend  # compiles gsplat's kernels on first use, which takes minutes

    return (
        None if _backend._C is not None else "gsplat has no compiled kernels and found no CUDA toolkit (nvcc)"
    )


def _lacks_inference() -> str | None:
    """Only versions after 1.5.3 have it."""
    if (absent := _not_installed("gsplat", "build gsplat's main branch")()) is not None:
        return absent
    if not torch.cuda.is_available():
        return "needs a CUDA device"
    if importlib.util.find_spec("gsplat.experimental") is None:
        return f"gsplat {metadata.version('gsplat')} has no inference renderer: build gsplat's main branch"
    return None


def _tensors(load: Workload, device: Any) -> list[dict[str, torch.Tensor]]:
    """Each scene as gsplat takes it."""
    names = {
        "means": "means",
        "quats": "quats_wxyz",
        "scales": "scales",
        "opacities": "opacities",
        "colors": "sh",
    }
    return [
        {
            to: torch.tensor(getattr(scene, name), dtype=torch.float32, device=device)
            for to, name in names.items()
        }
        for scene in plain_scenes(load)
    ]


def _cameras(load: Workload, rows: NDArray[np.int64], device: Any) -> dict[str, torch.Tensor]:
    arrays = {"viewmats": np.linalg.inv(load.c2w[rows]), "Ks": load.K[rows]}
    return {name: torch.tensor(array, dtype=torch.float32, device=device) for name, array in arrays.items()}


def _rows(load: Workload) -> list[NDArray[np.int64]]:
    """The cameras of each scene."""
    return [np.flatnonzero(load.scene_ids == scene) for scene in range(len(load.scenes))]


def _bytes_of(parts: Sequence[torch.Tensor], order: NDArray[np.int64], count: int) -> NDArray[np.uint8]:
    """The first images of a workload out of float images of its cameras in another order, in parts."""
    found, places, begin = [], [], 0
    for part in parts:
        own = order[begin : begin + len(part)]
        begin += len(part)
        kept = np.flatnonzero(own < count)
        rgb = part[torch.as_tensor(kept, device=part.device)][..., :3]
        found.append((rgb.clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy())
        places.append(own[kept])
    return np.concatenate(found)[np.argsort(np.concatenate(places))]


def _gsplat_batched(load: Workload, device: Any) -> Iterator[Drawn]:
    """All scenes in each call, some cameras of each."""
    import gsplat

    rows = _rows(load)
    if len({len(scene) for scene in load.scenes}) > 1 or len({len(own) for own in rows}) > 1:
        raise InputError("gsplat's batch wants as many splats and cameras in each scene")
    scenes = _tensors(load, device)
    scene = {name: torch.stack([part[name] for part in scenes]) for name in scenes[0]}
    del scenes
    settings = {
        "width": load.width, "height": load.height, "sh_degree": load.scenes[0].sh_degree, "render_mode": "RGB+ED",
        "rasterize_mode": "antialiased",
    }  # fmt: skip
    for minibatch in MINIBATCHES:
        step = max(1, minibatch // len(rows))
        if minibatch != MINIBATCHES[0] and step >= len(rows[0]):
            continue
        starts = range(0, len(rows[0]), step)
        calls = [[_cameras(load, own[start : start + step], device) for own in rows] for start in starts]
        stacked = [{name: torch.stack([one[name] for one in call]) for name in call[0]} for call in calls]
        order = np.concatenate([own[start : start + step] for start in starts for own in rows])
        parts: list[torch.Tensor] = []

        def draw(stacked: list[Any] = stacked, parts: list[torch.Tensor] = parts) -> None:
            parts.clear()
            with torch.inference_mode():
                parts.extend(
                    gsplat.rasterization(**scene, **call, **settings)[0].flatten(0, 1) for call in stacked
                )

        def images(
            count: int, parts: list[torch.Tensor] = parts, order: NDArray[np.int64] = order
        ) -> NDArray[np.uint8]:
            return _bytes_of(parts, order, count)

        yield Drawn(draw, images, f"{min(step, len(rows[0])) * len(rows)} cameras a call")


def _gaussgym_loop(load: Workload, device: Any) -> Iterator[Drawn]:
    """A call for each scene and minibatch, with the settings of the published code."""
    import gsplat

    scenes = _tensors(load, device)
    pieces = [
        (scene, own[start : start + GAUSSGYM_MINIBATCH])
        for scene, own in enumerate(_rows(load))
        for start in range(0, len(own), GAUSSGYM_MINIBATCH)
    ]
    cameras = [_cameras(load, rows, device) for _, rows in pieces]
    settings = {
        "width": load.width, "height": load.height, "sh_degree": load.scenes[0].sh_degree, "render_mode": "RGB+D",
        "radius_clip": RADIUS_CLIP_PX,
    }  # fmt: skip
    parts: list[torch.Tensor] = []

    def draw() -> None:
        parts.clear()
        with torch.inference_mode():
            for (scene, _), views in zip(pieces, cameras):
                parts.append(gsplat.rasterization(**scenes[scene], **views, **settings)[0])

    order = np.concatenate([rows for _, rows in pieces])
    yield Drawn(draw, lambda count: _bytes_of(parts, order, count), f"{GAUSSGYM_MINIBATCH} cameras a call")


def _gsplat_inference(load: Workload, device: Any) -> Iterator[Drawn]:
    """A call for each camera: it takes one. Class and argument names are those of gsplat's main branch of August 2026."""
    from gsplat.experimental.render import GaussianInferenceRenderer
    from gsplat.scene import GaussianInferenceScene

    renderers = []
    for number, scene in enumerate(_tensors(load, device)):
        packed = GaussianInferenceScene.from_gaussian_tensors(
            **scene, sh_degree=load.scenes[number].sh_degree, sh_compression="none", id=f"scene{number}"
        )
        renderers.append(GaussianInferenceRenderer(packed))
    views = _cameras(load, np.arange(len(load)), device)
    size = {"width": load.width, "height": load.height}
    frames = torch.empty((len(load), load.height, load.width, 4), dtype=torch.float16, device=device)

    def draw() -> None:
        with torch.inference_mode():
            for camera, scene in enumerate(load.scene_ids.tolist()):
                shown = renderers[scene].render(
                    viewmat=views["viewmats"][camera], K=views["Ks"][camera], **size
                )
                frames[camera] = shown.frame[0]

    yield Drawn(draw, lambda count: _bytes_of([frames], np.arange(len(load)), count), "1 camera a call")


def _mujoco_warp(load: Workload, device: Any) -> Iterator[Drawn]:
    """Ray-traced, all worlds in one call."""
    import mujoco
    import mujoco_warp as mjw
    import warp as wp

    wp.init()
    # One pebble out of sight, without which there is no tree of geometries to descend; the camera's pose is set directly.
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><statistic extent="1"/><visual><map znear="0.01" zfar="100000"/></visual><worldbody>'
        '<geom type="sphere" size="0.01" pos="0 0 -90000" contype="0" conaffinity="0"/>'
        f'<camera fovy="{_vertical_fov_deg(load):.9f}"/></worldbody></mujoco>'
    )
    scenes = plain_scenes(load)
    colors = [np.maximum(0.5 + harmonics.C0 * scene.sh[:, 0], 0.0) for scene in scenes]
    rgba = np.concatenate([np.concatenate([rgb, s.opacities[:, None]], 1) for rgb, s in zip(colors, scenes)])
    with wp.ScopedDevice(wp.device_from_torch(numbered(device))):
        context = mjw.create_render_context(
            model,
            nworld=len(load),
            cam_res=(load.width, load.height),
            render_rgb=True,
            render_depth=False,
            splat_position=np.concatenate([scene.means for scene in scenes]),
            splat_rotation=np.concatenate([scene.quats_wxyz for scene in scenes]),
            splat_scale=np.concatenate([scene.scales for scene in scenes]),
            splat_rgba=rgba.astype(np.float32),
            splat_adr=np.cumsum([0, *(len(scene) for scene in scenes)]).astype(np.int32),
            splat_group_id=load.scene_ids.astype(np.int32),
        )
        warp_model, data = mjw.put_model(model), mjw.make_data(model, nworld=len(load))
        mjw.kinematics(warp_model, data)
    data.cam_xpos.assign(load.c2w[:, None, :3, 3].astype(np.float32))
    data.cam_xmat.assign((load.c2w[:, :3, :3] @ _OPENGL_FROM_OPENCV)[:, None].astype(np.float32))

    def draw() -> None:
        with _torch_stream(device), wp.ScopedDevice(wp.device_from_torch(numbered(device))):
            mjw.render(warp_model, data, context)

    def images(count: int) -> NDArray[np.uint8]:
        packed = context.rgb_data.flatten()[: count * load.width * load.height].numpy()
        rgb = np.stack([(packed >> 16) & 255, (packed >> 8) & 255, packed & 255], -1)
        return rgb.astype(np.uint8).reshape(count, load.height, load.width, 3)

    yield Drawn(draw, images, "1 call")


def _torch_stream(device: Any) -> Any:
    """Warp launches on torch's current stream within this context, so that torch's events enclose them."""
    from contextlib import nullcontext

    import warp as wp

    if torch.device(device).type != "cuda":
        return nullcontext()
    return wp.ScopedStream(wp.stream_from_torch(torch.cuda.current_stream(device)))


DEVICE_RIVALS = (
    DeviceRival(
        name="gsplat-batched",
        make=_gsplat_batched,
        differs="the same images and depth, float32; scenes and cameras batched, antialiased, packed",
        package="gsplat",
        absence=_lacks_gsplat,
    ),
    DeviceRival(
        name="gaussgym-scene-loop",
        make=_gaussgym_loop,
        differs="as the published GaussGym calls gsplat: a call a scene, radius_clip=3, not antialiased, RGB+D, float32",
        package="gsplat",
        absence=_lacks_gsplat,
    ),
    DeviceRival(
        name="gsplat-inference",
        make=_gsplat_inference,
        differs="half precision, a call a camera, no depth, not antialiased",
        package="gsplat",
        absence=_lacks_inference,
    ),
    DeviceRival(
        name="mujoco_warp",
        make=_mujoco_warp,
        differs="ray-traced, DC colour only, no low-pass, no depth",
        package="mujoco-warp",
        absence=_not_installed("mujoco-warp", "pip install mujoco-warp==4.0.0"),
    ),
)
