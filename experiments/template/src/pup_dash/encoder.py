"""The encoder: how bright each column of the image is, weighed by what it learns."""

import torch
from torch import Tensor, nn


class Columns(nn.Module):
    """Images [B, C, H, W], uint8 or 0..1, in; features [B, feature_dim] out."""

    def __init__(self, channels: int, height: int, width: int, feature_dim: int) -> None:
        super().__init__()
        self.shape, self.feature_dim = (channels, height, width), feature_dim
        self.head = nn.Sequential(nn.Linear(channels * width, feature_dim), nn.ELU())

    def forward(self, images: Tensor) -> Tensor:
        """Mean over each column, then one layer."""
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        return self.head((images.float() / scale).mean(dim=2).flatten(1))
