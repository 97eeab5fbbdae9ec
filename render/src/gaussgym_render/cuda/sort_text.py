"""The text of the sorting kernels: bodies of C++ functions for `gaussgym_render.cuda.sort`, see there and in `block`."""

from __future__ import annotations

ITEMS = 8
"""Pairs a thread holds."""
NUM_BUCKETS = 2048
"""Of a long segment."""

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

TIER = (
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

LONG = (
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


def text(template: str, threads: int, prelude: str) -> str:
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
