"""What the exports of phone scanners have in common: depth in millimetres, confidence levels, cameras beside images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from gaussgym_recon.sources.selection import sharpest_of_spans

SAME_ASPECT_FRACTION = 0.01
"""Two sizes whose aspect ratios differ by less are of one field of view."""


def read_depth_m(file: Path) -> NDArray[np.float32]:
    """A 16-bit grey PNG of millimetres as metres `[h, w]`; 0 = none.

    Raises:
        InputError: It is no such image.
    """
    pixels = _pixels(file)
    if pixels.ndim != 2 or pixels.dtype not in (np.dtype(np.uint16), np.dtype(np.int32)):
        raise InputError(
            f"{file}: is {pixels.dtype} {pixels.shape}, expected a 16-bit grey depth image of mm"
        )
    return (pixels * 1e-3).astype(np.float32)


def read_grey8(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An 8-bit grey image that must have the shape `[h, w]`.

    Raises:
        InputError: It is no such image.
    """
    pixels = _pixels(file)
    if pixels.dtype != np.uint8 or pixels.shape != shape:
        raise InputError(
            f"{file}: is {pixels.dtype} {pixels.shape}, expected 8-bit grey of the depth's {shape}; export it again"
        )
    return pixels


def levels(values: NDArray[np.uint8], *, low: int, high: int) -> NDArray[np.uint8]:
    """Confidence as 0 (low), 1 (medium), 2 (high); what is neither the value `low` nor `high` is medium."""
    out = np.ones(values.shape, np.uint8)
    out[values == low] = 0
    out[values == high] = 2
    return out


def image_size(file: Path) -> tuple[int, int]:
    """Width and height [px] without decoding.

    Raises:
        InputError: It is no image.
    """
    try:
        with Image.open(file) as image:
            return image.size
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise InputError(
            f"{file}: is not a readable image ({error}); copy it again or remove its frame"
        ) from None


def camera_of(image: Path, fields: dict[str, Any], *, what: Path) -> Intrinsics:
    """Intrinsics `fx fy cx cy width height` of `fields`, scaled to the image's own size.

    Raises:
        InputError: They are no camera, or of another aspect ratio than the image; `what` names their file.
    """
    width, height = image_size(image)
    return scaled_camera(fields, width, height, what=f"{what}", image=image.name)


def scaled_camera(fields: dict[str, Any], width: int, height: int, *, what: str, image: str) -> Intrinsics:
    """As :func:`camera_of`, for an image whose size is known."""
    try:
        camera = Intrinsics(
            width=int(fields["width"]),
            height=int(fields["height"]),
            fx=float(fields["fx"]),
            fy=float(fields["fy"]),
            cx=float(fields["cx"]),
            cy=float(fields["cy"]),
        )
    except InputError as error:
        raise InputError(f"{what}: {error}") from None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{what}: lacks or misuses {error} of the camera; export it again") from None
    if not same_aspect(camera.width, camera.height, width, height):
        raise InputError(
            f"{what}: camera of {camera.width}x{camera.height}, but {image} is {width}x{height}: "
            "another shape; export both again"
        )
    return camera.resized(width, height)


def same_aspect(width_a: int, height_a: int, width_b: int, height_b: int) -> bool:
    """Whether two sizes have one aspect ratio, within rounding."""
    a, b = width_a * height_b, height_a * width_b
    return abs(a - b) <= SAME_ASPECT_FRACTION * max(a, b)


def _pixels(file: Path) -> NDArray[Any]:
    try:
        with Image.open(file) as image:
            return np.asarray(image)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise InputError(f"{file}: is not a readable image ({error}); export it again") from None


def read_cloud(file: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8] | None]:
    """Vertices `[P, 3]` of a PLY, text or binary, and their RGB `[P, 3]` or None.

    Raises:
        InputError: It has no vertices, or some that are not finite.
    """
    import open3d as o3d

    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        cloud = o3d.io.read_point_cloud(file)
    points = np.asarray(cloud.points, dtype=np.float64)
    if len(points) == 0 or not np.isfinite(points).all():
        raise InputError(f"{file}: holds no finite vertices; copy the file again or remove it")
    colors = np.asarray(cloud.colors)
    return points, np.round(colors * 255).astype(np.uint8) if len(colors) == len(points) else None


def read_rgb(file: Path) -> NDArray[np.uint8]:
    """Pixels `[h, w, 3]` of an image.

    Raises:
        InputError: It is none.
    """
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise InputError(f"{file}: is not a readable image ({error}); copy it again") from None


def kept_of(total: int, frames: int | None, score: Callable[[int], float]) -> list[int]:
    """Indices of the frames to keep: the best of equal spans; all where there are no more than `frames`.

    Args:
        total: How many there are.
        frames: How many to keep; None for all.
        score: Of the frame at an index; higher is sharper.

    Raises:
        InputError: `frames` is below two.
    """
    if frames is not None and frames < 2:
        raise InputError(f"--frames {frames}: expected two or more")
    if frames is None or total <= frames:
        return list(range(total))
    return sharpest_of_spans(np.array([score(index) for index in range(total)]), frames).tolist()


def thinned(total: int, frames: int | None, candidates_per_frame: int) -> range:
    """Evenly spaced indices, about `candidates_per_frame` for each frame that is kept: what is worth looking at."""
    return range(0, total, 1 if frames is None else max(1, total // max(1, frames * candidates_per_frame)))
