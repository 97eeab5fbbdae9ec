"""Rotations in torch, batch first. Quaternions are Hamilton, unit, wxyz; frames are world ``_w`` and robot base ``_b``."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussgym_sim.frame_kernels import base_frames


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


class BaseFrame:
    """What unit quaternions say of E bases, from all products of their components at once: few operations, for every step."""

    def __init__(self, device: torch.device) -> None:
        """Prepare the constants."""
        self._matrix = torch.zeros(4, 4, 9, device=device)
        for row in range(3):
            for column in range(3):
                for (i, j), factor in _MATRIX_TERMS[row][column].items():
                    self._matrix[i, j, 3 * row + column] = factor
        self._matrix = self._matrix.view(16, 9)

    def __call__(self, quat_wxyz: Tensor, vector_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Heading, gravity and a vector as bases see them.

        Args:
            quat_wxyz: [E, 4] base to world, unit.
            vector_w: [E, 3] in the world.

        Returns:
            (`yaw_of` [E], `gravity_in_base` [E, 3], `rotate_inverse` of the vectors [E, 3]).
        """
        if quat_wxyz.device.type == "cpu":
            count = len(quat_wxyz)
            out = torch.empty(count), torch.empty(count, 3), torch.empty(count, 3)
            base_frames(quat_wxyz.numpy(), vector_w.numpy(), *(tensor.numpy() for tensor in out))
            return out
        return self._by_tensors(quat_wxyz, vector_w)

    def _by_tensors(self, quat_wxyz: Tensor, vector_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        products = (quat_wxyz[:, :, None] * quat_wxyz[:, None]).view(-1, 16)
        matrix = products @ self._matrix
        vector_b = torch.bmm(vector_w[:, None], matrix.view(-1, 3, 3))[:, 0]
        return torch.atan2(matrix[:, 3], matrix[:, 0]), matrix[:, 6:].neg(), vector_b


_MATRIX_TERMS: tuple[tuple[dict[tuple[int, int], float], ...], ...] = (
    ({(0, 0): 1, (1, 1): 1, (2, 2): -1, (3, 3): -1}, {(1, 2): 2, (0, 3): -2}, {(1, 3): 2, (0, 2): 2}),
    ({(1, 2): 2, (0, 3): 2}, {(0, 0): 1, (1, 1): -1, (2, 2): 1, (3, 3): -1}, {(2, 3): 2, (0, 1): -2}),
    ({(1, 3): 2, (0, 2): -2}, {(2, 3): 2, (0, 1): 2}, {(0, 0): 1, (1, 1): -1, (2, 2): -1, (3, 3): 1}),
)
"""Rotation matrix of a quaternion w, x, y, z: each entry's factors of products of components."""
