"""The plain robot behind deploy's shared-memory link: in lockstep with the runtime, or in real time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import mujoco
from gaussgym_deploy.bundle import BundleError, CameraSpec, PolicyBundle
from gaussgym_deploy.robot_io import DAMPING_KD, JointCommand
from gaussgym_deploy.scheduler import be_prompt
from gaussgym_deploy.shared_memory import EpisodeResult, ResetRequest, SharedMemoryServer
from gaussgym_deploy.simulated_robot import SimulatedRobotCfg
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from gaussgym_sim.mdp.starts import Starts
from gaussgym_sim.robot import RobotCfg, get_robot
from gaussgym_sim.sensors.camera import CameraCfg

from gaussgym_learn.checkpoint import write_bytes
from gaussgym_learn.evaluate import evaluation_cfg, fixed_starts
from gaussgym_learn.export import camera_spec
from gaussgym_learn.robot.film import RobotFilm
from gaussgym_learn.robot.plain_robot import PlainRobot

ROBOT_PRIORITY = 15
"""Of a robot in real time among real-time threads: above the runtime (10), below the supervisor (20)."""
COMMAND_TIMEOUT_S = 0.1
"""Silence after which a robot that runs freely damps, as a motor board does [simulated s]."""


@dataclass(frozen=True)
class ServeCfg:
    """How the robot process serves.

    Attributes:
        lockstep: physics waits for commands; else it runs in real time and damps when none come.
        endless: episodes never end (a robot that somebody drives).
        episodes_out: file for one JSON line an episode, `gaussgym_learn.robot.tally.EpisodeTally.row`.
        paths_out: file for the paths from every start to its goal, written before the link comes up.
        film: mp4 file for the first episode, written when the link is closed.
        timeout_s: how long to wait for the runtime [s].
    """

    lockstep: bool = True
    endless: bool = False
    episodes_out: Path | None = None
    paths_out: Path | None = None
    film: Path | None = None
    timeout_s: float = 120.0


def make_plain_robot(
    scene: Path | str,
    *,
    bundle: Path | str | None = None,
    starts: Path | str | None = None,
    episodes: int = 256,
    robot: str = "go1",
    renderer: str = "auto",
    options: SimulatedRobotCfg | None = None,
    serve: ServeCfg | None = None,
    eyes: bool = True,
) -> tuple[PlainRobot, str]:
    """The plain robot that a bundle wants in a scene, and the scene's name; arguments as of `serve_robot`.

    Without `eyes` it has no camera of its own, whatever the bundle wants.
    """
    serve = serve or ServeCfg()
    loaded = _load_bundle(bundle)
    cfg = evaluation_cfg("goal")
    description = get_robot(loaded.robot if loaded is not None else robot)
    place = Scene.load(scene)
    simulated = PlainRobot(
        description,
        place,
        cfg,
        read_starts(starts) if starts is not None else fixed_starts([place], episodes),
        camera=camera_of(bundle, description) if eyes else None,
        renderer=renderer,
        options=options,
        threaded_camera=not serve.lockstep,
        endless=serve.endless,
    )
    return simulated, place.name


def serve_robot(
    scene: Path | str,
    shm: str,
    *,
    bundle: Path | str | None = None,
    starts: Path | str | None = None,
    episodes: int = 256,
    robot: str = "go1",
    renderer: str = "auto",
    options: SimulatedRobotCfg | None = None,
    serve: ServeCfg | None = None,
) -> None:
    """Be the robot of a scene for a runtime that attaches over shared memory; returns when it closes the link.

    Args:
        scene: scene folder.
        shm: name of the shared memory.
        bundle: policy bundle: gives the robot and the camera (without it the simulator's own camera).
        starts: JSON file of `gaussgym_sim.mdp.starts.Starts`; default: the starts of `evaluate` on this scene.
        episodes: number of default starts.
        robot: registry name, where no bundle says it.
        renderer: backend of the camera.
        options: sensors, delays, ground, motors.
        serve: lockstep or real time, files to write.

    Raises:
        InputError: a scene, bundle or file of starts that does not fit.
        LinkError: the runtime is gone.
    """
    serve = serve or ServeCfg()
    simulated, scene_name = make_plain_robot(
        scene, bundle=bundle, starts=starts, episodes=episodes, robot=robot, renderer=renderer, options=options,
        serve=serve,
    )  # fmt: skip
    camera = simulated.camera
    if serve.paths_out is not None:
        paths = [simulated.path_ahead_m(number).tolist() for number in range(len(simulated.starts))]
        fields = {"paths_w_m": paths, "speed_m_s": simulated.starts.speed_m_s.tolist()}
        write_bytes(serve.paths_out, json.dumps(fields).encode())
    film = None if serve.film is None else RobotFilm(serve.film)
    with (
        Watch(serve.episodes_out, film) as watch,
        SharedMemoryServer(
            shm,
            robot=simulated.robot.name,
            joint_names=simulated.robot.joint_names,
            control_dt_s=simulated.cfg.control_s,
            camera_size_wh=None if camera is None else (camera.width, camera.height),
            lockstep=serve.lockstep,
            num_starts=len(simulated.starts),
            info={
                "scene": scene_name,
                "episode_s": simulated.cfg.episode_s,
                "mujoco": mujoco.__version__,
                "options": simulated.options.changed(),
            },
        ) as server,
    ):
        server.wait_for_runtime(timeout_s=serve.timeout_s)
        loop = serve_lockstep if serve.lockstep else serve_free
        try:
            loop(server, simulated, serve.timeout_s, watch)
        finally:
            simulated.close()
    if film is not None:  # only now: nobody waits for an answer any more
        film.write(Scene.load(scene), simulated)


class Watch:
    """Watches the robot: one JSON line for every episode that is over, and the film of the first.

    Args:
        path: file for the lines; None writes none.
        film: sees every published state; None films nothing.
    """

    def __init__(self, path: Path | None = None, film: RobotFilm | None = None) -> None:
        self._file: IO[str] | None = None if path is None else path.open("w", encoding="utf-8")
        self._film, self._over = film, False

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def see(self, robot: PlainRobot) -> None:
        """The robot after a reset or a step."""
        if self._film is not None:
            self._film.add(robot)
        over = robot.result != EpisodeResult.RUNNING
        if over and not self._over and self._file is not None:
            self._file.write(json.dumps(robot.tally.row(robot.result)) + "\n")
            self._file.flush()  # readers see it at once
        self._over = over


def serve_lockstep(server: SharedMemoryServer, robot: PlainRobot, timeout_s: float, watch: Watch) -> None:
    """Answer every request with a state; nothing happens in between."""
    while (request := server.wait_request(timeout_s=timeout_s)) is not None:
        if isinstance(request, ResetRequest):
            robot.reset(request.start_index)
        elif robot.result == EpisodeResult.RUNNING:
            robot.step(request)
        watch.see(robot)
        server.publish(robot.state, result=robot.result)


class FreeRunning:
    """A plain robot in (a multiple of) real time: time goes on whether commands come or not.

    The clock is the caller's, so that any server can drive it: `advance` once a period of `period_s`.

    Args:
        robot: stepped.

    Attributes:
        period_s: simulated time between states [s].
        timeouts: how often commands stayed away.
    """

    def __init__(self, robot: PlainRobot) -> None:
        options = robot.options
        state_hz = options.state_hz or round(1.0 / robot.cfg.control_s)
        self.robot, self.timeouts = robot, 0
        self._steps = options.physics_hz // state_hz
        if self._steps * state_hz != options.physics_hz:
            raise InputError(
                f"state_hz is {state_hz}, expected a divisor of the {options.physics_hz} physics steps a second"
            )
        self.period_s = self._steps * robot.dt_s
        self._held = JointCommand.zeros(robot.robot.num_joints)
        self._silent_s = 0.0

    def reset(self, number: int) -> None:
        """Begin an episode; the robot is limp until the first command."""
        self.robot.reset(number)
        self._held = JointCommand.zeros(self.robot.robot.num_joints)
        self._silent_s = 0.0

    def advance(self, command: JointCommand | None) -> EpisodeResult:
        """One period.

        Args:
            command: that has arrived since the last call, or None; copied.
        """
        if command is not None:
            self._held = JointCommand(command.q.copy(), command.kp.copy(), command.kd.copy())
            self._silent_s = 0.0
        else:
            before, self._silent_s = self._silent_s, self._silent_s + self.period_s
            if before <= COMMAND_TIMEOUT_S < self._silent_s:
                self.timeouts += 1
                self._held.kp[:], self._held.kd[:] = 0.0, DAMPING_KD
        if self.robot.result != EpisodeResult.RUNNING:
            return self.robot.result
        return self.robot.advance(self._held, self._steps)


def serve_free(
    server: SharedMemoryServer,
    robot: PlainRobot,
    timeout_s: float,
    watch: Watch,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Real time, or `SimulatedRobotCfg.speed` times as fast: a state every period."""
    be_prompt(ROBOT_PRIORITY)
    free, started, silent_s = FreeRunning(robot), False, 0.0
    period_s = free.period_s / robot.options.speed
    due_s = clock()
    while not server.runtime_gone:
        request = server.latest_request()
        silent_s = 0.0 if request is not None else silent_s + period_s
        if silent_s > timeout_s:
            return
        if isinstance(request, ResetRequest):
            free.reset(request.start_index)
            started = True
        elif started:
            free.advance(request)
        if started:
            watch.see(robot)
            server.publish(robot.state, result=robot.result)
        due_s = max(due_s + period_s, clock() - period_s)
        sleep(max(0.0, due_s - clock()))


def camera_of(bundle: Path | str | None, robot: RobotCfg) -> CameraSpec | None:
    """The camera that a bundle wants (None: it is blind); without a bundle the simulator's own."""
    loaded = _load_bundle(bundle)
    return loaded.camera if loaded is not None else camera_spec(robot, CameraCfg())


def _load_bundle(path: Path | str | None) -> PolicyBundle | None:
    if path is None:
        return None
    try:
        return PolicyBundle.load(path)
    except BundleError as error:
        raise InputError(str(error)) from None


def read_starts(path: Path | str) -> Starts:
    """Starts from a JSON file (`Starts.to_dict`, alone or under the key `starts`).

    Raises:
        InputError: not such a file.
    """
    try:
        fields: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); expected starts") from None
    if not isinstance(fields, dict):
        raise InputError(f"{path}: holds a {type(fields).__name__}, expected an object of starts")
    return Starts.from_dict(fields.get("starts", fields))
