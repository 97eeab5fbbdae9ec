"""PPO of rsl_rl with a learning rate set once per update and an auxiliary reconstruction phase."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from rsl_rl.algorithms import PPO
from rsl_rl.storage import RolloutStorage
from rsl_rl.utils import unpad_trajectories
from torch import nn


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


class AdaptivePPO(PPO):
    """rsl_rl's PPO; the learning rate follows the whole update's KL, an auxiliary phase follows the PPO step.

    The auxiliary phase (phasic, after Cobbe et al., arXiv 2009.04416) trains the actor's `aux_head` and everything below it
    to reconstruct an observation group that the actor does not see, from the same rollout. Coming after the PPO step
    it does not disturb the importance ratios.

    Args:
        *args: see `rsl_rl.algorithms.PPO`.
        target_kl: see `adapt_learning_rate`; None keeps the learning rate.
        aux_cfg: None, or `{"lr": 3e-4, "epochs": 1}`; needs an actor with an auxiliary head.
        learning_rate_limits: smallest and largest learning rate.
        **kwargs: see `rsl_rl.algorithms.PPO`.
    """

    def __init__(
        self,
        *args: object,
        target_kl: float | None = 0.06,
        aux_cfg: dict | None = None,
        learning_rate_limits: tuple[float, float] = (1e-5, 1e-2),
        **kwargs: object,
    ) -> None:
        super().__init__(*args, **{"schedule": "fixed", **kwargs})  # type: ignore[arg-type]
        self.target_kl = target_kl
        self.learning_rate_limits = learning_rate_limits
        self.aux_cfg = aux_cfg
        self.aux_optimizer: torch.optim.Optimizer | None = None
        if aux_cfg is not None:
            if getattr(self.actor, "aux_head", None) is None:
                raise ValueError("aux_cfg needs an actor with an auxiliary head (`aux={'group': ...}`)")
            self.aux_optimizer = torch.optim.Adam(self.actor.parameters(), lr=aux_cfg.get("lr", 3e-4))

    def update(self) -> dict[str, float]:
        """One PPO update, then the learning rate's step, the auxiliary phase and the normalizers."""
        normalizers = [m.obs_normalizer for m in (self.actor, self.critic)]
        # The KL must be that of the optimization alone, so the statistics move after it.
        for normalizer in normalizers:
            normalizer.eval()
        losses = super().update()
        with torch.no_grad():
            losses["kl"] = self.rollout_kl()
        if self.target_kl is not None:
            self.learning_rate = adapt_learning_rate(
                self.learning_rate, losses["kl"], self.target_kl, limits=self.learning_rate_limits
            )
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate
        if self.aux_optimizer is not None:
            losses["aux_recon"] = self.update_aux()
        for normalizer in normalizers:
            normalizer.train()
        obs = self.storage.observations.flatten(0, 1)
        self.actor.update_normalization(obs)  # type: ignore[arg-type]
        self.critic.update_normalization(obs)  # type: ignore[arg-type]
        return losses

    def batches(self, num_mini_batches: int, epochs: int) -> Iterator[RolloutStorage.Batch]:
        """Minibatches of the stored rollout, padded trajectories where a model is recurrent."""
        if self.actor.is_recurrent or self.critic.is_recurrent:
            return self.storage.recurrent_mini_batch_generator(num_mini_batches, epochs)
        return self.storage.mini_batch_generator(num_mini_batches, epochs)

    def rollout_kl(self) -> float:
        """Mean KL(policy that acted, policy now) over the stored rollout."""
        total, count = 0.0, 0
        for batch in self.batches(1, 1):
            self.actor(
                batch.observations,
                masks=batch.masks,
                hidden_state=batch.hidden_states[0],
                stochastic_output=True,
            )
            kl = self.actor.get_kl_divergence(
                batch.old_distribution_params, self.actor.output_distribution_params
            )  # type: ignore[arg-type]
            total, count = total + float(kl.sum()), count + kl.numel()
        return total / max(count, 1)

    def aux_loss(self, batch: RolloutStorage.Batch) -> torch.Tensor:
        """Mean squared error between the auxiliary head's prediction and its observation group."""
        actor = self._raw_actor
        latent = actor.get_latent(batch.observations, batch.masks, batch.hidden_states[0])  # type: ignore[arg-type]
        target = batch.observations[actor.aux_group]  # type: ignore[index]
        if batch.masks is not None:
            target = unpad_trajectories(target, batch.masks)
        return actor.aux_loss(latent, target)

    def update_aux(self) -> float:
        """The auxiliary phase; returns the mean loss."""
        assert self.aux_optimizer is not None
        assert self.aux_cfg is not None
        total, count = 0.0, 0
        for batch in self.batches(self.num_mini_batches, self.aux_cfg.get("epochs", 1)):
            loss = self.aux_loss(batch)
            self.aux_optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.actor.parameters(), self.max_grad_norm)
            self.aux_optimizer.step()
            total, count = total + loss.item(), count + 1
        return total / max(count, 1)

    def save(self) -> dict:
        """State of the models and of all optimizers."""
        state = super().save()
        if self.aux_optimizer is not None:
            state["aux_optimizer_state_dict"] = self.aux_optimizer.state_dict()
        return state

    def load(self, loaded_dict: dict, load_cfg: dict | None, strict: bool) -> bool:
        """Restore what `save` returned."""
        result = super().load(loaded_dict, load_cfg, strict)
        if self.aux_optimizer is not None and (load_cfg is None or load_cfg.get("optimizer")):
            self.aux_optimizer.load_state_dict(loaded_dict["aux_optimizer_state_dict"])
        return result
