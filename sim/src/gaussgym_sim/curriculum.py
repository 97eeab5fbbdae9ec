"""What gets harder as robots get better: the level of their path, the distance of their goal, the scene they walk in."""

from __future__ import annotations

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
