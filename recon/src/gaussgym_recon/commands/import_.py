"""``gaussgym-recon import SOURCE PATH --output DIR``: a subcommand for each source, with the options of its settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from gaussgym_recon.sources import SOURCES
from gaussgym_recon.sources.source import Progress, Source


def import_command(arguments: Sequence[str], progress: Progress) -> Callable[[], Path]:
    """Parse the words after ``gaussgym-recon import``.

    Args:
        arguments: The words.
        progress: Told how far the import is.

    Returns:
        A function that imports and returns the capture's folder.
    """
    kinds = {name: _arguments_of(name, SOURCES.get(name)) for name in SOURCES.names()}
    given: Any = tyro.extras.subcommand_cli_from_dict(
        kinds,
        prog="gaussgym-recon import",
        description="Make a capture of what phones, cameras and other programs write.",
        args=list(arguments),
    )
    source = SOURCES.get(next(name for name, kind in kinds.items() if type(given) is kind))
    return lambda: source.read(given.path, given.output, given.cfg, progress=progress)


def _arguments_of(name: str, source: Source) -> type:
    return make_dataclass(
        f"Import{name.title().replace('-', '')}",
        [
            ("path", Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help=f"{source.takes}.")]),
            ("output", Annotated[Path, tyro.conf.arg(help="Folder of the capture to write.")]),
            ("cfg", Annotated[source.cfg, tyro.conf.OmitArgPrefixes], field(default_factory=source.cfg)),
        ],
        namespace={"__doc__": f"Make a capture of {source.takes}."},
    )
