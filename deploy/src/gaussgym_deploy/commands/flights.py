"""``replay`` and ``endurance``: what a run recorded, and how well it keeps time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Optional, Tuple

from ..bundle import BundleError, PolicyBundle
from ..endurance import endurance
from ..recorder import read_flight
from ..replay import replay
from ..reporting import counts, write_json
from ..robot_io import LinkError
from .options import link_options

__all__ = ["replay_flight", "run_endurance"]


def replay_flight(flight: Path, bundle: Path, /, *, json: Optional[Path] = None) -> Optional[Path]:
    """Run a flight's readings through the runtime again: the same machine must give the same actions, bit for bit.

    Args:
        flight: Folder that the flight recorder wrote.
        bundle: Folder of the bundle that flew.
        json: File for the report.
    """
    report = replay(PolicyBundle.load(bundle), read_flight(flight))
    print(
        f"{report.steps} control steps, {report.policy_steps} with the policy, fault: {report.fault or 'none'}"
    )
    written = write_json(json, asdict(report))
    if not report.identical:
        errors = {name: value for name, value in report.max_abs_error.items() if value}
        raise BundleError(
            f"{flight}: the replay differs from step {report.first_difference} on, first in {report.what}"
            f" (largest differences: {counts(errors)}); another machine or version may round differently, by less than 1e-5"
        )
    print("identical, bit for bit")
    return written


def run_endurance(
    bundle: Path,
    /,
    *,
    robot: str = "bench",
    option: Tuple[str, ...] = (),
    seconds: float = 600.0,
    flight: Optional[Path] = None,
    json: Optional[Path] = None,
) -> Optional[Path]:
    """Run for long and measure: lateness beside a bare clock loop, thread-CPU time, inference, round trip, memory.

    A policy that sees gets a moving test picture from a camera's thread where the link carries no images.

    Args:
        bundle: Folder of the bundle.
        robot: Robot link.
        option: Of the link, as NAME=VALUE.
        seconds: How long, standing up included [s].
        flight: Folder for the flight recorder, which then records all the time.
        json: File for the report.
    """
    if seconds < 5.0:
        raise BundleError(f"--seconds is {seconds:g}, expected at least 5")
    report = endurance(
        PolicyBundle.load(bundle),
        robot,
        seconds,
        options=link_options(option),
        flight=None if flight is None else str(flight),
    )
    run = report.run
    print(
        f"{run['ticks']} control steps ({counts(run['ticks_by_mode'])}), fault: {run['fault'] or 'none'}, images: {report.images}"
    )
    print(
        f"woken up late [ms]: {counts(run['lateness_ms'])}; a bare clock loop beside it: {counts(report.bare_ms)}"
    )
    print(f"deadlines missed: {run['deadline_misses']}; by our own computing: {run['steps_over_period']}")
    for name, title in (
        ("thread_ms", "thread-CPU time per step"), ("inference_ms", "inference"), ("round_trip_ms", "command to state"),
        ("forward_ms", "command through the supervisor"), ("frame_age_ms", "age of the frame used"),
    ):  # fmt: skip
        print(f"{title} [ms]: {counts(run[name])}")
    for name, memory in report.memory_mb.items():
        print(f"memory of the {name} [MB]: {counts(memory)}")
    written = write_json(json, asdict(report))
    if run["fault"] is not None:
        raise LinkError(f"the run ended in a fault ({run['fault']})")
    return written
