"""Walls, overhangs and other things that one height a point cannot say, as boxes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.paths import Paths
from numpy.typing import NDArray

from gaussgym_sim.ground import voxels
from gaussgym_sim.ground.voxels import Voxels

MAX_VOXEL_M = 0.4
_ONE_SIDED = 0.35
"""Share of a voxel's surface that must face one way along an axis for the voxel to count as part of a face."""
_LEAST_HALF_M = 0.01
_DEPTH_M = 0.15


@dataclass(frozen=True)
class Boxes:
    """B upright boxes, edges along the world's axes."""

    centre_m: NDArray[np.float64]
    """World position of the centres [m], shape `[B, 3]`."""
    half_m: NDArray[np.float64]
    """Half the edges' lengths [m], shape `[B, 3]`, all above 0."""

    @classmethod
    def none(cls) -> Boxes:
        """No boxes."""
        return cls(np.zeros((0, 3)), np.zeros((0, 3)))

    def __len__(self) -> int:
        return len(self.centre_m)


@dataclass(frozen=True)
class BoxCfg:
    """How `boxes_of` finds boxes; lengths in metres."""

    voxel_m: float = 0.05
    """Edge of a voxel; doubled, up to `MAX_VOXEL_M`, until at most ``max_boxes`` are needed."""
    step_m: float = 0.08
    """Surface up to this far above the heightfield around it is ground."""
    top_m: float = 1.5
    """Surface higher than this, give or take 0.25 m, above the known ground around is out of every robot's reach."""
    reach_m: float = 0.6
    """So is surface farther than this from known ground."""
    path_clear_m: float = 0.25
    """Surface this close to the middle of a path is noise: that somebody walked there is better evidence."""
    path_width_m: float = 0.75
    """And so is surface within a path's half width, up to this far from its middle: robots start there."""
    min_voxels: int = 12
    """Connected pieces of fewer voxels (of 5 cm; of larger ones by their area) are specks and dropped."""
    max_boxes: int = 320


def boxes_of(
    mesh: Mesh, field: Heightfield, paths: Paths | None = None, cfg: BoxCfg | None = None
) -> tuple[Boxes, str]:
    """Find what a heightfield lacks of a mesh within a robot's reach: walls, tables, beams.

    Triangles become voxels, those that the heightfield represents are left out, and the rest is merged into boxes. Faces are
    where the mesh is on average: a voxel knows how its surface lies in it, so that boxes have no bias by half a voxel, and a
    wall that is seen from one side grows backwards. Deterministic.

    Args:
        mesh: triangles [m], counter-clockwise seen from where robots are.
        field: the ground; only known points count.
        paths: where nothing stands; None = nobody knows.
        cfg: settings.

    Returns:
        The boxes, and one line on what was done.

    Raises:
        InputError: even the coarsest voxels need more boxes than ``max_boxes``.
    """
    cfg = cfg or BoxCfg()
    asked = cfg.voxel_m
    while True:
        boxes, dropped = _boxes_at(mesh, field, paths, cfg)
        if len(boxes) <= cfg.max_boxes:
            break
        if 2 * cfg.voxel_m > MAX_VOXEL_M:
            raise InputError(
                f"walls and overhangs take {len(boxes)} boxes even of {100 * cfg.voxel_m:.0f} cm voxels, expected at most "
                f"{cfg.max_boxes}; raise max_boxes, crop the scene, or choose terrain 'heightfield' or 'mesh'"
            )
        cfg = replace(cfg, voxel_m=2 * cfg.voxel_m)
    note = f"{len(boxes)} boxes of {100 * cfg.voxel_m:.0f} cm voxels"
    if cfg.voxel_m > asked:
        note += f" ({100 * asked:.0f} cm needed more than {cfg.max_boxes} boxes)"
    if dropped:
        note += f"; {dropped} voxels on paths left out"
    return boxes, note


def _boxes_at(mesh: Mesh, field: Heightfield, paths: Paths | None, cfg: BoxCfg) -> tuple[Boxes, int]:
    """Boxes at one size of voxels, and how many voxels stood on paths."""
    found = voxels.above_ground(
        mesh, field, voxel_m=cfg.voxel_m, step_m=cfg.step_m, top_m=cfg.top_m, reach_m=cfg.reach_m
    )
    on_path = np.zeros(len(found), bool)
    if paths is not None and len(paths) > 0:
        on_path = _on_paths(found, paths, cfg)
    kept = found.select(~on_path)
    kept = kept.select(voxels.piece_sizes(kept) >= cfg.min_voxels * (0.05 / cfg.voxel_m) ** 2)
    if not len(kept):
        return Boxes.none(), int(on_path.sum())
    kept = voxels.with_feet(kept, reach_m=cfg.step_m + 2 * cfg.voxel_m)
    kind = _facing(kept)
    low, high = _bounds(kept, kind, voxels.merge(kept, kind))
    for needed in (_above, _needed):
        which = needed(low, high, field, cfg)
        low, high = low[which], high[which]
    return Boxes((low + high) / 2, np.maximum((high - low) / 2, _LEAST_HALF_M)), int(on_path.sum())


def _on_paths(found: Voxels, paths: Paths, cfg: BoxCfg) -> NDArray[np.bool_]:
    """Which voxels stand where a path is, see `BoxCfg`; one that its half width ends in does not."""
    size, nx = found.size_m, found.shape[0]
    half_width_m = np.minimum(paths.half_width_m - size, cfg.path_width_m)
    clear_m = np.maximum(half_width_m, cfg.path_clear_m)[:, None]
    reach = int(np.ceil(clear_m.max() / size)) + 1
    di, dj = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    local = (paths.points[:, :2] - found.origin_m[:2]) / size
    i = np.floor(local[:, :1]).astype(np.int64) + di.ravel()
    j = np.floor(local[:, 1:]).astype(np.int64) + dj.ravel()
    near = np.hypot(i + 0.5 - local[:, :1], j + 0.5 - local[:, 1:]) * size < clear_m
    near &= (i >= 0) & (j >= 0) & (i < nx) & (j < found.shape[1])
    columns = np.unique((j * nx + i)[near])
    return np.isin(found.index[:, 1] * nx + found.index[:, 0], columns)


def _facing(kept: Voxels) -> NDArray[np.int8]:
    """[V] what each voxel's surface faces: 2 axis + (towards higher values), or 6 if it has several sides."""
    axis = np.abs(kept.normal_m2).argmax(axis=1)
    part = np.take_along_axis(kept.normal_m2, axis[:, None], axis=1)[:, 0]
    return np.where(np.abs(part) > _ONE_SIDED * kept.area_m2, 2 * axis + (part > 0), 6).astype(np.int8)


def _bounds(
    kept: Voxels, kind: NDArray[np.int8], owner: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest corners [B, 3] of the boxes that own the voxels.

    Boxes with several sides reach as far as the surface in them; those with one have it at the surface's mean, and behind it a
    depth of `_DEPTH_M` if nothing faces the other way there.
    """
    count = int(owner.max()) + 1
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, owner, kept.low_m)
    np.maximum.at(high, owner, kept.high_m)
    depth_m = np.full(count, np.inf)
    np.minimum.at(depth_m, owner, voxels.free_depth_m(kept, kind, max(_DEPTH_M, kept.size_m)))
    kinds = np.zeros(count, np.int8)
    kinds[owner] = kind
    for facing in range(6):
        axis, mine = facing // 2, kinds == facing
        area = kept.across_m2[:, axis]
        face = np.bincount(owner, area * kept.face_m[:, axis], minlength=count) / np.bincount(owner, area)
        face = face[mine]
        low[mine, axis] = face - depth_m[mine] if facing % 2 else face
        high[mine, axis] = face if facing % 2 else face + depth_m[mine]
    return low, high


def _above(
    low: NDArray[np.float64], high: NDArray[np.float64], field: Heightfield, _: BoxCfg
) -> NDArray[np.bool_]:
    """Which boxes [B, 3] stand out of the heightfield: those go that are below what is at most a cell away all over."""
    around = voxels.highest_around(field.height_m, 1)
    cover = Heightfield(around, field.cell_m, field.origin_xy_m, field.known)
    share = np.stack(np.meshgrid(*[np.linspace(0, 1, 5)] * 2), axis=-1).reshape(1, -1, 2)
    xy = low[:, None, :2] + share * (high - low)[:, None, :2]
    return np.asarray((cover.sample(xy) < high[:, 2:] - 0.01).any(axis=1))


def _needed(
    low: NDArray[np.float64], high: NDArray[np.float64], _: Heightfield, cfg: BoxCfg
) -> NDArray[np.bool_]:
    """Which boxes [B, 3] are needed: small ones first, those go that lie in others enlarged by half a voxel."""
    tolerance_m = 0.5 * cfg.voxel_m
    needed = np.ones(len(low), bool)
    grown_low, grown_high = low - tolerance_m, high + tolerance_m
    for n in np.argsort((high - low).prod(axis=1), kind="stable"):
        counts = np.minimum(np.ceil((high[n] - low[n]) / (2 * tolerance_m)).astype(int) + 1, 40)
        near = needed & (grown_low < high[n]).all(axis=1) & (grown_high > low[n]).all(axis=1)
        near[n] = False
        if not near.any():
            continue
        lines = [np.linspace(low[n, k], high[n, k], counts[k]) for k in range(3)]
        points = np.stack(np.meshgrid(*lines), axis=-1).reshape(-1, 1, 3)
        inside = ((points >= grown_low[near]) & (points <= grown_high[near])).all(axis=-1)
        needed[n] = not np.any(inside, axis=-1).all()
    return needed
