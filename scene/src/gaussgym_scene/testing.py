"""Fixtures that the tests of several packages share."""

import numpy as np

from gaussgym_scene.frames import normalize
from gaussgym_scene.splats import Splats


def random_splats(
    n: int, *, sh_degree: int = 0, seed: int = 0, spread_m: float = 1.0, size_m: float = 0.05
) -> Splats:
    """Splats with general rotations, elongated shapes and every opacity.

    Args:
        n: How many.
        sh_degree: Degree of the colours.
        seed: Seed of everything.
        spread_m: Standard deviation of the centres about the origin [m].
        size_m: Typical standard deviation of a splat [m].
    """
    rng = np.random.default_rng(seed)
    sh = rng.normal(size=(n, (sh_degree + 1) ** 2, 3)) * 0.3
    sh[:, 0] = rng.uniform(-1.5, 1.5, size=(n, 3))
    return Splats(
        means=rng.normal(size=(n, 3)) * spread_m,
        quats_wxyz=normalize(rng.normal(size=(n, 4))) if n else np.zeros((0, 4)),
        scales=size_m * np.exp(rng.normal(size=(n, 3)) * 0.7),
        opacities=rng.uniform(0.02, 0.98, size=n),
        sh=sh,
    )
