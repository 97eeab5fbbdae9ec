"""Resuming a run: whatever happens at whatever moment, it goes on as if nothing had."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from gaussgym_learn.checkpoint import BEST_MANIFEST, load_checkpoint, newest_whole
from gaussgym_learn.metrics import read_curve
from gaussgym_learn.recipes import NetworkCfg, PPOCfg, Recipe, get_recipe
from gaussgym_learn.run import better
from gaussgym_learn.testing import ToyEnv
from gaussgym_learn.train import train
from gaussgym_scene.errors import InputError

NET = NetworkCfg(
    actor_groups=("proprio", "rgb"),
    critic_groups=("proprio", "scan"),
    actor_hidden=(16,),
    critic_hidden=(16,),
    rnn_hidden=16,
    aux_group="scan",
)
TINY = Recipe("tiny", network=NET, ppo=PPOCfg(num_envs=8, steps=4, mini_batches=2, epochs=1))
CLOCK = ("minutes",)


class Kill(Exception):
    """Stands for a process that is gone at once."""


def tiny(out, *, keeps_state=True, recipe=TINY, envs=8, **options):
    options = {"iterations": 6, "save_iterations": 2, **options}
    make = options.pop("make", lambda: ToyEnv(envs, keeps_state=keeps_state))
    return train(recipe, None, out, make=make, renderer=None, **options)


def kill_after(count):
    def die(trainer, _):
        if trainer.iteration == count:
            raise Kill

    return die


def curve(run):
    """The rows without what a clock says."""
    return [
        {k: v for k, v in row.items() if k not in CLOCK and not k.startswith("Perf/")}
        for row in read_curve(run)
    ]


def same(a, b, path=""):
    """Names of the values in which two states differ."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        return [d for k in a for d in same(a[k], b[k], f"{path}/{k}")]
    if isinstance(a, list | tuple):
        assert len(a) == len(b), path
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in same(x, y, f"{path}/{i}")]
    equal = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b or (a != a and b != b)
    return [] if equal else [path]


def assert_same_run(a, b):
    assert curve(a) == curve(b)
    assert same(load_checkpoint(a).state, load_checkpoint(b).state) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    tiny(out)
    return out


@pytest.mark.parametrize("when", [1, 2, 3, 5])
def test_a_killed_run_goes_on_to_the_same_bits(whole, tmp_path, when):
    out = tmp_path / "killed"
    with pytest.raises(Kill):
        tiny(out, on_iteration=kill_after(when))
    torch.manual_seed(123)  # whatever happened in between must not matter
    tiny(out, resume=True)
    assert [row["iteration"] for row in curve(out)] == [1, 2, 3, 4, 5, 6]
    assert_same_run(whole, out)


def test_where_the_environment_has_no_state_a_save_begins_its_episodes_anew(tmp_path):
    tiny(tmp_path / "a", keeps_state=False)
    with pytest.raises(Kill):
        tiny(tmp_path / "b", keeps_state=False, on_iteration=kill_after(3))
    assert load_checkpoint(tmp_path / "b").state["processes"][0]["episodes"] is None
    tiny(tmp_path / "b", keeps_state=False, resume=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_where_it_has_one_saving_changes_nothing(whole, tmp_path):
    tiny(tmp_path / "often", save_iterations=1)
    assert_same_run(whole, tmp_path / "often")


@pytest.mark.parametrize("torn", ["model", "manifest", "both manifests", "left over"])
def test_a_torn_newest_file_falls_back_to_the_one_before(whole, tmp_path, torn, caplog):
    run = shutil.copytree(whole, tmp_path / "torn")
    if torn == "model":
        path = run / "model_6.pt"
        path.write_bytes(path.read_bytes()[:-1000])
    if "manifest" in torn:
        path = run / "checkpoint.json"
        path.write_text(path.read_text()[:200])
    if "both" in torn:
        (run / "model_6.json").write_text("{")
    if torn == "left over":  # killed before the manifests were written
        shutil.copy(run / "model_4.json", run / "checkpoint.json")
        (run / "model_6.json").unlink()
    checkpoint = newest_whole(run)
    assert checkpoint is not None
    assert checkpoint.fields["iteration"] == (6 if torn == "manifest" else 4)
    assert ("instead" in caplog.text) == (torn != "left over")
    tiny(run, resume=True)
    assert_same_run(whole, run)


def test_a_run_whose_checkpoints_are_all_torn_says_so(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "torn")
    for path in (run / "model_4.pt", run / "model_6.pt"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no older checkpoint is whole"):
        tiny(run, resume=True)


def test_a_run_of_another_task_or_recipe_is_not_resumed(whole):
    with pytest.raises(
        InputError, match=r"a run of task 'velocity', expected 'goal'; resume it with its own"
    ):
        tiny(whole, recipe=replace(TINY, task="goal"), resume=True)
    with pytest.raises(InputError, match=r"a run of recipe 'tiny', expected 'other'"):
        tiny(whole, recipe=replace(TINY, name="other"), resume=True)


def test_another_number_of_environments_goes_on_with_new_episodes(whole, tmp_path, caplog):
    run = shutil.copytree(whole, tmp_path / "wider")
    tiny(run, envs=12, iterations=7, resume=True)
    assert "episodes and curricula begin anew" in caplog.text
    assert curve(run)[-1]["iteration"] == 7


def test_the_best_is_kept_and_is_a_checkpoint(whole):
    best = load_checkpoint(whole / BEST_MANIFEST)
    entry = best.fields["best"]
    rows = {row["iteration"]: row for row in curve(whole)}
    saved = [n for n in (2, 4, 6) if "Train/mean_reward" in rows[n]]
    scores = {n: rows[n]["Train/mean_reward"] for n in saved}
    assert entry["iteration"] == best.fields["iteration"] == max(scores, key=scores.__getitem__)
    assert entry["score"] == pytest.approx(max(scores.values()), rel=1e-5)
    assert load_checkpoint(whole).fields["best"] == entry
    assert best.state["actor_state_dict"].keys() == load_checkpoint(whole).state["actor_state_dict"].keys()


def test_what_counts_as_better():
    first = better(None, {"Train/mean_reward": 1.0}, 1)
    assert first is not None
    assert (first["metric"], first["score"], first["iteration"]) == ("Train/mean_reward", 1.0, 1)
    assert better(first, {"Train/mean_reward": 1.0}, 2) is None
    assert better(first, {"Train/mean_reward": 1.5}, 2) is not None
    success = better(first, {"Train/mean_reward": 0.5, "Train/success": 0.1}, 3)
    assert success is not None  # success says more than return
    assert better(success, {"Train/mean_reward": 9.0}, 4) is None
    harder = better(success, {"Train/success": 0.05, "Curriculum/level": 1.0}, 5)
    assert harder is not None
    assert better(harder, {"Train/success": 0.9, "Curriculum/level": 0.5}, 6) is None
    assert better(harder, {"Train/success": float("nan"), "Curriculum/level": 3.0}, 7) is None
    assert better(None, {}, 1) is None


def test_manifests_hold_no_more_than_two_models_and_the_best(whole):
    names = {path.name for path in whole.iterdir() if path.suffix in (".pt", ".json")}
    expected = {"model_4.pt", "model_4.json", "model_6.pt", "model_6.json", "model_best.pt", "best.json"}
    assert names == expected | {"checkpoint.json"}
    assert json.loads((whole / "model_6.json").read_text()) == json.loads(
        (whole / "checkpoint.json").read_text()
    )


SMALL = {"velocity": ("teacher_flat", {}), "pixels": ("pixels", {"aux_epochs": 1})}


@pytest.mark.parametrize("kind", ["velocity", "pixels"])
def test_a_real_environment_goes_on_to_the_same_bits(kind, tmp_path):
    from gaussgym_learn.courses import default_course
    from gaussgym_scene.synth import synthesize

    name, _ = SMALL[kind]
    recipe = get_recipe(name)
    recipe = replace(recipe, ppo=replace(recipe.ppo, num_envs=8, steps=6, epochs=1, mini_batches=2))
    scenes = default_course("teacher_flat", seed=0) if kind == "velocity" else [synthesize("flat", 0)]

    def run(out, **options):
        train(recipe, scenes, out, iterations=4, save_iterations=2, **options)

    run(tmp_path / "a")
    with pytest.raises(Kill):
        run(tmp_path / "b", on_iteration=kill_after(3))
    run(tmp_path / "b", resume=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")
