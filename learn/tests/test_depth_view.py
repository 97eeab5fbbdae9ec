"""Depth through the splat renderers that `make_env` stacks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_learn.env import make_env
from gaussgym_scene.splats import Splats
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.sensors.camera import CameraCfg, camera_to_world
from gaussgym_sim.testing import flat_scene


def carpet():
    """The plane of `flat_scene` as many thin splats."""
    scene = flat_scene()
    x, y = np.meshgrid(np.arange(-10, 10, 0.025), np.arange(-2, 2, 0.025))
    n = x.size
    scene.__dict__["splats"] = Splats(
        means=np.stack([x.ravel(), y.ravel(), np.zeros(n)], 1), quats_wxyz=np.tile([1.0, 0, 0, 0], (n, 1)),
        scales=np.full((n, 3), (0.0125, 0.0125, 0.001)), opacities=np.full(n, 0.99), sh=np.zeros((n, 1, 3)),
    )  # fmt: skip
    return scene


def cfg(images=("rgb", "depth"), task="goal_semantic"):
    return EnvCfg.for_task(task, camera=CameraCfg(width=32, height=24, images=images)).for_evaluation()


@pytest.mark.parametrize("show_robot", [False, True])
@pytest.mark.parametrize("camera_model", ["ideal", "robot"])
def test_ground_ahead_is_as_far_as_geometry_says(camera_model, show_robot):
    """Below the horizon, to within the size of a splat: nearer ones are blended first."""
    env = make_env(
        "goal_semantic", carpet(), 3, renderer="cpu", cfg=cfg(), camera_model=camera_model, show_robot=show_robot, seed=1
    )  # fmt: skip
    camera, s = env.env.camera, env.sim.state
    seen = env.get_observations()["depth"][:, 0].float() * 5.0 / 255.0
    c2w = camera_to_world(s.root_pos_w, s.root_quat_wxyz, camera.pose_b_c)
    v, u = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    rays_c = torch.stack((u, v, torch.ones_like(u)), dim=-1) @ torch.linalg.inv(camera.K)[:, None].mT
    rays_w = rays_c @ c2w[:, None, :3, :3].mT
    truth = c2w[:, 2, 3, None, None] / -rays_w[..., 2]
    ground = c2w[:, None, None, :2, 3] + truth[..., None] * rays_w[..., :2]
    there = (rays_w[..., 2] < 0) & (truth < 3.0) & (ground[..., 1].abs() < 1.9) & (ground[..., 0].abs() < 9.8)
    assert there.float().mean() > 0.3
    error = (seen - truth)[there] / truth[there]
    # A lens bends the rays, and a sensor has noise and holes.
    typical, most = (0.04, 0.1) if camera_model == "ideal" else (0.06, None)
    assert error.abs().median() < typical
    if most is not None:
        assert error.abs().quantile(0.99) < most
    above = rays_w[..., 2] > 0.1
    if camera_model == "ideal":
        assert (seen[above] == 5.0).all()


def test_patches_are_seen_in_colour_alone():
    env = make_env("goal_semantic", carpet(), 2, renderer="cpu", cfg=cfg(), seed=1)
    patches, inner = env.env.task_state.patches, env.env
    ahead = torch.stack((torch.cos(inner.yaw), torch.sin(inner.yaw)), dim=1)
    images = []
    for there in (False, True):
        patches.xy_m[:] = 50.0
        if there:
            patches.xy_m[:, 0] = inner.sim.state.root_pos_w[:, :2] + ahead
            patches.half_m[:, 0] = 0.4
        inner.camera.clock.wait[:] = 0.0
        inner._capture()
        images.append({name: image.clone() for name, image in inner.camera.images.items()})
    assert torch.equal(images[0]["depth"], images[1]["depth"])
    assert ((images[0]["rgb"].int() - images[1]["rgb"].int()).abs() > 60).sum() > 40


def test_depth_on_the_device():
    """Rehearsed on Warp's CPU device, with patches and without, as the processor's backend."""
    pytest.importorskip("warp")
    for task in ("goal", "goal_semantic"):
        envs = [make_env(task, carpet(), 3, renderer=name, cfg=cfg(task=task), seed=1) for name in ("warp-cpu", "cpu")]  # fmt: skip
        assert envs[0].env.camera._in_place == (task == "goal")
        for _ in range(6):
            ours, theirs = (env.step(torch.zeros(3, 12))[0]["depth"].int() for env in envs)
            assert ((ours - theirs).abs() <= 1).float().mean() > 0.999
        assert 20 < ours.float().std() < 120


def test_slots_pass_depth_on():
    """Two scenes listed twice are rendered from one; colours are as without depth."""
    scene = carpet()
    options = {"renderer": "cpu", "seed": 1}
    both = make_env("goal", [scene, scene], 4, cfg=cfg(task="goal"), **options)
    alone = make_env("goal", [scene, scene], 4, cfg=cfg(("rgb",), "goal"), **options)
    for _ in range(6):
        a, b = (env.step(torch.zeros(4, 12))[0] for env in (both, alone))
        assert torch.equal(a["rgb"], b["rgb"])
    assert both.layout["depth"] == [1, 24, 32]
    assert "depth" not in alone.layout
    only = make_env("goal", [scene, scene], 4, cfg=replace(cfg(("depth",), "goal")), **options)
    for _ in range(6):
        c = only.step(torch.zeros(4, 12))[0]
    assert torch.equal(c["depth"], a["depth"])
    assert "rgb" not in only.layout
