"""What commands say and write: counts, files, a progress line, and one line for what went wrong."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Callable, Optional

from ..bundle import BundleError
from ..sim2sim import Sim2SimReport

__all__ = ["ProgressLine", "counts", "finish", "write_json"]

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class ProgressLine:
    """One line on stderr, rewritten after every episode (every few seconds where it goes into a log).

    Args:
        total: Number of episodes.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._start_s = time.monotonic()
        self._last_s = 0.0

    def __call__(self, report: Sim2SimReport) -> None:
        """Show how far it is."""
        now_s = time.monotonic()
        done = report.episodes == self._total
        if not done and now_s - self._last_s < (0.2 if sys.stderr.isatty() else 3.0):
            return
        self._last_s = now_s
        left_s = (now_s - self._start_s) / report.episodes * (self._total - report.episodes)
        text = (
            f"sim2sim: {100 * report.episodes // self._total}%| {report.episodes}/{self._total},"
            f" success {report.success_rate:.0%}, {left_s:.0f} s left"
        )
        print(f"\r{text:<60}", end="\n" if done else "", file=sys.stderr, flush=True)


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


def finish(command: Callable[[], Optional[Path]]) -> int:
    """Run a command's body: 0, or 2 and one line on stderr for bad input, or 130 on Ctrl-C."""
    try:
        written = command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (BundleError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        print(f"error: {' '.join(text.split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    if written is not None:
        print(written)
    return 0
