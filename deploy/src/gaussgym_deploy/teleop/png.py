"""Images as PNG: deploy has no image library, and an operator wants to see what the robot sees."""

from __future__ import annotations

import struct
import zlib

import numpy as np

__all__ = ["png"]


def png(rgb: np.ndarray) -> bytes:
    """An image as PNG (deploy has no image library).

    Args:
        rgb: uint8 ``[H, W, 3]``.
    """
    height, width = rgb.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = np.ascontiguousarray(rgb).reshape(height, 3 * width)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 1))
        + chunk(b"IEND", b"")
    )
