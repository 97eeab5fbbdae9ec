"""Running sums of integers on the device, without a temporary buffer that a call would have to allocate."""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any

import warp as wp  # noqa: TID253  (this package is imported only where the backend is asked for)

wp.set_module_options({"enable_backward": False})

TILE = 1024
"""Numbers that a block sums."""
_TILE = wp.constant(TILE)
_BLOCK = 256


@wp.kernel
def scan_tiles(
    values: wp.array[wp.int32],
    out: wp.array[wp.int32],
    sums: wp.array[wp.int32],
    condition: wp.array[wp.int32],
    skip_at: int,
) -> None:
    """Sum the numbers of each tile: those before each into `out`, all into `sums`; a block a tile."""
    tile = wp.tid()
    if condition[0] == skip_at:
        return
    numbers = wp.tile_load(values, shape=_TILE, offset=tile * _TILE)
    wp.tile_store(out, wp.tile_scan_exclusive(numbers), offset=tile * _TILE)
    wp.tile_store(sums, wp.tile_sum(numbers), offset=tile)


@wp.kernel
def scan_sums(sums: wp.array[wp.int32], count: int, condition: wp.array[wp.int32], skip_at: int) -> None:
    """Turn the tiles' sums into what comes before each, in place; one block."""
    _ = wp.tid()
    if condition[0] == skip_at:
        return
    before = wp.tile_zeros(shape=(1,), dtype=wp.int32)
    for first in range(0, count, _TILE):
        numbers = wp.tile_load(sums, shape=_TILE, offset=first)
        total = wp.tile_sum(numbers)
        scanned = wp.tile_scan_exclusive(numbers)
        wp.tile_store(sums, scanned + wp.tile_broadcast(before, shape=(_TILE,)), offset=first)
        before += total


@wp.kernel
def add_sums(
    out: wp.array[wp.int32], sums: wp.array[wp.int32], condition: wp.array[wp.int32], skip_at: int
) -> None:
    """Add what comes before a tile to its numbers."""
    i = wp.tid()
    if condition[0] == skip_at:
        return
    out[i] = out[i] + sums[i // _TILE]


class Scan:
    """Running sums of up to N numbers: each entry of `out` becomes the sum of those before it.

    Args:
        capacity: N.
        device: Warp device.
    """

    def __init__(self, capacity: int, device: Any) -> None:
        self.device = device
        self.sums = wp.zeros(-(-capacity // TILE), dtype=wp.int32, device=device)
        self.always = wp.zeros(1, dtype=wp.int32, device=device)

    def run(self, values: Any, out: Any, condition: Any = None, skip_at: int = -1) -> None:
        """Sum `values` into `out`, int32 of one length; launches only.

        Args:
            values: What to sum.
            out: Where to.
            condition: An integer on the device, `[1]`; None: always run.
            skip_at: Nothing is done where it has this value.
        """
        condition = self.always if condition is None else condition
        tiles = -(-len(values) // TILE)
        wp.launch_tiled(
            scan_tiles, dim=[tiles], inputs=[values, out, self.sums, condition, skip_at], device=self.device,
            block_dim=_BLOCK,
        )  # fmt: skip
        if tiles == 1:
            return
        wp.launch_tiled(
            scan_sums,
            dim=[1],
            inputs=[self.sums, tiles, condition, skip_at],
            device=self.device,
            block_dim=_BLOCK,
        )
        wp.launch(add_sums, dim=len(out), inputs=[out, self.sums, condition, skip_at], device=self.device)
