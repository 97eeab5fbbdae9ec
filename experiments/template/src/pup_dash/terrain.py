"""The terrain: humps across the way, to be seen as well as felt."""

from dataclasses import dataclass

import numpy as np
from gaussgym_scene import materials
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth.builder import SceneBuilder, SynthCfg, rng_for
from gaussgym_scene.synth.lane import Lane, lane_lines


@dataclass(frozen=True, kw_only=True)
class HumpsCfg(SynthCfg):
    """Options: gaussgym-scene synth humps --height-m 0.08 --output humps."""

    height_m: float = 0.05
    """Of each hump [m]."""


def make(cfg: HumpsCfg, seed: int) -> Scene:
    """Twelve metres of them."""
    rng, builder = rng_for("humps", seed), SceneBuilder()
    x, y = np.meshgrid(np.linspace(0, 12, 121), np.linspace(-2, 2, 41))
    points = np.stack([x, y, cfg.height_m * np.sin(np.pi * x / 2) ** 2], axis=-1)
    uv = np.stack([x / 12, 0.5 - y / 4], axis=-1)
    builder.grid(points, uv, builder.paint(materials.gravel((4.0, 12.0), 0.02, rng)), ground=True)
    return builder.scene("humps", seed, cfg, lane_lines(Lane(np.array([(0, 0), (12, 0)]), 4.0, 2.0)))


KIND = (HumpsCfg, make)
