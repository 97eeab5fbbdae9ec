"""Scenes from generated videos: `dense_mesh.glb`, `transforms.json` and `splatfacto/` from a feed-forward reconstruction.

Layout: escontra/veo_scenes as the loader of github.com/escontra/gauss_gym (f356bc7) reads it. Mesh and cameras share the frame of
`transforms.json`; that loader takes a mesh's vertices as stored and looks at no node of the GLB.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.splats import Splats

from gaussgym_recon.layouts.glb import has_node_transforms, read_glb
from gaussgym_recon.layouts.meshes import distances_m
from gaussgym_recon.layouts.published import (
    Published,
    choose_scene,
    member,
    positive,
    read_splat_folder,
    read_transforms,
)
from gaussgym_recon.posed import Similarity

log = logging.getLogger(__name__)

WORLD_FROM_LAYOUT = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True)
class VeoCfg:
    """A generated video's scene: `splatfacto/`, `dense_mesh.glb`, `transforms.json`."""

    scene: str = ""
    """Which scene, where PATH holds several; upper or lower case."""
    metres_per_unit: float = 1.0
    """Size of the scene: no sensor measured it, as published a unit is what a network took for a metre [m]."""
    skip_frames: int = 8
    """So many cameras at the start are no part of the walk."""


def read(path: Path, cfg: VeoCfg) -> Published:
    """Read a scene.

    Raises:
        InputError: It is none, or something is missing or damaged.
    """
    scale = positive(cfg.metres_per_unit, "--metres-per-unit")
    scene = choose_scene(path, cfg.scene, _is_scene, "splatfacto/, transforms.json and dense_mesh.glb")
    splats, before_from_splats, files = read_splat_folder(scene)
    cameras = read_transforms(member(scene, "transforms.json") or scene / "transforms.json")
    if not 0 <= cfg.skip_frames <= len(cameras.c2w) - 2:
        raise InputError(
            f"{scene / 'transforms.json'}: {len(cameras.c2w)} cameras, none of which is left after skipping {cfg.skip_frames}"
        )
    layout_from_splats = cameras.file_from_original.compose(before_from_splats)
    mesh, by_nodes = _mesh(
        member(scene, "dense_mesh.glb") or scene / "dense_mesh.glb", splats, layout_from_splats
    )
    stated = cfg.metres_per_unit != 1.0
    return Published(
        name=scene.name, splats=splats, mesh=mesh, layout_from_splats=layout_from_splats,
        world_from_layout=Similarity(scale, WORLD_FROM_LAYOUT, np.zeros(3)), track_c2w=cameras.c2w[cfg.skip_frames :],
        capture=f"veo {scene.name}", scale_source="user" if stated else "feed-forward", gravity_source="feed-forward",
        notes={
            "layout": "veo", "layout_files": [*files, "dense_mesh.glb", "transforms.json"], "scale_std_fraction": None,
            "mesh_node_transforms": by_nodes,
        },
    )  # fmt: skip


def _is_scene(folder: Path) -> bool:
    return all(
        member(folder, name) is not None for name in ("dense_mesh.glb", "transforms.json", "splatfacto")
    )


def _mesh(file: Path, splats: Splats, layout_from_splats: Similarity) -> tuple[Mesh, bool]:
    """The mesh as stored or as its nodes place it, whichever the splats lie nearer to, and whether by its nodes."""
    stored = read_glb(file, node_transforms=False)
    if not len(stored.faces):
        raise InputError(f"{file}: holds no triangle, expected a mesh")
    if not has_node_transforms(file):
        return stored, False
    placed = read_glb(file)
    if not len(placed.faces):
        return stored, False
    some = splats.means[:: max(1, len(splats) // 4000)].astype(np.float64)
    away = [float(np.median(distances_m(mesh, layout_from_splats.apply(some)))) for mesh in (stored, placed)]
    log.info("%s: splats lie %.3g from the mesh as stored, %.3g from it as its nodes place it", file, *away)
    return (placed, True) if away[1] < away[0] else (stored, False)
