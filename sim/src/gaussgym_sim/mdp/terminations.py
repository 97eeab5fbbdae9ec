"""When an episode ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gaussgym_sim.mdp.step_kernels import end_episodes
from gaussgym_sim.vecsim import SimState


@dataclass(frozen=True)
class TerminationCfg:
    """Limits."""

    max_tilt_rad: float = math.radians(60.0)
    min_base_height_m: float = -0.3
    """Base this far below the ground beside it means that it fell off or through."""
    border_margin_m: float = 0.15
    """Distance to the ground's border at which the episode is cut short (a time-out, not a fall)."""


def fell(state: SimState, gravity_b: Tensor, height_over_ground_m: Tensor, cfg: TerminationCfg) -> Tensor:
    """Trunk contact, tilt beyond the limit, or below the ground: [E] bool."""
    tilted = gravity_b[:, 2] > -math.cos(cfg.max_tilt_rad)
    return state.trunk_contact | tilted | (height_over_ground_m < cfg.min_base_height_m)


@dataclass(frozen=True)
class Ends:
    """Episodes that end in a step, [E] bool each but ``time_outs``, which is float.

    Attributes:
        fell: failed.
        success: reached what the task wants.
        time_outs: 1.0 for those cut short rather than failed.
        dones: all that end.
    """

    fell: Tensor
    success: Tensor
    time_outs: Tensor
    dones: Tensor


@dataclass(frozen=True)
class Reasons:
    """Why episodes may end beside a fall, [E] bool each.

    Attributes:
        bad: the action was not finite.
        failed, reached, cut: of the task.
        outside: at the ground's border.
        leaving: the scene changes.
    """

    bad: Tensor
    failed: Tensor
    reached: Tensor
    cut: Tensor
    outside: Tensor
    leaving: Tensor


def find_ends(
    state: SimState, gravity_b: Tensor, height_m: Tensor, cfg: TerminationCfg, age: Tensor, max_age: int, reasons: Reasons
) -> Ends:  # fmt: skip
    """Episodes that end, given their ``age`` [E] in steps, at most ``max_age``; other arguments as for `fell`."""
    if age.device.type != "cpu":
        return _find_ends_by_tensors(state, gravity_b, height_m, cfg, age, max_age, reasons)
    found = [torch.empty_like(state.trunk_contact) for _ in range(3)]
    fell, success, dones = found
    result, limits = (
        Ends(fell, success, torch.empty_like(height_m), dones),
        (-math.cos(cfg.max_tilt_rad), cfg.min_base_height_m),
    )
    body = (state.trunk_contact, state.invalid, gravity_b, height_m, age)
    end_episodes(
        *limits, max_age, *(t.numpy() for t in (*body, *vars(reasons).values(), *vars(result).values()))
    )
    return result


def _find_ends_by_tensors(
    state: SimState, gravity_b: Tensor, height_m: Tensor, cfg: TerminationCfg, age: Tensor, max_age: int, reasons: Reasons
) -> Ends:  # fmt: skip
    r = reasons
    failed = fell(state, gravity_b, height_m, cfg) | state.invalid | r.bad | r.failed
    success = r.reached & ~failed
    cut = ((age >= max_age) | r.outside | r.cut | success | r.leaving) & ~failed
    return Ends(failed, success, cut.float(), failed | cut)
