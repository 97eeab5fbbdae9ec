"""The bench measures what it says: turns, parts of a step, rivals at equal physics."""

import json
import time

import numpy as np
import pytest
import torch
from gaussgym_scene.command import run
from gaussgym_sim.bench.command import Bench
from gaussgym_sim.bench.runs import EnvRun, SimRun
from gaussgym_sim.bench.timing import Spread, Stopwatch, ratio, summary, take_turns
from gaussgym_sim.engines.mujoco_model import build_model
from gaussgym_sim.ground.terrain import ground_of
from gaussgym_sim.grounds import flat_scene
from gaussgym_sim.robot import get_robot
from gaussgym_sim.vecsim import make_sim


def test_turns_rotate_and_the_first_round_does_not_count():
    order, ticks = [], []

    def contestant(name):
        def work():
            order.append(name)
            return {"n": float(len(order))}

        return work

    results = take_turns({n: contestant(n) for n in "abc"}, rounds=2, done=lambda: ticks.append(len(order)))
    assert "".join(order) == "abc" + "bca" + "cab"
    assert results == {"a": {"n": [6.0, 8.0]}, "b": {"n": [4.0, 9.0]}, "c": {"n": [5.0, 7.0]}}
    assert ticks == list(range(1, 10))
    assert ratio(results, "a", "b", "n") == Spread((6 / 4 + 8 / 9) / 2, 8 / 9, 1.5)
    assert summary(results)["c"]["n"] == Spread(6.0, 5.0, 7.0)


def test_a_stopwatch_tells_sleep_from_work():
    watch = Stopwatch(cpu=True)
    watch.around(time.sleep)(0.05)
    assert watch.wall_s >= 0.05
    assert 0 < watch.cpu_s < 0.02
    watch.reset()
    assert watch.wall_s == watch.cpu_s == 0.0


def test_parts_of_a_step_add_up():
    env_run = EnvRun(make_sim("mujoco", "go1", [flat_scene()], 32, num_threads=1), steps=10)
    n = env_run()
    step_ms = 1e3 * 32 / n["control_steps_per_s"]
    assert n["physics_ms"] + n["environment_ms"] == pytest.approx(step_ms)
    assert 0 < n["engine_ms"] < n["physics_ms"] < step_ms
    assert n["overhead_percent"] == pytest.approx(100 * (step_ms / n["engine_ms"] - 1))
    assert n["us_per_env_step"] == pytest.approx(1e3 * step_ms / 32)
    assert n["physics_steps_per_s"] == pytest.approx(4 * 32 * 1e3 / n["physics_ms"])


def test_physics_alone_starts_anew_each_time():
    sim = make_sim("mujoco", "go1", [flat_scene()], 4, num_threads=1)
    sim_run = SimRun(sim, steps=5)
    sim_run()
    first = sim.state.joint_pos.clone()
    sim_run()
    assert torch.equal(sim.state.joint_pos, first)
    assert bool(sim.state.foot_contact.any())


def test_the_rivals_physics_is_ours():
    """The plain environment and our simulator, given the same actions, go the same way."""
    pytest.importorskip("gymnasium")
    from dataclasses import asdict

    from gaussgym_sim.bench.plain_env import PlainEnv

    robot, scene = get_robot("go1"), flat_scene()
    model = build_model(robot, ground_of(scene, "boxes"))
    joints = (
        np.array([model.joint(name).qposadr[0] for name in robot.joint_names]),
        np.array([model.joint(name).dofadr[0] for name in robot.joint_names]),
        np.array([model.actuator(name).id for name in robot.joint_names]),
    )
    plain = PlainEnv(model, joints, asdict(robot), np.array([0.0, 0.0, 0.3]))
    obs, _ = plain.reset(seed=0)
    sim = make_sim("mujoco", robot, [scene], 1)
    pose = torch.tensor(robot.default_joint_pos)[None]
    sim.reset(
        torch.tensor([0]), root_pos_w=torch.tensor([[0.0, 0.0, 0.3]]), root_quat_wxyz=torch.tensor([[1.0, 0, 0, 0]]),
        root_lin_vel_w=torch.zeros(1, 3), root_ang_vel_b=torch.zeros(1, 3), joint_pos=pose, joint_vel=torch.zeros(1, 12),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for _ in range(25):
        action = rng.normal(size=12).astype(np.float32)
        obs, *_ = plain.step(action)
        sim.step(pose + robot.action_scale * torch.from_numpy(action)[None])
    # the start pose is rounded to float32 here and not there: contacts amplify that
    np.testing.assert_allclose(obs[9:21], (sim.state.joint_pos - pose)[0], atol=2e-3)
    assert plain.observation_space.contains(obs)


def test_the_command_writes_its_numbers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gaussgym_sim.bench.command._QUICK_SIZES", (2, 4))
    file = tmp_path / "bench.json"
    assert run(Bench(num_envs=4, steps=2, rounds=2, threads=1, json=file).run) == 0
    report = json.loads(file.read_text())
    table = report["go1, 4 environments"]["flat"]["control_steps_per_s"]
    assert 0 < table["low"] <= table["median"] <= table["high"]
    cost = report["cost by number of environments, stairs 10 cm"]
    assert cost["cost_of_most_over_fewest"]["low"] > 0
    assert report["machine"]["cpus"] >= 1
    assert capsys.readouterr().out.splitlines()[-1] == str(file)


def test_bad_options_are_told(capsys):
    assert run(Bench(steps=0).run) == 2
    assert "0 steps" in capsys.readouterr().err
    assert run(Bench(backend="havok").run) == 2


@pytest.mark.slow
def test_the_whole_bench(tmp_path, monkeypatch):
    pytest.importorskip("gymnasium")
    monkeypatch.setattr("gaussgym_sim.bench.command._FULL_SIZES", (4, 8))
    file = tmp_path / "bench.json"
    assert run(Bench(num_envs=16, steps=2, rounds=1, full=True, json=file).run) == 0
    report = json.loads(file.read_text())
    titles = " ".join(report)
    for part in ("cost by number", "bridge", "gymnasium", "MuJoCo Warp"):
        assert part in titles
