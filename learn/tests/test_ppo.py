"""Learning rate rule and the auxiliary loss, by hand."""

import pytest
import torch
from gaussgym_learn.ppo import AdaptivePPO, adapt_learning_rate
from gaussgym_learn.ppo_trainer import PPOTrainer, build_ppo
from gaussgym_learn.recipes import NetworkCfg, PPOCfg, Recipe
from gaussgym_learn.testing import ToyEnv
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict

VISION = NetworkCfg(
    actor_groups=("proprio", "rgb"), critic_groups=("proprio", "scan"), aux_group="scan", init_std=0.5
)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(0.06, 1e-3), (0.077, 1e-3), (0.079, 1e-3 / 1.2), (0.0463, 1e-3), (0.0460, 1.1e-3), (0.0, 1.1e-3)],
)
def test_learning_rate_follows_the_whole_updates_kl(kl, expected):
    assert adapt_learning_rate(1e-3, kl, 0.06) == pytest.approx(expected)


def test_learning_rate_keeps_its_limits():
    assert adapt_learning_rate(1.05e-5, 9.0, 0.06) == 1e-5
    assert adapt_learning_rate(9.9e-3, 0.0, 0.06) == 1e-2


def test_auxiliary_loss_by_hand():
    trainer = PPOTrainer(
        Recipe("t", network=VISION, ppo=PPOCfg(num_envs=4, steps=3, mini_batches=1)), ToyEnv(4)
    )
    alg: AdaptivePPO = trainer.alg
    head = alg.actor.aux_head
    for p in head.parameters():
        torch.nn.init.zeros_(p)
    with torch.no_grad():
        head[2].bias += 0.5  # the head predicts 0.5 everywhere
    obs = TensorDict(
        {
            "proprio": torch.zeros(3, 2, 45),
            "rgb": torch.zeros(3, 2, 3, 48, 64, dtype=torch.uint8),
            "scan": torch.zeros(3, 2, 16),
        },
        batch_size=[3, 2],
    )
    obs["scan"][:, 1] = 1.0
    obs["scan"][2, 0] = 100.0  # padding: must not count
    masks = torch.tensor([[1, 1], [1, 1], [0, 0]], dtype=torch.bool)
    # Real targets: two steps of 0 and two of 1, all at distance 0.5 from the prediction.
    obs["scan"][2, 1] = 100.0
    batch = RolloutStorage.Batch(observations=obs, masks=masks, hidden_states=(torch.zeros(1, 2, 128), None))
    batch.masks = masks
    with pytest.MonkeyPatch.context() as m:
        # unpad_trajectories expects whole environments; here two of two steps each
        m.setattr("gaussgym_learn.ppo.unpad_trajectories", lambda x, masks: x[masks])
        m.setattr("gaussgym_learn.models.unpad_trajectories", lambda x, masks: x[masks])
        m.setattr("rsl_rl.modules.rnn.unpad_trajectories", lambda x, masks: x[masks])
        assert alg.aux_loss(batch).item() == pytest.approx(0.25)


def test_aux_needs_a_head():
    net = NetworkCfg(actor_groups=("proprio",), critic_groups=("proprio",))
    alg = build_ppo(Recipe("t", network=net, ppo=PPOCfg(num_envs=4, steps=3)), ToyEnv(4))
    with pytest.raises(ValueError, match="auxiliary head"):
        AdaptivePPO(alg.actor, alg.critic, alg.storage, aux_cfg={})


def test_pixels_learn_the_toy_and_the_reconstruction_falls():
    recipe = Recipe("toy", network=VISION, ppo=PPOCfg(num_envs=32, steps=20, mini_batches=4))
    trainer = PPOTrainer(recipe, ToyEnv(32), seed=1)
    torch.set_num_threads(1)
    rows = [trainer.iterate() for _ in range(14)]
    assert rows[-1]["Loss/aux_recon"] < 0.35 * rows[0]["Loss/aux_recon"]
    assert rows[-1]["Episode/error"] < 0.95 * rows[0]["Episode/error"]
    assert all(1e-5 <= r["Loss/learning_rate"] <= 1e-2 for r in rows)
