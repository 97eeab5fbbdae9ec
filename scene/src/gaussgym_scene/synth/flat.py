"""A level yard between walls."""

from dataclasses import dataclass

import numpy as np

from gaussgym_scene.scene import Scene
from gaussgym_scene.synth.builder import SceneBuilder, SynthCfg, require, rng_for
from gaussgym_scene.synth.lane import Lane, add_lane, lane_lines


@dataclass(frozen=True, kw_only=True)
class FlatCfg(SynthCfg):
    """A level floor."""

    length_m: float = 16.0
    """Length along X [m]."""
    width_m: float = 4.0
    """Width along Y [m]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("length_m", self.length_m, 3.0, 200.0)
        require("width_m", self.width_m, 1.2, 50.0)


def make(cfg: FlatCfg, seed: int) -> Scene:
    """Make the scene."""
    rng = rng_for("flat", seed)
    lane = Lane(np.array([(0.0, 0.0), (cfg.length_m, 0.0)]), cfg.width_m, float(rng.uniform(2.2, 3.0)))
    builder = SceneBuilder()
    drawn = add_lane(builder, lane, rng)
    builder.backdrop((lane.length_m / 2, 0.0), rng)
    return builder.scene("flat", seed, cfg, lane_lines(lane), **drawn)
