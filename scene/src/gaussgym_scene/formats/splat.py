"""antimatter15's `.splat`: rows of 32 bytes, largest splats first, no view dependence.

Position and linear scale as three floats each, colour and opacity as four bytes, the quaternion (wxyz) as four bytes round 128.
"""

from pathlib import Path

import numpy as np

from gaussgym_scene.errors import InputError
from gaussgym_scene.formats.packing import C0, make_splats, quantize, read_bytes, reading, write_whole
from gaussgym_scene.splats import Splats

_ROW = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def read(path: Path) -> Splats:
    """Read a `.splat`.

    Raises:
        InputError: If its size is no multiple of 32 bytes, or its values cannot be drawn.
    """
    data = read_bytes(path)
    if len(data) % _ROW.itemsize:
        raise InputError(
            f"{path}: {len(data)} bytes, expected a multiple of {_ROW.itemsize}; it was cut short, copy it again"
        )
    with reading(path, "splat"):
        rows = np.frombuffer(data, _ROW)
        rgba = rows["rgba"].astype(np.float32) / np.float32(255)
        quats = (rows["quat"].astype(np.float32) - np.float32(128)) / np.float32(128)
        log_scales = np.log(rows["scale"])
        return make_splats(
            path, rows["mean"], quats, log_scales, rgba[:, 3], (rgba[:, :3] - np.float32(0.5)) / C0
        )


def write(splats: Splats, path: Path) -> None:
    """Write a `.splat`, the most visible splats first: viewers show a file while it loads."""
    order = np.argsort(-splats.scales.prod(1) * splats.opacities, kind="stable")
    rows = np.zeros(len(splats), _ROW)
    rows["mean"], rows["scale"] = splats.means[order], splats.scales[order]
    rows["rgba"][:, :3] = quantize(0.5 + C0 * splats.sh[order, 0], 8)
    rows["rgba"][:, 3] = quantize(splats.opacities[order], 8)
    quats = splats.quats_wxyz[order]
    unit = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    rows["quat"] = np.clip(np.rint(unit * 128 + 128), 0, 255)
    write_whole(path, lambda partial: partial.write_bytes(rows.tobytes()))
