"""What the commands that train have in common."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    num_envs: int | None = None
    """Environments (of a student: rendered ones); default: the recipe's."""
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
    scenes_at_once: int | None = None
    """Scenes in the simulator at a time; default: all."""
    rotate_every: int = 10
    """With scenes at once: updates after which one scene gives way to the next."""

    def arguments(self) -> dict[str, Any]:
        """What `train` and `distill` take by these names; the rest belongs into the recipe."""
        from gaussgym_learn.rotation import ScenesCfg

        named = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("num_envs", "camera_model", "show_robot", "show_others", "randomize"):
            del named[name]
        memory = ScenesCfg(
            named.pop("scene_memory_gb"),
            named.pop("scene_cache"),
            named.pop("scenes_at_once"),
            named.pop("rotate_every"),
        )
        return {**named, "memory": memory, "progress": True}

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with what was said about camera and physics."""
        given: dict[str, Any] = {"show_robot": recipe.show_robot or self.show_robot}
        if self.camera_model is not None:
            given["camera_model"] = self.camera_model
        if self.show_others is not None:
            given["show_others"] = self.show_others
        if self.randomize is not None:
            from gaussgym_sim.presets import randomize_preset

            given["env"] = replace(recipe.env, randomize=randomize_preset(self.randomize))
        return replace(recipe, **given)
