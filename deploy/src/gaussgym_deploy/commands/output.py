"""How commands report: numbers on a line, JSON through a temporary file, errors as one line and an exit status."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Callable, Optional

from ..bundle import BundleError

__all__ = ["EXIT_BAD_INPUT", "EXIT_INTERRUPTED", "counts", "finish", "write_json"]

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


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
