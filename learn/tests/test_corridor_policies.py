"""What was trained for real in the corridor, evaluated again from the committed weights, and learned again in two minutes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gaussgym_learn.evaluate import evaluate
from gaussgym_learn.recipes import get_recipe
from gaussgym_learn.train import train
from gaussgym_scene.synth import synthesize

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CHECKPOINTS = EXPERIMENTS / "corridor" / "checkpoints"
RESULTS = EXPERIMENTS / "results" / "corridor.json"
pytestmark = pytest.mark.skipif(not CHECKPOINTS.is_dir(), reason="experiments/ is not beside the package")


@pytest.fixture(scope="module")
def halls():
    return [synthesize("hall", seed) for seed in (100, 101, 102, 103)]


def least(share, episodes, *, chance=1e-3):
    """Most successes that a policy of this true share stays below by `chance` at most: the binomial's lower tail."""
    k = np.arange(episodes + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, episodes + 1)))])
    tail = np.cumsum(
        np.exp(logs[-1] - logs - logs[::-1] + k * np.log(share) + (episodes - k) * np.log(1 - share))
    )
    return int(np.searchsorted(tail, chance))


def successes(name, halls, episodes, ablate="none"):
    result = evaluate(CHECKPOINTS / name, halls, task="corridor", episodes=episodes, ablate=ablate)
    return np.array(result["per_episode"]["success"])


def test_the_binomials_tail_by_hand():
    assert least(0.5, 2, chance=0.3) == 1  # nobody passes in 1/4 of the cases, one or none in 3/4
    assert least(0.5, 2, chance=0.2) == 0
    assert least(0.9, 64) == 49  # scipy.stats.binom.ppf(1e-3, 64, 0.9)


@pytest.mark.parametrize("recipe", ["corridor_pixels", "corridor_student"])
def test_a_committed_policy_sees_which_lane_is_safe(recipe, halls):
    """Fails by chance in one of a thousand runs if it truly passes in 90 %; blank images cannot pass in both cases of a start."""
    assert successes(f"{recipe}_0", halls, 64).sum() >= least(0.9, 64)
    blank = successes(f"{recipe}_0", halls, 32, "blank")
    assert (blank[0::2] + blank[1::2] <= 1).all()


def test_the_report_holds():
    report = json.loads(RESULTS.read_text())
    assert len(report["claims"]) == 6
    assert all(report["claims"].values())
    assert all(row["seeds"] >= 3 and row["episodes"] >= 3 * 256 for row in report["pooled"].values())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_committed_policies_do_what_was_reported(halls):
    """Of three training seeds, 256 episodes each; exactly the report's numbers but for what rounding of other machines does."""
    report = {
        (row["policy"], row["training_seed"]): row for row in json.loads(RESULTS.read_text())["per_seed"]
    }
    share = {}
    for recipe in ("corridor_teacher", "corridor_blind", "corridor_pixels", "corridor_student"):
        for ablate in (
            ("none", "blank", "shuffled") if recipe in ("corridor_pixels", "corridor_student") else ("none",)
        ):
            label = recipe if ablate == "none" else f"{recipe} {ablate}"
            seeds = sorted(seed for name, seed in report if name == label)
            runs = [successes(f"{recipe}_{seed}", halls, 256, ablate).mean() for seed in seeds]
            for seed, run in zip(seeds, runs, strict=True):
                assert run == pytest.approx(report[label, seed]["success"], abs=0.05), (label, seed)
            share[label] = np.mean(runs)
    assert share["corridor_pixels"] >= 0.9
    assert share["corridor_blind"] <= 0.55
    assert share["corridor_student"] >= 0.9 * share["corridor_teacher"]
    for recipe in ("corridor_pixels", "corridor_student"):
        assert share[f"{recipe} blank"] <= 0.55
        assert share[f"{recipe} shuffled"] <= 0.55


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_learning_curve_from_nothing_in_two_minutes(halls, tmp_path):
    """PPO from pixels in about two minutes on two quiet cores: far above the 50 % of whoever does not see, and still rising."""
    recipe = get_recipe("corridor_pixels")
    successes_by_update = []

    def note(trainer, scalars):
        successes_by_update.append(scalars.get("Episode/success", float("nan")))

    train(
        replace(recipe, name="curve"), [synthesize("hall", seed) for seed in range(4)], tmp_path, iterations=28, seed=0,
        on_iteration=note,
    )  # fmt: skip
    result = evaluate(tmp_path, halls, task="corridor", episodes=64)
    success = int(sum(result["per_episode"]["success"]))
    # Whoever goes by chance passes in more than 44 of 64 in one of a thousand runs.
    assert success >= 0.7 * 64, (success, successes_by_update)
    assert np.nanmean(successes_by_update[-6:]) > np.nanmean(successes_by_update[:6]) + 0.2
