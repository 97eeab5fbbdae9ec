"""Command `gaussgym`: the demo from photos to policy, its parts, and the doctor.

Stages have commands of their own: gaussgym-scene (procedural scenes, checks, conversion), gaussgym-recon (photos → scene),
gaussgym-render (splats → pixels), gaussgym-sim (physics), gaussgym-learn (training, evaluation, export), gaussgym-deploy
(bundles on robots). Each has --help.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from gaussgym_scene import command
from gaussgym_scene.errors import InputError

from gaussgym.demo import Demo
from gaussgym.video import FilmCfg


@dataclass
class Doctor:
    """Check this machine; print a table and the one line to type for each problem."""

    folder: Path = Path(".")
    """Where runs will be written."""
    captures: Path | None = None
    """Folder that holds captures; default: data/captures below the folder."""

    def run(self) -> None:
        """Print the table."""
        from gaussgym import doctor

        rows = doctor.diagnose(self.folder, self.captures)
        print(doctor.table(rows))
        failed = [row.name for row in rows if row.status == doctor.FAIL]
        if failed:
            raise InputError(f"not fit yet: {', '.join(failed)}; the table above says what to type")


@dataclass
class Compile:
    """Compile the CPU kernels now (about a minute, once), so that the first run need not; make setup does."""

    def run(self) -> None:
        """Compile."""
        from gaussgym.warmup import compile_all

        print(f"CPU kernels ready after {compile_all():.0f} s")


@dataclass
class Film:
    """Film a policy in a scene: chase camera and robot camera as mp4, with the trajectories."""

    policy: tyro.conf.Positional[Path]
    """Run folder or policy bundle."""
    scene: Path
    """Scene folder."""
    output: Path
    """Folder to write."""
    cfg: Annotated[FilmCfg, tyro.conf.arg(name="")] = field(default_factory=FilmCfg)

    def run(self) -> Path:
        """Film."""
        from gaussgym_learn.run import torch_threads

        from gaussgym.video import film

        with torch_threads(1):
            return film(self.policy, self.scene, self.output, self.cfg)


@dataclass
class Teach:
    """Train a teacher from nothing, keeping snapshots of its networks."""

    recipe: tyro.conf.Positional[str]
    """Such as teacher_flat."""
    output: Path
    """Run folder."""
    snapshots: Path
    """Folder for the snapshots."""
    scenes: list[Path] = field(default_factory=list)
    """Scene folders; without any, the recipe's own course."""
    minutes: float = 2.0
    """Training time [min]."""
    every_minutes: float = 0.25
    """Time between snapshots [min]."""
    first_minutes: float = 0.75
    """Time of the first snapshot [min]."""
    seed: int = 0
    """Seed of everything random."""

    def run(self) -> Path:
        """Train."""
        from gaussgym.walking import train_with_snapshots

        return train_with_snapshots(
            self.recipe,
            self.scenes,
            self.output,
            self.snapshots,
            minutes=self.minutes,
            every_minutes=self.every_minutes,
            first_minutes=min(self.first_minutes, self.minutes / 2),
            seed=self.seed,
        )


@dataclass
class Walk:
    """Find out since when a teacher walked: velocity error at most 0.1 m/s and at most 2 % falls."""

    snapshots: tyro.conf.Positional[Path]
    """What `teach` kept."""
    json: Path
    """File to write."""
    scenes: list[Path] = field(default_factory=list)
    """Scene folders; without any, the recipe's own course."""
    episodes: int = 256
    """Episodes of the evaluation that counts."""

    def run(self) -> Path:
        """Evaluate snapshots."""
        from gaussgym.walking import minutes_to_walk

        return minutes_to_walk(self.snapshots, self.scenes, self.json, episodes=self.episodes)


@dataclass
class Compare:
    """Measure a built scene against the truth of its synthetic capture: height, gravity, scale."""

    scene: tyro.conf.Positional[Path]
    """The built scene."""
    capture: Path
    """The synthetic capture; its truth lies beside it."""
    truth: Path
    """The procedural scene that was photographed."""
    json: Path
    """File to write."""

    def run(self) -> Path:
        """Compare."""
        from gaussgym_recon.truth import compare_with_truth
        from gaussgym_scene.artifact import write_json
        from gaussgym_scene.scene import Scene

        numbers = compare_with_truth(Scene.load(self.scene), self.capture, Scene.load(self.truth))
        write_json(self.json, numbers)
        return self.json


@dataclass
class Choose:
    """Deliver the tuned student, unless it does worse than the one it started from."""

    before: tyro.conf.Positional[Path]
    """Run folder of the student as shipped."""
    tuned: tyro.conf.Positional[Path]
    """Run folder after fine-tuning."""
    before_result: Path
    """Evaluation of the first."""
    tuned_result: Path
    """Evaluation of the second."""
    output: Path
    """Run folder to deliver."""
    result: Path
    """JSON file: the evaluation of the delivered one."""

    def run(self) -> Path:
        """Choose."""
        from gaussgym.choice import deliver_better

        return deliver_better(
            self.before, self.tuned, self.before_result, self.tuned_result, self.output, self.result
        )


@dataclass
class Illustrate:
    """Draw the pictures of a run folder's report."""

    run_dir: tyro.conf.Positional[Path]
    """Run folder of a demo."""
    place: str = "place"
    """What to call the place."""

    def run(self) -> Path:
        """Draw."""
        from gaussgym.illustrate import illustrate
        from gaussgym.layout import Layout

        return illustrate(Layout(self.run_dir.absolute()), place=self.place)


@dataclass
class Report:
    """Write summary.json and report.html of a finished run folder again."""

    run_dir: tyro.conf.Positional[Path]
    """Run folder of a demo."""

    def run(self) -> Path:
        """Read what lies there and write the page."""
        from gaussgym.demo import rewrite_report

        return rewrite_report(self.run_dir.absolute())


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Compile, tyro.conf.subcommand("compile")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Film, tyro.conf.subcommand("film")]
    | Annotated[Teach, tyro.conf.subcommand("teach")]
    | Annotated[Walk, tyro.conf.subcommand("walk")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Choose, tyro.conf.subcommand("choose")]
    | Annotated[Illustrate, tyro.conf.subcommand("illustrate")]
)


def main() -> int:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _interrupt)
    return command.run(lambda: tyro.cli(Command, prog="gaussgym", description=__doc__).run())  # type: ignore[arg-type]


def _interrupt(number: int, frame: object) -> None:
    """Treat `kill` like Ctrl-C: stop the stages, keep what is finished."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
