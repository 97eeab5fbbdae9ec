"""What a pixel holds beside colour, expected depth and opacity, from the same culled, projected and sorted splats.

- `rgb_float`: the colour before it is rounded to eight bits, clamped to 0..1.
- `median_depth`: depth of the splat (or object) at which half of the light is used up; 0 where a pixel keeps more than half.
- `labels`: label of that splat; -1 where there is none, where a pixel keeps more than half, and on objects.
- `normals`: mean of the splats' normals, weighted as their colours, to unit length, in the camera frame. A splat's normal is
  its shortest axis, turned to face the camera. 0 where nothing was hit; objects have none.
- `features`: mean of the splats' feature channels, weighted as their colours, over alpha as depth is; objects have none.

The kernel blends once more, plainly and pixel by pixel, and only when asked: images stay bit for bit what they are without.
"""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN202
# Intrinsics get their typing context from numba, not from the caller.
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from gaussgym_scene import InputError
from numpy.typing import NDArray

from gaussgym_render import edits, lanes, oracle
from gaussgym_render.atlas import CHUNK, NUM_SHAPE, Atlas

OUTPUTS = ("rgb_float", "median_depth", "normals", "labels", "features")
"""Names that `SplatRenderer.render(outputs=...)` takes."""
_F = np.float32
_MIN_ALPHA, _MAX_ALPHA, _MIN_T = _F(oracle.MIN_ALPHA), _F(oracle.MAX_ALPHA), _F(oracle.MIN_TRANSMITTANCE)


@dataclass
class ChannelArrays:
    """Arrays to fill for C cameras; those that are not wanted have a length of 0.

    Attributes:
        rgb_float: float32 `[C, H, W, 3]`.
        median_depth: float32 `[C, H, W]` [m].
        normals: float32 `[C, H, W, 3]`, camera frame.
        labels: int32 `[C, H, W]`.
        features: float32 `[C, H, W, F]`.
    """

    rgb_float: NDArray[np.float32]
    median_depth: NDArray[np.float32]
    normals: NDArray[np.float32]
    labels: NDArray[np.int32]
    features: NDArray[np.float32]

    def astuple(self) -> tuple[NDArray[Any], ...]:
        """In the order of `OUTPUTS`."""
        return self.rgb_float, self.median_depth, self.normals, self.labels, self.features


def shapes_of(
    count: int, width: int, height: int, num_features: int
) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and type of each output of `count` cameras."""
    pixels = (count, height, width)
    return {
        "rgb_float": ((*pixels, 3), np.float32),
        "median_depth": (pixels, np.float32),
        "normals": ((*pixels, 3), np.float32),
        "labels": (pixels, np.int32),
        "features": ((*pixels, num_features), np.float32),
    }


def check_outputs(names: Collection[str]) -> None:
    """Raises `InputError` for names that are none."""
    unknown = [name for name in names if name not in OUTPUTS]
    if unknown:
        raise InputError(f"unknown output {unknown[0]!r}; choose from: {', '.join(OUTPUTS)}")


def by_slot(
    atlas: Atlas, values: Sequence[NDArray[Any] | None], shape: tuple[int, ...], dtype: Any, missing: float
) -> NDArray[Any]:
    """Values of splats, in the order of the atlas.

    Args:
        atlas: Of scenes without levels of detail.
        values: One array `[N, *shape]` a scene, in the order of its input; None: all `missing`.
        shape: Of one splat's value.
        dtype: Of the result.
        missing: Value of padding, and of scenes without values.

    Returns:
        `[B·256, *shape]`.
    """
    table = np.full((len(atlas.source), *shape), missing, dtype)
    for (first, last), own in zip(atlas.chunk_ranges * CHUNK, values):
        source = atlas.source[first:last]
        if own is not None and len(source):
            table[first:last][source >= 0] = own[source[source >= 0]]
    return table


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _normal(shapes, slot, view, direction_c, normal_c):
    """Write a splat's unit normal in the camera frame, facing the camera: the cross product of its two longest axes."""
    chunk, i = slot // CHUNK, slot % CHUNK
    at = chunk * NUM_SHAPE * CHUNK + i
    shortest, least = 0, np.inf
    for j in range(3):
        length = 0.0
        for row in range(3):
            length += lanes.half_float(shapes[at + (3 * row + j) * CHUNK]) ** 2
        if length < least:
            shortest, least = j, length
    j, k = (shortest + 1) % 3, (shortest + 2) % 3
    a0, a1, a2 = (
        lanes.half_float(shapes[at + j * CHUNK]),
        lanes.half_float(shapes[at + (3 + j) * CHUNK]),
        lanes.half_float(shapes[at + (6 + j) * CHUNK]),
    )
    b0, b1, b2 = (
        lanes.half_float(shapes[at + k * CHUNK]),
        lanes.half_float(shapes[at + (3 + k) * CHUNK]),
        lanes.half_float(shapes[at + (6 + k) * CHUNK]),
    )
    x, y, z = a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0
    length = np.sqrt(np.float64(x) * x + np.float64(y) * y + np.float64(z) * z)
    scale = 1.0 / length if length > 0.0 else 0.0
    for row in range(3):
        normal_c[row] = _F((view[3 * row] * x + view[3 * row + 1] * y + view[3 * row + 2] * z) * scale)
    if normal_c[0] * direction_c[0] + normal_c[1] * direction_c[1] + normal_c[2] * direction_c[2] > 0:
        for row in range(3):
            normal_c[row] = -normal_c[row]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _values_of(slot, u, v, tables, shapes, view, k, tile, wants_normals, num_features, values):
    """Write the channels of one splat: its normal, if wanted, then its features."""
    if wants_normals:
        x = (_F(tile[0]) + u - _F(k[0, 2])) / _F(k[0, 0])
        y = (_F(tile[1]) + v - _F(k[1, 2])) / _F(k[1, 1])
        _normal(shapes, slot, view, (x, y, _F(1.0)), values)
    for f in range(num_features):
        values[3 + f] = tables[1][slot, f]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def blend_channels(
    count, order, records, tables, means, shapes, edited, view, k, tile, closing, wanted, scratch
) -> None:
    """Blend the channels of one tile's splats.

    Args:
        count: Splats of the tile.
        order: They, front to back.
        records: Their records, see `lanes.append_records`.
        tables: Labels `[slots]` and features `[slots, F]`, by the atlas's slot.
        means: `Atlas.means`, flat.
        shapes: `Atlas.shapes`, flat, as bits.
        edited: The camera's number, and its edits as `edits.kernel_arrays` gives them.
        view: World to camera `[12]`.
        k: Calibration matrix `[3, 3]` [px].
        tile: x, y, width, height [px].
        closing: Depth of each pixel's opaque surface, infinite where there is none `[pixels]` float32 [m].
        wanted: Whether normals are wanted, whether labels are, and how many features.
        scratch: Filled: transmittance, median depth, label `[pixels]`, sums `[pixels, 3 + F]`; then room for `[3 + F]` values.
    """
    left, median, label, sums, values, _ = scratch
    wants_normals, wants_labels, num_features = wanted
    width = tile[2]
    pixels = width * tile[3]
    left[:pixels], median[:pixels], label[:pixels], sums[:pixels] = _F(1.0), _F(0.0), -1, _F(0.0)
    first_channel = 0 if wants_normals else 3
    for i in range(count):
        at = order[i] * lanes.RECORD
        u, v, z = records[at], records[at + 1], records[at + 2]
        slope, falloff, row_falloff, log2_opacity = (
            records[at + 3], records[at + 4], records[at + 5], records[at + 6],
        )  # fmt: skip
        xs, ys = lanes.float_bits(records[at + 7]), lanes.float_bits(records[at + 8])
        slot = np.int64(lanes.float_bits(records[at + 13]))
        fresh = True
        for y in range(ys & 0xFFFF, (ys >> 16) + 1):
            dy = _F(y) + _F(0.5) - v
            peak, centre = log2_opacity - row_falloff * dy * dy, u + slope * dy
            for x in range(xs & 0xFFFF, (xs >> 16) + 1):
                pixel = y * width + x
                before = left[pixel]
                if before <= _F(0.0) or z >= closing[pixel]:
                    continue
                t = _F(x) + _F(0.5) - centre
                alpha = min(_F(2.0) ** (peak - falloff * t * t), _MAX_ALPHA)
                if alpha < _MIN_ALPHA:
                    continue
                weight = before * alpha
                after = before - weight
                if after <= _MIN_T:
                    left[pixel] = -before
                    continue
                left[pixel] = after
                if before > _F(0.5) and after <= _F(0.5):
                    median[pixel] = z
                    if wants_labels:
                        own = tables[0][slot] if len(tables[0]) > 0 else np.int32(-1)
                        label[pixel] = edits.patch_label(edited[0], edited[1], means, slot, own)
                if fresh:
                    _values_of(slot, u, v, tables, shapes, view, k, tile, wants_normals, num_features, values)
                    fresh = False
                for f in range(first_channel, 3 + num_features):
                    sums[pixel, f] += weight * values[f]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def write_channels(camera, tile, closing, alpha, scratch, arrays) -> None:
    """Turn the sums of a tile into output pixels.

    Args:
        camera: Index of the camera in `arrays`.
        tile: x, y, width, height [px].
        closing: See `blend_channels`.
        alpha: What the camera's opacity is `[H, W]`.
        scratch: As `blend_channels` left it.
        arrays: See `ChannelArrays.astuple`; the first is not written here.
    """
    left, median, label, sums, _, _ = scratch
    _, medians, normals, labels, features = arrays
    for j in range(tile[3]):
        for i in range(tile[2]):
            pixel, y, x = j * tile[2] + i, tile[1] + j, tile[0] + i
            if len(medians) > 0:
                on_surface = abs(left[pixel]) > _F(0.5) and closing[pixel] < np.inf
                medians[camera, y, x] = closing[pixel] if on_surface else median[pixel]
            if len(labels) > 0:
                labels[camera, y, x] = label[pixel]
            if len(normals) > 0:
                a, b, c = sums[pixel, 0], sums[pixel, 1], sums[pixel, 2]
                length = np.sqrt(a * a + b * b + c * c)
                scale = _F(1.0) / length if length > _F(1e-6) else _F(0.0)
                normals[camera, y, x, 0] = a * scale
                normals[camera, y, x, 1] = b * scale
                normals[camera, y, x, 2] = c * scale
            if len(features) > 0:
                scale = _F(1.0) / alpha[y, x] if alpha[y, x] > _F(0.0) else _F(0.0)
                for f in range(features.shape[3]):
                    features[camera, y, x, f] = sums[pixel, 3 + f] * scale
