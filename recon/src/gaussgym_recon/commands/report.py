"""``gaussgym-recon report SCENE``."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from gaussgym_scene.artifact import replace_directory
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene


@dataclass
class Report:
    """Judge a scene: coverage as a robot sees it, a verdict with its reasons, `quality.html` and `quality.json`.

    Scenes that `build` wrote hold theirs already; this makes them anew, for another robot or for a scene from elsewhere.
    """

    scene: Annotated[Path, tyro.conf.Positional]
    """Scene folder."""
    output: Path
    """Folder to write: a new one, or one of an earlier report, which is replaced."""
    camera_height: float = 0.3
    """Height of the robot's camera above the ground [m]."""
    fov_deg: float = 87.0
    """Its horizontal field of view [deg]."""

    def __call__(self) -> Path:
        """Run the command; returns the path written."""
        import numpy as np

        from gaussgym_recon.report.coverage import CoverageCfg
        from gaussgym_recon.report.page import PAGE, assess, write_quality
        from gaussgym_recon.report.verdict import judge

        if not (0.05 <= self.camera_height <= 3.0 and 10.0 <= self.fov_deg <= 160.0):
            raise InputError(
                f"found a camera {self.camera_height:g} m up with {self.fov_deg:g} degrees; expected 0.05 to 3 m and 10 to 160"
            )
        if self.output.exists() and not (self.output / PAGE).exists():
            raise InputError(
                f"{self.output}: exists and holds no {PAGE}; expected a new folder, or one of an earlier report"
            )
        scene = Scene.load(self.scene)
        cfg = CoverageCfg(camera_height_m=self.camera_height, fov_rad=float(np.radians(self.fov_deg)))
        added, coverage, spots = assess(scene, cfg)
        scene.metadata.update(added)
        partial = self.output.with_name(self.output.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if scene.directory is not None and (scene.directory / "heldout").is_dir():
            shutil.copytree(scene.directory / "heldout", partial / "heldout")
        page = write_quality(scene, partial, coverage, spots, judge(scene.metadata))
        replace_directory(partial, self.output)
        return self.output / page.name
