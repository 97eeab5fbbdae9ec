"""Photometric augmentation of camera frames while they are encoded in an update."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green, blue in brightness (ITU-R BT.601)."""


@dataclass(frozen=True)
class PhotometricCfg:
    """How far colours are changed; each change is drawn for each frame on its own.

    The defaults are GaussGym's (arXiv 2510.15352, released code): factors 0.6 to 1.4, hue by a twentieth of a turn.

    Attributes:
        probability: of each kind of change.
        brightness: factors 1 +- this.
        contrast: factors 1 +- this on the distance to the frame's mean luma.
        saturation: factors 1 +- this on the distance to each pixel's luma.
        hue: turns +- this about the axis of greys; a third takes red to green.
        blur: weight, at most this, of the frame smoothed by (1, 2, 1)/4 each way.
    """

    probability: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.05
    blur: float = 1.0


def augment(
    images: torch.Tensor, cfg: PhotometricCfg, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Change the colours of frames at random.

    Args:
        images: float `[B, 3, H, W]` in 0..1.
        cfg: how far.
        generator: of the draws, on the images' device; None: torch's own, which checkpoints keep.

    Returns:
        float `[B, 3, H, W]` in 0..1.
    """
    draws = torch.rand(2, 5, len(images), 1, 1, 1, generator=generator, device=images.device)
    applied = draws[0] < cfg.probability
    signed = torch.where(applied, 2.0 * draws[1] - 1.0, 0.0)
    x = adjust_brightness(images, 1.0 + cfg.brightness * signed[0])
    x = adjust_contrast(x, 1.0 + cfg.contrast * signed[1])
    x = adjust_saturation(x, 1.0 + cfg.saturation * signed[2])
    x = rotate_hue(x, cfg.hue * signed[3].flatten())
    return blur(x, cfg.blur * torch.where(applied[4], draws[1, 4], 0.0)).clamp(0.0, 1.0)


def luma(images: torch.Tensor) -> torch.Tensor:
    """`[B, 3, H, W]` to `[B, 1, H, W]`."""
    weights = images.new_tensor(LUMA).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def adjust_brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply by a factor `[B, 1, 1, 1]`, limited to 0..1."""
    return (images * factor).clamp(0.0, 1.0)


def adjust_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply the distance to the frame's mean luma by a factor `[B, 1, 1, 1]`, limited to 0..1."""
    mean = luma(images).mean((2, 3), keepdim=True)
    return (mean + factor * (images - mean)).clamp(0.0, 1.0)


def adjust_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply the distance to each pixel's luma by a factor `[B, 1, 1, 1]`, limited to 0..1."""
    grey = luma(images)
    return (grey + factor * (images - grey)).clamp(0.0, 1.0)


def rotate_hue(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Rotate colours about the axis of greys by `turns` `[B]`; greys stay, a third of a turn takes red to green to blue."""
    angle = 2 * math.pi * turns
    c, s = angle.cos(), angle.sin() / math.sqrt(3.0)
    along, ahead, behind = (1 + 2 * c) / 3, (1 - c) / 3 + s, (1 - c) / 3 - s
    rows = [[along, behind, ahead], [ahead, along, behind], [behind, ahead, along]]
    matrix = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    return torch.einsum("bij,bjhw->bihw", matrix, images)


def blur(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mix in the frame smoothed by (1, 2, 1)/4 both ways with a weight `[B, 1, 1, 1]`; edges repeat."""
    row = images.new_tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(row, row).expand(images.shape[1], 1, 3, 3)
    padded = nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    smooth = nn.functional.conv2d(padded, kernel, groups=images.shape[1])
    return images + weight * (smooth - images)
