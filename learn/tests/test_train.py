"""Runs: resuming bit for bit, kills, wrong checkpoints."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from gaussgym_learn.checkpoint import check_compatible, load_checkpoint, save_checkpoint
from gaussgym_learn.metrics import read_curve
from gaussgym_learn.recipes import DistillCfg, NetworkCfg, PPOCfg, Recipe, get_recipe
from gaussgym_learn.testing import ToyEnv
from gaussgym_learn.train import train
from gaussgym_scene.errors import InputError, StageError

NET = NetworkCfg(
    actor_groups=("proprio", "rgb"),
    critic_groups=("proprio", "scan"),
    actor_hidden=(16,),
    critic_hidden=(16,),
    rnn_hidden=16,
    aux_group="scan",
)
TINY = Recipe("tiny", network=NET, ppo=PPOCfg(num_envs=8, steps=4, mini_batches=2, epochs=1))


def tiny(out, **options):
    return train(TINY, None, out, make=lambda: ToyEnv(8), save_iterations=2, renderer=None, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    tiny(out, iterations=5)
    return out


def test_a_resumed_run_continues_bit_for_bit(finished, tmp_path):
    cut = tmp_path / "cut"
    tiny(cut, iterations=2)
    torch.manual_seed(999)  # whatever happened in between must not matter
    tiny(cut, iterations=5, resume=True)
    whole, resumed = load_checkpoint(finished), load_checkpoint(cut)
    assert whole.fields["iteration"] == resumed.fields["iteration"] == 5
    for key, value in whole.state["actor_state_dict"].items():
        assert torch.equal(value, resumed.state["actor_state_dict"][key]), key
    for key, value in whole.state["critic_state_dict"].items():
        assert torch.equal(value, resumed.state["critic_state_dict"][key]), key
    assert [r["iteration"] for r in read_curve(cut)] == [1, 2, 3, 4, 5]


def test_a_kill_leaves_the_last_checkpoint_and_the_run_goes_on(tmp_path):
    out = tmp_path / "killed"

    class Kill(Exception):
        pass

    def die(trainer, _):
        if trainer.iteration == 3:
            raise Kill

    with pytest.raises(Kill):
        tiny(out, iterations=5, on_iteration=die)
    assert load_checkpoint(out).fields["iteration"] == 2
    tiny(out, iterations=4, resume=True)
    assert load_checkpoint(out).fields["iteration"] == 4


def test_ctrl_c_saves(tmp_path):
    def interrupt(trainer, _):
        if trainer.iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny(tmp_path / "c", iterations=9, on_iteration=interrupt)
    assert load_checkpoint(tmp_path / "c").fields["iteration"] == 3


def test_a_write_that_fails_keeps_the_checkpoint_before(finished, tmp_path, monkeypatch):
    run = shutil.copytree(finished, tmp_path / "full")
    before = load_checkpoint(run).fields["iteration"]

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gaussgym_learn.checkpoint.os.fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(run, {"x": torch.zeros(3)}, {}, iteration=77)
    monkeypatch.undo()
    assert load_checkpoint(run).fields["iteration"] == before
    assert not list(run.glob("*.tmp"))


def test_warm_start_takes_the_networks_and_resets_exploration(finished, tmp_path):
    seen = {}

    def look(trainer, _):
        seen["std"] = trainer.alg.actor.distribution.std_param.detach().clone()

    tiny(tmp_path / "warm", iterations=1, init_from=finished, on_iteration=look)
    assert load_checkpoint(tmp_path / "warm").fields["initialized_from"] == finished.name
    assert torch.allclose(seen["std"], torch.full((12,), NET.init_std), atol=0.05)


def test_unbounded_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="unbounded"):
        tiny(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "checkpoint.json").unlink(), "not found"),
        (lambda run: edit(run, version=9), "version 9 is unknown"),
        (lambda run: edit(run, format="something"), "expected 'gaussgym-checkpoint'"),
        (lambda run: flip(newest(run)), "sha256"),
        (lambda run: cut(newest(run)), "bytes"),
        (lambda run: edit(run, robot=None), "robot"),
    ],
)
def test_damaged_checkpoints_say_so_in_one_line(finished, tmp_path, damage, message):
    run = shutil.copytree(finished, tmp_path / "run")
    damage(run)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(run)
    assert "\n" not in str(caught.value)


def test_pickled_code_is_refused(finished, tmp_path):
    import hashlib
    import pickle

    run = shutil.copytree(finished, tmp_path / "evil")
    model = newest(run)

    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    model.write_bytes(pickle.dumps(Evil()))
    fields = json.loads((run / "checkpoint.json").read_text())
    data = model.read_bytes()
    fields["files"] = {model.name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    (run / "checkpoint.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match="not a plain tensor file"):
        load_checkpoint(run)


def test_a_checkpoint_of_another_robot_or_layout_is_refused(finished):
    checkpoint = load_checkpoint(finished)
    with pytest.raises(InputError, match="made for robot 'toy', expected 'go1'"):
        check_compatible(checkpoint, robot="go1", layout=checkpoint.layout, groups=("proprio",))
    layout = {**checkpoint.layout, "rgb": [3, 72, 128]}
    with pytest.raises(
        InputError, match=r"'rgb' has shape \[3, 48, 64\], this environment gives \[3, 72, 128\]"
    ):
        check_compatible(checkpoint, robot="toy", layout=layout, groups=("proprio", "rgb"))


def test_networks_of_another_size_are_refused(finished, tmp_path):
    from dataclasses import replace

    wide = replace(TINY, network=replace(NET, rnn_hidden=32))
    with pytest.raises(InputError, match="networks do not fit the recipe"):
        train(wide, None, tmp_path, make=lambda: ToyEnv(8), iterations=1, init_from=finished, renderer=None)


def test_divergence_keeps_the_last_checkpoint(tmp_path):
    def poison(trainer, _):
        if trainer.iteration == 3:
            with torch.no_grad():
                trainer.alg.critic.mlp[0].weight += float("nan")

    with pytest.raises(StageError, match="diverged"):
        tiny(tmp_path / "nan", iterations=9, on_iteration=poison)
    assert load_checkpoint(tmp_path / "nan").fields["iteration"] == 2


def test_distillation_resumes_bit_for_bit(tmp_path):
    from gaussgym_learn.distill import distill

    teacher_recipe = Recipe(
        "teacher",
        network=NetworkCfg(actor_groups=("proprio", "scan"), critic_groups=("scan",), actor_hidden=(8,)),
        ppo=TINY.ppo,
    )
    teacher = train(teacher_recipe, None, tmp_path / "t", iterations=1, make=lambda: ToyEnv(8), renderer=None)
    student = Recipe("student", network=NET, distill=DistillCfg(num_envs=8, steps=6, beta="0"))

    def run(out, **options):
        # A learning rate that depends on progress would differ between runs of different length: fix the length.
        return distill(
            teacher.parent, None, out, recipe=student, make=lambda: ToyEnv(8), save_iterations=2, **options
        )

    class Stop(Exception):
        pass

    def stop(trainer, _):
        if trainer.iteration == 3:
            raise Stop

    run(tmp_path / "a", iterations=4)
    with pytest.raises(Stop):
        run(tmp_path / "b", iterations=4, on_iteration=stop)
    run(tmp_path / "b", iterations=4, resume=True)
    a, b = (load_checkpoint(tmp_path / n).state["actor_state_dict"] for n in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)


def edit(run, **changes):
    fields = json.loads((run / "checkpoint.json").read_text())
    fields.update(changes)
    (run / "checkpoint.json").write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def newest(run):
    return run / json.loads((run / "checkpoint.json").read_text())["model"]


def test_curves_go_to_tensorboard_and_offline_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tiny(tmp_path / "run", iterations=2, wandb=True)
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    rows = read_curve(tmp_path / "run")
    assert rows[-1]["steps"] == 2 * 4 * 8
    assert {"Loss/aux_recon", "Loss/kl", "Perf/total_fps", "Episode/error"} <= set(rows[-1])


def test_a_curve_cut_by_a_kill_is_read_up_to_there(tmp_path):
    (tmp_path / "curve.jsonl").write_text('{"iteration": 1}\n{"iteration": 2}\n{"itera')
    assert [r["iteration"] for r in read_curve(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train", "teacher_flat"], "training is unbounded"),
        (["train", "sprint", "--minutes", "1"], "unknown recipe 'sprint'"),
        (["train", "teacher_flat", "--minutes", "1", "--init-from", "/nowhere"], "not found"),
        (["distill", "/nowhere", "--scenes", "/nowhere", "--minutes", "1"], "not found"),
        (["evaluate", "/nowhere", "--scenes", "/nowhere"], "neither checkpoint.json nor policy.json"),
        (["evaluate", "/nowhere"], "no scene given"),
        (
            ["train", "teacher_flat", "--iterations", "1", "--show-robot"],
            "found show_robot for a policy without",
        ),
        (
            ["train", "teacher_flat", "--iterations", "1", "--camera-model", "phone"],
            "unknown camera model 'phone'",
        ),
        (["export", "/nowhere", "--scenes", "/nowhere"], "not found"),
        (["robot", "--scene", "/nowhere", "--shm", "x"], "not found"),
    ],
)
def test_commands_end_with_one_line_and_status_2(words, line, capsys, monkeypatch):
    from gaussgym_learn.__main__ import main

    monkeypatch.setattr("sys.argv", ["gaussgym-learn", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip()
    assert line in error
    assert error.count("\n") == 0


def test_what_is_said_about_the_camera_goes_into_the_recipe():
    from gaussgym_learn.cli.options import RunOptions

    recipe = get_recipe("pixels")
    assert RunOptions().applied(recipe) == recipe
    said = RunOptions(camera_model="robot", show_robot=True, show_others=3).applied(recipe)
    assert said.camera_options() == {"camera_model": "robot", "show_robot": True, "show_others": 3}
    assert said.to_dict()["show_robot"] is True
    assert RunOptions().applied(said) == said
    passed_on = RunOptions(show_robot=True, lod=[Path("a")]).arguments()
    assert passed_on["lod"] == [Path("a")]
    assert not {"show_robot", "show_others", "camera_model", "num_envs"} & set(passed_on)
