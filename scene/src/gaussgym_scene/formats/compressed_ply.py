"""PlayCanvas' compressed PLY, which SuperSplat writes: chunks of 256 splats that share bounds, four packed words a splat.

Position and log scale have 11, 10 and 11 bits between the chunk's bounds, colour and opacity 8 bits each (the colour between the
chunk's bounds where it states any), the rotation two bits for its largest component and ten for each of the others. Higher
coefficients follow as bytes over ±4, channel by channel.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gaussgym_scene.errors import InputError
from gaussgym_scene.formats.packing import (
    C0,
    COEFFICIENTS,
    dequantize,
    from_smallest_three,
    make_splats,
    quantize,
    reading,
    smallest_three,
    to_unit,
)
from gaussgym_scene.morton import morton_order
from gaussgym_scene.ply import read_ply, write_ply
from gaussgym_scene.splats import Splats

_CHUNK = 256
_WORDS = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_ROOT2 = np.float32(np.sqrt(2))
_SH_RANGE = np.float32(8)


def read(path: Path) -> Splats:
    """Read a compressed PLY.

    Raises:
        InputError: If an element or property is missing, the file is cut short, or its values cannot be drawn.
    """
    elements = read_ply(path)
    for name in ("chunk", "vertex"):
        if name not in elements or elements[name].dtype.names is None:
            raise InputError(f"{path}: has no '{name}' element, expected a compressed 3DGS PLY")
    chunks, rows = elements["chunk"], elements["vertex"]
    if missing := [name for name in _WORDS if name not in (rows.dtype.names or ())]:
        raise InputError(f"{path}: lacks {', '.join(missing)}; expected a compressed 3DGS PLY")
    if len(chunks) != -(-len(rows) // _CHUNK):
        raise InputError(
            f"{path}: {len(chunks)} chunks for {len(rows)} splats, expected one for every {_CHUNK}"
        )
    with reading(path, "a compressed PLY"):
        chunk_of = np.arange(len(rows)) // _CHUNK
        words = {name: rows[name].astype(np.uint32) for name in _WORDS}

        def bounded(unit: NDArray[np.float32], names: tuple[str, str, str]) -> NDArray[np.float32]:
            for axis, name in enumerate(names):
                low, high = chunks[f"min_{name}"].astype(np.float32), chunks[f"max_{name}"].astype(np.float32)
                unit[:, axis] = low[chunk_of] + (high - low)[chunk_of] * unit[:, axis]
            return unit

        means = bounded(_unpack_11_10_11(words["packed_position"]), ("x", "y", "z"))
        log_scales = bounded(_unpack_11_10_11(words["packed_scale"]), ("scale_x", "scale_y", "scale_z"))
        color = words["packed_color"]
        rgb = np.stack([dequantize(color >> np.uint32(shift), 8) for shift in (24, 16, 8)], 1)
        if "min_r" in (chunks.dtype.names or ()):
            rgb = bounded(rgb, ("r", "g", "b"))
        turn = words["packed_rotation"]
        others = np.stack([dequantize(turn >> np.uint32(shift), 10) for shift in (20, 10, 0)], 1)
        quats = from_smallest_three(turn >> np.uint32(30), (others - np.float32(0.5)) * _ROOT2)
        return make_splats(
            path,
            means,
            quats,
            log_scales,
            dequantize(color, 8),
            (rgb - np.float32(0.5)) / C0,
            _rest(path, elements),
        )


def _rest(path: Path, elements: dict[str, NDArray]) -> NDArray[np.float32] | None:
    """Higher coefficients `[N, K, 3]`."""
    if "sh" not in elements:
        return None
    rows = elements["sh"]
    count = len(rows.dtype.names or ())
    if count // 3 not in COEFFICIENTS.values() or count % 3 or len(rows) != len(elements["vertex"]):
        raise InputError(
            f"{path}: {len(rows)} rows of {count} higher coefficients, expected {len(elements['vertex'])} of 9, 24 or 45"
        )
    rest = np.empty((len(rows), count // 3, 3), np.float32)
    for index in range(count):
        byte = rows[f"f_rest_{index}"].astype(np.float32)
        unit = np.where(byte == 0, 0, np.where(byte == 255, 1, (byte + 0.5) / 256))
        rest[:, index % (count // 3), index // (count // 3)] = (unit - 0.5) * _SH_RANGE
    return rest


def write(splats: Splats, path: Path) -> None:
    """Write a compressed PLY; splats are put in Morton order, so that those of a chunk lie close together."""
    splats = splats.subset(morton_order(splats.means))
    starts = np.arange(0, len(splats), _CHUNK)
    log_scales = np.clip(np.log(splats.scales), -20, 20)
    rgb = 0.5 + C0 * splats.sh[:, 0]
    bounds: dict[str, NDArray] = {}

    def unit(values: NDArray, names: tuple[str, str, str]) -> NDArray[np.float32]:
        low = np.minimum.reduceat(values, starts) if len(values) else values
        high = np.maximum.reduceat(values, starts) if len(values) else values
        for axis, name in enumerate(names):
            bounds[f"min_{name}"], bounds[f"max_{name}"] = low[:, axis], high[:, axis]
        chunk_of = np.arange(len(values)) // _CHUNK
        return to_unit(values, low[chunk_of], high[chunk_of])

    rows = np.zeros(len(splats), [(name, "<u4") for name in _WORDS])
    rows["packed_position"] = _pack_11_10_11(unit(splats.means, ("x", "y", "z")))
    rows["packed_scale"] = _pack_11_10_11(unit(log_scales, ("scale_x", "scale_y", "scale_z")))
    r, g, b = quantize(unit(rgb, ("r", "g", "b")), 8).T
    rows["packed_color"] = r << 24 | g << 16 | b << 8 | quantize(splats.opacities, 8)
    largest, others = smallest_three(splats.quats_wxyz)
    x, y, z = quantize(others / _ROOT2 + np.float32(0.5), 10).T
    rows["packed_rotation"] = largest << 30 | x << 20 | y << 10 | z
    names = [f"{end}_{name}" for group in (("x", "y", "z"), ("scale_x", "scale_y", "scale_z"), ("r", "g", "b"))
             for end in ("min", "max") for name in group]  # fmt: skip
    chunks = np.zeros(len(starts), [(name, "<f4") for name in names])
    for name in names:
        chunks[name] = bounds[name]
    elements = {"chunk": chunks, "vertex": rows}
    count = 3 * (splats.sh.shape[1] - 1)
    if count:
        flat = splats.sh[:, 1:].transpose(0, 2, 1).reshape(len(splats), count)
        table = np.clip(np.floor((flat / _SH_RANGE + 0.5) * 256), 0, 255).astype("u1")
        elements["sh"] = (
            np.ascontiguousarray(table).view([(f"f_rest_{i}", "u1") for i in range(count)]).reshape(-1)
        )
    write_ply(path, elements)


def _unpack_11_10_11(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    return np.stack(
        [
            dequantize(words >> np.uint32(21), 11),
            dequantize(words >> np.uint32(11), 10),
            dequantize(words, 11),
        ],
        1,
    )


def _pack_11_10_11(unit: NDArray[np.float32]) -> NDArray[np.uint32]:
    return quantize(unit[:, 0], 11) << 21 | quantize(unit[:, 1], 10) << 11 | quantize(unit[:, 2], 11)
