"""Sim-to-real as a number: a robot's log against its simulation, what explains the gap, and a preset to train with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_deploy.bundle import BundleError, CameraSpec, PolicyBundle
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import matrix_from_quat_wxyz, multiply_quats_wxyz
from gaussgym_scene.scene import Scene
from gaussgym_sim.ground.boxes import Boxes
from gaussgym_sim.ground.terrain import Ground, ground_of
from gaussgym_sim.robot import get_robot
from gaussgym_sim.sensors.camera import CameraCfg

from gaussgym_learn.checkpoint import write_bytes
from gaussgym_learn.export import camera_spec
from gaussgym_learn.gap.fitting import fit_physics
from gaussgym_learn.gap.images import image_pairs
from gaussgym_learn.gap.picture import draw_joints
from gaussgym_learn.gap.preset import preset
from gaussgym_learn.gap.recording import Array, Recording, read_recording
from gaussgym_learn.gap.replay import Replay, Segments, Traces, choose_segments, estimate_starts
from gaussgym_learn.gap.response import Response, fit_response


@dataclass(frozen=True)
class CompareCfg:
    """How a log is compared.

    Attributes:
        segments: pieces of the log that are replayed, at most.
        horizon: control steps a piece.
        odometry_in_scene: x [m], y [m], z [m] and yaw [rad] of the odometry's frame in the scene.
        images: at most so many camera images; 0 for none.
        renderer: backend of the splat renderer.
    """

    segments: int = 100
    horizon: int = 3
    odometry_in_scene: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    images: int = 24
    renderer: str = "auto"


def compare(
    log: Path | str,
    scene: Scene | Path | str,
    cfg: CompareCfg | None = None,
    *,
    camera: CameraSpec | None = None,
    picture: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compare a robot's log with its simulation.

    Args:
        log: folder of a flight recording.
        scene: where it was recorded; without odometry in the log a plane takes the place of its ground.
        cfg: see `CompareCfg`.
        camera: that took the log's images; None: the simulator's own, if its size fits.
        picture: file for a picture of the joints.
        progress: told in a few words what is going on.

    Returns:
        The report and the preset, both plain JSON.

    Raises:
        InputError: a log that does not do, or does not fit robot and scene.
    """
    cfg = cfg or CompareCfg()
    recording = placed(read_recording(log), cfg.odometry_in_scene)
    robot, place = get_robot(recording.robot), scene if isinstance(scene, Scene) else Scene.load(scene)
    ground = ground_of(place) if recording.position_w is not None else _plane(ground_of(place))
    segments = choose_segments(recording, horizon=cfg.horizon, count=cfg.segments)

    def replay_of(some: Segments) -> Replay:
        return Replay(recording, robot, ground, some)

    fit = fit_physics(replay_of, segments, progress=progress)
    replay = replay_of(segments)
    starts = estimate_starts(replay)
    nominal, fitted = replay.run(replay.nominal, starts), replay.run(fit.physics, starts)
    progress("images")
    response, why_not = _camera_response(recording, place, camera, cfg)
    if picture is not None:
        draw_joints(picture, recording, segments, nominal, fitted)
    made_from = {"log": str(recording.path), "scene": place.name, "robot": robot.name}
    report = {
        "format": "gaussgym-gap",
        "version": 1,
        **made_from,
        "seconds": float(recording.t_s[-1] - recording.t_s[0]),
        "segments": len(segments),
        "segment_s": float(np.mean(recording.t_s[segments.rows[:, -1]] - recording.t_s[segments.first])),
        "odometry": recording.position_w is not None,
        "state_age_s": recording.state_age_s,
        "gaps": {
            "nominal": gaps(recording, segments, nominal),
            "fitted": gaps(recording, segments, fitted),
        },
        "fit": {name: asdict(e) | {"interval_95": e.interval} for name, e in fit.estimates.items()},
        "cost": {"nominal": fit.cost_nominal, "fitted": fit.cost, "sliding_share": fit.sliding_share},
        "camera": None if response is None else response.to_dict(),
        "camera_note": why_not,
    }
    return report, preset(fit, response, state_age_s=recording.state_age_s, made_from=made_from)


def placed(recording: Recording, odometry_in_scene: tuple[float, float, float, float]) -> Recording:
    """The recording with position and attitude in the scene's frame."""
    x, y, z, yaw = odometry_in_scene
    if recording.position_w is None or odometry_in_scene == (0.0, 0.0, 0.0, 0.0):
        return recording
    turn = np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
    position = recording.position_w @ matrix_from_quat_wxyz(turn).T + [x, y, z]
    return replace(recording, position_w=position, quat_wxyz=multiply_quats_wxyz(turn, recording.quat_wxyz))


def _plane(ground: Ground) -> Ground:
    """A plane at height 0 of the ground's size."""
    field = ground.heightfield
    return Ground(replace(field, height_m=np.zeros_like(field.height_m)), Boxes.none())


def gaps(recording: Recording, segments: Segments, traces: Traces) -> dict[str, Any]:
    """Root mean squares of simulated less measured, by joint and by axis; None for what the log does not hold."""
    rows, names = segments.rows, recording.joint_names

    def rms(simulated: Array, measured: Array | None) -> list[float] | None:
        if measured is None:
            return None
        return np.sqrt(np.mean((simulated - measured[rows]) ** 2, axis=(0, 1))).tolist()

    def by_name(values: list[float] | None) -> dict[str, float] | None:
        return None if values is None else dict(zip(names, values, strict=True))

    down = -matrix_from_quat_wxyz(traces.quat_wxyz)[..., 2, :]
    measured_down = -matrix_from_quat_wxyz(recording.quat_wxyz)[..., 2, :]
    return {
        "joint_pos_rad": by_name(rms(traces.joint_pos, recording.joint_pos)),
        "joint_vel_rad_s": by_name(rms(traces.joint_vel, recording.joint_vel)),
        "joint_torque_nm": by_name(rms(traces.joint_torque, recording.joint_torque)),
        "ang_vel_b_rad_s": rms(traces.ang_vel_b, recording.ang_vel_b),
        "lin_acc_b_m_s2": rms(traces.lin_acc_b, recording.lin_acc_b),
        "gravity_b": rms(down, measured_down),
    }


def _camera_response(
    recording: Recording, scene: Scene, camera: CameraSpec | None, cfg: CompareCfg
) -> tuple[Response | None, str]:
    """The camera's response, or why there is none."""
    if cfg.images == 0:
        return None, "images were not asked for"
    if recording.rgb is None:
        return None, "the log holds no images"
    if recording.position_w is None:
        return None, "the log holds no odometry: where the images were taken is not known"
    if camera is None:
        camera = camera_spec(get_robot(recording.robot), CameraCfg())
    pairs = image_pairs(recording, scene, camera, count=cfg.images, renderer=cfg.renderer)
    return fit_response(*pairs), ""


def read_camera(bundle: Path | None) -> CameraSpec | None:
    """The camera of a bundle.

    Raises:
        InputError: no such bundle, or a blind one.
    """
    if bundle is None:
        return None
    try:
        camera = PolicyBundle.load(bundle).camera
    except BundleError as error:
        raise InputError(str(error)) from None
    if camera is None:
        raise InputError(f"{bundle}: a blind policy has no camera; leave --bundle out")
    return camera


def write_json(path: Path, values: dict[str, Any]) -> Path:
    """Write a report or preset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(values, indent=1) + "\n").encode())
    return path


def describe(report: dict[str, Any]) -> str:
    """The report in lines for a terminal."""
    lines = [
        f"{report['seconds']:.1f} s of {report['robot']} in {report['scene']}: {report['segments']} pieces of"
        f" {1e3 * report['segment_s']:.0f} ms replayed"
    ]
    for name, unit in (("joint_pos_rad", "rad"), ("joint_vel_rad_s", "rad/s"), ("joint_torque_nm", "N·m")):
        before, after = report["gaps"]["nominal"][name], report["gaps"]["fitted"][name]
        if before is not None:
            a, b = (float(np.sqrt(np.mean(np.square(list(x.values()))))) for x in (before, after))
            lines.append(f"{name}: RMSE {a:.4g} {unit} nominal, {b:.4g} {unit} fitted")
    for name in ("ang_vel_b_rad_s", "lin_acc_b_m_s2", "gravity_b"):
        before, after = report["gaps"]["nominal"][name], report["gaps"]["fitted"][name]
        if before is not None:
            text = "; ".join(
                f"{axis} {a:.3g} -> {b:.3g}" for axis, a, b in zip("xyz", before, after, strict=True)
            )
            lines.append(f"{name}: RMSE nominal -> fitted {text}")
    for name, e in report["fit"].items():
        if e["value"] is None:
            bound = "" if e["at_least"] is None else f" (at least about {e['at_least']:.2f})"
            lines.append(f"{name}: {e['reason']}{bound}")
        else:
            lines.append(
                f"{name}: {e['value']:.4g} ± {1.96 * e['std_error']:.2g} {e['unit']} (nominal {e['nominal']:.3g})"
            )
    return "\n".join([*lines, *_describe_camera(report)])


def _describe_camera(report: dict[str, Any]) -> list[str]:
    camera = report["camera"]
    if camera is None:
        return [f"camera: {report['camera_note']}"]
    gain = ", ".join(
        f"{c} {g:.3f} ± {1.96 * e:.2g}"
        for c, g, e in zip("rgb", camera["gain"], camera["gain_error"], strict=True)
    )
    hidden = f"; not observable: {', '.join(camera['hidden'])}" if camera["hidden"] else ""
    return [
        f"camera: PSNR {camera['psnr_before_db']:.1f} dB as it is, {camera['psnr_after_db']:.1f} dB with the fitted response"
        f" ({camera['images']} images)",
        f"camera: gain on light {gain}; gamma {camera['gamma']:.3f} ± {1.96 * camera['gamma_error']:.2g}; offset"
        f" {', '.join(f'{x:.1f}' for x in camera['offset'])} codes{hidden}",
    ]


def show(text: str) -> None:
    """A line of progress."""
    print(f"compare: {text}", file=sys.stderr, flush=True)
