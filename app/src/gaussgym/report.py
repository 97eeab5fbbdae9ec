"""`report.html`: one page that shows a run as pictures, films and numbers; opens from disk without a server."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from gaussgym.layout import Layout
from gaussgym.progress import clock
from gaussgym.stages import RunState
from gaussgym.summary import goals, read_result, readable, wilson_interval

MIME = {".jpg": "image/jpeg", ".png": "image/png"}


@dataclass(frozen=True)
class Evaluated:
    """A row of the evaluation table."""

    result: str
    """Name of the result file."""
    policy: str
    scene: str
    note: str = ""


EVALUATIONS = (
    Evaluated("teacher_flat", "teacher, from nothing", "flat", "knows the ground; trained live"),
    Evaluated("teacher", "teacher, from nothing", "this place", "knows the ground; trained live"),
    Evaluated("pixels", "PPO straight from pixels", "this place", "a short honest run, trained live"),
    Evaluated("student_before", "student, as shipped", "this place", "sees pixels; never saw this place"),
    Evaluated("student", "student, fine-tuned here", "this place", "sees pixels; the exported policy"),
    Evaluated("student_stairs", "student, fine-tuned here", "15 cm stairs", "sees pixels"),
    Evaluated("student_stairs_blank", "student, images blanked", "15 cm stairs", "the same, but blind"),
    Evaluated("stairs_teacher", "stairs teacher, as shipped", "15 cm stairs", "knows the ground"),
    Evaluated(
        "sim2sim", "exported bundle, sim2sim", "this place", "the robot's runtime against plain MuJoCo"
    ),
)


def write_report(layout: Layout, summary: dict[str, Any], state: RunState) -> Path:
    """Render the page from what lies in the run folder.

    Args:
        layout: The run folder, with its films, figures and results.
        summary: The numbers of `summary.json`.
        state: What ran, when and how long.

    Returns:
        The path of `report.html`.
    """
    from jinja2 import Environment, StrictUndefined

    source = files("gaussgym").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(source)
    text = template.render(**context(layout, summary, state))
    partial = layout.report.with_name(layout.report.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(layout.report)
    return layout.report


def context(layout: Layout, summary: dict[str, Any], state: RunState) -> dict[str, Any]:
    """Everything that the template shows."""
    drawn = read_result(layout.figures / "figures.json")
    synthetic = summary.get("height_rmse_m") is not None
    verdicts = [goal.verdict(summary) for goal in goals(synthetic=synthetic)]
    name = drawn.get("place", "place")
    return {
        "title": "A synthetic street, from photos to a policy"
        if synthetic
        else f"{name}: from photos to a policy",
        "subtitle": subtitle(summary, synthetic=synthetic),
        "tiles": tiles(summary),
        "films": films(layout, {"place": name, "stairs": "15 cm stairs"}),
        "pairs_text": pairs_text(summary),
        "pairs": pairs(layout, drawn),
        "place_facts": place_facts(summary),
        "terrain_text": terrain_text(layout, summary, synthetic=synthetic),
        "terrain": embedded(layout.figures / "terrain.png"),
        "training_text": training_text(summary),
        "curves": embedded(layout.figures / "curves.png"),
        "evaluations": evaluation_rows(layout),
        "short": [words for kind, words in verdicts if kind == "short"],
        "met": [words for kind, words in verdicts if kind == "met"],
        "unmeasured": [words for kind, words in verdicts if kind == "unmeasured"],
        "time_text": time_text(summary),
        "stages": timeline(state),
        "footer": f"Made by gaussgym from {summary['images_total']} images.",
    }


def subtitle(summary: dict[str, Any], *, synthetic: bool) -> str:
    """One sentence that says what went in and what came out."""
    seen = f"{summary['images_registered']} of {summary['images_total']} photos"
    went_in = f"{seen} of a procedural street whose true shape is known" if synthetic else seen
    return (
        f"{went_in} became splats and terrain; a teacher learned to walk there from nothing, a student that sees only "
        "pixels was tuned to it, exported, and run against a second simulator."
    )


def tiles(summary: dict[str, Any]) -> list[dict[str, str]]:
    """The handful of numbers at the top."""

    def tile(key: str, label: str, unit: str, factor: float = 1.0, digits: int = 0) -> dict[str, str]:
        value = summary.get(key)
        shown = "–" if value is None else f"{value * factor:.{digits}f}"
        return {"value": shown, "unit": "" if value is None else unit, "label": label}

    return [
        {"value": clock(summary["seconds_total"]), "unit": "min", "label": "from photos to this page"},
        tile("psnr_db_heldout", "PSNR on photos held out from training", "dB", digits=1),
        tile("teacher_minutes_to_walk", "of training until the teacher walks", "min", digits=1),
        tile("student_success", "of goals reached from pixels alone", "%", 100),
        tile("sim2sim_success", "of goals reached by the exported policy in sim2sim", "%", 100),
        {"value": f"{summary['peak_rss_mb'] / 1000:.1f}", "unit": "GB", "label": "memory at most, no GPU"},
    ]


def films(layout: Layout, names: dict[str, str]) -> list[dict[str, Any]]:
    """The films of the run, with what happened in them; `names` says what to call each folder's scene."""
    shown = []
    for folder in sorted(path.parent for path in layout.films.glob("*/film.json")):
        fields = read_result(folder / "film.json")
        outcomes = fields["outcomes"]
        reached = sum(outcome == "goal reached" for outcome in outcomes)
        size = fields["eye_size_px"]
        path = folder.relative_to(layout.root).as_posix()
        shown.append(
            {
                "title": f"{names.get(folder.name, folder.name)}: {outcomes[fields['episode']]}".capitalize(),
                "caption": f"Shown is the first of {len(outcomes)} robots that reached its goal, if any did; {reached} did.",
                "third": f"{path}/third.mp4",
                "poster": embedded(folder / "third.jpg"),
                "robot": f"{path}/robot.mp4",
                "robot_poster": embedded(folder / "robot.jpg"),
                "robot_caption": f"The robot's camera, {size[0]}×{size[1]} px."
                if size
                else "This policy is blind.",
            }
        )
    return shown


def pairs(layout: Layout, drawn: dict[str, Any]) -> list[dict[str, Any]]:
    """Photos beside renders."""
    return [
        {
            "name": pair["name"],
            "psnr_db": pair["psnr_db"],
            "photo": embedded(layout.figures / pair["photo"]),
            "render": embedded(layout.figures / pair["render"]),
        }
        for pair in drawn.get("pairs", [])
    ]


def pairs_text(summary: dict[str, Any]) -> str:
    """What the pairs show and how they were scored."""
    heldout, mean = summary.get("psnr_db_heldout"), summary.get("psnr_db_mean_image")
    text = (
        "Every eighth photo was kept from training; here the splats are seen through those photos' cameras."
    )
    if heldout is None:
        return text
    width = summary.get("psnr_width_px")
    text += f" PSNR over all of them: {heldout:.1f} dB"
    text += f" at {width} px" if width else ""
    return text + (f"; always showing the mean photo would score {mean:.1f} dB." if mean is not None else ".")


def place_facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The reconstruction in numbers."""
    names = (
        ("images_registered", "photos registered", ""),
        ("seeds_tried", "reconstructions tried", ""),
        ("scale_source", "scale from", ""),
        ("gps_residual_median_m", "GPS residual, median", " m"),
        ("gps_residual_max_m", "GPS residual, largest", " m"),
        ("max_step_m", "largest step between photos", " m"),
        ("height_rmse_m", "height error against the truth (RMS)", " m"),
        ("gravity_error_deg", "gravity error against the truth", "°"),
        ("scale_error", "scale error against the truth", ""),
    )
    facts = []
    for key, label, unit in names:
        value = summary.get(key)
        if value is None:
            continue
        shown = value.replace("_", " ") if isinstance(value, str) else readable(value)
        if key == "images_registered":
            shown = f"{value} of {summary['images_total']}"
        if key == "scale_error":
            shown = f"{100 * value:+.1f} %"
        facts.append((label, f"{shown}{unit}"))
    return facts


def terrain_text(layout: Layout, summary: dict[str, Any], *, synthetic: bool) -> str:
    """What the map shows."""
    text = "The ground that physics walks on, from above: fused from the depth of the splats."
    if synthetic and summary.get("height_rmse_m") is not None:
        off_cm = 100 * summary["height_rmse_m"]
        text += f" Against the true street its height errs by {off_cm:.1f} cm (RMS over the walkable area)."
    if (layout.films / "place" / "film.json").exists():
        text += " Lines are where robots of the exported policy went."
    return text


def training_text(summary: dict[str, Any]) -> str:
    """What was trained, and when it walked."""
    minutes = summary.get("teacher_minutes_to_walk")
    walked = (
        f"It walks after {minutes:.1f} minutes: evaluated, its velocity errs by at most 0.1 m/s and at most 2 % fall."
        if minutes is not None
        else "None of its evaluated checkpoints walked (velocity error at most 0.1 m/s and at most 2 % falls)."
    )
    return f"The teacher starts from random weights. {walked} The student's curve is its fine-tuning in this place."


def evaluation_rows(layout: Layout) -> list[dict[str, Any]]:
    """The evaluation table, with Wilson intervals."""
    rows = []
    for entry in EVALUATIONS:
        fields = read_result(layout.result(entry.result))
        success = fields.get("success", fields.get("success_rate"))
        if success is None:
            continue
        low, high = wilson_interval(success, fields["episodes"])
        rows.append(
            {
                "policy": entry.policy,
                "scene": entry.scene,
                "note": note_on(entry, fields),
                "episodes": fields["episodes"],
                "success": success,
                "low": low,
                "high": high,
                "falls": fields.get("fell", fields.get("fall_rate")),
                "error": fields.get("velocity_error_m_s"),
            }
        )
    return rows


def note_on(entry: Evaluated, fields: dict[str, Any]) -> str:
    """The note below a policy's name; a student that was not improved by tuning says so."""
    if fields.get("delivered") == "before":
        tuned = 100 * fields["success_tuned"]
        return f"tuning made it worse ({tuned:.1f} %), so the shipped one is delivered"
    return entry.note


def time_text(summary: dict[str, Any]) -> str:
    """How long it took, side by side or not."""
    worked = sum(summary["seconds_by_stage"].values())
    total = summary["seconds_total"]
    beside = f" Added up, the stages took {clock(worked)}; some ran side by side." if worked > total else ""
    return f"{clock(total)} in all, {summary['peak_rss_mb'] / 1000:.1f} GB of memory at most.{beside}"


def timeline(state: RunState) -> list[dict[str, Any]]:
    """One bar a stage. Times between runs, when nothing ran, are left out."""
    records = sorted(state.stages.items(), key=lambda item: item[1].started_s)
    begins: dict[str, float] = {}
    shown_s = reached_s = 0.0
    for name, record in records:
        overlap_s = max(0.0, reached_s - record.started_s)
        begins[name] = shown_s - overlap_s
        shown_s = max(shown_s, begins[name] + record.seconds)
        reached_s = max(reached_s, record.ended_s)
    return [
        {
            "name": name,
            "title": record.title,
            "left": 100 * begins[name] / max(shown_s, 1e-9),
            "width": 100 * record.seconds / max(shown_s, 1e-9),
            "wall": clock(record.seconds),
            "cpu": clock(record.cpu_seconds),
            "memory": f"{record.peak_rss_mb / 1000:.1f} GB",
        }
        for name, record in records
    ]


def embedded(path: Path) -> str | None:
    """An image as a data URI, or None where there is none."""
    if not path.exists():
        return None
    return f"data:{MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def load_summary(path: Path) -> dict[str, Any]:
    """Read a `summary.json` back."""
    return json.loads(path.read_text())
