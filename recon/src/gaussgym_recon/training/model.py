"""The splats that are being trained: parameters as they are optimized, with Adam's moments."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from gaussgym_render.differentiable import raster_forward
from gaussgym_scene.splats import Splats
from numpy.typing import NDArray

Floats = NDArray[np.floating]
_SH_C0 = np.float32(0.28209479177387814)


@dataclass
class SplatModel:
    """Parameters in the form that is optimized, with Adam's moments; all arrays have one row a splat."""

    means: Floats
    quats: Floats
    log_scales: Floats
    logits: Floats
    sh: Floats
    footprint: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    adam: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    steps: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    PARAMETERS = ("means", "quats", "log_scales", "logits", "sh")
    ROWS = (*PARAMETERS, "footprint", "adam", "steps")

    def __post_init__(self) -> None:
        n = len(self.means)
        if not len(self.footprint):
            self.footprint = np.full(n, 1e-2, np.float32)
        if not self.adam.size:
            self.adam = np.zeros((n, 2 * self.width), np.float32)
            self.steps = np.zeros(n, np.int32)

    def __len__(self) -> int:
        return len(self.means)

    @property
    def width(self) -> int:
        """Scalars a splat has."""
        return 11 + self.sh.shape[1] * 3

    def take(self, index: NDArray) -> SplatModel:
        """The splats picked by a mask or an index array, moments included."""
        return SplatModel(*(np.ascontiguousarray(getattr(self, name)[index]) for name in self.ROWS))

    def append(self, other: SplatModel) -> SplatModel:
        """Both sets of splats."""
        return SplatModel(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in self.ROWS))

    def splats(self, *, min_opacity: float = 0.005) -> Splats:
        """What renderers take; splats nearly invisible or not finite are left out."""
        finite = np.isfinite(self.means).all(1) & np.isfinite(self.log_scales).all(1)
        opacity = sigmoid(self.logits)
        keep = finite & (opacity > min_opacity)
        quats = self.quats[keep] / np.linalg.norm(self.quats[keep], axis=1, keepdims=True)
        return Splats(self.means[keep], quats, np.exp(self.log_scales[keep]), opacity[keep], self.sh[keep])


def model_from_points(
    points: NDArray[np.floating], colors: NDArray[np.floating], sizes_m: NDArray[np.floating], *,
    normals: NDArray[np.floating] | None = None, opacity: float = 0.6, sh_degree: int = 1, flatness: float = 0.2,
) -> SplatModel:  # fmt: skip
    """Splats at coloured points.

    Args:
        points: ``[N, 3]`` [m].
        colors: ``[N, 3]`` in 0..1.
        sizes_m: ``[N]`` standard deviation along the surface [m].
        normals: ``[N, 3]`` unit; the splat is ``flatness`` times as thick along it. Round where None or zero.
        opacity: Of all.
        sh_degree: Of the coefficients; those above degree 0 are zero.
        flatness: Thickness over size where a normal is given.
    """
    n = len(points)
    quats = np.tile(np.array([1, 0, 0, 0], np.float32), (n, 1))
    log_scales = np.repeat(np.log(np.maximum(sizes_m, 1e-5))[:, None], 3, axis=1)
    if normals is not None:
        # The rotation that takes +Z to the normal.
        flat = np.linalg.norm(normals, axis=1) > 0.5
        nx, ny, nz = np.asarray(normals, np.float64).T
        q = np.stack([1 + nz, -ny, nx, np.zeros(n)], axis=1)
        q[nz < -0.9999] = [0, 1, 0, 0]
        quats[flat] = (q / np.linalg.norm(q, axis=1, keepdims=True))[flat]
        log_scales[flat, 2] += np.log(flatness)
    sh = np.zeros((n, (sh_degree + 1) ** 2, 3), np.float32)
    sh[:, 0] = (np.asarray(colors) - 0.5) / _SH_C0
    logit = np.log(opacity / (1 - opacity))
    return SplatModel(
        np.ascontiguousarray(points, np.float32),
        quats,
        log_scales.astype(np.float32),
        np.full(n, logit, np.float32),
        sh,
    )


def sigmoid(x: Floats) -> Floats:
    """Opacities of logits."""
    return (1.0 / (1.0 + np.exp(-x))).astype(np.float32)


def rotate(quats: Floats, v: NDArray[np.floating]) -> NDArray[np.floating]:
    """Rotate vectors ``[N, 3]`` by quaternions ``[N, 4]`` wxyz of any length."""
    q = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    w, u = q[:, :1], q[:, 1:]
    return v + 2 * np.cross(u, np.cross(u, v) + w * v)


def render_splats(
    model: SplatModel, view: NDArray[np.float64], k: NDArray[np.float64], width: int, height: int
) -> tuple[Floats, Floats, Floats]:
    """Colour clipped to 0..1 ``[H,W,3]``, expected depth [m] (0 = nothing) and alpha ``[H,W]`` of a model."""
    scales, opacities = np.exp(model.log_scales), sigmoid(model.logits)
    degree = round(model.sh.shape[1] ** 0.5) - 1
    rgb, depth, trans, _ = raster_forward(
        model.means, model.quats, scales, opacities, model.sh, view, k, width, height, sh_degree=degree
    )
    alpha = 1 - trans
    expected = np.where(alpha > 1e-3, depth / np.maximum(alpha, 1e-6), 0).astype(np.float32)
    return np.clip(rgb, 0, 1), expected, alpha
