"""Draft; replaced by writing.py."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Progress = Callable[[str, float], None]


@dataclass
class Frame:
    image: object
    intrinsics: object
    c2w: object = None
    timestamp_s: float | None = None
    depth_m: object = None
    confidence: object = None
    mask: object = None
    name: str | None = None


def sharpest(count, most, score):
    if count <= most:
        return list(range(count))
    edges = np.linspace(0, count, most + 1).round().astype(int)
    return [max(range(a, b), key=score) for a, b in zip(edges[:-1], edges[1:])]


@dataclass
class Result:
    frames: list
    metadata: dict
    points: object


LAST = []


def write_capture(output, frames, metadata, points=None, progress=None):
    LAST.append(Result(list(frames), metadata, points))
    return output
