"""The report's drawings: terrain map, training curves, stage timeline; matplotlib without a display."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.paths import Paths
from numpy.typing import NDArray

INK, FAINT, GRID = "#20262d", "#6b7580", "#e3e7eb"
ORANGE, TEAL, VIOLET, RED = "#e8751a", "#0f7c8a", "#7a5ccf", "#c43d4b"
SERIES = (TEAL, ORANGE, VIOLET, RED)
DPI = 130

Floats = NDArray[np.floating]


def _pyplot() -> Any:
    """Matplotlib's pyplot with the report's style, drawn into files only."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {
            "font.size": 9.5,
            "axes.edgecolor": GRID,
            "axes.labelcolor": FAINT,
            "axes.titlesize": 10.5,
            "axes.titlecolor": INK,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": GRID,
            "grid.linewidth": 0.8,
            "xtick.color": FAINT,
            "ytick.color": FAINT,
            "text.color": INK,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
            "svg.fonttype": "path",
        }
    )
    return pyplot


def terrain_map(
    path: Path,
    heightfield: Heightfield,
    paths: Paths | None,
    *,
    trajectories: Sequence[Floats] = (),
    reached: Sequence[bool] = (),
    cameras_xy: Floats | None = None,
) -> Path:
    """Draw the ground from above: shaded height, what is unknown, walkable paths, cameras and where robots walked.

    Args:
        path: Where to write the PNG.
        heightfield: The ground.
        paths: Walkable centre lines, or None.
        trajectories: Base positions of episodes [m], each `[T, 2]`.
        reached: Whether each episode reached its goal.
        cameras_xy: Positions of the capture's cameras [m], `[C, 2]`.
    """
    pyplot = _pyplot()
    from matplotlib.colors import LightSource

    height = np.where(heightfield.known, heightfield.height_m, np.nan)
    low, high = np.nanpercentile(height, [1, 99]) if heightfield.known.any() else (0.0, 1.0)
    high = max(high, low + 0.2)
    shaded = LightSource(azdeg=315, altdeg=45).shade(
        np.nan_to_num(np.clip(height, low, high), nan=low),
        cmap=pyplot.get_cmap("cividis"),
        vert_exag=2.0,
        dx=heightfield.cell_m,
        dy=heightfield.cell_m,
        vmin=low,
        vmax=high,
        blend_mode="soft",
    )
    shaded[~heightfield.known] = (0.955, 0.96, 0.966, 1.0)
    left, bottom = np.asarray(heightfield.origin_xy_m, float) - heightfield.cell_m / 2
    rows, columns = height.shape
    # Wide pages: the longer side lies across.
    turn = rows > columns
    if turn:
        shaded = shaded.transpose(1, 0, 2)
    span_x, span_y = columns * heightfield.cell_m, rows * heightfield.cell_m
    box = (
        (bottom, bottom + span_y, left, left + span_x)
        if turn
        else (left, left + span_x, bottom, bottom + span_y)
    )
    aspect = (box[3] - box[2]) / (box[1] - box[0])
    figure, axes = pyplot.subplots(figsize=(9.2, float(np.clip(9.2 * aspect + 0.9, 2.2, 7.5))), dpi=DPI)
    axes.imshow(shaded, origin="lower", extent=box, interpolation="nearest")
    axes.grid(visible=False)

    def line(points: Floats, **style: Any) -> None:
        axes.plot(points[:, 1 if turn else 0], points[:, 0 if turn else 1], **style)

    for identity in np.unique(paths.path_id) if paths is not None else ():
        assert paths is not None
        name = "walkable path" if identity == paths.path_id[0] else None
        line(paths.points[paths.path_id == identity], color="white", lw=2.6, alpha=0.9)
        line(paths.points[paths.path_id == identity], color=INK, lw=1.1, ls=(0, (4, 2)), label=name)
    if cameras_xy is not None and len(cameras_xy):
        line(np.asarray(cameras_xy), color=VIOLET, ls="", marker=".", ms=4, label="camera of the capture")
    named: set[bool] = set()
    for trajectory, good in zip(trajectories, reached):
        name = None if good in named else ("robot, goal reached" if good else "robot, failed")
        named.add(good)
        line(np.asarray(trajectory), color=ORANGE if good else RED, lw=1.4, alpha=0.85, label=name)
    axes.set_xlabel("y [m]" if turn else "x [m]")
    axes.set_ylabel("x [m]" if turn else "y [m]")
    axes.set_xlim(box[:2])
    axes.set_ylim(box[2:])
    scale = pyplot.cm.ScalarMappable(norm=pyplot.Normalize(low, high), cmap="cividis")
    bar = figure.colorbar(scale, ax=axes, shrink=0.8, pad=0.01)
    bar.set_label("height of the ground [m]")
    bar.outline.set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=8.5)
    figure.savefig(path)
    pyplot.close(figure)
    return path


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    label: str
    minutes: Floats
    values: Floats
    dots: bool = False
    """Measured points to be joined, rather than a dense series to be smoothed."""


@dataclass(frozen=True)
class Chart:
    """One chart of the row of training curves."""

    title: str
    unit: str
    curves: tuple[Curve, ...]
    threshold: float | None = None
    """A dashed line at the value that is wanted."""


def curve_charts(path: Path, charts: Sequence[Chart]) -> Path:
    """Draw charts over minutes of training side by side, three in a row."""
    pyplot = _pyplot()
    columns = min(3, len(charts))
    rows = -(-len(charts) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(3.35 * columns, 2.6 * rows), dpi=DPI, squeeze=False
    )
    for axes in grid.flat[len(charts) :]:
        axes.set_visible(False)
    for axes, chart in zip(grid.flat, charts):
        for color, curve in zip(SERIES, chart.curves):
            if curve.dots:
                axes.plot(
                    curve.minutes, curve.values, color=color, lw=1.6, marker="o", ms=3.5, label=curve.label
                )
            else:
                axes.plot(curve.minutes, curve.values, color=color, lw=0.8, alpha=0.3)
                axes.plot(curve.minutes, smoothed(curve.values), color=color, lw=1.8, label=curve.label)
        if chart.threshold is not None:
            axes.axhline(chart.threshold, color=INK, lw=1, ls=(0, (4, 3)))
        axes.set_title(chart.title)
        axes.set_xlabel("minutes of training")
        axes.set_ylabel(chart.unit)
        axes.set_xlim(left=0)
        if len(chart.curves) > 1:
            axes.legend(fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)
    return path


def smoothed(values: Floats) -> Floats:
    """Running mean over about a twentieth of the series, shorter at its ends; NaN is left out."""
    values = np.asarray(values, dtype=np.float64)
    reach = max(1, len(values) // 40)
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return np.array([np.nanmean(window) if np.isfinite(window).any() else np.nan for window in windows])


def read_curve(run_dir: Path) -> dict[str, Floats]:
    """Read the scalars that a training run logged, by name, with `minutes` and `iteration`.

    Raises:
        InputError: If the run has no curve, or it is damaged before its last line (a kill may cut that one short).
    """
    path = run_dir / "curve.jsonl"
    if not path.exists():
        raise InputError(f"{path}: not found, expected the curve of a training run; train again")
    lines = path.read_text().splitlines()
    rows = []
    for number, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines) - 1:
                raise InputError(f"{path}: line {number + 1} is not JSON ({error}); train again") from None
    names = {name for row in rows for name, value in row.items() if isinstance(value, int | float)}
    return {name: np.array([_number(row, name) for row in rows]) for name in names}


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else float("nan")
