"""Real spherical harmonics of view-dependent splat colour, degrees 0 to 3.

The basis, its signs and its order are those of 3D Gaussian Splatting (Kerbl et al. 2023, ACM TOG 42(4)), which nerfstudio
and gsplat share: coefficient `k = l² + l + m`, `m = -l … l`. A splat seen along the unit direction `d` (from the camera
centre to the splat mean, world frame) has the colour `max(0, 0.5 + Σ_k basis_k(d) · sh_k)`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

MAX_DEGREE = 3
"""Highest degree that 3DGS files hold."""

C0 = 0.28209479177387814  # sqrt(1 / 4π)
C1 = 0.4886025119029199  # sqrt(3 / 4π)
C2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792, 0.5462742152960396)
C3 = (
    -0.5900435899266435,
    2.890611442640554,
    -0.4570457994644658,
    0.3731763325901154,
    -0.4570457994644658,
    1.445305721320277,
    -0.5900435899266435,
)


def num_coefficients(degree: int) -> int:
    """Number of basis functions up to and including `degree`: `(degree + 1)²`."""
    return (degree + 1) ** 2


def degree_of(num_coeffs: int) -> int:
    """Degree whose basis has `num_coeffs` functions.

    Raises:
        ValueError: If `num_coeffs` is not 1, 4, 9 or 16.
    """
    for degree in range(MAX_DEGREE + 1):
        if num_coefficients(degree) == num_coeffs:
            return degree
    raise ValueError(f"found {num_coeffs} SH coefficients per channel, expected 1, 4, 9 or 16")


def basis(directions: NDArray[Any], degree: int) -> NDArray[Any]:
    """Evaluate the basis at unit directions.

    Args:
        directions: Unit vectors `[..., 3]`, world frame, floating point.
        degree: 0 to 3.

    Returns:
        `[..., (degree + 1)²]` in the precision of `directions`.
    """
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"SH degree {degree}, expected 0 to {MAX_DEGREE}")
    x, y, z = directions[..., 0], directions[..., 1], directions[..., 2]
    out = np.empty((*directions.shape[:-1], num_coefficients(degree)), directions.dtype)
    out[..., 0] = C0
    if degree >= 1:
        out[..., 1] = -C1 * y
        out[..., 2] = C1 * z
        out[..., 3] = -C1 * x
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        out[..., 4] = C2[0] * x * y
        out[..., 5] = C2[1] * y * z
        out[..., 6] = C2[2] * (2 * zz - xx - yy)
        out[..., 7] = C2[3] * x * z
        out[..., 8] = C2[4] * (xx - yy)
        if degree >= 3:
            out[..., 9] = C3[0] * y * (3 * xx - yy)
            out[..., 10] = C3[1] * x * y * z
            out[..., 11] = C3[2] * y * (4 * zz - xx - yy)
            out[..., 12] = C3[3] * z * (2 * zz - 3 * xx - 3 * yy)
            out[..., 13] = C3[4] * x * (4 * zz - xx - yy)
            out[..., 14] = C3[5] * z * (xx - yy)
            out[..., 15] = C3[6] * x * (xx - 3 * yy)
    return out


def colors(
    sh: NDArray[Any], directions: NDArray[Any], degree: int | None = None, *, clamp: bool = True
) -> NDArray[Any]:
    """Colour of splats seen along unit directions.

    Args:
        sh: Coefficients `[N, K, 3]`.
        directions: Unit vectors `[N, 3]` from the camera centre to the splat means, world frame.
        degree: Highest degree to use; default: all that `sh` holds.
        clamp: Whether to clamp at 0.

    Returns:
        RGB `[N, 3]`, not clamped above.
    """
    have = degree_of(sh.shape[-2])
    degree = have if degree is None else min(degree, have)
    weights = basis(directions, degree)
    sums = 0.5 + np.einsum("nk,nkc->nc", weights, sh[:, : weights.shape[-1]])
    return np.maximum(sums, 0.0) if clamp else sums


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")
def add_bands(
    directions: NDArray[np.float32],
    rest: NDArray[np.float32],
    start: int,
    num_rest: int,
    weights: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Add bands 1 and up of n splats to their colours (compiled; for the CPU rasterizer, whose chunks are planes).

    Flat arrays throughout, and one short loop a quantity: those are what LLVM turns into vector instructions.

    Args:
        directions: Unit vectors from the camera to the splats, world frame, x of all, then y, then z `[3 * n]`.
        rest: Coefficients without band 0.
        start: Where these splats' begin: `[num_rest, 3, n]`.
        num_rest: 3, 8 or 15.
        weights: Room for the basis, `[15 * n]`.
        out: Colours, red of all, then green, then blue; added to, not clamped `[3 * n]`.
    """
    f = np.float32
    n = len(directions) // 3
    for i in range(n):
        weights[i], weights[n + i] = -f(C1) * directions[n + i], f(C1) * directions[2 * n + i]
        weights[2 * n + i] = -f(C1) * directions[i]
    if num_rest > 3:
        for i in range(n):
            x, y, z = directions[i], directions[n + i], directions[2 * n + i]
            xx, yy, zz = x * x, y * y, z * z
            weights[3 * n + i], weights[4 * n + i] = f(C2[0]) * x * y, f(C2[1]) * y * z
            weights[5 * n + i] = f(C2[2]) * (zz + zz - xx - yy)
            weights[6 * n + i], weights[7 * n + i] = f(C2[3]) * x * z, f(C2[4]) * (xx - yy)
    if num_rest > 8:
        for i in range(n):
            x, y, z = directions[i], directions[n + i], directions[2 * n + i]
            xx, yy, zz = x * x, y * y, z * z
            weights[8 * n + i] = f(C3[0]) * y * (f(3) * xx - yy)
            weights[9 * n + i] = f(C3[1]) * x * y * z
            weights[10 * n + i] = f(C3[2]) * y * (f(4) * zz - xx - yy)
            weights[11 * n + i] = f(C3[3]) * z * (zz + zz - f(3) * (xx + yy))
            weights[12 * n + i] = f(C3[4]) * x * (f(4) * zz - xx - yy)
            weights[13 * n + i] = f(C3[5]) * z * (xx - yy)
            weights[14 * n + i] = f(C3[6]) * x * (xx - f(3) * yy)
    for k in range(num_rest):
        for c in range(3):
            at = start + (3 * k + c) * n
            for i in range(n):
                out[c * n + i] += weights[k * n + i] * rest[at + i]
