"""The torch engine, which gsplat runs in on CUDA, takes the numba engine's steps; here over our own rasterizer on the CPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_recon.trainer import SplatModel, Trainer, TrainerCfg, model_from_points, render_splats
from gaussgym_recon.training.torch_engine import TorchEngine, cpu_rasterizer, gsplat_rasterizer
from gaussgym_recon.views import View, Views
from gaussgym_scene.cameras import Intrinsics

CAMERA = Intrinsics(width=32, height=24, fx=30.0, fy=30.0, cx=16.0, cy=12.0)


def model(n=120, seed=0, spread=0.0):
    rng = np.random.default_rng(seed)
    points = rng.uniform([-1.5, -1.0, 2.5], [1.5, 1.0, 3.5], (n, 3))
    made = model_from_points(points, rng.random((n, 3)), rng.uniform(0.08, 0.2, n), opacity=0.8)
    made.log_scales += rng.normal(0, 0.4, made.log_scales.shape).astype(np.float32)
    made.quats = rng.normal(size=(n, 4)).astype(np.float32)
    made.means += rng.normal(0, spread + 1e-9, made.means.shape).astype(np.float32)
    return made


def views(n=4):
    out = []
    for i in range(n):
        c2w = np.eye(4)
        c2w[0, 3] = 0.15 * i
        rgb, _, _ = render_splats(model(), np.linalg.inv(c2w), CAMERA.K, 32, 24)
        mask = np.ones((24, 32), bool)
        mask[:4, :9] = False
        out.append(View(f"{i}", c2w, [np.round(rgb * 255).astype(np.uint8)], False, masks=[mask]))
    return Views(out, [CAMERA], [np.zeros(0, np.int32)] * n)


def depths(n=4):
    return {i: np.full((24, 32), 3.0, np.float32) for i in range(n)}


@pytest.mark.parametrize("growth", ["pull", "mcmc"])
def test_both_engines_take_the_same_steps(growth):
    cfg = TrainerCfg(
        iterations=12, densify_every=5, max_splats=150, sh_from=0.3, l2_within=0.05, pose_step_px=0.05, normal_weight=0.02,
        max_aspect=2.0, exposure_step=0.01, growth=growth,
    )  # fmt: skip
    ours = Trainer(views(), model(spread=0.03), cfg, depths_m=depths())
    engine = TorchEngine(cfg, cpu_rasterizer(), "cpu")
    theirs = Trainer(views(), model(spread=0.03), cfg, depths_m=depths(), engine=engine)
    ours.run()
    theirs.run()
    a, b = ours.model, theirs.model
    assert len(a) == len(b) > 120 - 40
    start = model(spread=0.03)
    np.testing.assert_array_equal(a.steps, b.steps)
    for name in SplatModel.PARAMETERS:
        x, y = getattr(a, name), getattr(b, name)
        # Adam's steps are of one size however small the gradient, so where it is noise the sign is free.
        far = np.abs(x - y) > 1e-3 * np.abs(x).max()
        assert far.mean() < 0.02, name
    assert np.abs(a.means[:50] - start.means[:50]).max() > 1e-3
    np.testing.assert_allclose(ours.exposure, theirs.exposure, atol=1e-4)
    np.testing.assert_allclose(ours.poses.c2w, theirs.poses.c2w, atol=1e-4)
    for (_, x), (_, y) in zip(ours.losses, theirs.losses):
        assert x == pytest.approx(y, rel=1e-3)


def test_gsplat_is_called_by_its_own_names():
    """A stand-in with gsplat 1.5.3's signature, its shapes, and its ``absgrad`` on the image-plane centres."""
    asked = {}

    def rasterization(
        means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane=0.01, far_plane=1e10,
        radius_clip=0.0, eps2d=0.3, sh_degree=None, packed=True, tile_size=16, backgrounds=None, render_mode="RGB",
        sparse_grad=False, absgrad=False, rasterize_mode="classic", channel_chunk=32, distributed=False,
        camera_model="pinhole",
    ):  # fmt: skip
        from gaussgym_render.differentiable import rasterize

        asked.update(
            sh_degree=sh_degree, packed=packed, absgrad=absgrad, mode=rasterize_mode, render=render_mode
        )
        assert colors.shape[1] == (sh_degree + 1) ** 2
        rgb, alpha, depth, info = rasterize(
            means, quats, scales, opacities, colors, viewmats, Ks, width, height, sh_degree=sh_degree
        )
        means2d = info["means2d"].clone().requires_grad_()
        means2d.absgrad = torch.ones_like(means2d)
        image = torch.cat([rgb, (depth * alpha)[..., None]], -1) + 0 * means2d.sum()
        return image, alpha[..., None], {"means2d": means2d, "radii": info["radii"]}

    cfg = TrainerCfg(iterations=3, sh_from=0.0)
    engine = TorchEngine(cfg, gsplat_rasterizer(rasterization), "cpu")
    trainer = Trainer(views(), model(spread=0.03), cfg, depths_m=depths(), engine=engine)
    trainer.run()
    assert asked == {
        "sh_degree": 1,
        "packed": False,
        "absgrad": True,
        "mode": "antialiased",
        "render": "RGB+D",
    }
    seen = engine.seen > 0
    np.testing.assert_allclose(engine.pull[seen], engine.seen[seen] * 2**0.5 * 32, rtol=1e-5)
    plain = Trainer(views(), model(spread=0.03), cfg, depths_m=depths())
    plain.run()
    assert np.mean(np.abs(plain.model.means - trainer.model.means) < 1e-4) > 0.97


@pytest.mark.gpu
def test_gsplat_takes_the_numba_engines_steps():
    """On a machine with CUDA and gsplat: the same losses and nearly the same splats after a dozen steps."""
    cfg = TrainerCfg(iterations=12, densify_every=100, sh_from=0.3, pose_step_px=0.05)
    ours = Trainer(views(), model(spread=0.03), cfg, depths_m=depths())
    theirs = Trainer(views(), model(spread=0.03), replace(cfg, engine="gsplat"), depths_m=depths())
    for _ in range(12):
        assert ours._step() == pytest.approx(theirs._step(), rel=0.01)
        ours.iteration += 1
        theirs.iteration += 1
    for name in SplatModel.PARAMETERS:
        x, y = getattr(ours.model, name), getattr(theirs.model, name)
        assert np.mean(np.abs(x - y) > 0.02 * np.abs(x).max()) < 0.05, name
    np.testing.assert_allclose(ours.poses.c2w, theirs.poses.c2w, atol=2e-3)
