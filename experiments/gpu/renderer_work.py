"""What the steps of `renderer.py` share: scenes and cameras, and the renderer at work on them."""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import warp as wp
from gaussgym_render import SplatRenderer, register_backend
from gaussgym_render.bench import device as timing
from gaussgym_render.bench import parity
from gaussgym_render.bench.floors import Chip, chip_of
from gaussgym_render.bench.scenes import Place, Workload, make_workload, synthetic_place
from gaussgym_render.cuda.backend import CudaRasterizer
from gaussgym_render.cuda.frame import CudaCfg
from gaussgym_render.cuda_backend import ABILITIES
from renderer_plan import Plan

LOOKED_AT = 64
"""Images that are fetched and compared: the cameras stand at so many places."""
BYTES_PER_PIXEL = 11
"""rgb uint8, depth and alpha float32."""


@dataclass
class Run:
    """Settings, and what the steps share."""

    plan: Plan
    device: torch.device
    limit_s: float
    lod: Path | None
    report: dict[str, Any]

    def settings(self, pixels: int) -> CudaCfg:
        """The settings that won, and were right, at the size of the headline that is nearest to so many pixels."""
        rows = self.result("variants") or []
        if not rows:
            return CudaCfg()
        nearest = min(rows, key=lambda row: abs(np.log(row["width_px"] * row["height_px"] / pixels)))
        return CudaCfg(**nearest["chosen"])

    def place(self, splats: int) -> Place:
        """The scene with so many splats."""
        return synthetic_place(self.plan.kind, splats)

    def result(self, step: str) -> Any:
        """What an earlier step found, None if it did not run."""
        return self.report["steps"].get(step, {}).get("result")

    def chips(self) -> dict[str, Chip]:
        """The GPU by its data sheet and as measured, where they are known."""
        name = self.report["machine"]["device"]
        sheet, measured = chip_of(name), self.result("machine")
        found = {} if sheet is None else {"data_sheet": sheet}
        if measured is not None:
            found["measured"] = Chip(
                name=f"{name}, as measured", bytes_per_s=measured["copy_bytes_per_s"], flop_per_s=measured["flop_per_s"],
                half_factor=1.0 if sheet is None else sheet.half_factor, cache_bytes=0.0 if sheet is None else sheet.cache_bytes,
            )  # fmt: skip
        return found


def copies(place: Place, scenes: int, cameras: int, width: int, height: int) -> Workload:
    """Cameras round copies of a scene, each of which lies in memory of its own on the device."""
    load = make_workload(place, 1, cameras, width, height)
    return replace(load, scenes=[place.splats] * scenes, scene_ids=np.arange(cameras) % scenes)


def backend_with(device: torch.device, settings: CudaCfg | None) -> str:
    """Name of the backend on a device, with capacities and kernels of its own if settings are given."""
    if settings is None:
        return "cuda" if timing.on_gpu(device) else "warp-cpu"
    name = f"{device.type}, {settings}"

    def make(splats: Any, cfg: Any) -> CudaRasterizer:
        return CudaRasterizer(splats, cfg, wp.get_device(str(device)), settings)

    register_backend(name, make, abilities=ABILITIES)
    return name


class Ours:
    """The renderer at work on a workload, inputs and images on the device."""

    def __init__(self, load: Workload, run: Run, settings: CudaCfg | None = None) -> None:
        backend = backend_with(run.device, settings or run.settings(load.width * load.height))
        self.device = run.device
        self.renderer = SplatRenderer(
            load.scenes, load.width, load.height, backend=backend, device=str(run.device)
        )
        self.use(load)

    def use(self, load: Workload) -> None:
        """Draw other cameras in the same scenes."""
        self.out = None  # before the next one is made
        self.c2w = torch.as_tensor(load.c2w, dtype=torch.float32, device=self.device)
        self.ks = torch.as_tensor(load.K, dtype=torch.float32, device=self.device)
        self.ids = torch.as_tensor(load.scene_ids, device=self.device)
        self.load = load
        self.out = self.renderer.render(self.c2w, self.ks, self.ids)

    def draw(self) -> None:
        """Launch the drawing of all cameras."""
        self.renderer.render(self.c2w, self.ks, self.ids, out=self.out)

    def left_out(self) -> int:
        """Splats for which there was no room since this was last asked, and cameras that could not be rendered."""
        counters = self.renderer.rasterizer.counters()
        return counters.dropped_splats + counters.dropped_pairs + counters.refused

    def counted(self) -> dict[str, float]:
        """Splats seen and pairs of splat and macro-tile of a camera, means of one wave as the device counted them."""
        frame = self.renderer.rasterizer.frame
        self.use(self.load.take(np.arange(min(frame.wave_size, len(self.load)))))
        visible, pairs = (
            int(offsets.numpy()[-1]) for offsets in (frame.wave.offsets, frame.segments.offsets)
        )
        return {
            "cameras": len(self.load),
            "visible": visible / len(self.load),
            "pairs": pairs / len(self.load),
        }

    def images(self) -> np.ndarray:
        """The first `LOOKED_AT` images that the last `draw` drew, uint8 `[n, H, W, 3]`."""
        return parity.as_numpy(self.out.rgb[:LOOKED_AT])


def speed(count: int, times: timing.Timing) -> dict[str, Any]:
    """Frames per second of batches of `count` frames."""
    return {
        "frames_per_s": 1e3 * count / times.median_ms, "frames_per_s_min": 1e3 * count / times.max_ms,
        "frames_per_s_max": 1e3 * count / times.min_ms, "batch": asdict(times),
    }  # fmt: skip


def where(load: Workload) -> dict[str, int]:
    return {
        "width_px": load.width, "height_px": load.height, "cameras": len(load), "scenes": len(load.scenes),
        "splats": len(load.scenes[0]),
    }  # fmt: skip


def free(device: torch.device) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if timing.on_gpu(device):
        torch.cuda.empty_cache()
