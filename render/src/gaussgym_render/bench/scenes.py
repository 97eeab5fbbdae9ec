"""What benchmarks render: scenes with an exact number of splats, and cameras along their paths."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from gaussgym_scene import InputError, Scene, Splats, synthesize
from gaussgym_scene.frames import matrix_from_quat_wxyz
from gaussgym_scene.synth import KINDS
from numpy.typing import NDArray

from gaussgym_render.viewpoints import path_viewpoints

POSES = 64
"""Places along the paths; larger batches visit them again, so that batches of all sizes see the same."""
APART_M = 0.25
"""Scene s is the first one, moved by s times this along x, with its cameras: the same pictures from other memory."""


@dataclass(frozen=True)
class Workload:
    """C cameras in S scenes.

    Attributes:
        scenes: The scenes.
        c2w: Camera to world `[C, 4, 4]`, OpenCV axes.
        K: Calibration matrices `[C, 3, 3]` [px].
        scene_ids: Scene of each camera `[C]`.
        width: Image width [px].
        height: Image height [px].
    """

    scenes: list[Splats]
    c2w: NDArray[np.float64]
    K: NDArray[np.float64]
    scene_ids: NDArray[np.int64]
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.scene_ids)

    def take(self, cameras: NDArray[np.int64]) -> Workload:
        """Some of the cameras (indices into C, which may repeat)."""
        return replace(self, c2w=self.c2w[cameras], K=self.K[cameras], scene_ids=self.scene_ids[cameras])


def synthetic_scene(kind: str, num_splats: int | None) -> Scene:
    """A procedural scene, seed 0, with exactly `num_splats` splats (None: as many as it has)."""
    if kind not in KINDS:
        raise InputError(f"scene kind {kind!r} is unknown, expected one of {', '.join(KINDS)}")
    if num_splats is None:
        return synthesize(kind, 0)
    # A scene that asks for closer splats than it may have is spaced so that it just keeps the bound.
    scene = synthesize(kind, 0, max_splats=max(num_splats, 1000), splat_spacing_m=0.02)
    return with_splats(scene, num_splats)


def with_splats(scene: Scene, num_splats: int | None) -> Scene:
    """The scene with exactly `num_splats` splats (None: unchanged), by `exact_count`."""
    if num_splats is None or num_splats == len(scene.splats):
        return scene
    splats = exact_count(scene.splats, num_splats, np.random.default_rng(0))
    return Scene(scene.name, splats, paths=scene.paths, metadata=scene.metadata)


def exact_count(splats: Splats, n: int, rng: np.random.Generator) -> Splats:
    """A random subset of n splats, or all of them with jittered copies of a random choice to make n.

    Sizes are adapted so that surfaces stay as covered as they were: the two longest axes times `sqrt(len(splats) / n)`.
    A copy lies anywhere within its original's Gaussian.
    """
    if n < 1 or len(splats) == 0:
        raise InputError(f"asked for {n} of {len(splats)} splats, expected at least 1 of 1")
    if n <= len(splats):
        chosen = splats.subset(np.sort(rng.permutation(len(splats))[:n]))
    else:
        copies = rng.integers(0, len(splats), n - len(splats))
        chosen = splats.subset(np.concatenate([np.arange(len(splats)), copies]))
        axes = matrix_from_quat_wxyz(chosen.quats_wxyz[len(splats) :]) * chosen.scales[len(splats) :, None, :]
        chosen.means[len(splats) :] += np.einsum("nij,nj->ni", axes, rng.normal(size=(len(copies), 3)))
    across = chosen.scales > chosen.scales.min(1, keepdims=True)
    chosen.scales = np.where(across, chosen.scales * np.sqrt(len(splats) / n), chosen.scales).astype(
        np.float32
    )
    return chosen


def make_workload(scene: Scene, num_scenes: int, num_cameras: int, width: int, height: int) -> Workload:
    """Copies of a scene, and cameras that go round them and the places along the paths.

    Args:
        scene: A scene with paths, or with cameras of its own.
        num_scenes: S; copies share all arrays but the means.
        num_cameras: C; camera c is in scene `c % S`.
        width: Image width [px].
        height: Image height [px].

    Raises:
        InputError: If the scene has no paths.
    """
    path = path_viewpoints(scene, width=width, height=height)
    places = np.random.default_rng(0).permutation(np.linspace(0, len(path) - 1, POSES).round().astype(int))
    index, ids = np.resize(places, num_cameras), np.arange(num_cameras) % num_scenes
    c2w = path.c2w[index].copy()
    c2w[:, 0, 3] += ids * APART_M
    moved = [np.array([s * APART_M, 0.0, 0.0], np.float32) for s in range(num_scenes)]
    copies = [
        replace(scene.splats, means=scene.splats.means + offset) if s else scene.splats
        for s, offset in enumerate(moved)
    ]
    return Workload(copies, c2w, path.K[index], ids.astype(np.int64), width, height)
