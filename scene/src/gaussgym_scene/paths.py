"""Where a robot can walk in a scene."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gaussgym_scene.errors import InputError


@dataclass
class Paths:
    """Walkable centre lines; every point is also a candidate for a start or a goal."""

    points: NDArray[np.float32]
    """x, y, z of the ground [m] and yaw of the direction of travel [rad], shape `[P, 4]`."""
    path_id: NDArray[np.int32]
    """Which line each point belongs to, shape `[P]`; consecutive points of one id are neighbours, about 0.25 m apart."""
    half_width_m: NDArray[np.float32]
    """Walkable distance to either side [m], shape `[P]`."""

    def __post_init__(self) -> None:
        self.points = np.ascontiguousarray(self.points, dtype=np.float32)
        self.path_id = np.ascontiguousarray(self.path_id, dtype=np.int32)
        self.half_width_m = np.ascontiguousarray(self.half_width_m, dtype=np.float32)
        n = len(self.points)
        if self.points.shape != (n, 4) or self.path_id.shape != (n,) or self.half_width_m.shape != (n,):
            raise InputError(
                f"paths: shapes {self.points.shape}, {self.path_id.shape}, {self.half_width_m.shape}, expected [P,4], [P], [P]"
            )
        if not np.isfinite(self.points).all():
            raise InputError("paths: a point is NaN or infinite")

    def __len__(self) -> int:
        return len(self.points)

    def line(self, path_id: int) -> NDArray[np.float32]:
        """The points of one line in order, shape `[L, 4]`."""
        return self.points[self.path_id == path_id]

    def arc_length_m(self) -> NDArray[np.float64]:
        """Distance walked from the beginning of its own line to each point [m], shape `[P]`, in the ground plane."""
        steps = np.linalg.norm(np.diff(self.points[:, :2], axis=0, prepend=self.points[:1, :2]), axis=1)
        first = np.diff(self.path_id, prepend=self.path_id[:1] - 1) != 0
        steps[first] = 0.0
        total = np.cumsum(steps, dtype=np.float64)
        start_of_line = np.maximum.accumulate(np.where(first, np.arange(len(total)), 0))
        return total - total[start_of_line]

    def save_npz(self, path: Path | str) -> None:
        """Write one compressed npz."""
        np.savez_compressed(path, points=self.points, path_id=self.path_id, half_width_m=self.half_width_m)

    @classmethod
    def load_npz(cls, path: Path | str) -> "Paths":
        """Read what `save_npz` wrote."""
        with np.load(path, allow_pickle=False) as data:
            try:
                return cls(data["points"], data["path_id"], data["half_width_m"])
            except KeyError as error:
                raise InputError(f"{path}: lacks {error}, expected points, path_id, half_width_m") from None
