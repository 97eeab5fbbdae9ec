"""`summary.json`: the numbers of a run, each read from the file of the stage that measured it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaussgym_scene.artifact import write_json
from gaussgym_scene.errors import InputError

from gaussgym.layout import Layout
from gaussgym.pipeline import covered_s
from gaussgym.stages import RunState

# key of the summary → result file and the way to the number in it. `scene` is the built scene's manifest.
SOURCES: dict[str, tuple[str, str]] = {
    "images_registered": ("scene", "images_registered"),
    "images_total": ("scene", "images_total"),
    "seeds_tried": ("scene", "seeds_tried"),
    "psnr_db_heldout": ("scene", "psnr_db_heldout"),
    "psnr_db_mean_image": ("scene", "psnr_db_mean_image"),
    "psnr_width_px": ("scene", "psnr_width_px"),
    "scale_source": ("scene", "scale_source"),
    "gps_residual_median_m": ("scene", "gps_residual_median_m"),
    "gps_residual_max_m": ("scene", "gps_residual_max_m"),
    "max_step_m": ("scene", "max_step_m"),
    "height_rmse_m": ("truth", "height_rmse_m"),
    "gravity_error_deg": ("truth", "gravity_error_deg"),
    "scale_error": ("truth", "scale_error_fraction"),
    "episodes": ("student", "episodes"),
    "sim2sim_episodes": ("sim2sim", "episodes"),
    "teacher_minutes_to_walk": ("walk", "minutes_to_walk"),
    "teacher_success": ("teacher", "success"),
    "student_success_before": ("student_before", "success"),
    "student_success": ("student", "success"),
    "student_success_stairs": ("student_stairs", "success"),
    "student_success_stairs_blank": ("student_stairs_blank", "success"),
    "sim2sim_success": ("sim2sim", "success_rate"),
    "golden_max_abs_error": ("check", "golden_max_abs_error"),
}
REQUIRED = {
    "images_registered", "images_total", "psnr_db_heldout", "scale_source", "episodes", "sim2sim_episodes",
    "teacher_success", "student_success_before", "student_success", "student_success_stairs",
    "student_success_stairs_blank", "sim2sim_success", "golden_max_abs_error",
}  # fmt: skip
"""Keys that every finished demo has; the others may be null (no GPS, no truth, a teacher that never walked)."""


def collect(layout: Layout, state: RunState) -> dict[str, Any]:
    """Gather the summary of a finished run.

    Args:
        layout: The run folder.
        state: Times and memory of its stages.

    Raises:
        InputError: If a required number is missing or no number.
    """
    files: dict[str, dict[str, Any]] = {}
    summary: dict[str, Any] = {
        "seconds_total": round(covered_s(list(state.stages.values())) + state.overhead_s, 1),
        "seconds_by_stage": {name: round(record.seconds, 1) for name, record in state.stages.items()},
        "peak_rss_mb": round(state.peak_rss_mb, 1),
    }
    for key, (name, where) in SOURCES.items():
        if name not in files:
            files[name] = read_result(source_file(layout, name))
        summary[key] = lookup(files[name], where)
        if key in REQUIRED and summary[key] is None:
            raise InputError(
                f"{source_file(layout, name)}: holds no {where}; delete it and run the demo again"
            )
    return summary


def write(layout: Layout, summary: dict[str, Any]) -> Path:
    """Write `summary.json` atomically."""
    write_json(layout.summary, summary)
    return layout.summary


def source_file(layout: Layout, name: str) -> Path:
    """File behind a name in `SOURCES`."""
    return layout.scene / "scene.json" if name == "scene" else layout.result(name)


def read_result(path: Path) -> dict[str, Any]:
    """Read a stage's JSON; a file that is not there reads as empty, its keys then as null.

    Raises:
        InputError: If the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        fields = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); delete it and run the demo again") from None
    # What a builder says of its scene lies below "metadata".
    return {**fields, **fields["metadata"]} if isinstance(fields.get("metadata"), dict) else fields


def lookup(fields: dict[str, Any], where: str) -> Any:
    """Follow a dotted path; None where it ends early or at a number that is not finite."""
    value: Any = fields
    for part in where.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return None if isinstance(value, float) and not math.isfinite(value) else value


def wilson_interval(share: float, count: int, *, z: float = 1.96) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson, 1927).

    Args:
        share: Successes among the trials, 0..1.
        count: Number of trials.
        z: Quantile of the normal distribution; 1.96 for 95 %.
    """
    if count == 0:
        return 0.0, 1.0
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - reach), min(1.0, centre + reach)


@dataclass(frozen=True)
class Goal:
    """A number that the project set itself."""

    what: str
    wanted: str
    found: Callable[[dict[str, Any]], float | None]
    """Takes the summary, gives the number or None."""
    least: float = -math.inf
    most: float = math.inf
    unit: str = ""

    def verdict(self, summary: dict[str, Any]) -> tuple[str, dict[str, str]]:
        """`short`, `met` or `unmeasured`, with the words for the report."""
        value = self.found(summary)
        if value is None:
            return "unmeasured", {"what": self.what, "found": "not measured", "wanted": self.wanted}
        kind = "met" if self.least <= value <= self.most else "short"
        return kind, {"what": self.what, "found": f"{readable(value)}{self.unit}", "wanted": self.wanted}


def readable(value: float) -> str:
    """Three significant digits, whole numbers as such."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def goals(*, synthetic: bool) -> list[Goal]:
    """What the report holds a run against.

    Args:
        synthetic: The place is the embedded one, whose true shape is known.
    """
    shared = [
        Goal("peak memory", "below 8000 MB", _value("peak_rss_mb"), most=8000, unit=" MB"),
        Goal("walking from nothing after", "3 min", _value("teacher_minutes_to_walk"), most=3, unit=" min"),
        Goal(
            "student from pixels reaches its goal", "80 %", _percent("student_success"), least=80, unit=" %"
        ),
        Goal("gain by fine-tuning", "not worse", _gain, least=0, unit=" points"),
        Goal("cost of blank images on 15 cm stairs", "10 points", _blank_cost, least=10, unit=" points"),
        Goal("sim2sim and evaluation differ by", "10 points", _sim2sim_gap, most=10, unit=" points"),
        Goal("ONNX and torch differ by", "1e-5", _value("golden_max_abs_error"), most=1e-5),
        Goal("evaluated episodes", "256", _value("episodes"), least=256),
        Goal("sim2sim episodes", "64", _value("sim2sim_episodes"), least=64),
    ]
    if synthetic:
        return [
            Goal("time", "15 min", _minutes, most=15, unit=" min"),
            Goal("photos registered", "all", _registered, least=100, unit=" %"),
            Goal("PSNR on held-out photos", "26 dB", _value("psnr_db_heldout"), least=26, unit=" dB"),
            Goal("height error (RMS)", "3 cm", _centimetres("height_rmse_m"), most=3, unit=" cm"),
            Goal("gravity error", "1°", _value("gravity_error_deg"), most=1, unit="°"),
            Goal("teacher reaches its goal", "95 %", _percent("teacher_success"), least=95, unit=" %"),
            *shared,
        ]
    return [
        Goal("time", "40 min", _minutes, most=40, unit=" min"),
        Goal("photos registered", "80 %", _registered, least=80, unit=" %"),
        Goal("PSNR over that of the mean image", "2.5 dB", _psnr_gain, least=2.5, unit=" dB"),
        Goal("GPS residual, median", "5 m", _value("gps_residual_median_m"), most=5, unit=" m"),
        Goal("GPS residual, largest", "15 m", _value("gps_residual_max_m"), most=15, unit=" m"),
        Goal("largest step between neighbours", "20 m", _value("max_step_m"), most=20, unit=" m"),
        *shared,
    ]


def _value(key: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda summary: summary.get(key)


def _percent(key: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda summary: None if summary.get(key) is None else 100 * summary[key]


def _centimetres(key: str) -> Callable[[dict[str, Any]], float | None]:
    return _percent(key)


def _points(summary: dict[str, Any], first: str, second: str) -> float | None:
    if summary.get(first) is None or summary.get(second) is None:
        return None
    return round(100 * (summary[first] - summary[second]), 6)


def _gain(summary: dict[str, Any]) -> float | None:
    return _points(summary, "student_success", "student_success_before")


def _blank_cost(summary: dict[str, Any]) -> float | None:
    return _points(summary, "student_success_stairs", "student_success_stairs_blank")


def _sim2sim_gap(summary: dict[str, Any]) -> float | None:
    points = _points(summary, "sim2sim_success", "student_success")
    return None if points is None else abs(points)


def _minutes(summary: dict[str, Any]) -> float | None:
    return None if summary.get("seconds_total") is None else summary["seconds_total"] / 60


def _registered(summary: dict[str, Any]) -> float | None:
    if not summary.get("images_total"):
        return None
    return 100 * summary["images_registered"] / summary["images_total"]


def _psnr_gain(summary: dict[str, Any]) -> float | None:
    if summary.get("psnr_db_heldout") is None or summary.get("psnr_db_mean_image") is None:
        return None
    return summary["psnr_db_heldout"] - summary["psnr_db_mean_image"]
