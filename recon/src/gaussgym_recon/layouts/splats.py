# numpy's and open3d's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Any splats with a mesh of the same place, in one frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.formats import load_splats
from gaussgym_scene.frames import normalize, rotation_between

from gaussgym_recon.layouts.meshes import read_mesh
from gaussgym_recon.layouts.published import Published, existing, positive, read_transforms
from gaussgym_recon.posed import Similarity

_AXES = {
    f"{sign}{name}": axis * (1 if sign == "+" else -1)
    for sign in "+-"
    for name, axis in zip("xyz", np.eye(3))
}


@dataclass(frozen=True)
class SplatsCfg:
    """A splat file (.ply, .spz, .splat, .sog …) and a mesh (.ply, .glb, .obj, .stl, .off) of the same place in the same frame."""

    mesh: Path | None = None
    """Mesh of the place; needed."""
    metres_per_unit: float | None = None
    """Length of the files' unit [m]; needed, as no file says it."""
    up: str = ""
    """Which way is up in the files: +x -x +y -y +z -z, or three numbers as 0,0.1,1; needed, as no file says it."""
    cameras: Path | None = None
    """A nerfstudio transforms.json in the files' frame, whose cameras show where one walks; else paths are looked for."""


def read(path: Path, cfg: SplatsCfg) -> Published:
    """Read splats and mesh.

    Raises:
        InputError: A file is missing or damaged, or scale or up is not given.
    """
    path = existing(path)
    if cfg.mesh is None:
        raise InputError(f"{path}: no mesh given, expected --mesh FILE with the surface of the same place")
    if cfg.metres_per_unit is None:
        raise InputError(
            f"{path}: nobody knows its scale; state the length of its unit with --metres-per-unit (1 where it is metres)"
        )
    scale, up = positive(cfg.metres_per_unit, "--metres-per-unit"), _up(cfg.up)
    splats, mesh = load_splats(path), read_mesh(existing(cfg.mesh))
    cameras = None if cfg.cameras is None else read_transforms(existing(cfg.cameras)).c2w
    return Published(
        name=path.name.split(".")[0], splats=splats, mesh=mesh, layout_from_splats=Similarity.identity(),
        world_from_layout=Similarity(scale, rotation_between(up, [0, 0, 1]), np.zeros(3)), track_c2w=cameras,
        capture="", scale_source="user", gravity_source="user",
        notes={"layout": "splats", "layout_files": [path.name, cfg.mesh.name]},
    )  # fmt: skip


def _up(text: str) -> np.ndarray:
    """A direction by its words.

    Raises:
        InputError: It is none.
    """
    if text.lower() in _AXES:
        return _AXES[text.lower()]
    try:
        up = np.array([float(word) for word in text.split(",")])
    except ValueError:
        up = np.zeros(0)
    if up.shape != (3,) or not np.isfinite(up).all() or not np.linalg.norm(up) > 0:
        raise InputError(
            f"--up is {text!r}, expected one of {' '.join(_AXES)} or three numbers as 0,0.1,1: no file says which way is up"
        )
    return normalize(up)
