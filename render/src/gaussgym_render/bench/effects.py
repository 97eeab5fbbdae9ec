"""What the camera model and objects cost, against the plain renderer in the same run."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gaussgym_render.bench.scenes import Place
from gaussgym_render.renderer import SplatRenderer
from gaussgym_render.robot_camera import RobotCameraCfg, make_robot_camera
from gaussgym_render.testing import quadruped_before
from gaussgym_render.viewpoints import Viewpoints

SIZE = (64, 48)
"""The policy's image size [px]."""
EFFECTS_BATCH, EFFECTS_REPEATS = 256, 7
"""Cameras in a batch, and batches, that each part of the camera model is timed on."""


@dataclass(frozen=True, kw_only=True)
class ObjectsTiming:
    """What objects cost at the policy's image size: CPU time with them over that without, median over turns."""

    parts_per_camera: int
    faces_per_camera: int
    covered_pixels: float
    """Share of pixels that show them."""
    turns: int
    frames_per_cpu_s: float
    time_ratio: float
    time_ratio_quartiles: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class EffectTiming:
    """What a part of the camera model costs at 64x48, against the plain renderer in the same run.

    Attributes:
        effects: What was on.
        frames_per_cpu_s: Median over the repeats.
        time_ratio: Median over the repeats of the CPU time of a batch over the plain renderer's just before it.
        time_ratio_min: Least of them.
        time_ratio_max: Greatest of them.
        images_per_frame: Pinhole images rendered for a frame, mean.
    """

    effects: str
    frames_per_cpu_s: float
    time_ratio: float
    time_ratio_min: float
    time_ratio_max: float
    images_per_frame: float


def time_effects(place: Place, *, backend: str, threads: int | None) -> list[EffectTiming]:
    """Time `RobotCameraCfg.typical`, whole and by parts, on cameras that move as on a walking robot.

    Args:
        place: What is rendered; its cameras are cycled to fill a batch of `EFFECTS_BATCH`.
        backend: Renderer backend.
        threads: CPU threads, None for all.
    """
    typical, batch, repeats = RobotCameraCfg.typical(), EFFECTS_BATCH, EFFECTS_REPEATS
    width, height = SIZE
    cameras, index = place.cameras, np.arange(batch) % len(place.cameras)
    k = 0.5 * width
    ks = np.tile(np.array([[k, 0.0, k], [0.0, k, 0.5 * height], [0.0, 0.0, 1.0]]), (batch, 1, 1))
    # Of a trotting Go1's order: 0.6 m/s ahead, and the body sways by about 1 rad/s about each axis.
    twist = np.random.default_rng(0).normal(size=(batch, 6)) * [0.2, 0.2, 0.2, 1.0, 1.0, 1.0]
    twist[:, 2] += 0.6
    kinds = {
        "none": RobotCameraCfg(),
        "lens": replace(RobotCameraCfg(), lens=typical.lens),
        "shutter": replace(RobotCameraCfg(), shutter=typical.shutter),
        "sensor": replace(RobotCameraCfg(), sensor=typical.sensor),
        "all": typical,
    }
    made = {
        name: make_robot_camera(
            [place.splats], ks[0], width, height, cfg, backend=backend, num_threads=threads
        )
        for name, cfg in kinds.items()
    }
    seconds = np.empty((repeats + 1, len(made)))
    for r in range(repeats + 1):  # the first warms up
        for i, camera in enumerate(made.values()):
            start = time.process_time()
            camera.render(cameras.c2w[index], ks, np.zeros(batch, np.int64), twist_c=twist)
            seconds[r, i] = time.process_time() - start
    seconds = seconds[1:]
    ratios = seconds / seconds[:, :1]
    return [
        EffectTiming(
            effects=name,
            frames_per_cpu_s=float(np.median(batch / seconds[:, i])),
            time_ratio=float(np.median(ratios[:, i])),
            time_ratio_min=float(ratios[:, i].min()),
            time_ratio_max=float(ratios[:, i].max()),
            images_per_frame=made[name].num_images / (batch * (repeats + 1)) if i else 1.0,
        )
        for i, name in enumerate(made)
    ]


def _views(
    cameras: Viewpoints, width: int, height: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Poses, calibration matrices and scene ids of one batch, with the cameras' horizontal field of view."""
    index = np.arange(int(np.clip(256 * 64 * 48 // (width * height), 16, 256))) % len(cameras)
    k = cameras.K[index] * (width / cameras.width)
    k[:, 0, 2], k[:, 1, 2], k[:, 2, 2] = width / 2, height / 2, 1.0
    return cameras.c2w[index], k, np.zeros(len(index), np.int64)


def time_objects(place: Place, *, backend: str, threads: int | None, seconds: float) -> ObjectsTiming:
    """Time 64x48 px with and without a quadruped of 13 parts before every camera, in turns for `seconds`."""
    width, height = SIZE
    renderer = SplatRenderer([place.splats], width, height, backend=backend, num_threads=threads)
    c2w, k, ids = _views(place.cameras, width, height)
    c2w, k, ids = c2w[::8], k[::8], ids[::8]  # short turns meet the same disturbances
    instances = quadruped_before(c2w, down_rad=float(np.arcsin(-c2w[0, 2, 2])))
    out = renderer.render(c2w, k, ids)
    seen = renderer.render(c2w, k, ids, objects=instances).instances
    assert seen is not None
    spent: list[list[float]] = []
    end = time.perf_counter() + seconds
    while not spent or time.perf_counter() < end:
        spent.append([])
        for shown in (None, instances):
            start_cpu = time.process_time()
            renderer.render(c2w, k, ids, out=out, objects=shown)
            spent[-1].append(time.process_time() - start_cpu)
    plain, drawn = np.array(spent).T
    low, middle, high = np.quantile(drawn / plain, (0.25, 0.5, 0.75))
    return ObjectsTiming(
        parts_per_camera=len(instances.objects),
        faces_per_camera=len(instances.objects.faces),
        covered_pixels=float((seen >= 0).mean()),
        turns=len(spent),
        frames_per_cpu_s=float(len(ids) / np.median(drawn)),
        time_ratio=float(middle),
        time_ratio_quartiles=(float(low), float(high)),
    )
