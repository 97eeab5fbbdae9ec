"""`gaussgym_render.lens` on a Warp device: tables of what pixels' corners look at, and sampling through them.

There a corner starts from its neighbour's solution; here all corners are solved at once, each along the straight line from the
principal point to it in `_STRETCHES` stretches, so that none lands on a branch of the polynomial behind its fold either. The
outermost corners, which decide the pinhole that covers the lens, are solved in double precision, the table in single
precision: off by less than a thousandth of a pixel. A table is solved anew only where a camera's lens differs from the one that
the table was made for.
"""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false
# ruff: noqa: UP018, RUF046  (a variable that a loop changes is declared by a call)

from __future__ import annotations

from typing import Any

import numpy as np
import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)

from gaussgym_render import lens, sensor
from gaussgym_render.cuda.sensor import uniform
from gaussgym_render.lens import LensCfg

wp.set_module_options({"enable_backward": False, "fuse_fp": False})

SEEN, FOLDED, TOO_WIDE = 0, 1, 2
"""What a lens's code says: all is well; the polynomial folds back before a corner; a corner sees too far off the axis."""
_FOLDED, _TOO_WIDE = wp.constant(FOLDED), wp.constant(TOO_WIDE)
_FIRST_DRAW = wp.constant(sensor.NUM_SENSOR_DRAWS + 2)
_MARGIN_PX = wp.constant(wp.float64(1.0))
_MAX_ANGLE = wp.constant(wp.float64(lens.MAX_OFF_AXIS_RAD))
_MAX_RADIUS_SQ = wp.constant(wp.float64(np.tan(lens.MAX_OFF_AXIS_RAD) ** 2))
_STRETCHES, _STEPS, _LAST_STEPS = wp.constant(6), wp.constant(3), wp.constant(4)


@wp.func
def undistort_opencv(xd: Any, yd: Any, k0: Any, k1: Any, k2: Any, k3: Any, k4: Any):  # noqa: ANN201
    """Invert 'opencv': x, y, the error left, and the smallest determinant on the way (0 or less: it folds back)."""
    one, two, three = type(xd)(1.0), type(xd)(2.0), type(xd)(3.0)
    x, y = type(xd)(0.0), type(xd)(0.0)
    error, least = type(xd)(0.0), type(xd)(1.0)
    stretches = int(_STRETCHES)
    for stretch in range(1, stretches + 1):
        share = type(xd)(float(stretch) / float(stretches))
        if stretch > 1:
            ahead = type(xd)(float(stretch) / float(stretch - 1))
            x, y = x * ahead, y * ahead
        steps = int(_STEPS)
        if stretch == stretches:
            steps = int(_STEPS) + int(_LAST_STEPS)
        for _step in range(steps):
            square = x * x + y * y
            radial = one + square * (k0 + square * (k1 + square * k4))
            slope = k0 + square * (two * k1 + square * three * k4)
            ex = x * radial + two * k2 * x * y + k3 * (square + two * x * x) - share * xd
            ey = y * radial + k2 * (square + two * y * y) + two * k3 * x * y - share * yd
            a = radial + two * x * x * slope + two * k2 * y + type(xd)(6.0) * k3 * x
            b = two * x * y * slope + two * k2 * x + two * k3 * y
            d = radial + two * y * y * slope + type(xd)(6.0) * k2 * y + two * k3 * x
            det = a * d - b * b
            least = wp.min(least, wp.min(det, a + d))
            error = wp.abs(ex) + wp.abs(ey)
            if least > type(xd)(0.0):
                x -= (d * ex - b * ey) / det
                y -= (a * ey - b * ex) / det
    return x, y, error, least


@wp.func
def unbend_fisheye(bent: Any, k0: Any, k1: Any, k2: Any, k3: Any):  # noqa: ANN201
    """Invert the radial law of 'fisheye': the angle [rad], the error left, and the smallest slope on the way."""
    one = type(bent)(1.0)
    angle, error, least = type(bent)(0.0), type(bent)(0.0), type(bent)(1.0)
    stretches = int(_STRETCHES)
    for stretch in range(1, stretches + 1):
        share = type(bent)(float(stretch) / float(stretches))
        if stretch > 1:
            angle = angle * type(bent)(float(stretch) / float(stretch - 1))
        steps = int(_STEPS)
        if stretch == stretches:
            steps = int(_STEPS) + int(_LAST_STEPS)
        for _step in range(steps):
            t = angle * angle
            error = angle * (one + t * (k0 + t * (k1 + t * (k2 + t * k3)))) - share * bent
            slope = one + t * (
                type(bent)(3.0) * k0
                + t * (type(bent)(5.0) * k1 + t * (type(bent)(7.0) * k2 + t * type(bent)(9.0) * k3))
            )
            least = wp.min(least, slope)
            if least > type(bent)(0.0):
                angle -= error / slope
    return angle, wp.abs(error), least


@wp.func
def solve(fisheye: bool, lenses: wp.array2d[Any], slot: int, i: int, j: int):  # noqa: ANN201
    """What corner (i, j) of a lens's pixels looks at: X/Z, Y/Z, and a code."""
    xd = (type(lenses[slot, 0])(i) - lenses[slot, 2]) / lenses[slot, 0]
    yd = (type(lenses[slot, 0])(j) - lenses[slot, 3]) / lenses[slot, 1]
    code = int(0)
    if fisheye:
        bent = wp.sqrt(xd * xd + yd * yd)
        if bent < type(xd)(1e-12):
            return xd, yd, code
        angle, error, least = unbend_fisheye(
            bent, lenses[slot, 4], lenses[slot, 5], lenses[slot, 6], lenses[slot, 7]
        )
        if least <= type(xd)(0.0) or error > type(xd)(1e-5):
            code = int(_FOLDED)
        elif angle > type(xd)(_MAX_ANGLE):
            code = int(_TOO_WIDE)
        scale = wp.tan(wp.min(angle, type(xd)(_MAX_ANGLE))) / bent
        return xd * scale, yd * scale, code
    x, y, left, smallest = undistort_opencv(
        xd, yd, lenses[slot, 4], lenses[slot, 5], lenses[slot, 6], lenses[slot, 7], lenses[slot, 8]
    )
    if smallest <= type(xd)(0.0) or left > type(xd)(1e-5):
        code = int(_FOLDED)
    elif x * x + y * y > type(xd)(_MAX_RADIUS_SQ):
        code = int(_TOO_WIDE)
    return x, y, code


@wp.kernel
def draw_lenses(
    begin: int,
    first_slot: int,
    keys: wp.array[wp.uint64],
    focals: wp.array[wp.vec4d],
    coefficients: wp.array2d[wp.float64],
    due: wp.array[wp.bool],
    lenses: wp.array2d[wp.float64],
    lenses_single: wp.array2d[float],
    changed: wp.array[wp.bool],
    extents: wp.array2d[wp.float64],
    codes: wp.array[int],
) -> None:
    """Draw the lenses of a block of cameras, and note which differ from what their tables were made for.

    Args:
        begin: First camera.
        first_slot: Camera c has the table `c - first_slot`.
        keys: Generators of cameras `[C]`.
        focals: fx, fy, cx, cy `[C]` [px].
        coefficients: Nominal value and half range of each coefficient `[N, 2]`.
        due: Which cameras are rendered `[C]`; empty: all. The others' tables stay what they are.
        lenses: fx, fy, cx, cy and five coefficients of each table `[T, 9]`.
        lenses_single: The same in single precision.
        changed: Written `[T]`.
        extents: Lowest x, lowest y, and the negative of the highest, of a lens's corners `[T, 4]`; reset where it changed.
        codes: Of each lens `[T]`, likewise.
    """
    b = wp.tid()
    c, slot = begin + b, begin + b - first_slot
    changed[slot] = False
    if due.shape[0] > 0 and not due[c]:
        return
    differs = bool(False)
    for n in range(9):
        value = wp.float64(0.0)
        if n < 4:
            value = focals[c][n]
        elif n - 4 < coefficients.shape[0]:
            half = coefficients[n - 4, 1]
            value = coefficients[n - 4, 0] + uniform(keys[c], _FIRST_DRAW + n - 4, -half, half)
        differs = differs or lenses[slot, n] != value
        lenses[slot, n] = value
        lenses_single[slot, n] = float(value)
    if differs:
        changed[slot] = True
        codes[slot] = 0
        for n in range(4):
            extents[slot, n] = wp.float64(wp.inf)


@wp.kernel
def trace_outline(
    first: int,
    fisheye: bool,
    width: int,
    height: int,
    lenses: wp.array2d[wp.float64],
    changed: wp.array[wp.bool],
    extents: wp.array2d[wp.float64],
    codes: wp.array[int],
) -> None:
    """Solve the outermost corners of changed lenses, from table `first` on: a launch over `[B, 2 (W + H)]`."""
    b, n = wp.tid()
    slot = first + b
    if not changed[slot]:
        return
    i, j = n, int(0)  # the top, then the right, the bottom and the left side
    if n >= 2 * width + height:
        i, j = 0, 2 * (width + height) - n
    elif n >= width + height:
        i, j = 2 * width + height - n, height
    elif n >= width:
        i, j = width, n - width
    x, y, code = solve(fisheye, lenses, slot, i, j)
    if code != 0:
        wp.atomic_max(codes, slot, code)
    wp.atomic_min(extents, slot, 0, x)
    wp.atomic_min(extents, slot, 1, y)
    wp.atomic_min(extents, slot, 2, -x)
    wp.atomic_min(extents, slot, 3, -y)


@wp.kernel
def trace(
    first: int,
    fisheye: bool,
    lenses: wp.array2d[float],
    changed: wp.array[wp.bool],
    rays: wp.array3d[wp.vec2f],
    codes: wp.array[int],
) -> None:
    """Fill the tables `[T, H + 1, W + 1]` of changed lenses, from table `first` on: a launch over `[B, H + 1, W + 1]`."""
    b, j, i = wp.tid()
    slot = first + b
    if not changed[slot]:
        return
    x, y, code = solve(fisheye, lenses, slot, i, j)
    rays[slot, j, i] = wp.vec2f(x, y)
    if code == _FOLDED:
        wp.atomic_max(codes, slot, code)


@wp.kernel
def cover(
    begin: int,
    first_slot: int,
    width: int,
    height: int,
    extents: wp.array2d[wp.float64],
    pinholes: wp.array[wp.vec4d],
) -> None:
    """Pinholes of `width` by `height` px that see what the lenses of a block of cameras see: `lens.source_focals`."""
    b = wp.tid()
    c, slot = begin + b, begin + b - first_slot
    two = wp.float64(2.0)
    fx = (wp.float64(width) - two * _MARGIN_PX) / (-extents[slot, 2] - extents[slot, 0])
    fy = (wp.float64(height) - two * _MARGIN_PX) / (-extents[slot, 3] - extents[slot, 1])
    pinholes[c] = wp.vec4d(fx, fy, _MARGIN_PX - extents[slot, 0] * fx, _MARGIN_PX - extents[slot, 1] * fy)


@wp.func
def bilinear(
    images: wp.array4d[wp.uint8], image: int, decode: wp.array[float], u: float, v: float
) -> wp.vec3f:
    """The light at (u, v) [px] of a gamma-encoded image, between pixel centres."""
    height, width = images.shape[1], images.shape[2]
    x = wp.min(wp.max(u - 0.5, 0.0), float(width) - 1.0)
    y = wp.min(wp.max(v - 0.5, 0.0), float(height) - 1.0)
    i, j = wp.min(int(x), wp.max(width - 2, 0)), wp.min(int(y), wp.max(height - 2, 0))
    i1, j1 = wp.min(i + 1, width - 1), wp.min(j + 1, height - 1)
    a, b = x - float(i), y - float(j)
    w00, w10, w01, w11 = (1.0 - a) * (1.0 - b), a * (1.0 - b), (1.0 - a) * b, a * b
    light = wp.vec3f()
    for c in range(3):
        light[c] = (
            w00 * decode[int(images[image, j, i, c])]
            + w10 * decode[int(images[image, j, i1, c])]
            + w01 * decode[int(images[image, j1, i, c])]
            + w11 * decode[int(images[image, j1, i1, c])]
        )
    return light


@wp.func
def distorted_pixel(
    images: wp.array4d[wp.uint8],
    image: int,
    decode: wp.array[float],
    rays: wp.array3d[wp.vec2f],
    slot: int,
    pinhole: wp.vec4f,
    y: int,
    x: int,
) -> wp.vec3f:
    """Light of a pixel of a distorted image: the mean of four points of its area, as in `gaussgym_render.lens.add_row`.

    Args:
        images: Pinhole images, uint8 `[J, Hs, Ws, 3]`.
        image: Which of them.
        decode: Linear light of each code `[256]`.
        rays: Tables of corners.
        slot: Which of them.
        pinhole: fx, fy, cx, cy of the pinhole image [px].
        y: Row.
        x: Column.
    """
    near = rays[slot, y, x]
    right, below, far = rays[slot, y, x + 1], rays[slot, y + 1, x], rays[slot, y + 1, x + 1]
    light = wp.vec3f()
    for corner in range(4):
        # A quarter of a pixel from the middle towards each corner, bilinear between the corners' rays.
        left, upper = 0.75, 0.75
        if corner % 2 == 1:
            left = 0.25
        if corner >= 2:
            upper = 0.25
        ray = upper * (left * near + (1.0 - left) * right) + (1.0 - upper) * (
            left * below + (1.0 - left) * far
        )
        u, v = pinhole[0] * ray[0] + pinhole[2], pinhole[1] * ray[1] + pinhole[3]
        light += 0.25 * bilinear(images, image, decode, u, v)
    return light


@wp.func
def nearest_pixel(
    rays: wp.array3d[wp.vec2f], slot: int, pinhole: wp.vec4f, y: int, x: int, width: int, height: int
) -> wp.vec2i:
    """The pixel of the pinhole image under the middle of a distorted one: column, row."""
    ray = 0.25 * (rays[slot, y, x] + rays[slot, y, x + 1] + rays[slot, y + 1, x] + rays[slot, y + 1, x + 1])
    i, j = int(pinhole[0] * ray[0] + pinhole[2]), int(pinhole[1] * ray[1] + pinhole[3])
    return wp.vec2i(wp.clamp(i, 0, width - 1), wp.clamp(j, 0, height - 1))


def lens_numbers(cfg: LensCfg) -> np.ndarray:
    """What `draw_lenses` draws from: nominal value and half range of each coefficient, float64 `[N, 2]`."""
    spread = cfg.spread or (0.0,) * len(cfg.coefficients)
    return np.stack([cfg.coefficients, spread], -1).astype(np.float64).reshape(-1, 2)
