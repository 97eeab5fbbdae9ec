"""Unitree's remote control, whose packet travels in every ``LowState_``: sticks, buttons, sign of life.

Packet, 40 bytes (joystick.h of unitree_legged_sdk, BSD-3-Clause): head u8[2], buttons u16, then f32 lx, rx, ry, L2, ly, -1 ... 1
with right and forward positive, 16 bytes idle.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from ..operator import OperatorCommand
from ..robot_io import RobotState

__all__ = [
    "BUTTONS",
    "REMOTE_BYTES",
    "SIMULATED_REMOTE",
    "RemoteCfg",
    "UnitreeRemote",
    "pack_remote",
    "pack_velocity",
    "stick_velocity",
]

REMOTE_BYTES = 40
_PACKET = struct.Struct("<2BH5f16x")
_HEAD = (0x55, 0x51)
BUTTONS = (
    "R1",
    "L1",
    "start",
    "select",
    "R2",
    "L2",
    "F1",
    "F2",
    "A",
    "B",
    "X",
    "Y",
    "up",
    "right",
    "down",
    "left",
)
"""Buttons, lowest bit first."""

_BIT = {name: 1 << bit for bit, name in enumerate(BUTTONS)}


@dataclass(frozen=True)
class RemoteCfg:
    """What the sticks and buttons mean.

    Attributes:
        velocity: v_x, v_y [m/s] and yaw rate [rad/s] at full stick.
        backward: Speed at full stick backwards [m/s]; None: as forwards.
        dead_zone: Deflections below this are zero.
        damp_buttons: Held together they stop (Unitree's own convention: L2 + B).
        stop_button: Stops by itself.
        stand_button: Asks for standing.
        run_button: Asks for the policy.
    """

    velocity: Tuple[float, float, float] = (1.0, 0.5, 1.0)
    backward: Optional[float] = None
    dead_zone: float = 0.05
    damp_buttons: Tuple[str, ...] = ("L2", "B")
    stop_button: str = "select"
    stand_button: str = "start"
    run_button: str = "A"


SIMULATED_REMOTE = RemoteCfg(velocity=(4.0, 4.0, 4.0), dead_zone=0.0)
"""How simulated robots pack the velocity that their path asks for, and how their link reads it (up to 4 m/s, rad/s)."""


def pack_remote(
    *, lx: float = 0.0, ly: float = 0.0, rx: float = 0.0, ry: float = 0.0, buttons: Tuple[str, ...] = ()
) -> bytes:
    """The packet of a remote control (for simulated robots).

    Args:
        lx: Left stick, right is +1.
        ly: Left stick, forward is +1.
        rx: Right stick, right is +1.
        ry: Right stick, forward is +1.
        buttons: Names of :data:`BUTTONS` that are held.

    Returns:
        40 bytes.
    """
    return _PACKET.pack(*_HEAD, sum(_BIT[name] for name in buttons), lx, rx, ry, 0.0, ly)


def pack_velocity(velocity: np.ndarray, cfg: RemoteCfg = SIMULATED_REMOTE) -> bytes:
    """The packet of a remote control whose sticks ask for a velocity; the inverse of :func:`stick_velocity`.

    Args:
        velocity: v_x, v_y [m/s], yaw rate [rad/s], ``[3]``.
        cfg: Scale.

    Returns:
        40 bytes.
    """
    forward, left, turn = (float(value) / scale for value, scale in zip(velocity, cfg.velocity))
    return pack_remote(ly=forward, lx=-left, rx=-turn)


def stick_velocity(packet: np.ndarray, cfg: RemoteCfg, out: np.ndarray) -> None:
    """The velocity that the sticks ask for: left stick forward and sideways, right stick turns.

    Args:
        packet: uint8 ``[40]``.
        cfg: Scale and dead zone.
        out: v_x, v_y [m/s], yaw rate [rad/s] (left and counter-clockwise positive), ``[3]``; zero where a stick is no number.
    """
    _, _, _, lx, rx, _, _, ly = _PACKET.unpack(packet.tobytes())
    for index, deflection in enumerate((ly, -lx, -rx)):
        inside = abs(deflection) >= cfg.dead_zone  # False for NaN as well
        full = cfg.velocity[index]
        if index == 0 and deflection < 0.0 and cfg.backward is not None:
            full = cfg.backward
        out[index] = min(max(deflection, -1.0), 1.0) * full if inside else 0.0


class UnitreeRemote:
    """A :class:`~gaussgym_deploy.operator.CommandSource` that reads the packet in ``RobotState.remote``.

    It is alive as long as new states come (their clock moves) whose packet holds something: a robot whose remote is switched
    off sends zeros.

    Args:
        cfg: Meaning of sticks and buttons.
    """

    def __init__(self, cfg: Optional[RemoteCfg] = None) -> None:
        self.cfg = cfg or RemoteCfg()
        self._command = OperatorCommand()
        self._last_t_s = -np.inf
        self._held = 0

    def read(self, state: RobotState, now_s: float) -> OperatorCommand:
        """Decode the newest packet.

        Args:
            state: The robot's newest state.
            now_s: Current time on the runtime's clock [s].
        """
        command = self._command
        command.stop = command.mode = None
        packet = state.remote
        if packet is None or state.t_s == self._last_t_s:
            return command
        self._last_t_s = state.t_s
        if not packet.any():
            command.velocity[:] = 0.0
            self._held = 0
            return command
        command.alive_s = now_s
        stick_velocity(packet, self.cfg, command.velocity)
        held = int(packet[2]) | int(packet[3]) << 8
        self._buttons(held, held & ~self._held)
        self._held = held
        return command

    def close(self) -> None:
        """Nothing to let go of."""

    def _buttons(self, held: int, pressed: int) -> None:
        cfg, command = self.cfg, self._command
        damp = sum(_BIT[name] for name in cfg.damp_buttons)
        if held & damp == damp:
            command.stop = f"{' + '.join(cfg.damp_buttons)} on the remote control"
        elif held & _BIT[cfg.stop_button]:
            command.stop = f"{cfg.stop_button} on the remote control"
        elif pressed & _BIT[cfg.stand_button]:
            command.mode = "stand"
        elif pressed & _BIT[cfg.run_button]:
            command.mode = "run"
