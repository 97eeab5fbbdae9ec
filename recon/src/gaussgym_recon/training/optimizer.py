# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
# ruff: noqa: ANN001, ANN202
"""Adam on the splats that a view shows, the schedule of its step sizes, and the pulls that act on every visible splat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gaussgym_render.differentiable import RasterGradients
from numba import njit, prange
from numpy.typing import NDArray

from gaussgym_recon.training.cfg import TrainerCfg
from gaussgym_recon.training.model import SplatModel

Floats = NDArray[np.floating]


@njit(parallel=True, cache=True)
def _activate(log_scales, logits, scales, opacities):
    for i in prange(len(logits)):
        for k in range(3):
            scales[i, k] = np.exp(log_scales[i, k])
        opacities[i] = np.float32(1.0) / (np.float32(1.0) + np.exp(-logits[i]))


@njit(parallel=True, cache=True, error_model="numpy")
def _regularize(
    ids, scales, opacities, v_scales, v_opacities, opacity_weight, flat_weight, aspect_weight, max_aspect
):  # fmt: skip
    """Add the gradients of means over ``ids``: of opacity, of min scale / max scale, of what max / middle exceeds a ratio."""
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
        if low == high:
            continue
        if scales[i, low] > 0.02 * scales[i, high]:
            v_scales[i, low] += flat_weight / count / scales[i, high]
        middle = scales[i, 3 - low - high]
        if max_aspect > 0.0 and scales[i, high] > max_aspect * middle:
            v_scales[i, high] += aspect_weight / count / middle
            v_scales[i, 3 - low - high] -= aspect_weight / count * scales[i, high] / (middle * middle)


_CHUNK = 256
_COUNTED = 8192
_CORRECTION = np.ones((_COUNTED, 2), np.float32)
"""Adam's bias corrections by step count; powers would take longer than the step itself. Later ones are 1 within 0.03 %."""
_CORRECTION[1:] = 1 / (1 - np.array([0.9, 0.99]) ** np.arange(1, _COUNTED)[:, None])


@njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
def _adam(
    ids, means, quats, log_scales, logits, sh, footprint, adam, steps,
    v_means, v_quats, v_scales, v_opac, v_sh, scales, opacities, rates, bands,
):  # fmt: skip
    """One Adam step of the visible splats ``ids`` (Kingma & Ba 2015), with a step count of its own for each splat.

    A splat is seen by a few hundred steps in all: squares are averaged over a hundred, not over Adam's usual thousand, which
    would still hold what the coarse levels said (0.4 dB of held-out PSNR on the synthetic street).

    ``rates`` float32: of means [pixels], rotations, log scales, logits, colours. A splat's gradients are gathered into one row
    first, so that the arithmetic runs over neighbouring numbers, which compilers turn into vector instructions.
    """
    width = 11 + sh.shape[1] * 3
    used = 11 + bands * 3
    count = len(ids)
    for chunk in prange((count + _CHUNK - 1) // _CHUNK):
        g, rate, delta = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
        rate[3:7] = rates[1]
        rate[7:10] = rates[2]
        rate[10] = rates[3]
        rate[11:14] = rates[4]
        rate[14:] = rates[4] * np.float32(0.1)
        for k in range(chunk * _CHUNK, min(count, (chunk + 1) * _CHUNK)):
            i = ids[k]
            steps[i] += 1
            counted = min(steps[i], _COUNTED - 1)
            c1, c2 = _CORRECTION[counted, 0], _CORRECTION[counted, 1]
            rate[:3] = rates[0] * footprint[i]
            for j in range(3):
                g[j] = v_means[i, j]
                g[7 + j] = v_scales[i, j] * scales[i, j]
            for j in range(4):
                g[3 + j] = v_quats[i, j]
            g[10] = v_opac[i] * opacities[i] * (np.float32(1.0) - opacities[i])
            for b in range(bands):
                for ch in range(3):
                    g[11 + 3 * b + ch] = v_sh[i, b, ch]
            for j in range(used):
                if not np.isfinite(g[j]):
                    g[j] = 0.0
            first, second = adam[i, :width], adam[i, width:]
            for j in range(used):
                m = np.float32(0.9) * first[j] + np.float32(0.1) * g[j]
                v = np.float32(0.99) * second[j] + np.float32(0.01) * g[j] * g[j]
                first[j] = m
                second[j] = v
                delta[j] = rate[j] * c1 * m / (np.sqrt(v * c2) + np.float32(1e-15))
            for j in range(3):
                means[i, j] -= delta[j]
                log_scales[i, j] -= delta[7 + j]
            for j in range(4):
                quats[i, j] -= delta[3 + j]
            logits[i] -= delta[10]
            for b in range(bands):
                for ch in range(3):
                    sh[i, b, ch] -= delta[11 + 3 * b + ch]


@dataclass(frozen=True)
class Schedule:
    """Step sizes at one moment of the training.

    Attributes:
        mean_px: Of centres, in pixels of the finest level at the nearest camera.
        rotation: Of quaternions.
        scale: Of log scales.
        opacity: Of logits.
        color: Of degree-0 coefficients; higher degrees take a tenth.
        pose_px: Of camera poses, in pixels of the finest level.
        exposure: Of colour gains and offsets.
        sh_degree: Degree that is trained.
    """

    mean_px: float
    rotation: float
    scale: float
    opacity: float
    color: float
    pose_px: float
    exposure: float
    sh_degree: int

    @property
    def rates(self) -> NDArray[np.float32]:
        """Those of the splats, in the order of their parameters, ``[5]``."""
        return np.array([self.mean_px, self.rotation, self.scale, self.opacity, self.color], np.float32)


def schedule(cfg: TrainerCfg, progress: float) -> Schedule:
    """Step sizes after the fraction ``progress`` of the training.

    Centres slow down from the first step on; everything else falls tenfold over the last three tenths. Exposures and poses start
    once the splats show something.
    """
    first, last = cfg.mean_step_px
    decay = 0.1 ** max(0.0, (progress - 0.7) / 0.3)
    return Schedule(
        mean_px=first * (last / first) ** progress,
        rotation=decay * cfg.rotation_step,
        scale=decay * cfg.scale_step,
        opacity=decay * cfg.opacity_step,
        color=decay * cfg.color_step,
        pose_px=decay * cfg.pose_step_px if progress > 0.1 else 0.0,
        exposure=cfg.exposure_step if progress > 0.05 else 0.0,
        sh_degree=cfg.sh_degree if progress >= cfg.sh_from else 0,
    )


def activated(log_scales: Floats, logits: Floats) -> tuple[Floats, Floats]:
    """Scales [m] and opacities of the parameters that are optimized."""
    scales, opacities = np.empty_like(log_scales), np.empty_like(logits)
    _activate(log_scales, logits, scales, opacities)
    return scales, opacities


def regularize(ids: NDArray, scales: Floats, opacities: Floats, g: RasterGradients, cfg: TrainerCfg) -> None:
    """Add to ``g`` the pulls on visible splats: fainter, flatter, no needles."""
    _regularize(
        ids, scales, opacities, g.scales, g.opacities,
        cfg.opacity_weight, cfg.flat_weight, cfg.aspect_weight, cfg.max_aspect,
    )  # fmt: skip


def adam_step(
    m: SplatModel,
    ids: NDArray,
    g: RasterGradients,
    scales: Floats,
    opacities: Floats,
    rates: Floats,
    sh_degree: int,
) -> None:
    """One Adam step of the visible splats ``ids`` from gradients by the activated parameters."""
    _adam(
        ids, m.means, m.quats, m.log_scales, m.logits, m.sh, m.footprint, m.adam, m.steps,
        g.means, g.quats, g.scales, g.opacities, g.colors, scales, opacities, rates, (sh_degree + 1) ** 2,
    )  # fmt: skip
