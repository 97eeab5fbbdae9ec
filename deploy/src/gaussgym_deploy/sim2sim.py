"""The same runtime against a simulated robot in a process of its own: episodes, and what became of them.

The robot process is ``gaussgym-learn robot`` (plain MuJoCo stepping, camera rendered from the scene's splats), started
as a command and spoken to over :mod:`gaussgym_deploy.shared_memory`; this package imports none of it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from .bundle import BundleError, PolicyBundle
from .processes import end, last_words, new_name
from .robot_io import LinkError
from .runtime import Runtime
from .scheduler import FixedRate
from .shared_memory import EpisodeResult, LinkDescription, SharedMemoryRobot

__all__ = ["Episode", "Sim2SimReport", "check_robot", "new_name", "robot_command", "run_episodes", "sim2sim"]

MAX_EPISODE_S = 300.0
"""An episode that the robot process has not ended by then counts as timed out [simulated s]."""


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
        interventions: Control steps in which a limit changed the command, by limit.
        control_steps: Control steps in all.
        deadline_misses: Control periods missed (real time only).
        inference_ms: p50, p99 and max of the policy's time [ms].
        wall_s: Without the robot process's start [s].
        lockstep: Whether physics waited for commands.
        robot: What the robot process said of itself.
        results: The episodes.
    """

    episodes: int = 0
    success_rate: float = 0.0
    fall_rate: float = 0.0
    timeout_rate: float = 0.0
    faults: Dict[str, int] = field(default_factory=dict)
    interventions: Dict[str, int] = field(default_factory=dict)
    control_steps: int = 0
    deadline_misses: int = 0
    inference_ms: Dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0
    lockstep: bool = True
    robot: Dict[str, Any] = field(default_factory=dict)
    results: List[Episode] = field(default_factory=list)


def sim2sim(
    bundle: PolicyBundle,
    command: Sequence[str],
    name: str,
    *,
    episodes: int = 64,
    start_timeout_s: float = 300.0,
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
        log: File for the runtime's JSON lines.
        progress: Called with the report so far after every episode.

    Raises:
        BundleError: When bundle and robot do not fit.
        LinkError: When the process does not come up or dies; the text ends with its last words.
    """
    with tempfile.TemporaryFile() as words:
        try:
            process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=words, stderr=words)
        except OSError as error:
            raise LinkError(f"cannot start the robot process {command[0]}: {error.strerror}") from None
        try:
            with SharedMemoryRobot(
                name, timeout_s=start_timeout_s, alive=lambda: process.poll() is None
            ) as robot:
                check_robot(bundle, robot.description, episodes=episodes)
                return run_episodes(bundle, robot, episodes=episodes, log=log, progress=progress)
        except LinkError as error:
            raise LinkError(f"{error}{last_words(process, words)}") from None
        finally:
            end(process)


def run_episodes(
    bundle: PolicyBundle,
    robot: SharedMemoryRobot,
    *,
    episodes: int,
    log: Union[str, Path, None] = None,
    progress: Optional[Callable[[Sim2SimReport], None]] = None,
) -> Sim2SimReport:
    """Run episodes on a robot process that is up.

    Args:
        bundle: What to run.
        robot: The link.
        episodes: How many.
        log: File for the runtime's JSON lines.
        progress: Called with the report so far after every episode.

    Raises:
        LinkError: When the robot process goes away.
    """
    lockstep = robot.description.lockstep
    # A simulated episode begins with the robot on its feet, where the trainer's episodes begin too.
    runtime = Runtime(bundle, robot, damp_s=0.0, stand_s=0.0, log=log)
    rate = None if lockstep else FixedRate(bundle.control_dt_s)
    report = Sim2SimReport(lockstep=lockstep, robot=asdict(robot.description))
    start_s = time.perf_counter()
    for start_index in range(episodes):
        report.results.append(_episode(runtime, robot, start_index, rate))
        _sum_up(report, runtime, rate, time.perf_counter() - start_s)
        if progress is not None:
            progress(report)
    return report


def _episode(
    runtime: Runtime, robot: SharedMemoryRobot, start_index: int, rate: Optional[FixedRate]
) -> Episode:
    """Reset, then control until the robot process says how it ended."""
    dt_s = runtime.bundle.control_dt_s
    robot.reset(start_index)
    runtime.restart(0.0)
    state = robot.read()
    first_t_s, step = state.t_s, 0
    while robot.result is EpisodeResult.RUNNING and step * dt_s < MAX_EPISODE_S:
        late_s = 0.0 if rate is None else rate.wait()
        runtime.control(state, step * dt_s if rate is None else time.monotonic(), late_s=late_s)
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
    kinds = [episode.fault.split(":")[0] for episode in results if episode.fault is not None]
    report.faults = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    ran = runtime.report(rate)
    report.control_steps, report.interventions = ran.ticks, ran.interventions
    report.inference_ms, report.deadline_misses = ran.inference_ms, ran.deadline_misses
    report.wall_s = wall_s


def check_robot(bundle: PolicyBundle, description: LinkDescription, *, episodes: int = 0) -> None:
    """Refuse a robot process that the policy was not trained for.

    Args:
        bundle: The policy.
        description: What the robot process says of itself.
        episodes: Number of starts that will be asked for.

    Raises:
        BundleError: Naming the first thing that does not fit.
    """
    camera = bundle.camera
    pairs = [
        ("robot", description.robot, bundle.robot),
        ("joint order", list(description.joint_names), list(bundle.joint_names)),
    ]
    if camera is not None:
        size = None if description.camera_size_wh is None else list(description.camera_size_wh)
        pairs.append(("camera image", size, [camera.width, camera.height]))
    for what, found, expected in pairs:
        if found != expected:
            raise BundleError(
                f"the robot process has {what} {found}, the bundle {bundle.path} expects {expected}"
            )
    if abs(description.control_dt_s - bundle.control_dt_s) > 1e-6:
        raise BundleError(
            f"the robot process has a control period of {description.control_dt_s:g} s,"
            f" the bundle {bundle.path} expects {bundle.control_dt_s:g} s"
        )
    if 0 < description.num_starts < episodes:
        raise BundleError(
            f"{episodes} episodes asked for, but there are only {description.num_starts} starts"
        )


def robot_command(
    scene: Union[str, Path], name: str, bundle: PolicyBundle, *, lockstep: bool, starts: Optional[Path]
) -> List[str]:
    """The command line of the simulated robot: ``gaussgym-learn robot``, from beside this Python or from the PATH.

    Args:
        scene: The scene's folder.
        name: Name of the shared memory.
        bundle: Gives robot and camera; its folder is handed over.
        lockstep: Whether physics waits for commands.
        starts: File of starts.

    Raises:
        LinkError: When the command is not installed.
    """
    beside = Path(sys.executable).parent / "gaussgym-learn"
    program = str(beside) if beside.is_file() else shutil.which("gaussgym-learn")
    if program is None:
        raise LinkError(
            "the command gaussgym-learn is not installed here; sim2sim needs it to simulate the robot"
        )
    command = [program, "robot", "--scene", str(scene), "--shm", name, "--bundle", str(bundle.path)]
    command += ["--lockstep"] if lockstep else ["--no-lockstep"]
    return command if starts is None else [*command, "--starts", str(starts)]
