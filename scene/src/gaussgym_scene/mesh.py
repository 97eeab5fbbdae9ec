"""Triangle meshes, and the textures of procedural ones."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gaussgym_scene.errors import InputError
from gaussgym_scene.ply import read_ply, write_ply


@dataclass
class Mesh:
    """V vertices and F triangles, counter-clockwise seen from outside."""

    vertices: NDArray[np.float32]
    """Positions [m], shape `[V, 3]`."""
    faces: NDArray[np.int32]
    """Vertex indices, shape `[F, 3]`."""
    colors: NDArray[np.uint8] | None = None
    """Colours of the vertices, shape `[V, 3]`, or None."""

    def __post_init__(self) -> None:
        self.vertices = np.ascontiguousarray(self.vertices, dtype=np.float32).reshape(-1, 3)
        self.faces = np.ascontiguousarray(self.faces, dtype=np.int32).reshape(-1, 3)
        if not np.isfinite(self.vertices).all():
            raise InputError("mesh: a vertex is NaN or infinite")
        if len(self.faces) and (self.faces.min() < 0 or self.faces.max() >= len(self.vertices)):
            raise InputError(f"mesh: a face names a vertex beyond the {len(self.vertices)} that exist")

    def save_ply(self, path: Path | str) -> None:
        """Write a binary PLY."""
        fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
        if self.colors is not None:
            fields += [("red", "u1"), ("green", "u1"), ("blue", "u1")]
        rows = np.empty(len(self.vertices), dtype=fields)
        for i, name in enumerate("xyz"):
            rows[name] = self.vertices[:, i]
        if self.colors is not None:
            for i, name in enumerate(("red", "green", "blue")):
                rows[name] = self.colors[:, i]
        write_ply(path, {"vertex": rows}, faces=self.faces)

    @classmethod
    def load_ply(cls, path: Path | str) -> "Mesh":
        """Read a binary PLY with triangles."""
        elements = read_ply(path)
        if "vertex" not in elements or "face" not in elements:
            raise InputError(f"{path}: has elements {sorted(elements)}, expected vertex and face")
        rows = elements["vertex"]
        names = rows.dtype.names or ()
        if missing := [name for name in "xyz" if name not in names]:
            raise InputError(f"{path}: vertices lack {', '.join(missing)}")
        colors = None
        if {"red", "green", "blue"} <= set(names):
            colors = np.stack([rows[name] for name in ("red", "green", "blue")], axis=1).astype(np.uint8)
        return cls(np.stack([rows[name] for name in "xyz"], axis=1), elements["face"], colors)


@dataclass
class Appearance:
    """What the faces of a procedural mesh look like; known only where we painted the scene ourselves."""

    uv: NDArray[np.float32]
    """Texture coordinates of each face's corners, shape `[F, 3, 2]`; (0, 0) is the top-left texel's corner, they repeat."""
    texture_id: NDArray[np.int32]
    """Which texture each face has, shape `[F]`."""
    textures: list[NDArray[np.uint8]]
    """sRGB images, shape `[height, width, 3]` each."""

    def save_npz(self, path: Path | str) -> None:
        """Write one compressed npz."""
        images = {f"texture_{i}": image for i, image in enumerate(self.textures)}
        np.savez_compressed(path, uv=self.uv, texture_id=self.texture_id, **images)

    @classmethod
    def load_npz(cls, path: Path | str) -> "Appearance":
        """Read what `save_npz` wrote."""
        with np.load(path, allow_pickle=False) as data:
            count = sum(name.startswith("texture_") and name != "texture_id" for name in data.files)
            return cls(data["uv"], data["texture_id"], [data[f"texture_{i}"] for i in range(count)])
