"""The camera that follows a robot through a place, and the video file."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray

FRAME_EVERY = 2
"""Control steps a video frame: 25 frames/s at 50 Hz."""
SKY = (0.78, 0.85, 0.92)
INSET = 0.3
"""Width of the robot camera's picture, as a share of the whole."""
MARGIN_PX = 8

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ChaseCfg:
    """Picture and place of the camera that follows the robot."""

    width: int = 640
    """Width of the chase camera's image [px]."""
    height: int = 360
    """Height of the chase camera's image [px]."""
    field_of_view_deg: float = 62.0
    """Horizontal field of view of the chase camera [deg]."""
    behind_m: float = 1.5
    """Distance of the chase camera behind the robot [m]."""
    beside_m: float = 0.55
    """Distance of the chase camera to the right of the robot [m]."""
    above_m: float = 0.65
    """Height of the chase camera over the robot's base [m]."""


class Walk(Protocol):
    """What one robot did, a row for every video frame."""

    root_pos_w: list[Floats]
    root_quat_wxyz: list[Floats]
    joint_pos: list[Floats]


def chase_images(scene: Scene, episode: Walk, robot: Any, cfg: ChaseCfg) -> list[NDArray[np.uint8]]:
    """Render the place, with the robot in it, from a camera that follows it.

    Args:
        scene: The place; its heightfield keeps the camera above ground.
        episode: What the robot did.
        robot: `gaussgym_sim.robot.RobotCfg`.
        cfg: How to film.
    """
    from gaussgym_learn.film.robot_drawing import ThirdPerson

    positions, quats = np.array(episode.root_pos_w), np.array(episode.root_quat_wxyz)
    poses = chase_poses(positions, quats, scene.heightfield, cfg)
    focal = cfg.width / 2 / np.tan(np.radians(cfg.field_of_view_deg) / 2)
    intrinsics = np.array([[focal, 0, cfg.width / 2], [0, focal, cfg.height / 2], [0, 0, 1.0]])
    chase = ThirdPerson(scene.splats, robot, cfg.width, cfg.height, background=SKY)
    ground = scene.heightfield.sample(positions[:, :2])
    return [
        chase.picture(pose, intrinsics, *state, ground_z_m=float(z))
        for pose, z, *state in zip(poses, ground, positions, quats, episode.joint_pos)
    ]


def chase_poses(positions: Floats, quats_wxyz: Floats, ground: Heightfield, cfg: ChaseCfg) -> Floats:
    """Camera poses `[T, 4, 4]` that follow a robot smoothly from behind, never below 0.3 m over the ground.

    Args:
        positions: Base [m], `[T, 3]`.
        quats_wxyz: Base orientation, `[T, 4]`.
        ground: Keeps the camera above it.
        cfg: Distances.
    """
    w, x, y, z = quats_wxyz.T
    yaw = np.unwrap(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))
    yaw, centre = slow(yaw[:, None], 0.04)[:, 0], slow(positions, 0.15)
    ahead = np.stack([np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)], axis=1)
    right = np.stack([np.sin(yaw), -np.cos(yaw), np.zeros_like(yaw)], axis=1)
    eyes = centre - cfg.behind_m * ahead + cfg.beside_m * right + [0, 0, cfg.above_m]
    eyes[:, 2] = np.maximum(eyes[:, 2], slow(ground.sample(eyes[:, :2])[:, None], 0.1)[:, 0] + 0.3)
    return np.stack([look_at(eye, target) for eye, target in zip(eyes, centre + 0.35 * ahead)])


def slow(values: Floats, rate: float) -> Floats:
    """Follow `values` `[T, D]` with an exponential filter, forwards and backwards so that nothing lags."""
    for direction in (1, -1):
        filtered = values[::direction].copy()
        for index in range(1, len(filtered)):
            filtered[index] = filtered[index - 1] + rate * (filtered[index] - filtered[index - 1])
        values = filtered[::direction]
    return values


def look_at(eye: Floats, target: Floats) -> Floats:
    """Camera-to-world pose `[4, 4]` (OpenCV) at `eye` towards `target`, horizon level."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def enlarged(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Repeat pixels so that the image is about `width` wide, with even sides as video wants them."""
    factor = max(2, round(width / image.shape[1] / 2) * 2)
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def with_inset(image: NDArray[np.uint8], eye: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture `[H, W, 3]` with what the robot sees `[h, w, 3]` in its upper right corner; pixels are repeated or left out."""
    target = round(INSET * image.shape[1])
    every = -(-eye.shape[1] // target)
    inset = enlarged(eye, target) if 2 * eye.shape[1] <= 1.5 * target else eye[::every, ::every]
    height, width = inset.shape[:2]
    image = image.copy()
    image[MARGIN_PX : MARGIN_PX + height, -MARGIN_PX - width : -MARGIN_PX] = inset
    return image


def write_video(path: Path, images: Sequence[NDArray[np.uint8]], frames_per_s: float) -> Path:
    """Encode images `[H, W, 3]` as H.264, playable in browsers while it loads.

    Raises:
        InputError: If ffmpeg is not there or fails; the text holds its last line.
    """
    height, width = images[0].shape[:2]
    words = ["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    words += [
        "-s",
        f"{width}x{height}",
        "-r",
        f"{frames_per_s:g}",
        "-i",
        "-",
        "-c:v",
        "libx264",
        "-crf",
        "24",
    ]
    words += ["-preset", "veryfast", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path)]
    try:
        encoder = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise InputError(
            "ffmpeg was not found, it writes the videos; install it (gaussgym doctor says how)"
        ) from None
    assert encoder.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it gave up; its message follows
        for image in images:
            encoder.stdin.write(np.ascontiguousarray(image).tobytes())
    lines = encoder.communicate()[1].decode(errors="replace").strip().splitlines()
    if encoder.returncode != 0:
        raise InputError(f"{path}: ffmpeg could not write the video ({lines[-1] if lines else 'no message'})")
    return path
