"""Folders of photographs → a capture: checked, copied, with what their EXIF says of focal length and GPS."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError

from gaussgym_recon.exif import Photo, read_photo
from gaussgym_recon.sources.selection import choose_frames
from gaussgym_recon.sources.source import Progress, Source, SourceCfg
from gaussgym_recon.sources.writing import IMAGE_SUFFIXES, Frame, write_capture

GUESSED_FOCAL_OF_LONG_SIDE = 0.85
"""Focal length over the long side where nothing is known: a phone's main camera, cropped as phones crop video."""
SAME_FOCAL_FRACTION = 0.02
"""Focal lengths that differ by less are of one zoom setting."""


@dataclass(frozen=True, kw_only=True)
class ImagesCfg(SourceCfg):
    """Settings of photographs."""


def import_images(
    path: Path, output: Path, cfg: ImagesCfg | None = None, *, progress: Progress | None = None
) -> Path:
    """Make a capture of a folder of photographs.

    Files are copied as they are, so that their EXIF survives, in the order of their names. They may be of several cameras,
    zooms and sizes: images of one size and one focal length (to 2 %) are taken to be of one camera.

    Args:
        path: Holds the photographs, or has a subfolder `images` that does.
        output: Folder of the capture.
        cfg: Settings.
        progress: Told the fraction that is done.

    Returns:
        `output`.

    Raises:
        InputError: No images, one image, or an image that does not decode.
    """
    cfg, path = cfg or ImagesCfg(), Path(path)
    files = image_files(path)
    files = [files[index] for index in choose_frames(files, cfg.frames, progress=progress)]
    photos = []
    for index, file in enumerate(files):
        photos.append(read_photo(file))
        if progress is not None:
            progress("reading photographs", (index + 1) / len(files))
    cameras = cameras_of(photos)
    metadata: dict[str, Any] = {
        "source": "images",
        "ordered": _in_time_order(photos),
        "exif_orientation": [photo.orientation for photo in photos],
    }
    return write_capture(
        output, _frames(files, photos, cameras), metadata, cfg=cfg, total=len(files), progress=progress
    )


def _frames(files: list[Path], photos: list[Photo], cameras: list[Intrinsics]) -> Iterator[Frame]:
    for file, photo, camera in zip(files, photos, cameras):
        gps = photo.gps_lat_lon_alt
        if gps is not None and math.isnan(gps[2]):
            gps = (gps[0], gps[1], 0.0)
        yield Frame(file.name, file, camera, gps_lat_lon_alt=gps, timestamp_s=photo.timestamp_s)


def image_files(folder: Path) -> list[Path]:
    """The images of a folder (or of its subfolder `images`), sorted by name, numbers by value.

    Raises:
        InputError: The folder does not exist, or holds fewer than two images.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; expected a folder of photographs")
    for place in (folder, folder / "images"):
        if place.is_dir():
            files = [
                file
                for file in place.iterdir()
                if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file() and not file.name.startswith(".")
            ]
            if files:
                break
    else:
        raise InputError(
            f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)}); expected two or more photographs"
        )
    if len(files) == 1:
        raise InputError(f"{folder}: holds one image, {files[0].name}; expected two or more that overlap")
    return sorted(files, key=lambda file: natural_order(file.name))


def cameras_of(photos: list[Photo]) -> list[Intrinsics]:
    """The camera of each photograph: the median focal length of those that have its size and nearly its focal length.

    A photograph without a focal length takes that of the others of its size (either way up) if these have one only, and a
    guess otherwise.

    Args:
        photos: What the files say.
    """
    by_size: dict[tuple[int, int], list[float]] = defaultdict(list)
    for photo in photos:
        if photo.focal_px is not None:
            by_size[_size_key(photo)].append(photo.focal_px)
    zooms = {size: _clusters(focals) for size, focals in by_size.items()}
    cameras = []
    for photo in photos:
        known = zooms.get(_size_key(photo), [])
        own = photo.focal_px
        if own is not None:
            focal = known[int(np.argmin(np.abs(np.log(np.array(known) / own))))]
        else:
            focal = known[0] if len(known) == 1 else None
        cameras.append(centred_camera(photo.width, photo.height, focal))
    return cameras


def centred_camera(width: int, height: int, focal_px: float | None) -> Intrinsics:
    """A camera with its principal point in the middle; a guessed focal length where EXIF gives none."""
    focal = GUESSED_FOCAL_OF_LONG_SIDE * max(width, height) if focal_px is None else focal_px
    return Intrinsics(
        width=width, height=height, fx=focal, fy=focal, cx=width / 2, cy=height / 2,
        focal_source="guess" if focal_px is None else "exif",
    )  # fmt: skip


def _size_key(photo: Photo) -> tuple[int, int]:
    return max(photo.width, photo.height), min(photo.width, photo.height)


def _clusters(focals: list[float]) -> list[float]:
    """Medians of groups of focal lengths, each group within 2 % of its shortest."""
    groups: list[list[float]] = []
    for focal in sorted(focals):
        if groups and focal <= groups[-1][0] * (1 + SAME_FOCAL_FRACTION):
            groups[-1].append(focal)
        else:
            groups.append([focal])
    return [float(np.median(group)) for group in groups]


def _in_time_order(photos: list[Photo]) -> bool:
    """Whether neighbours by name were neighbours in time; taken for granted where the photographs do not say."""
    times = [photo.timestamp_s for photo in photos if photo.timestamp_s is not None]
    return len(times) < 2 or sum(b < a for a, b in itertools.pairwise(times)) <= 0.1 * len(times)


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Key that sorts names as people do: numbers in them by value."""
    parts: list[tuple[int, int, str]] = []
    digits = text = ""
    for character in name + "\0":
        if character.isdigit() and character.isascii():
            if text:
                parts.append((1, 0, text))
                text = ""
            digits += character
        else:
            if digits:
                parts.append((0, int(digits), ""))
                digits = ""
            text += character.lower()
    parts.append((1, 0, text))
    return parts


SOURCE = Source(
    import_images, ImagesCfg, "a folder of photographs, or one that has them in a subfolder images"
)
