"""Twin of `gaussgym_sim.actuation.actuators` in torch, for simulations under Python 3.8: numpy and torch are all it needs."""

import io
import json
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

_ACTIVATIONS: Dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": torch.relu,
    "elu": torch.nn.functional.elu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softsign": torch.nn.functional.softsign,
}
NET_FORMAT = ("gaussgym-actuator-net", 1)


class Net:
    """A learned actuator, as `gaussgym_sim.actuation.actuator_net.ActuatorNet.save` wrote it, for the joints of E robots."""

    def __init__(self, file: bytes, like: Tensor) -> None:
        """Empty memory for joints ``like`` [E, J]."""
        with np.load(io.BytesIO(file), allow_pickle=False) as arrays:
            header = json.loads(str(arrays["header"]))
            if (header["format"], header["version"]) != NET_FORMAT:
                raise ValueError(
                    "an actuator network of format {}, expected {}".format(header["format"], NET_FORMAT)
                )
            weights = {k: torch.from_numpy(arrays[k]).to(like.device) for k in arrays.files if k != "header"}
        self._history: List[int] = header["history"]
        self._activation = _ACTIVATIONS[header["activation"]]
        self._lstm = [
            (
                weights[f"lstm{i}_from_input"],
                weights[f"lstm{i}_from_hidden"],
                weights[f"lstm{i}_bias"],
            )
            for i in range(header["lstm"])
        ]
        self._dense = [
            (weights[f"dense{i}_weight"], weights[f"dense{i}_bias"]) for i in range(header["dense"])
        ]
        shape = (max(self._history), *like.shape)
        self._past = (
            torch.zeros(shape, device=like.device),
            torch.zeros(shape, device=like.device),
        )  # newest first
        self._hidden: List[Tuple[Tensor, Tensor]] = [
            (
                torch.zeros(*like.shape, h.shape[1], device=like.device),
                torch.zeros(*like.shape, h.shape[1], device=like.device),
            )
            for _, h, _ in self._lstm
        ]

    def torque(self, error: Tensor, velocity: Tensor) -> Tensor:
        """[E, J] Nm of target less position and velocity [E, J]; the memory moves on by a substep."""
        inputs = []
        for past, now in zip(self._past, (error, velocity)):
            inputs += [now if ago == 0 else past[ago - 1] for ago in self._history]
        x = torch.stack(inputs, dim=-1)
        for past, now in zip(self._past, (error, velocity)):
            if len(past):
                past[:] = torch.cat((now[None], past[:-1]))
        for (from_input, from_hidden, bias), (hidden, cell) in zip(self._lstm, self._hidden):
            enter, forget, new, leave = (x @ from_input.T + hidden @ from_hidden.T + bias).chunk(4, dim=-1)
            cell[:] = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
            hidden[:] = torch.sigmoid(leave) * torch.tanh(cell)
            x = hidden
        for i, (weight, bias) in enumerate(self._dense):
            x = x @ weight.T + bias
            if i < len(self._dense) - 1:
                x = self._activation(x)
        return x[..., 0]

    def reset(self, ids: Tensor) -> None:
        """Robots start anew, having stood at their targets."""
        for past in self._past:
            past[:, ids] = 0.0
        for hidden, cell in self._hidden:
            hidden[ids] = 0.0
            cell[ids] = 0.0


class Actuators:
    """Torques of E robots, one row each; targets are remembered substep by substep.

    Damping and dry friction of the joints are worked out here too: Isaac Gym's `friction` is a share of the joint's force and no
    torque (NVIDIA on GymDofProperties, forums.developer.nvidia.com/t/196552), and its `damping` belongs to drives, which motors
    do without. Dry friction is a bristle: a spring that the joint drags along once it is stretched to the friction's torque.

    Attributes:
        delay: [E] substeps.
        torque: [E, J] of the motors in the last substep [Nm].
        dt_s: a substep.
        max_delay: substeps.
    """

    def __init__(
        self,
        robot: Dict[str, Any],
        params: Dict[str, Tensor],
        max_delay: int,
        dt_s: float,
        net: Optional[np.ndarray] = None,
    ) -> None:
        """Parameters are those tensors, [E, J] float32, whoever changes them; ``net`` is the file of a network, as bytes."""
        self._params, self.dt_s, self.max_delay = params, dt_s, max_delay
        like = params["kp"]
        kind = robot["actuator"]["kind"]
        self._limit = torch.tensor(robot["torque_limit_nm"], device=like.device)
        self._dc = kind == "dc"
        if self._dc:
            self._stall = torch.tensor(robot["actuator"]["stall_torque_nm"], device=like.device)
            self._no_load = torch.tensor(robot["actuator"]["no_load_speed_rad_s"], device=like.device)
        self._net = Net(net.tobytes(), like) if kind == "net" and net is not None else None
        default = torch.tensor(robot["default_joint_pos"], device=like.device)
        self._targets = default.repeat(max_delay + 1, like.shape[0], 1)
        self._rows = torch.arange(like.shape[0], device=like.device)
        self._now = 0
        self._bristle = torch.zeros_like(like)
        self.delay = torch.zeros(like.shape[0], dtype=torch.long, device=like.device)
        self.torque = torch.zeros_like(like)

    def efforts(self, target: Tensor, pos: Tensor, vel: Tensor) -> Tensor:
        """Torques [E, J] on the joints in this substep: the motors' (``torque`` then), damping and dry friction.

        Args:
            target: [E, J] in force from this substep on [rad].
            pos: [E, J] [rad].
            vel: [E, J] [rad/s].
        """
        p, count = self._params, len(self._targets)
        self._targets[self._now % count] = target
        wanted = self._targets[(self._now - self.delay) % count, self._rows]
        self._now += 1
        error = wanted + p["offset"] - pos
        if self._net is not None:
            torque = p["strength"] * self._net.torque(error, vel)
        else:
            torque = p["strength"] * (p["kp"] * error - p["kd"] * vel)
        if self._dc:
            speed = vel / self._no_load
            torque = torch.max(torque, (self._stall * (-1.0 - speed)).clamp(max=0.0))
            torque = torch.min(torque, (self._stall * (1.0 - speed)).clamp(min=0.0))
        self.torque[:] = torch.max(torch.min(torque, self._limit), -self._limit)
        return self.torque - p["joint_damping"] * vel - self._dry_friction(vel)

    def _dry_friction(self, vel: Tensor) -> Tensor:
        dry = self._params["joint_friction"]
        # A spring and a damper as stiff as an explicit step of the joint's least inertia bears: 0.7 of a swing is left after it.
        rigid = 0.5 * self._params["armature"].clamp(min=1e-3) / self.dt_s
        stretch = dry / rigid * self.dt_s
        self._bristle += vel * self.dt_s
        self._bristle[:] = torch.max(torch.min(self._bristle, stretch), -stretch)
        return torch.max(torch.min(rigid * (self._bristle / self.dt_s + vel), dry), -dry)

    def reset(self, ids: Tensor, joint_pos: Tensor) -> None:
        """Robots start anew, having held ``joint_pos`` [R, J]."""
        self._targets[:, ids] = joint_pos
        self.torque[ids] = 0.0
        self._bristle[ids] = 0.0
        if self._net is not None:
            self._net.reset(ids)
