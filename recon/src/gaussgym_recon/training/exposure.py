# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
# ruff: noqa: ANN001, ANN202
"""Colour gains and offsets of each photograph, which training finds beside the splats."""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@njit(parallel=True, cache=True)
def _affine(rgb, gain, offset, image):
    for i in prange(rgb.shape[0]):
        for j in range(rgb.shape[1]):
            for c in range(3):
                image[i, j, c] = gain[c] * rgb[i, j, c] + offset[c]


@njit(parallel=True, cache=True, fastmath=True)
def _affine_backward(rgb, gain, v_image, v_rgb, rows):
    """Gradient by ``rgb``, and by row those of the three gains (before the exponential) and offsets."""
    for i in prange(rgb.shape[0]):
        for c in range(3):
            by_gain, by_offset = np.float32(0.0), np.float32(0.0)
            for j in range(rgb.shape[1]):
                v = v_image[i, j, c]
                v_rgb[i, j, c] = gain[c] * v
                by_gain += v * rgb[i, j, c]
                by_offset += v
            rows[i, c], rows[i, 3 + c] = by_gain, by_offset


def expose(rgb: Floats, affine: Floats) -> Floats:
    """``gain rgb + offset`` of an image ``[H, W, 3]``; ``affine [6]`` float32 holds the gains and the offsets."""
    image = np.empty_like(rgb)
    _affine(rgb, affine[:3], affine[3:], image)
    return image


def expose_backward(rgb: Floats, affine: Floats, v_image: Floats) -> tuple[Floats, NDArray[np.float64]]:
    """Gradients of a loss by ``rgb`` and by ``affine [6]``, from that by the exposed image."""
    v_rgb, rows = np.empty_like(rgb), np.empty((len(rgb), 6), np.float32)
    _affine_backward(rgb, affine[:3], v_image, v_rgb, rows)
    return v_rgb, rows.sum(0, dtype=np.float64)


class Exposures:
    """One ``image = exp(g) rgb + o`` a view, three gains and three offsets each, with their own Adam.

    What is common to all views belongs into the splats, since held-out views are scored without any exposure of their own:
    after each round the mean over the training views is taken off, and a pull towards 0 acts besides.

    Args:
        views: How many views there are.
        train: Those that are trained on.
    """

    def __init__(self, views: int, train: list[int]) -> None:
        self.values = np.zeros((views, 6))
        self.moments = np.zeros((2, views, 6))
        self._train = train

    def affine(self, index: int) -> NDArray[np.float32]:
        """Gains and offsets of a view as they are multiplied and added, ``[6]``."""
        e = self.values[index]
        return np.concatenate([np.exp(e[:3]), e[3:]]).astype(np.float32)

    def step(self, index: int, v_affine: NDArray[np.float64], step: float) -> None:
        """One Adam step of a view from the gradient by its :meth:`affine`; with ``step`` 0 only the moments move."""
        e = self.values[index]
        gradient = v_affine * np.append(np.exp(e[:3]), [1, 1, 1]) + 0.02 * e
        m, v = self.moments[:, index]
        m += 0.1 * (gradient - m)
        v += 0.01 * (gradient**2 - v)
        e -= step * m / (np.sqrt(v) + 1e-12)

    def center(self) -> None:
        """Take the mean over the training views off each of them."""
        self.values[self._train] -= self.values[self._train].mean(0)
