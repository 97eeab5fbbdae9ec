"""Training views as a nerfstudio data set: `transforms.json`, photographs, masks and seed points."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.artifact import replace_directory
from gaussgym_scene.errors import InputError
from gaussgym_scene.ply import write_ply
from gaussgym_scene.splats import Splats
from numpy.typing import NDArray
from PIL import Image

from gaussgym_recon.views import Views

MANIFEST = "transforms.json"
SEEDS = "seeds.ply"
SEED_SHAPES = "seed_shapes.ply"
_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


def write_dataset(views: Views, seeds: Splats, folder: Path) -> Path:
    """Write the finest level of the views as nerfstudio's parser for `transforms.json` reads it.

    The world stays the metric one, +Z up; photographs are without distortion. Held-out views are nerfstudio's `val` and
    `test`, so that it never trains on them. Masks are written where any view has one (nerfstudio wants all or none).

    Args:
        views: Photographs and cameras.
        seeds: Where splats start. nerfstudio reads their centres and view-independent colours; their shapes lie beside, for
            our method.
        folder: To write, replaced if it exists.

    Returns:
        ``folder``.

    Raises:
        InputError: There are no seeds, which nerfstudio would replace by random points.
    """
    if not len(seeds):
        raise InputError("no points to start nerfstudio's splats at; the capture has no sparse points")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "images").mkdir(parents=True)
    frames = _write_frames(views, partial)
    names = [frame["file_path"] for frame in frames]
    held_out = [names[i] for i in views.held_out]
    train = [names[i] for i in views.train]
    manifest = {
        "camera_model": "OPENCV",
        "orientation_override": "none",
        "ply_file_path": SEEDS,
        "train_filenames": train,
        # nerfstudio stops at an empty split; a training view then stands in, whose score nobody reads.
        "val_filenames": held_out or train[:1],
        "test_filenames": held_out or train[:1],
        "frames": frames,
    }
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
    write_seeds(partial / SEEDS, seeds.means, seeds.colors)
    seeds.save_ply(partial / SEED_SHAPES)
    replace_directory(partial, folder)
    return folder


def _write_frames(views: Views, folder: Path) -> list[dict[str, Any]]:
    masked = any(getattr(view, "masks", None) is not None for view in views.views)
    if masked:
        (folder / "masks").mkdir()
    frames = []
    for index, view in enumerate(views.views):
        camera = views.camera(index)
        name = f"{index:06d}.png"
        Image.fromarray(view.pyramid[-1]).save(folder / "images" / name, compress_level=1)
        frame: dict[str, Any] = {
            "file_path": f"images/{name}",
            "transform_matrix": (np.asarray(view.c2w, np.float64) @ _OPENGL_FROM_OPENCV).tolist(),
            "fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy, "w": camera.width, "h": camera.height,
        }  # fmt: skip
        if masked:
            mask = np.ones((camera.height, camera.width), bool) if view.masks is None else view.masks[-1]
            Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(folder / "masks" / name)
            frame["mask_path"] = f"masks/{name}"
        frames.append(frame)
    return frames


def write_seeds(path: Path, points: NDArray[np.floating], colors: NDArray[np.floating]) -> None:
    """Write points ``[N, 3]`` [m] and their colours ``[N, 3]`` in 0..1 as a coloured point cloud."""
    rows = np.zeros(
        len(points), [(axis, "<f4") for axis in "xyz"] + [(c, "u1") for c in ("red", "green", "blue")]
    )
    for k, axis in enumerate("xyz"):
        rows[axis] = points[:, k]
    for k, channel in enumerate(("red", "green", "blue")):
        rows[channel] = np.round(255 * np.clip(colors[:, k], 0, 1)).astype(np.uint8)
    write_ply(path, {"vertex": rows})
