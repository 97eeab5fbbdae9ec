"""How long the differentiable rasterizer takes for a training step."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from gaussgym_scene import InputError, Splats

from gaussgym_render import differentiable
from gaussgym_render.bench.scenes import Place, make_workload

SIZE, SPLATS = (480, 270), 50_000
"""Image size [px] and number of splats that the trainer's speed is stated for."""
CAMERAS = 4


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """Forward and backward of one image, antialiased, with a loss on colour and depth; medians over repeats.

    Attributes:
        width_px: Image width.
        height_px: Image height.
        splats: Splats of the scene.
        sh_degree: Degree of its harmonics.
        repeats: Steps timed.
        milliseconds: Wall time of a step.
        milliseconds_min: Fastest step.
        milliseconds_max: Slowest step.
        cpu_milliseconds: CPU time of a step.
        forward_milliseconds: Wall time of the forward half.
    """

    width_px: int
    height_px: int
    splats: int
    sh_degree: int
    repeats: int
    milliseconds: float
    milliseconds_min: float
    milliseconds_max: float
    cpu_milliseconds: float
    forward_milliseconds: float


def time_training_step(place: Place, *, repeats: int = 21, size: tuple[int, int] = SIZE) -> TrainingStep:
    """Time `differentiable.rasterize` and its backward.

    Args:
        place: What is drawn, from some of its cameras in turn.
        repeats: Steps to time, after one from each camera that compiles and warms up.
        size: Image size [px].

    Raises:
        InputError: If the scene has levels of detail.
    """
    width, height = size
    splats, views = place.splats, make_workload(place, 1, CAMERAS, width, height)
    if not isinstance(splats, Splats):
        raise InputError(f"{place.name}: found levels of detail, expected a scene that can be trained")
    arrays = (splats.means, splats.quats_wxyz, splats.scales, splats.opacities, splats.sh)
    leaves = [torch.tensor(array).requires_grad_() for array in arrays]
    means, quats_wxyz, scales, opacities, sh = leaves
    target, target_m = torch.full((1, height, width, 3), 0.5), torch.full((1, height, width), 5.0)
    ms = np.empty((repeats + CAMERAS, 3))
    for r in range(len(ms)):
        view = torch.tensor(np.linalg.inv(views.c2w[r % CAMERAS]), dtype=torch.float32)[None]
        k = torch.tensor(views.K[0], dtype=torch.float32)[None]
        for leaf in leaves:
            leaf.grad = None
        start, start_cpu = time.perf_counter(), time.process_time()
        rgb, _, depth, _ = differentiable.rasterize(
            means,
            quats_wxyz,
            scales,
            opacities,
            sh,
            view,
            k,
            width,
            height,
            antialiased=True,
            sh_degree=splats.sh_degree,
        )
        loss = (rgb - target).abs().mean() + 0.1 * (depth - target_m).abs().mean()
        forward = time.perf_counter() - start
        loss.backward()
        ms[r] = 1000.0 * np.array([time.perf_counter() - start, time.process_time() - start_cpu, forward])
    ms = ms[CAMERAS:]
    return TrainingStep(
        width_px=width,
        height_px=height,
        splats=len(splats),
        sh_degree=splats.sh_degree,
        repeats=repeats,
        milliseconds=float(np.median(ms[:, 0])),
        milliseconds_min=float(ms[:, 0].min()),
        milliseconds_max=float(ms[:, 0].max()),
        cpu_milliseconds=float(np.median(ms[:, 1])),
        forward_milliseconds=float(np.median(ms[:, 2])),
    )
