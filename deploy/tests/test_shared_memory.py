"""The shared-memory link between real processes, including ones that are killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from gaussgym_deploy.robot_io import JointCommand, LinkError, RobotState
from gaussgym_deploy.shared_memory import EpisodeResult, ResetRequest, SharedMemoryRobot, SharedMemoryServer
from gaussgym_deploy.sim2sim import new_name
from gaussgym_deploy.testing import JOINT_NAMES

SHM = Path("/dev/shm")
COUNTER = iter(range(10**6))


@pytest.fixture
def name():
    name = f"{new_name()}-{next(COUNTER)}"
    yield name
    if SHM.is_dir():
        assert not (SHM / name).exists(), "a shared-memory segment leaked"


def spawn(code):
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def toy(name, **options):
    arguments = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return spawn(
        f"from gaussgym_deploy.testing import serve_toy_robot\nserve_toy_robot({name!r}, {arguments})"
    )


@pytest.fixture
def toy_robot(name):
    """The toy robot's process and the link to it."""
    process = toy(name)
    try:
        with SharedMemoryRobot(name, alive=lambda: process.poll() is None, answer_timeout_s=60.0) as robot:
            yield process, robot
    finally:
        process.kill()
        process.communicate()


def make_server(name, **options):
    about = {"robot": "toy", "joint_names": JOINT_NAMES, "camera_size_wh": (12, 8), **options}
    return SharedMemoryServer(name, **about)


def test_everything_crosses_unchanged_and_episodes_end(toy_robot):
    process, robot = toy_robot
    assert robot.description.robot == "bench"
    assert robot.description.joint_names == JOINT_NAMES
    assert robot.description.camera_size_wh == (12, 8)
    robot.reset(1)
    state = robot.read()
    assert state.rgb.shape == (8, 12, 3)
    assert robot.result is EpisodeResult.RUNNING
    last_t_s = state.t_s
    for _ in range(20):
        robot.write(JointCommand(np.zeros(12), np.full(12, 20.0), np.full(12, 0.5)))
        state = robot.read()
        assert state.t_s == pytest.approx(last_t_s + 0.02)
        last_t_s = state.t_s
    assert robot.result is EpisodeResult.FELL
    robot.reset(3)
    assert robot.read().t_s > last_t_s
    assert robot.result is EpisodeResult.RUNNING
    robot.close()
    assert process.wait(timeout=60) == 0


def test_reading_twice_gives_the_same_state(toy_robot):
    _, robot = toy_robot
    robot.reset(0)
    assert robot.read().t_s == robot.read().t_s


def test_in_lockstep_the_runtime_speaks_first(toy_robot):
    _, robot = toy_robot
    with pytest.raises(LinkError, match="reset"):
        robot.read()


def test_the_name_is_gone_once_both_are_there(name, toy_robot):
    _, robot = toy_robot
    robot.reset(0)
    robot.read()
    if SHM.is_dir():
        assert not (SHM / name).exists()


def test_values_of_all_fields_and_of_the_image(name):
    generator = np.random.default_rng(0)
    with make_server(name) as server, SharedMemoryRobot(name) as robot:
        server.wait_for_runtime(1.0)
        robot.write(JointCommand(*(generator.normal(size=12) for _ in range(3))))
        request = server.wait_request(1.0)
        sent = RobotState(
            1.25, *(generator.normal(size=size) for size in (12, 12, 4, 3, 3)),
            generator.integers(0, 256, (8, 12, 3), dtype=np.uint8), 1.2,
        )  # fmt: skip
        sent.lin_acc_b, sent.joint_torque, sent.motor_temperature_c, sent.position_w = (
            generator.normal(size=size) for size in (3, 12, 12, 3)
        )
        sent.remote = generator.integers(0, 256, 40, dtype=np.uint8)
        sent.corrupt, sent.out_of_order, sent.rival_writers = 7, 8, 1
        sent.battery_fraction, sent.round_trip_s, sent.supervisor_fault = (
            0.5,
            0.002,
            "heartbeat: é" + "x" * 300,
        )
        server.forward_s = 0.0005
        server.publish(sent, result=EpisodeResult.TIMEOUT)
        got = robot.read()
        for field in (
            "joint_pos", "joint_vel", "quat_wxyz", "ang_vel_b", "command", "rgb", "lin_acc_b", "joint_torque",
            "motor_temperature_c", "position_w", "remote", "battery_fraction", "round_trip_s", "corrupt", "out_of_order", "rival_writers",
        ):  # fmt: skip
            np.testing.assert_array_equal(getattr(got, field), getattr(sent, field))
        assert (got.t_s, got.rgb_t_s) == (1.25, 1.2)
        assert robot.result is EpisodeResult.TIMEOUT
        assert robot.forward_s == 0.0005
        assert got.supervisor_fault == "heartbeat: é" + "x" * 147  # cut at 160 bytes
        assert 0.0 <= time.monotonic() - server.request_sent_s < 10.0
        generator = np.random.default_rng(0)
        for array in (request.q, request.kp, request.kd):
            np.testing.assert_array_equal(array, generator.normal(size=12))


def test_what_a_robot_does_not_say_arrives_as_not_said(name):
    with make_server(name, lockstep=False) as server, SharedMemoryRobot(name) as robot:
        state = RobotState.zeros(12)
        state.joint_torque = np.arange(12.0)
        server.publish(state)
        got = robot.read()
        np.testing.assert_array_equal(got.joint_torque, np.arange(12.0))
        assert got.lin_acc_b is got.motor_temperature_c is got.position_w is None
        assert np.isnan([got.battery_fraction, got.round_trip_s, robot.forward_s]).all()
        assert got.supervisor_fault == ""
        state.joint_torque, state.supervisor_fault = None, "link: gone"
        server.publish(state)
        assert robot.read().joint_torque is None
        assert robot.read().supervisor_fault == "link: gone"


def test_an_image_crosses_only_when_its_time_changed(name):
    with make_server(name, lockstep=False) as server, SharedMemoryRobot(name) as robot:
        state = RobotState.zeros(12)
        server.publish(state)
        assert robot.read().rgb is None
        state.rgb, state.rgb_t_s = np.full((8, 12, 3), 7, dtype=np.uint8), 0.1
        server.publish(state)
        state.rgb[:] = 9  # a renderer that draws into the same buffer has not announced it yet
        server.publish(state)
        assert (robot.read().rgb == 7).all()
        state.rgb_t_s = 0.2
        server.publish(state)
        assert (robot.read().rgb == 9).all()
        assert robot.read().rgb_t_s == 0.2


def test_wrong_image_is_refused_at_the_server(name):
    with make_server(name) as server:
        state = RobotState.zeros(12)
        state.rgb, state.rgb_t_s = np.zeros((12, 8, 3), dtype=np.uint8), 0.0
        with pytest.raises(LinkError, match=r"\(8, 12, 3\)"):
            server.publish(state)


def test_free_running_robot_gives_the_newest_state_and_never_blocks(name):
    process = toy(name, lockstep=False)
    try:
        with SharedMemoryRobot(name, alive=lambda: process.poll() is None) as robot:
            robot.reset(0)
            seen = set()
            for _ in range(30):
                seen.add(robot.read().t_s)
                time.sleep(0.01)
            assert 1 < len(seen) < 30
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("lockstep", [True, False])
def test_a_killed_robot_process_is_noticed(name, lockstep):
    process = toy(name, lockstep=lockstep, die_at_step=3)
    command = JointCommand.zeros(12)

    def talk(robot):
        robot.reset(0)
        for _ in range(1000):
            robot.read()
            robot.write(command)
            time.sleep(0.01)

    try:
        with SharedMemoryRobot(name, alive=lambda: process.poll() is None) as robot:
            start_s = time.perf_counter()
            with pytest.raises(LinkError, match="gone"):
                talk(robot)
            assert time.perf_counter() - start_s < 30.0  # far below the timeout of 60 s
    finally:
        process.kill()
        process.communicate()


def test_a_killed_runtime_is_noticed_by_the_robot_process(name):
    code = (
        "import os, signal\n"
        "from gaussgym_deploy.shared_memory import SharedMemoryRobot\n"
        f"robot = SharedMemoryRobot({name!r}, timeout_s=60.0)\n"
        "robot.reset(5)\n"
        "robot.read()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with make_server(name) as server:
        runtime = spawn(code)
        server.wait_for_runtime(60.0)
        assert server.wait_request(60.0) == ResetRequest(5)
        server.publish(RobotState.zeros(12))
        start_s = time.perf_counter()
        with pytest.raises(LinkError, match="runtime is gone"):
            server.wait_request(120.0)
        assert time.perf_counter() - start_s < 60.0
        assert server.runtime_gone
        runtime.communicate()


def test_a_runtime_that_closes_is_a_normal_end(name):
    with make_server(name) as server:
        robot = SharedMemoryRobot(name)
        server.wait_for_runtime(1.0)
        robot.close()
        robot.close()
        assert server.wait_request(5.0) is None


def test_an_attached_process_that_exits_does_not_remove_the_segment(name):
    """Before Python 3.13 the attacher's resource tracker would unlink it."""
    code = f"from gaussgym_deploy.shared_memory.segments import attach\nmemory = attach({name!r}, 5.0, lambda: True)\nmemory.close()\n"
    with make_server(name) as server:
        process = spawn(code)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "leaked" not in stderr
        time.sleep(0.3)  # its tracker acts after it has ended
        with SharedMemoryRobot(name, timeout_s=1.0):
            server.wait_for_runtime(1.0)


@pytest.mark.skipif(not SHM.is_dir(), reason="needs /dev/shm")
def test_a_server_killed_before_anybody_came_leaves_no_segment(name):
    process = toy(name)
    wait_for(lambda: serves(name))
    process.kill()
    process.communicate()
    wait_for(lambda: not (SHM / name).exists())


@pytest.mark.skipif(not SHM.is_dir(), reason="needs /dev/shm")
def test_the_leftover_of_a_dead_server_is_replaced(name):
    process = toy(name)
    wait_for(lambda: serves(name))
    process.kill()
    content = (SHM / name).read_bytes()
    process.communicate()
    wait_for(lambda: not (SHM / name).exists())
    (SHM / name).write_bytes(content)  # as if the tracker had been killed as well
    with make_server(name) as server, SharedMemoryRobot(name, timeout_s=1.0) as robot:
        assert robot.description.robot == "toy"
        server.wait_for_runtime(1.0)


def test_a_living_servers_name_is_refused(name):
    with make_server(name) as server:
        with pytest.raises(LinkError, match=f"process {os.getpid()} serves"):
            make_server(name)
        with SharedMemoryRobot(name, timeout_s=1.0):
            server.wait_for_runtime(1.0)


def test_nobody_there(name):
    with pytest.raises(LinkError, match="no robot process serves"):
        SharedMemoryRobot(name, timeout_s=0.1)
    with pytest.raises(LinkError, match="ended before"):
        SharedMemoryRobot(name, timeout_s=10.0, alive=lambda: False)


def test_only_one_runtime_may_attach(name):
    with (
        make_server(name),
        SharedMemoryRobot(name),
        pytest.raises(LinkError, match="drives this robot already"),
    ):
        SharedMemoryRobot(name)


def test_another_version_is_refused(name):
    with make_server(name) as server:
        server._segment.put("I", 8, 99)
        with pytest.raises(LinkError, match="version 99"):
            SharedMemoryRobot(name)


def test_a_silent_robot_is_an_error_after_the_timeout(name):
    silent = pytest.raises(LinkError, match=r"did not answer for 0\.2 s")
    with make_server(name), SharedMemoryRobot(name, answer_timeout_s=0.2) as robot, silent:
        robot.reset(0)


def test_a_message_caught_in_the_middle_of_a_write_is_taken_again(name):
    with make_server(name, lockstep=False) as server, SharedMemoryRobot(name) as robot:
        server.publish(RobotState.zeros(12))
        box = server._segment.state
        good = bytes(box._shared)
        box._shared[40] ^= 0xFF
        assert not robot._segment.state.fetch()
        box._shared[:] = good
        assert robot._segment.state.fetch()


def serves(name):
    return (SHM / name).exists() and (SHM / name).read_bytes()[:8] == b"GGROBOT1"


def wait_for(condition, timeout_s=60.0):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "waited too long"
        time.sleep(0.01)
