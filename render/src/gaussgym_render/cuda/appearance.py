"""How the world looks to each camera, drawn on a Warp device: `gaussgym_render.edits.draw_edits`."""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false

from __future__ import annotations

import numpy as np
import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)
from numpy.typing import NDArray

from gaussgym_render import edits, sensor
from gaussgym_render.cuda.sensor import child, uniform
from gaussgym_render.edits import AppearanceCfg

wp.set_module_options({"enable_backward": False, "fuse_fp": False})

_STREAM = wp.constant(wp.uint64(sensor.APPEARANCE_STREAM))
_GAMMA = wp.constant(wp.float64(edits.GAMMA))
_LUMA = wp.constant(wp.vec3d(*edits.LUMA))
_AXIS = wp.constant(wp.float64(3**-0.5))
_EXPOSURE, _CONTRAST, _SATURATION, _HUE, _VIEW, _LIGHT, _RED, _BLUE, _HEIGHT, _TURN = (
    wp.constant(n) for n in range(10)
)


def look_ranges(cfg: AppearanceCfg) -> NDArray[np.float64]:
    """What `draw_looks` draws from: lowest and highest value of each of its numbers, float64 `[10, 2]`."""
    return np.array(
        [
            cfg.exposure_ev, cfg.contrast, cfg.saturation, cfg.hue_rad, cfg.view_dependence, cfg.light, cfg.tint_ev,
            cfg.tint_ev, (-1.0, 1.0), (0.0, 2.0 * np.pi),
        ]
    )  # fmt: skip


@wp.func
def drawn(key: wp.uint64, number: int, ranges: wp.array2d[wp.float64]) -> wp.float64:
    """Number `number` of what a camera's world draws."""
    return uniform(key, number, ranges[number, 0], ranges[number, 1])


@wp.func
def hue_saturation(hue_rad: wp.float64, saturation: wp.float64) -> wp.mat33d:
    """The matrix that turns colours about the grey axis and scales their distance from it; grey stays grey."""
    one = wp.float64(1.0)
    axis = wp.vec3d(_AXIS, _AXIS, _AXIS)
    eye = wp.identity(n=3, dtype=wp.float64)
    cosine = wp.cos(hue_rad)
    turn = cosine * eye + wp.sin(hue_rad) * wp.skew(axis) + (one - cosine) * wp.outer(axis, axis)
    grey = wp.outer(wp.vec3d(one, one, one), _LUMA)
    return (saturation * eye + (one - saturation) * grey) * turn


@wp.kernel
def draw_looks(
    keys: wp.array[wp.uint64],
    ranges: wp.array2d[wp.float64],
    color: wp.array3d[wp.float64],
    view_dependence: wp.array[wp.float64],
    light: wp.array3d[wp.float64],
) -> None:
    """Fill what `gaussgym_render.edits.SceneEdits` says of cameras `[C]`, each from its own key alone.

    Args:
        keys: Generators of cameras.
        ranges: Of `look_ranges`.
        color: Written `[C, 3, 4]`.
        view_dependence: Written `[C]`.
        light: Written `[C, 3, 4]`.
    """
    c = wp.tid()
    one, half = wp.float64(1.0), wp.float64(0.5)
    key = child(keys[c], _STREAM)
    exposure, contrast = drawn(key, _EXPOSURE, ranges), drawn(key, _CONTRAST, ranges)
    view_dependence[c] = drawn(key, _VIEW, ranges)
    linear = contrast * hue_saturation(drawn(key, _HUE, ranges), drawn(key, _SATURATION, ranges))
    tints = wp.vec3d(drawn(key, _RED, ranges), wp.float64(0.0), drawn(key, _BLUE, ranges))
    height, turn = drawn(key, _HEIGHT, ranges), drawn(key, _TURN, ranges)
    flat = wp.sqrt(one - height * height)
    towards = drawn(key, _LIGHT, ranges) * wp.vec3d(flat * wp.cos(turn), flat * wp.sin(turn), height)
    for row in range(3):
        gain = wp.pow(wp.float64(2.0), (exposure + tints[row]) / _GAMMA)
        light[c, row, 0] = one
        for column in range(3):
            color[c, row, column] = gain * linear[row, column]
            light[c, row, column + 1] = towards[column]
        color[c, row, 3] = gain * (half * (one - contrast))
