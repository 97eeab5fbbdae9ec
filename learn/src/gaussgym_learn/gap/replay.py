"""Short pieces of a recording replayed in plain MuJoCo: each begins in a recorded state and takes the recorded commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mujoco
import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import matrix_from_quat_wxyz
from gaussgym_scene.heightfield import Heightfield
from gaussgym_sim.engines.mujoco_model import build_model, robot_bodies
from gaussgym_sim.engines.mujoco_slot import JointColumns
from gaussgym_sim.ground.terrain import Ground
from gaussgym_sim.robot import RobotCfg
from numpy.typing import NDArray

from gaussgym_learn.gap.recording import Array, Recording

_ROOT, _ROOT_V = 7, 6
_GRAVITY = np.array([0.0, 0.0, 9.81])
SUBSTEP_S = 0.002
"""Physics step of a replay [s]. Not training's 5 ms: a robot's motors work continuously, and explicit damping in coarse steps
would read as friction that is not there (0.2 N·m·s/rad as 0.24)."""
SLIDING = 0.98
"""A foot slides when its tangential force is this share of what friction can hold."""


@dataclass(frozen=True)
class Physics:
    """What a replay can differ in from the nominal robot.

    Attributes:
        delay_s: from sending a command to its effect.
        strength: factor on each motor's torque.
        joint_friction_nm: dry friction of each joint [N·m].
        joint_damping_nms: viscous friction of each joint [N·m·s/rad].
        ground_friction: sliding friction of the robot's shapes.
    """

    delay_s: float = 0.0
    strength: float = 1.0
    joint_friction_nm: float = 0.0
    joint_damping_nms: float = 0.0
    ground_friction: float = 1.0


@dataclass(frozen=True)
class Segments:
    """Which pieces are replayed: `N` of them, `H` intervals long.

    Attributes:
        first: number of the state in which each begins, `[N]`.
        horizon: intervals between states, `H`.
    """

    first: NDArray[np.int64]
    horizon: int

    def __len__(self) -> int:
        """Number of segments."""
        return len(self.first)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Numbers of the states that a replay is compared with, `[N, H]`."""
        return self.first[:, None] + np.arange(1, self.horizon + 1)

    def some(self, count: int) -> Segments:
        """At most so many, spread evenly."""
        if len(self) <= count:
            return self
        return replace(self, first=self.first[np.linspace(0, len(self) - 1, count).round().astype(int)])


@dataclass(frozen=True)
class Starts:
    """Where the base is at the beginning of each segment, `N` of them; the rest of a start is in the recording.

    Attributes:
        position_w: [m], `[N, 3]`.
        velocity_w: [m/s], `[N, 3]`.
    """

    position_w: Array
    velocity_w: Array


@dataclass(frozen=True)
class Traces:
    """What a replay gives, at the recorded states' times: `[N, H, ...]`, names and units as in `Recording`.

    ``lin_acc_b`` is the mean over the interval before, as a filtered accelerometer reads it.

    Attributes:
        sliding: of each foot, whether it slides on the ground, `[N, H, L]`.
        used_friction: of each foot, tangential over normal force; 0 in the air, `[N, H, L]`.
    """

    joint_pos: Array
    joint_vel: Array
    joint_torque: Array
    quat_wxyz: Array
    ang_vel_b: Array
    lin_acc_b: Array
    sliding: NDArray[np.bool_]
    used_friction: Array


def choose_segments(recording: Recording, *, horizon: int, count: int) -> Segments:
    """Segments in which motors were driven, spread evenly over the recording and without overlap.

    Args:
        recording: what to replay.
        horizon: intervals a segment.
        count: at most so many segments.

    Raises:
        InputError: there is none.
    """
    known_from_s = recording.sent_s[0] + 0.1  # the longest delay looks this far back
    driven = np.interp(recording.t_s, recording.sent_s, recording.kp.max(axis=1)) > 0
    first = np.arange(0, len(recording) - horizon, horizon)
    last = first + horizon
    good = recording.piece[first] == recording.piece[last]
    good &= (recording.t_s[first] >= known_from_s) & (recording.t_s[last] <= recording.sent_s[-1] + 0.05)
    windows = np.lib.stride_tricks.sliding_window_view(driven, horizon + 1)
    good &= windows[first].all(axis=1)
    if not good.any():
        raise InputError(
            f"{recording.path}: no {horizon} control steps in a row in which the motors were driven; record longer, standing or"
            " walking"
        )
    return Segments(first[good], horizon).some(count)


class Replay:
    """A robot on a ground that replays segments of a recording.

    Args:
        recording: what was measured and commanded.
        robot: the robot's description.
        ground: what it stands on.
        segments: which pieces.
        substep_s: physics step [s]; each interval between states is divided into equal steps of about this length.

    Attributes:
        nominal: the robot's own model.

    Raises:
        InputError: the recording's joints are not the robot's.
    """

    def __init__(
        self,
        recording: Recording,
        robot: RobotCfg,
        ground: Ground,
        segments: Segments,
        *,
        substep_s: float = SUBSTEP_S,
    ) -> None:
        if recording.joint_names != robot.joint_names:
            raise InputError(
                f"{recording.path}: joints {', '.join(recording.joint_names[:3])} ..., robot {robot.name!r} has"
                f" {', '.join(robot.joint_names[:3])} ...; record with this robot's joint order"
            )
        self.recording, self.robot, self.segments = recording, robot, segments
        self.model = build_model(robot, ground)
        self.data = mujoco.MjData(self.model)
        self.field: Heightfield = ground.heightfield
        self._columns = JointColumns.of(self.model, robot)
        self._limit = np.array(robot.torque_limit_nm)
        geoms = [self.model.geom(name).id for name in robot.foot_geoms]
        self._foot_of_geom = {geom: foot for foot, geom in enumerate(geoms)}
        self._shapes = np.flatnonzero(np.isin(self.model.geom_bodyid, robot_bodies(self.model)))
        dofs = self._columns.joints[1]
        self.nominal = Physics(
            joint_friction_nm=float(np.mean(self.model.dof_frictionloss[dofs])),
            joint_damping_nms=float(np.mean(self.model.dof_damping[dofs])),
            ground_friction=float(self.model.geom_friction[self._shapes[0], 0]),
        )
        self._divide(substep_s)
        self._integrals = _Integrals(recording)

    def _divide(self, substep_s: float) -> None:
        """Lay out the substeps of all segments one behind the other."""
        t_s, rows = self.recording.t_s, self.segments.rows
        begin_s, end_s = t_s[rows - 1], t_s[rows]
        self._count = np.maximum(1, np.round((end_s - begin_s) / substep_s)).astype(int)  # [N, H]
        self._step_s = (end_s - begin_s) / self._count
        total = int(self._count.sum())
        interval = np.repeat(np.arange(self._count.size), self._count.ravel())
        within = np.arange(total) - np.repeat(
            np.cumsum(self._count.ravel()) - self._count.ravel(), self._count.ravel()
        )
        step_s = self._step_s.ravel()[interval]
        self._from_s = begin_s.ravel()[interval] + within * step_s
        self._to_s = self._from_s + step_s

    def run(self, physics: Physics, starts: Starts, *, contacts: bool = False) -> Traces:
        """Replay all segments.

        Args:
            physics: of this replay.
            starts: where the base begins.
            contacts: whether to look at the feet's contacts as well (slower).
        """
        count, horizon, joints = len(self.segments), self.segments.horizon, self.robot.num_joints
        self._apply(physics)
        stiff, gain, damp = self._integrals.averages(
            self._from_s - physics.delay_s, self._to_s - physics.delay_s
        )
        scaled = [x * physics.strength for x in (stiff, gain, damp)]
        feet = len(self.robot.foot_geoms)
        sizes = {"joint_pos": joints, "joint_vel": joints, "joint_torque": joints, "quat_wxyz": 4}
        sizes |= {"ang_vel_b": 3, "lin_acc_b": 3, "used_friction": feet}
        arrays = {name: np.zeros((count, horizon, size)) for name, size in sizes.items()}
        out = Traces(sliding=np.zeros((count, horizon, feet), dtype=bool), **arrays)
        substep = 0
        for number in range(count):
            self._begin(number, starts)
            for k in range(horizon):
                steps = int(self._count[number, k])
                self.model.opt.timestep = self._step_s[number, k]
                torque = self._advance(*(x[substep : substep + steps] for x in scaled))
                substep += steps
                self._read(out, number, k, torque)
                if contacts:
                    self._read_contacts(out, number, k, physics.ground_friction)
        velocity = np.concatenate((starts.velocity_w[:, None], out.lin_acc_b), axis=1)
        force = np.diff(velocity, axis=1) / (self._step_s * self._count)[..., None] + _GRAVITY
        out.lin_acc_b[:] = (force[..., None, :] @ matrix_from_quat_wxyz(out.quat_wxyz))[..., 0, :]
        return out

    def _apply(self, physics: Physics) -> None:
        dofs, model = self._columns.joints[1], self.model
        model.dof_frictionloss[dofs] = physics.joint_friction_nm
        model.dof_damping[dofs] = physics.joint_damping_nms
        model.geom_friction[self._shapes, 0] = physics.ground_friction

    def _begin(self, number: int, starts: Starts) -> None:
        data, recording, row = self.data, self.recording, self.segments.first[number]
        q, v, _ = self._columns.joints
        mujoco.mj_resetData(self.model, data)
        data.qpos[:3] = starts.position_w[number]
        data.qpos[3:_ROOT] = recording.quat_wxyz[row] / np.linalg.norm(recording.quat_wxyz[row])
        data.qvel[:3] = starts.velocity_w[number]
        data.qvel[3:_ROOT_V] = recording.ang_vel_b[row]
        data.qpos[q], data.qvel[v] = recording.joint_pos[row], recording.joint_vel[row]

    def _advance(self, stiff: Array, gain: Array, damp: Array) -> Array:
        """Physics through one interval; torque = stiff - gain q - damp qd, row by row; returns the last."""
        model, data, limit = self.model, self.data, self._limit
        q, v, u = self._columns.joints
        qpos, qvel, ctrl = data.qpos, data.qvel, data.ctrl
        torque = np.zeros(len(q))
        for i in range(len(stiff)):
            torque = stiff[i] - gain[i] * qpos[q] - damp[i] * qvel[v]
            np.minimum(np.maximum(torque, -limit, out=torque), limit, out=torque)
            ctrl[u] = torque
            mujoco.mj_step(model, data)
        return torque

    def _read(self, out: Traces, number: int, k: int, torque: Array) -> None:
        data = self.data
        q, v, _ = self._columns.joints
        out.joint_pos[number, k], out.joint_vel[number, k] = data.qpos[q], data.qvel[v]
        out.joint_torque[number, k] = torque
        out.quat_wxyz[number, k], out.ang_vel_b[number, k] = data.qpos[3:_ROOT], data.qvel[3:_ROOT_V]
        out.lin_acc_b[number, k] = data.qvel[:3]  # `run` makes accelerations of all of them at once

    def _read_contacts(self, out: Traces, number: int, k: int, friction: float) -> None:
        data, force = self.data, np.zeros(6)
        for index in range(data.ncon):
            geoms = data.contact.geom[index]
            foot = self._foot_of_geom.get(int(geoms[0]), self._foot_of_geom.get(int(geoms[1])))
            if foot is None:
                continue
            mujoco.mj_contactForce(self.model, data, index, force)
            if force[0] > 1.0:  # N; less is a touch
                used = float(np.hypot(force[1], force[2]) / force[0])
                out.used_friction[number, k, foot] = max(used, out.used_friction[number, k, foot])
                out.sliding[number, k, foot] |= used >= SLIDING * friction

    def feet(self, row: int, position_w: Array) -> tuple[Array, Array]:
        """Feet in one recorded state with the base at a place and not moving along.

        Args:
            row: number of the state.
            position_w: of the base [m], `[3]`.

        Returns:
            Heights of the soles over the ground [m], `[L]`, and velocities in the world [m/s], `[L, 3]`.
        """
        data, recording = self.data, self.recording
        q, v, _ = self._columns.joints
        mujoco.mj_resetData(self.model, data)
        data.qpos[:3], data.qpos[3:_ROOT] = position_w, recording.quat_wxyz[row]
        data.qpos[q], data.qvel[v] = recording.joint_pos[row], recording.joint_vel[row]
        data.qvel[3:_ROOT_V] = recording.ang_vel_b[row]
        mujoco.mj_forward(self.model, data)
        centre = data.sensordata[self._columns.foot_pos]
        ground = self.field.sample(centre[:, :2])
        return centre[:, 2] - self.robot.foot_radius_m - ground, data.sensordata[self._columns.foot_vel]


class _Integrals:
    """Commands as running integrals over time, so that their mean over any interval is one subtraction."""

    def __init__(self, recording: Recording) -> None:
        times, kp, kd = recording.sent_s, recording.kp, recording.kd
        values: Sequence[Array] = (kp * recording.target, kp, kd)
        self._times, self._values = times, np.concatenate(values, axis=1)
        rows = self._values[:-1] * np.diff(times)[:, None]
        self._sums = np.concatenate((np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0)))
        self._joints = kp.shape[1]

    def _until(self, at_s: Array) -> Array:
        index = np.clip(np.searchsorted(self._times, at_s, side="right") - 1, 0, len(self._times) - 1)
        return self._sums[index] + self._values[index] * (at_s - self._times[index])[:, None]

    def averages(self, from_s: Array, to_s: Array) -> tuple[Array, Array, Array]:
        """Means of kp·target, kp and kd over intervals `[M]`, each `[M, J]`; a command holds until the next."""
        mean = (self._until(to_s) - self._until(from_s)) / (to_s - from_s)[:, None]
        j = self._joints
        return mean[:, :j], mean[:, j : 2 * j], mean[:, 2 * j :]


def estimate_starts(replay: Replay) -> Starts:
    """Place and velocity of the base in the first states of all segments.

    With odometry: its position, and a difference quotient over the neighbours. Without: anywhere, with the lowest foot on the
    ground, and (also with odometry that comes more rarely than states) the velocity with which the lowest feet stand still. Feet
    that odometry puts more than 2 cm off the ground are put onto it (odometry drifts).
    """
    recording, first = replay.recording, replay.segments.first
    position, velocity = np.zeros((len(first), 3)), np.zeros((len(first), 3))
    for number, row in enumerate(first):
        place = np.zeros(3) if recording.position_w is None else recording.position_w[row].copy()
        height, foot_vel = replay.feet(int(row), place)
        if recording.position_w is None or abs(height.min()) > 0.02:
            place[2] -= height.min()
        position[number] = place
        if recording.position_w is None or not recording.steady_odometry:
            weight = np.exp(-(((height - height.min()) / 0.01) ** 2))
            velocity[number] = -(weight @ foot_vel) / weight.sum()
        else:
            velocity[number] = _slope(recording, recording.position_w, int(row))
    return Starts(position, velocity)


def _slope(recording: Recording, values: Array, row: int) -> Array:
    """Rate of change at a state, from its neighbours of the same piece (second order, also for uneven intervals)."""
    before = row - 1 if row > 0 and recording.piece[row - 1] == recording.piece[row] else row
    after = row + 1
    t_s = recording.t_s
    if before == row:
        return (values[after] - values[row]) / (t_s[after] - t_s[row])
    back, ahead = t_s[row] - t_s[before], t_s[after] - t_s[row]
    left, right = (values[row] - values[before]) / back, (values[after] - values[row]) / ahead
    return (left * ahead + right * back) / (back + ahead)
