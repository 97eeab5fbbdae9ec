"""nerfstudio's transforms.json (also instant-ngp's) → a capture: every lens, masks, depths, its frame change undone.

Layout by nerfstudio's data conventions and its data parser (1.1.5): `transform_matrix` is camera-to-world with OpenGL cameras,
in the frame ``x_json = applied_scale * (A x)`` where A is `applied_transform`; seed points lie in that frame too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.capture import read_points
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray

from gaussgym_recon.sources.images import natural_order
from gaussgym_recon.sources.lenses import Lens, colmap_lens, describe, panorama_lens, polynomial_lens
from gaussgym_recon.sources.posed_frames import PosedImage, as_frames, find_images, fitted, image_size
from gaussgym_recon.sources.selection import choose_frames
from gaussgym_recon.sources.source import Progress, Source, SourceCfg
from gaussgym_recon.sources.writing import IMAGE_SUFFIXES, write_capture
from gaussgym_recon.views import read_grey

OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
PERSPECTIVE = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "PERSPECTIVE")
SLACK = 1e-3
"""By how much a written rotation may be off orthonormal; it is made exact."""


@dataclass(frozen=True, kw_only=True)
class NerfstudioCfg(SourceCfg):
    """Settings of transforms.json."""

    skip_missing: bool = False
    """Go on without images that are missing."""
    ordered: bool = False
    """Whether the images, by name, are in the order in which they were taken."""
    depth_unit_m: float | None = None
    """What one count of a depth image is worth [m]; depth_unit_scale_factor of the file, else 0.001, where not given."""
    metric: bool = False
    """Whether the poses are in metres (as those of phones are); the file does not say."""


def import_nerfstudio(
    path: Path, output: Path, cfg: NerfstudioCfg | None = None, *, progress: Progress | None = None
) -> Path:
    """Make a capture of a transforms.json and its images.

    Args:
        path: The file, or its folder.
        output: Folder of the capture.
        cfg: Settings.
        progress: Told the fraction that is done.

    Returns:
        `output`.

    Raises:
        InputError: The file is damaged or has a camera of no kind that nerfstudio knows, or images are missing.
    """
    cfg, path = cfg or NerfstudioCfg(), Path(path)
    path = path / "transforms.json" if path.is_dir() else path
    meta = _read(path)
    frames = sorted(meta["frames"], key=lambda frame: natural_order(str(frame["file_path"])))
    files = find_images(
        [_named(path.parent, str(frame["file_path"])) for frame in frames],
        [path.parent, path.parent / "images"],
        path,
        skip_missing=cfg.skip_missing,
    )
    undo = _undo_applied(path, meta)
    there = [(frame, file) for frame, file in zip(frames, files) if file is not None]
    chosen = choose_frames([file for _, file in there], cfg.frames, progress=progress)
    lenses: dict[str, Intrinsics | Lens] = {}
    images = [
        _image(path, meta, frame, file, undo, lenses, cfg) for frame, file in (there[i] for i in chosen)
    ]
    points, colors = _points(path, meta, undo)
    metadata: dict[str, Any] = {"source": "nerfstudio", "ordered": cfg.ordered, "poses_source": "sfm"}
    metadata.update(metric=cfg.metric, scale_source="user" if cfg.metric else None)
    if undistorted := describe([image.camera for image in images]):
        metadata["undistorted_from"] = undistorted
    return write_capture(
        output,
        as_frames(images),
        metadata,
        points,
        colors=colors,
        cfg=cfg,
        total=len(images),
        progress=progress,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: not found; expected nerfstudio's transforms.json") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); export it again") from None
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list) or not all(
        isinstance(frame, dict) and {"file_path", "transform_matrix"} <= set(frame) for frame in frames
    ):
        raise InputError(
            f"{path}: lacks its frames with file_path and transform_matrix; expected transforms.json"
        )
    if len(frames) < 2:
        raise InputError(f"{path}: has {len(frames)} frames, expected two or more")
    return meta


def _named(folder: Path, name: str) -> str:
    """The name of a file that exists: instant-ngp leaves out the suffix."""
    name = name.removeprefix("./")
    if Path(name).suffix.lower() in IMAGE_SUFFIXES:
        return name
    return next((name + s for s in (".png", *IMAGE_SUFFIXES) if (folder / (name + s)).is_file()), name)


def _undo_applied(path: Path, meta: dict[str, Any]) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Function that takes positions `[..., 3]` of the file's frame back to the original one; its rotation as `.rotation`."""
    try:
        applied = np.asarray(meta.get("applied_transform", np.eye(4)[:3]), np.float64)[:3].reshape(3, 4)
        scale = float(meta.get("applied_scale", 1.0))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: applied_transform or applied_scale misuses {error}; expected 3x4 and a number"
        ) from None
    rotation = applied[:, :3]
    off = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if not (off < SLACK and np.linalg.det(rotation) > 0 and np.isfinite(scale) and scale > 0):
        raise InputError(
            f"{path}: applied_transform is no rotation, or applied_scale {scale} is not positive"
        )
    return lambda position: (position / scale - applied[:, 3]) @ rotation


def _image(
    path: Path,
    meta: dict[str, Any],
    frame: dict[str, Any],
    file: Path,
    undo: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    lenses: dict[str, Intrinsics | Lens],
    cfg: NerfstudioCfg,
) -> PosedImage:
    name = str(frame["file_path"]).removeprefix("./").removeprefix("images/")
    where = f"{path}: {name}"
    try:
        matrix = np.asarray(frame["transform_matrix"], np.float64)[:3].reshape(3, 4)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: transform_matrix misuses {error}; expected 4x4 numbers") from None
    matrix = np.vstack([matrix, [0, 0, 0, 1]]) @ OPENCV_FROM_OPENGL
    zero = undo(np.zeros(3))
    c2w = np.eye(4)
    scale = np.linalg.norm(undo(np.eye(3)[0]) - zero)
    turn = np.column_stack([(undo(axis) - zero) / scale for axis in np.eye(3)])
    c2w[:3, :3], c2w[:3, 3] = turn @ rigid(matrix[:3, :3], where), undo(matrix[:3, 3])
    camera = fitted(_camera(path, meta, frame, file, lenses), file)
    depth = mask = None
    if frame.get("depth_file_path"):
        unit_m = meta.get("depth_unit_scale_factor", 1e-3) if cfg.depth_unit_m is None else cfg.depth_unit_m
        depth = _depth(path.parent / str(frame["depth_file_path"]), float(unit_m))
    if frame.get("mask_path"):
        mask = read_grey(path.parent / str(frame["mask_path"])) > 0
    safe = "/".join(part for part in Path(name).parts if part not in ("..", "/"))
    return PosedImage(safe, file, camera, c2w, None, depth, mask)


def rigid(rotation: NDArray[np.float64], where: str) -> NDArray[np.float64]:
    """The rotation nearest to a matrix `[3, 3]` that is one but for rounding (polar decomposition).

    Raises:
        InputError: It is none.
    """
    if not np.isfinite(rotation).all():
        raise InputError(f"{where}: its pose holds NaN or infinite numbers; export it again")
    u, s, vt = np.linalg.svd(rotation)
    if np.abs(s - 1).max() > SLACK or np.linalg.det(rotation) < 0:
        raise InputError(
            f"{where}: its pose is no rotation (singular values {s.round(4).tolist()}, determinant "
            f"{np.linalg.det(rotation):.2f}); expected a rigid camera-to-world matrix"
        )
    return u @ vt


def _camera(
    path: Path, meta: dict[str, Any], frame: dict[str, Any], file: Path, lenses: dict[str, Intrinsics | Lens]
) -> Intrinsics | Lens:
    """The camera of a frame, from its own entries before those of the file; equal ones are one object."""
    known = {**meta, **frame}
    try:
        model = str(known.get("camera_model", "OPENCV"))
        width, height = int(known.get("w", 0)), int(known.get("h", 0))
        if width <= 0 or height <= 0:
            width, height = image_size(file)
        if model == "EQUIRECTANGULAR":
            return lenses.setdefault(f"pano {width}x{height}", panorama_lens(width, height))
        fx = (
            float(known["fl_x"])
            if "fl_x" in known
            else width / (2 * np.tan(float(known["camera_angle_x"]) / 2))
        )
        fy = float(known.get("fl_y", fx))
        cx, cy = float(known.get("cx", width / 2)), float(known.get("cy", height / 2))
        listed = known.get("distortion_params")
        k1, k2, k3, k4, p1, p2 = (
            (float(value) for value in listed)
            if listed is not None
            else (float(known.get(name, 0.0)) for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
        )
    except KeyError as error:
        raise InputError(
            f"{path}: has no focal length for {file.name} (lacks {error}); expected fl_x"
        ) from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: the camera of {file.name} misuses {error}; expected numbers") from None
    values = [fx, fy, cx, cy, k1, k2, k3, k4, p1, p2]
    key = f"{model} {width} {height} {values}"
    if key not in lenses:
        lenses[key] = _lens(path, model, width, height, values)
    return lenses[key]


def _lens(path: Path, model: str, width: int, height: int, values: list[float]) -> Intrinsics | Lens:
    fx, fy, cx, cy, k1, k2, k3, k4, p1, p2 = values
    if model == "OPENCV_FISHEYE":
        return colmap_lens(model, width, height, [fx, fy, cx, cy, k1, k2, k3, k4])
    if model not in PERSPECTIVE:
        raise InputError(
            f"{path}: camera_model {model} is not read; expected {', '.join(PERSPECTIVE)}, OPENCV_FISHEYE or EQUIRECTANGULAR"
        )
    if k3 or k4:
        k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        return polynomial_lens(f"{model} with k3, k4", width, height, k, (k1, k2, k3, k4), p1, p2)
    return Intrinsics(width=width, height=height, fx=fx, fy=fy, cx=cx, cy=cy, distortion=(k1, k2, p1, p2))


def _depth(file: Path, unit_m: float) -> NDArray[np.floating]:
    if file.suffix.lower() != ".npy":
        return read_grey(file).astype(np.float32) * np.float32(unit_m)
    try:
        depth = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: not readable as a depth image ({error}); export it again") from None
    depth = np.asarray(depth, np.float32).squeeze()
    if depth.ndim != 2:
        raise InputError(
            f"{file}: has the shape {list(depth.shape)}, expected a depth image of two dimensions"
        )
    return depth * np.float32(unit_m)


def _points(
    path: Path, meta: dict[str, Any], undo: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> tuple[NDArray[np.float64] | None, NDArray[np.uint8] | None]:
    name = meta.get("ply_file_path")
    if not name:
        return None, None
    points, colors = read_points_any(path.parent / str(name))
    return undo(points), colors


def read_points_any(path: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8] | None]:
    """Points of a PLY, binary or text: `[P, 3]`, and RGB `[P, 3]` or None.

    Raises:
        InputError: It is no such file.
    """
    try:
        data = path.read_bytes()
    except OSError:
        raise InputError(
            f"{path}: not found, though it is named as the points; expected a PLY file"
        ) from None
    if b"format ascii" not in data[:200]:
        return read_points(path)
    head, _, body = data.partition(b"end_header")
    lines = [line.split() for line in head.decode("ascii", "replace").splitlines()]
    vertex = next((i for i, words in enumerate(lines) if words[:2] == ["element", "vertex"]), None)
    try:
        assert vertex is not None
        count = int(lines[vertex][2])
        names = []
        for words in lines[vertex + 1 :]:
            if words[:1] != ["property"]:
                break
            names.append(words[-1])
        rows = np.array(
            [line.split()[: len(names)] for line in body.decode("ascii").splitlines()[1 : count + 1]], float
        )
        points = rows.reshape(count, len(names))[:, [names.index(axis) for axis in "xyz"]]
        rgb = [names.index(name) for name in ("red", "green", "blue") if name in names]
    except (AssertionError, ValueError, IndexError) as error:
        raise InputError(f"{path}: not readable as a text PLY of points ({error}); export it again") from None
    return points, rows[:, rgb].astype(np.uint8) if len(rgb) == 3 else None


SOURCE = Source(import_nerfstudio, NerfstudioCfg, "nerfstudio's transforms.json, or the folder that holds it")
