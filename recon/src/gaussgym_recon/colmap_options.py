"""Options of pycolmap's mapping, and what its jobs have in common."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any


def mapping_options(job: dict[str, Any]) -> Any:
    """Options for people who walk forward: an easy initial pair, small triangulation angles, the focal length kept.

    Args:
        job: `seed`, `min_tri_angle_deg`, `free_focal` where a focal length is only guessed, and `calibrated`: an image of each
            camera whose lens is known.
    """
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = 5
    options.num_threads = 1
    options.random_seed = job["seed"]
    options.max_num_models = 5
    options.ba_refine_focal_length = job["free_focal"]
    options.ba_refine_extra_params = True
    mapper = options.mapper
    mapper.num_threads = 1
    mapper.random_seed = job["seed"]
    mapper.abs_pose_refine_focal_length = job["free_focal"]
    mapper.init_min_tri_angle = 8.0 if job["free_focal"] else 3.0
    mapper.init_max_forward_motion = 1.0
    mapper.init_min_num_inliers = 40
    mapper.abs_pose_min_num_inliers = 15
    mapper.filter_min_tri_angle = job["min_tri_angle_deg"]
    options.triangulation.min_angle = job["min_tri_angle_deg"]
    constant = {camera_of(job["database"], [name]) for name in job["calibrated"]}
    options.constant_cameras = constant
    mapper.constant_cameras = constant
    if constant:
        mapper.abs_pose_refine_focal_length = mapper.abs_pose_refine_extra_params = False
    return options


def global_options(job: dict[str, Any]) -> Any:
    """Options of global mapping (Pan et al., ECCV 2024); arguments as of :func:`mapping_options`."""
    import pycolmap

    options = pycolmap.GlobalPipelineOptions()
    options.num_threads = options.mapper.num_threads = 1
    options.random_seed = options.mapper.random_seed = job["seed"]
    mapper = options.mapper
    mapper.global_positioning.use_gpu = False
    mapper.bundle_adjustment.ceres.use_gpu = False
    mapper.bundle_adjustment.refine_focal_length = job["free_focal"]
    mapper.bundle_adjustment.refine_extra_params = not job["calibrated"]
    mapper.min_tri_angle_deg = job["min_tri_angle_deg"]
    mapper.retriangulation.min_angle = job["min_tri_angle_deg"]
    return options


def camera_of(path: str, names: list[str]) -> int:
    """Camera in the database of the first of these images that is there; -1 without any."""
    import pycolmap

    with pycolmap.Database.open(path) as database:
        cameras = {image.name: image.camera_id for image in database.read_all_images()}
    return next((cameras[name] for name in names if name in cameras), -1)


def write_best(model: Any, output: Path) -> None:
    """Write a map to `<output>/best`, whole or not at all."""
    shutil.rmtree(output / "best.partial", ignore_errors=True)
    (output / "best.partial").mkdir()
    model.write(output / "best.partial")
    (output / "best.partial").rename(output / "best")


def mark(path: Path, value: dict[str, Any]) -> None:
    """Write a small JSON file that says that something is finished, atomically."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value))
    os.replace(temporary, path)


def tell(fraction: float) -> None:
    """Say how far the job is, 0..1, to the process that started it."""
    sys.stdout.write(f"p {fraction:.4f}\n")
    sys.stdout.flush()
