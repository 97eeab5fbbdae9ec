"""The joint loss of an update: PPO, imitation, reconstruction, symmetry and terms by name, on one minibatch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from gaussgym_scene.errors import InputError
from rsl_rl.models import MLPModel
from torch import Tensor, nn

from gaussgym_learn.losses import LOSSES, LossInputs, behaviour_loss, mean_where, surrogate_loss, value_loss
from gaussgym_learn.recipes import DistillCfg, PPOCfg, SymmetryCfg
from gaussgym_learn.recurrence import State
from gaussgym_learn.rollout import Minibatch, RolloutBuffer
from gaussgym_learn.schedules import Objective, Schedule
from gaussgym_learn.symmetry import MirrorMaps, mirrored


@dataclass(frozen=True)
class LearnerCfg:
    """Settings of a `Learner`.

    Attributes:
        ppo: see `PPOCfg`.
        distill: of imitation, which then also says how long rollouts are and how they are passed over; None without a teacher.
        symmetry: see `SymmetryCfg`.
        losses: further loss terms, (registered name, weight).
        mixed_precision: see `Recipe`.
        shards: see `RolloutBuffer.orders`.
        seed: of the order of minibatches.
    """

    ppo: PPOCfg
    distill: DistillCfg | None = None
    symmetry: SymmetryCfg = field(default_factory=SymmetryCfg)
    losses: tuple[tuple[str, float], ...] = ()
    mixed_precision: bool = False
    shards: int = 1
    seed: int = 0

    @property
    def passes(self) -> PPOCfg | DistillCfg:
        """Where steps, epochs, minibatches and clipping are set."""
        return self.distill or self.ppo

    @property
    def aux_coef(self) -> float:
        """Weight of the reconstruction in the joint loss."""
        return self.distill.aux_weight if self.distill else self.ppo.aux_coef

    @property
    def aux_epochs(self) -> int:
        """Passes of the auxiliary phase."""
        return 0 if self.distill else self.ppo.aux_epochs


class JointLoss:
    """What actor and critic are differentiated by.

    Args:
        actor: see `gaussgym_learn.ppo.Learner`.
        critic: see there.
        buffer: tells widths and device.
        cfg: settings.
        taught: there is a teacher.
        maps: of the robot's symmetry, where `cfg.symmetry` wants it.

    Attributes:
        latent_head: from the actor's latent to the teacher's, where that is learned from.
        backbone: see `frozen_features`; empty: frames are encoded in every minibatch.

    Raises:
        InputError: an unknown loss term, symmetry without maps or of a group without a mirror image.
    """

    def __init__(
        self,
        actor: MLPModel,
        critic: MLPModel | None,
        buffer: RolloutBuffer,
        cfg: LearnerCfg,
        *,
        taught: bool,
        maps: MirrorMaps | None = None,
    ) -> None:
        if cfg.symmetry.used and maps is None:
            raise InputError("symmetry is asked for, but this environment has no mirror maps; turn it off")
        if Schedule.parse(cfg.symmetry.swap).highest > 0.0 and (
            actor.is_recurrent or buffer.layout.teacher_latent
        ):
            raise InputError(
                "symmetry.swap mirrors single steps; expected a feed-forward actor without a teacher's latent: "
                "use symmetry.augment"
            )
        if cfg.symmetry.used and maps is not None:  # a group without a mirror image is better found now
            maps.observations({name: buffer.flat[0, :, a:b] for name, (a, b) in buffer.columns.items()})
        self.actor, self.critic, self.cfg, self.taught, self.maps = actor, critic, cfg, taught, maps
        self.device = buffer.device
        self.extra = [(name, LOSSES.get(name), weight) for name, weight in cfg.losses]
        self.latent_head: nn.Linear | None = None
        if buffer.layout.teacher_latent:
            width = next(m for m in actor.mlp.modules() if isinstance(m, nn.Linear)).in_features
            self.latent_head = nn.Linear(width, buffer.layout.teacher_latent).to(self.device)
        self._mirror_coef = Schedule.parse(cfg.symmetry.mirror_coef)
        self.aux_coef = 0.0 if getattr(actor, "aux_head", None) is None else cfg.aux_coef
        self.backbone: dict[bool, Any] = {}

    def losses(
        self,
        batch: Minibatch,
        objective: Objective,
        mirror_memory: State | None = None,
        progress: float = 0.0,
    ) -> dict[str, Tensor]:
        """Every loss on a minibatch, and their weighted sum `total`; with symmetry, means over it and its mirror image.

        Args:
            batch: the steps.
            objective: what counts.
            mirror_memory: a recurrent actor's memory of the mirrored past.
            progress: of the run, 0..1.
        """
        losses, mean = self.view_losses(batch, objective, progress)
        if self.cfg.symmetry.augment and mean is not None:
            assert self.maps is not None
            other = mirrored(batch, self.maps, mirror_memory)
            others, other_mean = self.view_losses(other, objective, progress)
            losses = {name: (value + others.get(name, value)) / 2 for name, value in losses.items()}
            assert other_mean is not None
            losses["mirror"] = nn.functional.mse_loss(other_mean, self.maps.actions(mean).detach())
        elif mean is not None:
            losses |= self.mirror_losses(batch, mean, progress, mirror_memory)
        weights = self.weights(objective, progress)
        losses["total"] = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        return losses

    def mirror_losses(
        self, batch: Minibatch, mean: Tensor, progress: float, mirror_memory: State | None = None
    ) -> dict[str, Tensor]:
        """`mirror`, the squared distance from a symmetric policy, while it has a weight; else nothing.

        Args:
            batch: the steps.
            mean: the actor's mean actions in them.
            progress: of the run, 0..1.
            mirror_memory: see `losses`.
        """
        if self._mirror_coef.value(progress) <= 0.0:
            return {}
        assert self.maps is not None
        if not self.actor.is_recurrent:  # its minibatches are in random order
            part = slice(max(1, round(self.cfg.symmetry.mirror_share * len(mean))))
            batch = replace(batch, flat=batch.flat[part], actions=batch.actions[part], teacher_actions=None)
            mean = mean[part]
        other_mean = self.distribution(self.latent(mirrored(batch, self.maps, mirror_memory)))[0]
        return {"mirror": nn.functional.mse_loss(other_mean, self.maps.actions(mean).detach())}

    def weights(self, objective: Objective, progress: float = 0.0) -> dict[str, float]:
        """What each loss counts, at a progress of the run of 0..1."""
        ppo, distill = self.cfg.ppo, self.cfg.distill
        return {
            "value": ppo.value_coef * (1.0 if objective.critic_only else objective.ppo),
            "surrogate": objective.ppo,
            "entropy": -objective.ppo * ppo.entropy_coef,
            "behaviour": objective.imitation,
            "latent": objective.imitation * (distill.latent_coef if distill else 0.0),
            "aux_recon": self.aux_coef,
            "mirror": self._mirror_coef.value(progress),
            **{name: weight for name, _, weight in self.extra},
        }

    def view_losses(
        self, batch: Minibatch, objective: Objective, progress: float
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Losses on a minibatch as it is, and the actor's mean actions if the actor learns."""
        value = {"value": self.critic_loss(batch)} if objective.explores else {}
        if objective.critic_only:
            return value, None
        losses, mean = self.actor_losses(batch, objective, progress)
        return value | losses, mean

    def _where(self, batch: Minibatch) -> Tensor | None:
        """Steps that count for PPO, bool; None: all."""
        return batch.on_policy if self.taught else None

    def critic_loss(self, batch: Minibatch) -> Tensor:
        """The value loss on a minibatch, a scalar."""
        assert self.critic is not None
        with self._autocast():
            values = self.critic(batch.observations()).squeeze(-1).float()  # type: ignore[arg-type]
        return value_loss(values, batch.values, batch.returns, self.cfg.ppo.clip, self._where(batch))

    def actor_losses(
        self, batch: Minibatch, objective: Objective, progress: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        """All losses but the critic's on a minibatch as it is, and the actor's mean actions."""
        clip, where = self.cfg.ppo.clip, self._where(batch)
        losses: dict[str, Tensor] = {}
        latent = self.latent(batch)
        params = self.distribution(latent)
        if objective.ppo > 0.0:
            log_prob = self.actor.get_output_log_prob(batch.actions)
            losses["surrogate"] = surrogate_loss(log_prob, batch.log_prob, batch.advantages, clip, where)
            losses["entropy"] = mean_where(self.actor.output_entropy, where)
        if objective.imitation > 0.0 and batch.teacher_actions is not None:
            losses |= self._imitation_losses(batch, latent, params[0])
        if self.aux_coef > 0.0:
            losses["aux_recon"] = self.aux_loss(latent, batch)
        inputs = LossInputs(batch, self.actor, latent, params, progress)
        return losses | {name: term(inputs) for name, term, _ in self.extra}, params[0]

    def _imitation_losses(self, batch: Minibatch, latent: Tensor, mean: Tensor) -> dict[str, Tensor]:
        assert self.cfg.distill is not None
        assert batch.teacher_actions is not None
        losses = {"behaviour": behaviour_loss(mean, batch.teacher_actions, self.cfg.distill.huber_delta)}
        if self.latent_head is not None and batch.teacher_latent is not None:
            losses["latent"] = nn.functional.mse_loss(self.latent_head(latent), batch.teacher_latent)
        return losses

    def latent(self, batch: Minibatch) -> Tensor:
        """The input of the actor's MLP `[..., L]`."""
        if not self.actor.is_recurrent:
            return self.actor.get_latent(batch.observations())  # type: ignore[arg-type]
        return self.unroll(batch)[0]

    def unroll(self, batch: Minibatch) -> tuple[Tensor, State]:
        """A recurrent actor's latent `[T, B, L]`, and its memory after the last step."""
        model: Any = self.actor
        flat = batch.groups(model.obs_groups)
        with self._autocast():
            return model.unroll(
                flat, batch.frames, batch.frame_index, batch.starts, batch.hidden, mirror=batch.mirrored,
                backbone=self.backbone.get(batch.mirrored),
            )  # fmt: skip

    def distribution(self, latent: Tensor) -> tuple[Tensor, ...]:
        """Set the actor's action distribution from a latent; its parameters."""
        assert self.actor.distribution is not None
        self.actor.distribution.update(self.actor.mlp(latent))
        return self.actor.output_distribution_params

    def aux_loss(self, latent: Tensor, batch: Minibatch) -> Tensor:
        """The reconstruction loss, a scalar."""
        return self.actor.aux_loss(latent, batch.group(self.actor.aux_group))  # type: ignore[operator,arg-type]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.cfg.mixed_precision)

    def frozen_features(self, frames: Tensor) -> dict[bool, Any]:
        """What a frozen backbone makes of a rollout's frames, and of their mirror images where wanted; by `mirrored`.

        Args:
            frames: uint8 `[F, C, H, W]`.
        """
        model: Any = self.actor
        if not getattr(model, "backbone_stays", False):
            return {}
        sides = (False, True) if self.cfg.symmetry.used else (False,)
        with self._autocast():
            return {mirror: model.backbone_features(frames, mirror=mirror) for mirror in sides}


def teacher_output(teacher: nn.Module, obs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """A teacher's actions `[E, A]` and its last hidden layer `[E, L]`."""
    model: Any = teacher
    *hidden, last = model.mlp
    latent = model.get_latent(obs)
    for layer in hidden:
        latent = layer(latent)
    return model.distribution.deterministic_output(last(latent)), latent
