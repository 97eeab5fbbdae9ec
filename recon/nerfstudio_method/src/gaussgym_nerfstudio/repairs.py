"""What nerfstudio 1.1.5 needs to run beside torch 2.13 and, where there is no GPU, without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch
from nerfstudio.models import splatfacto
from torch import nn
from torchmetrics.image import lpip

from gaussgym_nerfstudio.rasterizer import rasterization


def apply() -> None:
    """Mend nerfstudio in this process; repeating it changes nothing."""
    splatfacto.rasterization = rasterization
    _read_own_checkpoints()
    if torch.cuda.is_available():
        return
    # One Python thread at a time draws (nerfstudio's train_lock sees to it), and waiting threads shall not spin.
    numba.config.THREADING_LAYER = "workqueue"
    torch.Tensor.cuda = _stay  # type: ignore[method-assign]  # splatfacto calls it whatever its device
    torch.Tensor.pin_memory = _stay  # type: ignore[method-assign]  # its data manager calls it on more than 500 images
    # torch.compile of ten lines costs a C++ compiler and half a minute on a busy machine, again when evaluation first calls them.
    splatfacto.get_viewmat = getattr(
        splatfacto.get_viewmat, "_torchdynamo_orig_callable", splatfacto.get_viewmat
    )


def _stay(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The tensor where it is: without a GPU there is no other place."""
    return tensor


def _read_own_checkpoints() -> None:
    """Let `torch.load`, which since torch 2.6 unpickles tensors and plain values only, read nerfstudio's checkpoints.

    What stops it are learning rates that a scheduler holds as numpy scalars.
    """
    from numpy.core.multiarray import scalar

    kinds = [type(np.dtype(name)) for name in ("float32", "float64", "int64")]
    torch.serialization.add_safe_globals([scalar, np.dtype, *kinds])


class _NoLpips(nn.Module):
    """Stands where splatfacto makes LPIPS, whose weights torchvision would download; the method leaves the metric out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return torch.tensor(float("nan"))


@contextmanager
def without_lpips() -> Iterator[None]:
    """While this lasts, torchmetrics' LPIPS is made without its network."""
    kept = lpip.LearnedPerceptualImagePatchSimilarity
    lpip.LearnedPerceptualImagePatchSimilarity = _NoLpips  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        lpip.LearnedPerceptualImagePatchSimilarity = kept  # type: ignore[misc]
