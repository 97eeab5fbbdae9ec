"""Left and right in training: recorded steps as the robot's mirror image would have recorded them.

Observations and actions go through the robot's maps (`gaussgym_sim.mdp.symmetry.Symmetry`); images are flipped when they are
encoded, so that no second copy of them is kept; a recurrent actor's memory of the mirrored past is carried from rollout to
rollout by replaying it (`gaussgym_learn.ppo.Learner`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from gaussgym_learn.recurrence import State
from gaussgym_learn.rollout import Minibatch


class MirrorMaps(Protocol):
    """What observations and actions are to the mirrored robot; maps are their own inverse."""

    def observations(self, groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """1-D observation groups `[..., D]` by name, mirrored."""
        ...

    def actions(self, action: Tensor) -> Tensor:
        """Actions `[..., A]`, mirrored."""
        ...


def mirrored(batch: Minibatch, maps: MirrorMaps, hidden: State | None = None) -> Minibatch:
    """Recorded steps of the mirrored robot in the mirrored world.

    What the actor and the critic said stays as it was: the mirrored behaviour took the mirrored action with the same
    probability, and its returns are the same. `old_params` are not mirrored, and there is no teacher's latent.

    Args:
        batch: the steps.
        maps: of observations and actions.
        hidden: the actor's memory of the mirrored past, or None if it has none.
    """
    groups = maps.observations(batch.observations())
    teacher = batch.teacher_actions
    return replace(
        batch,
        flat=torch.cat([groups[name] for name in batch.columns], dim=-1),
        actions=maps.actions(batch.actions),
        teacher_actions=None if teacher is None else maps.actions(teacher),
        teacher_latent=None,
        hidden=hidden,
        mirrored=not batch.mirrored,
    )


def partly_mirrored(batch: Minibatch, maps: MirrorMaps, share: float) -> Minibatch:
    """A feed-forward actor's minibatch whose first steps are those of the mirrored robot; the order of its steps is random.

    `old_params` are those of the robot that was.

    Args:
        batch: the steps, `[N, ...]`.
        maps: of observations and actions.
        share: of the steps that are mirrored, 0..1.
    """
    count = round(share * len(batch.actions))
    groups = maps.observations({name: value[:count] for name, value in batch.observations().items()})

    def joined(first: Tensor, whole: Tensor) -> Tensor:
        return torch.cat([first, whole[count:]])

    teacher = batch.teacher_actions
    return replace(
        batch,
        flat=joined(torch.cat([groups[name] for name in batch.columns], dim=-1), batch.flat),
        actions=joined(maps.actions(batch.actions[:count]), batch.actions),
        teacher_actions=None if teacher is None else joined(maps.actions(teacher[:count]), teacher),
    )
