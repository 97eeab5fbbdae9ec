"""Whether to train in a reconstruction: rules over its measures, each with a reason and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

TRAINABLE, WITH_CARE, RECAPTURE = "trainable", "trainable with care", "recapture"


@dataclass(frozen=True)
class Rule:
    """Limits of one measure.

    Attributes:
        key: Of the measure, in `measures_of` a scene's metadata.
        what: It in words.
        unit: How it is shown: `%`, `m`, `px`, `dB`, `deg`.
        care: From here on a robot trained there should be trusted less.
        recapture: From here on the scene misleads more than it teaches.
        low_is_bad: Whether the limits are lower ones.
        advice: What to do.
        missing: What a measure that is not there means, None: nothing.
    """

    key: str
    what: str
    unit: str
    care: float
    recapture: float
    low_is_bad: bool
    advice: str
    missing: str | None = None


RULES = (
    Rule(
        "registered_fraction", "photographs that found their place", "%", 0.8, 0.5, True,
        "walk the part that is missing again, slower, with two thirds of each image seen in the next",
    ),
    Rule(
        "reprojection_error_px", "reprojection error", "px", 1.5, 3.0, False,
        "hold the phone still at each picture and lock its focus and zoom",
    ),
    Rule(
        "psnr_gain_db", "held-out photographs above their mean image", "dB", 5.0, 2.0, True,
        "take more photographs in even light with nothing moving; a scene that changes while it is photographed cannot be built",
    ),
    Rule(
        "psnr_db_heldout", "PSNR of held-out photographs", "dB", 20.0, 14.0, True,
        "take more photographs from more places, without motion blur",
    ),
    Rule(
        "scale_std_fraction", "standard deviation of the scale", "%", 0.05, 0.25, False,
        "state a length with --scale-from, lay a marker on the ground, or walk a longer way with GPS",
        "the scale's uncertainty is unknown",
    ),
    Rule(
        "gravity_std_deg", "uncertainty of the vertical", "deg", 1.5, 5.0, False,
        "turn round slowly while taking pictures, or use a source that knows gravity",
        "the vertical's uncertainty is unknown",
    ),
    Rule(
        "hole_fraction", "ground near the paths that nobody saw", "%", 0.05, 0.3, False,
        "point the camera further down and walk both sides of the way",
    ),
    Rule(
        "splat_mesh_disagreement_m", "distance between what is seen and what is walked on (median)", "m", 0.05, 0.2, False,
        "take more photographs of the ground itself",
    ),
    Rule(
        "coverage_seen", "of what a robot sees, seen by the photographs", "%", 0.8, 0.5, True,
        "take photographs at knee height too, looking along the paths and to both sides",
    ),
    Rule(
        "coverage_holes", "of what a robot sees below the horizon, empty", "%", 0.05, 0.2, False,
        "photograph the ground at the edges of the paths too",
    ),
    Rule(
        "path_length_max_m", "longest walkable path", "m", 10.0, 2.0, True,
        "walk farther, and show more of the ground",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One reason for a verdict.

    Attributes:
        severity: `WITH_CARE` or `RECAPTURE`.
        key: Of the measure.
        text: What was found, and what is expected.
        advice: What to do.
    """

    severity: str
    key: str
    text: str
    advice: str


@dataclass(frozen=True)
class Verdict:
    """What to do with a scene.

    Attributes:
        name: `TRAINABLE`, `WITH_CARE` or `RECAPTURE`.
        findings: Why, the worst first.
    """

    name: str
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain, for JSON."""
        return {"name": self.name, "findings": [asdict(finding) for finding in self.findings]}


def measures_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A scene's metadata, and what follows from it: `psnr_gain_db` and `gravity_std_deg`, None where a part of it is unknown."""
    held_out, mean, tilt = (
        metadata.get(key) for key in ("psnr_db_heldout", "psnr_db_mean_image", "gravity_std_rad")
    )
    return {
        **metadata,
        "psnr_gain_db": None if held_out is None or mean is None else held_out - mean,
        "gravity_std_deg": None if tilt is None else math.degrees(tilt),
    }


def judge(metadata: Mapping[str, Any]) -> Verdict:
    """The verdict over a scene's metadata, by `RULES` over `measures_of` it."""
    measures = measures_of(metadata)
    found = [finding for rule in RULES if (finding := _apply(rule, measures.get(rule.key))) is not None]
    found.sort(key=lambda finding: finding.severity != RECAPTURE)
    return Verdict(found[0].severity if found else TRAINABLE, tuple(found))


def _apply(rule: Rule, value: float | None) -> Finding | None:
    if value is None:
        return None if rule.missing is None else Finding(WITH_CARE, rule.key, rule.missing, rule.advice)
    beyond: Callable[[float], bool] = lambda limit: value < limit if rule.low_is_bad else value > limit  # noqa: E731
    if not beyond(rule.care):
        return None
    severity = RECAPTURE if beyond(rule.recapture) else WITH_CARE
    side = "at least" if rule.low_is_bad else "at most"
    text = f"{rule.what}: {shown(value, rule.unit)}, expected {side} {shown(rule.care, rule.unit)}"
    return Finding(severity, rule.key, text, rule.advice)


def shown(value: float, unit: str) -> str:
    """A number with its unit, as a reader wants it."""
    if unit == "%":
        return f"{100 * value:.3g} %"
    return f"{value:.3g} {unit}"
