"""The guard names the env, the step and the term of what is not finite, and what it saves goes wrong again in the same way."""

import logging
import math
from dataclasses import replace

import pytest
import torch
from gaussgym_scene.command import run
from gaussgym_scene.errors import InputError, StageError
from gaussgym_sim.__main__ import Replay
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.grounds import flat_scene, wavy_scene
from gaussgym_sim.randomize import RandomizeCfg
from gaussgym_sim.task import RewardTerm, Task, register_task
from gaussgym_sim.vecsim import make_sim
from gaussgym_sim.views.nan_guard import Finding, NanGuard, NanGuardCfg
from gaussgym_sim.views.recorder import SimRecorder
from gaussgym_sim.views.replay import Repetition, load_replay

CFG = replace(EnvCfg(), randomize=RandomizeCfg())
SPOILED = Task(
    "spoiled",
    rewards={
        "late_nan": RewardTerm(
            1.0, lambda env: torch.where(env.episode_length_buf == 7, math.nan, 0.0) + env.task_cfg * 0.0
        )
    },
    observations={"probe": lambda env: torch.where(env.episode_length_buf[:, None] == 9, torch.inf, 0.5)},
    cfg=1.0,
)


@pytest.fixture
def spoiled(monkeypatch):
    from gaussgym_sim import task

    monkeypatch.setattr(task.TASKS, "own", dict(task.TASKS.own))
    register_task(SPOILED)


def guarded(tmp_path, num_envs=6, cfg=CFG, **options):
    sim = SimRecorder.make("mujoco", "go1", [flat_scene(), wavy_scene()], num_envs, keep_steps=10)
    env = Env(sim, cfg, seed=1)
    env.guard = NanGuard(env, NanGuardCfg(tmp_path / "nan", **options))
    return env


def act(env, i, std=0.5):
    return std * torch.randn(env.num_envs, 12, generator=torch.Generator().manual_seed(i))


def replayed(folder):
    repetition = Repetition(load_replay(folder), num_threads=1)
    rows = list(repetition)
    return repetition, rows


def test_an_action_is_named_and_the_others_go_on(tmp_path, caplog):
    env = guarded(tmp_path)
    for i in range(13):
        env.step(act(env, i))
    bad = act(env, 13)
    bad[4, 5] = math.nan
    with caplog.at_level(logging.WARNING):
        obs, reward, _, extras = env.step(bad)
    assert env.guard.findings == [Finding(13, 4, 1, "action", "of joint FL_calf")]
    assert "environment 4, step 13: action of joint FL_calf is not finite; repeat it with" in caplog.text
    assert bool(extras["fell"][4])
    assert torch.isfinite(obs["proprio"]).all()
    assert torch.isfinite(reward).all()
    repetition, rows = replayed(env.guard.saved[0])
    assert rows[-1].step == 13
    assert len(rows) == 14
    assert repetition.differences() == []


def test_a_reward_term_is_named_and_its_episode_ends(tmp_path, spoiled):
    env = guarded(tmp_path, cfg=replace(CFG, task="spoiled", random_initial_age=False))
    env.episode_length_buf[:] = torch.tensor([0, 0, 3, 0, 0, 0])
    for i in range(4):
        _, reward, _, extras = env.step(act(env, i))
    assert env.guard.findings == [Finding(3, 2, 1, "reward", "'late_nan'")]
    assert reward[2] == 0
    assert bool(extras["fell"][2])
    assert math.isfinite(float(extras["log"]["reward/late_nan"]))
    repetition, rows = replayed(env.guard.saved[0])
    assert rows[-1].step == 3
    assert repetition.differences() == []


def test_an_observation_is_named_and_its_episode_ends_in_the_next_step(tmp_path, spoiled):
    env = guarded(tmp_path, cfg=replace(CFG, task="spoiled", task_rewards={"late_nan": 0.0}))
    env.episode_length_buf[:] = torch.tensor([0, 7, 0, 0, 7, 0])
    env.step(act(env, 0))
    obs, *_ = env.step(act(env, 1))
    assert env.guard.findings == [Finding(1, 1, 2, "observation", "'probe' (column 0)")]
    assert torch.isfinite(obs["probe"]).all()
    *_, extras = env.step(act(env, 2))
    assert extras["fell"].tolist()[1] is True
    assert extras["fell"].tolist()[4] is True
    assert len(env.guard.findings) == 1


def test_exploding_physics_is_named_and_explodes_again(tmp_path, capsys):
    env = guarded(tmp_path)
    for i in range(25):
        env.step(act(env, i))
    env.sim.kick(torch.tensor([3]), torch.tensor([[0.0, 1e11, 0.0]]))
    _, _, _, extras = env.step(act(env, 25))
    (finding,) = env.guard.findings
    assert (finding.step, finding.env, finding.envs, finding.kind) == (25, 3, 1, "physics")
    assert "rad/s" in finding.term
    assert bool(extras["fell"][3])
    repetition, rows = replayed(env.guard.saved[0])
    assert [row.invalid for row in rows] == [False] * (len(rows) - 1) + [True]
    assert repetition.differences() == []
    assert run(Replay(env.guard.saved[0], last=3).run) == 0
    out = capsys.readouterr().out
    assert "physics not finite" in out
    assert "environment 3, step 25: physics" in out


def test_it_changes_nothing_where_all_is_well(tmp_path):
    env = guarded(tmp_path)
    plain = Env(make_sim("mujoco", "go1", [flat_scene(), wavy_scene()], 6), CFG, seed=1)
    for i in range(40):
        for a, b in zip(env.step(act(env, i, 1.0)), plain.step(act(env, i, 1.0))):
            if isinstance(a, dict):
                a, b = a.get("proprio", torch.zeros(1)), b.get("proprio", torch.zeros(1))
            assert torch.equal(a, b)
    assert env.guard.findings == []
    assert not (tmp_path / "nan").exists()


def test_it_stops_when_asked_and_keeps_few_files(tmp_path):
    env = guarded(tmp_path, stop=True)
    nan = torch.full((6, 12), math.nan)
    with pytest.raises(StageError, match=r"environment 0 \(and 5 others\), step 0: action of joint FR_hip"):
        env.step(nan)
    env = guarded(tmp_path, max_files=2)
    for _ in range(4):
        env.step(nan)
    assert len(env.guard.findings) == 4
    assert sorted(p.name for p in (tmp_path / "nan").iterdir()) == ["step-000000000", "step-000000001"]


def test_a_sim_that_remembers_nothing_is_refused(tmp_path):
    env = Env(make_sim("mujoco", "go1", [flat_scene()], 2), CFG)
    with pytest.raises(InputError, match=r"make it with SimRecorder\.make"):
        NanGuard(env, NanGuardCfg(tmp_path))
