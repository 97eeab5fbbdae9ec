"""Offline: make a scene cheaper to render at robot resolutions, within a PSNR against its full self.

Splats that no camera sees are dropped, the rest becomes a tree of merged splats (`lod`) that is tuned on the full scene's images,
and all is taken as far as the PSNR allows: by bisection, first the importance below which splats go, then the error that a merged
node may show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gaussgym_scene import InputError, Splats
from numpy.typing import NDArray

from gaussgym_render import oracle
from gaussgym_render.backends import AnySplats
from gaussgym_render.bench.comparison import MAX_PSNR_DB, psnr_db
from gaussgym_render.differentiable import raster_backward, raster_forward
from gaussgym_render.lod import MAX_OPACITY, MIN_SCALE_M, LodSplats, build_tree
from gaussgym_render.renderer import SplatRenderer
from gaussgym_render.viewpoints import Viewpoints

PRUNE_MARGIN_DB = 6.0
"""Pruning alone stays this far above the wanted PSNR: the rest of the error is left to merging."""
_STEPS = 9  # of each bisection
_PRUNE_RANGE = (1e-4, 4.0)  # blending weight summed over a view [px]
_THRESHOLD_RANGE_PX = (0.02, 3.0)
_BATCH = 64
# Splats are tuned at a threshold that gives this much less than wanted before. How much tuning gains differs: all are tried.
_TUNE_MARGINS_DB = (2.5, 4.5, 7.0)
_PASSES = 4
_RATES = {"means": 0.03, "scales": 0.02, "opacities": 0.03, "sh": 0.03}
_BETAS = (0.8, 0.98)


@dataclass(frozen=True, kw_only=True)
class OptimizeCfg:
    """What to optimise for.

    Attributes:
        psnr_db: Least PSNR against the full scene, mean over the held-out cameras, on the paths and turned each [dB].
        width: Image width [px].
        height: Image height [px].
        max_cameras: Most viewpoints to measure importance from, and most held-out ones.
        seed: Of the turned and shifted viewpoints.
        num_threads: CPU threads of the renderer, None for all.
    """

    psnr_db: float = 40.0
    width: int = 64
    height: int = 48
    max_cameras: int = 160
    seed: int = 0
    num_threads: int | None = None


def importance(
    splats: Splats, cameras: Viewpoints, *, progress: Callable[[int], object] = lambda _: None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Blending weight of each splat, summed over the pixels of a view.

    Args:
        splats: N of them.
        cameras: The views.
        progress: Called with 1 after each view.

    Returns:
        The highest of all views and the sum over views, `[N]` [px].
    """
    highest, total = np.zeros(len(splats), np.float32), np.zeros(len(splats), np.float32)
    for c2w, k in zip(cameras.c2w, cameras.K):
        weight, _ = _blending_weights(splats, c2w, k, cameras.width, cameras.height)
        np.maximum(highest, weight, out=highest)
        total += weight
        progress(1)
    return highest, total


def _blending_weights(
    splats: oracle.SplatArrays, c2w: NDArray[np.float64], k: NDArray[np.float64], width: int, height: int
) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """Weight of each splat, summed over one view's pixels `[N]`, and the indices of those that touch the image."""
    parameters = (
        splats.means,
        splats.quats_wxyz,
        splats.scales,
        splats.opacities,
        np.zeros_like(splats.means),
    )
    rgb, depth, trans, state = raster_forward(*parameters, np.linalg.inv(c2w), k, width, height)
    nothing = np.zeros((height, width), np.float32)
    # The gradient of the sum of an image by a splat's colour is the splat's weight in that image.
    gradients = raster_backward(
        *parameters, state, rgb, depth, trans, np.ones((height, width, 3), np.float32), nothing, nothing
    )
    return gradients.colors[:, 0], state.ids


def turned(cameras: Viewpoints, rng: np.random.Generator) -> Viewpoints:
    """The cameras off their path: at any heading, moved by up to 0.2 m in x and y and 0.1 m in z, pitched by up to 0.15 rad."""
    c = len(cameras)
    yaw, pitch = rng.uniform(-np.pi, np.pi, c), rng.uniform(-0.15, 0.15, c)
    heading, tilt = np.tile(np.eye(3), (c, 1, 1)), np.tile(np.eye(3), (c, 1, 1))
    heading[:, 0, 0] = heading[:, 1, 1] = np.cos(yaw)
    heading[:, 1, 0], heading[:, 0, 1] = np.sin(yaw), -np.sin(yaw)
    tilt[:, 1, 1] = tilt[:, 2, 2] = np.cos(pitch)
    tilt[:, 2, 1], tilt[:, 1, 2] = np.sin(pitch), -np.sin(pitch)
    c2w = cameras.c2w.copy()
    c2w[:, :3, :3] = heading @ c2w[:, :3, :3] @ tilt
    c2w[:, :3, 3] += rng.uniform(-1.0, 1.0, (c, 3)) * [0.2, 0.2, 0.1]
    return Viewpoints(
        [f"{name}-turned" for name in cameras.names], c2w, cameras.K, cameras.width, cameras.height
    )


def split_cameras(cameras: Viewpoints, most: int, seed: int) -> tuple[Viewpoints, Viewpoints]:
    """Viewpoints to measure importance from (every other camera, and turned twice) and held-out ones (the others, and turned).

    Raises:
        InputError: If there are fewer than two cameras.
    """
    if len(cameras) < 2:
        raise InputError(f"found {len(cameras)} cameras, expected at least 2: half of them are held out")
    rng = np.random.default_rng(seed)
    train, held_out = _every(cameras, 0, most // 3), _every(cameras, 1, most // 2)
    return (
        _join(train, turned(train, rng), turned(train, rng)),
        _join(held_out, turned(held_out, rng)),
    )


def _every(cameras: Viewpoints, first: int, most: int) -> Viewpoints:
    """Every other camera from `first` on, thinned evenly to at most `most`."""
    index = np.arange(first, len(cameras), 2)
    if len(index) > max(most, 1):
        index = index[np.linspace(0, len(index) - 1, max(most, 1)).round().astype(int)]
    return Viewpoints(
        [cameras.names[i] for i in index], cameras.c2w[index], cameras.K[index], cameras.width, cameras.height
    )


def _join(*parts: Viewpoints) -> Viewpoints:
    names = [name for part in parts for name in part.names]
    c2w, k = (np.concatenate([getattr(part, key) for part in parts]) for key in ("c2w", "K"))
    return Viewpoints(names, c2w, k, parts[0].width, parts[0].height)


def render_all(
    splats: AnySplats, cameras: Viewpoints, *, num_threads: int | None = None
) -> NDArray[np.uint8]:
    """Images of all cameras by the CPU backend, uint8 `[C, H, W, 3]`."""
    renderer = SplatRenderer([splats], cameras.width, cameras.height, backend="cpu", num_threads=num_threads)
    images = [
        renderer.render(
            cameras.c2w[i : i + _BATCH],
            cameras.K[i : i + _BATCH],
            np.zeros(len(cameras.c2w[i : i + _BATCH]), int),
        ).rgb
        for i in range(0, len(cameras), _BATCH)
    ]
    return np.concatenate(images)


def optimize(
    splats: Splats,
    cameras: Viewpoints,
    cfg: OptimizeCfg,
    *,
    progress: Callable[[int], object] = lambda _: None,
) -> LodSplats:
    """Prune and merge a scene as far as the PSNR allows.

    Args:
        splats: The full scene.
        cameras: Where robots look from, along the scene's paths in order; half of them are held out.
        cfg: What to optimise for.
        progress: Called with the work done since the last call, `num_steps(cameras, cfg)` in all.

    Returns:
        The scene with levels of detail, its threshold and its recipe.

    Raises:
        InputError: If the PSNR is out of reach or not positive, or there are too few cameras or no splats.
    """
    if not (np.isfinite(cfg.psnr_db) and 0 < cfg.psnr_db < MAX_PSNR_DB - PRUNE_MARGIN_DB):
        raise InputError(
            f"PSNR of {cfg.psnr_db} dB, expected above 0 and below {MAX_PSNR_DB - PRUNE_MARGIN_DB:g}"
        )
    if not len(splats):
        raise InputError("found a scene without splats, expected at least one")
    cameras = cameras.resized(cfg.width, cfg.height)
    views, held_out = split_cameras(cameras, cfg.max_cameras, cfg.seed)
    # At twice the resolution, so that what counts in a closer view counts here.
    highest, total = importance(splats, views.resized(2 * cfg.width, 2 * cfg.height), progress=progress)
    highest /= 4.0
    full = render_all(splats, held_out, num_threads=cfg.num_threads)

    def quality(candidate: AnySplats) -> float:
        progress(1)
        each = psnr_db(render_all(candidate, held_out, num_threads=cfg.num_threads), full)
        return float(each.reshape(2, -1).mean(1).min())  # cameras on the paths, and the turned ones

    def pruned(least: float) -> Splats:
        return splats.subset(np.flatnonzero(highest >= least))

    least = _bisect(lambda x: quality(pruned(x)) >= cfg.psnr_db + PRUNE_MARGIN_DB, _PRUNE_RANGE)
    kept = np.flatnonzero(highest >= least)
    tree = build_tree(splats.subset(kept), source=kept, seen=total[kept])

    def threshold(candidate: LodSplats, least_db: float) -> LodSplats:
        holds = lambda x: quality(replace(candidate, threshold_px=x)) >= least_db  # noqa: E731
        return replace(candidate, threshold_px=_bisect(holds, _THRESHOLD_RANGE_PX))

    targets = render_all(splats, views, num_threads=cfg.num_threads)
    candidates = [threshold(tree, cfg.psnr_db)]
    for margin_db in _TUNE_MARGINS_DB:
        coarse = threshold(tree, cfg.psnr_db - margin_db)
        tuned = tune(coarse, views, targets, seed=cfg.seed, progress=progress)
        candidates.append(threshold(tuned, cfg.psnr_db))
    result = max(candidates, key=lambda candidate: candidate.threshold_px)
    reached = quality(result)
    if reached < cfg.psnr_db:
        raise InputError(
            f"reached {reached:.2f} dB, expected {cfg.psnr_db:g}: this scene does not allow any merging; ask for less"
        )
    recipe = _recipe(splats, result, cfg, least, reached, len(views), len(held_out))
    return replace(result, recipe=recipe)


def tune(
    lod: LodSplats,
    cameras: Viewpoints,
    targets: NDArray[np.uint8],
    *,
    seed: int = 0,
    progress: Callable[[int], object] = lambda _: None,
) -> LodSplats:
    """Fit what is drawn at the scene's threshold to images, by gradient descent (Adam, Kingma and Ba 2015; one view a step).

    Moments cannot tell in which order splats cover each other, nor what pruned ones left open; the images do. Colours, opacities,
    sizes and places of merged splats move; rotations, leaves, the tree and its errors stay.

    Args:
        lod: The scene.
        cameras: C views.
        targets: Their images, uint8 `[C, H, W, 3]`.
        seed: Of the order of views.
        progress: Called with 1 after each view of each pass, and of one before the first.
    """
    drawn = []
    for c2w, k in zip(cameras.c2w, cameras.K):
        index = lod.splats_of(lod.select(c2w, k))
        _, visible = _blending_weights(lod.take(index), c2w, k, cameras.width, cameras.height)
        drawn.append(index[np.sort(visible)])
        progress(1)
    rng, descent = np.random.default_rng(seed), _Descent(lod)
    order = np.concatenate([rng.permutation(len(cameras)) for _ in range(_PASSES)])
    for step, c in enumerate(order.tolist()):
        descent.step(drawn[c], cameras.c2w[c], cameras.K[c], targets[c], 1.0 - 0.9 * step / len(order))
        progress(1)
    return descent.result()


class _Descent:
    """Adam over a scene's splats: opacities and scales by their logarithms, means in units of their splat's size."""

    def __init__(self, lod: LodSplats) -> None:
        self.lod = lod
        self.values = {name: getattr(lod, name).copy() for name in _RATES}
        self.first = {name: np.zeros_like(v) for name, v in self.values.items()}
        self.second = {name: np.zeros_like(v) for name, v in self.values.items()}
        self.seen = np.zeros(len(lod), np.int64)
        # Steps of Adam have one length whatever the residual: leaves, which are right as they are, would wander.
        self.merged = np.repeat(~lod.is_leaf, lod.node_sizes)
        self.size_m = np.exp(np.log(lod.scales).mean(1, keepdims=True))
        self.band_rates = np.full((lod.sh.shape[1], 1), 0.3, np.float32)  # view dependence moves less
        self.band_rates[0] = 1.0

    def step(
        self,
        index: NDArray[np.int64],
        c2w: NDArray[np.float64],
        k: NDArray[np.float64],
        target: NDArray[np.uint8],
        pace: float,
    ) -> None:
        """Move the splats that a view shows, `pace` times their rates, down the gradient of its squared error."""
        height, width = target.shape[:2]
        means, scales, opacities, sh = (
            self.values[name][index] for name in ("means", "scales", "opacities", "sh")
        )
        parameters = (means, self.lod.quats_wxyz[index], scales, opacities, sh)
        rgb, depth, trans, state = raster_forward(
            *parameters, np.linalg.inv(c2w), k, width, height, sh_degree=self.lod.sh_degree
        )
        residual = np.clip(rgb, 0.0, 1.0) - target.astype(np.float32) / np.float32(255.0)
        nothing = np.zeros((height, width), np.float32)
        gradients = raster_backward(*parameters, state, rgb, depth, trans, residual, nothing, nothing)
        free = self.merged[index]
        index = index[free]
        means, scales, opacities, sh = (a[free] for a in (means, scales, opacities, sh))
        self.seen[index] += 1
        size_m = self.size_m[index]
        move = {
            "means": size_m * self._adam("means", index, gradients.means[free] * size_m),
            "scales": self._adam("scales", index, gradients.scales[free] * scales),
            "opacities": self._adam("opacities", index, gradients.opacities[free] * opacities),
            "sh": self.band_rates * self._adam("sh", index, gradients.colors[free]),
        }
        move = {name: -pace * _RATES[name] * direction for name, direction in move.items()}
        self.values["means"][index] = means + move["means"]
        self.values["scales"][index] = np.maximum(scales * np.exp(move["scales"]), MIN_SCALE_M)
        self.values["opacities"][index] = np.clip(opacities * np.exp(move["opacities"]), 1e-4, MAX_OPACITY)
        self.values["sh"][index] = sh + move["sh"]

    def _adam(
        self, name: str, index: NDArray[np.int64], gradient: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Adam's direction for the splats of a view; moments of the others wait."""
        first = self.first[name][index] * _BETAS[0] + (1 - _BETAS[0]) * gradient
        second = self.second[name][index] * _BETAS[1] + (1 - _BETAS[1]) * gradient**2
        self.first[name][index], self.second[name][index] = first, second
        times = self.seen[index].reshape(-1, *[1] * (gradient.ndim - 1))
        return first / (1 - _BETAS[0] ** times) / (np.sqrt(second / (1 - _BETAS[1] ** times)) + 1e-6)

    def result(self) -> LodSplats:
        """The scene as it is now."""
        return replace(self.lod, **self.values)


def num_steps(cameras: Viewpoints, cfg: OptimizeCfg) -> int:
    """Steps that `optimize` reports: views measured, and candidates judged."""
    views = len(split_cameras(cameras, cfg.max_cameras, cfg.seed)[0])
    return views + 2 * _STEPS + len(_TUNE_MARGINS_DB) * (views * (1 + _PASSES) + 2 * _STEPS) + 1


def _bisect(holds: Callable[[float], bool], interval: tuple[float, float]) -> float:
    """About the largest value in an interval at which a condition holds that fails towards its end; 0 if it does nowhere."""
    low, high = np.log(interval)
    best = 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if holds(float(np.exp(middle))):
            best, low = float(np.exp(middle)), middle
        else:
            high = middle
    return best


def _recipe(
    splats: Splats,
    lod: LodSplats,
    cfg: OptimizeCfg,
    least: float,
    reached: float,
    num_views: int,
    num_held_out: int,
) -> dict[str, Any]:
    """How the result was made, for its manifest."""
    return {
        "source": {"num_splats": len(splats), "sh_degree": splats.sh_degree, "sha256": digest(splats)},
        "image_px": [cfg.width, cfg.height],
        "seed": cfg.seed,
        "views": num_views,
        "held_out_views": num_held_out,
        "least_importance_px": least,
        "wanted_psnr_db": cfg.psnr_db,
        "held_out_psnr_db": reached,
        "threshold_px": lod.threshold_px,
        "splats_kept": int(lod.node_sizes[lod.is_leaf].sum()),
        "splats_by_height": _by_height(lod),
    }


def _by_height(lod: LodSplats) -> list[int]:
    """Splats of all nodes that stand for 1, 2, 4, … leaves (rounded up to a power of two)."""
    leaves = np.concatenate([[0], np.cumsum(lod.is_leaf)])
    height = np.ceil(np.log2(leaves[lod.skip] - leaves[:-1])).astype(int)
    return np.bincount(height, lod.node_sizes).astype(int).tolist()


def digest(splats: Splats) -> str:
    """SHA-256 of a scene's splats as float32 arrays, hexadecimal: ties a result to what it was made from."""
    hashed = hashlib.sha256()
    for name in ("means", "quats_wxyz", "scales", "opacities", "sh"):
        hashed.update(np.ascontiguousarray(getattr(splats, name), "<f4").tobytes())
    return hashed.hexdigest()
