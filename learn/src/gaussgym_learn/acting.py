"""Policies ready to act, from a checkpoint or from a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gaussgym_deploy.bundle import BundleError, PolicyBundle
from gaussgym_deploy.policy import Policy
from gaussgym_scene.errors import InputError
from rsl_rl.models import MLPModel
from tensordict import TensorDict

from gaussgym_learn.checkpoint import Checkpoint, check_compatible, load_checkpoint, load_or_explain
from gaussgym_learn.env import LearnEnv
from gaussgym_learn.models import IMAGE_GROUP, NEW_FRAME_GROUP, build_actor, image_groups, load_actor_weights
from gaussgym_learn.recipes import CommandingCfg, NetworkCfg, commanding_from_dict, network_from_dict


class ActingPolicy(Protocol):
    """A deterministic policy for a batch of environments."""

    sees: bool
    """Whether it reads the image."""
    name: str
    """For reports."""

    def check(self, env: LearnEnv) -> None:
        """Raise an InputError if it does not fit an environment."""
        ...

    def act(self, obs: TensorDict) -> torch.Tensor:
        """Actions `[E, A]` of one control step."""
        ...

    def reset(self, dones: torch.Tensor | None = None) -> None:
        """Forget the past of all environments, or of those that are done."""
        ...


class CheckpointPolicy:
    """The actor of a checkpoint.

    Args:
        checkpoint: as loaded by `load_checkpoint`.

    Attributes:
        commanding: of a policy whose actions are velocities; None: they are those of joints.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.network: NetworkCfg = network_from_dict(checkpoint.fields["recipe"]["network"])
        self.commanding: CommandingCfg | None = commanding_from_dict(
            checkpoint.fields["recipe"].get("commanding")
        )
        self.model = load_actor(checkpoint)
        self.sees = bool(image_groups(self.network.actor_groups))
        self.name = f"{checkpoint.directory.name}, update {checkpoint.fields['iteration']}"

    def check(self, env: LearnEnv) -> None:
        """See `ActingPolicy.check`."""
        check_compatible(
            self.checkpoint, robot=env.robot, layout=env.layout, groups=self.network.actor_groups
        )

    def act(self, obs: TensorDict) -> torch.Tensor:
        """See `ActingPolicy.act`."""
        with torch.no_grad():
            return self.model(obs)

    def reset(self, dones: torch.Tensor | None = None) -> None:
        """See `ActingPolicy.reset`."""
        self.model.reset(dones)


class BundlePolicy:
    """The networks of a policy bundle in onnxruntime, one memory for each environment.

    Args:
        bundle: as loaded by `PolicyBundle.load`.
    """

    def __init__(self, bundle: PolicyBundle) -> None:
        self.bundle = bundle
        self.sees = bundle.camera is not None
        self.name = bundle.path.name
        self._policies: list[Policy] = []
        self._fresh = np.ones(0, dtype=bool)

    def check(self, env: LearnEnv) -> None:
        """See `ActingPolicy.check`."""
        bundle, where = self.bundle, self.bundle.path / "policy.json"
        if bundle.robot != env.robot:
            raise InputError(f"{where}: made for robot {bundle.robot!r}, expected {env.robot!r}")
        found, expected = bundle.proprio_size, env.layout["proprio"][0]
        if found != expected:
            raise InputError(f"{where}: proprioception of {found} values, this environment gives {expected}")
        if bundle.camera is not None:
            size = [3, bundle.camera.height, bundle.camera.width]
            if env.layout.get(IMAGE_GROUP) != size:
                raise InputError(
                    f"{where}: image {size}, this environment gives {env.layout.get(IMAGE_GROUP)}"
                )
        self._policies = [Policy(bundle) for _ in range(env.num_envs)]
        self._fresh = np.ones(env.num_envs, dtype=bool)  # no image seen since the reset

    def act(self, obs: TensorDict) -> torch.Tensor:
        """See `ActingPolicy.act`."""
        proprio = obs["proprio"].numpy()
        rgb = obs[IMAGE_GROUP].numpy() if self.sees else None
        new = obs[NEW_FRAME_GROUP][:, 0].numpy() != 0 if self.sees else self._fresh
        actions = torch.empty(len(proprio), len(self.bundle.joint_names))
        for i, policy in enumerate(self._policies):
            frame = None if rgb is None or not (new[i] or self._fresh[i]) else rgb[i]
            actions[i] = torch.from_numpy(policy.act(proprio[i : i + 1], frame))
        self._fresh[:] = False
        return actions

    def reset(self, dones: torch.Tensor | None = None) -> None:
        """See `ActingPolicy.reset`."""
        for i, policy in enumerate(self._policies):
            if dones is None or bool(dones[i]):
                policy.reset()
                self._fresh[i] = True


def load_actor(checkpoint: Checkpoint) -> MLPModel:
    """The actor of a checkpoint in evaluation mode.

    Raises:
        InputError: the weights do not fit the manifest.
    """
    network = network_from_dict(checkpoint.fields["recipe"]["network"])
    num_actions = int(checkpoint.fields["num_actions"])
    actor = build_actor(network, checkpoint.layout, num_actions, pretrained=False)
    # Where training kept an average of the parameters, it acts: single updates make a policy better and worse by turns.
    saved = {**checkpoint.state["actor_state_dict"], **checkpoint.state.get("actor_average", {})}
    load_or_explain(checkpoint, lambda: load_actor_weights(actor, saved))
    actor.eval()
    return actor


def load_policy(path: Path | str) -> ActingPolicy:
    """A policy from a run folder (`checkpoint.json`) or a bundle folder (`policy.json`).

    Raises:
        InputError: neither is there, or it is damaged.
    """
    path = Path(path)
    folder = path.parent if path.suffix == ".json" else path
    if (folder / "checkpoint.json").is_file():
        return CheckpointPolicy(load_checkpoint(folder))
    if (folder / "policy.json").is_file():
        try:
            return BundlePolicy(PolicyBundle.load(folder))
        except BundleError as error:
            raise InputError(str(error)) from None
    raise InputError(f"{path}: neither checkpoint.json nor policy.json; give a run folder or a policy bundle")


def reads(policy: ActingPolicy) -> list[str]:
    """Observation groups that a policy reads."""
    network: Any = getattr(policy, "network", None)
    if network is not None:
        return list(network.actor_groups)
    return ["proprio", IMAGE_GROUP] if policy.sees else ["proprio"]
