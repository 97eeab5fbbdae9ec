"""The loss and the recipe: the dash from pixels, with the encoder beside, and small actions."""

from dataclasses import replace

from gaussgym_learn.losses import LossInputs
from gaussgym_learn.recipes import Recipe, get_recipe
from gaussgym_sim.env import EnvCfg
from torch import Tensor


def small_actions(inputs: LossInputs) -> Tensor:
    """Mean square of what the policy would do, a scalar; a recipe gives it a weight."""
    return inputs.params[0].square().mean()


def dash_pixels() -> Recipe:
    """`gaussgym-learn train dash_pixels --robot pup --scenes ...`."""
    base = get_recipe("pixels")
    network = replace(base.network, encoder="columns")
    return replace(
        base,
        name="dash_pixels",
        task="dash",
        network=network,
        losses=(("small_actions", 0.01),),
        env=EnvCfg(task="dash"),
    )
