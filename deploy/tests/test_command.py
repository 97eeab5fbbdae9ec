"""The command as a user types it: exit status, one line of error, what is printed."""

import json
import signal
import subprocess
import sys
import time

import pytest
from gaussgym_deploy.testing import make_bundle
from gaussgym_deploy.testing_command import deploy, fails


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    # A busy test machine may stall for longer than a robot's computer should.
    return make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=50, guards={"deadline_misses": 1000})


def test_check_prints_the_numbers_and_the_path_last(directory, tmp_path):
    done = deploy("check", directory, "--robot", "bench", "--json", tmp_path / "check.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "check.json")
    assert "max abs error of actions" in done.stdout
    numbers = json.loads((tmp_path / "check.json").read_text())
    assert 0 <= numbers["golden_max_abs_error"] < 1e-6
    assert (
        0 < numbers["inference_ms"]["p50"] <= numbers["inference_ms"]["p99"] <= numbers["inference_ms"]["max"]
    )
    assert numbers["control_period_ms"] == pytest.approx(20.0)


def test_check_writes_its_numbers_also_when_it_refuses(directory, tmp_path):
    error = fails("check", directory, "--robot", "go1", "--json", tmp_path / "check.json")
    numbers = json.loads((tmp_path / "check.json").read_text())
    assert numbers["problems"][0] in error
    assert numbers["golden_steps"] == 50
    error = fails("check", tmp_path, "--json", tmp_path / "none.json")
    assert json.loads((tmp_path / "none.json").read_text())["problems"][0] in error


def test_schema_prints_the_schema():
    done = deploy("schema")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["$id"] == "urn:gaussgym:policy:1"


def test_check_refuses_another_robot(directory):
    assert "the policy is for 'bench', not for 'go1'" in fails("check", directory, "--robot", "go1")


def test_check_refuses_a_damaged_bundle(tmp_path):
    directory = make_bundle(tmp_path / "policy", steps=4)
    with open(directory / "policy.onnx", "ab") as file:
        file.write(b"x")
    assert "policy.onnx" in fails("check", directory)


def test_check_of_an_observation_that_this_runtime_does_not_have(tmp_path):
    directory = make_bundle(tmp_path / "policy", steps=4)
    fields = json.loads((directory / "policy.json").read_text())
    fields["observation"][0]["name"] = "odour"
    (directory / "policy.json").write_text(json.dumps(fields))
    assert "'odour' is unknown; this runtime has ang_vel_b" in fails("check", directory)


def test_nothing_there(tmp_path, directory):
    assert "policy.json" in fails("check", tmp_path)
    assert "not found" in fails("sim2sim", directory, "--scene", tmp_path / "no_scene")
    assert "--episodes" in fails("sim2sim", directory, "--scene", tmp_path, "--episodes", "0")


def test_run_on_a_robot_that_is_not_there_lists_those_that_are(directory):
    assert "no robot link named 'mule'; there is: " in fails("run", directory, "--robot", "mule")


def test_run_on_the_bench_in_real_time(directory, tmp_path):
    done = deploy("run", directory, "--seconds", "1.5", "--stand-s", "0.3", "--json", tmp_path / "run.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["fault"] is None
    assert (
        report["ticks"] + report["deadline_misses"] >= 121
    )  # 2.5 s, and a stall of a busy machine at the end
    assert report["ticks_by_mode"]["run"] > 0


def test_ctrl_c_ends_with_130_and_a_complete_log(directory, tmp_path):
    command = [sys.executable, "-m", "gaussgym_deploy", "run", str(directory), "--log", str(tmp_path / "log")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    end_s = time.monotonic() + 120
    while time.monotonic() < end_s:
        if (tmp_path / "log").exists() and '"stand"' in (tmp_path / "log").read_text():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stderr == "interrupted\n"
    events = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
    assert events[0] == "start"
    assert events[-1] == "end"


@pytest.mark.parametrize("command", ["check", "sim2sim", "run"])
def test_help(command):
    done = deploy(command, "--help")
    assert done.returncode == 0
    assert "bundle" in done.stdout.lower()
