"""PPO training of a recipe: time-boxed, resumable, quiet."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from gaussgym_scene.errors import InputError, StageError
from rsl_rl.storage import RolloutStorage
from tqdm import tqdm

from gaussgym_learn.checkpoint import (
    Checkpoint,
    check_compatible,
    has_checkpoint,
    load_checkpoint,
    load_or_explain,
    save_checkpoint,
)
from gaussgym_learn.env import LearnEnv
from gaussgym_learn.metrics import EpisodeStatistics, MetricWriter, Stopwatch
from gaussgym_learn.models import build_actor, build_critic, load_actor_weights, sample_observations
from gaussgym_learn.ppo import AdaptivePPO
from gaussgym_learn.recipes import Recipe


@contextlib.contextmanager
def torch_threads(count: int = 1) -> Iterator[None]:
    """Run a block with this many torch threads: small networks on a shared machine are ten times slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build_ppo(recipe: Recipe, env: LearnEnv) -> AdaptivePPO:
    """Networks, rollout storage and PPO of a recipe for an environment."""
    network, cfg = recipe.network, recipe.ppo
    read = set(network.actor_groups) | set(network.critic_groups) | ({network.aux_group} - {None})
    layout = {name: shape for name, shape in env.layout.items() if name in read or name == "rgb_new"}
    actor = build_actor(network, env.layout, env.num_actions)
    critic = build_critic(network, env.layout)
    # Only the groups that a network reads are stored.
    storage = RolloutStorage(
        "rl", env.num_envs, cfg.steps, sample_observations(layout, env.num_envs), [env.num_actions], "cpu"
    )
    return AdaptivePPO(
        actor,
        critic,
        storage,
        num_learning_epochs=cfg.epochs,
        num_mini_batches=cfg.mini_batches,
        clip_param=cfg.clip,
        gamma=cfg.gamma,
        lam=cfg.lam,
        entropy_coef=cfg.entropy_coef,
        learning_rate=cfg.learning_rate,
        max_grad_norm=cfg.max_grad_norm,
        target_kl=cfg.target_kl,
        aux_cfg={"lr": cfg.aux_lr, "epochs": cfg.aux_epochs} if network.aux_group else None,
    )


class PPOTrainer:
    """One PPO run: its environment, its algorithm and how far it is.

    A save resets the environment with a seed made of the run's seed and the iteration, in the run that goes on just as in
    one that resumes: both then continue identically, without a snapshot of the physics.

    Args:
        recipe: what to train.
        env: on what.
        seed: of networks, actions and environment.
    """

    def __init__(self, recipe: Recipe, env: LearnEnv, *, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.recipe, self.env, self.seed = recipe, env, seed
        self.alg = build_ppo(recipe, env)
        self.groups = list(self.alg.storage.observations.keys())
        self.iteration = 0
        self.steps = 0
        self.progress = 0.0
        self.stats = EpisodeStatistics(env.num_envs)
        self.obs = self._restart()

    def _restart(self) -> Any:
        for model in (self.alg.actor, self.alg.critic):
            # Zeros, not None: the rollout storage keeps its last content where a model has no state to give.
            rnn = model.rnn.rnn if model.is_recurrent else None  # type: ignore[union-attr]
            zeros = None if rnn is None else torch.zeros(rnn.num_layers, self.env.num_envs, rnn.hidden_size)
            model.reset(hidden_state=zeros)
        self.stats.restart()
        return self.env.reset(seed=self.seed * 1_000_003 + self.iteration).select(*self.groups)

    def iterate(self) -> dict[str, float]:
        """One rollout and one update; returns the scalars to log.

        Raises:
            StageError: the networks have diverged.
        """
        start = time.perf_counter()
        self.alg.train_mode()
        with torch.inference_mode():
            for _ in range(self.recipe.ppo.steps):
                obs, rewards, dones, extras = self.env.step(self.alg.act(self.obs))
                self.obs = obs.select(*self.groups)
                self.alg.process_env_step(self.obs, rewards, dones, extras)
                self.stats.add(rewards, dones, extras.get("log"))
            self.alg.compute_returns(self.obs)
        collected = time.perf_counter()
        try:
            losses = self.alg.update()
        except RuntimeError as error:
            if "normal expects" not in str(error):
                raise
            losses = {"std": math.nan}  # torch refuses to sample from a network that holds NaN
        learned = time.perf_counter()
        if not all(math.isfinite(v) for v in losses.values()):
            raise StageError(
                f"training diverged at update {self.iteration}: {losses}; resume with another seed"
            )
        self.iteration += 1
        self.steps += self.recipe.ppo.steps * self.env.num_envs
        return {
            **self.stats.summary(),
            **{f"Loss/{k}": v for k, v in losses.items()},
            "Loss/learning_rate": self.alg.learning_rate,
            "Policy/mean_std": float(self.alg.actor.output_std.mean()),
            "Perf/total_fps": self.recipe.ppo.steps * self.env.num_envs / (learned - start),
            "Perf/collection_time": collected - start,
            "Perf/learning_time": learned - collected,
        }

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            **self.alg.save(),
            "learning_rate": self.alg.learning_rate,
            "torch_rng": torch.get_rng_state(),
            "env": self.env.curriculum_state(),
            "steps": self.steps,
        }

    def save(self, run_dir: Path, fields: dict[str, Any]) -> Path:
        """Write a checkpoint and restart the environment's episodes."""
        path = save_checkpoint(run_dir, self.state(), fields, iteration=self.iteration)
        self.obs = self._restart()
        return path

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint of the same recipe was written."""
        state = checkpoint.state
        load_or_explain(checkpoint, lambda: self.alg.load(state, None, True))
        self.alg.learning_rate = float(state["learning_rate"])
        self.iteration = int(checkpoint.fields["iteration"])
        self.steps = int(state["steps"])
        self.env.load_curriculum_state(state["env"])
        torch.set_rng_state(state["torch_rng"])
        self.obs = self._restart()

    def warm_start(self, checkpoint: Checkpoint) -> None:
        """Take the networks (not the optimizer) of another recipe's checkpoint; exploration starts at this recipe's."""
        actor, critic = self.alg.actor, self.alg.critic
        load_or_explain(checkpoint, lambda: load_actor_weights(actor, checkpoint.state["actor_state_dict"]))
        with torch.no_grad():
            actor.distribution.std_param.fill_(self.recipe.network.init_std)  # type: ignore[union-attr]
        saved = checkpoint.state.get("critic_state_dict")
        if saved is not None and _shapes(saved) == _shapes(critic.state_dict()):
            critic.load_state_dict(saved)


def train(
    recipe: Recipe,
    scenes: Any,
    out: Path | str,
    *,
    minutes: float | None = None,
    iterations: int | None = None,
    init_from: Path | str | None = None,
    resume: bool = False,
    seed: int = 0,
    robot: str = "go1",
    sim: str = "mujoco",
    renderer: str | None = "auto",
    save_minutes: float = 2.0,
    save_iterations: int | None = None,
    wandb: bool = False,
    progress: bool = False,
    on_iteration: Callable[[PPOTrainer, dict[str, float]], None] | None = None,
    make: Callable[[], LearnEnv] | None = None,
    lod: Sequence[Path | str] | None = None,
) -> Path:
    """Train a recipe with PPO.

    Args:
        recipe: see `gaussgym_learn.recipes`.
        scenes: `Scene`s, or folders of scenes.
        out: run folder; `checkpoint.json`, `model_<iteration>.pt`, `curve.jsonl` and TensorBoard files go there.
        minutes: stop after this much training time, of all resumed parts together [min].
        iterations: stop after this many updates in all.
        init_from: checkpoint to warm-start the networks from.
        resume: go on from the checkpoint in `out` if there is one.
        seed: of everything random.
        robot: registry name.
        sim: physics backend.
        renderer: backend of the camera, for recipes that see; None for none.
        save_minutes: time between checkpoints [min].
        save_iterations: updates between checkpoints, instead of `save_minutes`.
        wandb: also log to Weights & Biases (offline-safe).
        progress: show a progress bar on stderr.
        on_iteration: called after every update with the trainer and its scalars.
        make: makes the environment instead of `make_env` (tests, own tasks).
        lod: folders of levels of detail to render instead of the scenes, see `gaussgym_learn.env.make_env`.

    Returns:
        The path of `checkpoint.json`.

    Raises:
        InputError: nothing to bound the run, or a checkpoint that does not fit.
        StageError: training diverged; the last checkpoint is kept.
    """
    if minutes is None and iterations is None:
        raise InputError("training is unbounded: give minutes or iterations")
    out = Path(out)
    previous = load_checkpoint(out) if resume and has_checkpoint(out) else None
    initial = load_checkpoint(init_from) if init_from is not None and previous is None else None
    with torch_threads(1):
        env = make() if make else _make_env(recipe, scenes, robot, sim, renderer, seed, lod)
        trainer = PPOTrainer(recipe, env, seed=seed)
        for checkpoint, action in ((initial, trainer.warm_start), (previous, trainer.restore)):
            if checkpoint is not None:
                check_compatible(
                    checkpoint, robot=env.robot, layout=env.layout, groups=recipe.network.actor_groups
                )
                action(checkpoint)
        if previous is None:
            clear_run(out)
        fields = run_fields(recipe, env, seed=seed, init_from=initial, lod=lod)
        fields["initialized_from"] = (previous or Checkpoint(out, fields, {})).fields.get("initialized_from")
        elapsed = float(previous.fields.get("train_seconds", 0.0)) if previous else 0.0
        return run_training(
            trainer,
            out,
            fields,
            Budget(minutes, iterations, save_minutes, save_iterations, elapsed),
            wandb=wandb,
            progress=progress,
            on_iteration=on_iteration,
        )


@dataclasses.dataclass(frozen=True)
class Budget:
    """When a run ends and how often it saves; see `train`."""

    minutes: float | None
    iterations: int | None
    save_minutes: float
    save_iterations: int | None
    elapsed_s: float = 0.0

    def fraction(self, seconds: float, iteration: int) -> float:
        """How much of the run is done, 0..1."""
        parts = []
        if self.minutes is not None:
            parts.append(seconds / max(60.0 * self.minutes, 1e-9))
        if self.iterations is not None:
            parts.append(iteration / max(self.iterations, 1))
        return min(max(parts), 1.0)


def run_training(
    trainer: Any,
    out: Path,
    fields: dict[str, Any],
    budget: Budget,
    *,
    wandb: bool,
    progress: bool,
    on_iteration: Callable[[Any, dict[str, float]], None] | None,
) -> Path:
    """The loop that PPO and distillation share: iterate, log, save, stop."""
    writer = MetricWriter(out, wandb=wandb, name=out.name, config=fields)
    watch = Stopwatch(budget.elapsed_s)
    last_save_s, last_save_iteration = watch.seconds, trainer.iteration
    bar = tqdm(total=100, desc=trainer.recipe.name, unit="%", disable=not progress, bar_format=_BAR)

    def save() -> Path:
        return trainer.save(out, {**fields, "train_seconds": watch.seconds, "steps": trainer.steps})

    try:
        while (done := budget.fraction(watch.seconds, trainer.iteration)) < 1.0:
            trainer.progress = done
            scalars = trainer.iterate()
            writer.write(
                scalars, iteration=trainer.iteration, minutes=watch.seconds / 60, steps=trainer.steps
            )
            if on_iteration is not None:
                on_iteration(trainer, scalars)
            due = (
                trainer.iteration - last_save_iteration >= budget.save_iterations
                if budget.save_iterations
                else watch.seconds - last_save_s >= 60.0 * budget.save_minutes
            )
            if due:
                save()
                last_save_s, last_save_iteration = watch.seconds, trainer.iteration
            bar.n = round(100 * budget.fraction(watch.seconds, trainer.iteration))
            reward = scalars.get("Train/mean_reward", math.nan)
            bar.set_postfix_str(
                f"{scalars['Perf/total_fps']:,.0f} steps/s, reward {reward:.2f}", refresh=True
            )
        return save()
    except KeyboardInterrupt:
        save()
        raise
    finally:
        bar.close()
        writer.close()


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}, {postfix}"


def run_fields(
    recipe: Recipe,
    env: LearnEnv,
    *,
    seed: int,
    init_from: Checkpoint | None = None,
    lod: Sequence[Path | str] | None = None,
) -> dict[str, Any]:
    """What a checkpoint's manifest says about its run."""
    return {
        "robot": env.robot,
        "recipe": recipe.to_dict(),
        "environment": env.cfg.to_dict(),
        "observations": env.layout,
        "num_actions": env.num_actions,
        "scenes": env.scene_hashes,
        "lod": None if lod is None else [Path(folder).name for folder in lod],
        "seed": seed,
        "initialized_from": None if init_from is None else init_from.directory.name,
    }


def clear_run(out: Path) -> None:
    """Remove the files of an earlier run of this name, never anything else."""
    for pattern in ("model_*.pt", "checkpoint.json", "curve.jsonl", "events.out.tfevents.*", "*.tmp"):
        for path in out.glob(pattern):
            path.unlink()


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in state.items()}


def _make_env(
    recipe: Recipe,
    scenes: Any,
    robot: str,
    sim: str,
    renderer: str | None,
    seed: int,
    lod: Sequence[Path | str] | None,
) -> LearnEnv:
    from gaussgym_learn.env import make_env

    sees = "rgb" in recipe.network.actor_groups
    return make_env(
        recipe.task,
        scenes,
        recipe.ppo.num_envs,
        robot=robot,
        sim=sim,
        renderer=renderer if sees else None,
        seed=seed,
        cfg=recipe.env,
        clearance=recipe.clearance,
        lod=lod,
        **recipe.camera_options(),
    )
