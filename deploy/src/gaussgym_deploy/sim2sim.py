"""The same runtime against a simulated robot in a process of its own: episodes, and what became of them.

The robot process (:mod:`gaussgym_deploy.robot_process`) judges the episodes and measures them, since it knows the truth: velocity
errors, energy and path are summed there as training's evaluation sums them, and read here from the file that it writes.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from .bundle import BundleError, PolicyBundle
from .episode_goals import GOAL_SOURCES, EpisodeGoals
from .metrics import summarize, table_of_rows
from .processes import new_name
from .robot_io import LinkError
from .robot_process import RobotProcess, check_robot, robot_command
from .runtime import Runtime
from .scheduler import FixedRate
from .shared_memory import EpisodeResult, SharedMemoryRobot
from .simulated_robot import SimulatedRobotCfg

__all__ = [
    "Episode",
    "Sim2SimReport",
    "check_robot",
    "new_name",
    "robot_command",
    "run_episodes",
    "sim2sim",
    "sim2sim_in_scene",
]

MAX_EPISODE_S = 300.0
"""An episode that the robot process has not ended by then counts as timed out [simulated s]."""
FILM_PATIENCE_S = 900.0
"""How long a robot process may render its film after the last episode [s]."""


@dataclass(frozen=True)
class Episode:
    """One episode.

    Attributes:
        start_index: Row of the robot process's starts.
        result: ``success``, ``fell`` or ``timeout``.
        seconds: Length on the robot's clock [s].
        fault: The fault that ended the policy, or None.
    """

    start_index: int
    result: str
    seconds: float
    fault: Optional[str] = None


@dataclass
class Sim2SimReport:
    """Outcome of a number of episodes.

    Attributes:
        episodes: Number of episodes.
        success_rate: Share of successes.
        fall_rate: Share of falls.
        timeout_rate: Share of time-outs.
        faults: Number of episodes by the kind of fault that ended the policy.
        faults_by_result: The same for each result (a robot that fell and one whose camera froze are not the same failure).
        interventions: Control steps in which a limit changed the command, by limit.
        control_steps: Control steps in all.
        deadline_misses: Control periods missed (real time only).
        inference_ms: p50, p99 and max of the policy's time [ms].
        wall_s: Without the robot process's start [s].
        lockstep: Whether physics waited for commands.
        robot: What the robot process said of itself.
        metrics: What ``gaussgym-learn evaluate`` reports, by its names (:func:`gaussgym_deploy.metrics.summarize`); empty where
            the robot process measured nothing.
        odometry: Drift of the odometry that gave the commands; empty where the simulated robot followed its path itself.
        results: The episodes.
    """

    episodes: int = 0
    success_rate: float = 0.0
    fall_rate: float = 0.0
    timeout_rate: float = 0.0
    faults: Dict[str, int] = field(default_factory=dict)
    faults_by_result: Dict[str, Dict[str, int]] = field(default_factory=dict)
    interventions: Dict[str, int] = field(default_factory=dict)
    control_steps: int = 0
    deadline_misses: int = 0
    inference_ms: Dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0
    lockstep: bool = True
    robot: Dict[str, Any] = field(default_factory=dict)
    metrics: Dict[str, Any] = field(default_factory=dict)
    odometry: Dict[str, Any] = field(default_factory=dict)
    results: List[Episode] = field(default_factory=list)


def sim2sim(
    bundle: PolicyBundle,
    command: Sequence[str],
    name: str,
    *,
    episodes: int = 64,
    start_timeout_s: float = 300.0,
    patience_s: float = 5.0,
    goals: Optional[EpisodeGoals] = None,
    log: Union[str, Path, None] = None,
    progress: Optional[Callable[[Sim2SimReport], None]] = None,
) -> Sim2SimReport:
    """Start a robot process, run episodes 0 ... ``episodes - 1`` of its starts, end it.

    Args:
        bundle: What to run.
        command: The robot process; it must serve under ``name``.
        name: Name of the shared memory, see :func:`gaussgym_deploy.processes.new_name`.
        episodes: How many.
        start_timeout_s: How long the process may take to come up (it may compile a renderer) [s].
        patience_s: How long it may take to end by itself after the last episode [s].
        goals: Gives the commands; default: the robot process does.
        log: File for the runtime's JSON lines.
        progress: Called with the report so far after every episode.

    Raises:
        BundleError: When bundle and robot do not fit.
        LinkError: When the process does not come up or dies; the text ends with its last words.
    """
    with RobotProcess(command, name, start_timeout_s=start_timeout_s, patience_s=patience_s) as process:
        try:
            check_robot(bundle, process.robot.description, episodes=episodes)
            return run_episodes(
                bundle, process.robot, episodes=episodes, goals=goals, log=log, progress=progress
            )
        except LinkError as error:
            raise process.explain(error) from None


def sim2sim_in_scene(
    bundle: PolicyBundle,
    scene: Union[str, Path],
    *,
    episodes: int = 64,
    lockstep: bool = True,
    starts: Optional[Path] = None,
    options: Optional[SimulatedRobotCfg] = None,
    goal_by: str = "robot",
    film: Optional[Path] = None,
    log: Union[str, Path, None] = None,
    progress: Optional[Callable[[Sim2SimReport], None]] = None,
) -> Sim2SimReport:
    """Start ``gaussgym-learn robot`` in a scene, run episodes, measure them as training's evaluation does.

    Args:
        bundle: What to run.
        scene: The scene's folder.
        episodes: How many.
        lockstep: Physics waits for commands; otherwise real time, times the options' ``speed``.
        starts: File of starts; default: the evaluation's.
        options: Sensors, delays, ground, motors of the simulated robot.
        goal_by: Who says where to go, one of :data:`gaussgym_deploy.episode_goals.GOAL_SOURCES`.
        film: Film (mp4) of the first episode, for the robot process to write.
        log: File for the runtime's JSON lines.
        progress: Called with the report so far after every episode.

    Raises:
        BundleError: When bundle and robot do not fit.
        LinkError: When the process does not come up or dies; the text ends with its last words.
    """
    if goal_by not in GOAL_SOURCES:
        raise BundleError(f"goals by {goal_by!r}, expected one of: {', '.join(GOAL_SOURCES)}")
    name = new_name()
    with tempfile.TemporaryDirectory() as folder:
        files = {"episodes-out": Path(folder) / "episodes.jsonl"}
        goals = None
        if goal_by != "robot":
            files["paths-out"] = Path(folder) / "paths.json"
            goals = EpisodeGoals(bundle, goal_by, files["paths-out"])
        if film is not None:
            files["film"] = film
        command = robot_command(
            scene, name, bundle, lockstep=lockstep, starts=starts, options=options, files=files
        )
        report = sim2sim(
            bundle,
            command,
            name,
            episodes=episodes,
            patience_s=5.0 if film is None else FILM_PATIENCE_S,
            goals=goals,
            log=log,
            progress=progress,
        )
        if film is not None and not film.is_file():
            raise LinkError(f"the robot process wrote no film {film} (is ffmpeg there?)")
        rows = _rows(report, files["episodes-out"])
    report.metrics = summarize(table_of_rows(rows), [report.robot["info"].get("scene", "scene")])
    if goals is not None:
        report.odometry = goals.drift(rows)
    return report


def _rows(report: Sim2SimReport, path: Path) -> List[Dict[str, Any]]:
    """What the robot process wrote, a row an episode, in their order."""
    rows = {row["start_index"]: row for row in map(json.loads, path.read_text("utf-8").splitlines())}
    missing = [episode.start_index for episode in report.results if episode.start_index not in rows]
    if missing:
        raise LinkError(
            f"the robot process measured {len(rows)} of {report.episodes} episodes (not episode {missing[0]})"
        )
    return [rows[episode.start_index] for episode in report.results]


def run_episodes(
    bundle: PolicyBundle,
    robot: SharedMemoryRobot,
    *,
    episodes: int,
    goals: Optional[EpisodeGoals] = None,
    log: Union[str, Path, None] = None,
    progress: Optional[Callable[[Sim2SimReport], None]] = None,
) -> Sim2SimReport:
    """Run episodes on a robot process that is up.

    Args:
        bundle: What to run.
        robot: The link.
        episodes: How many.
        goals: Gives the commands; default: the robot process does.
        log: File for the runtime's JSON lines.
        progress: Called with the report so far after every episode.

    Raises:
        LinkError: When the robot process goes away.
    """
    lockstep = robot.description.lockstep
    # A simulated episode begins with the robot on its feet, where the trainer's episodes begin too.
    runtime = Runtime(bundle, robot, operator=goals, damp_s=0.0, stand_s=0.0, log=log)
    speed = float(robot.description.info.get("options", {}).get("speed", 1.0))
    rate = None if lockstep else FixedRate(bundle.control_dt_s / speed)
    report = Sim2SimReport(lockstep=lockstep, robot=asdict(robot.description))
    start_s = time.perf_counter()
    for start_index in range(episodes):
        report.results.append(_episode(runtime, robot, start_index, rate, speed, goals))
        _sum_up(report, runtime, rate, time.perf_counter() - start_s)
        if progress is not None:
            progress(report)
    return report


def _episode(
    runtime: Runtime,
    robot: SharedMemoryRobot,
    start_index: int,
    rate: Optional[FixedRate],
    speed: float,
    goals: Optional[EpisodeGoals],
) -> Episode:
    """Reset, then control until the robot process says how it ended."""
    dt_s = runtime.bundle.control_dt_s
    robot.reset(start_index)
    runtime.restart(0.0)
    state = robot.read()
    if goals is not None:
        goals.begin(start_index, state)
    first_t_s, step = state.t_s, 0
    while robot.result is EpisodeResult.RUNNING and step * dt_s < MAX_EPISODE_S:
        late_s = 0.0 if rate is None else rate.wait()
        runtime.control(state, step * dt_s if rate is None else speed * time.monotonic(), late_s=late_s)
        state = robot.read()
        step += 1
    result = robot.result if robot.result is not EpisodeResult.RUNNING else EpisodeResult.TIMEOUT
    fault = runtime.machine.fault
    return Episode(
        start_index, result.name.lower(), state.t_s - first_t_s, None if fault is None else str(fault)
    )


def _sum_up(report: Sim2SimReport, runtime: Runtime, rate: Optional[FixedRate], wall_s: float) -> None:
    results = report.results
    report.episodes = len(results)
    for key, result in (("success_rate", "success"), ("fall_rate", "fell"), ("timeout_rate", "timeout")):
        setattr(report, key, sum(episode.result == result for episode in results) / len(results))
    failed = [(str(e.fault).split(":")[0], e.result) for e in results if e.fault is not None]
    kinds = [kind for kind, _ in failed]
    report.faults = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    report.faults_by_result = {
        result: {kind: failed.count((kind, result)) for kind in report.faults if (kind, result) in failed}
        for result in ("success", "fell", "timeout")
    }
    ran = runtime.report(rate)
    report.control_steps, report.interventions = ran.ticks, ran.interventions
    report.inference_ms, report.deadline_misses = ran.inference_ms, ran.deadline_misses
    report.wall_s = wall_s
