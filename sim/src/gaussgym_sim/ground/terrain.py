"""Scene ground as physics and as a height lookup: both read the same grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import mujoco
import numpy as np
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray
from torch import Tensor

from gaussgym_sim.ground.boxes import BoxCfg, Boxes, boxes_of
from gaussgym_sim.ground.height_kernels import beyond_border, grid_heights
from gaussgym_sim.ground.raycast import RayCaster
from gaussgym_sim.ground.triangles import MeshCfg, ground_mesh, shifted_back

MIN_CELL_M = 0.05
"""Finer grids are resampled to this: contacts per prism, and with them the cost of a step, grow with resolution."""
FLAT_TOLERANCE_M = 1e-4
"""A heightfield whose range is below this becomes an infinite plane, twice as fast as a grid."""
if TYPE_CHECKING:
    from gaussgym_sim.ground.raycast_warp import WarpRayCaster

TERRAIN_GEOM = "terrain"
TERRAIN_MODES = ("heightfield", "boxes", "mesh")
"""What a scene's ground is made of, see `ground_of`."""
_BASE_THICKNESS_M = 0.5
_NEIGHBOURHOOD_M = 8.0
_FLEX_RADIUS_M = 0.01
"""MuJoCo's triangles are this thick to both sides."""
_SURFACE: dict[str, Any] = {"contype": 0, "conaffinity": 1, "priority": 0, "friction": [1, 0.005, 0.0001]}


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


@dataclass(frozen=True)
class Ground:
    """What robots stand on and run into in one scene, for every physics engine and for rays.

    In mode 'mesh' the triangles of ``mesh`` are all that is solid, and the heightfield only answers `TerrainLookup.sample`.
    """

    heightfield: Heightfield
    """Heights at the resolution that physics uses."""
    boxes: Boxes
    """Walls, overhangs and things above the heightfield; none in the modes 'heightfield' and 'mesh'."""
    mesh: Mesh | None = None
    """Exact triangles, in mode 'mesh' alone."""
    note: str = ""
    """What `ground_of` did to the scene, in words."""

    @property
    def is_plane(self) -> bool:
        """Whether the ground is an infinite plane z = const, boxes aside."""
        return self.mesh is None and is_flat(self.heightfield)


def ground_of(
    scene: Scene,
    mode: str = "boxes",
    *,
    min_cell_m: float = MIN_CELL_M,
    box_cfg: BoxCfg | None = None,
    mesh_cfg: MeshCfg | None = None,
) -> Ground:
    """The ground of a scene; found once a scene and kept with it, so that threads may find it before its turn comes.

    Args:
        scene: any scene with a heightfield.
        mode: one of `TERRAIN_MODES`: 'heightfield' alone; with 'boxes' for what it cannot represent, from the scene's mesh (a
            scene without a mesh has none); or 'mesh', the mesh's own triangles near the ground.
        min_cell_m: finest cell of the heightfield [m]; a finer grid is resampled bilinearly to it.
        box_cfg: how boxes are found.
        mesh_cfg: which triangles count.

    Raises:
        InputError: an unknown mode, heights that are not finite, 'mesh' of a scene without one, too many boxes or triangles.
    """
    if mode not in TERRAIN_MODES:
        raise InputError(f"unknown kind of terrain {mode!r}; choose one of: {', '.join(TERRAIN_MODES)}")
    if box_cfg is not None or mesh_cfg is not None:
        return _find_ground(scene, mode, min_cell_m, box_cfg, mesh_cfg)
    known = _GROUNDS.setdefault(scene, {})
    if (mode, min_cell_m) not in known:
        known[mode, min_cell_m] = _find_ground(scene, mode, min_cell_m, None, None)
    return known[mode, min_cell_m]


_GROUNDS: WeakKeyDictionary[Scene, dict[tuple[str, float], Ground]] = WeakKeyDictionary()


def _find_ground(
    scene: Scene, mode: str, min_cell_m: float, box_cfg: BoxCfg | None, mesh_cfg: MeshCfg | None
) -> Ground:
    field = physics_heightfield(scene, min_cell_m=min_cell_m)
    if mode == "heightfield":
        return Ground(field, Boxes.none(), note="heightfield alone")
    mesh = _member(scene, "mesh")
    if mode == "boxes" and mesh is None:
        return Ground(field, Boxes.none(), note="no boxes: the scene has no mesh")
    if mode == "boxes":
        boxes, note = boxes_of(mesh, field, _member(scene, "paths"), box_cfg)
        return Ground(field, boxes, note=note)
    if mesh is None:
        raise InputError(f"scene {scene.name!r} has no mesh; choose terrain 'heightfield'")
    mesh, note = ground_mesh(mesh, field, mesh_cfg)
    return Ground(field, Boxes.none(), mesh, note)


def _member(scene: Scene, name: str) -> Any:
    """A member of a scene, or None if it was made in memory without it."""
    return getattr(scene, name) if scene.directory is not None or name in scene.__dict__ else None


def add_ground(spec: mujoco.MjSpec, ground: Ground) -> None:
    """Add the ground to a MuJoCo model.

    Geom ``terrain`` is a plane where the heights are flat, else a heightfield; boxes are geoms ``terrain_box_0`` and so on; in
    mode 'mesh' there is flex ``terrain`` alone, one side of whose triangles, their front, is where the mesh is.
    They are fixed in the world, touch whatever has contype 1, and leave friction to the robot's geoms.
    """
    if ground.mesh is not None:
        _add_mesh(spec, ground.mesh)
        return
    _add_heights(spec, ground.heightfield)
    # Boxes of one neighbourhood share a body: engines leave out bodies whose bounds are far from the robot's.
    bodies: dict[tuple[int, int], Any] = {}
    for i, (centre, half) in enumerate(zip(ground.boxes.centre_m, ground.boxes.half_m, strict=True)):
        x, y = np.floor(centre[:2] / _NEIGHBOURHOOD_M).astype(int).tolist()
        if (x, y) not in bodies:
            bodies[x, y] = spec.worldbody.add_body(name=f"{TERRAIN_GEOM}_body_{len(bodies)}")
        box = mujoco.mjtGeom.mjGEOM_BOX
        bodies[x, y].add_geom(name=f"{TERRAIN_GEOM}_box_{i}", type=box, pos=centre, size=half, **_SURFACE)


def _add_mesh(spec: mujoco.MjSpec, mesh: Mesh) -> None:
    """Add flex ``terrain``: rigid triangles with round edges, whose outside is where the mesh is."""
    spec.add_flex(
        name=TERRAIN_GEOM, dim=2, radius=_FLEX_RADIUS_M, vertbody=["world"], selfcollide=0,
        vert=shifted_back(mesh, _FLEX_RADIUS_M).ravel().tolist(), elem=mesh.faces.ravel().tolist(), **_SURFACE,
    )  # fmt: skip


def _add_heights(spec: mujoco.MjSpec, field: Heightfield) -> None:
    """Add geom ``terrain``.

    MuJoCo maps the data's minimum to 0 and its maximum to ``size[2]``, so the geom sits at the minimum and ``size[2]`` is
    the range. Rows of ``userdata`` run along +y, columns along +x, as in `Heightfield`.
    """
    body = spec.worldbody
    z_min = float(field.height_m.min())
    if is_flat(field):
        plane = mujoco.mjtGeom.mjGEOM_PLANE
        body.add_geom(name=TERRAIN_GEOM, type=plane, size=[0, 0, 1], pos=[0, 0, z_min], **_SURFACE)
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
        pos=[float(centre[0]), float(centre[1]), z_min], **_SURFACE,
    )  # fmt: skip


def add_terrain(spec: mujoco.MjSpec, field: Heightfield) -> None:
    """`add_ground` of a heightfield alone."""
    add_ground(spec, Ground(field, Boxes.none()))


class TerrainLookup:
    """Bilinear ground height of many scenes at once, equal to each `Heightfield.sample` to float32.

    Each cell keeps the four coefficients of z = a + b u + c v + d u v, so that a look-up is one gather.
    """

    def __init__(self, grounds: Sequence[Ground | Heightfield], *, device: torch.device) -> None:
        """Pack the heightfields' cells into one flat table; a bare heightfield is a ground without anything on it."""
        self._grounds = [g if isinstance(g, Ground) else Ground(g, Boxes.none()) for g in grounds]
        self.device = torch.device(device)
        self._rays: RayCaster | WarpRayCaster | None = None
        fields = [ground.heightfield for ground in self._grounds]
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
        self.flat = torch.tensor([ground.is_plane for ground in self._grounds], device=device)
        """[scenes] bool, whether each ground is a plane."""
        self._find_planes()

    def _find_planes(self) -> None:
        """Where all grounds are planes, heights need no look-up."""
        self._plane_m: Tensor | None = None
        if bool(self.flat.all()):
            self._plane_m = self._coefficients[self._offset.long(), 0]

    def replace(self, index: int, ground: Ground | Heightfield) -> None:
        """Put another scene's ground in the place of scene ``index``."""
        one = TerrainLookup([ground], device=self._coefficients.device)
        first = int(self._offset[index])
        end = int(self._offset[index + 1]) if index + 1 < len(self._offset) else len(self._coefficients)
        self._coefficients = torch.cat(
            (self._coefficients[:first], one._coefficients, self._coefficients[end:])
        )
        self._offset[index + 1 :] += len(one._coefficients) - (end - first)
        for name in ("_cells_x", "_last", "_last_cell", "_inv_cell", "origin_xy_m", "max_xy_m", "flat"):
            getattr(self, name)[index] = getattr(one, name)[0]
        self._grounds[index] = one._grounds[0]
        self._find_planes()
        if self._rays is not None:
            self._rays.replace(index, self._grounds[index])

    def raycast(self, origin_w: Tensor, direction_w: Tensor, scene_ids: Tensor) -> Tensor:
        """Distance along rays to the ground: heightfield or plane, and boxes; in mode 'mesh' the triangles.

        The heightfield's cells are split into triangles as MuJoCo splits them, and a plane has no border. On CUDA devices it
        takes Warp (extra ``gpu``).

        Args:
            origin_w: [E, N, 3] [m].
            direction_w: [E, N, 3] unit vectors.
            scene_ids: [E] the scene of each row.

        Returns:
            [E, N] float32 [m], infinite where a ray hits nothing.
        """
        if self._rays is None:
            self._rays = self._make_rays()
        out = torch.empty(origin_w.shape[:2], dtype=torch.float32, device=origin_w.device)
        if isinstance(self._rays, RayCaster):
            arrays = (origin_w.float(), direction_w.float(), scene_ids.long(), out)
            self._rays.cast(*(tensor.numpy() for tensor in arrays))
        else:
            self._rays.cast(origin_w, direction_w, scene_ids, out)
        return out

    def _make_rays(self) -> RayCaster | WarpRayCaster:
        if self.device.type == "cpu":
            return RayCaster(self._grounds)
        from gaussgym_sim.ground.raycast_warp import WarpRayCaster

        return WarpRayCaster(self._grounds, self.device)

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
        if self._plane_m is not None:
            if len(self._plane_m) == 1:
                return self._plane_m.expand(len(scene_ids), grid.shape[1])
            return self._plane_m[scene_ids, None].expand(-1, grid.shape[1])
        if self.device.type == "cpu":
            out = xy_w.new_empty(len(xy_w), grid.shape[1])
            arguments = [*self.arrays(), *(t.numpy() for t in (scene_ids, xy_w, yaw, grid, out))]
            grid_heights(*arguments)
            return out
        return self._sample_grid_by_tensors(xy_w, yaw, grid, scene_ids)

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """What `gaussgym_sim.ground.height_kernels` look up, on the CPU."""
        tables = (self._coefficients, self._offset, self._cells_x, self._last, self._inv_cell)
        return tuple(table.numpy() for table in (*tables, self.origin_xy_m))

    def _sample_grid_by_tensors(self, xy_w: Tensor, yaw: Tensor, grid: Tensor, scene_ids: Tensor) -> Tensor:
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
        if self._plane_m is not None:
            return torch.zeros_like(scene_ids, dtype=torch.bool)
        if self.device.type == "cpu":
            tables = (self.origin_xy_m, self.max_xy_m, self.flat)
            arguments = [*(t.numpy() for t in (xy_w, scene_ids, *tables)), margin_m]
            return torch.from_numpy(beyond_border(*arguments))
        return self._outside_by_tensors(xy_w, scene_ids, margin_m)

    def _outside_by_tensors(self, xy_w: Tensor, scene_ids: Tensor, margin_m: float) -> Tensor:
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
