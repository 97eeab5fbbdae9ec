"""Policy bundles on robots: check a bundle, run it against a simulated robot, run it in real time."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Callable, Optional, Tuple

from .bundle import BundleError, PolicyBundle
from .bundle.command import check, schema
from .envelope.command import envelope
from .faults.command import EXIT_FAILED, inject_faults
from .reporting import ProgressLine, counts, write_json
from .robot_io import LinkError
from .runtime import Runtime
from .sim2sim import sim2sim_in_scene
from .simulated_robot import SimulatedRobotCfg
from .supervisor_process import SupervisedRobot

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def run_sim2sim(
    bundle: Path,
    /,
    *,
    scene: Path,
    episodes: int = 64,
    starts: Optional[Path] = None,
    lockstep: bool = True,
    robot: SimulatedRobotCfg = SimulatedRobotCfg(),  # noqa: B008 (frozen)
    film: Optional[Path] = None,
    json: Optional[Path] = None,
    log: Optional[Path] = None,
) -> Optional[Path]:
    """Run the bundle, through the real runtime, on a simulated robot in a process of its own.

    Args:
        bundle: Folder of the bundle.
        scene: Folder of the scene.
        episodes: Number of episodes.
        starts: File of starts, as the evaluation wrote it; default: the evaluation's 256 in this scene.
        lockstep: Physics waits for commands (as fast as the machine can); otherwise real time.
        robot: How the simulated robot differs from the nominal one.
        film: Film of the first episode, third person and robot's camera (mp4).
        json: File for the report.
        log: File for the runtime's JSON lines.
    """
    if episodes < 1:
        raise BundleError(f"--episodes is {episodes}, expected at least 1")
    for path in (scene, starts):
        if path is not None and not path.exists():
            raise BundleError(f"{path}: not found")
    line = ProgressLine(episodes, "sim2sim")
    report = sim2sim_in_scene(
        PolicyBundle.load(bundle),
        scene,
        episodes=episodes,
        lockstep=lockstep,
        starts=starts,
        options=robot,
        film=film,
        log=log,
        progress=lambda so_far: line.show(so_far.episodes, f", success {so_far.success_rate:.0%}"),
    )
    metrics = report.metrics
    print(
        f"{report.episodes} episodes: success {report.success_rate:.1%}, fell {report.fall_rate:.1%},"
        f" timed out {report.timeout_rate:.1%}; {report.control_steps} control steps in {report.wall_s:.1f} s"
    )
    print(
        f"velocity error {metrics['velocity_error_m_s']:.3f} m/s, yaw rate error {metrics['yaw_rate_error_rad_s']:.3f} rad/s,"
        f" cost of transport {metrics['cost_of_transport']:.2f}, {metrics['falls_per_km']:.1f} falls/km"
    )
    print(f"faults: {counts(report.faults)}; limits that acted (steps): {counts(report.interventions)}")
    return write_json(json, asdict(report)) or film


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


def faults(
    bundle: Path,
    /,
    *,
    links: Tuple[str, ...] = ("bench",),
    kinds: Tuple[str, ...] = (),
    moments: int = 20,
    seed: int = 0,
    scene: Optional[Path] = None,
    jobs: int = 0,
    json: Optional[Path] = None,
) -> Optional[Path]:
    """Inject every fault at random moments: does the robot damp, how soon, what is the worst that it is told.

    Exit status 1 when a trial did not go as the table of faults says.

    Args:
        bundle: Folder of the bundle.
        links: Where: bench, sim, dds-sim.
        kinds: Which faults; default: all.
        moments: Trials of each fault on each link.
        seed: Of moments, joints, starts.
        scene: Folder of the scene, for sim and dds-sim.
        jobs: Worker processes; 0: one a core.
        json: File for the report.
    """
    report = inject_faults(
        bundle, links=links, kinds=kinds, moments=moments, seed=seed, scene=scene, jobs=jobs
    )
    written = write_json(json, report)
    if report["failed_trials"]:
        if written is not None:
            print(written)
        raise SystemExit(EXIT_FAILED)
    return written


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

    commands = {
        "check": check,
        "schema": schema,
        "sim2sim": run_sim2sim,
        "envelope": envelope,
        "run": run,
        "faults": faults,
    }
    raise SystemExit(
        finish(
            lambda: tyro.extras.subcommand_cli_from_dict(
                commands,
                prog="gaussgym-deploy",
                description=__doc__,
                config=(tyro.conf.OmitArgPrefixes,),
            )
        )
    )


if __name__ == "__main__":
    main()
