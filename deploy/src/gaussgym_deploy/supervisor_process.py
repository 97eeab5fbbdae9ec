"""The supervisor in a process of its own, and the runtime's link through it.

:class:`SupervisedRobot` starts ``python -m gaussgym_deploy.supervisor_process`` in a session of its own, so that what ends the
runtime (Ctrl-C of its terminal, a kill of its process group, a stop, a crash) does not reach it. That process alone opens the
robot's link and writes commands; runtime and supervisor speak over :mod:`gaussgym_deploy.shared_memory`.

=========================================  ==============================================================================
what happens                               what follows
=========================================  ==============================================================================
runtime ends normally                      damping for ``final_damp_s``, then the link closes, exit status 0
runtime is killed                          damping within 10 ms, for ``hold_s``, then the link closes, exit status 3
runtime hangs or is stopped                damping within 2 control periods, latched, as long as the runtime lives, at most
                                           ``hold_s`` after its last command; a runtime that wakes up learns of it
runtime sends what must not be sent        the same, from the next step on
robot's state stands still, link raises    the same
SIGTERM or SIGINT to the supervisor        damping for ``final_damp_s``, then the link closes, exit status 3
supervisor is killed                       the runtime notices in its next control step and ends with exit status 2;
                                           nobody writes any more, and the robot's own time-out is the last line of defence
=========================================  ==============================================================================
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

import numpy as np

from .bundle import BundleError, PolicyBundle
from .guards import Fault, GuardLimits
from .log import RunLog
from .processes import end, last_line, last_words, new_name
from .robot_io import JointCommand, LinkError, RobotState, SupervisorGone, open_robot
from .scheduler import SUPERVISOR_PRIORITY, FixedRate, be_prompt
from .shared_memory import ResetRequest, SharedMemoryRobot, SharedMemoryServer
from .supervisor import Supervisor, SupervisorCfg

__all__ = ["SupervisedRobot"]

EXIT_BAD_INPUT, EXIT_FAULT = 2, 3
LIVENESS_S = 0.005


class SupervisedRobot:
    """A robot link whose only writer is a supervisor process; a :class:`~gaussgym_deploy.robot_io.RobotIO`.

    Args:
        robot: Name of the link, see :func:`~gaussgym_deploy.robot_io.open_robot`.
        bundle: The policy bundle that will drive it.
        options: Of that link; plain JSON.
        limits: Thresholds; default: the bundle's.
        cfg: How the supervisor watches.
        start_timeout_s: How long it may take to open the link [s].
        log: File of JSON lines for the supervisor's own word, which must be there when the runtime is not: its fault, its end.

    Attributes:
        pid: Process id of the supervisor.

    Raises:
        LinkError: When the link does not open; the text is the link's.
    """

    def __init__(
        self,
        robot: str,
        bundle: PolicyBundle,
        *,
        options: Optional[Dict[str, Any]] = None,
        limits: Optional[GuardLimits] = None,
        cfg: Optional[SupervisorCfg] = None,
        start_timeout_s: float = 60.0,
        log: Union[str, Path, None] = None,
    ) -> None:
        self._cfg = cfg or SupervisorCfg()
        name = new_name()
        task = {
            "name": name,
            "bundle": str(bundle.path),
            "robot": robot,
            "options": options or {},
            "limits": None if limits is None else asdict(limits),
            "cfg": asdict(self._cfg),
            "log": None if log is None else str(log),
        }
        command = [sys.executable, "-m", "gaussgym_deploy.supervisor_process", json.dumps(task)]
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 (a file, not a pipe: it must be able to write when we are dead)
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._words, stderr=self._words, start_new_session=True
        )
        self.pid = self._process.pid
        try:
            self._link = SharedMemoryRobot(
                name,
                timeout_s=start_timeout_s,
                answer_timeout_s=5.0,
                alive=lambda: self._process.poll() is None,
            )
        except BaseException as error:
            end(self._process, patience_s=0.5)
            line = last_line(self._words)
            self._words.close()
            if isinstance(error, LinkError) and line:
                raise LinkError(line[len("error: ") :] if line.startswith("error: ") else line) from None
            raise

    def read(self) -> RobotState:
        """The newest state that the supervisor handed on.

        Raises:
            SupervisorGone: When the supervisor is dead.
            LinkError: When no state came in time at first.
        """
        try:
            return self._link.read()
        except LinkError:
            if self._link.robot_gone:
                raise self._gone() from None
            raise

    def write(self, command: JointCommand) -> None:
        """Hand a command to the supervisor.

        Raises:
            SupervisorGone: When it is dead.
        """
        try:
            self._link.write(command)
        except LinkError:
            raise self._gone() from None

    @property
    def forward_s(self) -> float:
        """How long the last command took from here until it left for the robot [s]."""
        return self._link.forward_s

    def close(self) -> None:
        """End normally: the supervisor damps for ``final_damp_s`` and ends; may be called twice."""
        self._link.close()
        if not self._words.closed:
            end(self._process, patience_s=self._cfg.final_damp_s + 3.0)
            self._words.close()

    def __enter__(self) -> SupervisedRobot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _gone(self) -> SupervisorGone:
        words = "" if self._words.closed else last_words(self._process, self._words)
        return SupervisorGone(f"the supervisor process is gone{words}; the robot is left to its own time-out")


class RuntimeWire:
    """The supervisor's end of the shared memory (a :class:`~gaussgym_deploy.supervisor.RuntimeEnd`).

    Args:
        server: The link to the runtime.
    """

    def __init__(self, server: SharedMemoryServer) -> None:
        self._server = server
        self._gone, self._asked_s = False, -np.inf

    def latest_command(self) -> Optional[JointCommand]:
        """The newest command that was not taken yet; a reset, which robots do not know, is none."""
        request = self._server.latest_request()
        if request is None or isinstance(request, ResetRequest):
            return None
        self._server.forward_s = time.monotonic() - self._server.request_sent_s
        return request

    def publish(self, state: RobotState) -> None:
        """Hand on a state, also one whose image has another size than the policy's."""
        self._server.publish(state, strict_image=False)

    @property
    def runtime_closed(self) -> bool:
        """Whether the runtime ended normally."""
        return self._server.runtime_closed

    @property
    def runtime_gone(self) -> bool:
        """Whether the runtime ended; asked of the system every 5 ms at most."""
        now_s = time.monotonic()
        if not self._gone and now_s - self._asked_s > LIVENESS_S:
            self._asked_s = now_s
            self._gone = self._server.runtime_gone
        return self._gone


def supervise(task: Dict[str, Any]) -> int:
    """Open the robot, serve the runtime, damp when something is wrong, let go.

    Args:
        task: What :class:`SupervisedRobot` hands over: ``name``, ``bundle``, ``robot``, ``options``, ``limits``, ``cfg``,
            ``log``.

    Returns:
        Exit status: 0, or 3 after a fault.

    Raises:
        BundleError: When the bundle does not fit.
        LinkError: When the link does not open or no runtime comes.
    """
    told: List[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: told.append(number))
    cfg = SupervisorCfg(**task["cfg"])
    bundle = PolicyBundle.load(Path(task["bundle"]))
    limits = None if task["limits"] is None else GuardLimits(**task["limits"])
    robot = open_robot(task["robot"], bundle, dry_run=cfg.dry_run, **task["options"])
    try:
        camera = bundle.camera
        with SharedMemoryServer(
            task["name"],
            robot=bundle.robot,
            joint_names=bundle.joint_names,
            control_dt_s=bundle.control_dt_s,
            camera_size_wh=None if camera is None else (camera.width, camera.height),
            lockstep=False,
            info={"link": task["robot"], "real_time": be_prompt(SUPERVISOR_PRIORITY)},
        ) as server:
            server.wait_for_runtime(timeout_s=cfg.attach_timeout_s)
            supervisor = Supervisor(bundle, robot, RuntimeWire(server), limits=limits, cfg=cfg)
            loop(supervisor, told, RunLog(task["log"]))
    finally:
        robot.close()
    if supervisor.fault is None:
        return 0
    print(f"error: {supervisor.fault}", file=sys.stderr)
    return EXIT_FAULT


def loop(supervisor: Supervisor, told: List[int], log: RunLog) -> None:
    """Step at the supervisor's rate until it is finished, or told to end and has damped for long enough.

    Args:
        supervisor: The supervisor.
        told: Signals received; filled from outside.
        log: Gets the fault, as soon as it is latched, and the end; closed here.
    """
    rate = FixedRate(1.0 / supervisor.cfg.rate_hz)
    end_s, said = float("inf"), False
    now_s = time.monotonic()
    while not supervisor.finished and now_s < end_s:
        rate.wait()
        now_s = time.monotonic()
        if told and end_s == float("inf"):
            supervisor.trip(Fault("ended", f"told to end by {signal.Signals(told[0]).name}"))
            end_s = now_s + supervisor.cfg.final_damp_s
        supervisor.step(now_s)
        if supervisor.fault is not None and not said:
            said = True
            log.write("fault", t_s=now_s, kind=supervisor.fault.kind, detail=supervisor.fault.detail)
    log.write("end", t_s=now_s, forwarded=supervisor.forwarded, write_errors=supervisor.write_errors)
    log.close()


def main() -> None:
    """Entry point of the process."""
    try:
        status = supervise(json.loads(sys.argv[1]))
    except (BundleError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        status = EXIT_BAD_INPUT
    raise SystemExit(status)


if __name__ == "__main__":
    main()
