"""Whether this machine can run the renderer on CUDA, found out without importing what that needs; and its backends."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from gaussgym_render.backends import Rasterizer, RasterizerCfg

ABILITIES = ("objects", "edits", "outputs", "sizes", "memory_budget_bytes")
"""Those of `gaussgym_render.backends.ABILITIES` that they have."""
KERNELS: dict[str, Literal["plain", "fast", "half"]] = {
    "cuda": "plain",
    "cuda-fast": "fast",
    "cuda-half": "half",
}
"""Backends on CUDA devices, and what sorts and blends in them; see `gaussgym_render.cuda.frame.CudaCfg`."""

_NEEDS_WARP = "NVIDIA Warp is not installed (pip install 'gaussgym-render[cuda]')"


def missing() -> str | None:
    """What the renderer on CUDA would need and this machine does not have; None if nothing is missing."""
    lacking = missing_warp()
    if lacking is None and count_devices() == 0:
        lacking = "there is no CUDA device, or no driver for it"
    if lacking is None and driver_version() < needed_version():
        found, warp = driver_version(), version("warp-lang")
        lacking = f"the NVIDIA driver is for CUDA {found}, Warp {warp} needs one for {needed_version()}"
    return lacking


def missing_warp() -> str | None:
    """That Warp is not installed; None if it is."""
    return None if importlib.util.find_spec("warp") else _NEEDS_WARP


def needed_version() -> int:
    """Major version of CUDA that the installed Warp's driver must be for: 13, or 12 if Warp was built for that ('+cu12')."""
    return 12 if version("warp-lang").endswith("+cu12") else 13


def count_devices() -> int:
    """How many CUDA devices the driver shows, 0 without one; asks the driver, since importing Warp or torch takes seconds."""
    return _ask_driver("cuDeviceGetCount")


def driver_version() -> int:
    """Major version of CUDA that the driver is for, 0 without one."""
    return _ask_driver("cuDriverGetVersion") // 1000


def _ask_driver(function: str) -> int:
    """The number that a function of the CUDA driver gives, 0 if there is no driver or it refuses."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    number = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or getattr(driver, function)(ctypes.byref(number)) != 0:
        return 0
    return number.value


def make_cuda(
    splats: Sequence[Any], cfg: RasterizerCfg, *, kernels: Literal["plain", "fast", "half"] = "plain"
) -> Rasterizer:
    """See `gaussgym_render.cuda.backend.make_cuda`."""
    from gaussgym_render.cuda import backend

    return backend.make_cuda(splats, cfg, kernels=kernels)


def make_warp_cpu(splats: Sequence[Any], cfg: RasterizerCfg) -> Rasterizer:
    """See `gaussgym_render.cuda.backend.make_warp_cpu`."""
    from gaussgym_render.cuda import backend

    return backend.make_warp_cpu(splats, cfg)
