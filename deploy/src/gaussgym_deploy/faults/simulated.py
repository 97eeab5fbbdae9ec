"""The simulated robot of a campaign: a process in lockstep."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from ..bundle import PolicyBundle
from ..processes import end, last_words, new_name
from ..robot_io import LinkError
from ..shared_memory import SharedMemoryRobot
from ..sim2sim import check_robot, robot_command
from ..simulated_robot import SimulatedRobotCfg

__all__ = ["RobotProcess"]


class RobotProcess:
    """A ``gaussgym-learn robot`` process in lockstep and the link to it.

    Args:
        bundle: Robot and camera.
        scene: Folder of the scene.
        start_timeout_s: How long it may take to come up [s].

    Raises:
        LinkError: When it does not come up; the text ends with its last words.
    """

    def __init__(self, bundle: PolicyBundle, scene: Path, *, start_timeout_s: float = 300.0) -> None:
        name = new_name()
        command = robot_command(scene, name, bundle, lockstep=True, starts=None)
        command += SimulatedRobotCfg(noise=1.0).arguments()  # sensors as noisy as in training
        self._words = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._words, stderr=self._words
            )
        except OSError as error:
            raise LinkError(f"cannot start the robot process {command[0]}: {error.strerror}") from None
        try:
            self.link = SharedMemoryRobot(
                name, timeout_s=start_timeout_s, alive=lambda: self._process.poll() is None
            )
            check_robot(bundle, self.link.description)
        except LinkError as error:
            text = last_words(self._process, self._words)
            end(self._process)
            raise LinkError(f"{error}{text}") from None

    def close(self) -> None:
        """Close the link, which ends the process."""
        self.link.close()
        end(self._process)
        self._words.close()
