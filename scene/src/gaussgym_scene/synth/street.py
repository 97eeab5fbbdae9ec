"""A cobbled street between houses, curved and slightly sloping, with kerbs, pavements and things that stand about."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gaussgym_scene import materials
from gaussgym_scene import textures as tx
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth.builder import SceneBuilder, SynthCfg, both_ways, require, rng_for
from gaussgym_scene.synth.facade import paint_facade

ROAD_HALF_M = 2.3
FACADE_T_M = 3.9
GRID_M = 0.1
"""Spacing of the ground's mesh [m]."""
GROUND_TEXEL_M = 0.00625
PAVEMENT_TEXEL_M = 0.008
BELOW_M = 0.6
"""How far house fronts reach below the ground in front of them [m]."""
CLEARANCE_M = 0.35
"""Distance that paths keep from the kerb [m]."""


@dataclass(frozen=True, kw_only=True)
class StreetCfg(SynthCfg):
    """A street; what is None is drawn from the seed."""

    splat_spacing_m: float = 0.06
    """Distance of neighbouring splats on the carriageway [m]; house fronts have coarser ones."""
    max_splats: int = 90_000
    """Upper bound of the number of splats; the spacing is widened until it is kept."""
    length_m: float = 34.0
    """Length of the centre line [m]."""
    bend_rad: float | None = None
    """Amplitude of the centre line's heading [rad]; drawn: 0.12 to 0.25, to either side."""
    grade: float | None = None
    """Mean slope, rise over run; drawn: 0.015 to 0.035, up or down."""
    kerb_m: float = 0.12
    """Height of the kerbs [m]."""
    unevenness_m: float = 0.012
    """Amplitude of the carriageway's undulation [m]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("length_m", self.length_m, 12.0, 200.0)
        require("bend_rad", self.bend_rad, -0.3, 0.3)
        require("grade", self.grade, -0.2, 0.2)
        require("kerb_m", self.kerb_m, 0.0, 0.4)
        require("unevenness_m", self.unevenness_m, 0.0, 0.05)


class Ground:
    """The street's surface over (s, t): arc length along the centre line and distance to its left [m]."""

    def __init__(self, cfg: StreetCfg, rng: tx.Rng) -> None:
        sign = rng.choice([-1, 1])
        self.bend = float(sign * rng.uniform(0.12, 0.25)) if cfg.bend_rad is None else cfg.bend_rad
        sign = rng.choice([-1, 1])
        self.grade = float(sign * rng.uniform(0.015, 0.035)) if cfg.grade is None else cfg.grade
        phase = rng.uniform(0, 2 * np.pi)
        self.length_m, self.kerb_m = cfg.length_m, cfg.kerb_m
        s = np.arange(0, cfg.length_m + 1e-9, 0.01)
        heading = self.bend * np.sin(2 * np.pi * s / 36.0 + phase)
        middle = (heading[1:] + heading[:-1]) / 2
        grade = self.grade * (1 + 0.5 * np.sin(2 * np.pi * s[1:] / 23.0 + phase))
        self._s, self._heading = s, heading
        self._x = np.concatenate([[0], np.cumsum(0.01 * np.cos(middle))])
        self._y = np.concatenate([[0], np.cumsum(0.01 * np.sin(middle))])
        self._z = np.concatenate([[0], np.cumsum(0.01 * grade)])
        shape = (round(8 / GRID_M) + 2, round(cfg.length_m / GRID_M) + 2)
        waves = tx.noise(shape, rng, cell_px=1.8 / GRID_M, octaves=2, gain=0.35)
        self._waves = cfg.unevenness_m * np.clip(0.5 * waves, -1, 1)
        self._stones = 0.0015 * np.clip(rng.standard_normal(shape), -2, 2)

    def xy(self, s: NDArray, t: NDArray) -> NDArray[np.float64]:
        """World position [m], shape `[..., 2]`."""
        heading = np.interp(s, self._s, self._heading)
        x = np.interp(s, self._s, self._x) - t * np.sin(heading)
        return np.stack([x, np.interp(s, self._s, self._y) + t * np.cos(heading)], axis=-1)

    def z(self, s: NDArray, t: NDArray) -> NDArray[np.float64]:
        """Height of the carriageway's surface, continued without kerbs [m]."""
        i = np.clip(np.rint(np.asarray(s) / GRID_M).astype(int), 0, self._waves.shape[1] - 1)
        j = np.clip(np.rint(np.asarray(t) / GRID_M + 40).astype(int), 0, self._waves.shape[0] - 1)
        crown = -0.02 * np.minimum((t / ROAD_HALF_M) ** 2, 1.0)
        return np.interp(s, self._s, self._z) + crown + self._waves[j, i] + self._stones[j, i]

    def pavement_z(self, s: NDArray, t: NDArray) -> NDArray[np.float64]:
        """Height of the pavement: the carriageway's edge, a kerb, and a slight rise towards the houses [m]."""
        edge = np.sign(t) * ROAD_HALF_M
        return self.z(s, edge) + self.kerb_m + 0.02 * (np.abs(t) - ROAD_HALF_M)


def make(cfg: StreetCfg, seed: int) -> Scene:
    """Make the scene."""
    rng = rng_for("street", seed)
    ground, builder = Ground(cfg, rng), SceneBuilder()
    s = np.linspace(0, cfg.length_m, round(cfg.length_m / GRID_M) + 1)
    add_carriageway(builder, ground, s, rng)
    for side in (1, -1):
        corners = house_corners(cfg.length_m, rng)
        add_pavement(builder, ground, s, corners, side, rng)
        add_houses(builder, ground, corners, side, rng)
    add_ends(builder, ground, rng)
    middle = ground.xy(np.array(cfg.length_m / 2), np.array(0.0))
    builder.backdrop(middle, rng)
    lines = []
    reach = np.linspace(1.5, cfg.length_m - 1.5, 400)
    free = ROAD_HALF_M - CLEARANCE_M
    for t in (0.0, 0.9, -0.9):
        lines += both_ways(ground.xy(reach, np.full_like(reach, t)), free - abs(t))
    return builder.scene("street", seed, cfg, lines, bend_rad=ground.bend, grade=ground.grade)


def add_carriageway(builder: SceneBuilder, ground: Ground, s: NDArray, rng: tx.Rng) -> None:
    """Add the cobbled surface and both kerbs."""
    width = 2 * ROAD_HALF_M
    paint = materials.cobbles((width, ground.length_m), GROUND_TEXEL_M, rng)
    _dress_road(paint, rng)
    across = (np.arange(paint.shape[0], dtype=np.float32) + 0.5) * GROUND_TEXEL_M
    gutter = np.exp(-np.minimum(across, width - across) / 0.12)[:, None] * np.ones(
        (1, paint.shape[1]), np.float32
    )
    tx.shade(paint, -0.4 * gutter)
    texture = builder.paint(paint)
    t = np.linspace(-ROAD_HALF_M, ROAD_HALF_M, round(width / GRID_M) + 1)
    _add_strip(builder, ground.z, ground, s, t[:, None] * np.ones_like(s), texture, 1.0)
    for side in (1, -1):
        kerb = materials.concrete((0.5, ground.length_m), GROUND_TEXEL_M, rng, color=(0.6, 0.59, 0.57))
        for joint in np.arange(0.0, ground.length_m, 0.9):
            paint_at = int((joint + rng.uniform(0, 0.1)) / GROUND_TEXEL_M)
            kerb[:, paint_at : paint_at + 2] *= 0.5
        texture = builder.paint(kerb)
        edge = np.full_like(s, side * ROAD_HALF_M)
        low, xy = ground.z(s, edge), ground.xy(s, edge)
        low_points, high_points = np.column_stack([xy, low]), np.column_stack([xy, low + ground.kerb_m])
        points = np.stack([low_points, high_points])
        u = s / ground.length_m
        uv = np.stack([np.stack([u, np.full_like(u, 0.3)], -1), np.stack([u, np.full_like(u, 0.05)], -1)])
        if side < 0:  # the front looks to the middle of the street
            points, uv = points[:, ::-1], uv[:, ::-1]
        if ground.kerb_m > 0:
            builder.grid(points, uv, texture, ground=True, coarseness=1.2)


def _dress_road(paint: tx.Paint, rng: tx.Rng) -> None:
    """Draw manhole covers and repaired patches: what makes one place of a street unlike another."""
    h, w = paint.shape[:2]
    yy, xx = np.mgrid[:h, :w]
    for _ in range(max(2, w // 1300)):
        radius = rng.uniform(0.28, 0.36) / GROUND_TEXEL_M
        cy, cx = rng.uniform(1.5 * radius, h - 1.5 * radius), rng.uniform(radius, w - radius)
        y0, y1, x0, x1 = (
            max(0, int(v)) for v in (cy - radius - 4, cy + radius + 4, cx - radius - 4, cx + radius + 4)
        )
        view, dy, dx = paint[y0:y1, x0:x1], yy[y0:y1, x0:x1] - cy, xx[y0:y1, x0:x1] - cx
        distance, turn = np.hypot(dy, dx) / radius, rng.uniform(0, np.pi)
        pattern = np.sin((dx * np.cos(turn) + dy * np.sin(turn)) * 0.9) * np.sin(
            (dy * np.cos(turn) - dx * np.sin(turn)) * 0.9
        )
        iron = 0.26 + 0.08 * np.sign(pattern) + 0.12 * (np.abs(distance - 0.88) < 0.05)
        mask = np.clip((1 - distance) * radius, 0, 1).astype(np.float32)
        tx.blend(view, iron[..., None].astype(np.float32) * np.array([1.0, 0.97, 0.93], np.float32), mask)
    for _ in range(max(2, w // 1000)):
        ph, pw = int(rng.uniform(0.6, 1.6) / GROUND_TEXEL_M), int(rng.uniform(0.8, 2.5) / GROUND_TEXEL_M)
        y0, x0 = rng.integers(0, max(1, h - ph)), rng.integers(0, max(1, w - pw))
        size_m = (ph * GROUND_TEXEL_M, pw * GROUND_TEXEL_M)
        patch = materials.gravel(size_m, GROUND_TEXEL_M, rng, color=(0.33, 0.33, 0.34))
        if rng.random() < 0.5:
            patch = materials.slabs(size_m, GROUND_TEXEL_M, rng, slab_m=0.25)
        view = paint[y0 : y0 + ph, x0 : x0 + pw]
        view[...] = patch[: view.shape[0], : view.shape[1]] * rng.uniform(0.85, 1.05)


def house_corners(length: float, rng: tx.Rng) -> NDArray[np.float64]:
    """Arc lengths at which houses meet, 4.5 to 7.5 m apart."""
    count = max(2, round(length / 6.0))
    widths = rng.uniform(0.75, 1.25, count)
    return np.concatenate([[0], np.cumsum(widths) / widths.sum() * length])


def add_pavement(
    builder: SceneBuilder, ground: Ground, s: NDArray, corners: NDArray, side: int, rng: tx.Rng
) -> None:
    """Add one pavement, from the kerb to the house fronts, which are straight from corner to corner."""
    ends = ground.xy(corners, np.full_like(corners, side * FACADE_T_M))
    house = np.clip(np.searchsorted(corners, s, side="right") - 1, 0, len(corners) - 2)
    a, along = ends[house], ends[house + 1] - ends[house]
    base, normal = (
        ground.xy(s, np.zeros_like(s)),
        ground.xy(s, np.ones_like(s)) - ground.xy(s, np.zeros_like(s)),
    )
    # The point base + t·normal lies on the front through a along `along`.
    cross = normal[:, 0] * along[:, 1] - normal[:, 1] * along[:, 0]
    front = ((a - base)[:, 0] * along[:, 1] - (a - base)[:, 1] * along[:, 0]) / cross
    fraction = np.linspace(0, 1, 11)[:, None]
    t = side * ROAD_HALF_M + fraction * (front - side * ROAD_HALF_M)
    if side < 0:
        t = t[::-1]  # rows always run to the left, so that the front looks up
    width = FACADE_T_M - ROAD_HALF_M
    paint = materials.slabs((width, ground.length_m), PAVEMENT_TEXEL_M, rng)
    rows = np.arange(paint.shape[0], dtype=np.float32) * PAVEMENT_TEXEL_M
    to_house = rows if side > 0 else width - rows
    tx.shade(paint, -0.4 * np.exp(-to_house / 0.15)[:, None] * np.ones((1, paint.shape[1]), np.float32))
    _add_strip(builder, ground.pavement_z, ground, s, t, builder.paint(paint), 1.6)


def _add_strip(
    builder: SceneBuilder,
    height: Callable[[NDArray, NDArray], NDArray],
    ground: Ground,
    s: NDArray,
    t: NDArray,
    texture: int,
    coarseness: float,
) -> None:
    """Add ground over rows of t `[R, S]` (ascending) and columns of s `[S]`."""
    ss = np.broadcast_to(s, t.shape)
    points = np.concatenate([ground.xy(ss, t), height(ss, t)[..., None]], axis=-1)
    v = np.linspace(1, 0, len(t))[:, None] * np.ones_like(s)
    uv = np.stack([ss / ground.length_m, v], axis=-1)
    builder.grid(points, uv, texture, ground=True, coarseness=coarseness)


def add_houses(builder: SceneBuilder, ground: Ground, corners: NDArray, side: int, rng: tx.Rng) -> None:
    """Add the house fronts of one side, the party walls that show above lower neighbours, and things before them."""
    tops = []
    for s0, s1 in pairwise(corners):
        ends = [ground.xy(np.array(v), np.array(side * FACADE_T_M)) for v in (s0, s1)]
        middle = np.array((s0 + s1) / 2)
        level = float(ground.pavement_z(middle, np.array(side * FACADE_T_M)))
        left, right = ends if side > 0 else ends[::-1]
        tops.append(_add_front(builder, left, right, level, rng))
        _add_furniture(builder, ground, s0, s1, side, rng)
    plain = builder.paint(materials.bricks((4.0, 4.0), 0.02, rng))
    for i, s0 in enumerate(corners[1:-1]):
        heading = ground.xy(np.array(s0), np.array(side * (FACADE_T_M + 4.0)))
        corner = ground.xy(np.array(s0), np.array(side * FACADE_T_M))
        z = (min(tops[i : i + 2]) - 0.4, max(tops[i : i + 2]))
        taller_ahead = tops[i + 1] > tops[i]
        # Seen from the lower house: looking along +s at a house on the left, its far end is to the left.
        near_is_right = (side > 0) == taller_ahead
        ends = (heading, corner) if near_is_right else (corner, heading)
        builder.wall(*ends, z, plain, coarseness=4.0)


def _add_front(builder: SceneBuilder, start: NDArray, end: NDArray, level: float, rng: tx.Rng) -> float:
    """Add one house front from its left to its right end; returns the height of its upper edge [m]."""
    width = float(np.linalg.norm(end - start))
    facade = paint_facade(width, BELOW_M, rng)
    rows = np.where(facade.y_breaks[1:] - BELOW_M < 3.2, 2.0, 3.0)
    breaks = (facade.x_breaks, facade.y_breaks)
    builder.relief(
        start, end, level - BELOW_M, breaks, facade.depth, builder.paint(facade.paint), coarseness=rows
    )
    return level - BELOW_M + float(facade.y_breaks[-1])


def add_ends(builder: SceneBuilder, ground: Ground, rng: tx.Rng) -> None:
    """Close the street by a house across either end."""
    for s, sign in ((0.0, -1), (ground.length_m, 1)):
        left = ground.xy(np.array(s), np.array(sign * FACADE_T_M))
        right = ground.xy(np.array(s), np.array(-sign * FACADE_T_M))
        level = float(ground.z(np.array(s), np.array(0.0))) - 0.02
        _add_front(builder, left, right, level, rng)


def _add_furniture(
    builder: SceneBuilder, ground: Ground, s0: float, s1: float, side: int, rng: tx.Rng
) -> None:
    """Put planters, crates, bollards or a bench before a house, on the pavement."""
    for s in np.arange(s0 + rng.uniform(0.4, 1.2), s1 - 0.6, rng.uniform(1.4, 2.6)):
        what = rng.random()
        t = side * (FACADE_T_M - rng.uniform(0.40, 0.55))
        x, y = ground.xy(np.array(s), np.array(t))
        ahead = ground.xy(np.array(s + 0.1), np.array(t)) - (x, y)
        yaw = float(np.arctan2(ahead[1], ahead[0]))
        z = float(ground.pavement_z(np.array(s), np.array(t))) - 0.03
        if what < 0.35:
            size = (rng.uniform(0.5, 0.9), 0.4, rng.uniform(0.35, 0.5))
            pot = builder.paint(
                materials.concrete((size[2], 2 * (size[0] + size[1])), 0.01, rng, color=_muted(rng, 0.5))
            )
            leaves = builder.paint(materials.grass((0.8, 2.0), 0.01, rng))
            builder.box((x, y, z), size, pot, yaw=yaw, coarseness=1.2)
            builder.blob(
                (x, y, z + size[2] + 0.08),
                (size[0] / 2, 0.24, rng.uniform(0.18, 0.32)),
                leaves,
                rng,
                lumps=0.18,
            )
        elif what < 0.6:
            for level in range(rng.integers(1, 3)):
                size = (rng.uniform(0.35, 0.6), rng.uniform(0.3, 0.42), 0.3)
                crate = builder.paint(
                    materials.planks((0.3, 2 * (size[0] + size[1])), 0.008, rng, color=_muted(rng, 0.42))
                )
                builder.box(
                    (x, y, z + 0.3 * level), size, crate, yaw=yaw + rng.uniform(-0.2, 0.2), coarseness=1.0
                )
        elif what < 0.75:
            bench = builder.paint(materials.planks((0.45, 3.2), 0.008, rng))
            builder.box((x, y, z), (1.2, 0.38, 0.45), bench, yaw=yaw, coarseness=1.2)
        else:
            step = builder.paint(materials.concrete((0.17, 3.0), 0.008, rng))
            builder.box((x, y, z), (1.0, 0.45, 0.17), step, yaw=yaw, coarseness=1.2)
        if rng.random() < 0.35:
            near = side * (ROAD_HALF_M + 0.25)
            x, y = ground.xy(np.array(s), np.array(near))
            z = float(ground.pavement_z(np.array(s), np.array(near))) - 0.03
            post = builder.paint(materials.concrete((0.8, 0.5), 0.008, rng, color=(0.25, 0.25, 0.27)))
            builder.box((x, y, z), (0.13, 0.13, 0.8), post, yaw=yaw, coarseness=0.9)


def _muted(rng: tx.Rng, brightness: float) -> NDArray[np.float64]:
    """A colour of paint that has seen some weather."""
    gray = rng.uniform(0.7, 1.3) * brightness
    return np.clip(gray + 0.09 * rng.standard_normal(3), 0.1, 0.8)
