"""The command as a user types it, for tests."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

__all__ = ["deploy", "fails"]


def deploy(*arguments: Any, answers: str = "") -> subprocess.CompletedProcess:
    """Run ``gaussgym-deploy`` with these arguments and this standard input."""
    command = [sys.executable, "-m", "gaussgym_deploy", *map(str, arguments)]
    return subprocess.run(command, input=answers, capture_output=True, text=True, timeout=240, check=False)


def fails(*arguments: Any) -> str:
    """The one line on stderr of a command that ends with status 2.

    Raises:
        AssertionError: When it ends otherwise, or says more.
    """
    done = deploy(*arguments)
    assert done.returncode == 2, done
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    return done.stderr
