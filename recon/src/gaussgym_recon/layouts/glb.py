# numpy's and open3d's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Triangles of a binary glTF 2.0 file (Khronos glTF 2.0 specification, sections 3.6, 3.7 and 4.4)."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import matrix_from_quat_wxyz
from gaussgym_scene.mesh import Mesh
from numpy.typing import NDArray

_COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_TRIANGLES = 4


def read_glb(path: Path, *, node_transforms: bool = True) -> Mesh:
    """All triangles of a file.

    Args:
        path: The file.
        node_transforms: Place meshes as the file's nodes say; otherwise every mesh once, in its own coordinates.

    Raises:
        InputError: It is no GLB, is cut short, compressed, or holds something else than triangles.
    """
    document, binary = _chunks(path)
    try:
        if node_transforms:
            parts = [(m, t) for m, t in _placed(document) if m is not None]
        else:
            parts = [(n, np.eye(4)) for n in range(len(document.get("meshes", [])))]
        pieces = [
            (
                _moved(_accessor(path, document, binary, p["attributes"]["POSITION"]), t),
                _faces(path, document, binary, p),
                _colors(path, document, binary, p),
            )
            for m, t in parts
            for p in document["meshes"][m]["primitives"]
        ]
    except (KeyError, IndexError, TypeError, ValueError, struct.error, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: damaged glTF ({type(error).__name__}: {error}); export the file again"
        ) from None
    return _merged(pieces)


def has_node_transforms(path: Path) -> bool:
    """Whether a file's nodes move its meshes."""
    document, _ = _chunks(path)
    return any(m is not None and not np.allclose(t, np.eye(4), atol=1e-9) for m, t in _placed(document))


def _chunks(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    if len(data) < 20 or data[:4] != b"glTF":
        raise InputError(f"{path}: no GLB header found, expected a binary glTF 2.0 file")
    version, length = struct.unpack_from("<II", data, 4)
    if version != 2 or length > len(data):
        raise InputError(
            f"{path}: version {version}, {len(data)} of {length} bytes; expected all of a version 2 file"
        )
    chunks, at = {}, 12
    while at + 8 <= length:
        size, kind = struct.unpack_from("<II", data, at)
        chunks.setdefault(kind, data[at + 8 : at + 8 + size])
        at += 8 + size
    try:
        document = json.loads(chunks[0x4E4F534A])
    except (KeyError, ValueError):
        raise InputError(f"{path}: has no JSON chunk; export the file again") from None
    required = document.get("extensionsRequired", []) if isinstance(document, dict) else []
    if compressed := [name for name in required if "draco" in name.lower() or "meshopt" in name.lower()]:
        raise InputError(f"{path}: needs {', '.join(compressed)}; export it without compression")
    return document, chunks.get(0x004E4942, b"")


def _placed(document: dict[str, Any]) -> list[tuple[int | None, NDArray[np.float64]]]:
    """Mesh and global transform of each node of the scene."""
    nodes = document.get("nodes", [])
    scenes = document.get("scenes", [])
    children = {c for node in nodes for c in node.get("children", [])}
    roots = (
        scenes[document.get("scene", 0)]["nodes"]
        if scenes
        else [n for n in range(len(nodes)) if n not in children]
    )
    out: list[tuple[int | None, NDArray[np.float64]]] = []

    def visit(index: int, parent: NDArray[np.float64]) -> None:
        node = nodes[index]
        here = parent @ _local(node)
        out.append((node.get("mesh"), here))
        for child in node.get("children", []):
            visit(child, here)

    for root in roots:
        visit(root, np.eye(4))
    return out


def _local(node: dict[str, Any]) -> NDArray[np.float64]:
    if "matrix" in node:  # column-major
        return np.asarray(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    local = np.eye(4)
    local[:3, :3] = matrix_from_quat_wxyz([w, x, y, z]) * np.asarray(node.get("scale", (1, 1, 1)), np.float64)
    local[:3, 3] = node.get("translation", (0, 0, 0))
    return local


def _accessor(path: Path, document: dict[str, Any], binary: bytes, index: int) -> NDArray[Any]:
    accessor = document["accessors"][index]
    if "sparse" in accessor or "bufferView" not in accessor:
        raise InputError(f"{path}: has sparse accessors; export it without")
    view = document["bufferViews"][accessor["bufferView"]]
    if "uri" in document["buffers"][view.get("buffer", 0)]:
        raise InputError(f"{path}: keeps its data in another file; export it as one GLB")
    dtype, width = np.dtype(_COMPONENTS[accessor["componentType"]]), _WIDTHS[accessor["type"]]
    count = int(accessor["count"])
    step = int(view.get("byteStride", dtype.itemsize * width))
    start = int(view.get("byteOffset", 0)) + int(accessor.get("byteOffset", 0))
    end = start + step * (count - 1) + dtype.itemsize * width
    if count < 0 or start < 0 or (count and end > len(binary)):
        raise InputError(
            f"{path}: cut short, accessor {index} ends at byte {end} of {len(binary)}; copy the file again"
        )
    return np.ndarray((count, width), dtype, binary, start, (step, dtype.itemsize)).copy()


def _faces(
    path: Path, document: dict[str, Any], binary: bytes, primitive: dict[str, Any]
) -> NDArray[np.int64]:
    if primitive.get("mode", _TRIANGLES) != _TRIANGLES:
        raise InputError(
            f"{path}: holds primitives of mode {primitive['mode']} (points, lines or strips), expected triangles"
        )
    if "indices" in primitive:
        index = _accessor(path, document, binary, primitive["indices"])[:, 0]
    else:
        index = np.arange(document["accessors"][primitive["attributes"]["POSITION"]]["count"])
    return index.astype(np.int64).reshape(-1, 3)


def _colors(
    path: Path, document: dict[str, Any], binary: bytes, primitive: dict[str, Any]
) -> NDArray[np.uint8] | None:
    if "COLOR_0" not in primitive["attributes"]:
        return None
    values = _accessor(path, document, binary, primitive["attributes"]["COLOR_0"])[:, :3]
    full = {"f": 1.0}.get(values.dtype.kind) or float(np.iinfo(values.dtype).max)
    return np.clip(np.round(values.astype(np.float64) * (255.0 / full)), 0, 255).astype(np.uint8)


def _moved(points: NDArray[Any], transform: NDArray[np.float64]) -> NDArray[np.float64]:
    return points.astype(np.float64) @ transform[:3, :3].T + transform[:3, 3]


def _merged(pieces: list[tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.uint8] | None]]) -> Mesh:
    if not pieces:
        return Mesh(np.zeros((0, 3)), np.zeros((0, 3), int))
    starts = np.cumsum([0, *(len(vertices) for vertices, _, _ in pieces[:-1])])
    colors = [c for _, _, c in pieces if c is not None]
    return Mesh(
        np.concatenate([vertices for vertices, _, _ in pieces]),
        np.concatenate([faces + start for (_, faces, _), start in zip(pieces, starts, strict=True)]),
        np.concatenate(colors) if len(colors) == len(pieces) else None,
    )
