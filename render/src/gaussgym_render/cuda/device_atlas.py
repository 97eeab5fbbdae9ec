"""Scenes on a Warp device: an `Atlas` as it is (chunks of 256 splats, half precision), and what levels of detail need."""

# Warp reads annotations in a way of its own.
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import warp as wp  # noqa: TID253  (this package is imported only where the backend is asked for)
from gaussgym_scene import InputError
from numpy.typing import NDArray

from gaussgym_render.atlas import CHUNK, NUM_SHAPE, Atlas

MAX_CHUNKS = (2**31 - 1) // (NUM_SHAPE * CHUNK)
"""Chunks of all scenes together, 214 million splats: places in the arrays, `rest` apart, are 32-bit numbers."""


@wp.struct
class Scenes:
    """An atlas's arrays as kernels take them; B chunks, S scenes, slot `256·b + i` is splat i of chunk b."""

    chunk_ranges: wp.array2d[wp.int32]
    """First chunk of each scene and one past its last, `[S, 2]`."""
    centers_w: wp.array[wp.vec3]
    """Centre of the box round the means of a chunk's subtree [m], `[B]`; the origin that its splats are projected from."""
    halves_w: wp.array[wp.vec3]
    """Half size of that box [m], `[B]`."""
    sigmas_m: wp.array[wp.float32]
    """Largest standard deviation in the subtree, `[B]`."""
    parents: wp.array[wp.int32]
    """The node above, -1 for roots and chunks of plain scenes, `[B]`."""
    lows_w: wp.array[wp.vec3d]
    """Lower corner of the box that a node's distance is measured to [m]; those of children lie inside, bit by bit, `[B]`."""
    highs_w: wp.array[wp.vec3d]
    """Its upper corner, `[B]`."""
    errors_m: wp.array[wp.float32]
    """As `Atlas.errors_m`, `[B]`."""
    thresholds_px: wp.array[wp.float64]
    """As `Atlas.thresholds_px`, `[S]`."""
    means: wp.array[wp.float32]
    """Places, `[B, 3, 256]`, flat [m]."""
    shapes: wp.array[wp.float16]
    """Rotation times scale and opacity, `[B, 10, 256]`, flat."""
    base_colors: wp.array[wp.float16]
    """`0.5 + band 0`, `[B, 3, 256]`, flat."""
    rest: wp.array[wp.float16]
    """Bands 1 and up, flat, as `Atlas.rest`."""
    rest_offsets: wp.array[wp.int64]
    """Where each scene's bands begin, `[S]`."""
    num_rest: wp.array[wp.int32]
    """Coefficients per channel beyond band 0, `[S]`."""
    source: wp.array[wp.int32]
    """Rank of each slot's splat among equal depths, -1 for padding, `[256·B]`."""


@dataclass(frozen=True)
class DeviceAtlas:
    """Scenes on a device.

    Attributes:
        scenes: The arrays.
        num_scenes: S.
        max_chunks: Chunks of the largest scene, at least 1.
        num_bytes: Memory that the arrays take [B].
        device: Where they are.
    """

    scenes: Any
    num_scenes: int
    max_chunks: int
    num_bytes: int
    device: Any


def tree_parents(chunk_ranges: NDArray[np.int64], skip: NDArray[np.int64]) -> NDArray[np.int32]:
    """The node above each chunk `[B]`, -1 for none, of trees in pre-order with `Atlas.skip`."""
    parents = np.full(len(skip), -1, np.int32)
    inner = np.flatnonzero(skip > 1)
    # In pre-order a node comes before its subtree, so that the last writer is the nearest ancestor.
    for node in inner:
        parents[node + 1 : node + skip[node]] = node
    parents[chunk_ranges[chunk_ranges[:, 0] < chunk_ranges[:, 1], 0]] = -1
    return parents


def nested_boxes(
    bounds_w: NDArray[np.float32], parents: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners `[B, 3]` of chunks' boxes, widened by rounding errors so that every box holds its children's exactly.

    The distance of a camera then never grows from a node to its parent, and a cut through the tree can be decided node by node.
    """
    center, half = bounds_w[:, :3].astype(np.float64), bounds_w[:, 3:6].astype(np.float64)
    low, high = center - half, center + half
    for node in np.flatnonzero(parents >= 0)[::-1]:  # children before parents
        above = parents[node]
        low[above] = np.minimum(low[above], low[node])
        high[above] = np.maximum(high[above], high[node])
    return low, high


def upload(atlas: Atlas, device: Any) -> DeviceAtlas:
    """Copy an atlas to a Warp device.

    Raises:
        InputError: It has more chunks than 32-bit numbers reach.
    """
    if len(atlas.bounds_w) > MAX_CHUNKS:
        raise InputError(
            f"found {len(atlas.bounds_w)} chunks of 256 splats, expected at most {MAX_CHUNKS} on one device; share the scenes "
            "between devices, or let them take turns (memory_budget_bytes)"
        )
    parents = tree_parents(atlas.chunk_ranges, atlas.skip)
    low, high = nested_boxes(atlas.bounds_w, parents)
    scenes = Scenes()
    values: dict[str, tuple[Any, Any]] = {
        "chunk_ranges": (atlas.chunk_ranges, wp.int32),
        "centers_w": (atlas.bounds_w[:, :3], wp.vec3),
        "halves_w": (atlas.bounds_w[:, 3:6], wp.vec3),
        "sigmas_m": (atlas.bounds_w[:, 6], wp.float32),
        "parents": (parents, wp.int32),
        "lows_w": (low, wp.vec3d),
        "highs_w": (high, wp.vec3d),
        "errors_m": (atlas.errors_m, wp.float32),
        "thresholds_px": (atlas.thresholds_px, wp.float64),
        "means": (atlas.means.reshape(-1), wp.float32),
        "shapes": (atlas.shapes.reshape(-1), wp.float16),
        "base_colors": (atlas.base_colors.reshape(-1), wp.float16),
        "rest": (atlas.rest, wp.float16),
        "rest_offsets": (atlas.rest_offsets, wp.int64),
        "num_rest": (atlas.num_rest, wp.int32),
        "source": (atlas.source, wp.int32),
    }
    num_bytes = 0
    for name, (array, dtype) in values.items():
        held = wp.array(np.ascontiguousarray(array), dtype=dtype, device=device)
        num_bytes += held.capacity
        setattr(scenes, name, held)
    return DeviceAtlas(
        scenes, len(atlas.chunk_ranges), max(atlas.max_chunks, 1), num_bytes, wp.get_device(device)
    )
