"""Chunks of GrandTour missions: `<mission>/splats/<chunk>/` with splats, a hole-filled mesh and cameras.

Layout: leggedrobotics/grand_tour_dataset as the loader of github.com/escontra/gauss_gym (f356bc7) reads it. Mesh and cameras
share the frame of `transforms.json`, which points down: turning it by π about X makes +Z up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gaussgym_scene.errors import InputError

from gaussgym_recon.layouts.meshes import read_mesh
from gaussgym_recon.layouts.published import (
    Published,
    choose_scene,
    member,
    read_splat_folder,
    read_transforms,
)
from gaussgym_recon.posed import Similarity

WORLD_FROM_LAYOUT = np.diag([1.0, -1.0, -1.0])
_MESHES = ("mesh_filled_decimated.ply", "mesh.ply")


@dataclass(frozen=True)
class GrandtourCfg:
    """A chunk of a GrandTour mission: `splatfacto/`, `mesh_filled_decimated.ply`, `transforms.json`."""

    scene: str = ""
    """Which chunk, where PATH holds several, such as `2024-10-01-11-47-44/splats/0`; upper or lower case."""
    cameras: str = "front"
    """The walk is that of the cameras whose image has this in its name; all where none has."""


def read(path: Path, cfg: GrandtourCfg) -> Published:
    """Read a chunk.

    Raises:
        InputError: It is none, or something is missing or damaged.
    """
    scene = choose_scene(path, cfg.scene, _is_scene, f"splatfacto/, transforms.json and {_MESHES[0]}")
    splats, before_from_splats, files = read_splat_folder(scene)
    cameras = read_transforms(member(scene, "transforms.json") or scene / "transforms.json")
    mesh_file = next(found for name in _MESHES if (found := member(scene, name)) is not None)
    chosen = [n for n, name in enumerate(cameras.names) if cfg.cameras.lower() in name.lower()]
    if not chosen:
        raise InputError(
            f"{scene / 'transforms.json'}: none of {len(cameras.names)} images has {cfg.cameras!r} in its name "
            f"(such as {cameras.names[0]!r}); give another part of a name with --cameras"
        )
    mission = scene.parent.parent.name if scene.parent.name.lower() == "splats" else scene.name
    return Published(
        name=f"{mission}_{scene.name}" if mission != scene.name else scene.name, splats=splats, mesh=read_mesh(mesh_file),
        layout_from_splats=cameras.file_from_original.compose(before_from_splats),
        world_from_layout=Similarity(1.0, WORLD_FROM_LAYOUT, np.zeros(3)), track_c2w=cameras.c2w[chosen],
        capture=f"grandtour {mission}", scale_source="lidar", gravity_source="sensor",
        notes={"layout": "grandtour", "layout_files": [*files, mesh_file.name, "transforms.json"]},
    )  # fmt: skip


def _is_scene(folder: Path) -> bool:
    has_mesh = any(member(folder, name) is not None for name in _MESHES)
    return (
        has_mesh
        and member(folder, "transforms.json") is not None
        and member(folder, "splatfacto") is not None
    )
