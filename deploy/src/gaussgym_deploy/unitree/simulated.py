"""Starting a simulated robot behind DDS in a process of its own: the bench robot, or MuJoCo with a scene's splats."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

from ..bundle import PolicyBundle
from ..robot_io import JointCommand, LinkError, RobotState
from ..robot_process import robot_command
from ..simulated_robot import SimulatedRobotCfg
from .dds_link import DdsLink, DdsLinkCfg
from .remote import SIMULATED_REMOTE

__all__ = ["SimulatedDdsRobot", "bench_command", "free_domain", "open_simulated", "scene_command"]


def free_domain() -> int:
    """A DDS domain that is probably free: 2 ... 100 (higher ones reach into the ports that systems hand out)."""
    return random.SystemRandom().randint(2, 100)


def bench_command(
    domain: int, bundle: Optional[PolicyBundle] = None, camera: Optional[str] = None
) -> List[str]:
    """Command line of the bench robot on a domain of the loopback interface.

    Args:
        domain: DDS domain.
        bundle: Gives the size and rate of its camera.
        camera: Name of the shared memory for the camera's frames (a test card); None: no camera.
    """
    command = [sys.executable, "-m", "gaussgym_deploy.unitree.bench_server"]
    command += ["--domain", str(domain), "--until-orphaned"]
    if camera is None or bundle is None or bundle.camera is None:
        return command
    size = [str(bundle.camera.width), str(bundle.camera.height)]
    return [*command, "--camera", camera, "--camera-size", *size, "--camera-hz", str(bundle.camera_hz)]


def scene_command(
    domain: int,
    bundle: PolicyBundle,
    scene: Union[str, Path],
    camera: Optional[str],
    options: Optional[SimulatedRobotCfg] = None,
) -> List[str]:
    """Command line of the MuJoCo robot in a scene.

    Args:
        domain: DDS domain on the loopback interface.
        bundle: Gives robot and camera.
        scene: The scene's folder.
        camera: Name of the shared memory for the camera's frames; None: it does not look.
        options: Sensors, delays, ground, motors.

    Raises:
        LinkError: When ``gaussgym-learn`` is not installed.
    """
    command = robot_command(scene, camera or "", bundle, lockstep=False, options=options)
    return [*command, "--link", "dds", "--domain", str(domain), "--until-orphaned"]


class SimulatedDdsRobot:
    """A robot process, from its start to its end.

    Args:
        command: What to start; it prints ``ready`` when the robot is on DDS.
        timeout_s: How long that may take (a renderer may compile) [s].

    Raises:
        LinkError: When it ends before, or takes too long; the text ends with its last words.
    """

    def __init__(self, command: Sequence[str], *, timeout_s: float = 300.0) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (goes with this object)
        try:
            self.process = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=self._said, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise LinkError(f"cannot start the robot process {command[0]}: {error.strerror}") from None
        end_s = time.monotonic() + timeout_s
        while b"ready" not in self.said().split():
            if self.process.poll() is not None or time.monotonic() > end_s:
                self.close()
                lines = self.said().decode("utf-8", "replace").strip().splitlines()
                ended = "ended" if time.monotonic() <= end_s else f"was not ready within {timeout_s:g} s"
                raise LinkError(f"the robot process {ended}: {lines[-1] if lines else 'it said nothing'}")
            time.sleep(0.02)

    def said(self) -> bytes:
        """Everything it has printed so far."""
        # By position: the file's offset is the child's too.
        return os.pread(self._said.fileno(), 1 << 20, 0)

    def close(self) -> None:
        """End it; may be called twice."""
        self.process.terminate()
        try:
            self.process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class _Owned:
    """A DDS link together with the robot process that was started for it."""

    def __init__(self, link: DdsLink, robot: SimulatedDdsRobot) -> None:
        self._link, self._robot = link, robot

    def read(self) -> RobotState:
        """The newest state."""
        return self._link.read()

    def write(self, command: JointCommand) -> None:
        """Send a command."""
        self._link.write(command)

    def report(self) -> Dict[str, Any]:
        """What the link saw."""
        return self._link.report()

    def close(self) -> None:
        """Leave the domain and end the robot."""
        self._link.close()
        self._robot.close()


def open_simulated(
    bundle: PolicyBundle,
    *,
    domain: Optional[int] = None,
    scene: Optional[str] = None,
    camera: Optional[str] = None,
    interface: str = "lo",
    start_timeout_s: float = 30.0,
    **options: Any,
) -> Any:
    """The link ``dds-sim``.

    Args:
        bundle: The policy bundle.
        domain: DDS domain of a robot process that runs already; None starts one, which ends with the link.
        scene: Folder of the scene for a robot that is started here: MuJoCo instead of the bench robot.
        camera: Name of the shared memory for the frames of a robot that is started here.
        interface: Network interface of the running robot.
        start_timeout_s: How long to wait for the robot's first state [s].
        options: Fields of :class:`SimulatedRobotCfg`, as values or as text, of a MuJoCo robot that is started here.

    Raises:
        BundleError: For an option that cannot be simulated.
        LinkError: When there is no robot, or options for one that is not started here, or cyclonedds is missing or refused.
    """
    robot, simulated = None, SimulatedRobotCfg.from_text(options)
    if options and (domain is not None or scene is None):
        raise LinkError(
            f"option {next(iter(options))} is for a robot that is started in a scene: give scene=DIR, and no domain"
        )
    if domain is None:
        domain = free_domain()
        if scene is None:
            command = bench_command(domain, bundle, camera)
        else:
            command = scene_command(domain, bundle, scene, camera, simulated)
        robot = SimulatedDdsRobot(command)
    cfg = DdsLinkCfg(domain, interface, start_timeout_s=start_timeout_s, remote=SIMULATED_REMOTE)
    try:
        link = DdsLink(bundle.joint_names, cfg)
    except BaseException:
        if robot is not None:
            robot.close()
        raise
    return link if robot is None else _Owned(link, robot)
