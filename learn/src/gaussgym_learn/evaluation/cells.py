"""One cell of an evaluation: a policy, a seed, a condition and some scenes; run once, kept as a file."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.mdp.starts import Starts
from gaussgym_sim.task import get_task
from gaussgym_sim.tasks.goal import reached_goal
from numpy.typing import NDArray
from tqdm import tqdm

from gaussgym_learn.acting import ActingPolicy
from gaussgym_learn.checkpoint import write_bytes
from gaussgym_learn.commanding import make_policy_env
from gaussgym_learn.evaluate import EpisodeRecorder, run_episodes
from gaussgym_learn.evaluation.ablations import ImageAblation
from gaussgym_learn.evaluation.quantities import QUANTITIES
from gaussgym_learn.evaluation.statistics import spl
from gaussgym_learn.evaluation.sweeps import Condition
from gaussgym_learn.evaluation.terrain_class import classes_of_starts, shortest_ways_m
from gaussgym_learn.evaluation.traces import EpisodeTraces, Failure

if TYPE_CHECKING:
    from gaussgym_render.robot_camera import RobotCameraCfg

VERSION = 1
"""Of the files; another one is run anew."""
LABELS = ("kinds", "ground", "scene_kind")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SceneBatch:
    """Scenes that are in the simulator together, and the episodes that fall to them.

    Attributes:
        scenes: some of the evaluation's.
        first_scene: number of the first of these.
        first_start: number of the first of its episodes.
        episodes: how many.
    """

    scenes: list[Scene]
    first_scene: int
    first_start: int
    episodes: int


@dataclass(frozen=True)
class Cell:
    """What is run at once.

    Attributes:
        subject: name of the policy.
        replicate: which of the seeds.
        condition: under what.
        batch: scenes.
        key: hash of everything that the result depends on, 16 hex digits: the file's name.
        traced: keep failures, and a film.
    """

    subject: str
    replicate: int
    condition: Condition
    batch: SceneBatch
    key: str
    traced: bool


@dataclass
class CellResult:
    """What came of a cell.

    Attributes:
        table: columns `[N]` of numbers, a row an episode.
        labels: columns `[N]` of words: how it ended, ground, kind of scene.
        failures: ends of the episodes that failed.
        peaks: see `EpisodeTraces`, `[S, Q]`.
    """

    table: dict[str, NDArray]
    labels: dict[str, NDArray[np.str_]]
    failures: list[Failure] = field(default_factory=list)
    peaks: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))


def cell_key(**parts: Any) -> str:
    """Hash of everything that a cell's result depends on, 16 hex digits."""
    text = json.dumps({"version": VERSION, **parts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_cell(
    cell: Cell,
    policy: ActingPolicy,
    *,
    cfg: EnvCfg,
    camera: RobotCameraCfg,
    starts: Starts | None,
    seed: int,
    options: dict[str, Any],
    delay_s: float,
    max_parallel: int,
    bar: tqdm | None = None,
    film: Path | None = None,
) -> CellResult:
    """Run a cell.

    Args:
        cell: which.
        policy: acts.
        cfg: settings of the evaluation, which the condition changes.
        camera: kind of camera, likewise.
        starts: goal episodes of the batch; None: of a task without goals, the first episode of each environment.
        seed: of what is drawn.
        options: further arguments of `make_env`.
        delay_s: of delayed images [s].
        max_parallel: environments at once.
        bar: advanced as episodes end.
        film: npz for one episode in full, see `EpisodeRecorder`.
    """
    batch, condition = cell.batch, cell.condition
    cfg, camera = condition.apply(cfg, camera)
    count = batch.episodes if starts is None else min(batch.episodes, max(max_parallel, len(batch.scenes)))
    if condition.ablation == "shuffled" and count < 2:
        raise InputError(
            "shuffled images need at least two robots at once; give more episodes, or another ablation"
        )
    if condition.sim is not None:
        options = {**options, "sim": condition.sim}
    if options.get("renderer") is not None:
        options = {**options, "camera_model": camera}
    env: Any = make_policy_env(
        getattr(policy, "commanding", None),
        cfg.task,
        batch.scenes,
        count,
        cfg=cfg,
        seed=seed,
        starts=starts,
        **options,
    )  # a `GaussgymVecEnv`, or one of commands, which has what is used here
    ablation = ImageAblation(
        condition.ablation, seed=seed, delay_steps=max(1, round(delay_s / env.control_dt_s))
    )
    traces = EpisodeTraces(env, batch.episodes) if cell.traced else None
    recorder = EpisodeRecorder(env) if film is not None else None
    observers = [observer for observer in (traces, recorder) if observer is not None]
    table = run_episodes(
        policy, env, episodes=batch.episodes, ablation=ablation, bar=bar, observers=observers
    )
    env.sim.close()
    if recorder is not None and film is not None:
        recorder.save(film, table)
    return _result(cell, table, starts, cfg, traces)


def _result(
    cell: Cell,
    table: dict[str, NDArray],
    starts: Starts | None,
    cfg: EnvCfg,
    traces: EpisodeTraces | None,
) -> CellResult:
    batch, count = cell.batch, len(table["success"])
    scene = table.pop("scene").astype(np.int64)
    table = {name: np.asarray(values, np.float64) for name, values in table.items()}
    kinds = np.array([str(s.metadata.get("kind", "unknown")) for s in batch.scenes])
    labels = {"scene_kind": kinds[scene], "ground": np.full(count, "")}
    if starts is not None:
        if "spl" not in table and get_task(cfg.task).success is reached_goal:
            table["shortest_m"] = shortest_ways_m(batch.scenes, starts, cfg.commands.goal_radius_m)
            table["spl"] = spl(table["success"], table["path_m"], table["shortest_m"])
        labels["ground"] = np.array(classes_of_starts(batch.scenes, starts))
    outcome = np.where(table["success"] > 0, "success", np.where(table["fell"] > 0, "fell", "timed out"))
    if get_task(cfg.task).success is None:
        del table["success"]
        outcome = np.where(outcome == "timed out", "success", outcome)
    labels["kinds"] = outcome if traces is None else np.array(traces.kinds)
    table["scene"] = scene + batch.first_scene
    table["start"] = np.arange(count, dtype=np.int64) + batch.first_start
    table["replicate"] = np.full(count, cell.replicate, dtype=np.int64)
    if traces is None:
        return CellResult(table, labels)
    for failure in traces.failures:
        failure.start += batch.first_start
        failure.scene += batch.first_scene
    peaks = np.array(traces.peaks, np.float32).reshape(len(traces.peaks), len(QUANTITIES))
    return CellResult(table, labels, sorted(traces.failures, key=lambda f: f.start), peaks)


def save_cell(path: Path, result: CellResult) -> None:
    """Write a result as one npz, whole or not at all."""
    arrays: dict[str, NDArray] = {f"table/{name}": values for name, values in result.table.items()}
    arrays |= {f"label/{name}": values for name, values in result.labels.items()}
    failures = result.failures
    arrays["peaks"] = result.peaks
    arrays["failure/start"] = np.array([f.start for f in failures], np.int64)
    arrays["failure/scene"] = np.array([f.scene for f in failures], np.int64)
    arrays["failure/kind"] = np.array([f.kind for f in failures] or [""])[: len(failures)]
    arrays["failure/period_s"] = np.array([f.period_s for f in failures], np.float64)
    arrays["failure/rows"] = np.array([len(f.times_s) for f in failures], np.int64)
    if failures:
        arrays["failure/times_s"] = np.concatenate([f.times_s for f in failures])
        arrays["failure/quantities"] = np.concatenate([f.quantities for f in failures]).astype(np.float16)
    for number, failure in enumerate(failures):
        for name in ("motion", "frames", "frame"):
            values = getattr(failure, name)
            if values is not None:
                arrays[f"film/{number}/{name}"] = values
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def load_cell(path: Path) -> CellResult | None:
    """Read a result back; None where there is none, or a damaged one (which is then run anew)."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as data:
            return _unpacked({name: data[name] for name in data.files})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s: damaged (%s); it is run anew", path, error)
        return None


def _unpacked(data: dict[str, NDArray]) -> CellResult:
    def part(head: str) -> dict[str, NDArray]:
        return {name.removeprefix(head): values for name, values in data.items() if name.startswith(head)}

    failures, row = [], 0
    for number, count in enumerate(data["failure/rows"].tolist()):
        rows = slice(row, row + count)
        row += count
        failure = Failure(
            int(data["failure/start"][number]),
            str(data["failure/kind"][number]),
            int(data["failure/scene"][number]),
            data["failure/times_s"][rows],
            data["failure/quantities"][rows].astype(np.float32),
            float(data["failure/period_s"][number]),
        )
        failures.append(replace(failure, **part(f"film/{number}/")))
    return CellResult(part("table/"), part("label/"), failures, data["peaks"])


def joined(results: Sequence[CellResult]) -> CellResult:
    """All episodes of several cells of one policy and condition; columns that not all have are left out."""
    names = set.intersection(*(set(r.table) for r in results))
    table = {
        name: np.concatenate([r.table[name] for r in results]) for name in results[0].table if name in names
    }
    labels = {name: np.concatenate([r.labels[name] for r in results]) for name in LABELS}
    peaks = [r.peaks for r in results if len(r.peaks)]
    failures = [failure for r in results for failure in r.failures]
    return CellResult(
        table, labels, failures, np.concatenate(peaks) if peaks else np.zeros((0, 0), np.float32)
    )
