"""All that can be said of a bundle before a robot moves: its files, its networks on this machine, the robot it is meant for."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

import numpy as np

from ..guards import GuardLimits
from ..policy import Policy, replay_golden
from ..robot_description import find_description, misfits
from .contents import BundleError, PolicyBundle
from .onnx_header import read_onnx_header, require_readable

__all__ = ["CheckReport", "check_bundle"]

TIMED_STEPS, TIMED_S = 1000, 5.0
"""Steps that are timed, and how long that may take at most."""


@dataclass
class CheckReport:
    """What was found; JSON by ``dataclasses.asdict``.

    Attributes:
        bundle: Folder.
        robot: Robot of the policy.
        joints: Number of joints.
        proprio_size: Length of the observation.
        camera: ``WxH`` in pixels, or None.
        onnx: By file: ``ir_version`` and ``opset``.
        onnxruntime: Version that ran it.
        golden_steps: Length of the golden trace [control steps].
        golden_max_abs_error: Largest difference of actions to the recorded ones.
        golden_max_abs_observation_error: Same of observations; None where the trace has no readings.
        inference_ms: p50, p99 and max over control steps, encoder included where a frame came [ms].
        timed_steps: How many steps that is.
        control_period_ms: Time that there is [ms].
        problems: Why it cannot be used; empty: it can.
    """

    bundle: str
    robot: str = ""
    joints: int = 0
    proprio_size: int = 0
    camera: Optional[str] = None
    onnx: Dict[str, Dict[str, int]] = field(default_factory=dict)
    onnxruntime: str = ""
    golden_steps: int = 0
    golden_max_abs_error: Optional[float] = None
    golden_max_abs_observation_error: Optional[float] = None
    inference_ms: Dict[str, float] = field(default_factory=dict)
    timed_steps: int = 0
    control_period_ms: float = 0.0
    problems: List[str] = field(default_factory=list)

    def require_usable(self) -> None:
        """Refuse a bundle with problems.

        Raises:
            BundleError: The first problem, and how many more there are.
        """
        if self.problems:
            more = len(self.problems) - 1
            raise BundleError(self.problems[0] + (f" (and {more} more)" if more else ""))


def check_bundle(directory: Union[str, Path], *, robot: Optional[str] = None) -> CheckReport:
    """Check a bundle: manifest, hashes, shapes, robot, networks, golden trace, time.

    Args:
        directory: The bundle's folder.
        robot: Name of the robot that it is meant for, or file of its description (:mod:`gaussgym_deploy.robot_description`).

    Returns:
        What was found; problems are in it, not raised, so that all of them can be seen at once.
    """
    report = CheckReport(str(directory))
    try:
        bundle = PolicyBundle.load(directory)
        _describe(bundle, report)
        GuardLimits.of(bundle.guards)
        if robot is not None:
            report.problems += _robot_problems(bundle, robot)
        policy = Policy(bundle)
        _replay(bundle, policy, report)
    except BundleError as error:
        report.problems.append(str(error))
    return report


def _describe(bundle: PolicyBundle, report: CheckReport) -> None:
    camera = bundle.camera
    report.robot, report.joints, report.proprio_size = (
        bundle.robot,
        len(bundle.joint_names),
        bundle.proprio_size,
    )
    report.camera = None if camera is None else f"{camera.width}x{camera.height}"
    report.control_period_ms = 1e3 * bundle.control_dt_s
    for path in (bundle.policy_file, bundle.encoder_file):
        if path is not None:
            header = read_onnx_header(path.read_bytes(), str(path))
            report.onnx[path.name] = header._asdict()
            require_readable(header, str(path))


def _robot_problems(bundle: PolicyBundle, robot: str) -> List[str]:
    description = find_description(robot)
    known = {robot} if description is None else {robot, description.name}
    # The name of an imported robot is the path that its file had where it was trained.
    imported = robot.endswith(".json") and bundle.robot.endswith(".json")
    if bundle.robot not in known and not imported:
        return [f"{bundle.path}: the policy is for {bundle.robot!r}, not for {robot!r}"]
    return [] if description is None else [f"{bundle.path}: {text}" for text in misfits(bundle, description)]


def _replay(bundle: PolicyBundle, policy: Policy, report: CheckReport) -> None:
    """Replay the golden trace, first for its result, then for its time."""
    import onnxruntime

    report.onnxruntime = onnxruntime.__version__
    replay = replay_golden(bundle, policy)  # also warms up: the first steps of a session are slow
    report.golden_steps = replay.steps
    report.golden_max_abs_error = _plain(replay.max_abs_error)
    report.golden_max_abs_observation_error = _plain(replay.max_abs_observation_error)
    times: List[np.ndarray] = []
    end_s = time.monotonic() + TIMED_S
    while not times or (sum(map(len, times)) < TIMED_STEPS and time.monotonic() < end_s):
        times.append(replay_golden(bundle, policy, observations=False).inference_s)
    times_ms = 1e3 * np.concatenate(times)
    p50, p99 = (float(value) for value in np.percentile(times_ms, [50, 99]))
    report.inference_ms, report.timed_steps = (
        {"p50": p50, "p99": p99, "max": float(times_ms.max())},
        len(times_ms),
    )
    try:
        replay.require_match(bundle)
    except BundleError as error:
        report.problems.append(str(error))
    if p99 > report.control_period_ms:
        report.problems.append(
            f"{bundle.path}: p99 of inference, {p99:.1f} ms, is above the control period of"
            f" {report.control_period_ms:.1f} ms on this machine"
        )


def _plain(value: Any) -> Optional[float]:
    """None for what JSON cannot say (the networks gave NaN; the problem says so)."""
    return None if value is None or not np.isfinite(value) else float(value)
