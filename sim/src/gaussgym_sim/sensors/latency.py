"""What arrives late: rings of the last values and of the last images. Indices move, nothing else does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from gaussgym_scene.errors import InputError
from torch import Tensor


class DelayLine:
    """The values [E, F] of the last steps; each number is read at a delay of its own.

    An env that has started anew is as one that had the same values for ever: delays reach back to its start and no further.
    """

    def __init__(self, num_envs: int, width: int, *, max_delay: int, device: torch.device) -> None:
        """Delays of up to ``max_delay`` steps."""
        self.max_delay = max_delay
        self._ring = torch.zeros(max_delay + 1, num_envs, width, device=device)
        self._head = 0
        self._age = torch.zeros(num_envs, 1, dtype=torch.long, device=device)

    def advance(self) -> None:
        """A step is over."""
        self._head = (self._head + 1) % len(self._ring)
        self._age += 1

    def restart(self, env_ids: Tensor) -> None:
        """Envs [R] start anew."""
        self._age[env_ids] = 0

    def write(self, values: Tensor) -> None:
        """Values [E, F] of this step; written again, they replace those written before."""
        self._ring[self._head] = values

    def read(self, delay: Tensor) -> Tensor:
        """Values [E, F] of ``delay`` [E, F] or [E, 1] steps ago, long, at most ``max_delay``."""
        slot = torch.minimum(delay, self._age).neg_().add_(self._head).remainder_(len(self._ring))
        return self._ring.gather(0, slot.expand(self._ring.shape[1:])[None])[0]

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"ring": self._ring.clone(), "head": self._head, "age": self._age.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`.

        Raises:
            InputError: of other envs, values or delays.
        """
        check_shape("delayed values", state["ring"], self._ring)
        self._ring[:], self._age[:], self._head = state["ring"], state["age"], int(state["head"])


class FrameRing:
    """Images on their way from camera to policy.

    With frames at least ``min_gap`` steps apart and latencies of at most ``max_latency`` steps, never more than
    ceil(max_latency / min_gap) frames of an env are on their way at the end of a step, and so many are kept; `num_bytes` of
    uint8 images [C, H, W] are num_envs x that number x C H W. (A ring of control steps would hold max_latency + 1.)
    """

    def __init__(
        self, num_envs: int, image: tuple[int, int, int], *, max_latency: int, min_gap: int, device: torch.device
    ) -> None:  # fmt: skip
        """All empty."""
        count = math.ceil(max_latency / min_gap)
        self._frames = torch.zeros(count, num_envs, *image, dtype=torch.uint8, device=device)
        self._due = torch.full(
            (count, num_envs), -1, dtype=torch.long, device=device
        )  # step of arrival; -1 = empty
        self._taken = torch.full((count, num_envs), -1, dtype=torch.long, device=device)
        self._next = torch.zeros(num_envs, dtype=torch.long, device=device)

    @property
    def num_bytes(self) -> int:
        """Of the images."""
        return self._frames.numel()

    def restart(self, env_ids: Tensor) -> None:
        """Frames of envs [R] are lost."""
        self._due[:, env_ids] = -1

    def send(self, env_ids: Tensor, frames: Tensor, *, now: int, latency: Tensor) -> None:
        """Frames [R, C, H, W] taken in step ``now`` by envs [R] arrive ``latency`` [R] >= 1 steps later."""
        slot = self._next[env_ids]
        self._frames[slot, env_ids] = frames
        self._due[slot, env_ids] = now + latency
        self._taken[slot, env_ids] = now
        self._next[env_ids] = (slot + 1) % len(self._frames)

    def receive(self, now: int) -> tuple[Tensor, Tensor]:
        """Envs [R] at which a frame has arrived by step ``now``, and the newest such frames [R, C, H, W]; older ones are lost."""
        arrived = (self._due >= 0) & (self._due <= now)
        env_ids = arrived.any(dim=0).nonzero().squeeze(1)
        taken, slot = torch.where(arrived, self._taken, -1)[:, env_ids].max(dim=0)
        frames = self._frames[slot, env_ids]
        self._due[:, env_ids] = torch.where(self._taken[:, env_ids] <= taken, -1, self._due[:, env_ids])
        return env_ids, frames

    def state_dict(self) -> dict[str, Tensor]:
        """All of it."""
        return {name: getattr(self, f"_{name}").clone() for name in ("frames", "due", "taken", "next")}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state_dict`.

        Raises:
            InputError: of other envs, images or latencies.
        """
        check_shape("images on their way", state["frames"], self._frames)
        for name in ("frames", "due", "taken", "next"):
            getattr(self, f"_{name}")[:] = state[name]


def check_shape(what: str, found: Tensor, expected: Tensor) -> None:
    """Refuse a saved tensor of another shape.

    Raises:
        InputError: with both shapes.
    """
    if found.shape != expected.shape:
        raise InputError(
            f"saved {what}: shape {list(found.shape)}, expected {list(expected.shape)}; resume with the same settings"
        )
