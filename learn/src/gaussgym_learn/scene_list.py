"""The scenes of a run as they are given: read, named by what physics uses of them, and weighed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from gaussgym_sim.mdp.commands import PathNetwork

from gaussgym_learn.frontier import Frontier, path_steps_m
from gaussgym_learn.rotation import ScenesCfg


def listed(scenes: Sequence[Scene | Path | str] | Scene | Path | str) -> list[Scene | Path | str]:
    """Scenes or folders as a list, one or many.

    Raises:
        InputError: there are none.
    """
    found = [scenes] if isinstance(scenes, Scene | Path | str) else list(scenes)
    if not found:
        raise InputError(
            "found an empty list of scenes; expected at least one scene or scene folder (--scenes)"
        )
    return found


def open_scenes(scenes: Sequence[Scene | Path | str] | Scene | Path | str) -> list[Scene]:
    """Scenes from scenes or folders, one or many."""
    scenes = listed(scenes)
    loaded: dict[Path, Scene] = {}  # a folder that is named twice is read once
    for item in scenes:
        if not isinstance(item, Scene):
            loaded.setdefault(Path(item), Scene.load(item))
    return [s if isinstance(s, Scene) else loaded[Path(s)] for s in scenes]


def scene_hash(scene: Scene) -> str:
    """A hash of the ground and the paths that physics uses, 16 hex digits; the same for a saved and a loaded scene."""
    field, paths = scene.heightfield, scene.paths
    digest = hashlib.sha256()
    for array in (field.height_m, field.origin_xy_m, paths.points, paths.path_id):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def hash_scenes(sources: Sequence[Scene | Path | str]) -> dict[str, str]:
    """Name and `scene_hash` of scenes, each read and forgotten: so every scene is known to have ground and paths.

    Raises:
        InputError: One has not.
    """
    hashes = {}
    for source in sources:
        scene = source if isinstance(source, Scene) else Scene.load(source, verify=False)
        PathNetwork([scene], device=torch.device("cpu"))
        hashes[scene.name] = scene_hash(scene)
    return hashes


def frontier_of(sources: Sequence[Scene | Path | str], memory: ScenesCfg) -> Frontier:
    """How scenes are drawn; each is read once for how hard its paths are.

    Raises:
        InputError: a scene is listed twice, or weights do not fit.
    """
    seen = set()
    for source in sources:
        key = id(source) if isinstance(source, Scene) else Path(source).resolve()
        if key in seen:
            name = source.name if isinstance(source, Scene) else source
            raise InputError(
                f"scene {name} is listed twice; list it once, with a weight (gaussgym-learn collection)"
            )
        seen.add(key)
    difficulty = None
    if memory.frontier is not None:
        opened = (s if isinstance(s, Scene) else Scene.load(s, verify=False) for s in sources)
        difficulty = [path_steps_m(scene) for scene in opened]
    return Frontier(len(sources), weights=memory.weights, cfg=memory.frontier, difficulty=difficulty)
