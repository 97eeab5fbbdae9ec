"""Which way is up by depth images of built places: floors are level and walls are plumb.

The direction that most surfaces are parallel or perpendicular to (Gupta, Arbelaez and Malik, CVPR 2013, section 4.1), found
from planes that are fitted to blocks of depth images. Unlike the plane below the walk it also works where furniture hides the
floor, on stairs, and where only some walls are in view; unlike how cameras are held it owes nothing to habits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gaussgym_scene.cameras import pixel_rays_c

from gaussgym_recon.georegister import level_rotation
from gaussgym_recon.gravity import UpEstimate

if TYPE_CHECKING:
    from gaussgym_scene.cameras import Intrinsics
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class PlumbCfg:
    """Of :func:`up_from_surfaces` and :func:`block_normals`."""

    block_px: int = 12
    """Side of the blocks of a depth image of 256 px, that planes are fitted to [px]; in proportion for other widths."""
    max_bend: float = 0.015
    """Largest root mean square distance of a block's depths to its plane, over the depth."""
    narrowing_rad: tuple[float, ...] = tuple(np.radians([30.0, 30.0, 15.0, 15.0, 8.0, 8.0, 8.0, 8.0]))
    """How far surfaces may be from level or plumb to take part, step after step."""
    built_std_rad: float = np.radians(0.35)
    """How level floors and how plumb walls are on the whole, along either axis."""
    level_weight: float = 0.1
    """Of level surfaces against plumb ones: streets slope by a degree where facades do not lean."""
    per_independent: float = 20.0
    """Blocks that count as one, since they show the same surfaces and share the errors of poses."""
    min_blocks: int = 200
    """Of surfaces that are level or plumb; fewer say nothing."""
    min_share: float = 0.5
    """Of all blocks that must be level or plumb within the last of `narrowing_rad` (at random: a quarter)."""
    max_turn_rad: float = np.radians(25.0)
    """From where the search starts; farther off another axis of the place was taken for up."""
    max_std_rad: float = np.radians(1.0)
    """What is known no better, along either axis, is left to other rules."""


def block_normals(
    depth_m: NDArray[np.float32], intrinsics: Intrinsics, cfg: PlumbCfg | None = None
) -> NDArray[np.float64]:
    """Normals of the flat blocks of a depth image.

    Inverse depth is linear in a pixel's ideal coordinates on any plane, whatever its slant, so each block is one linear least
    squares problem.

    Args:
        depth_m: Depth along +Z `[h, w]`, 0 where unknown, any positive unit.
        intrinsics: Of the photograph; the depth image has its field of view and distortion.
        cfg: Settings.

    Returns:
        Unit normals in the camera frame, towards the camera `[k, 3]`.
    """
    cfg = cfg or PlumbCfg()
    height, width = depth_m.shape
    side = max(4, round(cfg.block_px * width / 256))
    rows, columns = height // side, width // side

    def blocks(values: NDArray[np.float64]) -> NDArray[np.float64]:
        cut = values[: rows * side, : columns * side]
        return (
            cut.reshape(rows, side, columns, side, -1).swapaxes(1, 2).reshape(rows * columns, side * side, -1)
        )

    rays = blocks(pixel_rays_c(intrinsics.resized(width, height)))
    depth = blocks(np.asarray(depth_m, np.float64)[..., None])[..., 0]
    whole = (depth > 0).all(axis=1)
    rays, depth = rays[whole], depth[whole]
    if not len(depth):
        return np.zeros((0, 3))
    # Weights of the squared depth make the residuals relative ones of depth.
    design = rays * depth[..., None]
    normal = np.linalg.solve(design.swapaxes(1, 2) @ design, design.sum(axis=1)[..., None])[..., 0]
    off = np.einsum("bij,bj->bi", design, normal) - 1.0
    flat = np.sqrt((off**2).mean(axis=1)) < cfg.max_bend
    return -normal[flat] / np.linalg.norm(normal[flat], axis=1, keepdims=True)


def up_from_surfaces(
    normals: NDArray[np.float64], start: NDArray[np.float64], cfg: PlumbCfg | None = None
) -> UpEstimate | None:
    """The direction that surfaces are level or plumb to.

    Args:
        normals: Unit normals `[n, 3]` of surfaces, in any frame.
        start: Rough up direction, right within some 20 degrees.
        cfg: Settings.

    Returns:
        Up and its information; None where too few surfaces are level or plumb, or leave a tilt open.
    """
    cfg = cfg or PlumbCfg()
    up = start = np.asarray(start, np.float64) / np.linalg.norm(start)
    if len(normals) < cfg.min_blocks:
        return None
    for within in cfg.narrowing_rad:
        level, plumb = _parts(normals, up, within)
        # Plumb normals have no part along up, level ones no part across it.
        moment = normals[plumb].T @ normals[plumb]
        moment -= cfg.level_weight * normals[level].T @ normals[level]
        found = np.linalg.eigh(moment)[1][:, 0]
        up = found * np.sign(found @ up)
    level, plumb = _parts(normals, up, cfg.narrowing_rad[-1])
    used = level | plumb
    if used.sum() < cfg.min_blocks or used.mean() < cfg.min_share or up @ start < np.cos(cfg.max_turn_rad):
        return None
    tilt = level_rotation(up)[:2]
    rows = np.concatenate([normals[plumb] @ tilt.T, *_level_rows(int(level.sum()))])
    across = normals[level] @ tilt.T
    residuals = np.concatenate([normals[plumb] @ up, across[:, 0], across[:, 1]])
    hessian = rows.T @ rows / cfg.per_independent
    if np.linalg.eigvalsh(hessian)[0] < 1e-6 * len(normals) / cfg.per_independent:
        return None
    fit = float(np.var(residuals)) * np.linalg.inv(hessian)
    covariance = fit + cfg.built_std_rad**2 * np.eye(2)
    if np.linalg.eigvalsh(covariance)[-1] > cfg.max_std_rad**2:
        return None
    return UpEstimate(up, tilt.T @ np.linalg.inv(covariance) @ tilt)


def _parts(
    normals: NDArray[np.float64], up: NDArray[np.float64], within_rad: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    along = np.abs(normals @ up)
    return along > np.cos(within_rad), along < np.sin(within_rad)


def _level_rows(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How the two parts across up of `count` level normals change with the two tilts."""
    one, none = np.ones(count), np.zeros(count)
    return np.c_[one, none], np.c_[none, one]
