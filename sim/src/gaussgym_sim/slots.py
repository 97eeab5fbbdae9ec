"""Scenes that take the place of others: who stood there moves along."""

from __future__ import annotations

from copy import copy

from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene

from gaussgym_sim.vecsim import VecSim


def fill_slot(sim: VecSim, slot: int, scene: Scene) -> None:
    """Put a scene in the place of ``sim.scenes[slot]``; its envs get nominal parameters and must then be reset.

    Raises:
        InputError: no env stands in the slot, or the scene's ground is no good; nothing has changed then.
    """
    env_ids = (sim.scene_of_env == slot).nonzero().squeeze(1)
    if len(env_ids) == 0:
        raise InputError(f"no environment stands in scene slot {slot}; expected a slot that is in use")
    if any(scene is other for other in sim.scenes):
        scene = copy(scene)  # envs would move to the slot where it lies
    sim.set_scene(env_ids, scene)
    taken = int(sim.scene_of_env[env_ids[0]])
    if taken != slot:
        raise InputError(
            f"scene {scene.name!r} took slot {taken}, expected slot {slot}: another slot was empty"
        )
