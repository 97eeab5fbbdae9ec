"""The first term that went wrong: which quantity of a failed episode left its normal range first.

The normal range of a quantity is what the policy's successful episodes kept to: its limit is the value that 99 % of these
never exceeded, in their whole course. Of a failed episode the last three seconds are looked through (of one that was stuck,
too slow or off its path, all of it), and the quantity that exceeds its limit first is named; of several in the same instant,
the first in the order of `QUANTITIES`, in which causes stand before consequences. One in a hundred good episodes would be
accused, too, quantity by quantity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaussgym_learn.evaluation.quantities import QUANTITIES
from gaussgym_learn.evaluation.traces import Failure

NORMAL_SHARE = 0.99
MIN_SUCCESSES = 20
"""Fewer say nothing about what is normal."""
NOTHING = "nothing"
"""No quantity left its range."""

Floats = NDArray[np.floating]


def normal_limits(peaks: Sequence[Floats] | Floats) -> Floats | None:
    """Limits of the quantities `[Q]`, None where fewer than `MIN_SUCCESSES` episodes succeeded.

    Args:
        peaks: highest values in each successful episode `[S, Q]`.
    """
    values = np.asarray(peaks, np.float64).reshape(-1, len(QUANTITIES))
    if len(values) < MIN_SUCCESSES:
        return None
    return np.quantile(values, NORMAL_SHARE, axis=0)


@dataclass(frozen=True)
class Cause:
    """What went wrong first.

    Attributes:
        name: of the quantity, or `nothing`.
        label: for people.
        before_end_s: how long before the end of the episode; NaN for nothing.
        value: when it left its range.
        limit: of that range.
        worst: its highest value until the end.
    """

    name: str
    label: str
    before_end_s: float = float("nan")
    value: float = float("nan")
    limit: float = float("nan")
    worst: float = float("nan")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        numbers = {k: round(v, 4) for k, v in vars(self).items() if isinstance(v, float)}
        return {"name": self.name, "label": self.label, **numbers}


def first_wrong(failure: Failure, limits: Floats) -> Cause:
    """The first term that went wrong in a failed episode.

    Args:
        failure: its end.
        limits: of the quantities `[Q]`.
    """
    beyond = np.asarray(failure.quantities, np.float64) > limits
    first = np.where(beyond.any(axis=0), beyond.argmax(axis=0), len(beyond))
    if first.min() == len(beyond):
        return Cause(NOTHING, "all quantities stayed in their normal ranges")
    q = int(first.argmin())
    row, column = int(first[q]), failure.quantities[:, q]
    return Cause(
        QUANTITIES[q].name,
        QUANTITIES[q].label,
        float(-failure.times_s[row]),
        float(column[row]),
        float(limits[q]),
        float(column.max()),
    )
