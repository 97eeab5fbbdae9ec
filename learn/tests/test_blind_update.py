"""The update of feed-forward networks: two threads give the numbers of one, the target of the KL follows its schedule."""

import pytest
import torch
from gaussgym_learn.acting import load_actor
from gaussgym_learn.checkpoint import load_checkpoint, save_checkpoint
from gaussgym_learn.objective import JointLoss
from gaussgym_learn.ppo import Learner
from gaussgym_learn.ppo_trainer import PPOTrainer
from gaussgym_learn.recipes import NetworkCfg, PPOCfg, Recipe, SymmetryCfg
from gaussgym_learn.run import run_fields
from gaussgym_learn.testing import ToyEnv

torch.set_num_threads(1)
BLIND = NetworkCfg(
    actor_groups=("proprio",), critic_groups=("proprio", "scan"), actor_hidden=(32,), critic_hidden=(32,)
)

NONE = SymmetryCfg()


def trained(network=BLIND, symmetry=NONE):
    recipe = Recipe(
        "t", network=network, ppo=PPOCfg(num_envs=16, steps=10, mini_batches=2), symmetry=symmetry
    )
    trainer = PPOTrainer(recipe, ToyEnv(16), seed=3)
    losses = [trainer.iterate() for _ in range(3)]
    return trainer, losses


@pytest.mark.parametrize("symmetry", [NONE, SymmetryCfg(mirror_coef=1.0, mirror_share=0.5)])
def test_two_threads_give_the_weights_of_one_bit_for_bit(monkeypatch, symmetry):
    two, losses = trained(symmetry=symmetry)
    assert two.alg.apart
    monkeypatch.setattr(Learner, "apart", False)
    one, expected = trained(symmetry=symmetry)
    for name, model in one.alg.models.items():
        for key, value in model.state_dict().items():
            assert torch.equal(value, two.alg.models[name].state_dict()[key]), (name, key)
    for row, other in zip(losses, expected, strict=True):
        for name in ("Loss/value", "Loss/surrogate", "Loss/entropy", "Loss/total", "Loss/kl"):
            assert row[name] == pytest.approx(other[name], rel=1e-5), name


def test_recurrent_actors_and_critics_on_the_way_stay_in_one_thread():
    network = NetworkCfg(actor_groups=("proprio", "rgb"), critic_groups=("proprio",), aux_group=None)
    recipe = Recipe("t", network=network, ppo=PPOCfg(num_envs=4, steps=4, mini_batches=1, critic_warmup=1))
    assert not PPOTrainer(recipe, ToyEnv(4)).alg.apart
    warming = PPOTrainer(
        Recipe("t", network=BLIND, ppo=PPOCfg(num_envs=4, steps=4, critic_warmup=1)), ToyEnv(4)
    )
    warming.iterate()
    assert not warming.alg.apart
    warming.iterate()
    assert warming.alg.apart


def test_an_error_in_the_second_thread_is_not_lost(monkeypatch):
    trainer, _ = trained()
    monkeypatch.setattr(JointLoss, "critic_loss", lambda self, batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.iterate()


def test_the_kl_target_follows_its_schedule_by_hand(monkeypatch):
    targets = []
    monkeypatch.setattr(
        "gaussgym_learn.ppo.adapt_learning_rate", lambda rate, kl, target: targets.append(target) or rate
    )
    ppo = PPOCfg(num_envs=4, steps=4, mini_batches=1, target_kl="0.06->0.01@0.4..1")
    trainer = PPOTrainer(Recipe("t", network=BLIND, ppo=ppo), ToyEnv(4))
    for progress in (0.0, 0.4, 0.7, 1.0):
        trainer.progress = progress
        trainer.iterate()
    assert targets == pytest.approx([0.06, 0.06, 0.035, 0.01])


def test_the_average_of_parameters_by_hand_resumed_and_acting(tmp_path):
    ppo = PPOCfg(num_envs=4, steps=4, mini_batches=1, average=0.75)
    recipe = Recipe("t", network=BLIND, ppo=ppo)
    trainer = PPOTrainer(recipe, ToyEnv(4))
    seen = []
    for _ in range(3):
        trainer.iterate()
        seen.append(trainer.alg.actor.mlp[0].weight.detach().clone())
    by_hand = 0.75 * (0.75 * seen[0] + 0.25 * seen[1]) + 0.25 * seen[2]
    torch.testing.assert_close(trainer.alg.average["mlp.0.weight"], by_hand)
    save_checkpoint(tmp_path, trainer.state(), run_fields(recipe, trainer.env, seed=0), iteration=3)
    checkpoint = load_checkpoint(tmp_path)
    torch.testing.assert_close(load_actor(checkpoint).mlp[0].weight, by_hand)
    resumed = PPOTrainer(recipe, ToyEnv(4))
    resumed.restore(checkpoint)
    assert torch.equal(resumed.alg.actor.mlp[0].weight, seen[2])  # training goes on from the newest
    assert torch.equal(resumed.alg.average["mlp.0.weight"], trainer.alg.average["mlp.0.weight"])


def test_without_an_average_the_newest_parameters_act():
    trainer, _ = trained()
    assert "actor_average" not in trainer.state()
