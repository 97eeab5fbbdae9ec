"""How well scenes are rebuilt from captures whose truth is known: kinds of places times sources of captures.

    python experiments/recon/truth.py                      # all kinds and sources, full settings
    python experiments/recon/truth.py --fast --kinds stairs --sources rgbd photos

Each case photographs a procedural scene, builds it with the settings that `gaussgym-recon build` has, and compares with the
truth: gravity, scale, heights (after aligning the camera paths; the mark is for those off edges), edges of steps (the mark is for
the RMS of those found, 5 % may be missed; stated beside is how many no two photographs saw, and how many are missed of the
others), holes, held-out PSNR, splats, minutes and CPU seconds. Training takes a fixed number of steps, so that no result depends on
what else the machine does. Each runs in a process of its own and is written to the results as soon as it is done; done cases are not repeated
unless settings change. `scale_mark` is judged only where a sensor knows the scale; elsewhere the error must lie within three
of the standard deviations that the scene states.
"""

import argparse
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve()
RESULTS = HERE.parents[1] / "results" / "recon.json"
LAYOUTS = HERE.parents[2] / "recon" / "tests"
"""Holds `layouts/`: writers of captures in the layouts of others."""
KINDS = {"street": {}, "stairs": {}, "rubble": {}, "room": {}}
MORE_IMAGES = {"stairs": 100 / 84}
"""Whoever photographs stairs turns round at both ends, to look back at the flights from below."""
LAYOUT_SOURCES = ("polycam", "record3d", "arkitscenes", "grandtour", "colmap", "nerfstudio", "tum")
SOURCES = ("photos", "rgbd", "rgbd-odometry", "film", *LAYOUT_SOURCES)
METRIC = ("rgbd", "rgbd-odometry", "polycam", "record3d", "arkitscenes", "grandtour", "nerfstudio", "tum")
"""Sources whose sensors know the scale."""
WITH_DEPTH = ("rgbd", "rgbd-odometry", "polycam", "record3d", "arkitscenes", "nerfstudio", "tum")
LAYOUT_DEPTH_SIZE = (256, 192)
POINTS_PER_IMAGE = 400
LIDAR_RANGE_M = 30.0

TRAIN_STEPS = 2300
"""What 290 s of training come to on two cores, by steps timed beside other work (see `recon/README.md`, "The splat trainer")."""


@dataclass(frozen=True)
class Settings:
    """Of all cases of a run."""

    images: int = 84
    width: int = 640
    train_steps: int = TRAIN_STEPS
    long_sides_px: tuple = (120, 240, 480)
    seed: int = 0


FAST = Settings(images=60, width=320, train_steps=800, long_sides_px=(80, 160, 320))


def images_of(kind, settings):
    return round(settings.images * MORE_IMAGES.get(kind, 1))


def photo_cfg(kind, settings):
    from gaussgym_recon.synthetic import SynthesizeCfg

    images = images_of(kind, settings)
    turn = max(8, images // 7)
    return SynthesizeCfg(
        images=images, width=settings.width, height=settings.width * 3 // 4, turn_images=turn
    )


def capture_of(kind, source, scene, folder, settings):
    """The capture of a case, made unless it lies there."""
    from gaussgym_recon.synthetic import synthesize_capture, truth_path

    output = folder / "capture"
    if (output / "capture.json").exists() and truth_path(output).exists():
        return output
    cfg = photo_cfg(kind, settings)
    if source == "film":
        from gaussgym_recon.synthetic_video import FilmCfg, synthesize_video

        return synthesize_video(scene, output, seed=settings.seed, cfg=FilmCfg(photos=cfg))
    if source in LAYOUT_SOURCES:
        return capture_in_layout(kind, source, scene, output, folder, settings)
    from gaussgym_recon.sensors import DepthSensorCfg, OdometryCfg

    if source.startswith("rgbd"):
        cfg = replace(cfg, depth=DepthSensorCfg(), gps=False)
    if source == "rgbd-odometry":
        cfg = replace(cfg, odometry=OdometryCfg())
    return synthesize_capture(scene, output, seed=settings.seed, cfg=cfg)


class SceneTruth:
    """What the writers of layouts ask of a capture: pinhole images, depths and points of a procedural scene."""

    def __init__(self, kind, scene, settings):
        from gaussgym_recon.meshcast import MeshCaster
        from gaussgym_recon.sensors import DepthSensorCfg
        from gaussgym_recon.synthetic import true_camera
        from gaussgym_recon.walks import walk

        self.cfg = photo_cfg(kind, settings)
        rng = np.random.default_rng([settings.seed, 20251])
        self.c2w = walk(scene, self.cfg, rng)
        self.camera = true_camera(self.cfg).without_distortion()
        lens = importlib.import_module("layouts.truth").Lens
        c = self.camera
        self.lenses = [lens(c.width, c.height, c.fx, c.fy, c.cx, c.cy)] * len(self.c2w)
        self.times_s = 1234.5 + 0.2 * np.arange(len(self.c2w))
        self.caster, self.sensor, self.seed = MeshCaster(scene, self.camera), DepthSensorCfg(), settings.seed
        self.scene, self.lens_casters = scene, {}
        # As many of each image, one image after another: layouts with scans cut them into one scan an image.
        self.points = np.concatenate([self._seen(index, POINTS_PER_IMAGE) for index in range(len(self.c2w))])
        self.colors = np.full((len(self.points), 3), 128, np.uint8)

    def _seen(self, index, count):
        """Points `[count, 3]` that an image sees, of the world."""
        from gaussgym_scene.cameras import pixel_rays_c

        width, height = 64, 48
        depth, _ = self.caster.surface(self.c2w[index], width, height)
        points = pixel_rays_c(self.camera.resized(width, height)) * depth[..., None]
        points = points[(depth > 0) & (depth < LIDAR_RANGE_M)]
        chosen = np.random.default_rng([1, index]).choice(len(points), count)
        return points[chosen] @ self.c2w[index, :3, :3].T + self.c2w[index, :3, 3]

    def __len__(self):
        return len(self.lenses)

    def render(self, index, rays=None):
        from gaussgym_recon.synthetic import expose

        caster = self.caster if rays is None else self._caster_of(rays)
        return expose(caster.render(self.c2w[index]), self.cfg, np.random.default_rng([self.seed, index]))

    def _caster_of(self, rays):
        """A caster along the rays of a layout's own lens; made once for each lens."""
        from gaussgym_recon.meshcast import MeshCaster

        key = hashlib.sha256(np.ascontiguousarray(rays).tobytes()).hexdigest()
        if key not in self.lens_casters:
            self.lens_casters[key] = MeshCaster(self.scene, self.camera, supersample=1, rays_c=rays)
        return self.lens_casters[key]

    def _sense(self, index, width, height):
        from gaussgym_recon.sensors import sense_depth

        cfg = replace(self.sensor, width=width, height=height)
        return sense_depth(self.caster, self.c2w[index], cfg, np.random.default_rng([self.seed, 7, index]))

    def depth_m(self, index, width, height):
        return self._sense(index, width, height)[0]

    def confidence(self, index, width, height):
        return self._sense(index, width, height)[1]


def enlarged(pinhole, distortion, model, cfg):
    """A lens of the fixtures, made for 64x48 px with pixel centres at integers, for images of another size."""
    fx, fy, cx, cy = pinhole
    sx, sy = cfg.width / 64, cfg.height / 48
    return [fx * sx, fy * sy, (cx + 0.5) * sx - 0.5, (cy + 0.5) * sy - 0.5], distortion, model


def capture_in_layout(kind, source, scene, output, folder, settings):
    """Write a scene in another layout and import it; images keep their order."""
    from gaussgym_recon.sources import SOURCES as READERS
    from gaussgym_recon.synthetic import write_truth
    from gaussgym_scene.capture import Capture

    sys.path.insert(0, str(LAYOUTS))
    writer = importlib.import_module(f"layouts.{source}")
    truth = SceneTruth(kind, scene, settings)
    more = {"depth_size": LAYOUT_DEPTH_SIZE} if hasattr(writer, "DEPTH_SIZE") else {}
    small = getattr(writer, "CAMERAS", None)
    if small is not None:
        writer.CAMERAS = {tag: enlarged(*lens, truth.cfg) for tag, lens in small.items()}
    raw = folder / (f"{source}.r3d" if source == "record3d" else source)
    if raw.exists():  # of a run that was stopped
        raw.unlink() if raw.is_file() else shutil.rmtree(raw)
    try:
        written = writer.write(raw, truth, **more)
    finally:
        if small is not None:
            writer.CAMERAS = small
    reader = READERS.get(source)
    lens = truth.lenses[0]
    options = {
        "grandtour": {"cameras": ("hdr_front", "hdr_left"), "spacing_m": 0.0},
        "nerfstudio": {"metric": True},
        "tum": {"camera": (lens.fx, lens.fy, lens.cx - 0.5, lens.cy - 0.5)},
    }
    reader.read(written.path, output, reader.cfg(**written.options, **options.get(source, {})))
    names = [image.file for image in Capture.load(output).images]
    if len(names) != len(truth):
        raise SystemExit(f"{source}: {len(names)} of {len(truth)} images were imported")
    write_truth(output, names, truth.c2w, truth.camera)
    return output


def cpu_s():
    return sum(os.times()[:4])


def run_case(kind, source, folder, settings):
    """Capture, build, compare; returns the row of the table."""
    from gaussgym_recon.build import BuildCfg, build
    from gaussgym_recon.trainer import TrainerCfg
    from gaussgym_recon.truth import compare_with_truth
    from gaussgym_scene.scene import Scene
    from gaussgym_scene.synth import synthesize

    scene = synthesize(kind, settings.seed, **KINDS[kind])
    capture = capture_of(kind, source, scene, folder, settings)
    stages, start = {}, [None, 0.0, 0.0]

    def tell(stage, fraction, status=""):
        if stage != start[0]:
            close()
            start[:] = [stage, cpu_s(), time.monotonic()]
            print(f"{kind}/{source}: {stage}", file=sys.stderr, flush=True)

    def close():
        if start[0] is not None:
            spent = stages.setdefault(start[0], [0.0, 0.0])
            spent[0] += cpu_s() - start[1]
            spent[1] += time.monotonic() - start[2]

    # COLMAP's models have no scale, so the user has to state one: the height at which the camera was carried.
    height = photo_cfg(kind, settings).camera_height_m if source in ("colmap", "film") else None
    trainer = TrainerCfg(iterations=settings.train_steps)
    cfg = BuildCfg(
        trainer=trainer, long_sides_px=settings.long_sides_px, seed=settings.seed, camera_height_m=height
    )
    built = Scene.load(build(capture, folder / "scene", cfg, progress=tell))
    close()
    m = built.metadata
    row = {
        "kind": kind, "source": source, "images": m["images_total"], "images_registered": m["images_registered"],
        **compare_with_truth(built, capture, scene),
        "scale_source": m["scale_source"], "scale_std_fraction": m["scale_std_fraction"],
        "gravity_source": m["gravity_source"], "psnr_db_heldout": m["psnr_db_heldout"],
        "psnr_db_heldout_corrected": m["psnr_db_heldout_corrected"], "psnr_db_train": m["psnr_db_train"],
        "training_steps": m["training_steps"], "training_cpu_s": m["training_cpu_seconds"],
        "psnr_width_px": m["psnr_width_px"], "splats": len(built.splats), "floaters": m["floaters"],
        "splat_mesh_disagreement_m": m["splat_mesh_disagreement_m"], "walkable": m["walkable"],
        "path_length_max_m": m["path_length_max_m"],
        "minutes": {stage: round(spent[1] / 60, 2) for stage, spent in stages.items()},
        "cpu_s": {stage: round(spent[0], 1) for stage, spent in stages.items()},
    }  # fmt: skip
    if source == "film":
        row["psnr_db_sharp"] = sharp_psnr_db(built, capture)
    row["marks_missed"] = missed(row)
    return row


def sharp_psnr_db(built, capture):
    """PSNR of the splats at held-out frames against their sharp renders."""
    import cv2
    from gaussgym_recon.synthetic import truth_path
    from gaussgym_recon.synthetic_video import SHARP
    from gaussgym_recon.views import held_out_names, pinhole_camera, psnr_db, read_rgb
    from gaussgym_render.renderer import SplatRenderer
    from gaussgym_scene.cameras import Intrinsics, distort, pixel_rays_c
    from gaussgym_scene.capture import Capture

    cameras, scores = built.metadata["cameras"], []
    out = held_out_names([image.file for image in Capture.load(capture).images])
    width = built.metadata["psnr_width_px"]
    for name, c2w, fields in zip(cameras["names"], cameras["c2w"], cameras["intrinsics"]):
        if name not in out:
            continue
        source = Intrinsics.from_dict(fields)
        ideal = pinhole_camera(source)
        ideal = ideal.resized(width, round(source.height * width / source.width))
        sharp = read_rgb(truth_path(capture).parent / SHARP / Path(name).with_suffix(".png").name)
        at = distort(pixel_rays_c(ideal)[..., :2], source.distortion) * [source.fx, source.fy]
        at = (at + [source.cx - 0.5, source.cy - 0.5]).astype(np.float32)
        blurred = cv2.GaussianBlur(sharp, (0, 0), 0.4 * source.width / width)  # no aliasing when made smaller
        image = cv2.remap(blurred, at[..., 0], at[..., 1], cv2.INTER_LINEAR)
        renderer = SplatRenderer([built.splats], ideal.width, ideal.height, backend="cpu")
        frames = renderer.render(np.array(c2w)[None], ideal.K[None], np.zeros(1, np.int64))
        scores.append(psnr_db(frames.rgb[0] / 255.0, image / 255.0))
    return float(np.mean(scores)) if scores else None


def missed(row):
    """Names of the marks that a case does not reach."""
    from gaussgym_recon.truth import MARKS

    height = MARKS["height_rmse_rgbd_m" if row["source"] in WITH_DEPTH else "height_rmse_m"]
    out = []

    def check(name, value, most):
        if value is not None and abs(value) > most:
            out.append(name)

    check("gravity", row["gravity_error_deg"], MARKS["gravity_error_deg"])
    std = row["scale_std_fraction"]
    known = row["source"] in METRIC
    check("scale", row["scale_error_fraction"], MARKS["scale_error_fraction"] if known else 3 * (std or 0.0))
    check("height", row["height_rmse_off_edges_m"], height)
    check("step edges", row["step_edge_rms_m"], MARKS["step_edge_error_m"])
    check("step edges missed", row["step_edges_missed_fraction"], 0.05)
    check("holes", row["hole_fraction"], MARKS["hole_fraction"])
    film = row.get("psnr_db_sharp")
    score, least = (film, 24.0) if film is not None else (row["psnr_db_heldout"], MARKS["psnr_db_heldout"])
    if score is None or score < least:
        out.append("psnr")
    return out


def case_key(kind, source, settings):
    text = json.dumps(
        [kind, source, KINDS[kind], images_of(kind, settings), settings.__dict__],
        default=list,
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_results(path):
    return json.loads(path.read_text()) if path.exists() else {}


def run_all(arguments, settings):
    """Each case in a process of its own; results are kept after each."""
    failed = 0
    for kind in arguments.kinds:
        for source in arguments.sources:
            key = case_key(kind, source, settings)
            name = f"{kind}/{source}" + ("/fast" if arguments.fast else "")
            known = read_results(arguments.output).get("truth", {}).get(name, {})
            if known.get("key") == key and "error" not in known and not arguments.again:
                print(f"{name}: done before")
                continue
            folder = arguments.work / f"{kind}-{source}-{key}"
            folder.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, str(HERE), "--case", kind, source, "--work", str(folder)]
            command += ["--fast"] if arguments.fast else []
            result = folder / "row.json"
            result.unlink(missing_ok=True)
            done = subprocess.run(command, capture_output=True, text=True)
            print(done.stderr[-2000:], file=sys.stderr)
            if result.exists():
                row = json.loads(result.read_text())
            else:
                last = (done.stderr.strip().splitlines() or ["no output"])[-1]
                row, failed = {"kind": kind, "source": source, "error": last}, failed + 1
            keep(arguments.output, name, {**row, "key": key})
            print(line_of(name, row))
    return failed


def keep(path, name, row):
    """Put a row into the results; other parts of the file stay."""
    results = read_results(path)
    results.setdefault("truth", {})[name] = row
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    os.replace(partial, path)


def line_of(name, row):
    if "error" in row:
        return f"{name}: FAILED: {row['error']}"

    def cm(key):
        return "-" if row[key] is None else f"{100 * row[key]:.2f}"

    def share(key):
        return "-" if row[key] is None else f"{100 * row[key]:.0f} %"

    return (
        f"{name}: {row['images_registered']}/{row['images']} images, gravity {row['gravity_error_deg']:.2f} deg, "
        f"scale {100 * row['scale_error_fraction']:+.2f} %, height {cm('height_rmse_off_edges_m')} cm "
        f"(all {cm('height_rmse_m')}), edges {cm('step_edge_rms_m')} cm (p95 {cm('step_edge_p95_m')}, {share('step_edges_missed_fraction')} missed; "
        f"{share('step_edges_not_photographed_fraction')} not photographed, of the others "
        f"{share('step_edges_photographed_missed_fraction')} missed), "
        f"holes {100 * row['hole_fraction']:.1f} %, PSNR {row['psnr_db_heldout']:.1f} dB, {row['splats']} splats, "
        f"{row['training_steps']} steps in {row['training_cpu_s']:.0f} s of CPU, all {sum(row['cpu_s'].values()):.0f} s; missed: {', '.join(row['marks_missed']) or 'none'}"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--sources", nargs="+", default=["photos", "rgbd", "film"], choices=SOURCES)
    parser.add_argument(
        "--fast", action="store_true", help="small images and a short training, for iteration"
    )
    parser.add_argument("--again", action="store_true", help="repeat cases that are done")
    parser.add_argument("--work", type=Path, default=Path("runs/recon-truth"), help="captures and scenes")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--case", nargs=2, metavar=("KIND", "SOURCE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings = FAST if arguments.fast else Settings()
    if arguments.case:
        import numba

        numba.config.THREADING_LAYER = "workqueue"
        row = run_case(*arguments.case, arguments.work, settings)
        (arguments.work / "row.json").write_text(json.dumps(row))
        return 0
    return 1 if run_all(arguments, settings) else 0


if __name__ == "__main__":
    sys.exit(main())
