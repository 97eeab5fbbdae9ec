"""Numbers of an evaluation: by hand, and by simulation with known truth."""

import numpy as np
import pytest
from gaussgym_learn.evaluation.statistics import (
    METRICS,
    NO_EVENTS,
    Metric,
    difference,
    draw_weights,
    estimate,
    metrics_of,
    paired,
    spl,
)

BY_NAME = {m.name: m for m in METRICS}


def table(success, *, fell=None, path_m=None, replicate=None, start=None):
    success = np.asarray(success, float)
    count = len(success)
    return {
        "success": success,
        "fell": np.zeros(count) if fell is None else np.asarray(fell, float),
        "path_m": np.full(count, 10.0) if path_m is None else np.asarray(path_m, float),
        "replicate": np.zeros(count, int) if replicate is None else np.asarray(replicate),
        "start": np.arange(count) if start is None else np.asarray(start),
    }


def test_spl_by_hand():
    """Straight: 1; twice as long: a half; failed: 0; shorter than the shortest way, by cutting corners: no more than 1."""
    found = spl(
        np.array([1.0, 1.0, 0.0, 1.0]), np.array([10.0, 20.0, 10.0, 9.0]), np.array([10.0, 10.0, 10.0, 10.0])
    )
    assert found.tolist() == [1.0, 0.5, 0.0, 1.0]


def test_falls_per_km_by_hand():
    """Three falls in 40 + 10 + 50 + 100 m are 15 a kilometre: a ratio of sums, not a mean of ratios."""
    episodes = table([1, 0, 0, 0], fell=[0, 1, 1, 1], path_m=[40.0, 10.0, 50.0, 100.0])
    found = estimate(episodes, BY_NAME["falls_per_km"], draw_weights(episodes["replicate"]))
    assert found.value == pytest.approx(3 / 0.2)
    assert found.low <= 15 <= found.high


def test_a_bootstrap_of_two_episodes_by_hand():
    """Two episodes, 0 and 1: a sample's mean is 0, 1/2, 1 with probability 1/4, 1/2, 1/4; of one value it is that value."""
    weights = draw_weights(np.zeros(2, int), resamples=40000, seed=3)
    assert (weights.sum(axis=1) == 2).all()
    means = weights @ np.array([0.0, 1.0]) / 2
    shares = [(means == value).mean() for value in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.01)
    # The stages multiply: two replicates of one episode each give the same distribution.
    means = draw_weights(np.array([0, 1]), resamples=40000, seed=4) @ np.array([0.0, 1.0]) / 2
    assert [(means == value).mean() for value in (0.0, 0.5, 1.0)] == pytest.approx(
        [0.25, 0.5, 0.25], abs=0.01
    )


def test_seeds_that_differ_widen_the_interval():
    """All starts of a seed alike: only as many independent numbers as there are seeds."""
    replicate = np.repeat([0, 1, 2], 100)
    seeds = table(np.repeat([0.0, 1.0, 1.0], 100), replicate=replicate)
    rng = np.random.default_rng(0)
    starts = table(rng.permutation(np.repeat([0.0, 1.0, 1.0], 100)), replicate=replicate)
    weights = draw_weights(replicate)
    by_seed, by_start = (estimate(t, BY_NAME["success"], weights) for t in (seeds, starts))
    assert by_seed.value == by_start.value
    assert by_seed.high - by_seed.low > 5 * (by_start.high - by_start.low)


def test_where_nothing_varies_exact_intervals_stand_in():
    episodes = table(np.ones(20))
    weights = draw_weights(episodes["replicate"])
    success = estimate(episodes, BY_NAME["success"], weights)
    assert (success.value, success.high, success.method) == (1.0, 1.0, "wilson")
    assert success.low == pytest.approx(20 / (20 + 1.96**2), abs=1e-3)
    falls = estimate(episodes, BY_NAME["falls_per_km"], weights)
    assert (falls.value, falls.low, falls.method) == (0.0, 0.0, "garwood")
    assert falls.high == pytest.approx(NO_EVENTS / 0.2)  # in 200 m
    same = difference(episodes, episodes, BY_NAME["success"])
    assert (same.value, same.low, same.high) == (0.0, -NO_EVENTS / 20, NO_EVENTS / 20)
    shorter = {**episodes, "path_m": np.full(20, 5.0)}
    rate = difference(episodes, shorter, BY_NAME["falls_per_km"])
    assert (rate.low, rate.high) == (pytest.approx(-NO_EVENTS / 0.1), pytest.approx(NO_EVENTS / 0.2))


def test_a_class_of_ground_is_a_ratio_over_its_own_episodes():
    episodes = table([1, 1, 0, 0, 1, 0])
    rows = np.array([True, True, False, False, True, True])
    found = estimate(episodes, BY_NAME["success"], draw_weights(episodes["replicate"]), rows=rows)
    assert (found.value, found.episodes) == (0.75, 4)
    none = estimate(episodes, BY_NAME["success"], draw_weights(episodes["replicate"]), rows=np.zeros(6, bool))
    assert none.episodes == 0
    assert np.isnan(none.value)


def test_pairs_are_of_the_same_start_of_the_same_seed():
    a = table([1, 1, 0, 1], replicate=[0, 0, 1, 1], start=[0, 1, 0, 1])
    b = table([0, 1, 0, 1], replicate=[1, 1, 0, 0], start=[1, 0, 1, 5])
    rows_a, rows_b = paired(a, b)
    assert rows_a.tolist() == [1, 2, 3]
    assert rows_b.tolist() == [2, 1, 0]
    found = difference(a, b, BY_NAME["success"])
    # Pairs: (1, 0), (0, 1), (1, 0).
    assert found.value == pytest.approx(2 / 3 - 1 / 3)
    assert found.episodes == 3
    assert np.isnan(difference(a, {**b, "start": b["start"] + 9}, BY_NAME["success"]).value)


def test_pairing_narrows_what_both_find_hard():
    """Starts differ much, policies little: the paired interval is narrower than that of either policy alone."""
    rng = np.random.default_rng(5)
    hard = rng.random(600) < 0.5
    a, b = table(hard * 1.0), table(np.where(rng.random(600) < 0.05, 0.0, hard))
    change = difference(a, b, BY_NAME["success"])
    alone = estimate(a, BY_NAME["success"], draw_weights(a["replicate"]))
    assert change.low > 0  # a twentieth of a half is found
    assert change.high - change.low < 0.6 * (alone.high - alone.low)


def _covers(rng, truth):
    """One simulated experiment: three seeds of 40 starts, two policies whose successes correlate; does the interval hold the truth?"""
    replicate = np.repeat([0, 1, 2], 40)
    ease = rng.random(120)
    a, b = (ease < 0.7) * 1.0, (ease + rng.uniform(-0.1, 0.1, 120) < 0.7 - truth) * 1.0
    pair = (table(a, replicate=replicate), table(b, replicate=replicate))
    found = difference(*pair, BY_NAME["success"], resamples=400, seed=int(rng.integers(1 << 30)))
    return found.low <= truth <= found.high, found.low > 0


def test_paired_intervals_hold_the_truth_as_often_as_they_say():
    """300 experiments with a known difference: at least 95 % (less what 300 trials may miss) of the intervals hold it."""
    rng = np.random.default_rng(11)
    held = np.array([_covers(rng, 0.1)[0] for _ in range(300)])
    assert held.mean() > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 300)
    wrong = np.array([_covers(rng, 0.0)[1] for _ in range(300)])
    assert wrong.mean() < 0.025 + 3 * np.sqrt(0.025 / 300)


def test_own_numbers_of_a_task_are_means():
    episodes = {**table([1, 0]), "no_go_s": np.array([1.0, 3.0]), "scene": np.array([0, 1])}
    own = [m for m in metrics_of(episodes) if m.better == 0]
    assert own == [Metric("no_go_s", "no_go_s", "", 0, "no_go_s")]
    assert estimate(episodes, own[0], draw_weights(episodes["replicate"])).value == 2.0
