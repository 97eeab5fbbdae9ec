"""A short straight hall of few splats, as wide as two robots' lanes: where a task that asks for eyes is cheap to learn."""

from dataclasses import dataclass

import numpy as np

from gaussgym_scene import materials
from gaussgym_scene import textures as tx
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth.builder import SceneBuilder, SynthCfg, both_ways, require, rng_for
from gaussgym_scene.synth.lane import FLOOR_TEXEL_M, ROBOT_CLEARANCE_M, WALL_TEXEL_M

END_M = 0.9
"""How far the path stays from the end walls [m]."""
FLOORS = ((0.46, 0.44, 0.40), (0.40, 0.42, 0.45), (0.50, 0.46, 0.42), (0.38, 0.40, 0.38))
WALLS = ((0.78, 0.76, 0.70), (0.70, 0.73, 0.74), (0.76, 0.72, 0.64))


@dataclass(frozen=True, kw_only=True)
class HallCfg(SynthCfg):
    """A straight hall along +X, closed on all sides."""

    length_m: float = 4.8
    """Length along X [m]."""
    width_m: float = 2.4
    """Width along Y [m]."""
    height_m: float = 2.2
    """Height of the ceiling [m]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("length_m", self.length_m, 3.0, 50.0)
        require("width_m", self.width_m, 1.4, 6.0)
        require("height_m", self.height_m, 1.5, 5.0)


def make(cfg: HallCfg, seed: int) -> Scene:
    """Make the scene; its path is the middle line, both ways."""
    rng, builder = rng_for("hall", seed), SceneBuilder()
    length, half, top = cfg.length_m, cfg.width_m / 2, cfg.height_m
    material = (materials.concrete, materials.tiles, materials.carpet)[rng.integers(3)]
    floor = material(
        (cfg.width_m, length), FLOOR_TEXEL_M, rng, color=tx.jitter(FLOORS[rng.integers(len(FLOORS))], rng)
    )
    corners = [(0, -half, 0), (length, -half, 0), (length, half, 0), (0, half, 0)]
    builder.quad(corners, builder.paint(floor), ground=True)
    ceiling = materials.concrete((length, cfg.width_m), WALL_TEXEL_M, rng, color=(0.8, 0.8, 0.78), dirt=0.3)
    # Seen from below: to the right runs −X when +Y is up.
    above = [(length, -half, top), (0, -half, top), (0, half, top), (length, half, top)]
    builder.quad(above, builder.paint(ceiling), coarseness=5.0)
    color = tx.jitter(WALLS[rng.integers(len(WALLS))], rng, 0.04)
    ring = [(0, -half), (length, -half), (length, half), (0, half)]
    for i, end in enumerate(ring):
        start = ring[(i + 1) % 4]  # seen from inside, each wall runs clockwise
        _add_wall(builder, start, end, top, color, rng)
    line = np.array([(END_M, 0.0), (length - END_M, 0.0)])
    return builder.scene(
        "hall", seed, cfg, both_ways(line, half - ROBOT_CLEARANCE_M), floor=material.__name__
    )


def _add_wall(
    builder: SceneBuilder,
    start: tuple[float, float],
    end: tuple[float, float],
    height: float,
    color: np.ndarray,
    rng: tx.Rng,
) -> None:
    """Add one plastered wall with a skirting, a band at the height of hands and a few posters."""
    width = float(np.hypot(end[0] - start[0], end[1] - start[1]))
    paint = materials.concrete((height, width), WALL_TEXEL_M, rng, color=color, dirt=0.5)
    rows, columns = paint.shape[:2]
    above = (
        (rows - np.arange(rows, dtype=np.float32))[:, None] * WALL_TEXEL_M * np.ones((1, columns), np.float32)
    )
    tx.blend(paint, color * rng.uniform(0.5, 0.9), 0.8 * (above < rng.uniform(0.3, 0.9)))
    tx.blend(paint, color * 0.35, (above < 0.08).astype(np.float32))
    for left in np.arange(rng.uniform(0.2, 0.8), width - 0.7, rng.uniform(0.9, 1.6)):
        wide, tall, low = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.6), rng.uniform(0.3, 1.0)
        y1, x0 = rows - round(low / WALL_TEXEL_M), round(left / WALL_TEXEL_M)
        box = (
            max(0, y1 - round(tall / WALL_TEXEL_M)),
            x0,
            y1,
            min(columns - 1, x0 + round(wide / WALL_TEXEL_M)),
        )
        tx.poster(paint, rng, box=box)
    builder.wall(start, end, (0.0, height), builder.paint(paint), coarseness=3.0)
