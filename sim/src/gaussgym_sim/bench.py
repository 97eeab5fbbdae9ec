"""Throughput of physics and of the environment around it, per wall second and per CPU second."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from gaussgym_scene.scene import Scene

from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.testing import flat_scene, heights_scene
from gaussgym_sim.vecsim import make_sim


class _Stopwatch:
    """Wall and CPU seconds spent in calls of one function."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.wall_s = self.cpu_s = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return self._function(*args, **kwargs)
        finally:
            self.wall_s += time.perf_counter() - wall
            self.cpu_s += time.process_time() - cpu


def stairs_scene(rise_m: float = 0.1, tread_m: float = 0.3, *, cell_m: float = 0.05) -> Scene:
    """Up and down again along x, as fine as captured ground."""
    return heights_scene(
        lambda x, y: rise_m * np.floor(np.clip(4.0 - np.abs(x), 0.0, 3.0) / tread_m),
        cell_m=cell_m,
        name=f"stairs {100 * rise_m:.0f} cm",
    )


def bench_env(
    scene: Scene, *, num_envs: int, steps: int, robot: str = "go1", num_threads: int | None = None
) -> dict[str, Any]:
    """Step random actions and count.

    Args:
        scene: the ground.
        num_envs: E.
        steps: control steps to time, after 30 to settle.
        robot: registry name.
        num_threads: physics threads; None = CPUs this process may use.

    Returns:
        Rates a second of wall time and of CPU time, and the milliseconds of one step of all envs.
    """
    sim = make_sim("mujoco", robot, [scene], num_envs, num_threads=num_threads)
    env = Env(sim, EnvCfg(), seed=0)
    generator = torch.Generator().manual_seed(0)
    actions = torch.randn(8, num_envs, env.num_actions, generator=generator)
    for i in range(30):
        env.step(actions[i % 8])
    watch = _Stopwatch(sim.step)
    sim.step = watch  # type: ignore[method-assign]
    wall, cpu = time.perf_counter(), time.process_time()
    for i in range(steps):
        env.step(actions[i % 8])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    control = num_envs * steps
    return {
        "ground": scene.name,
        "num_envs": num_envs,
        "threads": getattr(sim, "num_threads", None),
        "control_steps_per_s": round(control / wall),
        "physics_steps_per_s": round(control * env.cfg.substeps / watch.wall_s),
        "control_steps_per_cpu_s": round(control / cpu),
        "physics_steps_per_cpu_s": round(control * env.cfg.substeps / watch.cpu_s),
        "physics_cpu_ms_per_step": round(1e3 * watch.cpu_s / steps, 3),
        "env_cpu_ms_per_step": round(1e3 * (cpu - watch.cpu_s) / steps, 3),
        "env_wall_ms_per_step": round(1e3 * (wall - watch.wall_s) / steps, 3),
    }


def standard_grounds() -> list[Scene]:
    """What `gaussgym-sim bench` runs on by default."""
    return [flat_scene(), stairs_scene()]
