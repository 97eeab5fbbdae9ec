"""The structured log of a run: JSON lines, one object an event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any, Optional, Union

__all__ = ["RunLog"]


class RunLog:
    """JSON lines, one object an event: ``start``, ``mode``, ``fault``, ``tick``, ``end``.

    Args:
        path: File to write; None logs nowhere.

    Attributes:
        error: Why the log is not complete, or None.
    """

    def __init__(self, path: Union[str, Path, None]) -> None:
        self.error: Optional[str] = None
        self._file: Optional[IO[str]] = None if path is None else open(str(path), "w", encoding="utf-8")  # noqa: SIM115

    @property
    def active(self) -> bool:
        """Whether anything is written."""
        return self._file is not None

    def write(self, event: str, *, flush: bool = True, **values: Any) -> None:
        """Append one line.

        Args:
            event: Kind of event.
            flush: Hand it to the system at once (not for ticks: the disk must not pace the loop).
            values: Plain JSON.
        """
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"event": event, **values}) + "\n")
            if flush:
                self._file.flush()
        except OSError as error:  # a full disk must not stop the control loop
            self.error = f"the log ends early: {error.strerror}"
            self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError as error:
                self.error = f"the log ends early: {error.strerror}"
