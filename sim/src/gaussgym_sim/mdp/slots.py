"""Scenes that change while environments run: whole slots at once, or single envs when their episodes end."""

from __future__ import annotations

from copy import copy

import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from torch import Tensor

from gaussgym_sim.vecsim import VecSim


def fill_slot(sim: VecSim, slot: int, scene: Scene) -> None:
    """Put a scene in the place of ``sim.scenes[slot]``; its envs get nominal parameters and must then be reset.

    Raises:
        InputError: a slot in which no env stands (it might be taken instead), or the scene's ground is no good; nothing has
            changed then.
    """
    _check_all_in_use(sim)
    if any(scene is other for other in sim.scenes):
        scene = copy(scene)  # envs would move to the slot where it lies
    sim.set_scene((sim.scene_of_env == slot).nonzero().squeeze(1), scene)


def _check_all_in_use(sim: VecSim) -> None:
    empty = (torch.bincount(sim.scene_of_env, minlength=len(sim.scenes)) == 0).nonzero().flatten().tolist()
    if empty:
        raise InputError(
            f"no environment stands in scene slots {empty}; a scene takes the place of another where all slots are in use"
        )


class SceneChanges:
    """Changes that wait for the end of episodes.

    Attributes:
        leaving: [E] bool, envs whose episodes are to be cut short for it.
    """

    def __init__(self, sim: VecSim) -> None:
        """Nothing waits."""
        self._sim = sim
        self.leaving = torch.zeros(sim.num_envs, dtype=torch.bool, device=sim.device)
        self._slots: dict[int, Scene] = {}
        self._moves: list[tuple[Tensor, Scene]] = []

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._slots or self._moves)

    def fill(self, slot: int, scene: Scene) -> None:
        """Put a scene into a slot in the next step, whose episodes there are cut short.

        Raises:
            InputError: a slot in which no env stands.
        """
        _check_all_in_use(self._sim)
        self._slots[slot] = scene
        self.leaving |= self._sim.scene_of_env == slot

    def move(self, env_ids: Tensor, scene: Scene) -> None:
        """Move envs ``env_ids`` [R] to a scene, each when its episode ends; takes the place of an earlier move."""
        for waiting, _ in self._moves:
            waiting[env_ids] = False
        mask = torch.zeros_like(self.leaving)
        mask[env_ids] = True
        self._moves.append((mask, scene))

    def apply(self, dones: Tensor) -> Tensor:
        """Change the scenes of envs whose episodes end, [E] bool.

        Returns:
            [E] bool, those that changed: they have nominal parameters and must be reset.
        """
        changed, self.leaving = self.leaving, torch.zeros_like(self.leaving)
        for slot, scene in self._slots.items():
            fill_slot(self._sim, slot, scene)
        self._slots.clear()
        for waiting, scene in self._moves:
            now = (waiting & dones).nonzero().squeeze(1)
            if len(now):
                self._sim.set_scene(now, scene)
                waiting[now], changed[now] = False, True
        self._moves = [(waiting, scene) for waiting, scene in self._moves if bool(waiting.any())]
        return changed
