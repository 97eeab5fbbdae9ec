"""A toy environment whose camera image carries the target: vision can be tested without physics or rendering."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict

from gaussgym_learn.env import LearnEnv

_H, _W = 48, 64
_COLUMNS = 16
_HOLD = 5
_KEPT = ("target", "_scan", "_image", "episode_length_buf")


class ToyCfg:
    """Settings of the toy environment."""

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary."""
        return {"task": "toy", "hold": _HOLD}


class ToyMirror:
    """The toy in a mirror: the bar on the other side, and so the action; proprioception is noise of no side."""

    def observations(self, groups: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See `gaussgym_learn.symmetry.MirrorMaps`."""
        return {name: value.flip(-1) if name == "scan" else value for name, value in groups.items()}

    def actions(self, action: torch.Tensor) -> torch.Tensor:
        """See `gaussgym_learn.symmetry.MirrorMaps`."""
        return -action


class ToyEnv(LearnEnv):
    """A bar in the image stands where action 0 should be; `scan` is the profile that drew it.

    Reward `1 - |action 0 - target|`; the target changes with every camera frame (each 5th step), an episode lasts 20
    steps. Proprioception is noise, so a blind policy can do no better than guess the mean.

    Args:
        num_envs: environments.
        seed: of everything random.
        robot: what `robot` says.
        num_actions: action dimensions.
        keeps_state: whether it has a `state_dict`; without, checkpoints begin its episodes anew.
    """

    def __init__(
        self,
        num_envs: int = 16,
        *,
        seed: int = 0,
        robot: str = "toy",
        num_actions: int = 12,
        keeps_state: bool = True,
    ) -> None:
        self.keeps_state = keeps_state
        self.num_envs, self.num_actions, self.robot = num_envs, num_actions, robot
        self.max_episode_length = 20
        self.device = "cpu"
        self.cfg = ToyCfg()
        self.scene_hashes = {"toy": "0"}
        self.control_dt_s = 0.02
        self.camera_hz = 1.0 / (_HOLD * self.control_dt_s)
        self.reset(seed=seed)

    def reset(self, *, seed: int) -> TensorDict:
        """Start over with a seed."""
        self._rng = torch.Generator().manual_seed(seed)
        self.episode_length_buf = torch.randint(0, 20, (self.num_envs,), generator=self._rng)
        self._step = 0
        self._new_target()
        self._obs = self._observe()
        self.layout = {k: list(v.shape[1:]) for k, v in self._obs.items()}
        return self._obs

    def get_observations(self) -> TensorDict:
        """The observations of the last step."""
        return self._obs

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict]:
        """See `rsl_rl.env.VecEnv.step`."""
        error = (actions[:, 0] - self.target).abs()
        self._step += 1
        self.episode_length_buf += 1
        dones = self.episode_length_buf >= self.max_episode_length
        self.episode_length_buf[dones] = 0
        if self._step % _HOLD == 0:
            self._new_target()
        self._obs = self._observe()
        extras = {"time_outs": dones.float(), "log": {"error": error.mean()}}
        return self._obs, 1.0 - error, dones.long(), extras

    def mirror_maps(self) -> ToyMirror:
        """See `LearnEnv.mirror_maps`."""
        return ToyMirror()

    def state_dict(self) -> dict[str, Any] | None:
        """See `LearnEnv.state_dict`."""
        if not self.keeps_state:
            return None
        kept = {name: getattr(self, name).clone() for name in _KEPT}
        obs = {name: value.clone() for name, value in self._obs.items()}
        return {**kept, "step": self._step, "rng": self._rng.get_state(), "observations": obs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `LearnEnv.load_state_dict`."""
        for name in _KEPT:
            setattr(self, name, state[name].clone())
        self._step = state["step"]
        self._rng.set_state(state["rng"])
        self._obs = TensorDict(state["observations"], batch_size=[self.num_envs])

    def _new_target(self) -> None:
        columns = torch.randint(0, _COLUMNS, (self.num_envs,), generator=self._rng)
        self.target = columns.float() / (_COLUMNS - 1) * 2 - 1
        self._scan = torch.nn.functional.one_hot(columns, _COLUMNS).float()
        image = torch.full((self.num_envs, 3, _H, _W), 40, dtype=torch.uint8)
        bars = self._scan.repeat_interleave(_W // _COLUMNS, dim=1).to(torch.uint8) * 200
        self._image = image + bars[:, None, None, :]

    def _observe(self) -> TensorDict:
        proprio = torch.randn(self.num_envs, 45, generator=self._rng)
        return TensorDict(
            {
                "proprio": proprio,
                "base_vel": torch.zeros(self.num_envs, 3),
                "scan": self._scan.clone(),
                "rgb": self._image.clone(),
                "rgb_new": torch.full((self.num_envs, 1), self._step % _HOLD == 0, dtype=torch.uint8),
            },
            batch_size=[self.num_envs],
        )
