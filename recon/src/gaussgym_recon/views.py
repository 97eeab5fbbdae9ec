"""Training views: photographs without lens distortion at several sizes, with pinhole cameras in the metric world."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray
from PIL import Image

from gaussgym_recon.posed import PosedCapture

HOLD_OUT_EVERY = 8


@dataclass
class View:
    """One undistorted photograph.

    Attributes:
        name: File of the photograph relative to its capture.
        c2w: Camera to world ``[4, 4]`` (OpenCV).
        pyramid: uint8 RGB ``[h, w, 3]`` from coarse to fine.
        held_out: Never seen by training; scored only.
    """

    name: str
    c2w: NDArray[np.float64]
    pyramid: list[NDArray[np.uint8]]
    held_out: bool


@dataclass
class Views:
    """Photographs of one capture and the pinhole camera they share.

    Attributes:
        views: In capture order.
        intrinsics: Of each level of the pyramids, coarse to fine, without distortion.
        points: The sparse points that each view sees, as indices into the capture's points.
    """

    views: list[View]
    intrinsics: list[Intrinsics]
    points: list[NDArray[np.int32]]

    @property
    def train(self) -> list[int]:
        """Indices of the views that training sees."""
        return [i for i, v in enumerate(self.views) if not v.held_out]

    @property
    def held_out(self) -> list[int]:
        """Indices of the views kept for scoring."""
        return [i for i, v in enumerate(self.views) if v.held_out]


def held_out_names(all_names: list[str]) -> set[str]:
    """Images 8, 16, 24, ... of a capture, counted from 1 in capture order, registered or not."""
    return set(all_names[HOLD_OUT_EVERY - 1 :: HOLD_OUT_EVERY])


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read a photograph as RGB, as it is stored (its intrinsics refer to that).

    Raises:
        InputError: The file is missing, cut short or no image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"{path}: not readable as an image ({error}); replace it or remove it from the capture"
        ) from error


def pinhole_camera(camera: Intrinsics) -> Intrinsics:
    """The ideal camera whose image lies wholly inside the distorted one, of the same size."""
    if not any(camera.distortion):
        return camera.without_distortion()
    size = (camera.width, camera.height)
    k, _ = cv2.getOptimalNewCameraMatrix(_cv_matrix(camera), np.array(camera.distortion), size, 0.0, size)
    return Intrinsics(
        width=camera.width,
        height=camera.height,
        fx=float(k[0, 0]),
        fy=float(k[1, 1]),
        cx=float(k[0, 2] + 0.5),
        cy=float(k[1, 2] + 0.5),
        focal_source=camera.focal_source,
    )


def _cv_matrix(camera: Intrinsics) -> NDArray[np.float64]:
    """OpenCV counts pixel centres from 0, we from 0.5."""
    return np.array([[camera.fx, 0, camera.cx - 0.5], [0, camera.fy, camera.cy - 0.5], [0, 0, 1]])


def load_views(posed: PosedCapture, all_names: list[str], *, long_sides_px: tuple[int, ...]) -> Views:
    """Undistort and scale the registered photographs.

    Args:
        posed: Cameras and files.
        all_names: Every image of the capture in order; fixes which ones are held out.
        long_sides_px: Long sides of the pyramid, ascending; none exceeds the photographs.

    Returns:
        The views with their shared pinhole cameras.
    """
    source = posed.intrinsics
    ideal = pinhole_camera(source)
    longest = max(source.width, source.height)
    cameras = []
    for side in long_sides_px:
        factor = min(1.0, side / longest)
        cameras.append(ideal.resized(round(source.width * factor), round(source.height * factor)))
    out = held_out_names(all_names)
    maps = None
    if any(source.distortion):
        maps = cv2.initUndistortRectifyMap(
            _cv_matrix(source),
            np.array(source.distortion),
            None,
            _cv_matrix(ideal),
            (ideal.width, ideal.height),
            cv2.CV_16SC2,
        )
    views = []
    for name, path, c2w in zip(posed.names, posed.image_paths, posed.c2w):
        image = read_rgb(path)
        if image.shape[:2] != (source.height, source.width):
            raise InputError(
                f"{path}: is {image.shape[1]}x{image.shape[0]}, expected {source.width}x{source.height} "
                "like the others; import the images again"
            )
        if maps is not None:
            image = cv2.remap(image, maps[0], maps[1], cv2.INTER_CUBIC)
        pyramid = [cv2.resize(image, (c.width, c.height), interpolation=cv2.INTER_AREA) for c in cameras]
        views.append(View(name, np.asarray(c2w, np.float64), pyramid, name in out))
    return Views(views, cameras, list(posed.visible))


def psnr_db(image: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Peak signal-to-noise ratio of images with values in 0..1 [dB]."""
    error = float(np.mean((np.asarray(image, np.float64) - truth) ** 2))
    return float(-10.0 * np.log10(max(error, 1e-12)))


def mean_image_psnr_db(views: Views) -> float | None:
    """What the mean training image scores on the held-out views [dB]: the baseline any reconstruction must beat."""
    if not views.held_out or not views.train:
        return None
    mean = np.mean([views.views[i].pyramid[-1].astype(np.float32) / 255 for i in views.train], axis=0)
    return float(np.mean([psnr_db(mean, views.views[i].pyramid[-1] / 255.0) for i in views.held_out]))
