"""Where the bodies of E robots are and how they move: forward kinematics from base and joints, for any physics backend.

A joint's transform is linear in sin q, 1 - cos q (hinges, Rodrigues) and q (slides), so that the poses of all bodies in their
parents are three fused products with constants, and the tree costs one batched product a level.
"""

from __future__ import annotations

import mujoco
import numpy as np
import torch
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray
from torch import Tensor

from gaussgym_sim.frames import matrix_from_quat
from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.robots.geoms import load_model

_HINGE, _SLIDE, _FREE = (
    int(t) for t in (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_FREE)
)


def _transform(position: NDArray[np.float64], quat_wxyz: NDArray[np.float64]) -> NDArray[np.float64]:
    rotation, pose = np.zeros(9), np.eye(4)
    mujoco.mju_quat2Mat(rotation, np.asarray(quat_wxyz, np.float64))
    pose[:3, :3], pose[:3, 3] = rotation.reshape(3, 3), position
    return pose


class _Tree:
    """The kinematic tree as a list of nodes, one a joint (a body without joints is one too), parents first, by level.

    Node n lies in its parent at `constants[0, n] + sin θ·constants[1, n] + (1 - cos θ)·constants[2, n] + d·constants[3, n]`,
    θ = q - q0 of a hinge, d = q - q0 of a slide. Node 0 is the base.
    """

    def __init__(self, robot: RobotCfg) -> None:
        self.model, self.robot = load_model(robot.mjcf), robot
        self.parent, self.joint, self.level = [-1], [-1], [0]
        self.constants = [np.zeros((4, 4, 4))]
        self.node_of_body = {self._base(): 0}
        for body in range(1, self.model.nbody):
            if body not in self.node_of_body:
                self._add(body)
        order = np.argsort(self.level, kind="stable")
        place = np.argsort(order)
        self.parents = np.array([place[p] if p >= 0 else -1 for p in self.parent])[order]
        self.joints = np.array(self.joint)[order]
        self.levels = np.array(self.level)[order]
        self.stacked = np.stack(self.constants, axis=1)[:, order]
        self.nodes = np.array([place[self.node_of_body[body]] for body in range(1, self.model.nbody)])

    def _base(self) -> int:
        free = np.flatnonzero(self.model.jnt_type == _FREE)
        if len(free) != 1:
            raise InputError(
                f"{self.robot.mjcf}: has {len(free)} free joints, expected one that carries the base"
            )
        return int(self.model.jnt_bodyid[free[0]])

    def _add(self, body: int) -> None:
        """Append a body's nodes, as `mj_kinematics` chains its joints."""
        model = self.model
        above = int(model.body_parentid[body])
        if above not in self.node_of_body:
            raise InputError(
                f"{self.robot.mjcf}: body {model.body(body).name!r} does not hang on the base; expected one tree"
            )
        node = self.node_of_body[above]
        fixed = _transform(model.body_pos[body], model.body_quat[body])
        first, count = int(model.body_jntadr[body]), int(model.body_jntnum[body])
        for joint in range(first, first + count) if count else [-1]:
            self.parent.append(node)
            self.level.append(self.level[node] + 1)
            self.constants.append(self._joint_constants(joint, fixed))
            self.joint.append(self._place_of(joint))
            node, fixed = len(self.parent) - 1, np.eye(4)
        self.node_of_body[body] = node

    def _place_of(self, joint: int) -> int:
        """The joint's place among the robot's joints, -1 for none."""
        if joint < 0:
            return -1
        name = self.model.joint(joint).name
        if name not in self.robot.joint_names:
            raise InputError(
                f"{self.robot.mjcf}: joint {name!r} is none of the robot's joint_names, so that its position is not known; "
                "expected every joint among them"
            )
        return self.robot.joint_names.index(name)

    def _joint_constants(self, joint: int, fixed: NDArray[np.float64]) -> NDArray[np.float64]:
        constants = np.zeros((4, 4, 4))
        constants[0] = fixed
        if joint < 0:
            return constants
        model, kind = self.model, int(self.model.jnt_type[joint])
        x, y, z = model.jnt_axis[joint]
        if kind == _HINGE:
            cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
            for power, matrix in ((1, cross), (2, cross @ cross)):
                constants[power, :3, :3] = fixed[:3, :3] @ matrix
                constants[power, :3, 3] = -constants[power, :3, :3] @ model.jnt_pos[joint]
        elif kind == _SLIDE:
            constants[3, :3, 3] = fixed[:3, :3] @ [x, y, z]
        else:
            name = model.joint(joint).name
            raise InputError(f"{self.robot.mjcf}: joint {name!r} is a ball joint; expected hinges and slides")
        return constants


class BodyKinematics:
    """Poses and velocities of a robot's bodies. Works in float64; its results are views that the next call overwrites.

    Args:
        robot: whose MJCF gives the tree; its free joint carries the base.
        max_envs: most robots a call.
        device: of all tensors.

    Attributes:
        body_names: B bodies, MuJoCo's without the world, in its order.

    Raises:
        InputError: not one tree on one free joint, a ball joint, or a joint that the robot does not name.
    """

    def __init__(self, robot: RobotCfg, max_envs: int, *, device: torch.device | str = "cpu") -> None:
        tree = _Tree(robot)
        model, count = tree.model, len(tree.joints)
        self.body_names = tuple(model.body(i).name for i in range(1, model.nbody))
        # A joint that is no body's column is a constant 0: the last column.
        columns = np.where(tree.joints >= 0, tree.joints, robot.num_joints)
        kinds = np.zeros(robot.num_joints + 1, np.int64) - 1
        zero = np.zeros(robot.num_joints + 1)
        for place, name in enumerate(robot.joint_names):
            joint = model.joint(name)
            kinds[place], zero[place] = joint.type[0], joint.qpos0[0]
        options = {"dtype": torch.float64, "device": device}
        self._columns = torch.as_tensor(columns, device=device)
        self._zero = torch.as_tensor(zero[columns], **options)[:, None]  # type: ignore[arg-type]
        self._hinge = torch.as_tensor(kinds[columns] == _HINGE, **options)[:, None]  # type: ignore[arg-type]
        self._slide = torch.as_tensor(kinds[columns] == _SLIDE, **options)[:, None]  # type: ignore[arg-type]
        self._constants = torch.as_tensor(tree.stacked, **options)[:, :, None]  # type: ignore[arg-type]
        self._levels = [
            (int(np.flatnonzero(tree.levels == n)[0]), int(np.flatnonzero(tree.levels == n)[-1]) + 1)
            for n in range(1, int(tree.levels.max()) + 1)
        ]
        self._parents = torch.as_tensor(np.maximum(tree.parents, 0), device=device)
        self._nodes = torch.as_tensor(tree.nodes, device=device)
        # Nodes come first, so that a level is one block of memory.
        self._local, self._world, self._rate, self._world_rate, self._scratch = (
            torch.zeros(count, max_envs, 4, 4, **options)  # type: ignore[arg-type]
            for _ in range(5)
        )
        bodies = len(self.body_names)
        self._poses = torch.zeros(bodies, max_envs, 4, 4, **options)  # type: ignore[arg-type]
        self._rates = torch.zeros(bodies, max_envs, 4, 4, **options)  # type: ignore[arg-type]
        self._twists = torch.zeros(max_envs, bodies, 6, **options)  # type: ignore[arg-type]

    def poses(self, root_pos_w: Tensor, root_quat_wxyz: Tensor, joint_pos: Tensor) -> Tensor:
        """Body to world.

        Args:
            root_pos_w: [R, 3] base origin [m].
            root_quat_wxyz: [R, 4] base to world.
            joint_pos: [R, J] in the robot's joint order [rad or m].

        Returns:
            [R, B, 4, 4] float64.
        """
        count = len(root_pos_w)
        angle = self._by_node(joint_pos) - self._zero
        slide, hinge = angle * self._slide, angle * self._hinge
        local, world = self._local[:, :count], self._world[:, :count]
        base, sine, cosine, along = self._constants
        torch.mul(torch.sin(hinge)[..., None, None], sine, out=local)
        local.addcmul_((1.0 - torch.cos(hinge))[..., None, None], cosine)
        local.addcmul_(slide[..., None, None], along)
        local += base
        world[0, :, :3, :3] = matrix_from_quat(root_quat_wxyz.double())
        world[0, :, :3, 3] = root_pos_w
        world[0, :, 3, 3] = 1.0
        for begin, end in self._levels:
            above = world.index_select(0, self._parents[begin:end])
            world[begin:end] = above @ local[begin:end]
        poses = self._poses[:, :count]
        poses.copy_(world[self._nodes])
        return poses.transpose(0, 1)

    def twists(
        self,
        root_lin_vel_b: Tensor,
        root_ang_vel_b: Tensor,
        joint_pos: Tensor,
        joint_vel: Tensor,
    ) -> Tensor:
        """Velocity of each body's frame, in that frame; of the robots whose `poses` were asked for last, in their order.

        Args:
            root_lin_vel_b: [R, 3] of the base's origin in the base frame [m/s].
            root_ang_vel_b: [R, 3] in the base frame [rad/s].
            joint_pos: [R, J].
            joint_vel: [R, J] [rad/s or m/s].

        Returns:
            [R, B, 6] float64, linear [m/s] then angular [rad/s].
        """
        count = len(root_lin_vel_b)
        hinge = (self._by_node(joint_pos) - self._zero) * self._hinge
        speed = self._by_node(joint_vel)
        _, sine, cosine, along = self._constants
        rate, world_rate = self._rate[:, :count], self._world_rate[:, :count]
        local, world, scratch = self._local[:, :count], self._world[:, :count], self._scratch[:, :count]
        turning = speed * self._hinge
        torch.mul((torch.cos(hinge) * turning)[..., None, None], sine, out=rate)
        rate.addcmul_((torch.sin(hinge) * turning)[..., None, None], cosine)
        rate.addcmul_((speed * self._slide)[..., None, None], along)
        base = world[0, :, :3, :3]
        for column in range(3):
            world_rate[0, :, :3, column] = torch.linalg.cross(
                (base @ root_ang_vel_b.double()[..., None])[..., 0], base[..., column]
            )
        world_rate[0, :, :3, 3] = (base @ root_lin_vel_b.double()[..., None])[..., 0]
        for begin, end in self._levels:
            parents = self._parents[begin:end]
            scratch[begin:end] = world_rate.index_select(0, parents) @ local[begin:end]
            world_rate[begin:end] = world.index_select(0, parents) @ rate[begin:end]
            world_rate[begin:end] += scratch[begin:end]
        # R^T dT: the skew matrix of the angular velocity, and the linear one.
        poses, rates = self._poses[:, :count], self._rates[:, :count]
        torch.matmul(
            poses[..., :3, :3].transpose(-1, -2), world_rate[self._nodes][..., :3, :], out=rates[..., :3, :]
        )
        twists = self._twists[:count]
        turned = rates.transpose(0, 1)
        twists[..., :3] = turned[..., :3, 3]
        for axis, (row, column) in enumerate(((2, 1), (0, 2), (1, 0))):
            twists[..., 3 + axis] = turned[..., row, column]
        return twists

    def _by_node(self, joints: Tensor) -> Tensor:
        """Values of the nodes' joints [N, R] out of [R, J]; what has no joint reads 0."""
        padded = torch.nn.functional.pad(joints.double(), (0, 1))
        return padded.t().index_select(0, self._columns)
