# numpy's and open3d's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Scenes of walks with a phone: splats of the whole place and slices of its mesh along the walk (`meshes/*.npz`).

Layout: the data set escontra/gauss_gym_data and what its `generate_mesh_slices` writes (github.com/escontra/gauss_gym, f356bc7).
A slice's vertices and cameras are `R (x − offset)` of points x of the poses' frame, `from_ig_rotation` is `R⁻¹`.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import OPENCV_FROM_OPENGL, matrix_from_quat_wxyz
from gaussgym_scene.mesh import Mesh
from numpy.typing import NDArray

from gaussgym_recon.layouts.meshes import merge_slices
from gaussgym_recon.layouts.published import Published, choose_scene, member, read_splat_folder
from gaussgym_recon.moving import move_mesh, proper_rotation
from gaussgym_recon.posed import Similarity

_KEYS = {"vertices": 2, "triangles": 2, "cam_trans": 2, "cam_quat": 2, "offset": 2, "from_ig_rotation": 2}


@dataclass(frozen=True)
class IphoneCfg:
    """A phone's walk: `splatfacto/` and `meshes/*.npz`, as in escontra/gauss_gym_data."""

    scene: str = ""
    """Which scene, where PATH holds several; upper or lower case."""
    overlap_m: float = 0.02
    """Slices overlap; surfaces of two of them that are no farther apart are one [m]."""


def read(path: Path, cfg: IphoneCfg) -> Published:
    """Read a scene.

    Raises:
        InputError: It is none, something is missing or damaged, or its slices do not share one rotation.
    """
    scene = choose_scene(path, cfg.scene, _is_scene, "splatfacto/ and meshes/*.npz")
    splats, layout_from_splats, files = read_splat_folder(scene)
    folder = member(scene, "meshes")
    slices = sorted(folder.glob("*.npz")) if folder else []
    if not slices:
        raise InputError(f"{folder}: holds no .npz, expected slices of the mesh")
    read_in = [_slice(file) for file in slices]
    first = read_in[0][0]
    for file, (frame, _, _) in zip(slices, read_in, strict=True):
        if np.abs(frame.rotation - first.rotation).max() > 1e-4:
            raise InputError(
                f"{file}: its from_ig_rotation differs from that of {slices[0].name}; slices of one scene share one"
            )
    up = Similarity(1.0, first.rotation.T, np.zeros(3))
    # Merging compares distances: it works in the layout's frame, which is metric.
    mesh = merge_slices([move_mesh(mesh, frame) for frame, mesh, _ in read_in], overlap_m=cfg.overlap_m)
    track = _walk([frame.apply_c2w(cameras) for frame, _, cameras in read_in])
    return Published(
        name=scene.name, splats=splats, mesh=mesh, layout_from_splats=layout_from_splats, world_from_layout=up, track_c2w=track,
        capture="", scale_source="sensor", gravity_source="sensor",
        notes={
            "layout": "iphone", "layout_files": [*files, *(f"{file.parent.name}/{file.name}" for file in slices)],
            "triangles_in_slices": sum(len(mesh.faces) for _, mesh, _ in read_in), "triangles_merged": len(mesh.faces),
        },
    )  # fmt: skip


def _is_scene(folder: Path) -> bool:
    return member(folder, "splatfacto") is not None and member(folder, "meshes") is not None


def _slice(file: Path) -> tuple[Similarity, Mesh, NDArray[np.float64]]:
    """Frame of a slice (to the layout's), its mesh and its cameras, both in its own."""
    try:
        with np.load(file, allow_pickle=False) as data:
            if missing := [key for key in _KEYS if key not in data.files]:
                raise InputError(f"{file}: lacks {', '.join(missing)}; expected {', '.join(_KEYS)}")
            arrays = {key: np.asarray(data[key]) for key in _KEYS}
    except (OSError, EOFError, zipfile.BadZipFile, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: not readable as npz ({error}); copy the file again") from None
    shapes = {
        "vertices": 3,
        "triangles": 3,
        "cam_trans": 3,
        "cam_quat": 4,
        "offset": 3,
        "from_ig_rotation": 3,
    }
    for key, width in shapes.items():
        values = arrays[key]
        if (
            values.ndim != 2
            or values.shape[1] != width
            or values.dtype.kind not in "fiu"
            or not np.isfinite(values).all()
        ):
            raise InputError(
                f"{file}: {key} has shape {values.shape} or values that are not finite, expected [n, {width}] numbers"
            )
    rotation = proper_rotation(arrays["from_ig_rotation"], f"{file}: from_ig_rotation")
    poses = len(arrays["cam_trans"])
    if len(arrays["cam_quat"]) != poses or not poses or not len(arrays["offset"]):
        raise InputError(
            f"{file}: {poses} camera positions, {len(arrays['cam_quat'])} rotations, expected as many, and an offset"
        )
    if np.linalg.norm(arrays["cam_quat"], axis=1).min() < 1e-6:
        raise InputError(f"{file}: a cam_quat has length zero, expected rotations")
    faces = arrays["triangles"].astype(np.int64)
    if not len(faces) or faces.min() < 0 or faces.max() >= len(arrays["vertices"]):
        raise InputError(
            f"{file}: {len(faces)} triangles that name vertices beyond the {len(arrays['vertices'])}; copy the file again"
        )
    cameras = np.tile(np.eye(4), (poses, 1, 1))
    cameras[:, :3, :3] = matrix_from_quat_wxyz(
        np.roll(arrays["cam_quat"].astype(np.float64), 1, axis=1)
    )  # stored xyzw
    cameras[:, :3, 3] = arrays["cam_trans"]
    frame = Similarity(1.0, rotation, arrays["offset"][0].astype(np.float64))
    return frame, Mesh(arrays["vertices"], faces), cameras @ OPENCV_FROM_OPENGL


def _walk(pieces: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Cameras of all slices in order; those at a place that an earlier slice already has are the same ones."""
    kept = [pieces[0]]
    for piece in pieces[1:]:
        known = np.concatenate(kept)[:, :3, 3]
        new = np.linalg.norm(piece[:, None, :3, 3] - known[None], axis=2).min(axis=1) > 1e-4
        kept.append(piece[new])
    return np.concatenate(kept)
