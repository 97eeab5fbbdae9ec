"""``gaussgym-recon get NAME``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class Get:
    """Download a published capture from its public repository, checked file by file, and make it ready to be built.

    Names: lund (29 photographs of a street, GPS), office_loop (237 frames of a film of corridors).
    Interrupted, the same command goes on where it stopped. The files as published stay in `<output>.originals/`.
    """

    name: Annotated[str, tyro.conf.Positional]
    """Which capture."""
    output: Path | None = None
    """Folder of the capture to write; `captures/NAME` if not given."""
    source: str | None = None
    """Address of a mirror with the repository's files under their paths, such as https://mirror.example/lund."""

    def __call__(self) -> Path:
        """Run the command; returns the path written."""
        from gaussgym_recon.captures import published_capture
        from gaussgym_recon.captures.get import estimate, get
        from gaussgym_recon.commands.bars import Bars

        capture = published_capture(self.name)
        print(estimate(capture).line(capture), file=sys.stderr)
        with Bars() as bars:
            return get(self.name, self.output, source=self.source, progress=bars)
