"""The T1's link against a stand-in of Booster's SDK (and against the SDK's own classes, where it is installed)."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gaussgym_deploy.booster import ANKLES, JOINTS, BoosterLink, _quat_wxyz_from_rpy, open_t1
from gaussgym_deploy.robot_io import JointCommand, LinkError

LIMIT = np.full(JOINTS, 20.0)


class FakeSdk:
    """What the link asks of the SDK; the robot is `speak`."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.modes: list[str] = []
        self.order: list[str] = []
        self.closed: list[str] = []
        self.init: Any = None
        self.says_no = False
        self.on_state: Any = None
        self.on_battery: Any = None
        self.speaks_at_once = True
        self.joints = JOINTS
        self.RobotMode = SimpleNamespace(kCustom="custom", kDamping="damping")
        self.LowCmdType = SimpleNamespace(SERIAL="serial")
        self.ChannelFactory = SimpleNamespace(
            Instance=lambda: SimpleNamespace(Init=lambda *words: setattr(self, "init", words))
        )

    def B1LocoClient(self) -> Any:
        def change(mode: str) -> None:
            self.order.append(f"mode {mode}")
            self.modes.append(mode)

        return SimpleNamespace(Init=lambda: None, ChangeMode=change)

    def LowCmd(self) -> Any:
        return SimpleNamespace(cmd_type=None, motor_cmd=[])

    def MotorCmd(self) -> Any:
        return SimpleNamespace(mode=0, q=0.0, dq=0.0, tau=0.0, kp=0.0, kd=0.0, weight=0.0)

    def B1LowCmdPublisher(self) -> Any:
        def write(command: Any) -> bool:
            self.order.append("command")
            motors = [SimpleNamespace(**vars(motor)) for motor in command.motor_cmd]
            self.sent.append((command.cmd_type, motors))
            return not self.says_no

        return SimpleNamespace(
            InitChannel=lambda: None, Write=write, CloseChannel=lambda: self.closed.append("commands")
        )

    def B1LowStateSubscriber(self, handler: Any) -> Any:
        self.on_state = handler
        begin = self.speak if self.speaks_at_once else lambda: None
        return SimpleNamespace(InitChannel=begin, CloseChannel=lambda: self.closed.append("states"))

    def B1BatteryStateSubscriber(self, handler: Any) -> Any:
        self.on_battery = handler
        return SimpleNamespace(InitChannel=lambda: None, CloseChannel=lambda: self.closed.append("battery"))

    def speak(self, roll: float = 0.0) -> None:
        motors = [
            SimpleNamespace(q=0.01 * joint, dq=0.1 * joint, tau_est=1.0 * joint, temperature=40 + joint)
            for joint in range(self.joints)
        ]
        imu = SimpleNamespace(rpy=[roll, 0.0, 0.0], gyro=[0.1, 0.2, 0.3], acc=[0.0, 0.0, 9.81])
        self.on_state(SimpleNamespace(motor_state_serial=motors, imu_state=imu))


def command(q: float) -> JointCommand:
    return JointCommand(np.full(JOINTS, q), np.full(JOINTS, 50.0), np.full(JOINTS, 3.0))


def test_states_and_commands() -> None:
    sdk, times = FakeSdk(), iter(np.arange(0.0, 10.0, 0.5))
    link = BoosterLink(sdk, LIMIT, interface="eth0", domain=3, clock=lambda: float(next(times)))
    assert sdk.init == (3, "eth0")
    state = link.read()
    first_s = state.t_s
    np.testing.assert_allclose(state.joint_pos, 0.01 * np.arange(JOINTS))
    assert state.joint_torque is not None
    assert state.motor_temperature_c is not None
    np.testing.assert_allclose(state.joint_torque, np.arange(JOINTS))
    np.testing.assert_allclose(state.motor_temperature_c, 40 + np.arange(JOINTS))
    np.testing.assert_allclose(state.ang_vel_b, [0.1, 0.2, 0.3])
    np.testing.assert_allclose(state.quat_wxyz, [1, 0, 0, 0])
    assert link.read().t_s == first_s  # nothing new
    sdk.speak(roll=np.pi / 2)
    assert link.read().t_s > first_s
    np.testing.assert_allclose(state.quat_wxyz, [np.sqrt(0.5), np.sqrt(0.5), 0, 0])
    sdk.on_battery(SimpleNamespace(soc=55.0))
    assert state.battery_fraction == pytest.approx(0.55)

    link.write(command(0.3))
    link.write(command(0.3))
    assert sdk.order == ["command", "mode custom", "command"]  # there is a command when it begins to obey
    kind, motors = sdk.sent[0]
    assert kind == "serial"
    assert [motor.weight for motor in motors] == [1.0] * JOINTS
    for joint, motor in enumerate(motors):
        if joint in ANKLES:  # 50 (0.3 - 0.01 joint): 7.5, 7, 4.5, 4 N·m
            assert (motor.q, motor.kp, motor.kd) == (pytest.approx(0.01 * joint), 0.0, 3.0)
            assert motor.tau == pytest.approx(50 * (0.3 - 0.01 * joint))
        else:
            assert (motor.q, motor.kp, motor.kd, motor.tau) == (0.3, 50.0, 3.0, 0.0)
    link.write(command(3.0))
    assert [sdk.sent[-1][1][joint].tau for joint in ANKLES] == [20.0] * 4  # the limit
    link.close()
    link.close()
    assert sdk.modes == ["custom", "damping"]
    assert sorted(sdk.closed) == ["battery", "commands", "states"]
    with pytest.raises(LinkError, match="closed"):
        link.write(command(0.0))
    with pytest.raises(LinkError, match="closed"):
        link.read()


def test_damping_reaches_the_ankles() -> None:
    sdk = FakeSdk()
    link = BoosterLink(sdk, LIMIT)
    link.read()
    link.write(JointCommand(np.zeros(JOINTS), np.zeros(JOINTS), np.full(JOINTS, 3.0)))
    assert {(motor.kp, motor.kd, motor.tau) for motor in sdk.sent[-1][1]} == {(0.0, 3.0, 0.0)}


def test_a_robot_that_was_only_watched_is_left_alone() -> None:
    sdk = FakeSdk()
    BoosterLink(sdk, LIMIT).close()
    assert sdk.modes == []


def test_what_goes_wrong_is_one_clear_line() -> None:
    sdk = FakeSdk()
    sdk.speaks_at_once = False
    with pytest.raises(LinkError, match=r"no T1 with 23 joints is heard \(waited 0.02 s\)$"):
        BoosterLink(sdk, LIMIT, start_timeout_s=0.02)
    sdk = FakeSdk()
    sdk.joints = 29
    with pytest.raises(LinkError, match="1 states had another number of joints"):
        BoosterLink(sdk, LIMIT, start_timeout_s=0.02)
    sdk = FakeSdk()
    link = BoosterLink(sdk, LIMIT)
    bad = command(0.0)
    bad.kp[3] = np.inf
    with pytest.raises(LinkError, match="was not sent"):
        link.write(bad)
    assert sdk.sent == []
    sdk.says_no = True
    with pytest.raises(LinkError, match="refused"):
        link.write(command(0.0))
    bundle: Any = SimpleNamespace(robot="go1", joint_names=("a",) * 12, path="bundle", torque_limit=LIMIT)
    with pytest.raises(LinkError, match="this link is for a 't1' with 23"):
        open_t1(bundle)
    if importlib.util.find_spec("booster_robotics_sdk_python") is None:
        bundle.robot, bundle.joint_names = "t1", ("a",) * JOINTS
        with pytest.raises(LinkError, match="pip install booster_robotics_sdk_python"):
            open_t1(bundle)


def test_attitude_from_roll_pitch_yaw() -> None:
    """Against the product of the three rotation matrices."""
    roll, pitch, yaw = 0.3, -0.5, 1.1
    w, x, y, z = _quat_wxyz_from_rpy(roll, pitch, yaw)
    got = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    (cr, sr), (cp, sp), (cy, sy) = ((np.cos(a), np.sin(a)) for a in (roll, pitch, yaw))
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    np.testing.assert_allclose(got, about_z @ about_y @ about_x, atol=1e-12)


@pytest.mark.skipif(
    importlib.util.find_spec("booster_robotics_sdk_python") is None, reason="needs Booster's SDK"
)
def test_the_sdk_has_what_the_link_asks_for() -> None:
    import booster_robotics_sdk_python as sdk  # pyright: ignore[reportMissingImports]
    from gaussgym_deploy.booster import _serial_command

    message, motors = _serial_command(sdk)
    motors[3].q, motors[3].tau, motors[3].kd = 0.5, 1.0, 2.0
    message.motor_cmd = motors
    assert len(message.motor_cmd) == sdk.kJointCnt == JOINTS
    assert message.motor_cmd[3].q == 0.5
    assert (int(sdk.JointIndex.kCrankUpLeft), int(sdk.JointIndex.kCrankDownRight)) == (ANKLES[0], ANKLES[3])
    state = sdk.LowState()
    assert list(state.imu_state.rpy) == list(state.imu_state.gyro) == list(state.imu_state.acc) == [0.0] * 3
    assert sdk.RobotMode.kCustom != sdk.RobotMode.kDamping
