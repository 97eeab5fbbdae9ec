"""Training that begins on easy ground and goes on to harder scenes after a number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy

import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from gaussgym_sim.ground.terrain import Ground, ground_of


class WarmUp:
    """Every slot of the simulator holds the first ground; after some steps the scenes come in, one slot a step.

    Speaks as `gaussgym_learn.rotation.SceneRotation` does to the environment: scene number 0 is the ground, number k + 1 the
    scene of slot k.

    Args:
        ground: to begin on.
        scenes: that come in, one a slot.
        steps: of the environment before the first comes in.

    Raises:
        InputError: fewer than no steps.
    """

    def __init__(self, ground: Scene, scenes: Sequence[Scene], *, steps: int) -> None:
        if steps < 0:
            raise InputError(f"a warm-up of {steps} steps, expected at least 0")
        self.steps = steps
        self._scenes = list(scenes)
        # One object a slot: a scene that is given twice would be one slot.
        self._first = [copy(ground) for _ in self._scenes]
        self._done = 0
        self._ready: Future[list[Ground]] | None = None

    @property
    def active(self) -> list[int]:
        """Number of the scene in each slot."""
        return [slot + 1 if slot < self._changed else 0 for slot in range(len(self._scenes))]

    @property
    def _changed(self) -> int:
        return min(max(self._done - self.steps, 0), len(self._scenes))

    @property
    def coming(self) -> list[int]:
        """Numbers of the scenes that have not come in."""
        return list(range(self._changed + 1, len(self._scenes) + 1))

    def first(self) -> list[Scene]:
        """The scenes to make the simulator with, one a slot."""
        return [self._scenes[slot] if n else self._first[slot] for slot, n in enumerate(self.active)]

    def advance(self) -> tuple[int, int] | None:
        """Count a step that is about to begin; the slot and the number of the scene that must now go there, or None."""
        slot = self._changed
        self._done = min(self._done + 1, self.steps + len(self._scenes))
        return None if self._changed == slot else (slot, slot + 1)

    def scene(self, number: int) -> Scene:
        """Scene `number`; of the ground, that of any slot."""
        return self._scenes[number - 1] if number else self._first[0]

    def read_ahead(self) -> None:
        """Start to find the coming scenes' ground for physics."""
        if self._ready is None:
            opener = ThreadPoolExecutor(1, thread_name_prefix="warm-up")
            self._ready = opener.submit(lambda: [ground_of(scene) for scene in self._scenes])
            opener.shutdown(wait=False)

    def state(self) -> torch.Tensor:
        """What a checkpoint keeps, int64 `[3]`."""
        return torch.tensor([self._done, self.steps, len(self._scenes)])

    def load_state(self, state: torch.Tensor) -> None:
        """Go on where `state` was taken.

        Raises:
            InputError: it is of another warm-up.
        """
        if state.numel() != 3 or state.tolist()[1:] != [self.steps, len(self._scenes)]:
            raise InputError(
                f"the checkpoint's scenes come in otherwise ({state.tolist()}) than after this run's warm-up of {self.steps} "
                f"steps ({len(self._scenes)} scenes); give the recipe and the scenes that it was made with"
            )
        self._done = int(state[0])
