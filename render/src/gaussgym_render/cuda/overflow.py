"""What happens when a wave sees more than there is room for: the farthest go, and are counted.

Depths are sorted into bins of one percent; where all do not fit, the nearest bins that do are kept. Nothing here asks the host:
the kernels are always launched, and return at once while everything fits.
"""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: UP018, RUF046  (loop variables are declared by a call; `and` evaluates both sides)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import warp as wp  # noqa: TID253  (this package is imported only where the backend is asked for)

from gaussgym_render.cuda.cameras import Cameras, Wave, wave_camera
from gaussgym_render.cuda.device_atlas import Scenes

wp.set_module_options({"enable_backward": False})

BINS = 1024
"""Bins of depth: 64 an octave, from 2^-8 to 2^8 m; what lies nearer or farther is in the first or last."""
_BINS = wp.constant(BINS)
_NEAREST_BITS = wp.constant(0x3B800000)  # of the float 2^-8


@wp.struct
class Limit:
    """Room for something, and how it was kept within it."""

    histogram: wp.array[wp.int32]
    """Of what there is by depth; 0 between waves, `[1024]`."""
    cut: wp.array[wp.int32]
    """First bin that is left out, 1024 if none, `[1]`."""
    dropped: wp.array[wp.int32]
    """How many were left out so far, and in how many waves, `[2]`."""
    capacity: int
    """Room."""


@dataclass(frozen=True)
class Counters:
    """What went wrong since the counters were last read.

    Attributes:
        refused: Cameras that could not be rendered: a pose that is not rigid, a calibration, scene or size out of range.
        dropped_splats: Visible splats for which a wave had no room, the farthest.
        dropped_pairs: Pairs of splat and macro-tile for which it had none, the farthest.
        overflowed_waves: Waves in which that happened.
        refused_instances: Object instances that were left out: a pose that is not rigid, or an object out of range.
        refused_edits: Cameras' edits and patches that were left out: a value that is not finite, or a pose that is not rigid.
    """

    refused: int
    dropped_splats: int
    dropped_pairs: int
    overflowed_waves: int
    refused_instances: int = 0
    refused_edits: int = 0


def make_limit(capacity: int, device: Any) -> Any:
    """A limit that was never reached."""
    limit = Limit()
    limit.histogram = wp.zeros(BINS, dtype=wp.int32, device=device)
    limit.cut = wp.full(1, BINS, dtype=wp.int32, device=device)
    limit.dropped = wp.zeros(2, dtype=wp.int32, device=device)
    limit.capacity = capacity
    return limit


@wp.func
def depth_bin(z: float) -> int:
    """The bin of a depth [m]."""
    steps = (wp.cast(wp.max(z, 0.0), wp.int32) - _NEAREST_BITS) >> 17
    return wp.min(wp.max(steps, 0), _BINS - 1)


@wp.kernel
def find_cut(totals: wp.array[wp.int32], limit: Limit) -> None:
    """Find the first bin that does not fit any more, from the histogram, and clear that; the last of `totals` is all there is."""
    total = totals[totals.shape[0] - 1]
    limit.cut[0] = _BINS
    if total <= limit.capacity:
        return
    kept, cut = int(0), int(_BINS)
    for i in range(_BINS):
        count = limit.histogram[i]
        limit.histogram[i] = 0
        if cut == _BINS:
            if kept + count > limit.capacity:
                cut = i
            else:
                kept += count
    limit.cut[0] = cut
    limit.dropped[0] = limit.dropped[0] + total - kept
    limit.dropped[1] = limit.dropped[1] + 1


@wp.func
def chunk_bin(scenes: Scenes, cameras: Cameras, wave: Wave, at: int) -> int:
    """Bin of the nearest depth of a chunk's box, for the camera and chunk that a place in `Wave.counts` is of."""
    camera = wave_camera(wave, at // wave.max_chunks)
    chunk = scenes.chunk_ranges[cameras.scenes[camera], 0] + at % wave.max_chunks
    r, half = cameras.rotations[camera], scenes.halves_w[chunk]
    reach = wp.abs(r[2, 0]) * half[0] + wp.abs(r[2, 1]) * half[1] + wp.abs(r[2, 2]) * half[2]
    return depth_bin(wave.origins_c[at][2] - reach)


@wp.kernel
def histogram_chunks(scenes: Scenes, cameras: Cameras, wave: Wave, limit: Limit) -> None:
    """Where a wave sees too many splats, sort them into bins, chunk by chunk."""
    at = wp.tid()
    if wave.offsets[wave.offsets.shape[0] - 1] <= limit.capacity:
        return
    count = wave.counts[at]
    if count > 0:
        wp.atomic_add(limit.histogram, chunk_bin(scenes, cameras, wave, at), count)


@wp.kernel
def drop_chunks(scenes: Scenes, cameras: Cameras, wave: Wave, limit: Limit) -> None:
    """Forget the chunks from the cut on."""
    at = wp.tid()
    if limit.cut[0] == _BINS or wave.counts[at] == 0:
        return
    if chunk_bin(scenes, cameras, wave, at) >= limit.cut[0]:
        wave.counts[at] = 0
