"""The soak test finds what it looks for: stuck environments, numbers that are not finite, memory that grows."""

import importlib.util
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "experiments" / "soak" / "soak.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="runs in the repository's checkout")


@pytest.fixture(scope="module")
def soak():
    import sys

    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["soak"]


def test_a_stuck_environment_is_found(soak):
    """Env 0 walks, 1 lies still, 2 lies still but starts anew in time, 3 never ends."""
    position = torch.zeros(4, 3)
    env = SimpleNamespace(
        sim=SimpleNamespace(state=SimpleNamespace(root_pos_w=position)), num_envs=4, device="cpu",
        cfg=SimpleNamespace(control_s=0.02), max_episode_length=700,
    )  # fmt: skip
    watch = soak.Watch(env)
    no = torch.zeros(4, dtype=torch.bool)
    for step in range(1, 720):
        position[[0, 3], 0] += 0.002
        dones = no.clone()
        dones[2] = step % 400 == 0
        age = torch.tensor([step % 700, step % 600, step % 400, step])
        watch.look(age, dones, {"fell": dones, "time_outs": no.float(), "success": no})
        if step == 499:
            assert watch.report()["stuck"] == 0
    report = watch.report()
    assert report["stuck_envs"] == [1, 3]
    assert report["endings"] == {
        "fell": 1,
        "success": 0,
        "time": 0,
        "border_or_end_of_path": 0,
        "all": 1,
    }
    assert report["longest_episode_steps"] == 719


def test_endings_are_told_apart(soak):
    position = torch.zeros(4, 3)
    env = SimpleNamespace(
        sim=SimpleNamespace(state=SimpleNamespace(root_pos_w=position)), num_envs=4, device="cpu",
        cfg=SimpleNamespace(control_s=0.02), max_episode_length=100,
    )  # fmt: skip
    watch = soak.Watch(env)
    yes, no = torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)
    fell, success = no.clone(), no.clone()
    fell[0], success[1] = True, True
    watch.look(
        torch.tensor([5, 5, 100, 5]), yes, {"fell": fell, "time_outs": (~fell).float(), "success": success}
    )
    assert watch.report()["endings"] == {
        "fell": 1,
        "success": 1,
        "time": 1,
        "border_or_end_of_path": 1,
        "all": 4,
    }


def test_a_short_run_of_one_robot(soak, tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "HEIGHTS_M", (0.2,))
    report = soak.soak("go1", 12, num_envs=8, threads=1, replays=tmp_path)
    assert report["passed"]
    assert report["steps"] == 96
    assert len(report["memory_mib"]) == 11
    assert report["not_finite"] == report["stuck"] == 0
    assert report["endings"]["all"] >= report["endings"]["fell"]
    monkeypatch.setattr(soak, "GROWTH_MIB", -1.0)
    assert not soak.soak("go1", 1, num_envs=4, threads=1, replays=tmp_path)["passed"]


def test_a_number_that_is_not_finite_fails(soak, tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "HEIGHTS_M", (0.2,))
    monkeypatch.setattr(soak, "ACTION_STD", (1.0, math.nan))
    report = soak.soak("go1", 2, num_envs=4, threads=1, replays=tmp_path)
    assert not report["passed"]
    assert report["not_finite"] == 4
    assert report["findings"][0]["kind"] == "action"


def test_what_is_done_is_not_done_again(soak, tmp_path, capsys):
    job = soak.Soak(tmp_path, steps=100, robots=("a1", "go1"), num_envs=4)
    for name in job.robots:
        done = {
            "robot": name, "passed": name == "a1", "settings": job._settings(job.robots), "steps": 50, "steps_per_s": 1.0,
            "not_finite": 0, "stuck": 0, "seconds": 50.0, "growth_mib": 0.0, "endings": {},
        }  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(done))
    assert soak.run(job.run) == 2
    assert "soak failed" in capsys.readouterr().err
    assert json.loads((tmp_path / "soak.json").read_text())["total"]["steps"] == 100
