"""Where the fields of a message lie, as a C struct and as a CDR body (OMG's serialization, XCDR1, little-endian).

A message is a tuple of fields ``(name, code, count)``: ``code`` is a struct letter (``B b H h I i f``), or a nested tuple of
fields. The two rules differ in one thing only: CDR aligns every *number* to its own size, counted from the start of the body;
C aligns a nested *struct* to its widest member as well, in front of it and behind it.
"""

from __future__ import annotations

import struct
from typing import Any, Dict, List, Tuple

import numpy as np

__all__ = ["Fields", "byte_map", "offsets", "view"]

Fields = Tuple[Tuple[str, Any, int], ...]

_DTYPES = {"B": "u1", "b": "i1", "H": "<u2", "h": "<i2", "I": "<u4", "i": "<i4", "f": "<f4"}


def offsets(fields: Fields, *, c_struct: bool) -> Tuple[Dict[str, List[int]], int]:
    """Offset of every number of a message.

    Args:
        fields: The message.
        c_struct: As a C struct with natural alignment; else as a CDR body.

    Returns:
        Byte offsets by name (``"motor_cmd.q"`` has one for each motor), and the size in bytes.
    """
    found: Dict[str, List[int]] = {}
    size = _place(fields, "", 0, found, c_struct)
    return found, _aligned(size, _width(fields)) if c_struct else size


def view(fields: Fields, name: str, buffer: bytearray, start: int = 0) -> np.ndarray:
    """A numpy view of one field of a CDR body.

    Args:
        fields: The message.
        name: As in :func:`offsets`.
        buffer: Holds the body.
        start: Where in the buffer the body starts.

    Returns:
        ``[count]`` in the field's type, sharing the buffer's memory.

    Raises:
        ValueError: When the numbers do not lie at equal distances (bytes in front of an aligned number do not).
    """
    places = offsets(fields, c_struct=False)[0][name]
    dtype = np.dtype(_DTYPES[_code(fields, name)])
    steps = set(np.diff(places).tolist()) or {dtype.itemsize}
    if len(steps) != 1:
        raise ValueError(f"{name} lies at unequal distances")
    return np.ndarray((len(places),), dtype, buffer, start + places[0], (steps.pop(),))


def byte_map(fields: Fields) -> np.ndarray:
    """For every byte of the C struct the byte of the CDR body that it is; padding points one behind the body's end.

    Returns:
        intp, ``[size of the struct]``.
    """
    c_places, c_size = offsets(fields, c_struct=True)
    cdr_places, cdr_size = offsets(fields, c_struct=False)
    source = np.full(c_size, cdr_size, dtype=np.intp)
    for name, places in c_places.items():
        for in_c, in_cdr in zip(places, cdr_places[name]):
            for byte in range(struct.calcsize(_code(fields, name))):
                source[in_c + byte] = in_cdr + byte
    return source


def _place(fields: Fields, prefix: str, offset: int, found: Dict[str, List[int]], c_struct: bool) -> int:
    for name, code, count in fields:
        for _ in range(count):
            if isinstance(code, str):
                width = struct.calcsize(code)
                offset = _aligned(offset, width)
                found.setdefault(prefix + name, []).append(offset)
                offset += width
            else:
                if c_struct:
                    offset = _aligned(offset, _width(code))
                offset = _place(code, f"{prefix}{name}.", offset, found, c_struct)
                if c_struct:
                    offset = _aligned(offset, _width(code))
    return offset


def _width(fields: Fields) -> int:
    """Alignment of a C struct: that of its widest member."""
    return max(struct.calcsize(code) if isinstance(code, str) else _width(code) for _, code, _ in fields)


def _code(fields: Fields, name: str) -> str:
    head, _, rest = name.partition(".")
    code = next(code for field, code, _ in fields if field == head)
    return _code(code, rest) if rest else code


def _aligned(offset: int, width: int) -> int:
    return -(-offset // width) * width
