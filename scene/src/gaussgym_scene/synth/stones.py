"""Stepping stones over a pit, smaller and farther apart with every row, between walls."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gaussgym_scene import materials
from gaussgym_scene import textures as tx
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth.builder import SceneBuilder, SynthCfg, require
from gaussgym_scene.synth.lane import Lane, LaneKind, add_lane, lane_scene

RUN_UP_M = 2.0
"""Platform at both ends [m]."""


@dataclass(frozen=True, kw_only=True)
class StonesCfg(SynthCfg):
    """Stones in rows across a lane."""

    max_size_m: float = 0.5
    """Edge of the stones in the first row [m]."""
    min_size_m: float = 0.25
    """Edge of the stones in the last row [m]."""
    min_gap_m: float = 0.05
    """Distance of the stones in the first row [m]."""
    max_gap_m: float = 0.2
    """Distance of the stones in the last row [m]."""
    unevenness_m: float = 0.02
    """How much higher or lower than the platforms stones are at most [m]."""
    depth_m: float = 0.6
    """Depth of the pit [m]."""
    length_m: float = 14.0
    """Least length along X [m]."""
    width_m: float = 2.6
    """Width between the walls [m]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("min_size_m", self.min_size_m, 0.1, 1.0)
        require("max_size_m", self.max_size_m, self.min_size_m, 1.0)
        require("min_gap_m", self.min_gap_m, 0.02, 1.0)
        require("max_gap_m", self.max_gap_m, self.min_gap_m, 1.0)
        require("unevenness_m", self.unevenness_m, 0.0, 0.15)
        require("depth_m", self.depth_m, 0.5, 3.0)
        require("length_m", self.length_m, 8.0, 100.0)
        require("width_m", self.width_m, 1.2, 10.0)


def plan(cfg: StonesCfg, rng: tx.Rng) -> tuple[Lane, NDArray[np.float64]]:
    """Draw the lane, and the stones: x, y of the centre, edge, top, yaw `[N, 5]`."""
    stones, x = [], RUN_UP_M
    end = cfg.length_m - RUN_UP_M
    while x < end:
        along = min(1.0, (x - RUN_UP_M) / max(end - RUN_UP_M - cfg.min_size_m - cfg.max_gap_m, 1e-6))
        size = cfg.max_size_m + along * (cfg.min_size_m - cfg.max_size_m)
        gap = cfg.min_gap_m + along * (cfg.max_gap_m - cfg.min_gap_m)
        x += gap
        count = max(1, int((cfg.width_m + gap) / (size + gap)))
        # Every other row is moved by half a stone where there is room.
        room = cfg.width_m - count * size - (count - 1) * gap
        left = -cfg.width_m / 2 + room * float(rng.uniform(0.2, 0.8))
        for k in range(count):
            shift = rng.uniform(-0.25, 0.25, 2) * gap
            top = float(rng.uniform(-1, 1)) * cfg.unevenness_m
            turn = float(rng.uniform(-1, 1)) * min(0.2, 0.25 * gap / size)
            y = left + size / 2 + k * (size + gap)
            y = float(np.clip(y + shift[1], *(np.array([-1, 1]) * (cfg.width_m - 1.2 * size) / 2)))
            stones.append((x + size / 2 + shift[0], y, size, top, turn))
        x += size
    x = round((x + gap) / 0.05) * 0.05
    corners = [(0, 0), (RUN_UP_M, 0), (RUN_UP_M, -cfg.depth_m), (x, -cfg.depth_m), (x, 0), (x + RUN_UP_M, 0)]
    lane = Lane(np.array(corners, np.float64).round(9), cfg.width_m, float(rng.uniform(1.8, 2.4)))
    return lane, np.array(stones)


def build(
    builder: SceneBuilder, cfg: StonesCfg, lane: Lane, stones: NDArray[np.float64], rng: tx.Rng
) -> dict[str, object]:
    """Add the surfaces."""
    drawn = add_lane(builder, lane, rng)
    looks = [
        builder.paint(material((0.6, 0.6), 0.01, rng))
        for material in (materials.slabs, materials.concrete, materials.gravel, materials.cobbles)
    ]
    side = builder.paint(
        materials.concrete((cfg.depth_m, 2.0), 0.01, rng, color=rng.uniform(0.25, 0.45) * np.ones(3))
    )
    for x, y, size, top, turn in stones:
        look = looks[rng.integers(len(looks))]
        base = (x, y, -cfg.depth_m)
        builder.box(base, (size, size, cfg.depth_m + top), side, yaw=turn, top=look)
    return {"num_stones": len(stones), **drawn}


PARTS = LaneKind(StonesCfg, plan, build)


def make(cfg: StonesCfg, seed: int) -> Scene:
    """Make the scene. Where its paths miss a stone, their points lie at the bottom of the pit, as the ground does."""
    return lane_scene("stones", PARTS, cfg, seed)
