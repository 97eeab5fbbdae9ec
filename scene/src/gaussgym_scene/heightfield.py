"""Ground as one height a grid point."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gaussgym_scene.errors import InputError


@dataclass
class Heightfield:
    """Heights on a regular grid; `height_m[j, i]` stands at (origin_x + i·cell_m, origin_y + j·cell_m)."""

    height_m: NDArray[np.float32]
    """Ground height [m], shape `[ny, nx]`; rows run along +Y, columns along +X."""
    cell_m: float
    """Grid spacing [m]."""
    origin_xy_m: NDArray[np.float64]
    """World position of the grid point `[0, 0]` [m], shape `[2]`."""
    known: NDArray[np.bool_]
    """Whether the ground was observed there, shape `[ny, nx]`; elsewhere heights are filled in."""

    def __post_init__(self) -> None:
        self.height_m = np.ascontiguousarray(self.height_m, dtype=np.float32)
        self.origin_xy_m = np.asarray(self.origin_xy_m, dtype=np.float64)
        self.known = np.ascontiguousarray(self.known, dtype=bool)
        if self.height_m.ndim != 2 or min(self.height_m.shape) < 2 or self.known.shape != self.height_m.shape:
            raise InputError(
                f"heightfield: shapes {self.height_m.shape} and {self.known.shape}, expected two equal [ny, nx] of at least 2x2"
            )
        if not self.cell_m > 0 or self.origin_xy_m.shape != (2,):
            raise InputError(
                f"heightfield: cell {self.cell_m} m and origin {self.origin_xy_m}, expected > 0 and [2]"
            )
        if not np.isfinite(self.height_m).all():
            raise InputError(
                "heightfield: a height is NaN or infinite; fill unknown cells and mark them in 'known'"
            )

    @property
    def size_m(self) -> tuple[float, float]:
        """Extent along X and Y [m]."""
        ny, nx = self.height_m.shape
        return (nx - 1) * self.cell_m, (ny - 1) * self.cell_m

    def grid_xy(self) -> NDArray[np.float64]:
        """World positions of all grid points [m], shape `[ny, nx, 2]`."""
        ny, nx = self.height_m.shape
        x, y = np.meshgrid(np.arange(nx) * self.cell_m, np.arange(ny) * self.cell_m)
        return np.stack([x, y], axis=-1) + self.origin_xy_m

    def sample(self, xy: ArrayLike) -> NDArray[np.float64]:
        """Bilinear height [m] at world points `[..., 2]` [m]; outside, the nearest border value."""
        (i, j), (fi, fj) = self._cells(xy)
        h = self.height_m
        near = h[j, i] * (1 - fi) + h[j, i + 1] * fi
        far = h[j + 1, i] * (1 - fi) + h[j + 1, i + 1] * fi
        return near * (1 - fj) + far * fj

    def is_known(self, xy: ArrayLike) -> NDArray[np.bool_]:
        """Whether all four grid points around world points `[..., 2]` were observed and the point lies inside."""
        xy = np.asarray(xy, dtype=np.float64)
        (i, j), _ = self._cells(xy)
        k = self.known
        local = (xy - self.origin_xy_m) / self.cell_m
        ny, nx = k.shape
        inside = ((local >= 0) & (local <= (nx - 1, ny - 1))).all(axis=-1)
        return inside & k[j, i] & k[j, i + 1] & k[j + 1, i] & k[j + 1, i + 1]

    def _cells(self, xy: ArrayLike) -> tuple[tuple[NDArray, NDArray], tuple[NDArray, NDArray]]:
        ny, nx = self.height_m.shape
        local = (np.asarray(xy, dtype=np.float64) - self.origin_xy_m) / self.cell_m
        u = np.clip(local[..., 0], 0, nx - 1)
        v = np.clip(local[..., 1], 0, ny - 1)
        i = np.minimum(u.astype(np.int64), nx - 2)
        j = np.minimum(v.astype(np.int64), ny - 2)
        return (i, j), (u - i, v - j)

    def save_npz(self, path: Path | str) -> None:
        """Write one compressed npz."""
        np.savez_compressed(
            path,
            height_m=self.height_m,
            cell_m=np.float64(self.cell_m),
            origin_xy_m=self.origin_xy_m,
            known=self.known,
        )

    @classmethod
    def load_npz(cls, path: Path | str) -> "Heightfield":
        """Read what `save_npz` wrote."""
        with np.load(path, allow_pickle=False) as data:
            try:
                return cls(data["height_m"], float(data["cell_m"]), data["origin_xy_m"], data["known"])
            except KeyError as error:
                raise InputError(
                    f"{path}: lacks {error}, expected height_m, cell_m, origin_xy_m, known"
                ) from None
