"""The bench robot behind real DDS, in a process of its own: ``python -m gaussgym_deploy.unitree.bench_server --domain 17``.

Prints ``ready`` when it is up and its counts (JSON) when it ends: on SIGTERM, Ctrl-C, after ``--seconds``, or, with
``--until-orphaned``, when the process that started it has died.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from typing import Any, List, Optional

import numpy as np

from ..robot_io import BenchRobot, LinkError, RobotState
from ..scheduler import RUNTIME_PRIORITY, be_prompt
from ..shared_memory import SharedMemoryServer
from .dds_robot import DdsRobot, DdsRobotCfg
from .messages import MOTOR_NAMES

LYING = np.tile([0.05, 0.4, -0.9], 4)
"""Where the bench robot's joints begin [rad]."""


def main(arguments: Optional[List[str]] = None) -> int:
    """Serve until told to stop; 2 on bad input."""
    options = _options(arguments)
    stopped: List[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: stopped.append(got))
    parent, end_s = os.getppid(), time.monotonic() + options.seconds
    try:
        robot = BenchRobot(
            torque_limit=options.torque_limit,
            start_joint_pos=LYING,
            command=(options.speed, 0.0, 0.0),
            camera_size_wh=None if options.camera is None else tuple(options.camera_size),
            camera_hz=options.camera_hz,
        )
        show = None if options.camera is None else _Frames(options.camera, options.camera_size)
        cfg = DdsRobotCfg(
            options.domain, options.interface, options.rate_hz, command_timeout_s=options.command_timeout_s
        )
        served = DdsRobot(robot, MOTOR_NAMES, cfg)
    except LinkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    be_prompt(RUNTIME_PRIORITY)  # a real robot has a computer of its own
    print("ready", flush=True)

    def stop() -> bool:
        if show is not None:
            show(robot.read())
        orphaned = options.until_orphaned and os.getppid() != parent
        return bool(stopped) or orphaned or time.monotonic() > end_s

    served.run(stop)
    served.close()
    if show is not None:
        show.close()
    print(json.dumps(served.report()), flush=True)
    return 0


class _Frames:
    """Publishes the bench robot's test card as a camera.

    Args:
        name: Of the shared memory.
        size_wh: Of the frames [px].
    """

    def __init__(self, name: str, size_wh: List[int]) -> None:
        size = (size_wh[0], size_wh[1])
        self._server = SharedMemoryServer(
            name, robot="camera", joint_names=(), camera_size_wh=size, lockstep=False
        )
        self._attached, self._turns = False, 0
        self._state, self._seen_t_s = RobotState.zeros(0), float("-inf")

    def __call__(self, state: RobotState) -> None:
        """Publish the state's image if it is a new one and somebody looks."""
        self._turns += 1
        if not self._attached and self._turns % 50 == 0:
            try:
                self._server.wait_for_runtime(0.0)
                self._attached = True
            except LinkError:
                pass
        if self._attached and state.rgb is not None and state.rgb_t_s != self._seen_t_s:
            self._seen_t_s = state.rgb_t_s
            self._state.rgb, self._state.t_s = state.rgb, time.monotonic()
            self._state.rgb_t_s = self._state.t_s
            self._server.publish(self._state)

    def close(self) -> None:
        """Remove the shared memory."""
        self._server.close()


def _options(arguments: Optional[List[str]]) -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m gaussgym_deploy.unitree.bench_server", description=__doc__
    )
    parser.add_argument("--domain", type=int, required=True, help="DDS domain")
    parser.add_argument("--interface", default="lo", help="network interface")
    parser.add_argument("--rate-hz", type=float, default=500.0, help="states per second")
    parser.add_argument(
        "--command-timeout-s", type=float, default=0.1, help="silence after which it damps [s]"
    )
    parser.add_argument("--torque-limit", type=float, default=23.7, help="[N·m]")
    parser.add_argument(
        "--speed", type=float, default=0.5, help="forward velocity that its remote asks for [m/s]"
    )
    parser.add_argument("--camera", help="name of the shared memory for a test card's frames")
    parser.add_argument("--camera-size", type=int, nargs=2, default=[84, 48], help="width and height [px]")
    parser.add_argument("--camera-hz", type=float, default=10.0, help="frames per second")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long")
    parser.add_argument("--until-orphaned", action="store_true", help="end when the parent process has died")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
