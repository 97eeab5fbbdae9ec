"""Fixtures that the tests of several packages share."""

from pathlib import Path

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


def install_package(folder: Path, package: str, code: str, group: str, **points: str) -> None:
    """Leave a package of one module in a folder as pip does: the module, and its metadata with entry points.

    Args:
        folder: To be on ``sys.path``.
        package: Name of the package and its module.
        code: Of the module.
        group: Of the entry points.
        **points: ``module:attribute`` by name.
    """
    (folder / f"{package}.py").write_text(code)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
