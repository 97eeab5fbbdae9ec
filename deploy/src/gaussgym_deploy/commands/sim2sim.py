"""``sim2sim``: episodes on a simulated robot in a process of its own, through the same runtime."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Optional

from ..bundle import BundleError, PolicyBundle
from ..reporting import ProgressLine, counts, write_json
from ..sim2sim import sim2sim_in_scene
from ..simulated_robot import SimulatedRobotCfg

__all__ = ["run_sim2sim"]


def run_sim2sim(
    bundle: Path,
    /,
    *,
    scene: Path,
    episodes: int = 64,
    starts: Optional[Path] = None,
    lockstep: bool = True,
    robot: SimulatedRobotCfg = SimulatedRobotCfg(),  # noqa: B008 (frozen)
    goal_by: str = "robot",
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
        goal_by: Who says where to go: robot (the simulated robot's path follower, which knows the truth), odometry (a follower by
            the position that the robot reports) or legs (one by odometry from joints and IMU).
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
        goal_by=goal_by,
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
    if report.odometry:
        print(f"odometry by {goal_by}: drift {report.odometry['drift_percent']} % of the path")
    return write_json(json, asdict(report)) or film
