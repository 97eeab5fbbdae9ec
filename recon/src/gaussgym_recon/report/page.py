# numpy's argument types are looser than its stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""`quality.html` and `quality.json` of a scene: one page that opens from disk, and its numbers."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.artifact import write_json
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray
from PIL import Image

from gaussgym_recon.report.coverage import (
    HOLE,
    UNSEEN,
    Coverage,
    CoverageCfg,
    Photos,
    Spot,
    measure_coverage,
    unseen_spots,
)
from gaussgym_recon.report.ground_map import ground_map_svg
from gaussgym_recon.report.verdict import RECAPTURE, TRAINABLE, Verdict, judge, measures_of, shown

PAGE, NUMBERS = "quality.html", "quality.json"
MAX_VIEWS = 12
MARKS = {UNSEEN: (214, 48, 49), HOLE: (31, 95, 191)}
NUMBER_LABELS = (
    ("registered_fraction", "photographs that found their place", "%"),
    ("reprojection_error_px", "reprojection error", "px"),
    ("scale_std_fraction", "standard deviation of the scale", "%"),
    ("gravity_std_deg", "uncertainty of the vertical", "deg"),
    ("camera_height_m", "median height of the camera", "m"),
    ("psnr_db_heldout", "PSNR of held-out photographs", "dB"),
    ("psnr_db_mean_image", "PSNR of their mean image", "dB"),
    ("ssim_heldout", "SSIM of held-out photographs", ""),
    ("hole_fraction", "ground near the paths that nobody saw", "%"),
    ("splat_mesh_disagreement_m", "splats against mesh, median", "m"),
    ("coverage_seen", "of what a robot sees, photographed", "%"),
    ("coverage_holes", "of what a robot sees below the horizon, empty", "%"),
    ("path_length_max_m", "longest walkable path", "m"),
)


def assess(
    scene: Scene, cfg: CoverageCfg | None = None
) -> tuple[dict[str, Any], Coverage | None, list[Spot]]:
    """Coverage and verdict of a scene.

    Args:
        scene: With metadata as `build` makes it.
        cfg: Of the coverage.

    Returns:
        What to add to the metadata (`coverage_seen`, `coverage_holes`, `unseen_spots`, `verdict`); the coverage, None for a
        scene that was not photographed; the places to photograph.
    """
    photos = Photos.of(scene.metadata)
    coverage, spots = None, []
    if photos is not None:
        coverage = measure_coverage(scene, photos, cfg)
        spots = unseen_spots(coverage, photos)
    added: dict[str, Any] = {
        "coverage_seen": None if coverage is None else coverage.seen,
        "coverage_holes": None if coverage is None else coverage.holes,
        "unseen_spots": [spot.to_dict() for spot in spots],
    }
    added["verdict"] = judge({**scene.metadata, **added}).to_dict()
    return added, coverage, spots


def write_quality(
    scene: Scene, folder: Path, coverage: Coverage | None, spots: Sequence[Spot], verdict: Verdict
) -> Path:
    """Write `quality.html` and `quality.json`.

    Args:
        scene: With all measures in its metadata.
        folder: To write into; its `heldout/` holds pictures of photographs and splats, if it is there.
        coverage: As measured, or None.
        spots: Places to photograph.
        verdict: Over the metadata.

    Returns:
        Path of the page.
    """
    from jinja2 import Environment, StrictUndefined

    source = files("gaussgym_recon").joinpath("templates/quality.html.j2").read_text(encoding="utf-8")
    data, photos = scene.metadata, Photos.of(scene.metadata)
    measures = measures_of(data)
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(source).render(
        name=scene.name,
        verdict=verdict,
        verdict_class={TRAINABLE: "trainable", RECAPTURE: "recapture"}.get(verdict.name, "care"),
        map_svg=ground_map_svg(scene.heightfield, scene.paths, photos, coverage, spots),
        registered=0 if photos is None else len(photos.names),
        total=data.get("images_total", 0),
        unregistered=data.get("images_unregistered", []),
        spots=spots,
        views=[] if coverage is None else _robot_views(coverage),
        coverage_text=_coverage_text(coverage),
        pairs=_pairs(folder / "heldout", data),
        numbers=[*_sources(data), *((label, _number(measures.get(key), unit)) for key, label, unit in NUMBER_LABELS)],
    )  # fmt: skip
    (folder / PAGE).write_text(page, encoding="utf-8")
    keys = [key for key, _, _ in NUMBER_LABELS]
    numbers = {key: measures.get(key) for key in ("scale_source", "gravity_source", *keys)}
    spots_json = [spot.to_dict() for spot in spots]
    write_json(
        folder / NUMBERS, {"verdict": verdict.to_dict(), "unseen_spots": spots_json, "measures": numbers}
    )
    return folder / PAGE


def _sources(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(f"{what} from", str(data.get(f"{what}_source") or "unknown")) for what in ("scale", "gravity")]


def _number(value: float | None, unit: str) -> str:
    return "not known" if value is None else shown(value, unit).strip()


def _coverage_text(coverage: Coverage | None) -> str:
    if coverage is None or coverage.seen is None:
        return ""
    cfg = coverage.cfg
    return (
        f"{100 * coverage.seen:.0f} % of what a camera {cfg.camera_height_m:g} m above the ground sees along the paths was seen "
        f"by {cfg.min_photos} photographs or more from within {np.degrees(cfg.max_angle_rad):.0f} degrees."
    )


def _robot_views(coverage: Coverage) -> list[dict[str, str]]:
    """Views of the places spread evenly, the worst among them; marked where they were not photographed."""
    headings = len(coverage.cfg.headings_rad)
    every = max(1, -(-len(coverage.places) // MAX_VIEWS))
    out = []
    for place in range(0, len(coverage.places), every):
        view = place * headings
        marked = coverage.rgb[view].astype(np.float64)
        kinds = coverage.pixels[view].repeat(coverage.cfg.every_px, 0).repeat(coverage.cfg.every_px, 1)
        for kind, color in MARKS.items():
            at = kinds[: len(marked), : marked.shape[1]] == kind
            marked[at] = 0.45 * marked[at] + 0.55 * np.array(color)
        x, y = coverage.places[place, :2]
        share = coverage.by_place[place]
        text = "" if np.isnan(share) else f", {100 * share:.0f} % seen"
        out.append({"src": _png(marked.astype(np.uint8)), "caption": f"{x:.1f}, {y:.1f} m{text}"})
    return out


def _pairs(folder: Path, data: Mapping[str, Any]) -> list[dict[str, str]]:
    """Held-out photographs beside the splats, worst first."""
    scores = {Path(name).stem: value for name, value in (data.get("psnr_db_by_image") or {}).items()}
    stems = [s for s in data.get("heldout_images") or () if (folder / f"{s}_photo.jpg").exists()]
    return [
        {
            "photo": _file(folder / f"{stem}_photo.jpg"),
            "splats": _file(folder / f"{stem}_splats.jpg"),
            "caption": f"{stem}: {scores[stem]:.1f} dB" if stem in scores else stem,
        }
        for stem in sorted(stems, key=lambda stem: scores.get(stem, 0.0))[:MAX_VIEWS]
    ]


def _file(path: Path) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _png(rgb: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
