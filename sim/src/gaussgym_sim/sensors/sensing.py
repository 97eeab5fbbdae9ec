"""What a robot's sensors make of the truth: biases, noise of each episode, latencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gaussgym_sim.frames import quat_from_rotation_vector, rotate
from gaussgym_sim.sensors.latency import DelayLine, check_shape

if TYPE_CHECKING:
    from gaussgym_sim.randomize import Uniform

Range = tuple[float, float]
_LATE = {
    "ang_vel_b": "imu_latency_s", "gravity_b": "imu_latency_s", "command": "command_latency_s",
    "joint_pos_offset": "joint_latency_s", "joint_vel": "joint_latency_s", "last_action": "action_latency_s",
}  # fmt: skip
_NOISE = {
    "ang_vel_b": "ang_vel_noise_rad_s", "gravity_b": "gravity_noise", "joint_pos_offset": "joint_pos_noise_rad",
    "joint_vel": "joint_vel_noise_rad_s",
}  # fmt: skip


@dataclass(frozen=True)
class SensingCfg:
    """Errors of the sensors of each env, drawn for each episode; by default none.

    Attributes:
        encoder_bias_rad: half range of each joint's error of zero. The motor's own loop reads the same encoder, so its target
            shifts by as much the other way.
        gyro_bias_rad_s: half range, each axis.
        imu_tilt_rad: half range of the rotation, about each axis of the base, by which the IMU is mounted wrongly: turns
            angular velocity and gravity.
        imu_latency_s, joint_latency_s, command_latency_s, action_latency_s: ranges; rounded to control steps. The last is that
            of the last action as the policy reads it back.
        same_latency: IMU, joints and commands are late by the IMU's latency, together.
        latency_redraw_s: all latencies are drawn anew so often.
        ang_vel_noise_rad_s, gravity_noise, joint_pos_noise_rad, joint_vel_noise_rad_s: ranges from which an episode's amplitude
            of uniform noise is drawn; None = the fixed one of `gaussgym_sim.sensors.observations.ObservationCfg`.
    """

    encoder_bias_rad: float = 0.0
    gyro_bias_rad_s: float = 0.0
    imu_tilt_rad: float = 0.0
    imu_latency_s: Range = (0.0, 0.0)
    joint_latency_s: Range = (0.0, 0.0)
    command_latency_s: Range = (0.0, 0.0)
    action_latency_s: Range = (0.0, 0.0)
    same_latency: bool = False
    latency_redraw_s: float = 3.0
    ang_vel_noise_rad_s: Range | None = None
    gravity_noise: Range | None = None
    joint_pos_noise_rad: Range | None = None
    joint_vel_noise_rad_s: Range | None = None

    @property
    def max_latency_s(self) -> float:
        """The longest of all."""
        return max(getattr(self, name)[1] for name in _LATE.values())


class Sensing:
    """The sensors of E envs, between the true proprioception [E, P] (raw, in the order of `proprio_terms`) and the measured one.

    Attributes:
        encoder_bias: [E, J] rad.
        gyro_bias: [E, 3] rad/s.
        imu_quat_wxyz: [E, 4] rotation of the IMU's mounting error.
        noise: [E, P] amplitude of the noise on raw values, or None where `ObservationCfg` has it all.
    """

    def __init__(
        self,
        cfg: SensingCfg,
        terms: Mapping[str, int],
        num_envs: int,
        *,
        control_s: float,
        fixed_noise: Tensor,
        device: torch.device,
        uniform: Uniform,
    ) -> None:
        """Perfect sensors until `restart`.

        Args:
            cfg: the errors' ranges.
            terms: sizes by name, in order.
            num_envs: E.
            control_s: time of a control step.
            fixed_noise: [P] amplitudes on raw values, where an episode has none of its own.
            device: of all tensors.
            uniform: random numbers.
        """
        self.cfg, self._uniform, self._control_s = cfg, uniform, control_s
        ends = torch.tensor(list(terms.values())).cumsum(0).tolist()
        self._columns = {
            name: slice(end - size, end) for (name, size), end in zip(terms.items(), ends, strict=True)
        }
        width, joints = ends[-1], terms["joint_pos_offset"]
        self.encoder_bias = torch.zeros(num_envs, joints, device=device)
        self.gyro_bias = torch.zeros(num_envs, 3, device=device)
        self.imu_quat_wxyz = torch.tensor([1.0, 0.0, 0.0, 0.0], device=device).repeat(num_envs, 1)
        varied = any(getattr(cfg, name) is not None for name in _NOISE.values())
        self.noise = fixed_noise.repeat(num_envs, 1) if varied else None
        self._delay = torch.zeros(num_envs, width, dtype=torch.long, device=device)
        # Latencies by group, in control steps, and the group of each column.
        names = list(dict.fromkeys(_LATE.values()))
        limits = torch.tensor([getattr(cfg, name) for name in names], device=device) / control_s
        self._soonest, self._latest = limits.unbind(1)
        group = [names.index(self._group(term)) for term, size in terms.items() for _ in range(size)]
        self._late_group = torch.tensor(group, device=device)
        self._line: DelayLine | None = None
        if cfg.max_latency_s > 0:
            most = round(cfg.max_latency_s / control_s)
            self._line = DelayLine(num_envs, width, max_delay=most, device=device)
        self._steps = 0

    def _group(self, term: str) -> str:
        """The latency that a term has."""
        own = _LATE[term]
        return "imu_latency_s" if self.cfg.same_latency and own != "action_latency_s" else own

    def restart(self, env_ids: Tensor) -> None:
        """New episodes in envs [R]: new sensors, which have seen nothing but the start."""
        cfg, u, count = self.cfg, self._uniform, len(env_ids)
        for amount, values in (
            (cfg.encoder_bias_rad, self.encoder_bias),
            (cfg.gyro_bias_rad_s, self.gyro_bias),
        ):
            if amount > 0:
                values[env_ids] = u(-amount, amount, count, values.shape[1])
        if cfg.imu_tilt_rad > 0:
            turn = u(-cfg.imu_tilt_rad, cfg.imu_tilt_rad, count, 3)
            self.imu_quat_wxyz[env_ids] = quat_from_rotation_vector(turn)
        for term, name in _NOISE.items():
            amplitude = getattr(cfg, name)
            if self.noise is not None and amplitude is not None:
                self.noise[env_ids, self._columns[term]] = u(*amplitude, count, 1)
        if self._line is not None:
            self._line.restart(env_ids)
            self._delay[env_ids] = self._draw_delays(count)

    def reseed(self) -> None:
        """Count from 0 until latencies are drawn anew, as from the start."""
        self._steps = 0

    def advance(self) -> None:
        """A control step is over."""
        if self._line is None:
            return
        self._line.advance()
        self._steps += 1
        if self._steps % max(1, round(self.cfg.latency_redraw_s / self._control_s)) == 0:
            self._delay[:] = self._draw_delays(len(self._delay))

    def measure(self, truth: Tensor) -> Tensor:
        """What the sensors say [E, P], noise aside, in the state that has ``truth`` [E, P] (overwritten)."""
        cfg = self.cfg
        if cfg.imu_tilt_rad > 0:
            for name in ("ang_vel_b", "gravity_b"):
                vector = truth[:, self._columns[name]]
                vector[:] = rotate(self.imu_quat_wxyz, vector)
        if cfg.gyro_bias_rad_s > 0:
            truth[:, self._columns["ang_vel_b"]] += self.gyro_bias
        if cfg.encoder_bias_rad > 0:
            truth[:, self._columns["joint_pos_offset"]] += self.encoder_bias
        if self._line is None:
            return truth
        self._line.write(truth)
        return self._line.read(self._delay)

    def _draw_delays(self, count: int) -> Tensor:
        """Delays [count, P] in control steps."""
        late = (
            self._uniform(0.0, 1.0, count, len(self._latest))
            .mul_(self._latest - self._soonest)
            .add_(self._soonest)
        )
        return late.round_().long().index_select(1, self._late_group)

    def state_dict(self) -> dict[str, Any]:
        """Everything that coming measurements depend on, beside the random numbers."""
        state: dict[str, Any] = {name: getattr(self, name).clone() for name in _SAVED}
        state |= {"noise": None if self.noise is None else self.noise.clone()}
        return state | {"steps": self._steps, "line": None if self._line is None else self._line.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`.

        Raises:
            InputError: of other envs, or of sensors with other latencies.
        """
        for name in _SAVED:
            check_shape(f"sensors, {name.strip('_')}", state[name], getattr(self, name))
            getattr(self, name)[:] = state[name]
        self._steps = int(state["steps"])
        if self.noise is not None:
            self.noise[:] = state["noise"]
        if self._line is not None:
            self._line.load_state_dict(state["line"])


_SAVED = ("encoder_bias", "gyro_bias", "imu_quat_wxyz", "_delay")
