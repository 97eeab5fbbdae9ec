"""Loss terms: PPO's, those against a teacher, and further ones by name.

A term of your own is a function of `LossInputs` that returns a scalar. Name it in your package's entry points of the group
`gaussgym.losses` (or register it in the process), and give it a weight in `Recipe.losses`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.registry import Registry
from rsl_rl.models import MLPModel
from torch import Tensor, nn

from gaussgym_learn.rollout import Minibatch


@dataclass
class LossInputs:
    """What a loss term is computed from.

    Attributes:
        batch: recorded steps; `[...]` is `[T, B]` for recurrent actors and `[N]` for others.
        actor: the model.
        latent: the input of the actor's MLP, `[..., L]`, with gradient.
        params: parameters of the action distribution now (mean and deviation of a Gaussian), `[..., A]` each, with gradient.
        progress: of the run, 0..1.
    """

    batch: Minibatch
    actor: MLPModel
    latent: Tensor
    params: tuple[Tensor, ...]
    progress: float = 0.0


LOSSES: Registry[Callable[[LossInputs], Tensor]] = Registry("loss", "gaussgym.losses")
"""Loss terms by name."""


@LOSSES.register("action_smoothness")
def action_smoothness(inputs: LossInputs) -> Tensor:
    """Mean squared change of the mean action between consecutive steps of an episode (CAPS, arXiv 2012.06644, temporal).

    Raises:
        InputError: a feed-forward actor, whose minibatches do not hold consecutive steps.
    """
    mean, starts = inputs.params[0], inputs.batch.starts
    if mean.ndim != 3:
        raise InputError(
            "loss 'action_smoothness': the actor is feed-forward; expected a recurrent one, leave it out"
        )
    within = ~starts[1:]
    change = (mean[1:] - mean[:-1]).square().mean(dim=-1)
    return (change * within).sum() / within.sum().clamp_min(1)


def surrogate_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, clip: float, where: Tensor | None = None
) -> Tensor:
    """PPO's clipped surrogate (Schulman et al., arXiv 1707.06347), negated, a scalar.

    Args:
        log_prob: of the actions now, `[...]`.
        old_log_prob: when they were taken.
        advantages: normalized.
        clip: of the importance ratio.
        where: bool, the steps that count; None for all.
    """
    ratio = torch.exp(log_prob - old_log_prob)
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return mean_where(torch.max(-advantages * ratio, -advantages * clipped), where)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip: float, where: Tensor | None = None
) -> Tensor:
    """Squared error of the value, or of the value that moved by at most `clip` if that is the worse, a scalar.

    Args:
        values: now, `[...]`.
        old_values: when the actions were taken.
        returns: targets.
        clip: furthest move [reward units].
        where: bool, the steps that count; None for all.
    """
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return mean_where(torch.max((values - returns).square(), (clipped - returns).square()), where)


def behaviour_loss(actions: Tensor, teacher_actions: Tensor, delta: float) -> Tensor:
    """Huber loss between the student's and the teacher's actions, a scalar.

    Args:
        actions: means, `[..., A]`.
        teacher_actions: `[..., A]`.
        delta: where it becomes linear [action units].
    """
    return nn.functional.huber_loss(actions, teacher_actions, delta=delta)


def mean_where(values: Tensor, where: Tensor | None) -> Tensor:
    """Mean over the entries where a mask holds, 0 if it holds nowhere."""
    if where is None:
        return values.mean()
    return (values * where).sum() / where.sum().clamp_min(1)
