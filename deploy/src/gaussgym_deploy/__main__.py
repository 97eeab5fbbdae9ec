"""Policy bundles on robots: check a bundle, run it against a simulated robot, run it in real time."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Optional

from .bundle import BundleError, PolicyBundle
from .commands.bundle import check, schema
from .commands.output import counts, finish, write_json
from .robot_io import LinkError
from .runtime import Runtime
from .sim2sim import Sim2SimReport, new_name, robot_command, sim2sim
from .supervisor_process import SupervisedRobot


def run_sim2sim(
    bundle: Path,
    /,
    *,
    scene: Path,
    episodes: int = 64,
    starts: Optional[Path] = None,
    lockstep: bool = True,
    json: Optional[Path] = None,
    log: Optional[Path] = None,
) -> Optional[Path]:
    """Run the bundle, through the real runtime, on a simulated robot in a process of its own.

    Args:
        bundle: Folder of the bundle.
        scene: Folder of the scene.
        episodes: Number of episodes.
        starts: File of starts, as the evaluation wrote it; default: the robot process draws them.
        lockstep: Physics waits for commands (as fast as the machine can); otherwise real time.
        json: File for the report.
        log: File for the runtime's JSON lines.
    """
    if episodes < 1:
        raise BundleError(f"--episodes is {episodes}, expected at least 1")
    for path in (scene, starts):
        if path is not None and not path.exists():
            raise BundleError(f"{path}: not found")
    loaded = PolicyBundle.load(bundle)
    name = new_name()
    command = robot_command(scene, name, loaded, lockstep=lockstep, starts=starts)
    report = sim2sim(loaded, command, name, episodes=episodes, log=log, progress=ProgressLine(episodes))
    print(
        f"{report.episodes} episodes: success {report.success_rate:.1%}, fell {report.fall_rate:.1%},"
        f" timed out {report.timeout_rate:.1%}; {report.control_steps} control steps in {report.wall_s:.1f} s"
    )
    print(f"faults: {counts(report.faults)}; limits that acted (steps): {counts(report.interventions)}")
    return write_json(json, asdict(report))


def run(
    bundle: Path,
    /,
    *,
    robot: str = "bench",
    seconds: Optional[float] = None,
    stand_s: float = 2.0,
    log: Optional[Path] = None,
    json: Optional[Path] = None,
) -> Optional[Path]:
    """Run the bundle on a robot in real time. Ctrl-C damps the robot and ends.

    Args:
        bundle: Folder of the bundle.
        robot: Robot link.
        seconds: How long, standing up included [s]; default: until Ctrl-C.
        stand_s: How long standing up takes [s].
        log: File for JSON lines, one per control step.
        json: File for the report.
    """
    if stand_s <= 0:
        raise BundleError(f"--stand-s is {stand_s:g}, expected a positive time")
    loaded = PolicyBundle.load(bundle)
    with SupervisedRobot(robot, loaded) as link:
        report = Runtime(loaded, link, stand_s=stand_s, log=log).run(seconds)
    print(f"{report.ticks} control steps ({counts(report.ticks_by_mode)}), fault: {report.fault or 'none'}")
    print(
        f"deadlines missed: {report.deadline_misses}; woken up late by at most {report.worst_lateness_ms:.2f} ms;"
        f" inference [ms]: {counts(report.inference_ms)}"
    )
    written = write_json(json, asdict(report))
    if report.log_error is not None:
        raise BundleError(f"{log}: {report.log_error}")
    if report.fault is not None:
        raise LinkError(f"the run ended in a fault ({report.fault})")
    return written or log


class ProgressLine:
    """One line on stderr, rewritten after every episode (every few seconds where it goes into a log).

    Args:
        total: Number of episodes.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._start_s = time.monotonic()
        self._last_s = 0.0

    def __call__(self, report: Sim2SimReport) -> None:
        """Show how far it is."""
        now_s = time.monotonic()
        done = report.episodes == self._total
        if not done and now_s - self._last_s < (0.2 if sys.stderr.isatty() else 3.0):
            return
        self._last_s = now_s
        left_s = (now_s - self._start_s) / report.episodes * (self._total - report.episodes)
        text = (
            f"sim2sim: {100 * report.episodes // self._total}%| {report.episodes}/{self._total},"
            f" success {report.success_rate:.0%}, {left_s:.0f} s left"
        )
        print(f"\r{text:<60}", end="\n" if done else "", file=sys.stderr, flush=True)


def main() -> None:
    """Entry point."""
    import tyro

    commands = {"check": check, "schema": schema, "sim2sim": run_sim2sim, "run": run}
    raise SystemExit(
        finish(
            lambda: tyro.extras.subcommand_cli_from_dict(
                commands, prog="gaussgym-deploy", description=__doc__
            )
        )
    )


if __name__ == "__main__":
    main()
