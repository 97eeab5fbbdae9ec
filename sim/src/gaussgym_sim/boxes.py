"""Walls, overhangs and other things that one height a point cannot say, as boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Boxes:
    """B upright boxes, edges along the world's axes."""

    centre_m: NDArray[np.float64]
    """World position of the centres [m], shape `[B, 3]`."""
    half_m: NDArray[np.float64]
    """Half the edges' lengths [m], shape `[B, 3]`, all above 0."""

    @classmethod
    def none(cls) -> Boxes:
        """No boxes."""
        return cls(np.zeros((0, 3)), np.zeros((0, 3)))

    def __len__(self) -> int:
        return len(self.centre_m)
