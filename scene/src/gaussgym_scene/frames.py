"""Rotations, rigid transforms and the one place where conventions of others become ours."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating]

OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
"""Camera axes of OpenGL (+Y up, looking along −Z) seen as OpenCV's (+Y down, +Z forward); its own inverse."""


def normalize(vectors: ArrayLike) -> Array:
    """Scale vectors along the last axis to unit length.

    Args:
        vectors: Shape `[..., D]`, none of them zero.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def matrix_from_quat_wxyz(quats_wxyz: ArrayLike) -> Array:
    """Rotation matrices `[..., 3, 3]` of Hamilton quaternions `[..., 4]` (any positive length)."""
    w, x, y, z = np.moveaxis(normalize(quats_wxyz), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quat_wxyz_from_matrix(matrices: ArrayLike) -> Array:
    """Unit Hamilton quaternions `[..., 4]` with w ≥ 0 of rotation matrices `[..., 3, 3]`.

    Takes the numerically largest of the four components as pivot (Shepperd, 1978).
    """
    m = np.asarray(matrices, dtype=np.float64)
    flat = m.reshape(-1, 3, 3)
    trace = np.trace(flat, axis1=1, axis2=2)
    pivots = np.concatenate([trace[:, None], np.diagonal(flat, axis1=1, axis2=2)], axis=1)
    # Symmetric 4x4 form whose column of the pivot is proportional to the quaternion.
    form = np.empty((len(flat), 4, 4))
    form[:, 0, 0] = 1 + trace
    form[:, 0, 1] = form[:, 1, 0] = flat[:, 2, 1] - flat[:, 1, 2]
    form[:, 0, 2] = form[:, 2, 0] = flat[:, 0, 2] - flat[:, 2, 0]
    form[:, 0, 3] = form[:, 3, 0] = flat[:, 1, 0] - flat[:, 0, 1]
    for i in range(3):
        form[:, i + 1, i + 1] = 1 + 2 * flat[:, i, i] - trace
    for i, j in ((0, 1), (0, 2), (1, 2)):
        form[:, i + 1, j + 1] = form[:, j + 1, i + 1] = flat[:, i, j] + flat[:, j, i]
    quats = normalize(form[np.arange(len(flat)), np.argmax(pivots, axis=1)])
    quats[quats[:, 0] < 0] *= -1
    return quats.reshape(*m.shape[:-2], 4)


def multiply_quats_wxyz(a: ArrayLike, b: ArrayLike) -> Array:
    """Hamilton product a ⊗ b of `[..., 4]` quaternions; as rotations: first b, then a."""
    aw, ax, ay, az = np.moveaxis(np.asarray(a, dtype=np.float64), -1, 0)
    bw, bx, by, bz = np.moveaxis(np.asarray(b, dtype=np.float64), -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=-1,
    )


def rigid(rotation: ArrayLike, translation: ArrayLike) -> Array:
    """4×4 transform `T_a_b` from a rotation `[3, 3]` and a translation `[3]` [m]."""
    transform = np.eye(4)
    transform[:3, :3] = rotation
    transform[:3, 3] = translation
    return transform


def inverse_rigid(transforms: ArrayLike) -> Array:
    """Inverses of rigid transforms `[..., 4, 4]`."""
    transforms = np.asarray(transforms, dtype=np.float64)
    inverse = np.zeros_like(transforms)
    rotation_t = np.swapaxes(transforms[..., :3, :3], -1, -2)
    inverse[..., :3, :3] = rotation_t
    inverse[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation_t, transforms[..., :3, 3])
    inverse[..., 3, 3] = 1.0
    return inverse


def transform_points(transform: ArrayLike, points: ArrayLike) -> Array:
    """Map points `[..., 3]` of frame b to frame a by `T_a_b` `[4, 4]`."""
    transform = np.asarray(transform, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ transform[:3, :3].T + transform[:3, 3]


def look_at(eye: ArrayLike, target: ArrayLike, up: ArrayLike = (0.0, 0.0, 1.0)) -> Array:
    """Camera-to-world matrix `[4, 4]` (OpenCV) of a camera at `eye` that sees `target` in its centre.

    Args:
        eye: Camera centre [m], world frame, `[3]`.
        target: Point looked at [m], world frame, `[3]`.
        up: World direction that appears upright; not parallel to the view direction.
    """
    forward = normalize(np.asarray(target, dtype=np.float64) - np.asarray(eye, dtype=np.float64))
    right = normalize(np.cross(forward, up))
    return rigid(np.stack([right, np.cross(forward, right), forward], axis=1), eye)


def rotation_between(a: ArrayLike, b: ArrayLike) -> Array:
    """Shortest rotation `[3, 3]` that turns direction `a` into direction `b` (Rodrigues' formula)."""
    a, b = normalize(a), normalize(b)
    cross, cosine = np.cross(a, b), float(a @ b)
    if cosine < -1 + 1e-12:
        axis = normalize(np.cross(a, np.eye(3)[np.argmin(np.abs(a))]))
        return 2 * np.outer(axis, axis) - np.eye(3)
    skew = np.array([[0, -cross[2], cross[1]], [cross[2], 0, -cross[0]], [-cross[1], cross[0], 0]])
    return np.eye(3) + skew + skew @ skew / (1 + cosine)
