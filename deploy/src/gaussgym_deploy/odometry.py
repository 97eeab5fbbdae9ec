"""Where the robot is, from its joints and its IMU alone, and commands that follow a path from there.

Leg odometry: a foot that stands does not move, so that the base moves against it (``v = -(J q' + w x p)`` at the point of
contact, the foot's centre less its radius towards the ground: a ball foot rolls). Which feet stand is read off the joint torques.
Between and under the steps the accelerometer carries the velocity on. Heading is the IMU's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional, Sequence, Tuple

import numpy as np

from .bundle import BundleError, LegGeometry, PolicyBundle
from .operator import CommandSource, OperatorCommand
from .robot_io import LinkError, RobotState

__all__ = [
    "FollowerCfg",
    "GoalFollower",
    "LegChain",
    "LegOdometry",
    "LegOdometryCfg",
    "open_goal",
    "resample",
    "sport_position",
]

GRAVITY_M_S2 = 9.81
SPACING_M = 0.25
"""Distance of the points of a path, as in the scenes that policies are trained in [m]."""


class LegChain:
    """Forward kinematics of one leg."""

    def __init__(self, leg: LegGeometry) -> None:
        self.joints = np.array(leg.joints)
        self._radius_m = leg.foot_radius_m
        self._foot = np.array(leg.foot_m)
        self._links = [
            (np.array(origin), _matrix(np.array(quat)), np.array(axis))
            for origin, quat, axis in zip(leg.origins_m, leg.quats_wxyz, leg.axes)
        ]

    def contact(self, angles: np.ndarray, up_b: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Point where the foot would touch level ground, and its Jacobian.

        Args:
            angles: The leg's joint angles [rad], ``[n]``.
            up_b: World's up direction in base axes, ``[3]``.

        Returns:
            Position in the base frame [m] ``[3]``, and its derivative by the joint angles ``[3, n]`` (of the material point).
        """
        position, rotation = np.zeros(3), np.eye(3)
        origins, axes = [], []
        for (origin, fixed, axis), angle in zip(self._links, angles):
            position = position + rotation @ origin
            rotation = rotation @ fixed
            origins.append(position)
            axes.append(rotation @ axis)
            rotation = rotation @ _turn(axis, float(angle))
        point = position + rotation @ self._foot - self._radius_m * up_b
        columns = [np.cross(axis, point - origin) for axis, origin in zip(axes, origins)]
        return point, np.stack(columns, axis=1)


@dataclass(frozen=True)
class LegOdometryCfg:
    """Noise that the filter assumes.

    Attributes:
        acc_m_s2: Of the accelerometer, vibration and all, over one reading [m/s²]; 0.5 g where the robot has none.
        foot_m_s: Of the velocity by a foot that carries its full share [m/s].
        least_share: A foot that carries less than this share of the load is in the air.
        full_share: One that carries more counts in full.
        gate: A foot whose velocity is further off than so many standard deviations slips, or swings, and does not count.
        lost_s: After so long without any foot that counts, the next that carries load is believed [s].
        longest_gap_s: Readings further apart than this are not integrated over [s].
    """

    acc_m_s2: float = 1.0
    foot_m_s: float = 0.05
    least_share: float = 0.08
    full_share: float = 0.25
    gate: float = 3.0
    lost_s: float = 0.4
    longest_gap_s: float = 0.2


class LegOdometry:
    """Position of the base from joints and IMU.

    Args:
        bundle: Its ``legs`` give the kinematics.
        cfg: Weights.

    Attributes:
        position_w: [m], ``[3]``; heading and origin are those of the IMU and of :meth:`reset`.
        velocity_w: [m/s], ``[3]``.

    Raises:
        BundleError: The bundle says nothing of the legs.
    """

    def __init__(self, bundle: PolicyBundle, cfg: Optional[LegOdometryCfg] = None) -> None:
        if not bundle.legs:
            raise BundleError(
                f"{bundle.path}: says nothing of the robot's legs, which odometry needs; export the policy again"
            )
        self.cfg = cfg or LegOdometryCfg()
        self._legs = [LegChain(leg) for leg in bundle.legs]
        self.position_w, self.velocity_w = np.zeros(3), np.zeros(3)
        self._t_s: Optional[float] = None
        self._variance, self._lost_s = 0.01, 0.0

    def reset(self, position_w: Optional[np.ndarray] = None) -> None:
        """Begin anew at a position, at rest.

        Args:
            position_w: [m], ``[3]``; default: the origin.
        """
        self.position_w[:] = 0.0 if position_w is None else position_w
        self.velocity_w[:] = 0.0
        self._variance, self._lost_s = 0.01, 0.0
        self._t_s = None

    def update(self, state: RobotState) -> np.ndarray:
        """Account for a new state (the same one again changes nothing); returns ``position_w``."""
        if self._t_s is None:
            self._t_s = state.t_s
            return self.position_w
        dt_s = state.t_s - self._t_s
        if dt_s <= 0:
            return self.position_w
        self._t_s = state.t_s
        if dt_s > self.cfg.longest_gap_s:
            self.velocity_w[:] = 0.0
            return self.position_w
        rotation = _matrix(state.quat_wxyz)
        before = self.velocity_w.copy()
        noise = 0.5 * GRAVITY_M_S2
        if state.lin_acc_b is not None:
            self.velocity_w += dt_s * (rotation @ state.lin_acc_b - [0.0, 0.0, GRAVITY_M_S2])
            noise = self.cfg.acc_m_s2
        self._variance += (noise * dt_s) ** 2
        self._correct(state, rotation, dt_s)
        self.position_w += 0.5 * dt_s * (before + self.velocity_w)
        return self.position_w

    def _correct(self, state: RobotState, rotation: np.ndarray, dt_s: float) -> None:
        """Take in the velocity by each foot that stands (a Kalman filter whose three axes are alike)."""
        cfg, up_b = self.cfg, rotation[2]
        velocities, loads = [], []
        for leg in self._legs:
            point, jacobian = leg.contact(state.joint_pos[leg.joints], up_b)
            foot_b = jacobian @ state.joint_vel[leg.joints] + np.cross(state.ang_vel_b, point)
            velocities.append(-rotation @ foot_b)
            loads.append(max(_load(jacobian, state, leg, up_b), 0.0))
        self._lost_s += dt_s
        total = sum(loads)
        for load, velocity in sorted(zip(loads, velocities), key=lambda pair: -pair[0]):
            share = load / total if total > 0 else 0.0
            weight = min((share - cfg.least_share) / (cfg.full_share - cfg.least_share), 1.0)
            if weight <= 0:
                continue
            variance = (cfg.foot_m_s / weight) ** 2
            off = velocity - self.velocity_w
            believed = self._lost_s > cfg.lost_s
            if not believed and float(off @ off) > cfg.gate**2 * (self._variance + variance):
                continue
            if believed:
                self._variance = max(self._variance, 1.0)
            gain = self._variance / (self._variance + variance)
            self.velocity_w += gain * off
            self._variance *= 1.0 - gain
            self._lost_s = 0.0


def _load(jacobian: np.ndarray, state: RobotState, leg: LegChain, up_b: np.ndarray) -> float:
    """What a foot carries [N], from the joint torques; without these every foot counts alike, and the slip test must do."""
    if state.joint_torque is None:
        return 1.0
    # tau = -J^T f for the force f that the ground exerts on the foot, the leg's own weight left aside.
    force_b = np.linalg.lstsq(jacobian.T, -state.joint_torque[leg.joints], rcond=None)[0]
    return float(force_b @ up_b)


@dataclass(frozen=True)
class FollowerCfg:
    """The law that commands follow a path by; the defaults are those of training (``gaussgym_sim.mdp.commands.CommandCfg``),
    but for the radius: training's 0.5 m, reached by an odometry that is some centimetres off, would be missed as often as not.

    Attributes:
        lookahead_m: Distance along the path of the point that is steered at [m].
        heading_gain: Yaw rate by heading error [1/s].
        max_yaw_rate_rad_s: [rad/s].
        goal_radius_m: The robot has arrived when it is nearer to the end than this [m].
    """

    lookahead_m: float = 0.8
    heading_gain: float = 1.5
    max_yaw_rate_rad_s: float = 1.0
    goal_radius_m: float = 0.2


_WINDOW = range(-1, 7)
"""Path points among which the nearest is searched, relative to the last, as in training."""


class GoalFollower:
    """A :class:`CommandSource` that walks along a path to its end, and stands there.

    It is its own sign of life; with ``operator`` a person's emergency stop, mode and sign of life hold instead.

    Args:
        position: Gives the position [m] ``[2 or 3]`` from a state, in the path's frame: :func:`sport_position`, or
            :meth:`LegOdometry.update`.
        cfg: The law.
        operator: Somebody who may stop it.

    Attributes:
        arrived: Whether the goal is reached.
    """

    def __init__(
        self,
        position: Callable[[RobotState], np.ndarray],
        *,
        cfg: Optional[FollowerCfg] = None,
        operator: Optional[CommandSource] = None,
    ) -> None:
        self.cfg, self.operator, self.arrived = cfg or FollowerCfg(), operator, False
        self._position = position
        self._points = np.zeros((0, 2))
        self._relative = False
        self._wish = OperatorCommand()

    def start(self, path_m: np.ndarray, speed_m_s: float, *, relative: bool = False) -> None:
        """Follow a path from now on.

        Args:
            path_m: Points ``[P, 2]`` [m], about evenly spaced (see :func:`resample`).
            speed_m_s: Along it [m/s].
            relative: The path begins at the robot as it is found next, +X ahead of it; else it is in the position's frame.

        Raises:
            BundleError: A path without length.
        """
        points = np.asarray(path_m, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2 or not np.isfinite(points).all():
            raise BundleError(f"path of shape {list(points.shape)}, expected at least 2 finite points [P, 2]")
        length_m = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
        if length_m <= 0 or not speed_m_s > 0:
            raise BundleError(f"path of {length_m:g} m at {speed_m_s:g} m/s, expected both above 0")
        self._points, self._speed_m_s, self._relative = points, speed_m_s, relative
        self._ahead = max(round(self.cfg.lookahead_m / (length_m / (len(points) - 1))), 1)
        self._index, self.arrived = 0, False

    def read(self, state: RobotState, now_s: float) -> OperatorCommand:
        """See :class:`CommandSource`."""
        wish = self._wish
        if self.operator is None:
            wish.alive_s, wish.stop, wish.mode = now_s, None, None
        else:
            person = self.operator.read(state, now_s)
            wish.alive_s, wish.stop, wish.mode = person.alive_s, person.stop, person.mode
        position = self._position(state)
        wish.velocity[:] = 0.0
        if len(self._points):
            yaw = yaw_of(state.quat_wxyz)
            if self._relative:
                self._points, self._relative = _placed(self._points, position, yaw), False
            self._steer(position, yaw, wish.velocity)
        return wish

    def close(self) -> None:
        """See :class:`CommandSource`."""
        if self.operator is not None:
            self.operator.close()

    def _steer(self, position: np.ndarray, yaw: float, velocity: np.ndarray) -> None:
        cfg, points, last = self.cfg, self._points, len(self._points) - 1
        x, y = float(position[0]), float(position[1])
        near = sorted({min(max(self._index + step, 0), last) for step in _WINDOW})
        distances = [(points[i, 0] - x) ** 2 + (points[i, 1] - y) ** 2 for i in near]
        self._index = near[int(np.argmin(distances))]
        if np.hypot(points[last, 0] - x, points[last, 1] - y) < cfg.goal_radius_m:
            self.arrived = True
        if self.arrived:
            return
        target = points[min(self._index + self._ahead, last)]
        error = wrapped(np.arctan2(target[1] - y, target[0] - x) - yaw)
        velocity[0] = self._speed_m_s * max(
            np.cos(error), 0.0
        )  # facing away, walking on would leave the path: turn first
        velocity[2] = np.clip(cfg.heading_gain * error, -cfg.max_yaw_rate_rad_s, cfg.max_yaw_rate_rad_s)


def open_goal(
    bundle: PolicyBundle,
    waypoints: Sequence[float],
    by: str,
    speed_m_s: float,
    operator: Optional[CommandSource] = None,
) -> GoalFollower:
    """A follower from the robot's own place along waypoints.

    Args:
        bundle: The policy; its legs for odometry.
        waypoints: x y x y ... [m], ahead of and left of where the robot stands.
        by: ``odometry`` (the position that the robot reports) or ``legs`` (from joints and IMU).
        speed_m_s: [m/s].
        operator: Somebody who may stop it.

    Raises:
        BundleError: Waypoints without a length or of an odd count, an unknown odometry, a bundle without legs.
    """
    if by not in ("odometry", "legs"):
        raise BundleError(f"goal by {by!r}, expected odometry or legs")
    if len(waypoints) % 2:
        raise BundleError(f"a goal of {len(waypoints)} numbers, expected pairs x y")
    path = resample([[0.0, 0.0], *np.reshape(np.asarray(waypoints, dtype=np.float64), (-1, 2)).tolist()])
    follower = GoalFollower(
        sport_position if by == "odometry" else LegOdometry(bundle).update, operator=operator
    )
    follower.start(path, speed_m_s, relative=True)
    return follower


def sport_position(state: RobotState) -> np.ndarray:
    """Position by the robot's own odometry (Unitree's sport mode), for :class:`GoalFollower`.

    Raises:
        LinkError: The link reports none.
    """
    if state.position_w is None:
        raise LinkError("this robot link reports no position of its own; use odometry from the legs")
    return state.position_w


def resample(waypoints_m: Sequence[Sequence[float]], *, spacing_m: float = SPACING_M) -> np.ndarray:
    """Points about every ``spacing_m`` along the straight lines between waypoints, ends included.

    Args:
        waypoints_m: ``[W, 2]`` [m].
        spacing_m: [m].

    Raises:
        BundleError: Fewer than two different waypoints.
    """
    corners = np.asarray(waypoints_m, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 2:
        raise BundleError(f"waypoints of shape {list(corners.shape)}, expected at least two [x, y]")
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))])
    if not arc[-1] > 0:
        raise BundleError("all waypoints are the same; expected a path with a length")
    at = np.linspace(0.0, arc[-1], max(round(arc[-1] / spacing_m), 1) + 1)
    return np.stack([np.interp(at, arc, corners[:, axis]) for axis in (0, 1)], axis=1)


def yaw_of(quat_wxyz: np.ndarray) -> float:
    """Heading of an attitude [rad]."""
    w, x, y, z = (float(value) for value in quat_wxyz)
    return float(np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z)))


def wrapped(angle: float) -> float:
    """The same angle between -pi and pi [rad]."""
    return float((angle + np.pi) % (2.0 * np.pi) - np.pi)


def _placed(points: np.ndarray, position: np.ndarray, yaw: float) -> np.ndarray:
    cos, sin = np.cos(yaw), np.sin(yaw)
    return points @ np.array([[cos, sin], [-sin, cos]]) + np.asarray(position)[:2]


def _matrix(quat_wxyz: np.ndarray) -> np.ndarray:
    """Rotation matrix of a quaternion, normalized first."""
    w, x, y, z = quat_wxyz / np.linalg.norm(quat_wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _turn(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation by an angle about a unit axis (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross)
