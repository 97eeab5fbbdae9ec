"""What a reader of a layout hands over, and what the layouts share: finding scenes, nerfstudio's files, the frame of splats."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.formats import load_splats
from gaussgym_scene.frames import OPENCV_FROM_OPENGL
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.splats import Splats
from numpy.typing import NDArray

from gaussgym_recon.moving import proper_rotation
from gaussgym_recon.posed import Similarity

SEARCH_DEPTH = 6
"""Folders below a given one in which scenes are looked for."""


@dataclass
class Published:
    """A scene as it was published.

    Attributes:
        name: Of the scene.
        splats: In the frame of their file.
        mesh: In the layout's frame.
        layout_from_splats: From the splats' frame to the layout's.
        world_from_layout: To metres and +Z up; where its origin lies does not matter.
        track_c2w: Cameras in the order of the walk, in the layout's frame, OpenCV `[n, 4, 4]`; None where there are none.
        capture: What tells the capture from others, '' for its splats: scenes with the same one stay on one side of a split.
        scale_source: Where metres come from.
        gravity_source: Where up comes from.
        notes: Further entries of the scene's metadata.
    """

    name: str
    splats: Splats
    mesh: Mesh
    layout_from_splats: Similarity
    world_from_layout: Similarity
    track_c2w: NDArray[np.float64] | None
    capture: str
    scale_source: str
    gravity_source: str
    notes: dict[str, Any] = field(default_factory=dict)


def existing(path: Path) -> Path:
    """The path as it is spelled on disk, whatever case it was given in.

    Raises:
        InputError: Nothing is there; the text names the first part that is missing and what stands beside it.
    """
    if path.exists():
        return path
    found = Path(path.anchor) if path.is_absolute() else Path()
    for part in path.parts[1 if path.is_absolute() else 0 :]:
        if part == ".." or (found / part).exists():
            found /= part
            continue
        beside = sorted(os.listdir(found)) if found.is_dir() else []
        alike = [name for name in beside if name.lower() == part.lower()]
        if len(alike) != 1:
            listed = ", ".join(beside[:8]) + (", …" if len(beside) > 8 else "")
            raise InputError(f"{path}: {part!r} not found in {found}, which holds: {listed or 'nothing'}")
        found /= alike[0]
    return found


def member(folder: Path, name: str) -> Path | None:
    """A file or folder by its name in any case; None where there is none."""
    if (folder / name).exists():
        return folder / name
    alike = (
        [entry for entry in folder.iterdir() if entry.name.lower() == name.lower()] if folder.is_dir() else []
    )
    return alike[0] if len(alike) == 1 else None


def choose_scene(path: Path, wanted: str, is_scene: Callable[[Path], bool], expected: str) -> Path:
    """The scene folder at a path, or the wanted one below it.

    Args:
        path: A scene folder, or one above it; in any case.
        wanted: Name or relative path of the scene, in any case; '' where there is but one.
        is_scene: Whether a folder is a scene of the layout.
        expected: What a scene of the layout holds, for the message.

    Raises:
        InputError: There is none, or not exactly one.
    """
    path = existing(path)
    if not path.is_dir():
        raise InputError(f"{path}: is a file, expected a folder with {expected}")
    if is_scene(path) and wanted.lower() in ("", path.name.lower()):
        return path
    found = _scenes_below(path, is_scene)
    if not found:
        raise InputError(f"{path}: found no scene in it, expected a folder with {expected}")
    names = [scene.relative_to(path).as_posix() for scene in found]
    listed = ", ".join(names[:8]) + (f", … ({len(names)} in all)" if len(names) > 8 else "")
    if not wanted:
        if len(found) == 1:
            return found[0]
        raise InputError(f"{path}: holds {len(found)} scenes, choose one with --scene: {listed}")
    key = wanted.strip("/").lower()
    hits = [n for n, name in enumerate(names) if name.lower() == key or name.lower().endswith("/" + key)]
    if len(hits) != 1:
        many = f"is the name of {len(hits)} scenes" if hits else "is none of the scenes"
        raise InputError(f"{path}: {wanted!r} {many} there, expected one of: {listed}")
    return found[hits[0]]


def _scenes_below(root: Path, is_scene: Callable[[Path], bool]) -> list[Path]:
    found, level = [], [root]
    for _ in range(SEARCH_DEPTH):
        below = [entry for folder in level for entry in sorted(folder.iterdir()) if entry.is_dir()]
        found += [folder for folder in below if is_scene(folder)]
        level = [folder for folder in below if not is_scene(folder) and folder.name.lower() != "splatfacto"]
    return sorted(found)


def read_splat_folder(scene: Path) -> tuple[Splats, Similarity, list[str]]:
    """Splats that nerfstudio trained and exported, and the frame that its cameras were given in.

    nerfstudio's model frame is `scale · (R x + t)` of the points x of the poses' frame, by `dataparser_transforms.json` (or
    `<splats>_splat.json`, which goes first).

    Returns:
        Splats in the model frame, the similarity from there to the frame before `dataparser_transforms.json`, the files read.

    Raises:
        InputError: Something is missing or damaged.
    """
    folder = member(scene, "splatfacto")
    if folder is None or not folder.is_dir():
        raise InputError(f"{scene}: has no folder splatfacto, expected the splats in splatfacto/splat.ply")
    ply = member(folder, "splat.ply")
    if ply is None:
        raise InputError(f"{folder}: has no splat.ply, expected the splats that ns-export wrote")
    frame = member(folder, "splat_splat.json") or member(folder, "dataparser_transforms.json")
    if frame is None:
        raise InputError(
            f"{folder}: has no dataparser_transforms.json; without it nobody knows the splats' frame and scale"
        )
    fields = read_object(frame)
    rows = table(fields.get("transform"), (3, 4), f"{frame}: transform")
    scale = positive(fields.get("scale"), f"{frame}: scale")
    rotation = proper_rotation(rows[:, :3], f"{frame}: transform")
    model_from_poses = Similarity(scale, rotation, scale * rows[:, 3])
    return (
        load_splats(ply),
        model_from_poses.inverse(),
        [f"{folder.name}/{ply.name}", f"{folder.name}/{frame.name}"],
    )


@dataclass
class Transforms:
    """A nerfstudio `transforms.json`.

    Attributes:
        names: File stems of the frames, in the file's order.
        c2w: OpenCV cameras in the file's frame `[n, 4, 4]`.
        file_from_original: nerfstudio's `applied_transform` and `applied_scale`: the file's frame from that before. What
            `dataparser_transforms.json` says holds for the frame before.
    """

    names: list[str]
    c2w: NDArray[np.float64]
    file_from_original: Similarity


def read_transforms(path: Path) -> Transforms:
    """Cameras of a nerfstudio `transforms.json` (OpenGL there).

    Raises:
        InputError: It is damaged, or a frame has no pose.
    """
    fields = read_object(path)
    frames = fields.get("frames")
    if not isinstance(frames, list) or not frames:
        raise InputError(f"{path}: has no frames, expected cameras in 'frames': [...]")
    names, poses = [], []
    for n, frame in enumerate(frames):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise InputError(f"{path}: frames[{n}] has no file_path, expected the name of its image")
        where = f"{path}: frames[{n}] transform_matrix"
        matrix = table(frame.get("transform_matrix"), (4, 4), where)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = proper_rotation(matrix[:3, :3], where), matrix[:3, 3]
        names.append(Path(frame["file_path"].replace("\\", "/")).stem)
        poses.append(pose @ OPENCV_FROM_OPENGL)
    scale = positive(fields.get("applied_scale", 1.0), f"{path}: applied_scale")
    applied = Similarity(scale, np.eye(3), np.zeros(3))
    if fields.get("applied_transform") is not None:
        where = f"{path}: applied_transform"
        rows = np.asarray(table(fields["applied_transform"], (3, 4), where))
        applied = Similarity(scale, proper_rotation(rows[:, :3], where), scale * rows[:, 3])
    return Transforms(names, np.stack(poses), applied)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: The file is missing, damaged or something else.
    """
    try:
        fields = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path}: not readable as JSON ({reason}); copy the file again") from None
    if not isinstance(fields, dict):
        raise InputError(f"{path}: holds a {type(fields).__name__}, expected an object")
    return fields


def table(value: Any, shape: tuple[int, int], where: str) -> NDArray[np.float64]:
    """Numbers of a file in rows; more rows than expected are cut off where they are those of a 4×4 matrix.

    Raises:
        InputError: Another shape, or values that are no finite numbers.
    """
    try:
        rows = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"{where}: found no table of numbers, expected {shape[0]} rows of {shape[1]}"
        ) from None
    if rows.shape == (4, 4) and shape == (3, 4):
        rows = rows[:3]
    if rows.shape != shape or not np.isfinite(rows).all():
        raise InputError(
            f"{where}: found shape {rows.shape} or values that are not finite, expected {shape} numbers"
        )
    return rows


def positive(value: Any, where: str) -> float:
    """A positive finite number.

    Raises:
        InputError: It is none.
    """
    fits = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value) and value > 0
    if not fits:
        raise InputError(f"{where}: found {value!r}, expected a positive number")
    return float(value)
