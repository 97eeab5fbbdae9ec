# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Image losses with their gradients written out (no autograd): L1 and structural dissimilarity."""

# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import cv2
import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

_C1, _C2 = np.float32(0.01**2), np.float32(0.03**2)
_WINDOW, _SIGMA = 11, 1.5


def _blur(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gaussian window of SSIM with zeros outside, which makes it its own adjoint."""
    return cv2.GaussianBlur(image, (_WINDOW, _WINDOW), _SIGMA, borderType=cv2.BORDER_CONSTANT)


@njit(parallel=True, cache=True, fastmath=True)
def _products(x, y, xx, xy, yy):
    for i in prange(x.shape[0]):
        for j in range(x.shape[1]):
            xx[i, j] = x[i, j] * x[i, j]
            xy[i, j] = x[i, j] * y[i, j]
            yy[i, j] = y[i, j] * y[i, j]


@njit(parallel=True, cache=True, fastmath=True)
def _ssim_terms(mx, my, exx, exy, eyy, d_mean, d_square, d_cross, rows):
    """SSIM summed by row, and its gradients by the three blurred moments of x."""
    for i in prange(mx.shape[0]):
        total = np.float32(0.0)
        for j in range(mx.shape[1]):
            a, b = mx[i, j], my[i, j]
            a1 = 2 * a * b + _C1
            a2 = 2 * (exy[i, j] - a * b) + _C2
            b1 = a * a + b * b + _C1
            b2 = (exx[i, j] - a * a) + (eyy[i, j] - b * b) + _C2
            inverse = np.float32(1.0) / (b1 * b2)
            s = a1 * a2 * inverse
            total += s
            d_square[i, j] = -s / b2
            d_cross[i, j] = 2 * a1 * inverse
            d_mean[i, j] = 2 * b * (a2 - a1) * inverse + 2 * a * s * (
                np.float32(1.0) / b2 - np.float32(1.0) / b1
            )
        rows[i] = total


@njit(parallel=True, cache=True, fastmath=True)
def _combine(x, y, d_mean, d_square, d_cross, l1_weight, ssim_weight, out, rows):
    for i in prange(x.shape[0]):
        total = np.float32(0.0)
        for j in range(x.shape[1]):
            d = x[i, j] - y[i, j]
            total += abs(d)
            sign = np.float32(1.0) if d > 0 else (np.float32(-1.0) if d < 0 else np.float32(0.0))
            ssim = d_mean[i, j] + 2 * x[i, j] * d_square[i, j] + y[i, j] * d_cross[i, j]
            out[i, j] = l1_weight * sign - ssim_weight * ssim
        rows[i] = total


def photometric_loss(
    image: NDArray[np.float32], target: NDArray[np.float32], *, ssim_weight: float = 0.2
) -> tuple[float, NDArray[np.float32]]:
    """``(1 - w) L1 + w (1 - SSIM)`` averaged over pixels and channels, and its gradient (Kerbl et al. 2023, eq. 7).

    Args:
        image: ``[H, W, 3]`` rendered.
        target: ``[H, W, 3]`` photograph in 0..1.
        ssim_weight: ``w``; SSIM after Wang et al. 2004, window 11, sigma 1.5.

    Returns:
        The loss and its gradient by ``image``.
    """
    h, w, c = image.shape
    x, y = image.reshape(h, w * c), target.reshape(h, w * c)
    xx, xy, yy = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    _products(x, y, xx, xy, yy)
    moments = [_blur(m.reshape(h, w, c)).reshape(h, w * c) for m in (x, y, xx, xy, yy)]
    d_mean, d_square, d_cross = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    rows = np.empty(h, np.float32)
    _ssim_terms(*moments, d_mean, d_square, d_cross, rows)
    ssim = float(rows.sum()) / x.size
    terms = [_blur(m.reshape(h, w, c)).reshape(h, w * c) for m in (d_mean, d_square, d_cross)]
    gradient = np.empty_like(x)
    _combine(
        x, y, *terms, np.float32((1 - ssim_weight) / x.size), np.float32(ssim_weight / x.size), gradient, rows
    )
    l1 = float(rows.sum()) / x.size
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - ssim), gradient.reshape(h, w, c)
