"""ARKitScenes with splats: `training/<video>/` or `validation/<video>/` with a mesh, a camera path and `splatfacto/`.

Layout: escontra/gauss_gym_arkit as the loader of github.com/escontra/gauss_gym (f356bc7) reads it. Mesh and `lowres_wide.traj`
share ARKitScenes' own frame, metres and +Z up; the splats' poses were given in nerfstudio's version of it, with axes (y, x, −z).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import inverse_rigid
from numpy.typing import NDArray

from gaussgym_recon.layouts.meshes import read_mesh
from gaussgym_recon.layouts.published import Published, choose_scene, existing, member, read_splat_folder
from gaussgym_recon.posed import Similarity

PARSER_FROM_ARKIT = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
_TRAJ = "lowres_wide.traj"
_MESHES = ("_3dod_mesh_filled_decimated.ply", "_3dod_mesh.ply")


@dataclass(frozen=True)
class ArkitCfg:
    """An ARKitScenes video: `splatfacto/`, `<id>_3dod_mesh_filled_decimated.ply`, `lowres_wide.traj`."""

    scene: str = ""
    """Which video, where PATH holds several, such as `43895956`."""
    split: str = ""
    """Only that split, `training` or `validation`; upper or lower case. Empty: both."""


def read(path: Path, cfg: ArkitCfg) -> Published:
    """Read a video's scene.

    Raises:
        InputError: It is none, or something is missing or damaged.
    """
    root = existing(path / cfg.split) if cfg.split else path
    scene = choose_scene(root, cfg.scene, _is_scene, f"splatfacto/, lowres_wide.traj and <id>{_MESHES[0]}")
    splats, parser_from_splats, files = read_splat_folder(scene)
    mesh_file = _mesh_file(scene)
    assert mesh_file is not None
    arkit_from_parser = Similarity(1.0, PARSER_FROM_ARKIT.T, np.zeros(3))
    return Published(
        name=scene.name, splats=splats, mesh=read_mesh(mesh_file),
        layout_from_splats=arkit_from_parser.compose(parser_from_splats),
        world_from_layout=Similarity.identity(), track_c2w=read_traj(member(scene, _TRAJ) or scene / _TRAJ),
        capture=f"arkit {scene.name}", scale_source="sensor", gravity_source="sensor",
        notes={"layout": "arkit", "layout_files": [*files, mesh_file.name, "lowres_wide.traj"]},
    )  # fmt: skip


def _mesh_file(folder: Path) -> Path | None:
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    for ending in _MESHES:
        if found := [name for name in names if name.lower().endswith(ending)]:
            return folder / found[0]
    return None


def _is_scene(folder: Path) -> bool:
    has_both = member(folder, "lowres_wide.traj") is not None and member(folder, "splatfacto") is not None
    return has_both and _mesh_file(folder) is not None


def read_traj(path: Path) -> NDArray[np.float64]:
    """Cameras of an ARKitScenes `.traj`, by time: OpenCV camera-to-world `[n, 4, 4]` in ARKitScenes' frame.

    A line holds time, rotation vector [rad] and translation [m] of the world-to-camera transform (ARKitScenes, DATA.md).

    Raises:
        InputError: A line is damaged, or there is none.
    """
    from scipy.spatial.transform import Rotation

    rows = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            row = []
        if len(row) != 7 or not np.isfinite(row).all():
            raise InputError(
                f"{path}: line {number} is {line[:60]!r}, expected 7 numbers: time, rotation vector, translation"
            )
        rows.append(row)
    if len(rows) < 2:
        raise InputError(f"{path}: holds {len(rows)} poses, expected a camera path of at least 2")
    table = np.array(sorted(rows))
    w2c = np.tile(np.eye(4), (len(table), 1, 1))
    w2c[:, :3, :3] = Rotation.from_rotvec(table[:, 1:4]).as_matrix()
    w2c[:, :3, 3] = table[:, 4:7]
    return np.asarray(inverse_rigid(w2c), np.float64)
