"""The scene artifact: one place, ready to be seen and walked on."""

import zipfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from gaussgym_scene.artifact import ArtifactWriter, read_artifact
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Appearance, Mesh
from gaussgym_scene.paths import Paths
from gaussgym_scene.splats import Splats

MANIFEST = "scene.json"
FORMAT = "gaussgym-scene"
VERSION = 1

_Member = TypeVar("_Member")


class Scene:
    """Splats to see, a mesh and heightfield to walk on, paths to follow; metric, gravity-aligned, +Z up.

    Made in memory from its members, or by `Scene.load` from a folder, where members are read when first used.

    Attributes:
        name: What the scene is called.
        metadata: Everything the manifest says beside its files: scale and gravity source, quality numbers, licence.
        directory: Where the scene was loaded from, or None.
    """

    def __init__(
        self,
        name: str,
        splats: Splats | None = None,
        mesh: Mesh | None = None,
        heightfield: Heightfield | None = None,
        paths: Paths | None = None,
        metadata: dict[str, Any] | None = None,
        appearance: Appearance | None = None,
        *,
        directory: Path | None = None,
    ) -> None:
        self.name = name
        self.metadata = dict(metadata or {})
        self.directory = directory
        given = dict(splats=splats, mesh=mesh, heightfield=heightfield, paths=paths, appearance=appearance)
        for key, value in given.items():
            if value is not None:
                self.__dict__[key] = value  # fills the cached property

    @cached_property
    def splats(self) -> Splats:
        """What the cameras see."""
        return self._read("splats.ply", Splats.load_ply)

    @cached_property
    def mesh(self) -> Mesh:
        """Triangles [m] in the same frame."""
        return self._read("mesh.ply", Mesh.load_ply)

    @cached_property
    def heightfield(self) -> Heightfield:
        """The ground that physics uses."""
        return self._read("heightfield.npz", Heightfield.load_npz)

    @cached_property
    def paths(self) -> Paths:
        """Walkable lines, starts and goals."""
        return self._read("paths.npz", Paths.load_npz)

    @cached_property
    def appearance(self) -> Appearance | None:
        """Textures of a procedural mesh, or None for a captured one."""
        if self.directory is None or not (self.directory / "appearance.npz").exists():
            return None
        return self._read("appearance.npz", Appearance.load_npz)

    def save(self, directory: Path | str) -> Path:
        """Write the scene's folder atomically.

        Returns:
            The path of its manifest.
        """
        with ArtifactWriter(directory, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
            self.write_members(writer.path)
            writer.fields.update(self.manifest_fields())
        return Path(directory) / MANIFEST

    def write_members(self, folder: Path) -> None:
        """Write the member files into `folder` (the build adds its own files beside them)."""
        self.splats.save_ply(folder / "splats.ply")
        self.mesh.save_ply(folder / "mesh.ply")
        self.heightfield.save_npz(folder / "heightfield.npz")
        self.paths.save_npz(folder / "paths.npz")
        if self.appearance is not None:
            self.appearance.save_npz(folder / "appearance.npz")

    def manifest_fields(self) -> dict[str, Any]:
        """The manifest's entries beside format, version and files."""
        bounds = (
            [self.mesh.vertices.min(axis=0), self.mesh.vertices.max(axis=0)]
            if len(self.mesh.vertices)
            else None
        )
        fields = {
            "name": self.name,
            "units": "m",
            "up_axis": "+z",
            "sh_degree": self.splats.sh_degree,
            "antialiased": True,
            "num_splats": len(self.splats),
            "num_triangles": len(self.mesh.faces),
            "cell_m": self.heightfield.cell_m,
            "bounds_m": bounds,
        }
        return {**fields, "metadata": self.metadata}

    @classmethod
    def load(cls, directory: Path | str, *, verify: bool = True) -> "Scene":
        """Open a scene folder after checking its manifest and files.

        Raises:
            InputError: If the folder is no scene, or a file is missing, damaged or of an unknown version.
        """
        directory = Path(directory)
        if directory.name == MANIFEST:
            directory = directory.parent
        fields = read_artifact(
            directory, manifest=MANIFEST, format=FORMAT, versions=(VERSION,), verify=verify
        )
        for name in ("splats.ply", "mesh.ply", "heightfield.npz", "paths.npz"):
            if name not in fields["files"]:
                raise InputError(
                    f"{directory / MANIFEST}: lists no {name}, expected a whole scene; build it again"
                )
        return cls(
            fields.get("name", directory.name), metadata=fields.get("metadata", {}), directory=directory
        )

    def _read(self, name: str, reader: Callable[[Path], _Member]) -> _Member:
        if self.directory is None:
            raise InputError(
                f"scene {self.name!r} was made without {name}; give that member or load a whole scene"
            )
        path = self.directory / name
        try:
            return reader(path)
        except (zipfile.BadZipFile, EOFError) as error:
            raise InputError(f"{path}: unreadable ({error}); build the scene again") from None
