"""All scenes of a renderer in one set of arrays, whatever their sizes.

Splats are sorted along a Morton curve within their scene and cut into chunks of 256 that carry bounds, so that a camera
discards most of a scene chunk by chunk, and the ones left are projected with vector instructions: a chunk stores each quantity
of its splats contiguously. Short chunks are padded with splats of opacity 0.

Means are float32; shapes, opacities and colours are half precision: 11 bits of mantissa put a splat's edge, its opacity and its
colour within 0.05 % of the input's, less than the 8 bits of an image show.

A scene with levels of detail has a chunk per node of its tree, in pre-order; that of a plain scene has leaves only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gaussgym_scene import Splats
from gaussgym_scene.frames import matrix_from_quat_wxyz
from gaussgym_scene.morton import morton_order
from numpy.typing import NDArray

from gaussgym_render import harmonics
from gaussgym_render.lod import LodSplats

CHUNK = 256
"""Splats per chunk. Compiled into the kernels, whose cache does not notice a change here: then delete `__pycache__`."""
NUM_SHAPE = 10
"""Quantities per splat in `Atlas.shapes`: rotation times scale 0-8 (row-major), opacity 9."""
MAX_HALF = 65504.0
"""Largest half: scales are clamped to it [m]."""
PACKING_VERSION = 1
"""Raise it whenever `pack_scene` gives other values for the same scene: files of packed scenes are then made anew."""
CHUNK_ARRAYS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "bounds_w": (np.float32, (7,)),
    "skip": (np.int64, ()),
    "errors_m": (np.float32, ()),
    "means": (np.float32, (3, CHUNK)),
    "shapes": (np.float16, (NUM_SHAPE, CHUNK)),
    "source": (np.int32, (CHUNK,)),
    "base_colors": (np.float16, (3, CHUNK)),
}
"""Type and shape of what each chunk has in the arrays of `Atlas`, beside `rest`, whose size differs between scenes."""


@dataclass
class Atlas:
    """S scenes as B chunks of 256 splats each; slot `b·256 + i` is splat i of chunk b."""

    chunk_ranges: NDArray[np.int64]
    """First chunk of each scene and one past its last, `[S, 2]`."""
    bounds_w: NDArray[np.float32]
    """Centre and half size of the box round the means, and the largest standard deviation [m], of a chunk's subtree, `[B, 7]`."""
    skip: NDArray[np.int64]
    """How many chunks to go forward to leave a chunk's subtree, `[B]`; 1 for leaves."""
    errors_m: NDArray[np.float32]
    """What merging cost, as in `LodSplats`, `[B]`; 0 for leaves."""
    thresholds_px: NDArray[np.float64]
    """Largest error that each scene may show [px], `[S]`."""
    means: NDArray[np.float32]
    """Places `[B, 3, 256]` [m]."""
    shapes: NDArray[np.float16]
    """Extents and opacities, `[B, 10, 256]`."""
    source: NDArray[np.int32]
    """Index of each slot's splat in its scene's input (ties in depth are resolved by it), `[B·256]`; -1 for padding."""
    base_colors: NDArray[np.float16]
    """`0.5 + band 0`, `[B, 3, 256]`."""
    rest: NDArray[np.float16]
    """Bands 1 and up of all scenes, flat; chunk j of scene s is `[num_rest[s], 3, 256]`, from `rest_offsets[s]` on."""
    rest_offsets: NDArray[np.int64]
    """`[S]`."""
    num_rest: NDArray[np.int64]
    """Coefficients per channel beyond band 0: 0, 3, 8 or 15, `[S]`."""
    num_splats: NDArray[np.int64]
    """Splats of each scene without padding, `[S]`."""

    @property
    def max_chunks(self) -> int:
        """Chunks of the largest scene."""
        return int(np.diff(self.chunk_ranges).max(initial=0))


def build_atlas(scenes: Sequence[Splats | LodSplats], *, sh_degree: int | None = None) -> Atlas:
    """Pack scenes.

    Args:
        scenes: Any number of splat sets, with levels of detail or without, empty ones allowed.
        sh_degree: Highest SH degree to keep; default: all that each scene has.

    Returns:
        The atlas.
    """
    distinct = {id(scene): scene for scene in scenes}  # one that is given several times is packed once
    packed = {key: pack_scene(scene, sh_degree) for key, scene in distinct.items()}
    parts = [packed[id(scene)] for scene in scenes]
    ends = np.cumsum([part.num_chunks for part in parts], dtype=np.int64)
    rest_sizes = np.array([part.rest.size for part in parts], np.int64)
    joined = {name: np.concatenate([part.arrays[name] for part in parts]) for name in CHUNK_ARRAYS}
    return Atlas(
        **{**joined, "source": joined["source"].reshape(-1)},
        chunk_ranges=np.stack([np.concatenate([[0], ends[:-1]]), ends], 1),
        thresholds_px=np.array([part.threshold_px for part in parts], np.float64),
        rest=np.concatenate([part.rest for part in parts]),
        rest_offsets=np.cumsum(rest_sizes) - rest_sizes,
        num_rest=np.array([part.num_rest for part in parts], np.int64),
        num_splats=np.array([part.num_splats for part in parts], np.int64),
    )


def _layout(
    splats: Splats | LodSplats,
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int32]]:
    """Which splat each slot holds, whether it is one of its own (or padding, at the place of its chunk's last), and its rank."""
    if isinstance(splats, LodSplats):
        i = np.arange(CHUNK)
        sizes = splats.node_sizes[:, None]
        index = (splats.node_starts[:, None] + np.minimum(i, sizes - 1)).reshape(-1)
        used = (i < sizes).reshape(-1)
        return index, used, np.where(used, splats.source[index], -1).astype(np.int32)
    n = len(splats.means)
    order = morton_order(splats.means)
    slots = -(-n // CHUNK) * CHUNK
    index = np.concatenate([order, np.repeat(order[-1:], slots - n)])
    used = np.arange(slots) < n
    return index, used, np.where(used, index, -1).astype(np.int32)


def _bounds(
    splats: Splats | LodSplats, means: NDArray[np.float32], sigma: NDArray[np.float32]
) -> NDArray[np.float32]:
    """`Atlas.bounds_w` of chunks with `means [b, 256, 3]` and `sigma [b]`."""
    if isinstance(splats, LodSplats):
        low, high, sigma = splats.boxes()
    else:
        low, high = means.min(1), means.max(1)
    return np.concatenate([(low + high) / 2, (high - low) / 2, sigma[:, None]], 1).astype(np.float32)


@dataclass(frozen=True)
class ScenePart:
    """One scene as an `Atlas` holds it.

    Attributes:
        arrays: `CHUNK_ARRAYS` of its chunks, C-contiguous, `[b, ...]`.
        rest: Its share of `Atlas.rest`, flat.
        num_rest: Coefficients per channel beyond band 0.
        num_splats: Splats without padding.
        threshold_px: As in `Atlas.thresholds_px`.
        labels: Labels by slot `[b, 256]` int32, -1 for padding; None if the scene has none.
    """

    arrays: dict[str, NDArray[Any]]
    rest: NDArray[np.float16]
    num_rest: int
    num_splats: int
    threshold_px: float
    labels: NDArray[np.int32] | None

    @property
    def num_chunks(self) -> int:
        """How many chunks it has."""
        return len(self.arrays["bounds_w"])


def pack_scene(splats: Splats | LodSplats, sh_degree: int | None) -> ScenePart:
    """One scene's arrays in chunk layout; `sh_degree` as in `build_atlas`."""
    index, used, source = _layout(splats)
    slots = len(index)
    num_chunks = slots // CHUNK
    have = harmonics.degree_of(splats.sh.shape[1])
    num_rest = harmonics.num_coefficients(have if sh_degree is None else min(have, sh_degree)) - 1
    own = index[used]

    means = np.ascontiguousarray(splats.means[index], np.float32).reshape(num_chunks, CHUNK, 3)
    shapes = np.zeros((slots, NUM_SHAPE), np.float16)
    factor = matrix_from_quat_wxyz(splats.quats_wxyz[own]) * splats.scales[own][:, None, :]
    shapes[used, :9] = _half(factor.reshape(-1, 9))
    shapes[used, 9] = _half(splats.opacities[own])
    base = np.zeros((slots, 3), np.float16)
    base[used] = _half(0.5 + harmonics.C0 * splats.sh[own, 0])
    rest = np.zeros((slots, num_rest, 3), np.float16)
    rest[used] = _half(splats.sh[own, 1 : num_rest + 1])
    sigma = np.zeros(slots, np.float32)
    sigma[used] = splats.scales[own].max(1, initial=0.0)
    bounds = _bounds(splats, means, sigma.reshape(num_chunks, CHUNK).max(1, initial=0.0))
    with_levels = isinstance(splats, LodSplats)
    arrays = {
        "bounds_w": bounds,
        "skip": splats.skip - np.arange(num_chunks) if with_levels else np.ones(num_chunks, np.int64),
        "errors_m": splats.errors_m if with_levels else np.zeros(num_chunks, np.float32),
        "means": means.transpose(0, 2, 1),
        "shapes": shapes.reshape(num_chunks, CHUNK, NUM_SHAPE).transpose(0, 2, 1),
        "source": source.reshape(num_chunks, CHUNK),
        "base_colors": base.reshape(num_chunks, CHUNK, 3).transpose(0, 2, 1),
    }
    return ScenePart(
        {name: np.ascontiguousarray(array, CHUNK_ARRAYS[name][0]) for name, array in arrays.items()},
        rest=rest.reshape(num_chunks, CHUNK, num_rest, 3).transpose(0, 2, 3, 1).reshape(-1),
        num_rest=num_rest,
        num_splats=len(splats.means),
        threshold_px=splats.threshold_px if with_levels else 0.0,
        labels=_labels_by_slot(splats, source).reshape(num_chunks, CHUNK) if _has_labels(splats) else None,
    )


def _has_labels(splats: Splats | LodSplats) -> bool:
    return isinstance(splats, Splats) and splats.labels is not None


def _labels_by_slot(splats: Any, source: NDArray[np.int32]) -> NDArray[np.int32]:
    """Labels of the splats that slots hold, -1 where they hold none."""
    labels = np.full(len(source), -1, np.int32)
    labels[source >= 0] = splats.labels[source[source >= 0]]
    return labels


def _half(values: NDArray[np.floating]) -> NDArray[np.float16]:
    """Rounded to half precision, clamped to its range."""
    return np.clip(values, -MAX_HALF, MAX_HALF).astype(np.float16)
