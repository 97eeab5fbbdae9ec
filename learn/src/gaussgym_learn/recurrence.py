"""Recurrent states and sequences: GRU and LSTM over rollouts in which episodes end at any step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

State = Tensor | tuple[Tensor, Tensor]
"""A GRU's state `[layers, B, H]`, or an LSTM's pair (h, c) of that."""


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply a function to the tensor, or to both tensors, of a state."""
    if isinstance(state, tuple):
        return function(state[0]), function(state[1])
    return function(state)


def zero_state(rnn: nn.RNNBase, batch: int) -> State:
    """The empty memory of `batch` environments."""
    weight = next(rnn.parameters())
    zeros = torch.zeros(rnn.num_layers, batch, rnn.hidden_size, dtype=weight.dtype, device=weight.device)
    return (zeros, zeros.clone()) if isinstance(rnn, nn.LSTM) else zeros


def select_state(state: State, envs: Tensor) -> State:
    """The states of some environments, long `[B]`."""
    return map_state(lambda s: s[:, envs], state)


def run_sequence(rnn: nn.RNNBase, inputs: Tensor, starts: Tensor, state: State) -> tuple[Tensor, State]:
    """A recurrent network over T steps of B environments, its memory emptied wherever an episode starts.

    The rollout is cut into trajectories at the starts, and these go through the network as one packed sequence: one call,
    no padding.

    Args:
        rnn: `torch.nn.GRU` or `LSTM`, sequence first.
        inputs: `[T, B, D]`.
        starts: bool `[T, B]`, the memory is empty before this step.
        state: before the first step.

    Returns:
        Outputs `[T, B, H]`, and the state after the last step.
    """
    with torch.autocast(inputs.device.type, enabled=False):  # a recurrence adds up what bfloat16 rounds off
        return _run_sequence(rnn, inputs.float(), starts, state)


def _run_sequence(rnn: nn.RNNBase, inputs: Tensor, starts: Tensor, state: State) -> tuple[Tensor, State]:
    state = map_state(lambda s: s * ~starts[0][None, :, None], state)
    if not bool(starts[1:].any()):
        return rnn(inputs, state)
    steps, batch = starts.shape
    index, sizes, begins, ends = _trajectories(starts)
    env, first = begins // steps, begins % steps == 0
    initial = map_state(lambda s: s[:, env] * first[None, :, None], state)
    packed = PackedSequence(inputs.flatten(0, 1)[index], sizes)
    out, last = rnn(packed, initial)
    place = torch.empty_like(index)
    place[index] = torch.arange(len(index), device=index.device)
    return out.data[place].view(steps, batch, -1), select_state(last, ends)


def _trajectories(starts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How steps `[T, B]` make a packed sequence.

    Returns:
        Step (t * B + b) of each entry `[T * B]`; batch sizes, on the CPU; begin (b * T + t) of each trajectory, longest first;
        the trajectory `[B]` that each environment's last step belongs to.
    """
    steps, batch = starts.shape
    cut = starts.t().clone()  # by environment: a trajectory's steps are then in a row
    cut[:, 0] = True
    number = cut.flatten().cumsum(0) - 1
    begins = cut.flatten().nonzero().squeeze(1)
    lengths = torch.diff(begins, append=begins.new_tensor([steps * batch]))
    lengths, order = lengths.sort(descending=True, stable=True)
    begins = begins[order]
    within = torch.arange(int(lengths[0]), device=starts.device)[:, None]
    real = within < lengths
    position = (begins + within)[real]
    index = position % steps * batch + torch.div(position, steps, rounding_mode="floor")
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    ends = rank[number.view(batch, steps)[:, -1]]
    return index, real.sum(1).cpu(), begins, ends
