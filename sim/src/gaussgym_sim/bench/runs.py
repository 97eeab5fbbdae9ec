"""Contestants: an environment under random actions, with its time by part, and physics alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gaussgym_scene.scene import Scene

from gaussgym_sim.bench.timing import Stopwatch
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.grounds import flat_scene, heights_scene
from gaussgym_sim.presets import randomize_preset
from gaussgym_sim.vecsim import VecSim

_PLANS = 8


def stairs_scene(rise_m: float = 0.1, tread_m: float = 0.3, *, cell_m: float = 0.05) -> Scene:
    """Up and down again along x, as fine as captured ground."""
    return heights_scene(
        lambda x, y: rise_m * np.floor(np.clip(4.0 - np.abs(x), 0.0, 3.0) / tread_m),
        cell_m=cell_m,
        name=f"stairs {100 * rise_m:.0f} cm",
    )


def standard_grounds() -> list[Scene]:
    """What `gaussgym-sim bench` runs on by default: a plane, and stairs up and down again."""
    return [flat_scene(), stairs_scene()]


def random_actions(num_envs: int, num_actions: int, *, seed: int = 0) -> torch.Tensor:
    """[8, E, J] normal actions, to be given in turn."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(_PLANS, num_envs, num_actions, generator=generator)


class EnvRun:
    """An environment under random actions: observations, noise, rewards, resets, randomization.

    Three stopwatches, one inside the other: the whole step, `VecSim.step` in it, and in that the engine's own step: for MuJoCo
    the calls of `mujoco.batch`, the bare stepping of the very same model, states and controls. What is left is overhead.

    Args:
        sim: physics; closed by nobody here.
        steps: control steps a call.
        settle: control steps before the first.
        randomize: a preset's name; what the backend does not have is left out.
    """

    def __init__(self, sim: VecSim, *, steps: int, settle: int = 20, randomize: str = "default") -> None:
        self._whole, self._physics, self._engine = Stopwatch(cpu=True), Stopwatch(), Stopwatch()
        varied, _ = randomize_preset(randomize).supported_by(sim.capabilities)
        self.env = Env(sim, EnvCfg(randomize=varied), seed=0)
        self._actions = random_actions(sim.num_envs, self.env.num_actions).to(sim.device)
        self._steps, self._turn = steps, 0
        for _ in range(settle):
            self._step()
        sim.step = self._physics.around(sim.step)  # type: ignore[method-assign]
        self._has_engine = False
        for slot in getattr(sim, "_slots", ()):  # of `MujocoSim`; other backends have no such seam
            slot.step_once = self._engine.around(slot.step_once)
            self._has_engine = True

    def _step(self) -> None:
        self.env.step(self._actions[self._turn % _PLANS])
        self._turn += 1

    def __call__(self) -> dict[str, float]:
        """Rates a second and a CPU second of this process, and milliseconds by part of a step of all envs."""
        for watch in (self._whole, self._physics, self._engine):
            watch.reset()
        with self._whole:
            for _ in range(self._steps):
                self._step()
        whole, physics = self._whole, self._physics
        control = self.env.num_envs * self._steps
        substeps = control * self.env.cfg.substeps
        ms = 1e3 / self._steps
        numbers = {
            "control_steps_per_s": control / whole.wall_s,
            "physics_steps_per_s": substeps / physics.wall_s,
            "control_steps_per_cpu_s": control / whole.cpu_s,
            "us_per_env_step": 1e6 * whole.wall_s / control,
            "cpu_us_per_env_step": 1e6 * whole.cpu_s / control,
            "physics_ms": ms * physics.wall_s,
            "environment_ms": ms * (whole.wall_s - physics.wall_s),
        }
        return numbers | (self._overhead() if self._has_engine else {})

    def _overhead(self) -> dict[str, float]:
        whole, engine = self._whole, self._engine
        return {
            "engine_ms": 1e3 / self._steps * engine.wall_s,
            "overhead_percent": 100 * (whole.wall_s / engine.wall_s - 1),
        }


class SimRun:
    """Physics alone: robots on their feet under small random targets; those that fell stay down.

    Args:
        sim: physics.
        steps: control steps a call.
    """

    def __init__(self, sim: VecSim, *, steps: int) -> None:
        self._sim, self._steps = sim, steps
        pose = torch.tensor(sim.robot.default_joint_pos)
        self._targets = (pose + 0.25 * random_actions(sim.num_envs, sim.robot.num_joints).clamp(-1, 1)).to(
            sim.device
        )
        self._start = _standing(sim)

    def __call__(self) -> dict[str, float]:
        """From the same start each time."""
        self._sim.reset(torch.arange(self._sim.num_envs, device=self._sim.device), **self._start)
        watch = Stopwatch(cpu=True)
        with watch:
            for i in range(self._steps):
                self._sim.step(self._targets[i % _PLANS])
            if self._sim.device.type == "cuda":
                torch.cuda.synchronize(self._sim.device)
        control = self._sim.num_envs * self._steps
        return {
            "control_steps_per_s": control / watch.wall_s,
            "physics_steps_per_s": 4 * control / watch.wall_s,
            "control_steps_per_cpu_s": control / watch.cpu_s,
            "ms_per_step": 1e3 * watch.wall_s / self._steps,
        }


def _standing(sim: VecSim) -> dict[str, Any]:
    """Arguments of `VecSim.reset`: every robot on the ground at the first point of its scene's paths."""
    count, device = sim.num_envs, sim.device
    first = torch.tensor(
        np.stack([scene.paths.points[len(scene.paths) // 2, :2] for scene in sim.scenes]), device=device
    )
    xy = first[sim.scene_of_env]
    ground = sim.terrain.sample(xy[:, None], sim.scene_of_env)
    height = ground + sim.robot.base_height_m + 0.03
    upright = torch.tensor([1.0, 0.0, 0.0, 0.0], device=device)
    joints = torch.tensor(sim.robot.default_joint_pos, device=device)
    zeros = torch.zeros(count, 3, device=device)
    return {
        "root_pos_w": torch.cat((xy, height), dim=1),
        "root_quat_wxyz": upright.repeat(count, 1),
        "root_lin_vel_w": zeros,
        "root_ang_vel_b": zeros.clone(),
        "joint_pos": joints.repeat(count, 1),
        "joint_vel": torch.zeros(count, len(joints), device=device),
    }
