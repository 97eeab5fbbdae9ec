"""Actuator networks out of TorchScript files: weights are read, and the result must compute what the file's module does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gaussgym_scene.errors import InputError
from torch import Tensor

from gaussgym_sim.actuation.actuator_net import ACTIVATIONS, ActuatorNet, DenseLayer, LstmLayer

TOLERANCE = 1e-5
"""Largest difference to the module's torques, as a fraction of the largest of them (at least 1 Nm)."""
_ROWS, _STEPS = 24, 60
ORDERS = ("error_first", "velocity_first")


def import_torchscript(
    path: Path,
    output: Path,
    *,
    kind: str = "auto",
    history: tuple[int, ...] | None = None,
    order: str = "error_first",
    activation: str = "auto",
    error_scale: float = 1.0,
    velocity_scale: float = 1.0,
    torque_scale: float = 1.0,
) -> ActuatorNet:
    """Turn a TorchScript actuator network into a file for `gaussgym_sim.actuation.actuator_cfg.ActuatorCfg`.

    Two forms are read. An MLP takes [N, 2 n]: position errors [rad] of n substeps, then velocities [rad/s]. An LSTM takes
    [N, 1, 2] and its memory (h, c), and returns (torque, (h, c)), as the networks of legged_gym and Isaac Lab do. Scales inside
    the module (a buffer of as many numbers as inputs, and one of one number for the torque) are found; scales that the training
    code applied outside it are given here.

    Args:
        path: file that `torch.jit.save` wrote.
        output: .npz to write.
        kind: 'mlp', 'lstm' or 'auto'.
        history: an MLP's times, in substeps ago; None = 0, 1, 2, ...
        order: 'error_first' or 'velocity_first', of the module's inputs.
        activation: between dense layers, one of `ACTIVATIONS`; 'auto' = the one with which the torques agree.
        error_scale: factor on errors before the module.
        velocity_scale: factor on velocities before the module.
        torque_scale: factor on the module's output that gives Nm.

    Raises:
        InputError: no such module, or it computes other torques than its weights say in any form known here.
    """
    if order not in ORDERS:
        raise InputError(f"unknown order of inputs {order!r}; choose one of: {', '.join(ORDERS)}")
    module = _load(path)
    net, scales = _read(path, module, kind, history)
    module_input = _ModuleInput(order, error_scale, velocity_scale, torque_scale)
    net = module_input.fold(net, scales)
    tried = ACTIVATIONS if activation == "auto" else (activation,)
    errors: dict[str, float] = {}
    for name in tried:
        candidate = replace(net, activation=name)
        errors[name] = _difference(path, candidate, module, module_input)
        if errors[name] <= TOLERANCE:
            candidate.save(output)
            return candidate
    best = min(errors, key=lambda n: errors[n])
    raise InputError(
        f"{path}: the module's torques differ from those of its weights by {errors[best]:.1e} of the largest one at best "
        f"(activation {best!r}); expected at most {TOLERANCE:.0e}: a plain MLP or LSTM with one activation throughout"
    )


def _load(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a TorchScript module")
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{path}: no TorchScript module ({reason}); write one with torch.jit.script(net).save(path)"
        ) from None


def _read(
    path: Path, module: Any, kind: str, history: tuple[int, ...] | None
) -> tuple[ActuatorNet, tuple[np.ndarray, float]]:
    """The weights as a net without scales, and the scales of inputs and torque inside the module."""
    tensors = {name: t.detach().float().numpy() for name, t in module.state_dict().items()}
    lstm = _take_lstm(path, tensors)
    found = "lstm" if lstm else "mlp"
    if kind not in ("auto", found):
        raise InputError(f"{path}: is an {found}, but kind {kind!r} was asked for")
    dense = []
    for name in [n for n, t in tensors.items() if t.ndim == 2]:
        weight = tensors.pop(name)
        bias = tensors.pop(name.removesuffix("weight") + "bias", np.zeros(len(weight), np.float32))
        dense.append(DenseLayer(weight, bias))
    inputs = (lstm[0].from_input if lstm else dense[0].weight).shape[1] if lstm or dense else 0
    if inputs == 0 or inputs % 2:
        raise InputError(f"{path}: the network has {inputs} inputs, expected errors and as many velocities")
    times = tuple(range(inputs // 2)) if history is None else history
    if 2 * len(times) != inputs:
        raise InputError(f"{path}: {len(times)} times of history for {inputs} inputs, expected {inputs // 2}")
    scales = _take_scales(path, tensors, inputs)
    return ActuatorNet(times, tuple(lstm), tuple(dense), ACTIVATIONS[0]), scales


def _take_lstm(path: Path, tensors: dict[str, np.ndarray]) -> list[LstmLayer]:
    """Layers of an `torch.nn.LSTM`, removed from ``tensors``."""
    layers = []
    while found := [n for n in tensors if n.endswith(f"weight_ih_l{len(layers)}")]:
        prefix, index = found[0].removesuffix(f"weight_ih_l{len(layers)}"), len(layers)
        names = [f"{prefix}{part}_l{index}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        if missing := [n for n in names if n not in tensors]:
            raise InputError(f"{path}: LSTM without {missing[0]}; expected one with biases, in one direction")
        w_in, w_hidden, b_in, b_hidden = (tensors.pop(n) for n in names)
        layers.append(LstmLayer(w_in, w_hidden, b_in + b_hidden))
    return layers


def _take_scales(path: Path, tensors: dict[str, np.ndarray], inputs: int) -> tuple[np.ndarray, float]:
    """Factors on inputs [I] and torque among the tensors that are no weights."""
    scale, torque = np.ones(inputs, np.float32), 1.0
    for name, value in tensors.items():
        if value.size == inputs:
            scale = value.reshape(-1)
        elif value.size == 1:
            torque = float(value.reshape(()))
        else:
            raise InputError(f"{path}: tensor {name} of shape {value.shape} is no part of an MLP or LSTM")
    return scale, torque


class _ModuleInput:
    """How errors, velocities and torques look from the module's side."""

    def __init__(self, order: str, error_scale: float, velocity_scale: float, torque_scale: float) -> None:
        self.velocity_first = order == "velocity_first"
        self.scale, self.torque_scale = (error_scale, velocity_scale), torque_scale

    def fold(self, net: ActuatorNet, inside: tuple[np.ndarray, float]) -> ActuatorNet:
        """The net with all scales in its weights, and errors first."""
        times = len(net.history)
        columns = np.arange(2 * times)
        if self.velocity_first:
            columns = np.roll(columns, times)  # column k of the net is column columns[k] of the module
        outside = np.repeat(np.array(self.scale, dtype=np.float64), times)
        factor = outside * inside[0].astype(np.float64)[columns]

        def first(weight: np.ndarray) -> np.ndarray:
            return (weight[:, columns] * factor).astype(np.float32)

        lstm, dense = list(net.lstm), list(net.dense)
        if lstm:
            lstm[0] = replace(lstm[0], from_input=first(lstm[0].from_input))
        else:
            dense[0] = replace(dense[0], weight=first(dense[0].weight))
        last, gain = dense[-1], inside[1] * self.torque_scale
        dense[-1] = DenseLayer((last.weight * gain).astype(np.float32), (last.bias * gain).astype(np.float32))
        return replace(net, lstm=tuple(lstm), dense=tuple(dense))

    def __call__(self, error: np.ndarray, velocity: np.ndarray) -> Tensor:
        """What the module gets for errors and velocities [N, n]."""
        parts = [error * self.scale[0], velocity * self.scale[1]]
        if self.velocity_first:
            parts.reverse()
        return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))


def _difference(path: Path, net: ActuatorNet, module: Any, module_input: _ModuleInput) -> float:
    """Largest difference between net and module over random sequences, as a fraction of the largest torque."""
    rng = np.random.default_rng(0)
    runtime = net.start(_ROWS, 1)
    errors = rng.normal(0.0, 0.3, (_STEPS, _ROWS, 1)).cumsum(axis=0) * 0.2
    velocities = rng.normal(0.0, 3.0, (_STEPS, _ROWS, 1))
    cells = net.lstm[0].from_hidden.shape[1] if net.lstm else 0
    memory = tuple(torch.zeros(len(net.lstm), _ROWS, cells) for _ in range(2))
    past = np.zeros((2, _ROWS, max(net.history) + 1))  # newest first
    worst = largest = 0.0
    for error, velocity in zip(errors, velocities, strict=True):
        past = np.concatenate((np.stack((error, velocity)), past[:, :, :-1]), axis=2)
        x = module_input(past[0][:, net.history], past[1][:, net.history])
        try:
            with torch.no_grad():
                if net.lstm:
                    torque, memory = module(x[:, None], memory)
                else:
                    torque = module(x)
        except (RuntimeError, TypeError, ValueError) as problem:
            reason = str(problem).strip().splitlines()[0]
            raise InputError(
                f"{path}: the module cannot be called as an actuator network ({reason})"
            ) from None
        truth = torque.reshape(-1).double().numpy() * module_input.torque_scale
        if truth.shape != (_ROWS,):
            raise InputError(f"{path}: the module returns {truth.size} numbers for {_ROWS} joints")
        ours = runtime.torque(np.arange(_ROWS), error, velocity)[:, 0]
        worst, largest = (
            max(worst, float(np.abs(ours - truth).max())),
            max(largest, float(np.abs(truth).max())),
        )
    return worst / max(largest, 1.0)
