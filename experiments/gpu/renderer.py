"""The renderer on a GPU: are its pictures right, how fast is it, against whom, and where does the time go?

    python experiments/gpu/renderer.py --output renderer.json --plot renderer.png

Steps, the most important first; each adds its part to the output as soon as it has it, and one that fails leaves the others alone:

machine   the GPU, and what it does at most: a large copy, multiply-adds
correct   pictures against the float64 reference, the CPU backend, and themselves in other batches; overflow
variants  the kernels written for speed against the plain ones; what follows uses the faster, if it is right
headline  4096 cameras in 128 scenes of 200,000 splats at 84x48 and 640x480: time by kernel, counts, floors, memory, waits
lod       the same with levels of detail, at 40 dB or more against the full scene, 84x48
flat      the cost of a frame from 256 to 16,384 cameras and from 1 to 512 scenes
gsplat    pictures against gsplat 1.5.3 with the same settings
rivals    gsplat batched, gsplat as GaussGym calls it, gsplat's inference renderer, mujoco_warp, in turns with this one
matrix    frames per second over image sizes, cameras, scenes and splats, as far as the time allows

Rehearsal without a GPU: ``--rehearse`` (Warp's CPU device, tiny sizes).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import warp as wp
from gaussgym_render import SplatRenderer, register_backend
from gaussgym_render.bench import device as timing
from gaussgym_render.bench import parity
from gaussgym_render.bench.comparison import psnr_db
from gaussgym_render.bench.counts import count_workload
from gaussgym_render.bench.device_rivals import DEVICE_RIVALS, DeviceRival, Drawn
from gaussgym_render.bench.floors import SPLAT_BYTES, Chip, chip_of, floors
from gaussgym_render.bench.scenes import Place, Workload, make_workload, synthetic_place
from gaussgym_render.cuda.backend import CudaRasterizer
from gaussgym_render.cuda.frame import CudaCfg
from gaussgym_render.lod import LodSplats, build_tree
from gaussgym_scene.artifact import write_json
from gaussgym_scene.errors import GaussgymError
from renderer_goals import FLATNESS, LOD_PSNR_DB, print_verdicts, verdicts

MEMORY_SHARE = 0.8
BYTES_PER_PIXEL = 11
"""rgb uint8, depth and alpha float32."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        kind: Of the procedural scene (`gaussgym_scene.synthesize`, seed 0); many scenes are copies of it in memory of their own.
        splats: Of each scene.
        scenes: Of the headline.
        cameras: Of the headline.
        sizes: Of the headline, the small one first [px].
        flat_cameras: Batch sizes that are compared, smallest first.
        flat_scenes: Numbers of scenes that are compared, smallest first.
        matrix_sizes, matrix_cameras, matrix_scenes, matrix_splats: The matrix; splats in the order in which they are measured.
        parity_sizes, parity_splats: Of the correctness cases.
        counted_cameras: On which operations are counted.
        seconds: For each measurement [s].
        copy_bytes: Of the copy that measures bandwidth.
    """

    kind: str = "street"
    splats: int = 200_000
    scenes: int = 128
    cameras: int = 4096
    sizes: tuple[tuple[int, int], ...] = ((84, 48), (640, 480))
    flat_cameras: tuple[int, ...] = (256, 1024, 4096, 16384)
    flat_scenes: tuple[int, ...] = (1, 8, 128, 512)
    matrix_sizes: tuple[tuple[int, int], ...] = ((64, 64), (84, 48), (128, 128), (320, 240), (640, 480))
    matrix_cameras: tuple[int, ...] = (64, 256, 1024, 4096, 16384)
    matrix_scenes: tuple[int, ...] = (1, 16, 128, 512)
    matrix_splats: tuple[int, ...] = (200_000, 50_000, 1_000_000)
    parity_sizes: tuple[tuple[int, int], ...] = ((64, 64), (84, 48), (130, 70), (320, 240), (640, 480))
    parity_splats: int = 3000
    counted_cameras: int = 8
    seconds: float = 1.0
    copy_bytes: int = 2**32


TINY = Plan(
    kind="flat", splats=1500, scenes=2, cameras=8, sizes=((16, 12), (40, 24)), flat_cameras=(4, 8), flat_scenes=(1, 2),
    matrix_sizes=((16, 12),), matrix_cameras=(2, 4), matrix_scenes=(1, 2), matrix_splats=(600,), parity_sizes=((16, 12), (70, 20)),
    parity_splats=150, counted_cameras=2, seconds=0.02, copy_bytes=2**16,
)  # fmt: skip


@dataclass
class Run:
    """Settings, and what the steps share."""

    plan: Plan
    device: torch.device
    limit_s: float
    lod: Path | None
    report: dict[str, Any]

    def fast(self) -> bool:
        """Whether the kernels written for speed won, and were right."""
        return bool((self.result("variants") or {}).get("fast"))

    def place(self, splats: int) -> Place:
        """The scene with so many splats."""
        return synthetic_place(self.plan.kind, splats)

    def result(self, step: str) -> Any:
        """What an earlier step found, None if it did not run."""
        return self.report["steps"].get(step, {}).get("result")

    def chips(self) -> dict[str, Chip]:
        """The GPU by its data sheet and as measured, where they are known."""
        name = self.report["machine"]["device"]
        sheet, measured = chip_of(name), self.result("machine")
        found = {} if sheet is None else {"data_sheet": sheet}
        if measured is not None:
            found["measured"] = Chip(
                name=f"{name}, as measured", bytes_per_s=measured["copy_bytes_per_s"], flop_per_s=measured["flop_per_s"],
                half_factor=1.0 if sheet is None else sheet.half_factor, cache_bytes=0.0 if sheet is None else sheet.cache_bytes,
            )  # fmt: skip
        return found


def copies(place: Place, scenes: int, cameras: int, width: int, height: int) -> Workload:
    """Cameras round copies of a scene, each of which lies in memory of its own on the device."""
    load = make_workload(place, 1, cameras, width, height)
    return replace(load, scenes=[place.splats] * scenes, scene_ids=np.arange(cameras) % scenes)


def backend_with(device: torch.device, settings: CudaCfg | None) -> str:
    """Name of the backend on a device, with capacities and kernels of its own if settings are given."""
    if settings is None:
        return "cuda" if timing.on_gpu(device) else "warp-cpu"
    name = f"{device.type}, {settings}"

    def make(splats: Any, cfg: Any) -> CudaRasterizer:
        return CudaRasterizer(splats, cfg, wp.get_device(str(device)), settings)

    register_backend(name, make, abilities=("sizes",))
    return name


def room_for(splats: int) -> CudaCfg:
    """Capacities for scenes of so many splats: at most 60 % are visible at a time, and 2^26 records lie in memory at a time."""
    visible = max(int(0.6 * splats), 1024)
    return CudaCfg(wave_cameras=int(np.clip(2**26 // visible, 16, 256)), visible_per_camera=visible)


class Ours:
    """The renderer at work on a workload, inputs and images on the device."""

    def __init__(self, load: Workload, run: Run, *, fast: bool | None = None) -> None:
        settings = replace(
            room_for(len(load.scenes[0])),
            kernels="fast" if (run.fast() if fast is None else fast) else "plain",
        )
        backend = backend_with(run.device, settings)
        self.device = run.device
        self.renderer = SplatRenderer(
            load.scenes, load.width, load.height, backend=backend, device=str(run.device)
        )
        self.use(load)

    def use(self, load: Workload) -> None:
        """Draw other cameras in the same scenes."""
        self.out = None  # before the next one is made
        self.c2w = torch.as_tensor(load.c2w, dtype=torch.float32, device=self.device)
        self.ks = torch.as_tensor(load.K, dtype=torch.float32, device=self.device)
        self.ids = torch.as_tensor(load.scene_ids, device=self.device)
        self.load = load
        self.out = self.renderer.render(self.c2w, self.ks, self.ids)

    def draw(self) -> None:
        """Launch the drawing of all cameras."""
        self.renderer.render(self.c2w, self.ks, self.ids, out=self.out)

    def left_out(self) -> int:
        """Splats for which there was no room since this was last asked, and cameras that could not be rendered."""
        counters = self.renderer.rasterizer.counters()
        return counters.dropped_splats + counters.dropped_pairs + counters.refused

    def images(self) -> np.ndarray:
        """What the last `draw` drew, uint8 `[C, H, W, 3]`."""
        return parity.as_numpy(self.out.rgb)


def speed(count: int, times: timing.Timing) -> dict[str, Any]:
    """Frames per second of batches of `count` frames."""
    return {
        "frames_per_s": 1e3 * count / times.median_ms, "frames_per_s_min": 1e3 * count / times.max_ms,
        "frames_per_s_max": 1e3 * count / times.min_ms, "batch": asdict(times),
    }  # fmt: skip


# ---------------------------------------------------------------------- steps


def machine_step(run: Run) -> dict[str, Any]:
    return timing.measured_ceilings(
        run.device, copy_bytes=run.plan.copy_bytes, seconds=min(0.5, run.plan.seconds)
    )


def correct_step(run: Run) -> dict[str, Any]:
    rows: list[parity.Parity] = []
    batches: dict[str, dict[str, bool]] = {}
    backend = backend_with(run.device, None)
    ours = parity.drawn_by(backend, run.device)
    for case in parity.cases(run.plan.parity_sizes, run.plan.parity_splats):
        own = ours(case)
        rows.append(parity.compare(case, own, parity.drawn_by("cpu")(case), "cpu"))
        if case.width * case.height <= 130 * 70:  # the reference takes its time
            rows.append(parity.compare(case, own, parity.drawn_by_oracle(case), "reference"))
        if case.name == "ragged scenes":
            batches[f"{case.width}x{case.height}"] = parity.batch_checks(case, ours)
    for row in rows:
        print(
            f"  {'ok' if row.passed else 'FAIL':<5}{row.case:<18}{row.width_px}x{row.height_px:<6}against {row.against:<10}"
            f"{row.psnr_db:7.1f} dB, largest error {row.max_error:.2e}, depth {row.max_depth_error:.1e}"
        )
    print(f"  batches: {batches}")
    passed = all(row.passed for row in rows) and all(all(checks.values()) for checks in batches.values())
    return {"passed": passed, "parity": [asdict(row) for row in rows], "batches": batches}


def variants_step(run: Run) -> dict[str, Any]:
    """The kernels written for speed against the plain ones: the same pictures, and which are faster; at both sizes of the headline."""
    plan, rows = run.plan, []
    for size in plan.sizes:
        load, images, times = copies(run.place(plan.splats), plan.scenes, plan.cameras, *size), {}, {}
        for fast in (False, True):
            ours = Ours(load, run, fast=fast)
            times[fast] = timing.time_calls(ours.draw, run.device, seconds=plan.seconds)
            images[fast] = ours.images()
            del ours
            free(run.device)
        worst_db = float(psnr_db(images[True], images[False]).min())
        rows.append({
            **where(load), "plain": speed(len(load), times[False]), "fast": speed(len(load), times[True]), "psnr_db": worst_db
        })  # fmt: skip
        print(
            f"  {size[0]}x{size[1]}: plain {rows[-1]['plain']['frames_per_s']:,.0f}, fast {rows[-1]['fast']['frames_per_s']:,.0f} "
            f"frames/s, alike to {worst_db:.1f} dB"
        )
    alike = all(row["psnr_db"] >= parity.GATES["reference"].psnr_db for row in rows)
    faster = (
        sum(row["fast"]["batch"]["median_ms"] < row["plain"]["batch"]["median_ms"] for row in rows)
        > len(rows) / 2
    )
    return {"fast": alike and faster, "alike": alike, "rows": rows}


def headline_step(run: Run) -> list[dict[str, Any]]:
    plan, place, rows = run.plan, run.place(run.plan.splats), []
    for size in plan.sizes:
        before = timing.memory_of(run.device)
        load = copies(place, plan.scenes, plan.cameras, *size)
        ours = Ours(load, run)
        times = timing.time_calls(ours.draw, run.device, seconds=3 * plan.seconds)
        kernels = timing.kernel_times(ours.draw, run.device)
        counts = count_workload(load, cameras=plan.counted_cameras)
        batch_s, scene_bytes = times.median_ms / 1e3, plan.scenes * plan.splats * SPLAT_BYTES
        bounds = {}
        for name, chip in run.chips().items():
            least = floors(
                counts, chip, frames=plan.cameras, pixels=size[0] * size[1], scene_bytes=scene_bytes,
                bytes_per_pixel=BYTES_PER_PIXEL,
            )  # fmt: skip
            gaps = {"gap": batch_s / least.floor_s, "design_gap": batch_s / least.design_floor_s}
            bounds[name] = {"chip": asdict(chip), **least.to_dict(), **gaps}
        after = timing.memory_of(run.device)
        rows.append({
            **where(load), **speed(plan.cameras, times), "kernels": kernels, "counts": asdict(counts), "floors": bounds,
            "left_out": ours.left_out(),
            "waits_for_device": timing.waits_for_device(ours.draw, run.device),
            "allocates": timing.allocates(ours.draw, run.device),
            "memory_bytes": None if before is None or after is None else after.used_bytes - before.used_bytes,
            "in_a_graph": graph_speed(ours, run.device, plan),
        })  # fmt: skip
        print_headline(rows[-1])
        del ours
        free(run.device)
    return rows


def graph_speed(ours: Ours, device: torch.device, plan: Plan) -> dict[str, Any] | None:
    """The same in a CUDA graph that the caller captures, and whether its images are the same; None on a CPU."""
    if not timing.on_gpu(device):
        return None
    expected = ours.images()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        ours.draw()
    torch.cuda.synchronize(device)
    with torch.cuda.graph(graph, stream=stream):
        ours.draw()
    times = timing.time_calls(graph.replay, device, seconds=plan.seconds)
    return {**speed(len(ours.load), times), "same_images": bool(np.array_equal(ours.images(), expected))}


def where(load: Workload) -> dict[str, int]:
    return {
        "width_px": load.width, "height_px": load.height, "cameras": len(load), "scenes": len(load.scenes),
        "splats": len(load.scenes[0]),
    }  # fmt: skip


def print_headline(row: dict[str, Any]) -> None:
    print(
        f"  {row['width_px']}x{row['height_px']}, {row['cameras']} cameras, {row['scenes']} scenes of {row['splats']}: "
        f"{row['frames_per_s']:,.0f} frames/s ({row['frames_per_s_min']:,.0f} to {row['frames_per_s_max']:,.0f}); waits "
        f"{row['waits_for_device']}, left out {row['left_out']}, allocates {row['allocates']}, memory {row['memory_bytes']}"
    )
    for name, kernel in row["kernels"].items():
        print(f"    {kernel['ms']:9.3f} ms in {kernel['launches']:4.0f} launches  {name[:90]}")
    for name, bound in row["floors"].items():
        print(
            f"    floor ({name}): {1e3 * bound['floor_s']:.2f} ms, gap {bound['gap']:.1f}; with memory between kernels "
            f"{1e3 * bound['design_floor_s']:.2f} ms, gap {bound['design_gap']:.1f}"
        )


def lod_step(run: Run) -> dict[str, Any]:
    """Coarsest threshold at which images stay at `LOD_PSNR_DB`, and the speed there."""
    plan, size = run.plan, run.plan.sizes[0]
    place = run.place(plan.splats)
    full = Ours(copies(place, 1, min(plan.cameras, 256), *size), run)
    full.draw()
    truth = full.images()
    tree = build_tree(place.splats) if run.lod is None else LodSplats.load(run.lod)

    def quality(threshold_px: float) -> float:
        levels = replace(place, splats=replace(tree, threshold_px=threshold_px))
        ours = Ours(copies(levels, 1, len(truth), *size), run)
        ours.draw()
        return float(psnr_db(ours.images(), truth).mean())

    low, high = (0.0, 4.0) if run.lod is None else (tree.threshold_px, tree.threshold_px)
    while high - low > 0.02:
        middle = (low + high) / 2
        low, high = (middle, high) if quality(middle) >= LOD_PSNR_DB else (low, middle)
    levels = replace(place, splats=replace(tree, threshold_px=low))
    ours = Ours(copies(levels, plan.scenes, plan.cameras, *size), run)
    times = timing.time_calls(ours.draw, run.device, seconds=plan.seconds)
    counts = count_workload(copies(levels, 1, plan.cameras, *size), cameras=plan.counted_cameras)
    row = {
        **where(ours.load), **speed(plan.cameras, times), "threshold_px": low, "psnr_db": quality(low),
        "tuned": run.lod is not None, "counts": asdict(counts),
    }  # fmt: skip
    print(f"  {row['frames_per_s']:,.0f} frames/s at {row['psnr_db']:.1f} dB, threshold {low:.2f} px")
    return row


def flat_step(run: Run) -> dict[str, Any]:
    """Cost of a frame over batch sizes and numbers of scenes; all sizes of a kind in turns, in one renderer where scenes allow."""
    plan, size = run.plan, run.plan.sizes[0]
    place, found = run.place(plan.splats), {}
    ours = Ours(copies(place, plan.scenes, max(plan.flat_cameras), *size), run)
    by_cameras = {}
    for cameras in plan.flat_cameras:
        ours.use(copies(place, plan.scenes, cameras, *size))
        times = timing.time_calls(ours.draw, run.device, seconds=plan.seconds)
        by_cameras[cameras] = {**speed(cameras, times), "ms_per_frame": times.median_ms / cameras}
    found["cameras"] = by_cameras
    del ours
    free(run.device)
    by_scenes = {}
    for scenes in plan.flat_scenes:
        ours = Ours(copies(place, scenes, plan.cameras, *size), run)
        times = timing.time_calls(ours.draw, run.device, seconds=plan.seconds)
        by_scenes[scenes] = {**speed(plan.cameras, times), "ms_per_frame": times.median_ms / plan.cameras}
        del ours
        free(run.device)
    found["scenes"] = by_scenes
    for what, rows in found.items():
        costs = [row["ms_per_frame"] for row in rows.values()]
        found[what] = {
            "rows": rows,
            "rises_by": max(costs) / costs[0],
            "passed": max(costs) / costs[0] <= FLATNESS,
        }
        print(
            f"  {what}: " + ", ".join(f"{n}: {1e3 * row['ms_per_frame']:.2f} us" for n, row in rows.items())
        )
    return found


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
    checked = best[1].images()
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


def matrix_step(run: Run) -> list[dict[str, Any]]:
    """Cells in the order of the plan, until the time is up; what does not fit into memory is skipped, and says so."""
    plan, cells, end = run.plan, [], time.monotonic() + run.limit_s
    for splats in plan.matrix_splats:
        place = run.place(splats)
        for scenes, size in itertools.product(plan.matrix_scenes, plan.matrix_sizes):
            ours = None
            for cameras in plan.matrix_cameras:
                cell = {
                    "width_px": size[0], "height_px": size[1], "cameras": cameras, "scenes": scenes, "splats": splats,
                }  # fmt: skip
                cells.append(cell)
                if time.monotonic() > end:
                    cell["skipped"] = "out of time"
                    continue
                need = scenes * splats * SPLAT_BYTES + cameras * size[0] * size[1] * BYTES_PER_PIXEL
                if timing.on_gpu(run.device) and need > MEMORY_SHARE * torch.cuda.mem_get_info(run.device)[0]:
                    cell["skipped"] = f"takes more than {need / 1e9:.1f} GB"
                    continue
                load = copies(place, scenes, cameras, *size)
                if ours is None:
                    ours = Ours(load, run)
                else:
                    ours.use(load)
                times = timing.time_calls(ours.draw, run.device, seconds=plan.seconds / 4, repeats=(3, 20))
                cell |= speed(cameras, times)
                print(
                    f"  {size[0]}x{size[1]:<5}{cameras:>6} cameras{scenes:>4} scenes of {splats:>8}: {cell['frames_per_s']:,.0f}"
                )
            del ours
            free(run.device)
    return cells


def free(device: torch.device) -> None:
    """Give back what nobody holds any more."""
    import gc

    gc.collect()
    if timing.on_gpu(device):
        torch.cuda.empty_cache()


STEPS: dict[str, Callable[[Run], Any]] = {
    "machine": machine_step, "correct": correct_step, "variants": variants_step, "headline": headline_step, "lod": lod_step, "flat": flat_step,
    "gsplat": gsplat_step, "rivals": rivals_step, "matrix": matrix_step,
}  # fmt: skip


# ---------------------------------------------------------------------- the whole


def describe(device: torch.device) -> dict[str, Any]:
    import warp

    cuda = timing.on_gpu(device)
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "cuda": torch.version.cuda, "torch": torch.__version__, "warp": warp.__version__, "python": platform.python_version(),
    }  # fmt: skip


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--device", default=None, help="default cuda; with --rehearse cpu")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes")
    parser.add_argument("--limit-s", type=float, default=180.0, help="time for the matrix [s]")
    parser.add_argument(
        "--lod",
        type=Path,
        help="levels of detail of the headline's scene, by `gaussgym-render optimize`; default: untuned",
    )
    parser.add_argument("--again", action="store_true", help="also steps that the output already has")
    folder = Path(os.environ.get("OUT", "."))
    parser.add_argument("--output", type=Path, default=folder / "renderer_gpu.json")
    parser.add_argument("--plot", type=Path, help="also draw what the output has into this picture")
    return parser.parse_args()


def main() -> None:
    args = settings()
    plan = TINY if args.rehearse else Plan()
    device = torch.device(args.device or ("cpu" if args.rehearse else "cuda"))
    if timing.on_gpu(device) and not torch.cuda.is_available():
        raise SystemExit(
            f"error: device {args.device!r}: torch {torch.__version__} finds no CUDA device; --rehearse needs none"
        )
    report: dict[str, Any] = {"machine": describe(device), "plan": asdict(plan), "steps": {}}
    if args.output.exists():
        before = json.loads(args.output.read_text())
        if before["machine"]["device"] != report["machine"]["device"] or before["plan"] != json.loads(
            json.dumps(asdict(plan))
        ):
            raise SystemExit(f"error: {args.output}: of another machine or plan; move it away")
        report["steps"] = before["steps"]
    run, failed = Run(plan, device, args.limit_s, args.lod, report), []
    for name in args.steps:
        if "result" in report["steps"].get(name, {}) and not args.again:
            continue
        print(name, flush=True)
        begin = time.perf_counter()
        try:
            report["steps"][name] = {"result": STEPS[name](run)}
        except Exception as error:  # the next steps tell as much
            traceback.print_exc()
            report["steps"][name] = {"error": f"{type(error).__name__}: {error}"}
            failed.append(name)
        report["steps"][name]["seconds"] = time.perf_counter() - begin
        write_json(args.output, report)
    if not args.rehearse:
        report["verdicts"] = verdicts(
            {name: step["result"] for name, step in report["steps"].items() if "result" in step}
        )
        print_verdicts(report["verdicts"])
        write_json(args.output, report)
    if args.plot is not None:
        from renderer_plot import draw

        draw(report, args.plot)
    print(args.output)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    try:
        main()
    except GaussgymError as error:
        raise SystemExit(f"error: {error}") from None
