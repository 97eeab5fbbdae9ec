"""The Go1's UDP link against a robot on loopback that answers; the packets against the published byte positions."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gaussgym_deploy.robot_io import JointCommand, LinkError
from gaussgym_deploy.unitree.messages import MOTOR_NAMES, crc32
from gaussgym_deploy.unitree.remote import pack_remote
from gaussgym_deploy.unitree.sdk_udp import COMMAND, STATE, Go1UdpLink, open_a1, open_go1, scrambled_crc


def state_packet(tick: int) -> bytearray:
    """A state, written by byte positions."""
    data = bytearray(807)
    data[2] = 0xFF
    struct.pack_into("<4f", data, 22, 0.6, 0.8, 0.0, 0.0)
    struct.pack_into("<3f", data, 38, 0.1, 0.2, 0.3)
    struct.pack_into("<3f", data, 50, 0.0, 0.0, 9.81)
    for motor in range(20):
        start = 75 + 32 * motor
        struct.pack_into("<Bffhh", data, start, 10, 0.01 * motor, 0.1 * motor, 0, -256 * motor)
        struct.pack_into("<b", data, start + 23, motor - 3)
    data[715 + 3] = 80
    struct.pack_into("<I", data, 755, tick)
    data[759:799] = pack_remote(ly=0.5)
    return data


class Robot:
    """Answers every packet with a state."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.05)
        self.port = self.socket.getsockname()[1]
        self.packets: list[bytes] = []
        self.replies: Any = lambda tick: [bytes(state_packet(tick))]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def _loop(self) -> None:
        tick = 100
        while not self._ending.is_set():
            try:
                data, sender = self.socket.recvfrom(2048)
            except TimeoutError:
                continue
            self.packets.append(data)
            tick += 2
            for reply in self.replies(tick):
                self.socket.sendto(reply, sender)

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()
        self.socket.close()


@pytest.fixture
def robot() -> Iterator[Robot]:
    made = Robot()
    yield made
    made.stop()


def opened(robot: Robot, **options: Any) -> Go1UdpLink:
    return Go1UdpLink(MOTOR_NAMES, ("127.0.0.1", robot.port), local_port=0, **options)


def test_packets_lie_where_the_analyses_say() -> None:
    assert (COMMAND.itemsize, STATE.itemsize) == (614, 807)
    fields: Any = COMMAND.fields
    assert [fields[name][1] for name in ("motor", "bms", "remote", "reserve", "crc")] == [
        22,
        562,
        566,
        606,
        610,
    ]
    fields = STATE.fields
    places = [
        fields[name][1]
        for name in ("quaternion", "motor", "bms_version", "foot_force", "tick", "remote", "crc")
    ]
    assert places == [22, 75, 715, 739, 755, 759, 803]
    assert COMMAND["motor"].base.itemsize == 27
    assert STATE["motor"].base.itemsize == 32


def test_scrambled_checksum_by_hand() -> None:
    """CRC of the first 608 bytes, xor EDCAB9DE; of its little-endian bytes b0 b1 b2 b3 the wire has b1 b2 b3 b0."""
    packet = bytes(range(256)) * 2 + bytes(102)
    value = struct.pack("<I", crc32(packet[:608]) ^ 0xEDCAB9DE)
    assert struct.pack("<I", scrambled_crc(packet)) == value[1:] + value[:1]


def test_states(robot: Robot) -> None:
    link = opened(robot)
    waking = robot.packets[0]
    assert len(waking) == 614
    assert waking[:4].hex() == "feefff00"
    assert waking[20:22].hex() == "3ac0"
    assert waking[22 + 27 * 5] == 0  # damping mode
    state = link.read()
    np.testing.assert_allclose(state.joint_pos, 0.01 * np.arange(12), atol=1e-7)
    assert state.joint_torque is not None
    assert state.motor_temperature_c is not None
    np.testing.assert_allclose(state.joint_torque, -np.arange(12.0))
    np.testing.assert_allclose(state.motor_temperature_c, np.arange(12) - 3)
    np.testing.assert_allclose(state.quat_wxyz, [0.6, 0.8, 0, 0], atol=1e-7)
    np.testing.assert_allclose(state.ang_vel_b, [0.1, 0.2, 0.3], atol=1e-7)
    assert state.battery_fraction == pytest.approx(0.8)
    np.testing.assert_allclose(state.command, [0.5, 0, 0])
    link.close()
    link.close()
    with pytest.raises(LinkError, match="closed"):
        link.read()


def test_commands(robot: Robot) -> None:
    link = opened(robot, kd_scale=16.0)
    sent = len(robot.packets)
    link.write(JointCommand(np.full(12, 0.5), np.full(12, 20.0), np.full(12, 0.5)))
    time.sleep(0.1)
    data = robot.packets[-1]
    assert len(robot.packets) == sent + 1
    for motor in range(12):
        assert struct.unpack_from("<BffhHH", data, 22 + 27 * motor) == (10, 0.5, 0.0, 0, 640, 8)
    assert struct.unpack_from("<BffhHH", data, 22 + 27 * 12) == (0, 0, 0, 0, 0, 0)
    assert struct.unpack_from("<I", data, 610)[0] == scrambled_crc(data)
    assert link.read().t_s > 0.0
    for bad in (np.nan, -1.0, 1e5):
        with pytest.raises(LinkError, match="was not sent"):
            link.write(JointCommand(np.zeros(12), np.full(12, bad), np.zeros(12)))
    time.sleep(0.05)
    assert len(robot.packets) == sent + 1
    link.close()


def test_nothing_is_commanded_on_a_guess(robot: Robot) -> None:
    link = opened(robot)
    sent = len(robot.packets)
    with pytest.raises(LinkError, match="16 and 32"):
        link.write(JointCommand.zeros(12))
    time.sleep(0.05)
    assert len(robot.packets) == sent
    link.close()
    bundle: Any = SimpleNamespace(robot="go1", joint_names=MOTOR_NAMES, path="bundle")
    with pytest.raises(LinkError, match="never run on a Go1"):
        open_go1(bundle)
    with pytest.raises(LinkError, match="not published"):
        open_a1(bundle)
    bundle.robot = "go2"
    with pytest.raises(LinkError, match="this link is for a 'go1'"):
        open_go1(bundle, accept_untested=True)


def test_bad_and_late_packets_are_counted(robot: Robot) -> None:
    robot.replies = lambda tick: [bytes(state_packet(tick)), bytes(800), bytes(state_packet(tick - 2))]
    link = opened(robot, kd_scale=16.0)
    for _ in range(3):
        link.write(JointCommand.zeros(12))
        time.sleep(0.05)
        state = link.read()
    assert state.corrupt >= 3
    assert state.out_of_order >= 3
    link.close()


def test_no_robot_is_one_clear_line() -> None:
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    with pytest.raises(LinkError, match=r"no Go1 answers \(waited 0.1 s\)"):
        Go1UdpLink(MOTOR_NAMES, ("127.0.0.1", silent.getsockname()[1]), local_port=0, start_timeout_s=0.1)
    silent.close()
