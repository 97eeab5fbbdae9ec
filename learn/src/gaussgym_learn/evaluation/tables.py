"""An evaluation's numbers as Markdown tables; the first of them is also what the terminal shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = (
    "success", "falls_per_km", "velocity_error_m_s", "cost_of_transport", "spl", "seconds",
)  # fmt: skip
"""Columns of the tables; the JSON has more."""


def figure(found: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """A number and its interval, `0.83 [0.71, 0.92]`; a dash where there is none."""
    if found is None or found["value"] is None or found["value"] != found["value"]:
        return "–"
    low, high = found["ci95"]
    digits = 1 if max(abs(x) for x in (found["value"], low, high) if x is not None and x == x) >= 10 else 3
    spec = f"{'+' if signed else ''}.{digits}f"
    if low is None or high is None or low != low:
        return f"{found['value']:{spec}}"
    return f"{found['value']:{spec}} [{low:{spec}}, {high:{spec}}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned for the terminal, too."""
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [head, *rows]
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _columns(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    metrics = results["protocol"]["metrics"]
    own = [name for name, m in metrics.items() if m["better"] == 0]
    names = [name for name in (*SHOWN, *own) if name in metrics]
    units = {name: metrics[name]["unit"] for name in names}
    return [
        (
            name,
            metrics[name]["label"] + (f" [{units[name]}]" if units[name] not in ("", "1", "share") else ""),
        )
        for name in names
    ]


def policies_table(results: Mapping[str, Any]) -> str:
    """All policies under the plain condition."""
    columns = _columns(results)
    rows = [
        [name, one["senses"], *(figure(one["conditions"]["none"].get(column)) for column, _ in columns)]
        for name, one in results["policies"].items()
    ]
    return table(["policy", "knows", *(label for _, label in columns)], rows)


def differences_table(results: Mapping[str, Any]) -> str:
    """Differences between policies, paired by start."""
    columns = _columns(results)
    rows = [
        [
            f"{pair['a']} − {pair['b']}",
            *(figure(pair["a_minus_b"].get(column), signed=True) for column, _ in columns),
        ]
        for pair in results["differences"]
    ]
    return table(["difference", *(label for _, label in columns)], rows)


def changes_table(results: Mapping[str, Any]) -> str:
    """What each condition changes, paired by start: ablated images, another engine, things that were varied."""
    columns = _columns(results)
    rows = [
        [
            name,
            condition,
            figure(one["conditions"][condition].get(columns[0][0])),
            *(figure(change.get(column), signed=True) for column, _ in columns),
        ]
        for name, one in results["policies"].items()
        for condition, change in one["changes"].items()
    ]
    head = ["policy", "condition", columns[0][1], *(f"change of {label}" for _, label in columns)]
    return table(head, rows)


def classes_table(results: Mapping[str, Any], by: str) -> str:
    """The numbers by class of ground (`by_ground`) or by what scenes say they are (`by_kind`)."""
    columns = _columns(results)
    rows = [
        [
            value,
            name,
            str(found["cost_of_transport"]["episodes"]),
            *(figure(found.get(c)) for c, _ in columns),
        ]
        for name, one in results["policies"].items()
        for value, found in one[by].items()
    ]
    head = [
        "ground" if by == "by_ground" else "scene",
        "policy",
        "episodes",
        *(label for _, label in columns),
    ]
    return table(head, sorted(rows))


def failures_table(results: Mapping[str, Any]) -> str:
    """Kinds of failures and what went wrong first."""
    rows = []
    for name, one in results["policies"].items():
        for kind, found in one["failures"]["kinds"].items():
            first = ", ".join(f"{term} {count}" for term, count in found["first_wrong"].items())
            unknown = f"not known: {one['failures']['successes']} successes"
            rows.append([name, kind, str(found["count"]), first or unknown])
    return table(["policy", "failure", "episodes", "first term that went wrong"], rows)


def markdown(results: Mapping[str, Any]) -> str:
    """The whole report in words and tables."""
    protocol = results["protocol"]
    scenes = ", ".join(f"{s['name']} ({s['kind']})" for s in protocol["scenes"])
    parts = [
        "# Evaluation",
        f"Task {protocol['task']}, {protocol['episodes']} episodes × {len(protocol['seeds'])} seeds {protocol['seeds']}, "
        f"physics {protocol['sim']}, camera {protocol['camera_model']}, world {protocol['randomize']}. Scenes: {scenes}.",
        protocol["statistics"],
        "## Policies",
        policies_table(results),
    ]
    if results["differences"]:
        parts += ["## Differences, paired by start", differences_table(results)]
    if eyes := verdicts(results):
        parts += ["## Eyes", *(f"- {line}" for line in eyes)]
    if any(one["changes"] for one in results["policies"].values()):
        parts += ["## Conditions", changes_table(results)]
    if any(one["by_ground"] for one in results["policies"].values()):
        parts += ["## By ground, measured along the path", classes_table(results, "by_ground")]
    parts += ["## By kind of scene", classes_table(results, "by_kind")]
    if any(one["failures"]["count"] for one in results["policies"].values()):
        parts += ["## Failures", failures_table(results)]
    return "\n\n".join(parts) + "\n"


def verdicts(results: Mapping[str, Any]) -> list[str]:
    """One line a policy that sees: does it use its eyes?"""
    return [one["eyes"]["line"] for one in results["policies"].values() if "eyes" in one]


def summary(results: Mapping[str, Any]) -> str:
    """What the terminal shows at the end."""
    parts = [policies_table(results)]
    if results["differences"]:
        parts.append(differences_table(results))
    return "\n\n".join([*parts, *verdicts(results)])
