"""Scheduler, state machine, guards and runtime on a clock that obeys and a robot that breaks on demand."""

import json

import numpy as np
import pytest
from gaussgym_deploy import runtime as runtime_module
from gaussgym_deploy.bundle import BundleError, PolicyBundle
from gaussgym_deploy.guards import Fault, GuardLimits, Guards
from gaussgym_deploy.robot_io import BenchRobot, JointCommand, LinkError, RobotState
from gaussgym_deploy.runtime import FixedRate, Runtime
from gaussgym_deploy.states import Mode, StateMachine
from gaussgym_deploy.testing import DEFAULT_POSE, POSITION_LIMIT, FakeClock, FaultyRobot, make_bundle


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


def standing_state():
    state = RobotState.zeros(12)
    state.joint_pos[:] = DEFAULT_POSE
    state.rgb = np.zeros((8, 12, 3), dtype=np.uint8)
    state.rgb_t_s = 0.0
    return state


# ---------------------------------------------------------------------------------------------------- scheduler


def test_wake_ups_do_not_drift_whatever_a_step_takes(clock):
    rate = FixedRate(0.02, clock=clock, sleep=clock.sleep)
    woken = []
    for step in range(100):
        rate.wait()
        woken.append(clock())
        clock.now_s += 0.001 * (step % 19)  # the step's own work, up to 18 ms
    np.testing.assert_allclose(np.diff(woken), 0.02, atol=1e-9)
    assert rate.misses == 0


def test_jitter_goes_into_the_right_bin(clock):
    rate = FixedRate(0.02, clock=clock, sleep=clock.sleep)
    rate.wait()
    for oversleep_s in (30e-6, 70e-6, 1500e-6, 1600e-6):
        clock.oversleep_s = oversleep_s
        rate.wait()
    edges = list(runtime_module.JITTER_EDGES_US)
    expected = np.zeros(len(edges))
    expected[edges.index(0)], expected[edges.index(50)], expected[edges.index(1000)] = 1, 1, 2
    np.testing.assert_array_equal(rate.lateness_counts, expected)
    assert rate.worst_lateness_s == pytest.approx(1.6e-3)


def test_missed_periods_are_counted_and_never_made_up_for(clock):
    rate = FixedRate(0.02, clock=clock, sleep=clock.sleep)
    first_s = clock()
    rate.wait()
    clock.now_s += 0.075  # misses the wake-ups at 20, 40 and 60 ms
    assert rate.wait() == pytest.approx(0.015)
    assert rate.misses == rate.misses_in_a_row == 3
    rate.wait()
    assert clock() - first_s == pytest.approx(0.08)
    assert rate.misses_in_a_row == 0


# ---------------------------------------------------------------------------------------------------- state machine


def test_only_the_drawn_transitions_exist(bundle):
    state = standing_state()
    reached = {
        (start, wanted)
        for start in Mode
        for wanted in Mode
        if start is not wanted and machine_in(bundle, start).request(wanted, state, 10.0) is None
    }
    assert reached == {
        (Mode.IDLE, Mode.DAMP), (Mode.DAMP, Mode.STAND), (Mode.DAMP, Mode.IDLE), (Mode.STAND, Mode.RUN),
        (Mode.STAND, Mode.DAMP), (Mode.RUN, Mode.DAMP),
    }  # fmt: skip


def machine_in(bundle, mode):
    machine = StateMachine(bundle)
    machine.mode = mode
    return machine


def test_standing_up_goes_smoothly_from_the_found_pose_to_the_default_pose(bundle):
    machine, state = StateMachine(bundle, stand_s=2.0), standing_state()
    state.joint_pos[:] = DEFAULT_POSE - 0.4
    machine.request(Mode.DAMP, state, 0.0)
    machine.request(Mode.STAND, state, 1.0)
    targets = [machine.command(1.0 + t).q.copy() for t in np.linspace(0.0, 2.0, 101)]
    np.testing.assert_allclose(targets[0], DEFAULT_POSE - 0.4)
    np.testing.assert_allclose(targets[50], DEFAULT_POSE - 0.2)
    np.testing.assert_allclose(targets[-1], DEFAULT_POSE)
    steps = np.diff([target[0] for target in targets])
    assert (steps > -1e-12).all()
    assert steps[0] < 0.1 * steps.max()  # starts without a jerk


def test_run_waits_for_the_pose(bundle):
    machine, state = StateMachine(bundle, stand_s=1.0), standing_state()
    machine.request(Mode.DAMP, state, 0.0)
    machine.request(Mode.STAND, state, 0.0)
    assert machine.request(Mode.RUN, state, 0.5) == "the robot does not stand yet"
    state.joint_pos[3] += 0.5
    assert machine.request(Mode.RUN, state, 1.5) == "the robot does not stand yet"
    state.joint_pos[3] -= 0.5
    assert machine.request(Mode.RUN, state, 1.5) is None


def test_a_fault_is_latched_until_cleared_and_the_first_one_stays(bundle):
    machine, state = machine_in(bundle, Mode.RUN), standing_state()
    machine.trip(Fault("tilt", "first"), 1.0)
    machine.trip(Fault("link", "second"), 2.0)
    assert machine.mode is Mode.DAMP
    assert machine.fault == Fault("tilt", "first")
    assert "latched" in machine.request(Mode.STAND, state, 3.0)
    machine.clear_fault()
    assert machine.request(Mode.STAND, state, 3.0) is None


# ---------------------------------------------------------------------------------------------------- guards


def tilted(angle_rad, axis):
    quat = np.zeros(4)
    quat[0], quat[1 + axis] = np.cos(angle_rad / 2), np.sin(angle_rad / 2)
    return quat


@pytest.mark.parametrize("axis", [0, 1])
def test_tilt_counts_the_angle_of_the_vertical(bundle, axis):
    guards, state = Guards(bundle), standing_state()
    state.quat_wxyz = tilted(1.19, axis)
    assert guards.check_body(state) is None
    state.quat_wxyz = tilted(1.21, axis)
    assert guards.check_body(state).kind == "tilt"
    assert "1.21 rad" in guards.check_body(state).detail
    state.quat_wxyz = tilted(3.0, 2)  # yaw
    assert Guards(bundle).check_body(state) is None


@pytest.mark.parametrize(
    ("array", "value", "kind"), [("joint_pos", 1.1, "joint_position"), ("joint_vel", 50.0, "joint_velocity")]
)
def test_joint_limits_trip_after_three_steps_in_a_row(bundle, array, value, kind):
    guards, bad, good = Guards(bundle), standing_state(), standing_state()
    getattr(bad, array)[3] = value
    for _ in range(5):
        assert guards.check_body(bad) is None
        assert guards.check_body(bad) is None
        assert guards.check_body(good) is None
    faults = [guards.check_body(bad) for _ in range(3)]
    assert faults[:2] == [None, None]
    assert faults[2].kind == kind
    assert bundle.joint_names[3] in faults[2].detail


def test_torque_limit_of_a_target(bundle):
    # kp 20, kd 0.5, limit 23.7 N·m, factor 1.5: |20 (target - q) - 0.5 qd| <= 35.55
    guards, state = (
        Guards(bundle, GuardLimits(target_rate_rad_s=1e9, target_margin_rad=1e9)),
        standing_state(),
    )
    state.joint_vel[:] = 2.0
    target = state.joint_pos + 10.0
    guards.limit_target(target, state)
    np.testing.assert_allclose(20.0 * (target - state.joint_pos) - 0.5 * 2.0, 35.55)
    target = state.joint_pos - 10.0
    guards.limit_target(target, state)
    np.testing.assert_allclose(20.0 * (target - state.joint_pos) - 0.5 * 2.0, -35.55)
    near = state.joint_pos + 0.3
    guards.limit_target(near, state)
    np.testing.assert_array_equal(near, state.joint_pos + 0.3)
    assert guards.interventions["torque"] == 2


def test_target_rate_and_position_limits(bundle):
    guards, state = Guards(bundle, GuardLimits(target_rate_rad_s=5.0, torque_factor=1e9)), standing_state()
    first = DEFAULT_POSE.copy()
    guards.limit_target(first, state)
    second = DEFAULT_POSE + 0.3
    guards.limit_target(second, state)
    np.testing.assert_allclose(second, DEFAULT_POSE + 0.1)
    guards.reset()
    far = np.full(12, 99.0)
    guards.limit_target(far, state)
    np.testing.assert_allclose(far, POSITION_LIMIT[:, 1] + 0.5)
    assert guards.interventions == {"action_clip": 0, "target_position": 1, "torque": 0, "target_rate": 1}


def test_overrides_by_name_and_unknown_names():
    assert GuardLimits.of({"tilt_rad": 0.7, "deadline_misses": 3.0}) == GuardLimits(
        tilt_rad=0.7, deadline_misses=3
    )
    with pytest.raises(BundleError, match="'tilt' is unknown; there is state_age_s"):
        GuardLimits.of({"tilt": 1.0})
    with pytest.raises(BundleError, match="positive"):
        GuardLimits.of({"tilt_rad": 0.0})


# ---------------------------------------------------------------------------------------------------- runtime


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


# ---------------------------------------------------------------------------------------------------- bench robot


def test_bench_robot_follows_the_damped_oscillator(clock):
    # J q'' = kp (q* - q) - (kd + friction) q', from rest, unsaturated: q = q* (1 - e^(-dt) (cos wt + d/w sin wt))
    robot = BenchRobot(1, torque_limit=1e9, inertia=0.05, friction=0.1, clock=clock, substep_s=1e-4)
    command = JointCommand(np.array([0.3]), np.array([20.0]), np.array([0.5]))
    decay = (0.5 + 0.1) / (2 * 0.05)
    omega = np.sqrt(20.0 / 0.05 - decay**2)
    for step in range(1, 40):
        robot.write(command)
        clock.now_s += 0.01
        t = step * 0.01
        expected = 0.3 * (1 - np.exp(-decay * t) * (np.cos(omega * t) + decay / omega * np.sin(omega * t)))
        assert robot.read().joint_pos[0] == pytest.approx(expected, abs=2e-3)


def test_bench_robot_damps_when_commands_stop(clock):
    robot = BenchRobot(12, clock=clock)
    robot.write(JointCommand(np.ones(12), np.full(12, 50.0), np.full(12, 0.1)))
    clock.now_s += 0.05
    assert (np.abs(robot.read().joint_vel) > 1.0).all()
    clock.now_s += 0.5
    assert (np.abs(robot.read().joint_vel) < 0.01).all()
    assert robot.timeouts == 1
