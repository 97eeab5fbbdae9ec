"""The yardstick of benchmarks draws what the oracle draws: beating a wrong renderer would mean nothing."""

import numpy as np
import pytest
from gaussgym_render import SplatRenderer
from gaussgym_render.testing import pinhole, random_cameras, random_splats, street_cameras, street_splats
from gaussgym_render.yardstick import Yardstick

BACKGROUND = (0.2, 0.4, 0.6)


def render_both(scenes, c2w, k, ids, width=48, height=36):
    expected = SplatRenderer(scenes, width, height, backend="reference", background=BACKGROUND).render(
        c2w, k, ids
    )
    frames = tuple(np.empty_like(getattr(expected, name)) for name in ("rgb", "depth", "alpha"))
    Yardstick(scenes).render(c2w, k, ids, np.arange(len(c2w)), np.asarray(BACKGROUND, np.float32), frames)
    return frames, expected


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_it_draws_what_the_oracle_draws(degree):
    rng = np.random.default_rng(degree)
    scenes = [
        random_splats(600, rng, sh_degree=degree),
        random_splats(300, rng, sh_degree=degree, log_scale_mean=-1.5),
    ]
    c2w, ids = random_cameras(6, rng), np.arange(6) % 2
    (rgb, depth, alpha), expected = render_both(scenes, c2w, np.tile(pinhole(48, 36), (6, 1, 1)), ids)
    error = np.mean((rgb.astype(float) - expected.rgb) ** 2, axis=(1, 2, 3))
    assert 10 * np.log10(255.0**2 / max(error.max(), 1e-9)) >= 40
    np.testing.assert_allclose(alpha, expected.alpha, atol=5e-3)
    seen = expected.alpha > 0.05
    assert np.quantile(np.abs(depth - expected.depth)[seen] / expected.depth[seen], 0.99) < 5e-3


def test_it_draws_surfaces():
    rng = np.random.default_rng(5)
    scene, k = street_splats(8000, rng), np.tile(pinhole(48, 36), (3, 1, 1))
    (rgb, *_), expected = render_both([scene], street_cameras(3, rng), k, np.zeros(3, int))
    assert 10 * np.log10(255.0**2 / np.mean((rgb.astype(float) - expected.rgb) ** 2)) >= 40
