"""How well a policy does: fixed starts, one episode each, with confidence intervals and an image ablation."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from gaussgym_sim.env import EnvCfg
from tensordict import TensorDict
from tqdm import tqdm

from gaussgym_learn.env import GaussgymVecEnv, make_env, open_scenes
from gaussgym_learn.models import IMAGE_GROUP, NEW_FRAME_GROUP
from gaussgym_learn.policies import ActingPolicy, load_policy

ABLATIONS = ("none", "blank", "shuffled")
EPISODE_S = {"goal": 30.0, "velocity": 20.0}
"""Time limit of an evaluation episode [s]; a goal is 10 m away and the commanded speed at least 0.6 m/s."""
_BLANK_LEVEL = 127
_GRAVITY = 9.81


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron 1979).

    Args:
        values: one number an episode, `[N]`; NaN is left out.
        level: confidence.
        resamples: bootstrap samples.
        seed: of the resampling.
    """
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ablate_images(obs: TensorDict, ablate: str, rng: torch.Generator) -> TensorDict:
    """Take the image's information away.

    Args:
        obs: observations with `rgb` and `rgb_new`.
        ablate: `none`; `blank`: uniform grey; `shuffled`: every camera frame is that of a random other environment.
        rng: draws the permutation.
    """
    if ablate == "none" or IMAGE_GROUP not in obs.keys():
        return obs
    rgb = obs[IMAGE_GROUP]
    if ablate == "blank":
        changed = torch.full_like(rgb, _BLANK_LEVEL)
    else:
        count = len(rgb)
        order = torch.randperm(count, generator=rng)
        other = torch.empty_like(order)
        other[order] = order.roll(1)  # a cycle through all: nobody gets their own
        changed = rgb[other]
    out = obs.clone(recurse=False)
    out[IMAGE_GROUP] = changed
    return out


class _Tally:
    """Sums over the first episode of each environment."""

    def __init__(self, env: GaussgymVecEnv) -> None:
        count = env.num_envs
        self.env = env
        self.running = torch.ones(count, dtype=torch.bool)
        self.success, self.fell = (torch.zeros(count, dtype=torch.bool) for _ in range(2))
        self.seconds, self.error, self.yaw_error, self.work_j, self.path_m = (torch.zeros(count) for _ in range(5))
        self._last_xy = env.sim.state.root_pos_w[:, :2].clone()

    def add(self, command: torch.Tensor, dones: torch.Tensor, extras: dict[str, Any]) -> None:
        """Account for one control step; quantities of a step that ended an episode count for neither."""
        env, dt = self.env, self.env.control_dt_s
        state, alive = env.sim.state, self.running & (dones == 0)
        velocity_b = env.env._lin_vel_b
        error = (velocity_b[:, :2] - command[:, :2]).norm(dim=1)
        power = (state.joint_torque * state.joint_vel).abs().sum(dim=1)
        moved = (state.root_pos_w[:, :2] - self._last_xy).norm(dim=1)
        self.seconds += dt * alive
        self.error += dt * error * alive
        self.yaw_error += dt * (state.root_ang_vel_b[:, 2] - command[:, 2]).abs() * alive
        self.work_j += dt * power * alive
        self.path_m += moved * alive
        self._last_xy.copy_(state.root_pos_w[:, :2])
        ended = self.running & (dones != 0)
        self.success |= ended & extras["success"]
        self.fell |= ended & extras["fell"]
        self.running &= ~ended


def evaluate(
    policy: Path | str | ActingPolicy,
    scenes: Sequence[Scene | Path | str] | Scene | Path | str,
    *,
    task: str = "goal",
    episodes: int = 256,
    ablate: str = "none",
    seed: int = 1234,
    robot: str = "go1",
    sim: str = "mujoco",
    renderer: str = "auto",
    max_parallel: int = 256,
    progress: bool = False,
    cfg: EnvCfg | None = None,
) -> dict[str, Any]:
    """Run one episode from each fixed start and summarize.

    Args:
        policy: run folder, bundle folder, or a policy.
        scenes: where; the episodes are split over them evenly.
        task: `goal` (reach a point at least 10 m along the path) or `velocity`.
        episodes: number of starts.
        ablate: see `ablate_images`.
        seed: of the starts: the same seed gives the same starts to every policy.
        robot: registry name.
        sim: physics backend.
        renderer: backend of the camera.
        max_parallel: environments at once.
        progress: show a bar on stderr.
        cfg: the learning problem, for other commands or observations than the default; evaluated without noise,
            randomization or curriculum.

    Returns:
        A plain dictionary: `success`, `fell`, `timeout` (shares of the episodes), `velocity_error_m_s`, `yaw_rate_error_rad_s`,
        `cost_of_transport`, `seconds_mean`, an interval `<name>_ci95` for each, `per_scene`, and `per_episode` lists.

    Raises:
        InputError: unknown ablation, no episodes, or a policy that does not fit.
    """
    if ablate not in ABLATIONS:
        raise InputError(f"unknown ablation {ablate!r}; choose one of: {', '.join(ABLATIONS)}")
    if episodes < 1:
        raise InputError(f"{episodes} episodes, expected at least 1")
    acting = policy if not isinstance(policy, Path | str) else load_policy(policy)
    opened = open_scenes(scenes)
    if ablate != "none" and not acting.sees:
        raise InputError(f"{acting.name}: does not see, so there is no image to ablate; use ablate 'none'")
    cfg = evaluation_cfg(task, cfg)
    start = time.perf_counter()
    rounds = _rounds(episodes, max(max_parallel, len(opened)))
    results: list[dict[str, np.ndarray]] = []
    bar = tqdm(total=episodes, desc=f"evaluate {ablate}", unit="episode", disable=not progress)
    for number, count in enumerate(rounds):
        env = make_env(
            task,
            opened,
            max(count, len(opened)),
            robot=robot,
            sim=sim,
            renderer=renderer if acting.sees else None,
            seed=seed + number,
            cfg=cfg,
        )
        results.append(run_episodes(acting, env, ablate=ablate, seed=seed + number, bar=bar))
    bar.close()
    table = {key: np.concatenate([r[key] for r in results])[:episodes] for key in results[0]}
    summary = summarize(table, [scene.name for scene in opened])
    return {
        "policy": acting.name,
        "task": task,
        "ablate": ablate,
        "seed": seed,
        **summary,
        "wall_seconds": round(time.perf_counter() - start, 1),
    }


def evaluation_cfg(task: str, cfg: EnvCfg | None = None) -> EnvCfg:
    """The learning problem without anything random beside the starts, with the evaluation's time limit."""
    base = dataclasses.replace((cfg or EnvCfg()).for_evaluation(), task=task, episode_s=EPISODE_S[task])
    return dataclasses.replace(base, commands=dataclasses.replace(base.commands, standing_fraction=0.0))


def run_episodes(
    policy: ActingPolicy,
    env: GaussgymVecEnv,
    *,
    ablate: str = "none",
    seed: int = 0,
    bar: tqdm | None = None,
) -> dict[str, np.ndarray]:
    """The first episode of each environment, `[E]` arrays by quantity.

    Args:
        policy: acts, deterministically.
        env: freshly reset.
        ablate: see `ablate_images`.
        seed: of the ablation.
        bar: advanced as episodes end.
    """
    policy.check(env)
    policy.reset()
    rng = torch.Generator().manual_seed(seed)
    tally, obs = _Tally(env), env.get_observations()
    shown = ablate_images(obs, ablate, rng)
    for _ in range(int(env.max_episode_length) + 1):
        command = env.env.commands.command.clone()
        obs, _, dones, extras = env.step(policy.act(shown))
        policy.reset(dones)
        before = int(tally.running.sum())
        tally.add(command, dones, extras)
        if bar is not None:
            bar.update(before - int(tally.running.sum()))
        if not bool(tally.running.any()):
            break
        if ablate != "shuffled" or bool(obs[NEW_FRAME_GROUP].any()):
            shown = ablate_images(obs, ablate, rng)
        else:  # between camera frames the shuffled images are held as the true ones are
            held = shown[IMAGE_GROUP]
            shown = obs.clone(recurse=False)
            shown[IMAGE_GROUP] = held
    seconds = tally.seconds.clamp_min(env.control_dt_s)
    mass_kg = float(env.sim.robot.trunk_mass_kg) if not hasattr(env.sim, "total_mass_kg") else env.sim.total_mass_kg
    return {
        "success": tally.success.numpy().astype(float),
        "fell": tally.fell.numpy().astype(float),
        "seconds": seconds.numpy(),
        "velocity_error_m_s": (tally.error / seconds).numpy(),
        "yaw_rate_error_rad_s": (tally.yaw_error / seconds).numpy(),
        "cost_of_transport": (tally.work_j / (mass_kg * _GRAVITY * tally.path_m.clamp_min(0.1))).numpy(),
        "path_m": tally.path_m.numpy(),
        "scene": env.sim.scene_of_env.numpy().copy(),
    }


def summarize(table: dict[str, np.ndarray], scene_names: Sequence[str]) -> dict[str, Any]:
    """Means, intervals and per-scene success of `run_episodes`' arrays."""
    out: dict[str, Any] = {"episodes": len(table["success"])}
    timeout = 1.0 - table["success"] - table["fell"]
    for key, values in (*table.items(), ("timeout", timeout)):
        if key == "scene":
            continue
        name = "seconds_mean" if key == "seconds" else "path_m_mean" if key == "path_m" else key
        out[name] = round(float(np.nanmean(values)), 4)
        out[f"{name}_ci95"] = [round(x, 4) for x in bootstrap_interval(values)]
    out["per_scene"] = {
        f"{name}": {
            key: round(float(table[key][table["scene"] == i].mean()), 4) for key in ("success", "fell")
        }
        for i, name in enumerate(scene_names)
        if (table["scene"] == i).any()
    }
    out["per_episode"] = {
        "success": table["success"].astype(int).tolist(),
        "fell": table["fell"].astype(int).tolist(),
        "scene": table["scene"].astype(int).tolist(),
    }
    return out


def _rounds(episodes: int, parallel: int) -> list[int]:
    full, rest = divmod(episodes, parallel)
    return [parallel] * full + ([rest] if rest else [])
