"""A capture whose cameras stand in the metric world frame: what SfM hands to splat training."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gaussgym_scene.cameras import Intrinsics
    from numpy.typing import NDArray

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Similarity:
    """A similarity transform ``y = scale * rotation @ x + translation``.

    Attributes:
        scale: Positive factor.
        rotation: ``[3, 3]`` float64, proper (determinant +1).
        translation: ``[3]`` float64, in units of the target frame.
    """

    scale: float
    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]

    @staticmethod
    def identity() -> Similarity:
        """The transform that changes nothing."""
        return Similarity(1.0, np.eye(3), np.zeros(3))

    def apply(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Transform points ``[..., 3]``."""
        return self.scale * (np.asarray(points, dtype=np.float64) @ self.rotation.T) + self.translation

    def apply_c2w(self, c2w: NDArray[np.float64]) -> NDArray[np.float64]:
        """Transform camera-to-world matrices ``[..., 4, 4]``; their rotations stay orthonormal."""
        out = np.array(c2w, dtype=np.float64)
        out[..., :3, :3] = self.rotation @ out[..., :3, :3]
        out[..., :3, 3] = self.apply(out[..., :3, 3])
        return out

    def compose(self, first: Similarity) -> Similarity:
        """The transform that applies ``first`` and then ``self``."""
        return Similarity(
            self.scale * first.scale, self.rotation @ first.rotation, self.apply(first.translation)
        )

    def inverse(self) -> Similarity:
        """The transform that undoes this one."""
        rotation = self.rotation.T
        return Similarity(1.0 / self.scale, rotation, -(rotation @ self.translation) / self.scale)


@dataclass
class PosedCapture:
    """Registered images in the metric world: metres, gravity-aligned, +Z up, ground at zero.

    The origin is on the ground below the first registered camera and +X is the heading of the walk. Cameras
    are OpenCV (+X right, +Y down, +Z forward), the centre of the top-left pixel is (0.5, 0.5).

    Attributes:
        capture_dir: Folder of the capture; ``capture_dir / names[i]`` is an image file.
        names: The ``n`` registered images, relative to ``capture_dir``, in capture order.
        unregistered: Images of the capture that have no pose.
        intrinsics: One camera a registered image, with its distortion, in pixels of the image files as stored; all equal
            where one camera took them.
        c2w: ``[n, 4, 4]`` float64 camera-to-world.
        points: ``[P, 3]`` float64 sparse points [m].
        colors: ``[P, 3]`` uint8 RGB of the points.
        errors_px: ``[P]`` float64 mean reprojection error of each point [px].
        track_lengths: ``[P]`` int32 number of images that see each point.
        visible: For each registered image the indices into ``points`` that it sees, int32.
        world_from_capture: Similarity from the frame of structure from motion to this world.
        scale_source: ``'sensor'``, ``'gcp'``, ``'gps'``, ``'marker'``, ``'distance'``, ``'depth'`` or ``'camera_height'``.
        gravity_source: ``'sensor'``, ``'gcp'``, ``'user'``, ``'cameras'``, or what was combined of ``'gps'``, ``'plane'``,
            ``'camera_down'`` and ``'nadir'``, or of ``'surfaces'`` (measured depth) and ``'lines'`` (plumb edges), with
            ``'+'`` between.
        camera_height_m: Median height of the cameras above the ground plane [m].
        scale_std_fraction: Standard deviation of the scale over its value; None where unknown.
        reprojection_error_px: Mean over all points [px]; None where points were not triangulated from images.
        registered_fraction: Registered images over all images of the capture.
        seeds_tried: Number of reconstructions that were attempted.
        gps_residual_median_m: Median horizontal distance to the GPS fixes after Sim(3); None without GPS.
        gps_residual_max_m: Largest such distance; None without GPS.
        max_step_m: Longest step between neighbouring registered images [m].
        gps_xy_m: ``[n, 2]`` GPS fixes (east, north) of the registered images [m], NaN where an image has none;
            None without GPS.
        quality: Further numbers for the report, JSON values only.
        gravity_std_rad: Root mean square of the angle by which +Z may be off [rad]; None where unknown.
        gps_outliers: Registered images whose GPS fix is wrong; it was not used.
    """

    capture_dir: Path
    names: list[str]
    unregistered: list[str]
    intrinsics: list[Intrinsics]
    c2w: NDArray[np.float64]
    points: NDArray[np.float64]
    colors: NDArray[np.uint8]
    errors_px: NDArray[np.float64]
    track_lengths: NDArray[np.int32]
    visible: list[NDArray[np.int32]]
    world_from_capture: Similarity
    scale_source: str
    gravity_source: str
    camera_height_m: float
    scale_std_fraction: float | None
    reprojection_error_px: float | None
    registered_fraction: float
    seeds_tried: int
    gps_residual_median_m: float | None
    gps_residual_max_m: float | None
    max_step_m: float
    gps_xy_m: NDArray[np.float64] | None = None
    quality: dict[str, Any] = field(default_factory=dict)
    gravity_std_rad: float | None = None
    gps_outliers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.intrinsics) != len(self.names):
            raise ValueError(
                f"{len(self.intrinsics)} cameras for {len(self.names)} images, expected one an image"
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def image_paths(self) -> list[Path]:
        """Files of the registered images."""
        return [self.capture_dir / name for name in self.names]

    def save(self, path: Path) -> None:
        """Write to an ``.npz`` file (no pickle), atomically."""
        scalars = {
            key: getattr(self, key)
            for key in (
                "names",
                "unregistered",
                "scale_source",
                "gravity_source",
                "camera_height_m",
                "scale_std_fraction",
                "gravity_std_rad",
                "gps_outliers",
                "reprojection_error_px",
                "registered_fraction",
                "seeds_tried",
                "gps_residual_median_m",
                "gps_residual_max_m",
                "max_step_m",
                "quality",
            )
        }
        scalars["version"] = FORMAT_VERSION
        scalars["intrinsics"] = [camera.to_dict() for camera in self.intrinsics]
        arrays: dict[str, Any] = {
            key: getattr(self, key) for key in ("c2w", "points", "colors", "errors_px", "track_lengths")
        }
        arrays["visible"] = np.concatenate(self.visible) if self.visible else np.zeros(0, np.int32)
        arrays["visible_counts"] = np.array([len(v) for v in self.visible], np.int32)
        arrays["scale"] = np.float64(self.world_from_capture.scale)
        arrays["rotation"] = self.world_from_capture.rotation
        arrays["translation"] = self.world_from_capture.translation
        if self.gps_xy_m is not None:
            arrays["gps_xy_m"] = self.gps_xy_m
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, manifest=np.array(json.dumps(scalars)), **arrays)
        os.replace(partial, path)

    @staticmethod
    def load(path: Path, capture_dir: Path) -> PosedCapture:
        """Read what :meth:`save` wrote; ``capture_dir`` is where the images lie now.

        Raises:
            InputError: The file is not one of ours, or of an unknown version.
        """
        from gaussgym_scene.cameras import Intrinsics
        from gaussgym_scene.errors import InputError

        try:
            with np.load(path, allow_pickle=False) as data:
                scalars = json.loads(str(data["manifest"]))
                arrays = {key: data[key] for key in data.files if key != "manifest"}
            version = scalars.pop("version")
            if version != FORMAT_VERSION:
                raise ValueError(f"version {version}, expected {FORMAT_VERSION}")
            cameras = scalars.pop("intrinsics")
            # Files of older versions hold the one camera of all images.
            cameras = [cameras] * len(scalars["names"]) if isinstance(cameras, dict) else cameras
            visible = np.split(arrays.pop("visible"), np.cumsum(arrays.pop("visible_counts"))[:-1])
            transform = Similarity(
                float(arrays.pop("scale")), arrays.pop("rotation"), arrays.pop("translation")
            )
            return PosedCapture(
                capture_dir=capture_dir,
                intrinsics=[Intrinsics.from_dict(camera) for camera in cameras],
                visible=list(visible),
                world_from_capture=transform,
                **arrays,
                **scalars,
            )
        except (KeyError, ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: not readable as poses ({error}); delete it and build again") from error
