"""`gaussgym_render.sensor` on a Warp device, with the same counted random numbers.

Draws are in double precision, as there, so that a camera is the same camera on every device; pixels are in single precision, as
there. What differs is the last bit of logarithms, sines and powers: a code may come out one off.
"""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false
# ruff: noqa: SIM109

from __future__ import annotations

import math

import numpy as np
import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)
from numpy.typing import NDArray

from gaussgym_render import sensor
from gaussgym_render.sensor import SensorCfg

# Sums and products stay apart, so that light rounds as that of `gaussgym_render.sensor` does.
wp.set_module_options({"enable_backward": False, "fuse_fp": False})

_GOLDEN = wp.constant(wp.uint64(0x9E3779B97F4A7C15))
_MIX_1 = wp.constant(wp.uint64(0xBF58476D1CE4E5B9))
_MIX_2 = wp.constant(wp.uint64(0x94D049BB133111EB))
_LOW_32 = wp.constant(wp.uint64(0xFFFFFFFF))
_INTERVALS = wp.constant(sensor.CURVE_SIZE - 2)
_PARAMETER_STREAM = wp.constant(wp.uint64(sensor.PARAMETER_STREAM))
_FRAME_STREAM = wp.constant(wp.uint64(sensor.FRAME_STREAM))
_COLOR_STREAM, _DEPTH_STREAM = wp.constant(wp.uint64(0)), wp.constant(wp.uint64(1))
_SHARE = wp.constant(wp.float64(2.0**-53))
_TO_UNIT = wp.constant(wp.float32(2.0**-32))
_TO_ANGLE = wp.constant(wp.float32(2.0**-32 * 2.0 * math.pi))
_TO_SHARE = wp.constant(wp.float32(2.0**-24))
_GAIN, _RED, _BLUE = wp.constant(sensor.GAIN), wp.constant(sensor.RED), wp.constant(sensor.BLUE)
_VIGNETTE, _GAMMA = wp.constant(sensor.VIGNETTE), wp.constant(sensor.GAMMA)
_SHOT, _READ = wp.constant(sensor.SHOT_VARIANCE), wp.constant(sensor.READ_VARIANCE)
_DEPTH_STD, _DEPTH_GROWTH = wp.constant(sensor.DEPTH_STD), wp.constant(sensor.DEPTH_GROWTH)
_DROPOUT = wp.constant(sensor.DROPOUT)

_IN_ORDER_OF_DRAWS = (
    "exposure_ev", "white_balance_ev", "white_balance_ev", "vignette", "gamma", "shot_noise", "read_noise",
    "depth_noise_m", "depth_noise_per_m", "depth_dropout",
)  # fmt: skip


def sensor_ranges(cfg: SensorCfg) -> NDArray[np.float64]:
    """What `draw_sensors` draws from: lowest and highest value of each of its numbers `[NUM_PARAMETERS, 2]`."""
    return np.array([getattr(cfg, name) for name in _IN_ORDER_OF_DRAWS], np.float64)


@wp.func
def child(key: wp.uint64, number: wp.uint64) -> wp.uint64:
    """See `gaussgym_render.sensor.child_keys`."""
    x = key + (number + wp.uint64(1)) * _GOLDEN
    x = (x ^ (x >> wp.uint64(30))) * _MIX_1
    x = (x ^ (x >> wp.uint64(27))) * _MIX_2
    return x ^ (x >> wp.uint64(31))


@wp.func
def uniform(key: wp.uint64, parameter: int, low: wp.float64, high: wp.float64) -> wp.float64:
    """See `gaussgym_render.sensor.uniform`."""
    bits = child(child(key, _PARAMETER_STREAM), wp.uint64(parameter))
    return low + wp.float64(bits >> wp.uint64(11)) * _SHARE * (high - low)


@wp.func
def frame_key(key: wp.uint64, number: wp.int64) -> wp.uint64:
    """Generator of a camera's frame of that number."""
    return child(child(key, _FRAME_STREAM), wp.uint64(number))


@wp.kernel
def draw_sensors(
    keys: wp.array[wp.uint64], ranges: wp.array2d[wp.float64], sensors: wp.array2d[float]
) -> None:
    """Fill `sensors [C, NUM_PARAMETERS]` as `gaussgym_render.sensor.draw_sensors` does.

    Args:
        keys: Generators of cameras `[C]`.
        ranges: Of `sensor_ranges`.
        sensors: Written.
    """
    c, n = wp.tid()
    drawn = uniform(keys[c], n, ranges[n, 0], ranges[n, 1])
    if n == _GAIN or n == _RED or n == _BLUE:
        drawn = wp.pow(wp.float64(2.0), drawn)
    elif n == _SHOT or n == _READ:
        drawn = drawn * drawn
    sensors[c, n] = float(drawn)


@wp.kernel
def encoding_curves(begin: int, sensors: wp.array2d[float], curves: wp.array2d[float]) -> None:
    """Fill `curves [B, CURVE_SIZE]` of cameras from `begin` on as `gaussgym_render.sensor.encoding_curve` does."""
    b, i = wp.tid()
    root = float(wp.min(i, _INTERVALS)) / float(_INTERVALS)
    light = root * root
    encoded = 12.92 * light
    if light > 0.0031308:
        encoded = 1.055 * wp.pow(light, 1.0 / 2.4) - 0.055
    gamma = sensors[begin + b, _GAMMA]
    if gamma != 1.0:
        encoded = wp.pow(encoded, gamma)
    curves[b, i] = 255.0 * encoded


@wp.func
def encode(light: float, curves: wp.array2d[float], b: int) -> wp.uint8:
    """Code of light in 0..1."""
    at = wp.sqrt(light) * float(_INTERVALS)
    i = int(at)
    low = curves[b, i]
    return wp.uint8(low + (at - float(i)) * (curves[b, i + 1] - low) + 0.5)


@wp.func
def gaussian_pair(bits: wp.uint64) -> wp.vec2f:
    """Two independent standard normal numbers from 64 random bits (Box and Muller 1958)."""
    first = (float(bits >> wp.uint64(32)) + 0.5) * _TO_UNIT
    second = float(bits & _LOW_32) * _TO_ANGLE
    radius = wp.sqrt(-2.0 * wp.log(wp.min(first, 1.0)))
    return wp.vec2f(radius * wp.cos(second), radius * wp.sin(second))


@wp.func
def expose(
    light: wp.vec3f,
    view: wp.vec4f,
    sensors: wp.array2d[float],
    c: int,
    key: wp.uint64,
    y: int,
    x: int,
    width: int,
) -> wp.vec3f:
    """Light in 0..1 that camera c's sensor reports in a pixel, after all but encoding.

    Args:
        light: Linear.
        view: 1/fx, 1/fy, cx, cy [px].
        sensors: Of `draw_sensors`.
        c: Camera.
        key: The frame's generator.
        y: Row.
        x: Column.
        width: Of the image [px].
    """
    v = (float(y) + 0.5 - view[3]) * view[1]
    u = (float(x) + 0.5 - view[2]) * view[0]
    cos_sq = 1.0 / (1.0 + u * u + v * v)
    factor = sensors[c, _GAIN] * (1.0 - sensors[c, _VIGNETTE] * (1.0 - cos_sq * cos_sq))
    r, g, b = light[0] * factor, light[1] * factor, light[2] * factor
    shot, read = sensors[c, _SHOT], sensors[c, _READ]
    if shot > 0.0 or read > 0.0:
        generator = child(key, _COLOR_STREAM)
        pixel = wp.uint64(2) * (wp.uint64(y) * wp.uint64(width) + wp.uint64(x))
        first = gaussian_pair(child(generator, pixel))
        second = gaussian_pair(child(generator, pixel + wp.uint64(1)))
        r += wp.sqrt(shot * r + read) * first[0]
        g += wp.sqrt(shot * g + read) * first[1]
        b += wp.sqrt(shot * b + read) * second[0]
    r = wp.min(wp.max(r, 0.0), 1.0) * sensors[c, _RED]
    b = wp.min(wp.max(b, 0.0), 1.0) * sensors[c, _BLUE]
    return wp.vec3f(wp.min(r, 1.0), wp.min(wp.max(g, 0.0), 1.0), wp.min(b, 1.0))


@wp.func
def measure_depth(
    z: float, sensors: wp.array2d[float], c: int, key: wp.uint64, y: int, x: int, width: int
) -> float:
    """What camera c measures of an exact depth [m]; arguments as those of `expose`."""
    std, growth, dropout = sensors[c, _DEPTH_STD], sensors[c, _DEPTH_GROWTH], sensors[c, _DROPOUT]
    if z <= 0.0 or (std == 0.0 and growth == 0.0 and dropout == 0.0):
        return z
    generator = child(key, _DEPTH_STREAM)
    pixel = wp.uint64(2) * (wp.uint64(y) * wp.uint64(width) + wp.uint64(x))
    if float(child(generator, pixel) >> wp.uint64(40)) * _TO_SHARE < dropout:
        return 0.0
    noise = gaussian_pair(child(generator, pixel + wp.uint64(1)))
    return wp.max(z + (std + growth * z * z) * noise[0], 0.0)
