"""The images that a camera gives: colour, and depth in the same 8 bits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from gaussgym_scene.errors import InputError
from torch import Tensor

if TYPE_CHECKING:
    from gaussgym_sim.sensors.camera import CameraCfg

IMAGE_CHANNELS = {"rgb": 3, "depth": 1}
"""Images that a camera can give, as observation groups, and how many channels each has."""


def check_images(cfg: CameraCfg) -> None:
    """Refuse images that no camera gives.

    Raises:
        InputError: no image, an unknown one, one twice, or a largest depth that is none.
    """
    if not cfg.images or len(set(cfg.images)) < len(cfg.images) or not set(cfg.images) <= set(IMAGE_CHANNELS):
        raise InputError(
            f"camera images {list(cfg.images)}, expected one or more of {', '.join(IMAGE_CHANNELS)}, each once"
        )
    if not 0.0 < cfg.depth_max_m < math.inf:
        raise InputError(f"depth_max_m is {cfg.depth_max_m}, expected a positive number of metres")


def quantize_depth(depth_m: Tensor, max_m: float) -> Tensor:
    """Depth as an image, uint8 [C, 1, H, W] = round(255 min(d, max_m) / max_m); where nothing was hit it is 255.

    Args:
        depth_m: [C, H, W] along the camera's +Z [m], 0 where nothing was hit.
        max_m: what becomes 255.
    """
    levels = (depth_m * (255.0 / max_m)).clamp_(max=255.0).round_()
    return levels.masked_fill_(depth_m <= 0.0, 255.0).to(torch.uint8)[:, None]
