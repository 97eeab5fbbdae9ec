"""Segments of (key, value) pairs sorted in place on the device: by key, equal keys by value; no host sync, no allocation.

Segments up to 8192 pairs are sorted inside one block: least significant digit first, eight bits at a time, only over the bits in
which the segment's keys differ (two passes for 16-bit keys, three for the float32 depths of a tile). Pairs are ranked within
their warp by ballots (as in Onesweep, Adinets and Merrill, 2022), and runs of equal keys are put into the order of their
values, or of other numbers, at the end. Longer segments are first distributed over up to 2048 buckets by their leading bits,
then sorted in groups of whole buckets; a bucket that is too long for a block itself is sorted digit by digit, its numbers' bits
included, through memory.

The kernels of whole blocks take segments from a queue for each tier of lengths. Where blocks do not run (Warp's CPU device,
unless `warp.config.enable_cpu_blocks`), `sort_segments` launches the plain twin, one thread a segment.
"""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# ruff: noqa: ANN202, UP018, RUF046  (a variable that a loop changes is declared by a call)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import warp as wp  # noqa: TID253  (imported only where the backend is asked for)
from gaussgym_scene.errors import InputError

from gaussgym_render.cuda import block
from gaussgym_render.cuda.sort_text import ITEMS, LONG, TIER, text

wp.set_module_options({"enable_backward": False})

TIERS = (1024, 2048, 4096, 8192)
"""Longest segments of the tiers that one block sorts in shared memory [pairs]."""
LONG_THREADS = 512
MIN_BLOCKS = (8, 4, 2, 1)
"""Blocks of each tier that registers must leave room for on a multiprocessor: 1024 threads."""
BLOCKS_PER_MULTIPROCESSOR = (16, 8, 4, 2, 4)
"""Queue-fed blocks of each tier, the one for long segments last; two thousand threads, the limit of a multiprocessor."""


def _make_tier(tier: int, prelude: str) -> Any:
    """The kernel that sorts the segments of a tier, one block each at a time."""
    threads = TIERS[tier] // ITEMS

    @wp.func_native(text(TIER, threads, prelude))
    def sort_in_block(
        offsets: wp.array[int],
        lists: wp.array2d[int],
        queue: wp.array2d[int],
        tier: int,
        keys: wp.array[int],
        values: wp.array[int],
        slots: wp.array[int],
        numbers: wp.array[int],
        drop: int,
    ): ...

    @wp.kernel(
        name=f"sort_{TIERS[tier]}",
        module="unique",
        enable_backward=False,
        launch_bounds=(threads, MIN_BLOCKS[tier]),
    )
    def sort_tier(
        offsets: wp.array[int],
        lists: wp.array2d[int],
        queue: wp.array2d[int],
        tier: int,
        keys: wp.array[int],
        values: wp.array[int],
        slots: wp.array[int],
        numbers: wp.array[int],
        drop: int,
    ):
        sort_in_block(offsets, lists, queue, tier, keys, values, slots, numbers, drop)

    return sort_tier


def _make_long(prelude: str) -> Any:
    """The kernel that sorts the segments that no tier holds, one block each at a time."""

    @wp.func_native(text(LONG, LONG_THREADS, prelude))
    def sort_in_block(
        offsets: wp.array[int],
        lists: wp.array2d[int],
        queue: wp.array2d[int],
        tier: int,
        keys: wp.array[int],
        values: wp.array[int],
        slots: wp.array[int],
        numbers: wp.array[int],
        drop: int,
        spare_keys: wp.array[int],
        spare_values: wp.array[int],
    ): ...

    @wp.kernel(name="sort_long", module="unique", enable_backward=False, launch_bounds=(LONG_THREADS, 2))
    def sort_long(
        offsets: wp.array[int],
        lists: wp.array2d[int],
        queue: wp.array2d[int],
        tier: int,
        keys: wp.array[int],
        values: wp.array[int],
        slots: wp.array[int],
        numbers: wp.array[int],
        drop: int,
        spare_keys: wp.array[int],
        spare_values: wp.array[int],
    ):
        sort_in_block(
            offsets, lists, queue, tier, keys, values, slots, numbers, drop, spare_keys, spare_values
        )

    return sort_long


def make_block_kernels(prelude: str = block.PRELUDE) -> dict[Any, int]:
    """The kernels of whole blocks, in the order of tiers, and their threads; `prelude`: `block.PRELUDE` or a test's own."""
    tiers = {_make_tier(tier, prelude): longest // ITEMS for tier, longest in enumerate(TIERS)}
    return {**tiers, _make_long(prelude): LONG_THREADS}


BLOCK_KERNELS = make_block_kernels()
"""For launches, for compiling ahead of time, and for reports."""


@wp.kernel
def enqueue(offsets: wp.array[int], lists: wp.array2d[int], queue: wp.array2d[int]) -> None:
    """Put each segment of two pairs or more into its tier's list."""
    segment = wp.tid()
    length = offsets[segment + 1] - offsets[segment]
    if length > 1:
        tier = int(0)
        while tier < wp.static(len(TIERS)) and length > (wp.static(TIERS[0]) << tier):
            tier += 1
        lists[tier, wp.atomic_add(queue, tier, 0, 1)] = segment


@wp.func
def number_of(value: int, slots: wp.array[int], numbers: wp.array[int]) -> int:
    """What pairs of equal keys are sorted by."""
    if numbers.shape[0] == 0:
        return value
    return int(numbers[slots[value]])


@wp.func
def comes_after(
    key: int, value: int, other_key: int, other_value: int, slots: wp.array[int], numbers: wp.array[int]
) -> bool:
    """Whether a pair belongs behind another."""
    if key != other_key:
        return wp.uint32(key) > wp.uint32(other_key)
    return number_of(value, slots, numbers) > number_of(other_value, slots, numbers)


@wp.func
def swap_pairs(keys: wp.array[int], values: wp.array[int], i: int, j: int) -> None:
    """Exchange two pairs."""
    key = int(keys[i])  # not as a pair: that would keep places, not what stands there
    value = int(values[i])
    keys[i] = keys[j]
    values[i] = values[j]
    keys[j] = key
    values[j] = value


@wp.kernel
def sort_plain(
    offsets: wp.array[int],
    keys: wp.array[int],
    values: wp.array[int],
    slots: wp.array[int],
    numbers: wp.array[int],
    drop: int,
) -> None:
    """The twin of all kernels above: heapsort, one thread a segment."""
    segment = wp.tid()
    first = offsets[segment]
    length = offsets[segment + 1] - first
    for i in range(length):
        keys[first + i] = (keys[first + i] >> drop) << drop
    root = int(length // 2)
    end = int(length)
    while end > 1:
        if root > 0:  # still building the heap
            root -= 1
        else:
            end -= 1
            swap_pairs(keys, values, first, first + end)
        key = int(keys[first + root])
        value = int(values[first + root])
        hole = int(root)
        child = 2 * hole + 1
        while child < end:
            at = first + child
            if child + 1 < end and comes_after(
                keys[at + 1], values[at + 1], keys[at], values[at], slots, numbers
            ):
                child += 1
            if comes_after(keys[first + child], values[first + child], key, value, slots, numbers):
                keys[first + hole] = keys[first + child]
                values[first + hole] = values[first + child]
                hole = int(child)
                child = 2 * hole + 1
            else:
                child = int(end)
        keys[first + hole] = key
        values[first + hole] = value


@dataclass(frozen=True)
class SortBuffers:
    """What `sort_segments` writes beside its arguments; made once for a number of segments and of pairs."""

    lists: wp.array
    """Segments of each tier, long ones last, `[T + 1, S]`."""
    queue: wp.array
    """How many segments a tier has and how many are taken, `[T + 1, 2]`."""
    spare_keys: wp.array
    spare_values: wp.array
    """A second place for pairs, `[P]` each."""
    none: wp.array
    """No numbers."""

    @staticmethod
    def create(num_segments: int, num_pairs: int, device: wp.context.Devicelike = None) -> SortBuffers:
        """Buffers for up to `num_segments` segments and `num_pairs` pairs on a device."""
        tiers = len(TIERS) + 1
        return SortBuffers(
            wp.zeros((tiers, num_segments), dtype=int, device=device),
            wp.zeros((tiers, 2), dtype=int, device=device),
            wp.zeros(num_pairs, dtype=int, device=device),
            wp.zeros(num_pairs, dtype=int, device=device),
            wp.zeros(0, dtype=int, device=device),
        )


def sort_segments(
    offsets: wp.array,
    keys: wp.array,
    values: wp.array,
    buffers: SortBuffers,
    *,
    slots: wp.array | None = None,
    numbers: wp.array | None = None,
    drop: int = 0,
) -> None:
    """Sort each segment of pairs in place, by key and then by value, on the current stream.

    Args:
        offsets: Where segments start, `[S + 1]` int32, ascending, on the device; segment `s` is
            `offsets[s] <= i < offsets[s + 1]`.
        keys: `[P]` int32, compared as unsigned (so do the bits of positive floats); P may exceed the last offset.
        values: `[P]` int32.
        buffers: Made by `SortBuffers.create` for S segments and P pairs or more.
        slots: With `numbers`: pairs of equal keys are sorted by `numbers[slots[value]]` instead, `[R]` int32.
        numbers: `[N]` int32, distinct within a segment.
        drop: How many low bits of the keys do not count; they come out as 0. A pass over eight bits less sorts faster.

    Raises:
        InputError: If the buffers are too small.
    """
    device, segments = keys.device, len(offsets) - 1
    if segments > buffers.lists.shape[1] or len(keys) > len(buffers.spare_keys):
        raise InputError(
            f"{segments} segments of {len(keys)} pairs do not fit sort buffers for {buffers.lists.shape[1]} segments of "
            f"{len(buffers.spare_keys)} pairs; make larger ones."
        )
    ties = [buffers.none if array is None else array for array in (slots, numbers)]
    pairs = [keys, values, *ties, drop]
    if not block.can_run_blocks(device):
        wp.launch(sort_plain, segments, [offsets, *pairs], device=device)
        return
    buffers.queue.zero_()
    wp.launch(enqueue, segments, [offsets, buffers.lists, buffers.queue], device=device)
    for tier, (kernel, threads) in enumerate(BLOCK_KERNELS.items()):
        inputs = [offsets, buffers.lists, buffers.queue, tier, *pairs]
        if tier == len(TIERS):
            inputs += [buffers.spare_keys, buffers.spare_values]
        blocks = block.resident_blocks(device, BLOCKS_PER_MULTIPROCESSOR[tier])
        wp.launch(kernel, blocks * threads, inputs, device=device, block_dim=threads)
