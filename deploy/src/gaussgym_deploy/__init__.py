"""Policy bundles, the safe runtime and robot links. Needs numpy and onnxruntime, nothing else."""

from __future__ import annotations

from . import links as links  # registers the links
from .bundle import BundleError, CameraSpec, ObservationTerm, PolicyBundle, Recurrence, write_bundle
from .robot_io import BenchRobot, JointCommand, LinkError, RobotIO, RobotState
from .runtime import RunReport, Runtime
from .shared_memory import EpisodeResult, ResetRequest, SharedMemoryRobot, SharedMemoryServer

__all__ = [
    "BenchRobot",
    "BundleError",
    "CameraSpec",
    "EpisodeResult",
    "JointCommand",
    "LinkError",
    "ObservationTerm",
    "PolicyBundle",
    "Recurrence",
    "ResetRequest",
    "RobotIO",
    "RobotState",
    "RunReport",
    "Runtime",
    "SharedMemoryRobot",
    "SharedMemoryServer",
    "write_bundle",
]
