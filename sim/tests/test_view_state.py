"""What a viewer is given is where physics has it."""

import json
from dataclasses import replace

import mujoco
import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_sim.env import Env
from gaussgym_sim.env_cfg import EnvCfg
from gaussgym_sim.grounds import flat_scene, heights_scene, wavy_scene
from gaussgym_sim.robot import get_robot
from gaussgym_sim.robots.geoms import load_model
from gaussgym_sim.vecsim import make_sim
from gaussgym_sim.views.view_state import ViewSource, ViewState

QUIET = EnvCfg().for_evaluation()


def standing(scenes, num_envs, cfg=QUIET, steps=60, robot="go1"):
    env = Env(make_sim("mujoco", robot, scenes, num_envs, num_threads=1), cfg, seed=2)
    for _ in range(steps):
        env.step(torch.zeros(num_envs, env.num_actions))
    return env


def test_bodies_lie_where_mujoco_has_them():
    robot = get_robot("anymal_c")
    env = standing([wavy_scene()], 3, steps=5, robot="anymal_c")
    for i in range(5):
        env.step(torch.randn(3, 12, generator=torch.Generator().manual_seed(i)))
    source = ViewSource(env)
    state = source.look(torch.tensor([2, 0]))
    model = load_model(robot.mjcf)
    data = mujoco.MjData(model)
    assert source.shapes.bodies == tuple(model.body(i).name for i in range(1, model.nbody))
    for row, e in enumerate([2, 0]):
        s = env.sim.state
        data.qpos[:3], data.qpos[3:7] = s.root_pos_w[e].numpy(), s.root_quat_wxyz[e].numpy()
        for j, name in enumerate(robot.joint_names):
            data.qpos[model.joint(name).qposadr[0]] = float(s.joint_pos[e, j])
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(state.body_pos_w[row], data.xpos[1:], atol=1e-5)
        same = np.abs((state.body_quat_wxyz[row] * data.xquat[1:]).sum(axis=1))
        np.testing.assert_allclose(same, 1.0, atol=1e-5)
        geom = next(g for g in source.shapes.geoms if g.name == robot.foot_geoms[1])
        foot = data.geom(robot.foot_geoms[1]).xpos
        w, x, y, z = state.body_quat_wxyz[row, geom.body]
        matrix = np.zeros(9)
        mujoco.mju_quat2Mat(matrix, np.array([w, x, y, z], np.float64))
        placed = matrix.reshape(3, 3) @ geom.pose_b_g[:3, 3] + state.body_pos_w[row, geom.body]
        np.testing.assert_allclose(placed, foot, atol=1e-5)


def test_feet_carry_the_weight_and_stand_on_the_ground():
    env = standing([flat_scene(z_m=0.7)], 2, steps=150)
    state = ViewSource(env).look(torch.tensor([0, 1]))
    weight = env.sim.total_mass_kg * 9.81
    np.testing.assert_allclose(state.foot_force_w[..., 2].sum(axis=1), weight, rtol=0.02)
    np.testing.assert_allclose(state.foot_pos_w[..., 2], 0.7 + env.sim.robot.foot_radius_m, atol=4e-3)
    assert state.foot_contact.all()
    assert not state.trunk_contact.any()
    np.testing.assert_allclose(state.episode_s, 150 * 0.02, rtol=1e-6)
    assert state.rewards.shape == (2, len(env.rewards.names))


def test_rays_and_scans_lie_on_the_ground():
    scenes = [heights_scene(lambda x, y: 0.2 * x - 0.1 * y + 0.4), flat_scene(z_m=-0.3)]
    env = standing(scenes, 4, steps=20)
    source = ViewSource(env, ray_grid=(5, 4))
    state = source.look(torch.tensor([3, 0, 1]))
    assert state.scene_ids.tolist() == [1, 0, 0]
    assert state.ray_hit_w.shape == (3, 20, 3)

    def plane(points, slot):
        x, y = points[..., 0], points[..., 1]
        return 0.2 * x - 0.1 * y + 0.4 if slot == 0 else np.full_like(x, -0.3)

    for row, slot in enumerate(state.scene_ids):
        hits = state.ray_hit_w[row][np.isfinite(state.ray_hit_w[row, :, 0])]
        assert len(hits) >= 10
        inside = (np.abs(hits[:, 0]) < 5.5) & (hits[:, 1] > -1.5) & (hits[:, 1] < 2.5)
        np.testing.assert_allclose(hits[inside, 2], plane(hits[inside], slot), atol=2e-3)
        scan = state.scan_pos_w[row]
        np.testing.assert_allclose(scan[:, 2], plane(scan, slot), atol=1e-4)
        centre = np.linalg.norm(scan[:, :2] - state.body_pos_w[row, 0, :2], axis=1)
        assert centre.min() < 0.1
        # Hits lie in front of the camera and fall onto the pixels that their rays went through.
        c = np.linalg.inv(state.camera_c2w[row].astype(np.float64))
        seen = state.ray_hit_w[row] @ c[:3, :3].T + c[:3, 3]
        pixels = seen @ state.camera_K[row].T
        pixels = pixels[:, :2] / pixels[:, 2:]
        width, height = source.shapes.camera_size
        want = [((i + 0.5) * width / 5, (j + 0.5) * height / 4) for j in range(4) for i in range(5)]
        there = np.isfinite(seen[:, 0])
        np.testing.assert_allclose(pixels[there], np.array(want)[there], atol=0.05)


def test_paths_goals_and_commands():
    env = standing([flat_scene(), heights_scene(lambda x, y: 0 * x)], 4, replace(QUIET, task="goal"), steps=3)
    state = ViewSource(env).look(torch.arange(4))
    for row in range(4):
        points = env.sim.scenes[state.scene_ids[row]].paths.points[:, :3]
        line = state.path_pos_w[row]
        line = line[np.isfinite(line[:, 0])]
        np.testing.assert_array_equal(line, points)
        assert np.abs(points - state.goal_pos_w[row]).sum(axis=1).min() == 0
    np.testing.assert_array_equal(state.command, env.commands.command.numpy())
    assert np.isnan(ViewSource(standing([flat_scene()], 1, steps=0)).look(torch.tensor([0])).goal_pos_w).all()


def test_files_and_json_give_it_back(tmp_path):
    env = standing([wavy_scene()], 3, steps=10)
    source = ViewSource(env)
    state = source.look(torch.tensor([1, 2]))
    np.savez(tmp_path / "view.npz", **state.arrays())
    with np.load(tmp_path / "view.npz", allow_pickle=False) as file:
        from_file = ViewState.read(file)
    from_json = ViewState.read(json.loads(json.dumps(state.to_json(), allow_nan=False)))
    for again in (from_file, from_json):
        for name, array in state.arrays().items():
            np.testing.assert_array_equal(array, getattr(again, name))
            assert array.dtype == getattr(again, name).dtype
    assert len(json.loads(json.dumps(source.shapes.to_json()))["geoms"]) == len(source.shapes.geoms)
    partial = state.arrays()
    del partial["command"]
    with pytest.raises(InputError, match="without 'command'"):
        ViewState.read(partial)


def test_looking_changes_nothing():
    cfg = replace(EnvCfg(), task="goal")
    env, twin = standing([wavy_scene()], 3, cfg, steps=2), standing([wavy_scene()], 3, cfg, steps=2)
    source = ViewSource(env)
    first = source.look(torch.tensor([0]))
    kept = {name: array.copy() for name, array in first.arrays().items()}
    for i in range(5):
        action = torch.randn(3, 12, generator=torch.Generator().manual_seed(i))
        source.look(torch.tensor([0, 2]))
        obs, *_ = env.step(action)
        other, *_ = twin.step(action)
        assert all(torch.equal(obs[name], other[name]) for name in obs)
    for name, array in first.arrays().items():
        np.testing.assert_array_equal(array, kept[name])  # not a view of what steps overwrite
