"""On-policy training of a recipe: rollouts and updates, with PPO, a teacher, or both.

What counts follows the run's progress: without a teacher PPO alone; with one, imitation that the schedules of `DistillCfg` may
turn into PPO.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from gaussgym_scene.errors import InputError, StageError
from gaussgym_scene.registry import Registry
from rsl_rl.models import MLPModel
from torch import nn

from gaussgym_learn.checkpoint import Checkpoint, load_or_explain
from gaussgym_learn.distributed import World
from gaussgym_learn.env import LearnEnv
from gaussgym_learn.metrics import EpisodeStatistics, RolloutTimes, gradient_norms
from gaussgym_learn.models import build_actor, build_critic, load_actor_weights, set_std
from gaussgym_learn.objective import LearnerCfg
from gaussgym_learn.ppo import Learner
from gaussgym_learn.recipes import NetworkCfg, Recipe
from gaussgym_learn.resume import load_process_state, process_seed, process_state
from gaussgym_learn.rollout import RolloutBuffer, RolloutLayout, rollout_bytes
from gaussgym_learn.run_folder import check_memory
from gaussgym_learn.schedules import Objective, Schedule
from gaussgym_learn.symmetry import MirrorMaps

ALGORITHMS: Registry[Callable[..., Any]] = Registry("algorithm", "gaussgym.algorithms")
"""Trainers by name (`Recipe.algorithm`): called as `(recipe, env, *, seed, world)`, with `teacher` where there is one; what they
return is a `gaussgym_learn.run.Trainer`."""


def rollout_layout(
    network: NetworkCfg, env: LearnEnv, *, teacher: bool = False, teacher_latent: int = 0
) -> RolloutLayout:
    """What a rollout stores: the groups that the networks read, the actor's first.

    Args:
        network: of the recipe.
        env: tells shapes and the camera's rate.
        teacher: whether there is one.
        teacher_latent: width of its latent, 0 if none is learned from.
    """
    names = dict.fromkeys((*network.actor_groups, *network.critic_groups, *filter(None, [network.aux_group])))
    shapes = {name: env.layout[name] for name in names if name in env.layout}
    period = 1
    if "rgb_new" in env.layout and hasattr(env, "camera_hz"):
        period = max(1, math.floor(1.0 / (env.camera_hz * env.control_dt_s) + 1e-6))  # type: ignore[attr-defined]
    return RolloutLayout.of(
        shapes, env.num_actions, frame_period=period, teacher=teacher, teacher_latent=teacher_latent
    )


def build_learner(
    recipe: Recipe,
    env: LearnEnv,
    *,
    seed: int = 0,
    teacher: nn.Module | None = None,
    world: World | None = None,
    shards: int = 1,
) -> Learner:
    """Networks, rollout and optimizer of a recipe for an environment.

    Args:
        recipe: what to train.
        env: on what.
        seed: of the order of minibatches; the networks are drawn from torch's random numbers.
        teacher: deterministic policy to learn from.
        world: the processes that train together.
        shards: see `RolloutBuffer.orders`.
    """
    network = recipe.network
    distill = recipe.distill if teacher is not None else None
    cfg = LearnerCfg(
        recipe.ppo, distill, recipe.symmetry, recipe.losses, recipe.mixed_precision, shards=shards, seed=seed
    )
    actor = build_actor(network, env.layout, env.num_actions)
    wants_critic = distill is None or Schedule.parse(distill.ppo_coef).highest > 0.0
    critic = build_critic(network, env.layout) if wants_critic else None
    latent = 0
    if distill is not None and distill.latent_coef > 0.0:
        latent = _last_hidden_width(teacher)
    layout = rollout_layout(network, env, teacher=teacher is not None, teacher_latent=latent)
    steps, processes = cfg.passes.steps, 1 if world is None else world.local_size
    if torch.device(env.device).type == "cpu":
        needed = processes * rollout_bytes(env.num_envs, steps, layout)
        check_memory(needed, f"rollouts of {processes * env.num_envs} environments x {steps} steps")
    buffer = RolloutBuffer(env.num_envs, cfg.passes.steps, layout, device=env.device)
    maps = _mirror_maps(env) if recipe.symmetry.used else None
    return Learner(actor, critic, buffer, cfg, teacher=teacher, maps=maps, world=world)


def _mirror_maps(env: LearnEnv) -> MirrorMaps | None:
    try:
        return env.mirror_maps()
    except InputError as error:
        raise InputError(
            f"{error}; train without symmetry: --set symmetry.augment=False symmetry.swap=0 symmetry.mirror_coef=0"
        ) from None


def _last_hidden_width(teacher: nn.Module | None) -> int:
    if not isinstance(teacher, MLPModel):
        raise InputError(
            f"latent_coef wants a teacher with an MLP, found {type(teacher).__name__}; set it to 0"
        )
    return [m for m in teacher.mlp.modules() if isinstance(m, nn.Linear)][-1].in_features


@ALGORITHMS.register("ppo")
class PPOTrainer:
    """One run: its environment, its learner and how far it is.

    Its state is whole: a run that resumes continues identically. Where the environment has no state of its own, a save begins its
    episodes anew with a seed made of the run's seed and the iteration, in the run that goes on just as in one that resumes.

    Args:
        recipe: what to train.
        env: on what; this process's share of the environments.
        seed: of networks, actions and environment.
        teacher: deterministic policy on the environment's groups, to learn from; None for PPO alone.
        world: the processes that train together.
        shards: see `RolloutBuffer.orders`.
    """

    def __init__(
        self,
        recipe: Recipe,
        env: LearnEnv,
        *,
        seed: int = 0,
        teacher: nn.Module | None = None,
        world: World | None = None,
        shards: int = 1,
    ) -> None:
        torch.manual_seed(seed)
        self.recipe, self.env, self.seed = recipe, env, seed
        self.world = world or World()
        env.keep_final_observations = recipe.ppo.final_values
        self.alg = build_learner(recipe, env, seed=seed, teacher=teacher, world=self.world, shards=shards)
        distill = recipe.distill
        self._schedules = (
            None
            if teacher is None
            else tuple(Schedule.parse(text) for text in (distill.ppo_coef, distill.coef, distill.beta))
        )
        self.iteration = 0
        self.steps = 0
        self.progress = 0.0
        self.ppo_updates = 0
        self.stats = EpisodeStatistics(env.num_envs)
        if self.world.rank > 0:  # the networks are the same everywhere, the actions are not
            torch.manual_seed(process_seed(seed, 0, self.world.rank))
        self.restart()

    def restart(self) -> None:
        """Begin all episodes anew; everything in them follows from the seed, the iteration and the process."""
        self.alg.restart()
        self.stats.restart()
        self.obs = self.env.reset(seed=process_seed(self.seed, self.iteration, self.world.rank))

    def objective(self) -> Objective:
        """What counts at this progress.

        Raises:
            InputError: schedules by which nothing does.
        """
        ppo, imitation, beta = 1.0, 0.0, 0.0
        if self._schedules is not None:
            ppo, imitation, beta = (schedule.value(self.progress) for schedule in self._schedules)
        if ppo <= 0.0 and imitation <= 0.0:
            raise InputError(
                f"recipe {self.recipe.name!r}: coef and ppo_coef are both 0 at progress {self.progress:.2f}; raise one of them"
            )
        warming = ppo > 0.0 and self.ppo_updates < self.recipe.ppo.critic_warmup
        return Objective(ppo, imitation, beta, critic_only=warming)

    def iterate(self) -> dict[str, float]:
        """One rollout and one update; returns the scalars to log.

        Raises:
            StageError: the networks have diverged, or the environment gives what is not finite.
        """
        start = time.perf_counter()
        objective, times = self.objective(), RolloutTimes(self.env)
        self._set_pace(objective)
        self.alg.train_mode()
        steps = self.alg.buffer.steps
        try:
            with torch.inference_mode():
                self._collect(objective, times)
            collected = time.perf_counter()
            losses = self.alg.update(self.progress)
        except RuntimeError as error:
            if "normal expects" not in str(error):
                raise
            losses, collected = (
                {"std": math.nan},
                start,
            )  # torch refuses to sample from a network that holds NaN
        learned = time.perf_counter()
        if not all(math.isfinite(v) for v in losses.values()):
            raise StageError(
                f"training diverged at update {self.iteration}: {losses}; resume with another seed"
            )
        self.iteration += 1
        self.ppo_updates += int(objective.explores)
        self.steps += steps * self.env.num_envs * self.world.size
        scalars = {
            **self.stats.summary(),
            **{f"Loss/{k}": v for k, v in losses.items()},
            **gradient_norms(self.alg.models),
            "Loss/learning_rate": self.alg.learning_rate,
            "Policy/mean_std": float(self.alg.actor.output_std.detach().mean()),
            "Perf/total_fps": steps * self.env.num_envs / (learned - start),
            **times.summary(collected - start),
            "Perf/learning_time": learned - collected,
        }
        return scalars if self._schedules is None else scalars | self._shares(objective)

    def _shares(self, objective: Objective) -> dict[str, float]:
        return {
            "Policy/teacher_share": objective.beta,
            "Policy/imitation_coef": objective.imitation,
            "Policy/ppo_coef": 0.0 if objective.critic_only else objective.ppo,
        }

    def _collect(self, objective: Objective, times: RolloutTimes) -> None:
        alg, env = self.alg, self.env
        alg.begin(objective)
        for _ in range(alg.buffer.steps):
            actions = alg.act(self.obs)
            with times.stepping():
                self.obs, rewards, dones, extras = env.step(actions)
            alg.process_env_step(rewards, dones, extras)
            self.stats.add(rewards, dones, extras)
        self.stats.check_rewards()
        alg.compute_returns(self.obs)

    def _set_pace(self, objective: Objective) -> None:
        """The learning rate of imitation, and the turn to PPO."""
        if self._schedules is None:
            return
        distill = self.recipe.distill
        if not objective.explores:
            self.alg.set_learning_rate(distill.learning_rate * (1.0 - 0.9 * self.progress))
        elif self.ppo_updates == 0:
            self.alg.begin_ppo(distill.explore_std)

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        process = process_state(self.env, self.stats, (self.alg.actor,), learner=self.alg.episode_state())
        return {
            **self.alg.save(),
            "ppo_updates": self.ppo_updates,
            "steps": self.steps,
            "process": process,
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint of the same recipe was written."""
        state = checkpoint.state
        load_or_explain(checkpoint, lambda: self.alg.load(state))
        self.iteration = int(checkpoint.fields["iteration"])
        self.steps, self.ppo_updates = int(state["steps"]), int(state["ppo_updates"])
        episodes = None
        if state["process"] is not None:
            episodes = load_process_state(state["process"], self.env, self.stats, (self.alg.actor,))
        if episodes is None:
            self.restart()
        else:
            self.alg.load_episode_state(episodes["learner"])
            self.obs = self.env.get_observations()

    def warm_start(self, checkpoint: Checkpoint) -> None:
        """Take the networks (not the optimizer) of another recipe's checkpoint; exploration starts at this recipe's."""
        actor = self.alg.actor
        load_or_explain(checkpoint, lambda: load_actor_weights(actor, checkpoint.state["actor_state_dict"]))
        set_std(actor, self.recipe.network.init_std)
        self.take_critic(checkpoint)

    def take_critic(self, checkpoint: Checkpoint) -> None:
        """Take the critic of another run, if it has one of this size."""
        saved, critic = checkpoint.state.get("critic_state_dict"), self.alg.critic
        if saved is not None and critic is not None and _shapes(saved) == _shapes(critic.state_dict()):
            critic.load_state_dict(saved)


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in state.items()}
