"""Taking the Go2's own motion service off the motors, before anybody else commands them.

Service ``motion_switcher``: CheckMode (1001) answers ``{"form": ..., "name": ...}``, an empty name means that nothing moves the
robot; ReleaseMode (1003) ends the mode. The robot lies down first where it can (SportClient's StandDown, 1005 of service
``sport``), since a released robot falls.
"""

from __future__ import annotations

import json
import time
from typing import Callable

from ..robot_io import LinkError
from .services import ServiceClient
from .wire import Wire

__all__ = ["active_mode", "release_motion_service"]

CHECK_MODE, RELEASE_MODE = 1001, 1003
STAND_DOWN = 1005
_ROUNDS = 5


def active_mode(client: ServiceClient) -> str:
    """Name of the mode that moves the robot, empty when none does.

    Raises:
        LinkError: When the service does not answer, or not as documented.
    """
    data, _ = client.call(CHECK_MODE, "{}", timeout_s=5.0, what="CheckMode")
    try:
        return str(json.loads(data)["name"])
    except (ValueError, KeyError, TypeError):
        raise LinkError(
            f"service 'motion_switcher' answers CheckMode with {data[:80]!r}, expected a name"
        ) from None


def release_motion_service(wire: Wire, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Let the robot lie down and release its motion service; returns when nothing moves the robot any more.

    Args:
        wire: The robot's DDS domain.
        sleep: Waits [s].

    Raises:
        LinkError: When the service is not there, refuses, or keeps its mode.
    """
    client = ServiceClient(wire, "motion_switcher")
    try:
        mode = active_mode(client)
        for _ in range(_ROUNDS):
            if not mode:
                return
            _lie_down(wire)
            sleep(2.0)  # it takes about this long to lie down
            client.call(RELEASE_MODE, "{}", timeout_s=5.0, what="ReleaseMode")
            sleep(1.0)
            mode = active_mode(client)
    finally:
        client.close()
    if mode:
        raise LinkError(
            f"the robot's motion service stays in mode {mode!r} although it was released {_ROUNDS} times"
        )


def _lie_down(wire: Wire) -> None:
    """Ask the motion service to lie down; a robot that lies already, or whose service has no such thing, may refuse."""
    sport = ServiceClient(wire, "sport", discovery_timeout_s=1.0)
    try:
        sport.call(STAND_DOWN, "{}", timeout_s=2.0, what="StandDown")
    except LinkError:
        pass
    finally:
        sport.close()
