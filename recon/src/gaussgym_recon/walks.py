"""How a person carries a phone through a scene: there and back along a path, looking left and right.

Where steps lie near an end of the path, the walker does what this project advises: goes on past their foot as far as there is
room, turns round there, and so looks back at the flight from below; and holds the phone lower before and on steps, so that their
feet are in the picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from gaussgym_scene.errors import InputError
from scipy.ndimage import gaussian_filter1d

if TYPE_CHECKING:
    from gaussgym_scene.scene import Scene
    from numpy.typing import NDArray

    from gaussgym_recon.synthetic import SynthesizeCfg

STRIDE_M = 0.35
"""Over which a head's height follows the ground: people do not jolt at each step of a stair [m]."""
TURN_M = 0.5
"""Standard deviation of the smoothing of a walker's heading along the way [m]: who photographs does not swing round a corner
by more than half of the view between two pictures, which no structure from motion could follow."""
LOOK_AHEAD_M = 1.0
"""Walkers look where the way will lead from so far ahead, so into a corner before they take it: else nobody photographs the
ground inside of it [m]."""
STEP_M = 0.08
"""Ground that rises or falls by more over 10 cm is a step [m]."""
STEPS_NEAR_END_M = 4.0
"""Steps nearer than this to an end of the path are looked back at from there [m]."""
NEAR_END_M = 0.1
"""How close to the end of the path the walker goes for that [m]."""
LOOK_DOWN_M = 2.6
LOOK_DOWN_RAD = np.radians(12.0)
"""Where steps lie so near ahead, the phone points so much lower."""


def walk(scene: Scene, cfg: SynthesizeCfg, rng: np.random.Generator) -> NDArray[np.float64]:
    """Poses of a phone that is carried along the scene's longest path and back.

    The walker looks where they go, a little down, left and right by turns, and turns round at the far end; at the near one too
    where steps begin there.

    Returns:
        Camera-to-world `[images, 4, 4]`.
    """
    line, half_width = _longest_path(scene)
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    length = float(arc[-1])
    margin = min(cfg.end_margin_m, 0.1 * length)
    steps = _steps_along(scene, line, arc)
    first, last = bool((steps < STEPS_NEAR_END_M).any()), bool((steps > length - STEPS_NEAR_END_M).any())
    start, end = (NEAR_END_M if first else margin), length - (NEAR_END_M if last else margin)
    if end - start < 1.0:
        raise InputError(f"scene {scene.name}: longest path is {length:.1f} m, expected 1.3 m or more")
    turns = (min(cfg.turn_images, cfg.images // 4),) * 2 if first else (cfg.turn_images, 0)
    there = (cfg.images - sum(turns) + 1) // 2
    back = cfg.images - sum(turns) - there
    s = np.concatenate(
        [
            np.linspace(start, end, there),
            np.full(turns[0], end),
            np.linspace(end, start, back),
            np.full(turns[1], start),
        ]
    )
    s = np.clip(s + rng.normal(0, 0.04, cfg.images), 0, length)
    xy = np.stack([np.interp(s, arc, line[:, axis]) for axis in range(2)], axis=1)
    heading = _heading(line, arc, s)
    left = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
    turned = np.concatenate(
        [np.zeros(there), _between(0, 1, turns[0]), np.ones(back), _between(1, 2, turns[1])]
    )  # in half turns
    phase = rng.uniform(0, 2 * np.pi, 3)
    swing = np.arange(cfg.images)
    lateral = min(cfg.lateral_m, max(half_width - 0.2, 0.0))
    side = lateral * (0.4 * np.sin(swing / 5.3 + phase[0]) + 0.6 * np.cos(np.pi * turned))
    xy += side[:, None] * left
    look_at = np.clip(s + LOOK_AHEAD_M * np.cos(np.pi * turned), 0, length)
    yaw = _heading(line, arc, look_at) + np.pi * turned
    yaw += cfg.yaw_rad * np.sin(swing / 2.1 + phase[1]) + rng.normal(0, np.radians(3.0), cfg.images)
    ahead = (steps - s[:, None]) * np.where(np.abs(turned - 1) < 0.5, -1, 1)[:, None]
    near = ((ahead > 0) & (ahead < LOOK_DOWN_M)).any(axis=1)
    pitch = -cfg.pitch_down_rad - LOOK_DOWN_RAD * gaussian_filter1d(near.astype(float), 1.0, mode="nearest")
    pitch += np.radians(6.0) * np.sin(swing / 3.7 + phase[2])
    pitch += rng.normal(0, np.radians(1.5), cfg.images)
    roll = rng.normal(0, cfg.roll_std_rad, cfg.images)
    z = (
        np.interp(s, arc, _head_height(scene, line, arc))
        + cfg.camera_height_m
        + rng.normal(0, 0.025, cfg.images)
    )
    c2w = np.tile(np.eye(4), (cfg.images, 1, 1))
    c2w[:, :3, :3] = camera_rotation(yaw, pitch, roll)
    c2w[:, :2, 3], c2w[:, 2, 3] = xy, z
    return c2w


def _between(first: float, last: float, count: int) -> NDArray[np.float64]:
    return np.linspace(first, last, count + 2)[1:-1]


def _steps_along(scene: Scene, line: NDArray[np.float64], arc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where along a line the ground jumps [m]."""
    fine = np.arange(0.0, float(arc[-1]), 0.025)
    xy = np.stack([np.interp(fine, arc, line[:, axis]) for axis in range(2)], axis=1)
    z = scene.heightfield.sample(xy)
    return fine[2:-2][np.abs(z[4:] - z[:-4]) > STEP_M]


def _heading(
    line: NDArray[np.float64], arc: NDArray[np.float64], s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Which way a walker looks at places `s` [m] along a line [rad]: corners are turned on a metre or two of the way."""
    fine = np.arange(0.0, float(arc[-1]) + 0.05, 0.05)
    xy = np.stack([np.interp(fine, arc, line[:, axis]) for axis in range(2)], axis=1)
    tangent = gaussian_filter1d(np.gradient(xy, fine, axis=0), TURN_M / 0.05, axis=0, mode="nearest")
    turned = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
    return np.interp(s, fine, turned)


def _head_height(scene: Scene, line: NDArray[np.float64], arc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Height of the ground along a line, smoothed over a stride `[n]`."""
    fine = np.arange(0.0, float(arc[-1]) + 0.05, 0.05)
    xy = np.stack([np.interp(fine, arc, line[:, axis]) for axis in range(2)], axis=1)
    ground = scene.heightfield.sample(xy).astype(np.float64)
    return np.interp(arc, fine, gaussian_filter1d(ground, STRIDE_M / 0.05, mode="nearest"))


def _longest_path(scene: Scene) -> tuple[NDArray[np.float64], float]:
    """Centre line `[n, 2]` and smallest half width of the longest path."""
    best: tuple[float, NDArray[np.float64], float] | None = None
    for number in np.unique(scene.paths.path_id):
        chosen = scene.paths.path_id == number
        line = np.asarray(scene.paths.points[chosen, :2], dtype=np.float64)
        if len(line) < 2:
            continue
        length = float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())
        if best is None or length > best[0]:
            best = (length, line, float(scene.paths.half_width_m[chosen].min()))
    if best is None:
        raise InputError(f"scene {scene.name}: has no path to walk along")
    return best[1], best[2]


def camera_rotation(
    yaw: NDArray[np.float64], pitch: NDArray[np.float64], roll: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Camera-to-world rotations of OpenCV cameras from heading, elevation and roll [rad].

    Args:
        yaw: Heading of the view axis, counter-clockwise from +X `[n]`.
        pitch: Elevation of the view axis above the horizon `[n]`.
        roll: Turn about the view axis, positive tilts the right side of the image down `[n]`.

    Returns:
        `[n, 3, 3]`.
    """
    yaw, pitch, roll = np.broadcast_arrays(yaw, pitch, roll)
    forward = np.stack([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)], axis=-1)
    right = np.stack([np.sin(yaw), -np.cos(yaw), np.zeros_like(yaw)], axis=-1)
    down = np.cross(forward, right)
    cos, sin = np.cos(roll)[..., None], np.sin(roll)[..., None]
    return np.stack([cos * right + sin * down, cos * down - sin * right, forward], axis=-1)
