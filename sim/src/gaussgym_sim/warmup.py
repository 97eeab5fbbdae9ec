"""Compiles the numba kernels of physics ahead of the first run, by using each once."""

from __future__ import annotations

import numpy as np
import torch
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.scene import Scene

from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.ground.terrain import ground_of
from gaussgym_sim.grounds import flat_scene, place, wavy_scene
from gaussgym_sim.vecsim import make_sim


def compile_kernels() -> float:
    """Step robots, begin episodes, cast a ray and find a wall; numba keeps what it compiles beside the sources.

    Returns:
        Distance that the ray found [m].
    """
    wall = Mesh(np.array([(1, 1, 0), (1, -1, 0), (1, 0, 2)], np.float32), np.array([[0, 1, 2]], np.int32))
    scene = flat_scene()
    for mode in ("boxes", "mesh"):
        ground_of(Scene("walled", heightfield=scene.heightfield, mesh=wall, paths=scene.paths), mode)
    for ground in (scene, wavy_scene()):  # kernels know planes by their strides
        env = Env(make_sim("mujoco", "go1", [ground], 1), EnvCfg(episode_s=0.04))
        for _ in range(3):
            env.step(torch.zeros(1, env.num_actions))
    sim = make_sim("mujoco", "go1", [wavy_scene()], 1)
    sim.step(place(sim, pos_w=torch.tensor([[0.0, 0.0, 1.5]])))
    down = torch.tensor([[[0.0, 0.0, -1.0]]])
    return float(sim.raycast(sim.state.root_pos_w[:, None], down))
