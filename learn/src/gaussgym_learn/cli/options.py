"""What the commands that train have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from gaussgym_scene.errors import InputError

if TYPE_CHECKING:
    from gaussgym_sim.mdp.curriculum import GoalDistanceCfg

    from gaussgym_learn.recipes import Recipe


@dataclass
class RunOptions:
    """What every training has."""

    minutes: float | None = None
    """Training time [min], of all resumed parts together."""
    iterations: int | None = None
    """Updates, instead of or beside minutes."""
    init_from: Path | None = None
    """Run folder whose networks to start from (of a student: fine-tuning)."""
    resume: bool = False
    """Go on from the checkpoint in the run folder if there is one."""
    seed: int = 0
    """Of everything random."""
    robot: str = "go1"
    """Registry name of the robot, ours or of an installed package."""
    num_envs: int | None = None
    """Environments (of a student: rendered ones); default: the recipe's."""
    settings: Annotated[list[str], tyro.conf.arg(name="set")] = field(default_factory=list)
    """Other settings of the recipe by name, such as ppo.learning_rate=3e-4 network.actor_hidden=256x128."""
    threads: int | None = None
    """Of physics and rendering, in each process; default: as many as there are CPUs for it."""
    save_minutes: float = 2.0
    """Time between checkpoints [min]."""
    renderer: str = "auto"
    """Backend of the camera, for recipes that see."""
    camera_model: str | None = None
    """Lens, shutter and sensor of the camera, for recipes that see: ideal, robot, varied (a robot's, in a world whose light
    and paint vary), or a .json file of `compare` or of `gaussgym-deploy calibrate`; default: the recipe's, ideal."""
    randomize: str | None = None
    """Ranges of physics: a preset's name or a .json file of `compare`; default: the recipe's."""
    show_robot: bool = False
    """Draw the robot's own body into its images, for recipes that see."""
    show_others: int | None = None
    """Draw up to so many other robots of the same scene, the nearest, without contact; default: the recipe's, 0."""
    lod: list[Path] | None = None
    """Folders of gaussgym-render optimize, one a scene in the same order, to render instead of the scenes' full splats."""
    wandb: bool = False
    """Also log to Weights & Biases (offline unless WANDB_MODE says otherwise)."""
    wandb_group: str | None = None
    """Group of its runs in Weights & Biases, such as the experiment's name."""
    scene_memory_gb: float | None = None
    """Most that the camera's scenes may take in memory [GB]; they then take turns. Default: all are in memory."""
    scene_cache: Path | None = None
    """Folder for the packed files of scenes that take turns; default: the user's cache folder."""
    collection: Path | None = None
    """File of `gaussgym-learn collection`: train on its scenes that are not held out, or on those named, by its weights."""
    scene_curriculum: bool = False
    """Use scenes more often that are neither mastered nor out of reach; default: all alike, or by the collection's weights."""
    goal_distance: str | None = None
    """Goals begin near and move away as they are reached, in each scene by itself: nearest..farthest [m], such as 2..10."""
    scenes_at_once: int | None = None
    """Scenes in the simulator at a time; default: all."""
    rotate_every: int = 10
    """With scenes at once: updates after which one scene gives way to the next."""

    def training_scenes(self, folders: Sequence[Path]) -> tuple[list[Path], tuple[float, ...] | None]:
        """Scene folders to train on and their weights, see `gaussgym_learn.cli.collection.scenes_of`.

        Raises:
            InputError: a folder that is held out, by the collection or by the one that lies beside it; or nothing is left.
        """
        from gaussgym_scene.collection import refuse_held_out

        from gaussgym_learn.cli.collection import scenes_of

        refuse_held_out(folders)
        return scenes_of(folders, self.collection, "train")

    def arguments(self, weights: tuple[float, ...] | None = None) -> dict[str, Any]:
        """What `train` and `distill` take by these names; the rest belongs into the recipe.

        Args:
            weights: of the scenes, None: all alike.
        """
        from gaussgym_learn.frontier import FrontierCfg
        from gaussgym_learn.rotation import ScenesCfg

        named = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in (
            "num_envs",
            "settings",
            "camera_model",
            "show_robot",
            "show_others",
            "randomize",
            "collection",
            "goal_distance",
        ):
            del named[name]
        memory = ScenesCfg(
            named.pop("scene_memory_gb"),
            named.pop("scene_cache"),
            named.pop("scenes_at_once"),
            named.pop("rotate_every"),
            weights,
            FrontierCfg() if named.pop("scene_curriculum") else None,
        )
        return {**named, "memory": memory, "progress": True}

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with what was said about camera, physics and other settings."""
        from gaussgym_learn.parameters import settings_of, with_settings

        given: dict[str, Any] = {"show_robot": recipe.show_robot or self.show_robot}
        if self.camera_model is not None:
            given["camera_model"] = self.camera_model
        if self.show_others is not None:
            given["show_others"] = self.show_others
        if self.randomize is not None:
            from gaussgym_sim.presets import randomize_preset

            given["env"] = replace(recipe.env, randomize=randomize_preset(self.randomize))
        if self.goal_distance is not None:
            env = given.get("env", recipe.env)
            given["env"] = replace(env, goal_distance=goal_distances(self.goal_distance, recipe.task))
        recipe = replace(recipe, **given)
        return with_settings(recipe, settings_of(recipe, self.settings))


def goal_distances(text: str, task: str) -> GoalDistanceCfg:
    """The curriculum over the goal's distance that a range such as ``2..10`` [m] means.

    Raises:
        InputError: no such range, or a task without a goal.
    """
    from gaussgym_sim.mdp.curriculum import GoalDistanceCfg
    from gaussgym_sim.task import get_task

    found = re.fullmatch(r"(\d+(?:\.\d+)?)\.\.(\d+(?:\.\d+)?)", text)
    first, last = (float(found[1]), float(found[2])) if found else (0.0, 0.0)
    if not 0.0 < first <= last:
        raise InputError(f"goal distance {text!r}, expected nearest..farthest in metres, such as 2..10")
    if not get_task(task).pursues_goal:
        raise InputError(
            f"goal distance {text!r} for task {task!r}, which has no goal; leave it out or take a recipe of 'goal'"
        )
    return GoalDistanceCfg(first_m=first, last_m=last)
