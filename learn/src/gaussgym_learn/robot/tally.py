"""Sums over an episode of the plain robot, as `gaussgym_learn.evaluate` sums them over its batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from gaussgym_deploy.shared_memory import EpisodeResult
from numpy.typing import NDArray

_GRAVITY = 9.81


class EpisodeTally:
    """Velocity errors, work and path of the running episode.

    Args:
        control_s: control period [s].
        mass_kg: of the robot with what it carries.

    Attributes:
        number: start of the running episode.
    """

    def __init__(self, control_s: float, mass_kg: float) -> None:
        self._control_s, self._weight_n = control_s, mass_kg * _GRAVITY
        self.begin(-1, np.zeros(3))

    def begin(self, number: int, position_w: NDArray[np.float64]) -> None:
        """A new episode from start ``number``."""
        self.number, self._start_w, self._last_w = number, position_w.copy(), position_w.copy()
        self._seconds = self._error = self._yaw_error = self._work_j = self._path_m = 0.0

    def add(
        self,
        command: NDArray[np.float64],
        lin_vel_b: NDArray[np.float64],
        yaw_rate: float,
        power_w: float,
        position_w: NDArray[np.float64],
    ) -> None:
        """Account for one control period, which did not end the episode.

        Args:
            command: in force during it, `[3]`.
            lin_vel_b: at its end, `[3]` [m/s].
            yaw_rate: at its end, about the base's axis [rad/s].
            power_w: sum over joints of |torque x speed| at its end [W].
            position_w: base at its end `[3]` [m].
        """
        dt = self._control_s
        self._seconds += dt
        self._error += dt * float(np.hypot(*(lin_vel_b[:2] - command[:2])))
        self._yaw_error += dt * abs(yaw_rate - float(command[2]))
        self._work_j += dt * power_w
        self._path_m += float(np.hypot(*(position_w[:2] - self._last_w[:2])))
        self._last_w[:] = position_w

    def row(self, result: EpisodeResult) -> dict[str, Any]:
        """The episode in numbers; names as in `gaussgym_learn.evaluate.run_episodes`."""
        seconds = max(self._seconds, self._control_s)
        moved = self._last_w - self._start_w
        return {
            "start_index": self.number,
            "success": float(result == EpisodeResult.SUCCESS),
            "fell": float(result == EpisodeResult.FELL),
            "seconds": seconds,
            "velocity_error_m_s": self._error / seconds,
            "yaw_rate_error_rad_s": self._yaw_error / seconds,
            "cost_of_transport": self._work_j / (self._weight_n * max(self._path_m, 0.1)),
            "path_m": self._path_m,
            "displacement_w_m": moved.tolist(),
        }
