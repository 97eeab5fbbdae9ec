"""The environments that stand in one scene: their `mujoco.batch.Batch`, and what is read from it every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from mujoco import batch
from numpy.typing import NDArray

from gaussgym_sim.engines.mujoco_bounce import FootBounces
from gaussgym_sim.engines.mujoco_kernels import (
    add_velocity,
    copy_contacts,
    copy_motion,
    mark_invalid,
    write_motion,
)
from gaussgym_sim.engines.mujoco_model import build_model, robot_bodies
from gaussgym_sim.ground.terrain import Ground
from gaussgym_sim.robot import RobotCfg

_BAD_STATE = np.array(
    [
        int(mujoco.mjtWarning.mjWARN_BADQPOS),
        int(mujoco.mjtWarning.mjWARN_BADQVEL),
        int(mujoco.mjtWarning.mjWARN_BADQACC),
    ]
)
_STATE = ("qpos", "qvel", "qacc_warmstart", "ctrl", "qfrc_applied", "xfrc_applied", "time")
"""Everything that a simulation's coming steps depend on, beside its model."""


@dataclass(frozen=True)
class JointColumns:
    """Where a robot's quantities lie in a model's arrays.

    Attributes:
        joints: of its joints in ``qpos``, ``qvel`` and ``ctrl``.
        foot_pos, foot_vel: [L, 3] in ``sensordata``.
        foot_contact: [L, 4] found, force.
        thigh: [L], trunk: [T] found.
    """

    joints: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
    foot_pos: NDArray[np.int64]
    foot_vel: NDArray[np.int64]
    foot_contact: NDArray[np.int64]
    thigh: NDArray[np.int64]
    trunk: NDArray[np.int64]

    @classmethod
    def of(cls, model: mujoco.MjModel, robot: RobotCfg) -> JointColumns:
        """Look them up by name."""
        joints = [model.joint(name) for name in robot.joint_names]

        def sensors(names: list[str]) -> NDArray[np.int64]:
            found = [model.sensor(name) for name in names]
            return np.array([np.arange(s.adr[0], s.adr[0] + s.dim[0]) for s in found], dtype=np.int64)

        legs = robot.leg_names
        return cls(
            (
                np.array([j.qposadr[0] for j in joints], dtype=np.int64),
                np.array([j.dofadr[0] for j in joints], dtype=np.int64),
                np.array([model.actuator(name).id for name in robot.joint_names], dtype=np.int64),
            ),
            sensors([f"{leg}_foot_pos" for leg in legs]),
            sensors([f"{leg}_foot_vel" for leg in legs]),
            sensors([f"{leg}_foot_contact" for leg in legs]),
            sensors([f"{leg}_thigh_contact" for leg in legs])[:, 0],
            sensors([f"{geom}_contact" for geom in robot.trunk_geoms])[:, 0],
        )


@dataclass
class StateBuffers:
    """The arrays behind `gaussgym_sim.vecsim.SimState`, by the same names."""

    root_pos_w: NDArray[np.float32]
    root_quat_wxyz: NDArray[np.float32]
    root_lin_vel_w: NDArray[np.float32]
    root_ang_vel_b: NDArray[np.float32]
    joint_pos: NDArray[np.float32]
    joint_vel: NDArray[np.float32]
    joint_torque: NDArray[np.float32]
    foot_pos_w: NDArray[np.float32]
    foot_vel_w: NDArray[np.float32]
    foot_force_w: NDArray[np.float32]
    foot_contact: NDArray[np.bool_]
    thigh_contact: NDArray[np.bool_]
    trunk_contact: NDArray[np.bool_]
    invalid: NDArray[np.bool_]

    @classmethod
    def zeros(cls, num_envs: int, num_joints: int, num_legs: int) -> StateBuffers:
        """Buffers for E robots."""

        def floats(*shape: int) -> NDArray[np.float32]:
            return np.zeros((num_envs, *shape), dtype=np.float32)

        def flags(*shape: int) -> NDArray[np.bool_]:
            return np.zeros((num_envs, *shape), dtype=bool)

        return cls(
            floats(3), floats(4), floats(3), floats(3), floats(num_joints), floats(num_joints), floats(num_joints),
            floats(num_legs, 3), floats(num_legs, 3), floats(num_legs, 3), flags(num_legs), flags(num_legs), flags(),
            flags(),
        )  # fmt: skip


class Slot:
    """One scene and its environments.

    Attributes:
        ground: the scene's.
        model: the robot on it.
        envs: [n] environments, ascending; row i of the batch is environment ``envs[i]``.
        batch: None while there are none.
        qpos, qvel, ctrl, sensors, wrench: views of the batch.
        moving: [m] rows that are not parked.
        base: the base's body.
        shapes: [S] geoms of the robot.
        feet: [L] of them.
    """

    def __init__(
        self,
        robot: RobotCfg,
        ground: Ground,
        envs: NDArray[np.int64],
        num_threads: int,
        *,
        model: mujoco.MjModel | None = None,
    ) -> None:
        """Compile the model where none is given."""
        self.robot, self.ground, self.envs, self._num_threads = (
            robot,
            ground,
            envs.astype(np.int64),
            num_threads,
        )
        self.model = build_model(robot, ground) if model is None else model
        self.base, *links = bodies = robot_bodies(self.model)
        self._links = np.array(links)
        self.shapes = np.flatnonzero(np.isin(self.model.geom_bodyid, bodies))
        self.feet = np.array([self.model.geom(name).id for name in robot.foot_geoms])
        self.every_row = np.arange(len(envs), dtype=np.int64)
        self.moving = self.every_row.astype(np.int32)
        self._expanded: dict[str, NDArray[np.float64]] = {}
        self._constants = np.zeros(len(envs), dtype=bool)  # rows with constants that were derived anew
        self.batch: Any = None
        if len(envs) == 0:
            return
        self.batch = batch.Batch(self.model, len(envs), min(num_threads, len(envs)))
        self.qpos, self.qvel = self.batch.bind("qpos"), self.batch.bind("qvel")
        self.ctrl, self.wrench = self.batch.bind("ctrl"), self.batch.bind("xfrc_applied")
        self.sensors = self.batch.bind("sensordata")
        self._warning = self.batch.warning

    def step_once(self, bad: NDArray[np.bool_]) -> None:
        """One substep; simulations in which MuJoCo raised an error keep their state and are marked in ``bad`` [E]."""
        try:
            self.batch.step(None if len(self.moving) == len(self.envs) else self.moving)
        except batch.SimulationError as error:
            bad[self.envs[np.asarray(error.ids)]] = True

    def follow_feet(self, bounces: FootBounces, found: NDArray[np.int64]) -> None:
        """After a substep: feet bounce in the next one, or do not; ``found`` [L] are their columns of the sensors."""
        bounces.apply(self.envs, self.sensors, found, self._field("geom_solref"), self.feet)

    def put_feet(self, rows: NDArray[np.int64], bounces: FootBounces) -> None:
        """Feet of rows [R] that were reset."""
        self._field("geom_solref")[rows[:, None], self.feet] = bounces.current(self.envs[rows])

    def find_invalid(self, bad: NDArray[np.bool_]) -> None:
        """Mark environments whose state is not finite, or of which MuJoCo said so, in ``bad`` [E]."""
        mark_invalid(self.envs, self.qpos, self.qvel, self._warning, _BAD_STATE, bad)

    def write(
        self, rows: NDArray[np.int64], picked: NDArray[np.int64], columns: JointColumns, motion: Sequence[NDArray[Any]]
    ) -> None:  # fmt: skip
        """Reset rows [R] and write the motion that ``motion`` has in its rows ``picked`` [R]; nothing follows from it yet.

        Args:
            rows: of the batch.
            picked: of the motion.
            columns: see `JointColumns`.
            motion: base position, quaternion, velocity and angular velocity, joint positions and velocities.
        """
        q, v, _ = columns.joints
        self.batch.reset(rows, stage=mujoco.mjtStage.mjSTAGE_NONE)
        arguments = [rows, picked, self.qpos, self.qvel, q, v, *motion]
        write_motion(*arguments)

    def kick(
        self, rows: NDArray[np.int64], picked: NDArray[np.int64], delta: NDArray[Any], first: int, buffer: NDArray[Any]
    ) -> None:  # fmt: skip
        """Add ``delta`` [R, 3], of which rows ``picked``, to a velocity of rows [R], and to its ``buffer`` [E, 3].

        Args:
            rows: of the batch.
            picked: of ``delta``.
            delta: [m/s] or [rad/s].
            first: column of ``qvel``.
            buffer: of all environments.
        """
        add_velocity(rows, self.envs, picked, delta, self.qvel, first, buffer)

    # ------------------------------------------------------------------ parameters

    def _field(self, name: str) -> NDArray[np.float64]:
        """Values [n, ...] of a model's field, from now on one for each row."""
        if name not in self._expanded:
            self._expanded[name] = self.batch.expand(name)
        return self._expanded[name]

    def set_params(
        self, rows: NDArray[np.int64], values: dict[str, NDArray[Any]], columns: JointColumns
    ) -> None:
        """Set parameters of rows [R]; those of actuators are not a model's, those of contacts come as ``solref`` [R, S, 2]."""
        row, dofs = rows[:, None], columns.joints[1]
        constants = False
        for name, value in values.items():
            if name == "friction":
                self._field("geom_friction")[row, self.shapes, 0] = value[:, None]
            elif name == "solref":
                self._field("geom_solref")[row, self.shapes] = value
            elif name == "gravity_w":
                self._field("opt.gravity")[rows] = value
            elif name == "joint_damping":
                self._field("dof_damping")[row, dofs] = value
            elif name == "joint_friction":
                self._field("dof_frictionloss")[row, dofs] = value
            else:
                constants = True
                self._set_inertia(name, rows, value, dofs)
        if constants:
            self.batch.set_const(rows)
            self._constants[rows] = True

    def _set_inertia(
        self, name: str, rows: NDArray[np.int64], value: NDArray[Any], dofs: NDArray[np.int64]
    ) -> None:
        """What MuJoCo derives constants from."""
        row, model = rows[:, None], self.model
        if name == "armature":
            self._field("dof_armature")[row, dofs] = value
        elif name == "trunk_com_b":
            self._field("body_ipos")[rows, self.base] = value
        elif name == "trunk_mass_kg":
            self._field("body_mass")[rows, self.base] = value
            factor = value / model.body_mass[self.base]
            self._field("body_inertia")[rows, self.base] = model.body_inertia[self.base] * factor[:, None]
        else:  # link_mass_factor
            self._field("body_mass")[row, self._links] = model.body_mass[self._links] * value
            self._field("body_inertia")[row, self._links] = model.body_inertia[self._links] * value[..., None]

    # ------------------------------------------------------------------ whole state

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """State, and the model's fields that differ between rows."""
        if self.batch is None:
            return {}
        state = {name: self.batch.bind(name).copy() for name in _STATE}
        state["derived_constants"] = self._constants.copy()
        return state | {f"model/{name}": values.copy() for name, values in self._expanded.items()}

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """Into a slot that nothing was set in."""
        self._take(state, np.arange(len(self.envs)), np.arange(len(self.envs)))

    def _take(
        self, state: dict[str, NDArray[Any]], rows: NDArray[np.int64], source: NDArray[np.int64]
    ) -> None:
        """Rows ``source`` of a state become rows ``rows`` here."""
        if len(rows) == 0:
            return
        for name, values in state.items():
            if name.startswith("model/"):
                self._field(name.removeprefix("model/"))[rows] = values[source]
        derived = rows[state["derived_constants"][source]]
        if len(derived):
            self.batch.set_const(derived)
            self._constants[derived] = True
        for name in _STATE:
            self.batch.bind(name)[rows] = state[name][source]

    def with_envs(self, envs: NDArray[np.int64], *, fresh: NDArray[np.int64] | None = None) -> Slot:
        """The same scene with other environments: those that it has already go on as they are, except ``fresh`` ones."""
        other = Slot(self.robot, self.ground, envs, self._num_threads, model=self.model)
        stay = np.intersect1d(self.envs, envs)
        if fresh is not None:
            stay = np.setdiff1d(stay, fresh)
        if len(stay):
            other._take(self.state_dict(), np.searchsorted(envs, stay), np.searchsorted(self.envs, stay))
        return other


def read_state(
    slot: Slot,
    rows: NDArray[np.int64],
    columns: JointColumns,
    torque: NDArray[np.float64],
    out: StateBuffers,
    *,
    contacts: bool,
) -> None:
    """Copy rows of a slot into the state buffers; without ``contacts`` these, and torques, read zero.

    Args:
        slot: where the environments stand.
        rows: [R] which.
        columns: see `JointColumns`.
        torque: [E, J] of the actuators [Nm].
        out: of all environments.
        contacts: whether the sensors of contact are current.
    """
    envs = slot.envs if rows is slot.every_row else slot.envs[rows]
    copy_motion(
        rows, envs, slot.qpos, slot.qvel, slot.sensors, columns.joints[0], columns.joints[1], columns.foot_pos,
        columns.foot_vel, out.root_pos_w, out.root_quat_wxyz, out.root_lin_vel_w, out.root_ang_vel_b, out.joint_pos,
        out.joint_vel, out.foot_pos_w, out.foot_vel_w,
    )  # fmt: skip
    if contacts:
        copy_contacts(
            rows, envs, slot.sensors, torque, columns.foot_contact, columns.thigh, columns.trunk, out.joint_torque,
            out.foot_force_w, out.foot_contact, out.thigh_contact, out.trunk_contact,
        )  # fmt: skip
        return
    for array in (
        out.joint_torque, out.foot_force_w, out.foot_contact, out.thigh_contact, out.trunk_contact, out.invalid,
    ):  # fmt: skip
        array[envs] = 0
