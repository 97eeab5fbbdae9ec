"""A scene with levels of detail against its full self: how alike, how much faster."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from gaussgym_scene import Splats
from numpy.typing import NDArray

from gaussgym_render.lod import LodSplats
from gaussgym_render.renderer import SplatRenderer
from gaussgym_render.viewpoints import Viewpoints

MAX_PSNR_DB = 70.0
"""Taken for images that are equal; at 64x48 a single channel of one pixel that is off by one has 88 dB."""


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
