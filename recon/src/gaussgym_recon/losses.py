# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Image losses with their gradients written out (no autograd): L1 and structural dissimilarity."""

# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

_C1, _C2 = np.float32(0.01**2), np.float32(0.03**2)
_WINDOW, _SIGMA = 11, 1.5
_REACH = _WINDOW // 2
_TAPS = tuple(
    np.float32(
        math.exp(-0.5 * (t / _SIGMA) ** 2)
        / sum(math.exp(-0.5 * (u / _SIGMA) ** 2) for u in range(-_REACH, _REACH + 1))
    )
    for t in range(_REACH + 1)
)
"""The window's weights from its centre outwards."""


@njit(inline="always")
def _window_sum(a, at, hop):
    """Weighted sum of eleven numbers ``hop`` apart around ``a[at]``.

    Written out, with unsigned indices: those that might be negative would keep LLVM from vectorizing over ``at``.
    """
    hop2, hop3, hop4, hop5 = hop + hop, hop + hop + hop, hop + hop + hop + hop, hop + hop + hop + hop + hop
    return (
        _TAPS[0] * a[at]
        + _TAPS[1] * (a[at - hop] + a[at + hop])
        + _TAPS[2] * (a[at - hop2] + a[at + hop2])
        + _TAPS[3] * (a[at - hop3] + a[at + hop3])
        + _TAPS[4] * (a[at - hop4] + a[at + hop4])
        + _TAPS[5] * (a[at - hop5] + a[at + hop5])
    )


@njit(parallel=True, cache=True, fastmath=True)
def _blur(images, channels, across, out):
    """Gaussian window of SSIM over images ``[M, H, W*C]``, with zeros outside, which makes it its own adjoint.

    ``across`` is a buffer ``[M, (H + 10) * W*C]``.
    """
    count, height, width = images.shape
    margin, edge = _REACH * channels, _REACH * width
    for turn in prange(count * height):
        image, i = turn // height, turn % height
        line = np.zeros(width + 2 * margin, np.float32)
        line[margin : margin + width] = images[image, i]
        row = across[image, edge + i * width : edge + (i + 1) * width]
        for j in range(width):
            row[np.uintp(j)] = _window_sum(line, np.uintp(margin + j), np.uintp(channels))
    for image in range(count):
        across[image, :edge] = 0.0
        across[image, edge + height * width :] = 0.0
    for turn in prange(count * height):
        image, i = turn // height, turn % height
        column, row = across[image], out[image, i]
        for j in range(width):
            row[np.uintp(j)] = _window_sum(column, np.uintp(edge + i * width + j), np.uintp(width))


@njit(parallel=True, cache=True, fastmath=True)
def _products(x, y, products):
    """The images and their products ``x, y, xx, xy, yy``, ``[5, H, W*C]``."""
    for i in prange(x.shape[0]):
        for j in range(x.shape[1]):
            a, b = x[i, j], y[i, j]
            products[0, i, j] = a
            products[1, i, j] = b
            products[2, i, j] = a * a
            products[3, i, j] = a * b
            products[4, i, j] = b * b


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
def _combine(x, y, d_mean, d_square, d_cross, l1_weight, ssim_weight, within, out, rows):
    """The sum by row of ``|d| - within/2``, or ``d^2 / (2 within)`` where ``|d| < within``, and the whole loss's gradient."""
    steepness = np.float32(1.0) / max(within, np.float32(1e-12))
    for i in prange(x.shape[0]):
        total = np.float32(0.0)
        for j in range(x.shape[1]):
            d = x[i, j] - y[i, j]
            slope = min(max(d * steepness, np.float32(-1.0)), np.float32(1.0))
            near = slope * within
            total += slope * (d - np.float32(0.5) * near)
            ssim = d_mean[i, j] + 2 * x[i, j] * d_square[i, j] + y[i, j] * d_cross[i, j]
            out[i, j] = l1_weight * slope - ssim_weight * ssim
        rows[i] = total


def photometric_loss(
    image: NDArray[np.float32],
    target: NDArray[np.float32],
    *,
    ssim_weight: float = 0.2,
    l2_within: float = 0.0,
    mask: NDArray[np.bool_] | None = None,
) -> tuple[float, NDArray[np.float32]]:
    """``(1 - w) D + w (1 - SSIM)`` averaged over pixels and channels, and its gradient (Kerbl et al. 2023, eq. 7).

    ``D`` is the absolute difference, or Huber's function of it: ``d^2 / (2 h)`` up to ``h``, ``|d| - h / 2`` beyond.

    Args:
        image: ``[H, W, 3]`` rendered.
        target: ``[H, W, 3]`` photograph in 0..1.
        ssim_weight: ``w``; SSIM after Wang et al. 2004, window 11, sigma 1.5.
        l2_within: ``h``; 0 for the absolute difference.
        mask: ``[H, W]``, False where the photograph is not to be used: there it counts as matched, and nothing pulls.

    Returns:
        The loss and its gradient by ``image``.
    """
    h, w, c = image.shape
    if mask is not None:
        target = np.where(mask[..., None], target, image)
    x, y = image.reshape(h, w * c), target.reshape(h, w * c)
    products, moments = np.empty((5, *x.shape), np.float32), np.empty((5, *x.shape), np.float32)
    buffer = np.empty((5, (h + 2 * _REACH) * w * c), np.float32)
    _products(x, y, products)
    _blur(products, c, buffer, moments)
    slopes = products[:3]  # by the mean, the square and the cross product; the products are done with
    rows = np.empty(h, np.float32)
    _ssim_terms(*moments, *slopes, rows)
    ssim = float(rows.sum()) / x.size
    terms = moments[:3]
    _blur(slopes, c, buffer[:3], terms)
    gradient = np.empty_like(x)
    _combine(
        x, y, *terms, np.float32((1 - ssim_weight) / x.size), np.float32(ssim_weight / x.size), np.float32(l2_within),
        gradient, rows,
    )  # fmt: skip
    difference = float(rows.sum()) / x.size
    out = gradient.reshape(h, w, c)
    if mask is not None:
        out[~mask] = 0.0
    return (1 - ssim_weight) * difference + ssim_weight * (1 - ssim), out
