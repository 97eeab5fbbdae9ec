"""How a command ends: its exit status, and one line for what went wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable, Optional

from ..bundle import BundleError

__all__ = ["finish"]

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


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
