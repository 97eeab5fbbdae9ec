"""What commands show and write: a progress line, counts in words, JSON files that are whole or not there."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Optional

__all__ = ["ProgressLine", "counts", "write_json"]


class ProgressLine:
    """One line on stderr, rewritten as work goes on (every few seconds where it goes into a log).

    Args:
        total: Number of things to do.
        what: Name of the work.
        done: How many of them are done already.
    """

    def __init__(self, total: int, what: str, *, done: int = 0) -> None:
        self._total, self._what, self._first = total, what, done
        self._start_s = time.monotonic()
        self._last_s = -1e9

    def show(self, done: float, words: str = "") -> None:
        """Show how far it is.

        Args:
            done: How many are done.
            words: What else to say.
        """
        now_s = time.monotonic()
        over = done >= self._total
        if not over and now_s - self._last_s < (0.2 if sys.stderr.isatty() else 3.0):
            return
        self._last_s = now_s
        new = done - self._first
        left = f", {(now_s - self._start_s) / new * (self._total - done):.0f} s left" if new > 0 else ""
        text = f"{self._what}: {100 * done / self._total:.0f}%| {done:g}/{self._total}{words}{left}"
        print(f"\r{text:<78}", end="\n" if over else "", file=sys.stderr, flush=True)


def counts(values: Any) -> str:
    """``a 1, b 2`` or ``none``."""
    shown = [
        f"{key} {value if isinstance(value, int) else format(value, '.3f')}" for key, value in values.items()
    ]
    return ", ".join(shown) or "none"


def write_json(path: Optional[Path], values: Any) -> Optional[Path]:
    """Write through a temporary file; returns the path."""
    if path is None:
        return None
    temporary = path.with_name(path.name + ".tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    with open(str(temporary), "w", encoding="utf-8") as file:
        json.dump(values, file, indent=2)
        file.write("\n")
    os.replace(str(temporary), str(path))
    return path
