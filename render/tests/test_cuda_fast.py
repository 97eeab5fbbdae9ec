"""The whole renderer on Warp's CPU device with blocks of threads as fibers: every kernel of a frame as a GPU would run it."""

import numpy as np
import pytest
from gaussgym_render import SplatRenderer
from gaussgym_render.backends import RasterizerCfg
from gaussgym_render.testing import pinhole, random_cameras, random_splats

wp = pytest.importorskip("warp")

from gaussgym_render.cuda.backend import CudaRasterizer  # noqa: E402
from gaussgym_render.cuda.frame import CudaCfg  # noqa: E402

BACKGROUND = np.array([0.2, 0.4, 0.6], np.float32)


@pytest.fixture(autouse=True)
def fibers():
    """Blocks of threads on the CPU."""
    before, wp.config.enable_cpu_blocks = wp.config.enable_cpu_blocks, True
    yield
    wp.config.enable_cpu_blocks = before


def workload(width, height):
    """Three scenes, seven cameras in no order; a thousand splats of one scene lie at one depth of one camera."""
    rng = np.random.default_rng(3)
    scenes = [random_splats(n, rng, sh_degree=d) for n, d in ((3000, 2), (300, 1), (257, 0))]
    c2w = random_cameras(7, rng)
    scenes[0].means[:1000] = c2w[0, :3, 3] + np.float32(4.0) * c2w[0, :3, 2]
    ks = np.tile(pinhole(width, height), (7, 1, 1))
    ks[:, 0, 2] *= 0.83
    return scenes, c2w, ks, np.array([0, 0, 1, 0, 2, 2, 1])


def render(scenes, c2w, ks, ids, width, height, **cfg):
    """RGB, depth, alpha."""
    rasterizer = CudaRasterizer(
        scenes,
        RasterizerCfg(width=width, height=height),
        wp.get_device("cpu"),
        CudaCfg(wave_cameras=3, **cfg),
    )
    arrays = (
        wp.array(c2w, dtype=wp.float64, device="cpu"),
        wp.array(ks, dtype=wp.float64, device="cpu"),
        wp.array(ids, dtype=wp.int64, device="cpu"),
    )
    return [a.numpy() for a in rasterizer.render_arrays(*arrays, None, None, BACKGROUND, None)]


@pytest.mark.parametrize(("width", "height"), [(84, 48), (150, 110)])
@pytest.mark.parametrize(("kernels", "least_db", "most"), [("fast", 80.0, 1), ("half", 45.0, 2)])
def test_frames_are_the_plain_kernels(width, height, kernels, least_db, most):
    load = workload(width, height)
    fast, plain = (render(*load, width, height, kernels=name) for name in (kernels, "plain"))
    error = fast[0].astype(float) - plain[0]
    assert np.abs(error).max() <= most
    assert 10 * np.log10(255.0**2 / max(np.mean(error**2), 1e-12)) >= least_db
    np.testing.assert_allclose(fast[2], plain[2], atol=1e-5 if kernels == "fast" else 1e-2)


def test_frames_are_the_oracle_s():
    scenes, c2w, ks, ids = workload(64, 48)
    rgb, _, alpha = render(scenes, c2w, ks, ids, 64, 48, kernels="fast")
    truth = SplatRenderer(scenes, 64, 48, backend="reference", background=tuple(BACKGROUND)).render(
        c2w, ks, ids
    )
    error = rgb.astype(float) - truth.rgb
    assert np.abs(error).max() <= 1
    assert 10 * np.log10(255.0**2 / np.mean(error**2)) >= 60.0  # rounding to bytes, and half-precision scenes
    assert np.mean(np.abs(alpha - truth.alpha) <= 2 / 255) >= 0.9999


@pytest.mark.parametrize("kernels", ["fast", "half"])
def test_splats_of_a_wall_keep_their_order(kernels):
    """Opaque splats, one before the other by 2e-5 m of 4, listed from the last to the first: no precision may exchange them.

    With nine bits of the depths dropped, half precision did: 24/255 in single pixels of the procedural street.
    """
    rng = np.random.default_rng(1)
    wall = random_splats(300, rng, sh_degree=0)
    wall.means[:] = np.column_stack([rng.uniform(-1, 1, (300, 2)), 4.0 + 2e-5 * np.arange(300, 0, -1)])
    wall.quats_wxyz[:], wall.scales[:], wall.opacities[:] = [1, 0, 0, 0], [0.1, 0.1, 1e-4], 0.99
    ks = pinhole(64, 48)[None]
    images = [
        render([wall], np.eye(4)[None], ks, [0], 64, 48, kernels=name)[0].astype(int)
        for name in (kernels, "plain")
    ]
    assert np.ptp(images[1]) > 100
    assert np.abs(images[0] - images[1]).max() <= (1 if kernels == "fast" else 2)
