"""What `renderer.py` found, in one picture: against whom, where the time goes, how it scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gaussgym_scene.errors import InputError
from matplotlib.figure import Figure


def draw(report: dict[str, Any], path: Path) -> Path:
    """Draw the steps that a report has.

    Args:
        report: As `renderer.py` writes it.
        path: The picture, .png, .svg or .pdf.

    Raises:
        InputError: The report has nothing to draw.
    """
    results = {name: step["result"] for name, step in report["steps"].items() if step.get("result")}
    panels = [(panel, results[name]) for name, panel in PANELS.items() if name in results]
    if not panels:
        raise InputError(f"{path}: nothing was measured, there is nothing to draw")
    figure = Figure(figsize=(7 * len(panels), 5), layout="constrained")
    for axes, (panel, result) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        panel(axes, result)
    figure.suptitle(report["machine"]["device"])
    figure.savefig(path, dpi=130)
    return path


def _rivals(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Frames per second, each rival beside this renderer in the same run."""
    ran = [row for row in rows if row["absent"] is None]
    names = [f"{row['rival']}\n{row['width_px']}x{row['height_px']}" for row in ran]
    for offset, who in ((-0.2, "theirs"), (0.2, "ours")):
        axes.bar(
            [i + offset for i in range(len(ran))], [row[who]["frames_per_s"] for row in ran], 0.4, label=who
        )
    axes.set_xticks(range(len(ran)), names, fontsize=7)
    axes.set(yscale="log", ylabel="frames per second")
    axes.set_title("rivals, in turns with this renderer", loc="left", fontsize=10)
    axes.legend()


def _kernels(axes: Any, rows: list[dict[str, Any]]) -> None:
    """A stacked bar of the largest kernels for each image size, and the floors as lines."""
    for at, row in enumerate(rows):
        base = 0.0
        for name, kernel in list(row["kernels"].items())[:10]:
            axes.bar(at, kernel["ms"], bottom=base, edgecolor="white")
            if kernel["ms"] > 0.04 * row["batch"]["median_ms"]:
                axes.text(at, base + kernel["ms"] / 2, name[:28], ha="center", va="center", fontsize=6)
            base += kernel["ms"]
        for bound in row["floors"].values():
            axes.hlines(1e3 * bound["floor_s"], at - 0.45, at + 0.45, "black")
            axes.hlines(1e3 * bound["design_floor_s"], at - 0.45, at + 0.45, "black", linestyles="dashed")
    axes.set_xticks(range(len(rows)), [f"{row['width_px']}x{row['height_px']}" for row in rows])
    axes.set(ylabel=f"time of {rows[0]['cameras']} frames [ms]")
    axes.set_title(
        "where it goes; floors: solid least, dashed with memory between kernels", loc="left", fontsize=10
    )


def _flat(axes: Any, found: dict[str, Any]) -> None:
    """Cost of a frame over cameras and scenes."""
    for what, part in found.items():
        counts = [int(n) for n in part["rows"]]
        axes.plot(counts, [1e3 * row["ms_per_frame"] for row in part["rows"].values()], "o-", label=what)
    axes.set(xscale="log", xlabel="how many", ylabel="time of a frame [us]", ylim=(0, None))
    axes.set_title("flatness", loc="left", fontsize=10)
    axes.legend()


def _matrix(axes: Any, cells: list[dict[str, Any]]) -> None:
    """Frames per second over batch sizes: a line for each image size and number of splats, the most scenes of each."""
    done = [cell for cell in cells if "skipped" not in cell]
    lines = sorted({(cell["width_px"], cell["height_px"], cell["splats"]) for cell in done})
    for line in lines:
        own = [cell for cell in done if (cell["width_px"], cell["height_px"], cell["splats"]) == line]
        most = max(cell["scenes"] for cell in own)
        own = sorted((c for c in own if c["scenes"] == most), key=lambda c: c["cameras"])
        axes.plot(
            [c["cameras"] for c in own],
            [c["frames_per_s"] for c in own],
            ".-",
            label=f"{line[0]}x{line[1]}, {line[2]:,}",
        )
    axes.set(xscale="log", yscale="log", xlabel="cameras in a batch", ylabel="frames per second")
    axes.set_title("size and splats of a scene", loc="left", fontsize=10)
    if lines:
        axes.legend(fontsize=6)


PANELS = {"rivals": _rivals, "headline": _kernels, "flat": _flat, "matrix": _matrix}
"""By step, in the order in which they are drawn."""
