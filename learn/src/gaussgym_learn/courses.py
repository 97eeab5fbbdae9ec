"""Training grounds for teachers: many lanes of rising difficulty in one heightfield, without splats.

The simulator's curriculum moves robots between lanes by the level that `metadata["path_level"]` gives each path.
"""

from __future__ import annotations

import numpy as np
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth import synthesize

STAIRS_LEVELS_M = (0.0, 0.03, 0.06, 0.09, 0.12, 0.15, 0.18)
"""Step heights of the levels of the stairs teacher's course [m]."""
WALKER_LEVELS_M = (0.03, 0.05, 0.07, 0.09, 0.11, 0.13)
"""Those of the walker's courses: it knows flat ground when it comes to them."""
CELL_M = 0.05
_PATH_STEP_M = 0.25
_BORDER_M = 1.0
_ROUGH_CELL_M = 0.2
_MAX_STEPS = 10
_HALLS = 8


def stairs_course(
    step_heights_m: tuple[float, ...] = STAIRS_LEVELS_M,
    *,
    lanes: int = 4,
    length_m: float = 14.0,
    lane_width_m: float = 2.5,
    treads_m: tuple[float, float] = (0.26, 0.36),
    max_rise_m: float = 1.3,
    rubble: bool = True,
    seed: int = 0,
) -> Scene:
    """Lanes of stairs up and down; every height is one level, and each level has one more lane of random blocks.

    Args:
        step_heights_m: rise of a step on each level [m]; 0 is flat.
        lanes: lanes of stairs a level; treads, platforms and numbers of steps differ.
        length_m: of a lane [m].
        lane_width_m: of a lane [m].
        treads_m: shortest and longest tread [m].
        max_rise_m: highest platform [m].
        rubble: add the lane of 20 cm blocks, as high as 0.6 of a step, to each level.
        seed: of the layout.

    Returns:
        A scene with a heightfield and paths only; `metadata["path_level"]` gives the level of each path.
    """
    rng = np.random.default_rng(seed)
    per_level = lanes + int(rubble)
    nx = round(length_m / CELL_M) + 1
    lane_rows = round(lane_width_m / CELL_M)
    x = np.arange(nx) * CELL_M
    rows, points, ids, levels = [], [], [], {}
    for level, rise in enumerate(step_heights_m):
        for lane in range(per_level):
            path = level * per_level + lane
            profile = (
                np.zeros(nx)
                if lane >= lanes or rise == 0.0
                else _stairs_profile(x, rise, treads_m, max_rise_m, rng)
            )
            block = np.tile(profile, (lane_rows, 1))
            if lane >= lanes:
                block += _blocks(block.shape, 0.6 * rise, rng)
            rows.append(block)
            y = (path + 0.5) * lane_width_m
            along = np.arange(_BORDER_M, length_m - _BORDER_M + 1e-9, _PATH_STEP_M)
            ground = np.interp(along, x, block[lane_rows // 2])
            points.append(np.stack([along, np.full_like(along, y), ground, np.zeros_like(along)], axis=1))
            ids.append(np.full(len(along), path))
            levels[str(path)] = level
    height = np.concatenate([np.zeros((20, nx)), *rows, np.zeros((20, nx))])
    field = Heightfield(
        height_m=height.astype(np.float32),
        cell_m=CELL_M,
        origin_xy_m=np.array([0.0, -20 * CELL_M]),
        known=np.ones_like(height, dtype=bool),
    )
    line_points = np.concatenate(points)
    paths = Paths(line_points, np.concatenate(ids), np.full(len(line_points), 0.4))
    metadata = {
        "kind": "stairs_course",
        "path_level": levels,
        "step_heights_m": list(step_heights_m),
        "seed": seed,
    }
    return Scene("stairs_course", heightfield=field, paths=paths, metadata=metadata)


def _stairs_profile(
    x: np.ndarray, rise: float, treads: tuple[float, float], max_rise: float, rng: np.random.Generator
) -> np.ndarray:
    """Height along a lane: flights up and down between level stretches."""
    height = np.zeros_like(x)
    position, z = rng.uniform(1.6, 2.4), 0.0
    while position < x[-1] - 2.0:
        tread = rng.uniform(*treads)
        count = int(rng.integers(2, min(max(3, int(max_rise / rise)), _MAX_STEPS) + 1))
        count = min(count, max(2, int((x[-1] - position - 2.0) / (2 * tread))))
        up = z == 0.0
        for _ in range(count if up else round(z / rise)):
            z += rise if up else -rise
            height[x >= position - 1e-9] = z
            position += tread
        z = 0.0 if abs(z) < 1e-6 else z
        position += rng.uniform(0.5, 1.6)
    if z > 0.0:  # the lane ends on a platform: fine, the border behind it is never reached
        height[x >= position] = z
    return height


def _blocks(shape: tuple[int, int], height: float, rng: np.random.Generator) -> np.ndarray:
    """Random blocks of 20 cm, level at both ends of the lane."""
    cells = round(_ROUGH_CELL_M / CELL_M)
    coarse = rng.uniform(0.0, height, (shape[0] // cells + 1, shape[1] // cells + 1))
    out = np.kron(coarse, np.ones((cells, cells)))[: shape[0], : shape[1]]
    ends = round(1.5 / CELL_M)
    out[:, :ends] = 0.0
    out[:, -ends:] = 0.0
    return out


def flat_course(*, straight_m: float = 10.0, radii_m: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0)) -> Scene:
    """Level ground with closed tracks (two straights, two half circles): one can walk for any time without reaching an end.

    Args:
        straight_m: length of the straights [m].
        radii_m: of the half circles, one track each [m].
    """
    points, ids, x0 = [], [], 0.0
    for path, radius in enumerate(radii_m):
        line = _stadium(straight_m, radius)
        line[:, 0] += x0 + radius
        x0 += straight_m + 2 * radius + 1.0
        points.append(line)
        ids.append(np.full(len(line), path))
    line_points = np.concatenate(points)
    low, high = line_points[:, :2].min(axis=0) - 2.0, line_points[:, :2].max(axis=0) + 2.0
    nx, ny = (np.ceil((high - low) / 0.25).astype(int) + 1).tolist()
    height = np.zeros((ny, nx), dtype=np.float32)
    field = Heightfield(height_m=height, cell_m=0.25, origin_xy_m=low, known=np.ones_like(height, dtype=bool))
    paths = Paths(line_points, np.concatenate(ids), np.full(len(line_points), 0.6))
    return Scene("flat_course", heightfield=field, paths=paths, metadata={"kind": "flat_course"})


def _stadium(straight: float, radius: float) -> np.ndarray:
    """Centre line x, y, z, yaw `[P, 4]` of a track, anticlockwise, about every 25 cm."""
    length = 2 * straight + 2 * np.pi * radius
    s = np.arange(0.0, length - 0.5 * _PATH_STEP_M, length / round(length / _PATH_STEP_M))
    arc = np.pi * radius
    turn_1, turn_2 = (s - straight) / radius, (s - 2 * straight - arc) / radius
    pieces = [s < straight, s < straight + arc, s < 2 * straight + arc]
    x = np.select(
        pieces,
        [s, straight + radius * np.sin(turn_1), 2 * straight + arc - s],
        -radius * np.sin(turn_2),
    )
    y = np.select(
        pieces,
        [0 * s, radius * (1 - np.cos(turn_1)), 0 * s + 2 * radius],
        radius * (1 + np.cos(turn_2)),
    )
    yaw = np.select(pieces, [0 * s, turn_1, 0 * s + np.pi], np.pi + turn_2)
    return np.stack([x, y, 0 * s, (yaw + np.pi) % (2 * np.pi) - np.pi], axis=1)


def default_course(recipe: str, *, seed: int = 0) -> list[Scene]:
    """The ground a recipe is trained on when no scene is given; environments are split over the scenes evenly."""
    if recipe.startswith("corridor"):
        return [synthesize("hall", _HALLS * seed + k) for k in range(_HALLS)]
    if recipe == "velocity":
        stairs = [stairs_course(WALKER_LEVELS_M, seed=3 * seed + k) for k in range(3)]
        for k, scene in enumerate(stairs):
            scene.name += f"_{k}"
        return [flat_course(), *stairs]
    return [flat_course()] if "flat" in recipe else [stairs_course(STAIRS_LEVELS_M, seed=seed)]
