"""A robot in a process of its own: started as a command, spoken to over shared memory, ended with the link.

The command is ``gaussgym-learn robot`` (plain MuJoCo, a camera among the scene's splats); this package imports none of it.
"""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from .bundle import BundleError, PolicyBundle
from .processes import end, last_words, new_name
from .robot_io import JointCommand, LinkError, RobotIO, RobotState
from .shared_memory import LinkDescription, SharedMemoryRobot
from .simulated_robot import SimulatedRobotCfg

__all__ = ["RobotProcess", "check_robot", "named_options", "open_sim", "robot_command"]

START_TIMEOUT_S = 300.0
"""How long the process may take to come up (it may compile a renderer) [s]."""


class RobotProcess:
    """Starts a robot process and attaches to it; leaving the context ends it.

    Args:
        command: The process; it must serve under ``name``.
        name: Name of the shared memory, see :func:`gaussgym_deploy.processes.new_name`.
        start_timeout_s: [s].
        patience_s: How long it may take to end by itself once the link is closed [s].

    Attributes:
        robot: The link.

    Raises:
        LinkError: When the process does not come up; the text ends with its last words.
    """

    def __init__(
        self,
        command: Sequence[str],
        name: str,
        *,
        start_timeout_s: float = START_TIMEOUT_S,
        patience_s: float = 5.0,
    ) -> None:
        self._patience_s = patience_s
        self._words = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=self._words, stderr=self._words
            )
        except OSError as error:
            self._words.close()
            raise LinkError(f"cannot start the robot process {command[0]}: {error.strerror}") from None
        try:
            self.robot = SharedMemoryRobot(
                name, timeout_s=start_timeout_s, alive=lambda: self._process.poll() is None
            )
        except LinkError as error:
            explained = self.explain(error)
            self._end()
            raise explained from None
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> RobotProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the link and end the process; may be called twice."""
        self.robot.close()
        self._end()

    def explain(self, error: LinkError) -> LinkError:
        """The same error with the exit status and the last words of a process that ended by itself."""
        return LinkError(f"{error}{last_words(self._process, self._words)}")

    def _end(self) -> None:
        if not self._words.closed:
            end(self._process, patience_s=self._patience_s)
            self._words.close()


class SimulatedRobot:
    """The link ``sim``: a robot process that runs freely, in real time, until the link is closed.

    Args:
        process: Running, with an endless episode.
        start: Row of its starts.
    """

    def __init__(self, process: RobotProcess, start: int) -> None:
        self._process = process
        process.robot.reset(start)

    def read(self) -> RobotState:
        """See :class:`RobotIO`."""
        try:
            return self._process.robot.read()
        except LinkError as error:
            raise self._process.explain(error) from None

    def write(self, command: JointCommand) -> None:
        """See :class:`RobotIO`."""
        self._process.robot.write(command)

    def close(self) -> None:
        """See :class:`RobotIO`."""
        self._process.close()


def open_sim(
    bundle: PolicyBundle,
    *,
    scene: Union[str, Path, None] = None,
    start: int = 0,
    renderer: Optional[str] = None,
    start_timeout_s: float = START_TIMEOUT_S,
    **options: Any,
) -> RobotIO:
    """Open the link ``sim``: a simulated robot that stands in a scene and falls limp until it is commanded.

    Args:
        bundle: Gives robot and camera.
        scene: Folder of the scene; needed.
        start: Row of the evaluation's starts in this scene.
        renderer: Backend of the camera.
        start_timeout_s: How long the process may take to come up [s].
        options: Fields of :class:`SimulatedRobotCfg`, as values or as text.

    Raises:
        LinkError: When the process does not come up.
        BundleError: When robot and bundle do not fit, or for an option that cannot be simulated.
    """
    if scene is None:
        raise LinkError("robot link 'sim' needs a scene; give it as the option scene=DIR")
    if not Path(scene).exists():
        raise BundleError(f"{scene}: not found")
    name, cfg = new_name(), SimulatedRobotCfg.from_text(options)
    command = [*robot_command(scene, name, bundle, lockstep=False, options=cfg), "--endless"]
    if renderer is not None:
        command += ["--renderer", renderer]
    process = RobotProcess(command, name, start_timeout_s=float(start_timeout_s))
    try:
        check_robot(bundle, process.robot.description, episodes=int(start) + 1)
        return SimulatedRobot(process, int(start))
    except BaseException:
        process.close()
        raise


def named_options(function: Any) -> inspect.Signature:
    """A signature in which ``**options`` stand out by name (fields of :class:`SimulatedRobotCfg`), for who lists a link's."""
    own = list(inspect.signature(function).parameters.values())[:-1]
    more = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
        for field in fields(SimulatedRobotCfg)
    ]
    return inspect.Signature(own + more)


open_sim.__signature__ = named_options(open_sim)  # type: ignore[attr-defined]


def check_robot(bundle: PolicyBundle, description: LinkDescription, *, episodes: int = 0) -> None:
    """Refuse a robot process that the policy was not trained for.

    Args:
        bundle: The policy.
        description: What the robot process says of itself.
        episodes: Number of starts that will be asked for.

    Raises:
        BundleError: Naming the first thing that does not fit.
    """
    camera = bundle.camera
    pairs: List[Tuple[str, Any, Any]] = [
        ("robot", description.robot, bundle.robot),
        ("joint order", list(description.joint_names), list(bundle.joint_names)),
    ]
    if camera is not None:
        size = None if description.camera_size_wh is None else list(description.camera_size_wh)
        pairs.append(("camera image", size, [camera.width, camera.height]))
    for what, found, expected in pairs:
        if found != expected:
            raise BundleError(
                f"the robot process has {what} {found}, the bundle {bundle.path} expects {expected}"
            )
    if abs(description.control_dt_s - bundle.control_dt_s) > 1e-6:
        raise BundleError(
            f"the robot process has a control period of {description.control_dt_s:g} s,"
            f" the bundle {bundle.path} expects {bundle.control_dt_s:g} s"
        )
    if 0 < description.num_starts < episodes:
        raise BundleError(
            f"{episodes} episodes asked for, but there are only {description.num_starts} starts"
        )


def learn_program() -> str:
    """The program ``gaussgym-learn``, from beside this Python or from the PATH.

    Raises:
        LinkError: When it is not installed.
    """
    beside = Path(sys.executable).parent / "gaussgym-learn"
    program = str(beside) if beside.is_file() else shutil.which("gaussgym-learn")
    if program is None:
        raise LinkError(
            "the command gaussgym-learn is not installed here; it is needed to simulate the robot"
        )
    return program


def robot_command(
    scene: Union[str, Path],
    name: str,
    bundle: PolicyBundle,
    *,
    lockstep: bool,
    starts: Optional[Path] = None,
    options: Optional[SimulatedRobotCfg] = None,
    files: Optional[Dict[str, Path]] = None,
) -> List[str]:
    """The command line of the simulated robot: ``gaussgym-learn robot``.

    Args:
        scene: The scene's folder.
        name: Name of the shared memory.
        bundle: Gives robot and camera; its folder is handed over.
        lockstep: Whether physics waits for commands.
        starts: File of starts.
        options: Sensors, delays, ground, motors.
        files: What it shall write, by option (``episodes-out``, ``paths-out``, ``film``).

    Raises:
        LinkError: When the command is not installed.
    """
    command = [learn_program(), "robot", "--scene", str(scene), "--shm", name, "--bundle", str(bundle.path)]
    command += ["--lockstep"] if lockstep else ["--no-lockstep"]
    command += [] if options is None else options.arguments()
    for option, path in (files or {}).items():
        command += ["--" + option, str(path)]
    return command if starts is None else [*command, "--starts", str(starts)]
