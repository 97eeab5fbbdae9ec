"""Batched multi-scene Gaussian-splat rendering."""

from gaussgym_render.renderer import Frames, SplatRenderer, available_backends, register_backend
from gaussgym_render.robot_camera import RobotCamera, RobotCameraCfg, make_robot_camera

__all__ = [
    "Frames",
    "RobotCamera",
    "RobotCameraCfg",
    "SplatRenderer",
    "available_backends",
    "make_robot_camera",
    "register_backend",
]
