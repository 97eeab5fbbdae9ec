"""Settings of a recipe in words: to set, and to search."""

import json
import sys

import pytest
from gaussgym_learn import __main__ as main_module
from gaussgym_learn.cli.options import RunOptions
from gaussgym_learn.parameters import (
    Search,
    parse_search,
    parse_searches,
    settings_of,
    with_settings,
)
from gaussgym_learn.recipes import get_recipe
from gaussgym_learn.sweep import SweepCfg, _start_ray, sweep, table
from gaussgym_scene.errors import InputError, StageError

RECIPE = get_recipe("teacher_flat")


def test_values_have_the_kind_of_what_they_replace():
    values = settings_of(
        RECIPE,
        [
            "ppo.learning_rate=3e-4", "ppo.num_envs=32.0", "network.actor_hidden=64x32", "env.commands.lin_vel_x_m_s=0.2x0.8",
            "env.noisy_observations=false", "camera_model=robot", "network.aux_group=scan",
        ],
    )  # fmt: skip
    recipe = with_settings(RECIPE, values)
    assert (recipe.ppo.learning_rate, recipe.ppo.num_envs) == (3e-4, 32)
    assert recipe.network.actor_hidden == (64, 32)
    assert recipe.env.commands.lin_vel_x_m_s == (0.2, 0.8)
    assert recipe.env.noisy_observations is False
    assert (recipe.camera_model, recipe.network.aux_group) == ("robot", "scan")
    assert recipe.env.rewards == RECIPE.env.rewards
    assert RECIPE.ppo.num_envs != 32
    assert RunOptions(settings=["ppo.gamma=0.9"]).applied(RECIPE).ppo.gamma == 0.9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppo.lerning_rate=1", r"unknown setting 'ppo\.lerning_rate', perhaps ppo\.learning_rate; 'ppo' has: num_envs, steps, .*gamma"),
        ("pppo.gamma=1", r"unknown setting 'pppo\.gamma', perhaps ppo; a recipe has: name, task, network"),
        ("ppo.gamma.x=1", r"unknown setting 'ppo\.gamma\.x'; 'ppo\.gamma' has: no settings"),
        ("ppo=1", r"'ppo' holds others, expected one of them: ppo\.num_envs, ppo\.steps"),
        ("ppo.gamma=high", r"setting ppo\.gamma: found 'high', expected a value of kind float such as 0\.98"),
        ("ppo.gamma=nan", r"found 'nan', expected a value of kind float"),
        ("ppo.num_envs=1.5", r"found '1\.5', expected a value of kind int"),
        ("network.actor_hidden=64,32", r"found '64,32', expected a value of kind tuple such as 128x128"),
        ("env.curriculum=2", r"found '2', expected a value of kind bool"),
        ("ppo.gamma", r"expected name=value, such as ppo\.learning_rate=3e-4"),
    ],
)  # fmt: skip
def test_words_that_are_no_setting(text, message):
    with pytest.raises(InputError, match=message):
        settings_of(RECIPE, [text])


def test_what_to_search():
    assert parse_search(RECIPE, "ppo.learning_rate=log:1e-4..1e-2") == Search(
        "ppo.learning_rate", None, 1e-4, 1e-2, True, False
    )
    assert parse_search(RECIPE, "ppo.gamma=0.9..0.99") == Search("ppo.gamma", None, 0.9, 0.99)
    assert parse_search(RECIPE, "ppo.steps=10..40") == Search("ppo.steps", None, 10, 40, False, True)
    assert parse_search(RECIPE, "network.actor_hidden=64x64,32").choices == ((64, 64), (32,))
    assert parse_search(RECIPE, "env.noisy_observations=true,false").choices == (True, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppo.lr=1..2", r"unknown setting 'ppo\.lr'.*; 'ppo' has: num_envs"),
        ("ppo.gamma=0.99..0.9", r"found 0\.99\.\.0\.9, expected low < high"),
        ("ppo.gamma=log:0..0.9", r"expected 0 < low < high"),
        ("ppo.gamma=a..b", r"found 'a', expected a value of kind float"),
        ("ppo.gamma=0.9", r"at least two different values"),
        ("ppo.gamma=0.9,0.9", r"at least two different values"),
        ("network.actor_hidden=1..2", r"a range is for numbers, network\.actor_hidden is \(128, 128\)"),
        ("ppo.gamma", r"expected name=low\.\.high, name=log:low\.\.high or name=a,b,c"),
    ],
)  # fmt: skip
def test_words_that_are_no_search(text, message):
    with pytest.raises(InputError, match=message):
        parse_search(RECIPE, text)


def test_a_setting_is_searched_once():
    with pytest.raises(InputError, match="found no parameter to search"):
        parse_searches(RECIPE, [])
    with pytest.raises(InputError, match=r"parameter ppo\.gamma is given twice"):
        parse_searches(RECIPE, ["ppo.gamma=0.9,0.8", "ppo.gamma=0.7,0.8"])
    with pytest.raises(InputError, match=r"setting ppo\.gamma is given twice"):
        settings_of(RECIPE, ["ppo.gamma=0.9", "ppo.gamma=0.8"])


@pytest.mark.parametrize(
    ("cfg", "iterations", "message"),
    [
        (SweepCfg(trials=0), 10, "sweep: trials is 0, expected at least 1"),
        (SweepCfg(reduction=1), 10, "reduction is 1, expected at least 2"),
        (SweepCfg(), None, "scheduler 'asha' compares trials by updates: found None updates"),
        (SweepCfg(grace=20), 10, "expected --iterations of at least 20, or --scheduler none"),
    ],
)
def test_numbers_that_cannot_be(cfg, iterations, message):
    with pytest.raises(InputError, match=message):
        cfg.check(iterations)


def test_without_ray_the_sweep_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    searches = parse_searches(RECIPE, ["ppo.gamma=0.9,0.95"])
    with pytest.raises(InputError, match=r"not installed; pip install 'gaussgym-learn\[sweep\]'"):
        sweep(RECIPE, searches, tmp_path / "out", SweepCfg(), lambda *_: None, iterations=3)
    assert not (tmp_path / "out").exists()


class Reluctant:
    """Ray, as it is on a machine that is busy."""

    def __init__(self, failures):
        self.failures, self.tried = failures, []

    def init(self, **options):
        self.tried.append(options)
        self.failures -= 1
        if self.failures >= 0:
            raise RuntimeError("The current node\ntimed out during startup.")

    def shutdown(self):
        self.tried.append("stopped")


def test_ray_is_given_time_to_start():
    ray = Reluctant(2)
    _start_ray(ray, SweepCfg(cpus=1.5, at_once=3))
    assert ray.tried[1::2] == ["stopped"] * 2
    assert ray.tried[0] == ray.tried[4]
    assert (ray.tried[0]["num_cpus"], ray.tried[0]["address"]) == (5, None)
    with pytest.raises(
        StageError, match=r"Ray did not start \(The current node timed out during startup\.\); see its logs"
    ):
        _start_ray(Reluctant(9), SweepCfg(address="auto"))


def test_a_file_for_wandb_says_the_same(tmp_path, monkeypatch, capsys):
    """As its agents read it: every word of the command, and values that `--set` takes."""
    words = ["sweep", "teacher_flat", "--param", "ppo.learning_rate=log:1e-4..1e-2", "--param", "network.actor_hidden=64x64,32x32",
             "--param", "ppo.steps=10..40", "--iterations", "50", "--num-envs", "16", "--trials", "5", "--wandb-sweep", str(tmp_path / "s.yaml")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["gaussgym-learn", *words])
    with pytest.raises(SystemExit) as end:
        main_module.main()
    assert end.value.code in (0, None), capsys.readouterr().err
    fields = json.loads((tmp_path / "s.yaml").read_text())
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load((tmp_path / "s.yaml").read_text()) == fields
    assert fields["parameters"]["ppo.learning_rate"] == {
        "distribution": "log_uniform_values",
        "min": 1e-4,
        "max": 1e-2,
    }
    assert fields["parameters"]["ppo.steps"] == {"distribution": "int_uniform", "min": 10, "max": 40}
    assert fields["parameters"]["network.actor_hidden"] == {"values": ["64x64", "32x32"]}
    assert fields["metric"] == {"name": "Train/mean_reward", "goal": "maximize"}
    assert (fields["run_cap"], fields["early_terminate"]) == (
        5,
        {"type": "hyperband", "min_iter": 10, "eta": 3},
    )
    command = fields["command"]
    assert command[:4] == ["${env}", "gaussgym-learn", "train", "teacher_flat"]
    assert command[-3:] == ["--wandb", "--set", "${args_no_hyphens}"]
    assert [command[command.index(word) + 1] for word in ("--iterations", "--num-envs")] == ["50", "16"]


def test_the_table_has_the_best_first():
    rows = [
        {
            "value": 2.5,
            "parameters": {"ppo.gamma": 0.95},
            "iterations": 9,
            "seconds": 1.0,
            "run": "trials/b",
            "error": None,
        },
        {
            "value": None,
            "parameters": {"ppo.gamma": 0.9},
            "iterations": 0,
            "seconds": 1.0,
            "run": None,
            "error": "diverged",
        },
    ]
    text = table(
        {"search": [{"name": "ppo.gamma"}], "settings": {"metric": "Train/mean_reward"}, "trials": rows}
    )
    assert [line.split() for line in text.splitlines()] == [
        ["Train/mean_reward", "updates", "ppo.gamma", "run"],
        ["2.5", "9", "0.95", "trials/b"],
        ["failed", "0", "0.9"],
    ]
