"""What captures are made of: one file a source, found by name, and by entry points of the group `gaussgym.captures`."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from gaussgym_scene.errors import InputError

from gaussgym_recon.sources.source import Source

ENTRY_POINT_GROUP = "gaussgym.captures"
SOURCES = (
    "images",
    "video",
    "colmap",
    "nerfstudio",
    "tum",
    "feed-forward",
    "polycam",
    "record3d",
    "arkitscenes",
    "grandtour",
)
"""Our own: modules of this package, each with a `SOURCE`."""


def source_names() -> list[str]:
    """Our own sources, then those that other packages declare."""
    return list(
        dict.fromkeys([*SOURCES, *sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP))])
    )


def get_source(name: str) -> Source:
    """Find a source by its name.

    Raises:
        InputError: There is none of that name, or what a package declares is no :class:`Source`.
    """
    if name in SOURCES:
        return import_module(f"{__name__}.{name.replace('-', '_')}").SOURCE
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            found = point.load()
            if not isinstance(found, Source):
                raise InputError(
                    f"source {name!r}: {point.value} is a {type(found).__name__}, expected a gaussgym_recon Source"
                )
            return found
    raise InputError(f"source {name!r} is unknown; there are {', '.join(source_names())}")
