"""Child processes: their last words, and how they are ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import IO

__all__ = ["end", "last_line", "last_words", "new_name"]


def new_name() -> str:
    """A shared-memory name that no other process uses."""
    return f"gaussgym-{os.getpid()}-{int(time.time() * 1e3) % 1000000}"


def last_line(words: IO[bytes]) -> str:
    """Last line (with letters in it: some draw boxes) of what a process wrote.

    Args:
        words: The file that it wrote its output into.
    """
    words.seek(0)
    text = words.read().decode("utf-8", "replace")
    lines = [line.strip(" \t│") for line in text.splitlines() if any(letter.isalpha() for letter in line)]
    return lines[-1][:300] if lines else ""


def last_words(process: subprocess.Popen, words: IO[bytes]) -> str:
    """Exit status and last line of a process that ended by itself; empty for one that still runs.

    Args:
        process: The process.
        words: The file that it wrote its output into.
    """
    try:
        status = process.wait(timeout=2.0)
    except subprocess.TimeoutExpired:
        return ""
    line = last_line(words)
    ended = f"killed by signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return f" ({ended}{': ' + line if line else ''})"


def end(process: subprocess.Popen, *, patience_s: float = 5.0) -> None:
    """Wait for a process whose link was closed; insist, first politely, when it stays.

    Args:
        process: The process.
        patience_s: How long to wait before each step [s].
    """
    for insist in (lambda: None, process.terminate, process.kill):
        insist()
        try:
            process.wait(timeout=patience_s)
            return
        except subprocess.TimeoutExpired:
            continue
