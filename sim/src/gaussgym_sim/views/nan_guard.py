"""NaN guard: names the environment, the step and the term when a number is not finite, and saves what led there for replay.

::

    sim = SimRecorder.make("mujoco", "go1", [scene], 256)
    env = Env(sim, EnvCfg())
    env.guard = NanGuard(env, NanGuardCfg(folder=Path("nan")))

Without a guard an environment pays nothing. With one: a sum over actions, reward terms and observations and two flags a step, and
what `SimRecorder` costs.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from gaussgym_scene.errors import InputError, StageError
from torch import Tensor

from gaussgym_sim.sensors.observations import proprio_terms
from gaussgym_sim.views.recorder import SimRecorder
from gaussgym_sim.views.replay import save_replay

if TYPE_CHECKING:
    from gaussgym_sim.env import Env

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NanGuardCfg:
    """What happens when a number is not finite."""

    folder: Path
    """Where replays go, a folder each."""
    max_files: int = 5
    """Replays a run leaves at most; later findings are only told."""
    stop: bool = False
    """Raise an error, rather than end the env's episode as a fall and go on."""


@dataclass(frozen=True)
class Finding:
    """What was not finite first, in the order action, physics, reward, observation.

    Attributes:
        step: number of the control step since the sim was made, from 0.
        env: the first env concerned.
        envs: how many there were in that step.
        kind: 'action', 'physics', 'reward' or 'observation'.
        term: joint, quantity, reward term, or observation group and term.
    """

    step: int
    env: int
    envs: int
    kind: str
    term: str

    def __str__(self) -> str:
        """One line."""
        others = "" if self.envs == 1 else f" (and {self.envs - 1} others)"
        return f"environment {self.env}{others}, step {self.step}: {self.kind} {self.term} is not finite"


class NanGuard:
    """Watches one environment; set it as `Env.guard`.

    Attributes:
        findings: all so far.
        saved: folders written.
    """

    def __init__(self, env: Env, cfg: NanGuardCfg) -> None:
        """Watch ``env``.

        Raises:
            InputError: the env's sim is not recorded.
        """
        if not isinstance(env.sim, SimRecorder):
            raise InputError(
                f"NaN guard: the environment's sim is a {type(env.sim).__name__}, which remembers nothing to "
                "replay; make it with SimRecorder.make"
            )
        self.cfg, self._recorder = cfg, env.sim
        self.findings: list[Finding] = []
        self.saved: list[Path] = []
        self._none = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)
        self._must_end = self._none.clone()  # their last observations were not finite
        self._joint_vel = torch.zeros_like(env.sim.state.joint_vel)
        self._error = ""
        proprio = proprio_terms(env.sim.robot, env.cfg.observations)
        self._columns = {"proprio": [term.name for term in proprio for _ in range(term.size)]}

    def check_step(self, env: Env, action: Tensor, reward: Tensor) -> Tensor:
        """After physics and rewards, before any env is reset.

        Args:
            env: the environment.
            action: [E, J] as it was given.
            reward: [E] of this step; it and ``env.rewards.terms`` become 0 where they are not finite.

        Returns:
            [E] bool, envs whose episode must end as a fall.
        """
        state, terms = env.sim.state, env.rewards.terms
        suspicious = ~torch.isfinite(action.sum() + terms.sum()) | state.invalid.any() | self._must_end.any()
        if not bool(suspicious):
            self._joint_vel.copy_(state.joint_vel)
            return self._none
        bad_reward = ~torch.isfinite(terms).all(dim=0)
        bad_action = ~torch.isfinite(action)
        if bool(bad_action.any()):
            joint = int(bad_action[bad_action.any(dim=1)][0].int().argmax())
            self._report(bad_action.any(dim=1), "action", f"of joint {env.sim.robot.joint_names[joint]}")
        elif bool(state.invalid.any()):
            self._report(state.invalid, "physics", self._fastest(env, state.invalid))
        elif bool(bad_reward.any()):
            term = int((~torch.isfinite(terms[:, bad_reward][:, 0])).int().argmax())
            self._report(bad_reward, "reward", repr(env.rewards.names[term]))
        ending = self._must_end | bad_reward | bad_action.any(dim=1) | state.invalid
        reward[bad_reward] = 0.0
        terms[:, bad_reward] = 0.0
        self._must_end = self._none.clone()
        self._joint_vel.copy_(state.joint_vel)
        self._raise_if_asked()
        return ending

    def check_observations(self, groups: dict[str, Tensor]) -> None:
        """Before they are given away; what is not finite becomes 0, and its env's episode ends in the next step."""
        floats = {name: value for name, value in groups.items() if value.is_floating_point()}
        if bool(torch.isfinite(torch.stack([value.sum() for value in floats.values()]).sum())):
            return
        told = False
        for name, value in floats.items():
            bad = ~torch.isfinite(value.flatten(1))
            envs = bad.any(dim=1)
            if not bool(envs.any()):
                continue
            column = int(bad[envs][0].int().argmax())
            if not told:
                terms = self._columns.get(name)
                which = terms[column] if terms is not None else f"column {column}"
                self._report(envs, "observation", f"'{name}' ({which})")
                told = True
            self._must_end |= envs
            value.masked_fill_(~torch.isfinite(value), 0.0)
        self._raise_if_asked()

    def _fastest(self, env: Env, invalid: Tensor) -> str:
        """What moved fastest one step earlier, where an exploding state usually begins."""
        speed = self._joint_vel[invalid][0].abs()
        joint = int(speed.argmax())
        return f"state (fastest one step before: {env.sim.robot.joint_names[joint]}, {float(speed[joint]):.3g} rad/s)"

    def _report(self, envs: Tensor, kind: str, term: str) -> None:
        ids = envs.nonzero().squeeze(1)
        finding = Finding(self._recorder.num_steps - 1, int(ids[0]), len(ids), kind, term)
        self.findings.append(finding)
        told = str(finding)
        if len(self.saved) < self.cfg.max_files:
            folder = self.cfg.folder / f"step-{finding.step:09d}"
            self.saved.append(save_replay(self._recorder, folder, asdict(finding)))
            told += f"; repeat it with: gaussgym-sim replay {folder}"
        log.warning("%s", told)
        self._error = told

    def _raise_if_asked(self) -> None:
        if self.cfg.stop and self._error:
            raise StageError(self._error)
