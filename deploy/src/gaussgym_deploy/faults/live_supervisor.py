"""A supervisor for one trial after the other, on a link that stays open: ``python -m gaussgym_deploy.faults.live_supervisor``.

What watches, checks, damps and forwards is :mod:`gaussgym_deploy.supervisor` and the loop of
:mod:`gaussgym_deploy.supervisor_process`, anew in every trial; only the process around it is another one, since a supervisor
never takes commands again after a fault. Speaks JSON lines: ``{"shm": NAME}`` in, ``{"fault": ..., "exception": ...}`` out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, Optional

from ..bundle import PolicyBundle
from ..log import RunLog
from ..robot_io import RobotIO, open_robot
from ..scheduler import SUPERVISOR_PRIORITY, be_prompt
from ..shared_memory import SharedMemoryServer
from ..supervisor import Supervisor, SupervisorCfg
from ..supervisor_process import RuntimeWire, loop

__all__ = ["BRIEF"]

BRIEF = SupervisorCfg(final_damp_s=0.05, hold_s=0.5, attach_timeout_s=10.0)
"""It lets go soon after a runtime's end."""


def supervise_trial(bundle: PolicyBundle, robot: RobotIO, name: str) -> Dict[str, Any]:
    """Serve one runtime.

    Args:
        bundle: The policy.
        robot: The open link.
        name: Shared memory under which the runtime will attach.

    Returns:
        ``fault``: what was latched, or None; ``exception``: what the supervisor raised, or None.
    """
    camera = bundle.camera
    exception: Optional[str] = None
    with SharedMemoryServer(
        name,
        robot=bundle.robot,
        joint_names=bundle.joint_names,
        control_dt_s=bundle.control_dt_s,
        camera_size_wh=None if camera is None else (camera.width, camera.height),
        lockstep=False,
    ) as server:
        server.wait_for_runtime(timeout_s=BRIEF.attach_timeout_s)
        supervisor = Supervisor(bundle, robot, RuntimeWire(server), cfg=BRIEF)
        try:
            loop(supervisor, [], RunLog(None))
        except Exception as error:  # the trial's judge must hear of it
            exception = f"the supervisor raised {type(error).__name__}: {error}"
    return {"fault": None if supervisor.fault is None else str(supervisor.fault), "exception": exception}


def main() -> None:
    """Serve runtimes until the input ends."""
    task = json.loads(sys.argv[1])
    bundle = PolicyBundle.load(Path(task["bundle"]))
    robot = open_robot(task["robot"], bundle, **task["options"])
    be_prompt(SUPERVISOR_PRIORITY)
    print(json.dumps({"up": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(supervise_trial(bundle, robot, json.loads(line)["shm"])), flush=True)
    robot.close()


if __name__ == "__main__":
    main()
