"""COLMAP's sparse models, read here so that a damaged file is an error message and not the end of the process.

Layout by COLMAP's documentation of its output format: little-endian, poses world-to-camera with OpenCV cameras,
quaternions wxyz, pixel centres at 0.5. Files rigs and frames of newer models are not needed: images hold their poses.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import matrix_from_quat_wxyz
from numpy.typing import NDArray

PARAMETERS = (
    ("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8), ("OPENCV_FISHEYE", 8),
    ("FULL_OPENCV", 12), ("FOV", 5), ("SIMPLE_RADIAL_FISHEYE", 4), ("RADIAL_FISHEYE", 5), ("THIN_PRISM_FISHEYE", 12),
    ("RAD_TAN_THIN_PRISM_FISHEYE", 16), ("SIMPLE_DIVISION", 4), ("DIVISION", 5), ("SIMPLE_FISHEYE", 3), ("FISHEYE", 4),
    ("EUCM", 6), ("EQUIRECTANGULAR", 2),
)  # fmt: skip
"""Name and number of parameters of each model, by its id in binary files."""


@dataclass(frozen=True)
class ColmapCamera:
    """One line of cameras."""

    model: str
    width: int
    height: int
    params: list[float]


@dataclass(frozen=True)
class ColmapImage:
    """One registered image."""

    name: str
    camera_id: int
    c2w: NDArray[np.float64]


@dataclass(frozen=True)
class ColmapModel:
    """A sparse model."""

    cameras: dict[int, ColmapCamera]
    images: list[ColmapImage]
    """Sorted by name."""
    points: NDArray[np.float64]
    """`[P, 3]`."""
    colors: NDArray[np.uint8]
    """`[P, 3]`."""


def find_model(folder: Path) -> Path | None:
    """Where the model lies: the folder itself, `sparse/0`, `sparse`, `colmap/sparse/0`, or `0`; None where there is none."""
    for place in (".", "sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", "0"):
        for suffix in (".bin", ".txt"):
            if (folder / place / f"cameras{suffix}").is_file() and (
                folder / place / f"images{suffix}"
            ).is_file():
                return folder / place
    return None


def read_model(folder: Path) -> ColmapModel:
    """Read a model, binary files before text ones; points3D may be missing.

    Raises:
        InputError: A file is missing, cut short or contradicts another.
    """
    binary = (folder / "cameras.bin").is_file() and (folder / "images.bin").is_file()
    suffix = ".bin" if binary else ".txt"
    cameras_file, images_file, points_file = (
        folder / f"{name}{suffix}" for name in ("cameras", "images", "points3D")
    )
    try:
        cameras = _cameras_bin(cameras_file) if binary else _cameras_txt(cameras_file)
        images = _images_bin(images_file) if binary else _images_txt(images_file)
        points = np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
        if points_file.is_file():
            points = _points_bin(points_file) if binary else _points_txt(points_file)
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename}: not found; expected a COLMAP model with cameras and images"
        ) from None
    if unknown := [image for image in images if image.camera_id not in cameras]:
        raise InputError(
            f"{images_file}: {unknown[0].name} is of camera {unknown[0].camera_id}, which {cameras_file.name} lacks"
        )
    return ColmapModel(cameras, sorted(images, key=lambda image: image.name), *points)


class _Reader:
    """Numbers from the bytes of a binary file, one after the other."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def take(self, layout: str) -> tuple:
        size = struct.calcsize("<" + layout)
        if self.at + size > len(self.data):
            raise InputError(f"{self.path}: cut short after {len(self.data)} bytes; copy the file again")
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += size
        return values

    def skip(self, size: int) -> None:
        if size < 0 or self.at + size > len(self.data):
            raise InputError(f"{self.path}: cut short after {len(self.data)} bytes; copy the file again")
        self.at += size

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise InputError(f"{self.path}: cut short after {len(self.data)} bytes; copy the file again")
        value = self.data[self.at : end].decode("utf-8", errors="replace")
        self.at = end + 1
        return value


def _cameras_bin(path: Path) -> dict[int, ColmapCamera]:
    reader, cameras = _Reader(path), {}
    for _ in range(reader.take("Q")[0]):
        number, model, width, height = reader.take("IiQQ")
        if not 0 <= model < len(PARAMETERS):
            raise InputError(
                f"{path}: camera {number} has the model {model}, expected 0 to {len(PARAMETERS) - 1}"
            )
        name, count = PARAMETERS[model]
        cameras[number] = ColmapCamera(name, width, height, list(reader.take(f"{count}d")))
    return cameras


def _images_bin(path: Path) -> list[ColmapImage]:
    reader, images = _Reader(path), []
    for _ in range(reader.take("Q")[0]):
        _, *pose, camera = reader.take("I7dI")
        name = reader.text()
        reader.skip(24 * reader.take("Q")[0])
        images.append(ColmapImage(name, camera, _c2w(path, name, pose)))
    return images


def _points_bin(path: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    reader = _Reader(path)
    count = reader.take("Q")[0]
    points, colors = [], []
    for _ in range(count):
        _, x, y, z, r, g, b, _, seen = reader.take("Q3d3BdQ")
        reader.skip(8 * seen)
        points.append((x, y, z))
        colors.append((r, g, b))
    return np.array(points, np.float64).reshape(-1, 3), np.array(colors, np.uint8).reshape(-1, 3)


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if not line.startswith("#")]
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no text; expected COLMAP's text files, or its binary ones") from None


def _cameras_txt(path: Path) -> dict[int, ColmapCamera]:
    cameras = {}
    for line in filter(str.strip, _lines(path)):
        try:
            number, model, width, height, *params = line.split()
            cameras[int(number)] = ColmapCamera(
                model, int(width), int(height), [float(value) for value in params]
            )
        except ValueError:
            raise InputError(
                f"{path}: line {line[:60]!r} is no camera (id, model, width, height, ...)"
            ) from None
    return cameras


def _images_txt(path: Path) -> list[ColmapImage]:
    images = []
    lines = _lines(path)
    while (
        lines and not lines[-1].strip()
    ):  # the line of the last image's points may be empty, and so may what follows
        lines.pop()
    for line in lines[::2]:
        try:
            _, *rest = line.split(maxsplit=9)
            pose, camera, name = [float(value) for value in rest[:7]], int(rest[7]), rest[8].strip()
        except (ValueError, IndexError):
            raise InputError(
                f"{path}: line {line[:60]!r} is no image (id, qw, qx, qy, qz, tx, ty, tz, camera, name); "
                "expected two lines an image"
            ) from None
        images.append(ColmapImage(name, camera, _c2w(path, name, pose)))
    return images


def _points_txt(path: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    points, colors = [], []
    for line in filter(str.strip, _lines(path)):
        try:
            words = line.split(maxsplit=7)
            points.append([float(value) for value in words[1:4]])
            colors.append([int(value) for value in words[4:7]])
            if len(points[-1]) != 3 or len(colors[-1]) != 3:
                raise ValueError(line)
        except ValueError:
            raise InputError(
                f"{path}: line {line[:60]!r} is no point (id, x, y, z, r, g, b, error, ...)"
            ) from None
    return np.array(points, np.float64).reshape(-1, 3), np.clip(colors, 0, 255).astype(np.uint8).reshape(
        -1, 3
    )


def _c2w(path: Path, name: str, pose: list[float]) -> NDArray[np.float64]:
    """Camera to world from a world-to-camera quaternion (wxyz) and translation."""
    quat, translation = np.array(pose[:4]), np.array(pose[4:7])
    norm = float(np.linalg.norm(quat))
    if not np.isfinite(pose).all() or norm < 1e-6:
        raise InputError(f"{path}: {name} has the pose {pose}, which is none; export the model again")
    rotation = matrix_from_quat_wxyz(quat / norm)
    c2w = np.eye(4)
    c2w[:3, :3], c2w[:3, 3] = rotation.T, -rotation.T @ translation
    return c2w
