"""A yard with uneven ground, blocks, slabs and stones lying about."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gaussgym_scene import materials
from gaussgym_scene import textures as tx
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth.builder import SceneBuilder, SynthCfg, require
from gaussgym_scene.synth.lane import FLOOR_TEXEL_M, Lane, LaneKind, add_walls, lane_scene

RUN_UP_M = 2.0
"""Even ground at both ends [m]."""


@dataclass(frozen=True, kw_only=True)
class RubbleCfg(SynthCfg):
    """Rubble between walls."""

    max_height_m: float = 0.12
    """Height of the tallest obstacles above the ground around them [m]."""
    length_m: float = 16.0
    """Length along X [m]."""
    width_m: float = 4.0
    """Width along Y [m]."""
    density: float = 0.9
    """Obstacles a square metre."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("max_height_m", self.max_height_m, 0.0, 0.5)
        require("length_m", self.length_m, 6.0, 100.0)
        require("width_m", self.width_m, 1.5, 30.0)
        require("density", self.density, 0.0, 5.0)


Ground = tuple[NDArray, NDArray, NDArray]


def plan(cfg: RubbleCfg, rng: tx.Rng) -> tuple[Lane, Ground]:
    """Draw the ground, and a lane at its lowest level: walls reach down to it."""
    ground = ground_of(cfg, rng)
    low = float(ground[2].min())
    return Lane(np.array([(0.0, low), (cfg.length_m, low)]), cfg.width_m, 2.6), ground


def build(
    builder: SceneBuilder, cfg: RubbleCfg, lane: Lane, ground: Ground, rng: tx.Rng
) -> dict[str, object]:
    """Add the surfaces; half of the height may come from the ground's own waves, the rest from what lies on it."""
    x, y, z = ground
    material = (materials.gravel, materials.gravel, materials.cobbles, materials.slabs)[rng.integers(4)]
    texture = builder.paint(material((cfg.width_m, cfg.length_m), FLOOR_TEXEL_M, rng))
    points = np.stack([*np.meshgrid(x, y), z], axis=-1)
    u, v = np.meshgrid(x / cfg.length_m, 0.5 - y / cfg.width_m)
    builder.grid(points, np.stack([u, v], axis=-1), texture, ground=True)
    add_obstacles(builder, cfg, ground, rng)
    return {"floor": material.__name__, "wall": add_walls(builder, lane, rng)}


PARTS = LaneKind(RubbleCfg, plan, build)


def make(cfg: RubbleCfg, seed: int) -> Scene:
    """Make the scene."""
    return lane_scene("rubble", PARTS, cfg, seed)


def ground_of(cfg: RubbleCfg, rng: tx.Rng) -> Ground:
    """Grid lines x `[C]`, y `[R]` and heights `[R, C]` of the waving ground [m]; even at both ends."""
    x = np.linspace(0, cfg.length_m, round(cfg.length_m / 0.1) + 1)
    y = np.linspace(-cfg.width_m / 2, cfg.width_m / 2, round(cfg.width_m / 0.1) + 1)
    waves = tx.noise((len(y), len(x)), rng, cell_px=9, octaves=3, gain=0.6)
    ends = np.clip((np.minimum(x, cfg.length_m - x) - RUN_UP_M + 0.5) / 0.5, 0, 1)
    return x, y, (0.25 * cfg.max_height_m * np.clip(waves, -1, 1) * ends).astype(np.float64)


def add_obstacles(builder: SceneBuilder, cfg: RubbleCfg, ground: Ground, rng: tx.Rng) -> None:
    """Strew bricks, slabs, planks and stones, the tallest `max_height_m` less the ground's waves."""
    x, y, z = ground
    looks = [
        builder.paint(materials.concrete((0.8, 2.0), 0.01, rng)),
        builder.paint(materials.planks((0.8, 2.0), 0.008, rng)),
        builder.paint(materials.bricks((0.8, 2.0), 0.008, rng)),
        builder.paint(materials.gravel((0.8, 2.0), 0.01, rng, color=(0.45, 0.43, 0.40))),
        builder.paint(materials.slabs((0.8, 2.0), 0.008, rng)),
    ]
    sides = [
        builder.paint(materials.concrete((0.2, 2.0), 0.008, rng, color=rng.uniform(0.25, 0.45) * np.ones(3)))
        for _ in range(3)
    ]
    area = (cfg.length_m - 2 * RUN_UP_M) * cfg.width_m
    for _ in range(round(cfg.density * area)):
        px = rng.uniform(RUN_UP_M + 0.3, cfg.length_m - RUN_UP_M - 0.3)
        py = rng.uniform(-0.5, 0.5) * (cfg.width_m - 0.8)
        i, j = np.searchsorted(x, px), np.searchsorted(y, py)
        near = z[max(0, j - 4) : j + 4, max(0, i - 4) : i + 4]
        height = float(rng.uniform(0.25, 0.75)) * cfg.max_height_m
        look = looks[rng.integers(len(looks))]
        low, top = float(near.min()) - 0.02, float(near.min()) + height
        if top <= low + 0.025:
            continue
        if rng.random() < 0.25:
            radii = (rng.uniform(0.1, 0.25), rng.uniform(0.1, 0.25), height)
            builder.blob((px, py, float(near.min())), radii, looks[3], rng, lumps=0.1)
        else:
            size = (rng.uniform(0.15, 0.7), rng.uniform(0.12, 0.5), top - low)
            side = sides[rng.integers(len(sides))]
            builder.box((px, py, low), size, side, yaw=rng.uniform(0, np.pi), top=look)
