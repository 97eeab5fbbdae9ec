"""Structure from motion with pycolmap, for people who walk forward: images → poses in the metric world.

A forward-walking street breaks the defaults of incremental mapping, which register two of 29 images without any
error. What works: the focal length fixed at the EXIF prior, one SIMPLE_RADIAL camera, neighbours matched at
quadratically growing distances, an easy initial pair, and triangulation down to a fraction of a degree. Registered
is not right, so several maps are made and :mod:`gaussgym_recon.consistency` keeps the one that is one piece.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.capture import Capture
from gaussgym_scene.errors import InputError, StageError

from gaussgym_recon.colmap_jobs import mark
from gaussgym_recon.consistency import Consistency, ConsistencyCfg, check_consistency, link_points
from gaussgym_recon.georegister import (
    MetricScale,
    enu_from_gps,
    ground_plane,
    level_rotation,
    scale_from_camera_height,
    scale_from_gps,
    world_frame,
)
from gaussgym_recon.posed import PosedCapture

if TYPE_CHECKING:
    from numpy.typing import NDArray

Progress = Callable[[str, float], None]
"""Called with the name of the step and the fraction of it that is done."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SfmCfg:
    """Settings of :func:`reconstruct`."""

    max_features: int = 4096
    """SIFT features per image, at most."""
    feature_budget: int = 160_000
    """SIFT features of all images together; many images have no need of as many each."""
    min_features: int = 2048
    """SIFT features per image that are allowed whatever the budget."""
    peak_threshold: float = 0.0033
    """SIFT contrast threshold; half of the usual one, since ground has little contrast."""
    enlarge_below_px: int = 300_000
    """In captures longer than `exhaustive_up_to`, images with fewer pixels than this are doubled before features are
    sought, as all are in short ones; doubling takes four times as long."""
    overlap: int = 8
    """Neighbours of each image that are matched, plus those at 16, 32, … images."""
    exhaustive_up_to: int = 60
    """Unordered captures up to this many images are matched all with all."""
    similar_images: int = 5
    """Ordered captures longer than `exhaustive_up_to` also match this many look-alikes of each image."""
    min_tri_angles_deg: tuple[float, ...] = (0.5, 0.25, 0.75, 1.5)
    """Smallest triangulation angles that the attempts go through [deg]."""
    max_attempts: int = 8
    """Most maps that are made per matching."""
    min_attempts: int = 3
    """Fewest maps per matching of captures of up to `exhaustive_up_to` images; longer ones stop at the first good."""
    seed: int = 0
    """Of matching; attempts count up from it."""
    threads: int = -1
    """Threads of extraction and matching; mapping uses one, so that it repeats."""
    gates: ConsistencyCfg = field(default_factory=ConsistencyCfg)
    """When a model is good."""


@dataclass(frozen=True)
class SfmModel:
    """One map, in the arbitrary frame of structure from motion; fields as in :class:`PosedCapture`."""

    names: list[str]
    intrinsics: Intrinsics
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


@dataclass(frozen=True)
class Attempt:
    """A map and what the gates say of it."""

    model: SfmModel
    consistency: Consistency
    seed: int
    min_tri_angle_deg: float


def reconstruct_poses(
    capture: Capture,
    workdir: Path,
    *,
    camera_height_m: float | None = None,
    cfg: SfmCfg | None = None,
    progress: Progress | None = None,
) -> PosedCapture:
    """Pose a capture's images in the metric, gravity-aligned world.

    Everything finished is kept in `workdir`: a killed run goes on where it stopped, an unchanged one returns at once.

    Args:
        capture: Images of one camera.
        workdir: Folder for the feature database and the maps.
        camera_height_m: Height at which the cameras were carried [m]; overrules GPS. Needed without GPS.
        cfg: Settings.
        progress: Told how far each step is.

    Returns:
        The posed images.

    Raises:
        InputError: Images that do not overlap, that are of several cameras, or that have neither GPS nor a stated
            camera height.
        StageError: No map passed the gates; the text says which and by how much.
    """
    cfg = cfg or SfmCfg()
    gps = _gps_of(capture)
    if camera_height_m is None and (gps is None or np.isfinite(gps[:, 0]).sum() < 4):
        raise InputError(
            f"{capture.directory}: no GPS in the images, so nothing says how large the place is; "
            "state the height at which the camera was carried (--camera-height, metres)"
        )
    key = _key(capture, cfg, camera_height_m)
    cached = Path(workdir) / f"posed-{key}.npz"
    if cached.exists():
        return PosedCapture.load(cached, capture.directory)
    best, tried = reconstruct(capture, workdir, cfg=cfg, progress=progress)
    posed = _register(capture, best, tried, gps, camera_height_m)
    posed.save(cached)
    return posed


def reconstruct(
    capture: Capture, workdir: Path, *, cfg: SfmCfg | None = None, progress: Progress | None = None
) -> tuple[Attempt, int]:
    """Make maps until one passes the gates.

    Args:
        capture: Images of one camera.
        workdir: Folder for the feature database.
        cfg: Settings.
        progress: Told how far each step is.

    Returns:
        The best attempt that passes, and the number of attempts made.

    Raises:
        InputError: Images that do not overlap or that are of several cameras.
        StageError: No map passed the gates.
    """
    cfg = cfg or SfmCfg()
    progress = progress or (lambda step, fraction: None)
    intrinsics = _one_camera(capture)
    names = [image.file for image in capture.images]
    folder = Path(workdir) / f"sfm-{_key(capture, replace(cfg, gates=ConsistencyCfg()), None)}"
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / "database.db"
    _extract(database, capture, intrinsics, cfg, progress)
    ordered = bool(capture.metadata.get("ordered", True))
    gps = _gps_of(capture)
    attempts: list[Attempt] = []
    tried = 0
    for name, pairs in _pair_sets(database, names, ordered, cfg):
        _match(database, folder / f"matched-{name}.json", pairs, cfg, progress)
        for attempt in _attempts(database, folder / f"maps-{name}", capture, gps, ordered, cfg, progress):
            tried += 1
            if attempt is not None:
                attempts.append(attempt)
            enough = len(names) > cfg.exhaustive_up_to or tried >= cfg.min_attempts
            if enough and any(a.consistency.ok for a in attempts):
                break
        good = [a for a in attempts if a.consistency.ok]
        if good:
            return min(good, key=lambda a: a.consistency.badness()), tried
    if not attempts:
        raise InputError(
            f"{capture.directory}: its {len(names)} images do not overlap: no two could be matched and posed; "
            "expected photographs of one place, each sharing more than half of its view with the next"
        )
    best = min(attempts, key=lambda a: a.consistency.badness())
    if best.consistency.registered_fraction < 0.5 * cfg.gates.min_registered_fraction:
        raise InputError(
            f"{capture.directory}: most images do not overlap: {len(best.model.names)} of {len(names)} could be "
            f"posed after {tried} attempts; take more photographs, each sharing more than half of its view with "
            "the next"
        )
    raise StageError(
        f"{capture.directory}: no consistent reconstruction in {tried} attempts; the best: "
        + "; ".join(best.consistency.reasons)
    )


def _register(
    capture: Capture,
    attempt: Attempt,
    tried: int,
    gps: NDArray[np.float64] | None,
    camera_height_m: float | None,
) -> PosedCapture:
    """Put a map into the metric world."""
    model, found = attempt.model, attempt.consistency
    indices = _indices(capture, model)
    stored = capture.metadata.get("exif_orientation") or [1] * len(capture.images)
    reliable = np.flatnonzero((model.errors_px < 1.5) & (model.track_lengths >= 3))
    # No fix of the GPS anywhere: indoors, where floors are level.
    plane = ground_plane(
        model.c2w, model.points[reliable], orientations=[stored[int(i)] for i in indices], level=gps is None
    )
    centers = model.c2w[:, :3, 3]
    gps_scale: MetricScale | None = None
    if gps is not None and np.isfinite(gps[indices, 0]).sum() >= 4:
        try:
            gps_scale = scale_from_gps((centers @ level_rotation(plane.up).T)[:, :2], gps[indices, :2])
        except InputError:
            if camera_height_m is None:
                raise
    if camera_height_m is not None:
        scale = scale_from_camera_height(plane, camera_height_m)
    else:
        assert gps_scale is not None
        scale = gps_scale
    world = world_frame(centers, plane, scale.value)
    c2w = world.apply_c2w(model.c2w)
    steps = np.linalg.norm(np.diff(c2w[:, :3, 3], axis=0), axis=1)
    quality: dict[str, Any] = {
        "sfm_seed": attempt.seed,
        "sfm_min_tri_angle_deg": attempt.min_tri_angle_deg,
        "num_points": len(model.points),
        "mean_track_length": float(model.track_lengths.mean()),
        "weakest_link_points": found.weakest_link_points,
        "weakest_link_fraction": found.weakest_link_fraction,
        "step_ratio": found.step_ratio,
        "half_scale_ratio": found.half_scale_ratio,
        "ground_plane_inliers": plane.inliers,
        "gravity_prior_angle_deg": float(np.degrees(plane.prior_angle_rad)),
        "ground_slope_deg": float(np.degrees(plane.slope_rad)),
        "path_length_m": float(steps.sum()),
    }
    if gps_scale is not None:
        quality["gps_scale_over_scale"] = gps_scale.value / scale.value
        quality["gps_scale_std_fraction"] = gps_scale.std_fraction
        quality["camera_height_by_gps_scale_m"] = gps_scale.value * plane.camera_height
        quality["east_from_level_x_rad"] = gps_scale.gps_heading_rad
    return PosedCapture(
        capture_dir=capture.directory,
        names=model.names,
        unregistered=[image.file for image in capture.images if image.file not in set(model.names)],
        intrinsics=[model.intrinsics] * len(model.names),
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
        reprojection_error_px=model.reprojection_error_px,
        registered_fraction=found.registered_fraction,
        seeds_tried=tried,
        gps_residual_median_m=found.gps_residual_median_m,
        gps_residual_max_m=found.gps_residual_max_m,
        max_step_m=float(steps.max(initial=0.0)),
        gps_xy_m=None if gps is None else gps[indices, :2],
        quality=quality,
    )


def _one_camera(capture: Capture) -> Intrinsics:
    if len(capture.images) < 2:
        raise InputError(f"{capture.directory}: {len(capture.images)} images, expected two or more")
    first = capture.images[0].intrinsics
    for image in capture.images:
        if image.intrinsics != first:
            raise InputError(
                f"{capture.directory}: {image.file} is of another camera or zoom ({image.intrinsics.width}x"
                f"{image.intrinsics.height}, f {image.intrinsics.fx:.0f} px) than {capture.images[0].file} "
                f"({first.width}x{first.height}, f {first.fx:.0f} px); import the images of one camera"
            )
    return first


def _gps_of(capture: Capture) -> NDArray[np.float64] | None:
    """East, north, up of each image about their mean [m], `[n, 3]`, NaN where unknown; None without any."""
    known = [image.gps_lat_lon_alt for image in capture.images if image.gps_lat_lon_alt is not None]
    if not known:
        return None
    origin = np.mean(known, axis=0)
    missing = (np.nan,) * 3
    return enu_from_gps([image.gps_lat_lon_alt or missing for image in capture.images], origin)


def _indices(capture: Capture, model: SfmModel) -> NDArray[np.int64]:
    place = {image.file: index for index, image in enumerate(capture.images)}
    return np.array([place[name] for name in model.names], np.int64)


def _key(capture: Capture, cfg: SfmCfg, camera_height_m: float | None) -> str:
    """Name of the work that these inputs need, so that changed inputs never meet old results."""
    settings = asdict(cfg)
    settings.pop("threads")
    images = [
        [image.file, (capture.directory / image.file).stat().st_size, image.intrinsics.to_dict()]
        + [image.gps_lat_lon_alt if cfg.gates else None]
        for image in capture.images
    ]
    text = json.dumps([settings, images, capture.metadata, camera_height_m], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# --- features and matches ------------------------------------------------------------------------------------------


def _run_job(kind: str, job: dict[str, Any], step: str, progress: Progress) -> None:
    """Run one of :mod:`gaussgym_recon.colmap_jobs` in a process of its own.

    Raises:
        StageError: It failed; the text is the last thing that it said.
    """
    command = [sys.executable, "-m", "gaussgym_recon.colmap_jobs", kind]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                if line.startswith("p "):
                    progress(step, float(line[2:]))
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
        if status != 0:
            complaints.seek(0)
            raise StageError(f"{step}: {_reason(complaints.read().decode(errors='replace'), status)}")
    progress(step, 1.0)


def _reason(complaints: str, status: int) -> str:
    """The telling line of what a failed job wrote."""
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    telling = [line for line in lines if "what():" in line or "Error" in line]
    said = (telling or lines or ["no reason given"])[-1 if not telling else 0].removeprefix("what():").strip()
    if "disk is full" in complaints or "No space left" in complaints:
        said = "the disk is full; make room and run it again"
    if status < 0 and not lines:
        return (
            f"pycolmap was killed by signal {-status} (9 is often the system running out of memory); "
            "run the same command to go on"
        )
    return f"pycolmap stopped with status {status}: {said}"


def _extract(
    database: Path, capture: Capture, intrinsics: Intrinsics, cfg: SfmCfg, progress: Progress
) -> None:
    """Fill the database with SIFT features."""
    done = database.with_name("extracted.json")
    if done.exists():
        return
    names = [image.file for image in capture.images]
    small = intrinsics.width * intrinsics.height < cfg.enlarge_below_px
    known = (intrinsics.fx, intrinsics.cx, intrinsics.cy, intrinsics.distortion[0])
    job = {
        "database": str(database),
        "images": str(capture.directory),
        "names": names,
        "camera_params": ""
        if intrinsics.focal_source == "guess"
        else ",".join(f"{value:.9g}" for value in known),
        "focal_factor": intrinsics.fx / max(intrinsics.width, intrinsics.height),
        "threads": cfg.threads,
        "max_features": min(cfg.max_features, max(cfg.min_features, cfg.feature_budget // len(names))),
        "peak_threshold": cfg.peak_threshold,
        "first_octave": -1 if small or len(names) <= cfg.exhaustive_up_to else 0,
    }
    _run_job("extract", job, "features", progress)
    mark(done, {"images": len(names)})


def _match(database: Path, done: Path, pairs: list[tuple[str, str]], cfg: SfmCfg, progress: Progress) -> None:
    """Match and verify image pairs."""
    if done.exists():
        return
    job = {"database": str(database), "pairs": pairs, "threads": cfg.threads, "seed": cfg.seed}
    _run_job("match", job, "matches", progress)
    mark(done, {"pairs": len(pairs)})


def sequential_pairs(count: int, overlap: int) -> list[tuple[int, int]]:
    """Pairs of each image with its next `overlap` ones and with those 2, 4, 8, … `2**overlap` images on."""
    offsets = sorted({*range(1, overlap + 1), *(2**power for power in range(overlap + 1))})
    return [(i, i + offset) for i in range(count) for offset in offsets if i + offset < count]


def _pair_sets(
    database: Path, names: list[str], ordered: bool, cfg: SfmCfg
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What to match first, and what to add when no map of that passes."""
    count = len(names)
    everything = [(i, j) for i in range(count) for j in range(i + 1, count)]
    small = count <= cfg.exhaustive_up_to
    if ordered and small:
        sets = [("sequential", sequential_pairs(count, cfg.overlap)), ("exhaustive", everything)]
    elif small:
        sets = [("exhaustive", everything)]
    else:
        neighbours = sequential_pairs(count, cfg.overlap) if ordered else []
        similar = _similar_pairs(database, names, 3 * cfg.similar_images, cfg.seed)
        few = [pair for pair, rank in similar.items() if rank < cfg.similar_images]
        sets = [
            ("similar", sorted({*neighbours, *few})),
            ("more-similar", sorted({*neighbours, *similar})),
        ]
    for name, pairs in sets:
        yield name, [(names[i], names[j]) for i, j in pairs]


def _similar_pairs(
    database: Path, names: list[str], neighbours: int, seed: int, *, words: int = 64
) -> dict[tuple[int, int], int]:
    """Look-alikes by VLAD (Jégou et al., CVPR 2010) over the capture's own SIFT words, no vocabulary needed.

    Returns:
        Pairs `(i, j)`, `i < j`, with the better of their two ranks (0 is the most similar).
    """
    import pycolmap
    from scipy.cluster.vq import kmeans2

    descriptors = []
    with pycolmap.Database.open(database) as opened:
        for name in names:
            image = opened.read_image_with_name(name)
            data = np.asarray(opened.read_descriptors(image.image_id).data, dtype=np.float32)
            descriptors.append(data / np.maximum(np.linalg.norm(data, axis=1, keepdims=True), 1e-9))
    rng = np.random.default_rng(seed)
    sample = np.concatenate([d[rng.permutation(len(d))[:100]] for d in descriptors])
    centers, _ = kmeans2(sample, min(words, len(sample)), iter=10, minit="++", seed=seed)  # pyright: ignore[reportCallIssue]
    vectors = np.stack([_vlad(d, centers.astype(np.float32)) for d in descriptors])
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    ranks: dict[tuple[int, int], int] = {}
    for i, order in enumerate(np.argsort(-similarity, axis=1)[:, :neighbours]):
        for rank, j in enumerate(order):
            pair = (min(i, int(j)), max(i, int(j)))
            ranks[pair] = min(rank, ranks.get(pair, rank))
    return ranks


def _vlad(descriptors: NDArray[np.float32], centers: NDArray[np.float32]) -> NDArray[np.float32]:
    words = np.argmax(descriptors @ centers.T - 0.5 * (centers**2).sum(axis=1), axis=1)
    sums = np.zeros_like(centers)
    np.add.at(sums, words, descriptors - centers[words])
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    flat = sums.ravel()
    return flat / max(float(np.linalg.norm(flat)), 1e-9)


# --- maps ----------------------------------------------------------------------------------------------------------


def _attempts(
    database: Path,
    folder: Path,
    capture: Capture,
    gps: NDArray[np.float64] | None,
    ordered: bool,
    cfg: SfmCfg,
    progress: Progress,
) -> Iterator[Attempt | None]:
    """Maps with changing seed and triangulation angle, lazily; finished ones are read back from `folder`."""
    for number in range(cfg.max_attempts):
        angle = cfg.min_tri_angles_deg[number % len(cfg.min_tri_angles_deg)]
        seed = cfg.seed + number
        model = _map(database, folder / f"{number:02d}", capture, angle, seed, progress)
        if model is None or len(model.names) < 3:
            yield None
            continue
        indices = _indices(capture, model)
        found = check_consistency(
            indices,
            model.c2w[:, :3, 3],
            num_images=len(capture.images),
            reprojection_error_px=model.reprojection_error_px,
            link_points=link_points(model.visible, len(model.points)),
            gps_enu_m=None if gps is None else gps[indices],
            ordered=ordered,
            cfg=cfg.gates,
        )
        log.info("map %d (angle %g, seed %d): %s", number, angle, seed, found)
        yield Attempt(model, found, seed, angle)


def _map(
    database: Path, output: Path, capture: Capture, angle_deg: float, seed: int, progress: Progress
) -> SfmModel | None:
    """One incremental map; the largest of its pieces."""
    if not (output / "done.json").exists():
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        job = {
            "database": str(database),
            "images": str(capture.directory),
            "images_total": len(capture.images),
            "output": str(output),
            "seed": seed,
            "min_tri_angle_deg": angle_deg,
            "free_focal": capture.images[0].intrinsics.focal_source == "guess",
        }
        _run_job("map", job, "map", progress)
    finished = output / "best"
    return read_model(finished, capture) if finished.exists() else None


def read_model(path: Path, capture: Capture) -> SfmModel | None:
    """Read a COLMAP model of one SIMPLE_RADIAL camera; None if it has no pose.

    Args:
        path: Folder with the model's binary files.
        capture: Whose images it poses.
    """
    import pycolmap

    model = pycolmap.Reconstruction(str(path))
    images = {image.name: image for image in model.images.values() if image.has_pose}
    names = [image.file for image in capture.images if image.file in images]
    if not names or not model.points3D:
        return None
    ids = sorted(model.points3D)
    place = {point_id: index for index, point_id in enumerate(ids)}
    points = [model.points3D[point_id] for point_id in ids]
    c2w = np.tile(np.eye(4), (len(names), 1, 1))
    visible = []
    for index, name in enumerate(names):
        c2w[index, :3] = images[name].cam_from_world().inverse().matrix()
        seen = {place[p.point3D_id] for p in images[name].points2D if p.has_point3D()}
        visible.append(np.array(sorted(seen), np.int32))
    camera = model.cameras[images[names[0]].camera_id]
    focal, cx, cy, k1 = (float(value) for value in camera.params)
    first = capture.images[0].intrinsics
    intrinsics = replace(first, fx=focal, fy=focal, cx=cx, cy=cy, distortion=(k1, 0.0, 0.0, 0.0))
    if first.focal_source == "guess":
        intrinsics = replace(intrinsics, focal_source="calibrated")
    return SfmModel(
        names=names,
        intrinsics=intrinsics,
        c2w=c2w,
        points=np.array([point.xyz for point in points], np.float64),
        colors=np.array([point.color for point in points], np.uint8),
        errors_px=np.array([point.error for point in points], np.float64),
        track_lengths=np.array([point.track.length() for point in points], np.int32),
        visible=visible,
    )
