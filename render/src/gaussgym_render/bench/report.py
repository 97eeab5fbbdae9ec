"""What was measured: a table for people, JSON for programs, a plot for both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaussgym_scene import InputError

from gaussgym_render.bench.machine import describe_machine
from gaussgym_render.bench.matrix import Cell, Scaling
from gaussgym_render.bench.rivals import Duel
from gaussgym_render.bench.scenes import Place
from gaussgym_render.bench.steps import STEPS, StepTimes
from gaussgym_render.cpu import available_cores

if TYPE_CHECKING:
    from gaussgym_render.bench.training import TrainingStep  # brings torch

CELL_HEADER = "size [px]   cameras  scenes   splats    frames/s (min to max)            frames per CPU second   visible splats"


def describe_run(place: Place, *, backend: str, threads: int | None) -> dict[str, Any]:
    """What every report says first: scene, backend, machine."""
    return {
        "scene": place.name,
        "splats": len(place.splats),
        "sh_degree": place.splats.sh_degree,
        "backend": backend,
        "threads": threads or available_cores(),
        "machine": describe_machine(),
    }


def print_run(run: dict[str, Any]) -> None:
    """Print that."""
    machine = run["machine"]
    print(f"{run['scene']}: SH degree {run['sh_degree']}, backend {run['backend']}")
    print(f"{run['threads']} threads on {machine['processor']} ({machine['cores']} cores)")


def cell_line(cell: Cell) -> str:
    """One line of the matrix's table."""
    place = f"{cell.width_px}x{cell.height_px}"
    head = f"{place:<11} {cell.cameras:<8} {cell.scenes:<8} {cell.splats:<9} "
    if cell.skipped is not None:
        return head + f"skipped: {cell.skipped}"
    speed = f"{cell.frames_per_s:.0f} ({cell.frames_per_s_min:.0f} to {cell.frames_per_s_max:.0f})"
    visible = "" if cell.visible_splats is None else f"{cell.visible_splats:.0f}"
    return head + f"{speed:<32} {cell.frames_per_cpu_s:<23.0f} {visible}"


def print_steps(rows: Sequence[StepTimes]) -> None:
    """Print a table of the time per step."""
    print("\nCPU time of a frame by step, one thread [ms]")
    print(f"{'size [px]':<11} {'splats':<9} " + "".join(f"{step:<9}" for step in STEPS) + "sum      backend")
    for row in rows:
        times = [row.milliseconds[step] for step in STEPS]
        place = f"{row.width_px}x{row.height_px}"
        numbers = "".join(f"{ms:<9.3f}" for ms in (*times, sum(times), row.backend_milliseconds))
        print(f"{place:<11} {row.splats:<9} {numbers}")


def print_duel(duel: Duel) -> None:
    """Print one rival's line."""
    name = duel.rival if duel.version is None else f"{duel.rival} {duel.version}"
    if duel.absent is not None:
        print(f"{name}: absent, {duel.absent}")
        return
    print(
        f"{name}: {duel.frames_per_s:.3g} frames/s, {duel.frames_per_cpu_s:.3g} per CPU second; "
        f"here {duel.our_frames_per_s:.3g} and {duel.our_frames_per_cpu_s:.3g}: {duel.wall_ratio:.1f} times as fast "
        f"({duel.wall_ratio_min:.1f} to {duel.wall_ratio_max:.1f}), {duel.cpu_ratio:.1f} times by CPU time; "
        f"{duel.cameras} cameras, {duel.turns} turns, images alike to {duel.psnr_db:.1f} dB ({duel.differs})"
    )


def print_scaling(rows: Sequence[Scaling]) -> None:
    """Print how the cost of a frame scales."""
    for row in rows:
        print(
            f"{row.width_px}x{row.height_px}, {row.splats} splats a scene, {row.few} to {row.many} {row.what}: "
            f"a frame takes {row.time_ratio:.3f} times the CPU time ({row.time_ratio_min:.3f} to {row.time_ratio_max:.3f})"
        )


def print_training(row: TrainingStep) -> None:
    """Print a training step's time."""
    print(
        f"forward and backward at {row.width_px}x{row.height_px}, {row.splats} splats of SH degree {row.sh_degree}, antialiased, "
        f"colour and depth loss: {row.milliseconds:.0f} ms ({row.milliseconds_min:.0f} to {row.milliseconds_max:.0f}, "
        f"{row.repeats} steps), of which forward {row.forward_milliseconds:.0f}; CPU time {row.cpu_milliseconds:.0f} ms"
    )


def write_json(path: Path, result: dict[str, Any]) -> Path:
    """Write plain values, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)
    return path


def plain(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Dataclasses as plain values."""
    return [asdict(row) for row in rows]


def write_plot(path: Path, cells: Sequence[Cell], steps: Sequence[StepTimes], title: str) -> Path:
    """Draw frames per second over batch size, and where a frame's time goes.

    Args:
        path: The picture, .png, .svg or .pdf.
        cells: The matrix; skipped cells are left out.
        steps: Time by step; may be empty.
        title: Above the picture.

    Raises:
        InputError: If the file's ending is not one of those, matplotlib is missing, or nothing was measured.
    """
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"{path}: expected a picture ending in .png, .svg or .pdf")
    measured = [cell for cell in cells if cell.skipped is None]
    if not measured:
        raise InputError(f"{path}: no cell was measured, there is nothing to draw; raise --limit-s")
    try:
        from matplotlib import figure  # brings no display, and no window that nobody closes
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install matplotlib") from None
    made = figure.Figure(figsize=(12, 5), layout="constrained")
    left, right = made.subplots(1, 2)
    _draw_speed(left, measured)
    _draw_steps(right, steps)
    made.suptitle(title)
    made.savefig(path, dpi=130)
    return path


def _draw_speed(axes: Any, cells: Sequence[Cell]) -> None:
    """A line per image size and number of splats (the numbers of scenes lie on one line, as dots)."""
    lines = sorted(
        {(cell.width_px * cell.height_px, cell.width_px, cell.height_px, cell.splats) for cell in cells}
    )
    for line in lines:
        own = [cell for cell in cells if (cell.width_px, cell.height_px, cell.splats) == line[1:]]
        counts = sorted({cell.cameras for cell in own})
        means = []
        for count in counts:
            speeds = [cell.frames_per_s for cell in own if cell.cameras == count]
            means.append(sum(filter(None, speeds)) / len(speeds))
        (drawn,) = axes.plot(counts, means, label=f"{line[1]}x{line[2]}, {line[3]:,} splats")
        dots = [(cell.cameras, cell.frames_per_s) for cell in own]
        axes.plot(*zip(*dots), ".", color=drawn.get_color())
    axes.set(xscale="log", yscale="log", xlabel="cameras in a batch", ylabel="frames per second")
    axes.set_title("speed; one dot for each number of scenes", loc="left", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _draw_steps(axes: Any, rows: Sequence[StepTimes]) -> None:
    """A stacked bar for each image size and number of splats."""
    names = [f"{row.width_px}x{row.height_px}\n{row.splats:,}" for row in rows]
    base = [0.0] * len(rows)
    for step in STEPS:
        heights = [max(row.milliseconds[step], 0.0) for row in rows]
        axes.bar(names, heights, bottom=base, label=step)
        base = [low + height for low, height in zip(base, heights)]
    axes.set(ylabel="CPU time of a frame [ms]")
    axes.set_title("where it goes (CPU backend, one thread); size and splats", loc="left", fontsize=10)
    axes.tick_params(axis="x", labelsize=7)
    if rows:
        axes.legend(fontsize=8)
