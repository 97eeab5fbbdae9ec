"""The supervisor as a process: kills, stops and signals, seen from the robot's side."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from gaussgym_deploy.bundle import PolicyBundle
from gaussgym_deploy.robot_io import BenchRobot, JointCommand, LinkError, SupervisorGone
from gaussgym_deploy.supervisor import SupervisorCfg
from gaussgym_deploy.supervisor_process import SupervisedRobot
from gaussgym_deploy.testing import DEFAULT_POSE, HEIGHT, WIDTH, make_bundle

SHM = Path("/dev/shm")
LINK = f"{Path(__file__).stem}:recording_robot"
PATIENT = SupervisorCfg(
    heartbeat_periods=25.0, hold_s=1.0, final_damp_s=0.2
)  # busy machines stop anybody for 0.1 s


class RecordingRobot(BenchRobot):
    """A bench robot that writes every command that reaches it into a file, in one write each: time [s], kp, kd, q."""

    def __init__(self, path, **options):
        super().__init__(start_joint_pos=DEFAULT_POSE, camera_size_wh=(WIDTH, HEIGHT), **options)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, command):
        row = np.concatenate([[time.monotonic(), command.kp[0], command.kd[0]], command.q])
        os.write(self._file, row.tobytes())
        super().write(command)

    def read(self):
        state = super().read()
        if os.environ.get("SPOIL_IMAGE"):
            state.rgb = state.rgb[:4]
        return state

    def close(self):
        os.write(self._file, np.full(15, np.nan).tobytes())


def recording_robot(bundle, path=None):
    return RecordingRobot(path or os.environ["RECORD"])


def commands_in(path):
    return np.fromfile(path).reshape(-1, 15)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return PolicyBundle.load(make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=6))


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The child imports this file; and no shared memory may be left."""
    before = set(SHM.glob("gaussgym-*")) if SHM.is_dir() else set()
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    yield
    if SHM.is_dir():
        mine = [path for path in set(SHM.glob("gaussgym-*")) - before if f"-{os.getpid()}-" in path.name]
        assert mine == []


def good_command():
    return JointCommand(DEFAULT_POSE.copy(), np.full(12, 20.0), np.full(12, 0.5))


def drive(robot, seconds):
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        robot.read()
        robot.write(good_command())
        time.sleep(0.02)


def wait_until_dead(pid, timeout_s=10.0):
    end_s = time.monotonic() + timeout_s
    while True:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except (ProcessLookupError, FileNotFoundError):
            return
        assert time.monotonic() < end_s, "the supervisor does not end"
        time.sleep(0.02)


def is_damping(rows):
    return (rows[:, 1] == 0.0) & (rows[:, 2] == 3.0)


def test_commands_go_through_and_a_normal_end_damps(bundle, tmp_path):
    with SupervisedRobot(LINK, bundle, options={"path": str(tmp_path / "c")}, cfg=PATIENT) as robot:
        drive(robot, 0.5)
        state = robot.read()
        assert state.rgb.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(state.joint_pos - DEFAULT_POSE).max() < 0.1
        assert state.motor_temperature_c.shape == (12,)
        assert 0.0 < robot.forward_s < 0.5
        assert state.supervisor_fault == ""
    assert robot._process.returncode == 0
    rows = commands_in(tmp_path / "c")
    assert np.isnan(rows[-1]).all()  # the link was closed
    damping = is_damping(rows[:-1])
    first = int(np.argmax(damping))
    assert first > 10
    assert not damping[:first].any()
    assert damping[first:].all()
    assert rows[-2, 0] - rows[first, 0] == pytest.approx(0.2, abs=0.1)
    assert (rows[:first, 3:] == DEFAULT_POSE).all()


RUNTIME = """
import sys, time
import numpy as np
from gaussgym_deploy.bundle import PolicyBundle
from gaussgym_deploy.robot_io import JointCommand
from gaussgym_deploy.supervisor import SupervisorCfg
from gaussgym_deploy.supervisor_process import SupervisedRobot
import {module} as tests
robot = SupervisedRobot(tests.LINK, PolicyBundle.load({bundle!r}), options={{"path": {path!r}}}, cfg=tests.PATIENT)
print(robot.pid, flush=True)
tests.drive(robot, {seconds})
print(robot.read().supervisor_fault, flush=True)
robot.close()
"""


def start_runtime(bundle, path, seconds=60.0):
    code = RUNTIME.format(
        module=Path(__file__).stem, bundle=str(bundle.path), path=str(path), seconds=seconds
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_stopped_runtime_leaves_a_damped_robot(bundle, tmp_path, number):
    runtime, supervisor = start_runtime(bundle, tmp_path / "c")
    try:
        time.sleep(0.5)
        hit_s = time.monotonic()
        os.kill(runtime.pid, number)
        wait_until_dead(supervisor)  # hold_s after the last command
    finally:
        runtime.kill()
        runtime.communicate()
    rows = commands_in(tmp_path / "c")
    assert np.isnan(rows[-1]).all()
    after = rows[:-1][rows[:-1, 0] > hit_s + 0.05]
    first_s = after[np.argmax(is_damping(after)), 0]
    # stopped: the heartbeat of this test is 0.5 s
    assert first_s - hit_s <= (0.2 if number == signal.SIGKILL else 0.7)
    damping = after[after[:, 0] >= first_s]
    assert is_damping(damping).all()
    assert damping[-1, 0] - damping[0, 0] >= (0.8 if number == signal.SIGKILL else 0.4)
    assert np.median(np.diff(damping[:, 0])) < 0.01  # again and again


def test_a_stopped_runtime_that_goes_on_learns_of_it_and_moves_nothing(bundle, tmp_path):
    runtime, supervisor = start_runtime(bundle, tmp_path / "c", seconds=1.6)
    time.sleep(0.5)
    os.kill(runtime.pid, signal.SIGSTOP)
    time.sleep(0.8)
    os.kill(runtime.pid, signal.SIGCONT)
    words, _ = runtime.communicate(timeout=60)
    assert words.startswith("heartbeat: no command for 0.5")
    wait_until_dead(supervisor)
    rows = commands_in(tmp_path / "c")[:-1]
    assert is_damping(rows[np.argmax(is_damping(rows)) :]).all()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_supervisor_damps_first(bundle, tmp_path, number):
    robot = SupervisedRobot(LINK, bundle, options={"path": str(tmp_path / "c")}, cfg=PATIENT)
    drive(robot, 0.3)
    os.kill(robot.pid, number)
    with pytest.raises(SupervisorGone, match=f"exit status 3: error: ended: told to end by {number.name}"):
        drive(robot, 10.0)
    robot.close()
    rows = commands_in(tmp_path / "c")
    assert is_damping(rows[-20:-1]).all()
    assert np.isnan(rows[-1]).all()


def test_a_killed_supervisor_is_noticed_at_once(bundle, tmp_path):
    robot = SupervisedRobot(LINK, bundle, options={"path": str(tmp_path / "c")}, cfg=PATIENT)
    drive(robot, 0.3)
    os.kill(robot.pid, signal.SIGKILL)
    killed_s = time.monotonic()
    with pytest.raises(SupervisorGone, match="killed by signal SIGKILL"):
        drive(robot, 10.0)
    assert time.monotonic() - killed_s < 0.5
    robot.close()
    robot.close()


def test_the_command_ends_with_status_2_and_one_line_when_its_supervisor_dies(bundle, tmp_path):
    command = ["run", str(bundle.path), "--robot", LINK, "--seconds", "60", "--log", str(tmp_path / "log")]
    process = subprocess.Popen(
        [sys.executable, "-m", "gaussgym_deploy", *command], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=tmp_path, env={**os.environ, "RECORD": str(tmp_path / "c")},
    )  # fmt: skip
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    end_s = time.monotonic() + 60.0
    while not (pids := children.read_text().split()) or not has_mode(tmp_path / "log", "stand"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end_s
        time.sleep(0.05)
    os.kill(int(pids[0]), signal.SIGKILL)
    killed_s = time.monotonic()
    _, words = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "supervisor: the supervisor process is gone (killed by signal SIGKILL)" in words
    assert len(words.strip().splitlines()) == 1
    assert time.monotonic() - killed_s < 5.0


def has_mode(path, mode):
    lines = path.read_text().splitlines() if path.exists() else []
    return any(json.loads(line).get("mode") == mode for line in lines if line.endswith("}"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nonsense", {}, "no robot link named 'nonsense'; there is: .*bench"),
        ("bench", {"colour": 1}, "robot link 'bench' has no option 'colour'"),
        ("no.such.module:f", {}, "does not import"),
        (LINK, {"path": "/no/such/folder/c"}, "No such file"),
    ],
)
def test_a_link_that_does_not_open_is_one_clear_line(bundle, name, options, message):
    with pytest.raises(LinkError, match=message):
        SupervisedRobot(name, bundle, options=options)


def test_an_image_of_another_size_reaches_the_runtimes_guard_as_such(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("SPOIL_IMAGE", "1")
    with SupervisedRobot(LINK, bundle, options={"path": str(tmp_path / "c")}, cfg=PATIENT) as robot:
        time.sleep(0.05)
        assert robot.read().rgb.shape == (4, WIDTH, 3)
