"""``stepping_stones``: as ``gaps``, where all ground that carries is small: slower, and stricter about edges."""

from __future__ import annotations

from dataclasses import replace

from gaussgym_sim.mdp.commands import CommandCfg
from gaussgym_sim.task import RewardTerm
from gaussgym_sim.tasks.gaps import REWARDS, in_gap, near_edge
from gaussgym_sim.tasks.gaps import TASK as GAPS

TASK = replace(
    GAPS,
    name="stepping_stones",
    defaults={
        "rewards": replace(REWARDS, foothold=-2.0),
        "commands": CommandCfg(lin_vel_x_m_s=(0.2, 0.6), heading_fraction=1.0, standing_fraction=0.0),
    },
    rewards={"near_edge": RewardTerm(-2.0, near_edge), "in_gap": RewardTerm(-2.0, in_gap)},
)
