"""``faults``: every fault at random moments."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

from ..faults.command import EXIT_FAILED, inject_faults
from ..reporting import write_json

__all__ = ["faults"]


def faults(
    bundle: Path,
    /,
    *,
    links: Tuple[str, ...] = ("bench",),
    kinds: Tuple[str, ...] = (),
    moments: int = 20,
    seed: int = 0,
    scene: Optional[Path] = None,
    jobs: int = 0,
    json: Optional[Path] = None,
) -> Optional[Path]:
    """Inject every fault at random moments: does the robot damp, how soon, what is the worst that it is told.

    Exit status 1 when a trial did not go as the table of faults says.

    Args:
        bundle: Folder of the bundle.
        links: Where: bench, sim, dds-sim.
        kinds: Which faults; default: all.
        moments: Trials of each fault on each link.
        seed: Of moments, joints, starts.
        scene: Folder of the scene, for sim and dds-sim.
        jobs: Worker processes; 0: one a core.
        json: File for the report.
    """
    report = inject_faults(
        bundle, links=links, kinds=kinds, moments=moments, seed=seed, scene=scene, jobs=jobs
    )
    written = write_json(json, report)
    if report["failed_trials"]:
        if written is not None:
            print(written)
        raise SystemExit(EXIT_FAILED)
    return written
