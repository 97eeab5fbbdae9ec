"""What captures are made of: one file a source, found by name, and by entry points of the group `gaussgym.captures`."""

from __future__ import annotations

from gaussgym_scene.registry import Registry

from gaussgym_recon.sources.source import Source

SOURCES: Registry[Source] = Registry(
    "source",
    "gaussgym.captures",
    {
        name: f"{__name__}.{name.replace('-', '_')}:SOURCE"
        for name in (
            "images", "video", "colmap", "nerfstudio", "tum", "feed-forward", "polycam", "record3d", "arkitscenes", "grandtour",
        )
    },
    expected=Source,
)  # fmt: skip
"""Sources by name. Another package adds one by an entry point of group ``gaussgym.captures`` to a `Source`."""
