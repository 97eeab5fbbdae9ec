"""A simulated robot in a process of its own: plain MuJoCo, a camera among the scene's splats, behind deploy's link."""

from gaussgym_learn.robot.plain_robot import PlainRobot
from gaussgym_learn.robot.serving import read_starts, serve_robot

__all__ = ["PlainRobot", "read_starts", "serve_robot"]
