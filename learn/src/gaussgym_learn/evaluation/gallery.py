"""Films of an evaluation and its failure gallery: the last seconds of each kind of failure, seen from behind and by the robot."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.robot import RobotCfg, get_robot
from gaussgym_sim.sensors.camera import camera_to_world, intrinsics, mount_pose
from numpy.typing import NDArray

from gaussgym_learn.evaluation.causes import Cause, first_wrong, normal_limits
from gaussgym_learn.evaluation.plots import draw_course
from gaussgym_learn.evaluation.protocol import Outcome
from gaussgym_learn.evaluation.subjects import Subject, settings_for
from gaussgym_learn.evaluation.traces import Failure
from gaussgym_learn.film.chase import ChaseCfg, chase_images, with_inset, write_video

STRIP = 6
"""Pictures of a strip."""
FILM_HZ = 25.0
FILM_S = 12.0
"""Most of a whole episode that is filmed [s]."""
logger = logging.getLogger(__name__)
Images = list[NDArray[np.uint8]]


@dataclass(frozen=True)
class GalleryCfg:
    """How to film.

    Attributes:
        chase: the camera behind the robot.
        per_kind: failures of each kind and policy.
        kinds: kinds a policy, the most frequent ones.
    """

    chase: ChaseCfg = field(default_factory=lambda: ChaseCfg(width=480, height=270))
    per_kind: int = 1
    kinds: int = 8


@dataclass
class Motion:
    """What one robot did, a row for every video frame (`gaussgym_learn.film.chase.Walk`)."""

    root_pos_w: list[NDArray[np.float64]]
    root_quat_wxyz: list[NDArray[np.float64]]
    joint_pos: list[NDArray[np.float64]]

    @classmethod
    def of(cls, rows: NDArray[Any]) -> Motion:
        """From `[T, 7 + J]`: base position, quaternion, joints."""
        rows = np.asarray(rows, np.float64)
        return cls(list(rows[:, :3]), list(rows[:, 3:7]), list(rows[:, 7:]))


def check_ffmpeg() -> None:
    """Raise an `InputError` where no film could be written."""
    if shutil.which("ffmpeg") is None:
        raise InputError(
            "ffmpeg was not found, it writes the videos; install it, or leave them out (--no-videos)"
        )


def has_splats(scene: Scene) -> bool:
    """Whether a scene can be looked at."""
    try:
        return len(scene.splats) > 0
    except InputError:
        return False


def own_view(scene: Scene, rows: NDArray[Any], robot: RobotCfg, cfg: EnvCfg) -> Images:
    """What a camera on a robot that has none would have seen: for policies that do not see."""
    from gaussgym_render import SplatRenderer

    count = len(rows)
    poses = camera_to_world(
        torch.from_numpy(np.asarray(rows[:, :3], np.float32)),
        torch.from_numpy(np.asarray(rows[:, 3:7], np.float32)),
        mount_pose(robot, cfg.camera).repeat(count, 1, 1),
    )
    renderer = SplatRenderer([scene.splats], cfg.camera.width, cfg.camera.height)
    ks = intrinsics(cfg.camera).repeat(count, 1, 1)
    frames = renderer.render(poses.double().numpy(), ks.double().numpy(), np.zeros(count, np.int64))
    return list(np.asarray(frames.rgb))


def coloured(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image `[H, W, C]` as RGB: depth in grey."""
    return image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2)


def film(
    path: Path,
    scene: Scene,
    rows: NDArray[Any],
    eye: Images,
    robot: RobotCfg,
    chase: ChaseCfg,
    rate_hz: float,
) -> Images:
    """Film a motion from behind with the robot's view in a corner; returns the pictures.

    Args:
        path: mp4 file.
        scene: the place.
        rows: `[T, 7 + J]`, one a picture.
        eye: the robot's view, one a picture.
        robot: which.
        chase: the camera behind it.
        rate_hz: pictures a second.
    """
    images = chase_images(scene, Motion.of(rows), robot, chase)
    write_video(
        path, [with_inset(image, coloured(view)) for image, view in zip(images, eye, strict=True)], rate_hz
    )
    return images


def strip(path: Path, images: Images, eye: Images) -> Path:
    """Some moments side by side, from behind and below by the robot, as JPEG."""
    from PIL import Image

    at = np.linspace(0, len(images) - 1, STRIP).round().astype(int)
    columns = []
    for index in at:
        outside = Image.fromarray(images[index]).resize((240, 135))
        view = Image.fromarray(np.ascontiguousarray(coloured(eye[index])))
        width, height = view.size
        scale = min(240 / width, 135 / height)
        inside = Image.new("RGB", (240, 135))
        inside.paste(view.resize((round(width * scale), round(height * scale)), Image.Resampling.NEAREST))
        columns.append(np.concatenate([np.asarray(outside), np.asarray(inside)]))
    Image.fromarray(np.concatenate(columns, axis=1)).save(path, quality=85)
    return path


def make_gallery(outcome: Outcome, folder: Path, cfg: GalleryCfg, *, videos: bool) -> list[dict[str, Any]]:
    """The failure gallery: for each policy and kind of failure the last seconds.

    Args:
        outcome: of the evaluation.
        folder: for films, strips and courses, made if missing.
        cfg: how to film.
        videos: whether to film; strips and courses are made in any case where the scene can be looked at.

    Returns:
        A row a failure: policy, kind, how many there are, what went wrong first, file names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for one in outcome.subjects:
        base = outcome.of(one.name)
        assert base is not None  # the plain condition is always run
        limits = normal_limits(base.peaks) if len(base.peaks) else None
        kinds, counts = np.unique(base.labels["kinds"], return_counts=True)
        order = [(str(kinds[i]), int(counts[i])) for i in np.argsort(-counts) if kinds[i] != "success"]
        for kind, count in order[: cfg.kinds]:
            shown = [f for f in base.failures if f.kind == kind and f.motion is not None][: cfg.per_kind]
            for number, failure in enumerate(shown):
                name = f"{one.name}_{kind.replace(' ', '_')}_{number}"
                row = _entry(outcome, one, failure, limits, folder / name, cfg, videos=videos)
                rows.append({"policy": one.name, "kind": kind, "count": count, **row})
    return rows


def _entry(
    outcome: Outcome,
    one: Subject,
    failure: Failure,
    limits: NDArray[Any] | None,
    stem: Path,
    cfg: GalleryCfg,
    *,
    videos: bool,
) -> dict[str, Any]:
    """Files and words of one failure."""
    row: dict[str, Any] = {"scene": outcome.scenes[failure.scene].name, "start": failure.start}
    cause: Cause | None = None
    if limits is not None:
        cause = first_wrong(failure, limits)
        row["first_wrong"] = cause.to_dict()
        course = draw_course(
            stem.with_suffix(".png"), failure.times_s, failure.quantities, limits, cause.name
        )
        row["course"] = course.name
    scene = outcome.scenes[failure.scene]
    if failure.motion is None or not has_splats(scene):
        return row
    robot, settings = (
        get_robot(outcome.cfg.robot),
        settings_for(one.runs[0], EnvCfg.for_task(outcome.cfg.task)),
    )
    keep, rate_hz = _video_rows(len(failure.motion), failure.period_s)
    motion = failure.motion[keep]
    if failure.frames is not None and failure.frame is not None:
        eye = [failure.frames[i] for i in failure.frame[keep]]
    else:
        eye = own_view(scene, motion, robot, settings)
    if videos:
        images = film(stem.with_suffix(".mp4"), scene, motion, eye, robot, cfg.chase, rate_hz)
        row["film"] = stem.with_suffix(".mp4").name
    else:
        at = np.linspace(0, len(motion) - 1, STRIP).round().astype(int)
        motion, eye = motion[at], [eye[i] for i in at]
        images = chase_images(scene, Motion.of(motion), robot, cfg.chase)
    row["strip"] = strip(stem.with_suffix(".jpg"), images, eye).name
    return row


def _video_rows(steps: int, period_s: float) -> tuple[NDArray[np.int64], float]:
    """Which of some steps become pictures, the last of all among them, and how many pictures a second these are."""
    every = max(1, round(1.0 / (FILM_HZ * period_s)))
    return np.arange((steps - 1) % every, steps, every), 1.0 / (every * period_s)


def make_films(outcome: Outcome, folder: Path, cfg: GalleryCfg) -> list[dict[str, Any]]:
    """One episode of each policy, with what the robot sees in a corner.

    Args:
        outcome: of the evaluation.
        folder: for the films, made if missing.
        cfg: how to film.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for one in outcome.subjects:
        path = outcome.films.get(one.name)
        if path is None:
            continue
        with np.load(path) as data:
            arrays = {name: data[name] for name in data.files}
        scene = outcome.scenes[int(arrays["scene"])]
        if not has_splats(scene):
            logger.warning("scene %s has no splats: no film of %s", scene.name, one.name)
            continue
        robot = get_robot(outcome.cfg.robot)
        settings = settings_for(one.runs[0], EnvCfg.for_task(outcome.cfg.task))
        whole = np.concatenate([arrays[k] for k in ("root_pos_w", "root_quat_wxyz", "joint_pos")], axis=1)
        period_s = float(arrays["control_dt_s"])
        keep, rate_hz = _video_rows(min(len(whole), round(FILM_S / period_s)), period_s)
        motion = whole[keep]
        if "rgb" in arrays:
            eye = [arrays["rgb"][i] for i in arrays["frame"][keep]]
        else:
            eye = own_view(scene, motion, robot, settings)
        film(folder / f"{one.name}.mp4", scene, motion, eye, robot, cfg.chase, rate_hz)
        rows.append(
            {
                "policy": one.name, "scene": scene.name, "file": f"{one.name}.mp4",
                "success": bool(arrays["success"]), "seconds": round(len(motion) / rate_hz, 2),
            }
        )  # fmt: skip
    return rows
