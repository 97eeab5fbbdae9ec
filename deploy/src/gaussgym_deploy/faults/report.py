"""What a campaign found: rows for the screen and for JSON."""

from __future__ import annotations

import os
import platform
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from ..bundle import PolicyBundle
from .campaign import CampaignCfg, Done
from .table import KINDS

__all__ = ["failed_rows", "summary", "table_text"]

FORMAT, VERSION = "gaussgym-faults", 1


def summary(cfg: CampaignCfg, bundle: PolicyBundle, done: Sequence[Done], wall_s: float) -> Dict[str, Any]:
    """The campaign as plain JSON.

    Args:
        cfg: What was asked for.
        bundle: The policy.
        done: All tasks.
        wall_s: How long it took [s].
    """
    rows = [_row(task) for task in done]
    return {
        "format": FORMAT,
        "version": VERSION,
        "robot": bundle.robot,
        "links": list(cfg.links),
        "moments": cfg.moments,
        "seed": cfg.seed,
        "kinds": len({row["kind"] for row in rows}),
        "trials": sum(row["trials"] for row in rows),
        "failed_trials": sum(row["failed"] for row in rows),
        "worst_beyond_joint_limit_rad": max(row["worst_command"]["beyond_joint_limit_rad"] for row in rows),
        "worst_gain": max(row["worst_command"]["gain"] for row in rows),
        "all_commands_finite": all(row["worst_command"]["finite"] for row in rows),
        "wall_s": round(wall_s, 1),
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "rows": rows,
    }


def _row(done: Done) -> Dict[str, Any]:
    """One kind on one link."""
    kind, trials = KINDS[done.task.kind], done.trials
    reactions_ms = [1e3 * trial.reaction_s for trial in trials if trial.reaction_s is not None]
    failures = Counter(f"{trial.mode}: {failure}" for trial in trials for failure in trial.failures)
    causes = Counter(trial.cause.split(":")[0] for trial in trials if trial.cause)
    return {
        "kind": kind.name,
        "what": kind.what,
        "link": done.task.link,
        "expected": {mode: kind.expected(mode) for mode in kind.modes},
        "allowed_ms": round(1e3 * max(trial.allowed_s for trial in trials), 1),
        "trials": len(trials),
        "failed": sum(bool(trial.failures) for trial in trials),
        "retaken": done.retaken,
        "reaction_ms": {
            "p50": round(float(np.median(reactions_ms)), 1), "max": round(max(reactions_ms), 1),
        } if reactions_ms else None,
        "longest_gap_ms": round(1e3 * max(trial.longest_gap_s for trial in trials), 1),
        "worst_command": {
            "beyond_joint_limit_rad": round(max(trial.beyond_limit_rad for trial in trials), 4),
            "gain": round(max(trial.worst_gain for trial in trials), 4),
            "finite": all(trial.finite for trial in trials),
        },
        "causes": dict(causes),
        "example": next((trial.cause for trial in trials if trial.cause), ""),
        "failures": dict(failures),
        "wall_s": round(done.wall_s, 1),
    }  # fmt: skip


def failed_rows(report: Dict[str, Any]) -> List[Dict[str, Any]]:
    """The rows with a failed trial."""
    return [row for row in report["rows"] if row["failed"]]


def table_text(report: Dict[str, Any]) -> str:
    """One line a kind, one column a link: the slowest reaction in milliseconds, or how many trials failed."""
    by_kind: Dict[str, Dict[str, Dict[str, Any]]] = {}
    for row in report["rows"]:
        by_kind.setdefault(row["kind"], {})[row["link"]] = row
    links = report["links"]
    lines = [f"{'fault':<22}{'expected':<20}{'at most':>9}" + "".join(f"{link:>12}" for link in links)]
    for kind, rows in by_kind.items():
        first = next(iter(rows.values()))
        bound = f"{first['allowed_ms']:.0f} ms" if "damp" in first["expected"].values() else ""
        cells = "".join(f"{_cell(rows.get(link)):>12}" for link in links)
        lines.append(f"{kind:<22}{_expected(first['expected']):<20}{bound:>9}{cells}")
    for row in failed_rows(report):
        for text, count in row["failures"].items():
            lines.append(f"FAILED {row['link']} {row['kind']}: {count}/{row['trials']} {text}")
    return "\n".join(lines)


def _expected(expected: Dict[str, str]) -> str:
    reactions = set(expected.values())
    return (
        reactions.pop()
        if len(reactions) == 1
        else ", ".join(f"{mode} {what}" for mode, what in expected.items())
    )


def _cell(row: Optional[Dict[str, Any]]) -> str:
    if row is None:
        return "-"
    if row["failed"]:
        return f"FAIL {row['failed']}/{row['trials']}"
    return "ok" if row["reaction_ms"] is None else f"{row['reaction_ms']['max']:.0f} ms"
