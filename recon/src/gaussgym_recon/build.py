"""Capture → scene: poses, splats, ground, paths, one after the other, each kept in ``<scene>.work/`` once finished."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.artifact import ArtifactWriter, check_replaceable, provenance, sha256_of, write_json
from gaussgym_scene.capture import MANIFEST as CAPTURE_MANIFEST
from gaussgym_scene.capture import Capture
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import FORMAT, MANIFEST, VERSION, Scene
from PIL import Image

from gaussgym_recon import quality
from gaussgym_recon.agreement import splat_mesh_agreement
from gaussgym_recon.consistency import RecaptureError
from gaussgym_recon.depth_views import (
    DepthView,
    anchor_depths,
    at_level,
    coverage,
    merged,
    render_depths,
    sensor_depths,
)
from gaussgym_recon.floaters import mesh_without_floaters, splats_without_floaters
from gaussgym_recon.free_space import Spots
from gaussgym_recon.fusion import FusionCfg, fitted_to, fuse_mesh
from gaussgym_recon.ground import ground_heightfield
from gaussgym_recon.ground_prior import ground_evidence
from gaussgym_recon.nerfstudio.training import NerfstudioCfg
from gaussgym_recon.posed import PosedCapture
from gaussgym_recon.poses import PoseCfg, pose
from gaussgym_recon.report.page import PAGE, assess, write_quality
from gaussgym_recon.report.verdict import TRAINABLE, judge
from gaussgym_recon.seeding import seed_splats
from gaussgym_recon.stereo import DepthMap, StereoCfg, dense_depths, load_depths, save_depths
from gaussgym_recon.trainer import Trainer, TrainerCfg
from gaussgym_recon.views import Views, load_views
from gaussgym_recon.walkable import WalkableCfg, longest_path_m, scene_paths

log = logging.getLogger(__name__)

MIN_GOAL_M = 10.0
"""A policy's goal lies this far from its start; scenes with shorter paths are saved with a note."""

Progress = Callable[[str, float, str], None]
"""Called with the stage, the fraction of it that is done, and a short status."""


@dataclass(frozen=True)
class BuildCfg:
    """Settings of a build.

    Attributes:
        camera_height_m: Height at which the cameras were carried [m]; short for a ``poses.scale_from`` of that.
        poses: Where poses, scale and gravity come from.
        train_seconds: Wall-clock budget of splat training [s].
        long_sides_px: Long sides of the training images, coarse to fine; the last is what held-out images are scored at.
        seed: Of all random numbers.
        stereo: Settings of the stereo that seeds the splats.
        stereo_level: Level of the image pyramid it works at.
        sensor_coverage: Depth sensors that see less of the images than this are joined by stereo.
        trainer: Further settings of the trainer; its ``seconds`` and ``seed`` are replaced by the two above.
        nerfstudio: Train with nerfstudio instead of the built-in trainer, of whose settings the limits remain.
        fusion: Settings of depth fusion and ground.
        walkable: Settings of the paths.
    """

    camera_height_m: float | None = None
    poses: PoseCfg = field(default_factory=PoseCfg)
    train_seconds: float = 290.0
    long_sides_px: tuple[int, ...] = (120, 240, 480)
    seed: int = 0
    stereo: StereoCfg = field(default_factory=StereoCfg)
    stereo_level: int = 1
    sensor_coverage: float = 0.5
    trainer: TrainerCfg = field(default_factory=TrainerCfg)
    nerfstudio: NerfstudioCfg | None = None
    fusion: FusionCfg = field(default_factory=FusionCfg)
    walkable: WalkableCfg = field(default_factory=WalkableCfg)


def build(
    capture_dir: Path | str,
    output: Path | str,
    cfg: BuildCfg | None = None,
    *,
    progress: Progress | None = None,
) -> Path:
    """Build a scene from a capture.

    A killed build goes on where it stopped when called again with the same capture and settings; what was finished lies in
    ``<output>.work/``. Other settings or another capture start over.

    Args:
        capture_dir: Folder with ``capture.json``.
        output: Folder of the scene to write.
        cfg: Settings.
        progress: Told how far each stage is.

    Returns:
        Path of ``scene.json``.

    Raises:
        InputError: The capture cannot be used; the text says why.
        RecaptureError: No consistent map of the photographs, or they contradict each other; ``<output>.work/verdict.json``
            says so too.
    """
    cfg = cfg or BuildCfg()
    tell: Progress = progress or (lambda stage, fraction, status: None)
    check_settings(cfg)
    capture = Capture.load(capture_dir)
    check_photographs(capture)
    output = Path(output)
    check_replaceable(output, MANIFEST)
    work = output.with_name(output.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    posed = _poses(capture, work, cfg, tell)
    _drop_stale(work, posed, cfg)
    tell("stereo", 0.0, "undistorting photographs")
    views = load_views(posed, capture.images, long_sides_px=cfg.long_sides_px)
    depths = _depths(posed, views, work, cfg, tell)
    trainer = _train(posed, views, depths, work, cfg, tell)
    scene, rendered, spots = _ground(posed, views, trainer, depths, cfg, tell)
    tell("scene", 0.2, "measuring quality")
    scene.metadata.update(quality.image_quality(trainer))
    scene.metadata.update(splat_mesh_agreement(rendered, scene.mesh, max_depth_m=cfg.fusion.depth_max_m))
    assessed, coverage, unseen = assess(scene)
    scene.metadata.update(assessed)
    verdict = judge(scene.metadata)
    if verdict.name != TRAINABLE:
        log.warning("%s: %s; %s", verdict.name, verdict.findings[0].text, output / PAGE)
    with ArtifactWriter(output, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        scene.write_members(writer.path)
        spots.save_npz(writer.path / "spots.npz")
        scene.metadata["heldout_images"] = quality.save_held_out(trainer, writer.path / "heldout")
        write_quality(scene, writer.path, coverage, unseen, verdict)
        writer.fields.update(scene.manifest_fields())
        writer.fields["provenance"] = provenance(
            capture_sha256=sha256_of(capture.directory / "capture.json"), settings=_settings(cfg)
        )
    tell("scene", 1.0, "written")
    return output / MANIFEST


def check_settings(cfg: BuildCfg) -> None:
    """See that the numbers can be, before hours are spent on them.

    Raises:
        InputError: One cannot.
    """
    height = cfg.camera_height_m
    if height is not None and not 0.05 <= height <= 1000:
        raise InputError(f"camera height {height:g} m, expected 0.05 to 1000 m above the ground")
    if not 0 < cfg.train_seconds < float("inf"):
        raise InputError(
            f"{cfg.train_seconds:g} seconds to train the splats, expected more than 0 (--minutes)"
        )
    if cfg.trainer.max_splats < 100:
        raise InputError(
            f"max_splats is {cfg.trainer.max_splats}, expected at least 100 (a room takes some 50000)"
        )
    if (
        not cfg.long_sides_px
        or min(cfg.long_sides_px) < 16
        or sorted(cfg.long_sides_px) != list(cfg.long_sides_px)
    ):
        raise InputError(
            f"long sides of the images are {cfg.long_sides_px}, expected 16 px and more, from small to large"
        )


def check_photographs(capture: Capture) -> None:
    """See that there are photographs, and that they have the sizes of their cameras (only headers are read).

    Raises:
        InputError: There are none, or one does not fit.
    """
    if len(capture.images) < 3:
        raise InputError(
            f"{capture.directory}: holds {len(capture.images)} images, expected 3 and more; import more of the place"
        )
    for index, image in enumerate(capture.images):
        try:
            with Image.open(capture.path(index)) as photograph:
                width, height = photograph.size
        except (OSError, ValueError, Image.DecompressionBombError):
            raise InputError(f"{capture.path(index)}: not readable as an image; import it again") from None
        if (width, height) != (image.intrinsics.width, image.intrinsics.height):
            raise InputError(
                f"{capture.path(index)}: is {width}x{height}, its camera {image.intrinsics.width}x{image.intrinsics.height}; "
                "import the images again"
            )


def _poses(capture: Capture, work: Path, cfg: BuildCfg, tell: Progress) -> PosedCapture:
    (work / "verdict.json").unlink(missing_ok=True)
    settings = cfg.poses
    if cfg.camera_height_m is not None:
        settings = replace(settings, camera_height_m=cfg.camera_height_m)
    try:
        return pose(capture, work / "sfm", settings, progress=lambda s, f: tell("poses", f, s))
    except RecaptureError as error:
        write_json(work / "verdict.json", {"verdict": error.verdict, "reasons": list(error.reasons)})
        raise


def _settings(cfg: BuildCfg) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(cfg), default=str))


def _drop_stale(work: Path, posed: PosedCapture, cfg: BuildCfg) -> None:
    """Empty the folder of finished stages when they belong to other poses, photographs or settings."""
    settings = _settings(cfg)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for part in (posed.c2w, posed.points):
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update(
        (posed.capture_dir / CAPTURE_MANIFEST).read_bytes()
    )  # names, sizes and hashes of all its files
    marker, key = work / "build.json", digest.hexdigest()
    if not marker.exists() or quality.read_json(marker).get("key") != key:
        for name in ("training.npz", "stereo.npz"):
            (work / name).unlink(missing_ok=True)
    write_json(marker, {"key": key, "settings": settings})


def _depths(
    posed: PosedCapture, views: Views, work: Path, cfg: BuildCfg, tell: Progress
) -> dict[int, DepthMap]:
    """Depth at the stereo level: the sensor's where it is, stereo's where the sensor does not reach far enough."""
    sensor = sensor_depths(views, cfg.stereo_level)
    if sensor and coverage(sensor, views) >= cfg.sensor_coverage:
        tell("stereo", 1.0, f"{len(sensor)} depth images of the sensor")
        return sensor
    return merged(sensor, _stereo(posed, views, work, cfg, tell))


def _stereo(
    posed: PosedCapture, views: Views, work: Path, cfg: BuildCfg, tell: Progress
) -> dict[int, DepthMap]:
    kept = work / "stereo.npz"
    if kept.exists():
        return load_depths(kept)
    depths = dense_depths(
        posed, views, cfg.stereo, level=cfg.stereo_level, on_progress=lambda f, s: tell("stereo", f, s)
    )
    save_depths(kept, depths)
    tell("stereo", 1.0, f"{len(depths)} depth images")
    return depths


def _train(
    posed: PosedCapture, views: Views, depths: dict[int, DepthMap], work: Path, cfg: BuildCfg, tell: Progress
) -> Trainer:
    checkpoint = work / "training.npz"
    trainer_cfg = TrainerCfg(**{**asdict(cfg.trainer), "seconds": cfg.train_seconds, "seed": cfg.seed})
    if checkpoint.exists():
        log.info("going on from %s", checkpoint)
    model = seed_splats(
        posed, views, depths, count=int(trainer_cfg.seed_fraction * trainer_cfg.max_splats), level=cfg.stereo_level,
        sh_degree=trainer_cfg.sh_degree, seed=cfg.seed,
    )  # fmt: skip
    if cfg.nerfstudio is not None:
        from gaussgym_recon.nerfstudio.stage import trained_by_nerfstudio

        return trained_by_nerfstudio(
            views, model, work / "nerfstudio", replace(cfg.nerfstudio, seed=cfg.seed), trainer_cfg,
            on_progress=lambda fraction, status: tell("splats", fraction, status),
        )  # fmt: skip
    measured = {i: d.depth_m for i, d in depths.items()}
    normals = {i: d.normal_w for i, d in depths.items()}
    trainer = Trainer(views, model, trainer_cfg, checkpoint=checkpoint, depths_m=measured, normals_w=normals)
    trainer.run(lambda fraction, status: tell("splats", fraction, status))
    for view, c2w in zip(views.views, trainer.poses.c2w):  # what depth is rendered from later
        view.c2w = c2w
    tell("splats", 1.0, f"{len(trainer.model)} splats")
    return trainer


def _ground(
    posed: PosedCapture,
    views: Views,
    trainer: Trainer,
    depths: dict[int, DepthMap],
    cfg: BuildCfg,
    tell: Progress,
) -> tuple[Scene, list[DepthView], Spots]:
    tell("ground", 0.0, "rendering depth")
    fusion = fitted_to(cfg.fusion, posed)
    # Sensors see edges at the pixels of the finest level; stereo did not look there.
    sensor = sensor_depths(views, -1)
    level = -1 if sensor else cfg.stereo_level
    measured = merged(sensor, at_level(depths, views, -1)) if sensor else depths
    rendered = render_depths(trainer.model, views, views.train, min_alpha=fusion.min_alpha, level=level)
    anchored = anchor_depths(rendered, measured)
    mesh = fuse_mesh(anchored, fusion, on_progress=lambda f, s: tell("ground", 0.2 + 0.6 * f, s))
    mesh = mesh_without_floaters(mesh, anchored)
    trainer.model, floaters = splats_without_floaters(trainer.model, anchored, views)
    evidence = ground_evidence(views, depths, cfg.stereo_level)
    ground = ground_heightfield(mesh, posed, fusion, evidence=evidence, depths=anchored)
    paths, spots, walkable = scene_paths(posed.c2w[:, :2, 3], ground, mesh, cfg.walkable)
    length = longest_path_m(paths)
    if length < MIN_GOAL_M:
        log.warning(
            "the longest walkable path is %.1f m, shorter than the %.0f m of a goal", length, MIN_GOAL_M
        )
    metadata = {
        **_pose_metadata(posed),
        **quality.ground_quality(ground, paths),
        "floaters": floaters,
        "walkable": walkable,
        "path_length_max_m": length,
        "long_enough_for_goal_task": length >= MIN_GOAL_M,
    }
    tell("ground", 1.0, f"longest path {length:.1f} m")
    scene = Scene(posed.capture_dir.name, trainer.model.splats(), mesh, ground, paths, metadata)
    return scene, list(rendered.values())[::4], spots


def _pose_metadata(posed: PosedCapture) -> dict[str, Any]:
    world = posed.world_from_capture
    total = len(posed) + len(posed.unregistered)
    return {
        "images_registered": len(posed),
        "images_total": total,
        "images_unregistered": posed.unregistered,
        "registered_fraction": posed.registered_fraction,
        "seeds_tried": posed.seeds_tried,
        "reprojection_error_px": posed.reprojection_error_px,
        "scale_source": posed.scale_source,
        "gravity_source": posed.gravity_source,
        "scale_std_fraction": posed.scale_std_fraction,
        "gravity_std_rad": posed.gravity_std_rad,
        "gps_outliers": posed.gps_outliers,
        "camera_height_m": posed.camera_height_m,
        "gps_residual_median_m": posed.gps_residual_median_m,
        "gps_residual_max_m": posed.gps_residual_max_m,
        "max_step_m": posed.max_step_m,
        "world_from_capture": {
            "scale": world.scale,
            "rotation": np.asarray(world.rotation).tolist(),
            "translation_m": np.asarray(world.translation).tolist(),
        },
        "poses": posed.quality,
        "cameras": {
            "names": posed.names,
            "c2w": np.asarray(posed.c2w).tolist(),
            "intrinsics": [camera.to_dict() for camera in posed.intrinsics],
        },
    }


def require_goal_path(scene: Scene) -> None:
    """Check that a goal task can be set in a scene.

    Raises:
        InputError: No path is 10 m long.
    """
    length = longest_path_m(scene.paths)
    if length < MIN_GOAL_M:
        raise InputError(
            f"scene {scene.name}: its longest walkable path is {length:.1f} m, a goal needs {MIN_GOAL_M:.0f} m; "
            "walk farther when photographing, or show more of the ground"
        )
