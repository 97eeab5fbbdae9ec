"""When feet touch the ground, and the clock of the gait."""

from __future__ import annotations

import math
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from gaussgym_sim.mdp.step_kernels import count_feet
from gaussgym_sim.randomize import Uniform
from gaussgym_sim.robot import RobotCfg


class Feet:
    """Contact and air time of each foot. A contact lasts for two control steps, as engines report those on meshes with gaps.

    Attributes:
        touch_down: [E, L] bool, feet that have come down in the last step.
        air_s: [E, L] time since each foot left the ground, 0 while it stands.
        touch_air_s: [E, L] the same before contacts of the last step set it back: how long a flight lasted that ends.
    """

    def __init__(self, num_envs: int, num_legs: int, device: torch.device) -> None:
        """All feet stand."""
        self.air_s = torch.zeros(num_envs, num_legs, device=device)
        self.touch_air_s = torch.zeros(num_envs, num_legs, device=device)
        self.touch_down = torch.zeros(num_envs, num_legs, dtype=torch.bool, device=device)
        self._was_contact = torch.zeros(num_envs, num_legs, dtype=torch.bool, device=device)
        self._arrays: tuple[NDArray[Any], ...] | None = None
        if torch.device(device).type == "cpu":
            kept = (self.air_s, self.touch_air_s, self.touch_down, self._was_contact)
            self._arrays = tuple(tensor.numpy() for tensor in kept)

    def update(self, foot_contact: Tensor, control_s: float) -> None:
        """Call once a control step with who touches the ground now, [E, L] bool."""
        if self._arrays is not None:
            count_feet(foot_contact.numpy(), control_s, *self._arrays)
            return
        self._update_by_tensors(foot_contact, control_s)

    def _update_by_tensors(self, foot_contact: Tensor, control_s: float) -> None:
        contact = foot_contact | self._was_contact
        torch.logical_and(self.air_s > 0, contact, out=self.touch_down)
        torch.add(self.air_s, control_s, out=self.touch_air_s)
        torch.mul(self.touch_air_s, ~contact, out=self.air_s)
        self._was_contact.copy_(foot_contact)

    def start(self, env_ids: Tensor) -> None:
        """New episodes in envs ``env_ids`` [R]."""
        self.air_s[env_ids] = 0.0
        self._was_contact[env_ids] = False

    def state_dict(self) -> dict[str, Tensor]:
        """What the coming steps depend on."""
        return {"air_s": self.air_s.clone(), "was_contact": self._was_contact.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        self.air_s.copy_(state["air_s"])
        self._was_contact.copy_(state["was_contact"])


def leg_phases(robot: RobotCfg) -> tuple[float, ...]:
    """Offset of each leg in the gait [rad]: legs of a pair half a cycle apart, and so are neighbouring pairs (walk, trot)."""
    offsets, pairs = [0.0] * len(robot.leg_names), 0
    for leg, other in enumerate(robot.mirror_legs):
        if leg < other:
            first = math.pi * (pairs % 2)
            offsets[leg], offsets[other] = first, math.pi - first
            pairs += 1
    return tuple(offsets)


class Gait:
    """A clock that each env's legs may follow, at a frequency drawn for each episode.

    The phase runs in [-pi, pi): a leg is lifted highest at 0 and is down at +-pi.
    """

    def __init__(
        self, robot: RobotCfg, num_envs: int, frequency_hz: tuple[float, float], uniform: Uniform
    ) -> None:
        """All at phase 0 until `start`."""
        self._range, self._uniform = frequency_hz, uniform
        self._offsets = torch.tensor(leg_phases(robot), device=uniform.device)
        self.phase = torch.zeros(num_envs, device=uniform.device)
        self._frequency_hz = torch.zeros(num_envs, device=uniform.device)

    def start(self, env_ids: Tensor) -> None:
        """New episodes in envs ``env_ids`` [R]: draw frequency and phase."""
        self._frequency_hz[env_ids] = self._uniform(*self._range, len(env_ids))
        self.phase[env_ids] = self._uniform(-math.pi, math.pi, len(env_ids))

    def update(self, control_s: float) -> None:
        """Advance by a control step."""
        self.phase = _wrap(self.phase + 2 * math.pi * control_s * self._frequency_hz)

    def observation(self) -> Tensor:
        """[E, 2] sine and cosine of the phase."""
        return torch.stack((torch.sin(self.phase), torch.cos(self.phase)), dim=1)

    def foot_height_m(self, swing_height_m: float) -> Tensor:
        """Height that each foot should have over the ground, [E, L]: a smooth step up and down again once a cycle."""
        raised = 1.0 - _wrap(self.phase[:, None] + self._offsets).abs() / math.pi
        return swing_height_m * raised.square() * (3.0 - 2.0 * raised)

    def state_dict(self) -> dict[str, Tensor]:
        """What the coming steps depend on."""
        return {"phase": self.phase.clone(), "frequency_hz": self._frequency_hz.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        self.phase.copy_(state["phase"])
        self._frequency_hz.copy_(state["frequency_hz"])


def _wrap(angle: Tensor) -> Tensor:
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
