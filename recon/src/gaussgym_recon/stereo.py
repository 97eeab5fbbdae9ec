# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
# ruff: noqa: ANN001, ANN202
"""Dense depth from posed photographs: PatchMatch stereo with slanted windows, checked between views.

After Bleyer et al. 2011 (slanted support windows), Galliani et al. 2015 (red-black propagation) and Schönberger et al. 2016
(fusion by geometric consistency), reduced to what two CPU cores do in half a second an image. Sparse points and the ground
expected below the walk start the search.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from gaussgym_scene.errors import InputError
from numba import njit, prange
from numpy.typing import NDArray

from gaussgym_recon.posed import PosedCapture
from gaussgym_recon.views import Views

Floats = NDArray[np.floating]


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
        seed: Of the random numbers.
    """

    sources: int = 5
    iterations: int = 3
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


@njit(inline="always")
def _random(state):
    """xorshift32; returns the new state and a number in -1..1."""
    state ^= np.uint32(state << np.uint32(13))
    state ^= state >> np.uint32(17)
    state ^= np.uint32(state << np.uint32(5))
    return state, np.float32(state) * np.float32(2.0 / 4294967296.0) - np.float32(1.0)


@njit(fastmath=True)
def _cost(
    images,
    h_fixed,
    h_move,
    nk,
    inverse,
    u,
    v,
    patch,
    weights,
    spots,
    mean,
    deviation,
    total,
    side,
    width,
    height,
):
    """Mean of the two best ``1 - correlation`` over the sources, for the plane ``nk / inverse`` in reference pixels."""
    best, second = np.float32(2.0), np.float32(2.0)
    count = patch.shape[0]
    for s in range(images.shape[0]):
        # Homography of the plane: fixed part + move (x) n / d, on pixel coordinates.
        a0 = h_fixed[s, 0, 0] + h_move[s, 0] * nk[0] * inverse
        a1 = h_fixed[s, 0, 1] + h_move[s, 0] * nk[1] * inverse
        a2 = h_fixed[s, 0, 2] + h_move[s, 0] * nk[2] * inverse
        b0 = h_fixed[s, 1, 0] + h_move[s, 1] * nk[0] * inverse
        b1 = h_fixed[s, 1, 1] + h_move[s, 1] * nk[1] * inverse
        b2 = h_fixed[s, 1, 2] + h_move[s, 1] * nk[2] * inverse
        c0 = h_fixed[s, 2, 0] + h_move[s, 2] * nk[0] * inverse
        c1 = h_fixed[s, 2, 1] + h_move[s, 2] * nk[1] * inverse
        c2 = h_fixed[s, 2, 2] + h_move[s, 2] * nk[2] * inverse
        # The window is convex and so is its picture: where the corners lie inside, all of it does.
        inside = True
        for k in (0, side - 1, count - side, count - 1):
            x, y = u + spots[k, 0] + np.float32(0.5), v + spots[k, 1] + np.float32(0.5)
            w = c0 * x + c1 * y + c2
            px, py = (a0 * x + a1 * y + a2) / w, (b0 * x + b1 * y + b2) / w
            if not (w > 1e-6 and px >= 0.5 and py >= 0.5 and px < width - 0.5 and py < height - 0.5):
                inside = False
        if not inside:
            continue
        s1, s2, sr = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for k in range(count):
            x, y = u + spots[k, 0] + np.float32(0.5), v + spots[k, 1] + np.float32(0.5)
            w = np.float32(1.0) / (c0 * x + c1 * y + c2)
            px = (a0 * x + a1 * y + a2) * w - np.float32(0.5)
            py = (b0 * x + b1 * y + b2) * w - np.float32(0.5)
            ix, iy = np.uint32(np.int32(px)), np.uint32(np.int32(py))
            fx, fy = px - np.float32(ix), py - np.float32(iy)
            p00, p01 = images[s, iy, ix], images[s, iy, ix + np.uint32(1)]
            p10, p11 = images[s, iy + np.uint32(1), ix], images[s, iy + np.uint32(1), ix + np.uint32(1)]
            top = p00 + fx * (p01 - p00)
            value = top + fy * (p10 + fx * (p11 - p10) - top)
            weighted = weights[k] * value
            s1 += weighted
            s2 += weighted * value
            sr += weighted * patch[k]
        cost = np.float32(1.2)
        m = s1 / total
        variance = s2 / total - m * m
        if variance > np.float32(1e-5):
            cost = np.float32(1.0) - (sr / total - m * mean) / (np.sqrt(variance) * deviation)
        if cost < best:
            second = best
            best = cost
        elif cost < second:
            second = cost
    if second > np.float32(1.1):  # only one source sees the whole window
        return best + np.float32(0.15)
    return np.float32(0.5) * (best + second)


@njit(inline="always")
def _window(image, u, v, radius, step, patch, weights, spots):
    """Reference samples around (u, v) with weights that fall with colour difference; mean, deviation, sum of weights."""
    height, width = image.shape
    centre = image[v, u]
    k = 0
    s1, s2, ws = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for dy in range(-radius, radius + 1, step):
        for dx in range(-radius, radius + 1, step):
            x, y = min(max(u + dx, 0), width - 1), min(max(v + dy, 0), height - 1)
            value = image[y, x]
            w = np.exp(-abs(value - centre) * np.float32(6.0))
            patch[k], weights[k] = value, w
            spots[k, 0], spots[k, 1] = x - u, y - v
            s1 += w * value
            s2 += w * value * value
            ws += w
            k += 1
    mean = s1 / ws
    return mean, np.sqrt(max(s2 / ws - mean * mean, np.float32(0.0))), ws


@njit(parallel=True, cache=True, fastmath=True)
def _sweep(
    image, images, h_fixed, h_move, k_inv, depth, normal, cost, candidates, color, spread, radius, step, seed
):
    """One half of a red-black round: propagate from neighbours of the other colour, then perturb.

    ``candidates [M, h, w, 4]`` (depth, normal) are tried first; pass an empty array later. ``color`` 2 means all pixels
    without propagation.
    """
    height, width = image.shape
    side = 2 * (radius // step) + 1
    for v in prange(height):
        patch, weights = np.empty(side * side, np.float32), np.empty(side * side, np.float32)
        spots = np.empty((side * side, 2), np.float32)
        nk = np.empty(3, np.float32)
        n = np.empty(3, np.float32)
        state = np.uint32((v + 1) * 2654435761 + seed * 40503 + color * 97 + 12345)
        for _ in range(4):
            state, _r = _random(state)
        for u in range(width):
            if color < 2 and (u + v) % 2 != color:
                continue
            mean, deviation, total = _window(image, u, v, radius, step, patch, weights, spots)
            if deviation < 3e-3:
                cost[v, u] = 2.0
                continue
            rx = k_inv[0, 0] * (u + 0.5) + k_inv[0, 2]
            ry = k_inv[1, 1] * (v + 0.5) + k_inv[1, 2]
            best, z = cost[v, u], depth[v, u]
            b0, b1, b2 = normal[v, u, 0], normal[v, u, 1], normal[v, u, 2]
            tries = candidates.shape[0] if color == 2 else 7
            for t in range(tries):
                if color == 2:
                    zt = candidates[t, v, u, 0]
                    n[0], n[1], n[2] = candidates[t, v, u, 1], candidates[t, v, u, 2], candidates[t, v, u, 3]
                elif t < 4:
                    # The best of three pixels of the other colour in one of four directions.
                    pick_u, pick_v, pick = -1, -1, np.float32(3.0)
                    for far in (1, 3, 7):
                        uu = u + far * ((t == 0) - (t == 1))
                        vv = v + far * ((t == 2) - (t == 3))
                        if 0 <= uu < width and 0 <= vv < height and cost[vv, uu] < pick:
                            pick, pick_u, pick_v = cost[vv, uu], uu, vv
                    if pick_u < 0:
                        continue
                    n[0], n[1], n[2] = (
                        normal[pick_v, pick_u, 0],
                        normal[pick_v, pick_u, 1],
                        normal[pick_v, pick_u, 2],
                    )
                    qx = k_inv[0, 0] * (pick_u + 0.5) + k_inv[0, 2]
                    qy = k_inv[1, 1] * (pick_v + 0.5) + k_inv[1, 2]
                    d = depth[pick_v, pick_u] * (n[0] * qx + n[1] * qy + n[2])
                    zt = d / (n[0] * rx + n[1] * ry + n[2])
                else:
                    state, r0 = _random(state)
                    state, r1 = _random(state)
                    state, r2 = _random(state)
                    state, r3 = _random(state)
                    by_depth = spread * r0 if t != 5 else np.float32(0.0)
                    by_normal = 2 * spread if t != 4 else np.float32(0.0)
                    zt = z * (1 + by_depth)
                    n[0], n[1], n[2] = (
                        b0 + by_normal * r1 * 2,
                        b1 + by_normal * r2 * 2,
                        b2 + by_normal * r3 * 2,
                    )
                    length = np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2])
                    n[0], n[1], n[2] = n[0] / length, n[1] / length, n[2] / length
                slope = n[0] * rx + n[1] * ry + n[2]
                if not (zt > 0.05 and zt < 1e4) or slope > -0.03 * np.sqrt(rx * rx + ry * ry + 1):
                    continue
                nk[0] = n[0] * k_inv[0, 0]
                nk[1] = n[1] * k_inv[1, 1]
                nk[2] = n[0] * k_inv[0, 2] + n[1] * k_inv[1, 2] + n[2]
                c = _cost(
                    images, h_fixed, h_move, nk, np.float32(1.0 / (zt * slope)), u, v, patch, weights, spots, mean, deviation,
                    total, side, width, height,
                )  # fmt: skip
                if c < best:
                    best, z = c, zt
                    b0, b1, b2 = n[0], n[1], n[2]
            cost[v, u], depth[v, u] = best, z
            normal[v, u, 0], normal[v, u, 1], normal[v, u, 2] = b0, b1, b2


@njit(parallel=True, cache=True)
def _confirm(depth, cost, points_from_ref, depths, ref_from_source, k, max_cost, max_relative, max_px, votes):
    """Count the sources whose own depth, carried back, lands on the same pixel at the same depth."""
    height, width = depth.shape
    for v in prange(height):
        for u in range(width):
            votes[v, u] = 0
            z = depth[v, u]
            if cost[v, u] > max_cost or not z > 0:
                continue
            x, y = (u + 0.5 - k[0, 2]) / k[0, 0] * z, (v + 0.5 - k[1, 2]) / k[1, 1] * z
            for s in range(depths.shape[0]):
                t = points_from_ref[s]
                qx = t[0, 0] * x + t[0, 1] * y + t[0, 2] * z + t[0, 3]
                qy = t[1, 0] * x + t[1, 1] * y + t[1, 2] * z + t[1, 3]
                qz = t[2, 0] * x + t[2, 1] * y + t[2, 2] * z + t[2, 3]
                if qz <= 0.05:
                    continue
                iu, iv = math.floor(k[0, 0] * qx / qz + k[0, 2]), math.floor(k[1, 1] * qy / qz + k[1, 2])
                if iu < 0 or iv < 0 or iu >= width or iv >= height:
                    continue
                zs = depths[s, int(iv), int(iu)]
                if not zs > 0 or abs(zs - qz) > 3 * max_relative * qz:
                    continue
                # Where the source's pixel really looks, at the source's depth.
                sx, sy = qx / qz * zs, qy / qz * zs
                b = ref_from_source[s]
                bx = b[0, 0] * sx + b[0, 1] * sy + b[0, 2] * zs + b[0, 3]
                by = b[1, 0] * sx + b[1, 1] * sy + b[1, 2] * zs + b[1, 3]
                bz = b[2, 0] * sx + b[2, 1] * sy + b[2, 2] * zs + b[2, 3]
                if bz <= 0.05:
                    continue
                du = k[0, 0] * bx / bz + k[0, 2] - u - 0.5
                dv = k[1, 1] * by / bz + k[1, 2] - v - 0.5
                if abs(bz - z) < max_relative * z and du * du + dv * dv < max_px * max_px:
                    votes[v, u] += 1


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
    raw: dict[int, DepthMap] = {}
    for n, i in enumerate(sources):
        raw[i] = _search(posed, views, i, [j for j in sources[i] if j in grays], grays, level, cfg)
        if on_progress is not None:
            on_progress(0.95 * (n + 1) / len(sources), f"stereo {n + 1} of {len(sources)}")
    out = {}
    for i, own in raw.items():
        near, k = [j for j in sources[i] if j in raw], views.camera(i, level).K
        w_i = np.linalg.inv(views.views[i].c2w)
        there = np.stack([np.linalg.inv(views.views[j].c2w) @ views.views[i].c2w for j in near])
        back = np.stack([w_i @ views.views[j].c2w for j in near])
        votes = np.zeros(own.depth_m.shape, np.int32)
        _confirm(
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
    camera = views.camera(index, level)
    k, k_inv = camera.K, np.linalg.inv(camera.K)
    c2w = views.views[index].c2w
    fixed, move = [], []
    for j in near:
        t = np.linalg.inv(views.views[j].c2w) @ c2w
        fixed.append(k @ t[:3, :3] @ k_inv)
        move.append(k @ t[:3, 3])
    image = grays[index]
    images = np.stack([grays[j] for j in near])
    candidates = _candidates(posed, views, index, level)
    depth = np.ascontiguousarray(candidates[0, ..., 0])
    normal = np.ascontiguousarray(candidates[0, ..., 1:])
    cost = np.full(depth.shape, 2.0, np.float32)
    args = (
        image, images, np.float32(fixed), np.float32(move), k_inv.astype(np.float32), depth, normal, cost,
    )  # fmt: skip
    nothing = np.zeros((0, 1, 1, 4), np.float32)
    _sweep(*args, candidates, 2, np.float32(0), cfg.radius, cfg.step, cfg.seed)
    for r in range(cfg.iterations):
        spread = np.float32(0.25 * 0.4**r)
        for color in (0, 1):
            _sweep(*args, nothing, color, spread, cfg.radius, cfg.step, cfg.seed + 7919 * (r + 1) + index)
    return DepthMap(depth, (normal @ c2w[:3, :3].T).astype(np.float32), cost)


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
