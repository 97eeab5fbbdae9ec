"""Episodes through the real runtime against a robot process, and what happens when that process misbehaves."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
from gaussgym_deploy.bundle import BundleError, PolicyBundle
from gaussgym_deploy.robot_io import LinkError
from gaussgym_deploy.sim2sim import new_name, robot_command, sim2sim
from gaussgym_deploy.testing import make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return PolicyBundle.load(make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=6))


def toy_command(name, **options):
    arguments = "".join(f", {key}={value!r}" for key, value in options.items())
    code = f"from gaussgym_deploy.testing import serve_toy_robot; serve_toy_robot({name!r}{arguments})"
    return [sys.executable, "-c", code]


def play(bundle, *, episodes=6, **options):
    name = new_name()
    return sim2sim(bundle, toy_command(name, **options), name, episodes=episodes, start_timeout_s=120.0)


def test_results_faults_and_steps_are_counted(bundle):
    seen = []
    name = new_name()
    report = sim2sim(
        bundle,
        toy_command(name, episode_steps=25),
        name,
        episodes=6,
        progress=lambda r: seen.append(r.episodes),
    )
    assert [episode.result for episode in report.results] == ["success", "fell", "timeout"] * 2
    assert [episode.start_index for episode in report.results] == list(range(6))
    assert (report.success_rate, report.fall_rate, report.timeout_rate) == pytest.approx(
        (1 / 3, 1 / 3, 1 / 3)
    )
    assert report.control_steps == 6 * 25
    assert all(episode.seconds == pytest.approx(0.5) for episode in report.results)
    assert report.faults == {}
    assert report.inference_ms["p50"] > 0
    assert report.lockstep
    assert seen == [1, 2, 3, 4, 5, 6]


def test_real_time_episodes(bundle):
    report = play(bundle, episodes=2, lockstep=False, episode_steps=15)
    assert [episode.result for episode in report.results] == ["success", "fell"]
    assert not report.lockstep
    assert report.wall_s > 2 * 15 * 0.02 * 0.8


def test_guards_act_in_simulation_too(bundle):
    strict = dataclasses.replace(bundle, guards={"camera_age_s": 0.05})  # frames come every 0.1 s
    report = play(strict, episodes=2, episode_steps=25)
    assert report.faults == {"camera_age": 2}
    assert all(episode.fault.startswith("camera_age: last usable frame is") for episode in report.results)


def test_a_robot_process_that_is_killed_is_one_error(bundle):
    with pytest.raises(LinkError, match="SIGKILL") as caught:
        play(bundle, die_at_step=5)
    assert "\n" not in str(caught.value)


def test_a_robot_process_that_fails_to_start_gives_its_last_words(bundle):
    name = new_name()
    command = [sys.executable, "-c", "raise SystemExit('error: scene is empty')"]
    with pytest.raises(
        LinkError, match=r"ended before its link came up \(exit status 1: error: scene is empty\)"
    ):
        sim2sim(bundle, command, name, start_timeout_s=120.0)


def test_a_program_that_does_not_exist(bundle):
    with pytest.raises(LinkError, match="cannot start the robot process"):
        sim2sim(bundle, ["/no/such/program"], new_name())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"robot": "go9"}, "robot go9"),
        ({"joint_names": tuple(f"j{i}" for i in range(12))}, "joint order"),
        ({"camera_size_wh": (8, 12)}, "camera image"),
        ({"camera_size_wh": None}, "camera image None"),
        ({"control_dt_s": 0.01}, "control period"),
        ({"num_starts": 3}, "only 3 starts"),
    ],
)
def test_a_robot_that_does_not_fit_the_bundle_is_refused(bundle, options, expected):
    with pytest.raises(BundleError, match=expected):
        play(bundle, **options)


def test_no_process_survives_a_killed_sim2sim(bundle, tmp_path):
    """`kill -9` of the runtime: the robot process notices and ends by itself."""
    name = new_name()
    inner = toy_command(name, episode_steps=5)
    inner[-1] = f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); " + inner[-1]
    code = (
        "from gaussgym_deploy.bundle import PolicyBundle\n"
        "from gaussgym_deploy.sim2sim import sim2sim\n"
        f"mark = lambda report: open({str(tmp_path / 'talking')!r}, 'w').close()\n"
        f"sim2sim(PolicyBundle.load({str(bundle.path)!r}), {inner!r}, {name!r}, episodes=10**9, progress=mark)\n"
    )
    outer = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    end_s = time.monotonic() + 120.0
    pid_file, shm = tmp_path / "pid", f"/dev/shm/{name}"
    while not (tmp_path / "talking").exists() and time.monotonic() < end_s:
        time.sleep(0.02)
    os.kill(outer.pid, signal.SIGKILL)
    outer.wait()
    pid = int(pid_file.read_text())
    while running(pid) and time.monotonic() < end_s:
        time.sleep(0.02)
    assert not running(pid)
    assert not os.path.exists(shm)


def running(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] not in "ZX"
    except OSError:
        return False


def test_the_command_line_of_the_robot_process(bundle, tmp_path, monkeypatch):
    program = tmp_path / "gaussgym-learn"
    program.write_text("#!/bin/sh\n")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    command = robot_command("scenes/street", "link", bundle, lockstep=True, starts=tmp_path / "starts.json")
    assert command[:6] == [str(program), "robot", "--scene", "scenes/street", "--shm", "link"]
    assert "--lockstep" in command
    assert command[-2:] == ["--starts", str(tmp_path / "starts.json")]
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LinkError, match="gaussgym-learn is not installed"):
        robot_command("scenes/street", "link", bundle, lockstep=True, starts=None)
