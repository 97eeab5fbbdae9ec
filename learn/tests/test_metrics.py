"""What a run says about itself: means, norms, shares of time, by hand."""

import json

import pytest
import torch
from gaussgym_learn.metrics import (
    EpisodeStatistics,
    RolloutTimes,
    cut_curve,
    gradient_norms,
    merged,
    read_curve,
)
from gaussgym_learn.run import Budget, speeds


def test_each_episode_counts_once_and_names_say_what_they_are():
    stats = EpisodeStatistics(3)
    log = {"reward/torque": torch.tensor(-1.0), "episode/success": 1.0, "episode/level": 2.0}
    success = torch.tensor([True, False, False])
    stats.add(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 0, 0]), {"log": log, "success": success})
    log = {"reward/torque": torch.tensor(-4.0), "episode/success": 0.0, "episode/level": 4.0}
    none = torch.zeros(3, dtype=torch.bool)
    stats.add(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 1]), {"log": log, "success": none})
    found = stats.summary()
    assert found["Reward/torque"] == pytest.approx((1 * -1.0 + 2 * -4.0) / 3)
    assert found["Curriculum/level"] == pytest.approx((2.0 + 2 * 4.0) / 3)
    assert found["Train/success"] == pytest.approx(1 / 3)
    assert found["Train/mean_reward"] == pytest.approx((1.0 + 4.0 + 6.0) / 3)
    assert found["Train/mean_episode_length"] == pytest.approx((1 + 2 + 2) / 3)
    assert "Reward/torque" not in stats.summary()  # only of the last update


def test_a_task_without_success_has_none():
    stats = EpisodeStatistics(1)
    stats.add(
        torch.ones(1),
        torch.ones(1),
        {"log": {"episode/fell": 0.0}, "success": torch.zeros(1, dtype=torch.bool)},
    )
    assert "Train/success" not in stats.summary()


def test_several_processes_are_one():
    one, other = (
        {"Perf/total_fps": 100.0, "Loss/value": 1.0, "Train/success": 0.5},
        {"Perf/total_fps": 50.0, "Loss/value": 3.0},
    )
    assert merged([one, other]) == {"Perf/total_fps": 150.0, "Loss/value": 2.0, "Train/success": 0.5}


def test_gradient_norms_are_those_of_the_parts():
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ELU(), torch.nn.Linear(1, 1, bias=False))
    model[0].weight.grad, model[0].bias.grad = torch.full((1, 1), 3.0), torch.full((1,), 4.0)
    assert gradient_norms({"actor": model}) == {"Gradient/actor.0": 5.0}


def test_a_curve_is_cut_where_the_run_goes_on(tmp_path):
    rows = [{"iteration": i, "x": i / 3} for i in range(1, 6)]
    (tmp_path / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"iterat')
    cut_curve(tmp_path, 3)
    assert read_curve(tmp_path) == rows[:3]
    assert (tmp_path / "curve.jsonl").read_text().endswith("}\n")
    cut_curve(tmp_path / "none", 3)


def test_time_splits_into_physics_rendering_and_policy(monkeypatch):
    now = [10.0]
    monkeypatch.setattr("gaussgym_learn.metrics.time.perf_counter", lambda: now[0])

    class Env:
        spent = (1.0, 2.0)

        def spent_s(self):
            return self.spent

    env = Env()
    times = RolloutTimes(env)
    for _ in range(2):
        with times.stepping():
            now[0] += 3.0
            env.spent = (env.spent[0] + 1.5, env.spent[1] + 0.5)
        now[0] += 1.0  # the policy
    assert times.summary(8.0) == {
        "Perf/physics_time": 3.0, "Perf/render_time": 1.0, "Perf/policy_time": 2.0, "Perf/collection_time": 8.0,
    }  # fmt: skip


def test_the_line_says_how_fast_on_what_and_how_long():
    scalars = {
        "Perf/total_fps": 12345.6,
        "Perf/physics_time": 2.0,
        "Perf/render_time": 0.0,
        "Perf/learning_time": 1.0,
    }
    assert speeds(scalars, 4.0) == "12,346 steps/s (physics 50%, learning 25%)"
    assert speeds({**scalars, "Perf/render_time": 1.0, "Train/mean_reward": 2.0}, 4.0) == (
        "12,346 steps/s (physics 50%, rendering 25%, learning 25%), reward 2.00"
    )
    budget = Budget(2.0, 100, 1.0, None)
    assert budget.left_s(30.0, 40, 0.5) == 30.0  # 60 updates at half a second come before 90 s
    assert budget.left_s(110.0, 40, 0.5) == 10.0
    assert budget.fraction(30.0, 40) == 0.4
