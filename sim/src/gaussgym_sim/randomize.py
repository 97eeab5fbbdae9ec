"""Differences between training environments: physics, disturbances, starts, cameras. Presets are in `gaussgym_sim.presets`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from gaussgym_scene.errors import InputError
from torch import Tensor

from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.robots.geoms import load_model
from gaussgym_sim.sensors.camera_clock import CameraClockCfg
from gaussgym_sim.sensors.sensing import Range, SensingCfg
from gaussgym_sim.vecsim import PARAMS, VecSim

GRAVITY_M_S2 = 9.81
_ONE, _ZERO = (1.0, 1.0), (0.0, 0.0)


@dataclass(frozen=True)
class RandomizeCfg:
    """What is drawn for each env and episode, uniformly from ranges; factors multiply the robot's nominal values.

    A quantity at its neutral value, 1 for factors and ``friction``, 0 for others and None for absolute values, is left as the
    robot's model has it. One that is asked for and that the physics backend does not have is an `InputError` (see
    `supported_by`).
    """

    friction: Range = (0.5, 1.25)
    restitution: Range = _ZERO
    compliance: Range = _ZERO
    """How much softer contacts are, see `gaussgym_sim.vecsim.PARAMS`."""
    trunk_mass_factor: Range = (0.85, 1.25)
    trunk_com_m: float | tuple[float, float, float] = 0.03
    """Half range of the shift of the trunk's centre of mass along each axis [m]."""
    link_mass_factor: Range = _ONE
    """Of each body other than the trunk."""
    gain_factor: Range = (0.9, 1.1)
    """Of each joint's position gain, and of its velocity gain where ``kd_factor`` is None."""
    kd_factor: Range | None = None
    kd_offset: tuple[tuple[str, float, float], ...] = ()
    """(part of joint names, low, high): added to these joints' velocity gain [Nm s/rad], which stays at 0 or above."""
    strength_factor: Range = (0.9, 1.1)
    """Of each motor's torque."""
    motor_offset_rad: float = 0.0
    """Half range of the error of each motor's zero."""
    delay_s: Range = _ZERO
    """Between target and torque, in steps of 5 ms."""
    armature_factor: Range = _ONE
    """Of each joint's own; in its place ``armature_kg_m2`` gives one range for all joints."""
    armature_kg_m2: Range | None = None
    joint_damping_nm_s: Range | None = None
    joint_friction_nm: Range | None = None
    gravity_m_s2: float = 0.0
    """Half range of what is added to gravity along each world axis."""
    kick_m_s: float = 0.3
    """Half range of kicks along world x and y [m/s]."""
    kick_rad_s: float = 0.0
    """Half range of the same kicks about each base axis [rad/s]."""
    kick_interval_s: float = 5.0
    """Mean time between kicks [s]; 0 = never."""
    push_force_n: float = 0.0
    """Standard deviation of a push along each world axis, held for ``push_duration_s``."""
    push_torque_nm: float = 0.0
    """Standard deviation of its torque about each world axis."""
    push_duration_s: float = 1.0
    push_interval_s: float = 0.0
    """From the beginning of one push to the next, the first at a random time [s]; 0 = never."""
    start_joint_rad: float = 0.1
    start_joint_vel_rad_s: float = 0.0
    start_lin_vel_m_s: float = 0.2
    start_ang_vel_rad_s: float = 0.0
    start_yaw_rad: float = 0.4
    start_tilt_rad: float = 0.0
    """Of roll and pitch."""
    start_lateral: float = 0.5
    """Half range of the start's offset across the path, as a fraction of its half width (at most 0.5 m)."""
    start_normal: bool = False
    """Starts are normal with these standard deviations, ``start_lateral`` aside, instead of uniform within them."""
    camera_pos_m: float = 0.02
    """Half range of the camera's error of position along each of its axes [m]; it moves with the body."""
    camera_rot_rad: float = 0.03
    """Half range of the camera's error of rotation about each of its axes [rad]."""
    camera_focal: float = 0.02
    """Half range of the camera's relative error of focal length."""
    camera_focal_std: float = 0.0
    """Standard deviation of further relative errors of each focal length."""
    camera_principal_std_px: float = 0.0
    """Standard deviation of the error of the principal point along each image axis [pixels]."""
    camera_clock: CameraClockCfg = field(default_factory=CameraClockCfg)
    sensing: SensingCfg = field(default_factory=SensingCfg)

    @classmethod
    def none(cls) -> RandomizeCfg:
        """Nominal physics, exact starts, no kicks."""
        return cls(
            friction=_ONE, trunk_mass_factor=_ONE, trunk_com_m=0.0, gain_factor=_ONE, strength_factor=_ONE, kick_m_s=0.0,
            kick_interval_s=0.0, start_joint_rad=0.0, start_lin_vel_m_s=0.0, start_yaw_rad=0.0, start_lateral=0.0,
            camera_pos_m=0.0, camera_rot_rad=0.0, camera_focal=0.0,
        )  # fmt: skip

    @classmethod
    def light(cls) -> RandomizeCfg:
        """The measured quick recipe: kicks and starts vary, physics is nominal."""
        return cls(
            friction=_ONE, trunk_mass_factor=_ONE, trunk_com_m=0.0, gain_factor=_ONE, strength_factor=_ONE,
        )  # fmt: skip

    def supported_by(self, capabilities: frozenset[str]) -> tuple[RandomizeCfg, tuple[str, ...]]:
        """The same without what a physics backend does not have, and the names of what was left out.

        Args:
            capabilities: `gaussgym_sim.vecsim.VecSim.capabilities`.
        """
        neutral = RandomizeCfg.none()
        lost = tuple(
            name for name, param in _PARAM_OF.items()
            if param not in capabilities and getattr(self, name) != getattr(neutral, name)
        )  # fmt: skip
        return replace(self, **{name: getattr(neutral, name) for name in lost}), lost

    def spread(self, uniform: Uniform, amount: float, *shape: int) -> Tensor:
        """Offsets of a start: uniform in +-``amount``, or normal if ``start_normal``."""
        return uniform.normal(amount, *shape) if self.start_normal else uniform(-amount, amount, *shape)


_PARAM_OF = {
    "friction": "friction", "restitution": "restitution", "compliance": "compliance",
    "trunk_mass_factor": "trunk_mass_kg", "trunk_com_m": "trunk_com_b", "link_mass_factor": "link_mass_factor",
    "gain_factor": "kp", "kd_factor": "kd", "kd_offset": "kd", "strength_factor": "strength",
    "motor_offset_rad": "offset", "delay_s": "delay_s", "armature_kg_m2": "armature",
    "armature_factor": "armature",
    "joint_damping_nm_s": "joint_damping", "joint_friction_nm": "joint_friction", "gravity_m_s2": "gravity_w",
}  # fmt: skip
"""Field of `RandomizeCfg` -> name in `gaussgym_sim.vecsim.PARAMS`."""


class Uniform:
    """Draws from one generator."""

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        """Keep the generator."""
        self.generator, self.device = generator, device

    def __call__(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw float32 of the given shape in [low, high)."""
        numbers = torch.rand(shape, generator=self.generator, device=self.device)
        return numbers if (low, high) == (0.0, 1.0) else numbers.mul_(high - low).add_(low)

    def normal(self, std: float, *shape: int) -> Tensor:
        """Draw float32 of the given shape from N(0, std^2)."""
        return torch.randn(shape, generator=self.generator, device=self.device) * std


def which(mask: Tensor) -> Tensor:
    """Numbers [R] of the rows for which ``mask`` [E] holds."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)


class PhysicsRandomizer:
    """Draws the physics of each episode. All quantities come out of one draw [R, P], whose columns have ranges of their own."""

    def __init__(self, sim: VecSim, cfg: RandomizeCfg, uniform: Uniform) -> None:
        """Lay out the columns; what is neutral in ``cfg`` has none.

        Raises:
            InputError: a quantity that the backend does not have, or joints that the robot does not have.
        """
        missing = cfg.supported_by(sim.capabilities)[1]
        if missing:
            raise InputError(
                f"RandomizeCfg varies {', '.join(missing)}, which this physics backend does not have; leave it as in "
                "RandomizeCfg.none(), or use RandomizeCfg.supported_by(sim.capabilities)"
            )
        self._sim, self._uniform = sim, uniform
        self._biased = cfg.sensing.encoder_bias_rad > 0
        ranges = _body_ranges(sim, cfg) | _motor_ranges(sim.robot, cfg) | _joint_ranges(sim.robot, cfg)
        self._names, self._sizes = list(ranges), [len(low) for low, _ in ranges.values()]
        low, high = (
            torch.tensor([x for pair in ranges.values() for x in pair[side]], device=sim.device)
            for side in (0, 1)
        )
        self._low, self._span = low, high - low

    def draw(self, env_ids: Tensor, encoder_bias: Tensor | None = None) -> None:
        """Set the physics of envs ``env_ids`` [R] for an episode.

        Args:
            env_ids: [R].
            encoder_bias: [R, J] rad, see `gaussgym_sim.sensors.sensing.SensingCfg`.
        """
        if not self._names:
            return
        block = self._uniform(0.0, 1.0, len(env_ids), len(self._low)).mul_(self._span).add_(self._low)
        values = dict(zip(self._names, block.split(self._sizes, dim=1), strict=True))
        for name in values:
            if name in PARAMS and PARAMS[name].shape == "":
                values[name] = values[name][:, 0]
        if _KD_OFFSET in values:
            values["kd"] = (values["kd"] + values.pop(_KD_OFFSET)).clamp_(min=0.0)
        if self._biased and encoder_bias is not None:
            # The loop brings position + bias to the target: the joint settles where the target less the bias is.
            values["offset"] = values["offset"] - encoder_bias
        self._sim.set_params(env_ids, **values)


def randomize_physics(
    sim: VecSim, env_ids: Tensor, cfg: RandomizeCfg, uniform: Uniform, *, encoder_bias: Tensor | None = None
) -> None:
    """Draw the physics of envs ``env_ids`` once, see `PhysicsRandomizer`."""
    PhysicsRandomizer(sim, cfg, uniform).draw(env_ids, encoder_bias)


_KD_OFFSET = "kd offset"  # columns that are no parameter by themselves
Ranges = dict[str, tuple[list[float], list[float]]]
"""Lowest and highest values by name, a number a column."""


def _scaled(nominal: Sequence[float], factor: Range) -> tuple[list[float], list[float]]:
    return [x * factor[0] for x in nominal], [x * factor[1] for x in nominal]


def _around(nominal: Sequence[float], half: Sequence[float]) -> tuple[list[float], list[float]]:
    pairs = list(zip(nominal, half, strict=True))
    return [x - h for x, h in pairs], [x + h for x, h in pairs]


def _body_ranges(sim: VecSim, cfg: RandomizeCfg) -> Ranges:
    """Contacts, masses, gravity."""
    robot = sim.robot
    ranges: Ranges = {}
    for name, neutral in (("friction", _ONE), ("restitution", _ZERO), ("compliance", _ZERO)):
        if getattr(cfg, name) != neutral:
            ranges[name] = _scaled((1.0,), getattr(cfg, name))
    com = cfg.trunk_com_m
    half = (com,) * 3 if isinstance(com, float | int) else com
    if cfg.trunk_mass_factor != _ONE or max(half) > 0:
        ranges["trunk_mass_kg"] = _scaled((robot.trunk_mass_kg,), cfg.trunk_mass_factor)
        ranges["trunk_com_b"] = _around(robot.trunk_com_b, half)
    if cfg.link_mass_factor != _ONE:
        ranges["link_mass_factor"] = _scaled((1.0,) * len(sim.link_names), cfg.link_mass_factor)
    if cfg.gravity_m_s2 > 0:
        ranges["gravity_w"] = _around((0.0, 0.0, -GRAVITY_M_S2), (cfg.gravity_m_s2,) * 3)
    return ranges


def _motor_ranges(robot: RobotCfg, cfg: RandomizeCfg) -> Ranges:
    """Gains, strength, offset, delay."""
    ranges: Ranges = {}
    ones = (1.0,) * robot.num_joints
    if cfg.gain_factor != _ONE:
        ranges["kp"] = _scaled(robot.kp, cfg.gain_factor)
    kd_factor = cfg.kd_factor or cfg.gain_factor
    if kd_factor != _ONE or cfg.kd_offset:
        ranges["kd"] = _scaled(robot.kd, kd_factor)
    if cfg.kd_offset:
        low, high = [0.0] * robot.num_joints, [0.0] * robot.num_joints
        for part, least, most in cfg.kd_offset:
            for joint in _joints_called(robot, part):
                low[joint], high[joint] = least, most
        ranges[_KD_OFFSET] = (low, high)
    if cfg.strength_factor != _ONE:
        ranges["strength"] = _scaled(ones, cfg.strength_factor)
    if cfg.motor_offset_rad > 0 or cfg.sensing.encoder_bias_rad > 0:
        ranges["offset"] = _scaled(ones, (-cfg.motor_offset_rad, cfg.motor_offset_rad))
    if cfg.delay_s != _ZERO:
        ranges["delay_s"] = _scaled((1.0,), cfg.delay_s)
    return ranges


def _joint_ranges(robot: RobotCfg, cfg: RandomizeCfg) -> Ranges:
    """Rotor inertia and friction of the joints."""
    limits = {_PARAM_OF[name]: getattr(cfg, name) for name in _ABSOLUTE}
    ranges = {name: _scaled((1.0,) * robot.num_joints, x) for name, x in limits.items() if x is not None}
    if cfg.armature_factor != _ONE:
        if "armature" in ranges:
            raise InputError(
                "RandomizeCfg has both armature_factor and armature_kg_m2; leave one at its default"
            )
        model = load_model(robot.mjcf)
        nominal = [float(model.dof_armature[model.joint(name).dofadr[0]]) for name in robot.joint_names]
        ranges["armature"] = _scaled(nominal, cfg.armature_factor)
    return ranges


_ABSOLUTE = ("armature_kg_m2", "joint_damping_nm_s", "joint_friction_nm")


def _joints_called(robot: RobotCfg, part: str) -> list[int]:
    columns = [i for i, name in enumerate(robot.joint_names) if part.lower() in name.lower()]
    if not columns:
        raise InputError(
            f"kd_offset: no joint of robot {robot.name!r} has {part!r} in its name; it has: {', '.join(robot.joint_names)}"
        )
    return columns


def draw_kicks(
    cfg: RandomizeCfg, num_envs: int, control_s: float, uniform: Uniform
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Who is kicked in this control step and by how much: (env ids [R], [R, 3] m/s world, [R, 3] rad/s base or None)."""
    hit = uniform(0.0, 1.0, num_envs) < control_s / cfg.kick_interval_s
    ids = which(hit)
    delta = uniform(-cfg.kick_m_s, cfg.kick_m_s, len(ids), 3)
    delta[:, 2] = 0.0
    if cfg.kick_rad_s == 0:
        return ids, delta, None
    return ids, delta, uniform(-cfg.kick_rad_s, cfg.kick_rad_s, len(ids), 3)


class Disturbances:
    """Kicks and pushes of E robots while they walk.

    Attributes:
        force_w: [E, 3] N, of the push that an env feels now.
        torque_w: [E, 3] Nm.
    """

    def __init__(
        self, cfg: RandomizeCfg, num_envs: int, *, control_s: float, device: torch.device, uniform: Uniform
    ) -> None:
        """Nothing pushes yet.

        Raises:
            InputError: pushes longer than the time from one to the next.
        """
        self._cfg, self._uniform, self._control_s, self._num_envs = cfg, uniform, control_s, num_envs
        self.force_w, self.torque_w = (torch.zeros(num_envs, 3, device=device) for _ in range(2))
        self._wait = torch.zeros(
            num_envs, dtype=torch.long, device=device
        )  # steps until the push begins or ends
        self._pushing = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self._push = cfg.push_interval_s > 0 and (cfg.push_force_n > 0 or cfg.push_torque_nm > 0)
        self._interval = round(cfg.push_interval_s / control_s)
        self._duration = max(1, round(cfg.push_duration_s / control_s))
        if self._push and self._duration >= self._interval:
            raise InputError(
                f"pushes of {cfg.push_duration_s} s every {cfg.push_interval_s} s; expected an interval longer than the push"
            )

    def start(self, env_ids: Tensor) -> None:
        """New episodes in envs [R], which the simulator has reset: no push, the next at a random time."""
        if not self._push:
            return
        self._pushing[env_ids] = False
        self.force_w[env_ids], self.torque_w[env_ids] = 0.0, 0.0
        self._wait[env_ids] = 1 + (self._uniform(0.0, 1.0, len(env_ids)) * self._interval).long()

    def apply(self, sim: VecSim) -> None:
        """Before each control step: what begins or ends in it."""
        if self._cfg.kick_interval_s > 0:
            ids, linear, angular = draw_kicks(self._cfg, self._num_envs, self._control_s, self._uniform)
            if len(ids):
                sim.kick(ids, linear, angular)
        if self._push:
            self._change_pushes(sim)

    def _change_pushes(self, sim: VecSim) -> None:
        self._wait -= 1
        ids = which(self._wait <= 0)
        if len(ids) == 0:
            return
        begins = ~self._pushing[ids]
        self._pushing[ids] = begins
        self._wait[ids] = torch.where(begins, self._duration, self._interval - self._duration)
        cfg, u = self._cfg, self._uniform
        self.force_w[ids] = u.normal(cfg.push_force_n, len(ids), 3) * begins[:, None]
        self.torque_w[ids] = u.normal(cfg.push_torque_nm, len(ids), 3) * begins[:, None]
        sim.push(ids, self.force_w[ids], self.torque_w[ids])

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that coming disturbances depend on, beside the random numbers; the simulator remembers the force."""
        return {name: getattr(self, name).clone() for name in ("force_w", "torque_w", "_wait", "_pushing")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        for name in ("force_w", "torque_w", "_wait", "_pushing"):
            getattr(self, name)[:] = state[name]
