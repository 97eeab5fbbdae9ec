"""The small encoder that the shipped policies have: three convolutions and a linear layer, trained from nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from gaussgym_scene.errors import InputError
from rsl_rl.modules import CNN
from torch import nn

from gaussgym_learn.encoders.weights import load_weights

CNN_CFG = {
    "output_channels": [16, 32, 32],
    "kernel_size": [8, 4, 3],
    "stride": [4, 2, 1],
    "activation": "elu",
}
SMALLEST_PX = 36
"""Less leaves nothing after the three convolutions of `CNN_CFG`."""


class ImageEncoder(nn.Module):
    """uint8 image to feature vector: a small CNN and one linear layer.

    Args:
        channels: image channels.
        height: image height [px].
        width: image width [px].
        feature_dim: length of the feature vector.
        cnn_cfg: arguments of `rsl_rl.modules.CNN`.

    Raises:
        InputError: an image smaller than the convolutions' reach.
    """

    published = None

    def __init__(
        self, channels: int, height: int, width: int, feature_dim: int = 64, cnn_cfg: dict | None = None
    ) -> None:
        super().__init__()
        if cnn_cfg is None and min(height, width) < SMALLEST_PX:
            raise InputError(
                f"images of {width}x{height} px, encoder small_cnn needs at least {SMALLEST_PX} each way"
            )
        self.shape = (channels, height, width)
        self.feature_dim = feature_dim
        cnn = CNN(input_dim=(height, width), input_channels=channels, **(cnn_cfg or CNN_CFG))
        self.net = nn.Sequential(cnn, nn.Linear(int(cnn.output_dim), feature_dim), nn.ELU())  # type: ignore[arg-type]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images.

        Args:
            images: uint8 `[B, C, H, W]`, or float in 0..1.

        Returns:
            Features `[B, F]`.
        """
        x = images.float() / 255.0 if images.dtype == torch.uint8 else images
        return self.net(x - 0.5)

    def freeze(self) -> None:
        """Keep all weights as they are."""
        self.requires_grad_(False)

    def load_published(self, state: Mapping[str, torch.Tensor], source: object) -> None:
        """Load weights of this class's own names.

        Raises:
            InputError: they do not fit.
        """
        load_weights(self, state, source=source)
