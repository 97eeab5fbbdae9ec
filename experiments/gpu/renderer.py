"""The renderer on a GPU: are its pictures right, how fast is it, against whom, and where does the time go?

    python experiments/gpu/renderer.py --output renderer.json --plot renderer.png

Steps, the most important first; each adds its part to the output as soon as it has it, and one that fails leaves the others alone:

machine   the GPU, and what it does at most: a large copy, multiply-adds
correct   pictures of all kernels against the float64 reference, and themselves in other batches
variants  kernels and cameras at a time; what follows uses the fastest that draw the same as the plain kernels
headline  4096 cameras in 128 scenes of 200,000 splats at 84x48 and 640x480: time by kernel, counts, floors, memory, waits
lod       the same with levels of detail, at 40 dB or more against the full scene, 84x48
flat      the cost of a frame from 256 to 16,384 cameras and from 1 to 512 scenes
gsplat    pictures against gsplat 1.5.3 with the same settings
rivals    gsplat batched, gsplat as GaussGym calls it, gsplat's inference renderer, mujoco_warp, in turns with this one
matrix    frames per second over image sizes, cameras, scenes and splats, as far as the time allows
cpu       pictures of all kernels against the CPU backend

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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import warp as wp
from gaussgym_render.bench import device as timing
from gaussgym_render.bench import parity
from gaussgym_render.bench.comparison import psnr_db
from gaussgym_render.bench.counts import count_workload
from gaussgym_render.bench.floors import SPLAT_BYTES, floors, stage_floors, stage_of
from gaussgym_render.cuda.frame import CudaCfg
from gaussgym_render.lod import LodSplats, build_tree
from gaussgym_scene.artifact import write_json
from gaussgym_scene.errors import GaussgymError
from renderer_goals import FLATNESS, LOD_PSNR_DB, print_verdicts, verdicts
from renderer_plan import TINY, Plan
from renderer_rivals import gsplat_step, rivals_step
from renderer_work import BYTES_PER_PIXEL, Ours, Run, backend_with, copies, free, speed, where

MEMORY_SHARE = 0.8


# ---------------------------------------------------------------------- steps


def machine_step(run: Run) -> dict[str, Any]:
    return timing.measured_ceilings(
        run.device, copy_bytes=run.plan.copy_bytes, seconds=min(0.5, run.plan.seconds)
    )


def correct_step(run: Run) -> dict[str, Any]:
    """Pictures of all kernels against the reference, and against themselves in other batches."""
    return check_kernels(run, "reference", parity.drawn_by_oracle, batches=True)


def cpu_step(run: Run) -> dict[str, Any]:
    """Pictures of all kernels against the CPU backend's, which has the same half-precision scenes, but takes a while to compile."""
    return check_kernels(run, "cpu", parity.drawn_by("cpu"), batches=False)


def check_kernels(run: Run, against: str, trusted: parity.Render, *, batches: bool) -> dict[str, Any]:
    """Those written for speed may be wrong without spoiling the plain ones' verdict."""
    found: dict[str, Any] = {}
    cases = parity.cases(run.plan.parity_sizes, run.plan.parity_splats)
    images = [trusted(case) for case in cases]
    for kernels in run.plan.kernels:
        try:
            found[kernels] = check_pictures(run, kernels, cases, against, images, batches=batches)
        except Exception as error:  # kernels that have never run may not run; the next ones may
            traceback.print_exc()
            found[kernels] = {"passed": False, "error": f"{type(error).__name__}: {error}"}
        print(f"  {kernels}: {'right' if found[kernels]['passed'] else 'WRONG'}")
    return {"passed": found["plain"]["passed"], "kernels": found}


def check_pictures(
    run: Run,
    kernels: str,
    cases: list[parity.Case],
    against: str,
    images: list[dict[str, np.ndarray]],
    *,
    batches: bool,
) -> dict[str, Any]:
    """Compare images of one kind of kernels with trusted ones, and with their own in other batches."""
    rows: list[parity.Parity] = []
    checks: dict[str, dict[str, bool]] = {}
    draw = parity.drawn_by(backend_with(run.device, CudaCfg(kernels=kernels)), run.device)  # type: ignore[arg-type]
    gate = parity.GATES["reference" if kernels == "half" else against]
    for case, trusted in zip(cases, images):
        rows.append(parity.compare(case, draw(case), trusted, against, gate=gate))
        if batches and case.name == "ragged scenes":
            checks[f"{case.width}x{case.height}"] = parity.batch_checks(case, draw)
    for row in rows:
        print(
            f"  {'ok' if row.passed else 'FAIL':<5}{kernels:<6}{row.case:<18}{row.width_px}x{row.height_px:<6}against {row.against:<10}"
            f"{row.psnr_db:7.1f} dB (8 bits {row.bytes_psnr_db:.1f}), largest error {row.max_error:.2e}, depth {row.max_depth_error:.1e}"
        )
    if batches:
        print(f"  batches: {checks}")
    passed = all(row.passed for row in rows) and all(all(each.values()) for each in checks.values())
    return {"passed": passed, "parity": [asdict(row) for row in rows], "batches": checks}


def variants_step(run: Run) -> list[dict[str, Any]]:
    """Which kernels and how many cameras at a time are fastest, of those that draw the same pictures as the plain ones."""
    plan, rows = run.plan, []
    for size in plan.sizes:
        load, tried = copies(run.place(plan.splats), plan.scenes, plan.cameras, *size), []
        plain: np.ndarray | None = None
        best = {"kernels": "plain"}
        for options in plan.variants:
            chosen = {**best, **options}
            try:
                ours = Ours(load, run, CudaCfg(**chosen))
                times, images = timing.time_calls(ours.draw, run.device, seconds=plan.seconds), ours.images()
                plain = images if plain is None else plain
                row = {**chosen, **speed(len(load), times), "left_out": ours.left_out()}
                row["psnr_db"] = float(psnr_db(images, plain).min())
                drawn = (run.result("correct") or {}).get("kernels", {}).get(row["kernels"], {"passed": True})
                row["right"] = (
                    drawn["passed"]
                    and row["psnr_db"] >= parity.GATES["reference"].psnr_db
                    and row["left_out"] == 0
                )
                print(
                    f"  {size[0]}x{size[1]} {chosen}: {row['frames_per_s']:,.0f} frames/s, {row['psnr_db']:.1f} dB"
                )
            except Exception as error:  # kernels that have never run may not run; the plain ones do
                traceback.print_exc()
                row = {
                    **chosen,
                    "error": f"{type(error).__name__}: {error}",
                    "right": False,
                    "frames_per_s": 0.0,
                }
            ours = None
            free(run.device)
            tried.append(row)
            fastest = max(
                (each for each in tried if each["right"]), key=lambda each: each["frames_per_s"], default=None
            )
            if fastest is not None:
                best = {name: fastest[name] for name in ("kernels", "wave_cameras") if name in fastest}
        rows.append({**where(load), "tried": tried, "chosen": best})
    return rows


def headline_step(run: Run) -> list[dict[str, Any]]:
    plan, place, rows = run.plan, run.place(run.plan.splats), []
    for size in plan.sizes:
        before = timing.memory_of(run.device)
        load = copies(place, plan.scenes, plan.cameras, *size)
        ours = Ours(load, run)
        times = timing.time_calls(ours.draw, run.device, seconds=3 * plan.seconds)
        kernels = timing.kernel_times(ours.draw, run.device)
        stages: dict[str, dict[str, float]] = {}
        for name, kernel in kernels.items():
            stage = stages.setdefault(stage_of(name), {"ms": 0.0})
            stage["ms"] += kernel["ms"]
        counts = count_workload(load, cameras=plan.counted_cameras)
        batch_s, scene_bytes = times.median_ms / 1e3, plan.scenes * plan.splats * SPLAT_BYTES
        bounds = {}
        for name, chip in run.chips().items():
            least = floors(
                counts, chip, frames=plan.cameras, pixels=size[0] * size[1], scene_bytes=scene_bytes,
                bytes_per_pixel=BYTES_PER_PIXEL,
            )  # fmt: skip
            gaps = {"gap": batch_s / least.floor_s, "design_gap": batch_s / least.design_floor_s}
            parts = stage_floors(
                counts, chip, frames=plan.cameras, pixels=size[0] * size[1], bytes_per_pixel=BYTES_PER_PIXEL,
                half=run.settings(size[0] * size[1]).kernels == "half",
            )  # fmt: skip
            bounds[name] = {"chip": asdict(chip), **least.to_dict(), **gaps, "stages": parts}
        after = timing.memory_of(run.device)
        rows.append({
            **where(load), **speed(plan.cameras, times), "kernels": kernels, "stages": stages, "counts": asdict(counts), "floors": bounds,
            "left_out": ours.left_out(),
            "waits_for_device": timing.waits_for_device(ours.draw, run.device),
            "allocates": timing.allocates(ours.draw, run.device),
            "memory_bytes": None if before is None or after is None else after.used_bytes - before.used_bytes,
            "in_a_graph": graph_speed(ours, run.device, plan),
        })  # fmt: skip
        rows[-1]["device_counts"] = ours.counted()
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


def print_headline(row: dict[str, Any]) -> None:
    print(
        f"  {row['width_px']}x{row['height_px']}, {row['cameras']} cameras, {row['scenes']} scenes of {row['splats']}: "
        f"{row['frames_per_s']:,.0f} frames/s ({row['frames_per_s_min']:,.0f} to {row['frames_per_s_max']:,.0f}); waits "
        f"{row['waits_for_device']}, left out {row['left_out']}, allocates {row['allocates']}, memory {row['memory_bytes']}"
    )
    for name, kernel in row["kernels"].items():
        print(f"    {kernel['ms']:9.3f} ms in {kernel['launches']:4.0f} launches  {name[:90]}")
    own, counts = row["device_counts"], row["counts"]
    print(
        f"    {own['visible']:,.0f} splats seen and {own['pairs']:,.0f} pairs a frame (counted on the CPU: {counts['visible']:,.0f} and "
        f"{counts['pairs']:,.0f}; {counts['evaluated']:,.0f} evaluations, {counts['contributing']:,.0f} of them contribute)"
    )
    for name, bound in row["floors"].items():
        print(
            f"    floor ({name}): {1e3 * bound['floor_s']:.2f} ms, gap {bound['gap']:.1f}; with memory between kernels "
            f"{1e3 * bound['design_floor_s']:.2f} ms, gap {bound['design_gap']:.1f}"
        )
        for stage, least in bound["stages"].items():
            spent = row["stages"].get(stage, {"ms": 0.0})["ms"]
            print(
                f"      {stage:<9}{spent:9.3f} ms; bytes {1e3 * least['bytes_s']:.3f} ms, operations {1e3 * least['ops_s']:.3f} ms"
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
                if scenes * splats > plan.most_splats:
                    cell["skipped"] = f"{scenes * splats:,} splats"
                    continue
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


STEPS: dict[str, Callable[[Run], Any]] = {
    "machine": machine_step, "correct": correct_step, "variants": variants_step, "headline": headline_step, "lod": lod_step, "flat": flat_step,
    "gsplat": gsplat_step, "rivals": rivals_step, "matrix": matrix_step, "cpu": cpu_step,
}  # fmt: skip


# ---------------------------------------------------------------------- the whole


def describe(device: torch.device) -> dict[str, Any]:
    import warp

    cuda = timing.on_gpu(device)
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "cuda": torch.version.cuda, "torch": torch.__version__, "warp": warp.__version__, "python": platform.python_version(),
    }  # fmt: skip


def finished(step: dict[str, Any]) -> bool:
    """Whether an earlier run has a step's result, with nothing that was absent then."""
    found = step.get("result")
    rows = found if isinstance(found, list) else [found or {}]
    return found is not None and not any(row.get("absent") for row in rows)


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
            f"error: device {str(device)!r}: torch {torch.__version__} finds no CUDA device; --rehearse needs none"
        )
    device = timing.numbered(device)
    report: dict[str, Any] = {"machine": describe(device), "plan": asdict(plan), "steps": {}}
    if args.output.exists():
        before = json.loads(args.output.read_text())
        if before["machine"]["device"] != report["machine"]["device"] or before["plan"] != json.loads(
            json.dumps(asdict(plan))
        ):
            raise SystemExit(f"error: {args.output}: of another machine or plan; move it away")
        report["steps"] = before["steps"]
    if not timing.on_gpu(device):
        wp.config.enable_cpu_blocks = True  # without, the fast kernels do not run on a CPU
    run, failed = Run(plan, device, args.limit_s, args.lod, report), []
    for name in args.steps:
        if finished(report["steps"].get(name, {})) and not args.again:
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
        from renderer_plot import PANELS, draw

        if any(name in PANELS and finished(step) for name, step in report["steps"].items()):
            draw(report, args.plot)
    print(args.output)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    try:
        main()
    except GaussgymError as error:
        raise SystemExit(f"error: {error}") from None
