"""The reference rasterizer against formulas worked out by hand."""

import numpy as np
import pytest
from gaussgym_render import harmonics, oracle
from gaussgym_render.testing import pinhole, random_cameras, random_splats
from gaussgym_scene import Splats
from gaussgym_scene.frames import look_at

FORWARD = np.eye(4)  # camera at the origin, looking along +Z of the world


def splat(mean, scale, opacity, rgb, quat=(1.0, 0, 0, 0)):
    sh = ((np.asarray(rgb, float) - 0.5) / harmonics.C0)[None, None]
    return Splats(np.array([mean]), np.array([quat]), np.array([scale]), np.array([opacity]), sh)


def join(*parts):
    return Splats(
        *(
            np.concatenate([getattr(p, f) for p in parts])
            for f in ("means", "quats_wxyz", "scales", "opacities", "sh")
        )
    )


@pytest.mark.parametrize("antialiased", [True, False])
def test_one_isotropic_splat_is_the_formula(antialiased):
    # On the optical axis the covariance is diag((f s / z)²) + 0.3 I.
    f, s, z, opacity = 50.0, 0.1, 2.0, 0.8
    k = np.array([[f, 0, 16.0], [0, f, 12.0], [0, 0, 1]])
    image = oracle.render(
        splat((0, 0, z), (s, s, s), opacity, (1.0, 0.5, 0.25)), FORWARD, k, 32, 24, antialiased=antialiased
    )
    var = (f * s / z) ** 2  # 6.25 px²
    peak = opacity * (var / (var + 0.3) if antialiased else 1.0)
    u, v = np.meshgrid(np.arange(32) + 0.5 - 16, np.arange(24) + 0.5 - 12)
    alpha = peak * np.exp(-0.5 * (u**2 + v**2) / (var + 0.3))
    alpha[alpha < 1 / 255] = 0
    np.testing.assert_allclose(image.alpha, alpha, atol=1e-7)
    np.testing.assert_allclose(image.rgb, alpha[..., None] * [1.0, 0.5, 0.25], atol=1e-7)
    np.testing.assert_allclose(image.depth_m, np.where(alpha > 0, z, 0), atol=1e-9)


def test_rotated_needle_off_axis_follows_the_jacobian():
    # 90° about the optical axis swaps the axes; off axis the Jacobian shears depth into u.
    f, z, x = 40.0, 4.0, 1.0
    k = np.array([[f, 0, 20.0], [0, f, 20.0], [0, 0, 1]])
    half = np.sqrt(0.5)
    one = splat((x, 0, z), (0.5, 0.02, 0.1), 0.9, (1, 1, 1), quat=(half, 0, 0, half))
    p = oracle.project(one, FORWARD, k, 40, 40)
    np.testing.assert_allclose(p.means_px, [[20 + f * x / z, 20]])
    var_x = (f / z * 0.02) ** 2 + (
        f * x / z**2 * 0.1
    ) ** 2  # x extent 0.02 (rotated), plus depth 0.1 seen at slope x/z
    var_y = (f / z * 0.5) ** 2
    np.testing.assert_allclose(p.covariances_px[0], np.diag([var_x + 0.3, var_y + 0.3]), rtol=1e-6, atol=1e-9)
    comp = np.sqrt(var_x * var_y / ((var_x + 0.3) * (var_y + 0.3)))
    np.testing.assert_allclose(p.opacities, 0.9 * comp, rtol=1e-6)


def test_two_splats_blend_front_to_back_over_the_background():
    k = np.array([[50.0, 0, 0.5], [0, 50, 0.5], [0, 0, 1]])  # one pixel, centre on the axis
    near, far = splat((0, 0, 1), (1, 1, 1), 0.6, (1, 0, 0)), splat((0, 0, 3), (1, 1, 1), 0.5, (0, 1, 0))
    image = oracle.render(join(far, near), FORWARD, k, 1, 1, antialiased=False, background=(0, 0, 1))
    np.testing.assert_allclose(image.rgb[0, 0], [0.6, 0.4 * 0.5, 0.4 * 0.5], atol=1e-6)
    np.testing.assert_allclose(image.alpha[0, 0], 1 - 0.4 * 0.5, atol=1e-7)
    np.testing.assert_allclose(image.depth_m[0, 0], (0.6 * 1 + 0.2 * 3) / 0.8, rtol=1e-6)


def test_equal_depths_keep_the_order_of_the_input():
    k = np.array([[50.0, 0, 0.5], [0, 50, 0.5], [0, 0, 1]])
    a, b = splat((0, 0, 1), (1, 1, 1), 0.6, (1, 0, 0)), splat((0, 0, 1), (1, 1, 1), 0.6, (0, 1, 0))
    first = oracle.render(join(a, b), FORWARD, k, 1, 1, antialiased=False).rgb[0, 0]
    np.testing.assert_allclose(first, [0.6, 0.24, 0], atol=1e-6)


def test_alpha_is_clamped_and_a_pixel_stops_before_the_splat_that_closes_it():
    k = np.array([[50.0, 0, 0.5], [0, 50, 0.5], [0, 0, 1]])
    parts = [splat((0, 0, 1 + i), (1, 1, 1), 1.0, (1, 1, 1)) for i in range(3)]
    image = oracle.render(join(*parts), FORWARD, k, 1, 1, antialiased=False)
    # Alpha 0.999 leaves T = 1e-3; the second splat would leave 1e-6 <= 1e-4, so it is not drawn.
    np.testing.assert_allclose(image.alpha[0, 0], 0.999, atol=1e-9)
    np.testing.assert_allclose(image.depth_m[0, 0], 1.0)


def test_splats_behind_or_nearer_than_near_are_dropped():
    k = pinhole(8, 8)
    parts = join(splat((0, 0, -2), (5, 5, 5), 1, (1, 1, 1)), splat((0, 0, 0.4), (1, 1, 1), 1, (1, 1, 1)))
    assert len(oracle.project(parts, FORWARD, k, 8, 8, near=0.5).index) == 0
    np.testing.assert_array_equal(oracle.project(parts, FORWARD, k, 8, 8, near=0.3).index, [1])


def test_jacobian_slope_is_clamped_outside_the_image():
    # At x/z = 10 the slope is clamped to tan(45°)·1.3 (principal point in the middle, fov 90°).
    k = pinhole(16, 16)
    p = oracle.project(splat((10, 0, 1), (3.0, 3.0, 3.0), 0.9, (1, 1, 1)), FORWARD, k, 16, 16)
    np.testing.assert_allclose(p.covariances_px[0, 0, 0], (8 * 3) ** 2 * (1 + 1.3**2) + 0.3, rtol=1e-6)


def test_pixel_loop_gives_the_same_image():
    """The vectorized compositor against the definition, pixel by pixel and splat by splat."""
    rng = np.random.default_rng(3)
    splats, c2w, k = random_splats(60, rng), random_cameras(1, rng)[0], pinhole(9, 7)
    p = oracle.project(splats, c2w, k, 9, 7)
    image = oracle.composite(p, 9, 7, background=(0.1, 0.2, 0.3))
    assert len(p.index) > 5
    for y in range(7):
        for x in range(9):
            t, rgb = 1.0, np.zeros(3)
            for i in range(len(p.index)):
                d = np.array([x + 0.5, y + 0.5]) - p.means_px[i]
                alpha = min(
                    0.999, p.opacities[i] * np.exp(-0.5 * d @ np.linalg.solve(p.covariances_px[i], d))
                )
                if alpha < 1 / 255:
                    continue
                if t * (1 - alpha) <= 1e-4:
                    break
                rgb += t * alpha * p.colors[i]
                t *= 1 - alpha
            np.testing.assert_allclose(image.rgb[y, x], rgb + t * np.array([0.1, 0.2, 0.3]), atol=1e-9)


def test_colour_depends_on_the_side_it_is_seen_from():
    sh = np.zeros((1, 4, 3), np.float32)
    sh[0, 3, 0] = -1.0  # red grows with +x of the viewing direction (basis is -C1·x)
    s = Splats(np.zeros((1, 3)), np.array([[1.0, 0, 0, 0]]), np.full((1, 3), 0.3), np.array([0.9]), sh)
    k = pinhole(5, 5)
    along = [oracle.project(s, look_at(eye, (0, 0, 0)), k, 5, 5).colors[0] for eye in ((-2, 0, 0), (2, 0, 0))]
    np.testing.assert_allclose([c[0] for c in along], [0.5 + harmonics.C1, 0.5 - harmonics.C1], atol=1e-6)
    np.testing.assert_allclose([c[1] for c in along], 0.5)
