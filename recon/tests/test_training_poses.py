"""Refinement of camera poses: its gradient, its gauge, and whether it finds poses that were spoilt."""

import numpy as np
from gaussgym_recon.seeding import project
from gaussgym_recon.trainer import Trainer, TrainerCfg, model_from_points, render_splats
from gaussgym_recon.training.poses import PoseRefinement, pose_gradient
from gaussgym_recon.views import View, Views
from gaussgym_scene.cameras import Intrinsics
from scipy.spatial.transform import Rotation

CAMERA = Intrinsics(width=64, height=48, fx=60.0, fy=60.0, cx=32.0, cy=24.0)


def model():
    rng = np.random.default_rng(0)
    points = rng.uniform([-1.5, -1.0, 2.5], [1.5, 1.0, 3.5], (400, 3))
    return model_from_points(points, rng.random((400, 3)), rng.uniform(0.05, 0.12, 400), opacity=0.9)


def camera_path(n=9):
    c2w = np.tile(np.eye(4), (n, 1, 1))
    angle = np.linspace(-0.15, 0.15, n)
    c2w[:, :3, :3] = Rotation.from_rotvec(np.stack([0.3 * angle, angle, 0 * angle], 1)).as_matrix()
    c2w[:, :3, 3] = np.stack(
        [np.linspace(-0.6, 0.6, n), 0.2 * np.cos(7 * angle), 0.1 * np.sin(20 * angle)], 1
    )
    return c2w


def moved(c2w, delta):
    out = c2w.copy()
    out[:3, :3] = Rotation.from_rotvec(delta[:3]).as_matrix() @ c2w[:3, :3]
    out[:3, 3] += delta[3:]
    return out


def test_gradient_agrees_with_finite_differences():
    """Of any linear function of the world-to-camera matrix."""
    rng = np.random.default_rng(1)
    c2w = moved(np.eye(4), rng.normal(size=6))
    v_view = np.zeros((4, 4))
    v_view[:3] = rng.normal(size=(3, 4))
    found = pose_gradient(np.linalg.inv(c2w), v_view)
    for axis in range(6):
        step = 1e-6 * np.eye(6)[axis]
        ahead, behind = ((np.linalg.inv(moved(c2w, s)) * v_view).sum() for s in (step, -step))
        assert abs(found[axis] - (ahead - behind) / 2e-6) < 1e-6


def test_a_similarity_of_all_cameras_is_taken_off():
    """To first order: what is left of a small similarity is of second order, and other corrections stay."""
    start = camera_path()
    train = [i for i in range(9) if i != 7]
    refined = PoseRefinement(start, train, m_per_px=0.05, rad_per_px=1 / 60)
    turn, shift, scale = np.array([1e-3, -2e-3, 1.5e-3]), np.array([0.02, -0.01, 0.005]), 1.002
    middle = start[train, :3, 3].mean(0)
    for i in train:
        rotation = Rotation.from_rotvec(turn).as_matrix()
        refined.c2w[i, :3, :3] = rotation @ start[i, :3, :3]
        refined.c2w[i, :3, 3] = scale * rotation @ (start[i, :3, 3] - middle) + middle + shift
    refined.hold_gauge()
    assert np.abs(refined.corrections()).max() < 1e-5
    lone = np.zeros(6)
    lone[0] = 1e-3
    refined._move(2, lone)
    refined.hold_gauge()
    left = refined.corrections()
    assert 0.5e-3 < left[2, 0] < 1e-3
    assert not left[7].any()
    before = refined.c2w.copy()
    refined.hold_gauge()
    np.testing.assert_allclose(refined.c2w, before, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(refined.c2w[:, :3, :3]), 1, atol=1e-12)


def test_spoilt_poses_are_found_again():
    """The splats are right; the poses of the training views are a pixel or so off, not all by one similarity."""
    truth, rng = camera_path(), np.random.default_rng(4)
    train = [i for i in range(9) if i != 7]
    spoilt = PoseRefinement(truth, train, m_per_px=0.05, rad_per_px=1 / 60)
    for i in train:
        spoilt._move(i, rng.normal(0, 1.5, 6) * spoilt.unit)
    spoilt.hold_gauge()
    views = []
    for i, c2w in enumerate(truth):
        rgb, _, _ = render_splats(model(), np.linalg.inv(c2w), CAMERA.K, 64, 48)
        views.append(View(f"{i}", spoilt.c2w[i], [np.round(rgb * 255).astype(np.uint8)], held_out=i == 7))
    cfg = TrainerCfg(
        iterations=320, densify_until=0.0, densify_every=1000, final_splats=1000, pose_step_px=0.1, exposure_step=0.0,
        mean_step_px=(1e-9, 1e-9), color_step=0, opacity_step=0, scale_step=0, rotation_step=0, score_every=0,
    )  # fmt: skip
    trainer = Trainer(Views(views, [CAMERA], [np.zeros(0, np.int32)] * 9), model(), cfg)
    trainer.run()

    def off_px(poses):
        """How far the splats' centres lie from where they ought to be in the images."""
        at = [
            project(model().means, c2w, CAMERA.K)[0] - project(model().means, right, CAMERA.K)[0]
            for c2w, right in zip(poses, truth)
        ]
        return np.linalg.norm(np.array(at)[train], axis=-1).mean()

    assert off_px(spoilt.c2w) > 1.5
    assert off_px(trainer.poses.c2w) < 0.3
    np.testing.assert_array_equal(trainer.poses.c2w[7], truth[7])
