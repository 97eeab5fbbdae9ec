"""What `throughput.py` measures, and the scenes and the camera that it does it with."""

from __future__ import annotations

import json
import math
import multiprocessing
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gaussgym_render import SplatRenderer
from gaussgym_render.bench import device as timing
from gaussgym_render.bench.scenes import exact_count
from gaussgym_render.cuda_backend import KERNELS
from gaussgym_render.frames import Frames
from gaussgym_render.lod import LodSplats, build_tree
from gaussgym_scene import Scene, synthesize

BATCH_ROUNDING = 256
"""Cameras are rendered in batches of multiples of this, so that buffers for few sizes are made."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        kinds: Of procedural scenes, in turn (`gaussgym_scene.synthesize`).
        robots: Environments.
        scenes: They are spread over.
        distinct: Different ones of these; the rest are copies.
        splats: Of each scene.
        sizes: Image sizes, and by how much the policy's image is smaller a side [px].
        rates_hz: Of the camera.
        steps: Control steps of a timed round.
        rounds: Of which the median is taken.
        rollout: Control steps of an update.
        mini_batches: Of an update.
    """

    kinds: tuple[str, ...] = ("street", "rubble", "slope", "corridor", "stairs", "flat")
    robots: int = 4096
    scenes: int = 128
    distinct: int = 16
    splats: int = 200_000
    sizes: tuple[tuple[int, int, int], ...] = ((84, 48, 1), (640, 480, 4))
    rates_hz: tuple[float, ...] = (10.0, 50.0)
    steps: int = 25
    rounds: int = 3
    rollout: int = 25
    mini_batches: int = 8


TINY = Plan(
    kinds=("flat", "slope"), robots=4, scenes=2, distinct=2, splats=800, sizes=((40, 36, 1), (80, 72, 2)), rates_hz=(10.0, 50.0), steps=6, rounds=1, rollout=4,
    mini_batches=1,
)  # fmt: skip


def make_scene(job: tuple[int, str, int, Path, bool]) -> Path:
    """Make scene `number` with so many splats, and its levels of detail if asked for, unless they are there."""
    number, kind, splats, folder, levels = job
    place = folder / f"{kind}-{number:03d}-{splats}"
    if not (place / "scene.json").exists():
        made = synthesize(kind, seed=number, max_splats=max(splats, 5000), splat_spacing_m=0.02)
        exact = exact_count(made.splats, splats, np.random.default_rng(number))
        name = f"{made.name} {number}"
        Scene(name, exact, made.mesh, made.heightfield, made.paths, made.metadata).save(place)
    if levels and not (place.with_suffix(".lod") / "lod.json").exists():
        build_tree(Scene.load(place, verify=False).splats).save(place.with_suffix(".lod"))
    return place


def open_scenes(
    plan: Plan, folder: Path, lod_px: float | None, workers: int
) -> tuple[list[Scene], list[Any]]:
    """Scenes for physics and what the renderer shows of each; made in processes of their own."""
    jobs = [
        (number, plan.kinds[number % len(plan.kinds)], plan.splats, folder, lod_px is not None)
        for number in range(plan.distinct)
    ]
    if workers > 1:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            places = pool.map(make_scene, jobs, chunksize=1)
    else:
        places = [make_scene(job) for job in jobs]
    scenes = [Scene.load(place, verify=False) for place in places]
    shown: list[Any] = [scene.splats for scene in scenes]
    if lod_px is not None:
        shown = [replace(LodSplats.load(place.with_suffix(".lod")), threshold_px=lod_px) for place in places]
    order = [slot % plan.distinct for slot in range(plan.scenes)]
    return [scenes[i] for i in order], [shown[i] for i in order]


class Camera:
    """`CameraRenderer` for the environment: images of all sizes of batches from buffers that stay, averaged down if asked for.

    Args:
        shown: What each of the simulator's scenes shows.
        width: Of the images that are rendered [px].
        height: Likewise.
        factor: By how much the images that come out are smaller a side.
        most: Cameras at a time.
        device: Where they are.
        backend: The renderer's, on a GPU; on the CPU it is 'warp-cpu'.
    """

    def __init__(
        self,
        shown: list[Any],
        width: int,
        height: int,
        factor: int,
        most: int,
        device: torch.device,
        backend: str = "cuda",
    ) -> None:
        backend = backend if timing.on_gpu(device) else "warp-cpu"
        self.renderer = SplatRenderer(shown, width, height, backend=backend, device=str(device))
        self.factor, self.frames = factor, 0
        room = -(-most // BATCH_ROUNDING) * BATCH_ROUNDING if most >= BATCH_ROUNDING else most
        self._rgb = torch.zeros(room, height, width, 3, dtype=torch.uint8, device=device)
        self._depth = torch.zeros(room, height, width, device=device)
        self._alpha = torch.zeros(room, height, width, device=device)
        self._c2w = torch.eye(4, device=device).repeat(room, 1, 1)
        self._ks = torch.eye(3, device=device).repeat(room, 1, 1)
        self._ids = torch.zeros(room, dtype=torch.long, device=device)
        self._mask = torch.zeros(room, dtype=torch.bool, device=device)

    def render(
        self, c2w: torch.Tensor, K: torch.Tensor, scene_ids: torch.Tensor, *, mask: Any = None
    ) -> SimpleNamespace:
        """See `gaussgym_sim.sensors.camera.CameraRenderer`."""
        assert mask is None
        count = len(c2w)
        self.frames += count
        batch = min(-(-count // BATCH_ROUNDING) * BATCH_ROUNDING, len(self._ids))
        self._c2w[:count], self._ks[:count], self._ids[:count] = c2w, K, scene_ids
        self._ks[:count, :2] *= self.factor
        self._mask[:count], self._mask[count:] = True, False
        out = Frames(self._rgb[:batch], self._depth[:batch], self._alpha[:batch])
        self.renderer.render(
            self._c2w[:batch], self._ks[:batch], self._ids[:batch], mask=self._mask[:batch], out=out
        )
        return SimpleNamespace(rgb=averaged(out.rgb[:count], self.factor))


def fastest_backend(choices: Path | None, pixels: int) -> str:
    """The backend whose kernels won in `renderer.py` at the size nearest to so many pixels; the plain one without its output."""
    if choices is None or not choices.exists():
        return "cuda"
    rows = json.loads(choices.read_text())["steps"].get("variants", {}).get("result") or []
    if not rows:
        return "cuda"
    nearest = min(rows, key=lambda row: abs(math.log(row["width_px"] * row["height_px"] / pixels)))
    kernels = nearest["chosen"]["kernels"]
    return next(name for name, own in KERNELS.items() if own == kernels)


def averaged(rgb: torch.Tensor, factor: int) -> torch.Tensor:
    """Images `[C, H, W, 3]` uint8, each pixel the rounded mean of `factor²` of the given ones."""
    if factor == 1:
        return rgb
    count, height, width, _ = rgb.shape
    boxes = rgb.view(count, height // factor, factor, width // factor, factor, 3)
    area = factor * factor
    return ((boxes.sum((2, 4), dtype=torch.int16) + area // 2) // area).to(torch.uint8)
