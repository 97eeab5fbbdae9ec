"""``goal_semantic_steered``: commands that are added to the path's, and what a teacher is told."""

import math

import pytest
import torch
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.mdp.commands import SteeredCommands
from gaussgym_sim.tasks.goal_semantic_steered import COST_MAP_X_M, COST_MAP_Y_M
from gaussgym_sim.testing import flat_scene, place
from gaussgym_sim.vecsim import make_sim
from gaussgym_sim.views.command_env import CommandEnv, CommandEnvCfg

torch.set_num_threads(1)
MOST = CommandEnvCfg(low=(-0.4, -0.1, -1.6), high=(0.4, 0.1, 1.6))


class Stand:
    """Keeps the default pose and what it was asked to do."""

    def __init__(self):
        self.commands = []

    def __call__(self, obs):
        self.commands.append(obs["proprio"][:, 6:9].clone())
        return torch.zeros(len(obs["proprio"]), 12)


def make(num_envs=2, seed=0, **changes):
    cfg = EnvCfg.for_task("goal_semantic_steered", **changes).for_evaluation()
    return Env(make_sim("mujoco", "go1", [flat_scene()], num_envs, num_threads=1), cfg, seed=seed)


def test_what_is_given_is_added_to_the_paths_command_within_limits():
    env = make()
    walker = Stand()
    commander = CommandEnv(env, walker, MOST)
    path = env.commands.path.command.clone()
    assert torch.equal(env.commands.command, path)  # nothing is added yet
    assert (path[:, 0] > 0.5).all()
    obs, *_ = commander.step(torch.tensor([[-0.5, 1.0, 0.25], [1.0, 0.0, 1.0]]))
    scale = torch.tensor(env.cfg.observations.command_scale)
    first = walker.commands[0] / scale
    low, high = torch.tensor(SteeredCommands.LOW), torch.tensor(SteeredCommands.HIGH)
    by_hand = path + torch.tensor([[-0.2, 0.1, 0.4], [0.4, 0.0, 1.6]])
    torch.testing.assert_close(first, torch.minimum(torch.maximum(by_hand, low), high))
    assert first[1].tolist() == pytest.approx([0.9, 0.0, 0.8])  # at the limits
    assert len(walker.commands) == 10  # and is held through the decision
    torch.testing.assert_close(obs["path_command"], env.commands.path.command)
    assert not torch.allclose(env.commands.command, env.commands.path.command)


def test_nothing_is_added_when_an_episode_starts():
    env = make(1, episode_s=0.3)
    commander = CommandEnv(env, Stand(), MOST)
    commander.step(torch.ones(1, 3))
    assert env.commands.given.abs().sum() > 0
    _, _, dones, _ = commander.step(torch.ones(1, 3))
    assert bool(dones[0])
    assert env.commands.given.tolist() == [[0.0, 0.0, 0.0]]


def test_steering_costs_and_patches_cost_more():
    """The sum of squares by hand; a foot in a patch for a second costs as much as on the task that this one is made of."""
    env = make(1)
    index = {name: i for i, name in enumerate(env.rewards.names)}
    env.commands.give(torch.tensor([[0.3, 0.0, -0.5]]))
    env.task_state.patches.xy_m[:] = 50.0
    env.step(torch.zeros(1, 12))
    terms = env.rewards.terms[:, 0]
    assert float(terms[index["steering"]]) == pytest.approx(-0.5 * (0.09 + 0.25), rel=1e-4)
    assert env.task.rewards["patch_cost"].weight == -2.0
    assert float(terms[index["patch_cost"]]) == 0.0


def test_the_cost_map_is_turned_with_the_robot():
    """The robot at (3, 0) faces +y; a patch of half a metre's width about (3, 1.2) is ahead of it, and one at (2.2, 0) to its left."""
    env = make(1)
    half = math.sqrt(0.5)
    place(env.sim, pos_w=torch.tensor([[3.0, 0.0, 0.3]]), quat_wxyz=torch.tensor([[half, 0.0, 0.0, half]]))
    env._refresh()
    patches = env.task_state.patches
    patches.xy_m[:] = 50.0
    patches.xy_m[0, 0], patches.xy_m[0, 1] = torch.tensor([3.0, 1.2]), torch.tensor([2.2, 0.0])
    patches.half_m[0] = 0.25
    seen = env.get_observations()["cost_map"].view(COST_MAP_X_M[2], COST_MAP_Y_M[2])
    x, y = (torch.linspace(*v) for v in (COST_MAP_X_M, COST_MAP_Y_M))
    truth = torch.zeros_like(seen)
    for i in range(len(x)):
        for j in range(len(y)):
            ahead = abs(float(x[i]) - 1.2) <= 0.25 and abs(float(y[j])) <= 0.25
            left = abs(float(x[i])) <= 0.25 and abs(float(y[j]) - 0.8) <= 0.25
            truth[i, j] = float(ahead or left)
    assert truth.sum() > 8
    assert torch.equal(seen, truth)


def test_it_goes_on_from_a_saved_state():
    envs = [CommandEnv(make(3, seed=seed), Stand(), MOST) for seed in (1, 2)]
    generator = torch.Generator().manual_seed(0)
    actions = torch.randn(8, 3, 3, generator=generator)
    for action in actions[:3]:
        envs[0].step(action)
    envs[1].load_state_dict(envs[0].state_dict())
    for action in actions[3:]:
        (a, reward_a, *_), (b, reward_b, *_) = (env.step(action) for env in envs)
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert torch.equal(reward_a, reward_b)
