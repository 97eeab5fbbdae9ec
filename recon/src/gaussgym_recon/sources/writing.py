"""The one place where captures are written: frames one by one, with their depths and masks, then the manifest."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from gaussgym_scene.artifact import ArtifactWriter
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.capture import (
    DEPTH_UNIT_M,
    FORMAT,
    MANIFEST,
    MAX_DEPTH_M,
    VERSION,
    Capture,
    CaptureImage,
    check_pose,
    write_points,
)
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray
from PIL import Image

from gaussgym_recon.exif import EXIF_IFD
from gaussgym_recon.sources.hooks import REDACTORS, SEGMENTERS, load_hook, redacted, segmented
from gaussgym_recon.sources.source import Progress, SourceCfg

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
JPEG_QUALITY = 96
MAKER_NOTE = 0x927C
SCALE_SOURCES = ("sensor", "gps", "user", None)
GRAVITY_SOURCES = ("sensor", None)


@dataclass
class Frame:
    """One image on its way into a capture, with what the source knows of it."""

    name: str
    """What to call it, such as `0001.jpg` or `front/0001.jpg`; unique in the capture."""
    image: Path | NDArray[np.uint8]
    """A file, copied as it is, or RGB pixels `[H, W, 3]`, written as JPEG."""
    intrinsics: Intrinsics
    """Of the image as it is stored."""
    c2w: NDArray[np.float64] | None = None
    """Camera to world `[4, 4]`, OpenCV, orthonormal, in the source's frame."""
    gps_lat_lon_alt: tuple[float, float, float] | None = None
    """WGS84 [deg], [deg], [m]."""
    timestamp_s: float | None = None
    """[s], any origin."""
    depth_m: NDArray[np.floating] | None = None
    """Depth along +Z `[h, w]` [m] with the image's field of view; 0, NaN, infinite or beyond 65 m where there is none."""
    confidence: NDArray[np.uint8] | None = None
    """Of each depth `[h, w]`: 0 low, 1 medium, 2 high."""
    mask: NDArray[np.bool_] | None = None
    """Which pixels to use `[H, W]`."""


def write_capture(
    output: Path,
    frames: Iterable[Frame],
    metadata: dict[str, Any],
    points: NDArray[np.floating] | None = None,
    *,
    colors: NDArray[np.uint8] | None = None,
    cfg: SourceCfg | None = None,
    total: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a capture, whole or not at all.

    Args:
        output: Folder of the capture.
        frames: In capture order; consumed one by one, so that a generator need not hold all pixels.
        metadata: What the manifest says of the capture (see :class:`gaussgym_scene.capture.Capture`); `source` and `ordered`
            are needed, `metric`, `scale_source`, `gravity_source`, `up`, `poses_source` and `licence` have defaults
            that claim nothing.
        points: `[P, 3]` in the frame of `c2w`.
        colors: RGB of the points `[P, 3]`.
        cfg: Redactor, segmenter and licence.
        total: How many frames there will be, for `progress`.
        progress: Told the fraction that is done.

    Returns:
        `output`.

    Raises:
        InputError: Fewer than two frames, two of one name, or a frame that contradicts itself.
    """
    cfg, output = cfg or SourceCfg(), Path(output)
    redact, segment = load_hook(REDACTORS, cfg.redact), load_hook(SEGMENTERS, cfg.segment)
    known = _checked_metadata(metadata, cfg)
    with ArtifactWriter(output, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        entries: dict[str, CaptureImage] = {}
        for frame in frames:
            name = _image_name(frame)
            if name in entries:
                raise InputError(f"{name}: two images of this name; expected one each")
            entries[name] = _write_frame(writer.path, name, frame, redact, segment)
            if progress is not None and total:
                progress("writing images", min(1.0, len(entries) / total))
        if len(entries) < 2:
            raise InputError(f"{output}: {len(entries)} images to write, expected two or more that overlap")
        if points is not None and len(points):
            _check_points(points, colors)
            known["points_file"] = "points.ply"
            write_points(writer.path / "points.ply", points, colors)
        writer.fields.update(Capture(writer.path, list(entries.values()), known).manifest_fields())
    return output


def _checked_metadata(metadata: dict[str, Any], cfg: SourceCfg) -> dict[str, Any]:
    """The metadata with defaults; a wrong key is the importing code's fault, so it raises ValueError."""
    claims_nothing = {
        "metric": False, "scale_source": None, "gravity_source": None, "up": None, "poses_source": None,
        "licence": cfg.licence,
    }  # fmt: skip
    known = {**claims_nothing, **metadata}
    if missing := {"source", "ordered"} - set(known):
        raise ValueError(f"metadata lacks {sorted(missing)}")
    if known["scale_source"] not in SCALE_SOURCES or known["gravity_source"] not in GRAVITY_SOURCES:
        raise ValueError(
            f"metadata: scale {known['scale_source']!r} or gravity {known['gravity_source']!r} unknown"
        )
    if (known["gravity_source"] is None) != (known["up"] is None):
        raise ValueError("metadata: 'up' and 'gravity_source' go together")
    if cfg.redact is not None:
        known["redacted_by"] = cfg.redact
    if cfg.segment is not None:
        known["masked_by"] = cfg.segment
    return known


def _image_name(frame: Frame) -> str:
    place = PurePosixPath(frame.name)
    if place.is_absolute() or ".." in place.parts or not place.name:
        raise InputError(
            f"image name {frame.name!r} leaves the capture; expected a relative name such as 0001.jpg"
        )
    suffix = frame.image.suffix if isinstance(frame.image, Path) else ".jpg"
    stem = (
        place.stem if place.suffix.lower() in IMAGE_SUFFIXES else place.name
    )  # names such as 1234.567 have none
    return (PurePosixPath("images") / place.parent / f"{stem}{suffix}").as_posix()


def _write_frame(
    folder: Path,
    name: str,
    frame: Frame,
    redact: Callable[[NDArray[np.uint8]], NDArray] | None,
    segment: Callable[[NDArray[np.uint8]], NDArray] | None,
) -> CaptureImage:
    if frame.c2w is not None:
        check_pose(np.asarray(frame.c2w, np.float64), name)
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    size = (frame.intrinsics.width, frame.intrinsics.height)
    if isinstance(frame.image, Path) and redact is None and segment is None:
        shutil.copyfile(frame.image, target)
        pixels, exif = None, b""
        stored = _image_size(target, frame.image)
    else:
        pixels, exif = _pixels_of(frame.image)
        stored = (pixels.shape[1], pixels.shape[0])
    if stored != size:
        raise InputError(
            f"{frame.name}: is {stored[0]}x{stored[1]}, its camera {size[0]}x{size[1]}; expected one size"
        )
    mask = frame.mask
    if pixels is not None:
        if segment is not None:
            used = segmented(segment, pixels, frame.name)
            mask = used if mask is None else used & mask
        _write_pixels(
            target, frame, redacted(redact, pixels, frame.name) if redact else pixels, exif, redact is None
        )
    image = CaptureImage(name, frame.intrinsics, frame.gps_lat_lon_alt, frame.c2w, frame.timestamp_s)
    stem = name.removeprefix("images/").rpartition(".")[0] + ".png"
    if frame.depth_m is not None:
        image.depth = _write_grey(folder, f"depth/{stem}", depth_mm(frame.depth_m))
        if frame.confidence is not None:
            if frame.confidence.shape != frame.depth_m.shape:
                raise InputError(
                    f"{frame.name}: confidence {frame.confidence.shape}, depth {frame.depth_m.shape}"
                )
            image.confidence = _write_grey(folder, f"confidence/{stem}", frame.confidence.astype(np.uint8))
    if mask is not None:
        if mask.shape != size[::-1]:
            raise InputError(
                f"{frame.name}: its mask is {mask.shape[1]}x{mask.shape[0]}, expected {size[0]}x{size[1]}"
            )
        image.mask = _write_grey(folder, f"masks/{stem}", np.where(mask, 255, 0).astype(np.uint8))
    return image


def depth_mm(depth_m: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Whole millimetres; 0 for what is no depth or does not fit."""
    usable = np.isfinite(depth_m) & (depth_m > 0) & (depth_m <= MAX_DEPTH_M)
    return np.rint(np.where(usable, depth_m, 0) / DEPTH_UNIT_M).astype(np.uint16)


def _image_size(path: Path, source: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{source}: not an image that can be read ({error}); export it again") from None


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """RGB of an image file `[H, W, 3]`, as stored.

    Raises:
        InputError: It does not decode.
    """
    return _pixels_of(path)[0]


def _pixels_of(image: Path | NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bytes]:
    if not isinstance(image, Path):
        return image, b""
    try:
        with Image.open(image) as opened:
            exif = opened.getexif()
            # Thumbnails and maker notes may show what a redactor hides; serialized anew, the block has no thumbnail.
            exif.get_ifd(EXIF_IFD).pop(MAKER_NOTE, None)
            return np.asarray(opened.convert("RGB")), exif.tobytes() if exif else b""
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{image}: does not decode ({error}); copy it again or remove it") from None


def _write_pixels(
    target: Path, frame: Frame, pixels: NDArray[np.uint8], exif: bytes, unchanged: bool
) -> None:
    if unchanged and isinstance(frame.image, Path):
        shutil.copyfile(frame.image, target)
        return
    options: dict[str, Any] = {"exif": exif} if exif else {}
    if target.suffix.lower() in (".jpg", ".jpeg", ".webp"):
        options["quality"] = JPEG_QUALITY
    if target.suffix.lower() in (".jpg", ".jpeg"):
        options["subsampling"] = 0
    Image.fromarray(pixels).save(target, **options)


def _write_grey(folder: Path, name: str, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> str:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=3)
    target.write_bytes(stream.getvalue())
    return name


def _check_points(points: NDArray[np.floating], colors: NDArray[np.uint8] | None) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or (colors is not None and colors.shape != points.shape):
        raise ValueError(f"points {points.shape} with colours {None if colors is None else colors.shape}")
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points)).any(axis=1).sum())
        raise InputError(f"{bad} of {len(points)} points are NaN or infinite; export the points again")
