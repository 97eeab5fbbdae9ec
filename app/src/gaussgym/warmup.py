"""Compiles the CPU kernels of rendering, reconstruction and physics, so that the first run does not have to."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np


def compile_renderer() -> None:
    """Render one image, which compiles the rasterizer of this machine."""
    from gaussgym_render.renderer import SplatRenderer
    from gaussgym_scene.synth import synthesize

    k = np.array([[[40.0, 0, 32], [0, 40, 24], [0, 0, 1]]])
    SplatRenderer([synthesize("flat").splats], 64, 48, backend="cpu").render(
        np.eye(4)[None], k, np.zeros(1, int)
    )


def compile_reconstruction() -> None:
    """See `gaussgym_recon.warmup.compile_kernels`."""
    os.environ["NUMBA_THREADING_LAYER"] = (
        "workqueue"  # as `gaussgym-recon` sets it; others want libraries of their own
    )
    from gaussgym_recon.warmup import compile_kernels

    compile_kernels()


def compile_physics() -> None:
    """See `gaussgym_sim.warmup.compile_kernels`."""
    from gaussgym_sim.warmup import compile_kernels

    compile_kernels()


def compile_all() -> float:
    """Compile side by side; quick where it was done before.

    Returns:
        How long it took [s].
    """
    start = time.perf_counter()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for future in [pool.submit(f) for f in (compile_renderer, compile_reconstruction, compile_physics)]:
            future.result()
    return time.perf_counter() - start
