"""``run`` and ``checklist``: a bundle on a robot in real time, with an operator."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

from ..bundle import BundleError, PolicyBundle
from ..camera import CameraThread
from ..cameras import CAMERAS, open_camera
from ..checklist import Checklist, TerminalPrompter
from ..odometry import open_goal
from ..operator import CommandSource
from ..processes import new_name
from ..reporting import counts, write_json
from ..robot_io import LinkError
from ..runtime import RunReport, Runtime
from ..scheduler import RUNTIME_PRIORITY, be_prompt
from ..supervisor import SupervisorCfg
from ..supervisor_process import SupervisedRobot
from ..teleop import OPERATORS, DriveCfg, open_operator
from ..teleop.keyboard import HELP
from ..teleop.web import WebOperator
from .options import link_options

__all__ = ["checklist", "run"]

NO_OPERATOR = NO_CAMERA = "none"


def run(
    bundle: Path,
    /,
    *,
    robot: str = "bench",
    option: Tuple[str, ...] = (),
    scene: Optional[Path] = None,
    camera: str = NO_CAMERA,
    camera_option: Tuple[str, ...] = (),
    operator: str = NO_OPERATOR,
    operator_option: Tuple[str, ...] = (),
    drive: DriveCfg = DriveCfg(),  # noqa: B008 (frozen)
    goal: Tuple[float, ...] = (),
    goal_by: str = "odometry",
    goal_speed_m_s: float = 0.6,
    seconds: Optional[float] = None,
    stand_s: float = 2.0,
    dry_run: bool = False,
    log: Optional[Path] = None,
    flight: Optional[Path] = None,
    json: Optional[Path] = None,
) -> Optional[Path]:
    """Run the bundle on a robot in real time. Ctrl-C damps the robot and ends.

    Args:
        bundle: Folder of the bundle.
        robot: Robot link.
        option: Of the link, as NAME=VALUE.
        scene: Folder of the scene, for links that simulate one (dds-sim).
        camera: Camera beside the link: go2-front, realsense, shared-memory; none: the link's own (dds-sim brings one).
        camera_option: Of the camera, as NAME=VALUE.
        operator: Who says where to go: keyboard, gamepad, web, remote (Unitree's own); none: the robot's own command holds
            (a simulated robot follows its path).
        operator_option: Of the operator, as NAME=VALUE (gamepad: device, dead_man; web: host, port, camera_hz; keyboard:
            hold_s, dead_man_s).
        drive: The operator's full speeds.
        goal: Walk by itself to x y, or along x y x y ..., in metres ahead of and left of where it stands; an operator can still
            stop it, and must stay alive.
        goal_by: Where it is: odometry (the position that the robot reports) or legs (from joints and IMU).
        goal_speed_m_s: Along the way [m/s].
        seconds: How long, standing up included [s]; default: until Ctrl-C.
        stand_s: How long standing up takes [s].
        dry_run: Read, look, think, log, and send nothing: the robot stays in its own hands.
        log: File for JSON lines, one per control step; the supervisor's word goes beside it (`.supervisor.jsonl`).
        flight: Folder for the last minute, written after a fault and at the end (see 'replay'); default: beside the log.
        json: File for the report.
    """
    if stand_s <= 0:
        raise BundleError(f"--stand-s is {stand_s:g}, expected a positive time")
    loaded = PolicyBundle.load(bundle)
    options, camera, camera_options = with_camera(
        robot, loaded, link_options(option), scene, camera, link_options(camera_option)
    )
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_operator(operator, drive, operator_option))
        cfg = SupervisorCfg(dry_run=dry_run)
        start_s = 60.0 if scene is None else 300.0  # a scene is loaded, a renderer may compile
        link = stack.enter_context(
            SupervisedRobot(
                robot, loaded, options=options, cfg=cfg, start_timeout_s=start_s, log=_supervisors_log(log)
            )
        )
        eye = stack.enter_context(_camera(camera, loaded, camera_options))
        # In a dry run the robot will not follow, so that its pose is not waited for.
        damp_s, up_s = (0.0, 0.0) if dry_run else (0.5, stand_s)
        if flight is None and log is not None:
            flight = log.with_suffix(".flight")
        # Without an operator and a goal the robot's own command holds.
        pilot = open_goal(loaded, goal, goal_by, goal_speed_m_s, source) if goal else source
        runtime = Runtime(
            loaded, link, operator=pilot, camera=eye, log=log, flight=flight, damp_s=damp_s, stand_s=up_s
        )
        if isinstance(source, WebOperator):
            source.status = lambda: _status(runtime)
        be_prompt(RUNTIME_PRIORITY)
        report = runtime.run(seconds)
    if dry_run:
        print("dry run: nothing was sent")
    _print(report)
    written = write_json(json, asdict(report))
    for path, error in ((log, report.log_error), (flight, report.flight_error)):
        if error is not None:
            raise BundleError(f"{path}: {error}")
    if report.fault is not None:
        raise LinkError(f"the run ended in a fault ({report.fault})")
    return written or log


def checklist(
    bundle: Path,
    /,
    *,
    robot: str,
    option: Tuple[str, ...] = (),
    operator: str = NO_OPERATOR,
    operator_option: Tuple[str, ...] = (),
    drive: DriveCfg = DriveCfg(),  # noqa: B008 (frozen)
    picture: Path = Path("camera.png"),
    run_s: float = 5.0,
    log: Optional[Path] = None,
    json: Optional[Path] = None,
) -> Optional[Path]:
    """The first run of a policy on a robot, in a harness and on a tether, step by step. It stops at what does not pass.

    Args:
        bundle: Folder of the bundle.
        robot: Robot link.
        option: Of the link, as NAME=VALUE.
        operator: Who holds the stop: gamepad, web; none: only this terminal.
        operator_option: Of the operator, as NAME=VALUE.
        drive: The operator's full speeds, in the last step.
        picture: File for the robot's picture, to look at (PNG).
        run_s: How long the policy runs in the last step [s].
        log: File for JSON lines, one per control step; the supervisor's word goes beside it.
        json: File for the steps' results.
    """
    if operator == "keyboard":
        raise BundleError("the answers come from the keyboard here; use --operator gamepad, web or none")
    loaded = PolicyBundle.load(bundle)
    with _operator(operator, drive, operator_option) as source:
        walk = Checklist(TerminalPrompter(), source, picture=picture, run_s=run_s)
        options = link_options(option)
        with SupervisedRobot(robot, loaded, options=options, log=_supervisors_log(log)) as link:
            runtime = Runtime(loaded, link, operator=walk, log=log)
            walk.attach(runtime)
            be_prompt(RUNTIME_PRIORITY)
            report = runtime.run()
    steps = [asdict(result) for result in walk.results]
    written = write_json(json, {"robot": robot, "bundle": str(bundle), "passed": walk.passed, "steps": steps})
    if not walk.passed:
        why = walk.results[-1] if walk.results else None
        raise LinkError(
            f"the checklist ended at {why.name!r}: {why.found}"
            if why
            else f"no step was done ({report.fault})"
        )
    print("all steps passed")
    return written or log


def with_camera(
    robot: str,
    bundle: PolicyBundle,
    options: Dict[str, Any],
    scene: Optional[Path],
    camera: str,
    camera_options: Dict[str, Any],
) -> Tuple[Dict[str, Any], str, Dict[str, Any]]:
    """The link's options with the scene, and the camera that a simulated robot on DDS brings along.

    Args:
        robot: Robot link.
        bundle: The policy.
        options: Of the link.
        scene: For links that simulate one.
        camera: Camera that the user chose, or none.
        camera_options: Of the camera.

    Returns:
        Options of the link, camera, options of the camera.

    Raises:
        BundleError: When the scene does not exist.
    """
    options = dict(options)
    if scene is not None:
        if not scene.is_dir():
            raise BundleError(f"{scene}: no such scene folder")
        options["scene"] = str(scene)
    starts_one = robot == "dds-sim" and "domain" not in options
    if starts_one and bundle.camera is not None and camera == NO_CAMERA:
        options["camera"] = new_name() + "-eye"
        return options, "shared-memory", {"name": options["camera"]}
    return options, camera, camera_options


@contextlib.contextmanager
def _camera(name: str, bundle: PolicyBundle, options: Dict[str, Any]) -> Iterator[Optional[CameraThread]]:
    """The camera's thread by the camera's name, let go of at the end whatever happens."""
    if name == NO_CAMERA:
        if options:
            raise BundleError(f"--camera-option needs a --camera: {', '.join(sorted(CAMERAS))}")
        yield None
        return
    thread = CameraThread(open_camera(name, bundle, **options))  # the runtime starts it
    try:
        yield thread
    finally:
        thread.close()


@contextlib.contextmanager
def _operator(name: str, drive: DriveCfg, options: Tuple[str, ...]) -> Iterator[Optional[CommandSource]]:
    """The operator by name, let go of at the end whatever happens."""
    if name == NO_OPERATOR:
        if options:
            raise BundleError(
                f"--operator-option {options[0]} needs an --operator: {', '.join(sorted(OPERATORS))}"
            )
        yield None
        return
    source = open_operator(name, drive, **link_options(options))
    try:
        url = getattr(source, "url", None)
        if url is not None:
            print(f"open {url}", flush=True)
        if name == "keyboard":
            print(HELP, flush=True)
        yield source
    finally:
        source.close()


def _supervisors_log(log: Optional[Path]) -> Optional[Path]:
    """Where the supervisor writes its own word, beside the runtime's log: the runtime may be dead by then."""
    return None if log is None else log.with_suffix(".supervisor.jsonl")


def _status(runtime: Runtime) -> Dict[str, Any]:
    fault = runtime.machine.fault
    return {"mode": runtime.machine.mode.value, "fault": None if fault is None else str(fault)}


def _print(report: RunReport) -> None:
    print(f"{report.ticks} control steps ({counts(report.ticks_by_mode)}), fault: {report.fault or 'none'}")
    print(
        f"scheduled in real time: {'yes' if report.real_time else 'no'}; deadlines missed: {report.deadline_misses};"
        f" woken up late by at most {report.worst_lateness_ms:.2f} ms;"
        f" inference [ms]: {counts(report.inference_ms)}"
    )
