"""How a policy sees: options of the commands that train one."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

from gaussgym_scene.errors import InputError

if TYPE_CHECKING:
    from gaussgym_learn.recipes import Recipe


@dataclass
class NetworkOptions:
    """Eyes and memory of a recipe that sees; what is not given stays as the recipe has it."""

    images: Literal["rgb", "depth", "rgbd"] | None = None
    """What the camera gives: colour, depth, or both."""
    encoder: str | None = None
    """Image encoder: small_cnn, resnet18, dinov2_vits14, or one of your own by entry point."""
    encoder_weights: str | None = None
    """Its weights: none, hub (published, downloaded once) or the path of a file with the published names."""
    encoder_freeze: bool = False
    """Keep the encoder's weights as they are."""
    rnn: Literal["gru", "lstm"] | None = None
    """Recurrent network."""
    aux_kind: Literal["vector", "height_map", "voxels"] | None = None
    """How the auxiliary head makes out the terrain."""
    photometric: bool = False
    """Change the colours of camera frames at random in updates (brightness, contrast, saturation, hue, blur)."""

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with these eyes.

        Raises:
            InputError: something was given for a recipe that does not see, or for an auxiliary head that it does not have.
        """
        from gaussgym_learn.photometric import PhotometricCfg
        from gaussgym_learn.recipes import IMAGE_GROUPS

        given = [f.name for f in fields(self) if getattr(self, f.name) not in (None, False)]
        if not given:
            return recipe
        network = recipe.network
        if not set(network.actor_groups) & set(IMAGE_GROUPS):
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise InputError(
                f"recipe {recipe.name!r} does not see; expected one that does, such as pixels, with {options}"
            )
        if self.aux_kind is not None and network.aux_group is None:
            raise InputError(f"recipe {recipe.name!r} has no auxiliary head; leave --aux-kind out")
        changes = {
            "encoder": self.encoder,
            "encoder_weights": self.encoder_weights,
            "rnn_type": self.rnn,
            "aux_kind": self.aux_kind,
            "encoder_freeze": self.encoder_freeze or None,
            "photometric": PhotometricCfg() if self.photometric else None,
        }
        kept = {name: value for name, value in changes.items() if value is not None}
        if self.images is not None:
            images = {"rgb": ("rgb",), "depth": ("depth",), "rgbd": IMAGE_GROUPS}[self.images]
            others = tuple(group for group in network.actor_groups if group not in IMAGE_GROUPS)
            kept["actor_groups"] = (*others, *images)
        return replace(recipe, network=replace(network, **kept))
