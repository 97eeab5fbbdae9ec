"""Robust least squares with unknowns that all segments share and unknowns of each segment's own.

Levenberg and Marquardt's method on Huber-like weights (``soft_l1``, Triggs et al. 1999); the segments' own unknowns are
eliminated from the normal equations (Schur complement), so that a thousand
of them cost no more than the replays that their slopes take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gaussgym_learn.gap.recording import Array

Residuals = Callable[[Array, Array], Array]
"""(shared `[P]`, own `[N, Q]`) -> `[N, M]`, each row a function of the shared unknowns and of that row's own."""
_LARGEST_DAMPING = 1e6


@dataclass(frozen=True)
class Unknowns:
    """What is sought: `P` shared numbers, and `Q` of each segment's own that begin at 0.

    Attributes:
        low, high: bounds of the shared ones, `[P]`.
        step: of their difference quotients, `[P]`.
        scale: a typical change of each, `[P]`.
        own_step: of difference quotients of the own ones, `[Q]`.
        own_std: how far they may be from 0, `[Q]`: a prior.
    """

    low: Array
    high: Array
    step: Array
    scale: Array
    own_step: Array
    own_std: Array


@dataclass(frozen=True)
class Slopes:
    """Value and slopes of all residuals at a point, the prior's rows among them.

    Attributes:
        value: `[N, M + Q]`.
        shared: `[P, N, M + Q]`.
        own: `[Q, N, M + Q]`.
    """

    value: Array
    shared: Array
    own: Array


def robust_cost(value: Array) -> float:
    """Sum of `soft_l1` over residuals: quadratic near 0, linear far from it."""
    return float(row_costs(value).sum())


def row_costs(value: Array) -> Array:
    """The same of each row `[N]` of `[N, M]`."""
    return np.sum(2.0 * (np.sqrt(1.0 + value**2) - 1.0), axis=-1)


def with_prior(residuals: Residuals, unknowns: Unknowns, shared: Array, own: Array) -> Array:
    """Residuals with a row's own unknowns over their standard deviations behind them, `[N, M + Q]`."""
    return np.concatenate((residuals(shared, own), own / unknowns.own_std), axis=1)


def slopes(residuals: Residuals, unknowns: Unknowns, shared: Array, own: Array) -> Slopes:
    """Difference quotients, central ones for the shared unknowns; all segments at a time.

    Contacts make residuals rough at small scale; steps are long enough to look over that.
    """
    value = with_prior(residuals, unknowns, shared, own)
    columns = []
    for i, step in enumerate(unknowns.step):
        ahead, back = shared.copy(), shared.copy()
        ahead[i] = min(shared[i] + step, unknowns.high[i])
        back[i] = max(shared[i] - step, unknowns.low[i])
        difference = with_prior(residuals, unknowns, ahead, own) - with_prior(residuals, unknowns, back, own)
        columns.append(difference / (ahead[i] - back[i]))
    shared_slopes = np.array(columns).reshape(len(shared), *value.shape)
    columns = []
    for i, step in enumerate(unknowns.own_step):
        moved = own.copy()
        moved[:, i] += step
        columns.append((with_prior(residuals, unknowns, shared, moved) - value) / step)
    return Slopes(value, shared_slopes, np.array(columns))


def minimize(
    residuals: Residuals,
    unknowns: Unknowns,
    shared: Array,
    own: Array,
    *,
    rounds: int,
    tolerance: float = 1e-4,
) -> tuple[Array, Array]:
    """The nearest minimum of the robust cost.

    Args:
        residuals: to be made small.
        unknowns: bounds, steps, prior.
        shared: where to begin, `[P]`, within the bounds.
        own: where to begin, `[N, Q]`.
        rounds: most steps.
        tolerance: relative decrease of the cost that is not worth another step.
    """
    cost = row_costs(with_prior(residuals, unknowns, shared, own))
    damping, own_damping = 1e-3, np.full(len(own), 1e-3)
    for _ in range(rounds):
        at = slopes(residuals, unknowns, shared, own)
        better = False
        while not better and damping < _LARGEST_DAMPING:
            next_shared, next_own = _step(at, unknowns, shared, own, damping, own_damping)
            # A row whose own step does not help keeps what it has: one that stands on a cliff must not hold up all others.
            tried = row_costs(with_prior(residuals, unknowns, next_shared, next_own))
            kept = row_costs(with_prior(residuals, unknowns, next_shared, own))
            helped = tried < kept
            tried = np.minimum(tried, kept)
            own_damping = np.clip(own_damping * np.where(helped, 0.2, 6.0), 1e-6, _LARGEST_DAMPING)
            better = bool(tried.sum() < cost.sum())
            damping = max(damping / 5.0, 1e-6) if better else damping * 6.0
        if not better:
            break
        gained, cost = cost.sum() - tried.sum(), tried
        shared, own = next_shared, np.where(helped[:, None], next_own, own)
        if gained < tolerance * cost.sum():
            break
    return shared, own


def _step(
    at: Slopes, unknowns: Unknowns, shared: Array, own: Array, damping: float, own_damping: Array
) -> tuple[Array, Array]:
    """One damped step; shared unknowns that would leave their bounds stop there, and the others are told so."""
    root = (1.0 + at.value**2) ** -0.25  # of the weights that soft_l1 gives
    a, b, r = at.shared * root, at.own * root, at.value * root
    aa = np.einsum("pnm,qnm->pq", a, a)
    ab = np.einsum("pnm,qnm->npq", a, b)
    bb = np.einsum("pnm,qnm->npq", b, b)
    ar, br = np.einsum("pnm,nm->p", a, r), np.einsum("qnm,nm->nq", b, r)
    aa[np.diag_indices_from(aa)] *= 1.0 + damping
    aa[np.diag_indices_from(aa)] += 1e-9 / unknowns.scale**2
    diagonal = np.arange(bb.shape[1])
    bb[:, diagonal, diagonal] *= 1.0 + own_damping[:, None]
    own_step_of = np.linalg.solve(bb, np.concatenate((ab.transpose(0, 2, 1), br[:, :, None]), axis=2))
    reduced = aa - np.einsum("npq,nqr->pr", ab, own_step_of[:, :, :-1])
    wanted = ar - np.einsum("npq,nq->p", ab, own_step_of[:, :, -1])
    move = _bounded(reduced, wanted, unknowns.low - shared, unknowns.high - shared)
    own_move = -own_step_of[:, :, -1] - np.einsum("nqp,p->nq", own_step_of[:, :, :-1], move)
    return shared + move, own + own_move


def _bounded(matrix: Array, slope: Array, low: Array, high: Array) -> Array:
    """Solve matrix x = -slope within bounds, by fixing at its bound whatever leaves it, one after the other."""
    x, free = np.zeros(len(slope)), np.ones(len(slope), dtype=bool)
    while free.any():
        rest = -slope[free] - matrix[np.ix_(free, ~free)] @ x[~free]
        x[free] = np.linalg.solve(matrix[np.ix_(free, free)], rest)
        beyond = np.maximum(low - x, x - high) * free
        if beyond.max() <= 1e-12:
            break
        worst = int(beyond.argmax())
        x[worst] = np.clip(x[worst], low[worst], high[worst])
        free[worst] = False
    return x


def standard_errors(at: Slopes, scale: Sequence[float] | Array) -> Array:
    """Standard errors of the shared unknowns `[P]` by the sandwich estimator, clustered by segment; inf where nothing depends.

    Residuals of one segment depend on each other (noise of its beginning, what the model lacks), those of different segments
    do not: the spread of the segments' scores says how much the sum would differ in another log (Liang and Zeger 1986). The
    segments' own unknowns are projected out first.
    """
    size, count, _ = at.shared.shape
    root = (1.0 + at.value**2) ** -0.25
    bread, meat = np.zeros((size, size)), np.zeros((size, size))
    for n in range(count):
        a, b, r = (at.shared[:, n] * root[n]).T, (at.own[:, n] * root[n]).T, at.value[n] * root[n]
        basis, _ = np.linalg.qr(b)
        a, r = a - basis @ (basis.T @ a), r - basis @ (basis.T @ r)
        bread += a.T @ a
        meat += np.outer(a.T @ r, a.T @ r)
    return sandwich(bread, meat * count / max(1, count - size), scale)


def sandwich(bread: Array, meat: Array, scale: Sequence[float] | Array) -> Array:
    """Square roots of the diagonal of bread⁻¹ meat bread⁻¹ `[P]`; inf for unknowns in directions that bread does not see.

    Args:
        bread: sum of J'J, `[P, P]`.
        meat: sum over clusters of the outer products of their scores J'r, `[P, P]`.
        scale: a typical change of each unknown, `[P]`.
    """
    scale = np.asarray(scale)
    both = np.outer(scale, scale)
    values, vectors = np.linalg.eigh(bread * both)
    seen = values > 1e-9 * max(float(values.max(initial=0.0)), 1e-12)
    inverse = (vectors[:, seen] / values[seen]) @ vectors[:, seen].T
    variance = np.maximum(np.diag(inverse @ (meat * both) @ inverse), 0.0)
    hidden = (vectors[:, ~seen] ** 2).sum(axis=1) > 1e-6
    return np.where(hidden, np.inf, np.sqrt(variance) * scale)
