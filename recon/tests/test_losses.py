"""The photometric loss against a slow twin, and its gradient against finite differences."""

import numpy as np
from gaussgym_recon.losses import photometric_loss


def slow_ssim(x, y):
    """Wang et al. 2004 with an 11x11 Gaussian window, zeros outside, one pixel at a time."""
    g = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(g, g) / g.sum() ** 2
    pad = ((5, 5), (5, 5), (0, 0))
    xp, yp = np.pad(x, pad), np.pad(y, pad)
    total = 0.0
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            a, b = xp[i : i + 11, j : j + 11], yp[i : i + 11, j : j + 11]
            w = window[..., None]
            mx, my = (w * a).sum((0, 1)), (w * b).sum((0, 1))
            vx, vy = (w * a * a).sum((0, 1)) - mx**2, (w * b * b).sum((0, 1)) - my**2
            cov = (w * a * b).sum((0, 1)) - mx * my
            total += (
                (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
            ).sum()
    return total / x.size


def images():
    rng = np.random.default_rng(3)
    y = rng.random((14, 17, 3)).astype(np.float32)
    return np.clip(y + 0.2 * rng.normal(size=y.shape), 0, 1).astype(np.float32), y


def test_value_agrees_with_the_definition():
    x, y = images()
    loss, _ = photometric_loss(x, y, ssim_weight=0.3)
    expected = 0.7 * np.abs(x - y).mean() + 0.3 * (1 - slow_ssim(x.astype(float), y.astype(float)))
    assert abs(loss - expected) < 1e-5


def test_equal_images_cost_nothing():
    _, y = images()
    loss, gradient = photometric_loss(y, y)
    assert abs(loss) < 1e-6
    assert np.abs(gradient).max() < 1e-6


def test_gradient_agrees_with_finite_differences():
    x, y = images()
    _, gradient = photometric_loss(x, y, ssim_weight=0.3)
    rng = np.random.default_rng(0)

    def exact(image):
        return 0.7 * np.abs(image - y).mean() + 0.3 * (1 - slow_ssim(image, y.astype(float)))

    for _ in range(12):
        i, j, c = rng.integers(0, x.shape)
        moved = [x.astype(float), x.astype(float)]
        moved[0][i, j, c] += 1e-5
        moved[1][i, j, c] -= 1e-5
        numeric = (exact(moved[0]) - exact(moved[1])) / 2e-5
        assert abs(gradient[i, j, c] - numeric) < 2e-3 * np.abs(gradient).max()


def test_small_differences_count_by_their_square():
    x, y = images()
    loss, gradient = photometric_loss(x, y, ssim_weight=0.0, l2_within=0.1)
    d = x.astype(float) - y
    huber = np.where(np.abs(d) < 0.1, d * d / 0.2, np.abs(d) - 0.05)
    assert abs(loss - huber.mean()) < 1e-6
    np.testing.assert_allclose(gradient * d.size, np.clip(d / 0.1, -1, 1), atol=1e-4)


def test_a_mask_silences_its_pixels():
    x, y = images()
    mask = np.ones(x.shape[:2], bool)
    mask[4:9, 2:12] = False
    spoilt = np.where(mask[..., None], y, 1 - y)
    a, b = (photometric_loss(x, target, mask=mask) for target in (y, spoilt))
    assert a[0] == b[0]
    np.testing.assert_array_equal(a[1], b[1])
    assert not b[1][~mask].any()
    assert b[1][mask].any()
