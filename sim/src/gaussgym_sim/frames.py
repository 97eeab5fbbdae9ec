"""Rotations in torch, batch first. Quaternions are Hamilton, unit, wxyz; frames are world ``_w`` and robot base ``_b``."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(quat_wxyz: Tensor, vector: Tensor) -> Tensor:
    """Rotate vectors by quaternions: base to world when the quaternion is the base's orientation.

    Args:
        quat_wxyz: [..., 4].
        vector: [..., 3].

    Returns:
        [..., 3].
    """
    w, xyz = quat_wxyz[..., :1], quat_wxyz[..., 1:]
    t = 2.0 * torch.linalg.cross(xyz, vector)
    return vector + w * t + torch.linalg.cross(xyz, t)


def rotate_inverse(quat_wxyz: Tensor, vector: Tensor) -> Tensor:
    """Rotate vectors by the inverse quaternions: world to base. Shapes as `rotate`."""
    w, xyz = quat_wxyz[..., :1], quat_wxyz[..., 1:]
    t = 2.0 * torch.linalg.cross(xyz, vector)
    return vector - w * t + torch.linalg.cross(xyz, t)


def gravity_in_base(quat_wxyz: Tensor) -> Tensor:
    """Unit vector of gravity (0, 0, -1)_w in the base frame, [..., 3]: minus the third row of the rotation matrix."""
    w, x, y, z = quat_wxyz.unbind(-1)
    return torch.stack((2 * (w * y - x * z), -2 * (y * z + w * x), 2 * (x * x + y * y) - 1), dim=-1)


def multiply_quat(a_wxyz: Tensor, b_wxyz: Tensor) -> Tensor:
    """Product [..., 4] of quaternions [..., 4]: the rotation b, then a."""
    aw, ax, ay, az = a_wxyz.unbind(-1)
    bw, bx, by, bz = b_wxyz.unbind(-1)
    return torch.stack(
        (
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ),
        dim=-1,
    )


def yaw_of(quat_wxyz: Tensor) -> Tensor:
    """Heading of the base x axis about world z [rad], [...]."""
    w, x, y, z = quat_wxyz.unbind(-1)
    return torch.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def quat_from_yaw(yaw: Tensor) -> Tensor:
    """Quaternion wxyz of a rotation by ``yaw`` [rad] about +Z, [..., 4]."""
    zero = torch.zeros_like(yaw)
    return torch.stack((torch.cos(yaw / 2), zero, zero, torch.sin(yaw / 2)), dim=-1)


def wrap_angle(angle: Tensor) -> Tensor:
    """Wrap to [-pi, pi)."""
    return torch.remainder(angle + torch.pi, 2 * torch.pi) - torch.pi


def matrix_from_quat(quat_wxyz: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of unit quaternions [..., 4]."""
    w, x, y, z = quat_wxyz.unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def quat_from_rotation_vector(rotation: Tensor) -> Tensor:
    """Quaternions wxyz [..., 4] of rotation vectors [..., 3] [rad] (axis times angle)."""
    angle = rotation.norm(dim=-1, keepdim=True)
    axis = rotation / angle.clamp(min=1e-12)
    return torch.cat((torch.cos(angle / 2), axis * torch.sin(angle / 2)), dim=-1)


def matrix_from_rotation_vector(rotation: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of rotation vectors [..., 3] [rad] (axis times angle)."""
    return matrix_from_quat(quat_from_rotation_vector(rotation))
