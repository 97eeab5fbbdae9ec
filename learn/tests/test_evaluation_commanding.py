"""A policy that commands another one goes through the evaluation as one that walks does."""

import dataclasses

import pytest
from gaussgym_learn.evaluation.protocol import Protocol, ProtocolCfg
from gaussgym_learn.evaluation.report import results_of
from gaussgym_learn.evaluation.subjects import default_task, parse_subjects
from gaussgym_learn.recipes import get_recipe
from gaussgym_learn.train import train
from gaussgym_scene.synth import synthesize


@pytest.fixture(scope="module")
def hall():
    return synthesize("hall", 0, max_splats=2000)


@pytest.fixture(scope="module")
def run(hall, tmp_path_factory):
    """A run of one update: it sees, and knows nothing."""
    recipe = get_recipe("corridor_pixels")
    recipe = dataclasses.replace(
        recipe, ppo=dataclasses.replace(recipe.ppo, num_envs=4, steps=4, mini_batches=1)
    )
    folder = tmp_path_factory.mktemp("run") / "pixels"
    train(recipe, [hall], folder, iterations=1)
    return folder


def test_its_task_and_its_failures_are_its_own(run, hall, tmp_path):
    (who,) = parse_subjects([f"new={run}"])
    assert who.senses == "RGB"
    assert default_task(who.runs) == "corridor"
    cfg = ProtocolCfg(task="corridor", episodes=6, seeds=(1,), ablations=("delayed",), delay_s=0.4)
    out = Protocol([who], [hall], cfg, tmp_path).run()
    plain = out.of("new")
    assert set(plain.labels["kinds"]) <= {
        "success",
        "took the wrong lane",
        "stuck on flat",
        "too slow",
        "fell on flat",
    }
    assert "spl" not in plain.table  # success is not to reach a goal
    for failure in plain.failures:
        assert failure.period_s == pytest.approx(0.2)  # a decision
        assert failure.motion is None or len(failure.motion) <= 15
    assert set(results_of(out)["policies"]["new"]["changes"]) == {"delayed"}
