"""A robot behind ROS 2 topics: joints, IMU and camera come in, commands go out.

==============  ============================  ==================================================================================
topic           message                       what
==============  ============================  ==================================================================================
``joints``      sensor_msgs/JointState        name, position [rad], velocity [rad/s], effort [N·m] (may be empty); its stamp is
                                              the state's time
``imu``         sensor_msgs/Imu               orientation, angular_velocity, linear_acceleration, all in base axes
``image``       sensor_msgs/Image             rgb8 or bgr8; only for policies that see
``cmd_vel``     geometry_msgs/Twist           the velocity command
``command``     std_msgs/Float64MultiArray    published: 3 x J, rows q [rad], kp [N·m/rad], kd [N·m·s/rad], joints in the order
                                              of the policy (there is no standard message with gains)
==============  ============================  ==================================================================================

rclpy comes with a ROS 2 installation, not from PyPI; this module imports without it. Not run against a ROS 2 installation by us:
tested with a stand-in of rclpy.
"""

from __future__ import annotations

import importlib
import threading
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from .bundle import CameraSpec, PolicyBundle
from .image_fit import ImageFit
from .robot_io import JointCommand, LinkError, RobotState

__all__ = ["Ros2Cfg", "Ros2Link", "open_ros2"]


@dataclass(frozen=True)
class Ros2Cfg:
    """Names of the topics.

    Attributes:
        joints: sensor_msgs/JointState.
        imu: sensor_msgs/Imu.
        image: sensor_msgs/Image.
        cmd_vel: geometry_msgs/Twist.
        command: std_msgs/Float64MultiArray, published.
        start_timeout_s: How long to wait for the first joints and IMU [s].
    """

    joints: str = "/joint_states"
    imu: str = "/imu"
    image: str = "/camera/color/image_raw"
    cmd_vel: str = "/cmd_vel"
    command: str = "/joint_command"
    start_timeout_s: float = 10.0


def open_ros2(bundle: PolicyBundle, cfg: Ros2Cfg) -> Ros2Link:
    """The link ``ros2``.

    Args:
        bundle: The policy bundle: joints and camera.
        cfg: Topics.

    Raises:
        LinkError: Without ROS 2, or when joints and IMU are not heard.
    """
    return Ros2Link(bundle.joint_names, cfg, camera=bundle.camera)


class Ros2Link:
    """A :class:`~gaussgym_deploy.robot_io.RobotIO` as a ROS 2 node; its callbacks run in a thread of the node's own.

    Args:
        joint_names: The policy's joints, as JointState names them (with or without ``_joint``).
        cfg: Topics.
        camera: The policy's camera, None for a blind one.

    Raises:
        LinkError: Without ROS 2, when joints and IMU are not heard, or when joints are missing.
    """

    def __init__(self, joint_names: Any, cfg: Ros2Cfg, *, camera: Optional[CameraSpec] = None) -> None:
        self._ros = _import_ros()
        self._names, joints = [_bare(name) for name in joint_names], len(joint_names)
        self._state = RobotState.zeros(joints)
        self._torque, self._acceleration = np.zeros(joints), np.zeros(3)
        self._state.lin_acc_b = self._acceleration
        self._newest: Dict[str, Any] = {}
        self._seen: Dict[str, Any] = {}
        self._order: Tuple[Tuple[str, ...], List[int]] = ((), [])
        self._last_s = float("-inf")
        self._fit = None if camera is None else ImageFit(camera)
        self._spec, self._closed = camera, False
        self._join(cfg, joints)
        try:
            self._wait(cfg)
        except BaseException:
            self.close()
            raise

    def read(self) -> RobotState:
        """The newest state (the same object every time).

        Raises:
            LinkError: When the link was closed, or a message does not fit.
        """
        if self._closed:
            raise LinkError("the ROS 2 link is closed")
        joints = self._new("joints")
        if joints is not None:
            self._take_joints(joints)
        imu = self._new("imu")
        if imu is not None:
            q, w, a = imu.orientation, imu.angular_velocity, imu.linear_acceleration
            self._state.quat_wxyz[:] = q.w, q.x, q.y, q.z
            self._state.ang_vel_b[:] = w.x, w.y, w.z
            self._acceleration[:] = a.x, a.y, a.z
        twist = self._new("cmd_vel")
        if twist is not None:
            self._state.command[:] = twist.linear.x, twist.linear.y, twist.angular.z
        image = self._new("image")
        if image is not None:
            self._take_image(image)
        return self._state

    def write(self, command: JointCommand) -> None:
        """Publish a command.

        Raises:
            LinkError: When the link was closed, or the command holds what is no number (nothing is sent).
        """
        if self._closed:
            raise LinkError("the ROS 2 link is closed")
        parts = (command.q, command.kp, command.kd)
        if not all(np.isfinite(part).all() for part in parts):
            raise LinkError("the joint command holds a value that is no finite number; it was not sent")
        self._message.data = np.concatenate(parts).tolist()
        self._publisher.publish(self._message)

    def close(self) -> None:
        """Leave ROS; may be called twice."""
        if self._closed:
            return
        self._closed = True
        self._executor.shutdown()
        self._thread.join(timeout=2.0)
        self._node.destroy_node()
        self._ros["rclpy"].shutdown(context=self._context)

    def _join(self, cfg: Ros2Cfg, joints: int) -> None:
        """Node, topics and the thread of its callbacks."""
        ros = self._ros
        rclpy = ros["rclpy"]
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("gaussgym_deploy", context=self._context)
        quality = ros["rclpy.qos"].qos_profile_sensor_data  # best effort: the newest counts
        topics = [
            ("joints", ros["sensor_msgs.msg"].JointState, cfg.joints),
            ("imu", ros["sensor_msgs.msg"].Imu, cfg.imu),
            ("cmd_vel", ros["geometry_msgs.msg"].Twist, cfg.cmd_vel),
        ]
        if self._fit is not None:
            topics.append(("image", ros["sensor_msgs.msg"].Image, cfg.image))
        for key, kind, topic in topics:
            self._node.create_subscription(
                kind, topic, lambda message, key=key: self._newest.__setitem__(key, message), quality
            )
        std = ros["std_msgs.msg"]
        self._message = std.Float64MultiArray()
        self._message.layout.dim = [
            std.MultiArrayDimension(label="q kp kd", size=3, stride=3 * joints),
            std.MultiArrayDimension(label="joint", size=joints, stride=joints),
        ]
        self._publisher = self._node.create_publisher(std.Float64MultiArray, cfg.command, 1)
        self._executor = ros["rclpy.executors"].SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, name="ros2", daemon=True)
        self._thread.start()

    def _wait(self, cfg: Ros2Cfg) -> None:
        end_s = time.monotonic() + cfg.start_timeout_s
        while not {"joints", "imu"} <= set(self._newest):
            if time.monotonic() > end_s:
                silent = [getattr(cfg, key) for key in ("joints", "imu") if key not in self._newest]
                raise LinkError(
                    f"nothing is heard on {' and '.join(silent)} (waited {cfg.start_timeout_s:g} s)"
                )
            time.sleep(0.005)
        self.read()

    def _new(self, key: str) -> Any:
        """The newest message of a topic if it was not taken yet."""
        message = self._newest.get(key)
        if message is self._seen.get(key):
            return None
        self._seen[key] = message
        return message

    def _take_joints(self, message: Any) -> None:
        state, t_s = self._state, _seconds(message.header.stamp)
        if t_s <= self._last_s:
            state.out_of_order += 1
            return
        names = tuple(message.name)
        if names != self._order[0]:
            self._order = (names, _order(self._names, names))
        order = self._order[1]
        if len(message.position) != len(names) or len(message.velocity) != len(names):
            state.corrupt += 1
            return
        state.joint_pos[:] = np.asarray(message.position)[order]
        state.joint_vel[:] = np.asarray(message.velocity)[order]
        state.joint_torque = None
        if len(message.effort) == len(names):
            self._torque[:] = np.asarray(message.effort)[order]
            state.joint_torque = self._torque
        state.t_s = self._last_s = t_s

    def _take_image(self, message: Any) -> None:
        if message.encoding not in ("rgb8", "bgr8"):
            raise LinkError(f"the camera's images are {message.encoding!r}, expected rgb8 or bgr8")
        rows = np.frombuffer(message.data, dtype=np.uint8).reshape(message.height, message.step)
        rgb = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
        if message.encoding == "bgr8":
            rgb = rgb[..., ::-1]
        assert self._fit is not None
        assert self._spec is not None
        same = rgb.shape[:2] == (self._spec.height, self._spec.width)
        self._state.rgb = np.ascontiguousarray(rgb) if same else self._fit(np.ascontiguousarray(rgb))
        self._state.rgb_t_s = _seconds(message.header.stamp)


def _seconds(stamp: Any) -> float:
    return stamp.sec + 1e-9 * stamp.nanosec


def _bare(name: str) -> str:
    return name[: -len("_joint")] if name.endswith("_joint") else name


def _order(wanted: List[str], names: Tuple[str, ...]) -> List[int]:
    """Where the policy's joints are in a message."""
    places = {_bare(name): place for place, name in enumerate(names)}
    missing = [name for name in wanted if name not in places]
    if missing:
        raise LinkError(f"the joint states lack {', '.join(missing)}; they have {', '.join(names)}")
    return [places[name] for name in wanted]


def _import_ros() -> Dict[str, Any]:
    names = ("rclpy", "rclpy.qos", "rclpy.executors", "sensor_msgs.msg", "geometry_msgs.msg", "std_msgs.msg")
    try:
        return {name: importlib.import_module(name) for name in names}
    except ImportError as error:
        raise LinkError(
            f"the link 'ros2' needs a ROS 2 installation ({error}): source its setup file first; rclpy is not on PyPI"
        ) from None
