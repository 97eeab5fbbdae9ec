"""How a policy learns: options of the commands that train one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from gaussgym_scene.errors import InputError

if TYPE_CHECKING:
    from gaussgym_learn.recipes import Recipe


@dataclass
class LearningOptions:
    """The update of a recipe; what is not given stays as the recipe has it."""

    algorithm: str | None = None
    """ppo, or one of your own by entry point."""
    symmetry: Literal["augment", "mirror", "both", "swap"] | None = None
    """Left and right: every minibatch also as its mirror image, a loss on the difference, or both; swap: half of the steps as
    their mirror images in place of themselves, for policies without images."""
    mirror_coef: float = 0.1
    """With mirror or both: weight of that loss."""
    losses: list[str] = field(default_factory=list)
    """Further loss terms as NAME=WEIGHT: action_smoothness, or one of your own by entry point."""
    aux_coef: float | None = None
    """Weight of the auxiliary reconstruction within PPO's loss, in place of its own phase; 0: neither."""
    critic_warmup: int | None = None
    """Updates at first in which only the critic learns, for networks that begin with --init-from, or PPO after imitation."""
    mixed_precision: bool = False
    """Image encoder and critic compute in bfloat16 during updates."""

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with this update.

        Raises:
            InputError: a loss term that is not NAME=WEIGHT, or is unknown.
        """
        from gaussgym_learn.recipes import SymmetryCfg

        given: dict[str, Any] = {"mixed_precision": recipe.mixed_precision or self.mixed_precision}
        if self.algorithm is not None:
            given["algorithm"] = self.algorithm
        if self.symmetry is not None:
            given["symmetry"] = SymmetryCfg(
                augment=self.symmetry in ("augment", "both"),
                swap=0.5 if self.symmetry == "swap" else 0.0,
                mirror_coef=self.mirror_coef if self.symmetry in ("mirror", "both") else 0.0,
            )
        if self.losses:
            given["losses"] = (*recipe.losses, *map(_weighted, self.losses))
        ppo: dict[str, Any] = {}
        if self.aux_coef is not None:
            ppo |= {"aux_coef": self.aux_coef, "aux_epochs": 0}
        if self.critic_warmup is not None:
            ppo["critic_warmup"] = self.critic_warmup
        return replace(recipe, **given, ppo=replace(recipe.ppo, **ppo))


@dataclass
class ImitationOptions:
    """What a teacher is for; schedules over the run such as 0.5, 1->0@0.15, 0->1@0.5..0.7, or 0, 1@0.6."""

    beta: str | None = None
    """Schedule of the probability that the teacher acts; default: the recipe's, 1->0@0.15."""
    coef: str | None = None
    """Schedule of the weight of imitation; default: the recipe's, 1."""
    ppo_coef: str | None = None
    """Schedule of the weight of PPO, which goes on from the student; default: the recipe's, 0."""
    latent_coef: float | None = None
    """Weight of the loss against the teacher's last hidden layer; default: the recipe's, 0."""

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with these schedules.

        Raises:
            InputError: what is no schedule.
        """
        from gaussgym_learn.schedules import Schedule

        names = ("beta", "coef", "ppo_coef", "latent_coef")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        for name in set(given) - {"latent_coef"}:
            Schedule.parse(given[name])
        return replace(recipe, distill=replace(recipe.distill, **given))


def _weighted(text: str) -> tuple[str, float]:
    """A loss term's name and weight."""
    from gaussgym_learn.losses import LOSSES

    name, separator, weight = text.partition("=")
    try:
        found = name, float(weight)
    except ValueError:
        separator = ""
    if not separator:
        raise InputError(f"loss {text!r}, expected NAME=WEIGHT such as action_smoothness=0.1")
    LOSSES.get(name)
    return found
