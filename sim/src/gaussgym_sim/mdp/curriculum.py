"""What gets harder as robots get better: the level of their path, the distance of their goal, the scene they walk in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gaussgym_sim.randomize import Uniform


def next_levels(
    level: Tensor, *, walked_m: Tensor, commanded_m: Tensor, num_levels: int, up_m: float, down_fraction: float, uniform: Uniform
) -> Tensor:  # fmt: skip
    """Levels [R] after episodes that end.

    Args:
        level: [R] before.
        walked_m: [R] distance from the start.
        commanded_m: [R] distance that was commanded.
        num_levels: how many the scenes have; who has mastered all gets any of them.
        up_m: distance from the start at which an env has mastered its level.
        down_fraction: share of the commanded distance below which it falls back.
        uniform: random numbers.
    """
    up = walked_m > up_m
    down = (walked_m < down_fraction * commanded_m) & ~up
    changed = level + up.long() - down.long()
    again = (uniform(0.0, 1.0, len(level)) * num_levels).long()
    changed = changed.where(~up | (changed < num_levels), again)
    return changed.clamp(min=0)


@dataclass(frozen=True)
class GoalDistanceCfg:
    """How far goals are away: further as they are reached more often, in each scene by itself."""

    first_m: float = 2.0
    last_m: float = 10.0
    step_m: float = 0.5
    up: float = 0.7
    """Share of successes from which on goals move away by a step."""
    down: float = 0.3
    """Share of successes down to which they come nearer by one."""
    episodes: int = 20
    """Episodes of a scene after which its share is judged, and counted anew."""


_KEPT = ("distance_m", "_ended", "_reached")


class GoalDistance:
    """Distance of goals in each scene.

    Attributes:
        distance_m: [S].
    """

    def __init__(self, cfg: GoalDistanceCfg, num_scenes: int, device: torch.device) -> None:
        """All at the first distance."""
        self.cfg = cfg
        self.distance_m = torch.full((num_scenes,), cfg.first_m, device=device)
        self._ended, self._reached = torch.zeros_like(self.distance_m), torch.zeros_like(self.distance_m)

    def reset(self) -> None:
        """Back to the first distance."""
        self.distance_m.fill_(self.cfg.first_m)
        self._ended.zero_()
        self._reached.zero_()

    def of(self, scene_ids: Tensor) -> Tensor:
        """Distance [R] in the scenes ``scene_ids`` [R]."""
        return self.distance_m[scene_ids]

    def update(self, scene_ids: Tensor, success: Tensor) -> None:
        """Count episodes that ended in scenes ``scene_ids`` [R], with their success [R] bool."""
        c = self.cfg
        self._ended.index_add_(0, scene_ids, torch.ones_like(success, dtype=torch.float32))
        self._reached.index_add_(0, scene_ids, success.float())
        judged = self._ended >= c.episodes
        share = self._reached / self._ended.clamp(min=1.0)
        steps = (judged & (share >= c.up)).float() - (judged & (share <= c.down)).float()
        self.distance_m.add_(steps, alpha=c.step_m).clamp_(c.first_m, c.last_m)
        self._ended.masked_fill_(judged, 0.0)
        self._reached.masked_fill_(judged, 0.0)

    def slot_state(self, slot: int) -> Tensor:
        """[3] what is known of the scene in a slot, to put it back when that scene comes again."""
        return torch.stack([getattr(self, name)[slot] for name in _KEPT])

    def fill_slot(self, slot: int, state: Tensor | None) -> None:
        """Another scene comes into a slot, with its `slot_state`; None: one that was never there."""
        first = torch.tensor([self.cfg.first_m, 0.0, 0.0])
        for name, value in zip(_KEPT, first if state is None else state, strict=True):
            getattr(self, name)[slot] = value

    def state_dict(self) -> dict[str, Tensor]:
        """Distances and counts."""
        return {name: getattr(self, name).clone() for name in _KEPT}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        for name, value in state.items():
            getattr(self, name).copy_(value)
