"""Splats in order of depth: exact, stable, ties by their number in the input; compiled by numba."""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN201, ANN202
# Intrinsics get their typing context from numba, not from the caller.
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import numba
import numpy as np

RADIX_BITS = 10
HISTOGRAM = (1 << 11) + 1
"""Counters that `sort` needs: of a third of 32 bits, and how many more cameras are sorted by all their bits at once."""
_WARY_CAMERAS = 32
_SHORT_RUN = 24  # splats of equal depth that are sorted by insertion


@numba.njit(cache=True, nogil=True, error_model="numpy")
def sort(keys, count, order, pairs, histograms):
    """Sort positive float32 bits stably; fills `order[:count]`, and leaves the keys sorted in `keys`.

    Two radix passes over the highest 20 bits in which the keys differ leave them nearly sorted; insertion does the rest. Where
    that takes long (a wall seen straight on, and something far behind it) three passes take all bits, and do so at once for the
    next cameras, which probably see the wall too: `histograms[-1]` counts down for how many.
    """
    low, high = np.uint32(0xFFFFFFFF), np.uint32(0)
    for i in range(count):
        low, high = min(low, keys[i]), max(high, keys[i])
        order[i] = i
    spread = high - low if count > 0 else np.uint32(0)
    bits = 0
    while bits < 32 and (spread >> np.uint32(bits)) != 0:
        bits += 1
    shift = max(bits - 2 * RADIX_BITS, 0)
    if shift == 0 or histograms[-1] == 0:
        _radix_pass(keys, order, count, low, shift, RADIX_BITS, histograms, pairs, True)
        _radix_pass(keys, order, count, low, shift + RADIX_BITS, RADIX_BITS, histograms, pairs, False)
        if shift == 0 or insert(keys, count, order):
            return
        histograms[-1] = _WARY_CAMERAS
    histograms[-1] -= 1
    width = (bits + 2) // 3
    _radix_pass(keys, order, count, low, 0, width, histograms, pairs, True)
    _radix_pass(keys, order, count, low, width, width, histograms, pairs, False)
    _radix_pass(keys, order, count, low, 2 * width, width, histograms, pairs, True)
    for i in range(count):
        keys[i], order[i] = np.uint32(pairs[i] >> np.uint64(32)), np.int32(pairs[i] & np.uint64(0xFFFFFFFF))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _radix_pass(keys, order, count, low, shift, width, histogram, pairs, into_pairs):
    """Distribute by `width` bits of the keys above `low`, from `keys` and `order` into `pairs` or back."""
    mask, down = np.uint32((1 << width) - 1), np.uint32(shift)
    histogram[: 1 << width] = 0
    for i in range(count):
        key = keys[i] if into_pairs else np.uint32(pairs[i] >> np.uint64(32))
        histogram[np.uintp(((key - low) >> down) & mask)] += 1
    total = 0
    for digit in range(1 << width):
        total, histogram[digit] = total + histogram[digit], total
    if into_pairs:
        for i in range(count):
            digit = np.uintp(((keys[i] - low) >> down) & mask)
            at = histogram[digit]
            histogram[digit] = at + 1
            pairs[np.uintp(at)] = (np.uint64(keys[i]) << np.uint64(32)) | np.uint64(order[i])
        return
    for i in range(count):
        key = np.uint32(pairs[i] >> np.uint64(32))
        digit = np.uintp(((key - low) >> down) & mask)
        at = histogram[digit]
        histogram[digit] = at + 1
        keys[np.uintp(at)], order[np.uintp(at)] = key, np.int32(pairs[i] & np.uint64(0xFFFFFFFF))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def insert(keys, count, order):
    """Sort nearly sorted keys by insertion, stably; gives up, and returns False, where they are not."""
    budget = count + 64
    for i in range(1, count):
        key = keys[i]
        if key >= keys[i - 1]:
            continue
        moved, to = order[i], i
        while to > 0 and keys[to - 1] > key:
            keys[to], order[to] = keys[to - 1], order[to - 1]
            to -= 1
        keys[to], order[to] = key, moved
        budget -= i - to
        if budget < 0:
            return False
    return True


@numba.njit(cache=True, nogil=True, error_model="numpy")
def break_ties(keys, count, order, numbers):
    """Put splats of equal depth into the order of the input (they come in the atlas's)."""
    start = 0
    for i in range(1, count + 1):
        if i < count and keys[i] == keys[start]:
            continue
        if i - start > _SHORT_RUN:
            run = order[start:i]
            run[:] = run[np.argsort(numbers[run])]
        elif i - start > 1:  # by insertion: scenes on a grid hold thousands of pairs
            for j in range(start + 1, i):
                moved = order[j]
                number = numbers[moved]
                to = j
                while to > start and numbers[order[to - 1]] > number:
                    order[to] = order[to - 1]
                    to -= 1
                order[to] = moved
        start = i
