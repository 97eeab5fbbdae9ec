"""`run` and `checklist` as a user types them: operators, options, dry runs."""

import json
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from gaussgym_deploy.bundle import BundleError, PolicyBundle
from gaussgym_deploy.commands.options import link_options, merged
from gaussgym_deploy.runtime import Runtime
from gaussgym_deploy.states import Mode
from gaussgym_deploy.teleop import DriveCfg
from gaussgym_deploy.teleop.web import WebOperator
from gaussgym_deploy.testing import FakeClock, FaultyRobot, make_bundle
from gaussgym_deploy.testing_command import deploy, fails


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    relaxed = {
        "deadline_misses": 1000,
        "operator_age_s": 20.0,
        "state_age_s": 5.0,
    }  # the test machine may stall
    return make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=20, guards=relaxed)


def test_options_are_json_or_text():
    assert link_options(("domain=7", "dead-man=false", "scene=runs/a", "wait=0.5")) == {
        "domain": 7, "dead_man": False, "scene": "runs/a", "wait": 0.5,
    }  # fmt: skip
    for bad in ("domain", "=7"):
        with pytest.raises(BundleError, match="not of the form NAME=VALUE"):
            link_options((bad,))
    with pytest.raises(BundleError, match="domain is given twice: 7 and 8"):
        link_options(("domain=7", "domain=8"))


def test_an_option_may_be_given_several_times():
    words = [
        "run",
        "B",
        "--option",
        "a=1",
        "--seconds",
        "3",
        "--option=b=2",
        "--dry-run",
        "--option",
        "c=3",
        "d=--4",
    ]
    assert merged(words) == [
        "run",
        "B",
        "--seconds",
        "3",
        "--dry-run",
        "--option",
        "a=1",
        "b=2",
        "c=3",
        "d=--4",
    ]
    assert merged(["faults", "B", "--links", "bench", "--links", "sim"]) == [
        "faults",
        "B",
        "--links",
        "bench",
        "sim",
    ]


def test_wrong_operators_and_options_end_in_one_line(directory):
    assert "no operator named 'mouse'" in fails("run", directory, "--operator", "mouse")
    assert "needs an --operator" in fails("run", directory, "--operator-option", "port=1")
    assert "operator 'web'" in fails("run", directory, "--operator", "web", "--operator-option", "colour=red")
    assert "has no option 'colour'" in fails("run", directory, "--option", "colour=red")
    several = ("--option", "colour=red", "--option", "seed=1")  # all count, not the last alone
    assert "has no option 'colour'" in fails("run", directory, *several)
    assert "plug the gamepad in" in fails(
        "run", directory, "--operator", "gamepad", "--operator-option", "device=/no/pad"
    )
    assert "needs a terminal" in fails("run", directory, "--operator", "keyboard")
    assert "come from the keyboard here" in fails(
        "checklist", directory, "--robot", "bench", "--operator", "keyboard"
    )


def test_a_dry_run_thinks_and_moves_nothing(directory, tmp_path):
    report, log = tmp_path / "report.json", tmp_path / "log.jsonl"
    done = deploy("run", directory, "--dry-run", "--seconds", 1.5, "--json", report, "--log", log)
    assert done.returncode == 0, done.stderr
    assert "dry run: nothing was sent" in done.stdout
    assert json.loads(report.read_text())["ticks_by_mode"]["run"] > 20
    ticks = [line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == "tick"]
    # The bench robot starts away from where the policy wants it, and nothing draws it there.
    assert ticks[0]["joint_pos"] == ticks[-1]["joint_pos"]
    assert ticks[-1]["target"] != ticks[-1]["joint_pos"]


def test_a_web_page_drives_and_stops_a_run(directory):
    """Real messages to the real server, on a clock that waits for them."""
    clock = FakeClock()
    robot, web = FaultyRobot(clock), WebOperator(DriveCfg(), port=0)
    runtime = Runtime(
        PolicyBundle.load(directory), robot, operator=web, clock=clock, sleep=clock.sleep, stand_s=0.2
    )
    url, sent, seen = web.url.replace("/?", "/drive?"), [], []
    robot.spoil = lambda state: seen.append(runtime.machine.mode)

    def press(now_s):
        message = {"page": "p", "number": len(sent), "sticks": [1, 0, 0], "stop": len(sent) == 60}
        sent.append(message)
        request = urllib.request.Request(url, data=json.dumps(message).encode(), method="POST")
        urllib.request.urlopen(request, timeout=20).close()

    clock.every(0.05, press)
    report = runtime.run(6.0)
    assert "estop: the operator pressed the page's emergency stop" in report.fault
    assert 50 < seen.count(Mode.RUN) < 150
    assert seen[-1] is Mode.DAMP
    assert runtime.report().ticks_by_mode["damp"] > 100


def test_a_web_page_is_served_by_a_run(directory):
    command = [sys.executable, "-m", "gaussgym_deploy", "run", str(directory), "--operator", "web"]
    command += ["--operator-option", "port=0", "--seconds", "60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = re.match(r"open (\S+)", process.stdout.readline()).group(1)
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert b"STOP" in answer.read()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err


def test_the_checklist_stops_at_a_no(directory, tmp_path):
    done = deploy(
        "checklist", directory, "--robot", "bench", "--json", tmp_path / "steps.json",
        "--picture", tmp_path / "camera.png", answers="n\n",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: the checklist ended at")
    steps = json.loads((tmp_path / "steps.json").read_text())
    assert not steps["passed"]
    assert not steps["steps"][-1]["passed"]
