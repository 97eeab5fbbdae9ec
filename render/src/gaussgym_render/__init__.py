"""Batched multi-scene Gaussian-splat rendering."""

from gaussgym_render.objects import Instances, ObjectSet, build_objects
from gaussgym_render.renderer import Frames, SplatRenderer, available_backends, register_backend

__all__ = [
    "Frames",
    "Instances",
    "ObjectSet",
    "SplatRenderer",
    "available_backends",
    "build_objects",
    "register_backend",
]
