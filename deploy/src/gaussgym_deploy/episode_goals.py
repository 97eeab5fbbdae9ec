"""Simulated episodes whose commands come from an odometry on the runtime's side, instead of from the simulator's truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from .bundle import BundleError, PolicyBundle
from .metrics import bootstrap_interval
from .odometry import GoalFollower, LegOdometry, sport_position
from .operator import OperatorCommand
from .robot_io import LinkError, RobotState

__all__ = ["GOAL_SOURCES", "EpisodeGoals"]

GOAL_SOURCES = ("robot", "odometry", "legs")
"""Who says where to go in sim2sim: the simulated robot's own path follower, which knows the truth; a follower by the position
that the robot reports; one by odometry from joints and IMU."""
SHORTEST_M = 1.0


class EpisodeGoals:
    """A :class:`gaussgym_deploy.operator.CommandSource` that follows the path of the running episode.

    Args:
        bundle: The policy.
        source: ``odometry`` or ``legs``.
        paths: File that the robot process writes before its link comes up (``--paths-out``).

    Raises:
        BundleError: An unknown source, or a bundle that says nothing of the legs.
    """

    def __init__(self, bundle: PolicyBundle, source: str, paths: Path) -> None:
        if source not in GOAL_SOURCES[1:]:
            raise BundleError(f"goals by {source!r}, expected one of: {', '.join(GOAL_SOURCES)}")
        self.source, self._paths = source, paths
        self._legs = LegOdometry(bundle) if source == "legs" else None
        self._follower = GoalFollower(sport_position if self._legs is None else self._legs.update)
        self._fields: Dict[str, Any] = {}
        self._first: Optional[np.ndarray] = None
        self._last = np.zeros(3)
        self.moved_m: Dict[int, List[float]] = {}
        """Displacement of the base by this odometry [m] ``[3]``, by start."""

    def begin(self, start_index: int, state: RobotState) -> None:
        """A new episode, from where its first state says that the robot is.

        Raises:
            LinkError: The robot process wrote no path for this start, or its robot says no position.
        """
        if not self._fields:
            self._fields = json.loads(self._paths.read_text(encoding="utf-8"))
        if start_index >= len(self._fields["paths_w_m"]):
            raise LinkError(f"the robot process wrote no path for start {start_index}")
        if self._legs is not None:
            self._legs.reset(sport_position(state))
        self._follower.start(
            np.array(self._fields["paths_w_m"][start_index]), self._fields["speed_m_s"][start_index]
        )
        self._first, self._start = None, start_index

    def read(self, state: RobotState, now_s: float) -> OperatorCommand:
        """See :class:`CommandSource`."""
        wish = self._follower.read(state, now_s)
        position = sport_position(state) if self._legs is None else self._legs.position_w
        if self._first is None:
            self._first = position.copy()
        self._last[:] = position
        self.moved_m[self._start] = (self._last - self._first).tolist()
        return wish

    def close(self) -> None:
        """See :class:`CommandSource`."""

    def drift(self, rows: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
        """How far this odometry ended from the truth, in percent of the path.

        Args:
            rows: Of the robot process, one an episode.

        Returns:
            ``source``, ``drift_percent`` (mean over episodes), ``drift_percent_ci95`` and the ``worst``.
        """
        percent = []
        for row in rows:
            if row["path_m"] >= SHORTEST_M:
                off = np.array(self.moved_m[row["start_index"]]) - np.array(row["displacement_w_m"])
                percent.append(100.0 * float(np.hypot(off[0], off[1])) / row["path_m"])
        values = np.array(percent)
        if not len(values):
            return {"source": self.source, "drift_percent": None}
        return {
            "source": self.source,
            "drift_percent": round(float(values.mean()), 3),
            "drift_percent_ci95": [round(x, 3) for x in bootstrap_interval(values)],
            "drift_percent_worst": round(float(values.max()), 3),
        }
