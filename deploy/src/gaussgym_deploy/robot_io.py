"""The link between the runtime and a robot: what is read, what is written, and a bench robot to try it on.

A robot is anything with :class:`RobotIO`'s three methods. Joint order, units and signs are those of the policy
bundle (FR, FL, RR, RL x hip, thigh, calf for the quadrupeds); a link converts at its own edge, once.

Two clocks meet here. ``RobotState.t_s`` and ``RobotState.rgb_t_s`` are the *robot's* clock; the runtime measures the
age of a state by its own monotonic clock (how long ``t_s`` has not moved), so that the two need no common zero.
"""

from __future__ import annotations

import importlib
import inspect
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Protocol, Sequence, Tuple

import numpy as np

if TYPE_CHECKING:
    from .bundle import PolicyBundle

__all__ = [
    "DAMPING_KD",
    "ROBOT_LINKS",
    "BenchRobot",
    "JointCommand",
    "LinkError",
    "RobotIO",
    "RobotState",
    "SupervisorGone",
    "open_robot",
]

AMBIENT_C, HEATING_C_PER_S_N2M2, COOLING_S = 25.0, 0.02, 60.0
FULL_BATTERY, BATTERY_S = 1.0, 3600.0
GRAVITY_M_S2 = 9.81
DAMPING_KD = 3.0
"""Derivative gain of the damping command [N·m·s/rad] (the quadruped makers' own passive mode uses 3)."""


class LinkError(OSError):
    """The link to the robot is broken: peer gone, no answer in time, or it speaks another format."""


class SupervisorGone(LinkError):
    """The supervisor process is dead: nobody is left who could send anything, the robot's own time-out must damp it."""


@dataclass
class RobotState:
    """What the robot measured at one moment. ``J`` is the number of joints (12 for the quadrupeds).

    A link may hand out the same object with the same arrays at every ``read()``: copy what must outlive the next one.

    Attributes:
        t_s: Time of the measurement on the robot's clock [s]; grows strictly from one new state to the next.
        joint_pos: Joint angles [rad], float64 ``[J]``.
        joint_vel: Joint velocities [rad/s], float64 ``[J]``.
        quat_wxyz: Attitude of the base in the world, unit quaternion (maps base vectors to world vectors), ``[4]``.
        ang_vel_b: Angular velocity of the base in base axes [rad/s] (a gyroscope's reading), ``[3]``.
        command: What the robot is asked to do: v_x, v_y [m/s] and yaw rate [rad/s] in base axes, ``[3]``.
        rgb: Latest camera frame, uint8 ``[H, W, 3]``, or None where there is no camera or no frame yet.
        rgb_t_s: When that frame was taken, robot's clock [s]; ``-inf`` where ``rgb`` is None.
        lin_acc_b: Specific force at the IMU in base axes [m/s²] (an accelerometer's reading; +9.81 up at rest), ``[3]``, or None.
        joint_torque: Estimated joint torques [N·m], ``[J]``, or None where the robot does not say.
        motor_temperature_c: [°C], ``[J]``, or None.
        battery_fraction: State of charge, 0 ... 1; NaN where the robot does not say.
        position_w: Base position by the robot's own odometry [m], ``[3]``, or None; its frame and drift are the robot's.
        remote: Packet of the maker's remote control as it came (Unitree: 40 bytes), uint8, or None.
        corrupt: States that the link has thrown away so far (bad CRC, wrong layout, not a number where the wire forbids it).
        out_of_order: States that came late and were thrown away so far.
        rival_writers: Other writers that the link sees on the command channel now.
        round_trip_s: From sending a command to the first state that knows of it, the newest one measured [s]; NaN where the
            link does not say.
        supervisor_fault: Why the supervisor between runtime and robot damps and takes no more commands; empty: it does not.
    """

    t_s: float
    joint_pos: np.ndarray
    joint_vel: np.ndarray
    quat_wxyz: np.ndarray
    ang_vel_b: np.ndarray
    command: np.ndarray
    rgb: Optional[np.ndarray] = None
    rgb_t_s: float = float("-inf")
    lin_acc_b: Optional[np.ndarray] = None
    joint_torque: Optional[np.ndarray] = None
    motor_temperature_c: Optional[np.ndarray] = None
    battery_fraction: float = float("nan")
    position_w: Optional[np.ndarray] = None
    remote: Optional[np.ndarray] = None
    corrupt: int = 0
    out_of_order: int = 0
    rival_writers: int = 0
    round_trip_s: float = float("nan")
    supervisor_fault: str = ""

    @classmethod
    def zeros(cls, num_joints: int) -> RobotState:
        """A state at rest, upright, at time 0, without an image."""
        return cls(
            t_s=0.0,
            joint_pos=np.zeros(num_joints),
            joint_vel=np.zeros(num_joints),
            quat_wxyz=np.array([1.0, 0.0, 0.0, 0.0]),
            ang_vel_b=np.zeros(3),
            command=np.zeros(3),
        )


@dataclass
class JointCommand:
    """Position targets and gains; the robot applies ``tau = kp (q - joint_pos) - kd joint_vel`` at its own high rate.

    Attributes:
        q: Target angles [rad], ``[J]``.
        kp: Stiffness [N·m/rad], ``[J]``.
        kd: Damping [N·m·s/rad], ``[J]``.
    """

    q: np.ndarray
    kp: np.ndarray
    kd: np.ndarray

    @classmethod
    def zeros(cls, num_joints: int) -> JointCommand:
        """No stiffness, no damping: zero torque."""
        return cls(q=np.zeros(num_joints), kp=np.zeros(num_joints), kd=np.zeros(num_joints))


class RobotIO(Protocol):
    """What the runtime needs of a robot."""

    def read(self) -> RobotState:
        """Return the newest state; must not block longer than a control period (lockstep links excepted).

        Raises:
            LinkError: When the robot is gone.
        """
        ...

    def write(self, command: JointCommand) -> None:
        """Send one command; the robot holds it until the next.

        Raises:
            LinkError: When the robot is gone.
        """
        ...

    def close(self) -> None:
        """Let go of the link; may be called twice."""
        ...


class BenchRobot:
    """Twelve independent second-order joints on a base that is held upright: a robot for the desk.

    ``inertia q'' = clip(kp (q* - q) - kd q', +-torque_limit) - friction q'``, semi-implicit Euler at ``substep_s``.
    It runs on the clock that it is given: every ``read()`` first integrates up to now. Like a real motor board it
    falls back to damping when no command has come for ``command_timeout_s``. It starts lying, at ``start_joint_pos``.
    Its motors warm up, ``T' = 0.02 tau² - (T - 25 °C) / 60 s``, and its battery lasts an hour.

    Args:
        num_joints: Number of joints.
        torque_limit: Largest joint torque [N·m], scalar or ``[J]``.
        start_joint_pos: First angles [rad], ``[J]``.
        joint_pos_limit: Mechanical end stops [rad], ``[J, 2]``, without bounce; None: joints turn on.
        command: The constant velocity command that it reports, ``[3]``.
        camera_size_wh: Width and height of its camera [px], or None for a robot without one.
        camera_hz: Camera rate [1/s].
        inertia: Joint inertia [kg·m²].
        friction: Viscous friction [N·m·s/rad].
        substep_s: Integration step [s].
        command_timeout_s: Silence after which it damps [s].
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        num_joints: int = 12,
        *,
        torque_limit: Any = 23.7,
        start_joint_pos: Optional[np.ndarray] = None,
        joint_pos_limit: Optional[np.ndarray] = None,
        command: Sequence[float] = (0.5, 0.0, 0.0),
        camera_size_wh: Optional[Tuple[int, int]] = None,
        camera_hz: float = 10.0,
        inertia: float = 0.05,
        friction: float = 0.1,
        substep_s: float = 0.001,
        command_timeout_s: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.command_timeout_s = command_timeout_s
        self.timeouts = 0
        self._clock = clock
        self._start_s = clock()
        self._steps = 0
        self._substep_s = substep_s
        self._inertia = inertia
        self._friction = friction
        self._torque_limit = np.broadcast_to(np.asarray(torque_limit, dtype=np.float64), (num_joints,))
        self._torque = np.zeros(num_joints)
        self._scratch = np.zeros(num_joints)
        self._command = JointCommand.zeros(num_joints)
        self._command_s = -np.inf
        self._damping_kd = np.full(num_joints, DAMPING_KD)
        self._state = RobotState.zeros(num_joints)
        self._state.command[:] = command
        if start_joint_pos is not None:
            self._state.joint_pos[:] = start_joint_pos
        self._stops = (
            None if joint_pos_limit is None else (joint_pos_limit[:, 0].copy(), joint_pos_limit[:, 1].copy())
        )
        self._state.joint_torque = self._applied = np.zeros(num_joints)
        self._state.motor_temperature_c = self._temperature_c = np.full(num_joints, AMBIENT_C)
        self._state.lin_acc_b = np.array([0.0, 0.0, GRAVITY_M_S2])
        self._state.battery_fraction = FULL_BATTERY
        self._camera_period_s = 1.0 / camera_hz
        self._frame = None if camera_size_wh is None else _test_card(*camera_size_wh)

    def read(self) -> RobotState:
        """Integrate up to now and return the state (the same object every time)."""
        elapsed_s = self._clock() - self._start_s
        target = int(elapsed_s / self._substep_s)
        # After a long pause (a debugger, a suspended laptop) integrate one second, not hours.
        self._steps = max(self._steps, target - int(1.0 / self._substep_s))
        elapsed = max(target - self._steps, 0)
        while self._steps < target:
            self._substep()
        self._use_up(elapsed * self._substep_s)
        self._state.t_s = self._steps * self._substep_s
        if self._frame is not None:
            frame_number = int(self._state.t_s / self._camera_period_s + 1e-9)
            if self._state.rgb is None or frame_number * self._camera_period_s > self._state.rgb_t_s + 1e-9:
                self._state.rgb = np.roll(self._frame, frame_number, axis=1)
                self._state.rgb_t_s = frame_number * self._camera_period_s
        return self._state

    def write(self, command: JointCommand) -> None:
        """Hold this command from now on."""
        self._command.q[:] = command.q
        self._command.kp[:] = command.kp
        self._command.kd[:] = command.kd
        self._command_s = self._steps * self._substep_s

    def close(self) -> None:
        """Nothing to let go of."""

    def _substep(self) -> None:
        state, torque, scratch = self._state, self._torque, self._scratch
        if self._steps * self._substep_s - self._command_s > self.command_timeout_s:
            self.timeouts += int(np.isfinite(self._command_s) and self._command.kp.any())
            self._command.kp[:] = 0.0
            self._command.kd[:] = self._damping_kd
        np.subtract(self._command.q, state.joint_pos, out=torque)
        torque *= self._command.kp
        np.multiply(self._command.kd, state.joint_vel, out=scratch)
        torque -= scratch
        np.clip(torque, -self._torque_limit, self._torque_limit, out=torque)
        self._applied[:] = torque
        np.multiply(state.joint_vel, self._friction, out=scratch)
        torque -= scratch
        torque *= self._substep_s / self._inertia
        state.joint_vel += torque
        np.multiply(state.joint_vel, self._substep_s, out=scratch)
        state.joint_pos += scratch
        if self._stops is not None:
            np.clip(state.joint_pos, self._stops[0], self._stops[1], out=scratch)
            np.copyto(state.joint_vel, 0.0, where=np.not_equal(scratch, state.joint_pos))
            state.joint_pos[:] = scratch
        self._steps += 1

    def _use_up(self, seconds: float) -> None:
        """Warm up the motors (with the newest torque) and empty the battery."""
        heating, scratch = self._scratch, self._torque
        np.square(self._applied, out=heating)
        heating *= HEATING_C_PER_S_N2M2
        np.subtract(self._temperature_c, AMBIENT_C, out=scratch)
        scratch /= COOLING_S
        heating -= scratch
        heating *= seconds
        self._temperature_c += heating
        self._state.battery_fraction = max(self._state.battery_fraction - seconds / BATTERY_S, 0.0)


def _test_card(width: int, height: int) -> np.ndarray:
    """A colour ramp, uint8 ``[H, W, 3]``."""
    card = np.zeros((height, width, 3), dtype=np.uint8)
    card[..., 0] = np.linspace(0, 255, width, dtype=np.uint8)[None, :]
    card[..., 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    card[..., 2] = 128
    return card


def _open_bench(bundle: PolicyBundle) -> RobotIO:
    camera = bundle.camera
    return BenchRobot(
        len(bundle.joint_names),
        torque_limit=bundle.torque_limit,
        start_joint_pos=bundle.default_joint_pos * 0.5,
        joint_pos_limit=bundle.joint_pos_limit,
        camera_size_wh=None if camera is None else (camera.width, camera.height),
        camera_hz=bundle.camera_hz,
    )


ROBOT_LINKS: Dict[str, Callable[..., RobotIO]] = {"bench": _open_bench}
"""Robot links by name; a package adds its own entry. Each takes the bundle (joint order, limits, camera), and keyword options."""


def open_robot(name: str, bundle: PolicyBundle, *, dry_run: bool = False, **options: Any) -> RobotIO:
    """Open a robot link by name.

    Args:
        name: A key of :data:`ROBOT_LINKS`, or ``module:function`` for a link of your own.
        bundle: The policy bundle that will drive it.
        dry_run: Nothing will be written. Handed on to links that act when they are opened (they have a parameter of that name).
        options: Of that link.

    Raises:
        LinkError: When there is no such link or option (the message lists those that exist).
        BundleError: When the bundle does not fit what the robot says of itself.
    """
    if name not in ROBOT_LINKS:
        link = _import_link(name)
    else:
        link = ROBOT_LINKS[name]
    parameters = list(inspect.signature(link).parameters.values())[1:]
    acts = [parameter for parameter in parameters if parameter.name == "dry_run"]
    parameters = [parameter for parameter in parameters if parameter not in acts]
    known = [parameter.name for parameter in parameters]
    for option in options:
        if option not in known:
            raise LinkError(
                f"robot link {name!r} has no option {option!r}; there is: {', '.join(known) or 'none'}"
            )
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise LinkError(
                f"robot link {name!r} needs the option {parameter.name}: --option {parameter.name}=..."
            )
    # A link to a robot by its own name; a link says itself that another robot's policy is not for it.
    if name == bundle.robot:
        from .robot_description import require_fit

        require_fit(bundle, name)
    return link(bundle, **options, dry_run=dry_run) if acts else link(bundle, **options)


def _import_link(name: str) -> Callable[..., RobotIO]:
    module, colon, function = name.partition(":")
    if not colon:
        raise LinkError(
            f"no robot link named {name!r}; there is: {', '.join(sorted(ROBOT_LINKS))}, or module:function for your own"
            " (episodes in a simulated scene: use 'sim2sim')"
        )
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise LinkError(f"robot link {name!r} does not import: {error}") from None
