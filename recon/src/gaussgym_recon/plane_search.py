"""The plane of the ground among sparse points: RANSAC near the cameras, on one level where there are two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from gaussgym_recon.georegister import level_rotation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gaussgym_recon.gravity import GravityCfg

Plane = tuple["NDArray[np.float64]", float, int]
"""Normal, offset, number of inliers."""


def search_plane(
    points: NDArray[np.float64],
    nearest: NDArray[np.float64],
    centers: NDArray[np.float64],
    prior_up: NDArray[np.float64],
    max_angle_rad: float,
    prior_std_rad: float,
    cfg: GravityCfg,
) -> tuple[NDArray[np.float64], float, int] | None:
    """RANSAC over triples of near points, the score counting inliers within reach of the cameras."""
    prior_up = prior_up / np.linalg.norm(prior_up)
    below = np.flatnonzero(np.isfinite(nearest) & (points @ prior_up < np.median(centers @ prior_up)))
    if len(below) < 10:
        return None
    # Near points are drawn more often: the ground that matters is the ground under the walk.
    chance = 1.0 / np.maximum(nearest[below], np.quantile(nearest[below], 0.05)) ** 2
    rng = np.random.default_rng(cfg.seed)
    triples = rng.choice(below, size=(cfg.iterations, 3), p=chance / chance.sum())
    scored = below if len(below) <= cfg.scored_points else rng.choice(below, cfg.scored_points, replace=False)
    kept_fraction = len(scored) / len(below)
    a, b, c = points[triples[:, 0]], points[triples[:, 1]], points[triples[:, 2]]
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=1)
    usable = lengths > 1e-12 * np.median(lengths)
    normals, a = normals[usable] / lengths[usable, None], a[usable]
    normals *= np.sign(normals @ prior_up)[:, None]
    usable = normals @ prior_up > np.cos(max_angle_rad)
    normals, offsets = normals[usable], np.einsum("ij,ij->i", normals[usable], a[usable])
    single = _planes_by_prior(points[below], prior_up, min(prior_std_rad, 0.3 * max_angle_rad), cfg)
    normals, offsets = np.concatenate([normals, single[0]]), np.concatenate([offsets, single[1]])
    heights = centers @ normals.T - offsets
    height = np.median(heights, axis=0)
    fits = (height > 0) & (np.quantile(heights, 0.1, axis=0) > 0.3 * height)
    normals, offsets, height = normals[fits], offsets[fits], height[fits]
    if not len(normals):
        return None
    score = _plane_scores(points[scored], nearest[scored], normals, offsets, height, cfg) / kept_fraction
    expected_rad = np.hypot(prior_std_rad, cfg.slope_std_rad)
    score -= cfg.prior_weight * (np.arccos(np.clip(normals @ prior_up, -1, 1)) / expected_rad) ** 2
    best = int(np.argmax(score))
    found = _refine_plane(points[below], nearest[below], centers, normals[best], float(offsets[best]), cfg)
    found = _on_levels(points[below], nearest[below], centers, found, cfg)
    return found if found[2] >= cfg.min_inliers else None


def _planes_by_prior(
    points: NDArray[np.float64], prior_up: NDArray[np.float64], std_rad: float, cfg: GravityCfg
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Planes across the expected up direction, each through one point: normals `[k, 3]` and offsets `[k]`.

    Where walls have nearly all points, three of the ground are hardly ever drawn together.
    """
    count = cfg.iterations // 2
    rng = np.random.default_rng([cfg.seed, 2])
    normals = prior_up + std_rad * rng.normal(size=(count, 2)) @ level_rotation(prior_up)[:2]
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return normals, np.einsum("ij,ij->i", normals, points[rng.integers(0, len(points), count)])


def _on_levels(
    points: NDArray[np.float64],
    nearest: NDArray[np.float64],
    centers: NDArray[np.float64],
    plane: Plane,
    cfg: GravityCfg,
) -> Plane:
    """The plane of one level where the given one leans across two: RANSAC around it for the direction with the clearest levels.

    A kerb or a step of 12 cm is no more than two thresholds, so that a plane that leans from one level to the other has both
    as inliers, and is tilted by a degree or more. Along the right direction more points share two heights.
    """
    normal, offset, _ = plane
    height = float(np.median(centers @ normal - offset))
    around = (nearest < cfg.reach_of_height * height) & (
        np.abs(points @ normal - offset) < 2.0 * cfg.threshold_of_height * height
    )
    some, tight = points[around], cfg.tight_of_height * height
    if len(some) < 4 * cfg.min_inliers:
        return plane
    rng = np.random.default_rng([cfg.seed, 1])
    a, b, c = (some[rng.integers(0, len(some), cfg.iterations // 2)] for _ in range(3))
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=1)
    normals = normals[lengths > 1e-12] / lengths[lengths > 1e-12, None]
    normals *= np.sign(normals @ normal)[:, None]
    normals = normals[normals @ normal > np.cos(cfg.level_within_rad)]
    scored = some[rng.permutation(len(some))[: cfg.scored_points]]
    counts = np.array([_two_levels(scored @ n, tight)[0] for n in normals])
    if not len(counts) or counts.max() < cfg.levels_gain * _two_levels(scored @ normal, tight)[0]:
        return plane
    up = normals[int(np.argmax(counts))]
    for _ in range(5):
        heights = some @ up
        lows = _two_levels(heights, tight)[1]
        members = [some[(heights >= low) & (heights <= low + 2.0 * tight)] for low in lows]
        spread = np.concatenate([part - part.mean(axis=0) for part in members if len(part)])
        found = np.linalg.svd(spread, full_matrices=False)[2][2]
        up = found * np.sign(found @ up)
    level = _level_walked_on(members, centers, up)
    height = float(np.median(centers @ up - level))
    inliers = (nearest < cfg.reach_of_height * height) & (
        np.abs(points @ up - level) < cfg.threshold_of_height * height
    )
    return up, level, int(inliers.sum())


def _level_walked_on(
    members: list[NDArray[np.float64]], centers: NDArray[np.float64], up: NDArray[np.float64]
) -> float:
    """Offset of the level that most cameras are over, by the nearest points of either."""
    across = level_rotation(up)[:2].T
    members = [part for part in members if len(part)]
    away = [cKDTree(part @ across).query(centers @ across)[0] for part in members]
    over = np.bincount(np.argmin(away, axis=0), minlength=len(members))
    return float(np.median(members[int(np.argmax(over))] @ up))


def _two_levels(heights: NDArray[np.float64], tight: float) -> tuple[int, tuple[float, float]]:
    """How many of `heights` lie in the two fullest windows of twice `tight` that are apart, and where the windows begin."""
    ordered = np.sort(heights)
    counts = np.searchsorted(ordered, ordered + 2.0 * tight, side="right") - np.arange(len(ordered))
    first = int(np.argmax(counts))
    apart = np.abs(ordered - ordered[first]) > 4.0 * tight
    if not apart.any():
        return int(counts[first]), (float(ordered[first]), np.inf)
    second = int(np.argmax(np.where(apart, counts, 0)))
    return int(counts[first] + counts[second]), (float(ordered[first]), float(ordered[second]))


def _plane_scores(
    points: NDArray[np.float64],
    nearest: NDArray[np.float64],
    normals: NDArray[np.float64],
    offsets: NDArray[np.float64],
    height: NDArray[np.float64],
    cfg: GravityCfg,
) -> NDArray[np.float64]:
    """Inliers of each plane less what lies clearly below it: nothing lies under the ground."""
    scores = np.empty(len(normals))
    for start in range(0, len(normals), 64):
        part = slice(start, start + 64)
        distance = (points @ normals[part].T - offsets[part]) / height[part]
        near = nearest[:, None] < cfg.reach_of_height * height[part]
        inliers = near & (np.abs(distance) < cfg.threshold_of_height)
        under = near & (distance < -3.0 * cfg.threshold_of_height)
        scores[part] = inliers.sum(axis=0) - under.sum(axis=0, dtype=np.float64)
    return scores


def _refine_plane(
    points: NDArray[np.float64],
    nearest: NDArray[np.float64],
    centers: NDArray[np.float64],
    up: NDArray[np.float64],
    offset: float,
    cfg: GravityCfg,
) -> tuple[NDArray[np.float64], float, int]:
    """Weighted least squares on the inliers, a few rounds."""
    inliers = np.zeros(len(points), bool)
    for _ in range(10):
        height = float(np.median(centers @ up - offset))
        near = nearest < cfg.reach_of_height * height
        distances = points @ up - offset
        inliers = near & (np.abs(distances) < cfg.threshold_of_height * height)
        if inliers.sum() < 3:
            break
        weights = 1.0 / (1.0 + (distances[inliers] / (0.3 * cfg.threshold_of_height * height)) ** 2)
        mean = weights @ points[inliers] / weights.sum()
        centred = (points[inliers] - mean) * np.sqrt(weights)[:, None]
        normal = np.linalg.svd(centred, full_matrices=False)[2][2]
        up = normal * np.sign(normal @ up)
        offset = float(mean @ up)
    return up, offset, int(inliers.sum())
