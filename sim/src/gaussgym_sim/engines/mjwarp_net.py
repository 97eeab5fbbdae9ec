"""Learned actuators (`gaussgym_sim.actuation.actuator_net`) as Warp kernels, a thread for each value of each joint."""

from __future__ import annotations

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
from typing import Any

import numpy as np
import torch
import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)
from torch import Tensor

from gaussgym_sim.actuation.actuator_net import ACTIVATIONS, ActuatorNet

wp.set_module_options({"enable_backward": False})


@wp.func
def sigmoid(x: float) -> float:
    """Through tanh, which does not overflow."""
    return 0.5 + 0.5 * wp.tanh(0.5 * x)


@wp.func
def activate(x: float, kind: int) -> float:
    """One of `ACTIVATIONS`, by its place there."""
    if kind == 1:
        return wp.max(x, 0.0)
    if kind == 2:
        return wp.where(x > 0.0, x, wp.exp(wp.min(x, 0.0)) - 1.0)
    if kind == 3:
        return wp.tanh(x)
    if kind == 4:
        return sigmoid(x)
    if kind == 5:
        return x / (1.0 + wp.abs(x))
    return x


@wp.func
def add_product(total: float, weight: wp.array2d[float], o: int, source: wp.array2d[float], n: int) -> float:
    """``total`` plus row ``o`` of weight [O, I] times column ``n`` of source [I, N]."""
    for i in range(weight.shape[1]):
        total += weight[o, i] * source[i, n]
    return total


@wp.kernel
def gather_inputs(
    error: wp.array[float],
    velocity: wp.array[float],
    past_error: wp.array2d[float],
    past_velocity: wp.array2d[float],
    history: wp.array[int],
    inputs: wp.array2d[float],
) -> None:
    """Inputs [2 T, N] of N joints from errors and velocities, now and past [D, N]; the past moves on."""
    n = wp.tid()
    times, depth = history.shape[0], past_error.shape[0]
    for k in range(times):
        if history[k] == 0:
            inputs[k, n] = error[n]
            inputs[times + k, n] = velocity[n]
        else:
            inputs[k, n] = past_error[history[k] - 1, n]
            inputs[times + k, n] = past_velocity[history[k] - 1, n]
    for k in range(depth):
        if k < depth - 1:
            past_error[depth - 1 - k, n] = past_error[depth - 2 - k, n]
            past_velocity[depth - 1 - k, n] = past_velocity[depth - 2 - k, n]
        else:
            past_error[0, n] = error[n]
            past_velocity[0, n] = velocity[n]


@wp.kernel
def dense(
    weight: wp.array2d[float],
    bias: wp.array[float],
    source: wp.array2d[float],
    activation: int,
    target: wp.array2d[float],
) -> None:
    """Target [O, N] = activation(weight [O, I] source [I, N] + bias [O])."""
    o, n = wp.tid()
    target[o, n] = activate(add_product(bias[o], weight, o, source, n), activation)


@wp.kernel
def lstm_gates(
    from_input: wp.array2d[float],
    from_hidden: wp.array2d[float],
    bias: wp.array[float],
    source: wp.array2d[float],
    hidden: wp.array2d[float],
    gates: wp.array2d[float],
) -> None:
    """Gates [4 H, N] before their activation."""
    o, n = wp.tid()
    gates[o, n] = add_product(add_product(bias[o], from_input, o, source, n), from_hidden, o, hidden, n)


@wp.kernel
def lstm_update(gates: wp.array2d[float], hidden: wp.array2d[float], cell: wp.array2d[float]) -> None:
    """Hidden and cell states [H, N] move on."""
    h, n = wp.tid()
    cells = hidden.shape[0]
    kept = sigmoid(gates[cells + h, n]) * cell[h, n]
    cell[h, n] = kept + sigmoid(gates[h, n]) * wp.tanh(gates[2 * cells + h, n])
    hidden[h, n] = sigmoid(gates[3 * cells + h, n]) * wp.tanh(cell[h, n])


class NetLaunches:
    """One network for the joints of E robots. Columns of all arrays are joints, env by env.

    Args:
        net: the network.
        num_envs: E.
        joints: J.
        device: of all arrays; Warp's current device must be the same.

    Attributes:
        error, velocity: [E, J] what goes in [rad], [rad/s].
        torque: [E, J] what comes out [Nm].
        memory: by name; all of it is zero for robots that stand at their targets.
    """

    def __init__(self, net: ActuatorNet, num_envs: int, joints: int, device: torch.device) -> None:
        self._envs, self._joints = num_envs, joints
        self._activation = ACTIVATIONS.index(net.activation)
        total, depth = num_envs * joints, max(net.history)
        cells = net.lstm[0].from_hidden.shape[1] if net.lstm else 0

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, total, device=device)

        def weights(array: Any) -> Any:
            return wp.array(np.ascontiguousarray(array), dtype=float)

        self._lstm = [(weights(x.from_input), weights(x.from_hidden), weights(x.bias)) for x in net.lstm]
        self._dense = [(weights(x.weight), weights(x.bias)) for x in net.dense]
        self._history = wp.array(np.array(net.history, dtype=np.int32), dtype=int)
        self._inputs, self._gates = (
            wp.from_torch(zeros(2 * len(net.history))),
            wp.from_torch(zeros(4 * cells)),
        )
        self._values = [wp.from_torch(zeros(len(x.bias))) for x in net.dense]
        self.memory = {
            "net_error": zeros(depth), "net_velocity": zeros(depth), "net_hidden": zeros(len(net.lstm), cells),
            "net_cell": zeros(len(net.lstm), cells),
        }  # fmt: skip
        self.error, self.velocity = (torch.zeros(num_envs, joints, device=device) for _ in range(2))
        self.torque = wp.to_torch(self._values[-1]).view(num_envs, joints)

    def launch(self) -> None:
        """One substep: from ``error`` and ``velocity`` to ``torque``."""
        total = self._envs * self._joints
        flat = [wp.from_torch(t.view(-1)) for t in (self.error, self.velocity)]
        past = [wp.from_torch(self.memory[name]) for name in ("net_error", "net_velocity")]
        wp.launch(gather_inputs, dim=total, inputs=[*flat, *past, self._history, self._inputs])
        source = self._inputs
        for index, layer in enumerate(self._lstm):
            hidden, cell = (wp.from_torch(self.memory[name][index]) for name in ("net_hidden", "net_cell"))
            wp.launch(lstm_gates, dim=self._gates.shape, inputs=[*layer, source, hidden, self._gates])
            wp.launch(lstm_update, dim=hidden.shape, inputs=[self._gates, hidden, cell])
            source = hidden
        for index, (layer, values) in enumerate(zip(self._dense, self._values, strict=True)):
            kind = 0 if index == len(self._dense) - 1 else self._activation
            wp.launch(dense, dim=values.shape, inputs=[*layer, source, kind, values])
            source = values

    def reset(self, env_ids: Tensor) -> None:
        """Environments start anew, having stood at their targets."""
        for tensor in self.memory.values():
            tensor.view(*tensor.shape[:-1], self._envs, self._joints)[..., env_ids, :] = 0.0


KERNELS = (gather_inputs, dense, lstm_gates, lstm_update)
"""All of them; a test compiles them for GPUs."""
