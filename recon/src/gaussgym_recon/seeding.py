# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Where training starts: splats at sparse points, on surfaces interpolated between them, and on a far dome for the sky."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from gaussgym_recon.posed import PosedCapture
from gaussgym_recon.stereo import DepthMap
from gaussgym_recon.trainer import SplatModel, model_from_points
from gaussgym_recon.views import Views

VOXELS_PER_OCTAVE = 4
"""Sizes of voxels that seeds are thinned out to, between one size and twice that."""
FINEST_VOXEL_PX = 0.5
"""Smallest voxel, in pixels of the images that stereo worked on."""


def project(
    points: NDArray[np.floating], c2w: NDArray[np.floating], k: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
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
) -> NDArray[np.floating]:
    """World points ``[P, 3]`` at ``pixels [P, 2]`` and ``depth [P]``."""
    rays = np.stack(
        [(pixels[:, 0] - k[0, 2]) / k[0, 0], (pixels[:, 1] - k[1, 2]) / k[1, 1], np.ones(len(pixels))], axis=1
    )
    return (rays * depth[:, None]) @ c2w[:3, :3].T + c2w[:3, 3]


def seed_splats(
    posed: PosedCapture,
    views: Views,
    depths: dict[int, DepthMap] | None = None,
    *,
    count: int = 50_000,
    level: int = 1,
    sh_degree: int = 1,
    seed: int = 0,
) -> SplatModel:
    """Initial splats: flat ones on confirmed stereo depth and on the ground below the walk, round ones elsewhere, a sky.

    Args:
        posed: Cameras and sparse points.
        views: Undistorted photographs; only those of training are read.
        depths: Stereo depth by view at pyramid level ``level``, or None.
        count: Splats beside the sky, nearly, where stereo found enough; at most a third of them where it found nothing.
        level: Pyramid level of ``depths``.
        sh_degree: Of the coefficients.
        seed: Of the random pixels.
    """
    # Most random pixels fall where stereo knows better: what they leave of their third goes to the surfaces.
    blind = _where_stereo_is_blind(
        posed, views, depths or {}, count // 3 if depths else count, level, sh_degree, seed
    )
    model = blind
    if depths:
        points, normals, colors, sizes = _surface_points(views, depths, level)
        keep, spacing = thin_out(points, sizes, count - len(blind))
        dense = model_from_points(
            points[keep],
            colors[keep],
            0.6 * spacing[keep],
            normals=normals[keep],
            opacity=0.7,
            sh_degree=sh_degree,
        )
        model = dense.append(blind)
    return model.append(_sky(posed, views, sh_degree))


def _surface_points(
    views: Views, depths: dict[int, DepthMap], level: int
) -> tuple[NDArray[np.floating], NDArray[np.float32], NDArray[np.floating], NDArray[np.floating]]:
    """Points, normals, colours and pixel sizes [m] of all confirmed depths, every second pixel of each row."""
    points, normals, colors, sizes = [], [], [], []
    for index, found in depths.items():
        camera = views.camera(index, level)
        v, u = np.nonzero(found.depth_m)
        take = (u + v) % 2 == 0
        u, v = u[take], v[take]
        z = found.depth_m[v, u].astype(np.float64)
        view = views.views[index]
        points.append(unproject(np.stack([u + 0.5, v + 0.5], axis=1), z, view.c2w, camera.K))
        normals.append(found.normal_w[v, u])
        colors.append(view.pyramid[level][v, u] / 255.0)
        sizes.append(z / camera.fx)
    return np.concatenate(points), np.concatenate(normals), np.concatenate(colors), np.concatenate(sizes)


def thin_out(
    points: NDArray[np.floating], sizes: NDArray[np.floating], count: int
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Keep one point a voxel, voxels in proportion to the pixels that saw them, finest first, nearly ``count`` in all.

    The proportion is found by bisection, down to voxels of half a pixel: stereo works on images of half size.

    Args:
        points: ``[P, 3]`` [m].
        sizes: ``[P]`` size of a pixel there [m].
        count: Most points to keep; less than 2 % fewer are kept where there are enough of them.

    Returns:
        Indices of the points to keep, and the voxel size of every point [m].
    """
    low, high = np.log2(FINEST_VOXEL_PX), np.log2(FINEST_VOXEL_PX)
    chosen, cell = _one_a_voxel(points, sizes * 2.0**high)
    if len(chosen) <= count:
        return chosen, cell
    while len(chosen) > count:  # surfaces: twice the voxel, a quarter of the points, or a little more
        low, high = high, high + max(0.25, 0.5 * np.log2(len(chosen) / count))
        chosen, cell = _one_a_voxel(points, sizes * 2.0**high)
    for _ in range(12):
        if len(chosen) >= 0.98 * count:
            break
        middle = 0.5 * (low + high)
        tried, size = _one_a_voxel(points, sizes * 2.0**middle)
        if len(tried) > count:
            low = middle
        else:
            high, chosen, cell = middle, tried, size
    return chosen, cell


def _one_a_voxel(
    points: NDArray[np.floating], voxel: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Indices of one point a voxel, finest first, and the voxel sizes: ``voxel`` rounded up to the next quarter of an octave."""
    band = np.ceil(VOXELS_PER_OCTAVE * np.log2(np.maximum(voxel, 1e-3)))
    kept = np.zeros(0, np.int64)
    for b in np.unique(band):
        here = np.flatnonzero(band == b)
        cell = 2.0 ** (b / VOXELS_PER_OCTAVE)
        taken = np.floor(points[kept] / cell).astype(np.int64)
        keys = np.floor(points[here] / cell).astype(np.int64)
        # Unique rows, those of finer splats first, so that a cell that they fill stays theirs.
        _, first = np.unique(_row_keys(np.concatenate([taken, keys])), return_index=True)
        kept = np.concatenate([kept, here[first[first >= len(taken)] - len(taken)]])
    return kept, 2.0 ** (band / VOXELS_PER_OCTAVE)


def _row_keys(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """One integer a row of three, exact within +-2^20 cells of the origin."""
    c = cells & 0x1FFFFF
    return (c[:, 0] << 42) | (c[:, 1] << 21) | c[:, 2]


def _where_stereo_is_blind(
    posed: PosedCapture,
    views: Views,
    depths: dict[int, DepthMap],
    count: int,
    level: int,
    sh_degree: int,
    seed: int,
) -> SplatModel:
    """Splats at sparse points, on the ground that the walk suggests, and at depths interpolated between sparse points."""
    rng = np.random.default_rng(seed)
    own = np.arange(len(posed.points))
    if len(own) > count // 3:
        own = rng.choice(own, count // 3, replace=False)
    points, colors, sizes = [posed.points[own]], [posed.colors[own] / 255.0], [np.full(len(own), np.nan)]
    normals = [np.zeros((len(own), 3))]
    per_view = max(50, (count - len(own)) // max(1, len(views.train)))
    for index in views.train:
        view, camera = views.views[index], views.camera(index, level)
        pixels = rng.uniform([0, 0], [camera.width, camera.height], (per_view, 2))
        if index in depths:
            near = cv2.dilate((depths[index].depth_m > 0).astype(np.uint8), np.ones((5, 5)))
            pixels = pixels[near[pixels[:, 1].astype(int), pixels[:, 0].astype(int)] == 0]
        depth = _interpolated_depth(posed, views, index, camera.K, pixels)
        ground, up = walked_ground_depth(posed, view.c2w, camera.K, pixels)
        on_ground = ground < np.where(np.isfinite(depth), 1.1 * depth, 15.0)
        depth = np.where(on_ground, ground, depth)
        good = np.isfinite(depth)
        pixels, depth, on_ground = pixels[good], depth[good], on_ground[good]
        points.append(unproject(pixels, depth, view.c2w, camera.K))
        normals.append(np.where(on_ground[:, None], up, 0.0))
        colors.append(view.pyramid[level][pixels[:, 1].astype(int), pixels[:, 0].astype(int)] / 255.0)
        spacing = np.sqrt(camera.width * camera.height / per_view)
        sizes.append(0.35 * spacing * depth / camera.fx)
    all_points, all_sizes = np.concatenate(points), np.concatenate(sizes)
    return model_from_points(
        all_points, np.concatenate(colors), _fill_sizes(all_points, all_sizes), normals=np.concatenate(normals),
        sh_degree=sh_degree,
    )  # fmt: skip


def walked_ground_depth(
    posed: PosedCapture, c2w: NDArray[np.floating], k: NDArray[np.floating], pixels: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Depth ``[P]`` at which pixels meet the plane through the feet of the nearby cameras, inf above it; its normal."""
    feet = posed.c2w[:, :3, 3] - [0, 0, posed.camera_height_m]
    foot = c2w[:3, 3] - [0, 0, posed.camera_height_m]
    offset = feet - foot
    weight = np.exp(-0.5 * (np.linalg.norm(offset[:, :2], axis=1) / 10.0) ** 2)
    xy, z = offset[:, :2], offset[:, 2]
    # Ridge: across a straight walk nothing tells the slope, so it is taken as level.
    slope = np.linalg.solve((xy * weight[:, None]).T @ xy + 4.0 * np.eye(2), (xy * weight[:, None]).T @ z)
    normal = np.array([-slope[0], -slope[1], 1.0]) / np.sqrt(1 + slope @ slope)
    rays = np.stack(
        [(pixels[:, 0] - k[0, 2]) / k[0, 0], (pixels[:, 1] - k[1, 2]) / k[1, 1], np.ones(len(pixels))], axis=1
    )
    falling = -(rays @ c2w[:3, :3].T) @ normal
    height = posed.camera_height_m * normal[2]
    return np.where(falling > 1e-3, height / np.maximum(falling, 1e-3), np.inf), normal


def _fill_sizes(points: NDArray[np.floating], sizes: NDArray[np.floating]) -> NDArray[np.floating]:
    """Sizes of splats that have none (and an upper limit of all) from the distance to the neighbours."""
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(points).query(points, k=min(4, len(points)))
    local = np.sqrt((distance[:, 1:] ** 2).mean(1))
    return np.clip(np.fmin(np.where(np.isnan(sizes), 0.6 * local, sizes), 2.0 * local + 1e-3), 1e-3, None)


def _interpolated_depth(
    posed: PosedCapture, views: Views, index: int, k: NDArray[np.floating], pixels: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Depth at pixels, linear in inverse depth between the sparse points that the view sees; NaN where none surround."""
    from scipy.interpolate import LinearNDInterpolator

    seen = posed.points[views.points[index]]
    unknown = np.full(len(pixels), np.nan)
    if len(seen) < 8:
        return unknown
    seen = seen[:: max(1, len(seen) // 400)]  # more would only cost time: this fills gaps
    at, z = project(seen, views.views[index].c2w, k)
    front = z > 0.1
    at, z = at[front], z[front]
    if len(at) < 8:
        return unknown
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
    total, hits = np.zeros((count, 3)), np.zeros(count)
    for index in views.train:
        view, camera = views.views[index], views.camera(index, 0)
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
