"""All scenes of a renderer in one set of arrays, whatever their sizes.

Splats are sorted along a Morton curve within their scene and cut into chunks of 256 that carry bounds, so that a camera
discards most of a scene chunk by chunk, and the ones left are projected with vector instructions: a chunk stores each quantity
of its splats contiguously. Short chunks are padded with splats of opacity 0.
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

CHUNK = 256
"""Splats per chunk. Compiled into the kernels, whose cache does not notice a change here: then delete `__pycache__`."""
NUM_PLANES = 13
"""Quantities per splat in `Atlas.planes`: mean 0-2, rotation times scale 3-11 (row-major), opacity 12."""
BLANK_OPACITY = 0.0


@dataclass
class Atlas:
    """S scenes as B chunks of 256 splats each; slot `b·256 + i` is splat i of chunk b."""

    chunk_offsets: NDArray[np.int64]
    """Scene s owns the chunks `chunk_offsets[s]` to `chunk_offsets[s + 1]`, `[S + 1]`."""
    bounds_w: NDArray[np.float32]
    """Centre and half size of the box round the means, and the largest standard deviation [m], `[B, 7]`."""
    planes: NDArray[np.float32]
    """Geometry, `[B, 13, 256]`."""
    source: NDArray[np.int32]
    """Index of each slot's splat in its scene's input (ties in depth are resolved by it), `[B·256]`; -1 for padding."""
    base_colors: NDArray[np.float32]
    """`0.5 + band 0`, `[B, 3, 256]`."""
    rest: NDArray[np.float32]
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
        return int(np.diff(self.chunk_offsets).max(initial=0))


def build_atlas(scenes: Sequence[Splats], *, sh_degree: int | None = None) -> Atlas:
    """Pack scenes.

    Args:
        scenes: Any number of splat sets, empty ones allowed.
        sh_degree: Highest SH degree to keep; default: all that each scene has.

    Returns:
        The atlas.
    """
    parts = [_pack_scene(scene, sh_degree) for scene in scenes]
    rest_sizes = np.array([part["rest"].size for part in parts], np.int64)

    def join(key: str) -> NDArray[Any]:
        return np.ascontiguousarray(np.concatenate([part[key] for part in parts]))

    return Atlas(
        chunk_offsets=np.concatenate([[0], np.cumsum([len(part["bounds"]) for part in parts])]).astype(
            np.int64
        ),
        bounds_w=join("bounds"),
        planes=join("planes"),
        source=join("source"),
        base_colors=join("base"),
        rest=join("rest"),
        rest_offsets=np.cumsum(rest_sizes) - rest_sizes,
        num_rest=np.array([part["num_rest"] for part in parts], np.int64),
        num_splats=np.array([len(scene.means) for scene in scenes], np.int64),
    )


def _pack_scene(splats: Splats, sh_degree: int | None) -> dict[str, Any]:
    """One scene's arrays in chunk layout."""
    n = len(splats.means)
    num_chunks = -(-n // CHUNK)
    order = morton_order(splats.means)
    slots = num_chunks * CHUNK
    have = harmonics.degree_of(splats.sh.shape[1])
    num_rest = harmonics.num_coefficients(have if sh_degree is None else min(have, sh_degree)) - 1

    flat = np.zeros((slots, NUM_PLANES), np.float32)
    flat[:n, 0:3] = splats.means[order]
    flat[n:, 0:3] = splats.means[order[-1]] if n else 0.0
    factor = matrix_from_quat_wxyz(splats.quats_wxyz[order]) * splats.scales[order][:, None, :]
    flat[:n, 3:12] = factor.reshape(n, 9)
    flat[:n, 12] = splats.opacities[order]
    flat[n:, 12] = BLANK_OPACITY
    source = np.full(slots, -1, np.int32)
    source[:n] = order
    base = np.zeros((slots, 3), np.float32)
    base[:n] = 0.5 + harmonics.C0 * splats.sh[order, 0]
    rest = np.zeros((slots, num_rest, 3), np.float32)
    rest[:n] = splats.sh[order, 1 : num_rest + 1]

    means = flat[:, :3].reshape(num_chunks, CHUNK, 3)
    low, high = means.min(1), means.max(1)
    sigma = np.zeros(slots, np.float32)
    sigma[:n] = splats.scales[order].max(1) if n else 0.0
    bounds = np.concatenate(
        [(low + high) / 2, (high - low) / 2, sigma.reshape(num_chunks, CHUNK).max(1, keepdims=True)], 1
    )
    return {
        "planes": flat.reshape(num_chunks, CHUNK, NUM_PLANES).transpose(0, 2, 1),
        "bounds": bounds.astype(np.float32),
        "source": source,
        "base": base.reshape(num_chunks, CHUNK, 3).transpose(0, 2, 1),
        "rest": rest.reshape(num_chunks, CHUNK, num_rest, 3).transpose(0, 2, 3, 1).reshape(-1),
        "num_rest": num_rest,
    }
