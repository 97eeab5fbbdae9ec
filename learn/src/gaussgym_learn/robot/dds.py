"""The plain robot behind Unitree's DDS topics: 500 Hz physics and states, its camera in a process beside them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_deploy.bundle import CameraSpec
from gaussgym_deploy.robot_io import JointCommand, LinkError, RobotState
from gaussgym_deploy.scheduler import RUNTIME_PRIORITY, be_prompt
from gaussgym_deploy.shared_memory import SharedMemoryServer
from gaussgym_deploy.simulated_robot import SimulatedRobotCfg
from gaussgym_deploy.unitree.dds_robot import DdsRobot, DdsRobotCfg
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene

from gaussgym_learn.robot.camera import SplatCamera
from gaussgym_learn.robot.plain_robot import PlainRobot
from gaussgym_learn.robot.serving import ServeCfg, camera_of, make_plain_robot

STATE_HZ = 500
_POSE = 9  # shared numbers: count, time, position, quaternion


@dataclass(frozen=True)
class DdsServeCfg:
    """Where the robot appears and how it ends.

    Attributes:
        domain: DDS domain on the loopback interface.
        camera: name of the shared memory for the camera's frames; None: nobody looks.
        until_orphaned: end when the process that started this one has died.
        start: row of the starts where the robot stands.
        frames_timeout_s: how long the camera waits for somebody to look [s].
    """

    domain: int
    camera: str | None = None
    until_orphaned: bool = False
    start: int = 0
    frames_timeout_s: float = 3600.0


class DrivenRobot:
    """The plain robot as a `RobotIO` that lives on while it is read: one period of physics every `read`.

    Args:
        robot: without a camera of its own.
        look: called with time, position and quaternion when the camera exposes; None: no camera.
        camera_period_s: between exposures [s].
    """

    def __init__(
        self,
        robot: PlainRobot,
        *,
        look: Callable[[np.ndarray, np.ndarray], None] | None = None,
        camera_period_s: float = 0.1,
    ) -> None:
        self.robot = robot
        self._steps = robot.options.physics_hz // STATE_HZ
        if self._steps * STATE_HZ != robot.options.physics_hz:
            raise InputError(f"physics_hz is {robot.options.physics_hz}, expected a multiple of {STATE_HZ}")
        self._held = JointCommand.zeros(robot.robot.num_joints)
        self._look, self._every = look, max(1, round(camera_period_s * STATE_HZ))
        self._turns = 0

    def read(self) -> RobotState:
        """One period of physics; the state after it."""
        robot = self.robot
        robot.advance(self._held, self._steps)
        if self._look is not None and self._turns % self._every == 0:
            self._look(robot.data.qpos[:3], robot.data.qpos[3:7])
        self._turns += 1
        return robot.state

    def write(self, command: JointCommand) -> None:
        """Hold this command."""
        for name in ("q", "kp", "kd"):
            getattr(self._held, name)[:] = getattr(command, name)

    def close(self) -> None:
        """End the robot."""
        self.robot.close()


class CameraProcess:
    """Renders what the robot sees, in a process of its own: physics does not share an interpreter with it.

    It always renders the newest pose; poses that come while it is busy are lost, as with a camera that cannot keep up. Frames are
    stamped with this machine's monotonic clock at exposure, and published after the latency.

    Args:
        scene: scene folder.
        spec: size, intrinsics and mount.
        renderer: backend.
        name: of the shared memory, served as `gaussgym_deploy.unitree.camera_link.SharedMemoryCamera` reads it.
        options: the camera's latency from exposure to publication, its gain and gamma.
        timeout_s: how long to wait for somebody to look.
    """

    def __init__(
        self,
        scene: Path | str,
        spec: CameraSpec,
        renderer: str,
        name: str,
        *,
        options: SimulatedRobotCfg,
        timeout_s: float,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pose: Any = context.RawArray("d", _POSE)
        self._shared = np.frombuffer(self._pose, dtype=np.float64)
        self._ready: Any = context.Event()
        self._count = 0
        arguments = (str(scene), spec, renderer, name, self._pose, self._ready, options, timeout_s)
        self.process: Any = context.Process(target=_render, args=arguments, name="camera", daemon=True)
        self.process.start()

    def wait_until_ready(self, timeout_s: float = 300.0) -> None:
        """Wait until the renderer has compiled and the frames' shared memory is there.

        Raises:
            LinkError: it ended before, or takes too long.
        """
        end_s = time.monotonic() + timeout_s
        while not self._ready.wait(0.1):
            if not self.process.is_alive():
                raise LinkError(
                    f"the camera's process ended (status {self.process.exitcode}) before it was ready"
                )
            if time.monotonic() > end_s:
                raise LinkError(
                    f"the camera's process was not ready within {timeout_s:g} s; the machine is too busy to load the scene"
                )

    def look(self, position_w: np.ndarray, quat_wxyz: np.ndarray) -> None:
        """Expose a frame now."""
        shared = self._shared
        self._count += 1
        # The count last: the renderer takes a pose whose count is the same before and after it was copied.
        shared[0] = -1.0
        shared[1], shared[2:5], shared[5:9] = time.monotonic(), position_w, quat_wxyz
        shared[0] = self._count

    def close(self) -> None:
        """End it; may be called twice."""
        self.process.terminate()
        self.process.join(timeout=5.0)


def _render(
    scene: str,
    spec: CameraSpec,
    renderer: str,
    name: str,
    pose: Any,
    ready: Any,
    options: SimulatedRobotCfg,
    timeout_s: float,
) -> None:
    """The camera's process."""
    from gaussgym_learn.run import torch_threads

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it ends this process
    parent, shared = os.getppid(), np.frombuffer(pose, dtype=np.float64)
    with torch_threads(1):
        latency_s, gain, gamma = 1e-3 * options.camera_latency_ms, options.camera_gain, options.camera_gamma
        eye = SplatCamera(Scene.load(scene), spec, renderer, gain=gain, gamma=gamma)
        eye.image(np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0]))  # compiles
        with SharedMemoryServer(
            name, robot="camera", joint_names=(), camera_size_wh=(spec.width, spec.height), lockstep=False
        ) as server:
            ready.set()
            end_s = time.monotonic() + timeout_s
            while not _attached(server):
                if os.getppid() != parent or time.monotonic() > end_s:
                    return
            state, last = RobotState.zeros(0), 0.0
            while not server.runtime_gone and os.getppid() == parent:
                copy = shared.copy()
                if copy[0] <= last or copy[0] != shared[0]:
                    time.sleep(0.001)
                    continue
                last = copy[0]
                state.rgb, state.rgb_t_s = eye.image(copy[2:5], copy[5:9]), float(copy[1])
                time.sleep(max(0.0, copy[1] + latency_s - time.monotonic()))
                state.t_s = time.monotonic()
                server.publish(state)


def _attached(server: SharedMemoryServer) -> bool:
    """Whether somebody looks; waits a little."""
    try:
        server.wait_for_runtime(0.2)
    except LinkError:
        return False
    return True


def serve_dds(
    scene: Path | str,
    dds: DdsServeCfg,
    *,
    bundle: Path | str | None = None,
    starts: Path | str | None = None,
    episodes: int = 256,
    renderer: str = "auto",
    options: SimulatedRobotCfg | None = None,
) -> None:
    """Be the robot of a scene on DDS until told to stop (SIGTERM, Ctrl-C); prints `ready`, and its counts at the end.

    Args:
        scene: scene folder.
        dds: where.
        bundle: policy bundle: gives robot and camera.
        starts: JSON file of starts; default: those of `evaluate` on this scene.
        episodes: number of default starts.
        renderer: backend of the camera.
        options: sensors, delays, ground, motors; physics runs at 500 Hz unless they say more.

    Raises:
        InputError: a scene, bundle or file of starts that does not fit.
        LinkError: DDS does not come up.
    """
    stopped = _stopped(dds.until_orphaned)
    options = options or SimulatedRobotCfg()
    if options.physics_hz < STATE_HZ:
        options = replace(options, physics_hz=STATE_HZ)
    simulated, _ = make_plain_robot(
        scene, bundle=bundle, starts=starts, episodes=episodes, renderer=renderer, options=options,
        serve=ServeCfg(lockstep=False, endless=True), eyes=False,
    )  # fmt: skip
    simulated.reset(dds.start)
    camera, spec = None, camera_of(bundle, simulated.robot)
    if dds.camera is not None and spec is not None:
        camera = CameraProcess(
            scene, spec, renderer, dds.camera, options=options, timeout_s=dds.frames_timeout_s
        )
    try:
        if camera is not None:
            camera.wait_until_ready()
        period_s = simulated.cfg.camera.period_steps(simulated.cfg.control_s) * simulated.cfg.control_s
        driven = DrivenRobot(
            simulated,
            look=None if camera is None else camera.look,
            camera_period_s=period_s if options.camera_hz is None else 1.0 / options.camera_hz,
        )
        served = DdsRobot(driven, simulated.robot.joint_names, DdsRobotCfg(dds.domain, rate_hz=STATE_HZ))
        be_prompt(RUNTIME_PRIORITY)  # a real robot has a computer of its own
        print("ready", flush=True)
        served.run(stopped)
        served.close()
        print(json.dumps(served.report()), flush=True)
    finally:
        if camera is not None:
            camera.close()


def _stopped(until_orphaned: bool) -> Callable[[], bool]:
    """Tells when to stop: a signal came, or the parent died."""
    got: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda seen, _: got.append(seen))
    parent = os.getppid()
    return lambda: bool(got) or (until_orphaned and os.getppid() != parent)
