"""Policy networks: a recurrent vision model for rsl_rl, and its split into two ONNX graphs.

rsl_rl 5.5 has a CNN model and an RNN model, but none that has both; `VisionRNNModel` is one, with uint8 images, an
auxiliary head and an encoder that sees every camera frame once although the policy runs at several times its rate.
The blind networks are rsl_rl's own `MLPModel`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rsl_rl.models import MLPModel
from rsl_rl.modules import RNN, HiddenState
from rsl_rl.utils import unpad_trajectories
from tensordict import TensorDict
from torch import nn

from gaussgym_learn.encoders import ImageEncoder
from gaussgym_learn.recipes import NetworkCfg
from gaussgym_learn.recurrence import State, run_sequence

IMAGE_GROUP = "rgb"
NEW_FRAME_GROUP = "rgb_new"
"""Optional group `[E, 1]`: non-zero where this step's image differs from the step before (a new camera frame)."""


class VisionRNNModel(MLPModel):
    """Proprioception and one camera image through a GRU to actions.

    `features = encoder(rgb)`; `h = GRU([normalized proprio, features])`; `output = MLP([h, normalized proprio])`. The
    skip of the proprioception around the GRU lets the gait be learned before the memory is.

    Args:
        obs: a sample of the observations, `TensorDict` of batch `[E]`.
        obs_groups: names of the groups of every observation set; exactly one group of rank 4 (the image).
        obs_set: the set this model reads.
        output_dim: number of outputs.
        hidden_dims: widths of the MLP behind the GRU.
        activation: of the MLP.
        obs_normalization: normalize the 1-D observations by their running statistics.
        distribution_cfg: rsl_rl output distribution.
        cnn_cfg: see `ImageEncoder`.
        feature_dim: see `ImageEncoder`.
        rnn_hidden_dim: width of the GRU.
        rnn_num_layers: layers of the GRU.
        aux: `{"group": name}` adds a head that predicts this observation group from the GRU's output, for the auxiliary
            reconstruction loss (GaussGym, arXiv 2510.15352, sec. III: geometry from pixels). None for no head.
    """

    is_recurrent: bool = True

    def __init__(
        self,
        obs: TensorDict,
        obs_groups: dict[str, list[str]],
        obs_set: str,
        output_dim: int,
        hidden_dims: tuple[int, ...] | list[int] = (128,),
        activation: str = "elu",
        obs_normalization: bool = True,
        distribution_cfg: dict | None = None,
        cnn_cfg: dict | None = None,
        feature_dim: int = 64,
        rnn_hidden_dim: int = 128,
        rnn_num_layers: int = 1,
        aux: dict | None = None,
    ) -> None:
        self._rnn_hidden_dim = rnn_hidden_dim  # the parent's constructor asks for the width of the latent
        super().__init__(
            obs, obs_groups, obs_set, output_dim, hidden_dims, activation, obs_normalization, distribution_cfg
        )
        channels, height, width = (int(n) for n in obs[self.image_group].shape[1:])
        self.encoder = ImageEncoder(channels, height, width, feature_dim, cnn_cfg)
        self.rnn = RNN(self.obs_dim + feature_dim, rnn_hidden_dim, rnn_num_layers, "gru")
        self.aux_group = aux["group"] if aux else None
        self.aux_head: nn.Module | None = None
        if self.aux_group is not None:
            self.aux_head = nn.Sequential(
                nn.Linear(rnn_hidden_dim, 128), nn.ELU(), nn.Linear(128, int(obs[self.aux_group].shape[-1]))
            )
        self._held_features: torch.Tensor | None = None

    def encode(self, obs: TensorDict, masks: torch.Tensor | None = None) -> torch.Tensor:
        """Image features of a step `[E, F]`, or of padded trajectories `[T, trajectories, F]`.

        Only frames that differ from the step before are encoded where the group `rgb_new` is present, and never
        padding.

        Args:
            obs: observations; with `masks`, padded trajectories.
            masks: bool `[T, trajectories]`, True where a step is real.
        """
        rgb = obs[self.image_group]
        new = obs.get(NEW_FRAME_GROUP, None)
        if masks is None:
            return self._encode_step(rgb, new)
        self._held_features = None  # the weights are about to change
        # Trajectory-major order: a held frame is then the last new one at or before it in the flat order.
        images, valid = rgb.transpose(0, 1), masks.transpose(0, 1)
        fresh = valid.clone()
        if new is not None:
            fresh &= new.transpose(0, 1)[..., 0] != 0
            fresh[:, 0] = valid[:, 0]
        features = self.encoder(images[fresh])
        index = (torch.cumsum(fresh.flatten(), 0) - 1).clamp_min(0).view(fresh.shape)
        return (features[index] * valid[..., None]).transpose(0, 1)

    def _encode_step(self, rgb: torch.Tensor, new: torch.Tensor | None) -> torch.Tensor:
        held = self._held_features
        if new is None or torch.is_grad_enabled():
            return self.encoder(rgb)
        if held is None or held.shape[0] != rgb.shape[0]:
            self._held_features = self.encoder(rgb)
            return self._held_features
        fresh = new[..., 0] != 0
        if bool(fresh.any()):
            held = held.clone()
            held[fresh] = self.encoder(rgb[fresh])
            self._held_features = held
        return held

    def normalized_proprio(self, obs: TensorDict) -> torch.Tensor:
        """The concatenated 1-D groups, normalized, `[..., P]`."""
        return self.obs_normalizer(torch.cat([obs[group] for group in self.obs_groups], dim=-1))

    def get_latent(
        self, obs: TensorDict, masks: torch.Tensor | None = None, hidden_state: HiddenState = None
    ) -> torch.Tensor:
        """Input of the MLP: GRU output and normalized proprioception, `[..., H + P]` (unpadded with masks)."""
        proprio = self.normalized_proprio(obs)
        x = torch.cat([proprio, self.encode(obs, masks)], dim=-1)
        out = self.rnn(x, masks, hidden_state)
        if masks is None:
            return torch.cat([out.squeeze(0), proprio], dim=-1)
        return torch.cat([out, unpad_trajectories(proprio, masks)], dim=-1)  # type: ignore[list-item]

    def unroll(
        self,
        flat: torch.Tensor,
        frames: torch.Tensor,
        frame_index: torch.Tensor,
        starts: torch.Tensor,
        hidden: State,
        *,
        mirror: bool = False,
    ) -> tuple[torch.Tensor, State]:
        """The latent of T recorded steps of B environments, with the gradient through time and into the encoder.

        Args:
            flat: raw 1-D observations, the actor's groups side by side, `[T, B, P]`.
            frames: distinct camera frames, uint8 `[F, C, H, W]`; those that are used are encoded, each once.
            frame_index: the frame in view, `[T, B]`.
            starts: bool `[T, B]`, the memory is empty before this step.
            hidden: memory before the first step, `[layers, B, H]`; of an LSTM a pair of that.
            mirror: flip the frames along their width before they are encoded.

        Returns:
            The input of the MLP `[T, B, H + P]` as `get_latent` gives it, and the memory after the last step.
        """
        used, local = torch.unique(frame_index, return_inverse=True)
        images = frames[used]
        features = self.encoder(images.flip(-1) if mirror else images).float()[local]
        proprio = self.obs_normalizer(flat)
        out, hidden_end = run_sequence(self.rnn.rnn, torch.cat([proprio, features], dim=-1), starts, hidden)
        return torch.cat([out, proprio], dim=-1), hidden_end

    def aux_loss(self, latent: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean squared error of the auxiliary head's prediction, a scalar.

        Args:
            latent: `[..., H + P]`.
            target: the auxiliary group `[..., S]`.
        """
        return nn.functional.mse_loss(self.predict_aux(latent), target)

    def predict_aux(self, latent: torch.Tensor) -> torch.Tensor:
        """The auxiliary head's prediction from `get_latent`'s result."""
        if self.aux_head is None:
            raise RuntimeError("this model was built without an auxiliary head")
        return self.aux_head(latent[..., : self._rnn_hidden_dim])

    def reset(self, dones: torch.Tensor | None = None, hidden_state: HiddenState = None) -> None:
        """Zero the memory, of all environments or of those that are done."""
        self.rnn.reset(dones, hidden_state)
        if dones is None:
            self._held_features = None

    def get_hidden_state(self) -> HiddenState:
        """The GRU's state `[layers, E, H]`."""
        return self.rnn.hidden_state  # type: ignore[return-value]

    def detach_hidden_state(self, dones: torch.Tensor | None = None) -> None:
        """Cut the gradient through time here."""
        self.rnn.detach_hidden_state(dones)

    def as_jit(self) -> nn.Module:
        """Not offered: the bundle is ONNX."""
        raise NotImplementedError("VisionRNNModel exports to ONNX: see `gaussgym_learn.export`")

    def as_onnx(self, verbose: bool = False) -> nn.Module:
        """The recurrent graph (`proprio`, `feature`, `h_in`) → (`actions`, `h_out`); see `encoder_graph` too."""
        return PolicyGraph(self)

    def encoder_graph(self) -> nn.Module:
        """The encoder alone, `rgb` uint8 `[1, C, H, W]` → `feature` `[1, F]`."""
        return copy.deepcopy(self.encoder)

    def _get_obs_dim(
        self, obs: TensorDict, obs_groups: dict[str, list[str]], obs_set: str
    ) -> tuple[list[str], int]:
        groups = obs_groups[obs_set]
        images = [g for g in groups if obs[g].ndim == 4]
        if len(images) != 1:
            raise ValueError(f"VisionRNNModel reads exactly one image group, found {images} in {groups}")
        self.image_group = images[0]
        flat = [g for g in groups if g not in images]
        return flat, sum(int(obs[g].shape[-1]) for g in flat)

    def _get_latent_dim(self) -> int:
        return self._rnn_hidden_dim + self.obs_dim


class TerrainMLPModel(MLPModel):
    """rsl_rl's MLP whose height scan passes the normalizer unchanged and starts without weight.

    On flat ground the scan hardly varies: statistics gathered there would blow it up a hundredfold on the first step of a
    staircase. It is scaled by the environment instead, and with zero weights at first a policy learned on the flat is a
    good start for the rough.

    Args:
        *args: see `rsl_rl.models.MLPModel`.
        raw_groups: observation groups that are treated so.
        **kwargs: see `rsl_rl.models.MLPModel`.
    """

    def __init__(self, *args: Any, raw_groups: tuple[str, ...] = ("scan",), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        obs: TensorDict = kwargs["obs"] if "obs" in kwargs else args[0]
        widths = [int(obs[g].shape[-1]) for g in self.obs_groups]
        raw = torch.cat(
            [torch.full((w,), g in raw_groups) for g, w in zip(self.obs_groups, widths, strict=True)]
        )
        self.register_buffer("raw_inputs", raw)
        first = next(m for m in self.mlp.modules() if isinstance(m, nn.Linear))
        with torch.no_grad():
            first.weight[:, raw] = 0.0

    def update_normalization(self, obs: TensorDict) -> None:
        """Update the statistics of everything but the raw groups."""
        super().update_normalization(obs)
        if self.obs_normalization:
            n = self.obs_normalizer
            n._mean[:, self.raw_inputs] = 0.0  # type: ignore[index]
            n._var[:, self.raw_inputs] = 1.0  # type: ignore[index]
            n._std[:, self.raw_inputs] = 1.0  # type: ignore[index]


def sample_observations(layout: Mapping[str, Sequence[int]], batch: int = 1) -> TensorDict:
    """Zero observations of a layout (shape per group without the batch axis); images are uint8."""
    return TensorDict(
        {
            name: torch.zeros(batch, *shape, dtype=torch.uint8 if len(shape) == 3 else torch.float32)
            for name, shape in layout.items()
        },
        batch_size=[batch],
    )


def build_actor(network: NetworkCfg, layout: Mapping[str, Sequence[int]], num_actions: int) -> MLPModel:
    """The actor of a recipe: an MLP, or CNN + GRU if it reads the image.

    Args:
        network: its settings.
        layout: shape per observation group, without the batch axis.
        num_actions: outputs.
    """
    common = {
        "obs": sample_observations(layout),
        "obs_groups": {"actor": list(network.actor_groups)},
        "obs_set": "actor",
        "output_dim": num_actions,
        "hidden_dims": list(network.actor_hidden),
        "obs_normalization": True,
        "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": network.init_std},
    }
    if IMAGE_GROUP not in network.actor_groups:
        return TerrainMLPModel(**common)
    return VisionRNNModel(
        **common,
        feature_dim=network.feature_dim,
        rnn_hidden_dim=network.rnn_hidden,
        aux={"group": network.aux_group} if network.aux_group else None,
    )


def build_critic(network: NetworkCfg, layout: Mapping[str, Sequence[int]]) -> MLPModel:
    """The privileged critic of a recipe."""
    return TerrainMLPModel(
        obs=sample_observations(layout),
        obs_groups={"critic": list(network.critic_groups)},
        obs_set="critic",
        output_dim=1,
        hidden_dims=list(network.critic_hidden),
        obs_normalization=True,
    )


def load_actor_weights(actor: MLPModel, saved: dict[str, torch.Tensor]) -> None:
    """Load weights into an actor; an auxiliary head that either side lacks is left out.

    Raises:
        RuntimeError: other names or shapes.
    """
    own = actor.state_dict()
    kept = {k: v for k, v in saved.items() if not k.startswith("aux_head.") or k in own}
    kept.update({k: v for k, v in own.items() if k.startswith("aux_head.") and k not in kept})
    actor.load_state_dict(kept)


class PolicyGraph(nn.Module):
    """What the robot runs at control rate: normalizer, GRU and MLP of a `VisionRNNModel`, deterministic."""

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
        self.sizes = (model.obs_dim, model.encoder.feature_dim, self.rnn.num_layers, self.rnn.hidden_size)

    def forward(
        self, proprio: torch.Tensor, feature: torch.Tensor, h_in: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One control step, batch 1."""
        proprio = self.normalizer(proprio)
        out, h_out = self.rnn(torch.cat([proprio, feature], dim=-1).unsqueeze(0), h_in)
        return self.head(self.mlp(torch.cat([out.squeeze(0), proprio], dim=-1))), h_out

    def get_dummy_inputs(self) -> tuple[torch.Tensor, ...]:
        """Zero inputs of the right shapes, for tracing."""
        proprio, feature, layers, hidden = self.sizes
        return torch.zeros(1, proprio), torch.zeros(1, feature), torch.zeros(layers, 1, hidden)


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
