"""Points for captures that come with poses: by triangulation of matches, from depth images, from the source's own points."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gaussgym_scene.errors import InputError
from PIL import Image

from gaussgym_recon.consistency import RecaptureError
from gaussgym_recon.depth_images import depth_at_pixels, read_depth
from gaussgym_recon.matching import FeatureCfg, Progress, run_job
from gaussgym_recon.sfm import map_job, prepare
from gaussgym_recon.sfm_model import SfmModel, read_model
from gaussgym_recon.sightings import project

if TYPE_CHECKING:
    from gaussgym_scene.capture import Capture, CaptureImage
    from numpy.typing import NDArray

DENSE_FRACTION = 0.2
"""Depth images that cover less of their pixels do not decide which points are seen."""


def triangulated(
    capture: Capture,
    folder: Path,
    features: FeatureCfg,
    progress: Progress,
    *,
    min_tri_angle_deg: float = 0.5,
) -> SfmModel:
    """Points of matches at the capture's poses, which stay as they are; lenses too.

    Args:
        capture: Every image with `c2w`.
        folder: For the database and the result.
        features: Settings.
        progress: Told how far each step is.
        min_tri_angle_deg: Smallest angle between two rays of a point [deg].

    Raises:
        RecaptureError: Hardly any match holds at these poses.
    """
    pairs = prepare(capture, folder, features, "first", progress)
    output = folder / f"triangulated-{pairs}-{min_tri_angle_deg:g}"
    if not (output / "done.json").exists():
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        poses = {i.file: np.linalg.inv(np.asarray(i.c2w))[:3].tolist() for i in capture.images}
        job = {**map_job(capture, folder, output, min_tri_angle_deg, features.seed), "cam_from_world": poses}
        run_job("triangulate", job, "points", progress)
    model = read_model(output / "best", capture)
    if model is None or len(model.points) < 10 * len(capture.images):
        count = 0 if model is None else len(model.points)
        raise RecaptureError(
            f"{capture.directory}: {count} points were triangulated at the poses of its {len(capture.images)} images, expected "
            f"{10 * len(capture.images)} or more; the poses do not fit the images (--poses sfm finds them anew)",
            reasons=(f"{count} points at the given poses",),
        )
    return model


def from_depth(capture: Capture, *, points_per_image: int = 2000, seed: int = 0) -> SfmModel:
    """Points of the capture's depth images, those that another image's depth confirms.

    Raises:
        InputError: No two depth images agree at the given poses.
    """
    rng = np.random.default_rng(seed)
    depths = [read_depth(capture, image) for image in capture.images]
    points, colors = [np.zeros((0, 3))], [np.zeros((0, 3), np.uint8)]
    for image, depth in zip(capture.images, depths):
        found = _lifted(capture, image, depth, points_per_image, rng)
        points.append(found[0])
        colors.append(found[1])
    every = np.concatenate(points)
    visible = visibility(capture, every, depths)
    counts = np.bincount(np.concatenate(visible), minlength=len(every)) if len(every) else np.zeros(0, int)
    kept = np.flatnonzero(counts >= 2)
    if len(kept) < 0.2 * len(every) or len(kept) < 100:
        raise InputError(
            f"{capture.directory}: depth images do not fit each other at the given poses ({len(kept)} of {len(every)} depths are "
            "confirmed by another image); check the source's conventions, or find the poses anew with --poses sfm"
        )
    return _model(
        capture, every[kept], np.concatenate(colors)[kept], visibility(capture, every[kept], depths)
    )


def from_source_points(capture: Capture, *, max_points: int = 200_000, seed: int = 0) -> SfmModel:
    """The capture's own points; an image sees those that project into it and that its depth, where it has one, confirms.

    Raises:
        InputError: Hardly any point lies in front of a camera.
    """
    found = capture.points()
    assert found is not None
    points, colors = found
    if len(points) > max_points:
        chosen = np.sort(np.random.default_rng(seed).choice(len(points), max_points, replace=False))
        points, colors = points[chosen], None if colors is None else colors[chosen]
    # Depth confirms points only where both have one scale, as a network's have too.
    one_scale = capture.metadata.get("metric") or capture.metadata.get("poses_source") == "feed-forward"
    depths = [read_depth(capture, image) if one_scale else None for image in capture.images]
    # The scattered depths of a LiDAR have gaps everywhere; they cannot say that something stands before a point.
    depths = [d if d is not None and (d > 0).mean() > DENSE_FRACTION else None for d in depths]
    visible = visibility(capture, points, depths)
    seen = np.unique(np.concatenate(visible)) if visible else np.zeros(0, int)
    if len(seen) < 100:
        raise InputError(
            f"{capture.directory}: {len(seen)} of its {len(points)} points are in view of its cameras, expected 100 or more; its "
            "points and poses are not in one frame"
        )
    grey = np.full((len(points), 3), 128, np.uint8) if colors is None else colors
    return _model(capture, points, grey, visible)


def _model(
    capture: Capture, points: NDArray[np.float64], colors: NDArray[np.uint8], visible: list[NDArray[np.int32]]
) -> SfmModel:
    counts = np.bincount(np.concatenate(visible), minlength=len(points)).astype(np.int32)
    return SfmModel(
        names=[image.file for image in capture.images],
        intrinsics=[image.intrinsics for image in capture.images],
        c2w=np.stack([np.asarray(image.c2w, np.float64) for image in capture.images]),
        points=points,
        colors=colors,
        # They were not triangulated, so nothing can be off.
        errors_px=np.zeros(len(points)),
        track_lengths=counts,
        visible=visible,
    )


def visibility(
    capture: Capture, points: NDArray[np.float64], depths: list[NDArray[np.float32] | None]
) -> list[NDArray[np.int32]]:
    """For each image the points that it sees: in view, and as near as its depth image says, within 3 % and 2 cm."""
    visible = []
    for image, depth in zip(capture.images, depths):
        pixels, distance = project(points, np.asarray(image.c2w, np.float64), image.intrinsics)
        size = np.array([image.intrinsics.width, image.intrinsics.height])
        inside = (
            (distance > 0)
            & (np.nan_to_num(pixels, nan=-1.0) >= 0).all(axis=1)
            & (np.nan_to_num(pixels) < size).all(axis=1)
        )
        if depth is not None:
            there = np.zeros(len(points))
            there[inside] = depth_at_pixels(depth, pixels[inside], image.intrinsics)
            inside &= np.abs(there - distance) < 0.02 + 0.03 * distance
        visible.append(np.flatnonzero(inside).astype(np.int32))
    return visible


def _lifted(
    capture: Capture,
    image: CaptureImage,
    depth: NDArray[np.float32] | None,
    count: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Points `[k, 3]` and colours of a sample of a depth image's pixels."""
    from gaussgym_recon.sightings import rays_w

    if depth is None:
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    v, u = np.nonzero(depth > 0)
    take = rng.permutation(len(v))[:count]
    pixels = (np.c_[u[take], v[take]] + 0.5) * [
        image.intrinsics.width / depth.shape[1],
        image.intrinsics.height / depth.shape[0],
    ]
    c2w = np.asarray(image.c2w, np.float64)
    points = c2w[:3, 3] + rays_w(pixels, c2w, image.intrinsics) * depth[v[take], u[take], None]
    with Image.open(capture.directory / image.file) as opened:
        rgb = np.asarray(opened.convert("RGB"))
    x, y = np.floor(pixels).astype(int).T
    return points, rgb[np.clip(y, 0, rgb.shape[0] - 1), np.clip(x, 0, rgb.shape[1] - 1)]
