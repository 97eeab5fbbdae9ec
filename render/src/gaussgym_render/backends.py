"""Who renders for `SplatRenderer`: what a backend gives, those there are, and how others are added."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gaussgym_scene import InputError, Splats
from numpy.typing import NDArray

from gaussgym_render import cuda_backend, gsplat_backend
from gaussgym_render.arrays import Array
from gaussgym_render.atlas import build_atlas
from gaussgym_render.channels import ChannelArrays
from gaussgym_render.cpu import CpuRasterizer
from gaussgym_render.edits import SceneEdits
from gaussgym_render.frames import FrameArrays
from gaussgym_render.lod import LodSplats
from gaussgym_render.objects import Instances
from gaussgym_render.packed import PackedCache, SceneSource
from gaussgym_render.paging import PagedRasterizer, ScenePool
from gaussgym_render.reference import ReferenceRasterizer

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "gaussgym_render.backends"
"""Packages add backends under this entry point group: name = a `BackendFactory`."""
AUTO_PREFERENCE = ("cuda", "cpu")
"""What 'auto' takes: the first of these that exists."""


@dataclass(frozen=True, kw_only=True)
class RasterizerCfg:
    """What every backend is built for.

    Attributes:
        width: Image width [px].
        height: Image height [px].
        near: Nearest depth of a splat's mean [m].
        antialiased: Whether opacity is compensated for the low-pass.
        sh_degree: Highest SH degree to use, None for all.
        num_threads: CPU threads, None for all cores.
        features: Feature channels of each scene's splats `[N, F]`, None for none.
        memory_budget_bytes: Most that the scenes' arrays may take [B]; None: all scenes stay in memory.
        cache_dir: Where scenes that take turns lie packed; None: `gaussgym_render.packed.default_cache_dir`.
        device: Where to render, for backends that have a choice, such as 'cuda:1'; None: they choose.
    """

    width: int
    height: int
    near: float = 0.01
    antialiased: bool = True
    sh_degree: int | None = None
    num_threads: int | None = None
    features: Sequence[NDArray[np.float32]] | None = None
    memory_budget_bytes: int | None = None
    cache_dir: Path | None = None
    device: str | None = None


class Rasterizer(Protocol):
    """What a backend gives: it fills the frames of the chosen cameras."""

    def render(
        self,
        c2w: NDArray[np.float64],
        ks: NDArray[np.float64],
        scene_ids: NDArray[np.int64],
        cameras: NDArray[np.int64],
        background: NDArray[np.float32],
        frames: FrameArrays,
        objects: Instances | None = None,
        seen: NDArray[np.int32] | None = None,
        changes: SceneEdits | None = None,
        extra: ChannelArrays | None = None,
        sizes: NDArray[np.int64] | None = None,
    ) -> None:
        """See `gaussgym_render.cpu.CpuRasterizer.render`."""
        ...


@runtime_checkable
class DeviceRasterizer(Rasterizer, Protocol):
    """A backend that also takes arrays where they lie, such as on a GPU."""

    def takes(self, array: Array) -> bool:
        """Whether an array lies on its device."""
        ...

    def is_on(self, device: Any) -> bool:
        """Whether a torch device is its device."""
        ...

    def render_arrays(
        self,
        c2w: Array,
        ks: Array,
        scene_ids: Array,
        mask: Array | None,
        sizes: Array | None,
        background: NDArray[np.float32],
        out: tuple[Array, Array, Array] | None,
        objects: Instances | None = None,
        edits: SceneEdits | None = None,
        outputs: Mapping[str, Array] | None = None,
    ) -> tuple[Array, Array, Array]:
        """See `gaussgym_render.cuda.backend.CudaRasterizer.render_arrays`."""
        ...

    def new_output(self, name: str, count: int, like: Array) -> Array:
        """See `gaussgym_render.cuda.backend.CudaRasterizer.new_output`."""
        ...


AnySplats = Splats | LodSplats
"""A scene as given, or with levels of detail."""
BackendFactory = Callable[[Sequence[AnySplats], RasterizerCfg], Rasterizer]
_BACKENDS: dict[str, BackendFactory] = {}
ABILITIES = ("objects", "edits", "outputs", "sizes", "memory_budget_bytes")
"""What a backend may take beyond cameras: each names its argument of `SplatRenderer` or of its `render`.

One that takes a memory budget is given sources to page in, not splats, where there is a budget.
"""
BACKEND_ABILITIES: dict[str, frozenset[str]] = {}  # of registered backends, by name
_MISSING: dict[str, Callable[[], str | None]] = {}  # what registered backends lack here, by name


def register_backend(
    name: str,
    factory: BackendFactory,
    *,
    abilities: Collection[str] = (),
    missing: Callable[[], str | None] | None = None,
) -> None:
    """Make a backend available to `SplatRenderer(backend=name)`.

    Args:
        name: How it is asked for.
        factory: Makes it.
        abilities: Those of `ABILITIES` that it has.
        missing: Says what the backend needs that this machine lacks, None if nothing; None: it runs everywhere.
    """
    _BACKENDS[name], BACKEND_ABILITIES[name] = factory, frozenset(abilities)
    _MISSING.pop(name, None)
    if missing is not None:
        _MISSING[name] = missing


def available_backends() -> list[str]:
    """Names that `SplatRenderer` accepts here, beside 'auto'; one that lacks something on this machine is left out."""
    return sorted(name for name in find_backends() if name not in _MISSING or _MISSING[name]() is None)


def find_backends() -> dict[str, Callable[[], BackendFactory]]:
    """Loaders by name: what was registered, then what installed packages declare."""
    found: dict[str, Callable[[], BackendFactory]] = {
        point.name: point.load for point in entry_points(group=ENTRY_POINT_GROUP)
    }
    for name, factory in _BACKENDS.items():
        found[name] = lambda factory=factory: factory
    return found


def _make_cpu(splats: Sequence[Any], cfg: RasterizerCfg) -> Rasterizer:
    if cfg.memory_budget_bytes is not None:
        return _make_paged_cpu(splats, cfg, cfg.memory_budget_bytes)
    atlas = build_atlas(splats, sh_degree=cfg.sh_degree)
    rasterizer = CpuRasterizer(
        atlas, cfg.width, cfg.height, near=cfg.near, antialiased=cfg.antialiased, num_threads=cfg.num_threads
    )
    rasterizer.set_channels([labels_of(scene) for scene in splats], cfg.features)
    return rasterizer


def labels_of(scene: SceneSource) -> NDArray[np.int32] | None:
    """Labels of a scene's splats; one with levels of detail has none."""
    return scene.labels if isinstance(scene, Splats) else None


def _make_paged_cpu(sources: Sequence[SceneSource], cfg: RasterizerCfg, budget_bytes: int) -> PagedRasterizer:
    cache = PackedCache(cfg.cache_dir)
    scenes = cache.pack_all(sources, cfg.sh_degree)
    if not cfg.antialiased and any(scene.levels for scene in scenes):
        raise InputError(LEVELS_ALIASED)
    pool = ScenePool(scenes, budget_bytes, cache)
    rasterizer = CpuRasterizer(
        pool.atlas, cfg.width, cfg.height, near=cfg.near, antialiased=cfg.antialiased, num_threads=cfg.num_threads
    )  # fmt: skip
    rasterizer.set_label_table(pool.labels)
    return PagedRasterizer(pool, rasterizer)


register_backend("cpu", _make_cpu, abilities=ABILITIES)
for _name, _kernels in cuda_backend.KERNELS.items():
    register_backend(
        _name,
        partial(cuda_backend.make_cuda, kernels=_kernels),
        abilities=cuda_backend.ABILITIES,
        missing=cuda_backend.missing,
    )
register_backend(
    "warp-cpu",
    cuda_backend.make_warp_cpu,
    abilities=cuda_backend.ABILITIES,
    missing=cuda_backend.missing_warp,
)
register_backend("reference", ReferenceRasterizer, abilities=("objects", "edits", "outputs", "sizes"))
for _name, _batch_scenes in (("gsplat", False), ("gsplat-batched", True)):
    register_backend(
        _name,
        partial(gsplat_backend.make_gsplat, gsplat_cfg=gsplat_backend.GsplatCfg(batch_scenes=_batch_scenes)),
        missing=gsplat_backend.missing,
    )

LEVELS_ALIASED = (
    "found a scene with levels of detail and antialiased=False; its merged splats are made for True"
)


def choose_backend(name: str, *, paged: bool) -> tuple[str, BackendFactory]:
    """Resolve a backend's name; 'auto' takes one that can page where scenes are to take turns."""
    found = find_backends()
    if name == "auto":
        name = next(
            candidate
            for candidate in AUTO_PREFERENCE
            if candidate in available_backends()
            and not (paged and "memory_budget_bytes" not in BACKEND_ABILITIES.get(candidate, ()))
        )
        logger.info("splat renderer backend 'auto' took %r (available: %s)", name, ", ".join(sorted(found)))
    lacking = _MISSING[name]() if name in _MISSING else None
    if name not in found or lacking:
        reason = f"cannot run here: {lacking}" if lacking else "is not available here"
        raise InputError(
            f"renderer backend {name!r} {reason}; available: {', '.join(available_backends())} (or 'auto')"
        )
    return name, found[name]()
