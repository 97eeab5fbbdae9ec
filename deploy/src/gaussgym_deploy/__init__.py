"""Policy bundles, the safe runtime and robot links. Needs numpy and onnxruntime, nothing else."""

from __future__ import annotations

from .robot_io import BenchRobot, JointCommand, LinkError, RobotIO, RobotState
from .shared_memory import EpisodeResult, ResetRequest, SharedMemoryRobot, SharedMemoryServer

__all__ = [
    "BenchRobot",
    "EpisodeResult",
    "JointCommand",
    "LinkError",
    "ResetRequest",
    "RobotIO",
    "RobotState",
    "SharedMemoryRobot",
    "SharedMemoryServer",
]
