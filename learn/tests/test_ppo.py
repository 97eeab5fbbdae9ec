"""The update: rsl_rl's own PPO and a float64 loop as twins, auxiliary loss, warm-up, precision, processes."""

import math
import threading
from dataclasses import replace

import pytest
import torch
from gaussgym_learn.losses import LOSSES, LossInputs, action_smoothness
from gaussgym_learn.models import build_actor, build_critic, sample_observations
from gaussgym_learn.objective import LearnerCfg
from gaussgym_learn.ppo import Learner, adapt_learning_rate
from gaussgym_learn.ppo_trainer import PPOTrainer, build_learner, rollout_layout
from gaussgym_learn.recipes import DistillCfg, NetworkCfg, PPOCfg, Recipe, SymmetryCfg
from gaussgym_learn.rollout import RolloutBuffer, RolloutLayout, check_finite, normalize
from gaussgym_learn.schedules import Objective
from gaussgym_learn.testing import ToyEnv
from gaussgym_scene.errors import InputError, StageError
from rsl_rl.algorithms import PPO
from rsl_rl.storage import RolloutStorage

VISION = NetworkCfg(
    actor_groups=("proprio", "rgb"),
    critic_groups=("proprio", "scan"),
    actor_hidden=(16,),
    critic_hidden=(16,),
    rnn_hidden=16,
    feature_dim=8,
    aux_group="scan",
    init_std=0.5,
)
BLIND = NetworkCfg(
    actor_groups=("proprio", "scan"), critic_groups=("proprio", "base_vel", "scan"), init_std=0.5
)
PPO_ALONE = Objective()


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(0.06, 1e-3), (0.077, 1e-3), (0.079, 1e-3 / 1.2), (0.0463, 1e-3), (0.0460, 1.1e-3), (0.0, 1.1e-3)],
)
def test_learning_rate_follows_the_whole_updates_kl(kl, expected):
    assert adapt_learning_rate(1e-3, kl, 0.06) == pytest.approx(expected)


def test_learning_rate_keeps_its_limits():
    assert adapt_learning_rate(1.05e-5, 9.0, 0.06) == 1e-5
    assert adapt_learning_rate(9.9e-3, 0.0, 0.06) == 1e-2


def roll(learner, env, objective=PPO_ALONE):
    """One rollout, as the trainer collects it."""
    learner.train_mode()
    obs = env.get_observations()
    with torch.inference_mode():
        learner.begin(objective)
        for _ in range(learner.buffer.steps):
            obs, rewards, dones, extras = env.step(learner.act(obs))
            learner.process_env_step(rewards, dones, extras)
        learner.compute_returns(obs)


def test_three_updates_are_those_of_rsl_rl(monkeypatch):
    """Acting, time-outs, advantages, every gradient step and the normalizers, feed-forward."""
    cfg = PPOCfg(
        num_envs=6, steps=8, mini_batches=4, epochs=3, gamma=0.97, target_kl=None, learning_rate=3e-3
    )
    torch.manual_seed(0)
    env, twin_env = ToyEnv(6, seed=3), ToyEnv(6, seed=3)
    ours = build_learner(Recipe("t", network=BLIND, ppo=cfg), env, seed=5)
    actor, critic = build_actor(BLIND, env.layout, 12), build_critic(BLIND, env.layout)
    actor.load_state_dict(ours.actor.state_dict())
    critic.load_state_dict(ours.critic.state_dict())
    shapes = {name: env.layout[name] for name in BLIND.critic_groups}
    storage = RolloutStorage("rl", 6, 8, sample_observations(shapes, 6), [12], "cpu")
    theirs = PPO(
        actor, critic, storage, num_learning_epochs=3, num_mini_batches=4, gamma=0.97, lam=cfg.lam, learning_rate=3e-3,
        entropy_coef=cfg.entropy_coef, schedule="fixed",
    )  # fmt: skip
    for update in range(3):
        torch.manual_seed(update)
        roll(ours, env)
        torch.manual_seed(update)
        obs = twin_env.get_observations().select(*shapes)
        with torch.inference_mode():
            for _ in range(8):
                obs, rewards, dones, extras = twin_env.step(theirs.act(obs))
                obs = obs.select(*shapes)
                theirs.process_env_step(obs, rewards, dones, extras)
            theirs.compute_returns(obs)
        order = torch.cat(
            list(ours.buffer.orders(4, recurrent=False, shards=1, seed=5 * 1_000_003 + ours.updates))
        )
        monkeypatch.setattr(torch, "randperm", lambda *_, order=order, **__: order)
        for normalizer in (actor.obs_normalizer, critic.obs_normalizer):
            normalizer.eval()
        expected = theirs.update()
        monkeypatch.undo()
        for model in (actor, critic):
            model.obs_normalizer.train()
            model.update_normalization(storage.observations.flatten(0, 1))
        found = ours.update()
        for name in ("value", "surrogate", "entropy"):
            assert found[name] == pytest.approx(expected[name], abs=2e-5)
        assert ours.buffer.starts[1:].any()
        for mine, other in ((ours.actor, actor), (ours.critic, critic)):
            for name, value in other.state_dict().items():
                assert torch.allclose(mine.state_dict()[name], value, atol=2e-5), (update, name)


def loop_losses(learner, batch, cfg):
    """PPO's losses on a flat minibatch, one step at a time in float64."""
    actor, critic = learner.actor.double(), learner.critic.double()
    sums = {"surrogate": 0.0, "value": 0.0, "entropy": 0.0}
    count = 0
    for i in range(len(batch.flat)):
        if not batch.on_policy[i]:
            continue
        count += 1
        obs = {name: batch.group(name)[i : i + 1].double() for name in batch.columns}
        mean, std = actor(obs)[0].tolist(), actor.distribution.std_param.tolist()
        action = batch.actions[i].tolist()
        log_prob = sum(
            -0.5 * ((a - m) / s) ** 2 - math.log(s) - 0.5 * math.log(2 * math.pi)
            for a, m, s in zip(action, mean, std, strict=True)
        )
        ratio = math.exp(log_prob - float(batch.log_prob[i]))
        advantage = float(batch.advantages[i])
        sums["surrogate"] -= min(ratio * advantage, min(max(ratio, 1 - cfg.clip), 1 + cfg.clip) * advantage)
        value, old, target = critic(obs).item(), float(batch.values[i]), float(batch.returns[i])
        moved = old + min(max(value - old, -cfg.clip), cfg.clip)
        sums["value"] += max((value - target) ** 2, (moved - target) ** 2)
        sums["entropy"] += sum(0.5 + 0.5 * math.log(2 * math.pi) + math.log(s) for s in std)
    learner.actor.float(), learner.critic.float()
    return {name: value / count for name, value in sums.items()}


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_losses_are_those_of_a_float64_loop(beta):
    cfg = PPOCfg(num_envs=5, steps=7, mini_batches=1, value_coef=0.7, entropy_coef=0.03)
    torch.manual_seed(1)
    env = ToyEnv(5, seed=1)
    distill = DistillCfg(steps=7, mini_batches=1, ppo_coef="0.5", coef="1", action_noise=0.3)
    teacher = ToyTeacher() if beta else None
    learner = build_learner(Recipe("t", network=BLIND, ppo=cfg, distill=distill), env, teacher=teacher)
    objective = Objective(0.5, 2.0, beta) if beta else Objective(0.5)
    roll(learner, env, objective)
    with torch.no_grad():  # a policy that has moved, so that ratios are clipped
        for model in (learner.actor, learner.critic):
            for p in model.parameters():
                p += 0.05 * torch.randn_like(p)
    batch = learner.buffer.of_steps(torch.arange(35))
    assert bool(batch.on_policy.all()) == (beta == 0.0)
    found = learner.joint.losses(batch, objective)
    expected = loop_losses(learner, batch, cfg)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-4), name
    total = 0.5 * (expected["surrogate"] + 0.7 * expected["value"] - 0.03 * expected["entropy"])
    if beta:
        total += 2.0 * found["behaviour"].item()
    assert found["total"].item() == pytest.approx(total, rel=1e-4)


class ToyTeacher(torch.nn.Module):
    """Reads the bar's place off the scan."""

    def forward(self, obs):
        target = obs["scan"].argmax(-1).float() / 15 * 2 - 1
        return torch.cat([target[:, None], torch.zeros(len(target), 11)], 1)


def test_a_time_out_is_worth_the_state_that_the_episode_ended_in():
    torch.manual_seed(0)
    env = ToyEnv(3, seed=0)
    learner = build_learner(Recipe("t", network=BLIND, ppo=PPOCfg(steps=2, gamma=0.9)), env)
    obs = env.get_observations()
    final = {name: torch.randn(2, *obs[name].shape[1:]) for name in BLIND.critic_groups}
    dones = torch.tensor([1, 1, 0])
    extras = {"time_outs": torch.tensor([1.0, 0.0, 0.0])}
    with torch.no_grad():
        learner.begin(PPO_ALONE)
        learner.act(obs)
        learner.process_env_step(torch.tensor([1.0, 2.0, 3.0]), dones, extras)
        learner.act(obs)
        more = {**extras, "final_ids": torch.tensor([0, 1]), "final_observations": final}
        learner.process_env_step(torch.tensor([1.0, 2.0, 3.0]), dones, more)
        before, after = learner.critic(obs)[0, 0], learner.critic(final)[0, 0]
    assert learner.buffer.rewards[0].tolist() == pytest.approx([1.0 + 0.9 * before.item(), 2.0, 3.0])
    assert learner.buffer.rewards[1].tolist() == pytest.approx([1.0 + 0.9 * after.item(), 2.0, 3.0])
    assert learner.buffer.starts[1].tolist() == [True, True, False]


def test_auxiliary_loss_by_hand_joint_and_as_a_phase():
    cfg = PPOCfg(num_envs=4, steps=3, mini_batches=1, epochs=1, aux_coef=0.5, aux_epochs=0)
    env = ToyEnv(4)
    learner = build_learner(Recipe("t", network=VISION, ppo=cfg), env)
    roll(learner, env)
    head = learner.actor.aux_head
    with torch.no_grad():
        for p in head.parameters():
            p.zero_()
        next(m for m in reversed(list(head.modules())) if isinstance(m, torch.nn.Linear)).bias += 0.5
    found = learner.joint.losses(learner.buffer.whole(), PPO_ALONE)
    assert found["aux_recon"].item() == pytest.approx(0.25)  # targets are 0 and 1, the head says 0.5
    ppo = found["surrogate"] + found["value"] - cfg.entropy_coef * found["entropy"]
    assert found["total"].item() == pytest.approx(ppo.item() + 0.125, rel=1e-5)
    assert learner.aux_optimizer is None
    phase = build_learner(
        Recipe("t", network=VISION, ppo=replace(cfg, aux_coef=0.0, aux_epochs=1)), ToyEnv(4)
    )
    roll(phase, env)
    critic = {k: v.clone() for k, v in phase.critic.state_dict().items()}
    before = phase.joint.losses(phase.buffer.whole(), PPO_ALONE)
    assert "aux_recon" not in before
    losses = [phase.update_aux() for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(v, critic[k]) for k, v in phase.critic.state_dict().items())


@pytest.mark.parametrize("mode", ["joint", "phase"])
def test_pixels_learn_the_toy_and_the_reconstruction_falls(mode):
    ppo = PPOCfg(num_envs=16, steps=20, mini_batches=2, aux_lr=3e-3)
    if mode == "joint":
        ppo = replace(ppo, aux_coef=1.0, aux_epochs=0)
    network = replace(VISION, actor_hidden=(32,), rnn_hidden=64, feature_dim=32)
    trainer = PPOTrainer(Recipe("toy", network=network, ppo=ppo), ToyEnv(16), seed=1)
    rows = [trainer.iterate() for _ in range(8)]
    assert rows[-1]["Loss/aux_recon"] < 0.8 * rows[0]["Loss/aux_recon"]
    assert all(1e-5 <= r["Loss/learning_rate"] <= 1e-2 for r in rows)
    assert rows[-1]["Gradient/actor.encoder"] > 0


def test_the_critic_warms_up_alone():
    ppo = PPOCfg(num_envs=4, steps=4, mini_batches=1, epochs=1, critic_warmup=2)
    trainer = PPOTrainer(Recipe("t", network=VISION, ppo=ppo), ToyEnv(4))
    learner = trainer.alg

    def weights():
        return [
            {k: v.detach().clone() for k, v in m.named_parameters()} for m in (learner.actor, learner.critic)
        ]

    for update in range(3):
        (actor, critic), row = weights(), trainer.iterate()
        new_actor, new_critic = weights()
        assert any(not torch.equal(v, critic[k]) for k, v in new_critic.items())
        moved = any(not torch.equal(v, actor[k]) for k, v in new_actor.items())
        assert moved == (update == 2)
        assert ("Loss/surrogate" in row) == (update == 2)


@pytest.mark.parametrize("network", [VISION, replace(VISION, rnn_type="lstm"), BLIND])
def test_bfloat16_gives_nearly_the_same_losses_and_learns(network):
    env = ToyEnv(6)
    recipe = Recipe("t", network=network, ppo=PPOCfg(num_envs=6, steps=6, mini_batches=2, epochs=1))
    learner = build_learner(recipe, env)
    roll(learner, env)
    exact = learner.joint.losses(learner.buffer.whole(), PPO_ALONE)
    learner.joint.cfg = replace(learner.cfg, mixed_precision=True)
    rounded = learner.joint.losses(learner.buffer.whole(), PPO_ALONE)
    assert rounded["total"].dtype == torch.float32
    assert rounded["total"].item() != exact["total"].item()
    assert rounded["total"].item() == pytest.approx(exact["total"].item(), rel=0.02)
    found = learner.update()
    assert all(math.isfinite(v) for v in found.values())
    assert all(p.dtype == torch.float32 for p in learner.actor.parameters())


def test_smoothness_by_hand_and_a_loss_of_ones_own():
    env = ToyEnv(2)
    recipe = Recipe("t", network=VISION, ppo=PPOCfg(num_envs=2, steps=3, mini_batches=1))
    learner = build_learner(recipe, env)
    roll(learner, env)
    batch = learner.buffer.whole()
    batch.starts = torch.tensor([[True, True], [False, False], [False, True]])
    mean = torch.zeros(3, 2, 12)
    mean[1, 0], mean[2, 0], mean[1, 1], mean[2, 1] = 1.0, 3.0, 2.0, 9.0
    inputs = LossInputs(batch, learner.actor, mean, (mean,))
    assert action_smoothness(inputs).item() == pytest.approx(
        (1 + 4 + 4) / 3
    )  # the step to 9 begins an episode
    with pytest.raises(InputError, match="feed-forward"):
        action_smoothness(LossInputs(batch, learner.actor, mean[0], (mean[0],)))

    LOSSES.register("test_shift")(lambda inputs: (inputs.params[0] - 2.0).square().mean() * inputs.progress)
    mine = build_learner(replace(recipe, losses=(("test_shift", 3.0),)), env)
    mine.actor.load_state_dict(learner.actor.state_dict())
    mine.critic.load_state_dict(learner.critic.state_dict())
    batch = learner.buffer.whole()
    plain, found = learner.joint.losses(batch, PPO_ALONE), mine.joint.losses(batch, PPO_ALONE, progress=0.5)
    expected = 0.5 * (mine.actor.output_mean - 2.0).square().mean()
    assert found["test_shift"].item() == pytest.approx(expected.item())
    assert found["total"].item() == pytest.approx(plain["total"].item() + 3.0 * expected.item(), rel=1e-5)
    with pytest.raises(InputError, match="unknown loss 'nothing'"):
        build_learner(replace(recipe, losses=(("nothing", 1.0),)), env)


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("rewards", "^reward of"),
        ("scan", "^observation 'scan' of"),
        ("values", "diverged: value of"),
        ("actions", "diverged: action of"),
    ],
)
def test_what_is_not_finite_is_named(where, named):
    env = ToyEnv(3)
    learner = build_learner(Recipe("t", network=BLIND, ppo=PPOCfg(num_envs=3, steps=4)), env)
    roll(learner, env)
    buffer = learner.buffer
    check_finite(buffer)
    (buffer.whole().group("scan") if where == "scan" else getattr(buffer, where))[2, 1] = math.nan
    buffer.rewards[2, 1] = math.nan  # what follows from it
    buffer.flat[3] = math.inf
    with pytest.raises(StageError, match=named) as caught:
        check_finite(buffer)
    assert "environment 1 is not finite at step 2" in str(caught.value)


def test_rollout_layout_stores_what_networks_read():
    layout = rollout_layout(VISION, ToyEnv(2))
    assert layout == RolloutLayout({"proprio": 45, "scan": 16}, {"rgb": (3, 48, 64)}, 12, frame_period=5)


# ------------------------------------------------------------------ processes


class ThreadWorld:
    """What `World` does, among threads."""

    def __init__(self, rank, size, shared):
        self.rank, self.size, self.local_size, self.shared = rank, size, size, shared

    def sum(self, tensor):
        slots, barrier = self.shared
        slots[self.rank] = tensor.detach().clone()
        barrier.wait()
        total = torch.stack(slots).sum(0)
        barrier.wait()
        return total

    def mean(self, tensor):
        return self.sum(tensor) / self.size

    def mean_gradients(self, parameters):
        for p in parameters:
            if p.grad is not None:
                p.grad.copy_(self.mean(p.grad))


@pytest.mark.parametrize("network", [VISION, BLIND])
def test_two_with_half_the_environments_are_one_with_all(network):
    cfg = PPOCfg(num_envs=8, steps=6, mini_batches=2, epochs=2)
    recipe = Recipe("t", network=network, ppo=cfg)
    env = ToyEnv(8, seed=2)
    whole = build_learner(recipe, env, shards=2)
    roll(whole, env)
    shared = ([None, None], threading.Barrier(2))
    halves = []
    for rank in range(2):
        half = build_learner(recipe, ToyEnv(4), world=ThreadWorld(rank, 2, shared))
        half.actor.load_state_dict(whole.actor.state_dict())
        half.critic.load_state_dict(whole.critic.state_dict())
        copy_half(whole.buffer, half.buffer, slice(4 * rank, 4 * rank + 4))
        halves.append(half)
    found = [None, None]

    def learn(rank):
        half = halves[rank]
        half.buffer.compute_returns(whole_last[4 * rank : 4 * rank + 4], cfg.gamma, cfg.lam)
        normalize(half.buffer.advantages, half.world)
        found[rank] = half.update()

    with torch.no_grad():
        whole_last = whole.critic(env.get_observations()).squeeze(-1)
    for learner in (
        whole,
        *halves,
    ):  # Adam would blow up the rounding errors of gradients that are next to nothing
        learner.optimizer = torch.optim.SGD(learner._parameters(), lr=0.05)
    threads = [threading.Thread(target=learn, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = whole.update()
    assert found[0] == found[1]
    for name, value in expected.items():
        assert found[0][name] == pytest.approx(value, abs=1e-5), name
    for half in halves:
        for name, p in whole.actor.named_parameters():
            assert torch.allclose(dict(half.actor.named_parameters())[name], p, atol=1e-5), name


def copy_half(whole, half, envs):
    for name in ("flat", "starts", "on_policy", "actions", "rewards", "values", "log_prob"):
        getattr(half, name).copy_(getattr(whole, name)[:, envs])
    half.old_params = tuple(p[:, envs].clone() for p in whole.old_params)
    half.dones = whole.dones[envs].clone()
    half.cursor = whole.cursor
    if whole.hidden is not None:
        half.hidden = whole.hidden[:, envs].clone()
        half._frames = whole._frames
        half.frame_index.copy_(whole.frame_index[:, envs])


def test_a_learner_wants_a_feed_forward_critic_and_maps_for_symmetry():
    env = ToyEnv(2)
    actor = build_actor(VISION, env.layout, 12)
    buffer = RolloutBuffer(2, 3, rollout_layout(VISION, env))
    with pytest.raises(ValueError, match="feed-forward"):
        Learner(actor, actor, buffer, LearnerCfg(PPOCfg()))
    with pytest.raises(InputError, match="no mirror maps"):
        Learner(actor, None, buffer, LearnerCfg(PPOCfg(), symmetry=SymmetryCfg(augment=True)))


def test_an_algorithm_of_ones_own_is_what_trains(tmp_path):
    from gaussgym_learn.ppo_trainer import ALGORITHMS
    from gaussgym_learn.train import train

    made = []

    class Mine(PPOTrainer):
        def __init__(self, recipe, env, **options):
            super().__init__(recipe, env, **options)
            made.append(options)

    ALGORITHMS.register("test_mine")(Mine)
    recipe = Recipe("t", network=BLIND, ppo=PPOCfg(num_envs=2, steps=2, epochs=1), algorithm="test_mine")
    train(recipe, None, tmp_path / "run", iterations=1, make=lambda: ToyEnv(2), renderer=None)
    assert len(made) == 1
    with pytest.raises(InputError, match="unknown algorithm 'nothing'"):
        train(
            replace(recipe, algorithm="nothing"),
            None,
            tmp_path / "no",
            iterations=1,
            make=lambda: ToyEnv(2),
            renderer=None,
        )
