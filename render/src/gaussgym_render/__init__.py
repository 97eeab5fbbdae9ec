"""Batched multi-scene Gaussian-splat rendering."""

from gaussgym_render.backends import available_backends, register_backend
from gaussgym_render.frames import Frames
from gaussgym_render.objects import Instances, ObjectSet, build_objects
from gaussgym_render.renderer import SplatRenderer
from gaussgym_render.robot_camera import RobotCamera, RobotCameraCfg, make_robot_camera

__all__ = [
    "Frames",
    "Instances",
    "ObjectSet",
    "RobotCamera",
    "RobotCameraCfg",
    "SplatRenderer",
    "available_backends",
    "build_objects",
    "make_robot_camera",
    "register_backend",
]
