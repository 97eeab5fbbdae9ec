"""ResNet-18 (He et al., arXiv 1512.03385) under the weight names that torchvision publishes."""

from __future__ import annotations

import torch
from torch import nn

from gaussgym_learn.encoders.backbone import BackboneEncoder, SpatialHead
from gaussgym_learn.encoders.weights import PublishedWeights

WIDTHS = (64, 128, 256, 512)
STRIDE = 32


class StoredBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization by its stored statistics, in training too.

    The statistics of a batch would give a frame another feature in the update than in the rollout, and with it another
    probability of the action that was taken: PPO's importance ratios would be wrong before the first gradient step.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`[B, C, h, w]` to the same shape."""
        return nn.functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = StoredBatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = StoredBatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), StoredBatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, C, h, w]` to `[B, C', h / stride, w / stride]`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet18(nn.Module):
    """The backbone: everything before the average over the image.

    Without published weights the second normalization of every block starts at zero (Goyal et al., arXiv 1706.02677):
    blocks begin as their shortcuts, so that values do not grow from block to block although no batch is normalized.

    Args:
        channels: input channels.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)
        self.bn1 = StoredBatchNorm2d(64)
        inputs = 64
        for index, width in enumerate(WIDTHS):
            first = BasicBlock(inputs, width, 1 if index == 0 else 2)
            self.add_module(f"layer{index + 1}", nn.Sequential(first, BasicBlock(width, width, 1)))
            inputs = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalized images `[B, C, H, W]` to a map `[B, 512, ceil(H / 32), ceil(W / 32)]`."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = nn.functional.max_pool2d(x, 3, 2, padding=1)
        for index in range(len(WIDTHS)):
            x = getattr(self, f"layer{index + 1}")(x)
        return x


class ResNet18Encoder(BackboneEncoder):
    """`ResNet18` and a head that keeps where things are; any image size.

    Args:
        channels: see `BackboneEncoder`.
        height: image height [px].
        width: image width [px].
        feature_dim: length of the feature.
    """

    published = PublishedWeights(
        url="https://download.pytorch.org/models/resnet18-f37072fd.pth",
        sha256="f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
        size_bytes=46_830_571,
        licence="BSD-3-Clause",
    )
    """ImageNet-1k; torchvision's `ResNet18_Weights.IMAGENET1K_V1`."""
    unused_names = ("fc.weight", "fc.bias")
    input_layer = "conv1.weight"

    def __init__(self, channels: int, height: int, width: int, feature_dim: int = 64) -> None:
        super().__init__(channels, height, width, feature_dim)
        self.backbone = ResNet18(self.input_channels)
        grid = (-(-height // STRIDE), -(-width // STRIDE))
        self.head = SpatialHead(WIDTHS[-1], grid, 0, feature_dim)

    def features(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        """See `BackboneEncoder.features`."""
        return self.backbone(x), None
