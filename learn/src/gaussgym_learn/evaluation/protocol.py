"""The evaluation of policies: fixed held-out scenes and starts, several seeds, conditions, all of it resumable cell by cell."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gaussgym_scene.artifact import sha256_of
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import MANIFEST as SCENE_MANIFEST
from gaussgym_scene.scene import Scene
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.mdp.starts import Starts, scene_of_env
from gaussgym_sim.presets import randomize_preset
from gaussgym_sim.task import get_task
from gaussgym_sim.vecsim import BRIDGE, backend_names
from tqdm import tqdm

from gaussgym_learn.calibrated import calibrated, is_calibration
from gaussgym_learn.evaluate import evaluation_cfg, fixed_starts
from gaussgym_learn.evaluation.ablations import DELAY_S
from gaussgym_learn.evaluation.cells import (
    Cell,
    CellResult,
    SceneBatch,
    cell_key,
    joined,
    load_cell,
    run_cell,
    save_cell,
)
from gaussgym_learn.evaluation.subjects import Subject, settings_for
from gaussgym_learn.evaluation.sweeps import BASE, Condition, conditions
from gaussgym_learn.scene_list import open_scenes, scene_hash

if TYPE_CHECKING:
    from gaussgym_render.robot_camera import RobotCameraCfg

CELLS = "cells"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProtocolCfg:
    """How policies are evaluated.

    Attributes:
        task: `goal`, `velocity`, or another registered one.
        task_cfg: of it, in place of its own.
        episodes: of each seed.
        seeds: of the starts; each is a replicate. A policy that comes as several runs uses another run for each.
        ablations: of the images, for policies that see.
        delay_s: of delayed images [s].
        sweeps: things to vary, of `sweeps.AXES`.
        second_engine: physics backend to evaluate in, too.
        robot: registry name.
        sim: physics backend.
        renderer: backend of the camera.
        camera_model: see `gaussgym_learn.env.make_env`.
        randomize: preset of the world that policies are evaluated in; `none` is the nominal one, without noise.
        show_robot: see `make_env`.
        max_parallel: environments at once.
        threads: of physics and rendering; None: as many as there are CPUs for it.
        scenes_at_once: scenes in the simulator at once; more are run one batch after the other.
    """

    task: str = "goal"
    task_cfg: Any = None
    episodes: int = 256
    seeds: tuple[int, ...] = (1, 2, 3)
    ablations: tuple[str, ...] = ("blank", "shuffled", "frozen", "delayed")
    delay_s: float = DELAY_S
    sweeps: tuple[str, ...] = ()
    second_engine: str | None = None
    robot: str = "go1"
    sim: str = "mujoco"
    renderer: str = "auto"
    camera_model: str = "ideal"
    randomize: str = "none"
    show_robot: bool = False
    max_parallel: int = 256
    threads: int | None = None
    scenes_at_once: int = 16

    def __post_init__(self) -> None:
        """Check what a command line may get wrong.

        Raises:
            InputError: what was found, and what was expected.
        """
        if self.episodes < 1 or self.max_parallel < 1 or self.scenes_at_once < 1:
            found = (
                f"{self.episodes} episodes, {self.max_parallel} at once, {self.scenes_at_once} scenes at once"
            )
            raise InputError(f"found {found}; expected at least 1 of each")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds {list(self.seeds)}; expected at least one, and each once")
        if not self.delay_s > 0:
            raise InputError(f"delay of {self.delay_s} s; expected a positive time")
        for sim in (self.sim, self.second_engine):
            if sim is not None and sim.removeprefix(BRIDGE) not in backend_names():
                raise InputError(
                    f"unknown physics backend {sim!r}; this version has: {', '.join(backend_names())}"
                )
        if self.second_engine == self.sim:
            raise InputError(f"second engine {self.sim!r} is the first; expected another one")
        conditions(self.ablations, self.sweeps, self.second_engine)
        randomize_preset(self.randomize)


@dataclass
class Outcome:
    """All that was run.

    Attributes:
        cfg: how.
        subjects: who.
        scenes: where.
        conditions: under what.
        results: by name of the policy and of the condition.
        films: npz of one episode in full, by name of the policy.
        ran: cells that were run now; others were there already.
    """

    cfg: ProtocolCfg
    subjects: list[Subject]
    scenes: list[Scene]
    conditions: tuple[Condition, ...]
    results: dict[tuple[str, str], CellResult] = field(default_factory=dict)
    films: dict[str, Path] = field(default_factory=dict)
    ran: int = 0

    def of(self, subject: str, condition: str = BASE) -> CellResult | None:
        """What came of a policy under a condition; None where it was not run."""
        return self.results.get((subject, condition))


class Protocol:
    """Plans the cells of an evaluation and runs those that are not there yet.

    Args:
        subjects: policies.
        scenes: scenes or folders, held out from training.
        cfg: how to evaluate.
        folder: where finished cells are kept.

    Raises:
        InputError: settings, scenes or policies that do not go together.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        scenes: Sequence[Scene | Path | str],
        cfg: ProtocolCfg,
        folder: Path,
    ) -> None:
        if not scenes:
            raise InputError("no scene given; expected at least one to evaluate in")
        self.cfg, self.subjects, self.folder = cfg, list(subjects), folder
        for one in self.subjects:
            if len(one.runs) > len(cfg.seeds):
                raise InputError(
                    f"policy {one.name!r}: {len(one.runs)} runs for {len(cfg.seeds)} seeds; expected a seed for each run"
                )
        self.scenes = open_scenes(list(scenes))
        self.conditions = conditions(cfg.ablations, cfg.sweeps, cfg.second_engine)
        self.batches = scene_batches(self.scenes, cfg.episodes, cfg.scenes_at_once)
        self.base_cfg = _base_cfg(cfg)
        self._prints = [_scene_print(scene) for scene in self.scenes]
        self._goals = get_task(cfg.task).pursues_goal
        if not self._goals and max(batch.episodes for batch in self.batches) > cfg.max_parallel:
            raise InputError(
                f"{cfg.episodes} episodes of the {cfg.task} task run at once; expected at most {cfg.max_parallel}"
            )
        self._starts: dict[tuple[int, int], Starts] = {}
        self.cells = self._plan()

    def _plan(self) -> list[Cell]:
        """All cells: the plain condition of everybody first, so that a policy that does not fit is found early."""
        cells = []
        for condition in self.conditions:
            for replicate in range(len(self.cfg.seeds)):
                for one in self.subjects:
                    if condition.of_images and not one.sees:
                        continue
                    cells += [
                        self._cell(one, replicate, condition, number) for number in range(len(self.batches))
                    ]
        return cells

    def _cell(self, one: Subject, replicate: int, condition: Condition, number: int) -> Cell:
        batch, cfg = self.batches[number], self.cfg
        policy, print_ = one.run(replicate)
        scenes = slice(batch.first_scene, batch.first_scene + len(batch.scenes))
        traced = condition.name == BASE
        key = cell_key(
            policy=print_, scenes=self._prints[scenes], condition=dataclasses.asdict(condition),
            settings=dataclasses.asdict(settings_for(policy, self.base_cfg)), seed=self._seed(replicate, number),
            starts=[batch.first_start, batch.episodes], robot=cfg.robot, sim=cfg.sim, camera=cfg.camera_model,
            show_robot=cfg.show_robot, replicate=replicate, traced=traced, renderer=cfg.renderer,
            delay_s=cfg.delay_s if condition.ablation == "delayed" else None,
        )  # fmt: skip
        return Cell(one.name, replicate, condition, batch, key, traced)

    def _seed(self, replicate: int, batch: int) -> int:
        """Of the starts of a batch; of the first one, the replicate's own, so that `evaluate` gives the same starts."""
        return self.cfg.seeds[replicate] + 1_000_003 * batch

    def starts(self, replicate: int, number: int) -> Starts | None:
        """The starts of a batch, the same for all policies and conditions; None of a task without goals."""
        if not self._goals:
            return None
        place = (replicate, number)
        if place not in self._starts:
            batch = self.batches[number]
            self._starts[place] = fixed_starts(
                batch.scenes, batch.episodes, seed=self._seed(*place), task=self.cfg.task
            )
        return self._starts[place]

    def run(self, *, progress: bool = False, found: Path | None = None) -> Outcome:
        """Run what is not there yet.

        Args:
            progress: show a bar on stderr: episodes, time left, and what is run.
            found: another folder with finished cells.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._bring(found)
        results = {cell.key: load_cell(self._file(cell)) for cell in self.cells}
        total = sum(cell.batch.episodes for cell in self.cells)
        there = sum(cell.batch.episodes for cell in self.cells if results[cell.key] is not None)
        bar = tqdm(total=total, initial=there, unit="episode", disable=not progress, smoothing=0.05)
        ran = 0
        for cell in self.cells:
            if results[cell.key] is None:
                bar.set_description(
                    f"{cell.subject} {cell.condition.name} {1 + cell.replicate}/{len(self.cfg.seeds)}"
                )
                results[cell.key] = self._run(cell, bar)
                ran += 1
        bar.close()
        return self._outcome(results, ran)  # type: ignore[arg-type]

    def files(self) -> list[Path]:
        """Files of the cells that are there, films among them."""
        found = [file for cell in self.cells for file in (self._file(cell), self._film(cell))]
        return [file for file in found if file.is_file()]

    def _bring(self, found: Path | None) -> None:
        """Cells of an evaluation that was finished before."""
        for cell in self.cells:
            for file in (self._file(cell), self._film(cell)):
                other = None if found is None else found / file.name
                if other is not None and other.is_file() and not file.is_file():
                    shutil.copyfile(other, file)

    def _file(self, cell: Cell) -> Path:
        return self.folder / f"{cell.key}.npz"

    def _film(self, cell: Cell) -> Path:
        return self.folder / f"{cell.key}.film.npz"

    def _run(self, cell: Cell, bar: tqdm) -> CellResult:
        one = next(s for s in self.subjects if s.name == cell.subject)
        policy, _ = one.run(cell.replicate)
        number = next(i for i, batch in enumerate(self.batches) if batch is cell.batch)
        cfg = settings_for(policy, self.base_cfg)
        if one.sees and is_calibration(self.cfg.camera_model):
            cfg = dataclasses.replace(cfg, camera=calibrated(cfg.camera, self.cfg.camera_model))
        filmed = cell.traced and cell.replicate == 0 and number == 0
        options: dict[str, Any] = {"robot": self.cfg.robot, "sim": self.cfg.sim, "renderer": None}
        options["num_threads"] = self.cfg.threads
        if one.sees:
            options |= {"renderer": self.cfg.renderer, "show_robot": self.cfg.show_robot}
        result = run_cell(
            cell, policy, cfg=cfg, camera=_camera(self.cfg.camera_model), starts=self.starts(cell.replicate, number),
            seed=self._seed(cell.replicate, number), options=options, delay_s=self.cfg.delay_s,
            max_parallel=self.cfg.max_parallel, bar=bar, film=self._film(cell) if filmed else None,
        )  # fmt: skip
        save_cell(self._file(cell), result)
        return result

    def _outcome(self, results: dict[str, CellResult], ran: int) -> Outcome:
        out = Outcome(self.cfg, self.subjects, self.scenes, self.conditions, ran=ran)
        groups: dict[tuple[str, str], list[CellResult]] = {}
        for cell in self.cells:
            groups.setdefault((cell.subject, cell.condition.name), []).append(results[cell.key])
            if self._film(cell).is_file():
                out.films.setdefault(cell.subject, self._film(cell))
        out.results = {place: joined(parts) for place, parts in groups.items()}
        return out


def scene_batches(scenes: Sequence[Scene], episodes: int, at_once: int) -> list[SceneBatch]:
    """Scenes in batches of at most `at_once`, with the episodes that fall to them (as evenly as possible, in order).

    Raises:
        InputError: fewer episodes than scenes.
    """
    if episodes < len(scenes):
        raise InputError(
            f"{episodes} episodes for {len(scenes)} scenes; expected at least one a scene: give more episodes or fewer scenes"
        )
    per_scene = np.bincount(scene_of_env(len(scenes), episodes), minlength=len(scenes))
    batches, start = [], 0
    for first in range(0, len(scenes), at_once):
        count = int(per_scene[first : first + at_once].sum())
        batches.append(SceneBatch(list(scenes[first : first + at_once]), first, start, count))
        start += count
    return batches


def _base_cfg(cfg: ProtocolCfg) -> EnvCfg:
    """The settings of an evaluation: nominal, or in a randomized world with noisy sensors."""
    base = EnvCfg.for_task(cfg.task)
    if cfg.task_cfg is not None:
        base = dataclasses.replace(base, task_cfg=cfg.task_cfg)
    settings = evaluation_cfg(cfg.task, base)
    if cfg.randomize == "none":
        return settings
    return dataclasses.replace(settings, randomize=randomize_preset(cfg.randomize), noisy_observations=True)


def _camera(name: str) -> RobotCameraCfg:
    from gaussgym_render.robot_camera import RobotCameraCfg, get_camera_model

    return RobotCameraCfg() if is_calibration(name) else get_camera_model(name)


def _scene_print(scene: Scene) -> str:
    """Hash of a scene: of its manifest, which has those of its files, or else of its ground and paths."""
    manifest = None if scene.directory is None else Path(scene.directory) / SCENE_MANIFEST
    if manifest is not None and manifest.is_file():
        return sha256_of(manifest)[:16]
    return scene_hash(scene)
