"""Opaque objects among the splats: triangle meshes and primitives, posed anew for each camera in each call.

The shapes of a run are packed once (`build_objects`); a call says which of them each camera's world holds, and where
(`Instances`): a robot's own legs, other robots, moving obstacles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gaussgym_scene import InputError, Mesh
from gaussgym_scene.frames import normalize, transform_points
from numpy.typing import ArrayLike, NDArray

from gaussgym_render.arrays import device_of

GREY = (128, 128, 128)
"""Colour of meshes that have none, sRGB in 0..255."""
LIGHT_W = (0.35, -0.25, 0.9)
"""Default direction towards the light, world frame, any length."""
AMBIENT = 0.45
"""Default brightness of a face that the light does not reach, of 1 for one that it meets at a right angle."""
Color = tuple[int, int, int]


@dataclass(frozen=True)
class ObjectSet:
    """N objects in one set of arrays; made by `build_objects`. Object n owns the vertices `vertex_offsets[n]` to
    `vertex_offsets[n + 1]` and the faces `face_offsets[n]` to `face_offsets[n + 1]`.

    Attributes:
        vertices_o: Corners in the frame of their object [m], `[V, 3]` float64.
        faces: Corners of each triangle, counted within its object, `[F, 3]` int64.
        colors: Colour of each face in 0..1, blended as stored, like the splats', `[F, 3]` float32.
        vertex_offsets: `[N + 1]` int64.
        face_offsets: `[N + 1]` int64.
        bounds_o: Centre and radius of a sphere round each object [m], `[N, 4]` float64.
        light: Unit vector towards the light in the world, then the ambient share in 0..1, `[4]` float64.
    """

    vertices_o: NDArray[np.float64]
    faces: NDArray[np.int64]
    colors: NDArray[np.float32]
    vertex_offsets: NDArray[np.int64]
    face_offsets: NDArray[np.int64]
    bounds_o: NDArray[np.float64]
    light: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.bounds_o)

    @property
    def max_vertices(self) -> int:
        """Vertices of the largest object."""
        return int(np.diff(self.vertex_offsets).max(initial=0))


@dataclass
class Instances:
    """Posed objects, any number per camera; numpy arrays or torch tensors.

    Attributes:
        objects: The shapes.
        camera_offsets: Camera c sees the instances `camera_offsets[c]` to `camera_offsets[c + 1]`, integers `[C + 1]`.
        object_ids: Which object each instance is, integers `[I]`.
        poses_w: Object to world `[I, 4, 4]`, rigid; where an image takes time (`RobotCamera`), at its end.
        twists_o: Velocity of each instance in its own frame `[I, 6]`, linear [m/s] then angular [rad/s]; None: all rest in the
            world. Only cameras whose images take time look at it: there an instance follows `poses_w · exp(t·twist)`, so that
            one that rides on the camera's robot has the velocity of the robot's body at its own place.
    """

    objects: ObjectSet
    camera_offsets: Any
    object_ids: Any
    poses_w: Any
    twists_o: Any = None

    @classmethod
    def dense(
        cls, objects: ObjectSet, object_ids: ArrayLike, poses_w: ArrayLike, twists_o: ArrayLike | None = None
    ) -> Instances:
        """The same P objects for every camera, for example the bodies of its own robot.

        Args:
            objects: The shapes.
            object_ids: Integers `[P]`.
            poses_w: Object to world `[C, P, 4, 4]`; a tensor stays one, where it lies, and its memory is shared.
            twists_o: `[C, P, 6]` or None, see `Instances`; a tensor if `poses_w` is one.

        Raises:
            InputError: If the shapes do not fit each other.
        """
        if device_of(poses_w) is not None:
            return _dense_tensors(objects, object_ids, poses_w, twists_o)
        ids, poses = np.asarray(object_ids), np.asarray(poses_w, np.float64)
        if ids.ndim != 1 or poses.ndim != 4 or poses.shape[1:] != (len(ids), 4, 4):
            raise InputError(
                f"poses_w has shape {poses.shape}, expected (C, {ids.size}, 4, 4) for object_ids of shape {ids.shape}"
            )
        offsets = np.arange(len(poses) + 1) * len(ids)
        twists = None
        if twists_o is not None:
            twists = np.asarray(twists_o, np.float64)
            if twists.shape != (*poses.shape[:2], 6):
                raise InputError(f"twists_o has shape {twists.shape}, expected {(*poses.shape[:2], 6)}")
            twists = twists.reshape(-1, 6)
        return cls(objects, offsets, np.tile(ids, len(poses)), poses.reshape(-1, 4, 4), twists)


def _dense_tensors(objects: ObjectSet, object_ids: Any, poses_w: Any, twists_o: Any) -> Instances:
    """`Instances.dense` of torch tensors."""
    import torch

    ids = torch.as_tensor(object_ids, device=poses_w.device)
    count, shape = len(poses_w), (*poses_w.shape[:1], *ids.shape)
    if ids.ndim != 1 or tuple(poses_w.shape) != (*shape, 4, 4):
        raise InputError(
            f"poses_w has shape {tuple(poses_w.shape)}, expected (C, {ids.numel()}, 4, 4) for object_ids of shape "
            f"{tuple(ids.shape)}"
        )
    if twists_o is not None and tuple(twists_o.shape) != (*shape, 6):
        raise InputError(f"twists_o has shape {tuple(twists_o.shape)}, expected {(*shape, 6)}")
    return Instances(
        objects,
        torch.arange(count + 1, device=poses_w.device) * len(ids),
        ids.repeat(count),
        poses_w.reshape(-1, 4, 4),
        None if twists_o is None else twists_o.reshape(-1, 6),
    )


def build_objects(
    meshes: Sequence[Mesh], *, light_w: ArrayLike = LIGHT_W, ambient: float = AMBIENT
) -> ObjectSet:
    """Pack shapes; an instance names its object by its place here.

    Args:
        meshes: Shapes in their own frames. A face has the mean colour of its corners, `GREY` without any; both of its
            sides are drawn, flat: its brightness is `ambient + (1 - ambient)·max(0, normal · light)`.
        light_w: Direction towards the light, world frame, any length.
        ambient: Brightness without light, 0..1.

    Raises:
        InputError: On a light without direction, or an ambient share outside 0..1.
    """
    light = np.asarray(light_w, np.float64)
    if light.shape != (3,) or not np.isfinite(light).all() or not light.any():
        raise InputError(
            f"light_w is {light_w!r}, expected three finite numbers, not all 0 (towards the light)"
        )
    if not 0.0 <= ambient <= 1.0:
        raise InputError(f"ambient is {ambient}, expected a share in 0..1")
    return ObjectSet(
        vertices_o=np.concatenate([np.zeros((0, 3)), *(mesh.vertices.astype(np.float64) for mesh in meshes)]),
        faces=np.concatenate([np.zeros((0, 3), np.int64), *(mesh.faces.astype(np.int64) for mesh in meshes)]),
        colors=np.concatenate([np.zeros((0, 3), np.float32), *(_face_colors(mesh) for mesh in meshes)]),
        vertex_offsets=_offsets([len(mesh.vertices) for mesh in meshes]),
        face_offsets=_offsets([len(mesh.faces) for mesh in meshes]),
        bounds_o=np.array([_bounding_sphere(mesh) for mesh in meshes], np.float64).reshape(-1, 4),
        light=np.append(normalize(light), ambient),
    )


def _offsets(counts: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


def _face_colors(mesh: Mesh) -> NDArray[np.float32]:
    if mesh.colors is None:
        return np.tile(np.asarray(GREY, np.float32) / np.float32(255), (len(mesh.faces), 1))
    return (mesh.colors[mesh.faces].astype(np.float32).mean(axis=1) / 255).astype(np.float32)


def _bounding_sphere(mesh: Mesh) -> NDArray[np.float64]:
    if len(mesh.vertices) == 0:
        return np.zeros(4)
    points = mesh.vertices.astype(np.float64)
    centre = 0.5 * (points.min(axis=0) + points.max(axis=0))
    return np.append(centre, np.linalg.norm(points - centre, axis=1).max())


def is_rigid(poses: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of `[N, 4, 4]` are a right-handed rotation and a translation; NaN is not.

    Tolerates poses that float32 arithmetic has rounded, not ones that carry a scale or a reflection.
    """
    rotation = poses[:, :3, :3]
    with np.errstate(invalid="ignore"):
        gram = rotation @ rotation.transpose(0, 2, 1)
        handed = np.einsum("ci,ci->c", np.cross(rotation[:, 0], rotation[:, 1]), rotation[:, 2])
        return (np.abs(gram - np.eye(3)).max((1, 2)) < 1e-2) & (handed > 0)


def check_instances(instances: Instances, num_cameras: int, cameras: NDArray[np.int64]) -> Instances:
    """Validate instances out of numpy arrays.

    Args:
        instances: What a caller gave.
        num_cameras: C, cameras of the call.
        cameras: Those that are rendered; the instances of others are not looked at.

    Returns:
        The same with C-contiguous int64 and float64 arrays that the caller does not share.

    Raises:
        InputError: On wrong shapes or types, offsets that do not run from 0 to I, object ids out of range, poses that
            are not rigid.
    """
    offsets, ids, poses = instances.camera_offsets, instances.object_ids, instances.poses_w
    count = len(ids) if ids.ndim else 0
    twists = np.zeros((count, 6)) if instances.twists_o is None else instances.twists_o
    for name, array, shape in (
        ("camera_offsets", offsets, (num_cameras + 1,)),
        ("object_ids", ids, (count,)),
        ("poses_w", poses, (count, 4, 4)),
        ("twists_o", twists, (count, 6)),
    ):
        if array.shape != shape:
            raise InputError(
                f"objects.{name} has shape {array.shape}, expected {shape} (C = {num_cameras} cameras, I = {count} instances)"
            )
    for name, array in (("camera_offsets", offsets), ("object_ids", ids)):
        if not np.issubdtype(array.dtype, np.integer):
            raise InputError(f"objects.{name} are {array.dtype}, expected integers")
    if offsets[0] != 0 or offsets[-1] != count or (np.diff(offsets) < 0).any():
        raise InputError(
            f"objects.camera_offsets run from {offsets[0]} to {offsets[-1]}, expected never to fall, from 0 to {count} "
            "(instances)"
        )
    rendered = np.zeros(num_cameras, bool)
    rendered[cameras] = True
    used = np.flatnonzero(np.repeat(rendered, np.diff(offsets)))
    problems = (
        (~np.isfinite(poses[used]).all((1, 2)), poses, "poses_w has NaN or infinite entries"),
        (
            ~is_rigid(poses[used]),
            poses,
            "poses_w is not a rigid pose (a right-handed rotation and a translation)",
        ),
        (
            (ids[used] < 0) | (ids[used] >= len(instances.objects)),
            ids,
            f"object_ids is out of range, expected 0 to {len(instances.objects) - 1}",
        ),
        (~np.isfinite(twists[used]).all(1), twists, "twists_o has NaN or infinite entries"),
    )
    for bad, values, text in problems:
        if bad.any():
            first = int(used[np.flatnonzero(bad)[0]])
            found = np.array2string(values[first], precision=4, separator=", ").replace("\n", "")
            raise InputError(f"instance {first}: objects.{text}; found {found}")
    return Instances(
        instances.objects,
        np.array(offsets, np.int64, order="C"),
        np.array(ids, np.int64, order="C"),
        np.array(poses, np.float64, order="C"),
        None if instances.twists_o is None else np.array(twists, np.float64, order="C"),
    )


def box(half_size_m: ArrayLike, color: Color = GREY) -> Mesh:
    """A box round the origin.

    Args:
        half_size_m: Half its extent along x, y, z [m].
        color: sRGB in 0..255.
    """
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))]
    return _colored(signs * np.asarray(half_size_m, np.float64), np.array(faces), color)


def sphere(radius_m: float, color: Color = GREY, *, around: int = 16) -> Mesh:
    """A sphere round the origin.

    Args:
        radius_m: Radius [m]; corners lie on it, faces inside by up to `1 - cos(π/around)`.
        color: sRGB in 0..255.
        around: Corners of its equator.
    """
    turn = np.linspace(-0.5 * np.pi, 0.5 * np.pi, around // 2 + 1)
    return _revolve(radius_m * np.cos(turn), radius_m * np.sin(turn), around, color)


def capsule(radius_m: float, half_length_m: float, color: Color = GREY, *, around: int = 12) -> Mesh:
    """A capsule along z round the origin.

    Args:
        radius_m: Radius [m].
        half_length_m: Half the length of the cylindrical part [m].
        color: sRGB in 0..255.
        around: Corners of its circumference.
    """
    turn = np.linspace(0.0, 0.5 * np.pi, around // 4 + 1)
    upper_r, upper_z = radius_m * np.cos(turn), half_length_m + radius_m * np.sin(turn)
    return _revolve(
        np.concatenate([upper_r[::-1], upper_r]), np.concatenate([-upper_z[::-1], upper_z]), around, color
    )


def cylinder(radius_m: float, half_length_m: float, color: Color = GREY, *, around: int = 16) -> Mesh:
    """A cylinder along z round the origin (arguments as of `capsule`)."""
    z = half_length_m * np.array([-1.0, -1.0, 1.0, 1.0])
    return _revolve(radius_m * np.array([0.0, 1.0, 1.0, 0.0]), z, around, color)


def joined(parts: Sequence[tuple[Mesh, ArrayLike]]) -> Mesh:
    """One mesh out of several that move together.

    Args:
        parts: Meshes, each with its pose `[4, 4]` in the frame of the whole.
    """
    offsets = _offsets([len(mesh.vertices) for mesh, _ in parts])
    return Mesh(
        np.concatenate([transform_points(pose, mesh.vertices) for mesh, pose in parts]).astype(np.float32),
        np.concatenate([mesh.faces + offset for (mesh, _), offset in zip(parts, offsets)]).astype(np.int32),
        np.concatenate(
            [
                np.tile(np.array(GREY, np.uint8), (len(mesh.vertices), 1))
                if mesh.colors is None
                else mesh.colors
                for mesh, _ in parts
            ]
        ),
    )


def _revolve(radii: NDArray[np.float64], z: NDArray[np.float64], around: int, color: Color) -> Mesh:
    """Turn a profile from the bottom to the top about z; its two ends lie on the axis and become one corner each."""
    turn = 2 * np.pi * np.arange(around) / around
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    rings = np.concatenate(
        [
            radii[1:-1, None, None] * circle,
            np.broadcast_to(z[1:-1, None, None], (len(z) - 2, around, 1)),
        ],
        axis=2,
    ).reshape(-1, 3)
    bottom, top = len(rings), len(rings) + 1
    i = np.arange(around)
    j = np.roll(i, -1)
    low = np.arange(len(z) - 3)[:, None] * around
    last = (len(z) - 3) * around
    faces = np.concatenate(
        [
            np.stack([low + i, low + j, low + around + j], axis=-1).reshape(-1, 3),
            np.stack([low + i, low + around + j, low + around + i], axis=-1).reshape(-1, 3),
            np.stack([np.full(around, bottom), j, i], axis=-1),
            np.stack([last + i, last + j, np.full(around, top)], axis=-1),
        ]
    )
    return _colored(np.concatenate([rings, [[0.0, 0.0, z[0]], [0.0, 0.0, z[-1]]]]), faces, color)


def _colored(vertices: NDArray[np.float64], faces: NDArray[np.int64], color: Color) -> Mesh:
    return Mesh(
        vertices.astype(np.float32),
        faces.astype(np.int32),
        np.tile(np.array(color, np.uint8), (len(vertices), 1)),
    )
