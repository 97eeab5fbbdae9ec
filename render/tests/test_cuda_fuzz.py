"""Random scenes, sizes, lenses, masks and capacities on the backend for CUDA: against the CPU backend, and with checked indices."""

import subprocess
import sys

import numpy as np
import pytest
from gaussgym_render import SplatRenderer
from gaussgym_render.lod import build_tree
from gaussgym_render.testing import pinhole, random_cameras, random_splats
from gaussgym_scene import Splats

pytest.importorskip("warp")

BACKGROUND = (0.1, 0.5, 0.9)
CASES_CHECKED = 12


def random_scene(rng):
    """Any size about those where chunks begin, with levels of detail or without, of needles, clouds and specks."""
    count = int(rng.choice([0, 1, 255, 256, 257, 600, 1500]))
    degree = int(rng.integers(0, 4))
    if count == 0:
        return Splats.empty(degree)
    scene = random_splats(
        count,
        rng,
        sh_degree=degree,
        size_m=tuple(rng.uniform(0.2, 10, 3)),
        log_scale_mean=rng.uniform(-5, 0),
        log_scale_std=rng.uniform(0.1, 2.5),
    )
    return build_tree(scene, threshold_px=rng.uniform(0, 3)) if rng.uniform() < 0.3 else scene


def random_case(seed):
    """Scenes, image size, settings, and what to render."""
    rng = np.random.default_rng(seed)
    width, height, count = (int(n) for n in rng.integers(1, [180, 140, 12]))
    scenes = [random_scene(rng) for _ in range(rng.integers(1, 5))]
    ks = np.stack([pinhole(width, height, rng.uniform(0.2, 2.6)) for _ in range(count)])
    ks[:, :2, 2] += rng.normal(size=(count, 2)) * 0.3 * min(width, height)
    batch = (random_cameras(count, rng), ks, rng.integers(0, len(scenes), count))
    options = {"mask": rng.uniform(size=count) < 0.8}
    if rng.uniform() < 0.5:
        options["sizes"] = rng.integers(1, [width + 1, height + 1], (count, 2))
    settings = {"near": float(rng.choice([0.01, 0.2, 1.0])), "background": BACKGROUND}
    cfg = {"wave_cameras": int(rng.integers(1, 12))}
    tight = {
        "visible_per_camera": int(rng.choice([1, 50, 300, 5000])),
        "pairs_per_visible": float(rng.choice([0.3, 1.0, 3.0])),
    }
    return scenes, (width, height), settings, batch, options, cfg, tight


def draw(case, backend, *, cramped=False):
    """The case's images; on Warp with its waves, and with little room if wanted."""
    scenes, size, settings, batch, options, cfg, tight = case
    renderer = SplatRenderer(scenes, *size, backend=backend, **settings)
    if backend == "warp-cpu":
        from gaussgym_render.cuda.frame import CudaCfg

        renderer.rasterizer.cuda_cfg = CudaCfg(**cfg, **(tight if cramped else {}))
    return renderer.render(*batch, **options)


@pytest.mark.parametrize("seed", range(8))
def test_random_cases(seed):
    case = random_case(1000 + seed)
    ours, other = (draw(case, backend) for backend in ("warp-cpu", "cpu"))
    assert np.abs(ours.rgb.astype(int) - other.rgb).max() <= 1
    assert np.mean(np.abs(ours.alpha - other.alpha) > 1e-3) <= 1e-3
    assert np.mean(np.abs(ours.depth - other.depth) > 1e-3 * (1 + other.depth)) <= 1e-3


def draw_checked():
    """In a process of its own: all indices checked, which takes a compilation of its own; with room and with too little."""
    import warp as wp

    wp.config.mode = "debug"
    for seed in range(CASES_CHECKED):
        for cramped in (False, True):
            image = draw(random_case(5000 + seed), "warp-cpu", cramped=cramped)
            assert np.isfinite(image.depth).all()
    print("checked")


@pytest.mark.slow
def test_no_kernel_reads_or_writes_beyond_its_arrays():
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert done.stdout.endswith("checked\n"), done.stderr[-500:]


if __name__ == "__main__":
    draw_checked()
