"""Small images against the averaged large ones: the antialiasing is worth its name."""

import numpy as np
from gaussgym_render import oracle
from gaussgym_render.low_resolution import clip_radius, compare_settings, released_gaussgym, supersampled
from gaussgym_render.testing import pinhole, random_cameras, random_splats
from gaussgym_render.viewpoints import Viewpoints, path_viewpoints
from gaussgym_scene import Splats, synthesize


def test_a_supersampled_pixel_is_the_mean_over_its_area():
    # A wide splat far off: brightness falls off linearly over a pixel, and its mean is the value in the middle.
    one = Splats([[0, 0, 5.0]], [[1, 0, 0, 0]], [[2.0, 2.0, 2.0]], [0.9], np.zeros((1, 1, 3)))
    k = pinhole(12, 8)
    truth = supersampled(one, Viewpoints(["a"], np.eye(4)[None], k[None], 12, 8))[0]
    u, v = np.meshgrid((np.arange(96) + 0.5) / 8 - 6, (np.arange(64) + 0.5) / 8 - 4)
    variance = (6 * 2.0 / 5) ** 2
    fine = 0.9 * 0.5 * 255 * np.exp(-0.5 * (u**2 + v**2) / variance)
    expected = fine.reshape(8, 8, 12, 8).mean((1, 3))
    np.testing.assert_allclose(truth[..., 0], expected, atol=0.6)


def test_clipping_drops_the_splats_that_gsplat_drops():
    # On the axis at z = 1 with f = 10 the variance is (10 s)² + 0.3. Opacity 0.9 reaches 3.297 standard deviations, so that
    # s = 0.01 has ceil(3.297·sqrt(0.31)) = 2 px and s = 0.1 ceil(3.297·sqrt(1.3)) = 4 px; a needle stays by its longer side;
    # opacity 0.02 reaches sqrt(2 ln 5.1) = 1.805 standard deviations, s = 0.1 then has 3 px.
    scales = [[0.01] * 3, [0.1] * 3, [0.1, 0.001, 0.001], [0.1] * 3]
    splats = Splats(
        [[0, 0, 1.0], [0, 0, 1.1], [0, 0, 1.0], [0, 0, 1.0]],
        [[1, 0, 0, 0]] * 4,
        scales,
        [0.9, 0.9, 0.9, 0.02],
        np.zeros((4, 1, 3)),
    )
    k = np.array([[10.0, 0, 8], [0, 10, 8], [0, 0, 1]])
    seen = oracle.project(splats, np.eye(4), k, 16, 16, antialiased=False)
    assert sorted(seen.index) == [0, 1, 2, 3]
    assert sorted(clip_radius(seen, 3.0).index) == [1, 2]
    assert sorted(clip_radius(seen, 2.0).index) == [1, 2, 3]
    assert sorted(clip_radius(seen, 0.0).index) == [0, 1, 2, 3]


def test_without_clipping_the_released_setting_is_the_classic_mode():
    rng = np.random.default_rng(0)
    splats, c2w, k = random_splats(300, rng), random_cameras(1, rng), pinhole(24, 16)
    image = released_gaussgym(splats, Viewpoints(["a"], c2w, k[None], 24, 16), radius_clip_px=0.0)[0]
    classic = oracle.render(splats, c2w[0], k, 24, 16, antialiased=False).rgb
    np.testing.assert_array_equal(image, np.floor(np.clip(classic, 0, 1) * 255 + 0.5))


def test_small_images_are_3_db_better_than_the_released_settings():
    """A small scene; `experiments/low_resolution` has whole ones."""
    scene = synthesize("corridor", 1, max_splats=15_000)
    path = path_viewpoints(scene, width=84, height=48)
    some = np.linspace(0, len(path) - 1, 2).astype(int)
    cameras = Viewpoints([path.names[i] for i in some], path.c2w[some], path.K[some], 84, 48)
    result = compare_settings(scene.splats, cameras)
    assert result.antialiased_db >= result.released_db + 3
    assert result.antialiased_db > result.classic_db
