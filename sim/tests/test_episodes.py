"""What a checkpoint keeps of running episodes."""

import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_sim.mdp.episodes import EpisodeSums

CPU = torch.device("cpu")


def filled(terms, num_envs):
    episodes = EpisodeSums(terms, num_envs, CPU)
    steps = torch.zeros(num_envs, dtype=torch.int64)
    episodes.count(steps, 0.02)
    rewards = torch.arange(len(terms) * num_envs, dtype=torch.float32).view(len(terms), num_envs)
    episodes.add(rewards, torch.ones(num_envs, 3), 0.02)
    return episodes


def test_the_state_comes_back():
    one, other = filled(("a", "b"), 3), EpisodeSums(("a", "b"), 3, CPU)
    other.load_state_dict(one.state_dict())
    ids = torch.arange(3)
    for name, value in one.means(ids, 0.02).items():
        assert torch.equal(value, other.means(ids, 0.02)[name])


def test_other_reward_terms_are_refused_in_one_line():
    with pytest.raises(
        InputError, match=r"2 reward terms in 3 environments.*3 \(a, b, c\) in 3; resume with"
    ):
        EpisodeSums(("a", "b", "c"), 3, CPU).load_state_dict(filled(("a", "b"), 3).state_dict())
