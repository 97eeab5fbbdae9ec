"""A sim on a GPU as one on the CPU, so that one set of checks fits both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gaussgym_sim.ground.terrain import TerrainLookup
from gaussgym_sim.vecsim import SimState, VecSim


class HostView:
    """Copies tensors to the sim's device on the way in, and to the CPU on the way out.

    For checks, not for training: every look at a result waits for the GPU, and ``state`` is a copy that does not follow.

    Args:
        target: a sim, or a part of one.
        device: where its tensors live.
    """

    def __init__(self, target: VecSim | TerrainLookup, device: torch.device) -> None:
        self._target, self._device = target, device

    def __getattr__(self, name: str) -> Any:
        return self._out(getattr(self._target, name))

    def _out(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.cpu()
        if isinstance(value, dict):
            return {key: self._out(item) for key, item in value.items()}
        if isinstance(value, SimState):
            return SimState(**self._out(vars(value)))
        if isinstance(value, TerrainLookup):
            return HostView(value, self._device)
        return self._wrapped(value) if callable(value) else value

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._out(function(*map(self._in, args), **{k: self._in(v) for k, v in kwargs.items()}))

        return call

    def _in(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(self._device)
        if isinstance(value, dict):
            return {key: self._in(item) for key, item in value.items()}
        return value
