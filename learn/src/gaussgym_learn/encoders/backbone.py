"""What encoders on a published backbone share: normalization, channels, freezing and the head behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from gaussgym_scene.errors import InputError
from torch import nn

from gaussgym_learn.encoders.weights import PublishedWeights, load_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green, blue in 0..1; both backbones were trained on images normalized so."""
REDUCED_CHANNELS = 32


class SpatialHead(nn.Module):
    """A feature map to a feature vector that still knows where things are: 1x1 convolution, ELU, linear layer, ELU.

    Averaging the map over the image, as classifiers do, would drop on which side an obstacle stands.

    Args:
        map_channels: channels of the map.
        grid: its height and width.
        vector_dim: length of a vector that is joined to the map's values, 0 for none.
        feature_dim: length of the feature.
    """

    def __init__(self, map_channels: int, grid: tuple[int, int], vector_dim: int, feature_dim: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(map_channels, REDUCED_CHANNELS, 1)
        self.project = nn.Linear(REDUCED_CHANNELS * grid[0] * grid[1] + vector_dim, feature_dim)

    def forward(self, feature_map: torch.Tensor, vector: torch.Tensor | None = None) -> torch.Tensor:
        """`[B, C, h, w]` and `[B, V]` or None to features `[B, F]`."""
        flat = nn.functional.elu(self.reduce(feature_map)).flatten(1)
        if vector is not None:
            flat = torch.cat([flat, vector], dim=1)
        return nn.functional.elu(self.project(flat))


class BackboneEncoder(nn.Module):
    """Images through a published backbone and a `SpatialHead`.

    Channels: three are red, green, blue. One (depth) is repeated to three. More than three are red, green, blue and
    further ones (RGB-D), whose input weights start at zero when published weights are loaded: at first the encoder sees
    what the published one sees. Two have no published meaning and only work without published weights.

    Subclasses set `backbone` and `head`, and implement `features`.

    Args:
        channels: image channels.
        height: image height [px].
        width: image width [px].
        feature_dim: length of the feature.
    """

    published: ClassVar[PublishedWeights | None] = None
    unused_names: ClassVar[tuple[str, ...]] = ()
    """Names in published files that this project does not use."""
    input_layer: ClassVar[str] = ""
    """Name of the backbone's first weight, `[out, channels, k, k]`."""
    backbone: nn.Module
    head: SpatialHead
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, channels: int, height: int, width: int, feature_dim: int) -> None:
        super().__init__()
        self.shape = (channels, height, width)
        self.feature_dim = feature_dim
        self.frozen = False
        self.input_channels = 3 if channels == 1 else channels
        extra = self.input_channels - 3
        mean = [*IMAGENET_MEAN, *(0.5,) * extra] if extra >= 0 else [0.5] * self.input_channels
        std = [*IMAGENET_STD, *(0.5,) * extra] if extra >= 0 else [0.5] * self.input_channels
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def normalized(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 `[B, C, H, W]`, or float in 0..1, to the backbone's input `[B, max(C, 3), H, W]`."""
        x = images.float() / 255.0 if images.dtype == torch.uint8 else images
        return (x.expand(-1, self.input_channels, -1, -1) - self.mean) / self.std

    def features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Feature map `[B, C, h, w]`, and a vector `[B, V]` or None, of normalized images."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images.

        Args:
            images: uint8 `[B, C, H, W]`, or float in 0..1.

        Returns:
            Features `[B, F]`.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            feature_map, vector = self.features(self.normalized(images))
        return self.head(feature_map, vector)

    def freeze(self) -> None:
        """Let the backbone be: no gradient reaches it, and none is computed. The head goes on learning."""
        self.frozen = True
        self.backbone.requires_grad_(False)

    def load_published(self, state: Mapping[str, torch.Tensor], source: object) -> None:
        """Load weights of the published names into the backbone.

        Args:
            state: tensors by name.
            source: named in errors.

        Raises:
            InputError: they do not fit, or the images have two channels.
        """
        if self.input_channels < 3:
            raise InputError(
                f"{source}: made for red, green, blue; the images have {self.shape[0]} channels, expected 1, 3 or more"
            )
        first = state.get(self.input_layer)
        if first is not None and first.ndim == 4 and first.shape[1] == 3 < self.input_channels:
            missing = first.new_zeros(first.shape[0], self.input_channels - 3, *first.shape[2:])
            state = {**state, self.input_layer: torch.cat([first, missing], dim=1)}
        load_weights(self.backbone, state, source=source, unused=self.unused_names)
