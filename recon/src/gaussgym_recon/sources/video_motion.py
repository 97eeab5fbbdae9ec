"""What a film's own motion says of its camera: how blurred its frames are, and how far a rolling shutter shears them.

A rolling shutter exposes row after row. While the camera turns steadily, all rows move alike and nothing tells; while it turns
faster and faster, lower rows, exposed later, have moved farther. So the slope of image motion over the rows, regressed on its
change from frame to frame, is the share of the frame interval that reading out takes. Parallax also makes lower rows move
more, but with the motion itself and not with its change, so the motion is a regressor of its own.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray
from PIL import Image

BANDS = 6
"""Horizontal strips whose motion is measured."""
BURSTS, BURST_FRAMES = 12, 24
"""How many runs of consecutive frames are looked at, and their length."""
SMALL_WIDTH = 320
"""Width at which motion is measured [px]."""
CERTAIN = 5.0
"""A readout counts as found where it is so many standard deviations above 0."""
SLOWEST_HZ = 12.0
"""Films of fewer frames a second say nothing of their shutter: between frames a hand changes its turn more than once."""
LARGEST_MOTION = 0.08
"""Motions over the width above which strips no longer show the same; left out."""
BLUR_WARNING_PX = 1.5
"""Blur (standard deviation) above which kept frames cost details."""
SKEW_WARNING_FRACTION = 0.004
"""Shear from top to bottom, over the long side, above which poses suffer: 2.5 px of 640."""
EDGE_QUANTILE = 0.95
SOBEL_VARIANCE = 1.0 / 3.0
"""What differences over two pixels blur by themselves [px^2]: the variance of a box of that width."""


@dataclass(frozen=True)
class FilmMotion:
    """What was measured; lengths in pixels of the frames that are kept."""

    blur_px: float
    """Median over the kept frames of the blur's standard deviation at their edges; a sharp image has less than 0.8."""
    motion_px: float
    """90th percentile of the image's motion from frame to frame of the film."""
    readout_fraction: float | None
    """Share of the frame interval from the first row's exposure to the last's; None where the motion cannot tell."""
    readout_std: float | None
    """Its standard deviation."""
    skew_px: float | None
    """How far the last row has moved since the first: readout times motion, 90th percentile."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)

    def warnings(self, long_side_px: int) -> list[str]:
        """What the user should know, in one line each."""
        out = []
        if self.blur_px > BLUR_WARNING_PX:
            out.append(
                f"the sharpest frames are blurred by {self.blur_px:.1f} px (standard deviation, measured at edges); "
                "film in more light, or walk and turn more slowly"
            )
        if self.skew_px is not None and self.skew_px > SKEW_WARNING_FRACTION * long_side_px:
            assert self.readout_fraction is not None
            assert self.readout_std is not None
            out.append(
                f"a rolling shutter shears frames by {self.skew_px:.1f} px from top to bottom (reading out takes "
                f"{self.readout_fraction:.2f} +- {self.readout_std:.2f} of the frame interval, measured); turn more slowly"
            )
        return out


def measure_film(
    kept: list[Path],
    video: Path,
    seconds: float,
    rate_hz: float,
    ffmpeg: str,
    *,
    progress: Callable[[str, float], None] | None = None,
) -> FilmMotion:
    """Measure a film.

    Args:
        kept: The frames that are kept.
        video: The film.
        seconds: Its length [s].
        rate_hz: Its frames a second [Hz].
        ffmpeg: The program.
        progress: Told the fraction that is done.

    Raises:
        InputError: The film cannot be decoded.
    """
    with Image.open(kept[0]) as image:
        width, height = image.size
    small = (SMALL_WIDTH, max(BANDS * 8, round(SMALL_WIDTH * height / width / 2) * 2))
    starts = burst_starts_s(seconds, rate_hz)
    bursts = []
    for number, start_s in enumerate(starts):
        bursts.append(band_motions(_burst(ffmpeg, video, start_s, small)))
        if progress is not None:
            progress("measuring motion", (number + 1) / len(starts))
    found = readout_of(bursts, largest_px=LARGEST_MOTION * SMALL_WIDTH) if rate_hz >= SLOWEST_HZ else None
    to_kept = width / small[0]
    speeds = np.concatenate([np.linalg.norm(burst.mean(axis=1), axis=1) for burst in bursts])
    motion = float(np.quantile(speeds, 0.9)) * to_kept if len(speeds) else 0.0
    step = max(1, len(kept) // 40)
    blurs = [edge_blur_px(_grey(file)) for file in kept[::step]]
    blurs = [blur for blur in blurs if blur is not None]
    return FilmMotion(
        blur_px=float(np.median(blurs)) if blurs else 0.0,
        motion_px=motion,
        readout_fraction=None if found is None else found[0],
        readout_std=None if found is None else found[1],
        skew_px=None if found is None else found[0] * motion,
    )


def burst_starts_s(seconds: float, rate_hz: float) -> list[float]:
    """When runs of frames start, evenly spread; they never share a frame, which would count as evidence twice."""
    length = BURST_FRAMES / rate_hz
    count = max(1, min(BURSTS, int(seconds / length)))
    return [number * seconds / count for number in range(count)]


def band_motions(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Motion of horizontal strips from each frame to the next, by phase correlation.

    Args:
        frames: Grey `[n, h, w]`.

    Returns:
        `[n - 1, bands, 2]` along x and y [px].
    """
    if len(frames) < 2:
        return np.zeros((0, BANDS, 2))
    height = frames.shape[1] // BANDS
    window = cv2.createHanningWindow((frames.shape[2], height), cv2.CV_64F)
    out = np.zeros((len(frames) - 1, BANDS, 2))
    for index, (a, b) in enumerate(itertools.pairwise(frames.astype(np.float64))):
        for band in range(BANDS):
            rows = slice(band * height, (band + 1) * height)
            out[index, band], _ = cv2.phaseCorrelate(a[rows], b[rows], window)
    return out


def readout_of(
    bursts: list[NDArray[np.float64]], *, largest_px: float = np.inf
) -> tuple[float, float] | None:
    """Share of the frame interval that reading out takes, and its standard deviation; None where it is not certain.

    Args:
        bursts: Motions `[n, bands, 2]` of runs of consecutive frames.
        largest_px: Frames beside a larger motion are left out [px].
    """
    rows = (np.arange(BANDS) + 0.5) / BANDS - 0.5
    fit = rows / (rows**2).sum()
    change, steady, slope = [], [], []
    for burst in bursts:
        if len(burst) < 3:
            continue
        mean = np.median(burst, axis=1)
        small = np.abs(burst).max(axis=(1, 2)) <= largest_px
        use = small[2:] & small[1:-1] & small[:-2]
        change.append(0.5 * (mean[2:] - mean[:-2])[use])
        steady.append(mean[1:-1][use])
        slope.append(np.einsum("b,nba->na", fit, burst)[1:-1][use])
    if not change or sum(len(part) for part in change) < 20:
        return None
    a, v, s = (np.concatenate(parts) for parts in (change, steady, slope))
    # Both axes share the readout; each has its own steady slope (parallax, zoom) and offset.
    n = len(a)
    design = np.zeros((2 * n, 5))
    design[:n, 0], design[n:, 0] = a[:, 0], a[:, 1]
    design[:n, 1], design[:n, 2] = v[:, 0], 1.0
    design[n:, 3], design[n:, 4] = v[:, 1], 1.0
    target = np.concatenate([s[:, 0], s[:, 1]])
    weight = np.ones(2 * n)
    for _ in range(10):  # Huber: strips without texture jump
        solution = np.linalg.lstsq(design * weight[:, None], target * weight, rcond=None)[0]
        residual = target - design @ solution
        spread = 1.4826 * float(np.median(np.abs(residual))) + 1e-6
        weight = np.sqrt(np.minimum(1.0, 1.5 * spread / np.maximum(np.abs(residual), 1e-9)))
    information = (design * weight[:, None]).T @ (design * weight[:, None])
    if np.linalg.matrix_rank(information) < 5:
        return None
    std = spread * float(np.sqrt(np.linalg.inv(information)[0, 0]))
    readout = float(solution[0])
    return (readout, std) if readout > CERTAIN * std and readout > 0.05 else None


def edge_blur_px(grey: NDArray[np.float32]) -> float | None:
    """Standard deviation of the blur at an image's edges [px], from the gradient's loss when blurred again (Zhuo, Sim 2011).

    Args:
        grey: `[h, w]`.

    Returns:
        Median over the strongest edges; None where there are none.
    """
    again = cv2.GaussianBlur(grey, (0, 0), 1.0)
    first, second = (
        np.hypot(cv2.Sobel(i, cv2.CV_32F, 1, 0), cv2.Sobel(i, cv2.CV_32F, 0, 1)) for i in (grey, again)
    )
    threshold = max(float(np.quantile(first, EDGE_QUANTILE)), 20.0)
    # Only at the crests of edges: beside them the ratio says something else.
    crest = (first >= threshold) & (first >= cv2.dilate(first, np.ones((3, 3))) - 1e-3)
    if crest.sum() < 20:
        return None
    ratio = first[crest] / np.maximum(second[crest], 1e-6)
    seen = float(np.median(1.0 / np.maximum(ratio**2 - 1.0, 1e-3)))
    return float(np.sqrt(max(seen - SOBEL_VARIANCE, 0.0)))


def _burst(ffmpeg: str, video: Path, start_s: float, size: tuple[int, int]) -> NDArray[np.uint8]:
    command = [ffmpeg, "-nostdin", "-loglevel", "error", "-ss", f"{start_s:.3f}", "-i", str(video), "-an"]
    command += ["-frames:v", str(BURST_FRAMES), "-vf", f"scale={size[0]}:{size[1]}:flags=area"]
    command += ["-pix_fmt", "gray", "-f", "rawvideo", "pipe:1"]
    result = subprocess.run(command, capture_output=True, check=False)
    if result.returncode != 0:
        raise InputError(
            f"{video}: ffmpeg cannot decode it at {start_s:.1f} s; the file is damaged, copy it again"
        )
    count = len(result.stdout) // (size[0] * size[1])
    return np.frombuffer(result.stdout, np.uint8)[: count * size[0] * size[1]].reshape(
        count, size[1], size[0]
    )


def _grey(file: Path) -> NDArray[np.float32]:
    with Image.open(file) as image:
        return np.asarray(image.convert("L"), np.float32)
