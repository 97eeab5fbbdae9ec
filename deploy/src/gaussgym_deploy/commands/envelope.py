"""The command ``gaussgym-deploy envelope``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Mapping, Optional, Tuple

from ..bundle import BundleError, PolicyBundle
from ..envelope.plot import write_svg
from ..envelope.sweep import NOMINAL, EnvelopeCfg, measure_envelope, parse_sweeps
from ..reporting import ProgressLine
from ..simulated_robot import SimulatedRobotCfg

__all__ = ["envelope", "table"]


def envelope(
    bundle: Path,
    /,
    *,
    scene: Path,
    sweep: Tuple[str, ...] = (),
    episodes: int = 64,
    starts: Optional[Path] = None,
    workers: Optional[int] = None,
    output: Path = Path("envelope"),
    robot: SimulatedRobotCfg = SimulatedRobotCfg(),  # noqa: B008 (frozen)
) -> Optional[Path]:
    """Measure how far the robot may be from nominal before the policy fails: sweeps, one quantity at a time, in lockstep.

    A run that was stopped goes on where it was.

    Args:
        bundle: Folder of the bundle.
        scene: Folder of the scene.
        sweep: Quantities and values, e.g. state_latency_ms=20,40,80 friction=0.3,0.6; by default eight quantities are swept.
        episodes: Episodes a point.
        starts: File of starts; default: the evaluation's 256 in this scene.
        workers: Points at a time; default: as many as CPUs.
        output: Folder for envelope.json and envelope.svg.
        robot: What all swept robots have in common.
    """
    if episodes < 1 or (workers is not None and workers < 1):
        raise BundleError("--episodes and --workers must be at least 1")
    for path in (scene, starts):
        if path is not None and not path.exists():
            raise BundleError(f"{path}: not found")
    loaded = PolicyBundle.load(bundle)
    cfg = EnvelopeCfg(parse_sweeps(sweep), episodes, starts, robot, workers)
    lines: List[ProgressLine] = []

    def progress(report: Mapping[str, Any], total: int) -> None:
        done = len(report["points"])
        if not lines:
            lines.append(ProgressLine(total, "envelope", done=done))
        last = report["points"][-1] if done else None
        lines[0].show(
            done, "" if last is None else f", {last['parameter']} {last['value']:g}: {last['success']:.0%}"
        )

    report = measure_envelope(loaded, scene, output / "envelope.json", cfg, progress=progress)
    print(table(report))
    title = f"{loaded.robot}: success in {scene.name}, {episodes} episodes a point, 95 % Wilson intervals"
    write_svg(output / "envelope.svg", report, title)
    return output / "envelope.json"


def table(report: Mapping[str, Any]) -> str:
    """The report in words, a line for each quantity."""
    nominal = next(point for point in report["points"] if point["parameter"] == NOMINAL)
    lines = [
        f"nominal: success {nominal['success']:.1%} {_interval(nominal['success_wilson95'])}",
        f"{'quantity':<20}{'nominal':>8}  {'works':<16}{'surely':<16}{'possibly':<16}success at",
    ]
    for name, found in report["envelope"].items():
        points = sorted(
            (point for point in report["points"] if point["parameter"] == name), key=lambda p: p["value"]
        )
        shown = "  ".join(f"{point['value']:g}: {point['success']:.0%}" for point in points)
        works = _range(found["works"], found["open"])
        lines.append(
            f"{name:<20}{found['nominal']:>8g}  {works:<16}{_range(found['surely']):<16}{_range(found['possibly']):<16}{shown}"
        )
    lines.append("(works: at most 10 points below nominal; + : the sweep ended before it failed)")
    return "\n".join(lines)


def _interval(bounds: List[float]) -> str:
    return f"[{bounds[0]:.1%}, {bounds[1]:.1%}]"


def _range(bounds: Optional[List[float]], is_open: Tuple[bool, bool] = (False, False)) -> str:
    if bounds is None:
        return "-"
    low, high = ("+" if at_end else "" for at_end in is_open)
    return f"{low}{bounds[0]:g} ... {bounds[1]:g}{high}"
