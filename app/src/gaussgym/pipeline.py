"""Runs stages: only what changed, side by side where cores allow, with an estimate, and safe against every kind of stop."""

import contextlib
import os
import select
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from gaussgym_scene.errors import InputError, StageError

from gaussgym import fingerprints
from gaussgym.processes import StageProcess, kill_group, leftovers
from gaussgym.progress import ProgressLine, clock
from gaussgym.stages import RunState, Stage, StageRecord, in_order, needs, producer_of

POLL_S = 0.2
MEMORY_INTERVAL_S = 0.5
DISK_MARGIN_MB = 300.0
FULL_DISK_MB = 20.0
OVERDUE = 0.1
"""A stage that outlasts its estimate is expected to need this share of its time so far again."""


@dataclass
class Outcome:
    """What a run of the pipeline did."""

    built: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    wall_s: float = 0.0


class Pipeline:
    """Brings a run folder up to date.

    Args:
        run_dir: Folder of the run; all outputs lie inside.
        stages: What to do, in any order.
        cores: Cores to share out; those of this machine by default.
        trust_code: Do not rebuild because source code changed.
        progress: Where to show what happens.
    """

    def __init__(
        self,
        run_dir: Path,
        stages: Sequence[Stage],
        *,
        cores: int | None = None,
        trust_code: bool = False,
        progress: ProgressLine | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.stages = in_order(stages)
        self.cores = cores or usable_cores()
        self.trust_code = trust_code
        self.progress = progress or ProgressLine()
        self.state = RunState(run_dir)
        self._producers = producer_of(stages)
        self._running: list[StageProcess] = []
        self._stale: list[Stage] = []
        self._keys: dict[str, str] = {}
        self._sampled_s = 0.0
        self._peak_rss_mb = 0.0

    def run(self) -> Outcome:
        """Build what is missing or stale.

        Returns:
            Names of the stages that were built and kept, and the wall time.

        Raises:
            InputError: If a stage refused its input (status 2), or disk or memory are too small.
            StageError: If a stage crashed or was killed.
            KeyboardInterrupt: After Ctrl-C, once the running stages were stopped.
        """
        begin_s = time.time()
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.state = RunState.load(self.run_dir)
        names = {stage.name for stage in self.stages}
        self.state.stages = {name: record for name, record in self.state.stages.items() if name in names}
        self._take_over()
        outcome = Outcome()
        try:
            self._stale = self.plan()
            outcome.kept = [stage.name for stage in self.stages if stage not in self._stale]
            check_resources(self.run_dir, self._stale, self.cores)
            self._announce()
            self._build(outcome)
        except BaseException:
            self._stop_all()
            outcome.wall_s = time.time() - begin_s
            with contextlib.suppress(OSError):  # on a full disk the stage's own words count
                self._leave(outcome)
            raise
        outcome.wall_s = time.time() - begin_s
        self._leave(outcome)
        return outcome

    def plan(self) -> list[Stage]:
        """Stages to build: not done themselves, or behind one that is to be built."""
        stale: list[Stage] = []
        names: set[str] = set()
        for stage in self.stages:
            behind = needs(stage, self._producers) & names
            if behind or not self.state.is_done(stage, trust_code=self.trust_code):
                stale.append(stage)
                names.add(stage.name)
        return stale

    def left_s(self) -> float:
        """Estimated wall time [s] until all is built, from the work left and the longest chain of stages."""
        left = {stage.name: self._estimate_s(stage) for stage in self._stale}
        for process in self._running:
            spent = time.time() - process.started_s
            left[process.stage.name] = max(left[process.stage.name] - spent, OVERDUE * spent)
        work = sum(left[stage.name] * self._cores_of(stage) for stage in self._stale) / self.cores
        chain: dict[str, float] = {}
        for stage in self._stale:
            before = [chain.get(name, 0.0) for name in needs(stage, self._producers)]
            chain[stage.name] = max(before, default=0.0) + left[stage.name]
        return max([work, *chain.values()], default=0.0)

    def _build(self, outcome: Outcome) -> None:
        waiting = list(self._stale)
        while waiting or self._running:
            self._start_ready(waiting, outcome)
            self._watch()
            for process in [process for process in self._running if process.poll() is not None]:
                self._running.remove(process)
                self._finish(process)
                outcome.built.append(process.stage.name)
            self.progress.show(self._line())

    def _start_ready(self, waiting: list[Stage], outcome: Outcome) -> None:
        unfinished = {stage.name for stage in waiting} | {process.stage.name for process in self._running}
        ready = [stage for stage in waiting if not needs(stage, self._producers) & unfinished]
        for stage in ready:
            # What lies before it was rebuilt, perhaps with the same result: then this stage is up to date after all.
            if self.state.is_done(stage, trust_code=self.trust_code):
                outcome.kept.append(stage.name)
                waiting.remove(stage)
                self._stale.remove(stage)
                return
        # Stages that take all cores go first, so that those of one core gather and run side by side; then what has the most
        # behind it.
        tails = self._tails_s()
        ready.sort(key=lambda stage: (-self._cores_of(stage), -tails[stage.name]))
        for stage in ready:
            if self._cores_of(stage) <= self._free_cores():
                waiting.remove(stage)
                self._start(stage)
        self._fill(waiting, [stage for stage in ready if stage in waiting])

    def _fill(self, waiting: list[Stage], ready: Sequence[Stage]) -> None:
        """Use what the others leave idle: a stage of all cores waits for one of them about a third of its time."""
        background = [process for process in self._running if process.in_background]
        for process in background:
            if self._cores_of(process.stage) <= self._free_cores():
                process.bring_forward()
        wide = any(self._cores_of(process.stage) > 1 for process in self._running)
        narrow = [stage for stage in ready if self._cores_of(stage) == 1]
        if wide and narrow and not background:
            waiting.remove(narrow[0])
            self._start(narrow[0], in_background=True)

    def _free_cores(self) -> int:
        return self.cores - sum(
            self._cores_of(process.stage) for process in self._running if not process.in_background
        )

    def _tails_s(self) -> dict[str, float]:
        """For each stale stage the estimated time [s] from its start to the end of the longest chain behind it."""
        own = {stage.name: self._estimate_s(stage) for stage in self._stale}
        tails = dict(own)
        for stage in reversed(self._stale):  # they come in an order in which each follows what it needs
            for before in needs(stage, self._producers) & own.keys():
                tails[before] = max(tails[before], own[before] + tails[stage.name])
        return tails

    def _start(self, stage: Stage, *, in_background: bool = False) -> None:
        key = self.state.key(stage)
        if key is None:
            broken = [path for path in stage.inputs if fingerprints.of_path(path) is None]
            raise InputError(
                f"stage '{stage.name}' reads {broken[0]}, which is missing or damaged; put it back or build it again"
            )
        self._keys[stage.name] = key
        for path in stage.outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
        mark = [key, fingerprints.of_code(stage.code)]
        words = stage.resume if self.state.begun.get(stage.name) == mark else ()
        self.state.begun[stage.name] = mark
        self.state.save()
        command = (*stage.command, *words)
        self._running.append(
            StageProcess(stage, command, self.run_dir, cores=self.cores, in_background=in_background)
        )
        self.progress.say(f"{self._position(stage)} {stage.title} (about {clock(self._estimate_s(stage))})")

    def _watch(self) -> None:
        """Wait a moment for output, and measure memory now and then."""
        open_fds = {process.output_fd(): process for process in self._running}
        ready, _, _ = select.select(list(open_fds), [], [], POLL_S)
        for fd in ready:
            if not open_fds[fd].read_output():
                time.sleep(0.02)  # its output is closed, its end is near
        if self._running and time.monotonic() - self._sampled_s >= MEMORY_INTERVAL_S:
            self._sampled_s = time.monotonic()
            own = psutil.Process().memory_info().rss / 1e6
            together = own + sum(process.sample_rss_mb() for process in self._running)
            self._peak_rss_mb = max(self._peak_rss_mb, together)

    def _finish(self, process: StageProcess) -> None:
        stage, status = process.stage, process.poll()
        self._peak_rss_mb = max(self._peak_rss_mb, process.peak_rss_mb)
        if status == 130:
            raise KeyboardInterrupt
        if status != 0:
            raise self._failure(process, status or 0)
        outputs = {self.state.relative(path): fingerprints.of_path(path) for path in stage.outputs}
        broken = [name for name, value in outputs.items() if value is None]
        if broken:
            raise StageError(
                f"stage '{stage.name}' ended well but {broken} is missing or not whole; log: {process.log_path}"
            )
        self.state.stages[stage.name] = StageRecord(
            title=stage.title,
            key=self._keys[stage.name],
            code=fingerprints.of_code(stage.code),
            outputs={name: str(value) for name, value in outputs.items()},
            seconds=process.ended_s - process.started_s,
            cpu_seconds=process.cpu_seconds,
            peak_rss_mb=process.peak_rss_mb,
            started_s=process.started_s,
            ended_s=process.ended_s,
        )
        self.state.begun.pop(stage.name, None)
        self.state.save()
        self._stale.remove(stage)
        took = clock(process.ended_s - process.started_s)
        self.progress.say(
            f"{self._position(stage)} {stage.name}: done in {took}, {process.peak_rss_mb / 1000:.1f} GB"
        )

    def _failure(self, process: StageProcess, status: int) -> InputError | StageError:
        name, words = process.stage.name, process.last_words()
        free_mb = shutil.disk_usage(self.run_dir).free / 1e6
        if free_mb < FULL_DISK_MB and "No space left" not in words:
            words = f"No space left on device ({free_mb:.0f} MB free); {words}"
        if status == 2:
            return InputError(f"stage '{name}': {words}")
        if status < 0:
            return StageError(
                f"stage '{name}' was killed by signal {-status} at {process.peak_rss_mb / 1000:.1f} GB of memory "
                f"(signal 9 is often the system running out of it); run the same command to go on; log: {process.log_path}"
            )
        return StageError(f"stage '{name}' crashed (status {status}): {words}; log: {process.log_path}")

    def _take_over(self) -> None:
        """Claim the run folder; stop what a killed run left at work there."""
        owner = self.state.owner
        if owner and psutil.pid_exists(owner["pid"]):
            process = psutil.Process(owner["pid"])
            if process.pid != os.getpid() and abs(process.create_time() - owner["create_time_s"]) < 1.0:
                raise InputError(
                    f"{self.run_dir}: process {process.pid} already works here; wait for it or stop it, or give another --output"
                )
        for process in leftovers(self.run_dir):
            process.kill()
        me = psutil.Process()
        self.state.owner = {"pid": me.pid, "create_time_s": me.create_time()}
        self.state.save()

    def _leave(self, outcome: Outcome) -> None:
        if outcome.built:
            kept = [self.state.stages[name] for name in self.state.stages if name not in outcome.built]
            built = [self.state.stages[name] for name in outcome.built if name in self.state.stages]
            self.state.overhead_s = max(0.0, outcome.wall_s - covered_s(built))
            self.state.peak_rss_mb = max(self._peak_rss_mb, self.state.peak_rss_mb if kept else 0.0)
        self.state.owner = None
        self.state.save()

    def _stop_all(self) -> None:
        """Stop what still runs: first politely, then for good."""
        for process in self._running:
            process.interrupt()
        deadline = time.monotonic() + max((p.stage.stop_grace_s for p in self._running), default=0.0)
        while any(process.poll() is None for process in self._running) and time.monotonic() < deadline:
            for process in self._running:
                if process.poll() is None:
                    process.read_output()
            time.sleep(0.05)
        for process in self._running:
            if process.poll() is None:
                process.kill()
            kill_group(process.pid, 9)  # a helper process may outlive its stage
        self._running.clear()

    def _announce(self) -> None:
        if not self._stale:
            self.progress.say("everything is up to date")
            return
        names = ", ".join(stage.name for stage in self._stale)
        about = clock(self.left_s())
        self.progress.say(f"{len(self._stale)} of {len(self.stages)} stages to build, about {about}: {names}")

    def _line(self) -> str:
        parts = []
        for process in self._running:
            spent = time.time() - process.started_s
            percent = "" if process.percent is None else f" {process.percent} %"
            doing = f" ({process.doing})" if process.doing else ""
            expected = clock(max(self._estimate_s(process.stage), spent))
            parts.append(f"{process.stage.name}{percent}{doing} {clock(spent)} of {expected}")
        done = len(self.stages) - len(self._stale)
        return f"[{done}/{len(self.stages)}] {' | '.join(parts)} | about {clock(self.left_s())} left"

    def _position(self, stage: Stage) -> str:
        return f"[{self.stages.index(stage) + 1}/{len(self.stages)}]"

    def _cores_of(self, stage: Stage) -> int:
        return min(stage.cores or self.cores, self.cores)

    def _estimate_s(self, stage: Stage) -> float:
        """What the stage took here before, else its estimate times this machine's pace."""
        earlier = self.state.stages.get(stage.name)
        return earlier.seconds if earlier else stage.estimate_s * self._pace()

    def _pace(self) -> float:
        """How much longer than estimated the stages took so far."""
        done = [
            (s.estimate_s, self.state.stages[s.name].seconds)
            for s in self.stages
            if s.name in self.state.stages
        ]
        expected, found = sum(pair[0] for pair in done), sum(pair[1] for pair in done)
        return min(3.0, max(0.3, (found + 60.0) / (expected + 60.0)))  # the 60 s damp the first, short stages


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def covered_s(records: Sequence[StageRecord]) -> float:
    """Length [s] of the time in which at least one of the stages ran."""
    total, reached = 0.0, 0.0
    for record in sorted(records, key=lambda record: record.started_s):
        total += max(0.0, record.ended_s - max(reached, record.started_s))
        reached = max(reached, record.ended_s)
    return total


def check_resources(run_dir: Path, stages: Sequence[Stage], cores: int) -> None:
    """Refuse to start what this machine cannot finish.

    Args:
        run_dir: Existing folder on the disk that will be filled.
        stages: What will run.
        cores: Cores that decide how many stages run side by side.

    Raises:
        InputError: If the disk or the free memory is too small for them.
    """
    if not stages:
        return
    needed_mb = sum(stage.disk_mb for stage in stages) + DISK_MARGIN_MB
    free_mb = shutil.disk_usage(run_dir).free / 1e6
    if free_mb < needed_mb:
        raise InputError(
            f"{run_dir}: {free_mb:.0f} MB free on this disk, expected at least {needed_mb:.0f} MB; "
            "free some space or give --output on another disk"
        )
    wide = [stage.memory_mb for stage in stages if not 0 < stage.cores < cores]
    narrow = sorted(stage.memory_mb for stage in stages if 0 < stage.cores < cores)
    needed_mb = max(max(wide, default=0.0) + sum(narrow[-1:]), sum(narrow[-2:]))
    available_mb = psutil.virtual_memory().available / 1e6
    if available_mb < needed_mb:
        raise InputError(
            f"{available_mb:.0f} MB of memory available, expected at least {needed_mb:.0f} MB; close other programs"
        )
