"""Clips: images out of a folder, a video or a flight recording, with times where they have any."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional

import numpy as np

from ..bundle import BundleError
from ..flight_files import flight_folder, read_flight

__all__ = ["Clip", "opencv", "read_clip"]

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
TIMES = "times.csv"


@dataclass(frozen=True)
class Clip:
    """Images in order, ``N`` of them.

    Attributes:
        path: Where they come from.
        grey: uint8 ``[N, H, W]``.
        t_s: Time stamps [s], ``[N]``, or None.
    """

    path: Path
    grey: np.ndarray
    t_s: Optional[np.ndarray]

    @property
    def size_wh(self) -> Any:
        """Width and height [px]."""
        return self.grey.shape[2], self.grey.shape[1]


def opencv() -> Any:
    """The module ``cv2``.

    Raises:
        BundleError: When it is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise BundleError(
            "OpenCV is not installed here; pip install 'gaussgym-deploy[calibrate]' (opencv-python-headless)"
        ) from None
    return cv2


def read_clip(path: Path, *, most: int = 0) -> Clip:
    """Read a clip.

    Args:
        path: A folder of images (in the order of their names; ``times.csv`` with columns ``file, time_s`` gives their times), the
            folder of a flight recording with camera frames, or a video.
        most: Keep at most so many frames, spread evenly; 0 for all.

    Raises:
        BundleError: When there are no images, or they differ in size.
    """
    if not path.exists():
        raise BundleError(f"{path}: not found; expected a folder of images, a flight recording or a video")
    folder = flight_folder(path)
    if (folder / "flight.npz").is_file():
        return _of_flight(folder, most)
    return _of_folder(path, most) if path.is_dir() else _of_video(path, most)


def _spread(count: int, most: int) -> np.ndarray:
    if most <= 0 or count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


def _of_flight(folder: Path, most: int) -> Clip:
    _, arrays = read_flight(folder)
    rgb = arrays.get("rgb")
    if rgb is None or not len(rgb):
        raise BundleError(f"{folder}: the recording holds no images")
    frame, stamp = arrays["rgb_frame"], arrays["rgb_t_s"]
    numbers, first = np.unique(frame[(frame >= 0) & (frame < len(rgb))], return_index=True)
    stamps = stamp[(frame >= 0) & (frame < len(rgb))][first]
    rows = _spread(len(numbers), most)
    grey = rgb[numbers[rows]].astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return Clip(folder, grey.round().astype(np.uint8), stamps[rows].astype(np.float64))


def _of_folder(path: Path, most: int) -> Clip:
    cv2 = opencv()
    names = sorted(p.name for p in path.iterdir() if p.suffix.lower() in IMAGES)
    times = None
    if (path / TIMES).is_file():
        table = _times(path / TIMES)
        names = [name for name, _ in table]
        times = np.array([time_s for _, time_s in table])
    if not names:
        raise BundleError(f"{path}: holds no images ({', '.join(IMAGES)})")
    rows = _spread(len(names), most)
    images = [cv2.imread(str(path / names[row]), cv2.IMREAD_GRAYSCALE) for row in rows]
    for row, image in zip(rows, images):
        if image is None:
            raise BundleError(f"{path / names[row]}: not a readable image")
    return _clip(path, images, None if times is None else times[rows])


def _times(path: Path) -> List[Any]:
    with open(str(path), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        table = [(str(row["file"]), float(row["time_s"])) for row in rows]
    except (KeyError, TypeError, ValueError):
        raise BundleError(f"{path}: expected columns file, time_s with a number in each row") from None
    if (np.diff([time_s for _, time_s in table]) <= 0).any():
        raise BundleError(f"{path}: times do not grow from row to row")
    return table


def _of_video(path: Path, most: int) -> Clip:
    cv2 = opencv()
    video = cv2.VideoCapture(str(path))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    keep = set(_spread(count, most).tolist()) if count > 0 and most > 0 else None
    images, number = [], 0
    while video.grab():
        if keep is None or number in keep:
            ok, image = video.retrieve()
            if ok:
                images.append(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
        number += 1
    video.release()
    if not images:
        raise BundleError(f"{path}: not a readable video, nor a folder of images")
    return _clip(path, images, None)


def _clip(path: Path, images: List[np.ndarray], t_s: Optional[np.ndarray]) -> Clip:
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        shown = ", ".join(f"{w}x{h}" for h, w in sorted(sizes))
        raise BundleError(f"{path}: images of different sizes ({shown}); one clip is of one camera")
    return Clip(path, np.stack(images), t_s)
