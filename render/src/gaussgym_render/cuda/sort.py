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

wp.set_module_options({"enable_backward": False})

TIERS = (1024, 2048, 4096, 8192)
"""Longest segments of the tiers that one block sorts in shared memory [pairs]."""
ITEMS = 8
"""Pairs a thread holds."""
LONG_THREADS = 512
NUM_BUCKETS = 2048
MIN_BLOCKS = (8, 4, 2, 1)
"""Blocks of each tier that registers must leave room for on a multiprocessor: 1024 threads."""
BLOCKS_PER_MULTIPROCESSOR = (16, 8, 4, 2, 4)
"""Queue-fed blocks of each tier, the one for long segments last; two thousand threads, the limit of a multiprocessor."""

# Ranks `digit[ITEMS]` (a tile, item i of a lane at slot warp·32·ITEMS + 32·i + lane) within its warp into `rank[ITEMS]`, and
# turns `counters[warp][digit]` into how many the warps below hold, `totals[digit]` into how many there are. In order of slots.
_RANK = """
            for (int j = t; j < THREADS / 32 * 128; j += THREADS) words[j] = 0u;
            GG_SYNC();
            GG_UNROLL
            for (int i = 0; i < ITEMS; ++i) {
                const unsigned peers = gg_peers(digit[i]);
                unsigned short* counter = counters + warp_id * 256 + digit[i];
                const int before = *counter, among = gg_count(peers & ((1u << lane) - 1u));
                GG_SYNCWARP();
                if (among == 0) *counter = (unsigned short)(before + gg_count(peers));
                GG_SYNCWARP();
                rank[i] = before + among;
            }
            GG_SYNC();
            for (int d = t; d < 256; d += THREADS) {
                int sum = 0;
                for (int w = 0; w < THREADS / 32; ++w) {
                    const int count = counters[w * 256 + d];
                    counters[w * 256 + d] = (unsigned short)sum;
                    sum += count;
                }
                totals[d] = sum;
            }
            GG_SYNC();
"""

_SCAN = """
    // Exclusive sums of `a[length]` in place.
    auto scan = [&](int* a, int length) {
        const int share = (length + THREADS - 1) / THREADS, from = min(t * share, length), to = min(from + share, length);
        int sum = 0;
        for (int j = from; j < to; ++j) sum += a[j];
        int before = gg_warp_before(sum);
        if (lane == 31) warp_sums[warp_id] = before + sum;
        GG_SYNC();
        for (int w = 0; w < warp_id; ++w) before += warp_sums[w];
        for (int j = from; j < to; ++j) {
            const int count = a[j];
            a[j] = before;
            before += count;
        }
        GG_SYNC();
    };
    // Smallest of all threads' values.
    auto smallest = [&](unsigned value) -> unsigned {
        value = gg_warp_min(value);
        if (lane == 0) warp_sums[warp_id] = (int)value;
        GG_SYNC();
        for (int w = 0; w < THREADS / 32; ++w) value = min(value, (unsigned)warp_sums[w]);
        GG_SYNC();
        return value;
    };
"""

# Sorts `count` <= THREADS·ITEMS pairs at `source_keys`, `source_values` into `all_keys + first`, `values.data + first`.
_SORT_TILE = """
            unsigned key[ITEMS], low = 0xffffffffu, high = 0u;
            int value[ITEMS], rank[ITEMS];
            const int slot = warp_id * 32 * ITEMS + lane;
            GG_UNROLL
            for (int i = 0; i < ITEMS; ++i) {
                const int at = slot + 32 * i;
                key[i] = at < count ? source_keys[at] >> drop : 0xffffffffu;
                value[i] = at < count ? source_values[at] : 0x7fffffff;
                if (at < count) { low = min(low, key[i]); high = max(high, key[i]); }
            }
            low = smallest(low);
            high = ~smallest(~high);
            // What pads the tile stays behind all pairs: its bits are ones, and equal digits keep their order.
            GG_UNROLL
            for (int i = 0; i < ITEMS; ++i) if (slot + 32 * i < count) key[i] -= low;
            const int bits = gg_top(high - low);
            for (int shift = 0; shift < bits; shift += 8) {
                unsigned digit[ITEMS];
                GG_UNROLL
                for (int i = 0; i < ITEMS; ++i) digit[i] = (key[i] >> shift) & 255u;
RANK
                scan(totals, 256);
                GG_UNROLL
                for (int i = 0; i < ITEMS; ++i) rank[i] += counters[warp_id * 256 + digit[i]] + totals[digit[i]];
                GG_SYNC();
                GG_UNROLL
                for (int i = 0; i < ITEMS; ++i) words[rank[i]] = key[i];
                GG_SYNC();
                GG_UNROLL
                for (int i = 0; i < ITEMS; ++i) key[i] = words[slot + 32 * i];
                GG_SYNC();
                GG_UNROLL
                for (int i = 0; i < ITEMS; ++i) words[rank[i]] = (unsigned)value[i];
                GG_SYNC();
                GG_UNROLL
                for (int i = 0; i < ITEMS; ++i) value[i] = (int)words[slot + 32 * i];
                GG_SYNC();
            }
            // Runs of equal keys by value: `rank` keeps how long the run goes on (above), its start is in `key` then.
            GG_UNROLL
            for (int i = 0; i < ITEMS; ++i) words[slot + 32 * i] = key[i];
            GG_SYNC();
            GG_UNROLL
            for (int i = 0; i < ITEMS; ++i) {
                const int at = slot + 32 * i;
                int start = at, end = at + 1;
                if (at < count) {
                    all_keys[first + at] = (key[i] + low) << drop;
                    while (start > 0 && words[start - 1] == key[i]) --start;
                    while (end < count && words[end] == key[i]) ++end;
                }
                key[i] = (unsigned)start;
                rank[i] = end;
            }
            GG_SYNC();
            GG_UNROLL
            for (int i = 0; i < ITEMS; ++i)
                if (rank[i] - (int)key[i] > 1) words[slot + 32 * i] = (unsigned)number_of(value[i]);
            GG_SYNC();
            GG_UNROLL
            for (int i = 0; i < ITEMS; ++i) {
                const int at = slot + 32 * i, start = (int)key[i];
                if (at >= count) continue;
                int to = start;
                if (rank[i] - start > 1) {
                    const int own = (int)words[at];
                    for (int j = start; j < rank[i]; ++j) {
                        const int other = (int)words[j];
                        to += other < own || (other == own && j < at);
                    }
                } else to = at;
                values.data[first + to] = value[i];
            }
            GG_SYNC();
"""

_TAKE = """
    while (true) {
        if (t == 0) taken = gg_add(queue.data + 2 * tier + 1, 1);
        GG_SYNC();
        const int turn = taken;
        GG_SYNC();
        if (turn >= queue.data[2 * tier]) break;
        const int segment = lists.data[tier * (int)lists.shape[1] + turn];
        const int first = offsets.data[segment], length = offsets.data[segment + 1] - first;
"""

_SHARED = """
    GG_SHARED unsigned words[THREADS * ITEMS];  // a tile's keys or values; before that, counters
    GG_SHARED int totals[256], warp_sums[32], taken;
    unsigned* all_keys = (unsigned*)keys.data;
    const bool numbered = numbers.shape[0] > 0;
    auto number_of = [&](int value) -> int { return numbered ? numbers.data[slots.data[value]] : value; };
    unsigned short* counters = (unsigned short*)words;
"""

_TIER = (
    _SHARED
    + _SCAN
    + _TAKE
    + """
        const int count = length;
        const unsigned* source_keys = all_keys + first;
        const int* source_values = values.data + first;
        {
SORT_TILE
        }
    }
"""
)

_LONG = (
    _SHARED
    + """
    GG_SHARED int ends[NUM_BUCKETS];
    GG_SHARED int bases[256];
    unsigned* all_spare_keys = (unsigned*)spare_keys.data;
"""
    + _SCAN
    + _TAKE
    + """
        const unsigned* in_keys = all_keys + first;
        const int* in_values = values.data + first;
        const unsigned compared = 0xffffffffu << drop;
        unsigned lowest = 0xffffffffu, highest = 0u;
        for (int j = t; j < length; j += THREADS) {
            lowest = min(lowest, in_keys[j] & compared);
            highest = max(highest, in_keys[j] & compared);
        }
        lowest = smallest(lowest);
        highest = ~smallest(~highest);
        const int down = max(gg_top(highest - lowest) - NUM_BUCKET_BITS, 0);
        for (int j = t; j < NUM_BUCKETS; j += THREADS) ends[j] = 0;
        GG_SYNC();
        for (int j = t; j < length; j += THREADS) gg_add(ends + (((in_keys[j] & compared) - lowest) >> down), 1);
        GG_SYNC();
        scan(ends, NUM_BUCKETS);
        for (int j = t; j < length; j += THREADS) {
            const unsigned moved = in_keys[j] & compared;
            const int to = first + gg_add(ends + ((moved - lowest) >> down), 1);
            all_spare_keys[to] = moved;
            spare_values.data[to] = in_values[j];
        }
        GG_SYNC();  // each bucket's start has become its end
        int begun = 0;
        while (begun < length) {
            // The last bucket that ends within a tile's reach, by bisection; all threads alike.
            int below = -1, above = NUM_BUCKETS;
            while (above - below > 1) {
                const int middle = (below + above) >> 1;
                if (ends[middle] - begun <= THREADS * ITEMS) below = middle;
                else above = middle;
            }
            int end = below >= 0 ? ends[below] : 0;
            if (end > begun) {
                const int count = end - begun;
                const unsigned* source_keys = all_spare_keys + first + begun;
                const int* source_values = spare_values.data + first + begun;
                const int whole = first;
                const int first = whole + begun;
SORT_TILE
            } else {
                end = ends[above];
BIG_BUCKET
            }
            begun = end;
        }
    }
"""
)

# A bucket longer than a tile: by the bits of values, then of keys, that differ in it, a digit a pass, from the spare arrays to
# the true ones and back; an even number of passes is followed by a copy.
_BIG_BUCKET = """
                unsigned *from_keys = all_spare_keys + first + begun, *to_keys = all_keys + first + begun;
                int *from_values = spare_values.data + first + begun, *to_values = values.data + first + begun;
                const int many = end - begun;
                unsigned key_low = 0xffffffffu, key_high = 0u, value_low = 0xffffffffu, value_high = 0u;
                for (int j = t; j < many; j += THREADS) {
                    const unsigned moved = (unsigned)number_of(from_values[j]) ^ 0x80000000u;  // signed order
                    key_low = min(key_low, from_keys[j]); key_high = max(key_high, from_keys[j]);
                    value_low = min(value_low, moved); value_high = max(value_high, moved);
                }
                key_low = smallest(key_low); key_high = ~smallest(~key_high);
                value_low = smallest(value_low); value_high = ~smallest(~value_high);
                const int value_passes = (gg_top(value_high - value_low) + 7) / 8;
                const int passes = value_passes + (gg_top(key_high - key_low) + 7) / 8;
                for (int pass = 0; pass < (passes | 1); ++pass) {
                    const bool by_value = pass < value_passes, copy = pass >= passes;
                    const int shift = 8 * (by_value ? pass : pass - value_passes);
                    auto digit_of = [&](int j) -> unsigned {
                        if (copy) return 0u;
                        const unsigned all = by_value ? ((unsigned)number_of(from_values[j]) ^ 0x80000000u) - value_low
                                                      : from_keys[j] - key_low;
                        return (all >> shift) & 255u;
                    };
                    for (int d = t; d < 256; d += THREADS) bases[d] = 0;
                    GG_SYNC();
                    for (int j = t; j < many; j += THREADS) gg_add(bases + digit_of(j), 1);
                    GG_SYNC();
                    scan(bases, 256);
                    for (int tile = 0; tile < many; tile += THREADS * ITEMS) {
                        unsigned digit[ITEMS];
                        int rank[ITEMS];
                        const int slot = tile + warp_id * 32 * ITEMS + lane;
                        GG_UNROLL
                        for (int i = 0; i < ITEMS; ++i) digit[i] = slot + 32 * i < many ? digit_of(slot + 32 * i) : 255u;
RANK
                        GG_UNROLL
                        for (int i = 0; i < ITEMS; ++i) {
                            const int at = slot + 32 * i;
                            const int to = bases[digit[i]] + counters[warp_id * 256 + digit[i]] + rank[i];
                            if (at < many) { to_keys[to] = from_keys[at]; to_values[to] = from_values[at]; }
                        }
                        GG_SYNC();
                        for (int d = t; d < 256; d += THREADS) bases[d] += totals[d];
                        GG_SYNC();
                    }
                    unsigned* swapped_keys = from_keys; from_keys = to_keys; to_keys = swapped_keys;
                    int* swapped_values = from_values; from_values = to_values; to_values = swapped_values;
                }
"""


def _text(template: str, threads: int, prelude: str) -> str:
    """A snippet with its parts put together and its constants filled in."""
    for name, part in (("BIG_BUCKET", _BIG_BUCKET), ("SORT_TILE", _SORT_TILE), ("RANK", _RANK)):
        template = template.replace(f"\n{name}\n", part)
    constants = {
        "NUM_BUCKET_BITS": NUM_BUCKETS.bit_length() - 1,
        "NUM_BUCKETS": NUM_BUCKETS,
        "THREADS": threads,
        "ITEMS": ITEMS,
    }
    for name, number in constants.items():
        template = template.replace(name, str(number))
    return prelude + template


def _make_tier(tier: int, prelude: str) -> Any:
    """The kernel that sorts the segments of a tier, one block each at a time."""
    threads = TIERS[tier] // ITEMS

    @wp.func_native(_text(_TIER, threads, prelude))
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

    @wp.func_native(_text(_LONG, LONG_THREADS, prelude))
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
