"""The supervisor's logic on a clock that obeys, beside a real runtime and by itself."""

import numpy as np
import pytest
from gaussgym_deploy.bundle import PolicyBundle
from gaussgym_deploy.robot_io import JointCommand, LinkError, RobotState
from gaussgym_deploy.runtime import Runtime
from gaussgym_deploy.supervisor import CommandCheck, InProcessLink, Supervisor, SupervisorCfg
from gaussgym_deploy.testing import DEFAULT_POSE, POSITION_LIMIT, FakeClock, FaultyRobot, make_bundle

STEP_S = 0.002


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return PolicyBundle.load(make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=6))


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def robot(clock):
    return FaultyRobot(clock)


def good_command():
    return JointCommand(DEFAULT_POSE.copy(), np.full(12, 20.0), np.full(12, 0.5))


def is_damping(command):
    _, _, kp, kd = command
    return not kp.any() and (kd == 3.0).all()


class Stage:
    """A supervisor that steps every 2 ms of a fake clock, and a hand that plays the runtime every 20 ms."""

    def __init__(self, bundle, robot, clock, **cfg):
        self.link = InProcessLink(12)
        self.supervisor = Supervisor(bundle, robot, self.link, cfg=SupervisorCfg(**cfg))
        self.robot, self.clock = robot, clock
        clock.every(STEP_S, self.supervisor.step)
        clock.sleep(STEP_S)

    def drive(self, seconds, command=None):
        end_s = self.clock() + seconds
        while self.clock() < end_s - 1e-9:
            self.link.write(command or good_command())
            self.clock.sleep(0.02)

    def damped_after_s(self, since_s):
        """From a moment to the first damping that reached the robot [s]; everything since is damping, 500 times a second."""
        late = [command for command in self.robot.commands if is_damping(command) and command[0] > since_s]
        after = [command for command in self.robot.commands if command[0] >= late[0][0]]
        assert all(is_damping(command) for command in after)
        assert len(after) == pytest.approx((self.clock() - late[0][0]) / STEP_S, abs=2)
        return late[0][0] - since_s


# ---------------------------------------------------------------------------------------------------- the last check


def test_what_is_within_limits_passes(bundle):
    check, command = CommandCheck(bundle), good_command()
    assert check(command) is None
    command.q[:] = POSITION_LIMIT[:, 1] + 0.5  # the margin of targets
    assert check(command) is None
    command.kp[:], command.kd[:] = 0.0, 3.0  # damping, wherever q points
    command.q[:] = 1e5
    assert check(command) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["q", "kp", "kd"])
@pytest.mark.parametrize("stiff", [True, False])
def test_what_is_not_finite_never_passes(bundle, field, value, stiff):
    command = good_command()
    command.kp *= stiff
    getattr(command, field)[7] = value
    fault = CommandCheck(bundle)(command)
    assert fault.kind == "bad_command"
    assert bundle.joint_names[7] in fault.detail


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("q", POSITION_LIMIT[4, 1] + 0.51),
        ("q", POSITION_LIMIT[4, 0] - 0.51),
        ("kp", 20.1),
        ("kp", -0.1),
        ("kd", 3.1),
        ("kd", -0.1),
    ],
)
def test_what_is_beyond_limits_never_passes(bundle, field, value):
    command = good_command()
    getattr(command, field)[4] = value
    assert CommandCheck(bundle)(command).kind == "bad_command"


# ---------------------------------------------------------------------------------------------------- watching


def test_nothing_is_sent_before_the_runtime_speaks(bundle, robot, clock):
    stage = Stage(bundle, robot, clock)
    clock.sleep(3.0)
    assert stage.supervisor.fault is None
    assert robot.commands == []
    assert stage.link.read().t_s > 2.9


def test_commands_go_on_within_a_step_and_states_come_back(bundle, robot, clock):
    stage = Stage(bundle, robot, clock)
    stage.drive(1.0)
    assert stage.supervisor.fault is None
    assert stage.supervisor.forwarded == len(robot.commands) == 50
    assert all((command[1] == DEFAULT_POSE).all() for command in robot.commands)
    assert stage.link.read().t_s == pytest.approx(1.0, abs=0.01)


def test_one_late_command_rides_through(bundle, robot, clock):
    stage = Stage(bundle, robot, clock)
    stage.drive(0.2)
    clock.sleep(0.018)  # 38 ms without a command
    stage.drive(0.5)
    assert stage.supervisor.fault is None
    assert not any(is_damping(command) for command in robot.commands)


def test_silence_damps_within_two_periods_and_is_latched(bundle, robot, clock):
    stage = Stage(bundle, robot, clock)
    stage.drive(0.5)
    last_s = robot.commands[-1][0]
    clock.sleep(0.1)
    stage.drive(0.5)  # the paused runtime goes on as if nothing had happened
    assert stage.damped_after_s(last_s) <= 0.04 + STEP_S + 1e-9
    assert stage.supervisor.fault.kind == "heartbeat"
    assert stage.link.read().supervisor_fault.startswith("heartbeat: no command for 0.04")


class Beside:
    """A supervisor whose steps the test takes itself, so that it can leave some out."""

    def __init__(self, bundle, robot, clock):
        self.link = InProcessLink(12)
        self.supervisor, self.clock = Supervisor(bundle, robot, self.link), clock

    def steps(self, count, *, commands=False):
        for step in range(count):
            self.clock.sleep(STEP_S)
            if commands and step % 10 == 0:
                self.link.write(good_command())
            self.supervisor.step(self.clock())


@pytest.mark.parametrize("stood_still_s", [0.045, 0.06])
def test_time_in_which_the_whole_machine_stood_still_is_no_silence_of_the_runtime(
    bundle, robot, clock, stood_still_s
):
    beside = Beside(bundle, robot, clock)
    beside.steps(50, commands=True)
    clock.sleep(stood_still_s)
    beside.steps(8)  # the runtime wakes too, and needs a moment
    assert beside.supervisor.fault is None
    beside.steps(1, commands=True)
    beside.steps(19)  # afterwards as before: 40 ms are allowed
    assert beside.supervisor.fault is None
    beside.steps(2)
    assert beside.supervisor.fault is not None
    assert beside.supervisor.fault.kind == "heartbeat"


def test_a_silence_as_long_as_a_state_may_be_old_damps_whoever_stood_still(bundle, robot, clock):
    beside = Beside(bundle, robot, clock)
    beside.steps(50, commands=True)
    clock.sleep(0.12)
    beside.steps(1)
    assert beside.supervisor.fault is not None


def test_a_dead_runtime_is_damped_in_the_next_step_and_held(bundle, robot, clock):
    stage = Stage(bundle, robot, clock, hold_s=5.0)
    stage.drive(0.5)
    stage.link.runtime_gone = True
    died_s = clock()
    clock.sleep(4.5)
    assert not stage.supervisor.finished
    clock.sleep(1.0)
    assert stage.supervisor.finished
    assert stage.supervisor.fault.kind == "runtime_gone"
    assert stage.damped_after_s(died_s) <= STEP_S + 1e-9


def test_a_normal_end_is_damped_and_let_go(bundle, robot, clock):
    stage = Stage(bundle, robot, clock, final_damp_s=0.5)
    stage.drive(0.5)
    stage.link.close()
    ended_s = clock()
    clock.sleep(0.4)
    assert not stage.supervisor.finished
    clock.sleep(0.2)
    assert stage.supervisor.finished
    assert stage.supervisor.fault is None
    assert stage.damped_after_s(ended_s) <= STEP_S + 1e-9


def test_a_runtime_that_dies_before_it_spoke_leaves_the_robot_alone(bundle, robot, clock):
    stage = Stage(bundle, robot, clock)
    stage.link.runtime_gone = True
    clock.sleep(0.1)
    assert stage.supervisor.finished
    assert robot.commands == []


def test_a_bad_command_is_not_sent_and_latched(bundle, robot, clock):
    stage = Stage(bundle, robot, clock)
    stage.drive(0.5)
    bad, good_s = good_command(), clock()
    bad.q[3] = np.nan
    stage.drive(0.02, bad)
    stage.drive(0.2)
    assert stage.damped_after_s(good_s) <= STEP_S + 1e-9
    assert stage.supervisor.fault.kind == "bad_command"
    assert all(np.isfinite(command[1]).all() for command in robot.commands)


def stand_still(state):
    state.t_s = 0.5


def break_link(state):
    raise LinkError("cable pulled")


def crash(state):
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("spoil", "kind", "bound_s"),
    [(stand_still, "state_age", 0.1), (break_link, "link", 0.0), (crash, "link", 0.0)],
)
def test_a_robot_that_falls_silent_is_damped(bundle, robot, clock, spoil, kind, bound_s):
    stage = Stage(bundle, robot, clock)
    stage.drive(0.5)
    robot.spoil, broken_s = spoil, clock()
    stage.drive(0.3)
    robot.spoil = lambda state: None
    stage.drive(0.3)
    assert stage.damped_after_s(broken_s) <= bound_s + 2 * STEP_S + 1e-9
    assert stage.supervisor.fault.kind == kind


def test_a_link_that_cannot_be_written_is_written_again(bundle, robot, clock):
    stage = Stage(bundle, robot, clock)
    stage.drive(0.5)
    honest = robot.write

    def refuse(command):
        raise LinkError("buffer full")

    robot.write = refuse
    clock.sleep(0.2)
    robot.write = honest
    count = len(robot.commands)
    clock.sleep(0.1)
    assert stage.supervisor.write_errors >= 70
    assert len(robot.commands) - count == pytest.approx(50, abs=1)


@pytest.mark.parametrize(("refusals", "kind"), [(1, None), (2, None), (4, "link")])
def test_a_command_that_cannot_be_sent_rides_through_two_periods_of_them_do_not(
    bundle, robot, clock, refusals, kind
):
    stage, left, honest = Stage(bundle, robot, clock), [refusals], robot.write

    def refuse(command):
        if stage.supervisor.fault is None and left[0] > 0:
            left[0] -= 1
            raise LinkError("buffer full")
        honest(command)

    stage.drive(0.5)
    robot.write = refuse
    stage.drive(0.2)
    assert (stage.supervisor.fault and stage.supervisor.fault.kind) == kind
    assert is_damping(robot.commands[-1]) == (kind is not None)


# ---------------------------------------------------------------------------------------------------- beside a runtime


def test_a_run_under_a_supervisor(bundle, robot, clock):
    link = InProcessLink(12)
    supervisor = Supervisor(bundle, robot, link)
    clock.every(STEP_S, supervisor.step)
    clock.sleep(STEP_S)
    report = Runtime(bundle, link, clock=clock, sleep=clock.sleep, damp_s=0.1, stand_s=0.4).run(2.0)
    assert report.fault is None
    assert supervisor.fault is None
    assert report.ticks_by_mode["run"] > 50
    clock.sleep(1.0)
    assert supervisor.finished
    assert is_damping(robot.commands[-1])


def test_the_runtime_learns_of_the_supervisors_fault(bundle, robot, clock):
    link = InProcessLink(12)
    supervisor = Supervisor(bundle, robot, link)
    clock.every(STEP_S, supervisor.step)
    clock.sleep(STEP_S)
    runtime = Runtime(bundle, link, clock=clock, sleep=clock.sleep, damp_s=0.1, stand_s=0.4)
    start_s, honest = clock(), runtime._policy.act

    def dawdle(proprio, rgb=None):
        if clock() - start_s > 1.0:
            clock.sleep(0.05)
        return honest(proprio, rgb)

    runtime._policy.act = dawdle
    report = runtime.run(2.0)
    assert report.fault.startswith("supervisor: damps by itself (heartbeat: no command for 0.04")
    first = next(command for command in robot.commands if command[0] - start_s > 0.2 and is_damping(command))
    assert first[0] - start_s <= 1.0 + 0.02 + 0.04 + STEP_S


def test_the_state_is_the_robots(bundle, robot, clock):
    stage = Stage(bundle, robot, clock)
    stage.drive(0.1)
    assert isinstance(stage.link.read(), RobotState)
    assert stage.link.read().supervisor_fault == ""


def test_a_dry_run_sends_nothing(bundle, robot, clock):
    link = InProcessLink(12)
    supervisor = Supervisor(bundle, robot, link, cfg=SupervisorCfg(dry_run=True))
    clock.every(0.002, supervisor.step)
    clock.sleep(0.01)
    link.write(JointCommand(DEFAULT_POSE, bundle.kp, bundle.kd))
    clock.sleep(0.01)
    assert supervisor.forwarded == 1
    clock.sleep(1.0)
    assert supervisor.fault.kind == "heartbeat"
    assert robot.commands == []
