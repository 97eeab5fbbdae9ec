"""What faults do to the frames that carry states, where there is a wire to spoil (DDS)."""

from __future__ import annotations

from collections import deque
from typing import Any, Callable, Deque, Dict, List

from .injection import Injection

__all__ = ["WIRE_FAULTS"]


WireFault = Callable[[bytes, float, Injection, bytes, Deque[Any]], List[bytes]]
"""What goes out instead of a frame: from the frame, the seconds since the fault began, the fault, the last frame before it, and
``(time, frame)`` of the last second."""


def _flip(frame: bytes) -> bytes:
    """One bit of a joint's angle changes on the way; the checksum does not."""
    spoilt = bytearray(frame)
    spoilt[len(spoilt) // 2] ^= 0x10
    return bytes(spoilt)


def _frames_ago(seconds: float, frames: Deque[Any]) -> bytes:
    wanted_s = frames[-1][0] - seconds
    return next((frame for sent_s, frame in reversed(frames) if sent_s <= wanted_s), frames[0][1])


def _late_by_one(frame: bytes, injection: Injection, when: bool) -> List[bytes]:
    """A frame is overtaken by the next one."""
    held = injection.stash.pop("held", None)
    if when and held is None:
        injection.stash["held"] = frame
        return []
    return [frame] if held is None else [frame, held]


def _half_speed(frame: bytes, injection: Injection) -> List[bytes]:
    """A queue that empties half as fast as it fills."""
    waiting = injection.stash.setdefault("waiting", deque())
    waiting.append(frame)
    return [waiting.popleft()] if injection.calls % 2 == 1 else []


WIRE_FAULTS: Dict[str, WireFault] = {
    "state_dropped_once": lambda frame, since_s, injection, last, frames: [] if since_s < 0.02 else [frame],
    "state_late_once": lambda frame, since_s, injection, last, frames: [] if since_s < 0.06 else [frame],
    "state_dropped": lambda frame, since_s, injection, last, frames: [],
    "state_repeated": lambda frame, since_s, injection, last, frames: [last],
    "state_stale": lambda frame, since_s, injection, last, frames: [_frames_ago(0.3, frames)],
    "state_lag_grows": lambda frame, since_s, injection, last, frames: _half_speed(frame, injection),
    "state_swapped_once": lambda frame, since_s, injection, last, frames: _late_by_one(
        frame, injection, injection.calls == 1
    ),
    "out_of_order": lambda frame, since_s, injection, last, frames: _late_by_one(
        frame, injection, injection.calls % 10 == 1
    ),
    "crc_once": lambda frame, since_s, injection, last, frames: [
        _flip(frame) if injection.calls == 1 else frame
    ],
    "crc_often": lambda frame, since_s, injection, last, frames: [
        _flip(frame) if injection.calls % 10 == 1 else frame
    ],
    "crc_burst": lambda frame, since_s, injection, last, frames: [_flip(frame)],
}
"""By kind: what becomes of a frame while the fault is on, where there is a wire to spoil."""
