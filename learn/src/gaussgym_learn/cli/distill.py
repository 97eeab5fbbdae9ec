"""`gaussgym-learn distill`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from gaussgym_learn.cli.collection import required
from gaussgym_learn.cli.learning import ImitationOptions, LearningOptions
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
    recipe: str = "distill"
    """Of the student: distill, or corridor_student (whose scenes need not be given)."""
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    network: Annotated[NetworkOptions, tyro.conf.arg(name="")] = field(default_factory=NetworkOptions)
    learning: Annotated[LearningOptions, tyro.conf.arg(name="")] = field(default_factory=LearningOptions)
    imitation: Annotated[ImitationOptions, tyro.conf.arg(name="")] = field(default_factory=ImitationOptions)

    def run(self) -> Path:
        """Distill and return the checkpoint's path."""
        from gaussgym_learn.distill import distill
        from gaussgym_learn.recipes import get_recipe

        recipe = get_recipe(self.recipe)
        options = self.options
        if options.num_envs is not None:
            recipe = replace(recipe, distill=replace(recipe.distill, num_envs=options.num_envs))
        recipe = self.learning.applied(self.network.applied(options.applied(recipe)))
        recipe = self.imitation.applied(recipe)
        folders, weights = options.training_scenes(self.scenes)
        return distill(
            self.teacher, folders or self._course(), self.output, recipe=recipe, **options.arguments(weights)
        )

    def _course(self) -> Sequence[Any]:
        """The scenes of a recipe that brings its own."""
        from gaussgym_learn.courses import default_course

        return (
            default_course(self.recipe, seed=self.options.seed) if "corridor" in self.recipe else required([])
        )
