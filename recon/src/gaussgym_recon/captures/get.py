"""``gaussgym-recon get NAME``: a published capture, ready to be built."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaussgym_scene.artifact import write_json

from gaussgym_recon.captures import PublishedCapture, published_capture
from gaussgym_recon.captures.download import Progress, check_room, download
from gaussgym_recon.sources.images import ImagesCfg, import_images

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Estimate:
    """What a download takes."""

    files: int
    """How many."""
    download_mb: float
    """Size of the files [MB]."""
    disk_mb: float
    """Size of files and capture together [MB]."""

    def line(self, capture: PublishedCapture) -> str:
        """In words."""
        return (
            f"{capture.name}: {capture.what}. {self.files} files, {self.download_mb:.1f} MB to download, "
            f"{self.disk_mb:.1f} MB of disk; "
            f"{capture.repository} at {capture.commit[:12]}, {capture.licence}"
        )


def estimate(capture: PublishedCapture) -> Estimate:
    """Sizes of a capture; its photographs are kept beside the capture, which holds copies."""
    return Estimate(len(capture.files), capture.bytes / 1e6, 2 * capture.bytes / 1e6)


def get(
    name: str, output: Path | None = None, *, source: str | None = None, progress: Progress | None = None
) -> Path:
    """Download a published capture and import it.

    Args:
        name: Of the capture.
        output: Folder of the capture; None: `captures/<name>`. The files as published stay in `<output>.originals/`.
        source: Address of a mirror, None: the repository itself.
        progress: Told how far each stage is.

    Returns:
        The capture's folder.

    Raises:
        InputError: No such capture, a wrong file, no room.
        StageError: No network.
    """
    capture = published_capture(name)
    output = Path("captures") / name if output is None else output
    output.parent.mkdir(parents=True, exist_ok=True)
    originals = output.with_name(output.name + ".originals")
    check_room(output.parent, 2 * capture.bytes)
    download(capture, originals, source=source, progress=progress)
    origin: dict[str, Any] = {
        "repository": capture.repository,
        "commit": capture.commit,
        "licence": capture.licence,
    }
    write_json(originals / "origin.json", origin)
    tell = None if progress is None else (lambda stage, fraction: progress(stage, fraction, ""))
    return import_images(
        originals, output, ImagesCfg(licence=f"{capture.licence}, {capture.repository}"), progress=tell
    )
