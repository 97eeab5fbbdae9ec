"""Patches that tasks lay out are painted where they lie."""

import numpy as np
import pytest
import torch
from gaussgym_learn.env import make_env
from gaussgym_learn.patch_view import DEPTH_M, SHARE, PatchRenderer, patch_edits
from gaussgym_scene.splats import Splats
from gaussgym_scene.synth import synthesize
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.testing import flat_scene


def carpet():
    """The plane of `flat_scene` as grey splats."""
    scene = flat_scene()
    x, y = np.meshgrid(np.arange(-10, 10, 0.1), np.arange(-2, 2, 0.1))
    n = x.size
    scene.__dict__["splats"] = Splats(
        means=np.stack([x.ravel(), y.ravel(), np.zeros(n)], 1), quats_wxyz=np.tile([1.0, 0, 0, 0], (n, 1)),
        scales=np.full((n, 3), (0.07, 0.07, 0.005)), opacities=np.full(n, 0.99), sh=np.zeros((n, 1, 3)),
    )  # fmt: skip
    return scene


def test_edits_by_hand():
    pos = torch.tensor([[[1.0, 2.0, 3.0], [9.0, 9.0, 9.0]], [[4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]])
    half = torch.tensor([[0.3, -1.0], [0.4, 0.5]])
    rgb = torch.tensor([[[1.0, 0, 0], [0, 0, 0]], [[0, 1.0, 0], [0, 0, 1.0]]])
    edits = patch_edits(pos, half, rgb)
    assert edits.patch_offsets.tolist() == [0, 1, 3]
    assert edits.patch_poses_w[:, :3, 3].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    np.testing.assert_allclose(edits.patch_half_sizes_m, [[h, h, DEPTH_M] for h in (0.3, 0.4, 0.5)])
    assert edits.patch_colors.tolist() == [[1, 0, 0, SHARE], [0, 1, 0, SHARE], [0, 0, 1, SHARE]]


@pytest.mark.parametrize("show_robot", [False, True])
def test_a_patch_is_seen_where_it_lies_and_by_its_own_env_alone(show_robot):
    env = make_env(
        "goal_semantic",
        carpet(),
        2,
        renderer="cpu",
        show_robot=show_robot,
        cfg=EnvCfg.for_task("goal_semantic").for_evaluation(),
    )
    inner, patches = env.env, env.env.task_state.patches
    patches.xy_m[:] = 50.0
    heading = torch.stack((torch.cos(inner.yaw), torch.sin(inner.yaw)), dim=1)
    left = torch.stack((-heading[:, 1], heading[:, 0]), dim=1)
    patches.xy_m[0, 0] = inner.sim.state.root_pos_w[0, :2] + 1.0 * heading[0] + 0.5 * left[0]
    patches.half_m[0, 0] = 0.3
    for _ in range(10):
        obs, *_ = env.step(torch.zeros(2, 12))
    rgb = obs["rgb"].float()
    yellow = rgb[:, 0] - rgb[:, 2] > 60
    assert yellow[0].sum() > 30
    assert not yellow[1].any()
    rows, columns = yellow[0].nonzero().unbind(1)
    assert columns.float().mean() < 24  # to the left
    assert rows.float().mean() > 12


def test_tasks_without_patches_are_rendered_as_before():
    scene = synthesize("flat", seed=0, max_splats=2000)
    assert not isinstance(make_env("goal", scene, 1, renderer="cpu")._renderer, PatchRenderer)
