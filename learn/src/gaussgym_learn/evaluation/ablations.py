"""Taking the information out of a policy's images, to see whether it uses them."""

from __future__ import annotations

import torch
from gaussgym_scene.errors import InputError
from tensordict import TensorDict

from gaussgym_learn.models import NEW_FRAME_GROUP, image_groups

ABLATIONS = ("none", "blank", "shuffled", "frozen", "delayed")
DELAY_S = 0.5
"""Of `delayed` [s]: at 0.7 m/s what is seen then is 0.35 m away, a tread further."""
_BLANK_LEVEL = 127


def images_in(obs: TensorDict) -> list[str]:
    """Names of the observation groups at hand that are images (a TensorDict itself iterates over its rows)."""
    return image_groups([str(name) for name in obs.keys()])  # noqa: SIM118


def ablate_images(obs: TensorDict, ablate: str, rng: torch.Generator) -> TensorDict:
    """Take the images' information away, without memory.

    Args:
        obs: observations with images.
        ablate: `none`; `blank`: uniform grey; `shuffled`: every camera frame is that of a random other environment.
        rng: draws the permutation.
    """
    groups = images_in(obs)
    if ablate == "none" or not groups:
        return obs
    out = obs.clone(recurse=False)
    if ablate == "blank":
        for name in groups:
            out[name] = torch.full_like(obs[name], _BLANK_LEVEL)
        return out
    order = torch.randperm(len(obs[groups[0]]), generator=rng)
    other = torch.empty_like(order)
    other[order] = order.roll(1)  # a cycle through all: nobody gets their own
    for name in groups:
        out[name] = obs[name][other]
    return out


class ImageAblation:
    """What a policy is shown in place of its images, over an evaluation.

    `blank` and `shuffled` are those of `ablate_images`, and change with the camera's frames only, as the true ones do. `frozen`:
    the first frame of its episode all the time. `delayed`: every frame, and its flag, comes later by `delay_steps`; until the
    first has arrived, it stands there already.

    Args:
        kind: one of `ABLATIONS`.
        seed: of the shuffling.
        delay_steps: of `delayed`, in calls.

    Raises:
        InputError: an unknown kind, or a delay of no step.
    """

    def __init__(self, kind: str = "none", *, seed: int = 0, delay_steps: int = 0) -> None:
        if kind not in ABLATIONS:
            raise InputError(f"unknown ablation {kind!r}; choose one of: {', '.join(ABLATIONS)}")
        if kind == "delayed" and delay_steps < 1:
            raise InputError(f"images delayed by {delay_steps} control steps, expected at least 1")
        self.kind, self.delay_steps = kind, delay_steps
        self._rng = torch.Generator().manual_seed(seed)
        self._held: dict[str, torch.Tensor] = {}
        self._next = 0

    def show(self, obs: TensorDict, started: torch.Tensor) -> TensorDict:
        """Observations as the policy sees them; called once a control step.

        Args:
            obs: true observations of this step.
            started: bool `[E]`, whose episodes begin with this step.
        """
        groups = images_in(obs)
        if self.kind == "none" or not groups:
            return obs
        if self.kind == "frozen":
            return self._frozen(obs, started, groups)
        if self.kind == "delayed":
            return self._delayed(obs, started, groups)
        if self.kind == "shuffled" and self._held and not bool(obs[NEW_FRAME_GROUP].any()):
            out = obs.clone(recurse=False)
        else:
            out = ablate_images(obs, self.kind, self._rng)
            self._held = {name: out[name] for name in groups}
        for name in groups:
            out[name] = self._held[name]
        return out

    def _frozen(self, obs: TensorDict, started: torch.Tensor, groups: list[str]) -> TensorDict:
        out = obs.clone(recurse=False)
        for name in groups:
            held = self._held.get(name)
            if held is None:
                held = self._held[name] = obs[name].clone()
            held[started] = obs[name][started]
            out[name] = held.clone()
        return out

    def _delayed(self, obs: TensorDict, started: torch.Tensor, groups: list[str]) -> TensorDict:
        """A ring of the last steps; episodes that begin fill it with their first frame."""
        size = self.delay_steps + 1
        names = [*groups, NEW_FRAME_GROUP]
        if not self._held:
            self._held = {name: obs[name].new_zeros(size, *obs[name].shape) for name in names}
        slot, oldest = self._next, (self._next + 1) % size
        self._next = oldest
        out = obs.clone(recurse=False)
        for name in names:
            ring = self._held[name]
            ring[slot] = obs[name]
            ring[:, started] = 0 if name == NEW_FRAME_GROUP else obs[name][started]
            out[name] = ring[oldest].clone()
        out[NEW_FRAME_GROUP][started] = 1
        return out
