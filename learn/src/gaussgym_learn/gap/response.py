"""What a camera makes of light, from pairs of recorded and rendered images of the same views.

The model is that of `gaussgym_render.sensor` (exposure, white balance, gamma) with an offset: with a rendered code r and channel
c, ``255 encode(gain_c decode(r / 255))^gamma + offset_c``, decode and encode being sRGB's curves (IEC 61966-2-1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from gaussgym_learn.gap.least_squares import sandwich
from gaussgym_learn.gap.recording import Array

_PIXELS_AN_IMAGE = 1500
_SOFT = 6.0
"""Residuals beyond this count less: edges that do not lie quite where they should, things that moved [codes]."""
TOLERANCE = {"gain": 0.15, "gamma": 0.15, "offset": 8.0}
"""Half the width of a 95 % interval above which images are said not to show a parameter (gain: relative)."""


@dataclass(frozen=True)
class Response:
    """A fitted response; standard errors in the same order.

    Attributes:
        gain: factor on light, red, green, blue, `[3]`.
        offset: [codes], `[3]`.
        gamma: exponent on the encoded value.
        gain_error, offset_error: `[3]`; gamma_error.
        hidden: names of what the images do not show.
        psnr_before_db, psnr_after_db: of the recorded images against the rendered ones, as they are and with the response.
        images: how many.
    """

    gain: Array
    offset: Array
    gamma: float
    gain_error: Array
    offset_error: Array
    gamma_error: float
    hidden: tuple[str, ...]
    psnr_before_db: float
    psnr_after_db: float
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in self.__dict__.items()
        } | {"exposure_ev": float(np.log2(self.gain[1])), "hidden": list(self.hidden)}


def decode(code: Array) -> Array:
    """Light of sRGB codes in 0..1."""
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def encode(light: Array) -> Array:
    """SRGB codes of light in 0..1."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-12) ** (1 / 2.4) - 0.055)


def respond(rgb: Array, gain: Array, offset: Array, gamma: float) -> Array:
    """Codes that a camera gives where an ideal one gives ``rgb`` `[..., 3]` in 0..255 (not rounded)."""
    light = np.clip(gain * decode(rgb / 255.0), 0.0, 1.0)
    return np.clip(255.0 * np.maximum(encode(light), 1e-9) ** gamma + offset, 0.0, 255.0)


def psnr_db(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio of images in 0..255."""
    mean_square = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if mean_square == 0 else float(10.0 * np.log10(255.0**2 / mean_square))


def fit_response(recorded: NDArray[np.uint8], rendered: NDArray[np.uint8], *, seed: int = 0) -> Response:
    """Fit the response that takes rendered images to recorded ones.

    Args:
        recorded: `[K, H, W, 3]`.
        rendered: the same views, `[K, H, W, 3]`.
        seed: of the choice of pixels.
    """
    seen, ideal, image = _pixels(recorded, rendered, np.random.default_rng(seed))

    def off(x: Array) -> Array:
        predicted = respond(ideal, np.exp(x[:3]), 255.0 * x[3:6], float(np.exp(x[6])))
        valid = (predicted < 250.0) & (predicted > 2.0) & (seen < 250.0) & (seen > 2.0)
        return np.where(valid, (predicted - seen) / _SOFT, 0.0).ravel()

    start = np.zeros(7)
    start[:3] = np.log(
        np.clip(decode(seen / 255.0).mean(axis=0) / decode(ideal / 255.0).mean(axis=0).clip(1e-3), 0.05, 20)
    )
    result = least_squares(off, start, loss="soft_l1", diff_step=1e-4, x_scale=0.1)
    x, errors = result.x, _errors(result.jac, off(result.x), np.repeat(image, 3))
    gain, gain_error = np.exp(x[:3]), np.exp(x[:3]) * errors[:3]
    offset, offset_error = 255.0 * x[3:6], 255.0 * errors[3:6]
    gamma, gamma_error = float(np.exp(x[6])), float(np.exp(x[6]) * errors[6])
    hidden = [
        f"gain {c}" for c, e in zip("rgb", errors[:3], strict=True) if not 1.96 * e <= TOLERANCE["gain"]
    ]
    hidden += [
        f"offset {c}" for c, e in zip("rgb", offset_error, strict=True) if not 1.96 * e <= TOLERANCE["offset"]
    ]
    hidden += ["gamma"] if not 1.96 * errors[6] <= TOLERANCE["gamma"] else []
    fitted = respond(rendered.astype(np.float64), gain, offset, gamma)
    return Response(
        gain, offset, gamma, gain_error, offset_error, gamma_error, tuple(hidden), psnr_db(recorded, rendered),
        psnr_db(recorded, fitted), len(recorded),
    )  # fmt: skip


def _pixels(
    recorded: NDArray[np.uint8], rendered: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Pixels on smooth parts of the rendered images, where an error of pose does least: `[M, 3]`, `[M, 3]`, image `[M]`."""
    seen, ideal, image = [], [], []
    for number, (a, b) in enumerate(zip(recorded, rendered, strict=True)):
        grey = b.astype(np.float64).mean(axis=2)
        rough = sum(np.abs(g) for g in np.gradient(grey))
        smooth = np.flatnonzero((rough <= np.median(rough)).ravel())
        chosen = rng.choice(smooth, min(_PIXELS_AN_IMAGE, len(smooth)), replace=False)
        seen.append(a.reshape(-1, 3)[chosen])
        ideal.append(b.reshape(-1, 3)[chosen])
        image.append(np.full(len(chosen), number))
    return (
        np.concatenate(seen).astype(np.float64),
        np.concatenate(ideal).astype(np.float64),
        np.concatenate(image),
    )


def _errors(jacobian: Array, rest: Array, cluster: NDArray[np.int64]) -> Array:
    """Standard errors, clustered by image, at least those of independent pixels; scipy's Jacobian is scaled for the loss."""
    bread = jacobian.T @ jacobian
    weighted = rest * (1.0 + rest**2) ** -0.25
    groups = np.unique(cluster)
    scores = np.stack([jacobian[cluster == g].T @ weighted[cluster == g] for g in groups])
    ones = np.ones(bread.shape[0])
    clustered = sandwich(bread, scores.T @ scores * len(groups) / max(1, len(groups) - 1), ones)
    return np.maximum(clustered, sandwich(bread, bread * float(np.mean(rest**2)), ones))
