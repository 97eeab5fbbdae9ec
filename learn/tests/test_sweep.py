"""A real sweep: Ray Tune, trials in processes of their own, the poor ones stopped, and one that goes on."""

import json

import pytest
from gaussgym_learn.checkpoint import load_checkpoint
from gaussgym_learn.parameters import parse_searches
from gaussgym_learn.recipes import NetworkCfg, PPOCfg, Recipe
from gaussgym_learn.sweep import SweepCfg, sweep, table
from gaussgym_scene.errors import InputError, StageError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NET = NetworkCfg(
    actor_groups=("proprio", "scan"),
    critic_groups=("proprio", "scan"),
    actor_hidden=(16,),
    critic_hidden=(16,),
)
RECIPE = Recipe("toy", network=NET, ppo=PPOCfg(num_envs=16, steps=10, mini_batches=2, epochs=2))


def train_toy(recipe, out, report):
    """Runs in a worker of Ray's; dies there once where a file says so."""
    from gaussgym_learn.testing import ToyEnv
    from gaussgym_learn.train import train

    switch = out.parent.parent / "die"

    def after(trainer, scalars):
        report(trainer, scalars)
        if switch.exists() and trainer.iteration == 4:
            raise RuntimeError("the machine went away")

    train(
        recipe,
        None,
        out,
        iterations=8,
        save_iterations=2,
        resume=True,
        make=lambda: ToyEnv(recipe.ppo.num_envs),
        on_iteration=after,
    )


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray", reason="ray[tune] is not installed (pip install 'ray[tune]')")
    pytest.importorskip("ray.tune", reason="ray[tune] is not installed (pip install 'ray[tune]')")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def test_trials_run_and_the_best_is_first(ray, tmp_path):
    searches = parse_searches(RECIPE, ["ppo.learning_rate=1e-2,1e-9", "network.actor_hidden=16,32x16"])
    cfg = SweepCfg(trials=4, scheduler="none", seed=3)
    report = sweep(RECIPE, searches, tmp_path / "sweep", cfg, train_toy, iterations=8)
    assert json.loads((tmp_path / "sweep" / "results.json").read_text()) == report
    values = [row["value"] for row in report["trials"]]
    assert values == sorted(values, reverse=True)
    assert report["best"] == report["trials"][0]
    assert len({json.dumps(row["parameters"]) for row in report["trials"]}) >= 2
    for row in report["trials"]:
        checkpoint = load_checkpoint(tmp_path / "sweep" / row["run"])
        tried = checkpoint.fields["recipe"]
        assert tried["ppo"]["learning_rate"] == row["parameters"]["ppo.learning_rate"]
        assert (
            "x".join(map(str, tried["network"]["actor_hidden"])) == row["parameters"]["network.actor_hidden"]
        )
        assert row["iterations"] == checkpoint.fields["iteration"] == 8
        curve = (tmp_path / "sweep" / row["run"] / "curve.jsonl").read_text().splitlines()
        assert json.loads(curve[-1])["Train/mean_reward"] == pytest.approx(row["value"], rel=1e-5)
    learned = {
        rate: [r["value"] for r in report["trials"] if r["parameters"]["ppo.learning_rate"] == rate]
        for rate in (1e-2, 1e-9)
    }
    assert max(learned[1e-2]) > max(learned[1e-9])  # what does not learn is worse
    assert table(report).splitlines()[1].split()[0] == f"{values[0]:.4g}"


def test_poor_trials_are_stopped_early(ray, tmp_path):
    """Six in a row by ASHA, which lets half go on from update 2 and from update 4."""
    searches = parse_searches(RECIPE, ["ppo.learning_rate=log:1e-9..1e-2"])
    cfg = SweepCfg(trials=6, grace=2, reduction=2, seed=1)
    report = sweep(RECIPE, searches, tmp_path / "sweep", cfg, train_toy, iterations=8)
    lengths = [row["iterations"] for row in report["trials"]]
    assert set(lengths) <= {2, 4, 8}
    assert min(lengths) < 8
    whole = [row for row in report["trials"] if row["iterations"] == 8]
    assert whole
    for row in whole:
        assert load_checkpoint(tmp_path / "sweep" / row["run"]).fields["iteration"] == 8


def test_an_interrupted_sweep_goes_on(ray, tmp_path):
    """All trials die after update 4: then they go on from their checkpoints of update 4 or 2."""
    out = tmp_path / "sweep"
    out.mkdir()
    (out / "die").touch()
    searches = parse_searches(RECIPE, ["ppo.learning_rate=1e-3,1e-4"])
    cfg = SweepCfg(trials=2, scheduler="none")
    report = sweep(RECIPE, searches, out, cfg, train_toy, iterations=8)
    assert [row["iterations"] for row in report["trials"]] == [4, 4]
    assert all("the machine went away" in row["error"] for row in report["trials"])
    (out / "die").unlink()
    report = sweep(RECIPE, searches, out, cfg, train_toy, iterations=8, resume=True)
    assert [row["iterations"] for row in report["trials"]] == [8, 8]
    for row in report["trials"]:
        lines = (out / row["run"] / "curve.jsonl").read_text().splitlines()
        assert [json.loads(line)["iteration"] for line in lines] == list(range(1, 9))
    with pytest.raises(InputError, match="found no sweep to resume; leave out --resume"):
        sweep(RECIPE, searches, tmp_path / "nothing", cfg, train_toy, iterations=8, resume=True)


def test_a_metric_that_nobody_logs(ray, tmp_path):
    searches = parse_searches(RECIPE, ["ppo.gamma=0.9,0.95"])
    cfg = SweepCfg(trials=1, scheduler="none", metric="Train/luck")
    with pytest.raises(StageError, match="no trial of 1 has a value: none logged 'Train/luck'"):
        sweep(RECIPE, searches, tmp_path / "sweep", cfg, train_toy, iterations=8)
    assert json.loads((tmp_path / "sweep" / "results.json").read_text())["best"] is None
