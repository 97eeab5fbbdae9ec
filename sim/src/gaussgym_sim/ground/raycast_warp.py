# Warp's decorators and launch arguments are looser than its types.
# pyright: reportArgumentType=false, reportIndexIssue=false, reportInvalidTypeForm=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false
"""Rays against grounds on a CUDA device: `raycast.RayCaster` with Warp meshes. Imported only where it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import warp as wp  # noqa: TID253  (this module is imported only where rays are cast on a GPU)
from gaussgym_scene.heightfield import Heightfield
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from gaussgym_sim.ground.boxes import Boxes
    from gaussgym_sim.ground.terrain import Ground

_FAR_M = 1e6
_NO_PLANE_M = -1e9
# The corners of a box's twelve triangles, as bits x + 2 y + 4 z.
_BOX_FACES = np.array([
    [0, 2, 3], [0, 3, 1], [4, 5, 7], [4, 7, 6], [0, 1, 5], [0, 5, 4],
    [3, 2, 6], [3, 6, 7], [2, 0, 4], [2, 4, 6], [1, 3, 7], [1, 7, 5],
])  # fmt: skip


@wp.kernel
def _cast(
    meshes: wp.array(dtype=wp.uint64), plane_z: wp.array(dtype=float), scene_ids: wp.array(dtype=wp.int64),
    origin: wp.array2d(dtype=wp.vec3), direction: wp.array2d(dtype=wp.vec3), out: wp.array2d(dtype=float),
) -> None:  # fmt: skip
    e, n = wp.tid()
    s = int(scene_ids[e])
    start, along = origin[e, n], direction[e, n]
    best = float(_FAR_M)
    if plane_z[s] > _NO_PLANE_M and along[2] < -1.0e-12 and start[2] >= plane_z[s]:
        best = wp.min(best, (plane_z[s] - start[2]) / along[2])
    if meshes[s] != wp.uint64(0):
        query = wp.mesh_query_ray(meshes[s], start, along, best)
        if query.result:
            best = query.t
    if best >= _FAR_M:
        best = wp.inf
    out[e, n] = best


class WarpRayCaster:
    """Distances along rays to the grounds of many scenes, see `raycast.RayCaster`; in float32, up to 1000 km."""

    def __init__(self, grounds: Sequence[Ground], device: torch.device) -> None:
        """Build one mesh a ground."""
        wp.init()
        self._device = wp.device_from_torch(device)
        self._meshes = [_mesh_of(ground, self._device) for ground in grounds]
        self._planes = [_plane_of(ground) for ground in grounds]
        self._pack()

    def replace(self, index: int, ground: Ground) -> None:
        """Put another ground in the place of number ``index``."""
        self._meshes[index], self._planes[index] = _mesh_of(ground, self._device), _plane_of(ground)
        self._pack()

    def _pack(self) -> None:
        ids = [0 if mesh is None else mesh.id for mesh in self._meshes]
        self._ids = wp.array(ids, dtype=wp.uint64, device=self._device)
        self._plane_z = wp.array(self._planes, dtype=float, device=self._device)

    def cast(self, origin_w: Tensor, direction_w: Tensor, scene_ids: Tensor, out: Tensor) -> None:
        """Distances, as `raycast.RayCaster.cast`, of tensors on the device, in the order of PyTorch's stream."""
        stream = wp.stream_from_torch(torch.cuda.current_stream(out.device)) if out.is_cuda else None
        inputs: list[Any] = [
            self._ids, self._plane_z, wp.from_torch(scene_ids.long().contiguous(), dtype=wp.int64),
            wp.from_torch(origin_w.float().contiguous(), dtype=wp.vec3),
            wp.from_torch(direction_w.float().contiguous(), dtype=wp.vec3),
        ]  # fmt: skip
        wp.launch(
            _cast,
            dim=tuple(out.shape),
            inputs=inputs,
            outputs=[wp.from_torch(out)],
            device=self._device,
            stream=stream,
        )


def _plane_of(ground: Ground) -> float:
    return float(ground.heightfield.height_m.min()) if ground.is_plane else _NO_PLANE_M


def _mesh_of(ground: Ground, device: Any) -> wp.Mesh | None:
    """All triangles of a ground; None if there are none."""
    parts = [_box_triangles(ground.boxes)]
    if ground.mesh is not None:
        parts.append((ground.mesh.vertices, ground.mesh.faces))
    elif not ground.is_plane:
        parts.append(_height_triangles(ground.heightfield))
    first = np.cumsum([0, *(len(vertices) for vertices, _ in parts)])
    faces = np.concatenate([f + n for (_, f), n in zip(parts, first, strict=False)])
    if not len(faces):
        return None
    points = np.concatenate([vertices for vertices, _ in parts]).astype(np.float32)
    return wp.Mesh(
        wp.array(points, dtype=wp.vec3, device=device),
        wp.array(faces.astype(np.int32).ravel(), dtype=int, device=device),
    )


def _box_triangles(boxes: Boxes) -> tuple[NDArray[Any], NDArray[Any]]:
    """Vertices [8 B, 3] and faces [12 B, 3] of boxes."""
    sign = np.array([[1 if k >> axis & 1 else -1 for axis in range(3)] for k in range(8)])
    vertices = boxes.centre_m[:, None] + sign * boxes.half_m[:, None]
    faces = _BOX_FACES + 8 * np.arange(len(boxes))[:, None, None]
    return vertices.reshape(-1, 3), faces.reshape(-1, 3)


def _height_triangles(field: Heightfield) -> tuple[NDArray[Any], NDArray[Any]]:
    """Vertices and faces of a heightfield, cells split from their lowest x and y to their highest."""
    ny, nx = field.height_m.shape
    vertices = np.concatenate([field.grid_xy(), field.height_m[..., None]], axis=-1).reshape(-1, 3)
    index = np.arange(ny * nx).reshape(ny, nx)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
    return vertices, np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
