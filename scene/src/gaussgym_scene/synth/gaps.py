"""Platforms with gaps between them that grow wider and wider, between walls."""

from dataclasses import dataclass

import numpy as np

from gaussgym_scene import textures as tx
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth.builder import SceneBuilder, SynthCfg, require
from gaussgym_scene.synth.lane import Lane, LaneKind, add_lane, lane_scene

RUN_UP_M = 2.0
"""Platform at both ends [m]."""


@dataclass(frozen=True, kw_only=True)
class GapsCfg(SynthCfg):
    """Gaps across a lane; widths are rounded to 5 cm, the usual cell."""

    min_gap_m: float = 0.1
    """Width of the first gap [m]."""
    max_gap_m: float = 0.4
    """Width of the last gap [m]."""
    depth_m: float = 0.6
    """Depth of the gaps [m]."""
    length_m: float = 14.0
    """Least length along X; the last platform is longer by what the gaps leave [m]."""
    width_m: float = 3.0
    """Width between the walls [m]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("min_gap_m", self.min_gap_m, 0.05, 2.0)
        require("max_gap_m", self.max_gap_m, self.min_gap_m, 2.0)
        require("depth_m", self.depth_m, 0.5, 3.0)
        require("length_m", self.length_m, 8.0, 100.0)
        require("width_m", self.width_m, 1.2, 10.0)


def plan(cfg: GapsCfg, rng: tx.Rng) -> tuple[Lane, list[float]]:
    """Draw the lane and the widths of its gaps [m], narrow to wide; platforms are 0.7 to 1.3 m long."""
    mean = 1.0 + (cfg.min_gap_m + cfg.max_gap_m) / 2
    count = max(1, int((cfg.length_m - 2 * RUN_UP_M) / mean))
    gaps = [round(float(g) / 0.05) * 0.05 for g in np.linspace(cfg.min_gap_m, cfg.max_gap_m, count)]
    corners, x = [(0.0, 0.0)], RUN_UP_M
    for gap in gaps:
        corners += [(x, 0.0), (x, -cfg.depth_m), (x + gap, -cfg.depth_m), (x + gap, 0.0)]
        x += gap + round(float(rng.uniform(0.7, 1.3)) / 0.05) * 0.05
    corners.append((max(x + RUN_UP_M - 0.7, cfg.length_m), 0.0))
    return Lane(np.array(corners, np.float64).round(9), cfg.width_m, float(rng.uniform(1.8, 2.4))), gaps


def build(
    builder: SceneBuilder, cfg: GapsCfg, lane: Lane, gaps: list[float], rng: tx.Rng
) -> dict[str, object]:
    """Add the surfaces."""
    return {"gaps_m": [round(gap, 3) for gap in gaps], **add_lane(builder, lane, rng)}


PARTS = LaneKind(GapsCfg, plan, build)


def make(cfg: GapsCfg, seed: int) -> Scene:
    """Make the scene. Where its paths cross a gap, their points lie at its bottom, as the ground does."""
    return lane_scene("gaps", PARTS, cfg, seed)
