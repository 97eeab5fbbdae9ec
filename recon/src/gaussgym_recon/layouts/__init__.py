"""Published scenes of others, splats and mesh in their own frames, as scenes of ours: one file a layout, and their registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gaussgym_scene.registry import Registry

from gaussgym_recon.layouts import arkit, grandtour, iphone, splats, veo
from gaussgym_recon.layouts.published import Published

Layout = tuple[type, Callable[[Path, Any], Published]]
"""The dataclass of a layout's options, and the function that reads a path with them."""

LAYOUTS: Registry[Layout] = Registry(
    "scene layout",
    "gaussgym.layouts",
    {
        "iphone": (iphone.IphoneCfg, iphone.read),
        "grandtour": (grandtour.GrandtourCfg, grandtour.read),
        "arkit": (arkit.ArkitCfg, arkit.read),
        "veo": (veo.VeoCfg, veo.read),
        "splats": (splats.SplatsCfg, splats.read),
    },
)
"""Layouts by name. Another package adds one by an entry point of group ``gaussgym.layouts`` to a `Layout`."""
