"""How soon a teacher walks: training that keeps snapshots, and their evaluation afterwards, outside the training time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gaussgym_scene.artifact import ArtifactWriter, read_artifact, write_json
from gaussgym_scene.errors import InputError

MANIFEST = "snapshots.json"
FORMAT = "gaussgym-snapshots"
VERSION = 1
MAX_ERROR_M_S = 0.1
MAX_FALLS = 0.02
SCREEN_EPISODES = 64


def train_with_snapshots(
    recipe_name: str,
    scenes: Sequence[Path],
    output: Path,
    snapshots: Path,
    *,
    minutes: float,
    every_minutes: float = 0.25,
    first_minutes: float = 0.5,
    seed: int = 0,
) -> Path:
    """Train a recipe from nothing and keep its networks every so often.

    Args:
        recipe_name: Of `gaussgym_learn.recipes`.
        scenes: Scene folders; without any, the recipe's own course.
        output: Run folder.
        snapshots: Folder for the snapshots, each a run folder named by its hundredths of minutes.
        minutes: Training time [min].
        every_minutes: Time between snapshots [min].
        first_minutes: Time of the first one [min].
        seed: Of everything random.

    Returns:
        The path of the run's `checkpoint.json`.
    """
    from gaussgym_learn.courses import default_course
    from gaussgym_learn.recipes import get_recipe
    from gaussgym_learn.train import train

    recipe = get_recipe(recipe_name)
    with ArtifactWriter(snapshots, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        keeper = SnapshotKeeper(
            writer.path, every_minutes=every_minutes, first_minutes=first_minutes, seed=seed
        )
        written = train(
            recipe,
            list(scenes) or default_course(recipe_name, seed=seed),
            output,
            minutes=minutes,
            seed=seed,
            progress=True,
            on_iteration=keeper,
        )
        writer.fields.update(recipe=recipe_name, minutes=keeper.minutes, seed=seed)
    return written


class SnapshotKeeper:
    """Called after every update of a training; writes a snapshot whenever one is due.

    Args:
        folder: Where to.
        every_minutes: Between snapshots [min].
        first_minutes: Of the first [min].
        seed: Of the run, for the manifest.

    Attributes:
        minutes: Training time of each snapshot [min], the time taken by writing them left out.
    """

    def __init__(self, folder: Path, *, every_minutes: float, first_minutes: float, seed: int) -> None:
        self.folder, self.every_minutes, self.seed = folder, every_minutes, seed
        self.minutes: list[float] = []
        self._due = first_minutes
        self._trained_s = 0.0

    def __call__(self, trainer: Any, scalars: dict[str, float]) -> None:
        """Count the update's time; keep the networks if a snapshot is due."""
        from gaussgym_learn.checkpoint import save_checkpoint
        from gaussgym_learn.run import run_fields

        self._trained_s += scalars["Perf/collection_time"] + scalars["Perf/learning_time"]
        now = self._trained_s / 60
        if now < self._due:
            return
        self._due = now + self.every_minutes
        minutes = round(now, 3)  # the folder is named by the number that the manifest holds
        self.minutes.append(minutes)
        fields = {**run_fields(trainer.recipe, trainer.env, seed=self.seed), "train_seconds": self._trained_s}
        folder = self.folder / snapshot_name(minutes)
        save_checkpoint(folder, trainer.state(), fields, iteration=trainer.iteration)


def snapshot_name(minutes: float) -> str:
    """Folder of the snapshot taken after so many minutes."""
    return f"minute_{round(100 * minutes):04d}"


def minutes_to_walk(snapshots: Path, scenes: Sequence[Path], output: Path, *, episodes: int = 256) -> Path:
    """Evaluate snapshots from the first on until one walks: velocity error at most 0.1 m/s and at most 2 % falls.

    Each is screened with 64 episodes of 20 s; one that passes must pass again with all episodes.

    Args:
        snapshots: What `train_with_snapshots` kept.
        scenes: Where to walk.
        output: JSON file: `minutes_to_walk` (null if none walks) and the checkpoints' numbers.
        episodes: Episodes of the second evaluation.
    """
    from gaussgym_learn.courses import default_course
    from gaussgym_learn.evaluate import evaluate
    from gaussgym_learn.run import torch_threads
    from tqdm import tqdm

    fields = read_artifact(snapshots, manifest=MANIFEST, format=FORMAT, versions=(VERSION,))
    if not fields["minutes"]:
        raise InputError(f"{snapshots}: holds no snapshot, expected at least one; train for longer")
    course = list(scenes) or default_course(fields["recipe"], seed=fields["seed"])
    rows: list[dict[str, Any]] = []
    found = None
    start = time.perf_counter()
    with torch_threads(1):
        for minutes in tqdm(fields["minutes"], desc="walks yet?"):
            folder = snapshots / snapshot_name(minutes)
            for count in (min(SCREEN_EPISODES, episodes), episodes):
                numbers = evaluate(folder, course, task="velocity", episodes=count)
                row = {key: numbers[key] for key in ("episodes", "velocity_error_m_s", "fell")}
                if not walks(row):
                    break
            rows.append({"minutes": minutes, **row})
            if walks(row):
                found = minutes
                break
    write_json(
        output,
        {"minutes_to_walk": found, "checkpoints": rows, "wall_seconds": time.perf_counter() - start},
    )
    return output


def walks(row: dict[str, Any]) -> bool:
    """Whether an evaluation counts as walking."""
    return row["velocity_error_m_s"] <= MAX_ERROR_M_S and row["fell"] <= MAX_FALLS
