"""The ROS 2 link with a stand-in of rclpy."""

from __future__ import annotations

import importlib.util
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gaussgym_deploy.bundle import CameraSpec
from gaussgym_deploy.robot_io import JointCommand, LinkError
from gaussgym_deploy.ros2 import Ros2Cfg, Ros2Link, open_ros2

NAMES = ("a_joint", "b_joint", "c_joint")
SPEC = CameraSpec(8, 4, 6.0, 6.0, 4.0, 2.0, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0))
CFG = Ros2Cfg(start_timeout_s=2.0)


class FakeRos:
    """Topics by name, and a `rclpy` that knows them."""

    def __init__(self) -> None:
        self.subscriptions: dict[str, Any] = {}
        self.published: list[Any] = []
        self.down: list[str] = []
        self.stop = threading.Event()
        context, layout = object(), SimpleNamespace(dim=[])
        node = SimpleNamespace(
            create_subscription=lambda kind, topic, callback, quality: self.subscriptions.__setitem__(
                topic, (kind, callback, quality)
            ),
            create_publisher=lambda kind, topic, depth: SimpleNamespace(
                publish=lambda message: self.published.append((topic, list(message.data), message.layout))
            ),
            destroy_node=lambda: self.down.append("node"),
        )
        executor = SimpleNamespace(
            add_node=lambda added: None, spin=self.stop.wait, shutdown=lambda: self.stop.set()
        )
        self.modules = {
            "rclpy": dict(
                Context=lambda: context,
                init=lambda context: None,
                create_node=lambda name, context: node,
                shutdown=lambda context: self.down.append("rclpy"),
            ),
            "rclpy.qos": dict(qos_profile_sensor_data="best effort"),
            "rclpy.executors": dict(SingleThreadedExecutor=lambda context: executor),
            "sensor_msgs": {},
            "sensor_msgs.msg": dict(JointState="JointState", Imu="Imu", Image="Image"),
            "geometry_msgs": {},
            "geometry_msgs.msg": dict(Twist="Twist"),
            "std_msgs": {},
            "std_msgs.msg": dict(
                Float64MultiArray=lambda: SimpleNamespace(layout=layout, data=[]),
                MultiArrayDimension=lambda **fields: SimpleNamespace(**fields),
            ),
        }

    def say(self, topic: str, message: Any) -> None:
        self.subscriptions[topic][1](message)


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> FakeRos:
    fake = FakeRos()
    for name, members in fake.modules.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return fake


def stamp(t_s: float) -> Any:
    return SimpleNamespace(stamp=SimpleNamespace(sec=int(t_s), nanosec=round((t_s % 1) * 1e9)))


def joints(t_s: float, names: Any = ("c_joint", "a_joint", "b_joint", "wheel"), effort: bool = True) -> Any:
    count = len(names)
    return SimpleNamespace(
        header=stamp(t_s),
        name=list(names),
        position=[0.1 * i for i in range(count)],
        velocity=[1.0 * i for i in range(count)],
        effort=[10.0 * i for i in range(count)] if effort else [],
    )


def xyz(x: float, y: float, z: float) -> Any:
    return SimpleNamespace(x=x, y=y, z=z)


IMU = SimpleNamespace(
    orientation=SimpleNamespace(w=0.6, x=0.8, y=0.0, z=0.0),
    angular_velocity=xyz(0.1, 0.2, 0.3),
    linear_acceleration=xyz(0.0, 0.0, 9.81),
)


def opened(ros: FakeRos, camera: CameraSpec | None = None, first: Any = None) -> Ros2Link:
    """A link whose robot speaks as soon as it is listened to."""

    def speak() -> None:
        while len(ros.subscriptions) < (3 if camera is None else 4):
            pass
        ros.say("/joint_states", first or joints(1.5))
        ros.say("/imu", IMU)

    thread = threading.Thread(target=speak)
    thread.start()
    link = Ros2Link(NAMES, CFG, camera=camera)
    thread.join()
    return link


def test_states_come_in_the_policys_order(ros: FakeRos) -> None:
    link = opened(ros)
    state = link.read()
    assert state.t_s == pytest.approx(1.5)
    np.testing.assert_allclose(state.joint_pos, [0.1, 0.2, 0.0])
    np.testing.assert_allclose(state.joint_vel, [1.0, 2.0, 0.0])
    assert state.joint_torque is not None
    np.testing.assert_allclose(state.joint_torque, [10.0, 20.0, 0.0])
    np.testing.assert_allclose(state.quat_wxyz, [0.6, 0.8, 0, 0])
    np.testing.assert_allclose(state.ang_vel_b, [0.1, 0.2, 0.3])
    assert state.lin_acc_b is not None
    np.testing.assert_allclose(state.lin_acc_b, [0, 0, 9.81])
    ros.say("/cmd_vel", SimpleNamespace(linear=xyz(0.5, -0.1, 0), angular=xyz(0, 0, 0.2)))
    ros.say("/joint_states", joints(1.52, names=NAMES, effort=False))
    state = link.read()
    np.testing.assert_allclose(state.command, [0.5, -0.1, 0.2])
    np.testing.assert_allclose(state.joint_pos, [0.0, 0.1, 0.2])
    assert state.joint_torque is None
    ros.say("/joint_states", joints(1.51))
    assert (link.read().t_s, link.read().out_of_order) == (pytest.approx(1.52), 1)
    short = joints(1.6)
    short.velocity = []
    ros.say("/joint_states", short)
    assert link.read().corrupt == 1
    assert {quality for _, _, quality in ros.subscriptions.values()} == {"best effort"}
    link.close()


def test_commands_go_out_with_their_gains(ros: FakeRos) -> None:
    link = opened(ros)
    link.write(JointCommand(np.array([1.0, 2, 3]), np.array([4.0, 5, 6]), np.array([7.0, 8, 9])))
    topic, data, layout = ros.published[0]
    assert (topic, data) == ("/joint_command", [1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert [(dim.size, dim.stride) for dim in layout.dim] == [(3, 9), (3, 3)]
    with pytest.raises(LinkError, match="was not sent"):
        link.write(JointCommand(np.array([np.nan, 2, 3]), np.zeros(3), np.zeros(3)))
    link.close()
    link.close()
    assert ros.down == ["node", "rclpy"]
    assert len(ros.published) == 1
    with pytest.raises(LinkError, match="closed"):
        link.read()
    with pytest.raises(LinkError, match="closed"):
        link.write(JointCommand.zeros(3))


def test_images(ros: FakeRos) -> None:
    link = opened(ros, camera=SPEC)
    assert link.read().rgb is None
    rgb = np.random.default_rng(0).integers(0, 256, (4, 8, 3), dtype=np.uint8)
    padded = np.zeros((4, 30), dtype=np.uint8)  # rows may be longer than their pixels
    padded[:, :24] = rgb[..., ::-1].reshape(4, 24)
    image = SimpleNamespace(
        header=stamp(2.25), encoding="bgr8", height=4, width=8, step=30, data=padded.tobytes()
    )
    ros.say("/camera/color/image_raw", image)
    state = link.read()
    assert state.rgb is not None
    np.testing.assert_array_equal(state.rgb, rgb)
    assert state.rgb_t_s == pytest.approx(2.25)
    if importlib.util.find_spec("cv2") is not None:
        big = np.full((40, 80, 3), 77, dtype=np.uint8)
        ros.say(
            "/camera/color/image_raw",
            SimpleNamespace(
                header=stamp(2.5), encoding="rgb8", height=40, width=80, step=240, data=big.tobytes()
            ),
        )
        state = link.read()
        assert state.rgb is not None
        assert state.rgb.shape == (4, 8, 3)
        assert (state.rgb == 77).all()
    image = SimpleNamespace(header=stamp(3.0), encoding="mono8", height=4, width=8, step=8, data=bytes(32))
    ros.say("/camera/color/image_raw", image)
    with pytest.raises(LinkError, match="images are 'mono8', expected rgb8 or bgr8"):
        link.read()
    link.close()


def test_what_is_missing_is_one_clear_line(ros: FakeRos) -> None:
    with pytest.raises(LinkError, match="the joint states lack b; they have a_joint, c_joint"):
        opened(ros, first=joints(1.0, names=("a_joint", "c_joint")))
    assert ros.down == ["node", "rclpy"]
    with pytest.raises(LinkError, match=r"nothing is heard on /joint_states and /imu \(waited 0.02 s\)"):
        Ros2Link(NAMES, Ros2Cfg(start_timeout_s=0.02))


@pytest.mark.skipif(importlib.util.find_spec("rclpy") is not None, reason="has ROS 2")
def test_without_ros_the_message_says_so() -> None:
    bundle: Any = SimpleNamespace(joint_names=NAMES, camera=None)
    with pytest.raises(LinkError, match="needs a ROS 2 installation"):
        open_ros2(bundle, CFG)
