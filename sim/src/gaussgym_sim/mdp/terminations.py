"""When an episode ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from gaussgym_sim.vecsim import SimState


@dataclass(frozen=True)
class TerminationCfg:
    """Limits."""

    max_tilt_rad: float = math.radians(60.0)
    min_base_height_m: float = -0.3
    """Base this far below the ground beside it means that it fell off or through."""
    border_margin_m: float = 0.15
    """Distance to the ground's border at which the episode is cut short (a time-out, not a fall)."""


def fell(state: SimState, gravity_b: Tensor, height_over_ground_m: Tensor, cfg: TerminationCfg) -> Tensor:
    """Trunk contact, tilt beyond the limit, or below the ground: [E] bool."""
    tilted = gravity_b[:, 2] > -math.cos(cfg.max_tilt_rad)
    return state.trunk_contact | tilted | (height_over_ground_m < cfg.min_base_height_m)
