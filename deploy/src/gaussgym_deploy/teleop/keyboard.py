"""A terminal as operator: hold a key to drive, one key to stop everything."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from typing import Any, Dict, Iterator, Optional, Tuple

from ..bundle import BundleError
from ..operator import OperatorCommand
from ..robot_io import RobotState
from .drive import Drive, DriveCfg

__all__ = ["HELP", "KeyboardOperator"]

HELP = "w/s ahead, back   a/d left, right   q/e turn   1 damp  2 stand  3 run   SPACE emergency stop"
_DRIVE: Dict[str, Tuple[int, float]] = {
    "w": (0, 1.0), "s": (0, -1.0), "a": (1, 1.0), "d": (1, -1.0), "q": (2, 1.0), "e": (2, -1.0),
}  # fmt: skip
_MODE = {"1": "damp", "2": "stand", "3": "run"}
_STOP = (" ", "\x1b", "x")


class KeyboardOperator:
    """Reads keys as they come. A terminal reports no key's release: a deflection holds for ``hold_s`` after its key.

    The sign of life is the terminal itself: it is lost when the terminal closes (an ssh session that ends, a window
    that is shut). With ``dead_man_s`` it is also lost when no key at all came for that long: hold a key, or the robot is damped.

    Args:
        drive: Speeds.
        fd: File descriptor to read; default: standard input, which must be a terminal.
        hold_s: How long a key counts as held after it came [s] (terminals begin to repeat after 0.25 to 0.5 s).
        dead_man_s: Longest time without a key [s]; None: not asked.
    """

    def __init__(
        self,
        drive: DriveCfg,
        *,
        fd: Optional[int] = None,
        hold_s: float = 0.6,
        dead_man_s: Optional[float] = None,
    ) -> None:
        self._fd = sys.stdin.fileno() if fd is None else fd
        if not os.isatty(self._fd):
            raise BundleError(
                "operator 'keyboard' needs a terminal on standard input; use --operator gamepad or web here"
            )
        self._drive = Drive(drive)
        self._hold_s, self._dead_man_s = hold_s, dead_man_s
        self._pressed_s = {key: float("-inf") for key in _DRIVE}
        self._last_key_s = float("-inf")
        self._begun = self._gone = False
        self._command = OperatorCommand(velocity=self._drive.velocity)
        self._restore = _raw(self._fd)

    def read(self, state: RobotState, now_s: float) -> OperatorCommand:
        """The keys since the last call, as a command."""
        command = self._command
        command.mode = command.stop = None
        for key in self._keys():
            self._last_key_s = now_s
            if key in _STOP:
                command.stop = "the operator pressed the emergency stop"
            elif key in _MODE:
                command.mode = _MODE[key]
            elif key in self._pressed_s:
                self._pressed_s[key] = now_s
        deflection = [0.0, 0.0, 0.0]
        for key, (axis, sign) in _DRIVE.items():
            if now_s - self._pressed_s[key] <= self._hold_s:
                deflection[axis] += sign
        self._drive.update(deflection, now_s)
        if not self._begun:  # the dead man's time begins when somebody first looks
            self._begun, self._last_key_s = True, now_s
        held = self._dead_man_s is None or now_s - self._last_key_s <= self._dead_man_s
        if held and not self._gone:
            command.alive_s = now_s
        return command

    def close(self) -> None:
        """Give the terminal back as it was."""
        restore, self._restore = self._restore, None
        if restore is not None:
            restore()

    def _keys(self) -> Iterator[str]:
        while not self._gone:
            try:
                if not select.select([self._fd], [], [], 0.0)[0]:
                    return
                read = os.read(self._fd, 64)
            except OSError:  # the terminal is gone
                read = b""
            if not read:
                self._gone = True
                return
            text = read.decode("utf-8", "ignore").lower()
            # An arrow key is an escape sequence; a lone escape is the emergency stop.
            if text.startswith("\x1b[") and len(text) > 2:
                text = {"a": "w", "b": "s", "c": "e", "d": "q"}.get(text[2], "") + text[3:]
            yield from text


def _raw(fd: int) -> Any:
    """Keys one by one, without echo; returns what undoes it. Ctrl-C still interrupts."""
    import termios
    import tty

    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)

    def restore() -> None:
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    return restore
