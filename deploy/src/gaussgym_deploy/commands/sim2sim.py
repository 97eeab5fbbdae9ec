"""``sim2sim``: episodes on a simulated robot in a process of its own, through the same runtime."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Optional

from ..bundle import BundleError, PolicyBundle
from ..sim2sim import new_name, robot_command, sim2sim
from .output import ProgressLine, counts, write_json

__all__ = ["run_sim2sim"]


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
