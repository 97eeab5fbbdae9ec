"""DAgger: schedule, loss by hand, replay equals acting, the student learns to see."""

import pytest
import torch
from gaussgym_learn.distill import DistillTrainer, distillation_loss, replay, teacher_share
from gaussgym_learn.evaluate import ablate_images
from gaussgym_learn.recipes import DistillCfg, NetworkCfg, Recipe
from gaussgym_learn.testing import ToyEnv

NET = NetworkCfg(
    actor_groups=("proprio", "rgb"), actor_hidden=(64,), rnn_hidden=64, aux_group="scan", init_std=0.1
)


class ToyTeacher(torch.nn.Module):
    """Reads the bar's place off the scan."""

    def forward(self, obs):
        target = obs["scan"].argmax(-1).float() / 15 * 2 - 1
        return torch.cat([target[:, None], torch.zeros(len(target), 11)], 1)


@pytest.mark.parametrize(
    ("progress", "share"), [(0.0, 1.0), (0.075, 0.5), (0.15, 0.0), (0.5, 0.0), (1.0, 0.0)]
)
def test_teacher_share(progress, share):
    assert teacher_share(progress, 0.15) == pytest.approx(share)


def test_a_student_that_goes_on_acts_itself():
    assert teacher_share(0.0, 0.0) == 0.0


def test_loss_by_hand():
    actions = torch.tensor([[0.5, 3.0]])
    teacher = torch.zeros(1, 2)
    aux, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])
    # Huber with delta 1: 0.5*0.25 and 3 - 0.5; mean 1.3125. Reconstruction: (1 + 4) / 2.
    total, behaviour, recon = distillation_loss(
        actions, teacher, aux, target, huber_delta=1.0, aux_weight=0.2
    )
    assert behaviour.item() == pytest.approx(1.3125)
    assert recon.item() == pytest.approx(2.5)
    assert total.item() == pytest.approx(1.3125 + 0.5)


def make_trainer(envs=12, steps=12, **cfg):
    recipe = Recipe("d", network=NET, distill=DistillCfg(num_envs=envs, steps=steps, **cfg))
    return DistillTrainer(recipe, ToyEnv(envs), ToyTeacher(), seed=0)


def test_replay_gives_the_actions_that_were_taken():
    trainer = make_trainer(action_noise=0.0)
    taken = []
    step = trainer.env.step
    trainer.env.step = lambda a: (taken.append(a.clone()), step(a))[1]
    with torch.no_grad():
        for _ in range(2):  # the second segment begins with a memory
            taken.clear()
            segment = trainer.collect(0.0)
            envs = torch.tensor([7, 2, 3])
            actions, aux = replay(trainer.student, segment, envs)
    assert segment.starts[1:].any()
    assert aux.shape == (12, 3, 16)
    assert torch.allclose(actions, torch.stack(taken)[:, envs], atol=1e-5)


def test_frames_are_stored_once():
    trainer = make_trainer()
    with torch.no_grad():
        segment = trainer.collect(1.0)
    assert len(segment.frames) == 12 * 3  # one at the start, then at steps 5 and 10
    assert segment.frames.dtype == torch.uint8


def test_the_student_learns_to_see_and_blank_images_hurt():
    torch.set_num_threads(1)
    trainer = make_trainer(envs=48, steps=20)
    for i in range(14):
        trainer.progress = i / 14
        row = trainer.iterate()
    assert row["Loss/behaviour"] < 0.01
    rng = torch.Generator().manual_seed(0)
    errors = {}
    for ablate in ("none", "blank", "shuffled"):
        env = ToyEnv(48, seed=5)
        trainer.student.reset()
        obs, total = env.get_observations(), 0.0
        for _ in range(40):
            with torch.no_grad():
                obs, reward, dones, _ = env.step(trainer.student(ablate_images(obs, ablate, rng)))
            trainer.student.reset(dones)
            total += float((1 - reward).mean()) / 40
        errors[ablate] = total
    assert errors["none"] < 0.2
    assert errors["blank"] > errors["none"] + 0.2
    assert errors["shuffled"] > errors["none"] + 0.2


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
