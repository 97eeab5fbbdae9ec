# numpy's argument types are looser than its stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""How much of what a robot will see the photographs have seen.

A robot's camera hangs at knee height; the photographs were taken at eye height, on their own way. Splats look right only where
photographs looked. So a robot's views are rendered along the scene's paths, and each of their pixels is sorted by the surface
it shows: *seen* by enough photographs from about the robot's side and no coarser than the robot sees it, *unseen*, or a *hole*:
nothing where there must be ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from gaussgym_render import SplatRenderer
from gaussgym_scene.cameras import Intrinsics, pixel_rays_c
from gaussgym_scene.scene import Scene
from gaussgym_scene.splats import Splats
from numpy.typing import NDArray

from gaussgym_recon.views import pinhole_cameras

SEEN, UNSEEN, HOLE, SKY = 0, 1, 2, 3
"""What a pixel of a robot's view is."""


@dataclass(frozen=True)
class CoverageCfg:
    """Of :func:`measure_coverage`.

    Attributes:
        camera_height_m: Of the robot's camera above the ground [m].
        width: Of its images [px].
        height: Of its images [px].
        every_px: Every so many pixels across and down is judged; fewer pixels would blur near splats over the ground behind.
        fov_rad: Horizontal field of view [rad].
        headings_rad: Directions looked into, from that of the path [rad].
        spacing_m: Between the places looked from, along the paths [m].
        max_places: Fewer places are spread evenly where there would be more.
        range_m: Surface farther than this is not judged [m].
        min_photos: Photographs that must have seen a surface: two make depth.
        max_angle_rad: Between the robot's and a photograph's line of sight to the surface [rad]; beyond, it looks another.
        max_coarseness: Size on the surface of a photograph's pixel over that of the robot's.
        tolerance_m: Surface this far behind what a photograph shows still counts as seen [m], beside ``tolerance`` of its depth.
        tolerance: The same as a fraction of the depth.
        photo_width: Width at which depth is rendered at the photographs' places [px].
    """

    camera_height_m: float = 0.3
    width: int = 96
    height: int = 72
    every_px: int = 3
    fov_rad: float = np.radians(87.0)
    headings_rad: tuple[float, ...] = (0.0, np.radians(45.0), np.radians(-45.0))
    spacing_m: float = 0.5
    max_places: int = 60
    range_m: float = 8.0
    min_photos: int = 2
    max_angle_rad: float = np.radians(60.0)
    max_coarseness: float = 1.0
    tolerance_m: float = 0.08
    tolerance: float = 0.04
    photo_width: int = 120


@dataclass
class Photos:
    """The registered photographs' cameras, without distortion.

    Attributes:
        names: Of the images.
        c2w: ``[n, 4, 4]`` camera to world, OpenCV.
        cameras: Pinhole, one an image.
    """

    names: list[str]
    c2w: NDArray[np.float64]
    cameras: list[Intrinsics]

    @staticmethod
    def of(metadata: dict[str, Any]) -> Photos | None:
        """From a scene's metadata; None for a scene that was not photographed."""
        found = metadata.get("cameras")
        if not found or not found.get("names"):
            return None
        stated = found["intrinsics"]
        one = [stated] * len(found["names"]) if isinstance(stated, dict) else stated
        cameras = pinhole_cameras([Intrinsics.from_dict(camera) for camera in one])
        return Photos(list(found["names"]), np.asarray(found["c2w"], np.float64), cameras)


@dataclass
class Coverage:
    """What robots see, sorted.

    Attributes:
        places: ``[P, 4]`` x, y, ground z [m], yaw [rad] looked from.
        pixels: ``[V, h, w]`` uint8 of each view: `SEEN`, `UNSEEN`, `HOLE` or `SKY`; views are all headings of the first place,
            then of the second.
        rgb: ``[V, H, W, 3]`` uint8, the views.
        points: ``[V, h, w, 3]`` world coordinates of what is seen [m], NaN where that is nothing.
        cfg: How it was measured.
    """

    places: NDArray[np.float64]
    pixels: NDArray[np.uint8]
    rgb: NDArray[np.uint8]
    points: NDArray[np.float32]
    cfg: CoverageCfg

    @property
    def by_place(self) -> NDArray[np.float64]:
        """``[P]`` share that was seen of what a robot sees there, NaN where it sees nothing but sky."""
        if not len(self.places):
            return np.zeros(0)
        grouped = self.pixels.reshape(len(self.places), -1)
        judged = (grouped != SKY).sum(axis=1)
        return np.where(judged > 0, (grouped == SEEN).sum(axis=1) / np.maximum(judged, 1), np.nan)

    @property
    def seen(self) -> float | None:
        """Share of all; None where there is nothing to see."""
        judged = int((self.pixels != SKY).sum())
        return float((self.pixels == SEEN).sum() / judged) if judged else None

    @property
    def holes(self) -> float | None:
        """Share of all that shows nothing where there must be ground."""
        judged = int((self.pixels != SKY).sum())
        return float((self.pixels == HOLE).sum() / judged) if judged else None


def measure_coverage(scene: Scene, photos: Photos, cfg: CoverageCfg | None = None) -> Coverage:
    """Look along a scene's paths as a robot does, and find what of it the photographs have seen.

    Args:
        scene: With splats and paths.
        photos: Of it.
        cfg: Settings.

    Returns:
        Every view's pixels, sorted; without paths there are no views.
    """
    cfg = cfg or CoverageCfg()
    places = _places(scene.paths.points.astype(np.float64), scene.paths.path_id, cfg)
    camera = Intrinsics.from_fov(cfg.width, cfg.height, cfg.fov_rad)
    c2w = (
        np.concatenate([_robot_views(place, cfg) for place in places]) if len(places) else np.zeros((0, 4, 4))
    )
    every, first = cfg.every_px, cfg.every_px // 2
    rays_c = pixel_rays_c(camera)[first::every, first::every]
    shape = (len(c2w), *rays_c.shape[:2])
    if not len(c2w):
        rgb = np.zeros((0, cfg.height, cfg.width, 3), np.uint8)
        return Coverage(places, np.zeros(shape, np.uint8), rgb, np.zeros((*shape, 3), np.float32), cfg)
    frames = _render(scene.splats, c2w, np.broadcast_to(camera.K, (len(c2w), 3, 3)), cfg.width, cfg.height)
    depth = frames.median_depth[:, first::every, first::every]
    solid = frames.alpha[:, first::every, first::every] > 0.5
    rays_w = np.einsum("vij,hwj->vhwi", c2w[:, :3, :3], rays_c)
    shown = solid & (depth > 0) & (depth < cfg.range_m)
    points = c2w[:, None, None, :3, 3] + depth[..., None] * rays_w
    pixels = np.full(shape, SKY, np.uint8)
    # Below the horizon a ray meets level ground within range unless there is none.
    pixels[~solid & (-rays_w[..., 2] * cfg.range_m > cfg.camera_height_m)] = HOLE
    counts = _photos_that_saw(scene.splats, photos, points[shown], _eyes(c2w, shown), camera.fx, cfg)
    pixels[shown] = np.where(counts >= cfg.min_photos, SEEN, UNSEEN)
    points[~shown] = np.nan
    return Coverage(places, pixels, frames.rgb, points.astype(np.float32), cfg)


def _places(points: NDArray[np.float64], ids: NDArray[np.integer], cfg: CoverageCfg) -> NDArray[np.float64]:
    """Points of the paths, about ``spacing_m`` apart."""
    kept = []
    for line in np.unique(ids):
        own = points[ids == line]
        along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(own[:, :2], axis=0), axis=1))])
        kept += [
            own[i] for i in np.unique(np.searchsorted(along, np.arange(0.0, along[-1] + 1e-9, cfg.spacing_m)))
        ]
    every = max(1, -(-len(kept) // cfg.max_places))
    return np.array(kept[::every]).reshape(-1, 4)


def _robot_views(place: NDArray[np.float64], cfg: CoverageCfg) -> NDArray[np.float64]:
    """Level cameras ``[H, 4, 4]`` above a place, one a heading."""
    out = np.tile(np.eye(4), (len(cfg.headings_rad), 1, 1))
    for view, heading in zip(out, cfg.headings_rad):
        yaw = place[3] + heading
        ahead, left = np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.array([-np.sin(yaw), np.cos(yaw), 0.0])
        view[:3, 0], view[:3, 1], view[:3, 2] = -left, (0.0, 0.0, -1.0), ahead
        view[:3, 3] = place[:3] + (0.0, 0.0, cfg.camera_height_m)
    return out


def _eyes(c2w: NDArray[np.float64], shown: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Place of the camera that shows each point ``[N, 3]``."""
    return np.broadcast_to(c2w[:, None, None, :3, 3], (*shown.shape, 3))[shown]


def _render(splats: Splats, c2w: NDArray[np.float64], k: NDArray[np.float64], width: int, height: int) -> Any:
    # Expected depth mixes what lies behind one another, much so where views graze the ground: the median does not.
    renderer = SplatRenderer([splats], width, height, backend="cpu")
    scene_ids = np.zeros(len(c2w), np.int32)
    return renderer.render(
        c2w.astype(np.float32), np.ascontiguousarray(k, np.float32), scene_ids, outputs=("median_depth",)
    )


def _photos_that_saw(
    splats: Splats,
    photos: Photos,
    points: NDArray[np.float64],
    eyes: NDArray[np.float64],
    robot_focal_px: float,
    cfg: CoverageCfg,
) -> NDArray[np.int32]:
    """How many photographs saw each point ``[N]`` as the robot at ``eyes[N, 3]`` does."""
    counts = np.zeros(len(points), np.int32)
    to_robot = eyes - points
    robot_m = np.linalg.norm(to_robot, axis=1)
    to_robot /= np.maximum(robot_m, 1e-9)[:, None]
    depths = _photo_depths(splats, photos, cfg)
    for c2w, camera, depth in zip(photos.c2w, photos.cameras, depths):
        local = (points - c2w[:3, 3]) @ c2w[:3, :3]
        z = local[:, 2]
        ahead = np.flatnonzero(z > 0.05)
        u = camera.fx * local[ahead, 0] / z[ahead] + camera.cx
        v = camera.fy * local[ahead, 1] / z[ahead] + camera.cy
        inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        at, u, v = ahead[inside], u[inside], v[inside]
        rows, columns = depth.shape
        shown = depth[
            np.minimum((v * rows / camera.height).astype(int), rows - 1),
            np.minimum((u * columns / camera.width).astype(int), columns - 1),
        ]
        in_front = (shown > 0) & (z[at] <= shown * (1 + cfg.tolerance) + cfg.tolerance_m)
        to_photo = c2w[:3, 3] - points[at]
        photo_m = np.linalg.norm(to_photo, axis=1)
        cosine = np.einsum("ni,ni->n", to_photo, to_robot[at]) / np.maximum(photo_m, 1e-9)
        coarseness = (photo_m / camera.fx) / np.maximum(robot_m[at] / robot_focal_px, 1e-9)
        good = in_front & (cosine >= np.cos(cfg.max_angle_rad)) & (coarseness <= cfg.max_coarseness)
        counts[at[good]] += 1
    return counts


def _photo_depths(splats: Splats, photos: Photos, cfg: CoverageCfg) -> list[NDArray[np.float32]]:
    """Depth of the splats at each photograph's place, small."""
    out: list[NDArray[np.float32]] = [np.zeros((0, 0), np.float32)] * len(photos.names)
    sizes: dict[tuple[int, int], list[int]] = {}
    for i, camera in enumerate(photos.cameras):
        width = min(cfg.photo_width, camera.width)
        sizes.setdefault((width, max(1, round(camera.height * width / camera.width))), []).append(i)
    for (width, height), members in sizes.items():
        k = np.zeros((len(members), 3, 3))
        for row, i in zip(k, members):
            camera = photos.cameras[i]
            sx, sy = width / camera.width, height / camera.height
            row[:] = [[camera.fx * sx, 0, camera.cx * sx], [0, camera.fy * sy, camera.cy * sy], [0, 0, 1]]
        frames = _render(splats, photos.c2w[members], k, width, height)
        for i, depth, alpha in zip(members, frames.median_depth, frames.alpha):
            out[i] = np.where(alpha > 0.5, depth, 0.0)
    return out


@dataclass(frozen=True)
class Spot:
    """A place that robots see and photographs do not.

    Attributes:
        xyz_m: Its middle [m].
        share: Of all pixels that robots see unseen.
        photo: The photograph taken nearest to it.
        distance_m: From there to it [m].
        bearing: From there: `ahead`, `left`, `right` or `behind`.
    """

    xyz_m: tuple[float, float, float]
    share: float
    photo: str
    distance_m: float
    bearing: str

    def to_dict(self) -> dict[str, Any]:
        """Plain, for JSON."""
        return asdict(self)


def unseen_spots(coverage: Coverage, photos: Photos, *, count: int = 5, size_m: float = 1.0) -> list[Spot]:
    """Where to take more photographs: the squares with most of what robots see and photographs do not.

    Args:
        coverage: As measured.
        photos: Of the same scene.
        count: At most so many.
        size_m: Side of a square [m].
    """
    unseen = coverage.points[coverage.pixels == UNSEEN].astype(np.float64)
    if not len(unseen):
        return []
    cells, which = np.unique(np.floor(unseen[:, :2] / size_m).astype(np.int64), axis=0, return_inverse=True)
    number = np.bincount(which.ravel(), minlength=len(cells))
    spots = []
    for cell in np.argsort(-number, kind="stable")[:count]:
        middle = unseen[which.ravel() == cell].mean(axis=0)
        offset = middle - photos.c2w[:, :3, 3]
        nearest = int(np.argmin(np.linalg.norm(offset, axis=1)))
        spots.append(
            Spot(
                tuple(round(float(x), 2) for x in middle),  # type: ignore[arg-type]
                float(number[cell] / len(unseen)),
                photos.names[nearest],
                float(np.linalg.norm(offset[nearest])),
                _bearing(photos.c2w[nearest], middle),
            )
        )
    return spots


def _bearing(c2w: NDArray[np.float64], point: NDArray[np.float64]) -> str:
    """Where a point is for someone who holds a camera, by its horizontal direction."""
    ahead, right = c2w[:2, 2], c2w[:2, 0]
    away = point[:2] - c2w[:2, 3]
    angle = np.degrees(np.arctan2(away @ right, away @ ahead))
    names: Sequence[tuple[float, str]] = ((45.0, "ahead"), (135.0, "right" if angle > 0 else "left"))
    return next((name for limit, name in names if abs(angle) <= limit), "behind")
