"""Learned actuators: small networks that turn a joint's position error and speed into its torque, on the CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray

FORMAT, VERSION = "gaussgym-actuator-net", 1
ACTIVATIONS = ("identity", "relu", "elu", "tanh", "sigmoid", "softsign")
_BLOCK = 64  # joints that go through the network together: their values lie side by side, so that loops become SIMD

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class LstmLayer:
    """One layer of a long short-term memory with H cells and I inputs; gates in PyTorch's order: in, forget, cell, out.

    Attributes:
        from_input: [4 H, I].
        from_hidden: [4 H, H].
        bias: [4 H].
    """

    from_input: F32
    from_hidden: F32
    bias: F32


@dataclass(frozen=True)
class DenseLayer:
    """One dense layer: weight [O, I], bias [O]."""

    weight: F32
    bias: F32


@dataclass(frozen=True)
class ActuatorNet:
    """A network shared by all joints: inputs -> LSTM layers, if any -> dense layers with an activation between them -> torque.

    The inputs are position errors [rad] of ``history`` substeps ago, in that order, then velocities [rad/s] of the same; the
    output is the torque [Nm]. All scales are part of the weights.

    Attributes:
        history: 0 is now; a network with a memory of its own has (0,).
        lstm: layers, perhaps none.
        dense: at least one layer; the last has one output.
        activation: one of `ACTIVATIONS`.
    """

    history: tuple[int, ...]
    lstm: tuple[LstmLayer, ...]
    dense: tuple[DenseLayer, ...]
    activation: str

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"unknown activation {self.activation!r}; choose one of: {', '.join(ACTIVATIONS)}"
            )
        if not self.history or min(self.history) < 0:
            raise InputError(f"history of an actuator network is {self.history}, expected numbers from 0 up")
        width = 2 * len(self.history)
        for index, layer in enumerate(self.lstm):
            cells = layer.from_hidden.shape[1]
            _expect(f"LSTM layer {index}", layer.from_input, (4 * cells, width))
            _expect(f"LSTM layer {index}", layer.from_hidden, (4 * cells, cells))
            _expect(f"LSTM layer {index}", layer.bias, (4 * cells,))
            if cells != self.lstm[0].from_hidden.shape[1]:
                raise InputError("LSTM layers of an actuator network have different numbers of cells")
            width = cells
        for index, dense in enumerate(self.dense):
            last = index == len(self.dense) - 1
            outputs = 1 if last else len(dense.bias)
            _expect(f"dense layer {index}", dense.weight, (outputs, width))
            _expect(f"dense layer {index}", dense.bias, (outputs,))
            width = outputs
        if not self.dense:
            raise InputError("an actuator network without a dense layer has no torque to give")

    def start(self, num_envs: int, joints: int) -> NetRuntime:
        """Its memory for E robots of J joints, as if they had stood at their targets."""
        return NetRuntime(self, num_envs, joints)

    def save(self, path: Path) -> None:
        """Write an .npz: a JSON header and the weights; an existing file is replaced at once, never half."""
        header = {
            "format": FORMAT, "version": VERSION, "history": list(self.history), "activation": self.activation,
            "lstm": len(self.lstm), "dense": len(self.dense),
        }  # fmt: skip
        arrays: dict[str, Any] = {"header": np.array(json.dumps(header))}
        for i, layer in enumerate(self.lstm):
            arrays |= {f"lstm{i}_{name}": getattr(layer, name) for name in LstmLayer.__dataclass_fields__}
        for i, dense in enumerate(self.dense):
            arrays |= {f"dense{i}_{name}": getattr(dense, name) for name in DenseLayer.__dataclass_fields__}
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> ActuatorNet:
        """Read what `save` wrote.

        Raises:
            InputError: not such a file, another version, or weights that do not fit together.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                header = json.loads(str(file["header"]))
                if (header["format"], header["version"]) != (FORMAT, VERSION):
                    raise InputError(
                        f"{path}: is {header['format']} version {header['version']}, expected {FORMAT} version {VERSION}"
                    )

                def layers(kind: type, name: str) -> tuple[Any, ...]:
                    fields = kind.__dataclass_fields__
                    return tuple(
                        kind(**{f: file[f"{name}{i}_{f}"] for f in fields}) for i in range(header[name])
                    )

                return cls(
                    history=tuple(header["history"]), lstm=layers(LstmLayer, "lstm"),
                    dense=layers(DenseLayer, "dense"), activation=header["activation"],
                )  # fmt: skip
        except FileNotFoundError:
            raise InputError(
                f"{path}: no such file; expected an actuator network (gaussgym-sim import-actuator)"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: no actuator network ({error}); write one with gaussgym-sim import-actuator"
            ) from None


def _expect(what: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise InputError(
            f"{what} of an actuator network has weights of shape {array.shape}, expected {shape}"
        )
    if array.dtype != np.float32 or not np.isfinite(array).all():
        raise InputError(f"{what} of an actuator network: expected finite float32 weights")


class NetRuntime:
    """The memory of one network for the joints of E robots.

    Columns of all buffers are joints, env by env, so that what a run of environments needs lies together.
    """

    def __init__(self, net: ActuatorNet, num_envs: int, joints: int) -> None:
        """Empty memory."""
        self._joints, self._num_envs, total = joints, num_envs, num_envs * joints
        self._history = np.array(net.history, dtype=np.int64)
        depth = max(net.history)
        cells = net.lstm[0].from_hidden.shape[1] if net.lstm else 0
        self._lstm = _pack([a for x in net.lstm for a in (x.bias, x.from_input, x.from_hidden)])
        self._dense = _pack([a for x in net.dense for a in (x.bias, x.weight)])
        first = net.dense[0].weight.shape[1]
        self._widths = np.array([first, *(len(x.bias) for x in net.dense)], dtype=np.int64)
        self._activation = ACTIVATIONS.index(net.activation)
        self._memory: dict[str, F32] = {
            "net_error": np.zeros((depth, total), dtype=np.float32),
            "net_velocity": np.zeros((depth, total), dtype=np.float32),
            "net_hidden": np.zeros((len(net.lstm), cells, total), dtype=np.float32),
            "net_cell": np.zeros((len(net.lstm), cells, total), dtype=np.float32),
        }
        self._torque = np.zeros(total, dtype=np.float32)

    def torque(self, envs: NDArray[np.int64], error: NDArray[Any], velocity: NDArray[Any]) -> F32:
        """Torques of this substep of some environments, whose memory moves on.

        Args:
            envs: [n] which.
            error: [n, J] target less position [rad].
            velocity: [n, J] [rad/s].

        Returns:
            [n, J] Nm, overwritten by the next call.
        """
        torque = self._torque[: error.size]
        _forward(
            np.ascontiguousarray(error, dtype=np.float32).reshape(-1),
            np.ascontiguousarray(velocity, dtype=np.float32).reshape(-1),
            (np.asarray(envs)[:, None] * self._joints + np.arange(self._joints)).reshape(-1),
            self._memory["net_error"], self._memory["net_velocity"], self._history, self._lstm,
            self._memory["net_hidden"], self._memory["net_cell"], self._dense, self._widths, self._activation, torque,
        )  # fmt: skip
        return torque.reshape(-1, self._joints)

    def reset(self, env_ids: NDArray[np.int64]) -> None:
        """Environments start anew, having stood at their targets."""
        for array in self._memory.values():
            array.reshape(*array.shape[:-1], self._num_envs, self._joints)[..., env_ids, :] = 0.0

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Memory of all environments."""
        return {name: array.copy() for name, array in self._memory.items()}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Inverse of `state_dict`.

        Raises:
            InputError: memory of another network or number of joints.
        """
        for name, array in self._memory.items():
            if name not in state or state[name].shape != array.shape:
                raise InputError(
                    f"state of an actuator network: {name} has shape {getattr(state.get(name), 'shape', None)}, "
                    f"expected {array.shape}; it is of another network or number of robots"
                )
            array[:] = state[name]


def _pack(arrays: list[F32]) -> F32:
    """All in one row, as the kernels walk through them."""
    return np.concatenate([np.zeros(0, np.float32), *(a.reshape(-1) for a in arrays)])


# Coefficients of a rational approximation of tanh on +-7.905, as in Eigen's float version: 2e-7 off at most, and unlike calls
# of the C library it becomes SIMD.
_A1, _A3, _A5, _A7, _A9, _A11, _A13 = (
    np.float32(x) for x in (
        4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08,
        -8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16,
    )
)  # fmt: skip
_B0, _B2, _B4, _B6 = (
    np.float32(x)
    for x in (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)
)
_END = np.float32(7.905311)
_ONE, _HALF, _TWO, _ZERO = np.float32(1.0), np.float32(0.5), np.float32(2.0), np.float32(0.0)


@numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _tanh(x):  # noqa: ANN001, ANN202
    x = -_END if x < -_END else (_END if x > _END else x)
    s = x * x
    odd = ((((((_A13 * s + _A11) * s + _A9) * s + _A7) * s + _A5) * s + _A3) * s + _A1) * x
    return odd / (((_B6 * s + _B4) * s + _B2) * s + _B0)


@numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _sigmoid(x):  # noqa: ANN001, ANN202
    return _HALF + _HALF * _tanh(_HALF * x)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _activate(row, activation):  # noqa: ANN001, ANN202
    """In place."""
    if activation == 1:
        for b in range(_BLOCK):
            row[b] = max(row[b], _ZERO)
    elif activation == 2:
        for b in range(_BLOCK):
            t = _tanh(
                _HALF * min(row[b], _ZERO)
            )  # exp(x) - 1 = 2 t / (1 - t), without the loss of digits near 0
            row[b] = max(row[b], _ZERO) + _TWO * t / (_ONE - t)
    elif activation == 3:
        for b in range(_BLOCK):
            row[b] = _tanh(row[b])
    elif activation == 4:
        for b in range(_BLOCK):
            row[b] = _sigmoid(row[b])
    elif activation == 5:
        for b in range(_BLOCK):
            row[b] = row[b] / (_ONE + abs(row[b]))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _multiply(weights, at, outputs, source, inputs, target):  # noqa: ANN001, ANN202
    """Target [outputs, block] += weights, a [outputs, inputs] matrix from ``at`` on, times source [inputs, block]."""
    for o in range(outputs):
        row = target[o]
        for i in range(inputs):
            w, column = weights[at + o * inputs + i], source[i]
            for b in range(_BLOCK):
                row[b] += w * column[b]
    return at + outputs * inputs


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _lstm_layer(weights, at, source, inputs, hidden, cell, gates):  # noqa: ANN001, ANN202
    """One layer, whose hidden [H, block] and cell state move on; where the next layer's weights begin."""
    cells = len(hidden)
    for o in range(4 * cells):
        gates[o] = weights[at + o]
    at = _multiply(weights, at + 4 * cells, 4 * cells, source, inputs, gates)
    at = _multiply(weights, at, 4 * cells, hidden, cells, gates)
    for h in range(cells):
        enter, forget, new, leave = gates[h], gates[cells + h], gates[2 * cells + h], gates[3 * cells + h]
        c, out = cell[h], hidden[h]
        for b in range(_BLOCK):
            c[b] = _sigmoid(forget[b]) * c[b] + _sigmoid(enter[b]) * _tanh(new[b])
            out[b] = _sigmoid(leave[b]) * _tanh(c[b])
    return at


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _inputs(error, velocity, columns, past_error, past_velocity, history, x):  # noqa: ANN001, ANN202
    """Fill x [inputs, block] from joints' errors and velocities, now and past, and let the past move on."""
    times, depth = len(history), len(past_error)
    for b in range(len(columns)):
        column = columns[b]
        for k in range(times):
            ago = history[k] - 1
            x[k, b] = error[b] if ago < 0 else past_error[ago, column]
            x[times + k, b] = velocity[b] if ago < 0 else past_velocity[ago, column]
        for k in range(depth - 1, 0, -1):
            past_error[k, column] = past_error[k - 1, column]
            past_velocity[k, column] = past_velocity[k - 1, column]
        if depth > 0:
            past_error[0, column] = error[b]
            past_velocity[0, column] = velocity[b]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _remember(memory, columns, block, back):  # noqa: ANN001, ANN202
    """Copy some columns of memory [H, n] to a block [H, block], or back."""
    for h in range(len(memory)):
        for b in range(len(columns)):
            if back:
                memory[h, columns[b]] = block[h, b]
            else:
                block[h, b] = memory[h, columns[b]]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _forward(  # noqa: ANN202
    error, velocity, columns, past_error, past_velocity, history, lstm, hidden, cell, dense, widths, activation, out,  # noqa: ANN001
):  # fmt: skip
    """`NetRuntime.torque` for n joints, whose memory lies in ``columns`` [n] of [depth, N] past inputs (newest first) and of
    [L, H, N] LSTM memory.
    """
    layers, cells = hidden.shape[0], hidden.shape[1]
    widest = max(2 * len(history), widths.max())
    a, c = np.zeros((widest, _BLOCK), np.float32), np.zeros((widest, _BLOCK), np.float32)
    gates = np.zeros((4 * cells, _BLOCK), np.float32)
    h, m = np.zeros((layers, cells, _BLOCK), np.float32), np.zeros((layers, cells, _BLOCK), np.float32)
    for first in range(0, len(error), _BLOCK):
        part = slice(first, min(first + _BLOCK, len(error)))
        mine = columns[part]
        _inputs(error[part], velocity[part], mine, past_error, past_velocity, history, a)
        source, at, inputs = a, 0, 2 * len(history)
        for layer in range(layers):
            _remember(hidden[layer], mine, h[layer], False)
            _remember(cell[layer], mine, m[layer], False)
            at = _lstm_layer(lstm, at, source, inputs, h[layer], m[layer], gates)
            _remember(hidden[layer], mine, h[layer], True)
            _remember(cell[layer], mine, m[layer], True)
            source, inputs = h[layer], cells
        at = 0
        for layer in range(len(widths) - 1):
            outputs = widths[layer + 1]
            target = c if layer % 2 == 0 else a
            for o in range(outputs):
                target[o] = dense[at + o]
            at = _multiply(dense, at + outputs, outputs, source, inputs, target)
            if layer < len(widths) - 2:
                for o in range(outputs):
                    _activate(target[o], activation)
            source, inputs = target, outputs
        out[part] = source[0, : len(mine)]
