"""A mission of the GrandTour data set → a capture: several cameras of one robot, LiDAR points, sparse LiDAR depth.

Layout (github.com/leggedrobotics/grand_tour_dataset, and the builder in grand_tour_box): `<mission>/data` is a zarr root
with a group a sensor, `<mission>/images/<tag>/%06d.jpeg` its images by row. A group's attributes give `frame_id`,
`camera_info` (ROS: pixel centres at integers) and `transform`, which maps points of `base_frame_id` to the sensor (a tf
look-up of the base in the sensor's frame). Odometry maps points of its child frame, for `dlio_map_odometry` the LiDAR
`hesai_lidar`, to the map, which is metric and +Z up. Camera frames are optical: OpenCV's axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import inverse_rigid, matrix_from_quat_wxyz, transform_points
from numpy.typing import NDArray

from gaussgym_recon.sources.grandtour_mission import Mission, RosCamera, ros_camera
from gaussgym_recon.sources.phone_files import kept_of, read_rgb, thinned
from gaussgym_recon.sources.selection import image_sharpness
from gaussgym_recon.sources.source import Progress, Source, SourceCfg
from gaussgym_recon.sources.trajectory import Trajectory
from gaussgym_recon.sources.writing import Frame, write_capture

ODOMETRY_CHILD = {"dlio_map_odometry": "hesai_lidar", "anymal_state_odometry": "base"}
"""Odometry and the frame whose poses it holds; the mission's files do not say."""
LONGEST_GAP_S = 0.5
"""Longest gap between two poses that is bridged [s]."""
EXACT_S = 1e-4
SCAN_NEAR_S = 0.1
"""A scan belongs to an image that was taken no more than this before or after it [s]."""


@dataclass(frozen=True, kw_only=True)
class GrandTourCfg(SourceCfg):
    """Settings of GrandTour's missions."""

    cameras: tuple[str, ...] = ("hdr_front", "hdr_left", "hdr_right")
    """Tags of the cameras."""
    frames: int | None = 240
    """Most images to keep, of all cameras together; the sharpest of equal spans of each camera's way."""
    spacing_m: float = 0.25
    """A camera that moved less and turned less than `spacing_rad` since its last image gives none [m]."""
    spacing_rad: float = 0.25
    """See `spacing_m` [rad]."""
    odometry: str = "dlio_map_odometry"
    """Tag of the poses; `dlio_map_odometry` or `anymal_state_odometry`."""
    lidars: tuple[str, ...] = ("hesai_points_undistorted", "livox_points_undistorted")
    """Tags of the LiDARs; none for neither points nor depth."""
    lidar_range_m: tuple[float, float] = (0.7, 20.0)
    """Nearest (the robot itself) and farthest returns that are used [m]."""
    voxel_m: float = 0.03
    """One point is kept of each cube of this edge [m]."""
    depth_long_side_px: int = 480
    """Long side of the sparse depth images made of the scans [px]; 0 for none."""
    balance: float = 0.0
    """Of undistorting fisheye images: 0 keeps only pixels that all exist, 1 all that the lens saw, the rest masked."""
    candidates_per_frame: int = 4
    """Images that are looked at for each that is kept."""


@dataclass(frozen=True)
class _Shot:
    camera: RosCamera
    row: int
    image: Path
    mask: Path | None
    time_s: float
    c2w: NDArray[np.float64]


def import_grandtour(
    path: Path, output: Path, cfg: GrandTourCfg | None = None, *, progress: Progress | None = None
) -> Path:
    """Make a capture of a mission.

    Images of fisheye cameras become pinhole images by OpenCV's mapping.

    Args:
        path: The mission's folder, with `data` and `images`.
        output: Folder of the capture.
        cfg: Settings.
        progress: Told the fraction that is done.

    Returns:
        `output`.

    Raises:
        InputError: The package zarr is missing, a sensor is, or its entries do not go together.
    """
    cfg = cfg or GrandTourCfg()
    mission = Mission.open(Path(path))
    odometry = _odometry(mission, cfg.odometry)
    cameras = [ros_camera(mission, tag, balance=cfg.balance) for tag in cfg.cameras]
    if not cameras:
        raise InputError(f"{path}: no cameras were asked for; expected tags such as hdr_front")
    share = None if cfg.frames is None else cfg.frames // len(cameras)
    if share is not None and share < 2:
        raise InputError(f"--frames {cfg.frames} for {len(cameras)} cameras: expected two or more of each")
    shots: list[_Shot] = []
    for camera in cameras:
        shots += _chosen(_shots(mission, camera, odometry, cfg), cfg, share)
    shots.sort(key=lambda shot: shot.time_s)
    scans = _scans_of(mission, shots, odometry, cfg)
    metadata = {
        "source": "grandtour",
        "source_app": "GrandTour",
        "ordered": True,
        "metric": True,
        "scale_source": "sensor",
        "gravity_source": "sensor",
        "up": [0.0, 0.0, 1.0],
        "poses_source": "slam",
        "cameras": list(cfg.cameras),
    }
    if lenses := sorted({camera.model for camera in cameras if camera.maps is not None}):
        metadata["undistorted_from"] = ", ".join(lenses)
    return write_capture(
        output,
        _frames(shots, scans, cfg),
        metadata,
        _voxels(scans, cfg.voxel_m),
        cfg=cfg,
        total=len(shots),
        progress=progress,
    )


@dataclass(frozen=True)
class _Odometry:
    """Poses of the frame that the odometry is of, and how the robot's box is mounted to it."""

    trajectory: Trajectory
    child_from_box: NDArray[np.float64]

    def map_from(
        self, mission: Mission, name: str, times_s: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Map of a sensor's points to the world, `[m, 4, 4]`, and `[m]` whether it is known then."""
        poses, known = self.trajectory.at(times_s, exact_s=EXACT_S, max_gap_s=LONGEST_GAP_S)
        return poses @ self.child_from_box @ inverse_rigid(mission.from_box_base(name)), known


def _odometry(mission: Mission, tag: str) -> _Odometry:
    if tag not in ODOMETRY_CHILD:
        raise InputError(f"odometry {tag!r} is not known; expected {' or '.join(ODOMETRY_CHILD)}")
    times = mission.times_s(tag)
    positions, quats = mission.array(tag, "pose_pos"), mission.array(tag, "pose_orien")
    if positions.shape != (len(times), 3) or quats.shape != (len(times), 4):
        raise InputError(
            f"{mission.name}: {tag} has {len(times)} times, positions {positions.shape}, orientations {quats.shape}; "
            "expected one pose a time, unpack the mission again"
        )
    lengths = np.linalg.norm(quats, axis=1)
    if not np.isfinite(positions).all() or not (np.abs(lengths - 1) < 1e-2).all():
        bad = int(np.argmax(~(np.isfinite(positions).all(axis=1) & (np.abs(lengths - 1) < 1e-2))))
        raise InputError(
            f"{mission.name}: pose {bad} of {tag} is no finite position and unit quaternion; unpack the mission again"
        )
    poses = np.tile(np.eye(4), (len(times), 1, 1))
    poses[:, :3, :3] = matrix_from_quat_wxyz(quats[:, [3, 0, 1, 2]])
    poses[:, :3, 3] = positions
    trajectory = Trajectory.sorted(times, poses, what=f"{mission.name}: {tag}")
    return _Odometry(trajectory, mission.from_box_base(ODOMETRY_CHILD[tag]))


def _shots(mission: Mission, camera: RosCamera, odometry: _Odometry, cfg: GrandTourCfg) -> list[_Shot]:
    """A camera's images that have a pose and show something new."""
    times = mission.times_s(camera.tag)
    c2w, posed = odometry.map_from(mission, camera.tag, times)
    if not posed.any():
        raise InputError(
            f"{mission.name}: no image of {camera.tag} was taken while {cfg.odometry} ran; expected times that overlap"
        )
    shots, last = [], None
    for row in np.flatnonzero(posed):
        if last is not None:
            moved = float(np.linalg.norm(c2w[row, :3, 3] - last[:3, 3]))
            cosine = 0.5 * (float(np.trace(last[:3, :3].T @ c2w[row, :3, :3])) - 1.0)
            if moved < cfg.spacing_m and np.arccos(np.clip(cosine, -1, 1)) < cfg.spacing_rad:
                continue
        last = c2w[row]
        image = mission.image(camera.tag, int(row))
        mask = mission.image(f"{camera.tag}_mask", int(row), required=False)
        shots.append(_Shot(camera, int(row), image, mask, float(times[row]), c2w[row]))  # type: ignore[arg-type]
    return shots


def _chosen(shots: list[_Shot], cfg: GrandTourCfg, most: int | None) -> list[_Shot]:
    shots = [shots[index] for index in thinned(len(shots), most, cfg.candidates_per_frame)]
    return [
        shots[index] for index in kept_of(len(shots), most, lambda index: image_sharpness(shots[index].image))
    ]


def _scans_of(
    mission: Mission, shots: list[_Shot], odometry: _Odometry, cfg: GrandTourCfg
) -> list[list[NDArray[np.float32]]]:
    """Of each image the scans of its moment, `[P, 3]` points in the map."""
    scans: list[list[NDArray[np.float32]]] = [[] for _ in shots]
    near_m, far_m = cfg.lidar_range_m
    for tag in cfg.lidars:
        times = mission.times_s(tag)
        map_from_lidar, posed = odometry.map_from(mission, tag, times)
        wanted: dict[int, list[int]] = {}
        for index, shot in enumerate(shots):
            nearest = int(np.argmin(np.abs(times - shot.time_s))) if len(times) else -1
            if nearest >= 0 and posed[nearest] and abs(times[nearest] - shot.time_s) <= SCAN_NEAR_S:
                wanted.setdefault(nearest, []).append(index)
        for row, points in mission.scans(tag, sorted(wanted)):
            ranges = np.linalg.norm(points, axis=1)
            points = points[np.isfinite(ranges) & (ranges >= near_m) & (ranges <= far_m)]
            world = transform_points(map_from_lidar[row], points).astype(np.float32)
            for index in wanted[row]:
                scans[index].append(world)
    return scans


def _voxels(scans: list[list[NDArray[np.float32]]], voxel_m: float) -> NDArray[np.float64] | None:
    """One point of each cube; None without points."""
    parts = [part for group in scans for part in group if len(part)]
    if not parts:
        return None
    cloud = np.concatenate(parts)
    if voxel_m > 0:
        cubes = np.floor((cloud - cloud.min(axis=0)) / voxel_m).astype(np.int64)
        _, first = np.unique(cubes @ np.array([1 << 42, 1 << 21, 1]), return_index=True)
        cloud = cloud[np.sort(first)]
    return cloud.astype(np.float64)


def _frames(shots: list[_Shot], scans: list[list[NDArray[np.float32]]], cfg: GrandTourCfg) -> Iterator[Frame]:
    for shot, clouds in zip(shots, scans):
        camera = shot.camera
        pixels = read_rgb(shot.image)
        camera.check_size(pixels, shot.image)
        mask = camera.pinhole_mask(None if shot.mask is None else read_rgb(shot.mask)[..., 0] > 0)
        depth = None
        if clouds and cfg.depth_long_side_px > 0:
            depth = _sparse_depth_m(shot, np.concatenate(clouds), cfg.depth_long_side_px)
        yield Frame(
            name=f"{camera.tag}_{shot.row:06d}{shot.image.suffix}",
            image=shot.image if camera.maps is None else camera.pinhole_image(pixels),
            intrinsics=camera.intrinsics,
            c2w=shot.c2w,
            timestamp_s=shot.time_s,
            depth_m=depth,
            mask=mask,
        )


def _sparse_depth_m(shot: _Shot, points: NDArray[np.float32], long_side_px: int) -> NDArray[np.float32]:
    """Depth along +Z of the nearest return in each pixel [m]; 0 = none."""
    import cv2

    full = shot.camera.intrinsics
    shrink = min(1.0, long_side_px / max(full.width, full.height))
    camera = full.resized(max(1, round(full.width * shrink)), max(1, round(full.height * shrink)))
    local = transform_points(inverse_rigid(shot.c2w), points)
    local = local[local[:, 2] > 0.05]
    # Far off the axis the distortion polynomial folds back into the image.
    local = local[np.abs(local[:, :2]).max(axis=1, initial=0) < 3.0 * local[:, 2]] if len(local) else local
    depth = np.full((camera.height, camera.width), np.inf, np.float32)
    if len(local):
        pixels, _ = cv2.projectPoints(
            local[:, None], np.zeros(3), np.zeros(3), camera.K, np.array(camera.distortion)
        )
        u, v = np.floor(pixels[:, 0]).astype(np.int64).T
        inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        np.minimum.at(depth, (v[inside], u[inside]), local[inside, 2].astype(np.float32))
    return np.where(np.isfinite(depth), depth, 0.0).astype(np.float32)


SOURCE = Source(
    import_grandtour, GrandTourCfg, "a GrandTour mission, the folder with its `data` and `images`"
)
