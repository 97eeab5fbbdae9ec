"""Room for contacts and constraints in MuJoCo Warp, fixed while it runs: how much to begin with, and what did not fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import mujoco
import torch
import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)
from mujoco_warp import OverflowType

from gaussgym_sim.engines.mjwarp_kernels import collect_overflow

_CONTACTS = int(OverflowType.BROADPHASE | OverflowType.NARROWPHASE)
_CONVEX = int(OverflowType.CCD)
_CONSTRAINTS = int(OverflowType.NEFC | OverflowType.NJMAX_NNZ)
_MATCHES = int(OverflowType.CONTACT_MATCH)
_CELLS = int(OverflowType.HFIELD)
WATCHED = _CONTACTS | _CONVEX | _CONSTRAINTS | _MATCHES | _CELLS
"""What loses contacts. A solver that stops at its iteration limit is no such thing: the robots ask for ten."""


@dataclass(frozen=True)
class Room:
    """Sizes of MuJoCo Warp's buffers.

    Attributes:
        contacts: an environment's share of a buffer that all share; pairs of shapes that are close count too.
        convex: the same of pairs that need the general convex algorithm (with heightfields), 5 kB each.
        constraints: rows of each environment: 4 a contact, 1 a joint at its limit, 1 a joint with dry friction.
        matches: contacts that one sensor can see.
    """

    contacts: int
    convex: int
    constraints: int
    matches: int = 16

    @classmethod
    def for_robot(
        cls,
        model: mujoco.MjModel,
        num_boxes: int,
        contacts: int | None = None,
        constraints: int | None = None,
    ) -> Room:
        """Enough, where nothing is given, for a robot that lies on a heightfield with half of its shapes, four contacts each."""
        shapes = int((model.geom_bodyid > 0).sum())
        joints = model.njnt - 1
        contacts = contacts or 4 * shapes + (2 * shapes if num_boxes else 0)
        constraints = constraints or 4 * 2 * shapes + 2 * joints
        return cls(contacts, min(contacts, shapes + 8), constraints)

    def grown(self, bits: int) -> Room:
        """Twice the room of what ran over."""
        contacts = self.contacts * (2 if bits & _CONTACTS else 1)
        convex = self.convex * (2 if bits & _CONVEX else 1)
        return replace(
            self,
            contacts=max(contacts, convex),
            convex=convex,
            constraints=self.constraints * (2 if bits & _CONSTRAINTS else 1),
            matches=self.matches * (2 if bits & _MATCHES else 1),
        )

    def describe(self, bits: int) -> str:
        """What ran over, with its size and the argument that sets it."""
        parts = [
            text
            for mask, text in (
                (_CONTACTS, f"{self.contacts} contacts an environment (contacts_per_env)"),
                (_CONVEX, f"{self.convex} convex pairs an environment (contacts_per_env)"),
                (_CONSTRAINTS, f"{self.constraints} constraints an environment (constraints_per_env)"),
                (_MATCHES, f"{self.matches} contacts a sensor"),
                (_CELLS, "50 contacts of one shape with the heightfield (coarser cells have fewer)"),
            )
            if bits & mask
        ]
        return ", ".join(parts)


class OverflowWatch:
    """Reads MuJoCo Warp's flags without waiting for the GPU: what one `poll` asks for, a later one returns."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._found = torch.zeros(2, dtype=torch.int32, device=device)
        self._host = torch.zeros(2, dtype=torch.int32, pin_memory=self._cuda)
        self._event: torch.cuda.Event | None = None

    def poll(self, data: Any) -> tuple[int, int]:
        """Flags (bits of `mujoco_warp.OverflowType`) since the last call that returned any, and of how many environments.

        Must run in the order of torch's current stream, see `Graphs.on_stream`.
        """
        result = (0, 0)
        if self._event is not None:
            if not self._event.query():
                return result
            result, self._event = self._take(), None
        wp.launch(
            collect_overflow, dim=data.nworld, inputs=[data.overflow, WATCHED, wp.from_torch(self._found)]
        )
        self._host.copy_(self._found, non_blocking=True)
        self._found.zero_()
        if not self._cuda:
            return self._take()
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(self._found.device))
        return result

    def _take(self) -> tuple[int, int]:
        bits, envs = self._host.tolist()
        return bits, envs
