"""``gaussgym-recon synth SCENE --output DIR``: captures with known truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene

from gaussgym_recon.commands.bars import Bars


@dataclass
class Synth:
    """Photograph a procedural scene: a capture with sensor noise, lens distortion, noisy GPS, and its truth beside it."""

    scene: Annotated[Path, tyro.conf.Positional]
    """Scene folder, as made by `gaussgym-scene synth`."""
    output: Path
    """Folder of the capture; the truth goes to `<output>.truth`, which `build` never reads."""
    seed: int = 0
    """Of the walk and the noise."""
    images: int = 84
    """Photographs taken, or frames kept of a film."""
    width: int = 640
    """Of the images; their height is three quarters of it [px]."""
    depth: bool = False
    """Add a depth sensor: 256x192, up to 5 m, with noise, mixed depths at edges and confidence."""
    poses: bool = False
    """Add the poses of visual-inertial odometry: metric, with gravity, drifting a little."""
    gps: bool = True
    """Whether the photographs hold GPS fixes."""
    video: bool = False
    """Film it instead, with motion blur (needs ffmpeg); the film and sharp renders lie beside the truth."""

    def __call__(self) -> Path:
        """Run the command; returns the path written."""
        from gaussgym_recon.sensors import DepthSensorCfg, OdometryCfg
        from gaussgym_recon.synthetic import SynthesizeCfg, synthesize_capture

        cfg = SynthesizeCfg(
            images=self.images,
            turn_images=min(12, self.images // 4),
            width=self.width,
            height=round(self.width * 0.75),
            gps=self.gps,
            depth=DepthSensorCfg() if self.depth else None,
            odometry=OdometryCfg() if self.poses else None,
        )
        with Bars() as bars:
            scene = Scene.load(self.scene)
            if not self.video:
                return synthesize_capture(scene, self.output, seed=self.seed, cfg=cfg, progress=bars)
            if self.depth or self.poses:
                raise InputError("--video: a film has neither --depth nor --poses; leave them out")
            from gaussgym_recon.synthetic_video import FilmCfg, synthesize_video

            return synthesize_video(
                scene, self.output, seed=self.seed, cfg=FilmCfg(photos=cfg), progress=bars
            )
