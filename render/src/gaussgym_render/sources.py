"""Opens what a command may be given as a scene: a scene folder, a folder with levels of detail, or a splat file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gaussgym_scene import InputError, Scene
from gaussgym_scene.formats import SUFFIXES, load_splats
from gaussgym_scene.scene import MANIFEST as SCENE_MANIFEST

from gaussgym_render import lod
from gaussgym_render.backends import AnySplats
from gaussgym_render.lod import LodSplats
from gaussgym_render.viewpoints import Viewpoints, load_viewpoints

_SOG_MANIFEST = "meta.json"


@dataclass(frozen=True)
class SplatSource:
    """What was opened.

    Attributes:
        name: The scene's name, else that of the file or folder.
        splats: To be rendered, with levels of detail or without.
        scene: The whole scene, where a scene folder was opened.
        path: What was opened.
    """

    name: str
    splats: AnySplats
    scene: Scene | None
    path: Path

    def whole_scene(self, needed: str, option: str) -> Scene:
        """The scene, of which something is `needed` that splats alone do not bring, but a command's `option` may.

        Raises:
            InputError: Splats alone were opened.
        """
        if self.scene is None:
            kind = "a folder with levels of detail" if isinstance(self.splats, LodSplats) else "a splat file"
            raise InputError(
                f"{self.path}: {kind} brings no {needed}; give {option} FILE, or {option} SCENE with a scene folder"
            )
        return self.scene


def open_splats(path: Path) -> SplatSource:
    """Open a scene folder, a folder written by `gaussgym-render optimize`, a splat file or an unbundled SOG.

    Args:
        path: The file or folder, or a folder's manifest.

    Raises:
        InputError: It is none of them, or is damaged.
    """
    folder = path.parent if path.name in (SCENE_MANIFEST, lod.MANIFEST, _SOG_MANIFEST) else path
    if (folder / lod.MANIFEST).exists():
        return SplatSource(folder.resolve().name, LodSplats.load(folder), None, path)
    is_sog = (folder / _SOG_MANIFEST).exists() and not (folder / SCENE_MANIFEST).exists()
    if is_sog or path.name.lower().endswith(SUFFIXES):
        return SplatSource(folder.resolve().name, load_splats(folder), None, path)
    if path.is_file() and path.name != SCENE_MANIFEST:
        raise InputError(
            f"{path}: expected a scene folder, a folder written by gaussgym-render optimize, or a splat file "
            f"({', '.join(SUFFIXES)})"
        )
    scene = Scene.load(folder)
    return SplatSource(scene.name, scene.splats, scene, path)


def open_viewpoints(path: Path, of_scene: Callable[[Scene], Viewpoints]) -> Viewpoints:
    """The cameras of a camera file, or of a scene folder those that `of_scene` gives."""
    if path.name == SCENE_MANIFEST or path.is_dir():
        return of_scene(Scene.load(path))
    return load_viewpoints(path)
