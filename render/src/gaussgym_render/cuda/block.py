"""What the C++ snippets of this folder share: one thread block's barriers, votes and scans, on CUDA and on Warp's CPU fibers.

A snippet of `wp.func_native` is the body of a C++ function. `PRELUDE` opens it; after it the rest of the text is the same on
both devices, so that the tests execute on the CPU what a GPU will execute. On the CPU the threads of a block are fibers that
switch at barriers (`warp.config.enable_cpu_blocks`), hence two rules for the text: warp-wide operations stand only where the
whole block passes, and the block's shared arrays are declared with `GG_SHARED` (plain static storage on the CPU: one launch at
a time there).
"""

from __future__ import annotations

import warp as wp  # noqa: TID253  (imported only where the backend is asked for)

WARP = 32
"""Threads of a warp."""
MAX_THREADS = 1024

PRELUDE = """
#undef GG_SHARED
#undef GG_SYNC
#undef GG_SYNCWARP
#undef GG_UNROLL
#undef GG_ROLLED
#if defined(__CUDA_ARCH__)
#define GG_SHARED __shared__
#define GG_SYNC() __syncthreads()
#define GG_SYNCWARP() __syncwarp()
#define GG_UNROLL _Pragma("unroll")
#define GG_ROLLED _Pragma("unroll 1")
    const int t = threadIdx.x, lane = threadIdx.x & 31, warp_id = threadIdx.x >> 5;
    auto gg_add = [](auto* at, auto value) { return atomicAdd(at, value); };
    auto gg_count = [](unsigned bits) -> int { return __popc(bits); };
    auto gg_top = [](unsigned bits) -> int { return 32 - __clz(bits); };
    auto gg_reverse = [](unsigned bits) -> unsigned { return __brev(bits); };
    auto gg_ballot = [](bool vote) -> unsigned { return __ballot_sync(0xffffffffu, vote); };
    auto gg_warp_any = [](bool vote) -> bool { return __any_sync(0xffffffffu, vote); };
    auto gg_sync_or = [](bool vote) -> bool { return __syncthreads_or(vote); };
    auto gg_warp_min = [](unsigned value) -> unsigned {
        GG_UNROLL
        for (int o = 16; o > 0; o >>= 1) value = min(value, __shfl_xor_sync(0xffffffffu, value, o));
        return value;
    };
    auto gg_warp_before = [](int value) -> int {  // sum over the lanes below
        const int own = value;
        GG_UNROLL
        for (int o = 1; o < 32; o <<= 1) {
            const int other = __shfl_up_sync(0xffffffffu, value, o);
            if ((threadIdx.x & 31) >= o) value += other;
        }
        return value - own;
    };
    auto gg_peers = [](unsigned digit) -> unsigned {  // lanes with the same eight bits
        unsigned peers = 0xffffffffu;
        GG_UNROLL
        for (int bit = 0; bit < 8; ++bit) {
            const bool one = (digit >> bit) & 1u;
            const unsigned votes = __ballot_sync(0xffffffffu, one);
            peers &= one ? votes : ~votes;
        }
        return peers;
    };
#else
#define GG_SHARED static
#define GG_SYNC() WP_TILE_SYNC()
#define GG_SYNCWARP() WP_TILE_SYNC()
#define GG_UNROLL
#define GG_ROLLED
    const int t = WP_TILE_THREAD_IDX, lane = t & 31, warp_id = t >> 5;
    using wp::max;
    using wp::min;
    static unsigned gg_words[1024];
    auto gg_add = [](auto* at, auto value) { auto old = *at; *at = old + value; return old; };
    auto gg_count = [](unsigned bits) -> int { return __builtin_popcount(bits); };
    auto gg_top = [](unsigned bits) -> int { return bits ? 32 - __builtin_clz(bits) : 0; };
    auto gg_reverse = [](unsigned bits) -> unsigned { return __builtin_bitreverse32(bits); };
    auto gg_ballot = [&](bool vote) -> unsigned {
        gg_words[t] = vote;
        GG_SYNC();
        unsigned bits = 0;
        for (int i = 0; i < 32; ++i) bits |= gg_words[t - lane + i] << i;
        GG_SYNC();
        return bits;
    };
    auto gg_warp_any = [](bool vote) -> bool { return vote; };
    auto gg_sync_or = [&](bool vote) -> bool {
        gg_words[t] = vote;
        GG_SYNC();
        bool any = false;
        for (int i = 0; i < WP_TILE_BLOCK_DIM; ++i) any = any || gg_words[i];
        GG_SYNC();
        return any;
    };
    auto gg_warp_min = [&](unsigned value) -> unsigned {
        gg_words[t] = value;
        GG_SYNC();
        for (int i = 0; i < 32; ++i) value = gg_words[t - lane + i] < value ? gg_words[t - lane + i] : value;
        GG_SYNC();
        return value;
    };
    auto gg_warp_before = [&](int value) -> int {
        gg_words[t] = (unsigned)value;
        GG_SYNC();
        unsigned sum = 0;
        for (int i = 0; i < lane; ++i) sum += gg_words[t - lane + i];
        GG_SYNC();
        return (int)sum;
    };
    auto gg_peers = [&](unsigned digit) -> unsigned {
        gg_words[t] = digit & 255u;
        GG_SYNC();
        unsigned bits = 0;
        for (int i = 0; i < 32; ++i) bits |= (unsigned)(gg_words[t - lane + i] == (digit & 255u)) << i;
        GG_SYNC();
        return bits;
    };
#endif
    (void)gg_add; (void)gg_count; (void)gg_top; (void)gg_reverse; (void)gg_ballot; (void)gg_warp_min;
    (void)gg_warp_any; (void)gg_sync_or; (void)gg_warp_before; (void)gg_peers; (void)lane; (void)warp_id;
"""

BACKWARDS = PRELUDE.replace("t = WP_TILE_THREAD_IDX", "t = WP_TILE_BLOCK_DIM - 1 - WP_TILE_THREAD_IDX")
"""`PRELUDE` for tests on the CPU: threads get from barrier to barrier in the opposite order, so that a missing barrier shows that
one order hides (a thread reads what a thread before it wrote).
"""

# Numbers: single precision, and pairs of halves in a word (the lower half first). PTX from sm_80 on; the CPU rounds likewise.
NUMBERS = """
#if defined(__CUDA_ARCH__)
    auto gg_exp2 = [](float a) -> float { float r; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(a)); return r; };
    auto gg_sqrt = [](float a) -> float { float r; asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(a)); return r; };
    auto gg_ratio = [](float a, float b) -> float { return __fdividef(a, b); };
    auto gg_ceil = [](float a) -> float { return ceilf(a); };
    auto gg_floor = [](float a) -> float { return floorf(a); };
    auto gg_abs = [](float a) -> float { return fabsf(a); };
    auto gg_pack = [](float low, float high) -> unsigned {
        unsigned r; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low)); return r;
    };
    auto gg_part = [](unsigned pair, int which) -> float {
        float r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"((unsigned short)(pair >> (16 * which)))); return r;
    };
    auto gg_fma2 = [](unsigned a, unsigned b, unsigned c) -> unsigned {
        unsigned r; asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); return r;
    };
    auto gg_mul2 = [](unsigned a, unsigned b) -> unsigned {
        unsigned r; asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); return r;
    };
    auto gg_minus2 = [](unsigned a) -> unsigned {
        unsigned r; asm("neg.f16x2 %0, %1;" : "=r"(r) : "r"(a)); return r;
    };
    auto gg_min2 = [](unsigned a, unsigned b) -> unsigned {
        unsigned r; asm("min.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); return r;
    };
    auto gg_exp2_2 = [](unsigned a) -> unsigned {
        unsigned r; asm("ex2.approx.f16x2 %0, %1;" : "=r"(r) : "r"(a)); return r;
    };
    auto gg_at_least2 = [](unsigned a, unsigned b) -> unsigned {  // ones in the halves where it holds
        unsigned r; asm("set.ge.u32.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); return r;
    };
#else
    auto gg_exp2 = [](float a) -> float { return wp::exp(0.69314718f * a); };
    auto gg_sqrt = [](float a) -> float { return wp::sqrt(a); };
    auto gg_ratio = [](float a, float b) -> float { return a / b; };
    auto gg_ceil = [](float a) -> float { return wp::ceil(a); };
    auto gg_floor = [](float a) -> float { return wp::floor(a); };
    auto gg_abs = [](float a) -> float { return a < 0.0f ? -a : a; };
    auto gg_pack = [](float low, float high) -> unsigned {
        return (unsigned)wp::float_to_half(low).u | ((unsigned)wp::float_to_half(high).u << 16);
    };
    auto gg_part = [](unsigned pair, int which) -> float {
        wp::half number; number.u = (unsigned short)(pair >> (16 * which)); return wp::half_to_float(number);
    };
    auto gg_fma2 = [&](unsigned a, unsigned b, unsigned c) -> unsigned {
        return gg_pack(gg_part(a, 0) * gg_part(b, 0) + gg_part(c, 0), gg_part(a, 1) * gg_part(b, 1) + gg_part(c, 1));
    };
    auto gg_mul2 = [&](unsigned a, unsigned b) -> unsigned {
        return gg_pack(gg_part(a, 0) * gg_part(b, 0), gg_part(a, 1) * gg_part(b, 1));
    };
    auto gg_minus2 = [](unsigned a) -> unsigned { return a ^ 0x80008000u; };
    auto gg_min2 = [&](unsigned a, unsigned b) -> unsigned {
        return gg_pack(min(gg_part(a, 0), gg_part(b, 0)), min(gg_part(a, 1), gg_part(b, 1)));
    };
    auto gg_exp2_2 = [&](unsigned a) -> unsigned { return gg_pack(gg_exp2(gg_part(a, 0)), gg_exp2(gg_part(a, 1))); };
    auto gg_at_least2 = [&](unsigned a, unsigned b) -> unsigned {
        return (gg_part(a, 0) >= gg_part(b, 0) ? 0xffffu : 0u) | (gg_part(a, 1) >= gg_part(b, 1) ? 0xffff0000u : 0u);
    };
#endif
    (void)gg_exp2; (void)gg_sqrt; (void)gg_ratio; (void)gg_ceil; (void)gg_floor; (void)gg_abs; (void)gg_pack; (void)gg_part;
    (void)gg_fma2; (void)gg_mul2; (void)gg_minus2; (void)gg_min2; (void)gg_exp2_2; (void)gg_at_least2;
"""


def can_run_blocks(device: wp.Device) -> bool:
    """Whether kernels of whole blocks run on a device: on CUDA always, on the CPU only as fibers."""
    return device.is_cuda or wp.config.enable_cpu_blocks


def resident_blocks(device: wp.Device, per_multiprocessor: int) -> int:
    """Blocks for a kernel that takes its work from a queue: as many as fit at once (on the CPU two, one after the other)."""
    return device.sm_count * per_multiprocessor if device.is_cuda else 2
