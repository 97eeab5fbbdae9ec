"""An evaluation as one page for the browser: `index.html` beside its plots and films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from gaussgym_learn.evaluation import tables
from gaussgym_learn.evaluation.quantities import QUANTITIES
from gaussgym_learn.evaluation.traces import SETTLING_S, SMOOTHING_S, WINDOW_S

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#20262d;max-width:1180px;margin:2rem auto;padding:0 1rem}
h1,h2{font-weight:600} h2{margin-top:2.2rem;border-bottom:1px solid #e3e7eb}
table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}
td,th{padding:.25rem .7rem;border-bottom:1px solid #e3e7eb;text-align:left;white-space:nowrap}
img,video{max-width:100%;border-radius:4px} .cards{display:flex;flex-wrap:wrap;gap:1.2rem}
.card{width:500px;max-width:100%} .first{color:#c43d4b;font-weight:600} .note{color:#6b7580;font-size:13px}
"""


def html_table(markdown: str) -> str:
    """A Markdown table (`tables.table`) as HTML."""
    lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in markdown.splitlines()]
    head, rows = lines[0], lines[2:]
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def page(
    results: Mapping[str, Any],
    plots: Sequence[str],
    films: Sequence[Mapping[str, Any]],
    gallery: Sequence[Mapping[str, Any]],
) -> str:
    """The page.

    Args:
        results: of `gaussgym_learn.evaluation.report.results_of`.
        plots: PNG files, relative to the page.
        films: of `gallery.make_films`, in `videos/`.
        gallery: of `gallery.make_gallery`, in `gallery/`.
    """
    protocol = results["protocol"]
    scenes = ", ".join(f"{s['name']} ({s['kind']})" for s in protocol["scenes"])
    words = (
        f"Task {protocol['task']}; {protocol['episodes']} episodes × {len(protocol['seeds'])} seeds; physics {protocol['sim']}; "
        f"camera {protocol['camera_model']}; world {protocol['randomize']}. Scenes: {scenes}."
    )
    parts = [f"<p>{escape(words)}</p>", html_table(tables.policies_table(results))]
    if results["differences"]:
        parts += ["<h2>Differences, paired by start</h2>", html_table(tables.differences_table(results))]
    if eyes := tables.verdicts(results):
        parts += ["<h2>Eyes</h2>", *(f"<p>{escape(line)}</p>" for line in eyes)]
    parts += ["<h2>Plots</h2>", *(f'<p><img src="{escape(name)}" alt=""></p>' for name in plots)]
    if any(one["changes"] for one in results["policies"].values()):
        parts += ["<h2>Conditions</h2>", html_table(tables.changes_table(results))]
    if any(one["by_ground"] for one in results["policies"].values()):
        parts += [
            "<h2>By ground, measured along the path</h2>",
            html_table(tables.classes_table(results, "by_ground")),
        ]
    parts += ["<h2>By kind of scene</h2>", html_table(tables.classes_table(results, "by_kind"))]
    parts += _films(films) + _gallery(results, gallery)
    parts.append(f'<p class="note">{escape(protocol["statistics"])}</p>')
    body = "\n".join(parts)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Evaluation</title>'
        f"<style>{_STYLE}</style><body><h1>Evaluation</h1>\n{body}\n</body></html>\n"
    )


def _films(films: Sequence[Mapping[str, Any]]) -> list[str]:
    if not films:
        return []
    cards = [
        f'<div class="card"><video controls muted loop src="videos/{escape(film["file"])}"></video><br>'
        f"{escape(film['policy'])} in {escape(film['scene'])}: {'reached its goal' if film['success'] else 'failed'}</div>"
        for film in films
    ]
    return ["<h2>Films</h2>", '<div class="cards">', *cards, "</div>"]


def _gallery(results: Mapping[str, Any], gallery: Sequence[Mapping[str, Any]]) -> list[str]:
    if not gallery:
        return []
    watched = "; ".join(f"{q.name}: {q.label} [{q.unit}]" for q in QUANTITIES)
    note = (
        f"The last {WINDOW_S:g} s of each kind of failure, from behind and by the robot. What went wrong first is the quantity "
        f"that first left the range that 99 % of the policy's successful episodes kept to (means over {SMOOTHING_S:g} s where "
        f"one step means nothing; the first {SETTLING_S:g} s do not count). Watched: {watched}."
    )
    cards = [_card(row) for row in gallery]
    return [
        "<h2>Failures</h2>",
        html_table(tables.failures_table(results)),
        f'<p class="note">{escape(note)}</p>',
        '<div class="cards">',
        *cards,
        "</div>",
    ]


def _card(row: Mapping[str, Any]) -> str:
    lines = [
        f"<b>{escape(row['policy'])}: {escape(row['kind'])}</b> ({row['count']} episodes), {escape(row['scene'])}"
    ]
    cause = row.get("first_wrong")
    if cause is not None:
        when = "" if cause["name"] == "nothing" else f", {cause['before_end_s']:.2f} s before the end"
        lines.append(f'<span class="first">first: {escape(cause["label"])}{when}</span>')
    if "film" in row:
        lines.append(f'<video controls muted loop src="gallery/{escape(row["film"])}"></video>')
    for name in ("strip", "course"):
        if name in row:
            lines.append(f'<img src="gallery/{escape(row[name])}" alt="">')
    return '<div class="card">' + "<br>".join(lines) + "</div>"
