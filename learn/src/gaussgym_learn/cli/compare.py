"""`gaussgym-learn compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from gaussgym_scene.errors import InputError


@dataclass
class Compare:
    """Replay a robot's flight recording in simulation, report the gap, fit what explains it, write a preset to train with."""

    log: tyro.conf.Positional[Path]
    """Folder of a flight recording (flight.npz, flight.json)."""
    scene: Path
    """Scene folder: where it was recorded."""
    bundle: Path | None = None
    """Policy bundle whose camera took the images."""
    json: Path | None = None
    """Write the report here; without it, only in words."""
    preset: Path | None = None
    """Write a randomization preset here (`train --randomize`, `train --camera-model`)."""
    picture: Path | None = None
    """Draw measured and simulated joint angles into this file."""
    segments: int = 100
    """Pieces of the log that are replayed, at most."""
    horizon: int = 3
    """Control steps a piece."""
    odometry_in_scene: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Where the odometry's frame lies in the scene: x, y, z [m], yaw [rad]."""
    images: int = 24
    """Camera images compared with the scene, at most."""
    renderer: str = "auto"
    """Backend of the splat renderer."""

    def run(self) -> Path | None:
        """Compare; write report, preset and picture."""
        from gaussgym_learn.gap.compare import CompareCfg, compare, describe, read_camera, show, write_json
        from gaussgym_learn.run import torch_threads

        if self.segments < 10 or self.horizon < 1:
            raise InputError(
                f"segments {self.segments}, horizon {self.horizon}; expected at least 10 pieces of at least 1 control step"
            )
        cfg = CompareCfg(self.segments, self.horizon, self.odometry_in_scene, self.images, self.renderer)
        with torch_threads(1):
            report, preset = compare(
                self.log,
                self.scene,
                cfg,
                camera=read_camera(self.bundle),
                picture=self.picture,
                progress=show,
            )
        print(describe(report))
        written = self.picture
        for path, values in ((self.json, report), (self.preset, preset)):
            written = written if path is None else write_json(path, values)
        return written
