"""Frames per second of a renderer on one scene, and what the camera model costs."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene import Scene, Splats
from numpy.typing import NDArray

from gaussgym_render.cpu import CpuRasterizer, available_cores
from gaussgym_render.lod import LodSplats
from gaussgym_render.renderer import SplatRenderer
from gaussgym_render.robot_camera import RobotCameraCfg, make_robot_camera
from gaussgym_render.sources import SplatSource
from gaussgym_render.testing import quadruped_before
from gaussgym_render.viewpoints import Viewpoints

MAX_PSNR_DB = 70.0
"""Taken for images that are equal; at 64x48 a single channel of one pixel that is off by one has 88 dB."""
SIZES = ((64, 48), (84, 48), (160, 120), (480, 270))
"""Image sizes timed [px]: the policy's, the one of GaussGym's released configuration, two larger."""

EFFECTS_BATCH, EFFECTS_REPEATS = 256, 7
"""Cameras in a batch, and batches, that each part of the camera model is timed on."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Speed at one image size; each number is the median over `repeats`, with the slowest and fastest."""

    width_px: int
    height_px: int
    cameras_per_batch: int
    repeats: int
    frames_per_s: float
    frames_per_s_min: float
    frames_per_s_max: float
    frames_per_cpu_s: float
    visible_splats_mean: float | None
    """Splats that touch the image, mean over cameras; None where the backend does not count or renders in tiles."""


@dataclass(frozen=True, kw_only=True)
class ObjectsTiming:
    """What objects cost at the policy's image size: CPU time with them over that without, median over turns."""

    parts_per_camera: int
    faces_per_camera: int
    covered_pixels: float
    """Share of pixels that show them."""
    turns: int
    frames_per_cpu_s: float
    time_ratio: float
    time_ratio_quartiles: tuple[float, float]


def time_sizes(
    scene: Scene | SplatSource,
    cameras: Viewpoints,
    *,
    backend: str,
    threads: int | None,
    seconds: float,
    repeats: int = 5,
) -> list[Timing]:
    """Time rendering at all `SIZES`.

    Args:
        scene: What is rendered.
        cameras: Poses, cycled to fill batches; their field of view is kept horizontally.
        backend: Renderer backend.
        threads: CPU threads, None for all.
        seconds: Time to spend per size [s].
        repeats: Into how many measurements the time is divided.
    """
    return [_time_size(scene, cameras, size, backend, threads, seconds, repeats) for size in SIZES]


def _time_size(
    scene: Scene | SplatSource,
    cameras: Viewpoints,
    size: tuple[int, int],
    backend: str,
    threads: int | None,
    seconds: float,
    repeats: int,
) -> Timing:
    width, height = size
    renderer = SplatRenderer([scene.splats], width, height, backend=backend, num_threads=threads)
    c2w, k, ids = _views(cameras, width, height)
    out = renderer.render(c2w, k, ids)  # compiles
    start = time.perf_counter()
    renderer.render(c2w, k, ids, out=out)
    calls = max(1, int(seconds / repeats / (time.perf_counter() - start)))
    wall, cpu = np.empty(repeats), np.empty(repeats)
    for r in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            renderer.render(c2w, k, ids, out=out)
        wall[r], cpu[r] = time.perf_counter() - start, time.process_time() - start_cpu
    frames = calls * len(ids)
    rasterizer = renderer.rasterizer
    counted = isinstance(rasterizer, CpuRasterizer) and len(rasterizer.tiles) == 1
    return Timing(
        width_px=width,
        height_px=height,
        cameras_per_batch=len(ids),
        repeats=repeats,
        frames_per_s=float(np.median(frames / wall)),
        frames_per_s_min=float(frames / wall.max()),
        frames_per_s_max=float(frames / wall.min()),
        frames_per_cpu_s=float(np.median(frames / cpu)),
        visible_splats_mean=float(rasterizer.num_visible.mean()) if counted else None,  # type: ignore[union-attr]
    )


@dataclass(frozen=True, kw_only=True)
class EffectTiming:
    """What a part of the camera model costs at 64x48, against the plain renderer in the same run.

    Attributes:
        effects: What was on.
        frames_per_cpu_s: Median over the repeats.
        time_ratio: Median over the repeats of the CPU time of a batch over the plain renderer's just before it.
        time_ratio_min: Least of them.
        time_ratio_max: Greatest of them.
        images_per_frame: Pinhole images rendered for a frame, mean.
    """

    effects: str
    frames_per_cpu_s: float
    time_ratio: float
    time_ratio_min: float
    time_ratio_max: float
    images_per_frame: float


def time_effects(
    scene: Scene | SplatSource, cameras: Viewpoints, *, backend: str, threads: int | None
) -> list[EffectTiming]:
    """Time `RobotCameraCfg.typical`, whole and by parts, on cameras that move as on a walking robot.

    Args:
        scene: What is rendered.
        cameras: Poses, cycled to fill a batch of `EFFECTS_BATCH`.
        backend: Renderer backend.
        threads: CPU threads, None for all.
    """
    typical, batch, repeats = RobotCameraCfg.typical(), EFFECTS_BATCH, EFFECTS_REPEATS
    width, height = SIZES[0]
    index = np.arange(batch) % len(cameras)
    k = 0.5 * width
    ks = np.tile(np.array([[k, 0.0, k], [0.0, k, 0.5 * height], [0.0, 0.0, 1.0]]), (batch, 1, 1))
    # Of a trotting Go1's order: 0.6 m/s ahead, and the body sways by about 1 rad/s about each axis.
    twist = np.random.default_rng(0).normal(size=(batch, 6)) * [0.2, 0.2, 0.2, 1.0, 1.0, 1.0]
    twist[:, 2] += 0.6
    kinds = {
        "none": RobotCameraCfg(),
        "lens": replace(RobotCameraCfg(), lens=typical.lens),
        "shutter": replace(RobotCameraCfg(), shutter=typical.shutter),
        "sensor": replace(RobotCameraCfg(), sensor=typical.sensor),
        "all": typical,
    }
    made = {
        name: make_robot_camera(
            [scene.splats], ks[0], width, height, cfg, backend=backend, num_threads=threads
        )
        for name, cfg in kinds.items()
    }
    seconds = np.empty((repeats + 1, len(made)))
    for r in range(repeats + 1):  # the first warms up
        for i, camera in enumerate(made.values()):
            start = time.process_time()
            camera.render(cameras.c2w[index], ks, np.zeros(batch, np.int64), twist_c=twist)
            seconds[r, i] = time.process_time() - start
    seconds = seconds[1:]
    ratios = seconds / seconds[:, :1]
    return [
        EffectTiming(
            effects=name,
            frames_per_cpu_s=float(np.median(batch / seconds[:, i])),
            time_ratio=float(np.median(ratios[:, i])),
            time_ratio_min=float(ratios[:, i].min()),
            time_ratio_max=float(ratios[:, i].max()),
            images_per_frame=made[name].num_images / (batch * (repeats + 1)) if i else 1.0,
        )
        for i, name in enumerate(made)
    ]


def _views(
    cameras: Viewpoints, width: int, height: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Poses, calibration matrices and scene ids of one batch, with the cameras' horizontal field of view."""
    index = np.arange(int(np.clip(256 * 64 * 48 // (width * height), 16, 256))) % len(cameras)
    k = cameras.K[index] * (width / cameras.width)
    k[:, 0, 2], k[:, 1, 2], k[:, 2, 2] = width / 2, height / 2, 1.0
    return cameras.c2w[index], k, np.zeros(len(index), np.int64)


def time_objects(
    scene: Scene | SplatSource, cameras: Viewpoints, *, backend: str, threads: int | None, seconds: float
) -> ObjectsTiming:
    """Time 64x48 px with and without a quadruped of 13 parts before every camera, in turns (arguments as `time_sizes`)."""
    width, height = SIZES[0]
    renderer = SplatRenderer([scene.splats], width, height, backend=backend, num_threads=threads)
    c2w, k, ids = _views(cameras, width, height)
    c2w, k, ids = c2w[::8], k[::8], ids[::8]  # short turns meet the same disturbances
    instances = quadruped_before(c2w, down_rad=float(np.arcsin(-c2w[0, 2, 2])))
    out = renderer.render(c2w, k, ids)
    seen = renderer.render(c2w, k, ids, objects=instances).instances
    assert seen is not None
    spent: list[list[float]] = []
    end = time.perf_counter() + seconds
    while not spent or time.perf_counter() < end:
        spent.append([])
        for shown in (None, instances):
            start_cpu = time.process_time()
            renderer.render(c2w, k, ids, out=out, objects=shown)
            spent[-1].append(time.process_time() - start_cpu)
    plain, drawn = np.array(spent).T
    low, middle, high = np.quantile(drawn / plain, (0.25, 0.5, 0.75))
    return ObjectsTiming(
        parts_per_camera=len(instances.objects),
        faces_per_camera=len(instances.objects.faces),
        covered_pixels=float((seen >= 0).mean()),
        turns=len(spent),
        frames_per_cpu_s=float(len(ids) / np.median(drawn)),
        time_ratio=float(middle),
        time_ratio_quartiles=(float(low), float(high)),
    )


def psnr_db(rgb: NDArray[np.uint8], reference: NDArray[np.uint8]) -> NDArray[np.float64]:
    """PSNR of each image `[C]` [dB], at most `MAX_PSNR_DB`, of uint8 images `[C, H, W, 3]`."""
    squared = ((rgb.astype(np.float64) - reference) ** 2).mean((1, 2, 3))
    return np.minimum(10.0 * np.log10(255.0**2 / np.maximum(squared, 1e-12)), MAX_PSNR_DB)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A scene with levels of detail against its full self, same cameras, at one image size."""

    width_px: int
    height_px: int
    cameras: int
    psnr_db_mean: float
    """Mean of the cameras' PSNR against the full scene."""
    psnr_db_min: float
    visible_splats_full: float
    visible_splats: float
    frames_per_cpu_s_full: float
    frames_per_cpu_s: float
    speed_ratio: float
    """Median over repeats, each of which renders all cameras from the one and then the other, of the ratio of CPU times."""
    speed_ratio_min: float
    speed_ratio_max: float


def compare(
    full: Splats, lod: LodSplats, cameras: Viewpoints, *, threads: int | None = None, repeats: int = 9
) -> Comparison:
    """Judge a scene with levels of detail against its full self by the CPU backend.

    Args:
        full: The scene as given.
        lod: The scene with levels of detail.
        cameras: Poses and image size.
        threads: CPU threads, None for all.
        repeats: Pairs of timings.
    """
    ids = np.zeros(len(cameras), np.int64)
    images, visible, renderers = [], [], []
    for scene in (full, lod):
        renderer = SplatRenderer([scene], cameras.width, cameras.height, backend="cpu", num_threads=threads)
        images.append(renderer.render(cameras.c2w, cameras.K, ids))
        visible.append(float(renderer.rasterizer.num_visible.mean()))  # type: ignore[attr-defined]
        renderers.append(renderer)
    cpu = np.empty((repeats, 2))
    out = renderers[0].render(cameras.c2w, cameras.K, ids)
    for r in range(repeats):
        for i, renderer in enumerate(renderers):
            start = time.process_time()
            renderer.render(cameras.c2w, cameras.K, ids, out=out)
            cpu[r, i] = time.process_time() - start
    ratios, speed = cpu[:, 0] / cpu[:, 1], len(cameras) / np.median(cpu, axis=0)
    quality = psnr_db(images[1].rgb, images[0].rgb)
    return Comparison(
        width_px=cameras.width,
        height_px=cameras.height,
        cameras=len(cameras),
        psnr_db_mean=float(quality.mean()),
        psnr_db_min=float(quality.min()),
        visible_splats_full=visible[0],
        visible_splats=visible[1],
        frames_per_cpu_s_full=float(speed[0]),
        frames_per_cpu_s=float(speed[1]),
        speed_ratio=float(np.median(ratios)),
        speed_ratio_min=float(ratios.min()),
        speed_ratio_max=float(ratios.max()),
    )


def report(
    scene: Scene | SplatSource,
    timings: Sequence[Timing | ObjectsTiming | EffectTiming],
    *,
    backend: str,
    threads: int | None,
) -> dict[str, Any]:
    """Everything a reader needs to judge the numbers, as plain values."""
    return {
        "scene": scene.name,
        "splats": len(scene.splats),
        "sh_degree": scene.splats.sh_degree,
        "backend": backend,
        "threads": threads or available_cores(),
        "machine": describe_machine(),
        "timings": [asdict(timing) for timing in timings],
    }


def describe_machine() -> dict[str, Any]:
    """Processor, cores and versions."""
    import numba

    return {
        "processor": _processor(),
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numba": numba.__version__,
        "numpy": np.__version__,
    }


def _processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
