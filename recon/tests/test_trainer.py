"""The splat trainer on a small scene whose splats are known."""

import numpy as np
import pytest
from gaussgym_recon.quality import corrected_psnr_db
from gaussgym_recon.trainer import SplatModel, Trainer, TrainerCfg, model_from_points, render_splats
from gaussgym_recon.views import View, Views, held_out_names, mean_image_psnr_db
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError


def truth_model(n=400, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.uniform([-1.5, -1.0, 2.5], [1.5, 1.0, 3.5], (n, 3))
    return model_from_points(points, rng.random((n, 3)), rng.uniform(0.05, 0.12, n), opacity=0.9)


def camera_at(x):
    c2w = np.eye(4)
    c2w[:3, 3] = [x, 0.05 * x, 0]
    return c2w


@pytest.fixture(scope="module")
def views():
    model = truth_model()
    fine = Intrinsics(width=64, height=48, fx=60.0, fy=60.0, cx=32.0, cy=24.0)
    coarse = fine.resized(32, 24)
    out = []
    for i, x in enumerate(np.linspace(-0.6, 0.6, 9)):
        pyramid = []
        for c in (coarse, fine):
            rgb, _, _ = render_splats(model, np.linalg.inv(camera_at(x)), c.K, c.width, c.height)
            pyramid.append(np.round(rgb * 255).astype(np.uint8))
        out.append(View(f"{i}.jpg", camera_at(x), pyramid, held_out=i == 7))
    return Views(out, [coarse, fine], [np.zeros(0, np.int32)] * 9)


def start_model(seed=1):
    model = truth_model(300)
    rng = np.random.default_rng(seed)
    model.means += rng.normal(0, 0.03, model.means.shape).astype(np.float32)
    model.sh[:, 0] = 0
    return model


CFG = TrainerCfg(iterations=150, max_splats=600, densify_every=40)


def test_training_approaches_held_out_photographs(views):
    trainer = Trainer(views, start_model(), CFG)
    before = trainer.held_out_psnr_db()
    told = []
    trainer.run(lambda fraction, status: told.append(fraction))
    after = trainer.held_out_psnr_db()
    assert after > before + 5
    assert after > mean_image_psnr_db(views) + 3
    assert len(trainer.model) <= 600
    assert trainer.iteration == 150
    splats = trainer.model.splats()
    assert splats.sh_degree == 1
    assert np.isfinite(splats.means).all()


def test_held_out_photographs_are_never_read_in_training(views):
    blind = Views(
        [View(v.name, v.c2w, None if v.held_out else v.pyramid, v.held_out) for v in views.views],
        views.intrinsics,
        views.points,
    )
    trainer = Trainer(blind, start_model(), TrainerCfg(iterations=20, densify_every=8, score_every=0))
    trainer.run()
    assert trainer.iteration == 20


@pytest.mark.parametrize("growth", ["pull", "mcmc"])
def test_a_killed_training_goes_on_to_the_same_bits(views, tmp_path, growth):
    cfg = TrainerCfg(
        iterations=36, densify_every=10, max_splats=400, pose_step_px=0.02, growth=growth, seed=3
    )
    whole = Trainer(views, start_model(), cfg)
    whole.run()
    path = tmp_path / "training.npz"
    killed = Trainer(views, start_model(), cfg, checkpoint=path)
    for _ in range(13):  # in the middle of a round of views and of a round of growing
        killed._step()
        killed.iteration += 1
        if killed.iteration % cfg.densify_every == 0:
            killed._densify()
        if killed.iteration == 12:
            killed.save()
    resumed = Trainer(views, start_model(2), cfg, checkpoint=path)
    assert resumed.iteration == 12
    resumed.run()
    assert resumed.iteration == 36
    for name in SplatModel.ROWS:
        np.testing.assert_array_equal(getattr(resumed.model, name), getattr(whole.model, name))
    np.testing.assert_array_equal(resumed.exposure, whole.exposure)
    np.testing.assert_array_equal(resumed.poses.c2w, whole.poses.c2w)
    assert not list(tmp_path.glob("*partial*"))


def test_a_longer_training_goes_on_from_a_finished_one(views, tmp_path):
    path = tmp_path / "training.npz"
    first = Trainer(views, start_model(), TrainerCfg(iterations=30, densify_every=20), checkpoint=path)
    first.run()
    second = Trainer(views, start_model(2), TrainerCfg(iterations=40, densify_every=20), checkpoint=path)
    np.testing.assert_array_equal(second.model.adam, first.model.adam)
    assert second.elapsed_s == pytest.approx(first.elapsed_s)
    assert second.cpu_s == pytest.approx(first.cpu_s)
    assert first.cpu_s > 0
    second.run()
    assert second.iteration == 40


def test_a_checkpoint_of_other_poses_is_refused(views, tmp_path):
    path = tmp_path / "training.npz"
    Trainer(views, start_model(), TrainerCfg(iterations=2), checkpoint=path).run()
    moved = [
        View(v.name, v.c2w + 0.01 * np.eye(4)[:, [3]] @ np.ones((1, 4)), v.pyramid, v.held_out)
        for v in views.views
    ]
    with pytest.raises(InputError, match="other camera poses"):
        Trainer(
            Views(moved, views.intrinsics, views.points),
            start_model(),
            TrainerCfg(iterations=2),
            checkpoint=path,
        )


def test_training_stops_when_held_out_views_stop_gaining(views):
    """With all steps at zero no scoring is better than the first."""
    cfg = TrainerCfg(
        iterations=100, densify_until=0.1, densify_every=1000, score_every=0.1, patience=2, mean_step_px=(1e-12, 1e-12),
        color_step=0, opacity_step=0, scale_step=0, rotation_step=0,
    )  # fmt: skip
    trainer = Trainer(views, start_model(), cfg)
    trainer.run()
    assert [i for i, _ in trainer.scores_db] == [10, 20, 30]
    assert trainer.iteration == 30
    assert trainer.stopped_early


def test_masked_pixels_teach_nothing(views):
    """Black bars painted into the photographs, and masked, change no bit of the training."""
    masks = [np.ones((c.height, c.width), bool) for c in views.intrinsics]
    for mask in masks:
        mask[: len(mask) // 3] = False
    results = []
    for paint in (False, True):
        changed = []
        for v in views.views:
            pyramid = [
                np.where(m[..., None] | (not paint), p, 0).astype(np.uint8) for p, m in zip(v.pyramid, masks)
            ]
            changed.append(View(v.name, v.c2w, pyramid, v.held_out, masks=masks))
        trainer = Trainer(
            Views(changed, views.intrinsics, views.points),
            start_model(),
            TrainerCfg(iterations=10, densify_every=4),
        )
        trainer.run()
        results.append(trainer.model.means)
        assert trainer.psnr_db(7) < 60
    np.testing.assert_array_equal(*results)


def test_an_unknown_engine_and_one_without_its_device_are_refused(views, monkeypatch):
    from gaussgym_render import gsplat_backend

    with pytest.raises(InputError, match="expected 'numba' or 'gsplat'"):
        Trainer(views, start_model(), TrainerCfg(engine="cuda"))
    monkeypatch.setattr(gsplat_backend, "missing", lambda: "torch 2 finds no CUDA device")
    with pytest.raises(InputError, match="no CUDA device"):
        Trainer(views, start_model(), TrainerCfg(engine="gsplat"))


def test_a_damaged_checkpoint_is_named(views, tmp_path):
    path = tmp_path / "training.npz"
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(InputError, match=r"training\.npz"):
        Trainer(views, start_model(), CFG, checkpoint=path)


def test_the_clock_ends_training(views):
    trainer = Trainer(views, start_model(), TrainerCfg(seconds=0.5))
    trainer.run()
    assert 0.5 <= trainer.elapsed_s < 10
    assert trainer.iteration > 0


def test_exposure_of_training_views_averages_to_nothing(views):
    dark = Views(
        [
            View(
                v.name, v.c2w, [(p * (0.8 if i % 2 else 1.0)).astype(np.uint8) for p in v.pyramid], v.held_out
            )
            for i, v in enumerate(views.views)
        ],
        views.intrinsics,
        views.points,
    )
    trainer = Trainer(dark, start_model(), TrainerCfg(iterations=160, max_splats=400, exposure_step=0.01))
    trainer.run()
    gains = trainer.exposure[:, :3].mean(1)
    train = np.array(dark.train)
    assert gains[train[train % 2 == 0]].mean() > gains[train[train % 2 == 1]].mean() + 0.05
    np.testing.assert_allclose(trainer.exposure[train].mean(0), 0, atol=0.02)
    assert not trainer.exposure[7].any()


def test_measured_depth_pulls_splats_to_it():
    """A wall painted evenly says nothing of its distance; the depth measured by stereo does."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.linspace(-2, 2, 22), np.linspace(-1.5, 1.5, 17)), -1).reshape(-1, 2)
    wall = np.column_stack([grid, np.full(len(grid), 3.3)])
    camera = Intrinsics(width=48, height=36, fx=40.0, fy=40.0, cx=24.0, cy=18.0)
    grey = np.full((36, 48, 3), 128, np.uint8)
    views = Views(
        [View(f"{i}", camera_at(0.1 * i), [grey], False) for i in range(3)],
        [camera],
        [np.zeros(0, np.int32)] * 3,
    )
    normals = np.tile([0.0, 0.0, -1.0], (len(wall), 1))
    model = model_from_points(
        wall, rng.random((len(wall), 3)) * 0.1 + 0.45, np.full(len(wall), 0.12), normals=normals
    )
    depths = {i: np.full((36, 48), 3.0, np.float32) for i in range(3)}
    cfg = TrainerCfg(iterations=200, densify_until=0.0, depth_weight=1.0, mean_step_px=(0.1, 0.02))
    trainer = Trainer(views, model, cfg, depths_m=depths)
    trainer.run()
    _, depth, alpha = render_splats(trainer.model, np.eye(4), camera.K, 48, 36)
    seen = depth[8:28, 8:40][alpha[8:28, 8:40] > 0.5]
    assert abs(np.median(seen) - 3.0) < 0.05


def test_one_photograph_is_not_enough(views):
    single = Views(views.views[:1], views.intrinsics, views.points[:1])
    with pytest.raises(InputError, match="at least 2"):
        Trainer(single, start_model(), CFG)


def test_growth_keeps_rows_together():
    model = truth_model(50)
    both = model.take(np.arange(10)).append(model.take(np.arange(10, 50)))
    for name in SplatModel.ROWS:
        np.testing.assert_array_equal(getattr(both, name), getattr(model, name))


def test_normals_turn_into_flat_splats():
    normals = np.array([[0, 0, 1.0], [0, 0, -1.0], [1.0, 0, 0], [0.6, 0.0, -0.8], [0, 0, 0]])
    model = model_from_points(
        np.zeros((5, 3)), np.full((5, 3), 0.5), np.full(5, 0.1), normals=normals, flatness=0.25
    )
    w, x, y, z = model.quats.T
    third = np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], axis=1)
    np.testing.assert_allclose(np.abs((third[:4] * normals[:4]).sum(1)), 1, atol=1e-5)
    np.testing.assert_allclose(np.exp(model.log_scales[:4, 2]), 0.025, rtol=1e-5)
    np.testing.assert_allclose(np.exp(model.log_scales[4]), 0.1, rtol=1e-5)


def test_every_eighth_image_is_held_out():
    names = [f"{i:02d}" for i in range(1, 30)]
    assert held_out_names(names) == {"08", "16", "24"}


def test_a_photograph_of_another_exposure_is_scored_with_and_without_it(views):
    model = truth_model()
    trainer = Trainer(views, model, TrainerCfg(iterations=1))
    right = trainer.psnr_db(7)
    photo = views.views[7].pyramid[-1]
    darker = np.round(photo * np.array([0.8, 0.85, 0.9]) + 6).astype(np.uint8)
    views.views[7].pyramid[-1] = darker
    try:
        plain, corrected = trainer.psnr_db(7), corrected_psnr_db(trainer, 7)
    finally:
        views.views[7].pyramid[-1] = photo
    assert right > 50  # rounding to bytes is all that differs
    assert plain < 30
    assert corrected > 50
