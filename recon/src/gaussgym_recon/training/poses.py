"""Camera poses refined beside the splats, with the world frame held fast."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Doubles = NDArray[np.float64]


def pose_gradient(worldview: Doubles, v_view: Doubles) -> Doubles:
    """Gradient by a small turn of the camera about its own centre and a small shift of it, both along world axes.

    With ``c2w = [exp(e) R | c + t]`` the world-to-camera matrix is ``[W | -W c]``, ``W = R^T exp(-e)``.

    Args:
        worldview: World to camera ``[4, 4]``.
        v_view: Gradient of the loss by it, ``[4, 4]``, last row unused.

    Returns:
        ``[6]``: by the turn ``e`` [1/rad], then by the shift ``t`` [1/m], at zero.
    """
    w = worldview[:3, :3]
    center = -w.T @ worldview[:3, 3]
    m = w.T @ v_view[:3, :3]
    along = w.T @ v_view[:3, 3]
    turn = np.array([m[1, 2] - m[2, 1], m[2, 0] - m[0, 2], m[0, 1] - m[1, 0]]) + np.cross(center, along)
    return np.concatenate([turn, -along])


class PoseRefinement:
    """A correction of each training camera; together they never move, turn or scale the world.

    Photographs alone cannot tell a camera path from the same path moved, turned or scaled along with the splats. So after each
    round the part of the corrections that is such a similarity (to first order) is taken off: the metric frame stays that of
    structure from motion, in which held-out cameras stand as well.

    Args:
        c2w: ``[n, 4, 4]`` camera to world before refinement.
        train: Those that are refined; the others stay.
        m_per_px: Size of a pixel at what the cameras see [m]: turns and shifts of one step move the image alike.
        rad_per_px: Angle of a pixel [rad].
    """

    def __init__(self, c2w: Doubles, train: list[int], *, m_per_px: float, rad_per_px: float) -> None:
        self.start = np.array(c2w, np.float64)
        self.c2w = self.start.copy()
        self.moments = np.zeros((2, len(c2w), 6))
        self.counts = np.zeros(len(c2w), np.int64)
        self._train = np.asarray(train)
        self.unit = np.repeat([rad_per_px, m_per_px], 3)

    def worldview(self, index: int) -> Doubles:
        """World to camera ``[4, 4]``."""
        out = np.eye(4)
        out[:3, :3] = self.c2w[index, :3, :3].T
        out[:3, 3] = -out[:3, :3] @ self.c2w[index, :3, 3]
        return out

    def step(self, index: int, v_view: Doubles, step_px: float) -> None:
        """One Adam step of a camera, from the gradient by its world-to-camera matrix; ``step_px`` in pixels."""
        gradient = pose_gradient(self.worldview(index), v_view) * self.unit
        if not np.isfinite(gradient).all():
            return
        self.counts[index] += 1
        m, v = self.moments[:, index]
        m += 0.1 * (gradient - m)
        v += 0.01 * (gradient**2 - v)
        corrected = m / (1 - 0.9 ** self.counts[index])
        scale = np.sqrt(v / (1 - 0.99 ** self.counts[index]))
        self._move(index, -step_px * self.unit * corrected / (scale + 1e-15))

    def _move(self, index: int, delta: Doubles) -> None:
        turn = Rotation.from_rotvec(delta[:3]).as_matrix()
        # Through a quaternion: thousands of small turns would otherwise add up to a matrix that is no rotation.
        self.c2w[index, :3, :3] = Rotation.from_matrix(turn @ self.c2w[index, :3, :3]).as_matrix()
        self.c2w[index, :3, 3] += delta[3:]

    def corrections(self) -> Doubles:
        """Turn [rad] and shift [m] of each camera since the start, along world axes, ``[n, 6]``."""
        turn = self.c2w[:, :3, :3] @ self.start[:, :3, :3].transpose(0, 2, 1)
        return np.concatenate(
            [Rotation.from_matrix(turn).as_rotvec(), self.c2w[:, :3, 3] - self.start[:, :3, 3]], axis=1
        )

    def hold_gauge(self) -> None:
        """Take from the corrections what moves, turns or scales all training cameras together."""
        offset = self.start[self._train, :3, 3]
        offset = offset - offset.mean(0)
        n = len(offset)
        basis = np.zeros((n, 6, 7))
        basis[:, 3:, :3] = np.eye(3)
        for axis in range(3):
            basis[:, axis, 3 + axis] = 1.0
            basis[:, 3:, 3 + axis] = np.cross(np.eye(3)[axis], offset)
        basis[:, 3:, 6] = offset
        found = self.corrections()[self._train]
        weights = 1.0 / self.unit
        a = (basis * weights[None, :, None]).reshape(6 * n, 7)
        common = basis @ np.linalg.lstsq(a, (found * weights).reshape(-1), rcond=None)[0]
        for index, delta in zip(self._train, common):
            self._move(int(index), -delta)
