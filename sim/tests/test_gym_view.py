"""The gymnasium view against gymnasium's own idea of a vector environment."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.testing import flat_scene, wavy_scene
from gaussgym_sim.vecsim import make_sim

gymnasium = pytest.importorskip("gymnasium")
from gaussgym_sim.views.gym_view import GymVectorEnv, make_vec  # noqa: E402

SHORT = replace(EnvCfg(), episode_s=0.2, random_initial_age=False)


def view(num_envs=5, cfg=SHORT, seed=0):
    return GymVectorEnv(
        Env(make_sim("mujoco", "go1", [flat_scene(), wavy_scene()], num_envs), cfg, seed=seed)
    )


def test_a_random_policy_runs_by_the_contract():
    envs = view()
    assert envs.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.SAME_STEP
    envs.action_space.seed(0)
    obs, infos = envs.reset(seed=3)
    assert infos == {}
    ended = 0
    for _ in range(25):
        assert obs in envs.observation_space
        obs, reward, terminated, truncated, infos = envs.step(envs.action_space.sample())
        assert reward.shape == terminated.shape == truncated.shape == (5,)
        assert reward.dtype == np.float64
        assert terminated.dtype == truncated.dtype == bool
        over = terminated | truncated
        ended += over.sum()
        if over.any():
            np.testing.assert_array_equal(infos["_final_obs"], over)
            np.testing.assert_array_equal(infos["final_info"]["fell"], terminated)
            for e in range(5):
                assert (infos["final_obs"][e] is not None) == over[e]
                if over[e]:
                    assert infos["final_obs"][e] in envs.single_observation_space
                    assert (obs["proprio"][e, -12:] == 0).all()  # no action yet in the new episode
                    assert (infos["final_obs"][e]["proprio"][-12:] != 0).any()
            assert "episode/seconds" in envs.log
        else:
            assert infos == {}
    assert ended >= 10  # 0.2 s an episode, and some fall earlier
    envs.close()
    envs.close()


def test_a_seed_gives_the_same_episodes_and_equals_the_env():
    envs = view()
    envs.action_space.seed(1)
    plan = [envs.action_space.sample() for _ in range(15)]
    runs = []
    for _ in range(2):
        obs, _ = envs.reset(seed=11)
        trail = [obs["proprio"]]
        for actions in plan:
            obs, reward, *_ = envs.step(actions)
            trail += [obs["proprio"], obs["scan"], reward]
        runs.append(trail)
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))
    env = view().env
    env.reset(11)
    for actions in plan:
        obs, reward, *_ = env.step(torch.from_numpy(actions))
    assert np.array_equal(obs["proprio"].numpy(), runs[0][-3])
    assert np.array_equal(reward.numpy(), runs[0][-1])


def test_time_truncates_and_a_fall_terminates():
    quiet = replace(SHORT.for_evaluation(), episode_s=0.1)
    envs = view(3, quiet)
    envs.reset(seed=0)
    seen = [envs.step(np.zeros((3, 12), np.float32))[2:4] for _ in range(5)]
    assert not any(terminated.any() for terminated, _ in seen)
    assert [truncated.all() for _, truncated in seen] == [False] * 4 + [True]
    envs = view(3, replace(quiet, episode_s=20.0))
    envs.reset(seed=0)
    nan = np.zeros((3, 12), np.float32)
    nan[1] = np.nan  # ends an episode as a fall
    _, _, terminated, truncated, infos = envs.step(nan)
    assert terminated.tolist() == [False, True, False]
    assert not truncated.any()
    assert infos["final_info"]["fell"].tolist() == [False, True, False]


@pytest.mark.parametrize("task", ["velocity", "goal"])
def test_registered_by_task(task):
    envs = gymnasium.make_vec(
        f"gaussgym_sim.views.gym_view:gaussgym/{task}-v0",
        num_envs=4,
        scenes=["rubble"],
        cfg=SHORT,
        num_threads=1,
    )
    assert envs.num_envs == 4
    assert envs.unwrapped.env.cfg.task == task
    assert envs.spec.id == f"gaussgym/{task}-v0"
    recorded = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    recorded.reset(seed=0)
    lengths = []
    for _ in range(30):
        *_, infos = recorded.step(recorded.action_space.sample())
        if "episode" in infos:
            lengths += infos["episode"]["l"][infos["_episode"]].tolist()
    assert lengths
    assert max(lengths) <= 10
    recorded.close()


def test_infos_turn_into_lists():
    envs = gymnasium.wrappers.vector.DictInfoToList(view(3, replace(SHORT.for_evaluation(), episode_s=0.02)))
    envs.reset(seed=0)
    *_, infos = envs.step(np.zeros((3, 12), np.float32))
    assert [set(info) for info in infos] == [{"final_obs", "final_info"}] * 3
    assert infos[0]["final_info"] == {"fell": False, "success": False, "start_id": -1}


def test_bad_input_is_told():
    envs = view(2)
    with pytest.raises(InputError, match=r"actions of shape \(2, 11\), expected \(2, 12\)"):
        envs.step(np.zeros((2, 11)))
    with pytest.raises(InputError, match="expected one integer"):
        envs.reset(seed=[1, 2])
    with pytest.raises(InputError, match="has none"):
        envs.reset(options={"reset_mask": np.ones(2, bool)})
    with pytest.raises(InputError, match="unknown scene kind 'moon'"):
        make_vec(2, scenes=["moon"])
