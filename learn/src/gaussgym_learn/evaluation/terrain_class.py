"""What kind of ground an episode leads over, measured along its path.

The rule, on heights of the scene's heightfield every 5 cm along the centre line and at five places across it, up to 0.3 m to
either side:

1. `gaps`: somewhere the ground changes by more than 0.35 m within 10 cm: no robot of ours steps that far;
2. else `rubble` where it is uneven across: half of the cuts across deviate from a straight line by 1 cm or more, lowest to
   highest (stairs and slopes are straight there, even where they lie askew);
3. else `stairs` where it changes by 4 cm or more within 10 cm (a grade of 40 %, steeper than any slope one walks);
4. else `rubble` where heights along the line deviate from straight lines through stretches of 1 m by 1.5 cm rms or more;
5. else `slope` where it climbs or falls by 5 % or more over 1 m somewhere, else `flat`.

Curbs are stairs of one step. Scenes say what they are meant to be in their metadata (`kind`); both are reported.
"""

from __future__ import annotations

import numpy as np
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_sim.mdp.starts import Starts
from numpy.typing import NDArray

CLASSES = ("flat", "slope", "stairs", "rubble", "gaps")
SPACING_M = 0.05
ACROSS_M = (-0.3, -0.15, 0.0, 0.15, 0.3)
STEP_M, STEP_WITHIN_M = 0.04, 0.10
GAP_M = 0.35
UNEVEN_ACROSS_M = 0.01
ROUGH_M = 0.015
GRADE = 0.05
_WINDOW_M = 1.0

Floats = NDArray[np.float64]


def classify(ground: Heightfield, line_xy_m: Floats) -> str:
    """The class of the ground along a line.

    Args:
        ground: of the scene.
        line_xy_m: points of the line `[P, 2]` [m], at least two that differ.
    """
    points, across = resampled(line_xy_m)
    offsets = np.array(ACROSS_M)
    heights = ground.sample(points[:, None] + offsets[None, :, None] * across[:, None])  # [Q, 5]
    centre = heights[:, len(offsets) // 2]
    reach = round(STEP_WITHIN_M / SPACING_M)
    change = np.abs(centre[reach:] - centre[:-reach]) if len(centre) > reach else np.zeros(1)
    if change.max() > GAP_M:
        return "gaps"
    level = heights - heights.mean(axis=1, keepdims=True)
    bent = level - (level @ offsets / (offsets @ offsets))[:, None] * offsets
    if np.median(np.ptp(bent, axis=1)) >= UNEVEN_ACROSS_M:
        return "rubble"
    if (change >= STEP_M).any():
        return "stairs"
    if roughness_m(centre) >= ROUGH_M:
        return "rubble"
    window = min(round(_WINDOW_M / SPACING_M), len(centre) - 1)
    grade = np.abs(centre[window:] - centre[:-window]).max() / (window * SPACING_M)
    return "slope" if grade >= GRADE else "flat"


def resampled(line_xy_m: Floats) -> tuple[Floats, Floats]:
    """Points every `SPACING_M` along a line `[Q, 2]`, and unit vectors to its left `[Q, 2]`."""
    line = np.asarray(line_xy_m, np.float64)
    lengths = np.linalg.norm(np.diff(line, axis=0), axis=1)
    keep = np.concatenate([[True], lengths > 1e-9])
    line, lengths = line[keep], lengths[lengths > 1e-9]
    arc = np.concatenate([[0.0], np.cumsum(lengths)])
    at = np.arange(0.0, arc[-1] + 1e-9, SPACING_M)
    points = np.stack([np.interp(at, arc, line[:, i]) for i in (0, 1)], axis=1)
    forward = (
        np.gradient(points, axis=0) if len(points) > 1 else np.tile(line[-1] - line[0], (len(points), 1))
    )
    forward /= np.maximum(np.linalg.norm(forward, axis=1, keepdims=True), 1e-9)
    return points, np.stack([-forward[:, 1], forward[:, 0]], axis=1)


def roughness_m(heights: Floats) -> float:
    """Rms of heights every `SPACING_M` about straight lines through stretches of 1 m."""
    size = min(round(_WINDOW_M / SPACING_M), len(heights))
    if size < 3:
        return 0.0
    windows = np.lib.stride_tricks.sliding_window_view(heights, size)[:: max(1, size // 2)]
    x = np.arange(size) - (size - 1) / 2
    slope = (windows @ x) / (x @ x)
    rest = windows - windows.mean(axis=1, keepdims=True) - slope[:, None] * x
    return float(np.sqrt((rest**2).mean()))


def way_of(paths: Paths, point: int, goal_point: int, direction: int) -> Floats:
    """Centre line from a start to its goal `[P, 2]` [m]; round a closed line where the goal lies behind."""
    ids = np.flatnonzero(paths.path_id == paths.path_id[point])
    first, count = int(ids[0]), len(ids)
    steps = (goal_point - point) * direction
    if steps < 0:
        steps %= count
    order = first + (point - first + direction * np.arange(steps + 1)) % count
    line = np.asarray(paths.points[order, :2], np.float64)
    return line if len(line) > 1 else np.concatenate([line, line + [[0.0, 0.1]]])


def way_length_m(line_xy_m: Floats) -> float:
    """Length of a line `[P, 2]` [m]."""
    return float(np.linalg.norm(np.diff(line_xy_m, axis=0), axis=1).sum())


def classes_of_starts(scenes: list[Scene], starts: Starts) -> list[str]:
    """Measured class of each start's way to its goal."""
    found = []
    for scene, point, goal, direction in zip(
        starts.scene_id, starts.point, starts.goal_point, starts.direction, strict=True
    ):
        own = scenes[int(scene)]
        found.append(classify(own.heightfield, way_of(own.paths, int(point), int(goal), int(direction))))
    return found


def shortest_ways_m(scenes: list[Scene], starts: Starts, goal_radius_m: float) -> Floats:
    """Shortest way of each start to within its goal's radius `[N]` [m]: along the centre line, and never less than straight.

    The line is the shortest way that the scene says can be walked; a robot that cuts its corners is not rewarded for it.
    """
    lengths = np.zeros(len(starts))
    for row, (scene, point, goal, direction) in enumerate(
        zip(starts.scene_id, starts.point, starts.goal_point, starts.direction, strict=True)
    ):
        paths = scenes[int(scene)].paths
        line = way_of(paths, int(point), int(goal), int(direction))
        straight = np.linalg.norm(paths.points[int(goal), :2] - starts.xy_m[row])
        lengths[row] = max(way_length_m(line), float(straight)) - goal_radius_m
    return np.maximum(lengths, 0.0)
