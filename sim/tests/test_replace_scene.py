"""Scenes that replace others while the simulation runs: as if they had been there from the start."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.ground.terrain import TerrainLookup
from gaussgym_sim.mdp.starts import sample_starts
from gaussgym_sim.randomize import RandomizeCfg
from gaussgym_sim.testing import flat_scene, heights_scene, place, wavy_scene
from gaussgym_sim.vecsim import make_sim

torch.set_num_threads(1)
QUIET = EnvCfg().for_evaluation()


def steep_scene(*, levels=None, size_m=(9.0, 4.0)):
    """Another ground, smaller than the others, whose path may have a level."""
    scene = heights_scene(lambda x, y: 0.2 * np.sin(x) + 0.1 * y, size_m=size_m, name="steep")
    scene.metadata["path_level"] = {"0": levels} if levels is not None else {}
    return scene


def three_scenes():
    return [flat_scene(), wavy_scene(), steep_scene()]


def test_terrain_is_that_of_a_fresh_look_up():
    rng = np.random.default_rng(0)

    def field():
        ny, nx = rng.integers(2, 9, 2)
        heights = (rng.normal(size=(ny, nx)) * rng.integers(0, 2)).astype(np.float32)
        return Heightfield(heights, float(rng.uniform(0.1, 0.5)), rng.normal(size=2), np.ones((ny, nx), bool))

    fields = [field() for _ in range(4)]
    lookup = TerrainLookup(fields, device=torch.device("cpu"))
    ids = torch.arange(4).repeat(25)
    for _ in range(12):
        index = int(rng.integers(4))
        fields[index] = field()
        lookup.replace(index, fields[index])
        fresh = TerrainLookup(fields, device=torch.device("cpu"))
        xy = torch.from_numpy(rng.normal(size=(100, 6, 2)).astype(np.float32))
        assert torch.equal(lookup.sample(xy, ids), fresh.sample(xy, ids))
        assert torch.equal(lookup.flat, fresh.flat)
        assert torch.equal(
            lookup.outside(xy[:, 0], ids, margin_m=0.1), fresh.outside(xy[:, 0], ids, margin_m=0.1)
        )


def test_physics_is_that_of_a_fresh_simulator_and_others_do_not_notice():
    scenes = three_scenes()
    sim, undisturbed = make_sim("mujoco", "go1", scenes, 6), make_sim("mujoco", "go1", scenes, 6)
    fresh = make_sim("mujoco", "go1", [scenes[0], steep_scene(), scenes[2]], 6)
    everyone, mine = torch.arange(6), torch.tensor([2, 3])
    target = torch.tensor(sim.robot.default_joint_pos).repeat(6, 1)

    def drop(simulator, ids):
        pos = torch.tensor([[-2.0, 0.4, 0.0]]).repeat(len(ids), 1)
        pos[:, 2] = simulator.terrain.sample(pos[:, None, :2], simulator.scene_of_env[ids])[:, 0] + 0.35
        place(simulator, pos_w=pos, env_ids=ids)

    for each in (sim, undisturbed, fresh):
        drop(each, everyone)
    sim.set_params(mine, friction=torch.tensor([0.1, 0.1]), kp=torch.full((2, 12), 5.0), kd=torch.ones(2, 12))
    for _ in range(10):
        sim.step(target)
        undisturbed.step(target)
    sim.set_scene(mine, steep_scene())
    drop(sim, mine)
    others = torch.tensor([0, 1, 4, 5])
    for _ in range(20):
        for each in (sim, undisturbed, fresh):
            each.step(target)
        assert torch.equal(sim.state.root_pos_w[mine], fresh.state.root_pos_w[mine])
        assert torch.equal(sim.state.joint_pos[mine], fresh.state.joint_pos[mine])
        assert torch.equal(sim.state.root_pos_w[others], undisturbed.state.root_pos_w[others])
    assert (fresh.state.root_pos_w[mine] - undisturbed.state.root_pos_w[mine]).abs().max() > 0.01
    assert sim.scenes[1].name == "steep"


def test_a_scene_that_cannot_be_walked_on_changes_nothing():
    sim = make_sim("mujoco", "go1", three_scenes(), 3)
    bad = steep_scene()
    bad.heightfield.height_m[3, 4] = np.nan
    with pytest.raises(InputError, match="1 heights are not finite"):
        sim.set_scene(torch.tensor([1]), bad)
    assert sim.scenes[1].name == "heights"


def test_episodes_there_end_as_time_outs_and_begin_anew_in_the_new_scene():
    env = Env(make_sim("mujoco", "go1", three_scenes(), 6), QUIET, seed=0)
    for _ in range(5):
        env.step(torch.zeros(6, 12))
    points = env.network.points[env.follower.index].clone()
    goals = env.network.points[env.follower.goal].clone()
    env.replace_scene(0, steep_scene())
    assert env.sim.scenes[0].name == "flat"  # until the next step
    _, _, dones, extras = env.step(torch.zeros(6, 12))
    assert dones.tolist() == [True, True, False, False, False, False]
    assert extras["time_outs"].tolist() == [1, 1, 0, 0, 0, 0]
    assert not extras["fell"].any()
    assert env.episode_length_buf.tolist() == [0, 0, 6, 6, 6, 6]
    assert env.sim.scenes[0].name == "steep"
    # The others stand where they stood on their paths, though points are counted otherwise.
    assert torch.allclose(env.network.points[env.follower.index][2:], points[2:], atol=0.3)
    assert torch.equal(env.network.points[env.follower.goal][2:], goals[2:])
    fresh = Env(make_sim("mujoco", "go1", [steep_scene(), wavy_scene(), steep_scene()], 6), QUIET, seed=0)
    assert torch.equal(env.network.points, fresh.network.points)
    assert torch.equal(
        env.rewards._weights, fresh.rewards._weights
    )  # a plane's weights are others than rough ground's
    line = steep_scene().paths.points
    xy = env.sim.state.root_pos_w[:2, :2].numpy()
    assert np.linalg.norm(line[None, :, :2] - xy[:, None], axis=2).min(1).max() < 0.6
    for _ in range(30):
        _, reward, *_ = env.step(torch.zeros(6, 12))
    assert torch.isfinite(reward).all()
    assert (env.height_m > 0.1).all()


def test_who_falls_in_that_step_has_fallen():
    env = Env(make_sim("mujoco", "go1", three_scenes(), 3), QUIET, seed=0)
    env.replace_scene(1, flat_scene())
    action = torch.zeros(3, 12)
    action[1, 0] = torch.nan
    _, _, dones, extras = env.step(action)
    assert dones.tolist() == [False, True, False]
    assert extras["fell"].tolist() == [False, True, False]
    assert extras["time_outs"].tolist() == [0, 0, 0]
    assert env.sim.scenes[1].name == "flat"


def test_physics_is_drawn_anew_for_the_new_scene():
    cfg = replace(EnvCfg(), randomize=RandomizeCfg())
    env = Env(make_sim("mujoco", "go1", three_scenes(), 6), cfg, seed=0)
    before = {name: env.sim.params[name].clone() for name in ("friction", "kp")}
    env.replace_scene(1, flat_scene())
    env.step(torch.zeros(6, 12))
    low, high = cfg.randomize.friction
    shapes = env.sim._slots[1].batch.expanded("geom_friction")[:, -1, 0]
    drawn = env.sim.params["friction"]
    np.testing.assert_array_equal(shapes.astype(np.float32), drawn[2:4].numpy())
    assert ((drawn >= low) & (drawn <= high)).all()
    assert drawn[2] != drawn[3]
    assert torch.equal(drawn[4:], before["friction"][4:])
    assert (env.sim.params["kp"][2:4] != before["kp"][2:4]).all()
    assert torch.equal(env.sim.params["kp"][4:], before["kp"][4:])


def test_levels_survive_scenes_without_levels():
    env = Env(
        make_sim("mujoco", "go1", [steep_scene(levels=2), flat_scene()], 4),
        replace(EnvCfg(), curriculum=True),
    )
    assert env.network.num_levels == 3
    env.set_levels(torch.tensor([2, 2, 1, 2]))
    env.replace_scene(0, flat_scene())
    env.step(torch.zeros(4, 12))
    assert env.network.num_levels == 1
    for _ in range(3):
        env.step(torch.zeros(4, 12))
    assert env.level[2:].tolist() == [1, 2]
    env.set_levels(env.level.clone())
    env.replace_scene(1, steep_scene(levels=1))
    env.step(torch.zeros(4, 12))
    assert env.network.num_levels == 2
    assert env.follower.index[2:].min() >= env.network.offset[1]
    assert env.follower.index[2:].max() < env.network.offset[2]


def test_what_cannot_be_replaced_says_so():
    scenes = [flat_scene(), wavy_scene()]
    starts = sample_starts(scenes, 2, seed=0)
    fixed = Env(make_sim("mujoco", "go1", scenes, 2), replace(QUIET, task="goal"), starts=starts)
    with pytest.raises(InputError, match="runs fixed starts"):
        fixed.replace_scene(0, wavy_scene())
    env = Env(make_sim("mujoco", "go1", scenes, 2), QUIET)
    no_paths = Paths(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.float32))
    empty = Scene("bare", heightfield=flat_scene().heightfield, paths=no_paths)
    with pytest.raises(InputError, match="scene 'bare': 0 path points"):
        env.replace_scene(0, empty)
    env.step(torch.zeros(2, 12))
    assert env.sim.scenes[0].name == "flat"


def test_on_rough_ground_all_follow_the_path_at_once():
    """On a plane half of the robots hold a yaw rate instead; 24 all following by chance would be one in ten million."""
    env = Env(make_sim("mujoco", "go1", [flat_scene(), wavy_scene()], 48), QUIET, seed=0)
    assert not env.commands._heading[:24].all()
    env.replace_scene(0, steep_scene())
    env.step(torch.zeros(48, 12))
    assert env.commands._heading.all()
    env.replace_scene(0, flat_scene())
    env.step(torch.zeros(48, 12))
    assert not env.commands._heading[:24].all()
