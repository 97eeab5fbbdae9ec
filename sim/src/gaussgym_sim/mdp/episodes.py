"""What an episode has added up to: rewards by term, seconds, metres; means over those that end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gaussgym_scene.errors import InputError
from torch import Tensor

from gaussgym_sim.mdp.step_kernels import add_rewards, count_time, find_multiples, mean_rates


def multiples_of(steps: Tensor, period: int) -> Tensor:
    """Numbers [R] of the envs whose ``steps`` [E] are a multiple of ``period``."""
    if steps.device.type == "cpu":
        return torch.from_numpy(find_multiples(steps.numpy(), period))
    return (steps % period == 0).nonzero().squeeze(1)


class EpisodeSums:
    """Sums over the running episode of each env.

    Attributes:
        seconds: [E] since the start.
        commanded_m: [E] distance that was commanded.
        start_xy: [E, 2] where the base stood at the start [m].
    """

    def __init__(self, terms: Sequence[str], num_envs: int, device: torch.device) -> None:
        """All zero."""
        self.terms = tuple(terms)
        self._logged = (*(f"reward/{name}" for name in self.terms), "episode/seconds")
        self._rewards = torch.zeros(len(self.terms), num_envs, device=device)
        self.seconds = torch.zeros(num_envs, device=device)
        self.commanded_m = torch.zeros(num_envs, device=device)
        self.start_xy = torch.zeros(num_envs, 2, device=device)
        self._on_cpu = torch.device(device).type == "cpu"

    def count(self, steps: Tensor, control_s: float) -> None:
        """One control step more in ``steps`` [E] and `seconds`."""
        if self._on_cpu:
            count_time(steps.numpy(), self.seconds.numpy(), control_s)
            return
        steps += 1
        self.seconds += control_s

    def add(self, rewards: Tensor, command: Tensor, control_s: float) -> None:
        """One control step: weighted terms [T, E] as rates a second, and the command [E, 3] it was for."""
        if self._on_cpu:
            sums = (self._rewards, self.commanded_m)
            add_rewards(rewards.numpy(), command.numpy(), control_s, *(t.numpy() for t in sums))
            return
        self._add_by_tensors(rewards, command, control_s)

    def _add_by_tensors(self, rewards: Tensor, command: Tensor, control_s: float) -> None:
        self._rewards.add_(rewards, alpha=control_s)
        self.commanded_m.add_(command[:, :2].norm(dim=1), alpha=control_s)

    def start(self, env_ids: Tensor, xy: Tensor) -> None:
        """New episodes in envs ``env_ids`` [R] at xy [R, 2]."""
        self._rewards[:, env_ids] = 0.0
        self.seconds[env_ids] = 0.0
        self.commanded_m[env_ids] = 0.0
        self.start_xy[env_ids] = xy

    def walked_m(self, env_ids: Tensor, xy: Tensor) -> Tensor:
        """Distance [R] of bases at xy [E, 2] from their starts."""
        return (xy[env_ids] - self.start_xy[env_ids]).norm(dim=1)

    def means(self, env_ids: Tensor, control_s: float) -> dict[str, Tensor]:
        """Mean reward of each term a second and mean duration, over envs ``env_ids``."""
        if self._on_cpu:
            ids, sums, seconds = (t.numpy() for t in (env_ids, self._rewards, self.seconds))
            means = torch.from_numpy(mean_rates(ids, sums, seconds, control_s))
        else:
            means = self._means_by_tensors(env_ids, control_s)
        return dict(zip(self._logged, means.unbind(), strict=True))

    def _means_by_tensors(self, env_ids: Tensor, control_s: float) -> Tensor:
        seconds = self.seconds[env_ids]
        rates = (self._rewards[:, env_ids] / seconds.clamp(min=control_s)).mean(dim=1)
        return torch.cat((rates, seconds.mean()[None]))

    def state_dict(self) -> dict[str, Tensor]:
        """What the coming steps depend on."""
        return {k: getattr(self, k).clone() for k in ("_rewards", "seconds", "commanded_m", "start_xy")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`.

        Raises:
            InputError: Of other reward terms or another number of envs.
        """
        found, expected = tuple(state["_rewards"].shape), tuple(self._rewards.shape)
        if found != expected:
            raise InputError(
                f"the checkpoint's episodes have {found[0]} reward terms in {found[1]} environments, these settings "
                f"{expected[0]} ({', '.join(self.terms)}) in {expected[1]}; resume with the settings and the version that it "
                "was made with, or train anew"
            )
        for name, value in state.items():
            getattr(self, name).copy_(value)
