"""Parameters that are fields of a MuJoCo Warp model, one value for each world."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import torch
import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)
from torch import Tensor

PER_WORLD = (
    "geom_friction", "geom_solref", "body_mass", "body_ipos", "body_inertia", "body_subtreemass", "body_invweight0",
    "dof_armature", "dof_damping", "dof_frictionloss", "dof_invweight0",
)  # fmt: skip
"""Fields of the model that need a value for each world, gravity (an option) aside."""
_DERIVED_FROM = frozenset({"armature", "trunk_com_b", "trunk_mass_kg", "link_mass_factor"})


class WorldParams:
    """Writes parameters into a model's fields.

    Args:
        model: MuJoCo Warp's, whose `PER_WORLD` fields have a row for each world.
        mj_model: MuJoCo's, with the nominal values.
        dofs: [J] of the robot's joints.
        num_worlds: E.
        device: of the tensors.
    """

    def __init__(
        self, model: Any, mj_model: mujoco.MjModel, dofs: np.ndarray, num_worlds: int, device: torch.device
    ) -> None:
        gravity = torch.tensor(np.array(mj_model.opt.gravity), dtype=torch.float32, device=device)
        self._gravity = gravity.repeat(num_worlds, 1)
        model.opt.gravity = wp.from_torch(self._gravity, dtype=wp.vec3)
        self._fields = {name: wp.to_torch(getattr(model, name)) for name in PER_WORLD}

        def nominal(values: np.ndarray) -> Tensor:
            return torch.tensor(np.array(values), dtype=torch.float32, device=device)

        def index(values: np.ndarray | list[int]) -> Tensor:
            return torch.as_tensor(np.array(values), dtype=torch.int64, device=device)

        self._base = int(mj_model.jnt_bodyid[0])
        links = [i for i in range(1, mj_model.nbody) if i != self._base]
        shapes = np.flatnonzero(mj_model.geom_bodyid > 0)
        self._dofs, self._links, self._shapes = index(dofs), index(links), index(shapes)
        self._mass, self._inertia = nominal(mj_model.body_mass), nominal(mj_model.body_inertia)

    def set(self, env_ids: Tensor, values: dict[str, Tensor]) -> bool:
        """Set parameters of worlds ``env_ids``; returns whether the model's constants are to be derived anew.

        Those of contacts are `gaussgym_sim.engines.mjwarp_bounce.ContactLaw`'s.
        """
        row, fields = env_ids[:, None], self._fields
        for name, value in values.items():
            if name == "friction":
                fields["geom_friction"][row, self._shapes, 0] = value[:, None]
            elif name == "gravity_w":
                self._gravity[env_ids] = value
            elif name == "joint_damping":
                fields["dof_damping"][row, self._dofs] = value
            elif name == "joint_friction":
                fields["dof_frictionloss"][row, self._dofs] = value
            elif name == "armature":
                fields["dof_armature"][row, self._dofs] = value
            elif name == "trunk_com_b":
                fields["body_ipos"][env_ids, self._base] = value
            elif name == "trunk_mass_kg":
                fields["body_mass"][env_ids, self._base] = value
                factor = value / self._mass[self._base]
                fields["body_inertia"][env_ids, self._base] = self._inertia[self._base] * factor[:, None]
            elif name == "link_mass_factor":
                fields["body_mass"][row, self._links] = self._mass[self._links] * value
                fields["body_inertia"][row, self._links] = self._inertia[self._links] * value[..., None]
        return not _DERIVED_FROM.isdisjoint(values)
