# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Dense depth from posed photographs: PatchMatch stereo with slanted windows, checked between views.

After Bleyer et al. 2011 (slanted support windows), Galliani et al. 2015 (red-black propagation) and Schönberger et al. 2016
(fusion by geometric consistency), reduced to what two CPU cores do in half a second an image. Sparse points and the ground
expected below the walk start the search.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray

from gaussgym_recon.posed import PosedCapture
from gaussgym_recon.stereo_kernels import confirm, sweep
from gaussgym_recon.views import Views

Floats = NDArray[np.floating]

FINER = 1.5
"""A level of the pyramid that is less than so many times as large refines nothing."""
_SAME = np.ones(2)


@dataclass(frozen=True)
class StereoCfg:
    """Settings of the stereo search.

    Attributes:
        sources: Views each view is compared with.
        iterations: Rounds of propagation and refinement.
        radius: Half width of the window [px].
        step: Spacing of its samples [px].
        min_angle_deg: Views seen under a smaller angle at the sparse points are no sources.
        max_cost: Matching costs (1 - correlation) above this are dropped.
        max_relative: Depths that two views disagree on by more than this fraction are dropped.
        max_reprojection_px: And those that come back farther than this from where they started.
        min_views: Views that must confirm a depth.
        sure_cost: One view is enough for depths that match better than this.
        refine: Rounds of refinement at the next finer level of the pyramid, where there is one.
        seed: Of the random numbers.
    """

    sources: int = 5
    iterations: int = 3
    refine: int = 2
    radius: int = 4
    step: int = 2
    min_angle_deg: float = 1.5
    max_cost: float = 0.6
    max_relative: float = 0.02
    max_reprojection_px: float = 1.0
    min_views: int = 2
    sure_cost: float = 0.2
    seed: int = 0


@dataclass
class DepthMap:
    """Depth of one view at one pyramid level.

    Attributes:
        depth_m: ``[h, w]`` along +Z, 0 where unknown.
        normal_w: ``[h, w, 3]`` unit, towards the camera, world frame.
        cost: ``[h, w]`` matching cost, 0 = perfect.
    """

    depth_m: Floats
    normal_w: Floats
    cost: Floats


def pick_sources(posed: PosedCapture, views: Views, cfg: StereoCfg) -> dict[int, list[int]]:
    """For each training view the other training views to compare it with.

    Chosen one after the other so that every sparse point of the view is seen from two of them under a useful angle: the
    ground at one's feet is seen by other views than the end of the street. Views of other cameras are left out.
    """
    train = views.train
    member = np.zeros((len(views.views), len(posed.points)), bool)
    for i in train:
        member[i, views.points[i]] = True
    out: dict[int, list[int]] = {}
    for i in train:
        own = views.points[i]
        ray = posed.points[own] - views.views[i].c2w[:3, 3]
        distance = np.linalg.norm(ray, axis=1) + 1e-9
        ray /= distance[:, None]
        gains = {}
        for j in train:
            common = member[j, own]
            if j == i or common.sum() < 8 or views.camera(i) != views.camera(j):
                continue
            other = posed.points[own] - views.views[j].c2w[:3, 3]
            cosine = (ray * other).sum(1) / (np.linalg.norm(other, axis=1) + 1e-12)
            angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
            # Too narrow an angle says nothing of depth; too wide a one or another scale does not look alike.
            octaves = np.log2((np.linalg.norm(other, axis=1) + 1e-9) / distance)
            useful = (
                np.clip(angle / 3.0, 0, 1) * np.clip((40.0 - angle) / 20.0, 0, 1) * np.exp(-2.0 * octaves**2)
            )
            gains[j] = common * useful * (angle > cfg.min_angle_deg)
        covered, chosen = np.zeros(len(own)), []
        while gains and len(chosen) < cfg.sources:
            best = max(
                gains, key=lambda j: float(np.minimum(covered + gains[j], 2.0).sum() + 0.05 * gains[j].sum())
            )
            if not gains[best].any():
                break
            covered += gains.pop(best)
            chosen.append(best)
        out[i] = chosen
    return out


def dense_depths(
    posed: PosedCapture,
    views: Views,
    cfg: StereoCfg | None = None,
    *,
    level: int = 1,
    on_progress: Callable[[float, str], None] | None = None,
) -> dict[int, DepthMap]:
    """Depth maps of the training views.

    Args:
        posed: Cameras and sparse points.
        views: Undistorted photographs; held-out ones are not read.
        cfg: Settings.
        level: Pyramid level to work at.
        on_progress: Told the fraction done.

    Returns:
        By view index, confirmed depths only; views without sources are left out.
    """
    cfg = cfg or StereoCfg()
    sources = {i: s for i, s in pick_sources(posed, views, cfg).items() if s}
    grays = {i: _gray(views.views[i].pyramid[level]) for i in sources}
    finer = cfg.refine > 0 and level + 1 < len(views.intrinsics)
    fine = {i: _gray(views.views[i].pyramid[level + 1]) for i in sources} if finer else {}
    raw: dict[int, DepthMap] = {}
    for n, i in enumerate(sources):
        near = [j for j in sources[i] if j in grays]
        raw[i] = _search(posed, views, i, near, grays, level, cfg)
        if fine and views.camera(i, level + 1).width >= FINER * views.camera(i, level).width:
            raw[i] = _refined(raw[i], views, i, near, fine, level, cfg)
        if on_progress is not None:
            on_progress(0.95 * (n + 1) / len(sources), f"stereo {n + 1} of {len(sources)}")
    out = {}
    for i, own in raw.items():
        near, k = [j for j in sources[i] if j in raw], views.camera(i, level).K
        w_i = np.linalg.inv(views.views[i].c2w)
        there = np.stack([np.linalg.inv(views.views[j].c2w) @ views.views[i].c2w for j in near])
        back = np.stack([w_i @ views.views[j].c2w for j in near])
        votes = np.zeros(own.depth_m.shape, np.int32)
        confirm(
            own.depth_m, own.cost, there, np.stack([raw[j].depth_m for j in near]), back, k, cfg.max_cost,
            cfg.max_relative, cfg.max_reprojection_px, votes,
        )  # fmt: skip
        firm = (votes >= cfg.min_views) | ((votes >= 1) & (own.cost < cfg.sure_cost))
        out[i] = DepthMap(np.where(firm, own.depth_m, 0).astype(np.float32), own.normal_w, own.cost)
    return out


def save_depths(path: Path, depths: dict[int, DepthMap]) -> None:
    """Write depth maps to an ``.npz`` file, atomically."""
    arrays = {}
    for i, d in depths.items():
        arrays[f"depth_{i}"] = d.depth_m
        arrays[f"normal_{i}"] = np.round(d.normal_w * 127).astype(np.int8)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    os.replace(partial, path)


def load_depths(path: Path) -> dict[int, DepthMap]:
    """Read what :func:`save_depths` wrote; costs are not kept.

    Raises:
        InputError: The file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            out = {}
            for key in data.files:
                if key.startswith("depth_"):
                    i = int(key.removeprefix("depth_"))
                    depth = data[key]
                    out[i] = DepthMap(
                        depth, data[f"normal_{i}"].astype(np.float32) / 127, np.zeros_like(depth)
                    )
            return out
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: not readable as stereo depth ({error}); delete it and build again"
        ) from error


def _gray(image: NDArray[np.uint8]) -> Floats:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / np.float32(255)


def _search(
    posed: PosedCapture,
    views: Views,
    index: int,
    near: list[int],
    grays: dict[int, Floats],
    level: int,
    cfg: StereoCfg,
) -> DepthMap:
    candidates = _candidates(posed, views, index, level)
    depth = np.ascontiguousarray(candidates[0, ..., 0])
    normal = np.ascontiguousarray(candidates[0, ..., 1:])
    cost = np.full(depth.shape, 2.0, np.float32)
    args = (*_compared(views, index, near, grays, level), depth, normal, cost)
    sweep(*args, candidates, 2, np.float32(0), cfg.radius, cfg.step, cfg.seed, _SAME)
    _propagate(args, cfg.iterations, 0.25, cfg.seed + 7919 + index, _SAME, cfg)
    rotation = views.views[index].c2w[:3, :3]
    return DepthMap(depth, (normal @ rotation.T).astype(np.float32), cost)


def _propagate(
    args: tuple[Any, ...], rounds: int, spread: float, seed: int, scale: Floats, cfg: StereoCfg
) -> None:
    """Rounds over the pixels of one colour of a chessboard, then the other: neighbours' planes, and random ones ever nearer."""
    nothing = np.zeros((0, 1, 1, 4), np.float32)
    for r in range(rounds):
        for color in (0, 1):
            near = np.float32(spread * 0.4**r)
            sweep(*args, nothing, color, near, cfg.radius, cfg.step, seed + 7919 * r, scale)


def _compared(
    views: Views, index: int, near: list[int], grays: dict[int, Floats], level: int
) -> tuple[Any, ...]:
    """Image, images of the sources, both parts of their homographies, and the inverse calibration, as `sweep` takes them."""
    k, c2w = views.camera(index, level).K, views.views[index].c2w
    k_inv = np.linalg.inv(k)
    moves = [np.linalg.inv(views.views[j].c2w) @ c2w for j in near]
    fixed = np.float32([k @ t[:3, :3] @ k_inv for t in moves])
    move = np.float32([k @ t[:3, 3] for t in moves])
    return grays[index], np.stack([grays[j] for j in near]), fixed, move, k_inv.astype(np.float32)


def _refined(
    found: DepthMap,
    views: Views,
    index: int,
    near: list[int],
    grays: dict[int, Floats],
    level: int,
    cfg: StereoCfg,
) -> DepthMap:
    """The same depths from smaller windows: in the images of the next finer level.

    Windows round off the edges of steps by half their width, and depth is as exact as a pixel is small. Where the finer images
    do not match, what was found stays.
    """
    coarse, fine = views.camera(index, level), views.camera(index, level + 1)
    scale = np.array([fine.width / coarse.width, fine.height / coarse.height])
    rotation = views.views[index].c2w[:3, :3].astype(np.float32)
    normal = np.ascontiguousarray(found.normal_w @ rotation)
    there = _rays(fine.K, *found.depth_m.shape, scale)
    here = _rays(coarse.K, *found.depth_m.shape, _SAME)
    depth = np.ascontiguousarray(_on_plane(found.depth_m, normal, here, there))
    start = np.concatenate([depth[..., None], normal], -1)[None]
    cost = np.full(depth.shape, 2.0, np.float32)
    args = (*_compared(views, index, near, grays, level + 1), depth, normal, cost)
    sweep(*args, start, 2, np.float32(0), cfg.radius, cfg.step, cfg.seed, scale)
    _propagate(args, cfg.refine, 0.01, cfg.seed + 7919 * 101 + index, scale, cfg)
    better = cost < cfg.max_cost
    return DepthMap(
        np.where(better, _on_plane(depth, normal, there, here), found.depth_m).astype(np.float32),
        np.where(better[..., None], normal @ rotation.T, found.normal_w).astype(np.float32),
        np.where(better, np.minimum(cost, found.cost), found.cost).astype(np.float32),
    )


def _rays(k: Floats, rows: int, columns: int, scale: Floats) -> Floats:
    """Rays ``[rows, columns, 3]`` of unit depth as `sweep` has them: through the pixels of images ``scale`` times as large."""
    u, v = (np.floor((np.arange(n) + 0.5) * by) + 0.5 for n, by in zip((columns, rows), scale))
    u, v = np.meshgrid((u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1])
    return np.stack([u, v, np.ones_like(u)], -1).astype(np.float32)


def _on_plane(depth: Floats, normal: Floats, here: Floats, there: Floats) -> Floats:
    """Depth along rays ``there`` of the planes that have ``depth`` along ``here``; all in the camera's frame."""
    toward = (normal * there).sum(-1)
    return (depth * (normal * here).sum(-1) / np.where(np.abs(toward) > 1e-3, toward, -1e-3)).astype(
        np.float32
    )


def _candidates(posed: PosedCapture, views: Views, index: int, level: int) -> Floats:
    """First guesses ``[M, h, w, 4]``: sparse depth frontal and upright, the expected ground, random depths."""
    from scipy.interpolate import griddata

    camera, c2w = views.camera(index, level), views.views[index].c2w
    h, w = camera.height, camera.width
    rng = np.random.default_rng(index)
    u, v = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], -1)
    p = (posed.points[views.points[index]] - c2w[:3, 3]) @ c2w[:3, :3]
    p = p[p[:, 2] > 0.1]
    coarse = np.stack([u[::4, ::4], v[::4, ::4]], -1)
    at = np.stack([camera.fx * p[:, 0] / p[:, 2] + camera.cx, camera.fy * p[:, 1] / p[:, 2] + camera.cy], -1)
    inverse = (
        griddata(at, 1 / p[:, 2], coarse, method="nearest") if len(p) else np.full(coarse.shape[:2], 0.1)
    )
    sparse = 1 / np.maximum(
        cv2.resize(inverse.astype(np.float32), (w, h), interpolation=cv2.INTER_NEAREST), 1e-4
    )
    up = c2w[:3, :3].T @ np.array([0, 0, 1.0])
    facing = -rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    falling = -(rays @ up)  # how fast a ray of unit depth falls
    ground = np.where(falling > 0.02, posed.camera_height_m / np.maximum(falling, 0.02), 0.0)
    near, far = np.quantile(p[:, 2], [0.02, 0.98]) if len(p) else (1.0, 30.0)
    out = []
    for z, n in ((sparse, facing), (sparse, up), (ground, up), (0.93 * ground, up), (1.07 * ground, up)):
        out.append(np.concatenate([z[..., None], np.broadcast_to(n, (h, w, 3))], -1))
    for _ in range(3):
        z = 1 / rng.uniform(1 / far, 1 / near, (h, w))
        n = facing + 0.7 * rng.normal(size=(h, w, 3))
        out.append(np.concatenate([z[..., None], n / np.linalg.norm(n, axis=-1, keepdims=True)], -1))
    return np.float32(out)  # type: ignore[return-value]
