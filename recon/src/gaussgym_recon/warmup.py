"""Compiles the numba kernels of a build ahead of the first one, by running each stage on a capture of thumbnails."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from gaussgym_scene.capture import Capture
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth import synthesize

from gaussgym_recon.posed import PosedCapture, Similarity
from gaussgym_recon.seeding import project, seed_splats
from gaussgym_recon.stereo import StereoCfg, dense_depths
from gaussgym_recon.synthetic import SynthesizeCfg, read_truth, synthesize_capture
from gaussgym_recon.trainer import Trainer, TrainerCfg
from gaussgym_recon.views import load_views

_CAPTURE = SynthesizeCfg(images=12, width=160, height=120, turn_images=2)
_TRAINER = TrainerCfg(iterations=12, densify_every=5, max_splats=3000, final_splats=2000)


def compile_kernels() -> int:
    """Run ray casting, stereo and splat training on a few thumbnails; numba keeps what it compiles beside the sources.

    Returns:
        How many splats the thumbnails gave.
    """
    with tempfile.TemporaryDirectory() as folder:
        scene = synthesize("flat")
        capture = Capture.load(synthesize_capture(scene, Path(folder) / "capture", cfg=_CAPTURE))
        posed = posed_by_truth(scene, capture)
        views = load_views(posed, capture.images, long_sides_px=(60, 80, 120))
        depths = dense_depths(posed, views, StereoCfg(iterations=1), level=1)
        model = seed_splats(posed, views, depths, count=_TRAINER.max_splats)
        measured = {i: found.depth_m for i, found in depths.items()}
        return len(Trainer(views, model, _TRAINER, depths_m=measured).run())


def posed_by_truth(scene: Scene, capture: Capture, *, count: int = 1500) -> PosedCapture:
    """A synthetic capture with its true cameras, and points on its ground that they see: for warm-ups and tests, not for results.

    Args:
        scene: What was photographed.
        capture: The photographs.
        count: Points.
    """
    truth = read_truth(capture.directory)
    size = [truth.intrinsics.width, truth.intrinsics.height]
    low, high = truth.c2w[:, :2, 3].min(0) - 3, truth.c2w[:, :2, 3].max(0) + 3
    xy = np.random.default_rng(0).uniform(low, high, (count, 2))
    points = np.column_stack([xy, scene.heightfield.sample(xy)])
    seen = []
    for c2w in truth.c2w:
        at, z = project(points, c2w, truth.intrinsics.K)
        seen.append(
            np.flatnonzero((z > 0.3) & (z < 8) & (at > 0).all(1) & (at < size).all(1)).astype(np.int32)
        )
    grey = np.full((count, 3), 128, np.uint8)
    return PosedCapture(
        capture.directory, truth.names, [], [truth.intrinsics] * len(truth.names), truth.c2w, points, grey, np.ones(count),
        np.full(count, 3, np.int32), seen, Similarity.identity(), "gps", "sensor", 1.5, 0.01, 0.4, 1.0, 3, 1.0, 2.0, 1.1,
    )  # fmt: skip
