"""A film of one episode of the plain robot: third person, with what its camera sees in a corner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray

from gaussgym_learn.film.chase import FRAME_EVERY, ChaseCfg, chase_images, with_inset, write_video
from gaussgym_learn.robot.plain_robot import PlainRobot


class RobotFilm:
    """Keeps where the robot was during its first episode; `write` renders it.

    Args:
        path: mp4 file to write.
        cfg: the chase camera.
    """

    def __init__(self, path: Path, cfg: ChaseCfg | None = None) -> None:
        self.path, self.cfg = path, cfg or ChaseCfg()
        self.root_pos_w: list[NDArray[np.float64]] = []
        self.root_quat_wxyz: list[NDArray[np.float64]] = []
        self.joint_pos: list[NDArray[np.float64]] = []
        self._eye: list[NDArray[np.uint8]] = []
        self._number: int | None = None
        self._next_s = 0.0

    def add(self, robot: PlainRobot) -> None:
        """Keep the robot's pose if a video frame is due; of the first episode only."""
        number, time_s = robot.tally.number, robot.time_s
        if self._number is None:
            self._number, self._next_s = number, time_s
        if number != self._number or time_s < self._next_s - 1e-9:
            return
        self._next_s += FRAME_EVERY * robot.cfg.control_s
        position, quat, joints = robot.pose()
        self.root_pos_w.append(position)
        self.root_quat_wxyz.append(quat)
        self.joint_pos.append(joints)
        if robot.state.rgb is not None:
            self._eye.append(robot.state.rgb.copy())

    def write(self, scene: Scene, robot: PlainRobot) -> Path | None:
        """Render and encode; None where nothing was kept.

        Raises:
            InputError: ffmpeg is missing or fails.
        """
        if not self.root_pos_w:
            return None
        images = chase_images(scene, self, robot.robot, self.cfg)
        if self._eye:
            shown = [with_inset(image, eye) for image, eye in zip(images, self._eye, strict=False)]
            images = shown + images[len(shown) :]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return write_video(self.path, images, 1.0 / (FRAME_EVERY * robot.cfg.control_s))
