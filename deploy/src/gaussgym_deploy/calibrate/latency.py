"""How late a camera's images are against the robot's state, from a shaken clip or from a blinking light.

Shaken: what the image does between two frames is the gyroscope's reading integrated over the same time, ``latency`` earlier
than the stamps say. Rotation shows as a shift along the two image axes and a turn, linearly for small angles; the matrix between
them (focal length, how the camera is mounted) is fitted along, so that nothing else need be calibrated.

Blinking: the mean brightness of a frame is the share of its exposure during which the light was on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Tuple

import numpy as np

from ..bundle import BundleError
from .clips import Clip, opencv

__all__ = ["Latency", "blink_latency", "image_motion", "shake_latency"]

RANGE_S = (-0.1, 0.5)
STEP_S = 0.002
MIN_SHAKE_RAD_S = 0.2
MIN_EXPLAINED = 0.5
MIN_FRAMES = 20
MIN_TOGGLES = 4
EXPOSURES_S = (0.001, 0.004, 0.008, 0.016, 0.033)


@dataclass(frozen=True)
class Latency:
    """A latency that was found.

    Attributes:
        seconds: From a frame's exposure (its middle) to its stamp [s].
        std_error_s: [s].
        explained: Share of the variance that it explains.
        frames: Frames used.
    """

    seconds: float
    std_error_s: float
    explained: float
    frames: int


def shake_latency(clip: Clip, gyro_t_s: np.ndarray, ang_vel_b: np.ndarray) -> Latency:
    """Latency of a clip during which camera and robot were shaken, turning to and fro about all axes.

    Args:
        clip: Images with stamps.
        gyro_t_s: Times of the readings on the clock of the stamps [s], ``[S]``.
        ang_vel_b: Readings [rad/s], ``[S, 3]``.

    Raises:
        BundleError: No stamps, too few frames, too little motion, or image and gyroscope do not move alike.
    """
    stamps = _stamps(clip)
    fresh = np.concatenate(([True], np.diff(gyro_t_s) > 0)) & np.isfinite(ang_vel_b).all(axis=1)
    times, rate = gyro_t_s[fresh], ang_vel_b[fresh]
    shaken = float(np.sqrt((rate**2).sum(axis=1).mean())) if len(rate) else 0.0
    if shaken < MIN_SHAKE_RAD_S:
        raise BundleError(
            f"{clip.path}: the gyroscope reads {shaken:.2f} rad/s (root mean square), expected at least {MIN_SHAKE_RAD_S:g};"
            " shake harder, a few times a second"
        )
    motion, good = image_motion(clip.grey)
    mean_rate = 0.5 * (rate[1:] + rate[:-1]) * np.diff(times)[:, None]
    angle = np.concatenate((np.zeros((1, 3)), np.cumsum(mean_rate, axis=0)))
    low, high = RANGE_S
    inside = good & (stamps[:-1] - high >= times[0]) & (stamps[1:] - low <= times[-1])
    if inside.sum() < MIN_FRAMES:
        raise BundleError(
            f"{clip.path}: {int(inside.sum())} frames with stamps within the recorded states (and texture to follow), expected at"
            f" least {MIN_FRAMES}; are the stamps on the robot's clock?"
        )
    begin, end, seen = stamps[:-1][inside], stamps[1:][inside], motion[inside]

    def turned(latency_s: float) -> np.ndarray:
        at = [
            np.stack([np.interp(t - latency_s, times, angle[:, i]) for i in range(3)], axis=1)
            for t in (begin, end)
        ]
        return np.concatenate((at[1] - at[0], np.ones((len(begin), 1))), axis=1)

    return _best(clip, turned, seen)


def blink_latency(clip: Clip, toggles_s: np.ndarray) -> Latency:
    """Latency of a clip that shows a light, off at first, which was switched at known times.

    Args:
        clip: Images with stamps.
        toggles_s: When the light went on, off, on ..., on the clock of the stamps [s].

    Raises:
        BundleError: No stamps, too few frames or toggles, or brightness does not follow the light.
    """
    stamps, toggles = _stamps(clip), np.asarray(toggles_s, dtype=np.float64)
    if len(toggles) < MIN_TOGGLES or (np.diff(toggles) <= 0).any():
        raise BundleError(
            f"{len(toggles)} times of a blinking light, expected at least {MIN_TOGGLES} that grow"
        )
    low, high = RANGE_S
    inside = (stamps - high >= toggles[0] - 1.0) & (stamps - low <= toggles[-1] + 1.0)
    if inside.sum() < MIN_FRAMES:
        raise BundleError(
            f"{clip.path}: {int(inside.sum())} frames near the blinks, expected at least {MIN_FRAMES}"
        )
    grey = clip.grey[inside].astype(np.float64)
    # The pixels that change most are the light; the rest of the image is noise.
    change = grey.std(axis=0)
    lit = change >= np.quantile(change, 0.99)
    seen, at = grey[:, lit].mean(axis=1)[:, None], stamps[inside]
    states = np.arange(len(toggles)) % 2 == 0  # after toggle i
    on_s = np.concatenate(([0.0], np.cumsum(np.diff(toggles) * states[:-1])))

    def lit_until(t: np.ndarray) -> np.ndarray:
        index = np.clip(np.searchsorted(toggles, t, side="right") - 1, 0, len(toggles) - 1)
        after = np.maximum(t - toggles[index], 0.0) * states[index]
        return np.where(t < toggles[0], 0.0, on_s[index] + after)

    def share(exposure_s: float) -> Callable[[float], np.ndarray]:
        def of(latency_s: float) -> np.ndarray:
            middle = at - latency_s
            on = (lit_until(middle + exposure_s / 2) - lit_until(middle - exposure_s / 2)) / exposure_s
            return np.stack([on, np.ones_like(on)], axis=1)

        return of

    found = [_best(clip, share(exposure), seen) for exposure in EXPOSURES_S]
    return max(found, key=lambda latency: latency.explained)


def _stamps(clip: Clip) -> np.ndarray:
    if clip.t_s is None:
        raise BundleError(
            f"{clip.path}: the frames have no times; expected a flight recording, or a folder with times.csv (file, time_s)"
        )
    return clip.t_s


def _best(clip: Clip, regressors: Callable[[float], np.ndarray], seen: np.ndarray) -> Latency:
    """The latency whose regressors explain most of what was seen; between grid points by a parabola."""
    grid = np.arange(RANGE_S[0], RANGE_S[1] + STEP_S / 2, STEP_S)
    scale = seen.std(axis=0)
    seen = seen / np.where(scale > 0, scale, 1.0)

    def rest(latency_s: float) -> float:
        x = regressors(latency_s)
        return float(((seen - x @ np.linalg.lstsq(x, seen, rcond=None)[0]) ** 2).sum())

    cost = np.array([rest(latency) for latency in grid])
    total = float(((seen - seen.mean(axis=0)) ** 2).sum())
    index = int(cost.argmin())
    explained = 1.0 - cost[index] / total if total > 0 else 0.0
    if explained < MIN_EXPLAINED or index in (0, len(grid) - 1):
        raise BundleError(
            f"{clip.path}: images and readings do not move alike (at best {100 * max(explained, 0):.0f} % of the motion is"
            f" explained, {1e3 * RANGE_S[0]:.0f} ... {1e3 * RANGE_S[1]:.0f} ms); wrong log, wrong clock or too little texture"
        )
    # A wide parabola: next to the minimum interpolated readings make the cost rough.
    around = slice(max(0, index - 4), index + 5)
    square, slope, _ = np.polyfit(grid[around] - grid[index], cost[around], 2)
    offset = float(np.clip(-slope / (2 * square), -STEP_S * 2, STEP_S * 2)) if square > 0 else 0.0
    freedom = max(1, seen.size - 2 * regressors(0.0).shape[1])
    error = float(np.sqrt(cost[index] / freedom / square)) if square > 0 else float("inf")
    return Latency(float(grid[index] + offset), error, float(explained), len(seen))


def image_motion(grey: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Motion from each image to the next: shift along x and y of the middle [px] and turn [rad], of tracked corners.

    Args:
        grey: uint8 ``[N, H, W]``.

    Returns:
        Motion ``[N - 1, 3]``, and whether enough corners were followed ``[N - 1]``.
    """
    cv2 = opencv()
    count, (height, width) = len(grey), grey.shape[1:]
    motion, good = np.zeros((max(0, count - 1), 3)), np.zeros(max(0, count - 1), dtype=bool)
    middle = np.array([width / 2, height / 2])
    window = (15, 15) if min(height, width) >= 96 else (9, 9)
    for i in range(count - 1):
        corners = cv2.goodFeaturesToTrack(grey[i], 200, 0.01, 4)
        if corners is None or len(corners) < 8:
            continue
        followed, status, _ = cv2.calcOpticalFlowPyrLK(grey[i], grey[i + 1], corners, None, winSize=window)
        back, status_back, _ = cv2.calcOpticalFlowPyrLK(grey[i + 1], grey[i], followed, None, winSize=window)
        kept = (status.ravel() == 1) & (status_back.ravel() == 1)
        kept &= np.abs(back - corners).reshape(-1, 2).max(axis=1) < 0.5
        if kept.sum() < 8:
            continue
        matrix, _ = cv2.estimateAffinePartial2D(corners[kept], followed[kept], ransacReprojThreshold=1.5)
        if matrix is None:
            continue
        motion[i, :2] = matrix[:, :2] @ middle + matrix[:, 2] - middle
        motion[i, 2] = np.arctan2(matrix[1, 0], matrix[0, 0])
        good[i] = True
    return motion, good
