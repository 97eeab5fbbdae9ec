"""A walled lane whose floor follows a profile: what flat, slope and stairs are made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from gaussgym_scene import materials
from gaussgym_scene import textures as tx
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth.builder import SceneBuilder, SynthCfg, both_ways, rng_for

Cfg = TypeVar("Cfg", bound=SynthCfg)
Plan = TypeVar("Plan")

FLOORS = (materials.slabs, materials.tiles, materials.concrete, materials.cobbles, materials.bricks)
WALLS = (materials.bricks, materials.concrete, materials.slabs)
DOORS = ((0.42, 0.20, 0.16), (0.20, 0.30, 0.38), (0.22, 0.35, 0.26), (0.45, 0.33, 0.22), (0.55, 0.52, 0.47))
WALL_TEXEL_M = 0.01
FLOOR_TEXEL_M = 0.00625
ROBOT_CLEARANCE_M = 0.35
"""Distance that paths keep from walls [m]: half a quadruped's width and a swinging leg."""


@dataclass(frozen=True)
class Lane:
    """A lane along +X, its middle at y = 0."""

    profile: NDArray[np.float64]
    """Corners (x, z) of the floor from one end to the other [m], shape `[K, 2]`; equal x means a riser."""
    width_m: float
    wall_height_m: float
    """Height of the walls above the highest floor [m]."""

    @property
    def length_m(self) -> float:
        """Length of the floor [m]."""
        return float(self.profile[-1, 0] - self.profile[0, 0])


class LaneKind(NamedTuple, Generic[Cfg, Plan]):
    """A kind of scene that is one lane: what `lane_scene` and courses of many lanes make it from."""

    cfg: type[Cfg]
    """Its parameters."""
    plan: Callable[[Cfg, tx.Rng], tuple[Lane, Plan]]
    """Draws the lane, and whatever else `build` wants to know."""
    build: Callable[[SceneBuilder, Cfg, Lane, Plan, tx.Rng], dict[str, object]]
    """Adds its surfaces, and returns what was drawn."""


def lane_scene(kind: str, parts: LaneKind[Cfg, Plan], cfg: Cfg, seed: int) -> Scene:
    """Make a scene of one lane."""
    rng, builder = rng_for(kind, seed), SceneBuilder()
    lane, plan = parts.plan(cfg, rng)
    drawn = parts.build(builder, cfg, lane, plan, rng)
    builder.backdrop((lane.profile[0, 0] + lane.length_m / 2, 0.0), rng)
    return builder.scene(kind, seed, cfg, lane_lines(lane), **drawn)


@dataclass(frozen=True)
class StepLook:
    """How the steps of one place are painted; noses stand out from the risers, as building codes ask for."""

    riser: NDArray[np.float32]
    """Colour of the upright faces."""
    nose: NDArray[np.float32]
    """Colour of the strip along the front edge."""
    strip_m: float
    """Depth of the strip on the tread [m]; on the riser it is 25 mm high."""
    strength: float
    """How opaque the strip is, 0..1."""
    tread: float
    """How much brighter treads are than the floor."""

    @classmethod
    def draw(cls, rng: tx.Rng) -> "StepLook":
        """Draw one."""
        dark = rng.random() < 0.6
        riser = tx.jitter((0.40, 0.38, 0.36) if dark else (0.66, 0.63, 0.57), rng, 0.15)
        plain = (0.80, 0.78, 0.72) if dark else (0.16, 0.15, 0.15)
        nose = tx.jitter(plain if rng.random() < 0.65 else (0.85, 0.68, 0.15), rng)
        return cls(
            riser, nose, float(rng.uniform(0.03, 0.055)), rng.uniform(0.5, 0.95), rng.uniform(-0.1, 0.2)
        )


def add_lane(builder: SceneBuilder, lane: Lane, rng: tx.Rng) -> dict[str, object]:
    """Add the floor, risers and walls on all four sides; returns what was drawn."""
    floor, steps = FLOORS[rng.integers(len(FLOORS))], StepLook.draw(rng)
    add_floor(builder, lane, steps, rng, floor)
    if (np.diff(lane.profile[:, 0]) == 0).any():
        add_risers(builder, lane, steps, rng)
    material = add_walls(builder, lane, rng)
    return {"width_m": lane.width_m, "length_m": lane.length_m, "floor": floor.__name__, "wall": material}


def add_floor(builder: SceneBuilder, lane: Lane, steps: StepLook, rng: tx.Rng, material) -> None:  # noqa: ANN001
    """Paint one texture over the whole lane and lay each level or inclined piece of the profile."""
    half = lane.width_m / 2
    paint = material((lane.width_m, lane.length_m), FLOOR_TEXEL_M, rng)
    _shade_floor(paint, lane, steps, rng)
    texture = builder.paint(paint)
    x0 = lane.profile[0, 0]
    for (xa, za), (xb, zb) in zip(lane.profile[:-1], lane.profile[1:]):
        if xb > xa:
            corners = [(xa, -half, za), (xb, -half, zb), (xb, half, zb), (xa, half, za)]
            u0, u1 = (xa - x0) / lane.length_m, (xb - x0) / lane.length_m
            builder.quad(corners, texture, uv=(u0, 0.0, u1, 1.0), ground=True)


def _shade_floor(paint: tx.Paint, lane: Lane, steps: StepLook, rng: tx.Rng) -> None:
    """Give treads their own shade, worn noses with a strip, and dark inner corners, as light and feet do."""
    h, w = paint.shape[:2]
    x = (np.arange(w, dtype=np.float32) + 0.5) * FLOOR_TEXEL_M + lane.profile[0, 0]
    y = (np.arange(h, dtype=np.float32) + 0.5) * FLOOR_TEXEL_M
    across = np.minimum(y, lane.width_m - y)[:, None]
    all_along, all_across = np.ones((1, w), np.float32), np.ones((h, 1), np.float32)
    tx.shade(paint, -0.35 * np.exp(-across / 0.12) * all_along)
    light, noses = np.zeros(w, np.float32), np.zeros(w, bool)
    for (at, za), (beyond, zb) in zip(lane.profile[:-1], lane.profile[1:]):
        if at != beyond:
            continue
        upper = (
            (x - at) if zb > za else (at - x)
        )  # distance from the edge onto the upper level, negative below
        light -= 0.35 * np.exp(np.minimum(upper, 0) / 0.07) * (upper < 0)
        light += steps.tread * ((upper > 0) & (upper < 0.2))
        noses |= (upper > 0) & (upper < steps.strip_m)
    tx.shade(paint, np.clip(light, -0.5, 0.3) * all_across)
    wear = 0.75 + 0.25 * np.clip(tx.noise((h, w), rng, cell_px=24, octaves=3), -1, 1)
    tx.blend(paint, steps.nose, steps.strength * noses * wear)


def add_risers(builder: SceneBuilder, lane: Lane, steps: StepLook, rng: tx.Rng) -> None:
    """Add the upright faces of steps, with the nose's strip above and a dark corner below, from one texture."""
    xz = lane.profile
    pairs = [(xz[i, 0], xz[i, 1], xz[i + 1, 1]) for i in range(len(xz) - 1) if xz[i, 0] == xz[i + 1, 0]]
    total = sum(abs(zb - za) for _, za, zb in pairs)
    paint = materials.concrete((total, lane.width_m), FLOOR_TEXEL_M, rng, color=steps.riser)
    rows, wide = np.arange(paint.shape[0], dtype=np.float32) + 0.5, np.ones((1, paint.shape[1]), np.float32)
    top = 0.0
    for _, za, zb in pairs:
        below = (rows / len(rows) * total - top) / abs(
            zb - za
        )  # 0 at this riser's upper edge, 1 at its lower
        inside, depth = (below >= 0) & (below < 1), below * abs(zb - za)
        tx.shade(paint, (-0.4 * inside * np.exp((depth - abs(zb - za)) / 0.04))[:, None] * wide)
        tx.blend(paint, steps.nose, (steps.strength * inside * (depth < 0.025))[:, None] * wide)
        top += abs(zb - za)
    texture, half, v = builder.paint(paint), lane.width_m / 2, 0.0
    for x, za, zb in pairs:
        dv = abs(zb - za) / total
        low, high = min(za, zb), max(za, zb)
        left, right = ((x, half), (x, -half)) if zb > za else ((x, -half), (x, half))
        builder.wall(left, right, (low, high), texture, uv=(0.0, v, 1.0, v + dv), ground=True, coarseness=1.0)
        v += dv


def add_walls(builder: SceneBuilder, lane: Lane, rng: tx.Rng) -> str:
    """Add two side walls with posters and two end walls with a door each; returns the material's name."""
    xz, half = lane.profile, lane.width_m / 2
    low, high = float(xz[:, 1].min()), float(xz[:, 1].max()) + lane.wall_height_m
    x0, x1 = float(xz[0, 0]), float(xz[-1, 0])
    material = WALLS[rng.integers(len(WALLS))]
    for side in (-1, 1):
        paint = material((high - low, lane.length_m), WALL_TEXEL_M, rng)
        _decorate_wall(paint, lane, rng, high, mirrored=side < 0)
        texture = builder.paint(paint)
        # Seen from inside, the wall at +Y runs to the right with +X, the one at −Y with −X.
        ends = ((x0, half), (x1, half)) if side > 0 else ((x1, -half), (x0, -half))
        builder.wall(*ends, (low, high), texture, coarseness=2.0)
    for x, sign in ((x0, 1), (x1, -1)):
        paint = material((high - low, lane.width_m), WALL_TEXEL_M, rng)
        floor = float(xz[0, 1] if sign > 0 else xz[-1, 1])
        _paint_door(paint, rng, floor - low)
        texture = builder.paint(paint)
        ends = ((x, -half), (x, half)) if sign > 0 else ((x, half), (x, -half))
        builder.wall(*ends, (low, high), texture, coarseness=2.0)
    return material.__name__


def _decorate_wall(paint: tx.Paint, lane: Lane, rng: tx.Rng, high: float, *, mirrored: bool) -> None:
    h, w = paint.shape[:2]
    x = (np.arange(w) + 0.5) / w * lane.length_m + lane.profile[0, 0]
    xz = lane.profile
    floor = np.interp(x, xz[:, 0] + 1e-6 * np.arange(len(xz)), xz[:, 1])
    if mirrored:
        floor = floor[::-1]
    above = (high - (np.arange(h) + 0.5) * WALL_TEXEL_M)[:, None] - floor[None]
    tx.shade(paint, (-0.45 * np.exp(-np.clip(above, 0, None) / 0.15)).astype(np.float32))
    band, color = float(rng.uniform(0.25, 0.9)), rng.uniform(0.35, 0.65) + 0.05 * rng.standard_normal(3)
    if rng.random() < 0.6:
        tx.blend(paint, color, 0.55 * (above < band).astype(np.float32))
    spacing = rng.uniform(1.6, 3.0)
    for center in np.arange(rng.uniform(0.5, 1.5), lane.length_m - 0.8, spacing):
        width, height = rng.uniform(0.5, 1.2), rng.uniform(0.4, 1.0)
        column = int(center / lane.length_m * w)
        bottom = floor[column] + rng.uniform(0.35, 0.9)
        y1 = int((high - bottom) / WALL_TEXEL_M)
        y0 = max(0, y1 - int(height / WALL_TEXEL_M))
        x1 = min(w - 1, column + int(width / WALL_TEXEL_M))
        if rng.random() < 0.75 and y1 - y0 > 10 and x1 - column > 10:
            tx.poster(paint, rng, box=(y0, column, y1, x1))


def _paint_door(paint: tx.Paint, rng: tx.Rng, floor_above_bottom: float) -> None:
    h, w = paint.shape[:2]
    bottom = h - int(floor_above_bottom / WALL_TEXEL_M)
    top, middle = max(2, bottom - 205), w // 2 + int(rng.uniform(-0.1, 0.1) * w)
    left, right = max(0, middle - 48), min(w, middle + 48)
    size_m = ((bottom - top) * WALL_TEXEL_M, (right - left) * WALL_TEXEL_M)
    door = materials.planks(size_m, WALL_TEXEL_M, rng, color=DOORS[rng.integers(len(DOORS))])
    paint[top:bottom, left:right] = door[: bottom - top, : right - left]
    for strip in (
        paint[top - 2 : top + 5, left:right],
        paint[top:bottom, left : left + 6],
        paint[top:bottom, right - 6 : right],
    ):
        strip[...] = 0.14
    paint[(top + bottom) // 2 : (top + bottom) // 2 + 12, right - 18 : right - 12] = (0.8, 0.72, 0.4)


def lane_lines(lane: Lane) -> list[tuple[NDArray[np.float64], float]]:
    """Three parallel lines along the lane, walked both ways, 0.75 m from its ends."""
    x0, x1 = lane.profile[0, 0] + 0.75, lane.profile[-1, 0] - 0.75
    free = lane.width_m / 2 - ROBOT_CLEARANCE_M
    offset = 0.5 * free
    lines = []
    for y in (0.0, offset, -offset):
        lines += both_ways(np.array([(x0, y), (x1, y)]), free - abs(y))
    return lines
