"""``check``: is a bundle whole, does it compute here what it computed in training, how fast."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import numpy as np

from ..bundle import BundleError, PolicyBundle
from ..guards import GuardLimits
from ..policy import Policy, replay_golden
from ..reporting import counts, write_json

__all__ = ["check"]


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
