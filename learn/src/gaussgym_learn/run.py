"""A run: the loop around a trainer that bounds, logs and saves it, and what its manifest says."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from gaussgym_scene.errors import GaussgymError, StageError
from tqdm import tqdm

from gaussgym_learn.checkpoint import (
    Checkpoint,
    best_of,
    keep_as_best,
    make_newest,
    newest_whole,
    save_checkpoint,
)
from gaussgym_learn.distributed import PeerLost, World
from gaussgym_learn.env import LearnEnv
from gaussgym_learn.metrics import MetricWriter, Stopwatch, cut_curve, merged
from gaussgym_learn.recipes import Recipe
from gaussgym_learn.resume import packed, unpacked
from gaussgym_learn.run_folder import Interrupts, RunLock, explained_errors

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def torch_threads(count: int = 1) -> Iterator[None]:
    """Run a block with this many torch threads: small networks on a shared machine are ten times slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Trainer(Protocol):
    """What the loop needs of something that trains.

    Attributes:
        recipe: what is trained.
        iteration: updates done.
        steps: control steps done, all environments of all processes together.
        progress: how much of the run is done, 0..1; set by the loop.
    """

    recipe: Recipe
    iteration: int
    steps: int
    progress: float

    def iterate(self) -> dict[str, float]:
        """One rollout and its updates; returns the scalars to log."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as tensors and plain values. What is each process's own lies in ``process``, see
        `gaussgym_learn.resume.process_state`.
        """
        ...

    def restart(self) -> None:
        """Begin all episodes anew, from the run's seed and the iteration."""
        ...


@dataclasses.dataclass(frozen=True)
class Budget:
    """When a run ends and how often it saves; see `gaussgym_learn.train.train`."""

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

    def left_s(self, seconds: float, iteration: int, per_iteration_s: float) -> float:
        """Time that is left [s], if updates go on to take `per_iteration_s`."""
        parts = []
        if self.minutes is not None:
            parts.append(60.0 * self.minutes - seconds)
        if self.iterations is not None:
            parts.append((self.iterations - iteration) * per_iteration_s)
        return max(min(parts), 0.0)


@dataclasses.dataclass(frozen=True)
class OpenRun:
    """A run folder that this run alone writes to.

    Attributes:
        out: the folder.
        world: the processes of the run.
        previous: the checkpoint to go on from, or None.
    """

    out: Path
    world: World
    previous: Checkpoint | None

    @property
    def elapsed_s(self) -> float:
        """Training time of the parts before [s]."""
        return 0.0 if self.previous is None else float(self.previous.fields.get("train_seconds", 0.0))


@contextlib.contextmanager
def open_run(out: Path | str, *, resume: bool) -> Iterator[OpenRun]:
    """Join the other processes, lock the run's folder, find the newest whole checkpoint.

    Args:
        out: the folder, made if missing.
        resume: look for a checkpoint to go on from.

    Raises:
        InputError: another process writes to it, or all its checkpoints are damaged.
        StageError: out of memory or disk space within the block.
    """
    out, world = Path(out), World.from_environment()
    with explained_errors(out), torch_threads(1):
        with RunLock(out) if world.writes else contextlib.nullcontext():
            world.barrier()
            previous = newest_whole(out) if resume else None
            if previous is not None and world.writes:
                make_newest(previous)
            yield OpenRun(out, world, previous)
        world.close()


def own_part(checkpoint: Checkpoint, world: World, num_envs: int) -> Checkpoint:
    """A checkpoint with this process's own part of it as ``process``: None, and a warning, where the run is now another."""
    processes = checkpoint.state.get("processes")
    part = None
    if processes is not None and len(processes) == world.size:
        part = processes[world.rank]
        if len(part["stats"]["returns"]) != num_envs:
            part = None
    if part is None:
        logger.warning(
            "%s: of another number of processes or environments; networks go on, episodes and curricula begin anew",
            checkpoint.directory,
        )
    return dataclasses.replace(checkpoint, state={**checkpoint.state, "process": part})


def run_training(
    trainer: Trainer,
    run: OpenRun,
    fields: dict[str, Any],
    budget: Budget,
    *,
    wandb: bool,
    progress: bool,
    on_iteration: Callable[[Any, dict[str, float]], None] | None,
    group: str | None = None,
    on_save: Callable[[Any, MetricWriter], None] | None = None,
) -> Path:
    """The loop that all trainings share: iterate, log, save, stop.

    Args:
        trainer: what trains; at the iteration of `run.previous`.
        run: the folder.
        fields: of the manifest, see `run_fields`.
        budget: when to save and stop.
        wandb: log to Weights & Biases.
        progress: show a progress line on stderr.
        on_iteration: called after every update with the trainer and its scalars; in every process.
        group: of runs in Weights & Biases.
        on_save: called at the start and after every checkpoint with the trainer and the writer, in the process that writes: for
            pictures and films; None: with `wandb`, `gaussgym_learn.pictures.RunPictures`.

    Returns:
        The path of `checkpoint.json`.

    Raises:
        KeyboardInterrupt: after a signal to stop: the update was finished and saved.
        StageError: training diverged, the disk is full, or another process died; the last checkpoint is whole.
    """
    if on_save is None and wandb:
        from gaussgym_learn.pictures import RunPictures

        on_save = RunPictures(run.out)
    loop = _Loop(trainer, run, fields, budget, on_save)
    # The same name in all parts of a run, so that they lie on one another.
    fields["scenes"] = all_scenes(run.world, fields["scenes"])
    fields["run_id"] = (run.previous.fields.get("run_id") if run.previous else None) or uuid.uuid4().hex[:12]
    try:
        with Interrupts() as interrupts:
            if run.world.writes:
                cut_curve(run.out, trainer.iteration)
                loop.open_writer(wandb=wandb, group=group, progress=progress)
            loop.go(interrupts, on_iteration)
    except PeerLost:
        raise
    except (GaussgymError, OSError) as error:
        raise loop.explained(error) from None
    finally:
        loop.close()
    return run.out / "checkpoint.json"


class _Loop:
    """State of `run_training` while it runs."""

    def __init__(
        self,
        trainer: Trainer,
        run: OpenRun,
        fields: dict[str, Any],
        budget: Budget,
        on_save: Callable[[Any, MetricWriter], None] | None,
    ) -> None:
        self.trainer, self.out, self.world, self.fields, self.budget = (
            trainer,
            run.out,
            run.world,
            fields,
            budget,
        )
        self.watch = Stopwatch(budget.elapsed_s)
        self.saved: int | None = None if run.previous is None else trainer.iteration
        self.best = None if run.previous is None else best_of(run.out)
        self.writer: MetricWriter | None = None
        self.line: ProgressLine | None = None
        self._on_save = on_save

    def open_writer(self, *, wandb: bool, group: str | None, progress: bool) -> None:
        """Open what only one process writes."""
        start = self.trainer.iteration
        self.writer = MetricWriter(
            self.out,
            wandb=wandb,
            name=self.out.name,
            config=self.fields,
            group=group,
            run_id=self.fields["run_id"],
            iteration=start,
        )
        self.line = ProgressLine(self.trainer.recipe.name, enabled=progress)
        if self._on_save is not None:
            self._on_save(self.trainer, self.writer)

    def go(
        self, interrupts: Interrupts, on_iteration: Callable[[Any, dict[str, float]], None] | None
    ) -> None:
        """Iterate until the budget is spent or a signal came."""
        trainer, budget = self.trainer, self.budget
        saved_s, saved_iteration = self.watch.seconds, trainer.iteration
        scalars: dict[str, float] = {}
        while True:
            seconds, stop = self._agreed(interrupts.asked)
            done = budget.fraction(seconds, trainer.iteration)
            due = (
                trainer.iteration - saved_iteration >= budget.save_iterations
                if budget.save_iterations
                else seconds - saved_s >= 60.0 * budget.save_minutes
            )
            if done >= 1.0 or due or stop:
                if trainer.iteration != self.saved:
                    self.save(seconds, scalars)
                saved_s, saved_iteration = seconds, trainer.iteration
            if stop:
                raise KeyboardInterrupt
            if done >= 1.0:
                return
            trainer.progress = done
            scalars = trainer.iterate()
            scalars = self._log(scalars)
            if on_iteration is not None:
                try:
                    on_iteration(trainer, scalars)
                except KeyboardInterrupt:
                    interrupts.asked = True

    def _agreed(self, asked: bool) -> tuple[float, bool]:
        """Training time [s] by the clock of the process that writes, and whether any process was asked to stop."""
        seconds = self.watch.seconds
        if self.world.size == 1:
            return seconds, asked
        mine = torch.tensor([seconds if self.world.writes else 0.0, float(asked)], dtype=torch.float64)
        seconds, stops = self.world.sum(mine).tolist()
        return seconds, stops > 0

    def _log(self, scalars: dict[str, float]) -> dict[str, float]:
        """Write one row; returns the scalars of all processes together (in those that do not write, their own)."""
        parts = self.world.gather(json.dumps(scalars).encode()) if self.world.size > 1 else []
        if parts:
            scalars = merged([json.loads(part) for part in parts])
        seconds, trainer = self.watch.seconds, self.trainer
        if self.writer is not None:
            self.writer.write(scalars, iteration=trainer.iteration, minutes=seconds / 60, steps=trainer.steps)
        if self.line is not None:
            self.line.show(scalars, self.budget, seconds, trainer.iteration)
        return scalars

    def save(self, seconds: float, scalars: dict[str, float]) -> None:
        """Write a checkpoint of all processes; where an environment has no state its episodes begin anew."""
        trainer = self.trainer
        state = trainer.state()
        process = state.pop("process")
        parts = self.world.gather(packed(process)) if self.world.size > 1 else []
        if self.world.writes:
            processes = [unpacked(part) for part in parts] or [process]
            best = better(self.best, scalars, trainer.iteration)
            fields = {
                **self.fields,
                "train_seconds": seconds,
                "steps": trainer.steps,
                "best": best or self.best,
            }
            save_checkpoint(self.out, {**state, "processes": processes}, fields, iteration=trainer.iteration)
            if best is not None:
                keep_as_best(self.out, fields, iteration=trainer.iteration)
                self.best = best
        self.saved = trainer.iteration
        if process["episodes"] is None:
            trainer.restart()
        if self._on_save is not None and self.writer is not None:
            self._on_save(trainer, self.writer)

    def explained(self, error: Exception) -> Exception:
        """The same error, saying what is left of the run."""
        kept = (
            "no checkpoint was written yet"
            if self.saved is None
            else f"the checkpoint of update {self.saved} is whole"
        )
        if isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename else ""
            reason = f"{where}{error.strerror or error}"
            return StageError(f"{reason} at update {self.trainer.iteration}; {kept}: make room and resume")
        return type(error)(f"{error}; {kept}")

    def close(self) -> None:
        """Close line and writer; what cannot be flushed any more is lost, the curve's rows are not."""
        if self.line is not None:
            self.line.close()
        if self.writer is not None:
            self.writer.close()


def all_scenes(world: World, scenes: dict[str, str]) -> dict[str, str]:
    """The scenes of all processes, in the one that writes."""
    parts = world.gather(json.dumps(scenes).encode())
    return {name: value for part in parts for name, value in json.loads(part).items()} if parts else scenes


_SCORES = ("Eval/success", "Train/success", "Train/mean_reward")


_DIFFICULTIES = ("Curriculum/level", "Curriculum/goal_distance_m")


def better(best: dict[str, Any] | None, scalars: dict[str, float], iteration: int) -> dict[str, Any] | None:
    """The entry of a run's best checkpoint if that of this iteration is better, else None.

    What counts is the success of an evaluation, else that of the newest episodes, else their return; where a curriculum makes
    episodes harder, harder ones count first (to a tenth of a level or metre).

    Args:
        best: the entry so far: ``iteration``, ``metric``, ``score``, ``difficulty``.
        scalars: of the update.
        iteration: of the update.
    """
    metric = next((name for name in _SCORES if math.isfinite(scalars.get(name, math.nan))), None)
    if metric is None:
        return None
    difficulty = round(sum(scalars.get(name, 0.0) for name in _DIFFICULTIES), 1)
    entry = {
        "iteration": iteration,
        "metric": metric,
        "score": scalars[metric],
        "difficulty": difficulty,
        "manifest": "best.json",
    }
    if best is None:
        return entry

    def rank(item: dict[str, Any]) -> tuple[float, ...]:
        return (-_SCORES.index(item["metric"]), item["difficulty"], item["score"])

    return entry if rank(entry) > rank(best) else None


class ProgressLine:
    """One line on stderr: how far, how long, how fast and on what the time goes.

    Args:
        name: of what is trained.
        enabled: show it at all.
    """

    def __init__(self, name: str, *, enabled: bool) -> None:
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
        self._bar = tqdm(total=100, desc=name, disable=not enabled, bar_format=form)
        self._per_iteration_s = math.nan

    def show(self, scalars: dict[str, float], budget: Budget, seconds: float, iteration: int) -> None:
        """Update it after an iteration."""
        took = scalars.get("Perf/collection_time", 0.0) + scalars.get("Perf/learning_time", 0.0)
        old = self._per_iteration_s
        self._per_iteration_s = took if math.isnan(old) else 0.9 * old + 0.1 * took
        self._bar.n = round(100 * budget.fraction(seconds, iteration))
        left = tqdm.format_interval(int(budget.left_s(seconds, iteration, self._per_iteration_s)))
        self._bar.set_postfix_str(f"{left} left, {speeds(scalars, took)}", refresh=True)

    def close(self) -> None:
        """End the line."""
        self._bar.close()


def speeds(scalars: dict[str, float], took_s: float) -> str:
    """Steps a second, the shares of time, and the reward, in words."""
    shares = [
        f"{name} {100 * scalars[key] / took_s:.0f}%"
        for name, key in (
            ("physics", "Perf/physics_time"),
            ("rendering", "Perf/render_time"),
            ("learning", "Perf/learning_time"),
        )
        if scalars.get(key, 0.0) > 0.0 and took_s > 0.0
    ]
    text = f"{scalars.get('Perf/total_fps', math.nan):,.0f} steps/s"
    text += f" ({', '.join(shares)})" if shares else ""
    reward = scalars.get("Train/mean_reward")
    return text if reward is None else f"{text}, reward {reward:.2f}"


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
    names = (
        "model_*.pt",
        "model_*.json",
        "checkpoint.json",
        "best.json",
        "curve.jsonl",
        "events.out.tfevents.*",
        "*.tmp",
    )
    for pattern in names:
        for path in out.glob(pattern):
            path.unlink()
