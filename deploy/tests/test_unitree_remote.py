"""Unitree's remote control: packet, sticks, buttons, sign of life."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from gaussgym_deploy.robot_io import RobotState
from gaussgym_deploy.teleop import OPERATORS, DriveCfg, open_operator
from gaussgym_deploy.unitree.remote import (
    SIMULATED_REMOTE,
    RemoteCfg,
    UnitreeRemote,
    pack_remote,
    pack_velocity,
    stick_velocity,
)


def packet(**fields: Any) -> np.ndarray:
    return np.frombuffer(pack_remote(**fields), dtype=np.uint8)


def state(t_s: float, remote: np.ndarray | None) -> RobotState:
    made = RobotState.zeros(12)
    made.t_s, made.remote = t_s, remote
    return made


def test_packet_written_out() -> None:
    """lx at byte 4, rx 8, ry 12, ly 20; buttons lowest bit first: A is bit 8, start bit 2."""
    data = pack_remote(lx=0.25, ly=-1.0, rx=0.5, ry=0.125, buttons=("A", "start"))
    assert len(data) == 40
    assert data[2:4] == bytes([0b100, 0b1])
    for place, value in ((4, 0.25), (8, 0.5), (12, 0.125), (16, 0.0), (20, -1.0)):
        assert struct.unpack_from("<f", data, place)[0] == value
    assert data[24:] == bytes(16)


def test_sticks() -> None:
    cfg, out = RemoteCfg((1.0, 0.5, 2.0), backward=0.4, dead_zone=0.1), np.full(3, 9.0)
    for fields, want in (
        (dict(ly=0.5), (0.5, 0, 0)),
        (dict(ly=-0.5), (-0.2, 0, 0)),
        (dict(lx=1.0), (0, -0.5, 0)),  # right is negative
        (dict(rx=0.5), (0, 0, -1.0)),
        (dict(ly=0.09, lx=-0.09), (0, 0, 0)),
        (dict(ly=3.0), (1.0, 0, 0)),
        (dict(ly=np.nan, rx=np.inf), (0, 0, -2.0)),
        (dict(ry=1.0), (0, 0, 0)),
    ):
        stick_velocity(packet(**fields), cfg, out)
        np.testing.assert_allclose(out, want)


@pytest.mark.parametrize("seed", range(5))
def test_simulated_robots_pack_what_their_link_reads(seed: int) -> None:
    velocity, out = np.random.default_rng(seed).uniform(-3, 3, 3), np.zeros(3)
    stick_velocity(np.frombuffer(pack_velocity(velocity), dtype=np.uint8), SIMULATED_REMOTE, out)
    np.testing.assert_allclose(out, velocity, atol=1e-6)


def test_sign_of_life() -> None:
    remote = UnitreeRemote()
    assert remote.read(state(1.0, None), 10.0).alive_s == -np.inf
    assert remote.read(state(1.0, packet(ly=1.0)), 10.0).alive_s == 10.0
    assert remote.read(state(1.0, packet(ly=1.0)), 10.1).alive_s == 10.0  # the state stands still
    assert remote.read(state(1.1, packet(ly=1.0)), 10.2).alive_s == 10.2
    command = remote.read(state(1.2, np.zeros(40, dtype=np.uint8)), 10.3)  # switched off
    assert command.alive_s == 10.2
    assert not command.velocity.any()


def test_buttons() -> None:
    remote = UnitreeRemote()
    times = iter(np.arange(100.0))

    def press(*buttons: str) -> tuple[str | None, str | None]:
        now_s = next(times)
        command = remote.read(state(now_s, packet(buttons=buttons)), now_s)
        return command.mode, command.stop

    assert press() == (None, None)
    assert press("start") == ("stand", None)
    assert press("start") == (None, None)  # held is not pressed again
    assert press("A") == ("run", None)
    assert press("B") == (None, None)
    assert press("L2", "B") == (None, "L2 + B on the remote control")
    assert press("L2", "B") == (None, "L2 + B on the remote control")  # a stop holds as long as it is held
    assert press("select", "A") == (None, "select on the remote control")


def test_it_is_an_operator() -> None:
    assert "remote" in OPERATORS
    remote = open_operator("remote", DriveCfg(forward_m_s=0.6))
    velocity = remote.read(state(1.0, packet(ly=1.0)), 1.0).velocity
    np.testing.assert_allclose(velocity, [0.6, 0, 0])
    remote.close()
