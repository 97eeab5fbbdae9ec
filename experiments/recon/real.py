"""How the real captures come out, by the commands that users type and without settings of their own.

    python experiments/recon/real.py                                   # all that lie beside the checkout
    python experiments/recon/real.py --captures lund --steps 2300

Each is imported by `gaussgym-recon import images`, built by `gaussgym-recon build` (for a number of steps, so that results do not
depend on what else the machine does) and described by its `scene.json`: images registered, residuals to GPS, PSNR of photographs that no training saw (every 8th) and of their mean image as a baseline,
splats, verdict. The rows go into `results/recon.json` beside the synthetic ones, the splats as seen from up to four of the
held-out cameras into `results/recon/NAME.jpg` (renders only: the photographs are others'). Done captures are not repeated.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve()
RESULTS = HERE.parents[1] / "results" / "recon.json"
CAPTURES = HERE.parents[3] / "shared" / "captures"
KINDS = {
    "lund": ("", []),
    "caliterra": ("", []),
    "office_loop": ("", ["--camera-height", "1.5"]),
    "robot_floor": ("rgb", ["--camera-height", "0.4"]),
}
"""Folder of the photographs within the capture, and what only the one who took them knows: the height of a camera without GPS."""
COMMAND = [sys.executable, "-m", "gaussgym_recon"]


def run_capture(name, folder, steps, seed):
    """Import and build; returns the row of the table."""
    part, known = KINDS[name]
    capture, scene = folder / "capture", folder / name
    if not (capture / "capture.json").exists():
        run([*COMMAND, "import", "images", str(CAPTURES / name / part), "--output", str(capture)])
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    run(
        [
            *COMMAND,
            "build",
            str(capture),
            "--output",
            str(scene),
            *known,
            "--steps",
            f"{steps}",
            "--seed",
            f"{seed}",
        ]
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    m = json.loads((scene / "scene.json").read_text())
    m = {**m.get("metadata", {}), **m}
    quality = json.loads((scene / "quality.json").read_text())
    keys = (
        "images_registered", "images_total", "reprojection_error_px", "scale_source", "scale_std_fraction", "gravity_source",
        "gravity_std_rad", "gps_residual_median_m", "gps_residual_max_m", "max_step_m", "camera_height_m", "psnr_db_heldout",
        "psnr_db_heldout_corrected", "ssim_heldout", "psnr_db_mean_image", "psnr_db_train", "psnr_width_px", "training_steps",
        "training_cpu_seconds",
        "splat_mesh_disagreement_m", "hole_fraction", "path_length_max_m", "walkable",
    )  # fmt: skip
    row = {key: m.get(key) for key in keys}
    row["verdict"] = quality["verdict"]["name"]
    row["findings"] = [finding["text"] for finding in quality["verdict"]["findings"]]
    row["cpu_s"] = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)
    row["minutes"] = round((time.monotonic() - start) / 60, 2)
    row["settings"] = {"steps": steps, "seed": seed, "stated": known}
    contact_sheet(scene / "heldout", RESULTS.parent / "recon" / f"{name}.jpg")
    return row


def run(command):
    done = subprocess.run(command)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:4])} ended with {done.returncode}")


def contact_sheet(folder, output, count=4, height=200):
    """Put renders of evenly chosen held-out cameras side by side."""
    renders = sorted(folder.glob("*_splats.jpg"))
    chosen = [renders[i] for i in np.unique(np.linspace(0, len(renders) - 1, count).round().astype(int))]
    pictures = [Image.open(path) for path in chosen]
    pictures = [
        p.resize((round(p.width * height / p.height), height), Image.Resampling.LANCZOS) for p in pictures
    ]
    sheet = Image.new("RGB", (sum(p.width for p in pictures) + 4 * (len(pictures) - 1), height), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + 4
    output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(output, quality=85)


def keep(path, name, row):
    """Put a row into the results; other parts of the file stay."""
    results = json.loads(path.read_text()) if path.exists() else {}
    results.setdefault("real", {})[name] = row
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    os.replace(partial, path)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captures", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--steps", type=int, default=2300, help="of training the splats")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="repeat captures that are done")
    parser.add_argument("--work", type=Path, default=Path("runs/recon-real"), help="captures and scenes")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    failed = 0
    for name in arguments.captures:
        if not (CAPTURES / name).is_dir():
            print(f"{name}: not at {CAPTURES / name}; left out")
            continue
        results = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
        if name in results.get("real", {}) and not arguments.again:
            print(f"{name}: done before")
            continue
        folder = arguments.work / name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            row = run_capture(name, folder, arguments.steps, arguments.seed)
        except SystemExit as error:
            print(f"{name}: FAILED: {error}")
            failed += 1
            continue
        keep(arguments.output, name, row)
        print(
            f"{name}: {row['images_registered']}/{row['images_total']} images, {row['reprojection_error_px']:.2f} px, held out "
            f"{row['psnr_db_heldout']:.1f} dB (mean image {row['psnr_db_mean_image']:.1f}, training {row['psnr_db_train']:.1f}) at "
            f"{row['psnr_width_px']} px, {row['training_steps']} steps, {row['verdict']}, CPU {row['cpu_s']:.0f} s"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
