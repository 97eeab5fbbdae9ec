"""The capture artifact: photographs of one place and what is known of their cameras and depths."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaussgym_scene.artifact import read_artifact
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from gaussgym_scene.ply import read_ply, write_ply

MANIFEST = "capture.json"
FORMAT = "gaussgym-capture"
VERSION = 1
DEPTH_UNIT_M = 1e-3
"""What one count of a depth image is worth [m]."""
MAX_DEPTH_M = 65.535
"""The farthest depth that a 16-bit image of millimetres holds [m]."""
ORTHONORMAL_TOLERANCE = 1e-5
"""By how much `R^T R` of a pose may differ from the identity, in any element."""


@dataclass
class CaptureImage:
    """One photograph."""

    file: str
    """Path relative to the capture's folder, such as `images/0001.jpg`."""
    intrinsics: Intrinsics
    """The camera as far as it is known; `focal_source` says how far. May differ from image to image."""
    gps_lat_lon_alt: tuple[float, float, float] | None = None
    """WGS84 latitude and longitude [deg], altitude [m]."""
    c2w: NDArray[np.float64] | None = None
    """Camera-to-world pose `[4, 4]` (OpenCV, right-handed, orthonormal) where the source knows it, in the source's frame."""
    timestamp_s: float | None = None
    """Time of the picture [s], any origin."""
    depth: str | None = None
    """File of a 16-bit grey PNG: depth along the camera's +Z [mm], 0 = none; the image's field of view, at any resolution."""
    confidence: str | None = None
    """File of an 8-bit grey PNG of the depth's size: 0 low, 1 medium, 2 high."""
    mask: str | None = None
    """File of an 8-bit grey PNG of the image's size: 0 = ignore (people, sky, the operator), 255 = use."""


@dataclass
class Capture:
    """An ordered set of photographs, and its manifest's other fields.

    `metadata` holds

    - `source` ('images', 'video', 'synthetic', 'colmap', ...), `source_app`, `licence`;
    - `ordered`: whether neighbours in the list were neighbours in time;
    - `points_file`: where there are points, in the frame of `c2w`;
    - `metric`: whether `c2w` and points are in metres by the source's own sensors;
    - `scale_source`: 'sensor', 'gps', 'user', or None where unknown;
    - `gravity_source`: 'sensor', or None where unknown; with it `up`, `[3]`, in the frame of `c2w`;
    - `poses_source`: 'arkit', 'slam', 'sfm', 'feed-forward', or None;
    - `undistorted_from`: the lens model that the images had before they were made pinhole images at import.
    """

    directory: Path
    images: list[CaptureImage]
    metadata: dict[str, Any] = field(default_factory=dict)

    def path(self, index: int) -> Path:
        """File of the image at `index`."""
        return self.directory / self.images[index].file

    @property
    def posed(self) -> bool:
        """Whether every image has a pose by the source."""
        return bool(self.images) and all(image.c2w is not None for image in self.images)

    def manifest_fields(self) -> dict[str, Any]:
        """The manifest's entries beside format, version and files."""
        return {"metadata": self.metadata, "images": [_entry_of(image) for image in self.images]}

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.uint8] | None] | None:
        """The source's points `[P, 3]` in the frame of `c2w`, and their RGB `[P, 3]` or None; None without points.

        Raises:
            InputError: The file is no PLY of points, or holds numbers that are not finite.
        """
        name = self.metadata.get("points_file")
        return None if name is None else read_points(self.directory / str(name))

    @classmethod
    def load(cls, directory: Path | str, *, verify: bool = True) -> Capture:
        """Open a capture folder after checking its manifest and files.

        Raises:
            InputError: If the folder is no capture, a file is missing or damaged, or an entry contradicts its files.
        """
        directory = Path(directory)
        if directory.name == MANIFEST:
            directory = directory.parent
        fields = read_artifact(
            directory, manifest=MANIFEST, format=FORMAT, versions=(VERSION,), verify=verify
        )
        path = directory / MANIFEST
        metadata, entries = fields.get("metadata", {}), fields.get("images")
        if not isinstance(metadata, dict) or not isinstance(entries, list):
            raise InputError(f"{path}: lacks its list of images or its metadata; import it again")
        images = []
        for index, entry in enumerate(entries):
            try:
                images.append(_image_from(entry))
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise InputError(
                    f"{path}: image entry {index} lacks or misuses {error}; import it again"
                ) from None
        listed = set(fields["files"])
        for image in images:
            _check_image(directory, image, listed)
        _check_metadata(path, metadata, listed)
        return cls(directory, images, metadata)


def write_points(
    path: Path | str, points: NDArray[np.floating], colors: NDArray[np.uint8] | None = None
) -> None:
    """Write points as a binary PLY.

    Args:
        path: The file.
        points: `[P, 3]`, kept in double precision: maps may lie far from their origin.
        colors: RGB `[P, 3]`, or None.
    """
    fields: list[tuple[str, str]] = [(name, "<f8") for name in "xyz"]
    if colors is not None:
        fields += [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.empty(len(points), dtype=fields)
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    if colors is not None:
        for channel, name in enumerate(("red", "green", "blue")):
            rows[name] = colors[:, channel]
    write_ply(path, {"vertex": rows})


def read_points(path: Path | str) -> tuple[NDArray[np.float64], NDArray[np.uint8] | None]:
    """Read the vertices of a binary PLY: `[P, 3]`, and RGB `[P, 3]` or None.

    Raises:
        InputError: The file is no such PLY, or holds numbers that are not finite.
    """
    rows = read_ply(path).get("vertex")
    names = () if rows is None else rows.dtype.names or ()
    if rows is None or not {"x", "y", "z"} <= set(names):
        raise InputError(f"{path}: has no vertices with x, y and z; expected a PLY of points")
    points = np.stack([rows[name] for name in "xyz"], axis=1).astype(np.float64)
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points)).any(axis=1).sum())
        raise InputError(
            f"{path}: {bad} of {len(points)} points are NaN or infinite; export the points again"
        )
    rgb = ("red", "green", "blue")
    colors = (
        np.stack([rows[name] for name in rgb], axis=1).astype(np.uint8) if set(rgb) <= set(names) else None
    )
    return points, colors


def png_header(path: Path) -> tuple[int, int, int, int]:
    """Width, height, bits a sample and colour type (0 = grey) of a PNG, without decoding it (PNG specification, IHDR).

    Raises:
        InputError: The file is no PNG.
    """
    with path.open("rb") as file:
        head = file.read(33)
    if len(head) < 33 or head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
        raise InputError(f"{path}: is no PNG image; import the capture again")
    return struct.unpack(">IIBB", head[16:26])


def check_pose(c2w: NDArray[np.float64], where: str) -> None:
    """Check that a camera-to-world matrix `[4, 4]` is finite, rigid and right-handed.

    Raises:
        InputError: It is not; the text begins with `where`.
    """
    if not np.isfinite(c2w).all():
        raise InputError(f"{where}: its pose holds NaN or infinite numbers; import the capture again")
    rotation = c2w[:3, :3]
    off = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    if off > ORTHONORMAL_TOLERANCE or np.linalg.det(rotation) < 0 or (c2w[3] != [0, 0, 0, 1]).any():
        raise InputError(
            f"{where}: its pose is no rotation and translation (R^T R is off by {off:.2g}, determinant "
            f"{np.linalg.det(rotation):.2f}); expected a right-handed camera-to-world matrix"
        )


def _entry_of(image: CaptureImage) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "file": image.file,
        "intrinsics": image.intrinsics.to_dict(),
        "gps_lat_deg_lon_deg_alt_m": image.gps_lat_lon_alt,
        "c2w": image.c2w,
        "timestamp_s": image.timestamp_s,
    }
    for name in ("depth", "confidence", "mask"):
        if getattr(image, name) is not None:
            entry[name] = getattr(image, name)
    return entry


def _image_from(entry: dict[str, Any]) -> CaptureImage:
    gps = entry.get("gps_lat_deg_lon_deg_alt_m")
    c2w = entry.get("c2w")
    time_s = entry.get("timestamp_s")
    files = {name: entry.get(name) for name in ("depth", "confidence", "mask")}
    for name, file in {**files, "file": entry["file"]}.items():
        if not isinstance(file, str) and (file is not None or name == "file"):
            raise TypeError(f"{name} {file!r}")
    return CaptureImage(
        file=entry["file"],
        intrinsics=Intrinsics.from_dict(entry["intrinsics"]),
        gps_lat_lon_alt=None if gps is None else (float(gps[0]), float(gps[1]), float(gps[2])),
        c2w=None if c2w is None else np.asarray(c2w, dtype=np.float64).reshape(4, 4),
        timestamp_s=None if time_s is None else float(time_s),
        **files,
    )


def _check_image(directory: Path, image: CaptureImage, listed: set[str]) -> None:
    """Check one entry against its files: sizes and kinds by their headers, no pixels are decoded."""
    for name in (image.file, image.depth, image.confidence, image.mask):
        if name is not None and name not in listed:
            raise InputError(
                f"{directory / MANIFEST}: names {name!r}, which is not among its files; import it again"
            )
    if image.c2w is not None:
        check_pose(image.c2w, str(directory / image.file))
    if image.confidence is not None and image.depth is None:
        raise InputError(
            f"{directory / image.confidence}: a confidence without a depth; import the capture again"
        )
    size = (image.intrinsics.width, image.intrinsics.height)
    if image.depth is not None:
        depth_size = _check_grey(directory / image.depth, 16, None)
        if image.confidence is not None:
            _check_grey(directory / image.confidence, 8, depth_size)
    if image.mask is not None:
        _check_grey(directory / image.mask, 8, size)


def _check_grey(path: Path, bits: int, size: tuple[int, int] | None) -> tuple[int, int]:
    width, height, found_bits, kind = png_header(path)
    if (found_bits, kind) != (bits, 0):
        raise InputError(
            f"{path}: {found_bits} bits of PNG colour type {kind}, expected a grey PNG of {bits} bits; import it again"
        )
    if size is not None and (width, height) != size:
        raise InputError(
            f"{path}: is {width}x{height}, expected {size[0]}x{size[1]}; import the capture again"
        )
    return width, height


def _check_metadata(path: Path, metadata: dict[str, Any], listed: set[str]) -> None:
    points_file = metadata.get("points_file")
    if points_file is not None and points_file not in listed:
        raise InputError(
            f"{path}: names the points {points_file!r}, which is not among its files; import it again"
        )
    up = metadata.get("up")
    if up is None:
        return
    try:
        vector = np.asarray(up, dtype=np.float64).reshape(3)
    except (TypeError, ValueError):
        vector = np.full(3, np.nan)
    if not abs(float(np.linalg.norm(vector)) - 1.0) < 1e-3:
        raise InputError(f"{path}: 'up' is {up!r}, expected a unit vector of three numbers; import it again")
