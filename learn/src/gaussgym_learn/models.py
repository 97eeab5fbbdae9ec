"""Policy networks: a recurrent vision model for rsl_rl, and MLPs.

rsl_rl 5.5 has a CNN model and an RNN model, but none that has both; `VisionRNNModel` is one, with uint8 images, an
auxiliary head and an encoder that sees every camera frame once although the policy runs at several times its rate.
The blind networks are rsl_rl's own `MLPModel`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gaussgym_scene.errors import InputError
from rsl_rl.models import MLPModel
from rsl_rl.modules import RNN, HiddenState
from rsl_rl.utils import unpad_trajectories
from tensordict import TensorDict
from torch import nn

from gaussgym_learn.decoders import AuxDecoder, VoxelDecoder, build_decoder
from gaussgym_learn.encoders import build_encoder, load_encoder_weights
from gaussgym_learn.encoders.backbone import BackboneEncoder
from gaussgym_learn.graphs import PolicyGraph
from gaussgym_learn.photometric import PhotometricCfg, augment
from gaussgym_learn.recipes import IMAGE_GROUPS, NetworkCfg
from gaussgym_learn.recurrence import State, run_sequence

IMAGE_GROUP = "rgb"
NEW_FRAME_GROUP = "rgb_new"
"""Optional group `[E, 1]`: non-zero where this step's image differs from the step before (a new camera frame)."""
RNN_TYPES = ("gru", "lstm")
Backbone = tuple[torch.Tensor, torch.Tensor | None]
"""Feature map `[F, C, h, w]` of frames, and a vector `[F, V]` or None."""


class VisionRNNModel(MLPModel):
    """Proprioception and camera images through a recurrent network to actions.

    `features = encoder(images)`; `h = RNN([normalized proprio, features])`; `output = MLP([h, normalized proprio])`. The
    skip of the proprioception around the RNN lets the gait be learned before the memory is.

    Args:
        obs: a sample of the observations, `TensorDict` of batch `[E]`.
        obs_groups: names of the groups of every observation set; one or several of rank 4 (images of one size), which are
            stacked along their channels in this order.
        obs_set: the set this model reads.
        output_dim: number of outputs.
        hidden_dims: widths of the MLP behind the RNN.
        activation: of the MLP.
        obs_normalization: normalize the 1-D observations by their running statistics.
        distribution_cfg: rsl_rl output distribution.
        encoder: name in `gaussgym_learn.encoders.ENCODERS`.
        encoder_freeze: see `gaussgym_learn.encoders.build_encoder`.
        feature_dim: length of the image feature.
        rnn_type: `gru` or `lstm`.
        rnn_hidden_dim: width of the RNN.
        rnn_num_layers: its layers.
        aux: `{"group": name, **options}` adds a head that predicts this observation group from the RNN's output, for the
            auxiliary reconstruction loss (GaussGym, arXiv 2510.15352, sec. III: geometry from pixels); options of
            `gaussgym_learn.decoders.build_decoder`. None for no head.
        photometric: changes of colour in `unroll` while gradients are computed. They make the policy that is updated see other
            colours than the one that acted: meant for distillation and auxiliary losses; PPO's importance ratios start away
            from 1 (Raileanu et al., arXiv 2006.12862).

    Raises:
        InputError: an encoder, decoder or recurrent network that there is not, or images of several sizes.
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
        encoder: str = "small_cnn",
        encoder_freeze: bool = False,
        feature_dim: int = 64,
        rnn_type: str = "gru",
        rnn_hidden_dim: int = 128,
        rnn_num_layers: int = 1,
        aux: dict | None = None,
        photometric: PhotometricCfg | None = None,
    ) -> None:
        if rnn_type not in RNN_TYPES:
            raise InputError(f"unknown rnn_type {rnn_type!r}; choose one of: {', '.join(RNN_TYPES)}")
        self._rnn_hidden_dim = rnn_hidden_dim  # the parent's constructor asks for the width of the latent
        super().__init__(
            obs, obs_groups, obs_set, output_dim, hidden_dims, activation, obs_normalization, distribution_cfg
        )
        self.image_shape = _stacked_shape(obs, self.image_groups)
        self.feature_dim, self.photometric = feature_dim, photometric
        self.encoder = build_encoder(encoder, self.image_shape, feature_dim, freeze=encoder_freeze)
        self.rnn = RNN(self.obs_dim + feature_dim, rnn_hidden_dim, rnn_num_layers, rnn_type)
        self.aux_group = aux["group"] if aux else None
        self.aux_head: AuxDecoder | None = None
        if aux:
            options = {"kind": "vector", "grid": (0, 0), "levels": 0, "limit": 0.0, **aux}
            size = int(obs[options.pop("group")].shape[-1])
            self.aux_head = build_decoder(inputs=rnn_hidden_dim, size=size, **options)
        self._held_features: torch.Tensor | None = None

    def encode(self, obs: TensorDict, masks: torch.Tensor | None = None) -> torch.Tensor:
        """Image features of a step `[E, F]`, or of padded trajectories `[T, trajectories, F]`.

        Only frames that differ from the step before are encoded where the group `rgb_new` is present, and never
        padding.

        Args:
            obs: observations; with `masks`, padded trajectories.
            masks: bool `[T, trajectories]`, True where a step is real.
        """
        new = obs.get(NEW_FRAME_GROUP, None)
        if masks is None:
            return self._encode_step(obs, new)
        self._held_features = None  # the weights are about to change
        # Trajectory-major order: a held frame is then the last new one at or before it in the flat order.
        valid = masks.transpose(0, 1)
        fresh = valid.clone()
        if new is not None:
            fresh &= new.transpose(0, 1)[..., 0] != 0
            fresh[:, 0] = valid[:, 0]
        images = [obs[group].transpose(0, 1)[fresh] for group in self.image_groups]
        features = self.encoder(_stacked(images)).float()
        index = (torch.cumsum(fresh.flatten(), 0) - 1).clamp_min(0).view(fresh.shape)
        return (features[index] * valid[..., None]).transpose(0, 1)

    def _encode_step(self, obs: TensorDict, new: torch.Tensor | None) -> torch.Tensor:
        held = self._held_features
        if new is None or torch.is_grad_enabled():
            return self.encoder(images_of(obs, self.image_groups)).float()
        if held is None or held.shape[0] != obs.batch_size[0]:
            held = self.encoder(images_of(obs, self.image_groups)).float()
        elif bool((fresh := new[..., 0] != 0).any()):
            held = held.clone()
            held[fresh] = self.encoder(_stacked([obs[group][fresh] for group in self.image_groups])).float()
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
        backbone: Backbone | None = None,
    ) -> tuple[torch.Tensor, State]:
        """The latent of T recorded steps of B environments, with the gradient through time and into the encoder.

        Args:
            flat: raw 1-D observations, the actor's groups side by side, `[T, B, P]`.
            frames: distinct camera frames, uint8 `[F, C, H, W]`; those that are used are encoded, each once.
            frame_index: the frame in view, `[T, B]`.
            starts: bool `[T, B]`, the memory is empty before this step.
            hidden: memory before the first step, `[layers, B, H]`; of an LSTM a pair of that.
            mirror: flip the frames along their width before they are encoded.
            backbone: what `backbone_features` gave for these frames, mirrored or not as `mirror` says; None: they are encoded.

        Returns:
            The input of the MLP `[T, B, H + P]` as `get_latent` gives it, and the memory after the last step.
        """
        used, local = torch.unique(frame_index, return_inverse=True)
        if backbone is not None:
            feature_map, vector = backbone
            features = self.encoder.head(feature_map[used], None if vector is None else vector[used])
        else:
            images = frames[used]
            images = images.flip(-1) if mirror else images
            if self.photometric is not None and self.training and torch.is_grad_enabled():
                images = self._recoloured(images, self.photometric)
            features = self.encoder(images)
        features = features.float()[local]
        proprio = self.obs_normalizer(flat)
        out, hidden_end = run_sequence(self.rnn.rnn, torch.cat([proprio, features], dim=-1), starts, hidden)
        return torch.cat([out, proprio], dim=-1), hidden_end

    @property
    def backbone_stays(self) -> bool:
        """Whether a frame's `backbone_features` are the same in every minibatch: frozen, and seen in its own colours."""
        frozen = isinstance(self.encoder, BackboneEncoder) and self.encoder.frozen
        return frozen and self.photometric is None

    def backbone_features(self, frames: torch.Tensor, *, mirror: bool = False, chunk: int = 256) -> Backbone:
        """What a frozen backbone makes of frames, to be used again in `unroll`.

        Args:
            frames: uint8 `[F, C, H, W]`.
            mirror: flip them along their width.
            chunk: frames at a time.

        Returns:
            Feature map `[F, C, h, w]`, and a vector `[F, V]` or None.
        """
        maps, vectors = [], []
        with torch.no_grad():
            for part in frames.split(chunk):
                found = self.encoder.features(self.encoder.normalized(part.flip(-1) if mirror else part))
                maps.append(found[0])
                vectors.append(found[1])
        return torch.cat(maps), None if vectors[0] is None else torch.cat(vectors)

    def _recoloured(self, images: torch.Tensor, cfg: PhotometricCfg) -> torch.Tensor:
        """uint8 `[F, C, H, W]` to float in 0..1 with other colours; depth stays as it is."""
        images = images.float() / 255.0
        if "rgb" not in self.image_groups:
            return images
        first = 0 if self.image_groups[0] == "rgb" else self.image_shape[0] - 3
        colours = augment(images[:, first : first + 3], cfg)
        return torch.cat([images[:, :first], colours, images[:, first + 3 :]], dim=1)

    def aux_loss(self, latent: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The auxiliary head's loss (see `gaussgym_learn.decoders`), a scalar.

        Args:
            latent: `[..., H + P]`.
            target: the auxiliary group `[..., S]`.
        """
        return self._decoder().loss(latent[..., : self._rnn_hidden_dim], target)

    def predict_aux(self, latent: torch.Tensor) -> torch.Tensor:
        """The auxiliary group `[..., S]` as the head makes it out from `get_latent`'s result."""
        head, memory = self._decoder(), latent[..., : self._rnn_hidden_dim]
        return head.heights(memory) if isinstance(head, VoxelDecoder) else head(memory)

    def _decoder(self) -> AuxDecoder:
        if self.aux_head is None:
            raise RuntimeError("this model was built without an auxiliary head")
        return self.aux_head

    def reset(self, dones: torch.Tensor | None = None, hidden_state: HiddenState = None) -> None:
        """Zero the memory, of all environments or of those that are done."""
        self.rnn.reset(dones, hidden_state)
        if dones is None:
            self._held_features = None

    def get_hidden_state(self) -> HiddenState:
        """The state `[layers, E, H]`; of an LSTM a pair of that."""
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
        """The encoder alone, images uint8 `[1, C, H, W]` → `feature` `[1, F]`."""
        return copy.deepcopy(self.encoder)

    def _get_obs_dim(
        self, obs: TensorDict, obs_groups: dict[str, list[str]], obs_set: str
    ) -> tuple[list[str], int]:
        groups = obs_groups[obs_set]
        self.image_groups = [g for g in groups if obs[g].ndim == 4]
        if not self.image_groups:
            raise InputError(f"VisionRNNModel reads at least one image, found none in {groups}")
        flat = [g for g in groups if g not in self.image_groups]
        return flat, sum(int(obs[g].shape[-1]) for g in flat)

    def _get_latent_dim(self) -> int:
        return self._rnn_hidden_dim + self.obs_dim


def image_groups(groups: Sequence[str]) -> list[str]:
    """Those of some observation groups that are images, in their order."""
    return [group for group in groups if group in IMAGE_GROUPS]


def images_of(obs: TensorDict, groups: Sequence[str]) -> torch.Tensor:
    """Image groups stacked along their channels, uint8 `[E, C, H, W]`; one group alone is not copied."""
    return _stacked([obs[group] for group in image_groups(groups)])


def _stacked(images: list[torch.Tensor]) -> torch.Tensor:
    return images[0] if len(images) == 1 else torch.cat(images, dim=1)


def _stacked_shape(obs: TensorDict, groups: Sequence[str]) -> tuple[int, int, int]:
    shapes = {group: tuple(int(n) for n in obs[group].shape[1:]) for group in groups}
    if len({shape[1:] for shape in shapes.values()}) > 1:
        raise InputError(f"images of one size expected, found {shapes}; give the cameras one size")
    first = next(iter(shapes.values()))
    return sum(shape[0] for shape in shapes.values()), first[1], first[2]


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


def build_actor(
    network: NetworkCfg, layout: Mapping[str, Sequence[int]], num_actions: int, *, pretrained: bool = True
) -> MLPModel:
    """The actor of a recipe: an MLP, or image encoder and recurrent network if it reads images.

    Args:
        network: its settings.
        layout: shape per observation group, without the batch axis.
        num_actions: outputs.
        pretrained: load the encoder's weights that the settings name; False where a checkpoint's follow anyway.

    Raises:
        InputError: settings that do not fit together, or weights that are not there or do not fit.
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
    images = image_groups(network.actor_groups)
    if not images:
        return TerrainMLPModel(**common)
    if network.encoder_weights != "none" and images[0] != "rgb" and len(images) > 1:
        raise InputError(
            f"actor_groups {', '.join(network.actor_groups)}: published weights take red, green, blue first; "
            "put rgb before the others"
        )
    model = VisionRNNModel(
        **common,
        encoder=network.encoder,
        encoder_freeze=network.encoder_freeze,
        feature_dim=network.feature_dim,
        rnn_type=network.rnn_type,
        rnn_hidden_dim=network.rnn_hidden,
        rnn_num_layers=network.rnn_layers,
        aux=aux_options(network),
        photometric=network.photometric,
    )
    if pretrained:
        load_encoder_weights(model.encoder, network.encoder, network.encoder_weights)
    return model


def aux_options(network: NetworkCfg) -> dict[str, Any] | None:
    """The argument `aux` of `VisionRNNModel`."""
    if network.aux_group is None:
        return None
    return {
        "group": network.aux_group,
        "kind": network.aux_kind,
        "grid": network.aux_grid,
        "levels": network.aux_levels,
        "limit": network.aux_limit,
    }


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


def set_std(actor: MLPModel, std: float) -> None:
    """Set the standard deviation of an actor's actions [action units]."""
    distribution: Any = actor.distribution
    with torch.no_grad():
        if hasattr(distribution, "log_std_param"):
            distribution.log_std_param.fill_(math.log(std))
        else:
            distribution.std_param.fill_(std)
