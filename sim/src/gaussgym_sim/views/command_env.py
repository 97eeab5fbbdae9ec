"""A policy that gives commands to one that walks: an environment whose actions are velocities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gaussgym_scene.errors import InputError
from torch import Tensor

from gaussgym_sim.env import Env
from gaussgym_sim.mdp.commands import GivenCommands
from gaussgym_sim.mdp.terminations import Reasons

_OUTCOMES = ("time_outs", "fell", "success", "start_id")
Walker = Callable[[dict[str, Tensor]], Tensor]
"""Observation groups to joint actions [E, J], each control step. If it has a method ``reset(dones [E] bool)``, it is told which
episodes are over (for a memory)."""


@dataclass(frozen=True)
class CommandEnvCfg:
    """How often the policy decides, and what its actions -1 and 1 mean.

    Attributes:
        decision_s: time between decisions [s].
        low: v_x, v_y [m/s], yaw rate [rad/s] of an action of -1.
        high: of an action of 1.
    """

    decision_s: float = 0.2
    low: tuple[float, float, float] = (-0.3, -0.3, -1.0)
    high: tuple[float, float, float] = (1.0, 0.3, 1.0)


class CommandEnv:
    """An `Env` of a task with given commands (``navigate``), and a frozen walker that carries these out.

    The interface is that of `Env`; a step is one decision. An env whose episode ends within a decision starts anew at once and
    stands until the next decision; the reward is that of the episode that ended. Cameras take at most one frame a decision,
    at its end (where frames arrive at once).

    Attributes:
        env: the environment within.
        num_envs, num_actions, max_episode_length, device, cfg: as in `Env`, counted in decisions.
    """

    def __init__(self, env: Env, walker: Walker, cfg: CommandEnvCfg | None = None) -> None:
        """Keep both.

        Args:
            env: of a task whose commands are given.
            walker: see `Walker`.
            cfg: rate and ranges.

        Raises:
            InputError: a task that makes its own commands, or decisions between control steps.
        """
        self.command_cfg = cfg or CommandEnvCfg()
        if not isinstance(env.commands, GivenCommands):
            raise InputError(
                f"task {env.cfg.task!r} makes its own commands; expected one whose commands are given, such as navigate"
            )
        steps = self.command_cfg.decision_s / env.cfg.control_s
        self.decision_steps = round(steps)
        if self.decision_steps < 1 or abs(steps - self.decision_steps) > 1e-6:
            raise InputError(
                f"decisions every {self.command_cfg.decision_s} s, expected a multiple of the control step, {env.cfg.control_s} s"
            )
        self.env, self.walker, self.cfg = env, walker, env.cfg
        self._commands = env.commands
        self.num_envs, self.num_actions, self.device = env.num_envs, 3, env.device
        self.max_episode_length = -(-env.max_episode_length // self.decision_steps)
        low, high = (
            torch.tensor(v, device=env.device) for v in (self.command_cfg.low, self.command_cfg.high)
        )
        self._middle, self._range = (low + high) / 2, (high - low) / 2
        self._obs = env.get_observations()

    @property
    def episode_length_buf(self) -> Tensor:
        """[E] decisions since each episode began."""
        return self.env.episode_length_buf // self.decision_steps

    def get_observations(self) -> dict[str, Tensor]:
        """The groups of the last step; ``proprio`` holds the command in force."""
        return self._obs

    def reset(self, seed: int | None = None) -> dict[str, Tensor]:
        """See `Env.reset`."""
        self._obs = self.env.reset(seed)
        self._tell(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        return self._obs

    def _expose(self, now: bool) -> None:
        """Have the cameras take what frames are due, or wait: nobody looks at images within a decision."""
        if self.env.camera is not None:
            self.env.camera.exposing = now

    def _tell(self, dones: Tensor) -> None:
        if hasattr(self.walker, "reset"):
            self.walker.reset(dones)  # type: ignore[attr-defined]

    def step(self, action: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, dict[str, Any]]:
        """Carry out one decision.

        Args:
            action: [E, 3] in -1..1, beyond is clipped; of an env where it is not finite the robot stands.

        Returns:
            As `Env.step`: reward [E] summed over the decision; ``fell``, ``success``, ``time_outs``, ``start_id``, ``metrics``
            and ``reasons`` of the first episode that ended within it, ``log`` means over all that did.
        """
        command = action.detach().to(torch.float32).clamp(-1.0, 1.0) * self._range + self._middle
        self._commands.give(torch.where(torch.isfinite(action).all(dim=1, keepdim=True), command, 0.0))
        reward = torch.zeros(self.num_envs, device=self.device)
        dones = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        first: dict[str, Tensor] = {}
        reasons: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        logs: list[tuple[int, dict[str, Tensor]]] = []
        obs = self.env.get_observations()  # with the new command
        for left in reversed(range(self.decision_steps)):
            with torch.no_grad():
                joints = self.walker(obs)
            self._expose(left == 0)
            obs, step_reward, ended, extras = self.env.step(joints)
            reward += torch.where(dones, 0.0, step_reward)
            now = {name: extras[name] for name in _OUTCOMES}
            first = {n: torch.where(dones, first[n], value) for n, value in now.items()} if first else now
            why = vars(extras["reasons"])
            reasons = {n: torch.where(dones, reasons[n], v) for n, v in why.items()} if reasons else why
            for name, values in extras["metrics"].items():
                metrics[name] = torch.where(dones, metrics[name], values) if name in metrics else values
            dones = dones | ended
            if extras["log"]:
                logs.append((int(ended.sum()), extras["log"]))
                self._tell(ended)
        self._obs = obs
        return (
            obs,
            reward,
            dones,
            {**first, "metrics": metrics, "reasons": Reasons(**reasons), "log": _mean(logs)},
        )

    def state_dict(self) -> dict[str, Any]:
        """See `Env.state_dict`; a walker that remembers something is not in it."""
        return {
            "env": self.env.state_dict(),
            "observations": {name: v.clone() for name, v in self._obs.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Env.load_state_dict`."""
        self.env.load_state_dict(state["env"])
        self._obs = {name: v.clone() for name, v in state["observations"].items()}


def _mean(logs: list[tuple[int, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Means over episodes of means over some of them each."""
    total = sum(count for count, _ in logs)
    return {
        name: sum((n * log[name] for n, log in logs), torch.zeros(())) / total
        for name in (logs[0][1] if logs else ())
    }
