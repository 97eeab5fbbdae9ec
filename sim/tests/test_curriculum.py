from dataclasses import replace

import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.mdp.curriculum import GoalDistance, GoalDistanceCfg
from gaussgym_sim.testing import flat_scene, wavy_scene
from gaussgym_sim.vecsim import make_sim

torch.set_num_threads(1)
QUIET = EnvCfg().for_evaluation()


def test_goals_move_away_where_they_are_reached():
    distance = GoalDistance(
        GoalDistanceCfg(first_m=2.0, last_m=3.2, step_m=0.5, episodes=4), 3, torch.device("cpu")
    )
    scenes = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    success = torch.tensor([True, True, True, True, False, True, False])
    distance.update(scenes, success)
    assert distance.distance_m.tolist() == [2.0, 2.0, 2.0]  # three episodes only, and half of four
    distance.update(torch.tensor([0]), torch.tensor([False]))  # 3 of 4
    assert distance.distance_m.tolist() == [2.5, 2.0, 2.0]
    for _ in range(3):
        distance.update(torch.tensor([0, 0, 0, 0]), torch.ones(4, dtype=torch.bool))
    assert distance.distance_m.tolist() == pytest.approx([3.2, 2.0, 2.0])
    distance.update(torch.tensor([0, 0, 0, 0]), torch.zeros(4, dtype=torch.bool))
    assert distance.distance_m.tolist() == pytest.approx([2.7, 2.0, 2.0])


def test_the_next_goals_lie_at_the_distance():
    cfg = replace(
        QUIET,
        task="goal",
        episode_s=0.04,
        goal_distance=GoalDistanceCfg(first_m=3.0, episodes=1, up=0.0, down=-1.0),
    )
    env = Env(make_sim("mujoco", "go1", [flat_scene()], 5), cfg)
    points = env.network.points
    assert (points[env.follower.goal] - points[env.follower.index])[:, 0].abs().tolist() == [3.0] * 5
    for _ in range(2):
        extras = env.step(torch.zeros(5, 12))[3]
    assert (points[env.follower.goal] - points[env.follower.index])[:, 0].abs().tolist() == [3.5] * 5
    assert float(extras["log"]["episode/goal_distance_m"]) == 3.0


def test_single_envs_move_to_scenes_that_a_curriculum_chooses():
    """Those that fell go to the plane; all others stay; nobody is interrupted."""
    flat, wavy = flat_scene(), wavy_scene()
    env = Env(make_sim("mujoco", "go1", [wavy, flat], 6), QUIET, seed=0)

    def choose(env, ids, success):
        assert not success.any()
        env.set_scene(ids, flat)

    env.choose_scenes = choose
    fall = torch.zeros(6, 12)
    fall[1, 0] = torch.nan
    _, _, dones, _ = env.step(fall)
    assert dones.tolist() == [False, True, False, False, False, False]
    assert env.sim.scene_of_env.tolist() == [0, 1, 0, 1, 1, 1]
    offset = env.network.offset
    assert offset[1] <= env.follower.index[1] < offset[2]
    assert env.rewards._weights[0].shape == (6,)
    row = env.rewards.names.index("base_height")
    assert env.rewards._weights[row].tolist() == [-3.0, -10.0, -3.0, -10.0, -10.0, -10.0]
    waits = torch.tensor([0])
    env.choose_scenes = None
    env.set_scene(waits, flat)
    env.step(torch.zeros(6, 12))
    assert env.sim.scene_of_env.tolist() == [0, 1, 0, 1, 1, 1]  # its episode goes on
    fall = torch.zeros(6, 12)
    fall[0, 0] = torch.nan
    env.step(fall)
    assert env.sim.scene_of_env.tolist() == [1, 1, 0, 1, 1, 1]
    for _ in range(20):
        env.step(torch.zeros(6, 12))
    assert (env.height_m > 0.15).all()


def test_a_scene_takes_the_place_of_another_where_all_are_in_use():
    flat, wavy = flat_scene(), wavy_scene()
    env = Env(make_sim("mujoco", "go1", [wavy, flat], 2), QUIET, seed=0)
    env.set_scene(torch.tensor([0]), flat)
    fall = torch.full((2, 12), torch.nan)
    env.step(fall)
    assert env.sim.scene_of_env.tolist() == [1, 1]
    with pytest.raises(InputError, match=r"no environment stands in scene slots \[0\]"):
        env.replace_scene(1, wavy_scene())
