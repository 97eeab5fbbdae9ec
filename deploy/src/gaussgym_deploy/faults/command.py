"""The command ``gaussgym-deploy faults``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from ..bundle import BundleError, PolicyBundle
from ..reporting import ProgressLine
from .campaign import CampaignCfg, Done, plan, run_campaign
from .report import failed_rows, summary, table_text

__all__ = ["EXIT_FAILED", "inject_faults"]

EXIT_FAILED = 1
"""Exit status when a trial did not go as the table says (bad input is 2)."""


def inject_faults(
    bundle: Path,
    *,
    links: Tuple[str, ...] = ("bench",),
    kinds: Tuple[str, ...] = (),
    moments: int = 20,
    seed: int = 0,
    scene: Optional[Path] = None,
    jobs: int = 0,
) -> Dict[str, Any]:
    """Run a campaign with a progress line on stderr, and print its table.

    Args:
        bundle: Folder of the bundle.
        links: Where.
        kinds: Which; empty: all.
        moments: Trials of each.
        seed: Of everything that is drawn.
        scene: Folder of the scene, for the links that simulate one.
        jobs: Worker processes; 0: one a core.

    Returns:
        The report, plain JSON; ``failed_trials`` says how many did not go as they must.

    Raises:
        BundleError: For a bad bundle, link, kind or number.
    """
    if moments < 1:
        raise BundleError(f"--moments is {moments}, expected at least 1")
    if scene is not None and not scene.exists():
        raise BundleError(f"{scene}: not found")
    cfg = CampaignCfg(bundle, tuple(links), tuple(kinds), moments, seed, scene, jobs)
    start_s = time.monotonic()
    done = run_campaign(cfg, Progress(len(plan(cfg)), moments))
    report = summary(cfg, PolicyBundle.load(bundle), done, time.monotonic() - start_s)
    print(table_text(report))
    failed = failed_rows(report)
    print(
        f"{report['trials']} trials of {report['kinds']} kinds in {report['wall_s']:.0f} s: {report['failed_trials']} failed"
        f" ({len(failed)} rows); worst target {report['worst_beyond_joint_limit_rad']:+.2f} rad beyond a joint limit,"
        f" largest gain {report['worst_gain']:.2f} x the bundle's"
    )
    return report


class Progress:
    """Counts trials on a progress line.

    Args:
        tasks: Number of tasks.
        moments: Trials of each.
    """

    def __init__(self, tasks: int, moments: int) -> None:
        self._line = ProgressLine(tasks * moments, "faults")
        self._done = self._failed = 0

    def __call__(self, done: Done) -> None:
        """Show how far it is."""
        self._done += len(done.trials)
        self._failed += sum(bool(trial.failures) for trial in done.trials)
        self._line.show(self._done, f", {self._failed} failed, {done.task.link} {done.task.kind}")
