"""Which of many frames to keep: the sharpest of equal spans."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray
from PIL import Image

from gaussgym_recon.sources.source import Progress


def choose_frames(
    files: Sequence[Path], count: int | None, *, progress: Progress | None = None
) -> NDArray[np.int64]:
    """Indices of the frames to keep; all where `count` is None or there are no more than `count`.

    Args:
        files: Images in order.
        count: How many to keep.
        progress: Told the fraction that is done.

    Raises:
        InputError: `count` is below two, or an image does not decode.
    """
    if count is not None and count < 2:
        raise InputError(f"--frames {count}: expected two or more")
    if count is None or len(files) <= count:
        return np.arange(len(files))
    sharpness = np.empty(len(files))
    for index, file in enumerate(files):
        sharpness[index] = image_sharpness(file)
        if progress is not None:
            progress("choosing sharp frames", (index + 1) / len(files))
    return sharpest_of_spans(sharpness, count)


def sharpest_of_spans(sharpness: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Index of the sharpest of each of `count` equal spans; all where there are no more than `count`."""
    if len(sharpness) <= count:
        return np.arange(len(sharpness))
    edges = np.linspace(0, len(sharpness), count + 1).round().astype(int)
    return np.array([a + int(np.argmax(sharpness[a:b])) for a, b in itertools.pairwise(edges)])


def image_sharpness(path: Path) -> float:
    """Variance of the Laplacian of the grey image at half its size: low where motion blurs.

    Raises:
        InputError: The file does not decode.
    """
    try:
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L").reduce(2), dtype=np.float32)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: does not decode ({error}); copy it again or remove it") from None
    if min(grey.shape) < 3:
        return 0.0
    laplacian = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1] - 4.0 * grey[1:-1, 1:-1]
    return float(laplacian.var())
