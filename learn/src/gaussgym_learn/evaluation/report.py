"""What an evaluation found, as one plain dictionary: `results.json`."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np

from gaussgym_learn.evaluation.causes import NORMAL_SHARE, first_wrong, normal_limits
from gaussgym_learn.evaluation.cells import CellResult
from gaussgym_learn.evaluation.protocol import Outcome
from gaussgym_learn.evaluation.quantities import QUANTITIES
from gaussgym_learn.evaluation.statistics import (
    RESAMPLES,
    Metric,
    difference,
    draw_weights,
    estimate,
    metrics_of,
)
from gaussgym_learn.evaluation.sweeps import AXES, BASE

EYES = ("blank", "shuffled")
"""Ablations that decide whether a policy uses its eyes."""
VERDICTS = {
    1: "uses its eyes",
    0: "no use of its eyes was measured",
    -1: "does better without its images",
}
STATISTICS = (
    f"95 % percentile bootstrap intervals, {RESAMPLES} samples in two stages: seeds (or runs with their seeds) with replacement, "
    "and within each draw its starts with replacement; differences are paired by start. Wilson's interval for a share where all "
    "episodes ended alike, Garwood's for a rate without events."
)


def results_of(outcome: Outcome) -> dict[str, Any]:
    """All numbers of an evaluation: policies, differences between them, ablations, sweeps, engines, failures."""
    subjects = [one.name for one in outcome.subjects]
    policies = {one.name: _policy(outcome, one.name) for one in outcome.subjects}
    pairs = [
        {"a": a, "b": b, "a_minus_b": _differences(outcome.of(a), outcome.of(b))}
        for a, b in itertools.combinations(subjects, 2)
    ]
    return {
        "protocol": _protocol(outcome),
        "policies": policies,
        "differences": pairs,
        "sweeps": {axis: _sweep(outcome, axis) for axis in _axes(outcome)},
    }


def _protocol(outcome: Outcome) -> dict[str, Any]:
    cfg = outcome.cfg
    scenes = [{"name": s.name, "kind": s.metadata.get("kind", "unknown")} for s in outcome.scenes]
    settings = {k: v for k, v in vars(cfg).items() if k not in ("task_cfg", "seeds")}
    return {
        **settings,
        "seeds": list(cfg.seeds),
        "scenes": scenes,
        "conditions": [condition.name for condition in outcome.conditions],
        "statistics": STATISTICS,
        "metrics": {
            m.name: {"label": m.label, "unit": m.unit, "better": m.better} for m in _all_metrics(outcome)
        },
    }


def _all_metrics(outcome: Outcome) -> list[Metric]:
    found = {m.name: m for result in outcome.results.values() for m in metrics_of(result.table)}
    return list(found.values())


def _policy(outcome: Outcome, name: str) -> dict[str, Any]:
    one = next(s for s in outcome.subjects if s.name == name)
    base = outcome.of(name)
    assert base is not None  # the plain condition is always run
    conditions = {c.name: outcome.of(name, c.name) for c in outcome.conditions}
    fields: dict[str, Any] = {
        "policy": [run.name for run in one.runs],
        "senses": one.senses,
        "conditions": {c: numbers(result) for c, result in conditions.items() if result is not None},
        "changes": {
            c: _differences(result, base)
            for c, result in conditions.items()
            if result is not None and c != BASE
        },
        "by_ground": numbers_by(base, "ground"),
        "by_kind": numbers_by(base, "scene_kind"),
        "failures": failures_of(base),
    }
    eyes = verdict(outcome, name)
    return fields if eyes is None else {**fields, "eyes": eyes}


def numbers(result: CellResult) -> dict[str, Any]:
    """Every number of many episodes, with its interval."""
    weights = draw_weights(result.table["replicate"])
    metrics = metrics_of(result.table)
    return {m.name: estimate(result.table, m, weights).to_dict() for m in metrics}


def numbers_by(result: CellResult, label: str) -> dict[str, Any]:
    """The numbers of each class of episodes, in the order of the alphabet; nothing where they have none."""
    weights = draw_weights(result.table["replicate"])
    values, metrics = result.labels[label], metrics_of(result.table)
    return {
        str(value): {
            m.name: estimate(result.table, m, weights, rows=values == value).to_dict() for m in metrics
        }
        for value in np.unique(values)
        if value
    }


def _differences(a: CellResult | None, b: CellResult | None, level: float = 0.95) -> dict[str, Any]:
    """What `a` has more than `b`, number by number."""
    if a is None or b is None:
        return {}
    both = {m.name for m in metrics_of(b.table)}
    return {
        m.name: difference(a.table, b.table, m, level=level).to_dict()
        for m in metrics_of(a.table)
        if m.name in both
    }


def verdict(outcome: Outcome, name: str) -> dict[str, Any] | None:
    """Whether a policy uses its eyes: what it loses without its images' information. None where no such ablation was run.

    It does if either of `EYES` lowers its success (of a task without success, raises its velocity error) by an interval that
    excludes 0, at a level of 95 % for both ablations together (Bonferroni).
    """
    base = outcome.of(name)
    found = {kind: outcome.of(name, kind) for kind in EYES}
    found = {kind: result for kind, result in found.items() if result is not None}
    if base is None or not found:
        return None
    metrics = {m.name: m for m in metrics_of(base.table)}
    metric = metrics.get("success") or metrics["velocity_error_m_s"]
    level = 1.0 - 0.05 / len(found)
    losses, signs = {}, []
    for kind, result in found.items():
        change = difference(base.table, result.table, metric, level=level)
        low, high = round(change.low, 5), round(change.high, 5)
        losses[kind] = {
            "value": round(change.value, 5), "interval": [low, high], "level": level, "episodes": change.episodes,
        }  # fmt: skip
        signs.append(metric.better * (1 if change.low > 0 else -1 if change.high < 0 else 0))
    sign = 1 if max(signs) > 0 else min(signs)
    parts = [
        f"{kind} images change {metric.label} by {-loss['value']:+.3f} "
        f"[{-loss['interval'][1]:+.3f}, {-loss['interval'][0]:+.3f}]"
        for kind, loss in losses.items()
    ]
    return {
        "verdict": VERDICTS[sign],
        "metric": metric.name,
        "true_minus_ablated": losses,
        "line": f"{name}: {VERDICTS[sign]} ({'; '.join(parts)})",
    }


def failures_of(result: CellResult) -> dict[str, Any]:
    """Kinds of failures, how many of each, and the first terms that went wrong in them."""
    kinds = Counter(str(kind) for kind in result.labels["kinds"] if kind != "success")
    limits = normal_limits(result.peaks) if len(result.peaks) else None
    first: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    if limits is not None:
        for failure in result.failures:
            first[failure.kind][first_wrong(failure, limits).name] += 1
    return {
        "count": int(sum(kinds.values())),
        "kinds": {
            kind: {"count": count, "first_wrong": dict(first[kind].most_common())}
            for kind, count in kinds.most_common()
        },
        "normal_limits": None
        if limits is None
        else {q.name: round(float(x), 4) for q, x in zip(QUANTITIES, limits, strict=True)},
        "normal_share": NORMAL_SHARE,
        "successes": len(result.peaks),
    }


def _axes(outcome: Outcome) -> list[str]:
    return list(dict.fromkeys(c.axis for c in outcome.conditions if c.axis is not None))


def _sweep(outcome: Outcome, axis: str) -> dict[str, Any]:
    """The curves of one thing that was varied: for each policy the numbers at each level, the nominal one among them."""
    levels = [(c.level, c.name) for c in outcome.conditions if c.axis == axis]
    levels = sorted([*levels, (AXES[axis].nominal, BASE)])
    curves = {}
    for one in outcome.subjects:
        points = [(level, outcome.of(one.name, name)) for level, name in levels]
        if all(result is None for (level, result) in points if level != AXES[axis].nominal):
            continue
        curves[one.name] = [{"level": level, **numbers(r)} for level, r in points if r is not None]
    return {
        "meaning": AXES[axis].meaning,
        "unit": AXES[axis].unit,
        "nominal": AXES[axis].nominal,
        "policies": curves,
    }
