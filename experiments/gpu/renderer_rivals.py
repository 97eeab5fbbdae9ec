"""The renderer against others on the same GPU: their pictures, and their speed in turns with it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from gaussgym_render.bench import device as timing
from gaussgym_render.bench import parity
from gaussgym_render.bench.comparison import psnr_db
from gaussgym_render.bench.device_rivals import DEVICE_RIVALS, DeviceRival, Drawn
from gaussgym_render.bench.scenes import Workload
from renderer_work import LOOKED_AT, Ours, Run, backend_with, copies, free, speed, where


def gsplat_step(run: Run) -> dict[str, Any]:
    """Pictures against gsplat's own kernels."""
    absent = next(r for r in DEVICE_RIVALS if r.name == "gsplat-batched").absence()
    if absent is not None:
        return {"absent": absent}
    rows = []
    for case in parity.cases(run.plan.parity_sizes, run.plan.parity_splats):
        if case.name != "levels of detail":
            theirs = parity.drawn_by("gsplat")(case)
            rows.append(
                parity.compare(
                    case, parity.drawn_by(backend_with(run.device, None), run.device)(case), theirs, "gsplat"
                )
            )
            print(f"  {case.name} {case.width}x{case.height}: {rows[-1].psnr_db:.1f} dB")
    return {"parity": [asdict(row) for row in rows], "least_psnr_db": min(row.psnr_db for row in rows)}


def rivals_step(run: Run) -> list[dict[str, Any]]:
    rows = []
    for size in run.plan.sizes:
        load = copies(run.place(run.plan.splats), run.plan.scenes, run.plan.cameras, *size)
        for rival in DEVICE_RIVALS:
            row: dict[str, Any] = {
                "rival": rival.name,
                "differs": rival.differs,
                **where(load),
                "absent": rival.absence(),
            }
            if row["absent"] is None:
                row |= {"version": rival.version()}
                try:
                    row |= duel(run, rival, load)
                except Exception as error:  # one that breaks says so, and leaves the next its turn
                    row["absent"] = (
                        f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                    )
                free(run.device)
            rows.append(row)
            print_duel(row)
    return rows


def duel(run: Run, rival: DeviceRival, load: Workload) -> dict[str, Any]:
    """A rival against the renderer in turns, on as many of the cameras as the rival draws in a few seconds."""
    few = load.take(np.arange(len(load.scenes)))
    drawn = next(iter(rival.make(few, run.device)))
    alone = timing.time_calls(drawn.draw, run.device, seconds=0.0, repeats=(1, 1), warm_up=1).median_ms / len(
        few
    )
    del drawn
    free(run.device)
    rounds = min(len(load) // len(few), int(4e3 * run.plan.seconds / (alone * len(few))))
    chosen = load.take(np.arange(max(rounds, 1) * len(few)))
    best: tuple[float, Drawn] | None = None
    for drawn in rival.make(chosen, run.device):
        try:
            ms = timing.time_calls(drawn.draw, run.device, seconds=0.0, repeats=(1, 2), warm_up=1).median_ms
        except torch.OutOfMemoryError:
            free(run.device)
            continue
        if best is None or ms < best[0]:
            best = (ms, drawn)
    if best is None:
        raise MemoryError("no way to call it fits into the device's memory")
    ours = Ours(chosen, run)
    times = timing.time_in_turns(
        {"theirs": best[1].draw, "ours": ours.draw}, run.device, seconds=run.plan.seconds
    )
    checked = best[1].images(min(LOOKED_AT, len(chosen)))
    ours.draw()
    return {
        "cameras": len(chosen), "setting": best[1].setting, "theirs": speed(len(chosen), times["theirs"]),
        "ours": speed(len(chosen), times["ours"]), "times_as_fast": times["theirs"].median_ms / times["ours"].median_ms,
        "psnr_db": float(psnr_db(checked, ours.images()).mean()),
    }  # fmt: skip


def print_duel(row: dict[str, Any]) -> None:
    size = f"{row['width_px']}x{row['height_px']}"
    if row["absent"] is not None:
        print(f"  {size} {row['rival']}: absent, {row['absent']}")
        return
    print(
        f"  {size} {row['rival']} {row['version']}: {row['theirs']['frames_per_s']:,.0f} frames/s ({row['setting']}), here "
        f"{row['ours']['frames_per_s']:,.0f}: {row['times_as_fast']:.1f} times as fast; {row['psnr_db']:.1f} dB alike"
    )
