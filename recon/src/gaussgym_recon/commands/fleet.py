"""``gaussgym-recon fleet CAPTURES --output DIR``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class Fleet:
    """Build every capture below a folder, several at a time, on this machine or a Ray cluster; a failed one stops nothing.

    Scenes that are there already are kept: the same command goes on after an interruption, and tries again what failed. Needs
    Ray: pip install 'gaussgym-recon[fleet]'. Memory: about 2 GB a build of 100 photographs. Disk: some 100 MB a scene, as much
    again for the finished stages in `<scene>.work/`. Ends with status 2 where a capture failed, and names it; the collection
    of the others is written all the same.
    """

    captures: Annotated[Path, tyro.conf.Positional]
    """Folder below which the captures lie."""
    output: Path
    """Folder for the scenes, `collection.json`, `fleet.json` and `logs/`."""
    workers: int | None = None
    """Builds at a time on this machine; as many as its cores allow if not given."""
    cpus: float = 1.0
    """Cores of each build."""
    gpus: float = 0.0
    """GPUs of each build; a part of one is possible."""
    retries: int = 2
    """So often is a build begun again whose process died."""
    address: str | None = None
    """Address of a Ray cluster, whose machines share the disk; this machine alone if not given."""
    held_out: float = 0.2
    """Share of captures that the collection holds out of training."""
    split_seed: int = 0
    """Of that choice."""
    camera_height: float | None = None
    """Height above the ground at which the cameras were carried [m], for captures that need one."""
    minutes: float = 4.0
    """Time for training the splats of each scene [min]."""
    max_splats: int = 80_000
    """Most splats of a scene."""
    seed: int = 0
    """Of all random numbers of a build."""

    def __call__(self) -> Path | None:
        """Run the command; returns the path written."""
        from gaussgym_recon.build import BuildCfg, check_settings
        from gaussgym_recon.commands.bars import Bars
        from gaussgym_recon.fleet import FleetCfg, fleet
        from gaussgym_recon.fleet.plan import find_captures
        from gaussgym_recon.trainer import TrainerCfg

        cfg = FleetCfg(
            self.workers, self.cpus, self.gpus, self.retries, self.address, self.held_out, self.split_seed
        )
        build_cfg = BuildCfg(
            camera_height_m=self.camera_height, train_seconds=60.0 * self.minutes, seed=self.seed,
            trainer=replace(TrainerCfg(), max_splats=self.max_splats),
        )  # fmt: skip
        check_settings(build_cfg)
        count = len(find_captures(self.captures))
        print(
            f"fleet: {count} captures, {self.minutes:g} min of training each beside poses and ground, "
            f"up to {0.2 * count:.1f} GB of disk",
            file=sys.stderr,
        )
        with Bars() as bars:
            report = fleet(self.captures, self.output, build_cfg, cfg, progress=bars)
        report.require_all()
        return report.collection
