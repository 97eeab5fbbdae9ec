"""What the plain robot's sensors make of the truth: readings that come late, noise, an odometry that drifts."""

from __future__ import annotations

import numpy as np
from gaussgym_deploy.robot_io import RobotState
from gaussgym_deploy.simulated_robot import SimulatedRobotCfg
from gaussgym_scene.frames import matrix_from_quat_wxyz
from numpy.typing import NDArray

Floats = NDArray[np.float64]
GRAVITY_M_S2 = 9.81


class Readings:
    """The true readings of the last physics steps, in one ring; `late` is the row that a sensor shows now.

    Args:
        num_joints: J.
        latency_steps: physics steps between a reading and its publication.
        dt_s: a physics step [s].
    """

    def __init__(self, num_joints: int, latency_steps: int, dt_s: float) -> None:
        ends = np.cumsum([1, num_joints, num_joints, num_joints, 4, 3, 3, 3])
        self._columns = [slice(int(a), int(b)) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        self._rows = np.zeros((latency_steps + 1, int(ends[-1])))
        self._newest, self._dt_s = 0, dt_s

    def restart(self, *values: float | Floats) -> None:
        """A robot that has had these readings for ever, see `add`."""
        self._fill(self._rows[0], values)
        self._rows[1:] = self._rows[0]
        age = np.arange(len(self._rows))
        self._rows[(self._newest - age) % len(age), 0] -= age * self._dt_s

    def add(self, *values: float | Floats) -> None:
        """Readings after a physics step.

        Args:
            *values: time [s], joint positions [rad], velocities [rad/s] and torques [Nm] `[J]`, attitude `[4]`, angular velocity
                in base axes [rad/s] `[3]`, linear velocity in world axes [m/s] `[3]`, position [m] `[3]`.
        """
        self._newest = (self._newest + 1) % len(self._rows)
        self._fill(self._rows[self._newest], values)

    def late(self) -> list[Floats]:
        """The readings that are shown now, in the order of `add`; views."""
        row = self._rows[(self._newest + 1) % len(self._rows)]
        return [row[columns] for columns in self._columns]

    def _fill(self, row: Floats, values: tuple[float | Floats, ...]) -> None:
        for columns, value in zip(self._columns, values, strict=True):
            row[columns] = value


class Sensors:
    """From true readings to a `RobotState`.

    Args:
        cfg: latencies, noise, drift.
        state: to write into.
        dt_s: a physics step [s].
    """

    def __init__(self, cfg: SimulatedRobotCfg, state: RobotState, dt_s: float) -> None:
        joints = len(state.joint_pos)
        self.cfg, self.state = cfg, state
        self.readings = Readings(joints, round(1e-3 * cfg.state_latency_ms / dt_s), dt_s)
        state.lin_acc_b, state.joint_torque, state.position_w = np.zeros(3), np.zeros(joints), np.zeros(3)
        state.battery_fraction = 1.0  # a robot on the mains; motors that do not warm up say nothing
        self._rng = np.random.default_rng(cfg.seed)
        self._before: tuple[float, Floats, Floats] | None = None
        self._yaw_error_rad = 0.0

    def restart(self, *values: float | Floats) -> None:
        """A new episode that begins with these readings, see `Readings.add`."""
        self.readings.restart(*values)
        self._before, self._yaw_error_rad = None, 0.0

    def seed(self, number: int) -> None:
        """Draw the noise of episode ``number``, whatever was drawn before."""
        self._rng = np.random.default_rng([self.cfg.seed, number])

    def observe(self) -> None:
        """Fill the state from the readings that are shown now."""
        state = self.state
        time_s, joint_pos, joint_vel, torque, quat, ang_vel, lin_vel, position = self.readings.late()
        state.t_s = float(time_s[0])
        state.joint_pos[:], state.joint_vel[:], state.ang_vel_b[:] = joint_pos, joint_vel, ang_vel
        assert state.joint_torque is not None
        state.joint_torque[:] = torque
        self._accelerometer(state, quat, lin_vel)
        self._odometry(state, position, quat)
        self._before = (state.t_s, lin_vel.copy(), position.copy())
        self._add_noise(state)

    def _accelerometer(self, state: RobotState, quat: Floats, lin_vel: Floats) -> None:
        """Mean specific force since the last published state: what a filtered accelerometer of that rate reads."""
        force = np.array([0.0, 0.0, GRAVITY_M_S2])
        if self._before is not None and state.t_s > self._before[0]:
            force += (lin_vel - self._before[1]) / (state.t_s - self._before[0])
        assert state.lin_acc_b is not None
        state.lin_acc_b[:] = matrix_from_quat_wxyz(quat).T @ force

    def _odometry(self, state: RobotState, position: Floats, quat: Floats) -> None:
        """Position by the robot's own odometry: exact but for a wrong scale and a heading that drifts with the distance."""
        assert state.position_w is not None
        if self._before is None:
            state.position_w[:] = position
        else:
            moved = position - self._before[2]
            self._yaw_error_rad += self.cfg.yaw_drift_rad_per_m * float(np.hypot(moved[0], moved[1]))
            cos, sin = np.cos(self._yaw_error_rad), np.sin(self._yaw_error_rad)
            turned = np.array([cos * moved[0] - sin * moved[1], sin * moved[0] + cos * moved[1], moved[2]])
            state.position_w += self.cfg.odometry_scale * turned
        half = self._yaw_error_rad / 2
        state.quat_wxyz[:] = _product(np.array([np.cos(half), 0.0, 0.0, np.sin(half)]), quat)

    def _add_noise(self, state: RobotState) -> None:
        for name, values in (
            ("joint_pos_noise_rad", state.joint_pos),
            ("joint_vel_noise_rad_s", state.joint_vel),
            ("ang_vel_noise_rad_s", state.ang_vel_b),
            ("lin_acc_noise_m_s2", state.lin_acc_b),
        ):
            amplitude = self.cfg.amplitude(name)
            if amplitude > 0 and values is not None:
                values += self._rng.uniform(-amplitude, amplitude, len(values))
        amplitude = self.cfg.amplitude("attitude_noise_rad")
        if amplitude > 0:
            turn = np.concatenate([[1.0], 0.5 * self._rng.uniform(-amplitude, amplitude, 3)])
            state.quat_wxyz[:] = _product(state.quat_wxyz, turn / np.linalg.norm(turn))


def _product(a: Floats, b: Floats) -> Floats:
    """Hamilton product of two quaternions wxyz."""
    w, v = a[0] * b[0] - a[1:] @ b[1:], a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])
    return np.array([w, *v])
