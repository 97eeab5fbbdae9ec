"""Published scenes of others, splats and mesh in their own frames, as scenes of ours: one file a layout, and their registry."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from gaussgym_scene.errors import InputError

from gaussgym_recon.layouts import arkit, grandtour, iphone, splats, veo
from gaussgym_recon.layouts.published import Published

Layout = tuple[type, Callable[[Path, Any], Published]]
"""The dataclass of a layout's options, and the function that reads a path with them."""

ENTRY_POINT_GROUP = "gaussgym.layouts"

LAYOUTS: dict[str, Layout] = {
    "iphone": (iphone.IphoneCfg, iphone.read),
    "grandtour": (grandtour.GrandtourCfg, grandtour.read),
    "arkit": (arkit.ArkitCfg, arkit.read),
    "veo": (veo.VeoCfg, veo.read),
    "splats": (splats.SplatsCfg, splats.read),
}
"""The layouts that come along. Another package adds one by an entry point of group ``gaussgym.layouts`` to a `Layout`."""


def layout_names() -> list[str]:
    """Names of all layouts, those of other packages last."""
    return list(dict.fromkeys([*LAYOUTS, *sorted(e.name for e in entry_points(group=ENTRY_POINT_GROUP))]))


def get_layout(name: str) -> Layout:
    """The layout of a name.

    Raises:
        InputError: There is none; the text lists those that exist.
    """
    if name in LAYOUTS:
        return LAYOUTS[name]
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == name:
            return entry.load()
    raise InputError(f"scene layout {name!r} is unknown, expected one of {', '.join(layout_names())}")
