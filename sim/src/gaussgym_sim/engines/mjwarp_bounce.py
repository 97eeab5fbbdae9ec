"""Which feet would bounce now, as `gaussgym_sim.engines.mujoco_bounce`, in Warp kernels."""

from __future__ import annotations

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
from typing import Any

import mujoco
import numpy as np
import torch
import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)
from torch import Tensor

from gaussgym_sim.engines.contact_law import AIRBORNE_SUBSTEPS, SETTLED_SUBSTEPS, contact_solref
from gaussgym_sim.robot import RobotCfg

wp.set_module_options({"enable_backward": False})

_AIRBORNE, _SETTLED = wp.constant(AIRBORNE_SUBSTEPS), wp.constant(SETTLED_SUBSTEPS)


@wp.kernel
def find_touching(
    count: wp.array[int],
    dist: wp.array[float],
    include: wp.array[float],
    geoms: wp.array[wp.vec2i],
    world: wp.array[int],
    foot_of_geom: wp.array[int],
    touching: wp.array2d[int],
) -> None:
    """Mark the feet [E, L] of contacts, a thread each."""
    i = wp.tid()
    if i >= count[0] or dist[i] >= include[i]:
        return
    for k in range(2):
        geom = geoms[i][k]
        if geom >= 0:
            foot = foot_of_geom[geom]
            if foot >= 0:
                touching[world[i], foot] = 1


@wp.kernel
def follow_feet(
    touching: wp.array2d[int],
    table: wp.array4d[float],
    feet: wp.array[int],
    substeps: wp.array2d[int],
    bouncing: wp.array2d[int],
    solref: wp.array2d[wp.vec2],
) -> None:
    """Times and ``solref`` of feet [E, L]; ``touching`` is cleared."""
    e, leg = wp.tid()
    n = substeps[e, leg]  # in the air so far, or less than 0: in contact
    if touching[e, leg] == 1:
        n = wp.max(wp.min(n, 0) - 1, -_SETTLED)
        if n == -_SETTLED:
            bouncing[e, leg] = 0
    elif n < 0:
        n = 1
        bouncing[e, leg] = 0
    else:
        n = wp.min(n + 1, _AIRBORNE)
        if n == _AIRBORNE:
            bouncing[e, leg] = 1
    substeps[e, leg] = n
    touching[e, leg] = 0
    kind = bouncing[e, leg]
    solref[e, feet[leg]] = wp.vec2(table[e, kind, leg, 0], table[e, kind, leg, 1])


class ContactLaw:
    """Compliance and restitution of E robots: of all their shapes, and of feet as they come and go.

    Args:
        model: MuJoCo Warp's, whose ``geom_solref`` has a row for each world.
        mj_model: MuJoCo's, with the nominal values.
        robot: whose feet bounce only when they come from the air.
        num_worlds: E.
        device: of all arrays; Warp's current device must be the same.

    Attributes:
        memory: by name; what coming steps depend on, beside parameters.
    """

    def __init__(
        self, model: Any, mj_model: mujoco.MjModel, robot: RobotCfg, num_worlds: int, device: torch.device
    ) -> None:
        shapes = np.flatnonzero(mj_model.geom_bodyid > 0)
        feet = np.array([mj_model.geom(name).id for name in robot.foot_geoms])
        foot_of_geom = np.full(mj_model.ngeom, -1, dtype=np.int32)
        foot_of_geom[feet] = np.arange(len(feet))

        def tensor(values: np.ndarray, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(np.array(values), dtype=dtype, device=device)

        self._shapes, self._feet = tensor(shapes, torch.int64), tensor(feet, torch.int64)
        self._nominal = tensor(mj_model.geom_solref[shapes], torch.float32)
        self._nominal_feet = tensor(mj_model.geom_solref[feet], torch.float32)
        self._solref = wp.to_torch(model.geom_solref)
        self._table = self._nominal_feet.repeat(num_worlds, 2, 1, 1)  # [E, firm or bouncing, L, 2]
        zeros = torch.zeros(num_worlds, len(feet), dtype=torch.int32, device=device)
        self.memory = {"substeps": zeros + AIRBORNE_SUBSTEPS, "bouncing": zeros + 1}
        self._touching = zeros.clone()
        self._arrays = [
            wp.from_torch(self._touching), wp.from_torch(self._table), wp.array(feet.astype(np.int32), dtype=int),
            wp.from_torch(self.memory["substeps"]), wp.from_torch(self.memory["bouncing"]), model.geom_solref,
        ]  # fmt: skip
        self._foot_of_geom = wp.array(foot_of_geom, dtype=int)

    def set(self, env_ids: Tensor, compliance: Tensor, restitution: Tensor) -> None:
        """Set both [R] of worlds ``env_ids``."""
        row = env_ids[:, None]
        self._solref[row, self._shapes] = contact_solref(self._nominal, compliance, restitution)
        firm = contact_solref(self._nominal_feet, compliance, torch.zeros_like(restitution))
        bouncing = contact_solref(self._nominal_feet, compliance, restitution)
        self._table[env_ids] = torch.stack((firm, bouncing), dim=1)
        now = self.memory["bouncing"][env_ids, :, None] == 1
        self._solref[row, self._feet] = torch.where(now, bouncing, firm)

    def reset(self, env_ids: Tensor) -> None:
        """Robots begin in the air."""
        self.memory["substeps"][env_ids], self.memory["bouncing"][env_ids] = AIRBORNE_SUBSTEPS, 1
        self._solref[env_ids[:, None], self._feet] = self._table[env_ids, 1]

    def launch(self, data: Any) -> None:
        """After a substep: which feet touched in it decides on the next one."""
        contact = data.contact
        wp.launch(
            find_touching, dim=contact.dist.shape[0],
            inputs=[
                data.nacon, contact.dist, contact.includemargin, contact.geom, contact.worldid, self._foot_of_geom,
                self._arrays[0],
            ],
        )  # fmt: skip
        wp.launch(follow_feet, dim=self._touching.shape, inputs=self._arrays)


KERNELS = (find_touching, follow_feet)
"""All of them; a test compiles them for GPUs."""
