# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
# ruff: noqa: ANN001, ANN202
"""Splat trainer for machines without a GPU: numba kernels end to end, boxed in time, resumable after a kill.

What it takes from the literature: the loss and the clone/split moves of 3DGS (Kerbl et al. 2023), growth by a budget sampled
from image-plane gradients (Taming-3DGS, Mallick et al. 2024), gradients that do not cancel between tiles (AbsGS, Ye et al.
2024), opacity of clones after 3DGS-MCMC (Kheradmand et al. 2024), flat splats (PGSR, Chen et al. 2024), per-image exposure
(Kerbl et al. 2024), Adam on visible splats only (Taming-3DGS). Its own: step sizes in pixels of the finest level, so that a
street of 200 m and a room of 5 m train with the same numbers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
from gaussgym_render.differentiable import RasterGradients, raster_backward, raster_forward
from gaussgym_scene.errors import InputError
from gaussgym_scene.splats import Splats
from numba import njit, prange
from numpy.typing import NDArray

from gaussgym_recon.losses import photometric_loss
from gaussgym_recon.views import Views, psnr_db

Floats = NDArray[np.floating]
_SH_C0 = np.float32(0.28209479177387814)


@dataclass(frozen=True)
class TrainerCfg:
    """Settings of the trainer; fractions are of the whole training.

    Attributes:
        seconds: Wall-clock budget, earlier runs of the same training included; compiling is not counted.
        iterations: When given, train for this many steps instead of by the clock (tests, comparisons).
        max_splats: Upper limit of splats while growing.
        final_splats: Upper limit afterwards; those that contribute least to the training views go.
        sh_degree: Degree of the spherical harmonics that training ends with.
        level_until: Fraction at which each pyramid level but the last ends.
        sh_from: Fraction from which degree 1 is trained.
        densify_until: Fraction at which growing ends.
        densify_every: Steps between two rounds of growing and pruning.
        ssim_weight: Weight of D-SSIM in the loss.
        mean_step_px: Step of the centres, in pixels of the finest level at the nearest camera, first and last.
        color_step: Step of the degree-0 coefficients; degree 1 takes a tenth of it.
        opacity_step: Step of opacity logits.
        scale_step: Step of log scales.
        rotation_step: Step of quaternions.
        exposure_step: Step of the per-image colour gains.
        opacity_weight: Pull of opacities towards 0: needless splats fade and are pruned, and fewer of them hang before the
            camera in views that training did not see (Lund, held out: 16.7 dB at 0.002, 17.2 at 0.03, 17.4 at 0.1).
        flat_weight: Pull of each splat's smallest scale towards 0, relative to its largest.
        depth_weight: Weight of the relative depth error where stereo measured depth.
        min_opacity: Splats below this are pruned.
        checkpoint_seconds: Time between two checkpoints.
        seed: Of the random numbers.
    """

    seconds: float = 200.0
    iterations: int | None = None
    max_splats: int = 80_000
    final_splats: int = 60_000
    sh_degree: int = 1
    level_until: tuple[float, ...] = (0.12, 0.4)
    sh_from: float = 0.3
    densify_until: float = 0.7
    densify_every: int = 100
    ssim_weight: float = 0.2
    mean_step_px: tuple[float, float] = (0.25, 0.01)
    color_step: float = 0.01
    opacity_step: float = 0.04
    scale_step: float = 0.008
    rotation_step: float = 0.003
    exposure_step: float = 0.002
    opacity_weight: float = 0.05
    flat_weight: float = 0.002
    depth_weight: float = 0.1
    min_opacity: float = 0.02
    checkpoint_seconds: float = 30.0
    seed: int = 0


@dataclass
class SplatModel:
    """Parameters in the form that is optimized, with Adam's moments; all arrays have one row a splat."""

    means: Floats
    quats: Floats
    log_scales: Floats
    logits: Floats
    sh: Floats
    footprint: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    adam: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    steps: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    PARAMETERS = ("means", "quats", "log_scales", "logits", "sh")

    def __post_init__(self) -> None:
        n = len(self.means)
        if not len(self.footprint):
            self.footprint = np.full(n, 1e-2, np.float32)
        if not self.adam.size:
            self.adam = np.zeros((n, 2 * self.width), np.float32)
            self.steps = np.zeros(n, np.int32)

    def __len__(self) -> int:
        return len(self.means)

    @property
    def width(self) -> int:
        """Scalars a splat has."""
        return 11 + self.sh.shape[1] * 3

    def take(self, index: NDArray) -> SplatModel:
        """The splats picked by a mask or an index array, moments included."""
        names = (*self.PARAMETERS, "footprint", "adam", "steps")
        return SplatModel(*(np.ascontiguousarray(getattr(self, name)[index]) for name in names))

    def append(self, other: SplatModel) -> SplatModel:
        """Both sets of splats."""
        names = (*self.PARAMETERS, "footprint", "adam", "steps")
        return SplatModel(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in names))

    def splats(self, *, min_opacity: float = 0.005) -> Splats:
        """What renderers take; splats nearly invisible or not finite are left out."""
        finite = np.isfinite(self.means).all(1) & np.isfinite(self.log_scales).all(1)
        opacity = _sigmoid(self.logits)
        keep = finite & (opacity > min_opacity)
        quats = self.quats[keep] / np.linalg.norm(self.quats[keep], axis=1, keepdims=True)
        return Splats(self.means[keep], quats, np.exp(self.log_scales[keep]), opacity[keep], self.sh[keep])


def model_from_points(
    points: NDArray[np.floating], colors: NDArray[np.floating], sizes_m: NDArray[np.floating], *,
    normals: NDArray[np.floating] | None = None, opacity: float = 0.6, sh_degree: int = 1, flatness: float = 0.2,
) -> SplatModel:  # fmt: skip
    """Splats at coloured points.

    Args:
        points: ``[N, 3]`` [m].
        colors: ``[N, 3]`` in 0..1.
        sizes_m: ``[N]`` standard deviation along the surface [m].
        normals: ``[N, 3]`` unit; the splat is ``flatness`` times as thick along it. Round where None or zero.
        opacity: Of all.
        sh_degree: Of the coefficients; those above degree 0 are zero.
        flatness: Thickness over size where a normal is given.
    """
    n = len(points)
    quats = np.tile(np.float32([1, 0, 0, 0]), (n, 1))
    log_scales = np.repeat(np.log(np.maximum(sizes_m, 1e-5))[:, None], 3, axis=1)
    if normals is not None:
        # The rotation that takes +Z to the normal.
        flat = np.linalg.norm(normals, axis=1) > 0.5
        nx, ny, nz = np.asarray(normals, np.float64).T
        q = np.stack([1 + nz, -ny, nx, np.zeros(n)], axis=1)
        q[nz < -0.9999] = [0, 1, 0, 0]
        quats[flat] = (q / np.linalg.norm(q, axis=1, keepdims=True))[flat]
        log_scales[flat, 2] += np.log(flatness)
    sh = np.zeros((n, (sh_degree + 1) ** 2, 3), np.float32)
    sh[:, 0] = (np.asarray(colors) - 0.5) / _SH_C0
    logit = np.log(opacity / (1 - opacity))
    return SplatModel(
        np.ascontiguousarray(points, np.float32),
        quats,
        log_scales.astype(np.float32),
        np.full(n, logit, np.float32),
        sh,
    )


def _sigmoid(x: Floats) -> Floats:
    return (1.0 / (1.0 + np.exp(-x))).astype(np.float32)


@njit(parallel=True, cache=True)
def _activate(log_scales, logits, scales, opacities):
    for i in prange(len(logits)):
        for k in range(3):
            scales[i, k] = np.exp(log_scales[i, k])
        opacities[i] = np.float32(1.0) / (np.float32(1.0) + np.exp(-logits[i]))


@njit(parallel=True, cache=True, error_model="numpy")
def _regularize(ids, scales, opacities, v_scales, v_opacities, opacity_weight, flat_weight):
    """Add the gradients of ``opacity_weight * mean(opacity) + flat_weight * mean(min scale / max scale)``."""
    count = len(ids)
    for k in prange(count):
        i = ids[k]
        v_opacities[i] += opacity_weight / count
        low, high = 0, 0
        for a in range(1, 3):
            if scales[i, a] < scales[i, low]:
                low = a
            if scales[i, a] > scales[i, high]:
                high = a
        if low != high and scales[i, low] > 0.02 * scales[i, high]:
            v_scales[i, low] += flat_weight / count / scales[i, high]


@njit(inline="always")
def _adam_delta(adam, i, j, width, g, lr, c1, c2):
    """Update both moments of one scalar and give its step."""
    if not np.isfinite(g):
        g = np.float32(0.0)
    m = np.float32(0.9) * adam[i, j] + np.float32(0.1) * g
    v = np.float32(0.999) * adam[i, width + j] + np.float32(0.001) * g * g
    adam[i, j] = m
    adam[i, width + j] = v
    return lr * c1 * m / (np.sqrt(v * c2) + np.float32(1e-15))


@njit(parallel=True, cache=True, error_model="numpy")
def _adam(
    ids, means, quats, log_scales, logits, sh, footprint, adam, steps,
    v_means, v_quats, v_scales, v_opac, v_sh, scales, opacities, rates, bands,
):  # fmt: skip
    """One Adam step of the visible splats ``ids`` (Kingma & Ba 2015), with a step count of its own for each splat.

    ``rates`` float32: of means [pixels], rotations, log scales, logits, colours.
    """
    width = 11 + sh.shape[1] * 3
    for k in prange(len(ids)):
        i = ids[k]
        steps[i] += 1
        c1 = np.float32(1.0 / (1.0 - 0.9 ** steps[i]))
        c2 = np.float32(1.0 / (1.0 - 0.999 ** steps[i]))
        for j in range(3):
            means[i, j] -= _adam_delta(adam, i, j, width, v_means[i, j], rates[0] * footprint[i], c1, c2)
            g = v_scales[i, j] * scales[i, j]
            log_scales[i, j] -= _adam_delta(adam, i, 7 + j, width, g, rates[2], c1, c2)
        for j in range(4):
            quats[i, j] -= _adam_delta(adam, i, 3 + j, width, v_quats[i, j], rates[1], c1, c2)
        g = v_opac[i] * opacities[i] * (np.float32(1.0) - opacities[i])
        logits[i] -= _adam_delta(adam, i, 10, width, g, rates[3], c1, c2)
        for b in range(bands):
            rate = rates[4] if b == 0 else rates[4] * np.float32(0.1)
            for ch in range(3):
                sh[i, b, ch] -= _adam_delta(adam, i, 11 + 3 * b + ch, width, v_sh[i, b, ch], rate, c1, c2)


@njit(parallel=True, cache=True, error_model="numpy")
def _depth_slopes(depth, trans, measured, weight, v_depth, v_trans):
    """Gradients of the depth loss by accumulated depth and transmittance; errors beyond 2 % pull no harder."""
    for i in prange(depth.shape[0]):
        for j in range(depth.shape[1]):
            v_depth[i, j] = 0.0
            v_trans[i, j] = 0.0
            z, alpha = measured[i, j], np.float32(1.0) - trans[i, j]
            if z > 0.0 and alpha > 0.5:
                expected = depth[i, j] / alpha
                slope = weight * min(max((expected - z) / (np.float32(0.02) * z), -1.0), 1.0) / z
                v_depth[i, j] = slope / alpha
                v_trans[i, j] = slope * expected / alpha


@njit(parallel=True, cache=True)
def _affine(rgb, gain, offset, image):
    for i in prange(rgb.shape[0]):
        for j in range(rgb.shape[1]):
            for c in range(3):
                image[i, j, c] = gain[c] * rgb[i, j, c] + offset[c]


@njit(parallel=True, cache=True, fastmath=True)
def _affine_backward(rgb, gain, v_image, v_rgb, rows):
    """Gradient by ``rgb``, and by row those of the three gains (before the exponential) and offsets."""
    for i in prange(rgb.shape[0]):
        for c in range(3):
            by_gain, by_offset = np.float32(0.0), np.float32(0.0)
            for j in range(rgb.shape[1]):
                v = v_image[i, j, c]
                v_rgb[i, j, c] = gain[c] * v
                by_gain += v * rgb[i, j, c]
                by_offset += v
            rows[i, c], rows[i, 3 + c] = by_gain, by_offset


class Trainer:
    """Optimizes a splat model against the training views; owns the model, its statistics and its checkpoint.

    Args:
        views: Photographs and cameras; held-out views are only scored.
        model: Splats to start from.
        cfg: Settings.
        checkpoint: File to save to and resume from, or None.
        depths_m: Measured depth ``[h, w]`` by view (0 = unknown, any level's size), for the depth loss, or None.
    """

    def __init__(
        self,
        views: Views,
        model: SplatModel,
        cfg: TrainerCfg,
        *,
        checkpoint: Path | None = None,
        depths_m: dict[int, Floats] | None = None,
    ) -> None:
        if len(views.train) < 2:
            raise InputError(
                f"training needs at least 2 photographs that are not held out, found {len(views.train)}"
            )
        self.views, self.model, self.cfg = views, model, cfg
        self.checkpoint = checkpoint
        self.depths_m = depths_m or {}
        self.rng = np.random.default_rng(cfg.seed)
        self.iteration = 0
        self.elapsed_s = 0.0
        self.exposure = np.zeros((len(views.views), 6))
        self.exposure_moments = np.zeros((2, len(views.views), 6))
        self.losses: list[tuple[int, float]] = []
        self._pull = np.zeros(len(model), np.float32)
        self._seen = np.zeros(len(model), np.int32)
        self._order: list[int] = []
        self._worldviews = [np.linalg.inv(v.c2w) for v in views.views]
        self.model.footprint = self._footprints(model.means)
        if checkpoint is not None and checkpoint.exists():
            self._restore(checkpoint)

    # ------------------------------------------------------------------------------------------------ main loop

    @property
    def progress(self) -> float:
        """Fraction of the training that is done, 0..1."""
        if self.cfg.iterations is not None:
            return min(1.0, self.iteration / self.cfg.iterations)
        return min(1.0, self.elapsed_s / self.cfg.seconds)

    def run(self, on_progress: Callable[[float, str], None] | None = None) -> SplatModel:
        """Train until the budget is spent; saves checkpoints on the way and at the end.

        Args:
            on_progress: Called about once a second with the fraction done and a short status.
        """
        last = told = saved = time.monotonic()
        compiled = False
        while self.progress < 1.0:
            loss = self._step()
            if (
                not compiled
            ):  # the first step of a process may compile the kernels: half a minute that is no training
                last, compiled = time.monotonic(), True
            self.iteration += 1
            if self.iteration % self.cfg.densify_every == 0:
                self._densify()
            now = time.monotonic()
            self.elapsed_s += now - last
            last = now
            if self.iteration % 20 == 0:
                self.losses.append((self.iteration, loss))
            if on_progress is not None and now - told > 1.0:
                on_progress(
                    self.progress, f"step {self.iteration}, {len(self.model)} splats, loss {loss:.4f}"
                )
                told = now
            if self.checkpoint is not None and now - saved > self.cfg.checkpoint_seconds:
                self.save()
                saved = last = time.monotonic()
        if self.checkpoint is not None:
            self.save()
        return self.model

    def _level(self) -> int:
        coarse = sum(self.progress >= f for f in self.cfg.level_until)
        return min(coarse, len(self.views.intrinsics) - 1)

    def _next_view(self) -> int:
        if not self._order:
            self._order = [int(i) for i in self.rng.permutation(self.views.train)]
        return self._order.pop()

    def _step(self) -> float:
        cfg, m, progress = self.cfg, self.model, self.progress
        index, level = self._next_view(), self._level()
        camera = self.views.camera(index, level)
        target = self.views.views[index].pyramid[level].astype(np.float32) / np.float32(255)
        degree = cfg.sh_degree if progress >= cfg.sh_from else 0
        scales, opacities = np.empty_like(m.log_scales), np.empty_like(m.logits)
        _activate(m.log_scales, m.logits, scales, opacities)
        parameters = (m.means, m.quats, scales, opacities, m.sh)
        rgb, depth, trans, state = raster_forward(
            *parameters, self._worldviews[index], camera.K, camera.width, camera.height, sh_degree=degree
        )
        image, gain = self._expose(rgb, index)
        loss, v_image = photometric_loss(image, target, ssim_weight=cfg.ssim_weight)
        v_rgb = self._exposure_step(rgb, v_image, index, gain)
        v_depth, v_trans = self._depth_gradient(index, level, depth, trans)
        g = raster_backward(*parameters, state, rgb, depth, trans, v_rgb, v_depth, v_trans)
        self._update(g, state.ids, scales, opacities, progress, degree, camera.width)
        return loss

    def _update(
        self,
        g: RasterGradients,
        ids: NDArray,
        scales: Floats,
        opacities: Floats,
        progress: float,
        degree: int,
        width: int,
    ) -> None:
        cfg, m = self.cfg, self.model
        _regularize(ids, scales, opacities, g.scales, g.opacities, cfg.opacity_weight, cfg.flat_weight)
        first, last = cfg.mean_step_px
        decay = 0.1 ** max(0.0, (progress - 0.5) * 2)  # the other steps fall tenfold over the second half
        mean_rate = first * (last / first) ** progress
        steps = (cfg.rotation_step, cfg.scale_step, cfg.opacity_step, cfg.color_step)
        rates = np.array([mean_rate, *(decay * step for step in steps)], np.float32)
        _adam(
            ids, m.means, m.quats, m.log_scales, m.logits, m.sh, m.footprint, m.adam, m.steps,
            g.means, g.quats, g.scales, g.opacities, g.colors, scales, opacities, rates, (degree + 1) ** 2,
        )  # fmt: skip
        self._pull[ids] += g.pull_visible * width
        self._seen[ids] += 1

    # ------------------------------------------------------------------------------------------ exposure and depth

    def _expose(self, rgb: Floats, index: int) -> tuple[Floats, Floats]:
        """Apply the view's own colour gains and offsets: ``image = exp(g) rgb + o``."""
        gain = np.exp(self.exposure[index, :3]).astype(np.float32)
        image = np.empty_like(rgb)
        _affine(rgb, gain, self.exposure[index, 3:].astype(np.float32), image)
        return image, gain

    def _exposure_step(self, rgb: Floats, v_image: Floats, index: int, gain: Floats) -> Floats:
        """Adam step of the view's exposure; returns the gradient by the splats' own image.

        After each round the mean over the training views is taken off, and a pull towards 0 acts besides: what is common to
        all views belongs into the splats, since held-out views are scored without any exposure of their own.
        """
        e = self.exposure[index]
        v_rgb, rows = np.empty_like(rgb), np.empty((len(rgb), 6), np.float32)
        _affine_backward(rgb, gain, v_image, v_rgb, rows)
        gradient = rows.sum(0, dtype=np.float64) * np.append(gain, [1, 1, 1])
        gradient = gradient + 0.02 * e
        m, v = self.exposure_moments[:, index]
        m += 0.1 * (gradient - m)
        v += 0.01 * (gradient**2 - v)
        if self.progress > 0.05:
            e -= self.cfg.exposure_step * m / (np.sqrt(v) + 1e-12)
            if not self._order:
                self.exposure[self.views.train] -= self.exposure[self.views.train].mean(0)
        return v_rgb

    def _depth_gradient(self, index: int, level: int, depth: Floats, trans: Floats) -> tuple[Floats, Floats]:
        """Gradient of ``weight * mean huber(|z - z_measured| / z_measured)`` where the view's depth was measured."""
        measured = self.depths_m.get(index)
        if measured is None or self.cfg.depth_weight <= 0:
            return np.zeros_like(depth), np.zeros_like(trans)
        camera = self.views.camera(index, level)
        z = cv2.resize(measured, (camera.width, camera.height), interpolation=cv2.INTER_NEAREST)
        v_depth, v_trans = np.empty_like(depth), np.empty_like(trans)
        _depth_slopes(depth, trans, z, np.float32(self.cfg.depth_weight / z.size), v_depth, v_trans)
        return v_depth, v_trans

    # -------------------------------------------------------------------------------------------------- densification

    def _footprints(self, means: Floats) -> Floats:
        """Size of a pixel of the finest level at each splat, seen from the nearest training camera [m]."""
        from scipy.spatial import cKDTree

        centers = np.stack([self.views.views[i].c2w[:3, 3] for i in self.views.train])
        focal = np.array([self.views.camera(i).fx for i in self.views.train])
        distance, nearest = cKDTree(centers).query(np.nan_to_num(means))
        return (np.maximum(distance, 0.2) / focal[nearest]).astype(np.float32)

    def _densify(self) -> None:
        cfg, m = self.cfg, self.model
        score = self._pull / np.maximum(self._seen, 1)
        opacity = _sigmoid(m.logits)
        biggest = np.exp(m.log_scales.max(1))
        keep = (opacity > cfg.min_opacity) & np.isfinite(m.means).all(1) & (biggest < 400 * m.footprint)
        if self.progress > 0.2:
            keep &= (self._seen > 0) | (m.steps > 0)
        m, score = m.take(keep), score[keep]
        if self.progress < cfg.densify_until and len(m):
            m = self._grow(m, score)
        elif len(m) > cfg.final_splats:
            m = m.take(np.sort(np.argsort(-self._contributions(m))[: cfg.final_splats]))
        m.footprint = self._footprints(m.means)
        self.model = m
        self._pull = np.zeros(len(m), np.float32)
        self._seen = np.zeros(len(m), np.int32)

    def _contributions(self, m: SplatModel) -> Floats:
        """Blending weight of each splat, summed over the pixels of all training views at the second coarsest level."""
        level = min(1, len(self.views.intrinsics) - 1)
        parameters = (m.means, m.quats, np.exp(m.log_scales), _sigmoid(m.logits), np.zeros_like(m.means))
        total = np.zeros(len(m), np.float32)
        for index in self.views.train:
            camera = self.views.camera(index, level)
            ones = np.ones((camera.height, camera.width, 3), np.float32)
            nothing = np.zeros((camera.height, camera.width), np.float32)
            rgb, depth, trans, state = raster_forward(
                *parameters, self._worldviews[index], camera.K, camera.width, camera.height
            )
            # The gradient of the sum of an image by a splat's colour is the splat's weight in that image.
            total += raster_backward(*parameters, state, rgb, depth, trans, ones, nothing, nothing).colors[
                :, 0
            ]
        return total

    def _grow(self, m: SplatModel, score: Floats) -> SplatModel:
        """Clone small and split large splats, drawn with the image-plane pull as their weight, within the budget."""
        cfg = self.cfg
        budget = min(cfg.max_splats - len(m), int(0.15 * len(m)) + 100)
        total = score.sum()
        wanted = min(budget, int((score > 0).sum()))
        if wanted <= 0 or not total > 0:
            return m
        chosen = self.rng.choice(len(m), wanted, replace=False, p=score / total)
        parent = m.take(chosen)
        size = np.exp(parent.log_scales.max(1))
        split = size > 2.0 * parent.footprint
        # Children share what the parent hid: 1 - (1 - a)^2 = parent's opacity (3DGS-MCMC, for clones at one place).
        opacity = _sigmoid(parent.logits)
        shared = np.clip(1 - np.sqrt(1 - opacity), 0.01, 0.99)
        parent.logits = np.where(split, parent.logits, np.log(shared / (1 - shared))).astype(np.float32)
        offset = (
            self.rng.normal(size=(len(parent), 3))
            * np.exp(parent.log_scales)
            * np.where(split, 1.0, 0.3)[:, None]
        )
        offset = _rotate(parent.quats, offset).astype(np.float32)
        parent.log_scales = np.where(
            split[:, None], parent.log_scales - np.log(1.6), parent.log_scales
        ).astype(np.float32)
        parent.adam[:] = 0
        parent.steps[:] = 0
        child = parent.take(np.arange(len(parent)))
        child.means = parent.means + offset
        parent.means = np.where(split[:, None], parent.means - offset, parent.means).astype(np.float32)
        rest = np.ones(len(m), bool)
        rest[chosen] = False
        return m.take(rest).append(parent).append(child)

    # ----------------------------------------------------------------------------------------------- scoring, saving

    def render(self, index: int) -> Floats:
        """The splats from view ``index`` at the finest level, without any exposure, clipped to 0..1."""
        camera = self.views.camera(index)
        return render_splats(self.model, self._worldviews[index], camera.K, camera.width, camera.height)[0]

    def held_out_psnr_db(self) -> float | None:
        """Mean PSNR over the held-out views [dB], plain: no colour fit of any kind; None without such views."""
        if not self.views.held_out:
            return None
        return float(
            np.mean(
                [
                    psnr_db(self.render(i), self.views.views[i].pyramid[-1] / 255.0)
                    for i in self.views.held_out
                ]
            )
        )

    def save(self) -> None:
        """Write the checkpoint (to a temporary name first)."""
        if self.checkpoint is None:
            return
        m = self.model
        arrays = {name: getattr(m, name) for name in (*m.PARAMETERS, "footprint", "adam", "steps")}
        partial = self.checkpoint.with_suffix(".partial.npz")
        np.savez(
            partial, **arrays, exposure=self.exposure, exposure_moments=self.exposure_moments, iteration=self.iteration,
            elapsed_s=self.elapsed_s, losses=np.array(self.losses, np.float64).reshape(-1, 2),
        )  # fmt: skip
        os.replace(partial, self.checkpoint)

    def _restore(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as data:
                names = (*SplatModel.PARAMETERS, "footprint", "adam", "steps")
                self.model = SplatModel(*(data[name] for name in names))
                self.exposure, self.exposure_moments = data["exposure"], data["exposure_moments"]
                self.iteration, self.elapsed_s = int(data["iteration"]), float(data["elapsed_s"])
                self.losses = [(int(i), float(x)) for i, x in data["losses"]]
        except Exception as error:
            raise InputError(
                f"{path}: not readable as a training checkpoint ({error}); delete it to train anew"
            ) from error
        if len(self.exposure) != len(self.views.views):
            raise InputError(
                f"{path}: belongs to {len(self.exposure)} photographs, found {len(self.views.views)}; delete it to train anew"
            )
        self.rng = np.random.default_rng((self.cfg.seed, self.iteration))
        self._pull = np.zeros(len(self.model), np.float32)
        self._seen = np.zeros(len(self.model), np.int32)

    def settings(self) -> dict[str, object]:
        """The configuration as plain values, for manifests."""
        return asdict(self.cfg)


def _rotate(quats: Floats, v: NDArray[np.floating]) -> NDArray[np.floating]:
    q = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    w, u = q[:, :1], q[:, 1:]
    return v + 2 * np.cross(u, np.cross(u, v) + w * v)


def render_splats(
    model: SplatModel, view: NDArray[np.float64], k: NDArray[np.float64], width: int, height: int
) -> tuple[Floats, Floats, Floats]:
    """Colour clipped to 0..1 ``[H,W,3]``, expected depth [m] (0 = nothing) and alpha ``[H,W]`` of a model."""
    scales, opacities = np.exp(model.log_scales), _sigmoid(model.logits)
    degree = round(model.sh.shape[1] ** 0.5) - 1
    rgb, depth, trans, _ = raster_forward(
        model.means, model.quats, scales, opacities, model.sh, view, k, width, height, sh_degree=degree
    )
    alpha = 1 - trans
    expected = np.where(alpha > 1e-3, depth / np.maximum(alpha, 1e-6), 0).astype(np.float32)
    return np.clip(rgb, 0, 1), expected, alpha
