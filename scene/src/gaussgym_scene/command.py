"""How every command ends: exit status, one clear line, the path written last."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from gaussgym_scene.errors import GaussgymError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def run(command: Callable[[], Path | str | None], *, verbose: bool = False) -> int:
    """Run a command's body and turn its outcome into an exit status.

    Args:
        command: The work; returns the path that it wrote last, or None.
        verbose: Log at INFO instead of WARNING.

    Returns:
        0 on success, 2 on a `GaussgymError` or `OSError` (one line on stderr), 130 on Ctrl-C. Anything else is a bug
        of ours and keeps its traceback.
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    try:
        written = command()
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept; the same command goes on from there", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (GaussgymError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    if written is not None:
        print(written)
    return 0


def one_line(error: BaseException) -> str:
    """Give an error's text on one line; an `OSError` names its file and reason."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split())
