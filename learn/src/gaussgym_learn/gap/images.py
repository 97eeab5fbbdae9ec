"""Recorded camera images against the scene's splats, rendered where the robot says that it was."""

from __future__ import annotations

import numpy as np
from gaussgym_deploy.bundle import CameraSpec
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import matrix_from_quat_wxyz
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray

from gaussgym_learn.gap.recording import Array, Recording


def poses_at(recording: Recording, times_s: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Base poses `[K, 4, 4]` at some times, and whether the recording covers them `[K]`."""
    assert recording.position_w is not None
    t_s = recording.t_s
    before = np.clip(np.searchsorted(t_s, times_s, side="right") - 1, 0, len(t_s) - 2)
    share = (times_s - t_s[before]) / (t_s[before + 1] - t_s[before])
    inside = (share >= -1e-6) & (share <= 1 + 1e-6) & (recording.piece[before] == recording.piece[before + 1])
    share = np.clip(share, 0.0, 1.0)[:, None]
    q0, q1 = recording.quat_wxyz[before], recording.quat_wxyz[before + 1]
    q1 = np.where((q0 * q1).sum(axis=1, keepdims=True) < 0, -q1, q1)
    pose = np.tile(np.eye(4), (len(times_s), 1, 1))
    pose[:, :3, :3] = matrix_from_quat_wxyz((1 - share) * q0 + share * q1)  # 20 ms apart: a chord is an arc
    pose[:, :3, 3] = (1 - share) * recording.position_w[before] + share * recording.position_w[before + 1]
    return pose, inside


def image_pairs(
    recording: Recording, scene: Scene, camera: CameraSpec, *, count: int = 24, renderer: str = "auto"
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Recorded images and the scene rendered from the same places, both `[K, H, W, 3]`.

    Args:
        recording: with images and odometry.
        scene: what is rendered.
        camera: intrinsics and mount.
        count: at most so many images, spread evenly.
        renderer: backend of the splat renderer.

    Raises:
        InputError: the camera's size is not that of the images, or odometry covers none of them.
    """
    from gaussgym_render import SplatRenderer

    assert recording.rgb is not None
    height, width = recording.rgb.shape[1:3]
    if (width, height) != (camera.width, camera.height):
        raise InputError(
            f"{recording.path}: images of {width}x{height} px, the camera has {camera.width}x{camera.height} px; name the"
            " policy bundle (--bundle) or the calibration (--camera) that they belong to"
        )
    poses, inside = poses_at(recording, recording.rgb_t_s)
    rows = np.flatnonzero(inside)
    if len(rows) == 0:
        raise InputError(f"{recording.path}: no image was taken while odometry was recorded")
    rows = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]
    mount = np.eye(4)
    mount[:3, :3], mount[:3, 3] = matrix_from_quat_wxyz(np.array(camera.quat_b_c_wxyz)), camera.position_b_m
    k = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1.0]])
    splats = SplatRenderer([scene.splats], width, height, backend=renderer)
    frames = splats.render(
        poses[rows] @ mount, np.tile(k, (len(rows), 1, 1)), np.zeros(len(rows), dtype=np.int64)
    )
    return recording.rgb[rows], np.asarray(frames.rgb)
