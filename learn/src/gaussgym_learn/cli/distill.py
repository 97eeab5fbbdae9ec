"""`gaussgym-learn distill`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from gaussgym_learn.cli.collection import required
from gaussgym_learn.cli.network import NetworkOptions
from gaussgym_learn.cli.options import RunOptions


@dataclass
class Distill:
    """Teach a student that sees pixels what a teacher that knows the terrain does (DAgger)."""

    teacher: tyro.conf.Positional[Path]
    """Run folder of the teacher."""
    scenes: list[Path] = field(default_factory=list)
    """Scene folders; environments are split over them evenly (name one twice to double its share)."""
    output: Path = Path("runs/student")
    """Run folder."""
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    network: Annotated[NetworkOptions, tyro.conf.arg(name="")] = field(default_factory=NetworkOptions)

    def run(self) -> Path:
        """Distill and return the checkpoint's path."""
        from gaussgym_learn.distill import distill
        from gaussgym_learn.recipes import get_recipe

        recipe = get_recipe("distill")
        options = self.options
        if options.num_envs is not None:
            recipe = replace(recipe, distill=replace(recipe.distill, num_envs=options.num_envs))
        recipe = self.network.applied(options.applied(recipe))
        folders, weights = options.training_scenes(self.scenes)
        return distill(
            self.teacher, required(folders), self.output, recipe=recipe, **options.arguments(weights)
        )
