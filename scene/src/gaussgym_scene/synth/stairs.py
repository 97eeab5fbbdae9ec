"""Flights of stairs up to a landing and down again, between walls."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gaussgym_scene import textures as tx
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth.builder import SceneBuilder, SynthCfg, require
from gaussgym_scene.synth.lane import Lane, LaneKind, add_lane, lane_scene


@dataclass(frozen=True, kw_only=True)
class StairsCfg(SynthCfg):
    """Stairs; what is None is drawn from the seed."""

    step_height_m: float = 0.15
    """Height of a step [m]."""
    tread_m: float | None = None
    """Depth of a step [m]; drawn: 0.30 half of the time, else 0.25 or 0.35."""
    num_steps: int | None = None
    """Steps of each flight; drawn for each hill: 4 to 6."""
    num_hills: int = 2
    """How many times the stairs go up and down again."""
    width_m: float | None = None
    """Width between the walls [m]; drawn: 2.0 to 3.4."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("step_height_m", self.step_height_m, 0.01, 0.4)
        require("tread_m", self.tread_m, 0.15, 1.0)
        require("num_steps", self.num_steps, 1, 30)
        require("num_hills", self.num_hills, 1, 10)
        require("width_m", self.width_m, 1.2, 10.0)


def plan(cfg: StairsCfg, rng: tx.Rng) -> tuple[Lane, dict[str, object]]:
    """Draw the lane, and say what was drawn."""
    tread = cfg.tread_m or float(rng.choice([0.30, 0.30, 0.25, 0.35]))
    width = cfg.width_m or round(float(rng.uniform(2.0, 3.4)) / 0.1) * 0.1
    steps = [cfg.num_steps or int(rng.integers(4, 7)) for _ in range(cfg.num_hills)]
    spans = [(2.8, 3.3)] + [(1.2, 2.0), (1.6, 2.2)] * cfg.num_hills
    lengths = [round(float(rng.uniform(*span)) / 0.05) * 0.05 for span in spans]
    profile = profile_of(steps, lengths, tread, cfg.step_height_m)
    lane = Lane(profile, width, float(rng.uniform(1.6, 2.2)))
    return lane, {"tread_m": tread, "num_steps": steps, "step_height_m": cfg.step_height_m}


def build(
    builder: SceneBuilder, cfg: StairsCfg, lane: Lane, drawn: dict[str, object], rng: tx.Rng
) -> dict[str, object]:
    """Add the surfaces."""
    return add_lane(builder, lane, rng) | drawn


PARTS = LaneKind(StairsCfg, plan, build)


def make(cfg: StairsCfg, seed: int) -> Scene:
    """Make the scene; with two hills, 10 m along any path climb and descend at least one flight each."""
    return lane_scene("stairs", PARTS, cfg, seed)


def profile_of(steps: list[int], lengths: list[float], tread: float, height: float) -> NDArray[np.float64]:
    """Corners (x, z) of hills of stairs.

    Args:
        steps: Number of steps up (and down again) of each hill.
        lengths: Length of the run-up, then of each hill's landing and of the floor behind it [m]; the last floor is
            given the run-up's length.
        tread: Depth of a step [m].
        height: Height of a step [m].
    """
    corners, x, z = [(0.0, 0.0)], lengths[0], 0.0
    floors = [*lengths[1::2]], [*lengths[2::2]]
    floors[1][-1] = lengths[0]
    for count, landing, behind in zip(steps, *floors):
        # n risers have n − 1 treads between them; the landing is the last one's upper level.
        for direction, level in ((1, landing), (-1, behind)):
            for k in range(count):
                corners += [(x, z), (x, z + direction * height)]
                z += direction * height
                x += tread if k < count - 1 else level
        z = 0.0
    corners.append((x, z))
    return np.array(corners, np.float64).round(9)
