"""A gamepad as operator, through Linux's joystick device: no library, no window.

Events are ``struct js_event`` of ``linux/joystick.h``: time u32 [ms], value s16, type u8 (1 button, 2 axis, 0x80 first report),
number u8. Numbers below are those of the kernel's ``xpad`` driver (Xbox and most that imitate it); ``mapping`` changes them.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Dict, Optional, Union

from ..bundle import BundleError
from ..operator import OperatorCommand
from ..robot_io import RobotState
from .drive import Drive, DriveCfg

__all__ = ["GamepadMapping", "GamepadOperator"]

_EVENT = struct.Struct("=IhBB")
_BUTTON, _AXIS, _FIRST = 1, 2, 0x80


@dataclass(frozen=True)
class GamepadMapping:
    """Numbers of axes and buttons.

    Attributes:
        forward_axis: Left stick, up is negative.
        left_axis: Left stick, left is negative.
        turn_axis: Right stick, left is negative.
        dead_man_button: Must be held (left shoulder button); releasing it is losing the operator.
        stop_button: Emergency stop (B).
        damp_button: X.
        stand_button: Y.
        run_button: A.
    """

    forward_axis: int = 1
    left_axis: int = 0
    turn_axis: int = 3
    dead_man_button: int = 4
    stop_button: int = 1
    damp_button: int = 2
    stand_button: int = 3
    run_button: int = 0


class GamepadOperator:
    """Left stick drives, right stick turns, the left shoulder button is held all the time, B stops.

    Args:
        drive: Speeds.
        device: The joystick's file.
        mapping: Numbers of axes and buttons.
        dead_man: Whether the shoulder button must be held. Without it a wireless pad out of reach is not noticed: the
            kernel reports nothing then.

    Raises:
        BundleError: When there is no such device.
    """

    def __init__(
        self,
        drive: DriveCfg,
        *,
        device: str = "/dev/input/js0",
        mapping: Optional[GamepadMapping] = None,
        dead_man: bool = True,
    ) -> None:
        try:
            self._fd: Optional[int] = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise BundleError(
                f"{device}: {error.strerror}; plug the gamepad in, or name its device (Linux: /dev/input/js*)"
            ) from None
        self._drive = Drive(drive)
        self._mapping = mapping or GamepadMapping()
        self._dead_man = dead_man
        self._axes: Dict[int, float] = {}
        self._buttons: Dict[int, bool] = {}
        self._rest = b""
        self._command = OperatorCommand(velocity=self._drive.velocity)

    def read(self, state: RobotState, now_s: float) -> OperatorCommand:
        """The events since the last call, as a command."""
        command, mapping = self._command, self._mapping
        command.mode = command.stop = None
        while self._fd is not None:
            read = self._read(self._fd)
            if not read:
                break
            for event in _EVENT.iter_unpack(read):
                self._take(*event[1:], command=command)
        here = self._fd is not None
        held = not self._dead_man or self._buttons.get(mapping.dead_man_button, False)
        axes = self._axes
        if here and held:
            command.alive_s = now_s
            sticks = (mapping.forward_axis, mapping.left_axis, mapping.turn_axis)
            self._drive.update([-axes.get(number, 0.0) for number in sticks], now_s)
        else:
            self._drive.halt()
        return command

    def close(self) -> None:
        """Let go of the device."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _read(self, fd: int) -> bytes:
        """Whole events; none when nothing is there, and the device is let go when it is gone."""
        try:
            read = os.read(fd, 64 * _EVENT.size)
        except BlockingIOError:
            return b""
        except OSError:  # unplugged
            read = b""
        if not read:
            self.close()
            return b""
        read = self._rest + read
        whole = len(read) - len(read) % _EVENT.size
        self._rest = read[whole:]
        return read[:whole]

    def _take(self, value: int, kind: int, number: int, *, command: OperatorCommand) -> None:
        # The first report of every axis and button says how it is, not that somebody pressed it.
        first, kind = bool(kind & _FIRST), kind & ~_FIRST
        if kind == _AXIS:
            self._axes[number] = value / 32767.0
        elif kind == _BUTTON:
            mapping, pressed = self._mapping, value != 0
            self._buttons[number] = pressed
            if not pressed or first:
                return
            modes: Dict[int, Union[str, None]] = {
                mapping.damp_button: "damp", mapping.stand_button: "stand", mapping.run_button: "run",
            }  # fmt: skip
            if number == mapping.stop_button:
                command.stop = "the operator pressed the gamepad's emergency stop"
            elif number in modes:
                command.mode = modes[number]
