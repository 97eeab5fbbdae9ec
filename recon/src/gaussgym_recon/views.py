"""Training views: photographs without lens distortion at several sizes, with pinhole cameras in the metric world.

Each photograph is undistorted by its own camera. Those of one size and nearly one focal length (a phone's, as it refocuses)
are put into one pinhole camera, so that later stages meet one camera where one took the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from gaussgym_scene.cameras import Intrinsics, distort
from gaussgym_scene.capture import DEPTH_UNIT_M, CaptureImage
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray
from PIL import Image

from gaussgym_recon.posed import PosedCapture

HOLD_OUT_EVERY = 8
SAME_CAMERA_FRACTION = 0.05
"""Images of one size whose focal lengths differ by less are put into one pinhole camera."""
SAME_SURFACE_FRACTION = 0.05
"""Neighbouring depths that differ by less are interpolated; across larger steps the nearest counts."""


@dataclass
class View:
    """One undistorted photograph.

    Attributes:
        name: File of the photograph relative to its capture.
        c2w: Camera to world ``[4, 4]`` (OpenCV).
        pyramid: uint8 RGB ``[h, w, 3]`` from coarse to fine.
        held_out: Never seen by training; scored only.
        cameras: Pinhole camera of each level where the capture has several cameras; None where all views share one.
        masks: bool ``[h, w]`` of each level, True where the photograph is to be used; None where all of it is.
        depth_m: Sensor depth along +Z ``[h, w]`` float32 at the finest level [m], 0 where there is none; None without a
            depth sensor.
        depth_confidence: uint8 ``[h, w]`` beside it: 0 low, 1 medium, 2 high; None where the sensor does not say.
    """

    name: str
    c2w: NDArray[np.float64]
    pyramid: list[NDArray[np.uint8]]
    held_out: bool
    cameras: list[Intrinsics] | None = None
    masks: list[NDArray[np.bool_]] | None = None
    depth_m: NDArray[np.float32] | None = None
    depth_confidence: NDArray[np.uint8] | None = None


@dataclass
class Views:
    """Photographs of one capture and their pinhole cameras.

    Attributes:
        views: In capture order.
        intrinsics: Of each level of the pyramids, coarse to fine, without distortion: the camera that all views share, or,
            where there are several, that of most views. :meth:`camera` gives the camera of one view.
        points: The sparse points that each view sees, as indices into the capture's points.
    """

    views: list[View]
    intrinsics: list[Intrinsics]
    points: list[NDArray[np.int32]]

    def camera(self, index: int, level: int = -1) -> Intrinsics:
        """The pinhole camera of view ``index`` at a level of its pyramid."""
        own = self.views[index].cameras
        return (self.intrinsics if own is None else own)[level]

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


def read_grey(path: Path) -> NDArray[np.integer]:
    """Read a grey PNG of 8 or 16 bits: a mask, a confidence or a depth, as they are stored.

    Raises:
        InputError: The file is missing, cut short or no such image.
    """
    try:
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error) as error:
        raise InputError(f"{path}: not readable as an image ({error}); import the capture again") from None
    if pixels is None or pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path}: not readable as a grey image of 8 or 16 bits; import the capture again")
    return pixels.astype(np.uint16) if pixels.dtype == np.uint16 else pixels.astype(np.uint8)


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


def pinhole_cameras(cameras: Sequence[Intrinsics]) -> list[Intrinsics]:
    """The ideal camera of each image: one for all that have one size and nearly one focal length.

    The shared camera sees what all of its images show, so that none has an empty border.

    Args:
        cameras: Of the images as stored.
    """
    ideal = {camera: pinhole_camera(camera) for camera in dict.fromkeys(cameras)}
    groups: list[list[Intrinsics]] = []
    for camera in sorted(ideal, key=lambda c: (c.width, c.height, ideal[c].fx)):
        first = groups[-1][0] if groups else None
        same = first is not None and (first.width, first.height) == (camera.width, camera.height)
        if same and first is not None and ideal[camera].fx <= (1 + SAME_CAMERA_FRACTION) * ideal[first].fx:
            groups[-1].append(camera)
        else:
            groups.append([camera])
    shared = {camera: _common_view([ideal[c] for c in group]) for group in groups for camera in group}
    return [shared[camera] for camera in cameras]


def _common_view(cameras: list[Intrinsics]) -> Intrinsics:
    """The pinhole camera, of the same size, whose field of view is the intersection of those of pinhole cameras."""
    first = cameras[0]
    if all(camera == first for camera in cameras):
        return first
    left = max(-c.cx / c.fx for c in cameras)
    right = min((c.width - c.cx) / c.fx for c in cameras)
    top = max(-c.cy / c.fy for c in cameras)
    bottom = min((c.height - c.cy) / c.fy for c in cameras)
    fx, fy = first.width / (right - left), first.height / (bottom - top)
    return Intrinsics(
        width=first.width, height=first.height, fx=fx, fy=fy, cx=-left * fx, cy=-top * fy,
        focal_source=first.focal_source,
    )  # fmt: skip


def _cv_matrix(camera: Intrinsics) -> NDArray[np.float64]:
    """OpenCV counts pixel centres from 0, we from 0.5."""
    return np.array([[camera.fx, 0, camera.cx - 0.5], [0, camera.fy, camera.cy - 0.5], [0, 0, 1]])


class _Remap:
    """Pixels of stored images at the pixels of pinhole cameras; the maps are kept for images of equal cameras."""

    def __init__(self) -> None:
        self._maps: dict[tuple[Intrinsics, Intrinsics], tuple[NDArray, NDArray]] = {}

    def __call__(
        self, pixels: NDArray, source: Intrinsics, target: Intrinsics, interpolation: int
    ) -> NDArray:
        """Resample ``pixels``; what lies outside the stored image becomes 0."""
        if source == target:
            return pixels
        maps = self._maps.get((source, target))
        if maps is None:
            size = (target.width, target.height)
            maps = cv2.initUndistortRectifyMap(
                _cv_matrix(source), np.array(source.distortion), None, _cv_matrix(target), size, cv2.CV_16SC2
            )
            if len(self._maps) > 4:  # every image with a camera of its own: nothing to gain
                self._maps.clear()
            self._maps[source, target] = maps
        return cv2.remap(pixels, maps[0], maps[1], interpolation)


def resample_depth_m(
    depth_mm: NDArray[np.uint16], source: Intrinsics, target: Intrinsics
) -> NDArray[np.float32]:
    """Depth at the pixels of a pinhole camera, from a depth image with the field of view of a stored photograph.

    Bilinear between neighbours of one surface, the nearest across edges, so that no depth lies between two surfaces. Depth
    along +Z is the same with and without lens distortion.

    Args:
        depth_mm: ``[h, w]`` [mm], 0 = none; any size.
        source: Camera of the photograph, with its distortion.
        target: Pinhole camera at the same place.

    Returns:
        ``[target.height, target.width]`` [m], 0 where there is none.
    """
    u, v = _places(source, target, depth_mm.shape)
    h, w = depth_mm.shape
    x, y = np.clip(u - 0.5, 0, w - 1), np.clip(v - 0.5, 0, h - 1)
    x0, y0 = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    fx, fy = (x - x0).astype(np.float32), (y - y0).astype(np.float32)
    depth = depth_mm.astype(np.float32) * np.float32(DEPTH_UNIT_M)
    nearest = depth[np.round(y).astype(np.int32), np.round(x).astype(np.int32)]
    total, weight = np.zeros_like(nearest), np.zeros_like(nearest)
    for dy, share_y in ((0, 1 - fy), (1, fy)):
        for dx, share_x in ((0, 1 - fx), (1, fx)):
            z = depth[np.minimum(y0 + dy, h - 1), np.minimum(x0 + dx, w - 1)]
            share = share_x * share_y * (np.abs(z - nearest) <= SAME_SURFACE_FRACTION * nearest)
            total += share * z
            weight += share
    outside = (u < 0) | (u >= w) | (v < 0) | (v >= h) | (nearest == 0)
    return np.where(outside, 0, total / np.maximum(weight, 1e-6)).astype(np.float32)


def _places(
    source: Intrinsics, target: Intrinsics, shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the pixel centres of ``target`` lie in an image of ``shape`` with the field of view of ``source``."""
    u, v = np.meshgrid(np.arange(target.width) + 0.5, np.arange(target.height) + 0.5)
    rays = np.stack([(u - target.cx) / target.fx, (v - target.cy) / target.fy], axis=-1)
    rays = distort(rays, source.distortion) if any(source.distortion) else rays
    u = (source.fx * rays[..., 0] + source.cx) * (shape[1] / source.width)
    v = (source.fy * rays[..., 1] + source.cy) * (shape[0] / source.height)
    return u.astype(np.float64), v.astype(np.float64)


def _resample_confidence(
    confidence: NDArray[np.uint8], source: Intrinsics, target: Intrinsics
) -> NDArray[np.uint8]:
    u, v = _places(source, target, confidence.shape)
    h, w = confidence.shape
    inside = (u >= 0) & (u < w) & (v >= 0) & (v < h)
    rows, columns = np.clip(v, 0, h - 1).astype(np.int32), np.clip(u, 0, w - 1).astype(np.int32)
    return np.where(inside, confidence[rows, columns], 0).astype(np.uint8)


def load_views(
    posed: PosedCapture, images: Sequence[CaptureImage], *, long_sides_px: tuple[int, ...]
) -> Views:
    """Undistort and scale the registered photographs, with the masks and sensor depths that they have.

    Args:
        posed: Cameras and files.
        images: Every image of the capture in order; fixes which ones are held out.
        long_sides_px: Long sides of the pyramid, ascending; none exceeds the photographs.

    Returns:
        The views with their pinhole cameras.

    Raises:
        InputError: A file is missing, damaged or of another size than its camera.
    """
    out = held_out_names([image.file for image in images])
    entries = {image.file: image for image in images}
    ideals = pinhole_cameras(posed.intrinsics)
    pyramids = {ideal: _pyramid(ideal, long_sides_px) for ideal in dict.fromkeys(ideals)}
    remap = _Remap()
    views = []
    for name, path, c2w, source, ideal in zip(
        posed.names, posed.image_paths, posed.c2w, posed.intrinsics, ideals
    ):
        image = read_rgb(path)
        if image.shape[:2] != (source.height, source.width):
            raise InputError(
                f"{path}: is {image.shape[1]}x{image.shape[0]}, its camera {source.width}x{source.height}; "
                "import the images again"
            )
        cameras = pyramids[ideal]
        image = remap(image, source, ideal, cv2.INTER_CUBIC)
        pyramid = [_resized(image, camera) for camera in cameras]
        view = View(name, np.asarray(c2w, np.float64), pyramid, name in out)
        view.cameras = cameras if len(pyramids) > 1 else None
        if name in entries:
            _add_mask_and_depth(view, posed.capture_dir, entries[name], source, ideal, cameras, remap)
        views.append(view)
    common = max(pyramids, key=ideals.count)
    return Views(views, pyramids[common], list(posed.visible))


def _pyramid(ideal: Intrinsics, long_sides_px: tuple[int, ...]) -> list[Intrinsics]:
    factors = [min(1.0, side / max(ideal.width, ideal.height)) for side in long_sides_px]
    return [ideal.resized(round(ideal.width * factor), round(ideal.height * factor)) for factor in factors]


def _resized(image: NDArray[np.uint8], camera: Intrinsics) -> NDArray[np.uint8]:
    return np.asarray(
        cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA), np.uint8
    )


def _add_mask_and_depth(
    view: View,
    folder: Path,
    image: CaptureImage,
    source: Intrinsics,
    ideal: Intrinsics,
    cameras: list[Intrinsics],
    remap: _Remap,
) -> None:
    if image.mask is not None:
        mask = remap(read_grey(folder / image.mask), source, ideal, cv2.INTER_NEAREST)
        # A pixel that covers anything to be ignored is ignored.
        view.masks = [_resized(mask, camera) >= 254 for camera in cameras]
    if image.depth is not None:
        depth = read_grey(folder / image.depth).astype(np.uint16)
        view.depth_m = resample_depth_m(depth, source, cameras[-1])
        if image.confidence is not None:
            confidence = read_grey(folder / image.confidence).astype(np.uint8)
            view.depth_confidence = _resample_confidence(confidence, source, cameras[-1])


def psnr_db(image: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Peak signal-to-noise ratio of images with values in 0..1 [dB]."""
    error = float(np.mean((np.asarray(image, np.float64) - truth) ** 2))
    return float(-10.0 * np.log10(max(error, 1e-12)))


def mean_image_psnr_db(views: Views) -> float | None:
    """What the mean training image scores on the held-out views [dB]: the baseline any reconstruction must beat."""
    if not views.held_out or not views.train:
        return None
    means: dict[tuple[int, int], NDArray[np.float32]] = {}
    scores = []
    for i in views.held_out:
        truth = views.views[i].pyramid[-1] / 255.0
        size = (truth.shape[1], truth.shape[0])
        if size not in means:
            same = (
                cv2.resize(views.views[k].pyramid[-1], size, interpolation=cv2.INTER_AREA)
                for k in views.train
            )
            total = sum((image.astype(np.float32) for image in same), np.zeros(truth.shape, np.float32))
            means[size] = total / np.float32(255 * len(views.train))
        scores.append(psnr_db(means[size], truth))
    return float(np.mean(scores))
