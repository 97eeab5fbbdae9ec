"""Batched multi-scene Gaussian-splat rendering."""

from gaussgym_render.renderer import Frames, SplatRenderer, available_backends, register_backend

__all__ = ["Frames", "SplatRenderer", "available_backends", "register_backend"]
