"""What episodes come to: means and intervals, the same numbers by the same names in training's evaluation and in sim2sim."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np

__all__ = ["bootstrap_interval", "summarize", "table_of_rows", "wilson_interval"]

_Z95 = 1.959963984540054
_MEAN_NAMES: Dict[str, str] = {"seconds": "seconds_mean", "path_m": "path_m_mean"}
_LABELS = ("scene",)


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron 1979).

    Args:
        values: One number an episode, ``[N]``; NaN is left out.
        level: Confidence.
        resamples: Bootstrap samples.
        seed: Of the resampling.
    """
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(successes: int, trials: int, *, z: float = _Z95) -> Tuple[float, float]:
    """Score interval of a share (Wilson 1927); unlike the bootstrap it does not shrink to a point at 0 and 1.

    Args:
        successes: How many of the trials.
        trials: 0 gives 0 ... 1.
        z: Standard normal quantile; 1.96: 95 %.
    """
    if trials == 0:
        return 0.0, 1.0
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    # At 0 and 1 the bounds are exact; rounding must not leave them beside.
    return (
        0.0 if successes == 0 else max(centre - half, 0.0),
        1.0 if successes == trials else min(centre + half, 1.0),
    )


def summarize(table: Mapping[str, np.ndarray], scene_names: Sequence[str]) -> Dict[str, Any]:
    """Means, 95 % bootstrap intervals (``<name>_ci95``), falls per kilometre, success by scene, and every episode's outcome.

    Args:
        table: ``[N]`` arrays by quantity, a row an episode; ``success``, ``fell`` (0 or 1) and ``scene`` (index) are needed.
        scene_names: By index.
    """
    out: Dict[str, Any] = {"episodes": len(table["success"])}
    timeout = 1.0 - table["success"] - table["fell"]
    for key, values in [*table.items(), ("timeout", timeout)]:
        if key in _LABELS:
            continue
        name = _MEAN_NAMES.get(key) or key
        out[name] = round(float(np.nanmean(values)), 4)
        out[name + "_ci95"] = [round(x, 4) for x in bootstrap_interval(values)]
    if "path_m" in table:
        out["falls_per_km"] = round(float(table["fell"].sum() / max(table["path_m"].sum(), 1e-9) * 1e3), 4)
    out["per_scene"] = {
        name: {key: round(float(table[key][table["scene"] == i].mean()), 4) for key in ("success", "fell")}
        for i, name in enumerate(scene_names)
        if (table["scene"] == i).any()
    }
    out["per_episode"] = {
        "success": table["success"].astype(int).tolist(),
        "fell": table["fell"].astype(int).tolist(),
        "scene": table["scene"].astype(int).tolist(),
    }
    return out


def table_of_rows(rows: Sequence[Mapping[str, Any]]) -> Dict[str, np.ndarray]:
    """The table of :func:`summarize` from one mapping an episode (numbers only; all of one scene)."""
    names: List[str] = [
        name
        for name, value in rows[0].items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "start_index"
    ]
    table = {name: np.array([float(row[name]) for row in rows]) for name in names}
    table["scene"] = np.zeros(len(rows), dtype=np.int64)
    return table
