"""Photographs or a phone video → a capture: checked, copied, with what their EXIF says of focal length and GPS."""

from __future__ import annotations

import collections
import itertools
import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.artifact import ArtifactWriter
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.capture import FORMAT, MANIFEST, VERSION, Capture, CaptureImage
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray
from PIL import Image

from gaussgym_recon.exif import Photo, read_photo

Progress = Callable[[str, float], None]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".3gp")
GUESSED_FOCAL_OF_LONG_SIDE = 0.85
"""Focal length over the long side where nothing is known: a phone's main camera, cropped as phones crop video."""
SAME_FOCAL_FRACTION = 0.02
"""Focal lengths that differ by less are of one zoom setting."""


@dataclass(frozen=True, kw_only=True)
class VideoCfg:
    """Of :func:`import_video`."""

    frames: int = 150
    """How many frames to keep; the sharpest of equal spans of the video."""
    max_long_side_px: int = 1280
    """Frames are scaled down to this long side [px]."""
    candidates_per_frame: int = 4
    """Frames that are looked at for each that is kept."""
    min_frames: int = 8
    """Shorter videos are refused."""


def import_images(folder: Path, output: Path, *, progress: Progress | None = None) -> Path:
    """Make a capture of a folder of photographs.

    Files are copied as they are, so that their EXIF survives, in the order of their names. All must be of one camera:
    one size and one focal length.

    Args:
        folder: Holds the photographs, or has a subfolder `images` that does.
        output: Folder of the capture.
        progress: Told the fraction that is done.

    Returns:
        `output`.

    Raises:
        InputError: No images, one image, an image that does not decode, or images of several cameras.
    """
    folder, output = Path(folder), Path(output)
    files = image_files(folder)
    photos = []
    for index, file in enumerate(files):
        photos.append(read_photo(file))
        if progress is not None:
            progress("reading photographs", (index + 1) / len(files))
    intrinsics = _shared_camera(folder, files, photos)
    with ArtifactWriter(output, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        (writer.path / "images").mkdir()
        entries = []
        for file, photo in zip(files, photos):
            name = f"images/{file.name}"
            shutil.copyfile(file, writer.path / name)
            gps = photo.gps_lat_lon_alt
            if gps is not None and math.isnan(gps[2]):
                gps = (gps[0], gps[1], 0.0)
            entries.append(CaptureImage(name, intrinsics, gps, None, photo.timestamp_s))
        metadata: dict[str, Any] = {
            "source": "images",
            "ordered": _in_time_order(photos),
            "exif_orientation": [photo.orientation for photo in photos],
            "licence": "unknown",
        }
        writer.fields.update(Capture(writer.path, entries, metadata).manifest_fields())
    return output


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
    return sorted(files, key=lambda file: _natural(file.name))


def import_video(
    video: Path, output: Path, *, cfg: VideoCfg | None = None, progress: Progress | None = None
) -> Path:
    """Make a capture of a video: the sharpest frame of each of many equal spans.

    Needs the program `ffmpeg`. Frames are upright (ffmpeg applies the rotation that phones store). Videos carry no
    focal length, so it is guessed and refined later.

    Args:
        video: Any file that ffmpeg reads.
        output: Folder of the capture.
        cfg: Settings.
        progress: Told the fraction that is done.

    Returns:
        `output`.

    Raises:
        InputError: ffmpeg is missing, or the file is no video or too short.
    """
    cfg = cfg or VideoCfg()
    video, output = Path(video), Path(output)
    if not video.is_file():
        raise InputError(f"{video}: not found; expected a video file")
    seconds = _duration_s(video)
    candidates = cfg.frames * cfg.candidates_per_frame
    rate = candidates / seconds
    long_side = cfg.max_long_side_px
    scale = f"scale='if(gt(iw,ih),min(iw,{long_side}),-2)':'if(gt(iw,ih),-2,min(ih,{long_side}))':flags=area"
    with tempfile.TemporaryDirectory(prefix="gaussgym-video-") as temporary:
        pattern = str(Path(temporary) / "%06d.jpg")
        # Rates above the video's own would repeat frames: fps drops frames, it must not invent them.
        own_rate = _frame_rate(video)
        kept_rate = min(rate, own_rate) if own_rate else rate
        _ffmpeg(
            "-i", str(video), "-an", "-vf", f"fps={kept_rate:.6f},{scale}", "-q:v", "2", pattern, what=video
        )
        frames = sorted(Path(temporary).glob("*.jpg"))
        if len(frames) < cfg.min_frames:
            raise InputError(
                f"{video}: {len(frames)} frames in {seconds:.1f} s, expected {cfg.min_frames} or more; "
                "film longer while walking slowly"
            )
        sharpness = np.empty(len(frames))
        for index, frame in enumerate(frames):
            sharpness[index] = image_sharpness(frame)
            if progress is not None:
                progress("choosing sharp frames", (index + 1) / len(frames))
        chosen = sharpest_of_spans(sharpness, cfg.frames)
        with Image.open(frames[0]) as image:
            width, height = image.size
        intrinsics = _guessed_camera(width, height)
        with ArtifactWriter(output, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
            (writer.path / "images").mkdir()
            entries = []
            for place, index in enumerate(chosen):
                name = f"images/{place + 1:04d}.jpg"
                shutil.copyfile(frames[index], writer.path / name)
                entries.append(CaptureImage(name, intrinsics, None, None, float(index / kept_rate)))
            metadata = {"source": "video", "ordered": True, "licence": "unknown"}
            writer.fields.update(Capture(writer.path, entries, metadata).manifest_fields())
    return output


def sharpest_of_spans(sharpness: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Index of the sharpest of each of `count` equal spans; all where there are no more than `count`."""
    if len(sharpness) <= count:
        return np.arange(len(sharpness))
    edges = np.linspace(0, len(sharpness), count + 1).round().astype(int)
    return np.array([a + int(np.argmax(sharpness[a:b])) for a, b in itertools.pairwise(edges)])


def image_sharpness(path: Path) -> float:
    """Variance of the Laplacian of the grey image at a quarter of its size: low where motion blurs."""
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L").reduce(2), dtype=np.float32)
    laplacian = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1] - 4.0 * grey[1:-1, 1:-1]
    return float(laplacian.var())


def _shared_camera(folder: Path, files: list[Path], photos: list[Photo]) -> Intrinsics:
    """The one camera of all photographs."""
    groups = collections.Counter((photo.width, photo.height) for photo in photos)
    if len(groups) > 1:
        (common, _), *others = groups.most_common()
        odd = next(file.name for file, photo in zip(files, photos) if (photo.width, photo.height) != common)
        listing = ", ".join(f"{count} of {w}x{h}" for (w, h), count in groups.most_common())
        raise InputError(
            f"{folder}: images of {len(others) + 1} sizes ({listing}; {odd} is one of the odd ones); "
            "expected the photographs of one camera, held one way: remove the others"
        )
    width, height = photos[0].width, photos[0].height
    focals = [photo.focal_px for photo in photos if photo.focal_px is not None]
    if not focals:
        return _guessed_camera(width, height)
    middle = float(np.median(focals))
    for file, photo in zip(files, photos):
        if photo.focal_px is not None and abs(photo.focal_px / middle - 1) > SAME_FOCAL_FRACTION:
            raise InputError(
                f"{file}: focal length {photo.focal_px:.0f} px by its EXIF, the others {middle:.0f} px; "
                "expected one camera at one zoom: remove the others"
            )
    return Intrinsics(
        width=width, height=height, fx=middle, fy=middle, cx=width / 2, cy=height / 2, focal_source="exif"
    )


def _guessed_camera(width: int, height: int) -> Intrinsics:
    focal = GUESSED_FOCAL_OF_LONG_SIDE * max(width, height)
    return Intrinsics(
        width=width, height=height, fx=focal, fy=focal, cx=width / 2, cy=height / 2, focal_source="guess"
    )


def _in_time_order(photos: list[Photo]) -> bool:
    """Whether neighbours by name were neighbours in time; taken for granted where the photographs do not say."""
    times = [photo.timestamp_s for photo in photos if photo.timestamp_s is not None]
    return len(times) < 2 or sum(b < a for a, b in itertools.pairwise(times)) <= 0.1 * len(times)


def _natural(name: str) -> list[tuple[int, int, str]]:
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


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise InputError(f"{name} is not installed, and videos need it; install it (apt-get install ffmpeg)")
    return found


def _ffmpeg(*arguments: str, what: Path) -> None:
    command = [_program("ffmpeg"), "-nostdin", "-loglevel", "error", "-y", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or ["no reason given"]
        raise InputError(f"{what}: ffmpeg cannot read it ({lines[-1].strip()}); expected a video file")


def _probe(video: Path) -> dict[str, Any]:
    command = [_program("ffprobe"), "-v", "error", "-select_streams", "v:0", "-show_entries"]
    command += ["stream=avg_frame_rate,duration:format=duration", "-of", "json", str(video)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        fields = json.loads(result.stdout or "{}")
    except json.JSONDecodeError:
        fields = {}
    if result.returncode != 0 or not fields.get("streams"):
        lines = result.stderr.strip().splitlines() or ["no video stream in it"]
        raise InputError(f"{video}: not a readable video ({lines[-1].strip()}); expected a video file")
    return fields


def _duration_s(video: Path) -> float:
    fields = _probe(video)
    for text in (fields.get("format", {}).get("duration"), fields["streams"][0].get("duration")):
        try:
            seconds = float(text)
        except (TypeError, ValueError):
            continue
        if seconds > 0:
            return seconds
    raise InputError(f"{video}: its length is unknown, the file may be cut short; copy it again")


def _frame_rate(video: Path) -> float | None:
    over, _, under = str(_probe(video)["streams"][0].get("avg_frame_rate", "")).partition("/")
    try:
        rate = float(over) / float(under or 1)
    except (ValueError, ZeroDivisionError):
        return None
    return rate if rate > 0 else None
