"""The least time that frames take on some GPUs, from what is to be done and from data sheets. Needs no GPU.

    python experiments/gpu/floors.py --output experiments/results/gpu_floors.json

What is to be done is counted on the CPU by the float64 reference (`gaussgym_render.bench.counts`), in the scene that `renderer.py` times; how
operations and bytes follow from it says `gaussgym_render.bench.floors`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gaussgym_render import SplatRenderer
from gaussgym_render.bench.comparison import psnr_db
from gaussgym_render.bench.counts import count_workload
from gaussgym_render.bench.floors import CHIPS, SPLAT_BYTES, floors
from gaussgym_render.bench.scenes import Place, make_workload, synthetic_place
from gaussgym_render.lod import build_tree
from gaussgym_scene.artifact import write_json
from renderer_plan import Plan

BYTES_PER_PIXEL = 11


def row(plan: Plan, place: Place, size: tuple[int, int], cameras: int) -> dict[str, Any]:
    """Counts of a frame, and the floors of a batch as large as the headline's on each chip."""
    load = make_workload(place, 1, 64, *size)
    counts = count_workload(load, cameras=cameras)
    bounds = {}
    for _, chip in CHIPS:
        least = floors(
            counts, chip, frames=plan.cameras, pixels=size[0] * size[1], scene_bytes=plan.scenes * len(place.splats) * SPLAT_BYTES,
            bytes_per_pixel=BYTES_PER_PIXEL,
        )  # fmt: skip
        bounds[chip.name] = {
            **least.to_dict(), "frames_per_s": plan.cameras / least.floor_s, "design_frames_per_s": plan.cameras / least.design_floor_s
        }  # fmt: skip
    return {
        "width_px": size[0], "height_px": size[1], "splats": len(place.splats), "cameras": plan.cameras, "scenes": plan.scenes,
        "counts": asdict(counts), "floors": bounds,
    }  # fmt: skip


def alike(levels: Place, full: Place, size: tuple[int, int]) -> float:
    """PSNR of images with levels of detail against those of the full scene, mean over 64 cameras [dB]."""
    images = []
    for place in (levels, full):
        load = make_workload(place, 1, 64, *size)
        renderer = SplatRenderer(load.scenes, *size, backend="cpu")
        images.append(renderer.render(load.c2w, load.K, load.scene_ids).rgb)
    return float(psnr_db(*images).mean())


def show(row: dict[str, Any], shown: tuple[str, ...]) -> None:
    """A line of the table."""
    c, bounds = row["counts"], row["floors"]
    size = f"{row['width_px']}x{row['height_px']}"
    speeds = "  ".join(
        f"{bounds[name]['frames_per_s']:>12,.0f} ({bounds[name]['design_frames_per_s']:,.0f})"
        for name in shown
    )
    levels = f"  levels of detail at {row['lod_px']} px: {row['psnr_db']:.1f} dB" if "lod_px" in row else ""
    print(
        f"{size:<9}{row['splats']:<9}{c['visible']:<9,.0f}{c['pairs']:<9,.0f}{c['evaluated']:<12,.0f}{c['contributing']:<12,.0f}"
        f"{speeds}{levels}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--splats", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--cameras", type=int, default=8, help="cameras that are counted")
    parser.add_argument(
        "--lod-px",
        type=float,
        default=0.8,
        help="threshold of the levels of detail that are counted too [px]",
    )
    parser.add_argument("--output", type=Path, default=Path("gpu_floors.json"))
    args = parser.parse_args()
    plan, rows = Plan(), []
    shown = ("H100 SXM", "RTX 4090")
    print(
        "size     splats   visible  pairs    evaluated   contribute  "
        + "  ".join(f"{name}: frames/s at the floor" for name in shown)
    )
    for splats in args.splats:
        place = synthetic_place(plan.kind, splats)
        for size in plan.sizes:
            rows.append(row(plan, place, size, args.cameras))
            show(rows[-1], shown)
            write_json(args.output, {"plan": asdict(plan), "counted_cameras": args.cameras, "rows": rows})
    full = synthetic_place(plan.kind, plan.splats)
    levels = replace(full, splats=build_tree(full.splats, threshold_px=args.lod_px))
    for size in plan.sizes:
        rows.append(row(plan, levels, size, args.cameras))
        rows[-1] |= {"lod_px": args.lod_px, "psnr_db": alike(levels, full, size)}
        show(rows[-1], shown)
    write_json(args.output, {"plan": asdict(plan), "counted_cameras": args.cameras, "rows": rows})
    print(args.output)


if __name__ == "__main__":
    main()
