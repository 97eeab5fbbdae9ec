"""From sticks and keys to velocities: speeds, dead zone, and how fast a command may change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

from ..bundle import BundleError

__all__ = ["Drive", "DriveCfg"]


@dataclass(frozen=True)
class DriveCfg:
    """Speeds at full deflection.

    Attributes:
        forward_m_s: Ahead [m/s].
        backward_m_s: Backwards [m/s].
        sideways_m_s: To either side [m/s].
        turn_rad_s: Yaw rate to either side [rad/s].
        dead_zone: Share of a stick's way that counts as none (sticks do not return to zero).
        slew_per_s: Largest change of each velocity in one second, as a multiple of its full speed.
    """

    forward_m_s: float = 0.8
    backward_m_s: float = 0.4
    sideways_m_s: float = 0.3
    turn_rad_s: float = 0.8
    dead_zone: float = 0.08
    slew_per_s: float = 3.0

    def __post_init__(self) -> None:
        for name in ("forward_m_s", "backward_m_s", "sideways_m_s", "turn_rad_s", "slew_per_s"):
            if not 0.0 < getattr(self, name) < 10.0:
                raise BundleError(f"{name} is {getattr(self, name)!r}, expected more than 0 and less than 10")
        if not 0.0 <= self.dead_zone < 0.5:
            raise BundleError(f"dead_zone is {self.dead_zone!r}, expected 0 to 0.5")


class Drive:
    """Deflections in, a velocity that changes smoothly out.

    Args:
        cfg: Speeds.

    Attributes:
        velocity: v_x, v_y [m/s] and yaw rate [rad/s], ``[3]``; the same array at every :meth:`update`.
    """

    def __init__(self, cfg: DriveCfg) -> None:
        self.velocity = np.zeros(3)
        self._cfg = cfg
        self._full = np.array([cfg.forward_m_s, cfg.sideways_m_s, cfg.turn_rad_s])
        self._last_s = -np.inf

    def update(self, deflection: Sequence[float], now_s: float) -> np.ndarray:
        """Move towards the velocity of the given deflections.

        Args:
            deflection: Forward, left and turn left, each -1 ... 1 (what is beyond or not finite counts as the end, or none).
            now_s: Current time [s].
        """
        cfg = self._cfg
        wanted = np.nan_to_num(np.asarray(deflection, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        np.clip(wanted, -1.0, 1.0, out=wanted)
        # Rescaled beyond the dead zone, so that the velocity begins at zero there.
        wanted = np.sign(wanted) * np.maximum(np.abs(wanted) - cfg.dead_zone, 0.0) / (1.0 - cfg.dead_zone)
        wanted *= self._full
        if wanted[0] < 0.0:
            wanted[0] *= cfg.backward_m_s / cfg.forward_m_s
        # The first call (and one after a pause) moves by one control period's worth, not all the way.
        dt_s = min(max(now_s - self._last_s, 0.0), 0.1) if np.isfinite(self._last_s) else 0.02
        self._last_s = now_s
        step = cfg.slew_per_s * self._full * dt_s
        self.velocity += np.clip(wanted - self.velocity, -step, step)
        return self.velocity

    def halt(self) -> None:
        """Zero at once."""
        self.velocity[:] = 0.0
