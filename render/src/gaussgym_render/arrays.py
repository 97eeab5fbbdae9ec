"""Numpy arrays and torch tensors alike, without importing torch for those who have none."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = Any
"""A numpy array or a torch tensor."""


def device_of(array: Array) -> Any:
    """The torch device of a tensor, None of anything else."""
    torch = sys.modules.get("torch")
    return array.device if torch is not None and isinstance(array, torch.Tensor) else None


def to_numpy(array: Array, dtype: Any) -> NDArray[Any]:
    """A numpy view of an array or CPU tensor where its type allows, a copy otherwise; C-contiguous if converted."""
    if device_of(array) is not None:
        array = array.detach().cpu().numpy()
    return np.asarray(array) if dtype is None else np.ascontiguousarray(array, dtype)


def version_of(array: Array) -> int | None:
    """How often torch has written to a tensor; None where that is not counted: other arrays, tensors made in inference mode."""
    if device_of(array) is None or array.is_inference():
        return None
    return array._version
