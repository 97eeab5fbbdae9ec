"""Videos → a capture: the sharpest frame of each of many equal spans, with what their motion says of blur and shutter."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.errors import InputError
from PIL import Image

from gaussgym_recon.sources.images import centred_camera
from gaussgym_recon.sources.selection import image_sharpness, sharpest_of_spans
from gaussgym_recon.sources.source import Progress, Source, SourceCfg
from gaussgym_recon.sources.video_motion import measure_film
from gaussgym_recon.sources.writing import Frame, write_capture

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VideoCfg(SourceCfg):
    """Settings of videos."""

    frames: int | None = 150
    """How many frames to keep; the sharpest of equal spans of the video."""
    max_long_side_px: int = 1280
    """Frames are scaled down to this long side [px]."""
    candidates_per_frame: int = 4
    """Frames that are looked at for each that is kept."""
    min_frames: int = 8
    """Shorter videos are refused."""


def import_video(
    path: Path, output: Path, cfg: VideoCfg | None = None, *, progress: Progress | None = None
) -> Path:
    """Make a capture of a video: the sharpest frame of each of many equal spans.

    Needs the program `ffmpeg`. Frames are upright (ffmpeg applies the rotation that phones store). Videos carry no
    focal length, so it is guessed and refined later. Blur and rolling shutter are measured, written into the capture (`film`)
    and warned of.

    Args:
        path: Any file that ffmpeg reads.
        output: Folder of the capture.
        cfg: Settings.
        progress: Told the fraction that is done.

    Returns:
        `output`.

    Raises:
        InputError: ffmpeg is missing, or the file is no video or too short.
    """
    cfg, path = cfg or VideoCfg(), Path(path)
    if not path.is_file():
        raise InputError(f"{path}: not found; expected a video file")
    wanted = VideoCfg.frames if cfg.frames is None else cfg.frames
    assert wanted is not None
    if wanted < 2:
        raise InputError(f"--frames {wanted}: expected two or more")
    seconds = _duration_s(path)
    rate = wanted * cfg.candidates_per_frame / seconds
    # Rates above the video's own would repeat frames: fps drops frames, it must not invent them.
    own_rate = _frame_rate(path)
    kept_rate = min(rate, own_rate) if own_rate else rate
    with tempfile.TemporaryDirectory(prefix="gaussgym-video-") as temporary:
        frames = _extract(path, Path(temporary), kept_rate, cfg.max_long_side_px)
        if len(frames) < cfg.min_frames:
            raise InputError(
                f"{path}: {len(frames)} frames in {seconds:.1f} s, expected {cfg.min_frames} or more; "
                "film longer while walking slowly"
            )
        sharpness = np.empty(len(frames))
        for index, frame in enumerate(frames):
            sharpness[index] = image_sharpness(frame)
            if progress is not None:
                progress("choosing sharp frames", (index + 1) / len(frames))
        chosen = sharpest_of_spans(sharpness, wanted)
        kept = [frames[index] for index in chosen]
        motion = measure_film(
            kept, path, seconds, own_rate or kept_rate, program("ffmpeg"), progress=progress
        )
        with Image.open(kept[0]) as image:
            for line in motion.warnings(max(image.size)):
                log.warning("%s: %s", path, line)
        metadata = {"source": "video", "ordered": True, "film": motion.to_dict()}
        return write_capture(
            output,
            _frames(frames, chosen.tolist(), kept_rate),
            metadata,
            cfg=cfg,
            total=len(chosen),
            progress=progress,
        )


def _extract(video: Path, folder: Path, rate_hz: float, long_side_px: int) -> list[Path]:
    side = long_side_px
    scale = f"scale='if(gt(iw,ih),min(iw,{side}),-2)':'if(gt(iw,ih),-2,min(ih,{side}))':flags=area"
    pattern = str(folder / "%06d.jpg")
    _ffmpeg("-i", str(video), "-an", "-vf", f"fps={rate_hz:.6f},{scale}", "-q:v", "2", pattern, what=video)
    return sorted(folder.glob("*.jpg"))


def _frames(files: list[Path], chosen: list[int], rate_hz: float) -> Iterator[Frame]:
    with Image.open(files[0]) as image:
        camera = centred_camera(*image.size, None)
    for place, index in enumerate(chosen):
        yield Frame(f"{place + 1:04d}.jpg", files[index], camera, timestamp_s=index / rate_hz)


def program(name: str) -> str:
    """Path of a program of the ffmpeg suite.

    Raises:
        InputError: It is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise InputError(f"{name} is not installed, and videos need it; install it (apt-get install ffmpeg)")
    return found


def _ffmpeg(*arguments: str, what: Path) -> None:
    command = [program("ffmpeg"), "-nostdin", "-loglevel", "error", "-y", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or ["no reason given"]
        raise InputError(f"{what}: ffmpeg cannot read it ({lines[-1].strip()}); expected a video file")


def _probe(video: Path) -> dict[str, Any]:
    command = [program("ffprobe"), "-v", "error", "-select_streams", "v:0", "-show_entries"]
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


SOURCE = Source(import_video, VideoCfg, "a video file, anything that ffmpeg reads")
