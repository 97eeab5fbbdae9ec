"""Pixels of posed images → points in space: triangulated where seen twice, by the depth of their surroundings where once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gaussgym_scene.cameras import distort, undistort
from gaussgym_scene.errors import InputError

if TYPE_CHECKING:
    from gaussgym_scene.cameras import Intrinsics
    from numpy.typing import NDArray

PIXEL_STD_PX = 1.0
"""How well people click, and corners of markers are found [px]; worse where the residuals say so."""


@dataclass(frozen=True)
class Located:
    """A point and how well it is known, in units of the model."""

    point: NDArray[np.float64]
    """`[3]`."""
    covariance: NDArray[np.float64]
    """`[3, 3]`."""
    residual_px: float
    """Root mean square reprojection error [px]; zero where one sighting only."""


def project(
    points: NDArray[np.float64], c2w: NDArray[np.float64], intrinsics: Intrinsics
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels `[P, 2]` and depths along +Z `[P]` of points `[P, 3]`; pixels behind the camera are NaN."""
    local = (points - c2w[:3, 3]) @ c2w[:3, :3]
    depth = local[:, 2]
    ahead = depth > 1e-9
    pixels = np.full((len(points), 2), np.nan)
    ideal = local[ahead, :2] / depth[ahead, None]
    pixels[ahead] = distort(ideal, intrinsics.distortion) * [intrinsics.fx, intrinsics.fy]
    pixels[ahead] += [intrinsics.cx, intrinsics.cy]
    return pixels, depth


def rays_w(
    pixels: NDArray[np.float64], c2w: NDArray[np.float64], intrinsics: Intrinsics
) -> NDArray[np.float64]:
    """Directions `[k, 3]` of pixels `[k, 2]` in the world, of unit depth along the camera's +Z."""
    ideal = (np.asarray(pixels, np.float64) - [intrinsics.cx, intrinsics.cy]) / [intrinsics.fx, intrinsics.fy]
    ideal = undistort(ideal, intrinsics.distortion)
    return np.c_[ideal, np.ones(len(ideal))] @ c2w[:3, :3].T


def triangulate(
    c2w: NDArray[np.float64], intrinsics: list[Intrinsics], pixels: NDArray[np.float64]
) -> Located | None:
    """The point that is seen at `pixels`, by Gauss-Newton on the reprojection error.

    Args:
        c2w: Camera-to-world `[k, 4, 4]`, `k` two or more.
        intrinsics: Of each.
        pixels: `[k, 2]`.

    Returns:
        The point, its covariance for pixels known to :data:`PIXEL_STD_PX` or, where worse, to the residual; None where the
        rays are parallel or the point would lie behind a camera.
    """
    directions = np.stack([rays_w(p[None], c, i)[0] for p, c, i in zip(pixels, c2w, intrinsics)])
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    across = np.eye(3) - unit[:, :, None] * unit[:, None, :]
    normal = across.sum(axis=0)
    if np.linalg.eigvalsh(normal)[0] < 1e-8:
        return None
    point = np.linalg.solve(normal, np.einsum("kij,kj->i", across, c2w[:, :3, 3]))
    information, residuals = np.eye(3), np.zeros((len(c2w), 2))
    for _ in range(10):
        rows, offs = [], []
        for pixel, pose, lens in zip(pixels, c2w, intrinsics):
            at, depth = project(point[None], pose, lens)
            if depth[0] <= 1e-9:
                return None
            offs.append(pixel - at[0])
            # Distortion changes the derivative by little, the residual holds all of it.
            local = pose[:3, :3].T @ (point - pose[:3, 3])
            slope = np.array(
                [[lens.fx, 0, -lens.fx * local[0] / depth[0]], [0, lens.fy, -lens.fy * local[1] / depth[0]]]
            )
            rows.append(slope / depth[0] @ pose[:3, :3].T)
        jacobian, residuals = np.concatenate(rows), np.stack(offs)
        information = jacobian.T @ jacobian
        step = np.linalg.lstsq(jacobian, residuals.ravel(), rcond=None)[0]
        point = point + step
    if np.linalg.eigvalsh(information)[0] < 1e-12 * np.trace(information):
        return None
    rms = float(np.sqrt((residuals**2).sum() / max(1, residuals.size - 3)))
    covariance = np.asarray(max(rms, PIXEL_STD_PX) ** 2 * np.linalg.inv(information), np.float64)
    return Located(point, covariance, rms)


def locate_by_depth(
    pixel: NDArray[np.float64],
    depth: float,
    depth_std: float,
    c2w: NDArray[np.float64],
    intrinsics: Intrinsics,
) -> Located:
    """The point at a pixel `[2]` whose depth along +Z is known."""
    direction = rays_w(np.asarray(pixel)[None], c2w, intrinsics)[0]
    lateral = depth * PIXEL_STD_PX / min(intrinsics.fx, intrinsics.fy)
    covariance = np.outer(direction, direction) * depth_std**2 + lateral**2 * np.eye(3)
    return Located(c2w[:3, 3] + depth * direction, covariance, 0.0)


def depth_at(
    pixel: NDArray[np.float64], pixels: NDArray[np.float64], depths: NDArray[np.float64], reach_px: float
) -> tuple[float, float]:
    """Depth at a pixel from sparse points around it, and its standard deviation.

    On a plane 1 / depth is linear in the pixel, so a line through the nearest points is exact on flat ground and walls; the
    scatter about it says how far the surroundings are from flat.

    Args:
        pixel: `[2]`.
        pixels: Where points are seen in the same image `[k, 2]`.
        depths: Their depths `[k]`.
        reach_px: How far from the pixel points may be [px].

    Raises:
        InputError: Fewer than six points within reach.
    """
    distance = np.linalg.norm(pixels - pixel, axis=1)
    near = np.argsort(distance)[:24]
    near = near[distance[near] < reach_px]
    if len(near) < 6:
        raise InputError(
            f"only {len(near)} points were reconstructed within {reach_px:.0f} px of pixel {pixel[0]:g},{pixel[1]:g}; name a "
            "place with more texture, or the same place in a second image (A.jpg:x,y+B.jpg:x,y)"
        )
    design = np.c_[np.ones(len(near)), (pixels[near] - pixel) / reach_px]
    inverse = 1.0 / depths[near]
    weights = np.ones(len(near))
    solution, scatter = np.zeros(3), 0.0
    for _ in range(20):
        normal = (design * weights[:, None]).T @ design + 1e-9 * np.eye(3)
        solution = np.linalg.solve(normal, (design * weights[:, None]).T @ inverse)
        off = inverse - design @ solution
        scatter = max(1.4826 * float(np.median(np.abs(off))), 1e-6 * float(np.median(inverse)))
        weights = 1.0 / (1.0 + (off / (2.0 * scatter)) ** 2)
    covariance = np.linalg.inv((design * weights[:, None]).T @ design + 1e-9 * np.eye(3)) * scatter**2
    if solution[0] <= 0:
        raise InputError(
            f"the points around pixel {pixel[0]:g},{pixel[1]:g} lie on no surface; name another place"
        )
    # The pixel itself may lie off the surface by the scatter.
    std_inverse = float(np.sqrt(covariance[0, 0] + scatter**2))
    return 1.0 / solution[0], std_inverse / solution[0] ** 2
