"""A policy that commands a frozen walker is trained, resumed and evaluated as one that walks."""

import dataclasses

import pytest
import torch
from gaussgym_learn.commanding import PolicyWalker, make_commanding_env, make_policy_env
from gaussgym_learn.evaluate import evaluate, fixed_starts
from gaussgym_learn.recipes import get_recipe
from gaussgym_learn.rotation import ScenesCfg
from gaussgym_learn.train import train
from gaussgym_scene.errors import InputError
from gaussgym_scene.synth import synthesize

AHEAD = torch.tensor([1.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def hall():
    return synthesize("hall", 0, max_splats=2000)


def make(hall, num_envs=4, **options):
    recipe = get_recipe("corridor_pixels")
    options = {"renderer": None, "num_threads": 1, "cfg": recipe.env, **options}
    return make_commanding_env("corridor", hall, num_envs, recipe.commanding, **options)


def test_success_ends_what_there_is_to_gain_and_time_does_not(hall):
    """Straight on in the middle: some pass, none of these is a time-out; who stands runs out of time."""
    env = make(hall, 8, seed=1)
    seen = {"success": 0, "danger": 0}
    for _ in range(25):
        _, _, dones, extras = env.step(AHEAD.expand(8, 3))
        assert dones.dtype == torch.long
        assert not (extras["time_outs"].bool() & (extras["success"] | extras["fell"])).any()
        seen["success"] += int(extras["success"].sum())
        seen["danger"] += int((extras["fell"]).sum())
    assert seen["success"] >= 1
    assert seen["danger"] >= 1
    env = make(hall, 2, cfg=dataclasses.replace(env.cfg, episode_s=0.6))
    ends = [env.step(torch.tensor([[-1.0, 0.0, 0.0]] * 2)) for _ in range(4)]
    assert [bool(dones.all()) for _, _, dones, _ in ends] == [False, False, True, False]
    assert ends[2][3]["time_outs"].tolist() == [1.0, 1.0]
    assert env.max_episode_length == 3
    assert env.episode_length_buf.tolist() == [1, 1]


def test_seeds_and_states_repeat_episodes(hall):
    env, rng = make(hall, 3, seed=4, renderer="auto"), torch.Generator().manual_seed(0)
    actions = torch.randn(8, 3, 3, generator=rng)
    first = [env.step(a)[0] for a in actions[:3]]
    state = env.state_dict()
    with torch.inference_mode():  # as trainers step it
        on = [env.step(a)[0] for a in actions[3:]]
    env.reset(seed=4)
    again = [env.step(a)[0] for a in actions[:3]]
    other = make(hall, 3, seed=77, renderer="auto")
    other.load_state_dict(state)
    assert torch.equal(other.get_observations()["rgb"], first[-1]["rgb"])
    resumed = [other.step(a)[0] for a in actions[3:]]
    for one, two in zip([*first, *on], [*again, *resumed], strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one.keys())  # noqa: SIM118


def test_images_come_once_a_decision(hall):
    env = make(hall, 2, renderer="auto")
    assert env.camera_hz == 5.0
    assert env.layout["rgb"] == [3, 48, 84]
    for _ in range(3):
        obs = env.step(AHEAD.expand(2, 3))[0]
        assert obs["rgb_new"].all()


def test_the_mirrored_robot_is_commanded_to_the_other_side(hall):
    env = make(hall, 2)
    maps = env.mirror_maps()
    command = torch.tensor([[0.2, -0.4, 0.6]])
    assert torch.equal(maps.actions(command), torch.tensor([[0.2, 0.4, -0.6]]))
    obs = env.step(torch.tensor([[0.2, -0.4, 0.6]] * 2))[0]
    seen = maps.observations({name: obs[name] for name in ("proprio", "base_vel", "way", "safe_side")})
    torch.testing.assert_close(
        obs["proprio"][:, 6:9], torch.tensor([[1.2, 0.0, 0.09]] * 2), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        seen["proprio"][:, 6:9], torch.tensor([[1.2, 0.0, -0.09]] * 2), atol=1e-5, rtol=0
    )
    assert torch.equal(seen["safe_side"], -obs["safe_side"])
    to_one_side = dataclasses.replace(get_recipe("corridor_pixels").commanding, low=(0.0, 0.0, -0.5))
    env = make_commanding_env("corridor", hall, 2, to_one_side, renderer=None, num_threads=1)
    with pytest.raises(InputError, match="have no mirror image"):
        env.mirror_maps()


def test_each_start_is_evaluated_with_both_lanes_safe(hall):
    starts = fixed_starts([hall, hall], 12, seed=3, task="corridor")
    assert len(starts) == 12
    assert starts.scene_id.tolist() == [0] * 6 + [1] * 6
    for values in vars(starts).values():
        assert (values[0::2] == values[1::2]).all()
    assert len(set(starts.yaw_rad.tolist())) == 6
    plain = fixed_starts([hall], 6, seed=3)
    assert len(set(plain.yaw_rad.tolist())) == 6


def tiny(name, **ppo):
    recipe = get_recipe(name)
    return dataclasses.replace(recipe, ppo=dataclasses.replace(recipe.ppo, num_envs=4, steps=3, **ppo))


@pytest.mark.parametrize("name", ["corridor_blind", "corridor_pixels"])
def test_whoever_sees_nothing_passes_in_one_of_two_cases_at_most(hall, tmp_path, name):
    """Whatever was learned: of the two episodes from each start, one and only one can be passed without the colours."""
    train(tiny(name), hall, tmp_path, iterations=2, seed=2)
    blank = {} if name == "corridor_blind" else {"ablate": "blank"}
    result = evaluate(tmp_path, hall, task="corridor", episodes=12, **blank)
    success = torch.tensor(result["per_episode"]["success"])
    failed = torch.tensor(result["per_episode"]["fell"])
    assert (success[0::2] + success[1::2] <= 1).all()
    assert (success[0::2] <= failed[1::2]).all()  # the same way, in the other case
    assert (success[1::2] <= failed[0::2]).all()
    assert result["success"] <= 0.5
    assert result["velocity_error_m_s"] < 0.5


def test_what_does_not_go_together_is_said(hall, tmp_path):
    recipe = get_recipe("corridor_teacher")
    with pytest.raises(InputError, match="wants commands from a policy above the one that walks"):
        make_policy_env(None, "corridor", hall, 2, renderer=None)
    with pytest.raises(InputError, match="found task 'goal', which makes its own commands"):
        make_policy_env(recipe.commanding, "goal", hall, 2, renderer=None)
    with pytest.raises(InputError, match="holds all scenes"):
        make_policy_env(recipe.commanding, "corridor", hall, 2, renderer=None, memory=ScenesCfg(at_once=1))
    with pytest.raises(InputError, match="neither checkpoint"):
        make_commanding_env(
            "corridor", hall, 2, dataclasses.replace(recipe.commanding, walker="nobody"), renderer=None
        )
    with pytest.raises(InputError, match="walker 'student' sees"):
        PolicyWalker("student")
    train(tiny("corridor_teacher"), hall, tmp_path, iterations=1)
    with pytest.raises(InputError, match="found task 'goal', which makes its own commands"):
        evaluate(tmp_path, hall, task="goal", episodes=2)
