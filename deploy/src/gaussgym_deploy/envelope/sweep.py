"""Sweeps over what a simulated robot may differ in, one quantity at a time, and the range over which the policy works.

Every point is a sim2sim run of its own (runtime and robot process, in lockstep, so that results do not depend on the machine's
load), all from the same starts. Finished points are kept in the JSON file; a run that goes on measures what is missing.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ..bundle import BundleError, PolicyBundle
from ..metrics import wilson_interval
from ..reporting import write_json
from ..sim2sim import sim2sim_in_scene
from ..simulated_robot import SimulatedRobotCfg

__all__ = [
    "MARGIN",
    "STANDARD_SWEEPS",
    "EnvelopeCfg",
    "Sweep",
    "envelope_of",
    "measure_envelope",
    "parse_sweeps",
]

MARGIN = 0.10
"""A point belongs to the envelope while its success is at most this much below the nominal one."""
FORMAT = "gaussgym-envelope"
NOMINAL = "nominal"
KEPT_METRICS = (
    "velocity_error_m_s", "yaw_rate_error_rad_s", "cost_of_transport", "seconds_mean", "path_m_mean",
    "falls_per_km",
)  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """One quantity and its values, a field of :class:`gaussgym_deploy.simulated_robot.SimulatedRobotCfg`."""

    parameter: str
    values: Tuple[float, ...]


STANDARD_SWEEPS = (
    Sweep("state_latency_ms", (10.0, 20.0, 40.0, 60.0, 80.0)),
    Sweep("command_delay_ms", (10.0, 20.0, 40.0, 60.0)),
    Sweep("camera_hz", (2.5, 5.0, 20.0, 50.0)),
    Sweep("camera_latency_ms", (50.0, 100.0, 200.0, 400.0)),
    Sweep("noise", (1.0, 2.0, 4.0, 8.0)),
    Sweep("friction", (0.2, 0.3, 0.45, 0.6, 1.5)),
    Sweep("payload_kg", (1.0, 2.0, 4.0, 6.0)),
    Sweep("motor_strength", (0.5, 0.7, 0.85, 1.2)),
)


def parse_sweeps(words: Sequence[str]) -> Tuple[Sweep, ...]:
    """Sweeps from ``NAME=VALUE,VALUE,...``; without any, the standard ones.

    Raises:
        BundleError: An unknown quantity, no values, or one that cannot be simulated.
    """
    known = [f.name for f in fields(SimulatedRobotCfg) if f.name not in ("seed", "speed", "state_hz")]
    sweeps = []
    for word in words:
        name, equals, text = word.partition("=")
        name = name.replace("-", "_")
        if not equals or name not in known:
            raise BundleError(
                f"sweep {word!r}, expected NAME=VALUE,VALUE,... with one of: {', '.join(known)}"
            )
        try:
            values = tuple(float(value) for value in text.split(","))
        except ValueError:
            raise BundleError(f"sweep {word!r} has a value that is no number") from None
        for value in values:
            SimulatedRobotCfg.from_text({name: value})
        sweeps.append(Sweep(name, values))
    if len({sweep.parameter for sweep in sweeps}) < len(sweeps):
        raise BundleError("two sweeps of the same quantity; give all its values in one")
    return tuple(sweeps) or STANDARD_SWEEPS


@dataclass(frozen=True)
class EnvelopeCfg:
    """What is measured, and on how many cores.

    Attributes:
        sweeps: Quantities and values.
        episodes: Episodes a point.
        starts: File of starts; default: the evaluation's in this scene.
        robot: What the swept robots have in common.
        workers: Points at a time; default: the CPUs that this process may use.
    """

    sweeps: Tuple[Sweep, ...] = STANDARD_SWEEPS
    episodes: int = 64
    starts: Optional[Path] = None
    robot: SimulatedRobotCfg = field(default_factory=SimulatedRobotCfg)
    workers: Optional[int] = None


@dataclass(frozen=True)
class _Point:
    """One sim2sim run to do, in a worker."""

    parameter: str
    value: float
    bundle: str
    scene: str
    cfg: EnvelopeCfg


def measure_envelope(
    bundle: PolicyBundle,
    scene: Path,
    path: Path,
    cfg: EnvelopeCfg,
    *,
    progress: Optional[Callable[[Mapping[str, Any], int], None]] = None,
    measure: Optional[Callable[[_Point], Dict[str, Any]]] = None,
) -> Dict[str, Any]:
    """Measure all points that ``path`` does not hold yet, then the envelope of every quantity.

    Args:
        bundle: The policy.
        scene: Folder of the scene.
        path: JSON file; written after every point.
        cfg: What to measure.
        progress: Called with the report so far and the number of all points, first of all and after every point.
        measure: Measures one point in this process instead of workers (for tests).

    Returns:
        The report that ``path`` holds.

    Raises:
        BundleError: ``path`` holds an envelope of something else.
        LinkError: A robot process does not come up or dies.
    """
    report = _begin(path, _identity(bundle, scene, cfg))
    wanted = [(NOMINAL, 0.0)] + [
        (sweep.parameter, value)
        for sweep in cfg.sweeps
        for value in sweep.values
        if value != _nominal(bundle, cfg, sweep.parameter)
    ]
    have = {(point["parameter"], point["value"]) for point in report["points"]}
    missing = [
        _Point(parameter, value, str(bundle.path), str(scene), cfg)
        for parameter, value in wanted
        if (parameter, value) not in have
    ]
    if progress is not None:
        progress(report, len(have) + len(missing))
    for point in _measured(missing, cfg.workers, measure):
        report["points"].append(point)
        write_json(path, report)
        if progress is not None:
            progress(report, len(have) + len(missing))
    report["envelope"] = {
        sweep.parameter: envelope_of(
            report["points"], sweep.parameter, _nominal(bundle, cfg, sweep.parameter)
        )
        for sweep in cfg.sweeps
    }
    write_json(path, report)
    return report


def envelope_of(points: Sequence[Mapping[str, Any]], parameter: str, nominal_value: float) -> Dict[str, Any]:
    """The range of one quantity, around its nominal value, over which success stays within :data:`MARGIN` of nominal.

    Args:
        points: As measured; the nominal one among them.
        parameter: Which quantity.
        nominal_value: Where the nominal point lies on its axis.

    Returns:
        ``works`` [lowest, highest value measured] by the success itself, ``surely`` by the lower end of its 95 % Wilson interval
        (None where even nominal does not qualify: too few episodes), ``possibly`` by the upper one; ``open`` [low, high]: whether
        the sweep ended before the policy failed on that side.
    """
    nominal = next(point for point in points if point["parameter"] == NOMINAL)
    least = nominal["success"] - MARGIN
    line = [(nominal_value, nominal)] + [(p["value"], p) for p in points if p["parameter"] == parameter]
    line.sort(key=lambda pair: pair[0])
    at = [value for value, _ in line].index(nominal_value)

    def reach(passes: Callable[[Mapping[str, Any]], bool]) -> Optional[List[int]]:
        if not passes(line[at][1]):
            return None
        low = high = at
        while low > 0 and passes(line[low - 1][1]):
            low -= 1
        while high < len(line) - 1 and passes(line[high + 1][1]):
            high += 1
        return [low, high]

    works = reach(lambda point: point["success"] >= least - 1e-9)
    assert works is not None  # the nominal point is never below itself
    surely = reach(lambda point: point["success_wilson95"][0] >= least - 1e-9)
    possibly = reach(lambda point: point["success_wilson95"][1] >= least - 1e-9)
    return {
        "nominal": nominal_value,
        "nominal_success": nominal["success"],
        "works": [line[i][0] for i in works],
        "surely": None if surely is None else [line[i][0] for i in surely],
        "possibly": None if possibly is None else [line[i][0] for i in possibly],
        "open": [works[0] == 0, works[1] == len(line) - 1],
    }


def _nominal(bundle: PolicyBundle, cfg: EnvelopeCfg, parameter: str) -> float:
    """The value of a quantity that is not swept."""
    value = getattr(cfg.robot, parameter)
    if value is not None:
        return float(value)
    return bundle.camera_hz if parameter == "camera_hz" else cfg.robot.amplitude(parameter)


def _identity(bundle: PolicyBundle, scene: Path, cfg: EnvelopeCfg) -> Dict[str, Any]:
    """What points must have in common to stand in one file."""
    manifest = scene / "scene.json"
    return {
        "policy_sha256": _sha256(bundle.path / "policy.json"),
        "scene_sha256": _sha256(manifest if manifest.is_file() else scene),
        "starts_sha256": None if cfg.starts is None else _sha256(cfg.starts),
        "episodes": cfg.episodes,
        "robot": cfg.robot.changed(),
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _begin(path: Path, identity: Dict[str, Any]) -> Dict[str, Any]:
    """The report in a file, or a new one."""
    if not path.is_file():
        return {"format": FORMAT, "version": 1, **identity, "points": []}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{path}: not valid JSON ({error}); remove it") from None
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise BundleError(f"{path}: holds no envelope; choose another folder")
    for name, value in identity.items():
        if report.get(name) != value:
            raise BundleError(
                f"{path}: holds an envelope with another {name} ({report.get(name)}, now {value}); choose another folder"
            )
    return report


def _measured(
    points: Sequence[_Point], workers: Optional[int], measure: Optional[Callable[[_Point], Dict[str, Any]]]
) -> Iterator[Dict[str, Any]]:
    """The points, as they are finished."""
    if not points:
        return
    if measure is not None:
        for point in points:
            yield measure(point)
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Spawned, not forked: a fork of a process with onnxruntime's threads may hang.
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers or cores, len(points)), _ignore_interrupts) as pool:
        yield from pool.imap_unordered(_measure, points)


def _ignore_interrupts() -> None:
    """Ctrl-C is the parent's business, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _measure(point: _Point) -> Dict[str, Any]:
    """One sim2sim run."""
    cfg, start_s = point.cfg, time.monotonic()
    robot = cfg.robot
    if point.parameter != NOMINAL:
        swept = SimulatedRobotCfg.from_text({point.parameter: point.value})
        robot = replace(robot, **{point.parameter: getattr(swept, point.parameter)})
    report = sim2sim_in_scene(
        PolicyBundle.load(point.bundle),
        point.scene,
        episodes=cfg.episodes,
        starts=cfg.starts,
        options=robot,
    )
    successes = round(report.success_rate * report.episodes)
    return {
        "parameter": point.parameter,
        "value": point.value,
        "episodes": report.episodes,
        "successes": successes,
        "success": report.success_rate,
        "success_wilson95": [round(x, 4) for x in wilson_interval(successes, report.episodes)],
        "fell": report.fall_rate,
        "timeout": report.timeout_rate,
        "faults_by_result": report.faults_by_result,
        "metrics": {name: report.metrics[name] for name in KEPT_METRICS},
        "outcomes": "".join(episode.result[0] for episode in report.results),
        "robot": {key: value for key, value in asdict(robot).items() if value is not None},
        "wall_s": round(time.monotonic() - start_s, 1),
    }
