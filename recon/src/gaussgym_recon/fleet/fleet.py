"""Many builds at once, on this machine or a Ray cluster: retries, resumption, and a collection of what came out.

On a cluster the captures and the output must lie on a disk that all machines share, under the same path.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gaussgym_scene.artifact import provenance, write_json
from gaussgym_scene.collection import MANIFEST as COLLECTION
from gaussgym_scene.collection import collect
from gaussgym_scene.errors import InputError, StageError

from gaussgym_recon.fleet.job import Build, Outcome, run_job
from gaussgym_recon.fleet.plan import LOGS, Job, Plan, plan

log = logging.getLogger(__name__)

REPORT = "fleet.json"
_LOCK = ".fleet.lock"
_RAY_ATTEMPTS = 3
Progress = Callable[[str, float, str], None]


@dataclass(frozen=True)
class FleetCfg:
    """How to build many captures.

    Attributes:
        workers: Builds at once on this machine; None: as many as its cores allow. A cluster takes what it has room for.
        cpus: Cores of each build.
        gpus: GPUs of each build; a part of one is possible.
        retries: So often is a build begun again whose process died or met an unforeseen error; bad captures are not.
        address: Of a Ray cluster; None: this machine alone.
        held_out: Share of captures that the collection holds out of training.
        seed: Of that choice.
    """

    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 2
    address: str | None = None
    held_out: float = 0.2
    seed: int = 0

    def check(self) -> None:
        """See that the numbers can be.

        Raises:
            InputError: One cannot.
        """
        if self.workers is not None and self.workers < 1:
            raise InputError(f"fleet: workers is {self.workers}, expected at least 1")
        if not self.cpus > 0 or self.gpus < 0:
            raise InputError(
                f"fleet: {self.cpus:g} cores and {self.gpus:g} GPUs a build, expected more than 0 and at least 0"
            )
        if self.retries < 0:
            raise InputError(f"fleet: retries is {self.retries}, expected at least 0")
        if not 0 <= self.held_out <= 1:
            raise InputError(f"fleet: held_out is {self.held_out:g}, expected a share of 0 to 1")


@dataclass
class FleetReport:
    """What came of a fleet.

    Attributes:
        outcomes: By name; scenes that were there before count as `there`.
        attempts: How often each was begun in this run.
        duplicates: Captures that were left out → the same one under another name.
        collection: The collection's file, None where no scene came out.
    """

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    duplicates: dict[str, str] = field(default_factory=dict)
    collection: Path | None = None

    def named(self, *states: str) -> list[str]:
        """Names of the jobs that ended so."""
        return sorted(name for name, outcome in self.outcomes.items() if outcome.state in states)

    def require_all(self) -> None:
        """See that every scene is there.

        Raises:
            StageError: Some failed; the text names them.
        """
        failed = self.named("failed", "crashed")
        if failed:
            first = self.outcomes[failed[0]]
            listed = ", ".join(failed[:10]) + (f", … ({len(failed)})" if len(failed) > 10 else "")
            kept = "no scene came out" if self.collection is None else f"the others are in {self.collection}"
            raise StageError(
                f"{len(failed)} of {len(self.outcomes)} captures failed: {listed} ({first.name}: {first.reason}); {kept}"
            )


def fleet(
    captures: Path | str,
    output: Path | str,
    build_cfg: Any,
    cfg: FleetCfg | None = None,
    *,
    build: Build | None = None,
    progress: Progress | None = None,
) -> FleetReport:
    """Build every capture below a folder; a failed one stops nothing.

    Scenes that are there already, of the same capture and settings, are kept. What each build says goes to
    `<output>/logs/<name>.log`, how all ended to `<output>/fleet.json` (kept current), scenes with their splits to
    `<output>/collection.json`.

    Args:
        captures: Folder below which captures lie.
        output: Folder for the scenes.
        build_cfg: Settings of every build, a dataclass.
        cfg: How.
        build: Builds one scene; None: `gaussgym_recon.build.build`. It is sent to other processes.
        progress: Told how many are done.

    Returns:
        How each ended.

    Raises:
        InputError: No captures, numbers that cannot be, Ray is not installed, or another fleet works in `output`.
        StageError: Ray does not start.
    """
    cfg = cfg or FleetCfg()
    cfg.check()
    captures, output = Path(captures), Path(output)
    work = plan(captures, output, _plain(build_cfg))
    if build is None:
        from gaussgym_recon.build import build as build_scene

        build = build_scene
    (output / LOGS).mkdir(parents=True, exist_ok=True)
    with _alone(output):
        report = FleetReport(duplicates=work.duplicates)
        for name, same in work.duplicates.items():
            log.warning("%s is the same capture as %s and is left out", name, same)
        waiting = []
        for job in work.jobs:
            if job.is_built():
                report.outcomes[job.name] = Outcome(job.name, "there")
            else:
                waiting.append(job)
        if waiting:
            _run(waiting, work, report, build_cfg, cfg, build, output, progress)
        _finish(report, work, cfg, output)
    return report


def _plain(cfg: Any) -> dict[str, Any]:
    """Settings as a scene's manifest says them."""
    import json

    return json.loads(json.dumps(asdict(cfg), default=str))


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Keep a second fleet out of a folder, for as long as this process lives."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    with (output / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{output}: another fleet works here; wait for it, or choose another --output"
            ) from None
        yield


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise InputError(
            "fleets need Ray, which is not installed; pip install 'gaussgym-recon[fleet]'"
        ) from None
    return ray


@contextlib.contextmanager
def _ray(cfg: FleetCfg) -> Iterator[Any]:
    """Ray, connected to a cluster or started on this machine, unless the caller has."""
    ray = _import_ray()
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": cfg.address, "log_to_driver": False, "logging_level": "ERROR"}
    if cfg.address is None:
        cores = max(
            1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        workers = cfg.workers if cfg.workers is not None else max(1, int(cores / cfg.cpus))
        options |= {"num_cpus": max(1, round(workers * cfg.cpus)), "include_dashboard": False}
    for attempt in range(
        1, _RAY_ATTEMPTS + 1
    ):  # Ray gives its processes 30 s, too little on a machine that is busy
        try:
            ray.init(**options)
            break
        except Exception as error:
            ray.shutdown()
            if attempt == _RAY_ATTEMPTS:
                reason = " ".join(str(error).split())[:200]
                raise StageError(
                    f"Ray did not start ({reason}); see its logs, or give --address of one that runs"
                ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _run(
    waiting: list[Job], work: Plan, report: FleetReport, build_cfg: Any, cfg: FleetCfg, build: Build, output: Path,
    progress: Progress | None,
) -> None:  # fmt: skip
    """Have all jobs done, some at a time."""
    tell = progress or (lambda stage, fraction, status: None)
    began, total, todo = time.monotonic(), len(work.jobs), deque(waiting)
    with _ray(cfg) as ray:
        # Retries are ours: Ray's would not tell, and begin builds whose captures are bad again.
        remote = ray.remote(num_cpus=cfg.cpus, num_gpus=cfg.gpus, max_retries=0)(run_job)
        threads = max(1, int(cfg.cpus))
        running: dict[Any, Job] = {}
        while todo or running:
            # A few more than can run keep the workers busy; all at once would make a lost node lose them all.
            while todo and len(running) < 2 * _slots(ray, cfg):
                job = todo.popleft()
                attempt = report.attempts[job.name] = report.attempts.get(job.name, 0) + 1
                running[
                    remote.options(name=f"build {job.name}").remote(job, build_cfg, build, threads, attempt)
                ] = job
            done, _ = ray.wait(list(running), num_returns=1, timeout=5.0)
            for reference in done:
                job = running.pop(reference)
                outcome = _outcome(ray, reference, job)
                if outcome.state == "crashed" and report.attempts[job.name] <= cfg.retries:
                    log.warning("%s: %s; once more", job.name, outcome.reason)
                    todo.append(job)
                    continue
                report.outcomes[job.name] = outcome
                write_report(report, output, total)
            tell("fleet", len(report.outcomes) / total, _status(report, total, len(waiting), began))


def _slots(ray: Any, cfg: FleetCfg) -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1.0) / cfg.cpus))


def _outcome(ray: Any, reference: Any, job: Job) -> Outcome:
    """What a task returned; a process that died counts as crashed."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines() or [""]
        reason = f"its process died ({type(error).__name__}: {lines[0][:160]})"
        with job.log.open("a") as file:
            file.write(f"{reason}\n")
        return Outcome(job.name, "crashed", reason)


def _status(report: FleetReport, total: int, of_this_run: int, began: float) -> str:
    """Counts, and about how long the rest takes."""
    failed, ended = len(report.named("failed", "crashed")), len(report.outcomes)
    words = f"{ended - failed} scenes, {failed} failed, {total - ended} to go"
    run_now = ended - (total - of_this_run)
    if run_now > 0 and ended < total:
        left_min = (time.monotonic() - began) / run_now * (total - ended) / 60
        words += f", about {left_min:.0f} min"
    return words


def write_report(report: FleetReport, output: Path, total: int) -> None:
    """Write `fleet.json`: how each job ended so far."""
    rows = {
        name: {**asdict(outcome), "attempts": report.attempts.get(name, 0)}
        for name, outcome in sorted(report.outcomes.items())
    }
    head = {"format": "gaussgym-fleet", "version": 1, "captures": total, "provenance": provenance()}
    write_json(output / REPORT, {**head, "duplicates": report.duplicates, "scenes": rows})


def _finish(report: FleetReport, work: Plan, cfg: FleetCfg, output: Path) -> None:
    """Write the report and the collection of all scenes that are there."""
    write_report(report, output, len(work.jobs))
    good = set(report.named("built", "there"))
    folders = [job.output for job in work.jobs if job.name in good]
    if folders:
        report.collection = collect(folders, held_out=cfg.held_out, seed=cfg.seed).save(output / COLLECTION)
