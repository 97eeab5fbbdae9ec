"""Other splat renderers on the same scenes and cameras, each by its own interface and in the way it is meant to be used.

None is a dependency: one that cannot run here is reported as absent, with what it takes. What differs in what they draw is said
with each. A rival that draws less (one band of colour, no depth, no antialiasing) is timed as it is.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from gaussgym_scene import InputError, Splats
from numpy.typing import NDArray

from gaussgym_render import harmonics, oracle
from gaussgym_render.backends import AnySplats
from gaussgym_render.bench.comparison import psnr_db
from gaussgym_render.bench.scenes import Workload
from gaussgym_render.renderer import SplatRenderer
from gaussgym_render.yardstick import Yardstick

Images = NDArray[np.uint8]
Draw = Callable[[], Images]
"""Renders all of a workload's cameras; returns rgb `[C, H, W, 3]`."""

_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A renderer to compare with.

    Attributes:
        name: What it is called here.
        make: Builds it for a workload; returns what draws that workload's cameras.
        differs: In what its images or its work differ from the CPU backend's.
        packages: What it needs beside this package; the first gives its version.
        install: How to get it.
        lacking: Says what else is missing on this machine, None if nothing is; asked where its packages are installed.
    """

    name: str
    make: Callable[[Workload], Draw]
    differs: str
    packages: tuple[str, ...] = ()
    install: str = ""
    lacking: Callable[[], str | None] = lambda: None

    def version(self) -> str | None:
        """Its package's version; None where that is this package's own."""
        return metadata.version(self.packages[0]) if self.packages else None

    def absence(self) -> str | None:
        """Why it cannot run here, and what it takes; None if it can."""
        missing = [name for name in self.packages if importlib.util.find_spec(name.replace("-", "_")) is None]
        if missing:
            return f"{', '.join(missing)} not installed: {self.install}"
        return self.lacking()


def _lacks_cuda() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "needs a CUDA device"


def _lacks_splax_setting() -> str | None:
    if os.environ.get("SCIPY_ARRAY_API") != "1":
        return "set SCIPY_ARRAY_API=1 before the start: splax refuses to be imported after scipy without it"
    return _lacks_cuda()


def _lacks_vulkan() -> str | None:
    """Gausscam binds 35 buffers to a shader; Mesa's CPU driver allows 32."""
    import wgpu

    limits = [a.limits for a in wgpu.gpu.enumerate_adapters_sync() if a.info["backend_type"] == "Vulkan"]
    if not limits:
        return "found no Vulkan device: install a GPU's driver"
    found = limits[0]["max-storage-buffers-per-shader-stage"]
    return (
        None
        if found >= 35
        else f"its shaders bind 35 storage buffers, the Vulkan device found allows {found}"
    )


def plain_scenes(load: Workload) -> list[Splats]:
    """The scenes, if all rivals can draw them."""
    scenes = [scene for scene in load.scenes if isinstance(scene, Splats)]
    if len(scenes) < len(load.scenes):
        raise InputError(
            "found levels of detail, which no rival draws; give the scene itself, and these with --lod"
        )
    return scenes


def _yardstick(load: Workload) -> Draw:
    renderer = Yardstick(plain_scenes(load))
    size = (len(load), load.height, load.width)
    frames = (np.empty((*size, 3), np.uint8), np.empty(size, np.float32), np.empty(size, np.float32))

    def draw() -> Images:
        cameras = np.arange(len(load))
        renderer.render(load.c2w, load.K, load.scene_ids, cameras, np.zeros(3, np.float32), frames)
        return frames[0]

    return draw


def _torch(load: Workload) -> Draw:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    scenes = [_torch_scene(scene, device) for scene in plain_scenes(load)]
    poses = torch.tensor(load.c2w, dtype=torch.float32, device=device)
    ks = torch.tensor(load.K, dtype=torch.float32, device=device)

    def draw() -> Images:
        with torch.no_grad():
            views = [
                _torch_camera(scenes[s], poses[c], ks[c], load.width, load.height)
                for c, s in enumerate(load.scene_ids.tolist())
            ]
        return torch.stack(views).cpu().numpy()

    return draw


def _torch_scene(splats: Any, device: str) -> tuple[Any, ...]:
    """Means, `R S`, opacities and SH coefficients as tensors."""
    import torch
    from gaussgym_scene.frames import matrix_from_quat_wxyz

    factor = matrix_from_quat_wxyz(splats.quats_wxyz) * splats.scales[:, None, :]
    arrays = (splats.means, factor, splats.opacities, splats.sh)
    return tuple(torch.tensor(array, dtype=torch.float32, device=device) for array in arrays)


def _torch_camera(scene: tuple[Any, ...], c2w: Any, k: Any, width: int, height: int) -> Any:
    """One camera, vectorized: list all pairs of a splat and a pixel of its box, sort them by pixel, blend by running products."""
    import torch

    mean_px, conic, opacity, color, reach = _torch_project(scene, c2w, k, width, height)
    edge = torch.tensor([width, height], device=k.device)
    low = torch.minimum((mean_px - reach).floor().clamp(min=0), edge).long()
    size = torch.minimum((mean_px + reach).ceil().clamp(min=0), edge).long() - low
    count = size[:, 0] * size[:, 1]
    splat = torch.repeat_interleave(count)
    offset = torch.arange(len(splat), device=k.device) - (count.cumsum(0) - count)[splat]
    x, y = low[splat, 0] + offset % size[splat, 0], low[splat, 1] + offset // size[splat, 0]
    dx, dy = x + 0.5 - mean_px[splat, 0], y + 0.5 - mean_px[splat, 1]
    a, b, c = conic[splat].unbind(-1)
    alpha = opacity[splat] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
    hit = torch.nonzero(alpha >= oracle.MIN_ALPHA).squeeze(1)
    pixel, order = torch.sort((y * width + x)[hit], stable=True)  # pairs were listed front to back
    alpha, splat = alpha[hit][order].clamp(max=oracle.MAX_ALPHA), splat[hit][order]
    passed = torch.log1p(-alpha.double()).cumsum(0)
    first = torch.searchsorted(pixel, pixel)
    before = torch.where(first > 0, passed[(first - 1).clamp(min=0)], 0.0)  # of all pixels before this one
    after = torch.exp(passed - before).float()
    weight = torch.where(after > oracle.MIN_TRANSMITTANCE, after * alpha / (1.0 - alpha), 0.0)
    rgb = torch.zeros((height * width, 3), device=k.device).index_add_(
        0, pixel, weight[:, None] * color[splat]
    )
    return (rgb.clamp(0, 1) * 255 + 0.5).to(torch.uint8).reshape(height, width, 3)


def _torch_project(scene: tuple[Any, ...], c2w: Any, k: Any, width: int, height: int) -> tuple[Any, ...]:
    """Centres, conics, opacities, colours and half sizes of the splats that touch the image, front to back."""
    import torch

    means, factor, opacities, sh = scene
    points = (means - c2w[:3, 3]) @ c2w[:3, :3]
    front = torch.nonzero(points[:, 2] >= 0.01).squeeze(1)
    points, factor, opacities = points[front], factor[front], opacities[front]
    x, y, z = points.unbind(-1)
    fx, fy, cx, cy = k[0, 0], k[1, 1], k[0, 2], k[1, 2]
    margin_x, margin_y = oracle.TAN_MARGIN * 0.5 * width / fx, oracle.TAN_MARGIN * 0.5 * height / fy
    tan_x = (x / z).clamp(-(cx / fx + margin_x), (width - cx) / fx + margin_x)
    tan_y = (y / z).clamp(-(cy / fy + margin_y), (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * tan_x / z, zero, fy / z, -fy * tan_y / z], -1).reshape(
        -1, 2, 3
    )
    half = jacobian @ c2w[:3, :3].T @ factor
    sharp = half @ half.mT
    xx, xy, yy = sharp[:, 0, 0], sharp[:, 0, 1], sharp[:, 1, 1]
    det = (xx + oracle.EPS_2D) * (yy + oracle.EPS_2D) - xy * xy
    ratio = ((xx * yy - xy * xy) / det).clamp(min=oracle.MIN_COMPENSATION**2)
    opacities = opacities * ratio.sqrt()
    mean_px = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)
    extent = (2.0 * (opacities / oracle.MIN_ALPHA).clamp(min=1.0).log()).sqrt()
    reach = extent[:, None] * torch.stack([xx + oracle.EPS_2D, yy + oracle.EPS_2D], -1).sqrt()
    size = torch.tensor([width, height], device=k.device)
    seen = (opacities >= oracle.MIN_ALPHA) & (mean_px + reach > 0).all(-1) & (mean_px - reach < size).all(-1)
    kept = torch.nonzero(seen).squeeze(1)
    kept = kept[torch.argsort(z[kept], stable=True)]
    toward = torch.nn.functional.normalize(means[front[kept]] - c2w[:3, 3], dim=-1).cpu().numpy()
    basis = harmonics.basis(toward, harmonics.degree_of(sh.shape[1]))
    color = (torch.tensor(basis, device=k.device)[:, None] @ sh[front[kept]]).squeeze(1) + 0.5
    conic = torch.stack([yy + oracle.EPS_2D, -xy, xx + oracle.EPS_2D], -1)[kept] / det[kept, None]
    return mean_px[kept], conic, opacities[kept], color.clamp(min=0), reach[kept]


def _mujoco_warp(load: Workload) -> Draw:
    import mujoco
    import mujoco_warp as mjw
    import warp as wp

    wp.config.log_level = wp.LOG_WARNING
    fovy = _vertical_fov_deg(load)
    # An empty world: one pebble out of sight, without which the renderer has no tree of geometries to descend; a far plane
    # behind everything; a camera whose pose is set directly.
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><statistic extent="1"/><visual><map znear="0.01" zfar="100000"/></visual><worldbody>'
        '<geom type="sphere" size="0.01" pos="0 0 -90000" contype="0" conaffinity="0"/>'
        f'<camera fovy="{fovy:.9f}"/></worldbody></mujoco>'
    )
    scenes = plain_scenes(load)
    colors = [np.maximum(0.5 + harmonics.C0 * scene.sh[:, 0], 0.0) for scene in scenes]
    rgba = [np.concatenate([rgb, s.opacities[:, None]], 1) for rgb, s in zip(colors, scenes)]
    context = mjw.create_render_context(
        model,
        nworld=len(load),
        cam_res=(load.width, load.height),
        render_rgb=True,
        render_depth=False,
        splat_position=np.concatenate([scene.means for scene in scenes]),
        splat_rotation=np.concatenate([scene.quats_wxyz for scene in scenes]),
        splat_scale=np.concatenate([scene.scales for scene in scenes]),
        splat_rgba=np.concatenate(rgba).astype(np.float32),
        splat_adr=np.cumsum([0, *(len(scene) for scene in scenes)]).astype(np.int32),
        splat_group_id=load.scene_ids.astype(np.int32),
    )
    warp_model, data = mjw.put_model(model), mjw.make_data(model, nworld=len(load))
    mjw.kinematics(warp_model, data)
    data.cam_xpos.assign(load.c2w[:, None, :3, 3].astype(np.float32))
    data.cam_xmat.assign((load.c2w[:, :3, :3] @ _OPENGL_FROM_OPENCV)[:, None].astype(np.float32))

    def draw() -> Images:
        mjw.render(warp_model, data, context)
        packed = context.rgb_data.numpy()
        rgb = np.stack([(packed >> 16) & 255, (packed >> 8) & 255, packed & 255], -1)
        return rgb.astype(np.uint8).reshape(len(load), load.height, load.width, 3)

    return draw


def _vertical_fov_deg(load: Workload) -> float:
    """The vertical field of view that all cameras share, for renderers that take no calibration matrix."""
    k = load.K[0]
    centred = np.allclose(k[:2, 2], [load.width / 2, load.height / 2]) and np.isclose(k[0, 0], k[1, 1])
    if not (centred and np.allclose(load.K, k)):
        raise InputError("cameras differ in K, or K is not centred with square pixels")
    return float(np.degrees(2 * np.arctan(load.height / 2 / k[1, 1])))


def _gsplat_scene(load: Workload, scene: int) -> dict[str, Any]:
    """A scene as gsplat takes it, on the GPU."""
    import torch

    splats = plain_scenes(load)[scene]
    arrays = {
        "means": splats.means,
        "quats": splats.quats_wxyz,
        "scales": splats.scales,
        "opacities": splats.opacities,
        "colors": splats.sh,
    }
    return {name: torch.tensor(array, device=_gsplat_device()) for name, array in arrays.items()}


def _gsplat_device() -> str:
    return "cuda"


def _gsplat_cameras(load: Workload, cameras: NDArray[np.int64]) -> dict[str, Any]:
    """World to camera and calibration matrices as gsplat takes them."""
    import torch

    arrays = {"viewmats": np.linalg.inv(load.c2w[cameras]), "Ks": load.K[cameras]}
    return {name: torch.tensor(a, dtype=torch.float32, device=_gsplat_device()) for name, a in arrays.items()}


def _gsplat_settings(load: Workload) -> dict[str, Any]:
    return {
        "width": load.width,
        "height": load.height,
        "sh_degree": load.scenes[0].sh_degree,
        "rasterize_mode": "antialiased",
        "render_mode": "RGB+ED",
    }


def _gsplat_batched(load: Workload) -> Draw:
    import gsplat
    import torch

    per_scene = [np.flatnonzero(load.scene_ids == s) for s in range(len(load.scenes))]
    shapes = {(len(scene), scene.sh.shape) for scene in load.scenes}
    if len(shapes) > 1 or len({len(cameras) for cameras in per_scene}) > 1:
        raise InputError("gsplat's batch wants as many splats and cameras in each scene")
    parts = [_gsplat_scene(load, s) | _gsplat_cameras(load, c) for s, c in enumerate(per_scene)]
    inputs = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(np.concatenate(per_scene))

    def draw() -> Images:
        with torch.no_grad():
            image, _, _ = gsplat.rasterization(**inputs, **_gsplat_settings(load))
        return _quantized(image.flatten(0, 1))[order]

    return draw


def _gsplat_scene_loop(load: Workload) -> Draw:
    import gsplat
    import torch

    per_scene = [np.flatnonzero(load.scene_ids == s) for s in range(len(load.scenes))]
    parts = [(_gsplat_scene(load, s), _gsplat_cameras(load, c)) for s, c in enumerate(per_scene) if len(c)]
    order = np.argsort(np.concatenate(per_scene))

    def draw() -> Images:
        with torch.no_grad():
            images = [
                gsplat.rasterization(**scene, **cameras, **_gsplat_settings(load))[0]
                for scene, cameras in parts
            ]
        return _quantized(torch.cat(images))[order]

    return draw


def _quantized(image: Any) -> Images:
    """uint8 rgb of a float image whose first three channels are red, green and blue."""
    rgb = image[..., :3].clamp(0, 1) * 255 + 0.5
    return rgb.byte().cpu().numpy()


def _splax(load: Workload) -> Draw:
    import jax
    import jax.numpy as jnp
    import splax

    k = load.K[0]
    if not np.allclose(load.K, k):
        raise InputError("splax wants the same K for a batch of cameras")
    shared = {
        "background": jnp.zeros(3),
        "img_shape": (load.height, load.width),
        "f": (float(k[0, 0]), float(k[1, 1])),
        "c": (float(k[0, 2]), float(k[1, 2])),
        "antialiased": True,
    }
    per_scene = [np.flatnonzero(load.scene_ids == s) for s in range(len(load.scenes))]
    order = np.argsort(np.concatenate(per_scene))
    parts = []
    for scene, cameras in zip(plain_scenes(load), per_scene):
        logits = np.log(scene.opacities.clip(1e-6, 1 - 1e-6) / (1 - scene.opacities.clip(1e-6, 1 - 1e-6)))
        arrays = (scene.means, np.log(scene.scales.clip(1e-9)), scene.quats_wxyz, scene.sh, logits)
        viewmats = np.linalg.inv(load.c2w[cameras])
        parts.append((tuple(map(jnp.asarray, arrays)), jnp.asarray(viewmats, jnp.float32)))
    render = jax.jit(
        lambda arrays, views: jax.vmap(lambda view: splax.render(*arrays, viewmat=view, **shared)[0])(views)
    )

    def draw() -> Images:
        images = [np.asarray(render(arrays, views)) for arrays, views in parts if len(views)]
        return (np.concatenate(images).clip(0, 1) * 255 + 0.5).astype(np.uint8)[order]

    return draw


def _gausscam(load: Workload) -> Draw:
    from gausscam.backends.webgpu import Pipeline, pick_variant

    per_scene = [np.flatnonzero(load.scene_ids == s) for s in range(len(load.scenes))]
    order = np.argsort(np.concatenate(per_scene))
    fovy, parts = _vertical_fov_deg(load), []
    for scene, cameras in zip(plain_scenes(load), per_scene):
        for (
            c
        ) in cameras:  # one at a time: its sort key has room for few cameras, and its culling for one origin
            pose = load.c2w[c : c + 1]
            scene_arrays = {
                "xyz": scene.means,
                "rot": scene.quats_wxyz,
                "scale": scene.scales,
                "opacity": scene.opacities,
                "sh": np.ascontiguousarray(scene.sh[:, 0]),
                "slots": np.zeros(0, np.int32),
                "W": np.int32(load.width),
                "H": np.int32(load.height),
                "fovy": np.float32(fovy),
            }
            parts.append((scene_arrays, pose[:, :3, 3], pose[:, :3, :3] @ _OPENGL_FROM_OPENCV))
    pipelines: dict[int, Any] = {}
    for arrays, position, rotation in parts:
        key = id(arrays["xyz"])
        if key not in pipelines:
            pose = {"cam_pos": position.astype(np.float32), "cam_xmat": rotation.astype(np.float32)}
            pipelines[key] = Pipeline({**arrays, **pose}, variant=pick_variant(""))

    def draw() -> Images:
        images = []
        for arrays, position, rotation in parts:
            pipeline = pipelines[id(arrays["xyz"])]
            pipeline.set_cam(position, rotation)
            images.append(pipeline.unpack(*pipeline.render_frame())[0][0])
        return np.stack(images)[order]

    return draw


RIVALS = (
    Rival(
        name="yardstick",
        make=_yardstick,
        differs="the same images; plain numba, a loop over cameras on all cores (gaussgym_render.yardstick)",
    ),
    Rival(
        name="torch",
        make=_torch,
        differs="the same images without depth; plain vectorized torch, a loop over cameras, as many threads as torch is set to",
        packages=("torch",),
    ),
    Rival(
        name="mujoco_warp",
        make=_mujoco_warp,
        differs="ray-traced, DC colour only, no low-pass, no depth drawn; one thread where Warp runs on the CPU",
        packages=("mujoco-warp",),
        install="pip install mujoco-warp==4.0.0",
    ),
    Rival(
        name="gsplat",
        make=_gsplat_batched,
        differs="one batched call over scenes and cameras",
        packages=("gsplat",),
        install="pip install gsplat==1.5.3",
        lacking=_lacks_cuda,
    ),
    Rival(
        name="gsplat-scene-loop",
        make=_gsplat_scene_loop,
        differs="a call for each scene, as GaussGym does",
        packages=("gsplat",),
        install="pip install gsplat==1.5.3",
        lacking=_lacks_cuda,
    ),
    Rival(
        name="splax",
        make=_splax,
        differs="a vmapped call for each scene, without depth",
        packages=("splax", "jax"),
        install="pip install splax==0.2.3",
        lacking=_lacks_splax_setting,
    ),
    Rival(
        name="gausscam",
        make=_gausscam,
        differs="a call for each camera, DC colour only, opacities not compensated for the low-pass",
        packages=("gausscam", "wgpu"),
        install="pip install 'gausscam[webgpu]==0.1.5'",
        lacking=_lacks_vulkan,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Duel:
    """A rival against a backend on the same cameras, in turns; medians over the turns.

    Attributes:
        rival: Its name.
        version: Of its package; None where it is this package's own.
        differs: See `Rival`.
        absent: Why it did not run; None: it did.
        cameras: Different cameras that both drew.
        turns: How often each had its turn.
        frames_per_s: The rival's, wall time.
        frames_per_cpu_s: The rival's, CPU time of the process.
        our_frames_per_s: The backend's, wall time.
        our_frames_per_cpu_s: The backend's, CPU time.
        wall_ratio: How many times as fast the backend is, wall time, median of the turns' ratios.
        wall_ratio_min: Least of the turns.
        wall_ratio_max: Greatest of the turns.
        cpu_ratio: The same, CPU time.
        psnr_db: The rival's images against the backend's, mean over cameras: whether they show the same.
    """

    rival: str
    version: str | None = None
    differs: str = ""
    absent: str | None = None
    cameras: int = 0
    turns: int = 0
    frames_per_s: float | None = None
    frames_per_cpu_s: float | None = None
    our_frames_per_s: float | None = None
    our_frames_per_cpu_s: float | None = None
    wall_ratio: float | None = None
    wall_ratio_min: float | None = None
    wall_ratio_max: float | None = None
    cpu_ratio: float | None = None
    psnr_db: float | None = None


def duel(
    rival: Rival,
    workload: Workload,
    *,
    backend: str,
    threads: int | None,
    seconds: float,
    turns: int = 5,
    ours: Sequence[AnySplats] | None = None,
) -> Duel:
    """Time a rival against a backend in turns, on the first cameras of a workload: as many as the time allows.

    Compilation and upload are not timed; fetching the images is. The backend draws the same cameras, repeated to a large batch.

    Args:
        rival: The rival.
        workload: Scenes and cameras.
        backend: Renderer backend.
        threads: The backend's CPU threads, None for all.
        seconds: Time that the rival may take in all [s].
        turns: How often each has its turn.
        ours: What the backend draws in place of the workload's scenes, such as their levels of detail.
    """
    if (absent := rival.absence()) is not None:
        return Duel(rival=rival.name, differs=rival.differs, absent=absent)
    count = len(np.unique(workload.scene_ids))  # at least one camera in each scene
    draw = rival.make(workload.take(np.arange(count)))
    draw()  # compiles
    frame_s = _seconds(draw)[0] / count
    count = int(np.clip(seconds / turns / frame_s, count, len(workload))) // count * count
    few = workload.take(np.arange(count))
    draw = rival.make(few)
    images = draw()
    turns = int(np.clip(seconds / (count * frame_s), 1, turns))
    call, renderer = _repeated(few, ours or few.scenes, 256, backend, threads)
    same = renderer.render(few.c2w, few.K, few.scene_ids).rgb
    spent = np.array([[(*_seconds(draw), *_seconds(call))] for _ in range(turns)])[:, 0]
    speeds = count / spent[:, :2], max(256 // count, 1) * count / spent[:, 2:]
    ratios = speeds[1] / speeds[0]
    return Duel(
        rival=rival.name,
        version=rival.version(),
        differs=rival.differs,
        cameras=count,
        turns=turns,
        frames_per_s=float(np.median(speeds[0][:, 0])),
        frames_per_cpu_s=float(np.median(speeds[0][:, 1])),
        our_frames_per_s=float(np.median(speeds[1][:, 0])),
        our_frames_per_cpu_s=float(np.median(speeds[1][:, 1])),
        wall_ratio=float(np.median(ratios[:, 0])),
        wall_ratio_min=float(ratios[:, 0].min()),
        wall_ratio_max=float(ratios[:, 0].max()),
        cpu_ratio=float(np.median(ratios[:, 1])),
        psnr_db=float(psnr_db(images, same).mean()),
    )


def _repeated(
    few: Workload, scenes: Sequence[AnySplats], batch: int, backend: str, threads: int | None
) -> tuple[Callable[[], Any], SplatRenderer]:
    """A call that renders the cameras, repeated to about `batch`, by a backend; and its renderer."""
    load = few.take(np.tile(np.arange(len(few)), max(batch // len(few), 1)))
    renderer = SplatRenderer(scenes, load.width, load.height, backend=backend, num_threads=threads)
    out = renderer.render(load.c2w, load.K, load.scene_ids)
    return lambda: renderer.render(load.c2w, load.K, load.scene_ids, out=out), renderer


def _seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU time of a call [s]."""
    start, start_cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - start_cpu
