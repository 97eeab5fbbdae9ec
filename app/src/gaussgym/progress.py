"""The progress line: one line that is rewritten on a terminal, a line now and then elsewhere."""

import shutil
import sys
import time
from typing import TextIO

QUIET_INTERVAL_S = 20.0


class ProgressLine:
    """Shows finished steps as lines that stay and running ones as a line that is rewritten.

    Args:
        stream: Where to write, standard error by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._shown_s = time.monotonic()
        self._length = 0

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._clear()
        print(text, file=self._stream, flush=True)

    def show(self, text: str) -> None:
        """Rewrite the line that changes; away from a terminal only every 20 s."""
        if not self._terminal:
            if time.monotonic() - self._shown_s >= QUIET_INTERVAL_S:
                self._shown_s = time.monotonic()
                print(text, file=self._stream, flush=True)
            return
        self._clear()
        text = text[: max(20, shutil.get_terminal_size().columns - 1)]
        self._length = len(text)
        self._stream.write(text)
        self._stream.flush()

    def _clear(self) -> None:
        if self._terminal and self._length:
            self._stream.write("\r" + " " * self._length + "\r")
            self._length = 0


def clock(seconds: float) -> str:
    """Write a duration as `m:ss`, or `h:mm:ss` from an hour on."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
