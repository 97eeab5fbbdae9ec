"""An evaluation's drawings: policies side by side, by ground, ablations, sweeps, failures; matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaussgym_learn.evaluation.quantities import QUANTITIES

DPI = 110
COLORS = ("#0f7c8a", "#e8751a", "#7a5ccf", "#c43d4b", "#4a7c3a", "#8a6d3b")
SIDE_BY_SIDE = ("success", "falls_per_km", "velocity_error_m_s", "cost_of_transport", "spl")
CURVES = ("success", "falls_per_km", "velocity_error_m_s")


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {
            "font.size": 9.0,
            "axes.titlesize": 10.0,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e3e7eb",
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
    )
    return pyplot


def draw_all(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw everything that there are numbers for.

    Args:
        results: of `gaussgym_learn.evaluation.report.results_of`.
        folder: for the PNG files, made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [draw_policies(results, folder / "policies.png")]
    if any(len(one["by_ground"]) for one in results["policies"].values()):
        drawn.append(draw_ground(results, folder / "ground.png"))
    if any(one["changes"] for one in results["policies"].values()):
        drawn.append(draw_changes(results, folder / "conditions.png"))
    for axis, sweep in results["sweeps"].items():
        if sweep["policies"]:
            drawn.append(draw_sweep(results, axis, folder / f"sweep_{axis}.png"))
    return drawn


def _label(results: Mapping[str, Any], metric: str) -> str:
    found = results["protocol"]["metrics"][metric]
    unit = found["unit"]
    return found["label"] + (f" [{unit}]" if unit not in ("", "1", "share") else "")


def _bars(
    axes: Any, places: NDArray[Any], found: Sequence[Mapping[str, Any] | None], color: str, **style: Any
) -> None:
    """Numbers as points with their intervals."""
    rows = [(x, f) for x, f in zip(places, found, strict=True) if f is not None and f["value"] == f["value"]]
    if not rows:
        return
    value = np.array([f["value"] for _, f in rows], float)
    low, high = np.array([f["ci95"] for _, f in rows], float).T
    spread = np.maximum([value - low, high - value], 0.0)
    axes.errorbar([x for x, _ in rows], value, yerr=spread, color=color, capsize=3, marker="o", **style)


def _metrics(results: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [name for name in names if name in results["protocol"]["metrics"]]


def draw_policies(results: Mapping[str, Any], path: Path) -> Path:
    """All policies side by side, one panel a number."""
    pyplot = _pyplot()
    metrics, names = _metrics(results, SIDE_BY_SIDE), list(results["policies"])
    figure, grid = pyplot.subplots(1, len(metrics), figsize=(2.6 * len(metrics), 2.8), dpi=DPI, squeeze=False)
    for axes, metric in zip(grid[0], metrics, strict=True):
        for place, name in enumerate(names):
            found = results["policies"][name]["conditions"]["none"].get(metric)
            _bars(axes, np.array([place]), [found], COLORS[place % len(COLORS)], ls="")
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_title(_label(results, metric))
    return _save(figure, path)


def draw_ground(results: Mapping[str, Any], path: Path) -> Path:
    """The numbers by measured class of ground."""
    pyplot = _pyplot()
    metrics, policies = _metrics(results, CURVES), results["policies"]
    classes = sorted({value for one in policies.values() for value in one["by_ground"]})
    figure, grid = pyplot.subplots(1, len(metrics), figsize=(3.6 * len(metrics), 2.8), dpi=DPI, squeeze=False)
    for axes, metric in zip(grid[0], metrics, strict=True):
        for number, (name, one) in enumerate(policies.items()):
            places = np.arange(len(classes)) + 0.12 * (number - (len(policies) - 1) / 2)
            found = [one["by_ground"].get(value, {}).get(metric) for value in classes]
            _bars(axes, places, found, COLORS[number % len(COLORS)], ls="", label=name)
        axes.set_xticks(range(len(classes)), classes)
        axes.set_title(_label(results, metric))
    grid[0][0].legend(fontsize=8)
    return _save(figure, path)


def draw_changes(results: Mapping[str, Any], path: Path) -> Path:
    """What ablated images and another engine change, paired by start."""
    pyplot = _pyplot()
    metrics, policies = _metrics(results, CURVES), results["policies"]
    names = [
        c for c in results["protocol"]["conditions"] if any(c in one["changes"] for one in policies.values())
    ]
    names = [name for name in names if "=" not in name or name.startswith("engine=")] or names
    figure, grid = pyplot.subplots(1, len(metrics), figsize=(3.6 * len(metrics), 3.0), dpi=DPI, squeeze=False)
    for axes, metric in zip(grid[0], metrics, strict=True):
        for number, (name, one) in enumerate(policies.items()):
            places = np.arange(len(names)) + 0.12 * (number - (len(policies) - 1) / 2)
            found = [one["changes"].get(condition, {}).get(metric) for condition in names]
            _bars(axes, places, found, COLORS[number % len(COLORS)], ls="", label=name)
        axes.axhline(0.0, color="#20262d", lw=0.8)
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
        axes.set_title(f"change of {_label(results, metric)}")
    grid[0][0].legend(fontsize=8)
    return _save(figure, path)


def draw_sweep(results: Mapping[str, Any], axis: str, path: Path) -> Path:
    """Curves over the levels of one thing that was varied; the dashed line is the world as it is."""
    pyplot = _pyplot()
    sweep, metrics = results["sweeps"][axis], _metrics(results, CURVES)
    figure, grid = pyplot.subplots(1, len(metrics), figsize=(3.4 * len(metrics), 2.8), dpi=DPI, squeeze=False)
    order = list(results["policies"])
    for axes, metric in zip(grid[0], metrics, strict=True):
        for name, points in sweep["policies"].items():
            levels = np.array([point["level"] for point in points])
            color = COLORS[order.index(name) % len(COLORS)]
            _bars(axes, levels, [point.get(metric) for point in points], color, label=name, ms=4)
        axes.axvline(sweep["nominal"], color="#6b7580", lw=0.8, ls=(0, (4, 3)))
        axes.set_xlabel(f"{sweep['meaning']} [{sweep['unit']}]")
        axes.set_title(_label(results, metric))
    grid[0][0].legend(fontsize=8)
    return _save(figure, path)


def draw_course(
    path: Path, times_s: NDArray[Any], quantities: NDArray[Any], limits: NDArray[Any], first: str
) -> Path:
    """The last seconds of a failure: every quantity over its limit; above 1 it is out of its normal range.

    Args:
        path: PNG file.
        times_s: before the end `[W]`.
        quantities: `[W, Q]`.
        limits: `[Q]`.
        first: name of the one that left its range first; drawn boldly.
    """
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(7.2, 2.6), dpi=DPI)
    for number, quantity in enumerate(QUANTITIES):
        if (
            not limits[number] > 0
        ):  # of a signed distance that good episodes keep below 0, a ratio says nothing
            continue
        ratio = quantities[:, number] / limits[number]
        bold = quantity.name == first
        if bold or (ratio > 1).any():
            axes.plot(times_s, np.clip(ratio, 0, 4), lw=2.4 if bold else 1.0, label=quantity.name)
    axes.axhline(1.0, color="#20262d", lw=0.8, ls=(0, (4, 3)))
    axes.set_xlabel("time before the end [s]")
    axes.set_ylabel("of its normal limit")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, ncols=2, loc="upper left")
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path)
    _pyplot().close(figure)
    return path
