"""A map as structure from motion leaves it: cameras and points in a frame of arbitrary scale and tilt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from gaussgym_scene.cameras import Intrinsics
    from gaussgym_scene.capture import Capture
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SfmModel:
    """One map; fields as in :class:`gaussgym_recon.posed.PosedCapture`, in the map's own frame."""

    names: list[str]
    intrinsics: list[Intrinsics]
    c2w: NDArray[np.float64]
    points: NDArray[np.float64]
    colors: NDArray[np.uint8]
    errors_px: NDArray[np.float64]
    track_lengths: NDArray[np.int32]
    visible: list[NDArray[np.int32]]

    @property
    def reprojection_error_px(self) -> float:
        """Mean reprojection error over all observations [px]."""
        return float(np.average(self.errors_px, weights=self.track_lengths)) if len(self.points) else np.inf

    @property
    def observations(self) -> int:
        """How often a point is seen."""
        return int(self.track_lengths.sum())

    def reliable(self) -> NDArray[np.intp]:
        """Indices of the points that three images or more agree on."""
        return np.flatnonzero((self.errors_px < 1.5) & (self.track_lengths >= 3))


def capture_indices(capture: Capture, names: list[str]) -> NDArray[np.int64]:
    """Place of each named image in the capture."""
    place = {image.file: index for index, image in enumerate(capture.images)}
    return np.array([place[name] for name in names], np.int64)


def read_model(path: Path, capture: Capture) -> SfmModel | None:
    """Read a COLMAP model; None if it has no pose or no point.

    Args:
        path: Folder with the model's binary files, of SIMPLE_RADIAL or OPENCV cameras.
        capture: Whose images it poses.
    """
    import pycolmap

    model = pycolmap.Reconstruction(str(path))
    images = {image.name: image for image in model.images.values() if image.has_pose}
    chosen = [image for image in capture.images if image.file in images]
    if not chosen or not model.points3D:
        return None
    ids = sorted(model.points3D)
    place = {point_id: index for index, point_id in enumerate(ids)}
    points = [model.points3D[point_id] for point_id in ids]
    c2w = np.tile(np.eye(4), (len(chosen), 1, 1))
    visible, intrinsics = [], []
    for index, entry in enumerate(chosen):
        image = images[entry.file]
        c2w[index, :3] = image.cam_from_world().inverse().matrix()
        seen = {place[p.point3D_id] for p in image.points2D if p.has_point3D()}
        visible.append(np.array(sorted(seen), np.int32))
        intrinsics.append(lens_of(model.cameras[image.camera_id], entry.intrinsics))
    return SfmModel(
        names=[entry.file for entry in chosen],
        intrinsics=intrinsics,
        c2w=c2w,
        points=np.array([point.xyz for point in points], np.float64),
        colors=np.array([point.color for point in points], np.uint8),
        errors_px=np.array([point.error for point in points], np.float64),
        track_lengths=np.array([point.track.length() for point in points], np.int32),
        visible=visible,
    )


def without_loose_cameras(model: SfmModel, min_points: int) -> SfmModel | None:
    """A map without the cameras whose place hardly anything fixes; None where fewer than two are left.

    Points that a camera shares with one other only leave the distance between the two free, so what counts are points that two
    others see too. Incremental mapping asks for them before it takes a camera; global mapping takes all that have matches, and
    may put one metres off.

    Args:
        model: The map.
        min_points: Fewest points, seen by three cameras or more, of a camera that stays.
    """
    kept = np.ones(len(model.names), np.bool_)
    while True:
        seen = [points for points, stays in zip(model.visible, kept) if stays]
        tracks = np.bincount(np.concatenate([*seen, np.zeros(0, np.int32)]), minlength=len(model.points))
        firm = np.array([int((tracks[points] >= 3).sum()) for points in model.visible])
        loose = kept & (firm < min_points)
        if not loose.any():
            break
        # The loosest only: others may be loose by its points alone.
        kept[int(np.argmin(np.where(loose, firm, np.iinfo(np.int64).max)))] = False
        if kept.sum() < 2:
            return None
    if kept.all():
        return model
    points = np.flatnonzero(tracks >= 2)
    place = np.full(len(model.points), -1, np.int32)
    place[points] = np.arange(len(points), dtype=np.int32)
    chosen = np.flatnonzero(kept)
    return SfmModel(
        names=[model.names[i] for i in chosen],
        intrinsics=[model.intrinsics[i] for i in chosen],
        c2w=model.c2w[chosen],
        points=model.points[points],
        colors=model.colors[points],
        errors_px=model.errors_px[points],
        track_lengths=tracks[points].astype(np.int32),
        visible=[place[model.visible[i]][place[model.visible[i]] >= 0] for i in chosen],
    )


def lens_of(camera: object, known: Intrinsics) -> Intrinsics:
    """A COLMAP camera as intrinsics; `known` says its size and where its focal length came from."""
    values = [float(value) for value in camera.params]  # type: ignore[attr-defined]
    if len(values) == 4:
        focal, cx, cy, k1 = values
        fx, fy, distortion = focal, focal, (k1, 0.0, 0.0, 0.0)
    else:
        fx, fy, cx, cy = values[:4]
        distortion = (values[4], values[5], values[6], values[7])
    source = "calibrated" if known.focal_source == "guess" else known.focal_source
    return replace(known, fx=fx, fy=fy, cx=cx, cy=cy, distortion=distortion, focal_source=source)


def colmap_camera(intrinsics: Intrinsics) -> tuple[str, list[float]]:
    """COLMAP's model and parameters of a camera: one radial term where that is all, OPENCV else."""
    i = intrinsics
    if abs(i.fx / i.fy - 1.0) < 1e-6 and not any(i.distortion[1:]):
        return "SIMPLE_RADIAL", [i.fx, i.cx, i.cy, i.distortion[0]]
    return "OPENCV", [i.fx, i.fy, i.cx, i.cy, *i.distortion]
