"""What a source is, and the settings that all sources have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Progress = Callable[[str, float], None]
"""Called with what is being done, and the fraction of it that is done."""


@dataclass(frozen=True, kw_only=True)
class SourceCfg:
    """Settings that every source has."""

    frames: int | None = None
    """Keep so many images: the sharpest of equal spans. All are kept where there are no more."""
    redact: str | None = None
    """Name of a redactor (entry points of the group `gaussgym.redactors`) that blurs faces and plates in each image."""
    segment: str | None = None
    """Name of a segmenter (group `gaussgym.segmenters`) that masks people and sky in each image."""
    licence: str = "unknown"
    """Under which the images may be used; written into the capture."""


@dataclass(frozen=True)
class Source:
    """A way to make a capture."""

    read: Callable[..., Path]
    """`read(path, output, cfg, *, progress=None)` writes the capture `output` from what lies at `path`, returns `output`."""
    cfg: type[Any]
    """The class of `cfg`, a frozen dataclass below :class:`SourceCfg`; every field has a default."""
    takes: str
    """What `path` is, in a few words for the help."""
