"""Where training starts: splats at sparse points, on surfaces interpolated between them, and on a far dome for the sky."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gaussgym_recon.posed import PosedCapture
from gaussgym_recon.trainer import SplatModel, model_from_points
from gaussgym_recon.views import Views


def project(
    points: NDArray[np.floating], c2w: NDArray[np.floating], k: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels ``[P, 2]`` and depths ``[P]`` of world points in a pinhole camera."""
    w2c = np.linalg.inv(c2w)
    p = np.asarray(points, np.float64) @ w2c[:3, :3].T + w2c[:3, 3]
    z = np.where(np.abs(p[:, 2]) < 1e-9, 1e-9, p[:, 2])
    return np.stack([k[0, 0] * p[:, 0] / z + k[0, 2], k[1, 1] * p[:, 1] / z + k[1, 2]], axis=1), p[:, 2]


def unproject(
    pixels: NDArray[np.floating],
    depth: NDArray[np.floating],
    c2w: NDArray[np.floating],
    k: NDArray[np.floating],
) -> NDArray[np.float64]:
    """World points ``[P, 3]`` at ``pixels [P, 2]`` and ``depth [P]``."""
    rays = np.stack(
        [(pixels[:, 0] - k[0, 2]) / k[0, 0], (pixels[:, 1] - k[1, 2]) / k[1, 1], np.ones(len(pixels))], axis=1
    )
    return (rays * depth[:, None]) @ c2w[:3, :3].T + c2w[:3, 3]


def seed_splats(
    posed: PosedCapture, views: Views, *, count: int = 25_000, sh_degree: int = 1, seed: int = 0
) -> SplatModel:
    """Initial splats from sparse points.

    Args:
        posed: Cameras and sparse points.
        views: Undistorted photographs; only those of training are read.
        count: Splats on interpolated surfaces, beside the sparse points.
        sh_degree: Of the coefficients.
        seed: Of the random pixels.
    """
    rng = np.random.default_rng(seed)
    level = min(1, len(views.intrinsics) - 1)
    camera = views.intrinsics[level]
    points, colors, sizes = [posed.points], [posed.colors / 255.0], [np.full(len(posed.points), np.nan)]
    per_view = max(50, count // max(1, len(views.train)))
    for index in views.train:
        view = views.views[index]
        pixels = rng.uniform([0, 0], [camera.width, camera.height], (per_view, 2))
        depth = _interpolated_depth(posed, views, index, camera.K, pixels)
        if depth is None:
            continue
        good = np.isfinite(depth)
        pixels, depth = pixels[good], depth[good]
        points.append(unproject(pixels, depth, view.c2w, camera.K))
        colors.append(view.pyramid[level][pixels[:, 1].astype(int), pixels[:, 0].astype(int)] / 255.0)
        spacing = np.sqrt(camera.width * camera.height / per_view)
        sizes.append(0.35 * spacing * depth / camera.fx)
    all_points, all_sizes = np.concatenate(points), np.concatenate(sizes)
    all_sizes = _fill_sizes(all_points, all_sizes)
    near = model_from_points(all_points, np.concatenate(colors), all_sizes, sh_degree=sh_degree)
    return near.append(_sky(posed, views, sh_degree))


def _fill_sizes(points: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sizes of splats that have none (and an upper limit of all) from the distance to the neighbours."""
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(points).query(points, k=min(4, len(points)))
    local = np.sqrt((distance[:, 1:] ** 2).mean(1))
    return np.clip(np.fmin(np.where(np.isnan(sizes), 0.6 * local, sizes), 2.0 * local + 1e-3), 1e-3, None)


def _interpolated_depth(
    posed: PosedCapture, views: Views, index: int, k: NDArray[np.floating], pixels: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Depth at pixels, linear in inverse depth between the sparse points that the view sees; NaN outside their hull."""
    from scipy.interpolate import LinearNDInterpolator

    seen = posed.points[views.points[index]]
    if len(seen) < 8:
        return None
    at, z = project(seen, views.views[index].c2w, k)
    front = z > 0.1
    at, z = at[front], z[front]
    if len(at) < 8:
        return None
    inverse = LinearNDInterpolator(at, 1.0 / z)(pixels)
    return 1.0 / np.where(inverse > 1e-4, inverse, np.nan)


def _sky(posed: PosedCapture, views: Views, sh_degree: int, count: int = 3000) -> SplatModel:
    """Splats on a dome far behind everything, coloured by the photographs that look there."""
    centers = np.stack([views.views[i].c2w[:3, 3] for i in views.train])
    middle = centers.mean(0)
    reach = np.linalg.norm(centers - middle, axis=1).max()
    far = np.quantile(np.linalg.norm(posed.points - middle, axis=1), 0.95) if len(posed.points) else 10.0
    radius = 3.0 * max(reach, far, 5.0)
    i = np.arange(count) + 0.5
    z = 1.0 - 1.1 * i / count  # from the zenith to a little below the horizon (Fibonacci lattice)
    azimuth = np.pi * (1 + 5**0.5) * i
    ring = np.sqrt(np.maximum(1 - z * z, 0))
    points = middle + radius * np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), z], axis=1)
    camera = views.intrinsics[0]
    total, hits = np.zeros((count, 3)), np.zeros(count)
    for index in views.train:
        view = views.views[index]
        at, depth = project(points, view.c2w, camera.K)
        inside = (depth > 0) & (at >= 0).all(1) & (at[:, 0] < camera.width) & (at[:, 1] < camera.height)
        u, v = at[inside].astype(int).T
        total[inside] += view.pyramid[0][v, u] / 255.0
        hits[inside] += 1
    seen = hits > 0
    size = radius * np.sqrt(2.2 * np.pi / count) * 0.6
    outward = (points - middle) / radius
    return model_from_points(
        points[seen], total[seen] / hits[seen, None], np.full(int(seen.sum()), size), normals=outward[seen],
        opacity=0.8, sh_degree=sh_degree,
    )  # fmt: skip
