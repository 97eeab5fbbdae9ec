"""A physics backend in a process of its own, behind shared memory: `BridgedSim`, a `VecSim` like any other.

``make_sim("bridge:mujoco", ...)`` runs the backend named after the colon in a worker (`gaussgym_sim.engines.bridge_worker`);
`isaacgym` is driven the same way, with a worker under another Python. The state's tensors are views of the shared memory, so that
one copy a step is what the bridge costs, and trajectories are those of the backend, to the bit.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import torch
from gaussgym_scene.errors import InputError, StageError
from gaussgym_scene.scene import Scene
from torch import Tensor

from gaussgym_sim.engines import bridge_wire as wire
from gaussgym_sim.ground.terrain import Ground, TerrainLookup, ground_of
from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.robots.geoms import load_model
from gaussgym_sim.vecsim import PARAMS, SimState, check_param_names

_END_TIMEOUT_S = 5.0


class BridgeError(StageError):
    """The worker died, hangs, failed or does not speak our version; it has been ended, and the sim is of no more use."""


@dataclass(frozen=True)
class BridgeCfg:
    """How long to wait for a worker [s].

    Attributes:
        timeout_s: for an answer to any request; a worker that takes longer is taken for hung and killed.
        start_timeout_s: for the start, which compiles models and may build terrain of thousands of scenes.
    """

    timeout_s: float = 120.0
    start_timeout_s: float = 900.0


class Worker:
    """A worker process and the line to it. Owns the process: it ends with this object, or with this process.

    Attributes:
        name: what errors call it.
        process: the worker.
    """

    def __init__(
        self, command: Sequence[str], fd: int, *, name: str, env: dict[str, str] | None = None
    ) -> None:
        """Start ``command`` with the numbers of two descriptors appended: a socket and the block ``fd``.

        Raises:
            InputError: the program cannot be started.
        """
        self.name = name
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)
        ours, theirs = socket.socketpair()
        self._channel = wire.Channel(ours)
        self._error: str | None = None
        self._calling = ""
        with theirs:
            try:
                # A session of its own: Ctrl-C is answered by us, which ends the worker in order.
                self.process = subprocess.Popen(
                    [*command, str(theirs.fileno()), str(fd)], pass_fds=(theirs.fileno(), fd), stdin=subprocess.DEVNULL,
                    stdout=self._log, stderr=self._log, start_new_session=True, env=env,
                )  # fmt: skip
            except OSError as error:
                ours.close()
                raise InputError(
                    f"cannot start the worker of {name}: {command[0]}: {error.strerror}"
                ) from None
        self._finalizer = weakref.finalize(self, _end, self.process, self._channel, self._log, os.getpid())

    def call(
        self,
        op: int,
        number: int = 0,
        body: dict[str, Any] | None = None,
        blob: bytes = b"",
        *,
        timeout_s: float,
    ) -> wire.Message:
        """Send a request and wait for its answer.

        Raises:
            InputError: the worker refuses the request.
            BridgeError: the worker failed, died or does not answer; it has been killed.
        """
        if self._error is None and self._calling:
            self._fail(f"was interrupted during {self._calling}")
        if self._error is not None:
            raise BridgeError(self._error)
        self._calling = wire.REQUEST_NAMES[op]
        try:
            self._channel.socket.settimeout(timeout_s)
            self._channel.send(op, number, body, blob)
            answer = self._channel.receive()
        except TimeoutError:
            self._fail(f"did not answer {self._calling} within {timeout_s:g} s and was killed")
        except (EOFError, OSError):
            self._fail(f"died during {self._calling}", await_exit=True)
        self._calling = ""
        if answer.op == wire.BAD_INPUT:
            raise InputError(answer.body["text"])
        if answer.op == wire.FAILED:
            self._fail(f"failed in {wire.REQUEST_NAMES[op]}: {answer.body['text']}")
        return answer

    def _fail(self, what: str, *, await_exit: bool = False) -> None:
        """End the worker and raise, now and at any later call."""
        if await_exit:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_END_TIMEOUT_S)
            what += _cause(self.process.returncode) + _last_words(self._log)
        self._error = f"the physics worker of {self.name} (process {self.process.pid}) {what}"
        self._finalizer()
        raise BridgeError(self._error)

    def close(self) -> None:
        """Ask the worker to end, and see that it does; safe to repeat."""
        if self._finalizer.alive and not self._calling:
            with contextlib.suppress(OSError, EOFError):
                self._channel.socket.settimeout(_END_TIMEOUT_S)
                self._channel.send(wire.CLOSE)
                self._channel.receive()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(_END_TIMEOUT_S)
        self._error = self._error or f"the physics worker of {self.name} is closed"
        self._finalizer()


def _end(process: subprocess.Popen[bytes], channel: wire.Channel, log: IO[bytes], owner: int) -> None:
    """Leave nothing behind: the worker is killed (also when it is stopped) and reaped."""
    if os.getpid() != owner:
        return  # a forked child does not own the worker
    channel.close()
    if process.poll() is None:
        process.kill()
        process.wait()
    log.close()


def _cause(status: int | None) -> str:
    if status is None:
        return ""
    return f" ({signal.Signals(-status).name})" if status < 0 else f" (exit status {status})"


def _last_words(log: IO[bytes]) -> str:
    """The last line that the worker wrote."""
    log.seek(max(0, log.seek(0, io.SEEK_END) - 4096))
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1]}" if lines else ""


def sees_block(device: torch.device) -> bool:
    """Whether tensors of a device can be views of the block; those of another are copies that each call brings up to date."""
    return device.type == "cpu"


def block_layout(robot: RobotCfg, num_envs: int) -> wire.Layout:
    """Arrays of the block for a robot: state, arguments, and every parameter as value and as argument."""
    joints, legs = robot.num_joints, len(robot.leg_names)
    sizes = {"": (), "joints": (joints,), "links": (load_model(robot.mjcf).nbody - 2,), "xyz": (3,)}
    layout = wire.state_layout(num_envs, joints, legs) + wire.input_layout(num_envs, joints)
    for kind in ("param", "in/param"):
        layout += [(f"{kind}/{name}", "<f4", (num_envs, *sizes[p.shape])) for name, p in PARAMS.items()]
    return layout


def strip_scene(scene: Scene) -> Scene:
    """The scene without what only cameras see; members of a folder that were not read yet are read by the worker."""
    members = {k: v for k, v in scene.__dict__.items() if k in ("mesh", "heightfield", "paths")}
    return Scene(scene.name, metadata=scene.metadata, directory=scene.directory, **members)


class BridgedSim:
    """`VecSim` whose physics runs in a worker. See `gaussgym_sim.vecsim.VecSim` for the methods."""

    def __init__(
        self,
        backend: str,
        robot: RobotCfg,
        scenes: Sequence[Scene],
        num_envs: int,
        *,
        device: torch.device,
        seed: int = 0,
        num_threads: int | None = None,
        terrain: str = "boxes",
        cfg: BridgeCfg | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        """Start a worker that simulates with ``backend`` on the CPU.

        Arguments as `make_sim`; ``cfg`` holds timeouts; ``command`` is the worker's, by default
        `gaussgym_sim.engines.bridge_worker` under this interpreter.

        Raises:
            InputError: what `make_sim` refuses.
            BridgeError: the worker does not come up.
        """
        options = {"seed": seed, "num_threads": num_threads, "terrain": terrain}
        spec = (backend, robot, [strip_scene(s) for s in scenes], num_envs, options)
        grounds = [ground_of(scene, terrain) for scene in scenes]
        self._open(
            robot, scenes, grounds, num_envs, device=device, terrain=terrain, cfg=cfg or BridgeCfg(), name=backend,
            command=command or (sys.executable, "-m", "gaussgym_sim.engines.bridge_worker"), body={}, blob=pickle.dumps(spec),
        )  # fmt: skip

    def _open(
        self, robot: RobotCfg, scenes: Sequence[Scene], grounds: Sequence[Ground], num_envs: int, *, device: torch.device,
        terrain: str, cfg: BridgeCfg, name: str, command: Sequence[str], body: dict[str, Any], blob: bytes,
        env: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Share a block with a new worker and start its simulation."""
        self.robot, self.scenes, self.num_envs, self.device = robot, list(scenes), num_envs, device
        self._terrain_mode, self._timeout_s, self._name = terrain, cfg.timeout_s, name
        self.terrain = TerrainLookup(grounds, device=device)
        layout = block_layout(robot, num_envs)
        fd = _create_block(layout)
        try:
            arrays = wire.map_block(fd, layout)
            self._worker = Worker(command, fd, name=name, env=env)
        finally:
            os.close(fd)
        self._shared = {key: torch.from_numpy(array) for key, array in arrays.items()}
        body = {**body, "layout": layout}
        try:
            answer = self._worker.call(wire.START, num_envs, body, blob, timeout_s=cfg.start_timeout_s)
        except BaseException:
            self._worker.close()
            raise
        self._describe(answer.body)

    def _describe(self, said: dict[str, Any]) -> None:
        """What the worker says of its simulation, and the tensors that callers see."""
        self.link_names = tuple(said["link_names"])
        self.total_mass_kg, self.substep_s = float(said["total_mass_kg"]), float(said["substep_s"])
        self.capabilities = frozenset(said["capabilities"])
        state = {k.removeprefix("state/"): self._seen(k) for k in self._shared if k.startswith("state/")}
        self.state = SimState(**state)
        self.params = {name: self._seen(f"param/{name}") for name in said["params"]}
        self.scene_of_env = self._seen("scene_of_env")

    def _seen(self, key: str) -> Tensor:
        return self._shared[key] if sees_block(self.device) else self._shared[key].to(self.device, copy=True)

    @property
    def invalid_count(self) -> int:
        """How often a state became non-finite since the start."""
        return int(self._shared["invalid_count"][0])

    def _call(
        self, op: int, ids: Tensor | None = None, body: dict[str, Any] | None = None, blob: bytes = b""
    ) -> wire.Message:
        count = 0
        if ids is not None:
            count = self._put("ids", ids)
        return self._worker.call(op, count, body, blob, timeout_s=self._timeout_s)

    def _put(self, name: str, values: Tensor) -> int:
        """Fill the first rows of an argument; returns their number."""
        self._shared[f"in/{name}"][: len(values)] = values
        return len(values)

    def _pull_state(self) -> None:
        """Bring tensors on another device up to date."""
        if sees_block(self.device):
            return
        for key, shared in self._shared.items():
            if key.startswith("state/"):
                getattr(self.state, key.removeprefix("state/")).copy_(shared)

    def _pull_params(self) -> None:
        if sees_block(self.device):
            return
        for name, value in self.params.items():
            value.copy_(self._shared[f"param/{name}"])

    def step(self, target_joint_pos: Tensor, *, substeps: int = 4) -> None:
        """See `VecSim.step`."""
        self._put("target", target_joint_pos)
        self._worker.call(wire.STEP, substeps, timeout_s=self._timeout_s)
        self._pull_state()

    def reset(
        self, env_ids: Tensor, *, root_pos_w: Tensor, root_quat_wxyz: Tensor, root_lin_vel_w: Tensor,
        root_ang_vel_b: Tensor, joint_pos: Tensor, joint_vel: Tensor,
    ) -> None:  # fmt: skip
        """See `VecSim.reset`."""
        values = {
            "root_pos_w": root_pos_w, "root_quat_wxyz": root_quat_wxyz, "root_lin_vel_w": root_lin_vel_w,
            "root_ang_vel_b": root_ang_vel_b, "joint_pos": joint_pos, "joint_vel": joint_vel,
        }  # fmt: skip
        for name, value in values.items():
            self._put(name, value)
        self._call(wire.RESET, env_ids)
        self._pull_state()

    def set_params(self, env_ids: Tensor, **values: Tensor) -> None:
        """See `VecSim.set_params`."""
        check_param_names(list(values), self.capabilities, self._name)
        for name, value in values.items():
            self._put(f"param/{name}", value)
        self._call(wire.SET_PARAMS, env_ids, {"names": list(values)})
        self._pull_params()

    def kick(self, env_ids: Tensor, delta_lin_vel_w: Tensor, delta_ang_vel_b: Tensor | None = None) -> None:
        """See `VecSim.kick`."""
        self._linear_and_angular(wire.KICK, env_ids, delta_lin_vel_w, delta_ang_vel_b)
        self._pull_state()

    def push(self, env_ids: Tensor, force_w: Tensor, torque_w: Tensor | None = None) -> None:
        """See `VecSim.push`."""
        self._linear_and_angular(wire.PUSH, env_ids, force_w, torque_w)

    def _linear_and_angular(self, op: int, env_ids: Tensor, linear: Tensor, angular: Tensor | None) -> None:
        self._put("lin", linear)
        if angular is not None:
            self._put("ang", angular)
        self._call(op, env_ids, {"ang": angular is not None})

    def raycast(self, origin_w: Tensor, direction_w: Tensor) -> Tensor:
        """See `VecSim.raycast`."""
        return self.terrain.raycast(origin_w, direction_w, self.scene_of_env)

    def park(self, env_ids: Tensor) -> None:
        """See `VecSim.park`."""
        self._require("park")
        self._call(wire.PARK, env_ids)

    def set_scene(self, env_ids: Tensor, scene: Scene) -> None:
        """See `VecSim.set_scene`."""
        self._require("set_scene")
        slot = next((i for i, known in enumerate(self.scenes) if known is scene), None)
        ground = None if slot is not None else ground_of(scene, self._terrain_mode)
        blob = b"" if slot is not None else pickle.dumps(strip_scene(scene))
        self._call(wire.SET_SCENE, env_ids, {"slot": slot}, blob)
        if not sees_block(self.device):
            self.scene_of_env.copy_(self._shared["scene_of_env"])
        if ground is not None and len(env_ids):
            taken = int(self._shared["scene_of_env"][int(env_ids[0])])
            self.scenes[taken] = scene
            self.terrain.replace(taken, ground)
        self._pull_state()
        self._pull_params()

    def state_dict(self) -> dict[str, Any]:
        """See `VecSim.state_dict`."""
        self._require("state_dict")
        return torch.load(io.BytesIO(self._call(wire.STATE_DICT).blob), weights_only=False)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `VecSim.load_state_dict`."""
        self._require("state_dict")
        file = io.BytesIO()
        torch.save(state, file)
        self._call(wire.LOAD_STATE_DICT, blob=file.getvalue())
        if not sees_block(self.device):
            self.scene_of_env.copy_(self._shared["scene_of_env"])
        self._pull_state()
        self._pull_params()

    def _require(self, capability: str) -> None:
        if capability not in self.capabilities:
            raise InputError(
                f"physics backend {self._name!r} has no {capability!r}; it has: {', '.join(sorted(self.capabilities))}"
            )

    def close(self) -> None:
        """End the worker; safe to repeat. The last state stays readable."""
        self._worker.close()


def _create_block(layout: wire.Layout) -> int:
    try:
        return wire.create_block(layout)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.ENOMEM):
            raise
        megabytes = wire.block_bytes(layout) / 1e6
        raise InputError(
            f"no {megabytes:.0f} MB of shared memory left for the bridge; take fewer environments"
        ) from None
