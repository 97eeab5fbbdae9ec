"""Poses over time: those between two measured ones, and only where the measured ones are near."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

ROTATION_TOLERANCE = 1e-3
"""By how much `R^T R` of a source's rotation may differ from the identity: text files round, wrong matrices differ more."""


@dataclass(frozen=True)
class Trajectory:
    """Poses of one frame over time.

    Attributes:
        times_s: `[n]` strictly increasing [s].
        poses: `[n, 4, 4]`, maps of that frame's points to the world.
    """

    times_s: NDArray[np.float64]
    poses: NDArray[np.float64]

    @classmethod
    def sorted(cls, times_s: NDArray[np.float64], poses: NDArray[np.float64], *, what: str) -> Trajectory:
        """Put poses in order of time; of several at one time the first counts.

        Raises:
            InputError: There is none, or one is not finite or no rigid motion; `what` names the file.
        """
        times_s, poses = np.asarray(times_s, dtype=np.float64), np.asarray(poses, dtype=np.float64)
        if len(times_s) == 0:
            raise InputError(f"{what}: holds no pose; expected one a line or row")
        bad = ~(np.isfinite(poses).all(axis=(1, 2)) & np.isfinite(times_s))
        if bad.any():
            raise InputError(
                f"{what}: pose {int(np.argmax(bad))} of {len(poses)} is not finite; export it again"
            )
        unique, first = np.unique(times_s, return_index=True)
        return cls(unique, np.stack([orthonormal(poses[index], what) for index in first]))

    def at(
        self, times_s: NDArray[np.float64], *, exact_s: float, max_gap_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Poses at any times.

        A time within `exact_s` of a measured one takes it; another takes the pose between its neighbours (positions
        linear, rotations on the great circle), if these are no more than `max_gap_s` apart.

        Args:
            times_s: `[m]` [s].
            exact_s: How much clocks that are meant to agree may differ [s].
            max_gap_s: Longest gap that is bridged [s].

        Returns:
            `[m, 4, 4]`, and `[m]` whether each is known; unknown ones are the identity.
        """
        times_s = np.asarray(times_s, dtype=np.float64)
        after = np.clip(np.searchsorted(self.times_s, times_s), 1, max(len(self.times_s) - 1, 1))
        before, after = after - 1, np.minimum(after, len(self.times_s) - 1)
        to_before = np.abs(times_s - self.times_s[before])
        to_after = np.abs(times_s - self.times_s[after])
        nearest = np.where(to_before <= to_after, before, after)
        exact = np.minimum(to_before, to_after) <= exact_s
        gap = self.times_s[after] - self.times_s[before]
        inside = (times_s >= self.times_s[before]) & (times_s <= self.times_s[after]) & (gap <= max_gap_s)
        poses = np.tile(np.eye(4), (len(times_s), 1, 1))
        poses[exact] = self.poses[nearest[exact]]
        between = inside & ~exact
        if between.any():
            poses[between] = self._between(times_s[between])
        return poses, exact | inside

    def _between(self, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.tile(np.eye(4), (len(times_s), 1, 1))
        slerp = Slerp(self.times_s, Rotation.from_matrix(self.poses[:, :3, :3]))
        out[:, :3, :3] = slerp(times_s).as_matrix()
        for axis in range(3):
            out[:, axis, 3] = np.interp(times_s, self.times_s, self.poses[:, axis, 3])
        return out


def orthonormal(pose: NDArray[np.float64], what: str) -> NDArray[np.float64]:
    """A source's pose `[4, 4]` with its rotation made exactly orthonormal (the nearest one, by SVD).

    Raises:
        InputError: It is not finite, or is no rotation even within rounding; `what` names it.
    """
    pose = np.array(pose, dtype=np.float64)
    if not np.isfinite(pose).all():
        raise InputError(
            f"{what}: the pose is not finite; expected a rotation and a position, export it again"
        )
    rotation = pose[:3, :3]
    error = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    if error > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        kind = "mirrors" if np.linalg.det(rotation) < 0 else f"is {error:.2g} from orthonormal"
        raise InputError(f"{what}: the pose's rotation {kind}; expected a rotation, export it again")
    u, _, vt = np.linalg.svd(rotation)
    pose[:3, :3] = u @ vt
    pose[3] = (0, 0, 0, 1)
    return pose
