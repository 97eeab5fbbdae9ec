"""Models that look at each image at import, brought by other packages: redactors blur faces and plates, segmenters mask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.registry import Registry
from numpy.typing import NDArray

REDACTORS = "gaussgym.redactors"
"""Entry points: functions of an image uint8 `[H, W, 3]` (RGB) that return it, or a copy, with faces and plates unreadable."""
SEGMENTERS = "gaussgym.segmenters"
"""Entry points: functions of an image uint8 `[H, W, 3]` (RGB) that return bool `[H, W]`, True where it is to be used."""


def load_hook(group: str, name: str | None) -> Callable[[NDArray[np.uint8]], NDArray] | None:
    """Find a hook by name; None for None.

    Raises:
        InputError: No package declares one of that name, or it does not import.
    """
    if name is None:
        return None
    return Registry(group.removeprefix("gaussgym.").removesuffix("s"), group).get(name)


def redacted(
    redact: Callable[[NDArray[np.uint8]], NDArray], pixels: NDArray[np.uint8], name: str
) -> NDArray[np.uint8]:
    """What a redactor makes of an image `[H, W, 3]`.

    Raises:
        InputError: The redactor returned something that is no image of that size.
    """
    out = np.asarray(redact(pixels.copy()))
    if out.shape != pixels.shape or out.dtype != np.uint8:
        raise InputError(
            f"{name}: the redactor returned {out.dtype} {list(out.shape)}, expected uint8 {list(pixels.shape)}"
        )
    return out


def segmented(
    segment: Callable[[NDArray[np.uint8]], NDArray], pixels: NDArray[np.uint8], name: str
) -> NDArray[np.bool_]:
    """Which pixels `[H, W]` of an image a segmenter leaves in use.

    Raises:
        InputError: The segmenter returned something that is no mask of that size.
    """
    out = np.asarray(segment(pixels.copy()))
    if out.shape != pixels.shape[:2] or out.dtype != np.bool_:
        raise InputError(
            f"{name}: the segmenter returned {out.dtype} {list(out.shape)}, expected bool {list(pixels.shape[:2])}"
        )
    return out
