"""DAgger: who acts, losses by hand, replay equals acting, the student learns to see, and PPO takes over."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gaussgym_learn.checkpoint import Checkpoint
from gaussgym_learn.evaluate import ablate_images
from gaussgym_learn.models import build_actor
from gaussgym_learn.objective import teacher_output
from gaussgym_learn.ppo_trainer import PPOTrainer
from gaussgym_learn.recipes import DistillCfg, NetworkCfg, PPOCfg, Recipe, SymmetryCfg
from gaussgym_learn.schedules import Objective
from gaussgym_learn.testing import ToyEnv
from gaussgym_scene.errors import InputError

NET = NetworkCfg(
    actor_groups=("proprio", "rgb"), actor_hidden=(64,), rnn_hidden=64, aux_group="scan", init_std=0.1
)


class ToyTeacher(torch.nn.Module):
    """Reads the bar's place off the scan."""

    def forward(self, obs):
        target = obs["scan"].argmax(-1).float() / 15 * 2 - 1
        return torch.cat([target[:, None], torch.zeros(len(target), 11)], 1)


def make_trainer(envs=12, steps=12, teacher=None, ppo=None, **cfg):
    torch.set_num_threads(1)
    recipe = Recipe(
        "d", network=NET, ppo=ppo or PPOCfg(), distill=DistillCfg(num_envs=envs, steps=steps, **cfg)
    )
    return PPOTrainer(recipe, ToyEnv(envs), teacher=teacher or ToyTeacher(), seed=0)


def collected(trainer, objective):
    """A rollout, and the actions that were taken in it."""
    from gaussgym_learn.metrics import RolloutTimes

    with torch.inference_mode():
        trainer._collect(objective, RolloutTimes(trainer.env))
    return trainer.alg.buffer


def test_replay_gives_the_actions_that_were_taken():
    trainer = make_trainer(action_noise=0.0)
    for _ in range(2):  # the second rollout begins with a memory
        taken = []
        step = trainer.env.step
        trainer.env.step = lambda a, step=step, taken=taken: (taken.append(a.clone()), step(a))[1]
        buffer = collected(trainer, Objective(0.0, 1.0, 0.0))
        trainer.env.step = step
        batch = buffer.of_envs(torch.tensor([7, 2, 3]))
        with torch.no_grad():
            actions = trainer.alg.joint.distribution(trainer.alg.joint.latent(batch))[0]
        assert torch.allclose(actions, torch.stack(taken)[:, [7, 2, 3]], atol=1e-5)
        assert torch.equal(buffer.actions, torch.stack(taken))
    assert buffer.starts[1:].any()
    assert buffer.hidden.abs().max() > 0.01


def test_the_teacher_acts_with_probability_beta():
    trainer = make_trainer(envs=200, steps=2, action_noise=0.0)
    shares = {}
    for beta in (1.0, 0.3, 0.0):
        buffer = collected(trainer, Objective(0.0, 1.0, beta))
        by_teacher = ~buffer.on_policy
        assert torch.equal(by_teacher[0], by_teacher[1])  # over the whole rollout
        agrees = (buffer.actions == buffer.teacher_actions).all(-1)
        assert torch.equal(agrees, by_teacher)
        shares[beta] = by_teacher.float().mean().item()
    assert shares[1.0] == 1.0
    assert shares[0.0] == 0.0
    assert shares[0.3] == pytest.approx(0.3, abs=0.1)


def test_frames_are_stored_once():
    buffer = collected(make_trainer(), Objective(0.0, 1.0, 1.0))
    assert len(buffer.frames) == 12 * 3  # one at the start, then at steps 5 and 10
    assert buffer.frames.dtype == torch.uint8


def test_losses_by_hand():
    """Huber with delta 1 on errors 0.5 and 3, the latent by a linear map, and the reconstruction."""
    teacher = build_actor(NetworkCfg(actor_groups=("scan",), actor_hidden=(8, 4)), ToyEnv(1).layout, 12)
    trainer = make_trainer(envs=3, steps=4, teacher=teacher, latent_coef=0.25, aux_weight=0.5)
    learner = trainer.alg
    buffer = collected(trainer, Objective(0.0, 1.0, 0.0))
    batch = buffer.whole()
    with torch.no_grad():
        mean = learner.joint.distribution(learner.joint.latent(batch))[0]
        error = torch.where(torch.arange(12) < 6, 0.5, -3.0)
        batch = replace(batch, teacher_actions=mean - error)
        for p in learner.joint.latent_head.parameters():
            p.zero_()
        found = learner.joint.losses(batch, Objective(0.0, 2.0, 0.0))
    assert found["behaviour"].item() == pytest.approx((0.5 * 0.25 + 2.5) / 2, rel=1e-4)
    _, latent = teacher_output(teacher, {"scan": batch.group("scan")})
    assert torch.allclose(batch.teacher_latent, latent, atol=1e-6)
    assert torch.allclose(buffer.teacher_actions, teacher_output(teacher, {"scan": batch.group("scan")})[0])
    assert found["latent"].item() == pytest.approx(latent.square().mean().item(), rel=1e-4)
    expected = 2.0 * (found["behaviour"] + 0.25 * found["latent"]) + 0.5 * found["aux_recon"]
    assert found["total"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_latent_loss_teaches():
    teacher = build_actor(NetworkCfg(actor_groups=("scan",), actor_hidden=(8, 4)), ToyEnv(1).layout, 12)
    trainer = make_trainer(teacher=teacher, latent_coef=1.0, learning_rate=3e-3, beta="0")
    rows = [trainer.iterate() for _ in range(8)]
    assert rows[-1]["Loss/latent"] < 0.5 * rows[0]["Loss/latent"]
    with pytest.raises(InputError, match="latent_coef wants a teacher with an MLP"):
        make_trainer(latent_coef=1.0)


def test_the_student_learns_to_see_and_blank_images_hurt():
    trainer = make_trainer(envs=48, steps=20)
    for i in range(14):
        trainer.progress = i / 14
        row = trainer.iterate()
    assert row["Loss/behaviour"] < 0.01
    rng = torch.Generator().manual_seed(0)
    errors = {}
    student = trainer.alg.actor
    for ablate in ("none", "blank", "shuffled"):
        env = ToyEnv(48, seed=5)
        student.reset()
        obs, total = env.get_observations(), 0.0
        for _ in range(40):
            with torch.no_grad():
                obs, reward, dones, _ = env.step(student(ablate_images(obs, ablate, rng)))
            student.reset(dones)
            total += float((1 - reward).mean()) / 40
        errors[ablate] = total
    assert errors["none"] < 0.2
    assert errors["blank"] > errors["none"] + 0.2
    assert errors["shuffled"] > errors["none"] + 0.2


def test_imitation_turns_into_ppo_after_the_critic_has_warmed_up():
    """Schedules by hand; PPO begins with its own learning rate, exploration and optimizer; a resumed trainer does not begin again."""
    ppo = PPOCfg(critic_warmup=1, learning_rate=2e-4, target_kl=1e9)
    trainer = make_trainer(
        envs=4,
        steps=4,
        ppo=ppo,
        coef="1->0@0.25..0.75",
        ppo_coef="0, 2@0.5",
        beta="0.5->0@0.5",
        explore_std=0.33,
    )
    rows = []
    for i in range(8):
        trainer.progress = i / 8
        rows.append(trainer.iterate())
    column = lambda name: [row.get(f"Policy/{name}") for row in rows]  # noqa: E731
    assert column("imitation_coef") == [1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert column("teacher_share") == [0.5, 0.375, 0.25, 0.125, 0.0, 0.0, 0.0, 0.0]
    assert column("ppo_coef") == [0.0] * 5 + [2.0] * 3  # update 4 warms the critic up
    assert [("Loss/value" in row, "Loss/surrogate" in row) for row in rows] == [(False, False)] * 4 + [
        (True, False),
        *[(True, True)] * 3,
    ]
    assert rows[3]["Policy/mean_std"] == pytest.approx(NET.init_std)
    assert rows[4]["Policy/mean_std"] == pytest.approx(0.33)
    assert rows[3]["Loss/learning_rate"] == pytest.approx(1e-3 * (1 - 0.9 * 3 / 8))
    assert rows[4]["Loss/learning_rate"] == pytest.approx(2e-4)
    assert rows[5]["Loss/learning_rate"] == pytest.approx(2.2e-4)


@pytest.mark.parametrize("after", [2, 4])
def test_a_resumed_trainer_goes_on_to_the_same_bits(after):
    """In the middle of imitation and of PPO; LSTM, mirrored memory, the teacher's latent, auxiliary loss, warm-up count."""
    teacher = build_actor(NetworkCfg(actor_groups=("scan",), actor_hidden=(8, 4)), ToyEnv(1).layout, 12)

    def make():
        distill = DistillCfg(
            num_envs=6, steps=4, beta="0.5", latent_coef=0.2, ppo_coef="0, 1@0.5", mini_batches=2
        )
        recipe = Recipe(
            "d",
            network=replace(NET, rnn_type="lstm", rnn_hidden=16),
            ppo=PPOCfg(critic_warmup=1),
            distill=distill,
            symmetry=SymmetryCfg(augment=True),
        )
        return PPOTrainer(recipe, ToyEnv(6), teacher=teacher, seed=1)

    def run(trainer, first, last):
        rows = []
        for i in range(first, last):
            trainer.progress = i / 6
            row = trainer.iterate()
            rows.append({k: v for k, v in row.items() if not k.startswith("Perf/")})
        return rows

    whole = make()
    run(whole, 0, after)
    buffer = io.BytesIO()
    torch.save(whole.state(), buffer)
    buffer.seek(0)
    expected = run(whole, after, 6)
    resumed = make()
    state = torch.load(buffer, weights_only=True)
    resumed.restore(Checkpoint(Path("."), {"iteration": after, "recipe": {}}, state))
    assert run(resumed, after, 6) == expected
    assert any("Loss/surrogate" in row for row in expected)


@pytest.mark.slow
def test_ppo_goes_beyond_a_teacher_that_errs():
    """The teacher stops half-way and to one side: an error of .3 of what it shows, which the student's own rewards tell it."""

    class Wrong(torch.nn.Module):
        def forward(self, obs):
            target = obs["scan"].argmax(-1).float() / 15 * 2 - 1
            return torch.stack([0.5 * target + 0.2, torch.zeros_like(target)], 1)

    recipe = Recipe(
        "d",
        network=NET,
        ppo=PPOCfg(learning_rate=3e-4, critic_warmup=2, target_kl=0.04, entropy_coef=0.0),
        distill=DistillCfg(num_envs=32, steps=20, coef="1, 0@0.4", ppo_coef="0, 1@0.4", explore_std=0.2),
    )
    trainer = PPOTrainer(recipe, ToyEnv(32, num_actions=2), teacher=Wrong(), seed=0)
    errors = []
    for i in range(40):
        trainer.progress = i / 40
        errors.append(trainer.iterate()["Episode/error"])
    imitated, on_its_own = sum(errors[12:16]) / 4, sum(errors[-4:]) / 4
    assert imitated > 0.25
    assert on_its_own < 0.8 * imitated


def test_schedules_by_which_nothing_counts_are_refused():
    trainer = make_trainer(coef="1, 0@0.5")
    trainer.progress = 0.6
    with pytest.raises(InputError, match=r"both 0 at progress 0\.60"):
        trainer.iterate()


def write_run(path, success):
    """A run folder whose checkpoint says how well it is said to do."""
    from gaussgym_learn.checkpoint import save_checkpoint

    fields = {"robot": "toy", "observations": {}, "recipe": {"name": "x"}, "success": success}
    save_checkpoint(path, {"w": torch.tensor([success])}, fields, iteration=1)
    return path


@pytest.mark.parametrize(
    ("trained", "kept", "after"), [(0.4, "student", 0.6), (0.6, "student", 0.6), (0.9, "finetuned", 0.9)]
)
def test_finetuning_never_makes_it_worse(tmp_path, monkeypatch, trained, kept, after):
    from gaussgym_learn import distill as module
    from gaussgym_learn.checkpoint import load_checkpoint

    student = write_run(tmp_path / "student", 0.6)
    seen = {}

    def fake_distill(teacher, scenes, out, **options):
        seen.update(scenes=scenes, **options)
        write_run(out, trained)

    monkeypatch.setattr(module, "distill", fake_distill)
    monkeypatch.setattr(
        "gaussgym_learn.evaluate.evaluate",
        lambda policy, scene, **_: {"success": load_checkpoint(policy).fields["success"]},
    )
    result = module.finetune(
        student, "teacher", "new", tmp_path / "out", training_scenes=["a", "b"], minutes=1.0, episodes=4
    )
    assert (result["kept"], result["success_after"]) == (kept, after)
    assert load_checkpoint(tmp_path / "out").fields["success"] == after
    assert seen["scenes"] == ["new", "new", "a", "b"]
    assert seen["init_from"] == student
