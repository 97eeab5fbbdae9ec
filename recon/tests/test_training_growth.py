"""Growth under a budget: what 3DGS-MCMC's moves leave as it was, and that budgets hold."""

import numpy as np
import pytest
from gaussgym_recon.trainer import TrainerCfg, model_from_points, render_splats
from gaussgym_recon.training.growth import grow_by_pull, relocate, shake, shared_opacity_and_scale
from gaussgym_recon.training.model import sigmoid


def model(n=60, opacity=0.8):
    rng = np.random.default_rng(0)
    points = rng.uniform([-1, -1, 3], [1, 1, 4], (n, 3))
    made = model_from_points(points, rng.random((n, 3)), np.full(n, 0.1), opacity=opacity)
    made.steps[:] = 5
    made.adam[:] = 1
    return made


def test_one_copy_is_the_splat_itself():
    opacity, ratio = shared_opacity_and_scale(np.array([0.3, 0.9]), np.array([1, 1]))
    np.testing.assert_allclose(opacity, [0.3, 0.9])
    np.testing.assert_allclose(ratio, 1)


def test_two_copies_by_hand():
    """Opacity 1 - sqrt(1 - 0.75) = 0.5; sizes by 0.75 / (0.5 + 0.5 - 0.25 / sqrt(2))."""
    opacity, ratio = shared_opacity_and_scale(np.array([0.75]), np.array([2]))
    assert opacity[0] == pytest.approx(0.5)
    assert ratio[0] == pytest.approx(0.75 / (1.0 - 0.25 / np.sqrt(2)))


def test_copies_hide_along_a_line_what_the_splat_hid():
    """The integral of alpha over a line through the centre, which equation 9 keeps, by numbers."""
    x = np.linspace(-12, 12, 20001)
    for old, n in ((0.6, 3), (0.95, 5)):
        opacity, ratio = shared_opacity_and_scale(np.array([old]), np.array([n]))
        one = old * np.exp(-0.5 * x**2)
        many = 1 - (1 - opacity[0] * np.exp(-0.5 * (x / ratio[0]) ** 2)) ** n
        assert np.trapezoid(many, x) == pytest.approx(np.trapezoid(one, x), rel=1e-6)


def test_dead_splats_move_to_living_ones_and_the_image_stays():
    m = model()
    m.logits[::4] = -8.0
    cfg = TrainerCfg(max_splats=60, growth="mcmc")
    k = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
    before = render_splats(m, np.eye(4), k, 64, 48)[0]
    moved = relocate(m, cfg, np.random.default_rng(0))
    assert len(moved) == 60
    assert (sigmoid(moved.logits) > 0.005).all()
    after = render_splats(moved, np.eye(4), k, 64, 48)[0]
    assert np.abs(after - before).mean() < 0.01
    assert (moved.steps[-15:] == 0).all()
    assert not moved.adam[-15:].any()


def test_relocation_grows_by_five_percent_up_to_the_budget():
    cfg = TrainerCfg(max_splats=62, growth="mcmc")
    rng = np.random.default_rng(0)
    sizes = []
    m = model()
    for _ in range(3):
        m = relocate(m, cfg, rng)
        sizes.append(len(m))
    assert sizes == [62, 62, 62]
    assert len(relocate(model(), TrainerCfg(max_splats=600), rng)) == 63


def test_pull_decides_who_is_split_and_the_budget_holds():
    m = model()
    m.footprint[:] = 0.01
    score = np.zeros(60, np.float32)
    score[[3, 8]] = 1
    grown = grow_by_pull(m, score, TrainerCfg(max_splats=1000), np.random.default_rng(0))
    assert len(grown) == 62
    np.testing.assert_array_equal(grown.means[:58], np.delete(m.means, [3, 8], axis=0))
    np.testing.assert_allclose(np.exp(grown.log_scales[58:]), 0.1 / 1.6, rtol=1e-5)
    assert len(grow_by_pull(m, score + 1, TrainerCfg(max_splats=70), np.random.default_rng(0))) == 70


def test_only_faint_splats_are_shaken():
    m = model()
    m.footprint[:] = 0.01
    m.logits[:10] = -6.0
    before = m.means.copy()
    shake(m, np.arange(30), 0.25, np.random.default_rng(0))
    moved = np.abs(m.means - before).max(1)
    assert (moved[:10] > 0).all()
    assert not moved[10:].any()
