"""Draws a robot into splat renders: its MJCF's primitives as shaded triangles, hidden where the splats are nearer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SUPERSAMPLING = 2
LIGHT_W = np.array([0.35, -0.25, 0.9]) / np.linalg.norm([0.35, -0.25, 0.9])
SHADOW_DARKNESS = 0.5
SHADOW_REACH_M = 0.25
"""Splat surfaces this far before or behind the shadow's plane take none of it, at half of that all [m]."""
DEPTH_TOLERANCE_M = 0.03
"""Splat depth is blurred at edges: the robot wins ties within this [m]."""

Floats = NDArray[np.float64]
Triangles = tuple[Floats, NDArray[np.int64]]
"""Vertices `[V, 3]` and faces `[F, 3]`, outward normals."""


@dataclass(frozen=True)
class _Part:
    body: int
    vertices: Floats
    faces: NDArray[np.int64]
    color: Floats


class RobotShape:
    """The drawable geometry of a robot.

    Args:
        mjcf: The model; its free joint carries the base.
        joint_names: Actuated joints in the order of the joint positions that `triangles` takes.

    Attributes:
        num_faces: Triangles in all.
    """

    def __init__(self, mjcf: Path, joint_names: tuple[str, ...]) -> None:
        import mujoco

        self._mujoco = mujoco
        self._model = mujoco.MjModel.from_xml_path(str(mjcf))
        self._data = mujoco.MjData(self._model)
        joints = [self._model.joint(name) for name in joint_names]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        free = np.flatnonzero(self._model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)
        self._base = int(self._model.jnt_qposadr[free[0]])
        self._parts = [part for geom in range(self._model.ngeom) if (part := self._part(geom)) is not None]
        self.num_faces = sum(len(part.faces) for part in self._parts)

    def triangles(
        self, root_pos_w: Floats, root_quat_wxyz: Floats, joint_pos: Floats
    ) -> tuple[Floats, NDArray[np.int64], Floats]:
        """Pose the robot.

        Args:
            root_pos_w: Base position [m], `[3]`.
            root_quat_wxyz: Base orientation, `[4]`.
            joint_pos: Joint positions [rad], `[J]`.

        Returns:
            Vertices in the world [m] `[V, 3]`, faces `[F, 3]`, colour of each face in 0..1 `[F, 3]`.
        """
        self._data.qpos[self._base : self._base + 3] = root_pos_w
        self._data.qpos[self._base + 3 : self._base + 7] = root_quat_wxyz
        self._data.qpos[self._qpos] = joint_pos
        self._mujoco.mj_kinematics(self._model, self._data)
        vertices, faces, colors, offset = [], [], [], 0
        for part in self._parts:
            rotation = self._data.xmat[part.body].reshape(3, 3)
            vertices.append(part.vertices @ rotation.T + self._data.xpos[part.body])
            faces.append(part.faces + offset)
            colors.append(np.broadcast_to(part.color, (len(part.faces), 3)))
            offset += len(part.vertices)
        return np.concatenate(vertices), np.concatenate(faces), np.concatenate(colors)

    def _part(self, geom: int) -> _Part | None:
        """Triangles of one geom in the frame of its body; planes and heightfields belong to the world, not the robot."""
        model, kinds = self._model, self._mujoco.mjtGeom
        if model.geom_bodyid[geom] == 0:
            return None
        size, kind = model.geom_size[geom], model.geom_type[geom]
        if kind == kinds.mjGEOM_SPHERE:
            shape = capsule(size[0], 0.0)
        elif kind == kinds.mjGEOM_CAPSULE:
            shape = capsule(size[0], size[1])
        elif kind == kinds.mjGEOM_CYLINDER:
            shape = cylinder(size[0], size[1])
        elif kind == kinds.mjGEOM_BOX:
            shape = box(size)
        elif kind == kinds.mjGEOM_ELLIPSOID:
            vertices, faces = capsule(1.0, 0.0)
            shape = (vertices * size, faces)
        else:
            return None
        rotation = np.zeros(9)
        self._mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
        vertices = shape[0] @ rotation.reshape(3, 3).T + model.geom_pos[geom]
        return _Part(int(model.geom_bodyid[geom]), vertices, shape[1], self._color(geom))

    def _color(self, geom: int) -> Floats:
        """The geom's own colour; MuJoCo's default grey becomes a livery that stands out from streets."""
        rgba = self._model.geom_rgba[geom]
        if not np.allclose(rgba[:3], 0.5):
            return np.asarray(rgba[:3], dtype=np.float64)
        name = self._model.geom(geom).name.lower()
        if "foot" in name:
            return np.array([0.10, 0.10, 0.11])
        if "calf" in name or "thigh" in name or "hip" in name:
            return np.array([0.28, 0.30, 0.34])
        return np.array([0.93, 0.46, 0.12])


def capsule(radius: float, half_length: float, *, around: int = 12, along: int = 4) -> Triangles:
    """Triangulate a capsule along z; `half_length` 0 gives a sphere."""
    angles = np.linspace(0.0, np.pi / 2, along + 1)
    upper = [(radius * np.cos(a), half_length + radius * np.sin(a)) for a in angles]
    profile = [(r, -z) for r, z in reversed(upper)] + upper
    return _revolve(np.array(profile), around)


def cylinder(radius: float, half_length: float, *, around: int = 16) -> Triangles:
    """Triangulate a cylinder along z."""
    profile = [(0.0, -half_length), (radius, -half_length), (radius, half_length), (0.0, half_length)]
    return _revolve(np.array(profile), around)


def box(half_size: Floats) -> Triangles:
    """Triangulate a box."""
    corners = (
        np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64) * half_size
    )
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))]
    return corners, np.array(faces)


def _revolve(profile: Floats, around: int) -> Triangles:
    """Turn a profile of (radius, z) from the bottom to the top about z."""
    turn = 2 * np.pi * np.arange(around) / around
    rings = [np.stack([r * np.cos(turn), r * np.sin(turn), np.full(around, z)], axis=1) for r, z in profile]
    faces = []
    for ring in range(len(profile) - 1):
        low, high = ring * around, (ring + 1) * around
        for i in range(around):
            j = (i + 1) % around
            faces += [(low + i, low + j, high + j), (low + i, high + j, high + i)]
    return np.concatenate(rings), np.array(faces)


def draw(
    rgb: NDArray[np.uint8],
    depth_m: NDArray[np.float32],
    intrinsics: Floats,
    c2w: Floats,
    triangles: tuple[Floats, NDArray[np.int64], Floats],
    *,
    ground_z_m: float | None = None,
) -> NDArray[np.uint8]:
    """Draw posed triangles into a render.

    Args:
        rgb: The render, `[H, W, 3]`.
        depth_m: Its depth along +Z [m], `[H, W]`; 0 where nothing was hit.
        intrinsics: K [px], `[3, 3]`.
        c2w: Camera pose (OpenCV), `[4, 4]`.
        triangles: What `RobotShape.triangles` gives.
        ground_z_m: Height of the ground below the robot [m]; with it, a soft shadow is drawn.

    Returns:
        A new image `[H, W, 3]`.
    """
    vertices, faces, colors = triangles
    image = rgb.copy()
    surface = np.where(depth_m > 0, depth_m, np.inf)
    if ground_z_m is not None:
        _darken(image, surface, intrinsics, c2w, vertices, faces, ground_z_m)
    normals = np.cross(
        vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]
    )
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    seen = ((c2w[:3, 3] - vertices[faces[:, 0]]) * normals).sum(axis=1) > 0
    light = 0.45 + 0.55 * np.clip(normals @ LIGHT_W, 0.0, 1.0)
    shaded = np.clip(colors * light[:, None], 0.0, 1.0) * 255.0
    layer = _fill(vertices, faces[seen], shaded[seen], intrinsics, c2w, rgb.shape[:2])
    if layer is None:
        return image
    (top, left), color, depth, cover = layer
    part = (slice(top, top + cover.shape[0]), slice(left, left + cover.shape[1]))
    weight = (cover * (depth < surface[part] + DEPTH_TOLERANCE_M))[..., None]
    image[part] = np.round(image[part] * (1 - weight) + color * weight)
    return image


def _darken(
    image: NDArray[np.uint8],
    surface: NDArray[np.floating],
    intrinsics: Floats,
    c2w: Floats,
    vertices: Floats,
    faces: NDArray[np.int64],
    ground_z_m: float,
) -> None:
    """Multiply a blurred shadow into the image, cast along the light onto the plane of the ground."""
    import cv2

    height = vertices[:, 2] - ground_z_m
    cast = vertices - (height / LIGHT_W[2])[:, None] * LIGHT_W
    layer = _fill(cast, faces, np.zeros((len(faces), 3)), intrinsics, c2w, image.shape[:2], margin=8)
    if layer is None:
        return
    (top, left), _, depth, cover = layer
    part = (slice(top, top + cover.shape[0]), slice(left, left + cover.shape[1]))
    soft = cv2.GaussianBlur(cover, (0, 0), 2.0)
    # Only surfaces near the ground take it; the blurred rim has the depth of the sharp shadow beside it.
    rim = cv2.dilate(depth.astype(np.float32), np.ones((13, 13), np.uint8))
    off = np.abs(surface[part] - np.where(depth > 0, depth, rim))
    near = np.clip(2.0 - 2.0 * off / SHADOW_REACH_M, 0.0, 1.0)
    image[part] = np.round(image[part] * (1 - SHADOW_DARKNESS * soft * near)[..., None])


def _fill(
    vertices: Floats,
    faces: NDArray[np.int64],
    colors: Floats,
    intrinsics: Floats,
    c2w: Floats,
    shape: tuple[int, int],
    *,
    margin: int = 1,
) -> tuple[tuple[int, int], Floats, Floats, NDArray[np.float32]] | None:
    """Paint triangles from far to near into the part of the image that they cover.

    Returns:
        (top, left) of the part, and its colour, depth [m] and coverage in 0..1; None if nothing lies in the image.
    """
    import cv2

    local = (vertices - c2w[:3, 3]) @ c2w[:3, :3]
    kept = faces[(local[faces, 2] > 0.05).all(axis=1)]
    if len(kept) == 0:
        return None
    colors = colors[(local[faces, 2] > 0.05).all(axis=1)]
    depth_of_vertex = np.maximum(local[:, 2:], 1e-6)
    pixels = local[:, :2] / depth_of_vertex * np.diag(intrinsics)[:2] + intrinsics[:2, 2]
    used = pixels[kept].reshape(-1, 2)
    low = np.maximum(np.floor(used.min(axis=0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(used.max(axis=0)).astype(int) + margin, [shape[1], shape[0]])
    if (high <= low).any():
        return None
    width, height = ((high - low) * SUPERSAMPLING).tolist()
    face_at = np.zeros((height, width), np.float32)  # one more than the face in view; exact below 2^24 faces
    # fillConvexPoly counts pixel centres as integers, in 1/16 px with shift 4.
    points = np.round(((pixels - low) * SUPERSAMPLING - 0.5) * 16).astype(np.int32)
    mean_depth = local[kept, 2].mean(axis=1)
    for face in np.argsort(-mean_depth).tolist():
        cv2.fillConvexPoly(face_at, points[kept[face]], face + 1.0, cv2.LINE_8, 4)
    index = face_at.astype(np.int64)
    color = np.concatenate([np.zeros((1, 3)), colors])[index].astype(np.float32)
    depth = np.concatenate([[0.0], mean_depth])[index].astype(np.float32)
    cover = (index > 0).astype(np.float32)
    size = (width // SUPERSAMPLING, height // SUPERSAMPLING)
    small = [cv2.resize(layer, size, interpolation=cv2.INTER_AREA) for layer in (color, depth, cover)]
    share = np.maximum(small[2], 1e-6)
    return (int(low[1]), int(low[0])), small[0] / share[..., None], small[1] / share, small[2]
