"""Mirrored rollouts: maps by hand, and policies that are symmetric by construction, feed-forward and recurrent with images."""

from dataclasses import replace

import pytest
import torch
from gaussgym_learn.courses import flat_course
from gaussgym_learn.env import make_env
from gaussgym_learn.ppo_trainer import PPOTrainer, build_learner
from gaussgym_learn.recipes import NetworkCfg, PPOCfg, Recipe, SymmetryCfg, get_recipe
from gaussgym_learn.recurrence import map_state
from gaussgym_learn.schedules import Objective
from gaussgym_learn.symmetry import mirrored, partly_mirrored
from gaussgym_learn.testing import ToyEnv
from gaussgym_scene.errors import InputError
from torch import nn

BLIND = NetworkCfg(
    actor_groups=("proprio", "scan"), critic_groups=("proprio", "scan"), actor_hidden=(16,), init_std=0.5
)
VISION = NetworkCfg(
    actor_groups=("proprio", "rgb"),
    critic_groups=("proprio", "scan"),
    actor_hidden=(16,),
    rnn_hidden=12,
    feature_dim=8,
    init_std=0.5,
)


def build(network, symmetry, **ppo):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    env = ToyEnv(4, seed=1)
    cfg = PPOCfg(num_envs=4, steps=7, **{"epochs": 1, "mini_batches": 1, "learning_rate": 3e-3, **ppo})
    return build_learner(Recipe("t", network=network, ppo=cfg, symmetry=symmetry), env), env


def roll(learner, env):
    learner.train_mode()
    obs = env.get_observations()
    with torch.inference_mode():
        learner.begin(Objective())
        for _ in range(learner.buffer.steps):
            obs, rewards, dones, extras = env.step(learner.act(obs))
            learner.process_env_step(rewards, dones, extras)
        learner.compute_returns(obs)


def test_mirrored_steps_by_hand():
    learner, env = build(VISION, SymmetryCfg(augment=True))
    roll(learner, env)
    batch = learner.buffer.whole()
    other = mirrored(batch, learner.joint.maps, learner.mirror_memory)
    assert torch.equal(other.group("scan"), batch.group("scan").flip(-1))
    assert torch.equal(other.group("proprio"), batch.group("proprio"))
    assert torch.equal(other.actions, -batch.actions)
    assert other.frames is batch.frames  # no second copy of the images
    assert other.mirrored
    assert other.returns is batch.returns
    again = mirrored(other, learner.joint.maps, batch.hidden)
    assert torch.equal(again.flat, batch.flat)
    assert not again.mirrored


def test_partly_mirrored_steps_by_hand():
    """A quarter of the 28 steps."""
    learner, env = build(BLIND, SymmetryCfg(swap=0.25))
    roll(learner, env)
    batch = whole_batch(learner)
    some = partly_mirrored(batch, learner.joint.maps, 0.25)
    assert torch.equal(some.group("scan")[:7], batch.group("scan")[:7].flip(-1))
    assert torch.equal(some.actions[:7], -batch.actions[:7])
    assert torch.equal(some.flat[7:], batch.flat[7:])
    assert torch.equal(some.actions[7:], batch.actions[7:])
    assert some.log_prob is batch.log_prob
    assert some.advantages is batch.advantages


@pytest.mark.parametrize("progress", [0.1, 0.5])
def test_updates_on_swapped_steps_learn_the_mirrored_and_measure_the_policy_that_acted(progress):
    """All steps swapped, when their time has come: the losses are those of the mirrored rollout; the KL is of the recorded steps,
    0 where nothing moves.
    """
    learner, env = build(BLIND, SymmetryCfg(swap="0, 1@0.5"), learning_rate=0.0, target_kl=None)
    with torch.no_grad():
        learner.actor.mlp[0].weight[:, 45:] += torch.randn(16, 16)
    roll(learner, env)
    other = mirrored(whole_batch(learner), learner.joint.maps)
    expected = learner.joint.losses(other, Objective())["surrogate"].item()
    plain = learner.joint.losses(whole_batch(learner), Objective())["surrogate"].item()
    found = learner.update(progress)
    assert found["surrogate"] == pytest.approx(expected if progress == 0.5 else plain, rel=1e-4)
    assert abs(plain - expected) > 1e-3
    assert found["kl"] == pytest.approx(0.0, abs=1e-9)


def test_swapping_steps_of_a_recurrent_actor_is_refused():
    with pytest.raises(InputError, match=r"symmetry\.swap.*symmetry\.augment"):
        build(VISION, SymmetryCfg(swap=0.5))


def make_feedforward_symmetric(actor):
    """Hidden units in pairs that the mirror swaps, and outputs that subtract one of a pair from the other."""
    first, last = actor.mlp[0], actor.mlp[2]
    half = first.out_features // 2
    with torch.no_grad():
        first.weight[:, 45:] = 0.1 * torch.randn_like(first.weight[:, 45:])
        first.weight[half:, :45] = first.weight[:half, :45]
        first.weight[half:, 45:] = first.weight[:half, 45:].flip(-1)
        first.bias[half:] = first.bias[:half]
        last.weight[:, half:] = -last.weight[:, :half]
        last.bias.zero_()


def make_critic_symmetric(critic):
    first = critic.mlp[0]
    with torch.no_grad():
        first.weight[:, 45:] = 0.1 * torch.randn(first.out_features, 8).repeat(1, 2)
        first.weight[:, 53:] = first.weight[:, 45:53].flip(-1)


class PairedEncoder(nn.Module):
    """A CNN of the image beside the same of its mirror image."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return torch.cat([self.inner(images)[:, :4], self.inner(images.flip(-1))[:, :4]], dim=1)


def swapped(state):
    return map_state(lambda s: torch.cat([s[..., 6:], s[..., :6]], dim=-1), state)


def make_recurrent_symmetric(actor):
    """Features, memory and hidden units in halves that the mirror swaps."""
    actor.encoder = PairedEncoder(actor.encoder)
    rnn, gates = actor.rnn.rnn, actor.rnn.rnn.weight_ih_l0.shape[0] // 12
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            rows = getattr(rnn, name).view(gates, 2, 6, -1)
            if name.startswith("bias"):
                rows[:, 1] = rows[:, 0]
            elif name == "weight_hh_l0":
                rows[:, 1, :, :6], rows[:, 1, :, 6:] = rows[:, 0, :, 6:], rows[:, 0, :, :6].clone()
            else:
                rows[:, 1, :, :45] = rows[:, 0, :, :45]
                rows[:, 1, :, 45:49], rows[:, 1, :, 49:] = rows[:, 0, :, 49:], rows[:, 0, :, 45:49].clone()
        first, last = actor.mlp[0], actor.mlp[2]
        first.weight[8:, :6], first.weight[8:, 6:12] = first.weight[:8, 6:12], first.weight[:8, :6].clone()
        first.weight[8:, 12:] = first.weight[:8, 12:]
        first.bias[8:] = first.bias[:8]
        last.weight[:, 8:] = -last.weight[:, :8]
        last.bias.zero_()


def make_symmetric(learner):
    make_critic_symmetric(learner.critic)
    if learner.actor.is_recurrent:
        make_recurrent_symmetric(learner.actor)
    else:
        make_feedforward_symmetric(learner.actor)
    # Adam would blow up the rounding errors of gradients that are zero by symmetry.
    learner.optimizer = torch.optim.SGD(learner._parameters(), lr=0.01)


def whole_batch(learner):
    if learner.actor.is_recurrent:
        return learner.buffer.whole()
    return learner.buffer.of_steps(torch.arange(28))


@pytest.mark.parametrize("rnn_type", ["none", "gru", "lstm"])
def test_a_symmetric_policy_has_the_same_losses_with_and_without(rnn_type):
    network = BLIND if rnn_type == "none" else NetworkCfg(**{**VISION.__dict__, "rnn_type": rnn_type})
    learner, env = build(network, SymmetryCfg(augment=True))
    make_symmetric(learner)
    for _ in range(2):  # the second begins with a memory, which for the mirror image is the replayed one
        roll(learner, env)
        batch = whole_batch(learner)
        both = learner.joint.losses(batch, Objective(), learner.mirror_memory)
        plain, _ = learner.joint.view_losses(batch, Objective(), 0.0)
        assert both["mirror"].item() < 1e-10
        for name, value in plain.items():
            assert both[name].item() == pytest.approx(value.item(), abs=1e-5), name
        if rnn_type != "none":
            before = learner.actor.get_hidden_state()
            learner.mirror_memory = learner._replayed_mirror()
            kept = map_state(lambda s: s * ~learner.starts[None, :, None], learner.mirror_memory)
            for a, b in zip(as_tuple(kept), as_tuple(swapped(before)), strict=True):
                assert torch.allclose(a, b, atol=1e-5)
            assert as_tuple(before)[0].abs().max() > 1e-3


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("network", [BLIND, VISION])
@pytest.mark.parametrize("augment", [True, False])
def test_augmented_updates_keep_a_symmetric_policy_symmetric(network, augment):
    """With augmentation every gradient is symmetric; without, the policy drifts apart: the test can fail."""
    learner, env = build(network, SymmetryCfg(augment=augment, mirror_coef=0.0 if augment else 1e-9))
    make_symmetric(learner)
    for _ in range(3):
        roll(learner, env)
        distance = learner.update()["mirror"]
    roll(learner, env)
    mirror = learner.joint.losses(whole_batch(learner), Objective(), learner.mirror_memory)["mirror"].item()
    assert (max(distance, mirror) < 1e-8) == augment


@pytest.mark.parametrize("network", [BLIND, VISION])
def test_the_mirror_loss_makes_a_policy_symmetric(network):
    learner, env = build(network, SymmetryCfg(mirror_coef=30.0), entropy_coef=0.0, target_kl=None, epochs=5)
    if network is BLIND:
        with torch.no_grad():
            learner.actor.mlp[0].weight[:, 45:] += torch.randn(16, 16)
    distances = []
    for _ in range(12):
        roll(learner, env)
        distances.append(learner.update()["mirror"])
    assert distances[-1] < 0.3 * distances[0]


@pytest.mark.parametrize("encoder", ["resnet18", "dinov2_vits14"])
def test_a_frozen_backbone_sees_each_frame_once_an_update(encoder):
    network = replace(VISION, encoder=encoder, encoder_freeze=True)
    learner, env = build(network, SymmetryCfg(augment=True), mini_batches=2, epochs=2)
    roll(learner, env)
    batch = learner.buffer.whole()
    plain = learner.joint.losses(batch, Objective(), learner.mirror_memory)
    learner.joint.backbone = learner.joint.frozen_features(learner.buffer.frames)
    frames = len(learner.buffer.frames)
    cached = learner.joint.losses(batch, Objective(), learner.mirror_memory)
    for name, value in plain.items():
        assert cached[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-5), name
    cached["total"].backward()
    assert learner.actor.encoder.head.project.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in learner.actor.encoder.backbone.parameters())
    features = learner.actor.encoder.features
    calls = []
    learner.actor.encoder.features = lambda x: (calls.append(len(x)), features(x))[1]
    learner.update()
    assert sum(calls) == 2 * frames
    assert not learner.joint.backbone


def test_the_mirror_loss_follows_its_schedule_on_its_share_by_hand():
    """Nothing is computed while it has no weight; then the first quarter of the 28 steps counts."""
    learner, env = build(BLIND, SymmetryCfg(mirror_coef="0, 0.4@0.2", mirror_share=0.25))
    with torch.no_grad():
        learner.actor.mlp[0].weight[:, 45:] += torch.randn(16, 16)
    roll(learner, env)
    batch = whole_batch(learner)
    assert "mirror" not in learner.joint.losses(batch, Objective(), progress=0.1)
    found = learner.joint.losses(batch, Objective(), progress=0.2)
    plain, mean = learner.joint.view_losses(batch, Objective(), 0.2)
    other_mean = learner.joint.view_losses(mirrored(batch, learner.joint.maps), Objective(), 0.2)[1]
    expected = (other_mean + mean)[:7].square().mean().item()
    assert found["mirror"].item() == pytest.approx(expected, rel=1e-5)
    total = (plain["surrogate"] + plain["value"] - 0.005 * plain["entropy"]).item() + 0.4 * expected
    assert found["total"].item() == pytest.approx(total, rel=1e-5)


def test_a_robot_without_a_mirror_image_is_told_what_to_leave_out(monkeypatch):
    def none(self):
        raise InputError("robot 'crab' is not left-right symmetric: it has no mirror_joints")

    monkeypatch.setattr(ToyEnv, "mirror_maps", none)
    with pytest.raises(InputError, match=r"crab.*symmetry\.mirror_coef=0"):
        build(BLIND, SymmetryCfg(mirror_coef="0, 1@0.5"))
    build(BLIND, SymmetryCfg(mirror_coef=0))


def test_mirror_loss_and_total_by_hand():
    learner, env = build(BLIND, SymmetryCfg(augment=True, mirror_coef=0.4))
    with torch.no_grad():
        learner.actor.mlp[0].weight[:, 45:] += torch.randn(16, 16)
    roll(learner, env)
    batch = whole_batch(learner)
    found = learner.joint.losses(batch, Objective())
    plain, mean = learner.joint.view_losses(batch, Objective(), 0.0)
    other, other_mean = learner.joint.view_losses(mirrored(batch, learner.joint.maps), Objective(), 0.0)
    expected = (other_mean + mean).square().mean().item()
    assert expected > 1e-3
    assert found["mirror"].item() == pytest.approx(expected, rel=1e-5)
    halves = {name: (plain[name] + other[name]).item() / 2 for name in plain}
    total = halves["surrogate"] + halves["value"] - 0.005 * halves["entropy"] + 0.4 * expected
    assert found["total"].item() == pytest.approx(total, rel=1e-5)


def test_a_real_environment_trains_mirrored_and_bootstraps_from_final_states():
    """The Go1's maps on the groups of `teacher_flat`; episodes of five steps end by time, or by a fall."""
    base = get_recipe("teacher_flat")
    ppo = replace(base.ppo, num_envs=4, steps=12, mini_batches=2, epochs=1, final_values=True)
    recipe = replace(base, ppo=ppo, symmetry=SymmetryCfg(augment=True, mirror_coef=0.1))
    env = make_env(
        "velocity", flat_course(), 4, renderer=None, cfg=replace(recipe.env, episode_s=0.1), num_threads=1
    )
    trainer = PPOTrainer(recipe, env)
    seen = []
    step = env.step

    def watched(actions):
        result = step(actions)
        seen.append((result[1].clone(), result[3]))
        return result

    env.step = watched
    critic = {k: v.clone() for k, v in trainer.alg.critic.state_dict().items()}
    row = trainer.iterate()
    assert row["Loss/mirror"] > 0
    batch = trainer.alg.buffer.of_steps(torch.arange(48))
    again = mirrored(mirrored(batch, trainer.alg.joint.maps), trainer.alg.joint.maps)
    assert torch.allclose(again.flat, batch.flat)
    assert torch.allclose(again.actions, batch.actions)
    trainer.alg.critic.load_state_dict(critic)
    trainer.alg.critic.eval()
    ended = 0
    for t, (rewards, extras) in enumerate(seen):
        expected = rewards.clone()
        if "final_ids" in extras:
            with torch.no_grad():
                values = trainer.alg.critic(extras["final_observations"]).squeeze(-1)
            expected[extras["final_ids"]] += 0.98 * values * extras["time_outs"][extras["final_ids"]]
            ended += int(extras["time_outs"].sum())
        assert torch.allclose(trainer.alg.buffer.rewards[t], expected, atol=1e-5)
    assert ended >= 4
