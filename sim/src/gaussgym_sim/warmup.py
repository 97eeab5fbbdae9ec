"""Compiles the numba kernels of physics ahead of the first run, by using each once."""

from __future__ import annotations

import torch

from gaussgym_sim.grounds import place, wavy_scene
from gaussgym_sim.vecsim import make_sim


def compile_kernels() -> float:
    """Step a robot and cast a ray; numba keeps what it compiles beside the sources.

    Returns:
        Distance that the ray found [m].
    """
    sim = make_sim("mujoco", "go1", [wavy_scene()], 1)
    sim.step(place(sim, pos_w=torch.tensor([[0.0, 0.0, 1.5]])))
    down = torch.tensor([[[0.0, 0.0, -1.0]]])
    return float(sim.raycast(sim.state.root_pos_w[:, None], down))
