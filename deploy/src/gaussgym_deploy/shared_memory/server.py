"""The robot process's end: publishes states and images, takes commands and resets."""

from __future__ import annotations

import os
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import numpy as np

from ..robot_io import JointCommand, LinkError, RobotState
from .messages import KIND_RESET, EpisodeResult, LinkDescription, ResetRequest, Segment, StateRecord, fetch
from .segments import (
    FIXED,
    HEADER_BYTES,
    MAGIC,
    OFFSET_RUNTIME_CLOSED,
    OFFSET_RUNTIME_PID,
    OFFSET_SERVER_CLOSED,
    VERSION,
    buffer,
    create,
    pid_alive,
    wait,
)


class SharedMemoryServer:
    """The robot process's end of the link (see the module's text for the loop around it).

    Args:
        name: Name of the segment, without a slash, at most 30 characters (what ``--shm NAME`` hands over).
        robot: Robot name, e.g. ``"go1"``.
        joint_names: In the order of all joint arrays that cross the link.
        control_dt_s: Control period [s].
        camera_size_wh: Width and height of the camera image [px], None without a camera.
        lockstep: Whether physics waits for commands.
        num_starts: Number of starts that a reset can name.
        info: Anything else worth logging; plain JSON, about 3 kB at most.

    Attributes:
        description: What the runtime is told.
        start_index: Of the last reset taken; -1 before the first.
        forward_s: Published with every state: how long the last command took from the runtime to the robot's side [s].

    Raises:
        LinkError: When a living process serves under this name already (a dead one's leftover is replaced).
    """

    def __init__(
        self,
        name: str,
        *,
        robot: str,
        joint_names: Sequence[str],
        control_dt_s: float = 0.02,
        camera_size_wh: Optional[Tuple[int, int]] = None,
        lockstep: bool = True,
        num_starts: int = 0,
        info: Optional[Dict[str, Any]] = None,
    ) -> None:
        self.description = LinkDescription(
            robot, tuple(joint_names), control_dt_s, camera_size_wh, lockstep, num_starts, dict(info or {})
        )
        self._linked = True
        self._closed = False
        encoded = self.description.to_bytes()
        memory = create(name, Segment.size(self.description))
        buffer(memory)[HEADER_BYTES : HEADER_BYTES + len(encoded)] = encoded
        FIXED.pack_into(buffer(memory), 0, b"\0" * 8, VERSION, len(encoded), os.getpid(), 0, 0, 0)
        buffer(memory)[:8] = MAGIC  # last: whoever attaches earlier sees an unfinished segment and waits
        self._segment = Segment(memory, self.description)
        record = self._segment.command.record
        self._request = JointCommand(q=record["q"][0], kp=record["kp"][0], kd=record["kd"][0])
        self._fields = StateRecord(self._segment.state.record)
        self._segment.state.record["misfit_wh"] = -1
        self._image_t_s = -np.inf
        self.start_index = -1
        self.forward_s = float("nan")

    def wait_for_runtime(self, timeout_s: float = 60.0) -> None:
        """Wait until a runtime has attached, then remove the segment's name (nobody else can attach, nothing can leak).

        Args:
            timeout_s: How long to wait [s].

        Raises:
            LinkError: When nobody came.
        """
        segment = self._segment
        if not wait(lambda: segment.get("q", OFFSET_RUNTIME_PID) != 0, timeout_s, lambda: True):
            raise LinkError(f"no runtime attached to {segment.memory.name!r} within {timeout_s:g} s")
        self._unlink()

    def publish(
        self, state: RobotState, *, result: EpisodeResult = EpisodeResult.RUNNING, strict_image: bool = True
    ) -> None:
        """Hand a state to the runtime, as the answer to the last request taken. Everything is copied.

        Args:
            state: Joint order, units and frames as in :class:`RobotState`; the image only crosses when ``rgb_t_s`` changed.
            result: How the episode stands.
            strict_image: Refuse an image that does not fit; otherwise only its size crosses, and the runtime's guard acts.

        Raises:
            LinkError: When the image is not uint8 ``[H, W, 3]`` of the announced size.
        """
        segment = self._segment
        record = segment.state.record
        if state.rgb is not None and state.rgb_t_s != self._image_t_s:
            misfit = self._misfit(state.rgb)
            if misfit and strict_image:
                raise LinkError(misfit)
            height, width = state.rgb.shape[:2] if state.rgb.ndim == 3 else (0, 0)
            record["misfit_wh"] = (width, height) if misfit else (-1, -1)
            if not misfit:
                self._post_image(state.rgb, state.rgb_t_s)
            self._image_t_s = state.rgb_t_s
        record["rgb_t_s"] = state.rgb_t_s
        record["answers"] = segment.command.number
        self._fields.put(state)
        record["forward_s"] = self.forward_s
        record["image_number"] = segment.image.number if state.rgb is not None else 0
        record["start_index"] = self.start_index
        record["result"] = int(result)
        segment.state.post()

    def wait_request(self, timeout_s: float = 60.0) -> Union[JointCommand, ResetRequest, None]:
        """Wait for the runtime's next request (lockstep).

        Args:
            timeout_s: How long to wait [s].

        Returns:
            A :class:`ResetRequest`, a :class:`JointCommand` (arrays valid until the next call; copy what must live longer),
            or None when the runtime closed the link.

        Raises:
            LinkError: When the runtime was killed or stays silent.
        """
        segment = self._segment
        seen = segment.command.number
        if not wait(lambda: segment.command.posted() != seen, timeout_s, self._runtime_alive):
            if segment.get("I", OFFSET_RUNTIME_CLOSED):
                return None
            if not self._runtime_alive():
                raise LinkError("the runtime is gone (killed?) without closing the link")
            raise LinkError(f"the runtime sent nothing for {timeout_s:g} s")
        return self._take_request()

    def latest_request(self) -> Union[JointCommand, ResetRequest, None]:
        """The newest request that was not taken yet, or None; never blocks (free-running robots).

        A robot that gets None keeps its last command, and damps when that is older than about 0.1 s.
        """
        if self._segment.command.posted() == self._segment.command.number:
            return None
        return self._take_request()

    @property
    def runtime_gone(self) -> bool:
        """Whether the runtime closed the link or died."""
        return not self._runtime_alive()

    @property
    def runtime_closed(self) -> bool:
        """Whether the runtime closed the link: a normal end."""
        return bool(self._segment.get("I", OFFSET_RUNTIME_CLOSED))

    @property
    def request_sent_s(self) -> float:
        """When the runtime sent the last request taken, ``time.monotonic()`` of this machine [s]."""
        return float(self._segment.command.record["sent_s"][0])

    def close(self) -> None:
        """Tell the runtime that the robot is gone and unmap; may be called twice."""
        if self._closed:
            return
        self._closed = True
        self._segment.put("I", OFFSET_SERVER_CLOSED, 1)
        self._unlink()
        # The records are private copies, so that nothing handed out points into the segment that goes away here.
        self._segment.close()

    def __enter__(self) -> SharedMemoryServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _runtime_alive(self) -> bool:
        segment = self._segment
        return not segment.get("I", OFFSET_RUNTIME_CLOSED) and pid_alive(segment.get("q", OFFSET_RUNTIME_PID))

    def _take_request(self) -> Union[JointCommand, ResetRequest]:
        box = self._segment.command
        fetch(box, "command")
        if int(box.record["kind"][0]) == KIND_RESET:
            self.start_index = int(box.record["start_index"][0])
            return ResetRequest(self.start_index)
        return self._request

    def _misfit(self, rgb: np.ndarray) -> str:
        """Why an image is not as announced; empty when it is."""
        size = self.description.camera_size_wh
        shape = None if size is None else (size[1], size[0], 3)
        if rgb.dtype == np.uint8 and rgb.shape == shape:
            return ""
        return f"camera image is {rgb.dtype} {rgb.shape}, announced was uint8 {shape}"

    def _post_image(self, rgb: np.ndarray, rgb_t_s: float) -> None:
        record = self._segment.image.record
        record["t_s"] = rgb_t_s
        record["rgb"][0, : rgb.size].reshape(rgb.shape)[...] = rgb
        self._segment.image.post()

    def _unlink(self) -> None:
        if self._linked:
            self._linked = False
            self._segment.memory.unlink()
