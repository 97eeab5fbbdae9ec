"""Numbers of many episodes with bootstrap intervals, and paired differences between policies that ran the same starts.

Every number is a ratio of two sums over episodes (falls over kilometres, successes over episodes). Its interval is a percentile
bootstrap in two stages (Davison and Hinkley, Bootstrap Methods, 1997, sec. 3.8): the replicates are drawn with replacement, as
many as there are, and within each draw its starts, as many as it has. A replicate is a seed of starts, or, where a policy comes
as several runs, a run with a seed of its own. A paired difference takes the same draws for both sides. Numbers of a part of the
episodes (a terrain class) are ratios of sums over that part, with the same draws.

Two stages are wider than one where replicates do not differ: nobody is promised more than there is. Where a bootstrap can say
nothing, because all episodes ended alike, exact intervals take its place: Wilson's for a share, Garwood's for a rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from gaussgym_deploy.metrics import wilson_interval
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Table = Mapping[str, NDArray]
"""Columns `[N]`, a row an episode; `replicate` and `start` say which one."""

RESAMPLES = 2000
NO_EVENTS = -math.log(0.025)
"""Upper 97.5 % limit of a Poisson mean of which nothing was seen (Garwood 1936)."""


@dataclass(frozen=True)
class Metric:
    """One number of many episodes.

    Attributes:
        name: as in JSON.
        label: for people.
        unit: likewise.
        better: 1: more is better; -1: less is.
        over: column, or sum of columns, that is summed.
        per: column that it is divided by; None: by the number of episodes.
        scale: of the ratio.
        kind: `share` of episodes, `rate` of events, or `mean`.
    """

    name: str
    label: str
    unit: str
    better: int
    over: str
    per: str | None = None
    scale: float = 1.0
    kind: str = "mean"


METRICS = (
    Metric("success", "success", "share", 1, "success", kind="share"),
    Metric("fell", "falls", "share", -1, "fell", kind="share"),
    Metric("falls_per_km", "falls per km", "1/km", -1, "fell", "path_m", 1e3, "rate"),
    Metric("velocity_error_m_s", "velocity error", "m/s", -1, "velocity_error_m_s"),
    Metric("yaw_rate_error_rad_s", "yaw rate error", "rad/s", -1, "yaw_rate_error_rad_s"),
    Metric("cost_of_transport", "cost of transport", "1", -1, "cost_of_transport"),
    Metric("spl", "SPL", "1", 1, "spl"),
    Metric("seconds", "seconds", "s", -1, "seconds"),
)
_KNOWN = {m.name for m in METRICS} | {"path_m", "replicate", "start", "scene", "shortest_m"}


def metrics_of(table: Table) -> tuple[Metric, ...]:
    """What a table can say: the usual numbers, and the mean of each of the task's own columns."""
    usual = [m for m in METRICS if m.over in table and (m.per is None or m.per in table)]
    own = [
        Metric(name, name, "", 0, name)
        for name, values in table.items()
        if name not in _KNOWN and np.issubdtype(values.dtype, np.floating)
    ]
    return (*usual, *own)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: of all episodes.
        low: end of the interval.
        high: the other.
        episodes: how many it rests on.
        method: `bootstrap`, `wilson` or `garwood`.
    """

    value: float
    low: float
    high: float
    episodes: int
    method: str = "bootstrap"

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        low, high = round(self.low, 5), round(self.high, 5)
        fields = {"value": round(self.value, 5), "ci95": [low, high], "episodes": self.episodes}
        return fields if self.method == "bootstrap" else {**fields, "method": self.method}


def draw_weights(
    replicate: NDArray[np.integer], *, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """How often each episode is drawn in each bootstrap sample.

    Args:
        replicate: of each episode `[N]`.
        resamples: B.
        seed: of the draws.

    Returns:
        `[B, N]`.
    """
    rng = np.random.default_rng(seed)
    groups = np.unique(replicate)
    weights = np.zeros((resamples, len(replicate)))
    drawn = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=resamples)
    for column, group in enumerate(groups):
        rows = np.flatnonzero(replicate == group)
        count = len(rows)
        weights[:, rows] = rng.multinomial(drawn[:, column] * count, np.full(count, 1 / count))
    return weights


def _sums(table: Table, metric: Metric, rows: NDArray[np.bool_] | None) -> tuple[Floats, Floats]:
    """Numerator and denominator of each episode; 0 and 0 where it has no such number or is not asked for."""
    over = np.asarray(table[metric.over], np.float64)
    per = np.ones_like(over) if metric.per is None else np.asarray(table[metric.per], np.float64)
    counts = np.isfinite(over) & np.isfinite(per)
    if rows is not None:
        counts &= rows
    return np.where(counts, over, 0.0), np.where(counts, per, 0.0)


def _ratio(over: Floats, per: Floats, scale: float) -> Floats:
    return np.divide(over, per, out=np.full(np.shape(over), np.nan), where=np.asarray(per) > 0) * scale


def _quantiles(values: Floats, level: float) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def estimate(
    table: Table,
    metric: Metric,
    weights: Floats,
    *,
    rows: NDArray[np.bool_] | None = None,
    level: float = 0.95,
) -> Estimate:
    """A number of many episodes.

    Args:
        table: the episodes.
        metric: which number.
        weights: `draw_weights` of the table.
        rows: `[N]`, count only these.
        level: of confidence.
    """
    over, per = _sums(table, metric, rows)
    value = float(_ratio(over.sum(), per.sum(), metric.scale))
    episodes = int((per > 0).sum())
    if episodes == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    if metric.kind == "share" and over.sum() in (0.0, per.sum()):
        low, high = wilson_interval(int(over.sum()), episodes)
        return Estimate(value, low, high, episodes, "wilson")
    if metric.kind == "rate" and over.sum() == 0.0:
        return Estimate(value, 0.0, NO_EVENTS / per.sum() * metric.scale, episodes, "garwood")
    low, high = _quantiles(_ratio(weights @ over, weights @ per, metric.scale), level)
    return Estimate(value, low, high, episodes)


def paired(a: Table, b: Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of two tables that are of the same start of the same replicate, in the same order."""
    place = {
        key: row for row, key in enumerate(zip(b["replicate"].tolist(), b["start"].tolist(), strict=True))
    }
    pairs = [
        (row, place[key])
        for row, key in enumerate(zip(a["replicate"].tolist(), a["start"].tolist(), strict=True))
        if key in place
    ]
    both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def difference(
    a: Table,
    b: Table,
    metric: Metric,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """What `a` has more than `b`, over the starts that both ran.

    Where no pair of a share differs, the interval is that of the share of pairs that might (Garwood's limit, to either side), and
    where neither side has any event, that of each side's rate.
    """
    rows_a, rows_b = paired(a, b)
    if len(rows_a) == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    over_a, per_a = (x[rows_a] for x in _sums(a, metric, None))
    over_b, per_b = (x[rows_b] for x in _sums(b, metric, None))
    scale, count = metric.scale, len(rows_a)
    value = float(_ratio(over_a.sum(), per_a.sum(), scale) - _ratio(over_b.sum(), per_b.sum(), scale))
    if metric.kind == "share" and np.array_equal(over_a, over_b):
        reach = min(NO_EVENTS / count, 1.0)
        return Estimate(value, -reach, reach, count, "garwood")
    if metric.kind == "rate" and over_a.sum() == over_b.sum() == 0.0:
        return Estimate(
            value, *(scale * x for x in (-NO_EVENTS / per_b.sum(), NO_EVENTS / per_a.sum())), count, "garwood"
        )
    weights = draw_weights(a["replicate"][rows_a], resamples=resamples, seed=seed)
    drawn = _ratio(weights @ over_a, weights @ per_a, scale) - _ratio(
        weights @ over_b, weights @ per_b, scale
    )
    return Estimate(value, *_quantiles(drawn, level), count)


def spl(success: Floats, walked_m: Floats, shortest_m: Floats) -> Floats:
    """Success weighted by path length of each episode `[N]` (Anderson et al., arXiv 1807.06757).

    Args:
        success: 0 or 1.
        walked_m: length of the way taken [m].
        shortest_m: length of the shortest way [m].
    """
    longest = np.maximum(np.maximum(walked_m, shortest_m), 1e-6)
    return success * np.maximum(shortest_m, 1e-6) / longest
