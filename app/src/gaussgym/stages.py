"""Stages of a pipeline and the record of what was built: the part of a build tool that fits on two screens.

A stage is a command with declared inputs and outputs. It is skipped when its outputs are whole and neither its inputs nor
its arguments nor the code behind it changed since it wrote them. `state.json` holds what that decision needs.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gaussgym_scene.artifact import write_json
from gaussgym_scene.errors import InputError

from gaussgym import fingerprints

STATE_FILE = "state.json"
STATE_FORMAT = "gaussgym-demo-state"
STATE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a pipeline: a Python module's command in a process of its own."""

    name: str
    """Short and unique, such as `build`."""
    title: str
    """What it does, for the progress line."""
    command: tuple[str, ...]
    """Module and its arguments: `("gaussgym_recon", "build", …)` runs `python -m gaussgym_recon build …`."""
    inputs: tuple[Path, ...] = ()
    """Files and folders that it reads; those that another stage writes also order the two."""
    outputs: tuple[Path, ...]
    """Files and artifact folders that it writes, each by a rename at the end."""
    estimate_s: float
    """Expected wall time [s] on two cores."""
    code: tuple[str, ...] = ()
    """Packages whose source decides about the result."""
    cores: int = 0
    """Cores to reserve; 0 means all, for work that is given a time rather than an amount: a stage of one core then runs beside
    it at the lowest priority only."""
    threads: int = 1
    """Threads of torch and BLAS; more than one fights with the threads of the physics and the renderer."""
    memory_mb: float = 500.0
    """Expected peak memory [MB], for the check before the start."""
    disk_mb: float = 10.0
    """Expected size of its outputs [MB], for the check before the start."""
    resume: tuple[str, ...] = ()
    """Words to add to the command when it was stopped half-way before, with the same inputs, arguments and code."""
    stop_grace_s: float = 10.0
    """How long it may take to save its work after Ctrl-C [s]."""

    def __post_init__(self) -> None:
        if not self.outputs:
            raise ValueError(f"stage {self.name!r} has no outputs, so nothing would say that it is done")


@dataclass(kw_only=True)
class StageRecord:
    """What a finished stage left behind."""

    title: str
    """What it did, in words."""
    key: str
    """Hash of command and inputs."""
    code: str
    """Hash of the source code behind it."""
    outputs: dict[str, str]
    """Fingerprint of each output, by path relative to the run folder where it lies inside."""
    seconds: float
    """Wall time [s]."""
    cpu_seconds: float
    """User and system time [s] of the process and those it waited for."""
    peak_rss_mb: float
    """Peak resident memory of the process tree [MB]."""
    started_s: float
    """Unix time [s]."""
    ended_s: float
    """Unix time [s]."""


@dataclass
class RunState:
    """Which stages of a run folder are done; saved after each."""

    run_dir: Path
    stages: dict[str, StageRecord] = field(default_factory=dict)
    peak_rss_mb: float = 0.0
    """Peak resident memory [MB] of everything that ran at the same time, over the stages in `stages`."""
    overhead_s: float = 0.0
    """Wall time [s] of the run that built most, outside its stages."""
    owner: dict[str, Any] | None = None
    """Process that works in this folder: `pid` and `create_time_s`."""
    begun: dict[str, list[str]] = field(default_factory=dict)
    """Key and code of stages that began and did not end well."""

    @classmethod
    def load(cls, run_dir: Path) -> "RunState":
        """Read `state.json`, or begin an empty state.

        Raises:
            InputError: If the file is there but is no state of this version.
        """
        path = run_dir / STATE_FILE
        if not path.exists():
            return cls(run_dir)
        try:
            fields = json.loads(path.read_text())
            found = (fields["format"], fields["version"])
            if found != (STATE_FORMAT, STATE_VERSION):
                raise ValueError(f"format and version {found}")
            records = {name: StageRecord(**record) for name, record in fields["stages"].items()}
            return cls(
                run_dir,
                records,
                fields["peak_rss_mb"],
                fields["overhead_s"],
                fields["owner"],
                fields["begun"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: not a state of this gaussgym ({error}); delete it to build everything again"
            ) from None

    def save(self) -> None:
        """Write `state.json` atomically."""
        fields = {
            "format": STATE_FORMAT,
            "version": STATE_VERSION,
            "stages": {name: asdict(record) for name, record in self.stages.items()},
            "peak_rss_mb": self.peak_rss_mb,
            "overhead_s": self.overhead_s,
            "owner": self.owner,
            "begun": self.begun,
        }
        write_json(self.run_dir / STATE_FILE, fields)

    def key(self, stage: Stage) -> str | None:
        """Hash a stage's command and inputs, or give None while an input is missing or damaged."""
        inputs = {self.relative(path): fingerprints.of_path(path) for path in stage.inputs}
        if any(value is None for value in inputs.values()):
            return None
        words = [word.replace(str(self.run_dir), "$RUN") for word in stage.command]
        return fingerprints.digest(words, inputs)

    def is_done(self, stage: Stage, *, trust_code: bool = False) -> bool:
        """Whether a stage's outputs are whole and what they depend on is unchanged.

        Args:
            stage: The stage.
            trust_code: Overlook changes of source code.
        """
        record = self.stages.get(stage.name)
        if record is None or set(record.outputs) != {self.relative(path) for path in stage.outputs}:
            return False
        code_fits = trust_code or record.code == fingerprints.of_code(stage.code)
        return code_fits and record.key == self.key(stage) and self.outputs_match(stage, record)

    def outputs_match(self, stage: Stage, record: StageRecord) -> bool:
        """Whether every output lies there as the stage wrote it."""
        return all(
            record.outputs.get(self.relative(path)) == fingerprints.of_path(path) for path in stage.outputs
        )

    def relative(self, path: Path) -> str:
        """Name a path independently of where the run folder lies."""
        return path.relative_to(self.run_dir).as_posix() if path.is_relative_to(self.run_dir) else str(path)


def in_order(stages: Sequence[Stage]) -> list[Stage]:
    """Sort stages so that each comes after those whose outputs it reads; the given order breaks ties.

    Raises:
        ValueError: If names or outputs are not unique or the stages form a circle.
    """
    producers = producer_of(stages)
    if len({stage.name for stage in stages}) != len(stages):
        raise ValueError("stage names are not unique")
    ordered: list[Stage] = []
    pending = list(stages)
    while pending:
        names = {stage.name for stage in ordered}
        ready = [stage for stage in pending if needs(stage, producers) <= names]
        if not ready:
            raise ValueError(f"stages form a circle: {', '.join(stage.name for stage in pending)}")
        ordered.append(ready[0])
        pending.remove(ready[0])
    return ordered


def producer_of(stages: Sequence[Stage]) -> dict[Path, str]:
    """Map each output to the name of the stage that writes it."""
    producers: dict[Path, str] = {}
    for stage in stages:
        for path in stage.outputs:
            if path in producers:
                raise ValueError(f"{path} is written by both {producers[path]!r} and {stage.name!r}")
            producers[path] = stage.name
    return producers


def needs(stage: Stage, producers: dict[Path, str]) -> set[str]:
    """Names of the stages that write what `stage` reads, itself or a file inside it."""
    names = set()
    for path in stage.inputs:
        for candidate in (path, *path.parents):
            if candidate in producers:
                names.add(producers[candidate])
                break
    return names
