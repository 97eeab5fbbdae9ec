"""The runtime on a clock that obeys and a robot that breaks on demand."""

import json

import numpy as np
import pytest
from gaussgym_deploy.bundle import PolicyBundle
from gaussgym_deploy.robot_io import LinkError
from gaussgym_deploy.runtime import Runtime
from gaussgym_deploy.states import Mode
from gaussgym_deploy.testing import DEFAULT_POSE, FakeClock, FaultyRobot, make_bundle, standing_state, tilted


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return PolicyBundle.load(make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=6))


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def robot(clock):
    return FaultyRobot(clock)


def start(bundle, robot, clock, **options):
    return Runtime(bundle, robot, clock=clock, sleep=clock.sleep, damp_s=0.1, stand_s=0.4, **options)


def is_damping(command):
    _, _, kp, kd = command
    return not kp.any() and (kd == 3.0).all()


def test_stands_up_runs_and_ends_damped(bundle, robot, clock, tmp_path):
    report = start(bundle, robot, clock, log=tmp_path / "log.jsonl").run(2.0)
    assert report.fault is None
    # 0.1 s damping, 0.4 s standing up, then the policy, then 1 s of damping
    assert report.ticks_by_mode["stand"] == pytest.approx(20, abs=1)
    assert report.ticks_by_mode["run"] == pytest.approx(75, abs=2)
    assert report.ticks_by_mode["damp"] == pytest.approx(55, abs=2)
    assert report.deadline_misses == 0
    assert robot.closed
    times = np.array([command[0] for command in robot.commands[:-1]])
    np.testing.assert_allclose(np.diff(times), 0.02, atol=1e-9)  # something is sent in every period
    assert all(is_damping(command) for command in robot.commands[-50:])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["mode"] for line in lines if line["event"] == "mode"] == ["damp", "stand", "run", "damp"]
    assert lines[0]["event"] == "start"
    assert lines[-1]["event"] == "end"
    assert sum(line["event"] == "tick" for line in lines) == report.ticks


def test_the_policy_sees_the_images_and_its_targets_are_sent(bundle, robot, clock):
    start(bundle, robot, clock).run(1.0)
    running = [command for command in robot.commands if command[2].any()][25:]
    targets = np.array([command[1] for command in running])
    assert (targets != DEFAULT_POSE).all()
    assert np.abs(targets - DEFAULT_POSE).max() < 0.25
    np.testing.assert_array_equal(running[0][2], bundle.kp)


def freeze(attribute):
    held = []

    def spoil(state):
        held.append(getattr(state, attribute))
        setattr(state, attribute, held[0])

    return spoil


def set_value(attribute, index, value):
    def spoil(state):
        getattr(state, attribute)[index] = value

    return spoil


def break_link(state):
    raise LinkError("cable pulled")


def crash_driver(state):
    raise RuntimeError("bug in the driver")


def lose_image(state):
    state.rgb = None


def resize_image(state):
    state.rgb = state.rgb[:4]


def tip_over(state):
    state.quat_wxyz = tilted(1.5, 0)


FAULTS = {
    "frozen state": (freeze("t_s"), "state_age"),
    "frozen camera": (freeze("rgb_t_s"), "camera_age"),
    "no image": (lose_image, "camera_age"),
    "image of another size": (resize_image, "camera_shape"),
    "tipped over": (tip_over, "tilt"),
    "joint beyond its limit": (set_value("joint_pos", 0, 1.5), "joint_position"),
    "joint too fast": (set_value("joint_vel", 7, -60.0), "joint_velocity"),
    "NaN joint": (set_value("joint_pos", 5, np.nan), "non_finite_state"),
    "NaN quaternion": (set_value("quat_wxyz", 0, np.nan), "non_finite_state"),
    "infinite gyroscope": (set_value("ang_vel_b", 1, np.inf), "non_finite_state"),
    "NaN command": (set_value("command", 0, np.nan), "non_finite_state"),
    "cable pulled": (break_link, "link"),
    "driver crashes": (crash_driver, "link"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("recovers", [False, True])
def test_every_fault_damps_in_every_period_and_is_latched(bundle, robot, clock, name, recovers):
    spoil, kind = FAULTS[name]
    start_s = clock()

    def later(state):
        if clock() - start_s >= 1.0 and not (recovers and clock() - start_s > 1.6):
            spoil(state)

    robot.spoil = later
    report = start(bundle, robot, clock).run(3.0, final_damp_s=0.5)
    assert report.fault is not None
    assert report.fault.startswith(kind + ":")
    before = [command for command in robot.commands if command[0] - start_s < 1.0]
    assert before[-1][2].any()  # it was running
    after = [command for command in robot.commands if command[0] - start_s >= 1.0 + 0.6]
    assert all(is_damping(command) for command in after)
    assert len(after) == pytest.approx((3.5 - 1.6) / 0.02, abs=3)  # sent again in every period until closed
    reaction_s = next(c[0] for c in robot.commands if c[0] - start_s >= 1.0 and is_damping(c)) - start_s - 1.0
    assert (
        reaction_s
        <= {"state_age": 0.14, "camera_age": 0.6, "joint_position": 0.06, "joint_velocity": 0.06}.get(
            kind, 0.02
        )
        + 1e-6
    )


def test_a_policy_that_gives_nan_is_never_sent(bundle, robot, clock):
    runtime = start(bundle, robot, clock)
    honest, calls = runtime._policy.act, []

    def act(proprio, rgb=None):
        calls.append(1)
        action = honest(proprio, rgb).copy()
        action[4] = np.nan if len(calls) == 10 else action[4]
        return action

    runtime._policy.act = act
    report = runtime.run(1.5)
    assert report.fault.startswith("non_finite_action")
    assert bundle.joint_names[4] in report.fault
    assert report.ticks_by_mode["run"] == 9
    assert all(np.isfinite(command[1]).all() for command in robot.commands)
    assert len(calls) == 10


def test_a_policy_that_crashes_is_a_fault(bundle, robot, clock):
    runtime = start(bundle, robot, clock)

    def act(proprio, rgb=None):
        raise RuntimeError("out of memory")

    runtime._policy.act = act
    assert runtime.run(1.5).fault == "policy: out of memory"
    assert is_damping(robot.commands[-1])


def test_episodes_do_not_know_of_each_other(bundle, robot, clock):
    """After a restart the same readings give the same targets: hidden state, last action and guards are forgotten."""
    runtime = Runtime(bundle, robot, clock=clock, sleep=clock.sleep, damp_s=0.0, stand_s=0.0)

    def episode():
        runtime.restart(0.0)
        state, targets = standing_state(), []
        for step in range(10):
            state.t_s = state.rgb_t_s = 0.02 * step
            state.joint_pos[:] = DEFAULT_POSE + 0.02 * step
            runtime.control(state, 0.02 * step)
            targets.append(robot.commands[-1][1])
        assert runtime.machine.mode is Mode.RUN
        return np.array(targets)

    first = episode()
    runtime.stop("between")
    runtime.control(standing_state(), 0.2)
    assert runtime.machine.fault is not None
    np.testing.assert_array_equal(episode(), first)
    assert np.abs(np.diff(first, axis=0)).max() > 1e-5


def test_emergency_stop_is_latched(bundle, robot, clock):
    runtime = start(bundle, robot, clock)
    start_s = clock()

    def press(state):
        if clock() - start_s > 1.0 and runtime.machine.fault is None:
            runtime.stop("button")

    robot.spoil = press
    report = runtime.run(2.0)
    assert report.fault == "estop: button"
    assert all(is_damping(command) for command in robot.commands if command[0] - start_s > 1.05)


def test_a_tilted_robot_does_not_stand_up(bundle, robot, clock):
    robot.spoil = tip_over
    report = start(bundle, robot, clock).run(1.0)
    assert report.fault.startswith("tilt")
    assert report.ticks_by_mode["run"] == report.ticks_by_mode["stand"] == 0
    assert all(is_damping(command) for command in robot.commands)


def test_a_policy_that_sees_does_not_start_without_a_camera(bundle, clock):
    robot = FaultyRobot(clock, vision=False)
    report = start(bundle, robot, clock).run(1.5)
    assert report.fault is None
    assert report.ticks_by_mode["run"] == 0
    assert report.ticks_by_mode["stand"] > 0


def test_many_missed_deadlines_in_a_row_are_a_fault(bundle, robot, clock):
    start_s = clock()

    def slow(state):
        if clock() - start_s > 1.0:
            clock.now_s += 0.05

    robot.spoil = slow
    report = start(bundle, robot, clock).run(3.0)
    assert report.fault.startswith("deadline")
    assert report.deadline_misses >= 10


def test_ctrl_c_damps_before_it_ends(bundle, robot, clock):
    start_s = clock()

    def interrupt(state):
        if clock() - start_s > 1.0:
            robot.spoil = lambda state: None
            raise KeyboardInterrupt

    robot.spoil = interrupt
    with pytest.raises(KeyboardInterrupt):
        start(bundle, robot, clock).run(None)
    assert robot.closed
    assert sum(is_damping(command) for command in robot.commands if command[0] - start_s > 1.0) >= 50


def test_a_link_that_cannot_be_written_does_not_stop_the_damping(bundle, robot, clock):
    honest, attempts, start_s = robot.write, [], clock()

    def write(command):
        attempts.append(command.kp.any())
        if 0.5 < clock() - start_s < 1.0:
            raise LinkError("buffer full")
        honest(command)

    robot.write = write
    report = start(bundle, robot, clock).run(1.5)
    assert report.write_errors == pytest.approx(24, abs=2)
    assert len(attempts) == report.ticks + 1


def test_a_full_disk_does_not_stop_the_run(bundle, robot, clock):
    runtime = start(bundle, robot, clock, log="/dev/full")
    report = runtime.run(1.0)
    assert report.fault is None
    assert "No space left" in report.log_error
    assert report.ticks_by_mode["run"] > 0


def test_the_first_target_of_the_policy_is_limited_in_rate_from_where_the_robot_stood(bundle, robot, clock):
    """Found by garbage: only the torque limited the first target of RUN, 1.8 rad from the joint."""
    runtime = start(bundle, robot, clock)
    runtime._policy.act = lambda proprio, rgb=None: np.full(12, 1e3, dtype=np.float32)
    runtime.run(1.0)
    stiff = [command[1] for command in robot.commands if command[2].any()]
    assert runtime.inference_s.count > 2
    assert np.abs(np.diff(stiff, axis=0)).max() == pytest.approx(60.0 * 0.02)
