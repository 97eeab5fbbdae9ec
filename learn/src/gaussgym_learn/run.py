"""A run: the loop around a trainer that bounds, logs and saves it, and what its manifest says."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from gaussgym_learn.checkpoint import Checkpoint
from gaussgym_learn.env import LearnEnv
from gaussgym_learn.metrics import MetricWriter, Stopwatch
from gaussgym_learn.recipes import Recipe


@contextlib.contextmanager
def torch_threads(count: int = 1) -> Iterator[None]:
    """Run a block with this many torch threads: small networks on a shared machine are ten times slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclasses.dataclass(frozen=True)
class Budget:
    """When a run ends and how often it saves; see `train`."""

    minutes: float | None
    iterations: int | None
    save_minutes: float
    save_iterations: int | None
    elapsed_s: float = 0.0

    def fraction(self, seconds: float, iteration: int) -> float:
        """How much of the run is done, 0..1."""
        parts = []
        if self.minutes is not None:
            parts.append(seconds / max(60.0 * self.minutes, 1e-9))
        if self.iterations is not None:
            parts.append(iteration / max(self.iterations, 1))
        return min(max(parts), 1.0)


def run_training(
    trainer: Any,
    out: Path,
    fields: dict[str, Any],
    budget: Budget,
    *,
    wandb: bool,
    progress: bool,
    on_iteration: Callable[[Any, dict[str, float]], None] | None,
) -> Path:
    """The loop that PPO and distillation share: iterate, log, save, stop."""
    writer = MetricWriter(out, wandb=wandb, name=out.name, config=fields)
    watch = Stopwatch(budget.elapsed_s)
    last_save_s, last_save_iteration = watch.seconds, trainer.iteration
    bar = tqdm(total=100, desc=trainer.recipe.name, unit="%", disable=not progress, bar_format=_BAR)

    def save() -> Path:
        return trainer.save(out, {**fields, "train_seconds": watch.seconds, "steps": trainer.steps})

    try:
        while (done := budget.fraction(watch.seconds, trainer.iteration)) < 1.0:
            trainer.progress = done
            scalars = trainer.iterate()
            writer.write(
                scalars, iteration=trainer.iteration, minutes=watch.seconds / 60, steps=trainer.steps
            )
            if on_iteration is not None:
                on_iteration(trainer, scalars)
            due = (
                trainer.iteration - last_save_iteration >= budget.save_iterations
                if budget.save_iterations
                else watch.seconds - last_save_s >= 60.0 * budget.save_minutes
            )
            if due:
                save()
                last_save_s, last_save_iteration = watch.seconds, trainer.iteration
            bar.n = round(100 * budget.fraction(watch.seconds, trainer.iteration))
            reward = scalars.get("Train/mean_reward", math.nan)
            bar.set_postfix_str(
                f"{scalars['Perf/total_fps']:,.0f} steps/s, reward {reward:.2f}", refresh=True
            )
        return save()
    except KeyboardInterrupt:
        save()
        raise
    finally:
        bar.close()
        writer.close()


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}, {postfix}"


def run_fields(
    recipe: Recipe,
    env: LearnEnv,
    *,
    seed: int,
    init_from: Checkpoint | None = None,
    lod: Sequence[Path | str] | None = None,
) -> dict[str, Any]:
    """What a checkpoint's manifest says about its run."""
    return {
        "robot": env.robot,
        "recipe": recipe.to_dict(),
        "environment": env.cfg.to_dict(),
        "observations": env.layout,
        "num_actions": env.num_actions,
        "scenes": env.scene_hashes,
        "lod": None if lod is None else [Path(folder).name for folder in lod],
        "seed": seed,
        "initialized_from": None if init_from is None else init_from.directory.name,
    }


def clear_run(out: Path) -> None:
    """Remove the files of an earlier run of this name, never anything else."""
    for pattern in ("model_*.pt", "checkpoint.json", "curve.jsonl", "events.out.tfevents.*", "*.tmp"):
        for path in out.glob(pattern):
            path.unlink()
