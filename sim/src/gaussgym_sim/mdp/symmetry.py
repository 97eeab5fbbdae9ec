"""Left and right: what observations, actions and states are to the robot's mirror image in its xz plane.

Vectors change the sign of y; pseudovectors (angular velocity) of x and z; joints and legs go over to the other side as the
robot's ``mirror_*`` say; images are flipped along their width. All maps are their own inverse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from gaussgym_scene.errors import InputError
from torch import Tensor

from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.sensors.observations import ObservationCfg, proprio_terms
from gaussgym_sim.task import Task

VECTOR = (1.0, -1.0, 1.0)
PSEUDOVECTOR = (-1.0, 1.0, -1.0)
COMMAND = (1.0, -1.0, -1.0)
"""Of v_x, v_y, yaw rate."""
GAIT = (-1.0, -1.0)
"""Of sine and cosine of the gait's phase: the legs of the other side are half a cycle apart."""
_TERM_SIGNS = {"ang_vel_b": PSEUDOVECTOR, "gravity_b": VECTOR, "command": COMMAND}
_JOINT_TERMS = ("joint_pos_offset", "joint_vel", "last_action")
_IMAGES = ("rgb", "depth", "labels")
_UNCHANGED = ("rgb_new",)


def mirror_image(image: Tensor) -> Tensor:
    """Images [..., H, W] as the mirrored robot's camera takes them, whose K is `mirror_intrinsics`."""
    return image.flip(-1)


def mirror_intrinsics(K: Tensor, width: int) -> Tensor:
    """Calibration matrices [..., 3, 3] of mirrored images ``width`` pixels wide, pixel centres at +0.5."""
    mirrored = K.clone()
    mirrored[..., 0, 2] = width - K[..., 0, 2]
    mirrored[..., 0, 1] = -K[..., 0, 1]
    return mirrored


def mirror_camera_pose(pose: Tensor) -> Tensor:
    """Poses [..., 4, 4] of a camera (+X right, +Y down, +Z forward) in a frame +X forward, +Y left, +Z up, mirrored in xz: still
    rigid, as the camera's x axis turns round too.
    """
    frame = torch.tensor((1.0, -1.0, 1.0, 1.0), dtype=pose.dtype, device=pose.device)
    camera = torch.tensor((-1.0, 1.0, 1.0, 1.0), dtype=pose.dtype, device=pose.device)
    return frame[:, None] * pose * camera


def mirror_quat_wxyz(quat_wxyz: Tensor) -> Tensor:
    """Orientations [..., 4] of mirrored bodies."""
    return quat_wxyz * torch.tensor((1.0, -1.0, 1.0, -1.0), device=quat_wxyz.device)


class Symmetry:
    """The maps of one robot's observation groups and actions.

    Args:
        robot: which.
        cfg: its observations.
        task: for groups of its own (`Task.mirrors`).
        device: of the tensors to come.

    Raises:
        InputError: a robot without mirror maps, a term of ``proprio`` whose mirror image is unknown, or a scan grid that reaches
            further to one side.
    """

    def __init__(
        self,
        robot: RobotCfg,
        cfg: ObservationCfg | None = None,
        *,
        task: Task | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        cfg = cfg or ObservationCfg()
        if not robot.mirror_joints:
            raise InputError(f"robot {robot.name!r} is not left-right symmetric: it has no mirror_joints")
        self._joints = torch.tensor(robot.mirror_joints, device=device)
        self._joint_signs = torch.tensor(robot.mirror_signs, device=device)
        self._legs = torch.tensor(robot.mirror_legs, device=device)
        self._vector = torch.tensor(VECTOR, device=device)
        self._gait = torch.tensor(GAIT, device=device)
        self._order, self._signs = self._proprio_map(robot, cfg, device)
        low, high, self._scan_columns = cfg.scan_y_m
        if abs(low + high) > 1e-6:
            raise InputError(
                f"scan_y_m reaches from {low} to {high} m; a mirrored scan wants it to be symmetric"
            )
        self._task_mirrors = {} if task is None else dict(task.mirrors)

    @staticmethod
    def _proprio_map(
        robot: RobotCfg, cfg: ObservationCfg, device: torch.device | str
    ) -> tuple[Tensor, Tensor]:
        """Which entry [P] each entry of the mirrored ``proprio`` is, and its sign [P]."""
        order: list[int] = []
        signs: list[float] = []
        for term in proprio_terms(robot, cfg):
            first = len(order)
            if term.name in _JOINT_TERMS:
                order += [first + joint for joint in robot.mirror_joints]
                signs += robot.mirror_signs
            elif term.name in _TERM_SIGNS:
                order += range(first, first + term.size)
                signs += _TERM_SIGNS[term.name]
            else:
                raise InputError(
                    f"observation term {term.name!r}: it is not known what it is to a mirrored robot"
                )
        return torch.tensor(order, device=device), torch.tensor(signs, device=device)

    def actions(self, action: Tensor) -> Tensor:
        """Actions (or joint positions, velocities, torques) [..., J] of the mirrored robot."""
        return action[..., self._joints] * self._joint_signs

    def legs(self, values: Tensor) -> Tensor:
        """Values of each leg [E, L, ...] of the mirrored robot; vectors want `VECTOR` too."""
        return values[:, self._legs]

    def observations(self, groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Observation groups of the mirrored robot in the mirrored world.

        Raises:
            InputError: a group whose mirror image is unknown.
        """
        return {name: self._group(name)(value) for name, value in groups.items()}

    def _group(self, name: str) -> Callable[[Tensor], Tensor]:
        if name in self._task_mirrors:
            return lambda v: self._task_mirrors[name](self, v)
        known: dict[str, Callable[[Tensor], Tensor]] = {
            "proprio": lambda v: v[..., self._order] * self._signs,
            "base_vel": lambda v: v * self._vector,
            "scan": self.scan,
            "gait": lambda v: v * self._gait,
        }
        if name in known:
            return known[name]
        if name in _IMAGES:
            return mirror_image
        if name in _UNCHANGED:
            return lambda v: v
        raise InputError(
            f"observation group {name!r}: it is not known what it is to a mirrored robot (`Task.mirrors`)"
        )

    def scan(self, values: Tensor) -> Tensor:
        """Values on the scan's grid [..., S], x major, of the mirrored robot."""
        return values.unflatten(-1, (-1, self._scan_columns)).flip(-1).flatten(-2)
