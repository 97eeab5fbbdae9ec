"""Collects painted surfaces and turns them into a scene."""

import dataclasses
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gaussgym_scene import materials, textures
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_scene.surface import Patch, heights_below, mesh_of, splats_of

WALL_M = 1.0
"""Height above the nearest ground that the heightfield has where there is none: walls stop a robot there [m]."""
MARGIN_CELLS = 6
"""Grid points beyond the ground on each side of the heightfield."""
BACKDROP_RADIUS_M = 60.0
BACKDROP_COARSENESS = 80.0
"""Splat spacing on the far dome over that on the ground: about 4 m at a distance of 60 m."""
PATH_STEP_M = 0.25


@dataclass(frozen=True, kw_only=True)
class SynthCfg:
    """What all kinds of procedural scenes have in common."""

    cell_m: float = 0.05
    """Grid spacing of the heightfield [m]."""
    splat_spacing_m: float = 0.05
    """Distance of neighbouring splats on the walkable ground [m]; walls have coarser ones."""
    max_splats: int = 40_000
    """Upper bound of the number of splats; the spacing is widened until it is kept."""

    def __post_init__(self) -> None:
        require("cell_m", self.cell_m, 0.01, 0.2)
        require("splat_spacing_m", self.splat_spacing_m, 0.005, 1.0)
        require("max_splats", self.max_splats, 1000, 10_000_000)


def require(name: str, value: float | None, low: float, high: float) -> None:
    """Raise an `InputError` unless `value` is None or lies in low..high."""
    if value is not None and not low <= value <= high:
        raise InputError(f"{name} is {value}, expected {low} to {high}")


def rng_for(kind: str, seed: int) -> np.random.Generator:
    """The random numbers of one kind and seed; different for each kind."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"seed is {seed!r}, expected an integer of at least 0")
    return np.random.default_rng([zlib.crc32(kind.encode()), int(seed)])


class SceneBuilder:
    """Owns the patches and textures of a scene that is being made."""

    def __init__(self) -> None:
        self.patches: list[Patch] = []
        self.textures: list[NDArray[np.uint8]] = []
        self.shift_m = np.zeros(3)
        """Added to all points that come from now on [m]."""

    def paint(self, paint: textures.Paint) -> int:
        """Keep a texture; returns its index."""
        self.textures.append(textures.finish(paint))
        return len(self.textures) - 1

    def grid(
        self, points: ArrayLike, uv: ArrayLike, texture: int, *, ground: bool = False, coarseness: float = 1.0
    ) -> None:
        """Add a grid of quads.

        Args:
            points: Shape `[R, C, 3]` [m]; the front side is where cross(along a row, along a column) points.
            uv: Texture coordinates `[R, C, 2]` in 0..1.
            texture: Index from `paint`.
            ground: Whether the heightfield stands on it.
            coarseness: Splat spacing here over the scene's.
        """
        h, w = self.textures[texture].shape[:2]
        inset = np.array([0.5 / w, 0.5 / h])  # keeps bilinear look-ups from wrapping around
        uv = np.clip(np.asarray(uv, dtype=np.float64), inset, 1 - inset)
        points = np.asarray(points, dtype=np.float64)
        if self.shift_m.any():
            points = points + self.shift_m
        self.patches.append(Patch(points, uv, texture, ground, coarseness))

    def quad(
        self,
        corners: ArrayLike,
        texture: int,
        *,
        uv: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
        ground: bool = False,
        coarseness: float = 1.0,
    ) -> None:
        """Add one quad.

        Args:
            corners: Lower left, lower right, upper right, upper left as seen from the front [m], shape `[4, 3]`.
            texture: Index from `paint`.
            uv: Part of the texture: left, top, right, bottom.
            ground: Whether the heightfield stands on it.
            coarseness: Splat spacing here over the scene's.
        """
        a, b, c, d = np.asarray(corners, dtype=np.float64)
        u0, v0, u1, v1 = uv
        uvs = [[(u0, v1), (u1, v1)], [(u0, v0), (u1, v0)]]
        self.grid([[a, b], [d, c]], uvs, texture, ground=ground, coarseness=coarseness)

    def wall(
        self,
        start_xy: ArrayLike,
        end_xy: ArrayLike,
        z: tuple[float, float],
        texture: int,
        *,
        uv: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
        ground: bool = False,
        coarseness: float = 2.0,
    ) -> None:
        """Add an upright rectangle from height z[0] to z[1]; one sees its front with `start` on the left."""
        (x0, y0), (x1, y1) = np.asarray(start_xy, float), np.asarray(end_xy, float)
        corners = [(x0, y0, z[0]), (x1, y1, z[0]), (x1, y1, z[1]), (x0, y0, z[1])]
        self.quad(corners, texture, uv=uv, ground=ground, coarseness=coarseness)

    def box(
        self,
        center: ArrayLike,
        size: ArrayLike,
        texture: int,
        *,
        yaw: float = 0.0,
        ground: bool = True,
        coarseness: float = 1.0,
        top: int | None = None,
    ) -> None:
        """Add a box without a bottom.

        Args:
            center: Centre of the bottom [m], `[3]`.
            size: Length, width, height [m].
            texture: Wrapped around the sides once and laid over the top.
            yaw: Turn about +Z [rad].
            ground: Whether the heightfield stands on it.
            coarseness: Splat spacing here over the scene's.
            top: Texture of the top if it has its own.
        """
        x, y, z = np.asarray(center, float)
        length, width, height = np.asarray(size, float)
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        half = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (length / 2, width / 2)
        base = half @ turn.T + (x, y)
        around = 2 * (length + width)
        edges = np.cumsum([0, length, width, length, width]) / around
        for i in range(4):
            part = (edges[i], 0.0, edges[i + 1], 1.0)
            self.wall(
                base[i],
                base[(i + 1) % 4],
                (z, z + height),
                texture,
                uv=part,
                ground=ground,
                coarseness=coarseness,
            )
        corners = np.concatenate([base, np.full((4, 1), z + height)], axis=1)
        self.quad(corners, texture if top is None else top, ground=ground, coarseness=coarseness)

    def relief(
        self,
        start_xy: ArrayLike,
        end_xy: ArrayLike,
        z0: float,
        breaks: tuple[ArrayLike, ArrayLike],
        depth: NDArray[np.float64],
        texture: int,
        *,
        coarseness: ArrayLike = 2.0,
    ) -> None:
        """Add an upright wall whose fields stand out or lie back, joined by reveals.

        Args:
            start_xy: Left end seen from the front [m].
            end_xy: Right end [m].
            z0: Height of its lower edge [m].
            breaks: Where fields begin and end from the left, `[nx + 1]`, and from below, `[ny + 1]` [m]; both from 0.
            depth: How far each field stands out towards the front [m], shape `[ny, nx]`.
            texture: Covers the whole wall once.
            coarseness: Splat spacing over the scene's, one value for each row of fields or for all.
        """
        x, y = (np.asarray(values, dtype=np.float64) for values in breaks)
        start = np.asarray(start_xy, float)
        along = np.asarray(end_xy, float) - start
        along /= np.linalg.norm(along)
        front = np.array([along[1], -along[0]])
        coarse = np.broadcast_to(coarseness, len(y) - 1)

        def point(px: float, py: float, d: float) -> NDArray[np.float64]:
            return np.array([*(start + along * px + front * d), z0 + py])

        def uv(x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
            return x0 / x[-1], 1 - y1 / y[-1], x1 / x[-1], 1 - y0 / y[-1]

        for j in range(len(y) - 1):
            for i in range(len(x) - 1):
                d, rect = depth[j, i], (x[i], y[j], x[i + 1], y[j + 1])
                corners = [point(rect[a], rect[b], d) for a, b in ((0, 1), (2, 1), (2, 3), (0, 3))]
                self.quad(corners, texture, uv=uv(*rect), coarseness=coarse[j])
                # A reveal shows the paint of the field that stands out, beside the edge.
                if i + 1 < len(x) - 1 and (step := depth[j, i + 1] - d):
                    edge, far = x[i + 1], x[i + 1] + np.sign(step) * min(abs(step), 0.3)
                    ends = [
                        (edge, y[j], d),
                        (edge, y[j], d + step),
                        (edge, y[j + 1], d + step),
                        (edge, y[j + 1], d),
                    ]
                    part = uv(min(edge, far), y[j], max(edge, far), y[j + 1])
                    self.quad([point(*end) for end in ends], texture, uv=part, coarseness=coarse[j])
                if j + 1 < len(y) - 1 and (step := depth[j + 1, i] - d):
                    edge, far = y[j + 1], y[j + 1] + np.sign(step) * min(abs(step), 0.3)
                    ends = [
                        (x[i], edge, d),
                        (x[i + 1], edge, d),
                        (x[i + 1], edge, d + step),
                        (x[i], edge, d + step),
                    ]
                    part = uv(x[i], min(edge, far), x[i + 1], max(edge, far))
                    self.quad([point(*end) for end in ends], texture, uv=part, coarseness=coarse[j])

    def blob(
        self,
        center: ArrayLike,
        radii: ArrayLike,
        texture: int,
        rng: textures.Rng,
        *,
        lumps: float = 0.15,
        coarseness: float = 1.5,
    ) -> None:
        """Add the upper part of a lumpy ellipsoid: a bush, a boulder; `radii` along X, Y, Z [m]."""
        rows, cols = 9, 18
        azimuth = np.linspace(0, 2 * np.pi, cols + 1)[None]
        elevation = np.linspace(-0.6, 1.55, rows)[:, None]
        radius = 1 + lumps * np.clip(rng.standard_normal((rows, cols)), -1.5, 1.5)
        radius = np.concatenate([radius, radius[:, :1]], axis=1)
        unit = np.stack(
            [
                np.cos(elevation) * np.cos(azimuth),
                np.cos(elevation) * np.sin(azimuth),
                np.sin(elevation) * np.ones_like(azimuth),
            ],
            axis=-1,
        )
        points = np.asarray(center, float) + unit * radius[..., None] * np.asarray(radii, float)
        u = np.linspace(0, 1, cols + 1)[None] * np.ones((rows, 1))
        v = np.linspace(1, 0, rows)[:, None] * np.ones((1, cols + 1))
        self.grid(points, np.stack([u, v], axis=-1), texture, ground=True, coarseness=coarseness)

    def backdrop(self, center_xy: ArrayLike, rng: textures.Rng) -> None:
        """Close the scene by a far dome with clouds and trees, so that every camera ray meets a surface."""
        texture = self.paint(materials.sky((384, 1536), rng))
        low, high, cols, rows = np.radians(-12.0), np.radians(86.0), 72, 20
        azimuth = np.linspace(0, -2 * np.pi, cols + 1)[None]  # clockwise from above: the front looks inwards
        elevation = np.linspace(low, high, rows + 1)[:, None]
        x, y = np.asarray(center_xy, float)
        points = np.stack(
            [
                x + BACKDROP_RADIUS_M * np.cos(elevation) * np.cos(azimuth),
                y + BACKDROP_RADIUS_M * np.cos(elevation) * np.sin(azimuth),
                BACKDROP_RADIUS_M * np.sin(elevation) * np.ones_like(azimuth),
            ],
            axis=-1,
        )
        u = np.linspace(0, 1, cols + 1)[None] * np.ones_like(elevation)
        v = (high - elevation) / (high - low) * np.ones_like(azimuth)
        self.grid(points, np.stack([u, v], axis=-1), texture, coarseness=BACKDROP_COARSENESS)
        ring, top = BACKDROP_RADIUS_M * np.cos(high), BACKDROP_RADIUS_M * np.sin(high)
        corners = [
            (x - ring, y - ring, top),
            (x - ring, y + ring, top),
            (x + ring, y + ring, top),
            (x + ring, y - ring, top),
        ]
        self.quad(corners, texture, uv=(0.4, 0.0, 0.5, 0.02), coarseness=BACKDROP_COARSENESS)

    def heightfield(self, cell_m: float) -> Heightfield:
        """Cast rays down onto the ground.

        Grid points lie half a cell off the multiples of `cell_m`, where steps and walls stand. Where no ground is, the
        height is that of the nearest ground plus `WALL_M`, and `known` is false.
        """
        mesh, _ = mesh_of([patch for patch in self.patches if patch.ground], self.textures)
        low = np.floor(mesh.vertices[:, :2].min(axis=0) / cell_m + 1e-3) - MARGIN_CELLS + 0.5
        high = np.ceil(mesh.vertices[:, :2].max(axis=0) / cell_m - 1e-3) + MARGIN_CELLS - 0.5
        nx, ny = np.rint(high - low).astype(int) + 1
        origin = low * cell_m
        x, y = np.meshgrid(np.arange(nx) * cell_m, np.arange(ny) * cell_m)
        heights = heights_below(mesh.vertices, mesh.faces, np.stack([x, y], axis=-1) + origin, cell_m)
        known = np.isfinite(heights)
        return Heightfield(np.where(known, heights, _nearest(heights, known) + WALL_M), cell_m, origin, known)

    def scene(
        self,
        kind: str,
        seed: int,
        cfg: SynthCfg,
        lines: list[tuple[NDArray[np.float64], float]],
        **facts: object,
    ) -> Scene:
        """Make the scene.

        Args:
            kind: Name of the kind.
            seed: The seed that it was drawn from.
            cfg: Its parameters.
            lines: Centre lines `[L, 2]` [m] in the direction of travel, and the walkable distance to either side [m].
            facts: What was drawn from the seed, for the metadata.
        """
        heightfield = self.heightfield(cfg.cell_m)
        mesh, appearance = mesh_of(self.patches, self.textures)
        splats, spacing = splats_of(
            self.patches, self.textures, splat_spacing_m=cfg.splat_spacing_m, max_splats=cfg.max_splats
        )
        metadata = {
            "kind": kind,
            "seed": int(seed),
            "params": dataclasses.asdict(cfg),
            "drawn": facts,
            "scale_source": "exact",
            "gravity_source": "exact",
            "licence": "CC0-1.0",
            "source": "procedural; photographs from scikit-image (CC0 and public domain)",
            "splat_spacing_m": spacing,
            "wall_height_m": WALL_M,
        }
        paths = paths_on(heightfield, lines)
        name = f"{kind}-{seed}"
        return Scene(name, splats, mesh, heightfield, paths, metadata, appearance)


def paths_on(heightfield: Heightfield, lines: list[tuple[NDArray[np.float64], float]]) -> Paths:
    """Sample centre lines every `PATH_STEP_M` and lay them on the ground; see `SceneBuilder.scene` for `lines`."""
    points, ids, widths = [], [], []
    for i, (line, half_width) in enumerate(lines):
        xy = resample(np.asarray(line, dtype=np.float64), PATH_STEP_M)
        direction = np.gradient(xy, axis=0)
        yaw = np.arctan2(direction[:, 1], direction[:, 0])
        points.append(np.column_stack([xy, heightfield.sample(xy), yaw]))
        ids.append(np.full(len(xy), i))
        widths.append(np.full(len(xy), half_width))
    return Paths(np.concatenate(points), np.concatenate(ids), np.concatenate(widths))


def resample(line: NDArray[np.float64], step_m: float) -> NDArray[np.float64]:
    """Points evenly along a polyline `[L, 2]`, both ends included, as near to `step_m` apart as that allows."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.linspace(0, length[-1], max(2, round(length[-1] / step_m) + 1))
    return np.stack([np.interp(at, length, line[:, k]) for k in range(2)], axis=1)


def both_ways(line: NDArray[np.float64], half_width: float) -> list[tuple[NDArray[np.float64], float]]:
    """A line and its reverse."""
    return [(line, half_width), (line[::-1], half_width)]


def _nearest(heights: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Spread known heights outwards, ring by ring, by the mean of the known neighbours."""
    value, have = np.where(known, heights, 0.0), known.copy()
    while not have.all():
        total, count = np.zeros_like(value), np.zeros_like(value)
        padded, flags = np.pad(value * have, 1), np.pad(have.astype(float), 1)
        for dy in range(3):
            for dx in range(3):
                total += padded[dy : dy + value.shape[0], dx : dx + value.shape[1]]
                count += flags[dy : dy + value.shape[0], dx : dx + value.shape[1]]
        grown = ~have & (count > 0)
        value[grown] = total[grown] / count[grown]
        have |= grown
    return value
