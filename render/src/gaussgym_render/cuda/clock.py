"""Which cameras are due: clocks of their own, kept on the device."""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false

from __future__ import annotations

from typing import Any

import numpy as np
import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)
from gaussgym_scene import InputError
from numpy.typing import ArrayLike

wp.set_module_options({"enable_backward": False, "fuse_fp": False})

_SOON = wp.constant(wp.float64(1e-3))
"""Of a step: periods may come from single precision."""


@wp.func
def frame_number(step: wp.int64, period: wp.float64, phase: wp.float64) -> wp.int64:
    """Number of a camera's last frame at a step, -1 before its first."""
    number = wp.floor((wp.float64(step) - phase + _SOON) / period)
    return wp.int64(wp.max(number, wp.float64(-1.0)))


@wp.kernel
def find_due(
    steps: wp.array[wp.int64],
    period: wp.array[wp.float64],
    phase: wp.array[wp.float64],
    watched: wp.array[wp.bool],
    due: wp.array[wp.bool],
    frame_ids: wp.array[wp.int64],
) -> None:
    """See `CameraClocks.tick`; `steps [1]` is the number of the step."""
    c = wp.tid()
    number = frame_number(steps[0], period[c], phase[c])
    frame_ids[c] = number
    due[c] = watched[c] and number > frame_number(steps[0] - wp.int64(1), period[c], phase[c])


@wp.kernel
def restart(
    steps: wp.array[wp.int64],
    chosen: wp.array[wp.bool],
    phase: wp.array[wp.float64],
) -> None:
    """Let the chosen cameras count from the coming step."""
    c = wp.tid()
    if chosen[c]:
        phase[c] = wp.float64(steps[0] + wp.int64(1))


@wp.kernel
def advance(steps: wp.array[wp.int64]) -> None:
    """One step more."""
    steps[0] = steps[0] + wp.int64(1)


class CameraClocks:
    """C cameras that take frames at their own times; none of it is known to the host.

    Time counts in steps, of control say. Frame n of a camera is due in the first step at or after `phase + n · period`; what a
    frame comes late does not add up, so that a period of 3.5 makes 4, 3, 4, 3 ... steps.

    Args:
        period_steps: Steps between a camera's frames `[C]` or one number, at least 1.
        count: C.
        device: A Warp device.
        phase_steps: When a camera's first frame is due `[C]` or one number; the first step is 0.

    Attributes:
        period_steps: float64 `[C]` on the device; may be written to.
        phase_steps: float64 `[C]`, likewise.
        watched: bool `[C]`: cameras that are not are never due; may be written to.
        due: bool `[C]`, which are due in this step: what a renderer takes as `mask`.
        frame_ids: int64 `[C]`, number of each camera's last frame: what a renderer takes as `frame_ids`.

    Raises:
        InputError: A period below one step.
    """

    def __init__(
        self, period_steps: ArrayLike, count: int, *, device: Any, phase_steps: ArrayLike = 0.0
    ) -> None:
        period = np.broadcast_to(np.asarray(period_steps, np.float64), (count,))
        if not (period >= 1.0).all():
            raise InputError(f"a camera's period is {period.min()} steps, expected at least 1")
        self.device = wp.get_device(device)
        phase = np.broadcast_to(np.asarray(phase_steps, np.float64), (count,))
        self.period_steps = wp.array(np.ascontiguousarray(period), dtype=wp.float64, device=self.device)
        self.phase_steps = wp.array(np.ascontiguousarray(phase), dtype=wp.float64, device=self.device)
        self.watched = wp.array(np.ones(count, bool), dtype=wp.bool, device=self.device)
        self.due = wp.zeros(count, dtype=wp.bool, device=self.device)
        self.frame_ids = wp.full(count, -1, dtype=wp.int64, device=self.device)
        self._steps = wp.full(1, -1, dtype=wp.int64, device=self.device)

    def tick(self) -> Any:
        """Go on by one step and say which cameras are due in it; returns `due`."""
        wp.launch(advance, 1, [self._steps], device=self.device)
        wp.launch(
            find_due,
            self.due.shape[0],
            [self._steps, self.period_steps, self.phase_steps, self.watched, self.due, self.frame_ids],
            device=self.device,
        )
        return self.due

    def restart(self, chosen: Any) -> None:
        """Make the cameras of a mask, bool `[C]` on the device, due in the coming step, and count their frames from 0."""
        wp.launch(
            restart,
            self.due.shape[0],
            [self._steps, chosen, self.phase_steps],
            device=self.device,
        )
