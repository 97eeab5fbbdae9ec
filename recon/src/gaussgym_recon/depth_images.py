"""Depth images of a capture, held against the points of a map of its photographs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gaussgym_recon.sightings import project

if TYPE_CHECKING:
    from gaussgym_scene.cameras import Intrinsics
    from gaussgym_scene.capture import Capture, CaptureImage
    from numpy.typing import NDArray

    from gaussgym_recon.sfm_model import SfmModel

MIN_CONFIDENCE = 1
"""Depths of lower confidence are not used (0 low, 1 medium, 2 high)."""

MIN_POINTS = 5
"""Points with depth that an image needs to have a scale."""


def depth_is_measured(capture: Capture) -> bool:
    """Whether depth images are in metres: those of a network share the scale of its poses, whatever that is."""
    metadata = capture.metadata
    return bool(metadata.get("metric")) or metadata.get("poses_source") != "feed-forward"


def read_depth(capture: Capture, image: CaptureImage) -> NDArray[np.float32] | None:
    """Depth along +Z [m] of an image, 0 where none or doubtful; None where it has no depth image."""
    if image.depth is None:
        return None
    with Image.open(capture.directory / image.depth) as opened:
        depth = np.asarray(opened, np.float32) * 1e-3
    if image.confidence is not None:
        with Image.open(capture.directory / image.confidence) as opened:
            depth = np.where(np.asarray(opened) >= MIN_CONFIDENCE, depth, np.float32(0))
    return depth


def depth_at_pixels(
    depth: NDArray[np.float32], pixels: NDArray[np.float64], intrinsics: Intrinsics
) -> NDArray[np.float64]:
    """Depth [m] at pixels `[k, 2]` of the image that a depth image belongs to; 0 where none, outside, or at an edge."""
    height, width = depth.shape
    scale = np.array([width / intrinsics.width, height / intrinsics.height])
    at = np.floor(np.nan_to_num(pixels, nan=-1e6) * scale).astype(np.int64)
    inside = (at >= 1).all(axis=1) & (at[:, 0] < width - 1) & (at[:, 1] < height - 1)
    found = np.zeros(len(pixels))
    u, v = at[inside].T
    around = np.stack([depth[v + dv, u + du] for dv in (-1, 0, 1) for du in (-1, 0, 1)])
    middle = np.median(around, axis=0)
    # At an edge a pixel may see either side.
    even = (around.min(axis=0) > 0) & (np.ptp(around, axis=0) < 0.1 * middle)
    found[inside] = np.where(even, middle, 0.0)
    return found


def depths_at_points(
    capture: Capture, model: SfmModel, indices: NDArray[np.int64]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """What depth images and a map say of the reliable points that each image sees.

    Args:
        capture: With depth images.
        model: Of its photographs.
        indices: Place in the capture of each image of the map `[n]`.

    Returns:
        For each image of the map the sensor's depths [m], 0 where there are none, and those of the map in its units.
    """
    reliable = np.zeros(len(model.points), np.bool_)
    reliable[model.reliable()] = True
    measured, distances = [], []
    for k, index in enumerate(indices):
        depth = read_depth(capture, capture.images[int(index)])
        seen = model.visible[k][reliable[model.visible[k]]] if depth is not None else np.zeros(0, np.int32)
        pixels, distance = project(model.points[seen], model.c2w[k], model.intrinsics[k])
        at = np.zeros(0) if depth is None else depth_at_pixels(depth, pixels, model.intrinsics[k])
        measured.append(at)
        distances.append(distance)
    return measured, distances


def scales_of_images(
    measured_m: list[NDArray[np.float64]], distances: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Metres per unit of a map by each image's own depths `[n]`; NaN for images with too few.

    Args:
        measured_m: As :func:`depths_at_points` returns them.
        distances: Likewise.
    """
    scales = np.full(len(measured_m), np.nan)
    for k, (sensor, distance) in enumerate(zip(measured_m, distances, strict=True)):
        usable = np.isfinite(sensor) & (sensor > 0) & (distance > 0)
        if usable.sum() >= MIN_POINTS:
            scales[k] = np.median(sensor[usable] / distance[usable])
    return scales
