"""The runtime's end: a :class:`~gaussgym_deploy.robot_io.RobotIO`."""

from __future__ import annotations

import os
import time
from typing import Callable, Optional

import numpy as np

from ..robot_io import JointCommand, LinkError, RobotState
from .messages import (
    KIND_JOINT_COMMAND,
    KIND_RESET,
    EpisodeResult,
    Segment,
    StateRecord,
    fetch,
    read_description,
)
from .segments import (
    OFFSET_RUNTIME_CLOSED,
    OFFSET_RUNTIME_PID,
    OFFSET_SERVER_CLOSED,
    OFFSET_SERVER_PID,
    attach,
    pid_alive,
    wait,
)


class SharedMemoryRobot:
    """The runtime's end of the link: a :class:`RobotIO` that can also start episodes.

    Args:
        name: Name of the segment.
        timeout_s: How long to wait for the robot process to come up [s].
        answer_timeout_s: How long to wait for an answer later on [s] (a renderer may compile on its first image).
        alive: Tells whether the robot process still runs; stops the waiting early.

    Attributes:
        description: What the robot process says of itself.

    Raises:
        LinkError: When nobody serves under this name in time, or in another format.
    """

    def __init__(
        self,
        name: str,
        *,
        timeout_s: float = 60.0,
        answer_timeout_s: float = 60.0,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        self._closed = False
        self._answer_timeout_s = answer_timeout_s
        memory = attach(name, timeout_s, alive)
        try:
            self.description = read_description(memory)
            if memory.size < Segment.size(self.description):
                raise LinkError(f"segment {name!r} has {memory.size} bytes, its description needs more")
        except LinkError:
            memory.close()
            raise
        self._segment = Segment(memory, self.description)
        self._segment.put("q", OFFSET_RUNTIME_PID, os.getpid())
        self._record = StateRecord(self._segment.state.record)
        self._state = self._record.state
        size = self.description.camera_size_wh
        self._rgb: Optional[np.ndarray] = None
        if size is not None:
            pixels = self._segment.image.record["rgb"][0, : size[0] * size[1] * 3]
            self._rgb = pixels.reshape(size[1], size[0], 3)

    def reset(self, start_index: int) -> None:
        """Start a new episode and wait for its first state, which the next :meth:`read` returns.

        Args:
            start_index: Row of the robot process's list of starts.

        Raises:
            LinkError: When the robot process is gone or does not answer in time.
        """
        box = self._segment.command
        box.record["kind"] = KIND_RESET
        box.record["start_index"] = start_index
        box.record["sent_s"] = time.monotonic()
        # Waiting here also keeps the next joint command from overwriting the request before it was seen.
        self._await_answer(box.post())

    def read(self) -> RobotState:
        """The state that answers the last request (lockstep) or the newest one (free-running).

        The same object every time; its arrays are overwritten by the next call.

        Raises:
            LinkError: When the robot process is gone or does not answer in time, or (lockstep) nothing was asked of it yet.
        """
        segment = self._segment
        if not self.description.lockstep:
            self._await_answer(0)
            if segment.state.posted() != segment.state.number:
                fetch(segment.state, "state")
            if self.robot_gone:
                raise LinkError(self._gone())
        elif segment.command.number == 0:
            raise LinkError("in lockstep the runtime speaks first: call reset() before read()")
        else:
            self._await_answer(segment.command.number)
        self._read_image()
        return self._record.get()

    @property
    def has_news(self) -> bool:
        """Whether a state lies there that was not read yet."""
        return self._segment.state.posted() != self._segment.state.number

    def write(self, command: JointCommand) -> None:
        """Send a joint command; in lockstep the robot simulates one control period with it.

        Raises:
            LinkError: When the robot process is gone.
        """
        if self.robot_gone:
            raise LinkError(self._gone())
        record = self._segment.command.record
        record["kind"] = KIND_JOINT_COMMAND
        record["sent_s"] = time.monotonic()
        record["q"][0] = command.q
        record["kp"][0] = command.kp
        record["kd"][0] = command.kd
        self._segment.command.post()

    @property
    def forward_s(self) -> float:
        """How long the last command took from here to the robot's side [s]; NaN where the server does not say."""
        return float(self._segment.state.record["forward_s"][0])

    @property
    def result(self) -> EpisodeResult:
        """How the episode stood at the last state read."""
        return EpisodeResult(int(self._segment.state.record["result"][0]))

    def close(self) -> None:
        """Tell the robot process that the runtime ends, and unmap; may be called twice."""
        if not self._closed:
            self._closed = True
            self._segment.put("I", OFFSET_RUNTIME_CLOSED, 1)
            self._segment.close()

    def __enter__(self) -> SharedMemoryRobot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _await_answer(self, number: int) -> None:
        """Take states until one is there that knows of request ``number``."""
        box = self._segment.state
        while box.number == 0 or int(box.record["answers"][0]) < number:
            if not wait(
                lambda: box.posted() != box.number, self._answer_timeout_s, lambda: not self.robot_gone
            ):
                raise LinkError(self._gone())
            fetch(box, "state")

    def _read_image(self) -> None:
        wanted = int(self._segment.state.record["image_number"][0])
        self._state.rgb = None
        self._state.rgb_t_s = -np.inf
        width, height = self._segment.state.record["misfit_wh"][0].tolist()
        if width >= 0:  # only its size is known
            dtype = np.float32 if (width, height) == self.description.camera_size_wh else np.uint8
            self._state.rgb = np.broadcast_to(dtype(0), (height, width, 3))
            self._state.rgb_t_s = float(self._segment.state.record["rgb_t_s"][0])
            return
        if wanted == 0 or self._rgb is None:
            return
        box = self._segment.image
        if box.number < wanted:
            fetch(box, "image", at_least=wanted)
        self._state.rgb = self._rgb
        self._state.rgb_t_s = float(box.record["t_s"][0])

    @property
    def robot_gone(self) -> bool:
        """Whether the robot process closed the link or died."""
        segment = self._segment
        closed = segment.get("I", OFFSET_SERVER_CLOSED)
        return bool(closed) or not pid_alive(segment.get("q", OFFSET_SERVER_PID))

    def _gone(self) -> str:
        if self._segment.get("I", OFFSET_SERVER_CLOSED):
            return "the robot process closed the link"
        if self.robot_gone:
            return "the robot process is gone (killed?) without closing the link"
        return f"the robot process did not answer for {self._answer_timeout_s:g} s"
