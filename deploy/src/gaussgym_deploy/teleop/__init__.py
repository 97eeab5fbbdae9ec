"""Operators: a keyboard, a gamepad or a web page says where the robot goes, and that somebody is still there."""

from __future__ import annotations

from typing import Any, Callable, Dict

from ..bundle import BundleError
from ..operator import CommandSource
from .drive import DriveCfg

__all__ = ["OPERATORS", "DriveCfg", "open_operator"]


def _open_keyboard(drive: DriveCfg, **options: Any) -> CommandSource:
    from .keyboard import KeyboardOperator

    return KeyboardOperator(drive, **options)


def _open_gamepad(drive: DriveCfg, **options: Any) -> CommandSource:
    from .gamepad import GamepadOperator

    return GamepadOperator(drive, **options)


def _open_web(drive: DriveCfg, **options: Any) -> CommandSource:
    from .web import WebOperator

    return WebOperator(drive, **options)


def _open_remote(drive: DriveCfg) -> CommandSource:
    from ..unitree.remote import RemoteCfg, UnitreeRemote

    speeds = (drive.forward_m_s, drive.sideways_m_s, drive.turn_rad_s)
    return UnitreeRemote(RemoteCfg(speeds, drive.backward_m_s, drive.dead_zone))


OPERATORS: Dict[str, Callable[..., CommandSource]] = {
    "keyboard": _open_keyboard,
    "gamepad": _open_gamepad,
    "remote": _open_remote,
    "web": _open_web,
}
"""Operators by name; each takes the speeds and options of its own."""


def open_operator(name: str, drive: DriveCfg, **options: Any) -> CommandSource:
    """Open an operator by name.

    Args:
        name: A key of :data:`OPERATORS`.
        drive: Speeds.
        **options: Of that operator.

    Raises:
        BundleError: When there is no such operator, or it has no such option.
    """
    if name not in OPERATORS:
        raise BundleError(f"no operator named {name!r}; there is: {', '.join(sorted(OPERATORS))}")
    try:
        return OPERATORS[name](drive, **options)
    except TypeError as error:
        raise BundleError(f"operator {name!r}: {error}") from None
