"""What drawing a frame takes, counted on the CPU: chunks, splats, pairs, pixels evaluated and pixels that count.

An independent count of what a tiled renderer has to do, from the float64 reference's projections: what a GPU's own counters are
compared with, and what the floors (`floors`) are made of where there is none.
"""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from dataclasses import asdict

import numba
import numpy as np
from gaussgym_scene import Splats
from numpy.typing import NDArray

from gaussgym_render import oracle, projection
from gaussgym_render.atlas import CHUNK, Atlas, build_atlas
from gaussgym_render.bench.floors import Counts
from gaussgym_render.bench.scenes import Workload
from gaussgym_render.lod import LodSplats

SUB_TILE = 8
"""Side of the square of pixels that is evaluated, and given up, at once [px]."""
MACRO_TILE = 64
"""Side of the squares that an image above `WHOLE_PIXELS` is listed by [px]."""
WHOLE_PIXELS = 128 * 64
"""An image of at most so many pixels is one macro-tile."""


@numba.njit(cache=True, error_model="numpy")
def _blend_counts(means, conics, opacities, boxes, width, height):
    """Pixels evaluated and contributing, by sub-tile, front to back until none is open."""
    evaluated = contributing = 0
    left = np.empty(SUB_TILE * SUB_TILE)
    for top in range(0, height, SUB_TILE):
        for begin in range(0, width, SUB_TILE):
            wide, high = min(SUB_TILE, width - begin), min(SUB_TILE, height - top)
            left[:] = 1.0
            still_open = wide * high
            for s in range(len(opacities)):
                x0, y0, x1, y1 = boxes[s]
                if x1 <= begin or x0 >= begin + wide or y1 <= top or y0 >= top + high:
                    continue
                evaluated += wide * high
                for p in range(wide * high):
                    if left[p] < 0.0:
                        continue
                    dx = begin + p % wide + 0.5 - means[s, 0]
                    dy = top + p // wide + 0.5 - means[s, 1]
                    power = 0.5 * (conics[s, 0] * dx * dx + conics[s, 2] * dy * dy) + conics[s, 1] * dx * dy
                    alpha = min(oracle.MAX_ALPHA, opacities[s] * np.exp(-power))
                    if alpha < oracle.MIN_ALPHA:
                        continue
                    after = left[p] * (1.0 - alpha)
                    if after <= oracle.MIN_TRANSMITTANCE:
                        left[p] = -1.0
                        still_open -= 1
                    else:
                        left[p] = after
                        contributing += 1
                if still_open == 0:
                    break
    return evaluated, contributing


@numba.njit(cache=True, error_model="numpy")
def _chunk_counts(chunk_range, bounds, skip, errors_m, threshold_px, view, k, near, tan_limit, tile):
    """Chunks tested, and those that are left, as the CPU backend walks them."""
    tested = drawn = 0
    chunk = chunk_range[0]
    focal = max(k[0, 0], k[1, 1])
    while chunk < chunk_range[1]:
        tested += 1
        visible = projection.chunk_visible(bounds[chunk], view, k, near, tan_limit, tile)
        takes = visible and projection.detailed_enough(
            bounds[chunk], errors_m[chunk], view, focal, threshold_px
        )
        drawn += 1 if takes else 0
        chunk += 1 if visible and not takes else skip[chunk]
    return tested, drawn


def count_frame(
    splats: Splats | LodSplats,
    atlas: Atlas,
    c2w: NDArray[np.float64],
    k: NDArray[np.float64],
    width: int,
    height: int,
) -> Counts:
    """Counts of one camera.

    Args:
        splats: Its scene.
        atlas: The same scene alone.
        c2w: Camera to world `[4, 4]`.
        k: Calibration matrix `[3, 3]` [px].
        width: Image width [px].
        height: Image height [px].
    """
    c2w, k = np.ascontiguousarray(c2w), np.ascontiguousarray(k)
    view, tan_limit = np.empty(12), np.empty(6)
    projection.place_camera(c2w, view)
    projection.tan_limits(k, np.array([width, height], np.int64), tan_limit)
    tile = np.array([0, 0, width, height], np.int64)
    chunks, drawn = _chunk_counts(
        atlas.chunk_ranges[0], atlas.bounds_w, atlas.skip, atlas.errors_m, atlas.thresholds_px[0], view, k,
        0.01, tan_limit, tile,
    )  # fmt: skip
    shown = splats.take(splats.splats_of(splats.select(c2w, k))) if isinstance(splats, LodSplats) else splats
    p = oracle.project(shown, c2w, k, width, height)
    inverse = np.linalg.inv(p.covariances_px) if len(p.index) else np.zeros((0, 2, 2))
    conics = np.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], -1)
    boxes = _boxes(p, width, height)
    evaluated, contributing = _blend_counts(p.means_px, conics, p.opacities, boxes, width, height)
    return Counts(
        chunks_tested=float(chunks),
        tested=float(drawn * CHUNK),
        visible=float(len(p.index)),
        pairs=float(_macro_tiles(boxes, width, height).sum()),
        evaluated=float(evaluated),
        contributing=float(contributing),
    )


def _boxes(p: oracle.Projection, width: int, height: int) -> NDArray[np.int64]:
    """Pixels that each splat can reach, `[V, 4]` as x0, y0, x1, y1, ends exclusive."""
    extent = np.minimum(
        oracle.MAX_EXTENT, np.sqrt(2.0 * np.log(np.maximum(p.opacities / oracle.MIN_ALPHA, 1.0)))
    )
    reach = extent[:, None] * np.sqrt(np.diagonal(p.covariances_px, axis1=1, axis2=2))
    # The pixels whose centres lie within reach.
    low = np.ceil(p.means_px - reach - 0.5)
    high = np.floor(p.means_px + reach - 0.5) + 1.0
    size = [width, height]
    return np.concatenate([np.clip(low, 0, size), np.clip(high, 0, size)], 1).astype(np.int64)


def _macro_tiles(boxes: NDArray[np.int64], width: int, height: int) -> NDArray[np.int64]:
    """How many macro-tiles each box touches, `[V]`."""
    if width * height <= WHOLE_PIXELS:
        return np.ones(len(boxes), np.int64)
    first, last = boxes[:, :2] // MACRO_TILE, np.maximum(boxes[:, 2:] - 1, boxes[:, :2]) // MACRO_TILE
    return (last - first + 1).prod(1)


def count_workload(workload: Workload, *, cameras: int = 8) -> Counts:
    """Mean counts over some cameras of a workload, spread over it, in the first scene's splats.

    Args:
        workload: Whose scenes are copies of one another (`scenes.make_workload`) or a single one.
        cameras: How many to count.
    """
    own = np.flatnonzero(workload.scene_ids == workload.scene_ids[0])
    chosen = own[np.linspace(0, len(own) - 1, min(cameras, len(own))).round().astype(int)]
    splats = workload.scenes[int(workload.scene_ids[0])]
    atlas = build_atlas([splats], sh_degree=0)
    size = (workload.width, workload.height)
    each = [asdict(count_frame(splats, atlas, workload.c2w[c], workload.K[c], *size)) for c in chosen]
    return Counts(**{name: float(np.mean([row[name] for row in each])) for name in each[0]})
