"""Draws the report's pictures from the results of a run: held-out pairs, terrain map, training curves."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.artifact import ArtifactWriter
from gaussgym_scene.scene import Scene

from gaussgym.figures import Chart, Curve, curve_charts, read_curve, terrain_map
from gaussgym.layout import Layout
from gaussgym.summary import lookup, read_result
from gaussgym.walking import MAX_ERROR_M_S, MAX_FALLS

MANIFEST = "figures.json"
FORMAT = "gaussgym-figures"
VERSION = 1
PAIRS = 4


def illustrate(layout: Layout, *, place: str = "place") -> Path:
    """Draw everything into the folder `figures`.

    Args:
        layout: The run folder.
        place: What to call the place.

    Returns:
        The path of `figures.json`.
    """
    scene = Scene.load(layout.scene)
    with ArtifactWriter(layout.figures, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        tracks = walked(layout)
        terrain_map(
            writer.path / "terrain.png",
            scene.heightfield,
            scene.paths,
            trajectories=tracks.lines,
            reached=tracks.reached,
            cameras_xy=camera_positions(layout.scene),
        )
        charts = training_charts(layout)
        if charts:
            curve_charts(writer.path / "curves.png", charts)
        writer.fields.update(place=place, pairs=copy_pairs(layout.scene, writer.path))
    return layout.figures / MANIFEST


def copy_pairs(scene_dir: Path, folder: Path) -> list[dict[str, Any]]:
    """Copy a few of the held-out photos and renders that the build kept, evenly over the walk."""
    photos = sorted((scene_dir / "heldout").glob("*_photo.jpg"))
    by_image = read_result(scene_dir / "scene.json").get("psnr_db_by_image", {})
    psnr = {Path(name).stem: value for name, value in by_image.items()}
    chosen = (
        [photos[i] for i in np.unique(np.linspace(0, len(photos) - 1, PAIRS).round().astype(int))]
        if photos
        else []
    )
    pairs = []
    for photo in chosen:
        stem = photo.name.removesuffix("_photo.jpg")
        render = photo.with_name(f"{stem}_splats.jpg")
        for path in (photo, render):
            shutil.copy2(path, folder / path.name)
        pairs.append({"name": stem, "psnr_db": psnr.get(stem), "photo": photo.name, "render": render.name})
    return pairs


@dataclass(frozen=True)
class Tracks:
    """Where robots walked."""

    lines: list[np.ndarray]
    """Base positions [m], each `[T, 2]`."""
    reached: list[bool]


def walked(layout: Layout) -> Tracks:
    """Trajectories of the film in the built scene."""
    folder = layout.films / "place"
    fields = read_result(folder / "film.json")
    if not fields:
        return Tracks([], [])
    with np.load(folder / "trajectories.npz") as arrays:
        position = arrays["position_w"]
    lines = [row[np.isfinite(row).all(axis=1), :2] for row in position]
    return Tracks(lines, [outcome == "goal reached" for outcome in fields["outcomes"]])


def camera_positions(scene_dir: Path) -> np.ndarray | None:
    """Where the photos were taken [m], `[C, 2]`, if the build kept it."""
    poses = lookup(read_result(scene_dir / "scene.json"), "cameras.c2w")
    return np.array(poses)[:, :2, 3] if poses else None


def training_charts(layout: Layout) -> list[Chart]:
    """Charts of the runs that this run folder has."""
    charts = []
    checkpoints = read_result(layout.result("walk")).get("checkpoints", [])
    if checkpoints:
        minutes = np.array([row["minutes"] for row in checkpoints])
        error = np.array([row["velocity_error_m_s"] for row in checkpoints])
        falls = 100 * np.array([row["fell"] for row in checkpoints])
        charts.append(
            Chart(
                "teacher: velocity error", "m/s", (Curve("evaluated", minutes, error, True),), MAX_ERROR_M_S
            )
        )
        charts.append(
            Chart("teacher: falls", "%", (Curve("evaluated", minutes, falls, True),), 100 * MAX_FALLS)
        )
    reward = [
        _curve(layout.teacher_flat, "Train/mean_reward", "flat"),
        _curve(layout.teacher, "Train/mean_reward", "here"),
    ]
    kept = tuple(curve for curve in reward if curve is not None)
    if kept:
        charts.append(Chart("teacher: reward", "an episode", kept))
    for folder, name, title, unit in (
        (layout.pixels, "Train/mean_reward", "PPO from pixels: reward", "an episode"),
        (layout.tuned, "Loss/behaviour", "student: imitation loss", ""),
        (layout.tuned, "Loss/aux_recon", "student: terrain from pixels, loss", ""),
    ):
        curve = _curve(folder, name, name)
        if curve is not None:
            charts.append(Chart(title, unit, (curve,)))
    return charts


def _curve(run_dir: Path, name: str, label: str) -> Curve | None:
    if not (run_dir / "curve.jsonl").exists():
        return None
    curve = read_curve(run_dir)
    return Curve(label, curve["minutes"], curve[name]) if name in curve else None
