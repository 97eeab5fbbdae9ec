"""What of an actor goes to the robot, as modules for the ONNX exporter: deterministic, batch 1, memory in and out."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from rsl_rl.models import MLPModel
from torch import nn

if TYPE_CHECKING:
    from gaussgym_learn.models import VisionRNNModel


class PolicyGraph(nn.Module):
    """What the robot runs at control rate: normalizer, recurrent network and MLP of a `VisionRNNModel`, deterministic.

    The memory is one tensor `[layers, 1, H]`; of an LSTM its hidden states, then its cell states, `[2 * layers, 1, H]`.
    """

    input_names = ("proprio", "feature", "h_in")
    output_names = ("actions", "h_out")

    def __init__(self, model: VisionRNNModel) -> None:
        super().__init__()
        self.normalizer = copy.deepcopy(model.obs_normalizer)
        self.rnn = copy.deepcopy(model.rnn.rnn)
        self.mlp = copy.deepcopy(model.mlp)
        self.head = (
            model.distribution.as_deterministic_output_module()
            if model.distribution is not None
            else nn.Identity()
        )
        self.is_lstm = isinstance(self.rnn, nn.LSTM)
        self.memory_shape = (self.rnn.num_layers * (2 if self.is_lstm else 1), 1, self.rnn.hidden_size)
        self.sizes = (model.obs_dim, model.feature_dim)

    def forward(
        self, proprio: torch.Tensor, feature: torch.Tensor, h_in: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One control step, batch 1."""
        proprio = self.normalizer(proprio)
        x = torch.cat([proprio, feature], dim=-1).unsqueeze(0)
        if self.is_lstm:
            out, state = self.rnn(x, tuple(h_in.chunk(2)))
            h_out = torch.cat(state)
        else:
            out, h_out = self.rnn(x, h_in)
        return self.head(self.mlp(torch.cat([out.squeeze(0), proprio], dim=-1))), h_out

    def get_dummy_inputs(self) -> tuple[torch.Tensor, ...]:
        """Zero inputs of the right shapes, for tracing."""
        proprio, feature = self.sizes
        return torch.zeros(1, proprio), torch.zeros(1, feature), torch.zeros(self.memory_shape)


class BlindGraph(nn.Module):
    """A feed-forward policy for export: normalizer and MLP, `proprio` → `actions`."""

    input_names = ("proprio",)
    output_names = ("actions",)

    def __init__(self, model: MLPModel) -> None:
        super().__init__()
        self.normalizer = copy.deepcopy(model.obs_normalizer)
        self.mlp = copy.deepcopy(model.mlp)
        self.head = (
            model.distribution.as_deterministic_output_module()
            if model.distribution is not None
            else nn.Identity()
        )
        self.obs_dim = model.obs_dim

    def forward(self, proprio: torch.Tensor) -> torch.Tensor:
        """One control step, batch 1."""
        return self.head(self.mlp(self.normalizer(proprio)))

    def get_dummy_inputs(self) -> tuple[torch.Tensor, ...]:
        """Zero inputs of the right shapes, for tracing."""
        return (torch.zeros(1, self.obs_dim),)
