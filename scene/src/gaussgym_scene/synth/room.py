"""A furnished room: carpet or tiles, plaster walls with doors and pictures, a table to walk around, crates, a low dais."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gaussgym_scene import materials
from gaussgym_scene import textures as tx
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth.builder import SceneBuilder, SynthCfg, both_ways, require, rng_for
from gaussgym_scene.synth.corridor import add_wall, ceiling_paint, floor_paint
from gaussgym_scene.synth.lane import ROBOT_CLEARANCE_M, WALL_TEXEL_M

FLOOR_COLORS = ((0.42, 0.36, 0.31), (0.33, 0.37, 0.43), (0.38, 0.42, 0.36))
WALL_COLORS = ((0.80, 0.77, 0.70), (0.71, 0.76, 0.77), (0.79, 0.73, 0.63))
WOODS = ((0.46, 0.33, 0.22), (0.35, 0.27, 0.21), (0.55, 0.45, 0.33))


@dataclass(frozen=True, kw_only=True)
class RoomCfg(SynthCfg):
    """A rectangular room, its walls along X and Y."""

    length_m: float = 8.0
    """Along X [m]."""
    width_m: float = 6.0
    """Along Y [m]."""
    height_m: float = 2.7
    """Height of the ceiling [m]."""
    dais_height_m: float = 0.12
    """Height of the dais at the far end [m]."""
    aisle_m: float = 1.5
    """Free width around the table [m]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("length_m", self.length_m, 6.0, 20.0)
        require("width_m", self.width_m, 4.5, 15.0)
        require("height_m", self.height_m, 2.3, 5.0)
        require("dais_height_m", self.dais_height_m, 0.03, 0.25)
        require("aisle_m", self.aisle_m, 1.0, 0.3 * self.width_m)


def make(cfg: RoomCfg, seed: int) -> Scene:
    """Make the scene; its paths go around the table, both ways."""
    rng, builder = rng_for("room", seed), SceneBuilder()
    length, width, top = cfg.length_m, cfg.width_m, cfg.height_m
    material = (materials.carpet, materials.tiles)[rng.integers(2)]
    base = tx.jitter(FLOOR_COLORS[rng.integers(len(FLOOR_COLORS))], rng, 0.06)
    floor = builder.paint(floor_paint((width, length), material, base, rng))
    builder.quad([(0, 0, 0), (length, 0, 0), (length, width, 0), (0, width, 0)], floor, ground=True)
    ceiling = builder.paint(ceiling_paint((length, width), rng))
    above = [(length, 0, top), (0, 0, top), (0, width, top), (length, width, top)]
    builder.quad(above, ceiling, coarseness=3.0)
    color = tx.jitter(WALL_COLORS[rng.integers(len(WALL_COLORS))], rng, 0.04)
    ring = [(0.0, 0.0), (length, 0.0), (length, width), (0.0, width)]
    for index, end in enumerate(ring):
        add_wall(builder, np.array(ring[(index + 1) % 4]), np.array(end), top, color, rng, tx.painting)
    island = _furnish(builder, cfg, rng)
    free = cfg.aisle_m / 2
    line = _around(island, free)
    return builder.scene(
        "room", seed, cfg, both_ways(line, free - ROBOT_CLEARANCE_M), floor=material.__name__
    )


def _furnish(builder: SceneBuilder, cfg: RoomCfg, rng: tx.Rng) -> tuple[float, float, float, float]:
    """Add the furniture, all clear of the aisle; returns the table's x0, y0, x1, y1 [m]."""
    length, width, aisle = cfg.length_m, cfg.width_m, cfg.aisle_m
    shelf = 0.45  # depth of what stands along the walls
    x0, x1, y0, y1 = shelf + aisle, length - shelf - aisle, shelf + aisle, width - shelf - aisle
    _box(builder, ((x0 + x1) / 2, (y0 + y1) / 2, 0.0), (x1 - x0, y1 - y0, 0.74), rng, materials.planks)
    for _ in range(5):  # things on the table
        size = rng.uniform((0.15, 0.1, 0.05), (0.4, 0.35, 0.35))
        at = rng.uniform((x0 + 0.3, y0 + 0.25), (x1 - 0.3, y1 - 0.25))
        _box(builder, (*at, 0.74), size, rng, materials.concrete, yaw=rng.uniform(0, np.pi))
    for side in (0.0, width - shelf):
        at = 0.2
        while at < length - 1.2:
            extent = min(rng.uniform(0.5, 1.4), length - 0.2 - at)
            if rng.random() < 0.75:
                high = rng.uniform(0.35, 1.5)
                _box(
                    builder,
                    (at + extent / 2, side + shelf / 2, 0.0),
                    (extent, shelf - 0.1, high),
                    rng,
                    materials.planks,
                )
            at += extent + rng.uniform(0.15, 0.6)
    _add_dais(builder, length - shelf - aisle, length, width, cfg.dais_height_m, rng)
    return x0, y0, x1, y1


def _add_dais(builder: SceneBuilder, x0: float, x1: float, width: float, height: float, rng: tx.Rng) -> None:
    """A dais across the far end, so that the path steps up and down; in pieces of 0.5 m, as thin triangles lose digits."""
    color = WOODS[rng.integers(len(WOODS))]
    y = np.linspace(width, 0.0, round(width / 0.5) + 1)  # to the right as seen from the room
    u = np.stack([1 - y / width, 1 - y / width])
    for across, paint_m in (("riser", height), ("top", x1 - x0)):
        near = np.stack(
            [np.full_like(y, x0), y, np.full_like(y, 0.0 if across == "riser" else height)], axis=-1
        )
        far = np.stack(
            [np.full_like(y, x0 if across == "riser" else x1), y, np.full_like(y, height)], axis=-1
        )
        paint = builder.paint(materials.planks((paint_m, width), WALL_TEXEL_M, rng, color=color))
        v = np.stack([np.ones_like(y), np.zeros_like(y)])
        builder.grid(np.stack([near, far]), np.stack([u, v], axis=-1), paint, ground=True)


def _box(builder, center, size, rng, material, *, yaw: float = 0.0) -> None:  # noqa: ANN001
    length, width, height = size
    color = tx.jitter(WOODS[rng.integers(len(WOODS))], rng, 0.15)
    side = builder.paint(material((height, 2 * (length + width)), WALL_TEXEL_M, rng, color=color))
    lid = builder.paint(material((width, length), WALL_TEXEL_M, rng, color=tx.jitter(color, rng, 0.08)))
    builder.box(center, size, side, yaw=yaw, top=lid)


def _around(island: tuple[float, float, float, float], distance: float) -> NDArray[np.float64]:
    """A line around a rectangle at a distance, with round corners, not quite closed."""
    x0, y0, x1, y1 = island
    turn = np.linspace(0, np.pi / 2, 8)
    corners = [((x1, y0), -np.pi / 2), ((x1, y1), 0.0), ((x0, y1), np.pi / 2), ((x0, y0), np.pi)]
    parts = [np.array([[x0 + 0.3, y0 - distance]])]
    for (x, y), start in corners:
        angle = start + turn
        parts.append(np.stack([x + distance * np.cos(angle), y + distance * np.sin(angle)], axis=1))
    return np.concatenate(parts)
