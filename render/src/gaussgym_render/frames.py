"""Images of a batch of cameras, and the arrays that they are rendered into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gaussgym_scene import InputError
from numpy.typing import NDArray

from gaussgym_render.arrays import Array, device_of, to_numpy

FrameArrays = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]


@dataclass
class Frames:
    """Images of C cameras, numpy arrays or torch tensors.

    Attributes:
        rgb: uint8 `[C, H, W, 3]`.
        depth: float32 `[C, H, W]`, expected depth along the camera's +Z [m], 0 where nothing was hit.
        alpha: float32 `[C, H, W]`, opacity in 0..1.
        instances: int32 `[C, H, W]`, which of the call's object instances makes up more than half of a pixel, -1 where none
            does. Only calls with objects write it.
        rgb_float: float32 `[C, H, W, 3]` in 0..1. This and what follows is written when `outputs` names it; see
            `gaussgym_render.channels`.
        median_depth: float32 `[C, H, W]`, depth where half of the light is used up [m], 0 where more than half is left.
        normals: float32 `[C, H, W, 3]`, unit vectors in the camera frame, 0 where nothing was hit.
        labels: int32 `[C, H, W]`, label at the median depth, -1 where there is none.
        features: float32 `[C, H, W, F]`.
    """

    rgb: Array
    depth: Array
    alpha: Array
    instances: Array | None = None
    rgb_float: Array | None = None
    median_depth: Array | None = None
    normals: Array | None = None
    labels: Array | None = None
    features: Array | None = None


def frame_arrays(count: int, width: int, height: int, out: Frames | None) -> FrameArrays:
    """The numpy arrays of `count` frames to render into: views of `out` where it lies in main memory, else new ones.

    Raises:
        InputError: `out` has other shapes or types, or is not contiguous.
    """
    shapes = ((count, height, width, 3), (count, height, width), (count, height, width))
    dtypes = (np.uint8, np.float32, np.float32)
    if out is None:
        return tuple(np.zeros(shape, dtype) for shape, dtype in zip(shapes, dtypes))  # type: ignore[return-value]
    arrays = []
    for name, shape, dtype in zip(("rgb", "depth", "alpha"), shapes, dtypes):
        array = to_numpy(getattr(out, name), None)
        if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
            raise InputError(
                f"out.{name} is {array.dtype} {array.shape}, expected contiguous {np.dtype(dtype)} {shape}"
            )
        arrays.append(array)
    return tuple(arrays)  # type: ignore[return-value]


def seen_array(count: int, width: int, height: int, out: Frames | None) -> NDArray[np.int32] | None:
    """The array for `Frames.instances`: that of `out`, if it has one.

    Raises:
        InputError: It has another shape or type, or is not contiguous.
    """
    shape = (count, height, width)
    if out is None:
        return np.full(shape, -1, np.int32)
    if out.instances is None:
        return None
    array = to_numpy(out.instances, None)
    if array.shape != shape or array.dtype != np.int32 or not array.flags.c_contiguous:
        raise InputError(
            f"out.instances is {array.dtype} {array.shape}, expected contiguous int32 {shape} or None"
        )
    return array


def deliver(
    frames: FrameArrays, more: dict[str, NDArray[Any] | None], out: Frames | None, torch_device: Any
) -> Frames:
    """Give the caller frames of the kind it speaks: `out`, if there is one, else of numpy arrays or tensors.

    Args:
        frames: rgb, depth, alpha.
        more: Further outputs by name; None: not written.
        out: What the caller gave to write into; the arrays are its memory where that is the processor's.
        torch_device: Of new tensors; None for numpy arrays.
    """
    arrays = {**dict(zip(("rgb", "depth", "alpha"), frames)), **more}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    if out is None:
        return Frames(**{name: _as_tensor(array, torch_device) for name, array in arrays.items()})
    for name, array in arrays.items():
        target = getattr(out, name)
        if target is None:
            setattr(out, name, _as_tensor(array, torch_device))
        elif device_of(target) is not None and device_of(target).type != "cpu":
            import torch

            target.copy_(torch.from_numpy(array))
    return out


def _as_tensor(array: NDArray[Any], torch_device: Any) -> Array:
    """The array, or if a device is given a tensor there."""
    if torch_device is None:
        return array
    import torch

    return torch.from_numpy(array).to(torch_device)
