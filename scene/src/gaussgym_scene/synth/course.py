"""Lanes of one kind side by side, each a level harder: a curriculum that can be seen as well as felt."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth import gaps, rubble, slope, stairs, stones
from gaussgym_scene.synth.builder import SceneBuilder, SynthCfg, require, rng_for
from gaussgym_scene.synth.lane import Lane, LaneKind, lane_lines

BETWEEN_M = 0.3
"""Distance of neighbouring lanes' walls [m]."""


@dataclass(frozen=True)
class Ladder:
    """What makes the lanes of one kind harder."""

    parts: LaneKind[Any, Any]
    easiest: dict[str, float]
    """Parameters of the kind on level 0."""
    hardest: dict[str, float]
    """The same parameters on the highest level."""


LADDERS = {
    "stairs": Ladder(stairs.PARTS, {"step_height_m": 0.05}, {"step_height_m": 0.23}),
    "slope": Ladder(slope.PARTS, {"slope_deg": 3.0}, {"slope_deg": 30.0}),
    "rubble": Ladder(
        rubble.PARTS, {"max_height_m": 0.03, "density": 0.6}, {"max_height_m": 0.3, "density": 1.2}
    ),
    "gaps": Ladder(gaps.PARTS, {"min_gap_m": 0.05, "max_gap_m": 0.1}, {"min_gap_m": 0.4, "max_gap_m": 0.6}),
    "stones": Ladder(
        stones.PARTS,
        {"max_size_m": 0.6, "min_size_m": 0.5, "min_gap_m": 0.03, "max_gap_m": 0.05, "unevenness_m": 0.0},
        {"max_size_m": 0.3, "min_size_m": 0.2, "min_gap_m": 0.15, "max_gap_m": 0.3, "unevenness_m": 0.05},
    ),
}
"""The kinds that courses are made of."""


@dataclass(frozen=True, kw_only=True)
class CourseCfg(SynthCfg):
    """Lanes of rising difficulty."""

    max_splats: int = 150_000
    """Upper bound of the number of splats; the spacing is widened until it is kept."""
    terrain: Literal["stairs", "slope", "rubble", "gaps", "stones"] = "stairs"
    """Kind of the lanes."""
    levels: int = 10
    """Number of lanes."""
    easiest: float = 0.0
    """Difficulty of level 0, from 0 (5 cm steps, 3 degrees, 3 cm rubble, 5 cm gaps, 60 cm stones) to 1."""
    hardest: float = 1.0
    """Difficulty of the highest level, up to 1 (23 cm steps, 30 degrees, 30 cm rubble, 60 cm gaps, 20 cm stones)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.terrain not in LADDERS:
            raise InputError(f"terrain is {self.terrain!r}, expected one of {', '.join(LADDERS)}")
        require("levels", self.levels, 1, 50)
        require("easiest", self.easiest, 0.0, 1.0)
        require("hardest", self.hardest, self.easiest, 1.0)


def make(cfg: CourseCfg, seed: int) -> Scene:
    """Make the scene; `metadata["path_level"]` gives the level of each path, `metadata["drawn"]["levels"]` its parameters."""
    ladder, rng = LADDERS[cfg.terrain], rng_for("course", seed)
    builder, lines, path_level, values, y, length = SceneBuilder(), [], {}, [], 0.0, 0.0
    lanes = [_lane(ladder, cfg, level, seed) for level in range(cfg.levels)]
    # Walls end at one height, lest one look over one's own at the back of the next.
    top = max(float(lane.profile[:, 1].max()) + lane.wall_height_m for lane, *_ in lanes)
    for level, (lane, plan, lane_cfg, lane_rng) in enumerate(lanes):
        lane = dataclasses.replace(lane, wall_height_m=top - float(lane.profile[:, 1].max()))
        y += lane.width_m / 2
        builder.shift_m = np.array([0.0, y, 0.0])
        ladder.parts.build(builder, lane_cfg, lane, plan, lane_rng)
        for line, half_width in lane_lines(lane):
            path_level[str(len(lines))] = level
            lines.append((line + [0.0, y], half_width))
        values.append({name: getattr(lane_cfg, name) for name in ladder.easiest})
        y += lane.width_m / 2 + BETWEEN_M
        length = max(length, lane.length_m)
    builder.shift_m = np.zeros(3)
    builder.backdrop((length / 2, y / 2), rng)
    scene = builder.scene("course", seed, cfg, lines, levels=values)
    scene.metadata["path_level"] = path_level
    return scene


def _lane(
    ladder: Ladder, cfg: CourseCfg, level: int, seed: int
) -> tuple[Lane, Any, Any, np.random.Generator]:
    """Draw one level's lane: the lane, what `build` wants to know, the kind's parameters, the random numbers to go on with."""
    share = cfg.easiest + (cfg.hardest - cfg.easiest) * level / max(cfg.levels - 1, 1)
    params = {k: round(v + share * (ladder.hardest[k] - v), 6) for k, v in ladder.easiest.items()}
    lane_cfg = ladder.parts.cfg(cell_m=cfg.cell_m, **params)
    rng = rng_for(f"course {cfg.terrain} {level}", seed)
    lane, plan = ladder.parts.plan(lane_cfg, rng)
    return lane, plan, lane_cfg, rng
