"""`gaussgym-learn sweep`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from gaussgym_scene.errors import InputError

from gaussgym_learn.cli.options import RunOptions

if TYPE_CHECKING:
    from gaussgym_learn.recipes import Recipe
    from gaussgym_learn.sweep import SweepCfg, Train


@dataclass
class Sweep:
    """Search settings of a recipe with Ray Tune: many short trainings, the poor ones stopped early.

    Needs Ray: pip install 'ray[tune]'.
    """

    recipe: tyro.conf.Positional[str]
    """Recipe whose settings are tried."""
    param: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """What to try, once for each setting: ppo.learning_rate=log:1e-4..1e-2, ppo.gamma=0.97..0.995, network.rnn_hidden=64,128."""
    scenes: list[Path] = field(default_factory=list)
    """Scene folders; without any, the recipe's own course."""
    output: Path = Path("runs/sweep")
    """Folder for results.json and the trials' runs; on a cluster it must be shared."""
    trials: int = 8
    """How many."""
    metric: str = "Train/mean_reward"
    """What is compared: the name of a value in a run's curve.jsonl."""
    mode: Literal["max", "min"] = "max"
    """Whether more of it is better."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha: stop trials early that do worse than others did at the same update; none: all go to their end."""
    grace: int = 10
    """With asha: updates that each trial has at least."""
    reduction: int = 3
    """With asha: of so many trials one goes on."""
    at_once: int = 1
    """Trials at a time."""
    cpus: float = 1.0
    """Processors a trial."""
    gpus: float = 0.0
    """GPUs a trial; a part of one is possible."""
    address: str | None = None
    """Of a Ray cluster, such as auto; default: this machine alone."""
    wandb_sweep: Path | None = None
    """Do not search, but write this file for `wandb sweep`, whose agents search (needs an account)."""
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)

    def run(self) -> Path:
        """Search, print the trials, and return the path of the results."""
        from gaussgym_learn.parameters import parse_searches
        from gaussgym_learn.recipes import get_recipe
        from gaussgym_learn.sweep import RESULTS_FILE, sweep, table, wandb_sweep

        recipe = self._recipe(get_recipe(self.recipe))
        searches = parse_searches(recipe, self.param)
        cfg = self._cfg()
        folders, weights = self.options.training_scenes(self.scenes)
        if self.wandb_sweep is not None:
            return wandb_sweep(searches, self.wandb_sweep, cfg, self._command(folders))
        report = sweep(
            recipe,
            searches,
            self.output,
            cfg,
            self._train([folder.resolve() for folder in folders], weights),
            iterations=self.options.iterations,
            resume=self.options.resume,
        )
        print(table(report))
        return self.output / RESULTS_FILE

    def _recipe(self, recipe: Recipe) -> Recipe:
        if self.options.num_envs is not None:
            recipe = replace(recipe, ppo=replace(recipe.ppo, num_envs=self.options.num_envs))
        return self.options.applied(recipe)

    def _cfg(self) -> SweepCfg:
        from gaussgym_learn.sweep import SweepCfg

        return SweepCfg(
            self.trials, self.metric, self.mode, self.scheduler, self.grace, self.reduction, self.at_once, self.cpus, self.gpus,
            self.address, self.options.seed,
        )  # fmt: skip

    def _train(self, folders: list[Path], weights: tuple[float, ...] | None) -> Train:
        """Trains one trial; runs in another process."""
        options, name = self.options, self.recipe
        if options.minutes is None and options.iterations is None:
            raise InputError("trials are unbounded: give --minutes or --iterations, of each trial")
        arguments = {**options.arguments(weights), "resume": True, "progress": False}
        if options.wandb and options.wandb_group is None:
            arguments["wandb_group"] = self.output.name

        def train_trial(recipe: Recipe, out: Path, report: Callable[[Any, dict[str, float]], None]) -> None:
            from gaussgym_learn.courses import default_course
            from gaussgym_learn.train import train

            train(
                recipe,
                folders or default_course(name, seed=options.seed),
                out,
                **arguments,
                on_iteration=report,
            )

        return train_trial

    def _command(self, folders: list[Path]) -> list[str]:
        """The words that train one trial of a wandb sweep."""
        words = [
            "gaussgym-learn",
            "train",
            self.recipe,
            "--output",
            self.output.as_posix(),
            "--seed",
            str(self.options.seed),
        ]
        for name in ("minutes", "iterations", "num_envs"):
            value = getattr(self.options, name)
            words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
        if self.options.collection is not None:
            words += ["--collection", self.options.collection.as_posix()]
        words += ["--scenes", *(folder.as_posix() for folder in folders)] if self.scenes else []
        return [*words, "--wandb", "--set", *self.options.settings]
