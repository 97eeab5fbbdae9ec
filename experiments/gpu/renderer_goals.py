"""What `renderer.py` is to find at the headline, and whether it does."""

from __future__ import annotations

from typing import Any

FLATNESS = 1.15
"""A frame may cost so many times what it does in the smallest batch, or in one scene."""
LOD_PSNR_DB = 40.0


def verdicts(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Each goal with what was found, and whether that does; None where nothing was found.

    Args:
        results: Of the steps that ran, by name.
    """
    rows: list[dict[str, Any]] = []

    def judge(what: str, found: Any, least: float | None = None, most: float | None = None) -> None:
        passed = (
            None if found is None else (least is None or found >= least) and (most is None or found <= most)
        )
        rows.append(
            {
                "what": what,
                "found": None if found is None else float(found),
                "least": least,
                "most": most,
                "passed": passed,
            }
        )

    correct, gsplat = results.get("correct", {}), results.get("gsplat", {})
    judge("pictures are right", correct.get("passed"), least=1.0)
    judge("pictures are the CPU backend's", results.get("cpu", {}).get("passed"), least=1.0)
    judge("least PSNR against gsplat [dB]", gsplat.get("least_psnr_db"), least=60.0)
    for row, goal in zip(results.get("headline", []), (100_000.0, 20_000.0)):
        _judge_headline(judge, row, goal)
    judge(
        f"frames/s with levels of detail at {LOD_PSNR_DB:g} dB",
        results.get("lod", {}).get("frames_per_s"),
        least=250_000.0,
    )
    for what in ("cameras", "scenes"):
        judge(
            f"cost of a frame over {what}",
            results.get("flat", {}).get(what, {}).get("rises_by"),
            most=FLATNESS,
        )
    goals = {"gsplat-batched": 5.0, "gaussgym-scene-loop": 10.0}
    for row in results.get("rivals", []):
        size = f"{row['width_px']}x{row['height_px']}"
        judge(
            f"times as fast as {row['rival']} at {size}",
            row.get("times_as_fast"),
            least=goals.get(row["rival"], 2.0),
        )
    return rows


def _judge_headline(judge: Any, row: dict[str, Any], goal: float) -> None:
    size, allocated = f"{row['width_px']}x{row['height_px']}", row["allocates"] or {}
    judge(f"frames/s at {size}", row["frames_per_s"], least=goal)
    for name, bound in row["floors"].items():
        judge(f"time over the floor at {size} ({name})", bound["design_gap"], most=6.0)
    judge(f"splats left out at {size}", row["left_out"], most=0.0)
    judge(f"waits for the device at {size}", row["waits_for_device"], most=0.0)
    judge(f"bytes allocated at {size}", allocated.get("warp_high_bytes"), most=0.0)
    judge(f"torch allocations at {size}", allocated.get("torch_allocations"), most=0.0)


def print_verdicts(rows: list[dict[str, Any]]) -> None:
    """A table."""
    for row in rows:
        mark = {True: "ok", False: "MISSED", None: "not run"}[row["passed"]]
        wanted = f"at least {row['least']:g}" if row["least"] is not None else f"at most {row['most']:g}"
        found = "" if row["found"] is None else f"{row['found']:,.4g} "
        print(f"{mark:<8}{row['what']}: {found}({wanted})")
