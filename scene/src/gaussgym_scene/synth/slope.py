"""Ramps up and down between walls."""

from dataclasses import dataclass

import numpy as np

from gaussgym_scene import textures as tx
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth.builder import SceneBuilder, SynthCfg, require
from gaussgym_scene.synth.lane import Lane, LaneKind, add_lane, lane_scene


@dataclass(frozen=True, kw_only=True)
class SlopeCfg(SynthCfg):
    """Ramps; what is None is drawn from the seed."""

    slope_deg: float | None = None
    """Inclination of the ramps [degrees]; drawn: 6 to 16."""
    ramp_m: float = 3.0
    """Length of a ramp on the map [m]."""
    num_hills: int = 2
    """How many times it goes up and down again."""
    width_m: float = 3.0
    """Width between the walls [m]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("slope_deg", self.slope_deg, 0.0, 45.0)
        require("ramp_m", self.ramp_m, 0.5, 50.0)
        require("num_hills", self.num_hills, 1, 10)
        require("width_m", self.width_m, 1.2, 10.0)


def plan(cfg: SlopeCfg, rng: tx.Rng) -> tuple[Lane, float]:
    """Draw the lane and its inclination [degrees]."""
    slope = float(rng.uniform(6, 16)) if cfg.slope_deg is None else cfg.slope_deg
    rise = cfg.ramp_m * float(np.tan(np.radians(slope)))
    corners, x = [(0.0, 0.0)], 2.5
    for _ in range(cfg.num_hills):
        level = round(float(rng.uniform(1.2, 2.0)) / 0.05) * 0.05
        corners += [(x, 0.0), (x + cfg.ramp_m, rise), (x + cfg.ramp_m + level, rise)]
        x += 2 * cfg.ramp_m + level
        corners.append((x, 0.0))
        x += 1.5
    corners.append((x + 1.0, 0.0))
    return Lane(np.array(corners, np.float64).round(9), cfg.width_m, float(rng.uniform(1.8, 2.4))), slope


def build(builder: SceneBuilder, cfg: SlopeCfg, lane: Lane, slope: float, rng: tx.Rng) -> dict[str, object]:
    """Add the surfaces."""
    return {"slope_deg": slope, **add_lane(builder, lane, rng)}


PARTS = LaneKind(SlopeCfg, plan, build)


def make(cfg: SlopeCfg, seed: int) -> Scene:
    """Make the scene."""
    return lane_scene("slope", PARTS, cfg, seed)
