"""Small things for tests: a tiny stage, and a run folder as a finished demo leaves it.

`python -m gaussgym.testing OUTPUT [INPUT …]` copies its inputs' text into its output.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
from gaussgym_scene import command
from gaussgym_scene.artifact import write_json

from gaussgym.layout import Layout
from gaussgym.stages import RunState, Stage, StageRecord


def tiny_stage(
    name: str,
    run_dir: Path,
    *options: str,
    inputs: tuple[Path, ...] = (),
    cores: int = 1,
    sleep_s: float = 0.0,
) -> Stage:
    """Make a stage that writes `<run_dir>/<name>.txt` from its inputs."""
    output = run_dir / f"{name}.txt"
    words = [str(output), *map(str, inputs), "--sleep-s", str(sleep_s), *options]
    return Stage(
        name=name,
        title=f"tiny {name}",
        command=("gaussgym.testing", *words),
        inputs=inputs,
        outputs=(output,),
        estimate_s=1.0,
        cores=cores,
        memory_mb=10,
        disk_mb=1,
        resume=("--text", "resumed"),
        stop_grace_s=2.0,
    )


def write_tiny_run(root: Path, *, frames: int = 10) -> Layout:
    """Fill a folder as a finished demo leaves it, with made-up numbers and pictures: a fixture for report and summary."""
    from gaussgym_learn.film.chase import write_video

    from gaussgym.video import MANIFEST, write_poster

    layout = Layout(root)
    scene = {"name": "street", "metadata": TINY_SCENE}
    results = {
        "truth": {"height_rmse_m": 0.021, "gravity_error_deg": 0.4, "scale_error_fraction": -0.012},
        "walk": {"minutes_to_walk": 1.5, "checkpoints": TINY_WALK},
        "check": {"golden_max_abs_error": 2.4e-6},
        "sim2sim": {"episodes": 64, "success_rate": 0.78125, "fall_rate": 0.125},
        **{name: _tiny_evaluation(success) for name, success in TINY_SUCCESS.items()},
    }
    write_json(_made(layout.scene) / "scene.json", scene)
    for name, fields in results.items():
        write_json(_made(layout.root / "results") / f"{name}.json", fields)
    picture = np.random.default_rng(0).integers(0, 255, (54, 96, 3), dtype=np.uint8)
    film = _made(layout.films / "place")
    for name in ("third", "robot"):
        write_video(film / f"{name}.mp4", [picture] * frames, 25.0)
        write_poster(film / f"{name}.jpg", picture)
    outcomes = ["fell", "goal reached"]
    write_json(
        film / MANIFEST, {"scene": "street", "episode": 1, "outcomes": outcomes, "eye_size_px": [64, 48]}
    )
    figures = _made(layout.figures)
    for name in ("photo.jpg", "render.jpg", "terrain.png", "curves.png"):
        write_poster(figures / name, picture)
    pair = {"name": "0008.jpg", "psnr_db": 27.3, "photo": "photo.jpg", "render": "render.jpg"}
    write_json(figures / "figures.json", {"place": "street", "pairs": [pair]})
    state = RunState(root, peak_rss_mb=3210.0, overhead_s=4.0)
    for index, name in enumerate(("capture", "build", "teacher", "film")):
        begin = 1000.0 + 60 * index
        state.stages[name] = StageRecord(
            title=f"stage {name}",
            key="",
            code="",
            outputs={},
            seconds=75,
            cpu_seconds=120,
            peak_rss_mb=900,
            started_s=begin,
            ended_s=begin + 75,
        )
    state.save()
    return layout


TINY_SUCCESS = {
    "teacher_flat": 0.99609375,
    "teacher": 0.96875,
    "pixels": 0.125,
    "student_before": 0.8125,
    "student": 0.8515625,
    "student_stairs": 0.71875,
    "student_stairs_blank": 0.4375,
}
TINY_WALK = [
    {"minutes": minutes, "velocity_error_m_s": error, "fell": fell}
    for minutes, error, fell in ((0.5, 0.41, 1.0), (1.0, 0.14, 0.11), (1.5, 0.08, 0.01), (2.0, 0.06, 0.0))
]
TINY_SCENE = {
    "scale_source": "gps",
    "images_registered": 60,
    "images_total": 60,
    "seeds_tried": 1,
    "psnr_db_heldout": 26.4,
    "psnr_db_mean_image": 14.1,
    "psnr_width_px": 640,
    "gps_residual_median_m": 1.9,
    "gps_residual_max_m": 4.2,
    "max_step_m": 0.4,
}


def _tiny_evaluation(success: float) -> dict[str, object]:
    return {"episodes": 256, "success": success, "fell": 0.9 * (1 - success), "velocity_error_m_s": 0.09}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def work(options: argparse.Namespace) -> Path:
    """Write the output through a partial file, as real stages do."""
    for tick in range(10):
        print(f"\rworking {tick * 10:3d}%|", end="", file=sys.stderr, flush=True)
        time.sleep(options.sleep_s / 10)
    if options.fail:
        raise command.GaussgymError(options.fail)
    if options.crash:
        raise RuntimeError(options.crash)
    partial = options.output.with_suffix(".partial")
    with partial.open("w") as file:
        file.write(f"{options.text} " + "".join(path.read_text() for path in options.inputs))
        file.write("x" * options.fill_bytes)
    with (options.output.parent / "starts.log").open("a") as file:
        file.write(f"{options.output.stem} {os.getpid()}\n")
    partial.replace(options.output)
    return options.output


def main() -> int:
    """Run the tiny stage."""
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("inputs", type=Path, nargs="*")
    parser.add_argument("--text", default="text")
    parser.add_argument("--sleep-s", type=float, default=0.0)
    parser.add_argument("--fail", default="")
    parser.add_argument("--crash", default="")
    parser.add_argument("--fill-bytes", type=int, default=0)
    options = parser.parse_intermixed_args()
    return command.run(lambda: work(options))


if __name__ == "__main__":
    sys.exit(main())
