"""One fault in one trial."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict

import numpy as np

from ..bundle import PolicyBundle
from .table import FaultKind

__all__ = ["Injection"]


@dataclass
class Injection:
    """One fault in one trial: what, since when, on which joint.

    Attributes:
        kind: The row of the table.
        bundle: Limits, rates, camera.
        joint: The joint that it falls on.
        sign: Direction, -1 or 1.
        start_s: When it begins, on the clock of the trial; infinity: not yet decided.
        calls: How often it acted.
        stash: What a fault must remember.
    """

    kind: FaultKind
    bundle: PolicyBundle
    joint: int = 0
    sign: int = 1
    start_s: float = float("inf")
    calls: int = 0
    stash: Dict[str, Any] = field(default_factory=dict)

    @classmethod
    def draw(cls, kind: FaultKind, bundle: PolicyBundle, generator: np.random.Generator) -> Injection:
        """A fault on a random joint in a random direction."""
        return cls(
            kind,
            bundle,
            joint=int(generator.integers(len(bundle.joint_names))),
            sign=int(generator.choice([-1, 1])),
        )

    def since_s(self, now_s: float) -> float:
        """Seconds since it began; negative before."""
        return now_s - self.start_s
