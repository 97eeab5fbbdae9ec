"""What benchmarks render: scenes with an exact number of splats, and cameras along their paths."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from gaussgym_scene import InputError, Splats, synthesize
from gaussgym_scene.frames import matrix_from_quat_wxyz
from gaussgym_scene.synth import KINDS
from numpy.typing import NDArray

from gaussgym_render.backends import AnySplats
from gaussgym_render.lod import LodSplats
from gaussgym_render.sources import open_splats, open_viewpoints
from gaussgym_render.viewpoints import Viewpoints, path_viewpoints

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

    scenes: list[AnySplats]
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


@dataclass(frozen=True)
class Place:
    """A scene to render, and where its cameras may stand.

    Attributes:
        name: What it is called.
        splats: The scene.
        cameras: Cameras of one K, along its paths or given.
    """

    name: str
    splats: AnySplats
    cameras: Viewpoints

    def with_splats(self, num_splats: int | None) -> Place:
        """The place with exactly so many splats (None: unchanged), by `exact_count`."""
        if num_splats is None or num_splats == len(self.splats):
            return self
        if isinstance(self.splats, LodSplats):
            raise InputError(
                f"{self.name}: found levels of detail, of which no number of splats can be asked; omit --splats"
            )
        return replace(self, splats=exact_count(self.splats, num_splats, np.random.default_rng(0)))


def synthetic_place(kind: str, num_splats: int | None) -> Place:
    """A procedural scene, seed 0, with exactly `num_splats` splats (None: as many as it has), and cameras on its paths."""
    KINDS.get(kind)  # a wrong name is told before parameters are
    # A scene that asks for closer splats than it may have is spaced so that it just keeps the bound.
    dense = {} if num_splats is None else {"max_splats": max(num_splats, 1000), "splat_spacing_m": 0.02}
    scene = synthesize(kind, 0, **dense)
    return Place(scene.name, scene.splats, path_viewpoints(scene)).with_splats(num_splats)


def opened_place(path: Path, viewpoints: Path | None) -> Place:
    """A scene of any kind that `open_splats` opens.

    Args:
        path: The scene.
        viewpoints: A camera file, or a scene folder on whose paths cameras are placed; None: the scene's own paths.
    """
    source = open_splats(path)
    if viewpoints is not None:
        cameras = open_viewpoints(viewpoints, path_viewpoints)
    else:
        cameras = path_viewpoints(source.whole_scene("paths to place cameras on", "--viewpoints"))
    return Place(source.name, source.splats, cameras)


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


def make_workload(place: Place, num_scenes: int, num_cameras: int, width: int, height: int) -> Workload:
    """Copies of a scene, and cameras that go round them and the places where cameras may stand.

    Args:
        place: The scene and its cameras, whose horizontal field of view is kept.
        num_scenes: S; copies share all arrays but the means, and with levels of detail those too, unmoved.
        num_cameras: C; camera c is in scene `c % S`.
        width: Image width [px].
        height: Image height [px].
    """
    known, splats = place.cameras, place.splats
    stops = np.linspace(0, len(known) - 1, POSES).round().astype(int)
    index, ids = (
        np.resize(np.random.default_rng(0).permutation(stops), num_cameras),
        np.arange(num_cameras) % num_scenes,
    )
    c2w, k = known.c2w[index].copy(), known.K[index] * (width / known.width)
    k[:, 0, 2], k[:, 1, 2], k[:, 2, 2] = width / 2, height / 2, 1.0
    copies: list[AnySplats] = [splats] * num_scenes
    if not isinstance(splats, LodSplats):
        c2w[:, 0, 3] += ids * APART_M
        offsets = [np.array([s * APART_M, 0.0, 0.0], np.float32) for s in range(num_scenes)]
        copies = [
            replace(splats, means=splats.means + offset) if offset.any() else splats for offset in offsets
        ]
    return Workload(copies, c2w, k, ids.astype(np.int64), width, height)
