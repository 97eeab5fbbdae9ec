"""What of a training process, beside networks and optimizers, a resumed one needs: random numbers, curricula, episodes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gaussgym_learn.env import LearnEnv
from gaussgym_learn.metrics import EpisodeStatistics


def process_seed(seed: int, iteration: int, rank: int) -> int:
    """Seed of one process's random numbers after an iteration of a run."""
    return (seed * 1_000_003 + iteration) + 7_368_787 * rank


def process_state(
    env: LearnEnv, stats: EpisodeStatistics, models: Sequence[nn.Module], **more: Any
) -> dict[str, Any]:
    """The state of this process between two updates.

    Args:
        env: whose episodes go on, where it has a `LearnEnv.state_dict`.
        stats: over its episodes.
        models: those that act; their memories go on with the episodes.
        **more: tensors and plain values of the caller's that go on with the episodes.

    Returns:
        Tensors and plain values. ``episodes`` is None where the environment has no state: the caller then begins all episodes
        anew, in the run that goes on just as in one that resumes.
    """
    running = env.state_dict()
    episodes = None
    if running is not None:
        episodes = {"env": running, "memories": [_memory(model) for model in models], **more}
    state = {"torch_rng": torch.get_rng_state(), "curriculum": env.curriculum_state(), "stats": stats.state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda_rng"] = torch.cuda.get_rng_state()
    return {**state, "episodes": episodes}


def load_process_state(
    state: dict[str, Any], env: LearnEnv, stats: EpisodeStatistics, models: Sequence[nn.Module]
) -> dict[str, Any] | None:
    """Go on where `process_state` was taken.

    Args:
        state: its result.
        env: see there.
        stats: see there.
        models: see there; in the same order.

    Returns:
        The ``episodes`` with the caller's own values in them, or None: the caller must then begin all episodes anew.

    Raises:
        InputError: of an environment of other settings.
    """
    env.load_curriculum_state(state["curriculum"])
    stats.load_state(state["stats"])
    torch.set_rng_state(state["torch_rng"])
    if "cuda_rng" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda_rng"])
    episodes = state["episodes"]
    if episodes is not None:
        env.load_state_dict(episodes["env"])
        for model, memory in zip(models, episodes["memories"], strict=True):
            _remember(model, memory)
    return episodes


def _memory(model: nn.Module) -> dict[str, Any]:
    hidden = model.get_hidden_state() if getattr(model, "is_recurrent", False) else None  # type: ignore[operator]
    return {"hidden": _cloned(hidden), "features": _cloned(getattr(model, "_held_features", None))}


def _remember(model: nn.Module, memory: dict[str, Any]) -> None:
    if memory["hidden"] is not None:
        model.reset(hidden_state=_cloned(memory["hidden"]))  # type: ignore[operator]
    if hasattr(model, "_held_features"):
        model._held_features = _cloned(memory["features"])  # type: ignore[assignment]


def _cloned(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_cloned(item) for item in value)
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def packed(state: dict[str, Any]) -> bytes:
    """A state as bytes, to send it to the process that writes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpacked(data: bytes) -> dict[str, Any]:
    """Inverse of `packed`."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
