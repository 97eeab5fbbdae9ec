"""Frames per second of a renderer on one scene."""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene import Scene, Splats
from numpy.typing import NDArray

from gaussgym_render.cpu import CpuRasterizer, available_cores
from gaussgym_render.lod import LodSplats
from gaussgym_render.renderer import SplatRenderer
from gaussgym_render.viewpoints import Viewpoints

MAX_PSNR_DB = 70.0
"""Taken for images that are equal; at 64x48 a single channel of one pixel that is off by one has 88 dB."""
SIZES = ((64, 48), (84, 48), (160, 120), (480, 270))
"""Image sizes timed [px]: the policy's, the one of GaussGym's released configuration, two larger."""


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


def time_sizes(
    scene: Scene, cameras: Viewpoints, *, backend: str, threads: int | None, seconds: float, repeats: int = 5
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
    scene: Scene,
    cameras: Viewpoints,
    size: tuple[int, int],
    backend: str,
    threads: int | None,
    seconds: float,
    repeats: int,
) -> Timing:
    width, height = size
    renderer = SplatRenderer([scene.splats], width, height, backend=backend, num_threads=threads)
    batch = int(np.clip(256 * 64 * 48 // (width * height), 16, 256))
    index = np.arange(batch) % len(cameras)
    k = cameras.K[index] * (width / cameras.width)
    k[:, 0, 2], k[:, 1, 2], k[:, 2, 2] = width / 2, height / 2, 1.0
    ids = np.zeros(batch, np.int64)
    out = renderer.render(cameras.c2w[index], k, ids)  # compiles
    start = time.perf_counter()
    renderer.render(cameras.c2w[index], k, ids, out=out)
    calls = max(1, int(seconds / repeats / (time.perf_counter() - start)))
    wall, cpu = np.empty(repeats), np.empty(repeats)
    for r in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            renderer.render(cameras.c2w[index], k, ids, out=out)
        wall[r], cpu[r] = time.perf_counter() - start, time.process_time() - start_cpu
    frames = calls * batch
    rasterizer = renderer.rasterizer
    counted = isinstance(rasterizer, CpuRasterizer) and len(rasterizer.tiles) == 1
    return Timing(
        width_px=width,
        height_px=height,
        cameras_per_batch=batch,
        repeats=repeats,
        frames_per_s=float(np.median(frames / wall)),
        frames_per_s_min=float(frames / wall.max()),
        frames_per_s_max=float(frames / wall.min()),
        frames_per_cpu_s=float(np.median(frames / cpu)),
        visible_splats_mean=float(rasterizer.num_visible.mean()) if counted else None,  # type: ignore[union-attr]
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


def report(scene: Scene, timings: list[Timing], *, backend: str, threads: int | None) -> dict[str, Any]:
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
