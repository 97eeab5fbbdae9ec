"""What an environment learns where: which scene comes next, and how far its goals are, over all scenes of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from gaussgym_scene.errors import InputError
from gaussgym_sim.env import Env
from torch import Tensor

from gaussgym_learn.frontier import Frontier
from gaussgym_learn.rotation import SceneRotation

VISIT_EPISODES = 4
"""Episodes that a robot is in a scene before it may move, on average."""


class SceneCurriculum:
    """Counts successes by scene, moves robots between scenes as their episodes end, remembers how far each scene's goals are.

    Where all scenes are in the simulator, a robot whose episode has ended begins the next in a scene that the frontier draws, in
    one of `VISIT_EPISODES` cases: the shares are the same, and a move costs as much as some fifty steps of one robot.
    Where scenes take turns, robots stay in their slot, and the rotation draws what comes into it.

    Args:
        frontier: of all scenes.
        names: theirs.
        rotation: of these scenes; None where all are in the simulator.
    """

    def __init__(self, frontier: Frontier, names: Sequence[str], rotation: SceneRotation | None) -> None:
        self.frontier, self.names, self.rotation = frontier, list(names), rotation
        self._goals: dict[int, Tensor] = {}
        """State of the goal's distance in scenes that have left their slot."""

    def attach(self, env: Env) -> None:
        """See to the episodes of an environment, which may take the place of another one on the same simulator."""
        env.choose_scenes = self._episodes_end

    def _episodes_end(self, env: Env, ids: Tensor, success: Tensor) -> None:
        here = env.sim.scene_of_env[ids].cpu()
        if self.rotation is not None:
            self.frontier.count(torch.tensor(self.rotation.active)[here], success)
            return
        self.frontier.count(here, success)
        which, moves = env.uniform(0.0, 1.0, 2, len(ids)).cpu()
        there = torch.where(moves * VISIT_EPISODES < 1.0, self.frontier.draw(which), here)
        for scene in torch.unique(there[there != here]).tolist():
            env.set_scene(ids[(there == scene) & (here != scene)], env.sim.scenes[scene])

    def exchange(self, env: Env, slot: int, gone: int, come: int) -> None:
        """Scene `come` is about to take the place of scene `gone` in a slot."""
        if env.goal_distance is not None:
            self._goals[gone] = env.goal_distance.slot_state(slot)
            env.goal_distance.fill_slot(slot, self._goals.get(come))

    def metrics(self) -> dict[str, float]:
        """What is logged beside what the environment logs."""
        return self.frontier.metrics(self.names)

    def state(self, env: Env) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        state = {"success": self.frontier.state(), "scene_of_env": env.sim.scene_of_env.cpu().clone()}
        if self._goals:
            state["goal_scenes"] = torch.tensor(list(self._goals))
            state["goals"] = torch.stack(list(self._goals.values()))
        return state

    def load_state(self, env: Env, state: Mapping[str, Tensor]) -> bool:
        """Inverse of `state`.

        Returns:
            Whether robots have moved: the environment must then be made anew.

        Raises:
            InputError: it is of other scenes or another number of robots.
        """
        self.frontier.load_state(state["success"])
        goals = state.get("goals", torch.zeros(0, 3))
        self._goals = dict(zip(state.get("goal_scenes", torch.zeros(0)).long().tolist(), goals, strict=True))
        if self.rotation is not None:
            return False
        owner, now = state["scene_of_env"], env.sim.scene_of_env.cpu()
        if len(owner) != len(now):
            raise InputError(
                f"the checkpoint places {len(owner)} robots in scenes; this run has {len(now)}; give as many"
            )
        for scene in torch.unique(owner[owner != now]).tolist():
            env.sim.set_scene(
                ((owner == scene) & (now != scene)).nonzero()[:, 0].to(env.device), env.sim.scenes[scene]
            )
        return bool((owner != now).any())
