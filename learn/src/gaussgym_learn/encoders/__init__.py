"""Image encoders by name: uint8 images in, one feature vector each out.

An encoder of your own is a `torch.nn.Module` that is built as `Encoder(channels, height, width, feature_dim)`, keeps those
as `shape` and `feature_dim`, and maps images `[B, C, H, W]` (uint8, or float in 0..1) to features `[B, feature_dim]`. Name it
under the entry-point group `gaussgym.encoders`. `freeze()` and `load_published(state, source)` are asked for only where a
recipe freezes it or loads weights, `published` only for the weights `hub`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.registry import Registry
from torch import nn

from gaussgym_learn.encoders.dinov2 import DinoV2Encoder
from gaussgym_learn.encoders.resnet import ResNet18Encoder
from gaussgym_learn.encoders.small_cnn import ImageEncoder
from gaussgym_learn.encoders.weights import PublishedWeights, fetch_published, read_weights

__all__ = [
    "ENCODERS",
    "DinoV2Encoder",
    "ImageEncoder",
    "PublishedWeights",
    "ResNet18Encoder",
    "build_encoder",
    "load_encoder_weights",
]

ENCODERS: Registry[Callable[..., nn.Module]] = Registry("encoder", "gaussgym.encoders")
ENCODERS.register("small_cnn")(ImageEncoder)
ENCODERS.register("resnet18")(ResNet18Encoder)
ENCODERS.register("dinov2_vits14")(DinoV2Encoder)


def build_encoder(name: str, shape: Sequence[int], feature_dim: int, *, freeze: bool = False) -> Any:
    """An encoder with random weights.

    Args:
        name: in `ENCODERS`.
        shape: of an image: channels, height, width.
        feature_dim: length of the feature.
        freeze: see `BackboneEncoder.freeze`.

    Raises:
        InputError: no such name, or something under it that does not encode such images.
    """
    channels, height, width = (int(n) for n in shape)
    encoder = ENCODERS.get(name)(channels, height, width, feature_dim)
    with torch.no_grad():
        found = tuple(encoder(torch.zeros(1, channels, height, width, dtype=torch.uint8)).shape)
    kept = (tuple(getattr(encoder, "shape", ())), getattr(encoder, "feature_dim", None))
    if found != (1, feature_dim) or kept != ((channels, height, width), feature_dim):
        raise InputError(
            f"encoder {name!r}: gives {list(found)} for one image and has shape {list(kept[0])}, feature_dim {kept[1]}; "
            f"expected {[1, feature_dim]}, {[channels, height, width]} and {feature_dim}"
        )
    if freeze:
        _require(encoder, name, "freeze")()
    return encoder


def load_encoder_weights(encoder: nn.Module, name: str, weights: str) -> None:
    """Load the weights that a recipe names into a new encoder.

    Args:
        encoder: as built.
        name: of it, for errors.
        weights: `none`, `hub` (the published file, downloaded once into the user's cache) or the path of a file with the
            published names.

    Raises:
        InputError: no such weights, or they do not fit.
    """
    if weights == "none":
        return
    load = _require(encoder, name, "load_published")
    path = weights
    if weights == "hub":
        published: PublishedWeights | None = getattr(encoder, "published", None)
        if published is None:
            raise InputError(f"encoder {name!r} has no published weights; use none, or the path of a file")
        path = fetch_published(published)
    load(read_weights(path), path)


def _require(encoder: nn.Module, name: str, method: str) -> Callable[..., None]:
    found = getattr(encoder, method, None)
    if found is None:
        raise InputError(
            f"encoder {name!r} has no {method}(); expected it where a recipe freezes or loads weights"
        )
    return found
