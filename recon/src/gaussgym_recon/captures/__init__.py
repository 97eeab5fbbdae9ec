"""Captures that others published, by name: which files of which public repository, at which commit, with size and hash."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

from gaussgym_scene.errors import InputError

FORMAT = "gaussgym-published-capture"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a published capture."""

    path: str
    """In the repository."""
    bytes: int
    """Size [B]."""
    sha256: str
    """Of its bytes, hexadecimal."""


@dataclass(frozen=True)
class PublishedCapture:
    """Photographs in a public repository."""

    name: str
    """What it is called here."""
    what: str
    """What it shows, one line."""
    repository: str
    """Host, owner and name."""
    commit: str
    """Commit that holds the files, 40 hexadecimal digits."""
    licence: str
    """Of the repository."""
    files: tuple[RemoteFile, ...]
    """The photographs, in order."""

    @property
    def bytes(self) -> int:
        """Size of all files [B]."""
        return sum(file.bytes for file in self.files)

    @property
    def address(self) -> str:
        """Where its files lie: an address to which a file's path is added."""
        host, _, repository = self.repository.partition("/")
        if host != "github.com":
            raise InputError(f"{self.name}: no address is known for {host}; give one with --source URL")
        return f"https://raw.githubusercontent.com/{repository}/{self.commit}"


def capture_names() -> list[str]:
    """Names of all published captures."""
    return sorted(entry.name[:-5] for entry in files(__name__).iterdir() if entry.name.endswith(".json"))


def published_capture(name: str) -> PublishedCapture:
    """The published capture of a name.

    Raises:
        InputError: There is none; the text lists those that exist.
    """
    if name not in capture_names():
        raise InputError(
            f"no published capture is called {name!r}, expected one of: {', '.join(capture_names())}"
        )
    fields = json.loads((files(__name__) / f"{name}.json").read_text())
    entries = tuple(RemoteFile(f["path"], f["bytes"], f["sha256"]) for f in fields["files"])
    return PublishedCapture(
        name, fields["what"], fields["repository"], fields["commit"], fields["licence"], entries
    )
