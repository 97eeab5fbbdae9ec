"""The update: PPO, imitation of a teacher and reconstruction in one loss, for feed-forward and recurrent actors.

Models, distributions and the meaning of a step are rsl_rl's; the update is our own, as its losses share one gradient. The
learning rate is set once an update from the whole update's KL divergence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from rsl_rl.models import MLPModel
from torch import Tensor, nn

from gaussgym_learn.distributed import World
from gaussgym_learn.models import set_std
from gaussgym_learn.objective import JointLoss, LearnerCfg, teacher_output
from gaussgym_learn.recurrence import State, map_state, select_state, zero_state
from gaussgym_learn.rollout import Minibatch, RolloutBuffer, check_finite, normalize
from gaussgym_learn.schedules import Objective, Schedule
from gaussgym_learn.symmetry import MirrorMaps, mirrored, partly_mirrored


def adapt_learning_rate(
    learning_rate: float, kl: float, target_kl: float, *, limits: tuple[float, float] = (1e-5, 1e-2)
) -> float:
    """Learning rate of the next update from the KL divergence that the last whole update caused.

    Divided by 1.2 above 1.3 x the target, multiplied by 1.1 below the target / 1.3. rsl_rl adapts within every minibatch
    instead, which reacts to the minibatch's noise.

    Args:
        learning_rate: rate of the last update.
        kl: mean KL(old policy, new policy) over the rollout after the last update.
        target_kl: where it should be.
        limits: smallest and largest rate.
    """
    if kl > 1.3 * target_kl:
        learning_rate /= 1.2
    elif kl < target_kl / 1.3:
        learning_rate *= 1.1
    return min(max(learning_rate, limits[0]), limits[1])


class Learner:
    """Actor, critic, rollout and optimizer.

    A rollout is `begin`, then for each step `act`, the environment's step, and `process_env_step`, and at its end
    `compute_returns`; then `update`.

    Args:
        actor: reads groups that the rollout stores.
        critic: feed-forward, on stored 1-D groups; None for imitation alone.
        buffer: of the rollout.
        cfg: settings.
        teacher: deterministic policy on the environment's groups.
        maps: of the robot's symmetry, where `cfg.symmetry` wants it.
        world: the processes that learn together.

    Raises:
        InputError: an unknown loss term, symmetry without maps.
    """

    def __init__(
        self,
        actor: MLPModel,
        critic: MLPModel | None,
        buffer: RolloutBuffer,
        cfg: LearnerCfg,
        *,
        teacher: nn.Module | None = None,
        maps: MirrorMaps | None = None,
        world: World | None = None,
    ) -> None:
        if critic is not None and critic.is_recurrent:
            raise ValueError("the critic must be feed-forward: give it what it needs to know as observations")
        self.device = buffer.device
        self.actor = actor.to(self.device)
        self.critic = None if critic is None else critic.to(self.device)
        self.buffer, self.cfg, self.teacher, self.maps = buffer, cfg, teacher, maps
        self.world = world or World()
        self.joint = JointLoss(self.actor, self.critic, buffer, cfg, taught=teacher is not None, maps=maps)
        self.learning_rate = cfg.passes.learning_rate
        kl = cfg.ppo.target_kl
        self._swap = Schedule.parse(cfg.symmetry.swap)
        self._target_kl = None if kl is None else Schedule.parse(kl)
        self.optimizer = torch.optim.Adam(self._parameters(), lr=self.learning_rate)
        self.aux_optimizer: torch.optim.Optimizer | None = None
        if getattr(actor, "aux_head", None) is not None and cfg.aux_epochs > 0:
            self.aux_optimizer = torch.optim.Adam(actor.parameters(), lr=cfg.ppo.aux_lr)
        self.updates = 0
        self.average: dict[str, Tensor] = {}  # of the actor's parameters, by name
        self.objective = Objective()
        self._second: ThreadPoolExecutor | None = None
        self.restart()

    @property
    def models(self) -> dict[str, MLPModel]:
        """Actor and critic by name, those that there are."""
        models = {"actor": self.actor, "critic": self.critic}
        return {name: model for name, model in models.items() if model is not None}

    def _parameters(self) -> list[nn.Parameter]:
        modules = [m for m in (self.actor, self.critic, self.joint.latent_head) if m is not None]
        return [p for module in modules for p in module.parameters()]

    # ------------------------------------------------------------------ rollout

    def restart(self) -> None:
        """All episodes begin anew: empty memories."""
        envs = self.buffer.num_envs
        self.starts = torch.ones(envs, dtype=torch.bool, device=self.device)
        self.mirror_memory: State | None = None
        if self.actor.is_recurrent:
            self.actor.reset()
            self.actor.reset(hidden_state=zero_state(self.actor.rnn.rnn, envs))  # type: ignore[union-attr,arg-type]
            if self.cfg.symmetry.used:
                self.mirror_memory = zero_state(self.actor.rnn.rnn, envs)  # type: ignore[union-attr,arg-type]

    def begin(self, objective: Objective) -> None:
        """Begin a rollout.

        Args:
            objective: of this rollout and the update after it.
        """
        self.objective = objective
        self.buffer.begin(self.actor.get_hidden_state() if self.actor.is_recurrent else None)
        draws = torch.rand(self.buffer.num_envs, device=self.device) if objective.beta > 0.0 else None
        self._teacher_acts = None if draws is None else (draws < objective.beta)
        acts_itself = torch.ones_like(self.starts) if draws is None else draws >= objective.beta
        self.buffer.on_policy[:] = acts_itself

    def act(self, obs: Mapping[str, Tensor]) -> Tensor:
        """The actions `[E, A]` of a step, with what the update needs recorded.

        Args:
            obs: observation groups `[E, ...]`.
        """
        buffer, actor = self.buffer, self.actor
        buffer.observe(obs, self.starts)
        if self.objective.explores:
            actions = actor(obs, stochastic_output=True)  # type: ignore[arg-type]
            assert self.critic is not None
            buffer.record(
                values=self.critic(obs).squeeze(-1),  # type: ignore[arg-type]
                log_prob=actor.get_output_log_prob(actions),
            )
            buffer.record_params(actor.output_distribution_params)
        else:
            actions = actor(obs)  # type: ignore[arg-type]
        if self.teacher is not None:
            actions = self._taught(obs, actions)
        buffer.record(actions=actions)
        return actions

    def _taught(self, obs: Mapping[str, Tensor], actions: Tensor) -> Tensor:
        """Record what the teacher would do, let it act where it is its turn, and add noise where nobody explores."""
        assert self.teacher is not None
        assert self.cfg.distill is not None
        if self.joint.latent_head is None:
            wanted = self.teacher(obs)
        else:
            wanted, latent = teacher_output(self.teacher, obs)
            self.buffer.record(teacher_latent=latent)
        self.buffer.record(teacher_actions=wanted)
        noise = self.cfg.distill.action_noise * torch.randn_like(actions)
        own = actions if self.objective.explores else actions + noise
        if self._teacher_acts is None:
            return own
        return torch.where(self._teacher_acts[:, None], wanted + noise, own)

    def process_env_step(self, rewards: Tensor, dones: Tensor, extras: Mapping[str, Any]) -> None:
        """Record an environment's step.

        An episode that a time limit ends would have gone on: its last reward is increased by the discounted value of the state
        that it ended in, where the environment gives that (`final_observations` of the envs `final_ids`), else of the one before.

        Args:
            rewards: `[E]`.
            dones: `[E]`, non-zero where an episode ended.
            extras: `time_outs` `[E]`, non-zero where a time limit ended it.
        """
        if "time_outs" in extras and self.objective.explores:
            assert self.critic is not None
            values = self.buffer.values[self.buffer.cursor]
            if "final_observations" in extras:
                values = values.clone()
                values[extras["final_ids"]] = self.critic(extras["final_observations"]).squeeze(-1)
            rewards = rewards + self.cfg.ppo.gamma * values * extras["time_outs"]
        self.buffer.record(rewards=rewards)
        self.buffer.advance(dones)
        self.starts = self.buffer.dones
        self.actor.reset(dones)

    def compute_returns(self, obs: Mapping[str, Tensor]) -> None:
        """Returns and normalized advantages of the rollout.

        Args:
            obs: after its last step.

        Raises:
            StageError: a reward or an observation is not finite.
        """
        check_finite(self.buffer)
        if not self.objective.explores:
            return
        assert self.critic is not None
        cfg = self.cfg.ppo
        self.buffer.compute_returns(self.critic(obs).squeeze(-1), cfg.gamma, cfg.lam)  # type: ignore[arg-type]
        where = self.buffer.on_policy if self._teacher_acts is not None else None
        normalize(self.buffer.advantages, self.world, where)

    # ------------------------------------------------------------------ update

    def update(self, progress: float = 0.0) -> dict[str, float]:
        """Gradient steps on the rollout, then the learning rate's step, the auxiliary phase and the normalizers.

        Args:
            progress: of the run, 0..1.

        Returns:
            Mean of each loss over the gradient steps, and `kl` of the whole update.
        """
        objective, cfg = self.objective, self.cfg
        normalizers = [model.obs_normalizer for model in self.models.values()]
        if not objective.explores:
            self._update_normalizers()
        # The KL must be that of the optimization alone, so the statistics move after it.
        for normalizer in normalizers:
            normalizer.eval()
        if self.buffer.layout.images:
            self.joint.backbone = self.joint.frozen_features(self.buffer.frames)
        memory_after = self._replayed_mirror()
        sums: dict[str, Tensor] = {}
        count = 0
        for batch, mirror_memory in self._batches(cfg.passes.epochs, swap=self._swap.value(progress)):
            losses = self._step(batch, mirror_memory, progress)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach()
            count += 1
        found = self._scalars({name: value / count for name, value in sums.items()})
        if objective.ppo > 0.0 and not objective.critic_only:
            found["kl"] = self.rollout_kl()
            if self._target_kl is not None:
                target = self._target_kl.value(progress)
                self.set_learning_rate(adapt_learning_rate(self.learning_rate, found["kl"], target))
        if self.aux_optimizer is not None and not objective.critic_only:
            found["aux_recon"] = self.update_aux()
        for normalizer in normalizers:
            normalizer.train()
        if objective.explores:
            self._update_normalizers()
        self.mirror_memory = memory_after
        self.joint.backbone = {}
        self._forget_features()
        self._update_average()
        self.updates += 1
        return found

    @property
    def apart(self) -> bool:
        """Whether actor and critic are differentiated at the same time: small networks that share nothing, on a CPU.

        One core would idle otherwise; more threads within an operation of networks of this size cost more than they give.
        """
        small = self.device.type == "cpu" and not self.actor.is_recurrent and not self.cfg.symmetry.augment
        return small and self.objective.explores and not self.objective.critic_only

    def _step(self, batch: Minibatch, mirror_memory: State | None, progress: float) -> dict[str, Tensor]:
        """One gradient step on a minibatch; its losses."""
        if self.apart:
            return self._step_apart(batch, progress)
        losses = self.joint.losses(batch, self.objective, mirror_memory, progress)
        self._descend(losses["total"])
        return losses

    def _step_apart(self, batch: Minibatch, progress: float) -> dict[str, Tensor]:
        """The same step, with the critic's gradient from a second thread."""
        if self._second is None:
            threads = (torch.get_num_threads(),)
            self._second = ThreadPoolExecutor(1, "critic", torch.set_num_threads, threads)
        weights = self.joint.weights(self.objective, progress)
        self.optimizer.zero_grad()
        value = self._second.submit(self._value_gradient, batch, weights["value"])
        losses, mean = self.joint.actor_losses(batch, self.objective, progress)
        losses |= self.joint.mirror_losses(batch, mean, progress)
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        total.backward()
        losses["value"] = value.result()
        losses["total"] = total.detach() + weights["value"] * losses["value"]
        self._apply(self.optimizer)
        return losses

    def _value_gradient(self, batch: Minibatch, weight: float) -> Tensor:
        loss = self.joint.critic_loss(batch)
        (weight * loss).backward()
        return loss.detach()

    def _batches(self, epochs: int, *, swap: float = 0.0) -> Iterator[tuple[Minibatch, State | None]]:
        """Minibatches, with a recurrent actor's memory of the mirrored past; groups of environments for recurrent actors.

        Those of others hold a share of `swap` as mirror images.
        """
        count, seed = self.cfg.passes.mini_batches, self.cfg.seed * 1_000_003 + self.updates
        recurrent, shards = self.actor.is_recurrent, self.cfg.shards
        if not recurrent:
            orders = self.buffer.orders(count, recurrent=False, shards=shards, seed=seed)
            batches = [self.buffer.of_steps(order) for order in orders]
            if swap > 0.0:
                assert self.maps is not None
                batches = [partly_mirrored(batch, self.maps, swap) for batch in batches]
            for _ in range(epochs):
                yield from ((batch, None) for batch in batches)
            return
        for epoch in range(epochs):
            orders = self.buffer.orders(count, recurrent=True, shards=shards, seed=seed + 7_919 * epoch)
            for envs in orders:
                memory = self.mirror_memory
                yield self.buffer.of_envs(envs), None if memory is None else select_state(memory, envs)

    def _descend(self, loss: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
        """One gradient step, the same one in all processes; actor and critic are clipped each for itself."""
        optimizer = optimizer or self.optimizer
        optimizer.zero_grad()
        loss.backward()
        self._apply(optimizer)

    def _apply(self, optimizer: torch.optim.Optimizer) -> None:
        """Step along the gradients that are there."""
        self.world.mean_gradients(self._parameters())
        for model in self.models.values():
            nn.utils.clip_grad_norm_(model.parameters(), self.cfg.passes.max_grad_norm)
        optimizer.step()

    def rollout_kl(self) -> float:
        """Mean KL(policy that acted, policy now) over the stored rollout."""
        total = torch.zeros((), device=self.device)
        count = 0
        with torch.no_grad():
            for batch, _ in self._batches(1):
                kl = self.actor.get_kl_divergence(
                    batch.old_params, self.joint.distribution(self.joint.latent(batch))
                )
                total, count = total + kl.sum(), count + kl.numel()
        return float(self.world.mean(total / max(count, 1)))

    def update_aux(self) -> float:
        """The auxiliary phase (phasic, after Cobbe et al., arXiv 2009.04416): coming after PPO's steps it does not disturb their
        importance ratios. Returns the mean loss.
        """
        assert self.aux_optimizer is not None
        total, count = torch.zeros((), device=self.device), 0
        self.optimizer.zero_grad()
        for batch, _ in self._batches(self.cfg.aux_epochs):
            loss = self.joint.aux_loss(self.joint.latent(batch), batch)
            self._descend(loss, self.aux_optimizer)
            total, count = total + loss.detach(), count + 1
        return float(self.world.mean(total / max(count, 1)))

    def _replayed_mirror(self) -> State | None:
        """A recurrent actor's memory of the mirrored past after this rollout, by the weights that acted."""
        if self.mirror_memory is None:
            return None
        assert self.maps is not None
        parts = []
        envs = torch.arange(self.buffer.num_envs, device=self.device)
        with torch.no_grad():
            for some in envs.tensor_split(self.cfg.passes.mini_batches):
                batch = mirrored(self.buffer.of_envs(some), self.maps, select_state(self.mirror_memory, some))
                parts.append(self.joint.unroll(batch)[1])
        if isinstance(parts[0], tuple):
            return torch.cat([p[0] for p in parts], dim=1), torch.cat([p[1] for p in parts], dim=1)
        return torch.cat(parts, dim=1)

    def _update_normalizers(self) -> None:
        rows = {name: self.buffer.whole().group(name).flatten(0, 1) for name in self.buffer.columns}
        for model in self.models.values():
            model.update_normalization(rows)  # type: ignore[arg-type]

    def _forget_features(self) -> None:
        """Image features that are held between frames are of the old weights."""
        if hasattr(self.actor, "_held_features"):
            self.actor._held_features = None  # type: ignore[assignment]

    def _scalars(self, losses: dict[str, Tensor]) -> dict[str, float]:
        """Means over the processes."""
        values = self.world.mean(torch.stack([v.float() for v in losses.values()]))
        return dict(zip(losses, values.tolist(), strict=True))

    # ------------------------------------------------------------------ state

    def _update_average(self) -> None:
        """Move the running average of the actor's parameters."""
        keep = self.cfg.ppo.average
        if keep <= 0.0:
            return
        with torch.no_grad():
            for name, value in self.actor.named_parameters():
                self.average.setdefault(name, value.detach().clone()).lerp_(value, 1.0 - keep)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Of the coming gradient steps."""
        self.learning_rate = learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def begin_ppo(self, std: float) -> None:
        """Turn from imitation to PPO: explore anew, a fresh optimizer with PPO's learning rate.

        Args:
            std: of the actions [action units].
        """
        set_std(self.actor, std)
        self.optimizer.state.clear()
        self.set_learning_rate(self.cfg.ppo.learning_rate)

    def train_mode(self) -> None:
        """Set the models to training."""
        for model in self.models.values():
            model.train()

    def save(self) -> dict[str, Any]:
        """State of models and optimizers."""
        state: dict[str, Any] = {"actor_state_dict": self.actor.state_dict()}
        if self.critic is not None:
            state["critic_state_dict"] = self.critic.state_dict()
        state["optimizer_state_dict"] = self.optimizer.state_dict()
        if self.aux_optimizer is not None:
            state["aux_optimizer_state_dict"] = self.aux_optimizer.state_dict()
        if self.joint.latent_head is not None:
            state["latent_head_state_dict"] = self.joint.latent_head.state_dict()
        if self.average:
            state["actor_average"] = {name: value.clone() for name, value in self.average.items()}
        return {**state, "learning_rate": self.learning_rate, "updates": self.updates}

    def load(self, state: Mapping[str, Any]) -> None:
        """Inverse of `save`."""
        self.actor.load_state_dict(state["actor_state_dict"])
        if self.critic is not None:
            self.critic.load_state_dict(state["critic_state_dict"])
        self.optimizer.load_state_dict(state["optimizer_state_dict"])
        if self.aux_optimizer is not None:
            self.aux_optimizer.load_state_dict(state["aux_optimizer_state_dict"])
        if self.joint.latent_head is not None:
            self.joint.latent_head.load_state_dict(state["latent_head_state_dict"])
        self.average = {
            name: value.to(self.device, copy=True) for name, value in state.get("actor_average", {}).items()
        }
        self.learning_rate, self.updates = float(state["learning_rate"]), int(state["updates"])

    def episode_state(self) -> dict[str, Any]:
        """What goes on with the episodes, beside the actor's own memory."""
        memory = self.mirror_memory
        return {
            "starts": self.starts.clone(),
            "mirror_memory": None if memory is None else map_state(torch.clone, memory),
        }

    def load_episode_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `episode_state`."""
        memory = state["mirror_memory"]
        self.starts = state["starts"].to(self.device)
        self.mirror_memory = None if memory is None else map_state(lambda s: s.to(self.device), memory)
