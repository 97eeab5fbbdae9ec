"""How a run is laid out in Weights & Biases: a section a prefix (Train, Loss, Reward, Gradient, ...), all over the same steps."""

from __future__ import annotations

from typing import Any

SECTIONS = (
    "Train",
    "Loss",
    "Policy",
    "Perf",
    "Episode",
    "Reward",
    "Gradient",
    "Curriculum",
    "Eval",
    "Distill",
)
"""Prefixes of a run's scalars; wandb makes a section of panels of each."""

_BEST = {"Train/mean_reward": "max", "Train/success": "max", "Eval/success": "max", "Episode/fell": "min"}


def lay_out(run: Any) -> None:
    """Tell a wandb run what its panels are drawn over, and what of each curve a table of runs shows.

    Curves are over the control steps of all environments together, so that runs with rollouts of different sizes lie on one
    another; tables of runs show the best value of what is wanted, and the last of everything else. Works offline.
    """
    run.define_metric("steps", hidden=True)
    run.define_metric("minutes", step_metric="steps")
    for section in SECTIONS:
        run.define_metric(f"{section}/*", step_metric="steps")
    for name, which in _BEST.items():
        run.define_metric(name, step_metric="steps", summary=which)
