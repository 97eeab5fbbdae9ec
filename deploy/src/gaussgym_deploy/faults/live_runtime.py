"""A runtime for one trial after the other, in real time: ``python -m gaussgym_deploy.faults.live_runtime``.

Speaks JSON lines: a trial in; ``{"supervisor": PID}``, ``{"start_s": ...}``, ``{"ready": true}``, ``{"over": true}`` and
``{"outcome": ...}`` out. Times are ``time.monotonic()``, which all processes of a machine share.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Tuple

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

from ..bundle import PolicyBundle
from ..camera import CameraThread
from ..robot_io import RobotIO
from ..scheduler import RUNTIME_PRIORITY, be_prompt
from ..shared_memory import SharedMemoryRobot
from ..states import Mode
from ..supervisor_process import SupervisedRobot
from .actors import ScriptedCamera
from .conductor import Conductor
from .injection import Injection
from .live_supervisor import BRIEF
from .table import KINDS


def say(**values: Any) -> None:
    """One line to the campaign."""
    print(json.dumps(values), flush=True)


def misbehave(injection: Injection) -> None:
    """What the process does to itself when the fault begins; tells the campaign that it is about to."""
    say(ready=True)
    actions = {
        "runtime_busy": lambda: hold_interpreter(0.3),
        "runtime_busy_once": lambda: hold_interpreter(0.015),
        "runtime_crashes": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    }
    action = actions.get(injection.kind.name)
    if action is not None:
        delay_s = max(0.0, injection.start_s - time.monotonic())
        threading.Timer(delay_s, action).start()


def hold_interpreter(seconds: float) -> None:
    """Sleep without letting any other thread of this process run Python."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def open_link(trial: Dict[str, Any], bundle: PolicyBundle) -> RobotIO:
    """The way to the robot: through a supervisor that waits already, or one of its own (then waits for a line)."""
    if "shm" in trial:
        return SharedMemoryRobot(trial["shm"], timeout_s=10.0, answer_timeout_s=5.0)
    link = SupervisedRobot(
        trial["robot"], bundle, options=trial["options"], cfg=BRIEF, start_timeout_s=20.0, log=trial["log"]
    )
    say(supervisor=link.pid)
    sys.stdin.readline()  # the campaign puts the robot on its feet now that somebody can hold it there
    return link


def make(bundle: PolicyBundle, own_camera: bool) -> Tuple[Conductor, Any]:
    """The runtime, and its camera where the link carries no images."""
    camera = (
        ScriptedCamera(bundle.camera, bundle.camera_hz) if own_camera and bundle.camera is not None else None
    )
    thread = None if camera is None else CameraThread(camera).start()
    conductor = Conductor(bundle, clock=time.monotonic, sleep=time.sleep, camera=thread)
    conductor.misbehave = misbehave
    return conductor, camera


def main() -> None:
    """Run trials until the input ends."""
    if resource is not None:
        resource.setrlimit(
            resource.RLIMIT_CORE, (0, 0)
        )  # a crash on purpose must not write its memory to the disk
    task = json.loads(sys.argv[1])
    bundle = PolicyBundle.load(Path(task["bundle"]))
    conductor, camera = make(bundle, task["camera"])
    be_prompt(RUNTIME_PRIORITY)  # as gaussgym-deploy run does
    say(up=True)
    for line in sys.stdin:
        trial = json.loads(line)
        injection = Injection(KINDS[trial["kind"]], bundle, joint=trial["joint"], sign=trial["sign"])
        link = open_link(trial, bundle)
        if camera is not None:
            camera.injection = injection
        link.read()  # the first state is there

        def over() -> None:
            if camera is not None:
                camera.injection = None
            say(over=True)

        outcome = conductor.conduct(
            link, injection, Mode(trial["mode"]), delay=trial["delay"], began=lambda start_s: say(start_s=start_s), over=over
        )  # fmt: skip
        if camera is not None:
            camera.injection = None
        say(outcome=outcome.to_dict())
        link.close()


if __name__ == "__main__":
    main()
