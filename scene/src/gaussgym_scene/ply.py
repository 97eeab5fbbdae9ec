"""Binary little-endian PLY: the subset that splats and meshes use, read with every check and written atomically."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gaussgym_scene.errors import InputError

_DTYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "<i2", "int16": "<i2", "ushort": "<u2",
    "uint16": "<u2", "int": "<i4", "int32": "<i4", "uint": "<u4", "uint32": "<u4", "float": "<f4",
    "float32": "<f4", "double": "<f8", "float64": "<f8",
}  # fmt: skip
_NAMES = {
    "i1": "char",
    "u1": "uchar",
    "i2": "short",
    "u2": "ushort",
    "i4": "int",
    "u4": "uint",
    "f4": "float",
    "f8": "double",
}


@dataclass
class _Element:
    name: str
    count: int
    fields: list[tuple[str, str]]
    list_count_dtype: str = ""


def read_ply(path: Path | str) -> dict[str, NDArray]:
    """Read all elements of a binary little-endian PLY.

    Returns:
        One structured array an element, such as `vertex`. A face element with one list property of triangles comes
        as an int array `[F, 3]` under its element's name.

    Raises:
        InputError: If the file is not such a PLY, is cut short, or has faces that are not triangles.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: not found, expected a PLY file") from None
    elements, offset = _parse_header(path, data)
    arrays: dict[str, NDArray] = {}
    for element in elements:
        dtype = _element_dtype(element)
        size = dtype.itemsize * element.count
        if offset + size > len(data):
            raise InputError(
                f"{path}: cut short, '{element.name}' needs {size} bytes for {element.count} rows, "
                f"{max(len(data) - offset, 0)} are left; copy the file again"
            )
        rows = np.frombuffer(data, dtype=dtype, count=element.count, offset=offset)
        offset += size
        if element.list_count_dtype:
            if element.count and (rows["count"] != 3).any():
                raise InputError(
                    f"{path}: '{element.name}' has polygons that are not triangles; triangulate the mesh"
                )
            arrays[element.name] = rows["items"].astype(np.int64)
        else:
            arrays[element.name] = rows
    return arrays


def write_ply(
    path: Path | str,
    elements: dict[str, NDArray],
    *,
    faces: NDArray | None = None,
    comments: tuple[str, ...] = (),
) -> None:
    """Write structured arrays (and triangles `[F, 3]` as `face`) through a temporary file and a rename."""
    path = Path(path)
    header = ["ply", "format binary_little_endian 1.0", *(f"comment {text}" for text in comments)]
    for name, rows in elements.items():
        header.append(f"element {name} {len(rows)}")
        fields = rows.dtype.fields or {}
        header += [f"property {_NAMES[fields[f][0].str[1:]]} {f}" for f in rows.dtype.names or ()]
    if faces is not None:
        header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(("\n".join([*header, "end_header"]) + "\n").encode())
        for rows in elements.values():
            file.write(np.ascontiguousarray(rows).tobytes())
        if faces is not None:
            packed = np.empty(len(faces), dtype=[("count", "u1"), ("items", "<i4", (3,))])
            packed["count"], packed["items"] = 3, faces
            file.write(packed.tobytes())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _parse_header(path: Path, data: bytes) -> tuple[list[_Element], int]:
    end = data.find(b"end_header")
    if not data.startswith(b"ply") or end < 0 or b"\n" not in data[end:]:
        raise InputError(f"{path}: no PLY header found, expected a binary PLY file")
    lines = data[:end].decode("ascii", errors="replace").splitlines()
    if not any(line.split()[:2] == ["format", "binary_little_endian"] for line in lines):
        raise InputError(f"{path}: only 'format binary_little_endian' is read; convert the file")
    elements: list[_Element] = []
    for line in lines[1:]:
        words = line.split()
        try:
            if words[:1] == ["element"]:
                elements.append(_Element(words[1], _count(words[2]), []))
            elif words[:2] == ["property", "list"]:
                elements[-1].list_count_dtype = _DTYPES[words[2]]
                elements[-1].fields.append((words[4], _DTYPES[words[3]]))
            elif words[:1] == ["property"]:
                elements[-1].fields.append((words[2], _DTYPES[words[1]]))
        except (IndexError, KeyError, ValueError):
            raise InputError(f"{path}: header line {line!r} is not understood") from None
    for element in elements:
        names = [name for name, _ in element.fields]
        if not names or len(set(names)) < len(names) or (element.list_count_dtype and len(names) > 1):
            raise InputError(
                f"{path}: element '{element.name}' has no properties, one twice, or a list among others"
            )
    return elements, data.index(b"\n", end) + 1


def _count(word: str) -> int:
    """A number of rows; `int` would take signs, underscores and numbers without end."""
    if not (word.isascii() and word.isdigit() and len(word) <= 15):
        raise ValueError(word)
    return int(word)


def _element_dtype(element: _Element) -> np.dtype:
    if element.list_count_dtype:
        return np.dtype([("count", element.list_count_dtype), ("items", element.fields[0][1], (3,))])
    return np.dtype(element.fields)
