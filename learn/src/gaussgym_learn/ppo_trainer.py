"""PPO of a recipe: its networks, its rollouts and its updates."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from gaussgym_scene.errors import StageError
from rsl_rl.storage import RolloutStorage

from gaussgym_learn.checkpoint import Checkpoint, load_or_explain
from gaussgym_learn.distributed import World
from gaussgym_learn.env import LearnEnv
from gaussgym_learn.metrics import EpisodeStatistics, RolloutTimes, gradient_norms
from gaussgym_learn.models import build_actor, build_critic, load_actor_weights, sample_observations
from gaussgym_learn.ppo import AdaptivePPO
from gaussgym_learn.recipes import Recipe
from gaussgym_learn.resume import load_process_state, process_seed, process_state


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

    Its state is whole: a run that resumes continues identically. Where the environment has no state of its own, a save begins its
    episodes anew with a seed made of the run's seed and the iteration, in the run that goes on just as in one that resumes.

    Args:
        recipe: what to train.
        env: on what; this process's share of the environments.
        seed: of networks, actions and environment.
        world: the processes that train together.
    """

    def __init__(self, recipe: Recipe, env: LearnEnv, *, seed: int = 0, world: World | None = None) -> None:
        torch.manual_seed(seed)
        self.recipe, self.env, self.seed = recipe, env, seed
        self.world = world or World()
        self.alg = build_ppo(recipe, env)
        self.groups = list(self.alg.storage.observations.keys())
        self.iteration = 0
        self.steps = 0
        self.progress = 0.0
        self.stats = EpisodeStatistics(env.num_envs)
        if self.world.rank > 0:  # the networks are the same everywhere, the actions are not
            torch.manual_seed(process_seed(seed, 0, self.world.rank))
        self.restart()

    def restart(self) -> None:
        """Begin all episodes anew; everything in them follows from the seed, the iteration and the process."""
        for model in (self.alg.actor, self.alg.critic):
            # Zeros, not None: the rollout storage keeps its last content where a model has no state to give.
            rnn = model.rnn.rnn if model.is_recurrent else None  # type: ignore[union-attr]
            zeros = None if rnn is None else torch.zeros(rnn.num_layers, self.env.num_envs, rnn.hidden_size)
            model.reset(hidden_state=zeros)
        self.stats.restart()
        seed = process_seed(self.seed, self.iteration, self.world.rank)
        self.obs = self.env.reset(seed=seed).select(*self.groups)

    def iterate(self) -> dict[str, float]:
        """One rollout and one update; returns the scalars to log.

        Raises:
            StageError: the networks have diverged.
        """
        start = time.perf_counter()
        times = RolloutTimes(self.env)
        self.alg.train_mode()
        with torch.inference_mode():
            for _ in range(self.recipe.ppo.steps):
                actions = self.alg.act(self.obs)
                with times.stepping():
                    obs, rewards, dones, extras = self.env.step(actions)
                self.obs = obs.select(*self.groups)
                self.alg.process_env_step(self.obs, rewards, dones, extras)
                self.stats.add(rewards, dones, extras)
            self.alg.compute_returns(self.obs)
        self.stats.check_rewards()
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
        self.steps += self.recipe.ppo.steps * self.env.num_envs * self.world.size
        return {
            **self.stats.summary(),
            **{f"Loss/{k}": v for k, v in losses.items()},
            **gradient_norms({"actor": self.alg.actor, "critic": self.alg.critic}),
            "Loss/learning_rate": self.alg.learning_rate,
            "Policy/mean_std": float(self.alg.actor.output_std.mean()),
            "Perf/total_fps": self.recipe.ppo.steps * self.env.num_envs / (learned - start),
            **times.summary(collected - start),
            "Perf/learning_time": learned - collected,
        }

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            **self.alg.save(),
            "learning_rate": self.alg.learning_rate,
            "steps": self.steps,
            "process": process_state(self.env, self.stats, (self.alg.actor, self.alg.critic)),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint of the same recipe was written."""
        state = checkpoint.state
        load_or_explain(checkpoint, lambda: self.alg.load(state, None, True))
        self.alg.learning_rate = float(state["learning_rate"])
        self.iteration = int(checkpoint.fields["iteration"])
        self.steps = int(state["steps"])
        episodes = None
        if state["process"] is not None:
            models = (self.alg.actor, self.alg.critic)
            episodes = load_process_state(state["process"], self.env, self.stats, models)
        if episodes is None:
            self.restart()
        else:
            self.obs = self.env.get_observations().select(*self.groups)

    def warm_start(self, checkpoint: Checkpoint) -> None:
        """Take the networks (not the optimizer) of another recipe's checkpoint; exploration starts at this recipe's."""
        actor, critic = self.alg.actor, self.alg.critic
        load_or_explain(checkpoint, lambda: load_actor_weights(actor, checkpoint.state["actor_state_dict"]))
        with torch.no_grad():
            actor.distribution.std_param.fill_(self.recipe.network.init_std)  # type: ignore[union-attr]
        saved = checkpoint.state.get("critic_state_dict")
        if saved is not None and _shapes(saved) == _shapes(critic.state_dict()):
            critic.load_state_dict(saved)


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in state.items()}
