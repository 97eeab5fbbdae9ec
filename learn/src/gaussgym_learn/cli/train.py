"""`gaussgym-learn train`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from gaussgym_learn.cli.learning import LearningOptions
from gaussgym_learn.cli.network import NetworkOptions
from gaussgym_learn.cli.options import RunOptions


@dataclass
class Train:
    """Train a recipe with PPO (its networks see the terrain, or with `pixels` the camera)."""

    recipe: tyro.conf.Positional[str]
    """Name of a recipe, ours or of an installed package; an unknown one lists them."""
    scenes: list[Path] = field(default_factory=list)
    """Scene folders; without any, the recipe's own course."""
    output: Path = Path("runs/train")
    """Run folder."""
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    network: Annotated[NetworkOptions, tyro.conf.arg(name="")] = field(default_factory=NetworkOptions)
    learning: Annotated[LearningOptions, tyro.conf.arg(name="")] = field(default_factory=LearningOptions)

    def run(self) -> Path:
        """Train and return the checkpoint's path."""
        from gaussgym_learn.courses import default_course
        from gaussgym_learn.recipes import get_recipe
        from gaussgym_learn.train import train

        recipe = get_recipe(self.recipe)
        options = self.options
        if options.num_envs is not None:
            recipe = replace(recipe, ppo=replace(recipe.ppo, num_envs=options.num_envs))
        recipe = self.learning.applied(self.network.applied(options.applied(recipe)))
        folders, weights = options.training_scenes(self.scenes)
        scenes = folders or default_course(self.recipe, seed=options.seed)
        output = self.output
        if "WANDB_SWEEP_ID" in os.environ:  # an agent of `wandb sweep` runs this command again and again
            output = output / os.environ["WANDB_RUN_ID"]
        return train(recipe, scenes, output, **options.arguments(weights))
