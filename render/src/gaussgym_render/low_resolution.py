"""What a small image should look like, and how far a renderer is from it.

A pixel of a real camera is a mean over its area. The truth for a small image is therefore a large one of the same view, averaged
over boxes; at eight times the resolution splats are larger than pixels again and any setting draws them alike.

The published GaussGym renders in gsplat's 'classic' mode with `radius_clip=3`: splats that are small in the image are not made
fainter but dropped. At 84x48 that is most of a scene.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from gaussgym_scene import Splats
from numpy.typing import NDArray

from gaussgym_render import oracle
from gaussgym_render.renderer import SplatRenderer
from gaussgym_render.viewpoints import Viewpoints

FACTOR = 8
"""The truth has so many pixels to a pixel's side."""
RADIUS_CLIP_PX = 3.0
"""GaussGym's setting, as published."""


def supersampled(
    splats: Splats, cameras: Viewpoints, *, factor: int = FACTOR, num_threads: int | None = None
) -> NDArray[np.float64]:
    """Images `[C, H, W, 3]` in 0..255, each pixel the mean of `factor²` of a larger image of the same view.

    Args:
        splats: The scene.
        cameras: Poses and image size.
        factor: Pixels of the larger image along a side of one of the smaller.
        num_threads: CPU threads, None for all.
    """
    width, height = cameras.width, cameras.height
    large = cameras.resized(width * factor, height * factor)
    renderer = SplatRenderer([splats], large.width, large.height, backend="cpu", num_threads=num_threads)
    images = []
    for c2w, k in zip(large.c2w, large.K):
        rgb = renderer.render(c2w[None], k[None], np.zeros(1, np.int64)).rgb[0]
        images.append(rgb.reshape(height, factor, width, factor, 3).mean((1, 3)))
    return np.stack(images)


def clip_radius(projection: oracle.Projection, radius_px: float) -> oracle.Projection:
    """Drop the splats that gsplat's `radius_clip` drops: those of which neither half width nor half height exceeds it.

    Args:
        projection: Splats of one camera, of `oracle.project`.
        radius_px: The setting [px].

    Source: gsplat 1.5.3, `ProjectionEWA3DGSFused.cu`: `radius = ceil(min(3.33, sqrt(2 ln(opacity·255)))·sqrt(Σ2D))` for both
    axes, low-pass included.
    """
    extent = np.minimum(
        oracle.MAX_EXTENT, np.sqrt(2.0 * np.log(np.maximum(projection.opacities / oracle.MIN_ALPHA, 1.0)))
    )
    variances = np.diagonal(projection.covariances_px, axis1=1, axis2=2)
    radii = np.ceil(extent[:, None] * np.sqrt(variances))
    kept = (radii > radius_px).any(1)
    return oracle.Projection(**{f.name: getattr(projection, f.name)[kept] for f in fields(projection)})


def released_gaussgym(
    splats: Splats, cameras: Viewpoints, *, radius_clip_px: float = RADIUS_CLIP_PX
) -> NDArray[np.uint8]:
    """Images `[C, H, W, 3]` as the published GaussGym makes them: classic mode, small splats dropped (float64 oracle).

    Args:
        splats: The scene.
        cameras: Poses and image size.
        radius_clip_px: gsplat's `radius_clip`; 0 is the classic mode alone.
    """
    images = []
    for c2w, k in zip(cameras.c2w, cameras.K):
        size = (cameras.width, cameras.height)
        projection = clip_radius(oracle.project(splats, c2w, k, *size, antialiased=False), radius_clip_px)
        rgb = oracle.composite(projection, *size).rgb
        images.append(np.floor(np.clip(rgb, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
    return np.stack(images)


@dataclass(frozen=True, kw_only=True)
class LowResolution:
    """PSNR against the averaged large image, mean over cameras [dB].

    Attributes:
        cameras: How many.
        antialiased_db: This renderer as it comes.
        classic_db: Classic mode, nothing dropped.
        released_db: Classic mode, small splats dropped.
        antialiased_min_db: This renderer, worst camera.
        gain_db: Least over the cameras of the gain over the released setting.
        drawn_share: Share of the visible splats that the released setting draws.
    """

    cameras: int
    antialiased_db: float
    classic_db: float
    released_db: float
    antialiased_min_db: float
    gain_db: float
    drawn_share: float


def compare_settings(splats: Splats, cameras: Viewpoints, *, num_threads: int | None = None) -> LowResolution:
    """Compare the settings at the cameras' image size.

    Args:
        splats: The scene.
        cameras: Poses and image size.
        num_threads: CPU threads, None for all.
    """
    truth = supersampled(splats, cameras, num_threads=num_threads)
    size = (cameras.width, cameras.height)
    ids = np.zeros(len(cameras), np.int64)
    ours = SplatRenderer([splats], *size, backend="cpu", num_threads=num_threads)
    quality = {
        "antialiased": psnr_db(ours.render(cameras.c2w, cameras.K, ids).rgb, truth),
        "classic": psnr_db(released_gaussgym(splats, cameras, radius_clip_px=0.0), truth),
        "released": psnr_db(released_gaussgym(splats, cameras), truth),
    }
    shares = []
    for c2w, k in zip(cameras.c2w, cameras.K):
        seen = oracle.project(splats, c2w, k, *size, antialiased=False)
        shares.append(len(clip_radius(seen, RADIUS_CLIP_PX).index) / max(len(seen.index), 1))
    return LowResolution(
        cameras=len(cameras),
        antialiased_db=float(quality["antialiased"].mean()),
        classic_db=float(quality["classic"].mean()),
        released_db=float(quality["released"].mean()),
        antialiased_min_db=float(quality["antialiased"].min()),
        gain_db=float((quality["antialiased"] - quality["released"]).min()),
        drawn_share=float(np.mean(shares)),
    )


def psnr_db(images: NDArray[np.uint8], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """PSNR of each image `[C]` [dB]; `[C, H, W, 3]` each, in 0..255."""
    squared = ((images.astype(np.float64) - truth) ** 2).mean((1, 2, 3))
    return 10.0 * np.log10(255.0**2 / np.maximum(squared, 1e-12))
