"""An office corridor around a corner: carpet, plaster walls with doors and notices, a ceiling with lamps."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gaussgym_scene import materials
from gaussgym_scene import textures as tx
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth.builder import SceneBuilder, SynthCfg, both_ways, require, rng_for
from gaussgym_scene.synth.lane import DOORS, FLOOR_TEXEL_M, ROBOT_CLEARANCE_M, WALL_TEXEL_M

DOOR_M = (0.95, 2.05)
RECESS_M = 0.09
BELOW_M = 0.04
"""How far walls reach below the floor, so that door recesses have a sill [m]."""
FLOOR_COLORS = ((0.33, 0.36, 0.42), (0.45, 0.39, 0.33), (0.34, 0.41, 0.38), (0.46, 0.36, 0.34))


@dataclass(frozen=True, kw_only=True)
class CorridorCfg(SynthCfg):
    """A corridor with one left turn."""

    length_m: float = 11.0
    """Length of the first leg along +X, up to the turn [m]."""
    length_after_m: float = 7.0
    """Length of the second leg along +Y, behind the turn [m]."""
    width_m: float = 2.2
    """Width [m]."""
    height_m: float = 2.6
    """Height of the ceiling [m]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("length_m", self.length_m, 3.0, 100.0)
        require("length_after_m", self.length_after_m, 3.0, 100.0)
        require("width_m", self.width_m, 1.4, 6.0)
        require("height_m", self.height_m, 2.3, 5.0)


def make(cfg: CorridorCfg, seed: int) -> Scene:
    """Make the scene."""
    rng = rng_for("corridor", seed)
    builder = SceneBuilder()
    half, x1 = cfg.width_m / 2, cfg.length_m + cfg.width_m
    y1 = half + cfg.length_after_m
    rooms = [(0.0, -half, x1, half), (cfg.length_m, half, x1, y1)]
    material = (materials.carpet, materials.carpet, materials.tiles)[rng.integers(3)]
    base = tx.jitter(FLOOR_COLORS[rng.integers(len(FLOOR_COLORS))], rng, 0.06)
    for xa, ya, xb, yb in rooms:
        floor = builder.paint(floor_paint((yb - ya, xb - xa), material, base, rng))
        builder.quad([(xa, ya, 0), (xb, ya, 0), (xb, yb, 0), (xa, yb, 0)], floor, ground=True)
        ceiling = builder.paint(ceiling_paint((xb - xa, yb - ya), rng))
        z = cfg.height_m
        # Seen from below: to the right runs −X when +Y is up.
        builder.quad([(xb, ya, z), (xa, ya, z), (xa, yb, z), (xb, yb, z)], ceiling, coarseness=3.0)
    corners = [(0, -half), (x1, -half), (x1, y1), (cfg.length_m, y1), (cfg.length_m, half), (0, half)]
    color = tx.jitter(
        [(0.80, 0.78, 0.72), (0.72, 0.76, 0.76), (0.80, 0.74, 0.62)][rng.integers(3)], rng, 0.04
    )
    for a, b in zip(corners, corners[1:] + corners[:1]):
        add_wall(builder, np.array(b, float), np.array(a, float), cfg.height_m, color, rng)
    return builder.scene("corridor", seed, cfg, _lines(cfg), floor=material.__name__)


def _lines(cfg: CorridorCfg) -> list[tuple[NDArray[np.float64], float]]:
    """The middle of the corridor and one line to either side, rounding the corner, both ways."""
    half = cfg.width_m / 2
    x = cfg.length_m + half
    radius = half
    turn = np.linspace(0, np.pi / 2, 30)
    free = half - ROBOT_CLEARANCE_M
    lines = []
    for offset in (0.0, 0.4 * free, -0.4 * free):  # to the left, where the corner is sharper
        r = radius - offset
        arc = np.stack([x - radius + r * np.sin(turn), radius - r * np.cos(turn)], axis=1)
        start, end = (0.75, offset), (x - offset, half + cfg.length_after_m - 0.75)
        lines += both_ways(np.concatenate([[start], arc, [end]]), free - abs(offset))
    return lines


def floor_paint(size_m: tuple[float, float], material, color: NDArray, rng: tx.Rng) -> tx.Paint:  # noqa: ANN001
    """A floor `[m]` of a material, darker along its edges."""
    paint = material(size_m, FLOOR_TEXEL_M, rng, color=color)
    y, x = (np.arange(n, dtype=np.float32) * FLOOR_TEXEL_M for n in paint.shape[:2])
    edge = np.minimum(y, size_m[0] - y)[:, None] * np.ones_like(x)
    return tx.shade(paint, -0.25 * np.exp(-edge / 0.15))


def ceiling_paint(size_m: tuple[float, float], rng: tx.Rng) -> tx.Paint:
    """Acoustic tiles of 0.6 m with bright lamps; rows along X."""
    paint = tx.blocks(
        tx.texels(size_m, WALL_TEXEL_M),
        rng,
        palette=[(0.74, 0.74, 0.72), (0.70, 0.70, 0.67), (0.77, 0.76, 0.74)],
        block_px=(60, 60),
        joint_px=2.5,
        joint_color=(0.5, 0.5, 0.5),
        variation=0.03,
        bond=0.0,
        mixing=0.7,
    )
    tx.shade(paint, 0.08 * tx.grain("gravel.png", paint.shape[:2], rng, zoom=0.3))
    tx.stains(paint, rng, number=round(size_m[0] * size_m[1]), radius_px=(3, 18), dark=0.15)
    for at in np.arange(rng.uniform(0.5, 1.5), max(size_m) - 0.6, rng.uniform(2.2, 3.0)):
        i, middle = int(at / WALL_TEXEL_M), int(min(size_m) / 2 / WALL_TEXEL_M)
        rows, cols = (slice(i, i + 55), slice(middle - 28, middle + 28))
        paint[(rows, cols) if size_m[0] >= size_m[1] else (cols, rows)] = 0.97
    return paint[:, ::-1]


def add_wall(
    builder: SceneBuilder,
    start: NDArray,
    end: NDArray,
    height: float,
    color: NDArray,
    rng: tx.Rng,
    picture: Callable[..., tx.Paint] = tx.poster,
) -> None:
    """Add one wall from its left to its right end: skirting, recessed doors, notices and pictures between them."""
    width = float(np.linalg.norm(end - start))
    paint = materials.concrete((height + BELOW_M, width), WALL_TEXEL_M, rng, color=color, dirt=0.45)
    rows = paint.shape[0]
    above = (rows - np.arange(rows, dtype=np.float32))[:, None] * WALL_TEXEL_M - BELOW_M
    all_along = np.ones((1, paint.shape[1]), np.float32)
    tx.shade(paint, -0.2 * np.exp(-np.abs(above) / 0.2) * all_along)
    if rng.random() < 0.6:
        rail = (above > 0.8) & (above < 0.92)
        tx.blend(paint, color * rng.uniform(0.4, 0.8), 0.9 * rail * all_along)
    tx.blend(paint, color * 0.35, (above < 0.1) * all_along)
    doors = (
        np.arange(rng.uniform(0.6, 1.4), width - DOOR_M[0] - 0.4, rng.uniform(2.6, 3.6))
        if width > 2.5
        else np.zeros(0)
    )
    for left in doors:
        _paint_door(paint, left, rng)
    free = [(0.3, width - 0.3)] if not len(doors) else [
        *zip([0.2, *(doors + DOOR_M[0] + 0.25)], [*(doors - 0.2), width - 0.2]),
    ]  # fmt: skip
    for left, right in free:
        _paint_notices(paint, left, right, rng, picture)
    if len(doors):
        x_breaks = np.concatenate([[0], np.stack([doors, doors + DOOR_M[0]], axis=1).ravel(), [width]])
        y_breaks = np.array([0, BELOW_M, BELOW_M + DOOR_M[1], BELOW_M + height])
        depth = np.zeros((3, len(x_breaks) - 1))
        depth[1, 1::2] = -RECESS_M
        builder.relief(start, end, -BELOW_M, (x_breaks, y_breaks), depth, builder.paint(paint))
    else:
        builder.wall(start, end, (-BELOW_M, height), builder.paint(paint))


def _paint_door(paint: tx.Paint, left: float, rng: tx.Rng) -> None:
    rows = paint.shape[0] - round(BELOW_M / WALL_TEXEL_M)
    x0, x1 = (round(v / WALL_TEXEL_M) for v in (left, left + DOOR_M[0]))
    y0 = rows - round(DOOR_M[1] / WALL_TEXEL_M)
    paint[max(0, y0 - 6) : rows, max(0, x0 - 6) : x1 + 6] = tx.jitter((0.45, 0.44, 0.42), rng, 0.1)
    door = materials.planks((DOOR_M[0], DOOR_M[1]), WALL_TEXEL_M, rng, color=DOORS[rng.integers(len(DOORS))])
    door = np.swapaxes(door, 0, 1)
    view = paint[y0:rows, x0:x1]
    view[...] = door[: view.shape[0], : view.shape[1]]
    view[95:107, -14:-8] = (0.75, 0.75, 0.72)
    if rng.random() < 0.5:
        pane = view[25:85, 25:45]
        pane[...] = 0.3 + 0.12 * tx.noise(pane.shape[:2], rng, cell_px=14)[..., None]
    plate = view[40:52, 55:80]
    plate[...] = (0.85, 0.85, 0.8)
    plate[3:9, 3 : int(rng.integers(8, 22)) : 2] = 0.15


def _paint_notices(
    paint: tx.Paint, left: float, right: float, rng: tx.Rng, picture: Callable[..., tx.Paint]
) -> None:
    """Hang pictures and sheets of paper between two places on a wall."""
    rows, at = paint.shape[0] - round(BELOW_M / WALL_TEXEL_M), left + rng.uniform(0.0, 0.3)
    while at < right - 0.35:
        width = min(rng.uniform(0.25, 1.0), right - at)
        height, bottom = rng.uniform(0.25, 0.75), rng.uniform(0.5, 1.4)
        y0, y1 = (rows - round(v / WALL_TEXEL_M) for v in (bottom + height, bottom))
        x0, x1 = (round(v / WALL_TEXEL_M) for v in (at, at + width))
        kind = rng.random()
        if kind < 0.55:
            picture(paint, rng, box=(y0, x0, y1, x1))
        else:
            view = paint[y0:y1, x0:x1]
            view[...] = tx.jitter((0.85, 0.84, 0.80) if kind < 0.85 else (0.7, 0.15, 0.12), rng, 0.06)
            for line in range(4, view.shape[0] - 4, 4):
                view[line : line + 2, 4 : 4 + int(rng.uniform(0.3, 0.95) * (view.shape[1] - 8))] *= (
                    rng.uniform(0.2, 0.7)
                )
        at += width + rng.uniform(0.1, 0.8)
