"""The bridge's other end for backends of this package: `python -m gaussgym_sim.engines.bridge_worker SOCKET_FD MEMORY_FD`."""

from __future__ import annotations

import io
import os
import pickle
import signal
import socket
import sys
from typing import Any

import numpy as np
import torch
from gaussgym_scene.errors import GaussgymError
from numpy.typing import NDArray

from gaussgym_sim.engines import bridge_wire as wire
from gaussgym_sim.vecsim import VecSim, make_sim

_RESET_FIELDS = ("root_pos_w", "root_quat_wxyz", "root_lin_vel_w", "root_ang_vel_b", "joint_pos", "joint_vel")
_STATE = "state/"


class Server:
    """One backend behind the bridge: requests come in, its state goes into the block."""

    def __init__(self, memory_fd: int) -> None:
        """Wait for `wire.START`, which says what to simulate."""
        self._memory_fd = memory_fd
        self._sim: VecSim | None = None
        self._arrays: dict[str, NDArray[Any]] = {}

    @property
    def sim(self) -> VecSim:
        """The backend."""
        if self._sim is None:
            raise wire.WireError("a request came before the start")
        return self._sim

    def handlers(self) -> dict[int, wire.Handler]:
        """By request."""
        by_op: dict[int, wire.Handler] = {
            wire.START: self._start, wire.STEP: self._step, wire.RESET: self._reset, wire.SET_PARAMS: self._set_params,
            wire.KICK: self._kick, wire.PUSH: self._push, wire.PARK: self._park, wire.SET_SCENE: self._set_scene,
            wire.STATE_DICT: self._state_dict, wire.LOAD_STATE_DICT: self._load_state_dict,
        }  # fmt: skip
        return {op: _told(handler) for op, handler in by_op.items()}

    def _start(self, message: wire.Message) -> tuple[dict[str, Any], bytes]:
        self._arrays = wire.map_block(self._memory_fd, wire.as_layout(message.body["layout"]))
        # From our own parent process, over a socket that only it holds.
        backend, robot, scenes, num_envs, options = pickle.loads(message.blob)
        self._sim = sim = make_sim(backend, robot, scenes, num_envs, device="cpu", **options)
        self._publish()
        self._publish_params(slice(None), sim.params)
        description = {
            "link_names": list(sim.link_names),
            "total_mass_kg": sim.total_mass_kg,
            "substep_s": sim.substep_s,
            "capabilities": sorted(sim.capabilities),
            "params": list(sim.params),
        }
        return description, b""

    def _publish(self, rows: NDArray[np.int64] | slice = slice(None)) -> None:
        """State of some environments into the block."""
        for name, array in self._arrays.items():
            if name.startswith(_STATE):
                array[rows] = getattr(self.sim.state, name[len(_STATE) :]).numpy()[rows]
        self._arrays["scene_of_env"][:] = self.sim.scene_of_env.numpy()
        self._arrays["invalid_count"][0] = self.sim.invalid_count

    def _publish_params(self, rows: NDArray[np.int64] | slice, names: Any) -> None:
        for name in names:
            self._arrays[f"param/{name}"][rows] = self.sim.params[name].numpy()[rows]

    def _ids(self, message: wire.Message) -> NDArray[np.int64]:
        return self._arrays["in/ids"][: message.number].copy()

    def _input(self, name: str, count: int) -> torch.Tensor:
        return torch.from_numpy(self._arrays[f"in/{name}"][:count])

    def _step(self, message: wire.Message) -> None:
        self.sim.step(self._input("target", self.sim.num_envs), substeps=message.number)
        self._publish()

    def _reset(self, message: wire.Message) -> None:
        ids = self._ids(message)
        self.sim.reset(torch.from_numpy(ids), **{name: self._input(name, len(ids)) for name in _RESET_FIELDS})  # type: ignore[arg-type]
        self._publish(ids)

    def _set_params(self, message: wire.Message) -> None:
        ids, names = self._ids(message), message.body["names"]
        values = {name: self._input(f"param/{name}", len(ids)) for name in names}
        self.sim.set_params(torch.from_numpy(ids), **values)
        self._publish_params(ids, names)

    def _kick(self, message: wire.Message) -> None:
        ids = self._ids(message)
        ang = self._input("ang", len(ids)) if message.body["ang"] else None
        self.sim.kick(torch.from_numpy(ids), self._input("lin", len(ids)), ang)
        self._publish(ids)

    def _push(self, message: wire.Message) -> None:
        ids = self._ids(message)
        ang = self._input("ang", len(ids)) if message.body["ang"] else None
        self.sim.push(torch.from_numpy(ids), self._input("lin", len(ids)), ang)

    def _park(self, message: wire.Message) -> None:
        self.sim.park(torch.from_numpy(self._ids(message)))

    def _set_scene(self, message: wire.Message) -> None:
        ids, slot = self._ids(message), message.body["slot"]
        scene = pickle.loads(message.blob) if slot is None else self.sim.scenes[slot]
        self.sim.set_scene(torch.from_numpy(ids), scene)
        self._publish(ids)
        self._publish_params(ids, self.sim.params)

    def _state_dict(self, _: wire.Message) -> tuple[dict[str, Any], bytes]:
        file = io.BytesIO()
        torch.save(self.sim.state_dict(), file)
        return {}, file.getvalue()

    def _load_state_dict(self, message: wire.Message) -> None:
        self.sim.load_state_dict(torch.load(io.BytesIO(message.blob), weights_only=False))
        self._publish()
        self._publish_params(slice(None), self.sim.params)


def _told(handler: wire.Handler) -> wire.Handler:
    """Errors that a user can act on become the bridge's."""

    def call(message: wire.Message) -> tuple[dict[str, Any], bytes] | None:
        try:
            return handler(message)
        except GaussgymError as error:
            raise wire.BadInput(str(error)) from None

    return call


def main(arguments: list[str]) -> None:
    """Serve one client until it closes or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's to answer
    os.dup2(2, 1)  # the client's stdout is for results
    channel = wire.Channel(socket.socket(fileno=int(arguments[0])))
    server = Server(int(arguments[1]))
    try:
        wire.serve(channel, server.handlers())
    finally:
        channel.close()


if __name__ == "__main__":
    main(sys.argv[1:])
