"""Niantic's SPZ: one quantity after the other, gzipped as a whole (versions 1 to 3) or each in a zstandard stream (version 4).

Positions are 24-bit fixed point (halves in version 1), opacity, colour, log scale and higher coefficients a byte each. Rotations
are three bytes (the last component positive) or, from version 3 on, the place of the largest component and three times ten bits.
"""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gaussgym_scene.errors import InputError
from gaussgym_scene.formats.packing import (
    COEFFICIENTS,
    from_smallest_three,
    make_splats,
    quantize,
    read_bytes,
    reading,
    smallest_three,
    write_whole,
)
from gaussgym_scene.splats import Splats

MAGIC = b"NGSP"
GZIP_MAGIC = b"\x1f\x8b"
_HEADER = struct.Struct("<4sIIBBBB")
_HEADER_4 = struct.Struct("<4sIIBBBBI12x")
_STREAM = struct.Struct("<QQ")
_COLOR_SCALE = np.float32(0.15)
_FRACTION_BITS = 12
_REACH = 2**23 - 1
_ROTATION_STEPS = np.float32(511)
_ROOT_HALF = np.float32(np.sqrt(0.5))


@dataclass(frozen=True)
class _Layout:
    """Sizes of the sections."""

    version: int
    count: int
    degree: int
    fraction_bits: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of positions, opacities, colours, scales, rotations and higher coefficients."""
        position = 6 if self.version == 1 else 9
        rotation = 3 if self.version < 3 else 4
        per_splat = (position, 1, 3, 3, rotation, 3 * COEFFICIENTS[self.degree])
        return tuple(self.count * size for size in per_splat)


def read(path: Path) -> Splats:
    """Read an SPZ of version 1 to 4.

    Raises:
        InputError: If it is none, is cut short, or its values cannot be drawn.
    """
    data = read_bytes(path)
    with reading(path, "SPZ"):
        layout, sections = _open_zstandard(path, data) if data.startswith(MAGIC) else _open_gzip(path, data)
        return _decode(path, layout, [np.frombuffer(section, np.uint8) for section in sections])


def write(splats: Splats, path: Path) -> None:
    """Write an SPZ of version 3.

    Raises:
        InputError: If the scene reaches farther from its origin than the fixed point does.
    """
    farthest = float(np.abs(splats.means).max(initial=0))
    bits = _FRACTION_BITS
    while bits > 0 and farthest * 2**bits > _REACH:
        bits -= 1
    if farthest * 2**bits > _REACH:
        raise InputError(
            f"{path}: a splat lies {farthest:.0f} m from the origin, SPZ reaches {_REACH} m; move the scene"
        )
    fixed = np.rint(splats.means.astype(np.float64) * 2**bits).astype("<i4")
    largest, others = smallest_three(splats.quats_wxyz[:, [1, 2, 3, 0]])
    words = np.clip(np.rint(np.abs(others) / _ROOT_HALF * _ROTATION_STEPS), 0, 511).astype(np.uint32)
    words |= (others < 0).astype(np.uint32) << 9
    turn = largest << 30 | words[:, 0] << 20 | words[:, 1] << 10 | words[:, 2]
    sections = (
        fixed.view(np.uint8).reshape(-1, 3, 4)[:, :, :3],
        quantize(splats.opacities, 8),
        _to_byte(splats.sh[:, 0] * _COLOR_SCALE * 255 + 127.5),
        _to_byte((np.log(splats.scales) + 10) * 16),
        turn.astype("<u4").view(np.uint8),
        _to_byte(splats.sh[:, 1:] * 128 + 128),
    )
    header = _HEADER.pack(MAGIC, 3, len(splats), splats.sh_degree, bits, 0, 0)
    body = b"".join(section.astype(np.uint8).tobytes() for section in sections)
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    packed = packer.compress(header + body) + packer.flush()
    write_whole(path, lambda partial: partial.write_bytes(packed))


def _to_byte(values: NDArray) -> NDArray:
    return np.clip(np.rint(values), 0, 255)


def _layout(path: Path, version: int, count: int, degree: int, fraction_bits: int) -> _Layout:
    """Check what a header says.

    Raises:
        InputError: If no reader could follow it.
    """
    if not 1 <= version <= 4:
        raise InputError(f"{path}: SPZ version {version}, expected 1 to 4; export it again")
    if degree not in COEFFICIENTS:
        raise InputError(f"{path}: spherical harmonics of degree {degree}, expected 0 to 3")
    if fraction_bits > 24:
        raise InputError(f"{path}: {fraction_bits} bits behind the point, expected at most 24")
    return _Layout(version, count, degree, fraction_bits)


def _open_gzip(path: Path, data: bytes) -> tuple[_Layout, list[bytes]]:
    """Unpack versions 1 to 3, never more than the header announces: what is announced is not believed before it is there."""
    unpacker = zlib.decompressobj(31)
    head = unpacker.decompress(data, _HEADER.size)
    if len(head) < _HEADER.size:
        raise InputError(f"{path}: cut short in its header, expected an SPZ")
    magic, version, count, degree, bits, _, _ = _HEADER.unpack(head)
    if magic != MAGIC:
        raise InputError(f"{path}: gzipped, but no SPZ (it begins with {magic!r})")
    layout = _layout(path, version, count, degree, bits)
    wanted = sum(layout.sizes)
    body = unpacker.decompress(unpacker.unconsumed_tail, wanted) if wanted else b""
    if len(body) < wanted:
        raise InputError(
            f"{path}: cut short, {count} splats of degree {degree} need {wanted} bytes, found {len(body)}; copy it again"
        )
    view, sections = memoryview(body), []
    for size in layout.sizes:
        sections.append(view[:size])
        view = view[size:]
    return layout, sections


def _open_zstandard(path: Path, data: bytes) -> tuple[_Layout, list[bytes]]:
    """Unpack version 4: a table of the streams' sizes, then the streams; those of size 0 are left out."""
    if len(data) < _HEADER_4.size:
        raise InputError(f"{path}: cut short in its header, expected an SPZ")
    _, version, count, degree, bits, _, streams, table = _HEADER_4.unpack_from(data)
    if version != 4:
        raise InputError(f"{path}: SPZ version {version} without gzip, expected 4")
    try:
        import zstandard
    except ImportError:
        raise InputError(
            f"{path}: SPZ version 4 needs the package zstandard; pip install zstandard, or export version 3"
        ) from None
    layout = _layout(path, version, count, degree, bits)
    wanted = [size for size in layout.sizes if size]
    at = table + streams * _STREAM.size
    if streams < len(wanted) or at > len(data):
        raise InputError(f"{path}: {streams} streams, expected {len(wanted)} within the file; copy it again")
    found = []
    for index, size in enumerate(wanted):
        packed, unpacked = _STREAM.unpack_from(data, table + index * _STREAM.size)
        if unpacked != size or packed > len(data) - at:
            raise InputError(
                f"{path}: stream {index} has {unpacked} bytes in {packed}, expected {size} in at most {len(data) - at}"
            )
        try:  # bit by bit, since a stream's own header may announce anything
            with zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(
                data[at : at + packed]
            ) as reader:
                section = _read_at_most(reader, size)
        except zstandard.ZstdError as error:
            raise InputError(f"{path}: stream {index} is damaged ({error}); copy it again") from None
        if len(section) != size:
            raise InputError(
                f"{path}: stream {index} is cut short at {len(section)} of {size} bytes; copy it again"
            )
        found.append(section)
        at += packed
    rest = iter(found)
    return layout, [next(rest) if size else b"" for size in layout.sizes]


def _read_at_most(reader, size: int, block: int = 1 << 20) -> bytes:  # noqa: ANN001
    """Up to `size` bytes, taken in blocks so that memory grows with what is really there."""
    parts, left = [], size
    while left > 0:
        part = reader.read(min(block, left))
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _decode(path: Path, layout: _Layout, sections: list[NDArray[np.uint8]]) -> Splats:
    positions, opacities, colors, scales, rotations, rest = sections
    n = layout.count
    if layout.version == 1:
        means = positions.view("<f2").astype(np.float32).reshape(n, 3)
    else:
        wide = np.zeros((3 * n, 4), np.uint8)
        wide[:, 1:] = positions.reshape(3 * n, 3)
        means = ((wide.view("<i4") >> 8).astype(np.float32) / np.float32(2**layout.fraction_bits)).reshape(
            n, 3
        )
    sh0 = (colors.astype(np.float32) / np.float32(255) - np.float32(0.5)).reshape(n, 3) / _COLOR_SCALE
    log_scales = scales.astype(np.float32).reshape(n, 3) / np.float32(16) - np.float32(10)
    coefficients = COEFFICIENTS[layout.degree]
    higher = (rest.astype(np.float32) - np.float32(128)) / np.float32(128)
    return make_splats(
        path, means, _rotations(layout, rotations), log_scales, opacities.astype(np.float32) / np.float32(255), sh0,
        higher.reshape(n, coefficients, 3),
    )  # fmt: skip


def _rotations(layout: _Layout, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Quaternions wxyz; SPZ has w last."""
    if layout.version < 3:
        xyz = data.reshape(-1, 3).astype(np.float32) / np.float32(127.5) - np.float32(1)
        w = np.sqrt(np.maximum(0, 1 - (xyz * xyz).sum(1)))
        return np.concatenate([w[:, None], xyz], 1)
    words = data.view("<u4")
    fields = np.stack([words >> np.uint32(20), words >> np.uint32(10), words], 1) & np.uint32(0x3FF)
    others = (fields & np.uint32(0x1FF)).astype(np.float32) / _ROTATION_STEPS * _ROOT_HALF
    others = np.where(fields & np.uint32(0x200), -others, others)
    return from_smallest_three(words >> np.uint32(30), others)[:, [3, 0, 1, 2]]
