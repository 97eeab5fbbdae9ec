"""Order of points along a Morton (Z-order) curve: neighbours in the list are neighbours in space."""

import numpy as np
from numpy.typing import NDArray

_SPREAD = (
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def morton_order(points: NDArray[np.floating]) -> NDArray[np.int64]:
    """Order of points `[N, 3]` along a Morton curve with 21 bits an axis; stable."""
    if not len(points):
        return np.zeros(0, np.int64)
    low = points.min(0).astype(np.float64)
    extent = float(max((points.max(0) - low).max(), 1e-9))
    cells = ((points - low) / extent * (2**21 - 1)).astype(np.uint64)
    code = np.zeros(len(points), np.uint64)
    for axis in range(3):
        code |= _spread_bits(cells[:, axis]) << np.uint64(axis)
    return np.argsort(code, kind="stable")


def _spread_bits(v: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Put two zero bits between the 21 low bits of each value."""
    for shift, mask in _SPREAD:
        v = (v | (v << np.uint64(shift))) & np.uint64(mask)
    return v
