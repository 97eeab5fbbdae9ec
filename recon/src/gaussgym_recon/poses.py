"""Capture → cameras in the metric world: poses of the source or structure from motion, scale and gravity by rule.

Both are found by the same rules whatever the poses come from, and both state how well they are known. A source whose own sensors
measure in metres and against gravity is believed; else GPS, surveyed points, markers, known distances, sensor depth or the
camera's height give the scale, and the ground, the cameras and GPS give gravity.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from gaussgym_scene.errors import InputError
from PIL import Image

from gaussgym_recon.consistency import Consistency, check_consistency, link_points
from gaussgym_recon.control_points import align_to_control_points, read_control_points
from gaussgym_recon.depth_images import depth_is_measured, depths_at_points, read_depth
from gaussgym_recon.georegister import fit_gps, level_rotation, umeyama, world_frame
from gaussgym_recon.gravity import (
    GravityCfg,
    GroundPlane,
    UpEstimate,
    fuse_up,
    ground_plane,
    up_from_cameras,
    up_from_gps,
)
from gaussgym_recon.markers import find_markers, scale_from_markers
from gaussgym_recon.overrides import ScaleFrom, UpFrom, parse_scale_from, parse_up_from
from gaussgym_recon.plumb import block_normals, up_from_surfaces
from gaussgym_recon.plumb_lines import PlumbLinesCfg, segment_planes, up_from_lines
from gaussgym_recon.posed import PosedCapture
from gaussgym_recon.scale import (
    MetricScale,
    choose_scale,
    scale_from_camera_height,
    scale_from_depth,
    scale_from_distance,
    scale_from_gps,
    scale_from_sensor,
)
from gaussgym_recon.sfm import SfmCfg, gps_of, reconstruct, work_key
from gaussgym_recon.sfm_model import SfmModel, capture_indices
from gaussgym_recon.sightings import Located, depth_at, locate_by_depth, project, triangulate
from gaussgym_recon.static_world import check_static_world
from gaussgym_recon.triangulation import (
    from_depth,
    from_source_points,
    triangulated,
)

if TYPE_CHECKING:
    from gaussgym_scene.capture import Capture
    from numpy.typing import NDArray

    from gaussgym_recon.matching import Progress

log = logging.getLogger(__name__)

SENSOR_UP_STD_RAD = float(np.radians(0.5))
"""How well inertial sensors know gravity, along either tilt."""
USER_UP_STD_RAD = float(np.radians(0.1))
"""How well an axis is taken to be up that the user names."""
REACH_OF_IMAGE = 0.1
"""A single pixel's depth is taken from points within this part of the image's long side."""


@dataclass(frozen=True, kw_only=True)
class PoseCfg:
    """Settings of :func:`pose`."""

    poses: Literal["auto", "source", "sfm"] = "auto"
    """Poses of the source, by structure from motion, or ('auto') of the source where it has them for all images."""
    scale_from: str = "auto"
    """'auto', 'sensor', 'gps', 'depth', 'camera-height=1.5', 'marker=0.16', 'gcp=FILE', or
    'distance=A.jpg:x,y:B.jpg:x,y=2.0' (metres; 'A.jpg:x,y+C.jpg:x,y' names one place in two images)."""
    up_from: str = "auto"
    """'auto', 'sensor', 'plane', 'cameras', or 'axis=+z' of the source's frame."""
    camera_height_m: float | None = None
    """Height at which the cameras were carried [m]; short for `scale_from='camera-height=...'`."""
    sfm: SfmCfg = field(default_factory=SfmCfg)
    """Of structure from motion."""
    gravity: GravityCfg = field(default_factory=GravityCfg)
    """Of ground and gravity."""
    plumb_lines: PlumbLinesCfg = field(default_factory=PlumbLinesCfg)
    """Of gravity by plumb edges of photographs."""


@dataclass(frozen=True)
class _Found:
    """A model and how it came about."""

    model: SfmModel
    kind: Literal["source", "sfm"]
    consistency: Consistency
    triangulated: bool
    tries: list[dict[str, Any]]
    numbers: dict[str, Any]


def pose(
    capture: Capture, workdir: Path, cfg: PoseCfg | None = None, *, progress: Progress | None = None
) -> PosedCapture:
    """Pose a capture's images in the metric, gravity-aligned world.

    Everything finished is kept in `workdir`: a killed run goes on where it stopped, an unchanged one returns at once.

    Args:
        capture: The images, of one camera or several.
        workdir: Folder for feature databases and maps.
        cfg: Settings.
        progress: Told how far each step is.

    Returns:
        The posed images, with scale, gravity, their sources and standard deviations.

    Raises:
        InputError: Bad settings; images that do not overlap; nothing that says how large the place is.
        RecaptureError: No map passed the gates, or the views contradict each other; the text says why.
        StageError: No ground was found.
    """
    cfg = cfg or PoseCfg()
    scale_from, up_from = _overrides(cfg)
    own = _use_source(capture, cfg)
    _require_scale(capture, scale_from, own)
    surveyed = repr(read_control_points(scale_from.path)) if scale_from.kind == "gcp" else ""
    workdir = Path(workdir)
    places = [
        [i.gps_lat_lon_alt, None if i.c2w is None else np.asarray(i.c2w).tolist(), i.depth, i.confidence]
        for i in capture.images
    ]
    cached = workdir / f"posed-{work_key(capture, cfg, places, capture.metadata, surveyed)}.npz"
    if cached.exists():
        return PosedCapture.load(cached, capture.directory)
    tell = progress or (lambda step, fraction: None)
    found = _source_model(capture, workdir, cfg, tell) if own else _sfm_model(capture, workdir, cfg, tell)
    posed = _register(capture, found, scale_from, up_from, cfg)
    posed.save(cached)
    return posed


def _overrides(cfg: PoseCfg) -> tuple[ScaleFrom, UpFrom]:
    scale_from, up_from = parse_scale_from(cfg.scale_from), parse_up_from(cfg.up_from)
    if cfg.camera_height_m is not None:
        if scale_from.kind not in ("auto", "camera-height"):
            raise InputError(
                f"both a camera height and --scale-from {cfg.scale_from} were given; expected one of them"
            )
        scale_from = ScaleFrom("camera-height", value_m=cfg.camera_height_m)
    return scale_from, up_from


def _use_source(capture: Capture, cfg: PoseCfg) -> bool:
    posed = sum(image.c2w is not None for image in capture.images)
    if cfg.poses == "source" and posed < len(capture.images):
        raise InputError(
            f"{capture.directory}: {posed} of its {len(capture.images)} images come with a pose; --poses source needs all of "
            "them, --poses sfm finds them"
        )
    return cfg.poses != "sfm" and posed == len(capture.images) > 0


def _require_scale(capture: Capture, scale_from: ScaleFrom, own: bool) -> None:
    """Fail before hours of work where nothing can say how large the place is."""
    images = capture.images
    known = {image.file for image in images} | {image.file.rsplit("/", 1)[-1] for image in images}
    for file, _, _ in (sighting for end in scale_from.ends for sighting in end):
        if file not in known:
            raise InputError(f"--scale-from: {file} is no image of {capture.directory}; name one that is")
    if scale_from.kind != "auto":
        return
    gps = sum(image.gps_lat_lon_alt is not None for image in images)
    depth = sum(image.depth is not None for image in images) if depth_is_measured(capture) else 0
    sensor = bool(capture.metadata.get("metric")) and (own or sum(i.c2w is not None for i in images) >= 4)
    if not (gps >= 4 or depth >= 3 or sensor):
        raise InputError(
            f"{capture.directory}: no GPS in the images, no depth and no metric poses, so nothing says how large the place is; "
            "state the height at which the camera was carried (--camera-height, metres) or another --scale-from"
        )


def _sfm_model(capture: Capture, workdir: Path, cfg: PoseCfg, progress: Progress) -> _Found:
    best, tries = reconstruct(capture, workdir, cfg=cfg.sfm, progress=progress)
    numbers = {
        "sfm_seed": best.seed,
        "sfm_min_tri_angle_deg": best.min_tri_angle_deg,
        "sfm_mapper": best.mapper,
    }
    return _Found(best.model, "sfm", best.consistency, True, tries, {**numbers, "sfm_tries": tries})


def _source_model(capture: Capture, workdir: Path, cfg: PoseCfg, progress: Progress) -> _Found:
    """The source's poses with points: its own, else of its depth, else triangulated."""
    metric = bool(capture.metadata.get("metric"))
    has_depth = sum(image.depth is not None for image in capture.images) >= 2
    numbers: dict[str, Any] = {}
    if capture.metadata.get("points_file") is not None:
        model, points = from_source_points(capture), "source"
    elif has_depth and metric:
        model, points = from_depth(capture), "depth"
    else:
        folder = (
            workdir
            / f"known-{work_key(capture, cfg.sfm.features, [np.asarray(i.c2w).tolist() for i in capture.images])}"
        )
        model, points = triangulated(capture, folder, cfg.sfm.features, progress), "triangulated"
        world = check_static_world(capture, model, folder / "database.db", cfg.sfm.static)
        numbers = {"match_agreement": world.match_agreement, "seen_again": world.seen_again}
    gps = gps_of(capture)
    indices = capture_indices(capture, model.names)
    consistency = check_consistency(
        indices,
        model.c2w[:, :3, 3],
        num_images=len(capture.images),
        reprojection_error_px=model.reprojection_error_px,
        link_points=link_points(model.visible, len(model.points)),
        gps_enu_m=None if gps is None else gps[indices],
        ordered=bool(capture.metadata.get("ordered", True)),
        cfg=cfg.sfm.gates,
    )
    # A source's poses are taken as they are; what the gates would say of a map is told, not held against them.
    for reason in consistency.reasons:
        log.warning("%s: poses of the source: %s", capture.directory.name, reason)
    numbers = {**numbers, "points_from": points, "source_pose_remarks": list(consistency.reasons)}
    return _Found(model, "source", consistency, points == "triangulated", [], numbers)


# --- into the world ------------------------------------------------------------------------------------------------


def _register(
    capture: Capture, found: _Found, scale_from: ScaleFrom, up_from: UpFrom, cfg: PoseCfg
) -> PosedCapture:
    """Put a model into the metric world."""
    model = found.model
    indices = capture_indices(capture, model.names)
    centers = model.c2w[:, :3, 3]
    gps = gps_of(capture)
    good_gps = None if gps is None else _without_outliers(centers, gps[indices], found.consistency, cfg)
    surveyed = None
    if scale_from.kind == "gcp":
        surveyed = align_to_control_points(
            read_control_points(scale_from.path), model.names, model.c2w, model.intrinsics
        )
    plane = _ground(capture, found, indices, good_gps, surveyed, up_from, cfg)
    scale, candidates = _scale(capture, found, indices, good_gps, plane, surveyed, scale_from)
    world = world_frame(centers, plane, scale.value)
    c2w = world.apply_c2w(model.c2w)
    steps = np.linalg.norm(np.diff(c2w[:, :3, 3], axis=0), axis=1)
    outliers = (
        ()
        if gps is None or good_gps is None
        else np.flatnonzero(np.isfinite(gps[indices, 0]) & np.isnan(good_gps[:, 0]))
    )
    if len(outliers):
        log.warning("GPS of %s is wrong and not used", ", ".join(model.names[i] for i in outliers))
    by_gps = next((c for c in candidates if c.source == "gps"), None)
    quality = {**found.numbers, **_numbers(model, found.consistency, plane, steps, candidates)}
    if by_gps is not None:
        quality["gps_scale_over_scale"] = by_gps.value / scale.value
        quality["gps_scale_std_fraction"] = by_gps.std_fraction
        quality["camera_height_by_gps_scale_m"] = by_gps.value * plane.camera_height
        quality["east_from_level_x_rad"] = by_gps.gps_heading_rad
    registered = set(model.names)
    return PosedCapture(
        capture_dir=capture.directory,
        names=model.names,
        unregistered=[image.file for image in capture.images if image.file not in registered],
        intrinsics=model.intrinsics,
        c2w=c2w,
        points=world.apply(model.points),
        colors=model.colors,
        errors_px=model.errors_px,
        track_lengths=model.track_lengths,
        visible=model.visible,
        world_from_capture=world,
        scale_source=scale.source,
        gravity_source=plane.source,
        camera_height_m=plane.camera_height * scale.value,
        scale_std_fraction=scale.std_fraction,
        gravity_std_rad=plane.up_std_rad,
        reprojection_error_px=model.reprojection_error_px if found.triangulated else None,
        registered_fraction=found.consistency.registered_fraction,
        seeds_tried=len(found.tries),
        gps_residual_median_m=found.consistency.gps_residual_median_m,
        gps_residual_max_m=found.consistency.gps_residual_max_m,
        max_step_m=float(steps.max(initial=0.0)),
        gps_xy_m=None if gps is None else gps[indices, :2],
        gps_outliers=[model.names[i] for i in outliers],
        quality=quality,
    )


def _numbers(
    model: SfmModel,
    found: Consistency,
    plane: GroundPlane,
    steps: NDArray[np.float64],
    candidates: list[MetricScale],
) -> dict[str, Any]:
    return {
        "num_points": len(model.points),
        "mean_track_length": float(model.track_lengths.mean()),
        "weakest_link_points": found.weakest_link_points,
        "weakest_link_fraction": found.weakest_link_fraction,
        "step_ratio": found.step_ratio,
        "half_scale_ratio": found.half_scale_ratio,
        "gps_noise_m": found.gps_noise_m,
        "gps_remarks": list(found.gps_reasons),
        "ground_plane_inliers": plane.inliers,
        "gravity_prior_angle_deg": float(np.degrees(plane.prior_angle_rad)),
        "ground_slope_deg": float(np.degrees(plane.slope_rad)),
        "path_length_m": float(steps.sum()),
        "scale_candidates": [candidate.summary() for candidate in candidates],
    }


def _without_outliers(
    centers: NDArray[np.float64], gps: NDArray[np.float64], found: Consistency, cfg: PoseCfg
) -> NDArray[np.float64] | None:
    """The fixes `[n, 3]`, wrong ones NaN; None where there are too few."""
    if np.isfinite(gps[:, 0]).sum() < 4:
        return None
    gates = cfg.sfm.gates
    noise_m = max(found.gps_noise_m or 0.0, gates.gps_noise_m)
    fit = fit_gps(centers, gps, noise_m=noise_m, worst_m=max(gates.max_gps_residual_m, 5.0 * noise_m))
    return np.where(fit.outliers[:, None], np.nan, gps)


def _ground(
    capture: Capture,
    found: _Found,
    indices: NDArray[np.int64],
    gps: NDArray[np.float64] | None,
    surveyed: tuple[MetricScale, UpEstimate] | None,
    up_from: UpFrom,
    cfg: PoseCfg,
) -> GroundPlane:
    """The ground, and gravity by the rule or as the user wants it."""
    model = found.model
    stored = capture.metadata.get("exif_orientation") or [1] * len(capture.images)
    orientations = [stored[int(i)] for i in indices]
    known = _known_up(capture, found, indices, orientations, surveyed, up_from)
    if known is None and up_from.kind == "auto":
        by_depth = None if gps is not None else _up_by_depth(capture, found, indices, orientations, cfg)
        seen = [up for up in (by_depth, _up_by_lines(capture, found, indices, orientations, cfg)) if up]
        known = (fuse_up([up for up, _ in seen]), "+".join(source for _, source in seen)) if seen else None
    gps_up = None
    if gps is not None:
        fixed = np.isfinite(gps[:, 0])
        aligned = umeyama(model.c2w[fixed, :3, 3], gps[fixed])
        gps_up = up_from_gps(model.c2w[fixed, :3, 3], gps[fixed], aligned.rotation[2], aligned.scale)
    return ground_plane(
        model.c2w,
        model.points[model.reliable()],
        orientations=orientations,
        # No fix of the GPS anywhere: indoors, where floors are level.
        level=up_from.kind == "plane" or gps is None,
        known_up=known,
        gps_up=None if up_from.kind == "plane" else gps_up,
        cfg=cfg.gravity,
    )


def _known_up(
    capture: Capture,
    found: _Found,
    indices: NDArray[np.int64],
    orientations: list[int],
    surveyed: tuple[MetricScale, UpEstimate] | None,
    up_from: UpFrom,
) -> tuple[UpEstimate, str] | None:
    """Gravity where something else than ground, cameras and GPS says it, and its source."""
    if up_from.kind == "cameras":
        return up_from_cameras(found.model.c2w, orientations), "cameras"
    if up_from.kind == "axis":
        if found.kind == "sfm":
            raise InputError(
                "--up-from axis names an axis of the source's frame, but the poses are by structure from motion; "
                "use --poses source, or --up-from plane or cameras"
            )
        return UpEstimate.within(up_from.axis, USER_UP_STD_RAD), "user"
    measured = capture.metadata.get("up") if capture.metadata.get("gravity_source") == "sensor" else None
    to_source = _source_from_model(capture, found, indices) if measured is not None else None
    if up_from.kind == "sensor" and (measured is None or to_source is None):
        raise InputError(
            f"{capture.directory}: its source knows no gravity; use --up-from plane, cameras or axis=+z"
        )
    if up_from.kind in ("auto", "sensor") and measured is not None and to_source is not None:
        rotation, std_rad = to_source
        std = float(np.hypot(SENSOR_UP_STD_RAD, std_rad))
        return UpEstimate.within(rotation.T @ np.asarray(measured, np.float64), std), "sensor"
    if surveyed is not None and up_from.kind == "auto":
        return surveyed[1], "gcp"
    return None


def _up_by_depth(
    capture: Capture, found: _Found, indices: NDArray[np.int64], orientations: list[int], cfg: PoseCfg
) -> tuple[UpEstimate, str] | None:
    """Gravity by level floors and plumb walls, where depth images show them; only their shape counts, not their scale."""
    if not depth_is_measured(capture):
        return None
    model, normals = found.model, [np.zeros((0, 3))]
    for k, index in enumerate(indices):
        depth = read_depth(capture, capture.images[int(index)])
        if depth is not None:
            normals.append(block_normals(depth, model.intrinsics[k]) @ model.c2w[k, :3, :3].T)
    held = up_from_cameras(model.c2w, orientations, cfg=cfg.gravity)
    up = up_from_surfaces(np.concatenate(normals), held.up)
    return None if up is None else (up, "surfaces")


def _up_by_lines(
    capture: Capture, found: _Found, indices: NDArray[np.int64], orientations: list[int], cfg: PoseCfg
) -> tuple[UpEstimate, str] | None:
    """Gravity by plumb edges, where photographs show enough of them."""
    model, normals, lengths, images = found.model, [], [], []
    for k, index in enumerate(indices):
        with Image.open(capture.directory / capture.images[int(index)].file) as photograph:
            grey = np.asarray(photograph.convert("L"))
        planes = segment_planes(grey, model.intrinsics[k], cfg.plumb_lines)
        normals.append(planes.normals @ model.c2w[k, :3, :3].T)
        lengths.append(planes.lengths)
        images.append(np.full(len(planes.lengths), k))
    held = up_from_cameras(model.c2w, orientations, cfg=cfg.gravity)
    up = up_from_lines(
        np.concatenate(normals), np.concatenate(lengths), np.concatenate(images), held.up, cfg.plumb_lines
    )
    return None if up is None else (up, "lines")


def _source_from_model(
    capture: Capture, found: _Found, indices: NDArray[np.int64]
) -> tuple[NDArray[np.float64], float] | None:
    """Rotation `[3, 3]` from the model's frame to the source's, and its error [rad]; None where they are not tied."""
    if found.kind == "source":
        return np.eye(3), 0.0
    pairs = [
        (k, capture.images[int(i)].c2w)
        for k, i in enumerate(indices)
        if capture.images[int(i)].c2w is not None
    ]
    if len(pairs) < 4:
        return None
    # Rotations tie the frames without regard to the shape of the path: the mean of source * model^-1.
    turns = np.stack([np.asarray(c)[:3, :3] @ found.model.c2w[k, :3, :3].T for k, c in pairs])
    left, _, right = np.linalg.svd(turns.sum(axis=0))
    rotation = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
    traces = np.einsum("ij,kij->k", rotation, turns)
    angles = np.arccos(np.clip((traces - 1) / 2, -1, 1))
    return rotation, float(np.median(angles) / np.sqrt(max(1.0, len(pairs) / 4)))


def _scale(
    capture: Capture,
    found: _Found,
    indices: NDArray[np.int64],
    gps: NDArray[np.float64] | None,
    plane: GroundPlane,
    surveyed: tuple[MetricScale, UpEstimate] | None,
    scale_from: ScaleFrom,
) -> tuple[MetricScale, list[MetricScale]]:
    """The scale by the rule or as the user wants it, and all that were measured."""
    model = found.model
    level_xy = (model.c2w[:, :3, 3] @ level_rotation(plane.up).T)[:, :2]
    rules = {
        "sensor": lambda: _sensor_scale(capture, found, indices),
        "gps": lambda: scale_from_gps(
            level_xy,
            np.full(level_xy.shape, np.nan) if gps is None else gps[:, :2],
            noise_m=max(found.consistency.gps_noise_m or 0.0, 3.0),
        ),
        "depth": lambda: _depth_scale(capture, found, indices),
        "camera-height": lambda: scale_from_camera_height(plane, scale_from.value_m),
        "marker": lambda: _marker_scale(capture, model, scale_from.value_m),
        "distance": lambda: _distance_scale(model, scale_from),
        "gcp": lambda: None if surveyed is None else surveyed[0],
    }
    asked = scale_from.kind
    chosen = None if asked == "auto" else rules[asked]()
    candidates = [] if chosen is None else [chosen]
    refused = []
    for kind in ("sensor", "gps", "depth"):
        if kind != asked:
            try:
                candidates.append(rules[kind]())
            except InputError as error:
                refused.append(str(error))
    if chosen is None and not candidates:
        raise InputError(f"{capture.directory}: no scale: {'; '.join(refused)}")
    return chosen or choose_scale(candidates), candidates


def _sensor_scale(capture: Capture, found: _Found, indices: NDArray[np.int64]) -> MetricScale:
    """Metres of the source's own sensors, carried over by camera positions where the poses are by structure from motion."""
    if not capture.metadata.get("metric"):
        raise InputError("its source knows no metres")
    stated = scale_from_sensor(capture.metadata.get("poses_source"))
    if found.kind == "source":
        return stated
    known = [
        (k, capture.images[int(i)].c2w)
        for k, i in enumerate(indices)
        if capture.images[int(i)].c2w is not None
    ]
    if len(known) < 4:
        raise InputError(
            f"{len(known)} registered images have a pose by the source's sensors, expected four or more"
        )
    mine = found.model.c2w[[k for k, _ in known], :3, 3]
    theirs = np.stack([np.asarray(c)[:3, 3] for _, c in known])
    aligned = umeyama(mine, theirs)
    off = aligned.apply(mine) - theirs
    spread = np.linalg.norm(theirs - theirs.mean(axis=0))
    error = float(np.sqrt((off**2).sum() / max(1, off.size - 7))) / spread * 2.0
    return MetricScale(aligned.scale, "sensor", float(np.hypot(stated.std_fraction, error)))


def _depth_scale(capture: Capture, found: _Found, indices: NDArray[np.int64]) -> MetricScale:
    """Sensor depth against the points that each image sees."""
    if not depth_is_measured(capture):
        raise InputError("its depth is a network's, in no known unit")
    if not found.triangulated:
        raise InputError("its points were not triangulated, so its depth cannot be held against them")
    measured, distances = depths_at_points(capture, found.model, indices)
    return scale_from_depth(measured, distances)


def _marker_scale(capture: Capture, model: SfmModel, side_m: float) -> MetricScale:
    def greys() -> Any:
        for index, name in enumerate(model.names):
            with Image.open(capture.directory / name) as image:
                yield index, np.asarray(image.convert("L"))

    return scale_from_markers(find_markers(greys()), side_m, model.c2w, model.intrinsics)


def _distance_scale(model: SfmModel, scale_from: ScaleFrom) -> MetricScale:
    first, second = (_locate(model, end) for end in scale_from.ends)
    return scale_from_distance(first, second, scale_from.value_m)


def _locate(model: SfmModel, sightings: tuple[tuple[str, float, float], ...]) -> Located:
    """The place that the user named by a pixel in an image, or in several."""
    names = {name.rsplit("/", 1)[-1]: index for index, name in enumerate(model.names)}
    names |= {name: index for index, name in enumerate(model.names)}
    missing = [file for file, _, _ in sightings if file not in names]
    if missing:
        raise InputError(
            f"{missing[0]}: no registered image of this name; name two places in images that are"
        )
    images = [names[file] for file, _, _ in sightings]
    pixels = np.array([[u, v] for _, u, v in sightings])
    if len(images) > 1:
        located = triangulate(model.c2w[images], [model.intrinsics[i] for i in images], pixels)
        if located is None or located.residual_px > 20.0:
            raise InputError(
                f"the pixels {', '.join(f'{file}:{u:g},{v:g}' for file, u, v in sightings)} are not of one place, or seen from "
                "one direction; click again"
            )
        return located
    lens, c2w = model.intrinsics[images[0]], model.c2w[images[0]]
    seen, distances = project(model.points[model.visible[images[0]]], c2w, lens)
    depth, std = depth_at(pixels[0], seen, distances, REACH_OF_IMAGE * max(lens.width, lens.height))
    return locate_by_depth(pixels[0], depth, std, c2w, lens)
