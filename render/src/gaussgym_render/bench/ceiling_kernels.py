"""A kernel that does nothing but multiply and add: the rate that a device reaches in single precision."""

# The language of Warp's kernels is not Python's.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import warp as wp  # noqa: TID253 (imported by those who measure a GPU)

wp.set_module_options({"enable_backward": False})

ROUNDS = 512
FLOP_PER_ROUND = 16
"""Eight independent multiply-adds: enough in flight to hide their latency."""


@wp.kernel
def multiply_adds(start: wp.array[wp.float32], rounds: int, out: wp.array[wp.float32]) -> None:
    """Eight chains `x = x·x + c` a thread, which stay within 0..1 for `c` in -1/4..0 and starts in 0..1."""
    i = wp.tid()
    c = -0.125 * start[i]
    a0 = start[i]
    a1 = a0 * 0.9
    a2 = a0 * 0.8
    a3 = a0 * 0.7
    a4 = a0 * 0.6
    a5 = a0 * 0.5
    a6 = a0 * 0.4
    a7 = a0 * 0.3
    for _ in range(rounds):
        a0 = a0 * a0 + c
        a1 = a1 * a1 + c
        a2 = a2 * a2 + c
        a3 = a3 * a3 + c
        a4 = a4 * a4 + c
        a5 = a5 * a5 + c
        a6 = a6 * a6 + c
        a7 = a7 * a7 + c
    out[i] = a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7
