"""Where splats are added and taken away, under a budget: by image-plane gradients, or by moves of 3DGS-MCMC."""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from gaussgym_recon.training.cfg import TrainerCfg
from gaussgym_recon.training.model import SplatModel, rotate, sigmoid

Floats = NDArray[np.floating]

NOISE = 5e5
"""Noise of the centres over their step, as 3DGS-MCMC has it."""
DEAD_OPACITY = 0.005
"""Splats below this are moved by 3DGS-MCMC."""
MAX_COPIES = 51
"""Most splats that share a place in one round of 3DGS-MCMC."""


def logit(opacity: Floats) -> NDArray[np.float32]:
    """Inverse of the logistic function; opacities are kept off 0 and 1."""
    o = np.clip(opacity, 1e-4, 1 - 1e-4)
    return np.log(o / (1 - o)).astype(np.float32)


def prune(m: SplatModel, seen: NDArray[np.int32], cfg: TrainerCfg, progress: float) -> NDArray[np.bool_]:
    """Which splats to keep: opaque enough, finite, not huge, and seen by some view once every view has had its turn."""
    biggest = np.exp(m.log_scales.max(1))
    keep = (sigmoid(m.logits) > cfg.min_opacity) & np.isfinite(m.means).all(1) & (biggest < 400 * m.footprint)
    if progress > 0.2:
        keep &= (seen > 0) | (m.steps > 0)
    return keep


def grow_by_pull(m: SplatModel, score: Floats, cfg: TrainerCfg, rng: np.random.Generator) -> SplatModel:
    """Clone small and split large splats, drawn with the image-plane pull as their weight, within the budget.

    Args:
        m: The splats.
        score: ``[N]`` mean pull since the last round.
        cfg: Budget.
        rng: Random numbers.
    """
    budget = min(cfg.max_splats - len(m), int(cfg.grow_fraction * len(m)) + 100)
    total = score.sum(dtype=np.float64)
    wanted = min(budget, int((score > 0).sum()))
    if wanted <= 0 or not total > 0:
        return m
    chosen = rng.choice(len(m), wanted, replace=False, p=score / total)
    parent = m.take(chosen)
    split = np.exp(parent.log_scales.max(1)) > 2.0 * parent.footprint
    # Children share what the parent hid: 1 - (1 - a)^2 = parent's opacity (3DGS-MCMC, for clones at one place).
    shared = np.clip(1 - np.sqrt(1 - sigmoid(parent.logits)), 0.01, 0.99)
    parent.logits = np.where(split, parent.logits, logit(shared)).astype(np.float32)
    offset = (
        rng.normal(size=(len(parent), 3)) * np.exp(parent.log_scales) * np.where(split, 1.0, 0.3)[:, None]
    )
    offset = rotate(parent.quats, offset).astype(np.float32)
    smaller = parent.log_scales - np.float32(np.log(1.6))
    parent.log_scales = np.where(split[:, None], smaller, parent.log_scales).astype(np.float32)
    parent.adam[:] = 0
    parent.steps[:] = 0
    child = parent.take(np.arange(len(parent)))
    child.means = parent.means + offset
    parent.means = np.where(split[:, None], parent.means - offset, parent.means).astype(np.float32)
    rest = np.ones(len(m), bool)
    rest[chosen] = False
    return m.take(rest).append(parent).append(child)


def shared_opacity_and_scale(
    opacity: Floats, copies: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Opacity of each of ``copies`` splats at one place that together look like one, and their size over its size.

    Source: Kheradmand et al. 2024 (arXiv 2404.09591), equation 9.
    """
    old = np.asarray(opacity, np.float64)
    new = 1 - (1 - old) ** (1.0 / copies)
    total = np.zeros_like(old)
    for i in range(1, int(copies.max(initial=1)) + 1):
        inner = sum(comb(i - 1, k) * (-1.0) ** k / np.sqrt(k + 1.0) * new ** (k + 1) for k in range(i))
        total += np.where(copies >= i, inner, 0.0)
    return new, old / np.maximum(total, 1e-12)


def relocate(m: SplatModel, cfg: TrainerCfg, rng: np.random.Generator) -> SplatModel:
    """Move dead splats to opaque ones and add new ones there, by 5 % a round, as 3DGS-MCMC does.

    Args:
        m: The splats.
        cfg: Budget.
        rng: Random numbers.
    """
    opacity = sigmoid(m.logits).astype(np.float64)
    dead = (opacity <= DEAD_OPACITY) | ~np.isfinite(m.means).all(1)
    alive = np.flatnonzero(~dead)
    if not len(alive):
        return m
    fresh = max(0, min(cfg.max_splats, int(1.05 * len(m))) - len(m))
    wanted = int(dead.sum()) + fresh
    if not wanted:
        return m
    drawn = rng.choice(alive, wanted, p=opacity[alive] / opacity[alive].sum())
    copies = np.minimum(np.bincount(drawn, minlength=len(m)) + 1, MAX_COPIES)
    parents = np.flatnonzero(copies > 1)
    new_opacity, ratio = shared_opacity_and_scale(opacity[parents], copies[parents])
    m.logits[parents] = logit(np.maximum(new_opacity, DEAD_OPACITY))
    m.log_scales[parents] += np.log(ratio).astype(np.float32)[:, None]
    m.adam[parents] = 0
    m.steps[parents] = 0
    return m.take(~dead).append(m.take(drawn))


def shake(m: SplatModel, ids: NDArray, step_px: float, rng: np.random.Generator) -> None:
    """Noise on the centres of faint splats among ``ids``, shaped like the splats (the Langevin term of 3DGS-MCMC)."""
    opacity = sigmoid(m.logits[ids])
    gate = 1.0 / (1.0 + np.exp(np.clip(100.0 * (opacity - DEAD_OPACITY), -60, 60)))
    faint = ids[gate > 1e-3]
    if not len(faint):
        return
    strength = NOISE * step_px * m.footprint[faint] * gate[gate > 1e-3]
    q, s2 = m.quats[faint], np.exp(2 * m.log_scales[faint])
    conjugate = q * np.array([1, -1, -1, -1], np.float32)
    local = rotate(conjugate, rng.normal(size=(len(faint), 3))) * s2
    m.means[faint] += (rotate(q, local) * strength[:, None]).astype(np.float32)
