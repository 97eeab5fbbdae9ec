"""A campaign: every kind at many moments on every link, over worker processes, and its summary."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Protocol, Sequence, Tuple

import numpy as np

from ..bundle import BundleError, PolicyBundle
from ..robot_io import LinkError
from .table import ALL_LINKS, KINDS, FaultKind, select_kinds
from .trials import Trial, no_trial

__all__ = ["LINKS", "CampaignCfg", "run_campaign"]

LINKS = ALL_LINKS
"""Links that a campaign knows, in its order."""


@dataclass(frozen=True)
class CampaignCfg:
    """What a campaign does.

    Attributes:
        bundle: Folder of the bundle.
        links: Names of links.
        kinds: Names of kinds; empty: all.
        moments: Trials of each kind on each link.
        seed: Of moments, joints, phases, starts.
        scene: Folder of the scene (``sim``, ``dds-sim``).
        jobs: Worker processes; 0: one a core.
    """

    bundle: Path
    links: Tuple[str, ...] = ("bench",)
    kinds: Tuple[str, ...] = ()
    moments: int = 20
    seed: int = 0
    scene: Optional[Path] = None
    jobs: int = 0


class Rig(Protocol):
    """A link that is ready for trials."""

    retaken: int

    def trial(self, kind: FaultKind, mode: str, generator: np.random.Generator) -> Trial:
        """One fault at a random moment."""
        ...

    def close(self) -> None:
        """Let go of processes."""
        ...


@dataclass(frozen=True)
class Task:
    """All trials of one kind on one link; its random numbers depend on nothing else.

    Attributes:
        link: Name of the link.
        kind: Name of the kind.
    """

    link: str
    kind: str

    @property
    def live(self) -> bool:
        """Whether it runs in real time: processes, and real wires."""
        return self.link == "dds-sim" or KINDS[self.kind].real_time


@dataclass
class Done:
    """What became of a task.

    Attributes:
        task: Which.
        trials: Its trials.
        retaken: Trials that were begun anew, since the robot tripped by itself before the fault.
        wall_s: How long it took [s].
    """

    task: Task
    trials: List[Trial]
    retaken: int
    wall_s: float


def plan(cfg: CampaignCfg) -> List[Task]:
    """The tasks of a campaign.

    Raises:
        BundleError: For unknown links or kinds, or a link that needs a scene and has none.
    """
    tasks = []
    for link in cfg.links:
        if link not in LINKS:
            raise BundleError(f"no faults on a link {link!r}; there is: {', '.join(LINKS)}")
        if link == "sim" and cfg.scene is None:
            raise BundleError(
                f"the link {link!r} needs --scene (gaussgym-scene synth street --output DIR makes one)"
            )
        tasks += [Task(link, kind.name) for kind in select_kinds(cfg.kinds, link)]
    return tasks


def run_campaign(cfg: CampaignCfg, progress: Callable[[Done], None] = lambda done: None) -> List[Done]:
    """Run all trials; kinds are shared out among worker processes.

    Args:
        cfg: What to do.
        progress: Called after every task.

    Returns:
        The tasks in the order of the plan.

    Raises:
        BundleError: For a plan that cannot be, or a bundle that does not load.
        LinkError: When a robot process does not come up.
    """
    tasks = plan(cfg)
    PolicyBundle.load(cfg.bundle)
    jobs = min(cfg.jobs or os.cpu_count() or 1, len(tasks))
    done: Dict[Task, Done] = {}
    for live in (False, True):  # what runs in real time is not disturbed by what takes all the machine gives
        chosen = [task for task in tasks if task.live == live]
        for result in _results(cfg, chosen, min(jobs, len(chosen))):
            done[result.task] = result
            progress(result)
    return [done[task] for task in tasks]


def _results(cfg: CampaignCfg, tasks: Sequence[Task], jobs: int) -> Iterator[Done]:
    if not tasks:
        return
    if jobs <= 1:
        worker = Worker(cfg)
        try:
            yield from map(worker, tasks)
        finally:
            worker.close()
        return
    # Spawned, not forked: onnxruntime's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, initializer=_begin_worker, initargs=(cfg,)) as pool:
        yield from pool.imap_unordered(_work, tasks)
        pool.close()
        pool.join()


class Worker:
    """Runs tasks, and keeps one rig a link.

    Args:
        cfg: The campaign.
    """

    def __init__(self, cfg: CampaignCfg) -> None:
        self._cfg = cfg
        self._bundle = PolicyBundle.load(cfg.bundle)
        self._rigs: Dict[Tuple[str, bool], Rig] = {}

    def __call__(self, task: Task) -> Done:
        """All trials of a task."""
        rig = self._rig(task)
        kind, cfg, start_s, before = KINDS[task.kind], self._cfg, time.perf_counter(), rig.retaken
        generator = np.random.default_rng([cfg.seed, LINKS.index(task.link), list(KINDS).index(task.kind)])
        trials: List[Trial] = []
        for number in range(cfg.moments):
            mode = kind.modes[number % len(kind.modes)]
            try:
                trials.append(rig.trial(kind, mode, generator))
            except (
                LinkError
            ) as error:  # one row must not end a campaign; the rest of the row would fail as slowly
                trials.append(no_trial(kind, task.link, mode, str(error)))
                break
        return Done(task, trials, rig.retaken - before, time.perf_counter() - start_s)

    def close(self) -> None:
        """End what the rigs have started."""
        while self._rigs:
            self._rigs.popitem()[1].close()

    def _rig(self, task: Task) -> Rig:
        key = (task.link, task.live)
        if key not in self._rigs:
            self._rigs[key] = self._live_rig(task.link) if task.live else self._virtual_rig(task.link)
        return self._rigs[key]

    def _virtual_rig(self, link: str) -> Rig:
        from .virtual import BenchSource, SimSource, VirtualRig

        if link == "sim" and self._cfg.scene is not None:
            return VirtualRig(link, self._bundle, SimSource(self._bundle, self._cfg.scene))
        return VirtualRig(link, self._bundle, BenchSource(self._bundle))

    def _live_rig(self, link: str) -> Rig:
        from .live import LiveRig

        if link == "dds-sim":
            from ..unitree.simulated import free_domain

            return LiveRig(link, self._bundle, domain=free_domain())
        if link == "sim" and self._cfg.scene is not None:
            from .virtual import SimSource

            return LiveRig(
                link, self._bundle, source=SimSource(self._bundle, self._cfg.scene, lockstep=False)
            )
        return LiveRig(link, self._bundle)


_worker: Optional[Worker] = None


def _begin_worker(cfg: CampaignCfg) -> None:
    global _worker
    _worker = Worker(cfg)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    multiprocessing.util.Finalize(_worker, _worker.close, exitpriority=10)  # type: ignore[attr-defined]


def _end_with_parent(parent: int) -> None:
    """A killed campaign leaves nothing: its workers end, and what they started sees the end of its input."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(task: Task) -> Done:
    assert _worker is not None
    return _worker(task)
