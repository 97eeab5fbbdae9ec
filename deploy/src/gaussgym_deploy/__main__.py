"""Policy bundles on robots: check a bundle, run it against a simulated robot, run it in real time."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from .bundle import BundleError, PolicyBundle
from .guards import GuardLimits
from .policy import Policy, replay_golden
from .robot_io import LinkError
from .runtime import Runtime
from .sim2sim import Sim2SimReport, new_name, robot_command, sim2sim
from .supervisor_process import SupervisedRobot

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def check(bundle: Path, /, *, robot: Optional[str] = None, json: Optional[Path] = None) -> Optional[Path]:
    """Check a policy bundle: manifest, hashes, shapes, networks, golden trace, time per step.

    Args:
        bundle: Folder of the bundle.
        robot: Robot that it is meant for; a bundle for another one is refused.
        json: File for the numbers.
    """
    loaded = PolicyBundle.load(bundle)
    if robot is not None and robot != loaded.robot:
        raise BundleError(f"{bundle}: the policy is for {loaded.robot!r}, not for {robot!r}")
    GuardLimits.of(loaded.guards)
    policy = Policy(loaded)
    replay_golden(loaded, policy)  # the first steps of a session are slow and not what the robot will see
    report = replay_golden(loaded, policy)
    times_ms = 1e3 * report.inference_s
    p50, p99 = (float(value) for value in np.percentile(times_ms, [50, 99]))
    numbers = {
        "robot": loaded.robot,
        "golden_steps": report.steps,
        "golden_max_abs_error": report.max_abs_error,
        "golden_max_abs_observation_error": report.max_abs_observation_error,
        "inference_ms": {"p50": p50, "p99": p99, "max": float(times_ms.max())},
        "control_period_ms": 1e3 * loaded.control_dt_s,
    }
    eyes = "blind" if loaded.camera is None else f"camera {loaded.camera.width}x{loaded.camera.height} px"
    off = report.max_abs_observation_error
    print(f"robot {loaded.robot}, {len(loaded.joint_names)} joints, {loaded.proprio_size} values, {eyes}")
    print(f"golden trace: {report.steps} steps, max abs error of actions {report.max_abs_error:.3g}")
    print(
        f"golden trace: max abs error of observations {'not recorded' if off is None else format(off, '.3g')}"
    )
    print(
        f"inference [ms]: {counts(numbers['inference_ms'])}; control period {1e3 * loaded.control_dt_s:.1f}"
    )
    written = write_json(json, numbers)
    report.require_match(loaded)
    if p99 > 1e3 * loaded.control_dt_s:
        raise BundleError(
            f"{bundle}: p99 of inference, {p99:.1f} ms, is above the control period of {1e3 * loaded.control_dt_s:.1f} ms"
            " on this machine"
        )
    return written


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


def counts(values: Any) -> str:
    """``a 1, b 2`` or ``none``."""
    shown = [
        f"{key} {value if isinstance(value, int) else format(value, '.3f')}" for key, value in values.items()
    ]
    return ", ".join(shown) or "none"


def write_json(path: Optional[Path], values: Any) -> Optional[Path]:
    """Write through a temporary file; returns the path."""
    if path is None:
        return None
    temporary = path.with_name(path.name + ".tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    with open(str(temporary), "w", encoding="utf-8") as file:
        json.dump(values, file, indent=2)
        file.write("\n")
    os.replace(str(temporary), str(path))
    return path


def finish(command: Callable[[], Optional[Path]]) -> int:
    """Run a command's body: 0, or 2 and one line on stderr for bad input, or 130 on Ctrl-C."""
    try:
        written = command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (BundleError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        print(f"error: {' '.join(text.split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    if written is not None:
        print(written)
    return 0


def main() -> None:
    """Entry point."""
    import tyro

    commands = {"check": check, "sim2sim": run_sim2sim, "run": run}
    raise SystemExit(
        finish(
            lambda: tyro.extras.subcommand_cli_from_dict(
                commands, prog="gaussgym-deploy", description=__doc__
            )
        )
    )


if __name__ == "__main__":
    main()
