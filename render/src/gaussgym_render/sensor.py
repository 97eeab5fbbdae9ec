"""An image sensor: from scene light to the codes of a real camera, and from exact depth to a depth camera's.

Splat colours are stored gamma-encoded. They are decoded to linear light (IEC 61966-2-1), and then, in the order of a camera:

1. exposure `2^EV` and vignetting `1 - s·(1 - 1/(1 + r²)²)`, r the distance from the principal point over the focal length:
   `s = 1` is the cos⁴ law of a thin lens;
2. shot noise of variance `shot²·L` (photons; Gaussian, so for more than some tens of electrons) and read noise of variance
   `read²`, both relative to full scale: the linear model of EMVA 1288 (release 4.0, section 2),
   `shot = 1/√(full well in electrons)`;
3. saturation at 0 and 1;
4. gains of white balance, saturation again;
5. encoding (IEC 61966-2-1) and a camera's own deviation from it, `code = encoded^gamma`, rounding to 8 bits.

Depth gets Gaussian noise of standard deviation `a + b·z²`: stereo and structured light measure disparity, whose error grows with
the square of the range (Khoshelham and Elberink 2012), and pixels without a measurement (0).

Random numbers are counted, not drawn in sequence: a tree of SplitMix64 generators (Steele, Lea and Flood 2014) leads from
the seed over the camera, the frame and the pixel to a number, so that an image does not depend on what else is rendered.
"""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from gaussgym_render.shutter import Range, check_range

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32, _S40 = (np.uint64(s) for s in (27, 30, 31, 32, 40))
_LOW_32 = np.uint64(0xFFFFFFFF)
_F = np.float32
_CURVE = 1024  # intervals of the encoding curve over the root of the light
CURVE_SIZE = _CURVE + 2
PARAMETER_STREAM, FRAME_STREAM, APPEARANCE_STREAM = 0, 1, 2
"""Branches of a camera's generator: what it draws once, what it draws in each frame, and how its world looks."""
_COLOR_STREAM, _DEPTH_STREAM = 0, 1


@dataclass(frozen=True, kw_only=True)
class SensorCfg:
    """Ranges that each camera draws its sensor from, uniformly; the defaults change nothing.

    Attributes:
        exposure_ev: Error of exposure [EV]; +1 doubles the light.
        white_balance_ev: log2 of the gains of red and blue, drawn apart [EV]; green stays.
        vignette: Strength of vignetting, 0 none to 1 cos⁴.
        gamma: Exponent on the encoded value; below 1 is brighter.
        shot_noise: Standard deviation of shot noise at full scale, relative to it.
        read_noise: Standard deviation of read noise, relative to full scale.
        depth_noise_m: Standard deviation of depth at range 0 [m].
        depth_noise_per_m: What it grows by with the range squared [1/m].
        depth_dropout: Share of the pixels without a depth.
    """

    exposure_ev: Range = (0.0, 0.0)
    white_balance_ev: Range = (0.0, 0.0)
    vignette: Range = (0.0, 0.0)
    gamma: Range = (1.0, 1.0)
    shot_noise: Range = (0.0, 0.0)
    read_noise: Range = (0.0, 0.0)
    depth_noise_m: Range = (0.0, 0.0)
    depth_noise_per_m: Range = (0.0, 0.0)
    depth_dropout: Range = (0.0, 0.0)

    def __post_init__(self) -> None:
        """Check the values."""
        bounds = {
            "exposure_ev": (-16.0, 16.0),
            "white_balance_ev": (-4.0, 4.0),
            "vignette": (0.0, 1.0),
            "gamma": (0.1, 10.0),
            "shot_noise": (0.0, 1.0),
            "read_noise": (0.0, 1.0),
            "depth_noise_m": (0.0, np.inf),
            "depth_noise_per_m": (0.0, np.inf),
            "depth_dropout": (0.0, 1.0),
        }
        for name, (lowest, highest) in bounds.items():
            check_range(name, getattr(self, name), lowest=lowest, highest=highest)

    @property
    def ideal(self) -> bool:
        """Whether nothing is changed."""
        return all(getattr(self, field.name) == field.default for field in fields(self))


# What a camera has drawn, as columns of a table.
GAIN, RED, BLUE, VIGNETTE, GAMMA, SHOT_VARIANCE, READ_VARIANCE, DEPTH_STD, DEPTH_GROWTH, DROPOUT = range(10)
NUM_PARAMETERS = 10


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _child(key, number):
    """The output of number `number` of the SplitMix64 generator seeded with `key`, both uint64."""
    x = key + (number + np.uint64(1)) * _GOLDEN
    x = (x ^ (x >> _S30)) * _MIX_1
    x = (x ^ (x >> _S27)) * _MIX_2
    return x ^ (x >> _S31)


def child_keys(keys: Any, numbers: Any) -> NDArray[np.uint64]:
    """Outputs `numbers` of SplitMix64 generators seeded with `keys`: keys of generators of their own.

    Args:
        keys: Integers `[C]` or one; negative ones count modulo 2^64.
        numbers: Integers `[C]` or one.

    Returns:
        uint64 `[C]`.
    """
    keys, numbers = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(a)).astype(np.uint64) for a in (keys, numbers))
    )
    x = keys + (numbers + np.uint64(1)) * _GOLDEN
    x = (x ^ (x >> _S30)) * _MIX_1
    x = (x ^ (x >> _S27)) * _MIX_2
    return x ^ (x >> _S31)


def camera_keys(seed: int, camera_ids: Any) -> NDArray[np.uint64]:
    """Generators of cameras `[C]`; a camera is a seed and an id."""
    return child_keys(child_keys(np.array([seed % 2**64], np.uint64), 0), camera_ids)


def uniform(keys: NDArray[np.uint64], parameter: int, low: Any, high: Any) -> NDArray[np.float64]:
    """What cameras draw for their parameter of that number: float64 `[C]`, uniform in [low, high)."""
    bits = child_keys(child_keys(keys, PARAMETER_STREAM), parameter)
    share = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return low + share * (high - low)


def draw_sensors(cfg: SensorCfg, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
    """The sensors of cameras, from their generators `[C]`: float32 `[C, NUM_PARAMETERS]`."""

    def draw(parameter: int, span: Range) -> NDArray[np.float64]:
        return uniform(keys, parameter, *span)

    table = np.empty((len(keys), NUM_PARAMETERS), np.float32)
    table[:, GAIN] = 2.0 ** draw(0, cfg.exposure_ev)
    table[:, RED] = 2.0 ** draw(1, cfg.white_balance_ev)
    table[:, BLUE] = 2.0 ** draw(2, cfg.white_balance_ev)
    table[:, VIGNETTE] = draw(3, cfg.vignette)
    table[:, GAMMA] = draw(4, cfg.gamma)
    table[:, SHOT_VARIANCE] = draw(5, cfg.shot_noise) ** 2
    table[:, READ_VARIANCE] = draw(6, cfg.read_noise) ** 2
    table[:, DEPTH_STD] = draw(7, cfg.depth_noise_m)
    table[:, DEPTH_GROWTH] = draw(8, cfg.depth_noise_per_m)
    table[:, DROPOUT] = draw(9, cfg.depth_dropout)
    return table


NUM_SENSOR_DRAWS = 10
"""Parameters from this number on are free for what else a camera draws."""


def decode_table() -> NDArray[np.float32]:
    """Linear light in 0..1 of the 256 codes (IEC 61966-2-1)."""
    code = np.arange(256) / 255.0
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4).astype(np.float32)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def encoding_curve(gamma, curve):
    """Fill `curve [CURVE_SIZE]`: codes (not rounded) of light `(i / _CURVE)²`.

    Over the root of the light the curve is nearly straight: linear interpolation is off by less than 1/500 of a code, and a
    camera costs a thousand powers instead of three a pixel.
    """
    for i in range(_CURVE + 1):
        root = i / _CURVE
        light = root * root
        encoded = 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1.0 / 2.4) - 0.055
        curve[i] = 255.0 * (encoded**gamma if gamma != 1.0 else encoded)
    curve[_CURVE + 1] = curve[_CURVE]


@numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _encode(light, curve):
    """Code of light in 0..1."""
    at = np.sqrt(light) * _F(_CURVE)
    i = int(at)
    low = curve[i]
    return np.uint8(low + (at - _F(i)) * (curve[i + 1] - low) + _F(0.5))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _gaussian_pair(bits):
    """Two independent standard normal float32 from 64 random bits (Box and Muller 1958)."""
    first = (_F(bits >> _S32) + _F(0.5)) * _F(2.0**-32)
    second = _F(bits & _LOW_32) * _F(2.0**-32 * 2.0 * np.pi)
    radius = np.sqrt(_F(-2.0) * np.log(min(first, _F(1.0))))
    return radius * np.cos(second), radius * np.sin(second)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def expose(light, focal, sensor, key, curve, rgb):
    """Turn linear light into codes.

    Args:
        light: float32 `[H, W, 3]`.
        focal: fx, fy, cx, cy `[4]` [px].
        sensor: A row of `draw_sensors`.
        key: uint64, the frame's generator.
        curve: float32 buffer `[CURVE_SIZE]`.
        rgb: uint8 `[H, W, 3]`, written.
    """
    encoding_curve(sensor[GAMMA], curve)
    gain, vignette, red, blue = sensor[GAIN], sensor[VIGNETTE], sensor[RED], sensor[BLUE]
    shot, read = sensor[SHOT_VARIANCE], sensor[READ_VARIANCE]
    noisy = shot > 0 or read > 0
    generator = _child(key, np.uint64(_COLOR_STREAM))
    one, zero = _F(1.0), _F(0.0)
    inv_fx, inv_fy = _F(1.0 / focal[0]), _F(1.0 / focal[1])
    cx, cy = _F(focal[2]), _F(focal[3])
    for y in range(light.shape[0]):
        v = (_F(y) + _F(0.5) - cy) * inv_fy
        for x in range(light.shape[1]):
            u = (_F(x) + _F(0.5) - cx) * inv_fx
            cos_sq = one / (one + u * u + v * v)
            factor = gain * (one - vignette * (one - cos_sq * cos_sq))
            r, g, b = light[y, x, 0] * factor, light[y, x, 1] * factor, light[y, x, 2] * factor
            if noisy:
                pixel = np.uint64(2 * (y * light.shape[1] + x))
                n0, n1 = _gaussian_pair(_child(generator, pixel))
                n2, _ = _gaussian_pair(_child(generator, pixel + np.uint64(1)))
                r += np.sqrt(shot * r + read) * n0
                g += np.sqrt(shot * g + read) * n1
                b += np.sqrt(shot * b + read) * n2
            r, g, b = min(max(r, zero), one) * red, min(max(g, zero), one), min(max(b, zero), one) * blue
            rgb[y, x, 0] = _encode(min(r, one), curve)
            rgb[y, x, 1] = _encode(g, curve)
            rgb[y, x, 2] = _encode(min(b, one), curve)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def measure_depth(sensor, key, depth):
    """Turn exact depth float32 `[H, W]` into a depth camera's, in place; `sensor` and `key` as in `expose`."""
    std, growth, dropout = sensor[DEPTH_STD], sensor[DEPTH_GROWTH], sensor[DROPOUT]
    if std == 0 and growth == 0 and dropout == 0:
        return
    generator = _child(key, np.uint64(_DEPTH_STREAM))
    width = depth.shape[1]
    for y in range(depth.shape[0]):
        for x in range(width):
            z = depth[y, x]
            if z > 0:
                pixel = np.uint64(2 * (y * width + x))
                if _F(_child(generator, pixel) >> _S40) * _F(2.0**-24) < dropout:
                    depth[y, x] = _F(0.0)
                else:
                    noise, _ = _gaussian_pair(_child(generator, pixel + np.uint64(1)))
                    depth[y, x] = max(z + (std + growth * z * z) * noise, _F(0.0))
