"""pycolmap in a process of its own: `python -m gaussgym_recon.colmap_jobs KIND` with its arguments as JSON on stdin.

pycolmap ends the whole process where it meets a full disk or a locked database, and does not hear Ctrl-C while it
works. So it runs here, writes its results to files, and tells `p FRACTION` lines on stdout. The job ends when its
stdin is closed: a parent that is killed takes it along.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from gaussgym_recon.colmap_options import camera_of, global_options, mapping_options, mark, tell, write_best
from gaussgym_recon.straighten import straighten

BATCH_IMAGES = 16
BATCH_PAIRS = 256


def extract(job: dict[str, Any]) -> None:
    """Fill the database with SIFT features, one camera of `cameras` after the other; images that have them are skipped."""
    import pycolmap

    extraction = pycolmap.FeatureExtractionOptions()
    extraction.use_gpu = False
    extraction.num_threads = job["threads"]
    extraction.sift.max_num_features = job["max_features"]
    extraction.sift.peak_threshold = job["peak_threshold"]
    extraction.sift.first_octave = job["first_octave"]
    total, done = sum(len(camera["names"]) for camera in job["cameras"]), 0
    for camera in job["cameras"]:
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = camera["model"]
        if job["masks"]:
            reader.mask_path = job["masks"]
        if camera["params"]:
            reader.camera_params = camera["params"]
        else:
            reader.default_focal_length_factor = camera["focal_factor"]
        names = camera["names"]
        for start in range(0, len(names), BATCH_IMAGES):
            tell(done / total)
            reader.existing_camera_id = camera_of(job["database"], names)
            batch = names[start : start + BATCH_IMAGES]
            pycolmap.extract_features(
                job["database"],
                job["images"],
                image_names=batch,
                camera_mode=pycolmap.CameraMode.SINGLE,
                reader_options=reader,
                extraction_options=extraction,
                device=pycolmap.Device.cpu,
            )
            done += len(batch)
    names = [name for camera in job["cameras"] for name in camera["names"]]
    with pycolmap.Database.open(job["database"]) as database:
        stored = {
            image.name for image in database.read_all_images() if database.exists_keypoints(image.image_id)
        }
    missing = [name for name in names if name not in stored]
    if missing:
        raise SystemExit(f"{missing[0]} could not be read ({len(missing)} of {len(names)} images)")


def match(job: dict[str, Any]) -> None:
    """Match and verify the image pairs; those that are in the database already are skipped."""
    import pycolmap

    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu = False
    matching.num_threads = job["threads"]
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = job["seed"]
    pairs = job["pairs"]
    listing = Path(job["database"]).with_name("pairs.txt")
    for start in range(0, len(pairs), BATCH_PAIRS):
        tell(start / len(pairs))
        listing.write_text("".join(f"{a} {b}\n" for a, b in pairs[start : start + BATCH_PAIRS]))
        pairing = pycolmap.ImportedPairingOptions()
        pairing.match_list_path = str(listing)
        pycolmap.match_image_pairs(
            job["database"],
            matching_options=matching,
            pairing_options=pairing,
            verification_options=verification,
            device=pycolmap.Device.cpu,
        )


def map_once(job: dict[str, Any]) -> None:
    """One map, incremental or global; its largest piece goes to `<output>/best`."""
    import pycolmap

    output = Path(job["output"])
    registered = 2

    def next_image() -> None:
        nonlocal registered
        registered += 1
        tell(min(1.0, registered / job["images_total"]))

    started = time.perf_counter()
    pycolmap.set_random_seed(job["seed"])
    if job["mapper"] == "global":
        maps = pycolmap.global_mapping(job["database"], job["images"], output, options=global_options(job))
    else:
        maps = pycolmap.incremental_mapping(
            job["database"],
            job["images"],
            output,
            options=mapping_options(job),
            next_image_callback=next_image,
        )
    if maps:
        best = max(maps.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()))
        write_best(best, output)
    mark(output / "done.json", {"models": len(maps or {}), "seconds": time.perf_counter() - started})


def triangulate(job: dict[str, Any]) -> None:
    """Points of matches at the known poses `cam_from_world` (image name → 3x4 matrix); the map goes to `<output>/best`."""
    import numpy as np
    import pycolmap

    output = Path(job["output"])
    model = pycolmap.Reconstruction()
    with pycolmap.Database.open(job["database"]) as database:
        for camera in database.read_all_cameras():
            model.add_camera(camera)
        for rig in database.read_all_rigs():
            model.add_rig(rig)
        images = [image for image in database.read_all_images() if image.name in job["cam_from_world"]]
        pose_of_frame = {image.frame_id: job["cam_from_world"][image.name] for image in images}
        for frame in database.read_all_frames():
            if frame.frame_id in pose_of_frame:
                # Every rig holds one camera, so its frame stands where the camera does.
                frame.rig_from_world = pycolmap.Rigid3d(np.array(pose_of_frame[frame.frame_id]))
                model.add_frame(frame)
        for image in images:
            model.add_image(image)
        for frame_id in pose_of_frame:
            model.register_frame(frame_id)
    tell(0.1)
    options = mapping_options(job)
    options.ba_refine_focal_length = options.ba_refine_extra_params = False
    found = pycolmap.triangulate_points(model, job["database"], job["images"], output, options=options)
    found.update_point_3d_errors()
    write_best(found, output)
    mark(output / "done.json", {"points": found.num_points3D()})


def _end_with_parent() -> None:
    # Not through sys.stdin: a thread that holds its lock makes the interpreter abort at exit.
    while os.read(0, 4096):
        pass
    os._exit(1)


def main() -> None:
    """Run one job."""
    import pycolmap

    pycolmap.logging.minloglevel = 2
    job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    jobs = {
        "extract": extract,
        "match": match,
        "map": map_once,
        "straighten": straighten,
        "triangulate": triangulate,
    }
    jobs[sys.argv[1]](job)


if __name__ == "__main__":
    main()
