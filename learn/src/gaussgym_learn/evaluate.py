"""How well a policy does: fixed starts, one episode each, with intervals. The engine of `gaussgym_learn.evaluation`."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gaussgym_deploy.metrics import bootstrap_interval, summarize
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.mdp.starts import Starts, sample_starts
from gaussgym_sim.task import get_task
from tensordict import TensorDict
from tqdm import tqdm

from gaussgym_learn.acting import ActingPolicy, load_policy, reads
from gaussgym_learn.checkpoint import write_bytes
from gaussgym_learn.commanding import make_policy_env
from gaussgym_learn.env import GaussgymVecEnv
from gaussgym_learn.evaluation.ablations import ABLATIONS, DELAY_S, ImageAblation, ablate_images, images_in
from gaussgym_learn.evaluation.subjects import settings_for
from gaussgym_learn.models import NEW_FRAME_GROUP
from gaussgym_learn.recipes import with_images
from gaussgym_learn.scene_list import open_scenes

__all__ = [
    "ABLATIONS",
    "EPISODE_S",
    "EpisodeRecorder",
    "ablate_images",
    "bootstrap_interval",
    "evaluate",
    "evaluation_cfg",
    "fixed_starts",
    "run_episodes",
    "summarize",
]

EPISODE_S = {"goal": 30.0, "velocity": 20.0, "corridor": 8.0}
"""Time limit of an evaluation episode [s]; a goal is 10 m away and the commanded speed at least 0.6 m/s."""
_GRAVITY = 9.81


class EpisodeObserver(Protocol):
    """Watches the episodes of `run_episodes`."""

    def add(self, obs: TensorDict, row: torch.Tensor, done: torch.Tensor) -> None:
        """Called before each control step.

        Args:
            obs: true observations.
            row: `[E]` episode of each environment.
            done: `[N]` episodes that are over.
        """
        ...

    def end(self, row: torch.Tensor, dones: torch.Tensor, over: torch.Tensor, extras: dict[str, Any]) -> None:
        """Called after each control step.

        Args:
            row: `[E]` episode of each environment during the step.
            dones: `[E]`, non-zero for environments that begin anew.
            over: `[E]` bool, those of them whose episode counts: it ended for the first time.
            extras: of the step.
        """
        ...


class _Tally:
    """Sums over episodes, one row each; an environment works on one row at a time."""

    def __init__(self, env: GaussgymVecEnv, episodes: int) -> None:
        self.env = env
        self.done, self.success, self.fell = (torch.zeros(episodes, dtype=torch.bool) for _ in range(3))
        self.seconds, self.error, self.yaw_error, self.work_j, self.path_m = (
            torch.zeros(episodes) for _ in range(5)
        )
        self.scene = torch.zeros(episodes, dtype=torch.long)
        self.metrics = {name: torch.zeros(episodes) for name in env.env.task.metrics}
        self._last_xy = env.sim.state.root_pos_w[:, :2].clone()

    def add(
        self, command: torch.Tensor, row: torch.Tensor, dones: torch.Tensor, extras: dict[str, Any]
    ) -> torch.Tensor:
        """Account for one control step; returns `[E]`, whose episodes ended in it.

        Args:
            command: `[E, 3]` in force during the step.
            row: `[E]` episode of each environment during the step.
            dones: `[E]`.
            extras: of the step. The motion in a step that ends an episode is not counted: its state is already the next start's.
        """
        env, dt = self.env, self.env.control_dt_s
        state, ended = env.sim.state, dones != 0
        counts = ~self.done[row]
        moving = counts & ~ended
        rows = row[moving]
        error = (env.env.lin_vel_b[:, :2] - command[:, :2]).norm(dim=1)
        yaw_error = (state.root_ang_vel_b[:, 2] - command[:, 2]).abs()
        power = (state.joint_torque * state.joint_vel).abs().sum(dim=1)
        moved = (state.root_pos_w[:, :2] - self._last_xy).norm(dim=1)
        self._last_xy.copy_(state.root_pos_w[:, :2])
        self.seconds[rows] += dt
        self.error[rows] += dt * error[moving]
        self.yaw_error[rows] += dt * yaw_error[moving]
        self.work_j[rows] += dt * power[moving]
        self.path_m[rows] += moved[moving]
        over = counts & ended
        self.scene[row[over]] = env.sim.scene_of_env[over]
        self.success[row[over]] = extras["success"][over]
        self.fell[row[over]] = extras["fell"][over]
        for name, values in extras["metrics"].items():
            self.metrics[name][row[over]] = values[over]
        self.done[row[over]] = True
        return over


def evaluate(
    policy: Path | str | ActingPolicy,
    scenes: Sequence[Scene | Path | str] | Scene | Path | str,
    *,
    task: str = "goal",
    episodes: int = 256,
    ablate: str = "none",
    delay_s: float = DELAY_S,
    seed: int = 1234,
    robot: str = "go1",
    sim: str = "mujoco",
    renderer: str = "auto",
    max_parallel: int = 256,
    progress: bool = False,
    cfg: EnvCfg | None = None,
    starts: Starts | None = None,
    record: Path | str | None = None,
    camera_model: str = "ideal",
    show_robot: bool = False,
    show_others: int = 0,
    lod: Sequence[Path | str] | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Run one episode from each fixed start and summarize.

    Args:
        policy: run folder, bundle folder, or a policy.
        scenes: where; the episodes are split over them evenly.
        task: `goal` (reach a point at least 10 m along the path), `velocity`, or another registered one (`goal_semantic`).
        episodes: number of starts.
        ablate: what to do to the images, see `ImageAblation`.
        delay_s: of the ablation `delayed` [s].
        seed: of the starts: the same seed gives the same starts to every policy.
        robot: registry name.
        sim: physics backend.
        renderer: backend of the camera.
        max_parallel: environments at once.
        progress: show a bar on stderr.
        starts: goal episodes to run instead of `fixed_starts(scenes, episodes, seed)`.
        record: write one episode (the first that succeeds, else the first) to this npz; see `EpisodeRecorder`.
        cfg: the learning problem, for other commands or observations than the default, with the camera and the observations that
            the policy was trained with; evaluated without noise, randomization or curriculum.
        camera_model: lens, shutter and sensor of the camera, see `gaussgym_learn.env.make_env`.
        show_robot: see there.
        show_others: see there; robots whose episodes are over stand where these ended.
        lod: see there.
        threads: of physics and rendering; None: as many as there are CPUs for it.

    Returns:
        A plain dictionary: `success`, `fell`, `timeout` (shares of the episodes), `velocity_error_m_s`, `yaw_rate_error_rad_s`,
        `cost_of_transport`, `seconds_mean`, the task's own metrics, an interval `<name>_ci95` for each, `falls_per_km`,
        `per_scene`, and `per_episode` lists.

    Raises:
        InputError: unknown ablation, no episodes, or a policy that does not fit.
    """
    ImageAblation(ablate, delay_steps=1)
    if episodes < 1:
        raise InputError(f"{episodes} episodes, expected at least 1")
    acting = policy if not isinstance(policy, Path | str) else load_policy(policy)
    opened = open_scenes(scenes)
    if ablate != "none" and not acting.sees:
        raise InputError(f"{acting.name}: does not see, so there is no image to ablate; use ablate 'none'")
    settings = settings_for(acting, EnvCfg.for_task(task)) if cfg is None else with_images(cfg, reads(acting))
    cfg = evaluation_cfg(task, settings)
    start = time.perf_counter()
    num_envs = min(max(episodes, len(opened)), max(max_parallel, len(opened)))
    kind = get_task(task)
    if kind.pursues_goal:
        starts = starts or fixed_starts(opened, episodes, seed=seed, task=task)
    elif num_envs < episodes:
        raise InputError(f"{episodes} episodes of the {task} task run at once; give at most {max_parallel}")
    env: Any = make_policy_env(
        getattr(acting, "commanding", None),
        task,
        opened,
        num_envs,
        robot=robot,
        sim=sim,
        renderer=renderer if acting.sees else None,
        seed=seed,
        cfg=cfg,
        starts=starts,
        camera_model=camera_model,
        show_robot=show_robot,
        show_others=show_others,
        lod=lod,
        num_threads=threads,
    )
    bar = tqdm(total=episodes, desc=f"evaluate {ablate}", unit="episode", disable=not progress)
    recorder = EpisodeRecorder(env) if record is not None else None
    ablation = ImageAblation(ablate, seed=seed, delay_steps=round(delay_s / env.control_dt_s))
    observers = () if recorder is None else (recorder,)
    table = run_episodes(acting, env, episodes=episodes, ablation=ablation, bar=bar, observers=observers)
    bar.close()
    if recorder is not None:
        recorder.save(Path(record), table)  # type: ignore[arg-type]
    return {
        "policy": acting.name,
        "task": task,
        "ablate": ablate,
        "camera_model": camera_model,
        "show_robot": show_robot,
        "show_others": show_others,
        "lod": None if lod is None else [Path(folder).name for folder in lod],
        "seed": seed,
        **summarize(table, [scene.name for scene in opened]),
        "wall_seconds": round(time.perf_counter() - start, 1),
    }


def fixed_starts(scenes: Sequence[Scene], episodes: int, *, seed: int = 1234, task: str = "goal") -> Starts:
    """The goal episodes of an evaluation: the same for every policy, and for sim2sim through `Starts.to_dict`.

    Args:
        scenes: over which they are split.
        episodes: how many.
        seed: of the list.
        task: whose `Task.start_copies` says how often each start stands in it.
    """
    copies = get_task(task).start_copies
    starts = sample_starts(scenes, -(-episodes // copies), seed=seed)
    if copies == 1:
        return starts
    return Starts(**{name: np.repeat(v, copies, axis=0)[:episodes] for name, v in vars(starts).items()})


def evaluation_cfg(task: str, cfg: EnvCfg | None = None) -> EnvCfg:
    """The learning problem without anything random beside the starts, with the evaluation's time limit.

    The velocity task is evaluated with forward commands of 0.5 to 1 m/s along the path, one an episode.
    """
    base = EnvCfg.for_task(task) if cfg is None else cfg
    base = dataclasses.replace(
        base.for_evaluation(), task=task, episode_s=EPISODE_S.get(task, EPISODE_S["goal"])
    )
    commands = dataclasses.replace(base.commands, standing_fraction=0.0)
    if task == "velocity":
        commands = dataclasses.replace(
            commands,
            lin_vel_x_m_s=(0.5, 1.0),
            lin_vel_y_m_s=(0.0, 0.0),
            heading_fraction=1.0,
            resample_s=10 * EPISODE_S[task],
        )
    return dataclasses.replace(base, commands=commands)


def run_episodes(
    policy: ActingPolicy,
    env: GaussgymVecEnv,
    *,
    episodes: int,
    ablation: ImageAblation | None = None,
    bar: tqdm | None = None,
    observers: Sequence[EpisodeObserver] = (),
) -> dict[str, np.ndarray]:
    """Run every start once (the environment's `starts`, else the first episode of each environment).

    Args:
        policy: acts, deterministically.
        env: freshly reset.
        episodes: number of starts, or of environments.
        ablation: what the policy is shown in place of its images; None: the truth.
        bar: advanced as episodes end.
        observers: see every step.

    Returns:
        `[N]` arrays by quantity, in the order of the starts.
    """
    policy.check(env)
    policy.reset()
    ablation = ablation or ImageAblation()
    tally, obs = _Tally(env, episodes), env.get_observations()
    shown = ablation.show(obs, torch.ones(env.num_envs, dtype=torch.bool))
    longest = int(env.max_episode_length) * (1 + episodes // env.num_envs) + 1
    own_row = torch.arange(env.num_envs).clamp_max(episodes - 1)
    camera = env.env.camera  # episodes that are over, and images that nobody is shown, need not be rendered
    hidden = ablation.kind == "blank" and not observers
    parked = torch.zeros(env.num_envs, dtype=torch.bool)
    for _ in range(longest):
        row = torch.where(env.env.start_id >= 0, env.env.start_id, own_row)
        for observer in observers:
            observer.add(obs, row, tally.done)
        obs, _, dones, extras = env.step(policy.act(shown))
        policy.reset(dones)
        before = int(tally.done.sum())
        over = tally.add(env.env.command_before, row, dones, extras)
        for observer in observers:
            observer.end(row, dones, over, extras)
        if bar is not None:
            bar.update(int(tally.done.sum()) - before)
        if bool(tally.done.all()):
            break
        next_row = torch.where(env.env.start_id >= 0, env.env.start_id, own_row)
        if bool((tally.done[next_row] & ~parked).any()):
            env.sim.park((tally.done[next_row] & ~parked).nonzero().squeeze(1))
            parked |= tally.done[next_row]
        if camera is not None:
            camera.unwatched |= parked | hidden
        shown = ablation.show(obs, dones != 0)
    seconds = tally.seconds.clamp_min(env.control_dt_s)
    weight = env.sim.total_mass_kg * _GRAVITY  # type: ignore[attr-defined]
    return {
        "success": tally.success.numpy().astype(float),
        "fell": tally.fell.numpy().astype(float),
        "seconds": seconds.numpy(),
        "velocity_error_m_s": (tally.error / seconds).numpy(),
        "yaw_rate_error_rad_s": (tally.yaw_error / seconds).numpy(),
        "cost_of_transport": (tally.work_j / (weight * tally.path_m.clamp_min(0.1))).numpy(),
        "path_m": tally.path_m.numpy(),
        **{name: values.numpy() for name, values in tally.metrics.items()},
        "scene": tally.scene.numpy(),
    }


class EpisodeRecorder:
    """Keeps the trajectories of a few environments, for videos.

    Args:
        env: to watch.
        watched: how many environments.
    """

    def __init__(self, env: GaussgymVecEnv, watched: int = 4) -> None:
        self.env, self.watched = env, min(watched, env.num_envs)
        self._rows: dict[int, list[tuple[np.ndarray, ...]]] = {}
        self._frames: dict[int, list[np.ndarray]] = {}
        self._scene: dict[int, int] = {}

    def add(self, obs: TensorDict, row: torch.Tensor, done: torch.Tensor) -> None:
        """Keep the state before a step.

        Args:
            obs: observations.
            row: `[E]` episode of each environment.
            done: `[N]` episodes that are over.
        """
        state = self.env.sim.state
        images = images_in(obs)
        for e in range(self.watched):
            episode = int(row[e])
            if bool(done[episode]):
                continue
            values = (state.root_pos_w, state.root_quat_wxyz, state.joint_pos, self.env.env.commands.command)
            rows = self._rows.setdefault(episode, [])
            self._scene[episode] = int(self.env.sim.scene_of_env[e])
            if images and (not rows or bool(obs[NEW_FRAME_GROUP][e, 0])):
                self._frames.setdefault(episode, []).append(obs[images[0]][e].permute(1, 2, 0).numpy().copy())
            frame = np.array(len(self._frames.get(episode, ())) - 1)
            rows.append((*(v[e].numpy().copy() for v in values), frame))

    def end(self, row: torch.Tensor, dones: torch.Tensor, over: torch.Tensor, extras: dict[str, Any]) -> None:
        """See `EpisodeObserver.end`: nothing to do."""

    def save(self, path: Path, table: dict[str, np.ndarray]) -> None:
        """Write one episode as npz.

        Arrays: `root_pos_w [T,3]`, `root_quat_wxyz [T,4]`, `joint_pos [T,J]`, `command [T,3]`, `rgb [K,H,W,C]` uint8 and
        `frame [T]` (which of them is in view, -1 without a camera), `control_dt_s`, `scene` (index), `success`.
        """
        if not self._rows:
            return
        episode = next((e for e in sorted(self._rows) if table["success"][e] > 0), min(self._rows))
        columns = [np.stack(c) for c in zip(*self._rows[episode], strict=True)]
        names = ("root_pos_w", "root_quat_wxyz", "joint_pos", "command", "frame")
        arrays: dict[str, np.ndarray] = dict(zip(names, columns, strict=True))
        if episode in self._frames:
            arrays["rgb"] = np.stack(self._frames[episode])
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            **arrays,  # type: ignore[arg-type]
            control_dt_s=np.array(self.env.control_dt_s),
            scene=np.array(self._scene[episode]),
            episode=np.array(episode),
            success=np.array(bool(table["success"][episode])),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, buffer.getvalue())
