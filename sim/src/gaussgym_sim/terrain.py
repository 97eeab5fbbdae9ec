"""Scene ground as physics and as a height lookup: both read the same grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mujoco
import numpy as np
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray
from torch import Tensor

MIN_CELL_M = 0.05
"""Finer grids are resampled to this: contacts per prism, and with them the cost of a step, grow with resolution."""
FLAT_TOLERANCE_M = 1e-4
"""A heightfield whose range is below this becomes an infinite plane, twice as fast as a grid."""
TERRAIN_GEOM = "terrain"
TERRAIN_MODES = ("heightfield", "boxes", "mesh")
"""What a scene's ground is made of, see `ground_of`."""
_BASE_THICKNESS_M = 0.5


def physics_heightfield(scene: Scene, *, min_cell_m: float = MIN_CELL_M) -> Heightfield:
    """The scene's ground at the resolution that physics and scans use.

    Args:
        scene: any scene with a heightfield.
        min_cell_m: finest cell to keep [m]; a finer grid is resampled bilinearly to it.

    Raises:
        InputError: heights that are not finite.
    """
    field = scene.heightfield
    if not np.isfinite(field.height_m).all():
        bad = int((~np.isfinite(field.height_m)).sum())
        raise InputError(f"scene {scene.name!r}: {bad} heights are not finite; fill the heightfield first")
    if field.cell_m >= min_cell_m * (1 - 1e-6):
        return field
    nx, ny = (max(2, math.floor(size / min_cell_m + 1e-6) + 1) for size in field.size_m)
    x = field.origin_xy_m[0] + min_cell_m * np.arange(nx)
    y = field.origin_xy_m[1] + min_cell_m * np.arange(ny)
    xy = np.stack(np.meshgrid(x, y), axis=-1)
    return Heightfield(field.sample(xy).astype(np.float32), min_cell_m, field.origin_xy_m, field.is_known(xy))


def is_flat(field: Heightfield) -> bool:
    """Whether the ground is a plane z = const to `FLAT_TOLERANCE_M`."""
    return float(np.ptp(field.height_m)) < FLAT_TOLERANCE_M


def add_terrain(spec: mujoco.MjSpec, field: Heightfield) -> None:
    """Add the ground to a MuJoCo model as geom ``terrain``: a plane where flat, else a heightfield.

    MuJoCo maps the data's minimum to 0 and its maximum to ``size[2]``, so the geom sits at the minimum and ``size[2]`` is
    the range. Rows of ``userdata`` run along +y, columns along +x, as in `Heightfield`.
    """
    body = spec.worldbody
    z_min = float(field.height_m.min())
    if is_flat(field):
        body.add_geom(
            name=TERRAIN_GEOM, type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], pos=[0, 0, z_min],
            contype=0, conaffinity=1, priority=0, friction=[1, 0.005, 0.0001],
        )  # fmt: skip
        return
    ny, nx = field.height_m.shape
    size_x, size_y = field.size_m
    z_range = float(field.height_m.max()) - z_min
    spec.add_hfield(
        name=TERRAIN_GEOM, nrow=ny, ncol=nx, size=[size_x / 2, size_y / 2, z_range, _BASE_THICKNESS_M],
        userdata=((field.height_m - z_min) / z_range).astype(np.float32).ravel(),
    )  # fmt: skip
    centre = np.asarray(field.origin_xy_m) + np.array([size_x, size_y]) / 2
    body.add_geom(
        name=TERRAIN_GEOM, type=mujoco.mjtGeom.mjGEOM_HFIELD, hfieldname=TERRAIN_GEOM,
        pos=[float(centre[0]), float(centre[1]), z_min], contype=0, conaffinity=1, priority=0, friction=[1, 0.005, 0.0001],
    )  # fmt: skip


class TerrainLookup:
    """Bilinear ground height of many scenes at once, equal to each `Heightfield.sample` to float32.

    Each cell keeps the four coefficients of z = a + b u + c v + d u v, so that a look-up is one gather.
    """

    def __init__(self, fields: Sequence[Heightfield], *, device: torch.device) -> None:
        """Pack the fields' cells into one flat table."""
        cells = [_bilinear_coefficients(f.height_m) for f in fields]
        sizes = [len(c) for c in cells]
        as_float = {"dtype": torch.float32, "device": device}
        self._coefficients = torch.as_tensor(np.concatenate(cells), **as_float)
        self._offset = torch.as_tensor(np.cumsum([0, *sizes[:-1]]), dtype=torch.int32, device=device)
        shape = np.array([f.height_m.shape[::-1] for f in fields])  # nx, ny
        self._cells_x = torch.as_tensor(shape[:, 0] - 1, dtype=torch.int32, device=device)
        self._last = torch.as_tensor(shape - 1, **as_float)
        self._last_cell = torch.as_tensor(shape - 2, dtype=torch.int32, device=device)
        self._inv_cell = torch.tensor([1.0 / f.cell_m for f in fields], **as_float)
        self.origin_xy_m = torch.tensor(np.stack([f.origin_xy_m for f in fields]), **as_float)
        self.max_xy_m = torch.tensor(
            np.stack([np.asarray(f.origin_xy_m) + np.asarray(f.size_m) for f in fields]), **as_float
        )
        self.flat = torch.tensor([is_flat(f) for f in fields], device=device)
        """[scenes] bool, whether each ground is a plane."""

    def replace(self, index: int, field: Heightfield) -> None:
        """Put another scene's ground in the place of scene ``index``."""
        one = TerrainLookup([field], device=self._coefficients.device)
        first = int(self._offset[index])
        end = int(self._offset[index + 1]) if index + 1 < len(self._offset) else len(self._coefficients)
        self._coefficients = torch.cat(
            (self._coefficients[:first], one._coefficients, self._coefficients[end:])
        )
        self._offset[index + 1 :] += len(one._coefficients) - (end - first)
        for name in ("_cells_x", "_last", "_last_cell", "_inv_cell", "origin_xy_m", "max_xy_m", "flat"):
            getattr(self, name)[index] = getattr(one, name)[0]

    def sample(self, xy_w: Tensor, scene_ids: Tensor) -> Tensor:
        """Ground height [m].

        Args:
            xy_w: [E, N, 2] world points [m], finite.
            scene_ids: [E] the scene of each row.

        Returns:
            [E, N]; beyond the border the nearest border value.
        """
        inv = self._inv_cell[scene_ids, None, None]
        cell = (xy_w - self.origin_xy_m[scene_ids, None]).mul_(inv)
        return self._at(cell[..., 0], cell[..., 1], scene_ids)

    def sample_grid(self, xy_w: Tensor, yaw: Tensor, grid: Tensor, scene_ids: Tensor) -> Tensor:
        """Ground height [m] under a grid turned by yaw and moved to each robot.

        Args:
            xy_w: [E, 2] robots [m], finite.
            yaw: [E] [rad].
            grid: [2, S] points in each robot's yaw frame [m].
            scene_ids: [E].

        Returns:
            [E, S].
        """
        inv = self._inv_cell[scene_ids]
        cos, sin = torch.cos(yaw) * inv, torch.sin(yaw) * inv
        start = (xy_w - self.origin_xy_m[scene_ids]) * inv[:, None]
        # [E, 3] @ [3, S], an axis each: rotation, scale and shift in one product.
        ones = torch.cat((grid, torch.ones_like(grid[:1])))
        x = torch.stack((cos, -sin, start[:, 0]), dim=1) @ ones
        y = torch.stack((sin, cos, start[:, 1]), dim=1) @ ones
        return self._at(x, y, scene_ids)

    def _at(self, x: Tensor, y: Tensor, scene_ids: Tensor) -> Tensor:
        """Height at grid coordinates x, y [E, N] in cells."""
        last, last_cell = self._last[scene_ids], self._last_cell[scene_ids]
        x = torch.minimum(x.clamp(min=0.0), last[:, :1])
        y = torch.minimum(y.clamp(min=0.0), last[:, 1:])
        i = torch.minimum(x.int(), last_cell[:, :1])
        j = torch.minimum(y.int(), last_cell[:, 1:])
        u, v = x - i, y - j
        index = (j * self._cells_x[scene_ids, None]).add_(i).add_(self._offset[scene_ids, None])
        a, b, c, d = self._coefficients.index_select(0, index.reshape(-1)).view(*index.shape, 4).unbind(-1)
        return torch.addcmul(torch.addcmul(a, b, u), torch.addcmul(c, d, u), v)

    def outside(self, xy_w: Tensor, scene_ids: Tensor, *, margin_m: float) -> Tensor:
        """Whether points [E, 2] are nearer than ``margin_m`` to the ground's border or beyond; a plane has no border."""
        low = xy_w < self.origin_xy_m[scene_ids] + margin_m
        high = xy_w > self.max_xy_m[scene_ids] - margin_m
        return (low | high).any(dim=-1) & ~self.flat[scene_ids]


def _bilinear_coefficients(height_m: NDArray[np.float32]) -> NDArray[np.float32]:
    """[(ny - 1) (nx - 1), 4] coefficients a, b, c, d of each cell, row by row."""
    h = height_m.astype(np.float64)
    a, b = h[:-1, :-1], h[:-1, 1:] - h[:-1, :-1]
    c = h[1:, :-1] - a
    d = h[1:, 1:] - h[1:, :-1] - b
    return np.stack((a, b, c, d), axis=-1).reshape(-1, 4).astype(np.float32)
