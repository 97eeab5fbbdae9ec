"""The least time that frames take on some GPUs, from what is to be done and from data sheets. Needs no GPU.

    python experiments/gpu/floors.py --output experiments/results/gpu_floors.json

What is to be done is counted on the CPU by the float64 reference (`gaussgym_render.bench.counts`), in the scene that `renderer.py` times; how
operations and bytes follow from it says `gaussgym_render.bench.floors`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gaussgym_render.bench.counts import count_workload
from gaussgym_render.bench.floors import CHIPS, SPLAT_BYTES, floors
from gaussgym_render.bench.scenes import make_workload, synthetic_place
from gaussgym_scene.artifact import write_json
from renderer_plan import Plan

BYTES_PER_PIXEL = 11


def row(plan: Plan, splats: int, size: tuple[int, int], cameras: int) -> dict[str, Any]:
    """Counts of a frame, and the floors of a batch as large as the headline's on each chip."""
    load = make_workload(synthetic_place(plan.kind, splats), 1, 64, *size)
    counts = count_workload(load, cameras=cameras)
    bounds = {}
    for _, chip in CHIPS:
        least = floors(
            counts, chip, frames=plan.cameras, pixels=size[0] * size[1], scene_bytes=plan.scenes * splats * SPLAT_BYTES,
            bytes_per_pixel=BYTES_PER_PIXEL,
        )  # fmt: skip
        bounds[chip.name] = {
            **least.to_dict(), "frames_per_s": plan.cameras / least.floor_s, "design_frames_per_s": plan.cameras / least.design_floor_s
        }  # fmt: skip
    return {
        "width_px": size[0], "height_px": size[1], "splats": splats, "cameras": plan.cameras, "scenes": plan.scenes,
        "counts": asdict(counts), "floors": bounds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--splats", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--cameras", type=int, default=8, help="cameras that are counted")
    parser.add_argument("--output", type=Path, default=Path("gpu_floors.json"))
    args = parser.parse_args()
    plan, rows = Plan(), []
    shown = ("H100 SXM", "RTX 4090")
    print(
        "size     splats   visible  pairs    evaluated   contribute  "
        + "  ".join(f"{name}: frames/s at the floor" for name in shown)
    )
    for splats in args.splats:
        for size in plan.sizes:
            rows.append(row(plan, splats, size, args.cameras))
            c, bounds = rows[-1]["counts"], rows[-1]["floors"]
            speeds = "  ".join(
                f"{bounds[name]['frames_per_s']:>12,.0f} ({bounds[name]['design_frames_per_s']:,.0f})"
                for name in shown
            )
            print(
                f"{size[0]}x{size[1]:<5}{splats:<9}{c['visible']:<9,.0f}{c['pairs']:<9,.0f}{c['evaluated']:<12,.0f}"
                f"{c['contributing']:<12,.0f}{speeds}",
                flush=True,
            )
            write_json(args.output, {"plan": asdict(plan), "counted_cameras": args.cameras, "rows": rows})
    print(args.output)


if __name__ == "__main__":
    main()
