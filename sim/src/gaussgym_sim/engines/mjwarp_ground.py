"""Grounds of many scenes in one MuJoCo Warp model: each world has a plane or a heightfield of its own, and boxes.

The model holds one plane, one heightfield geom and B boxes. What a world does not have lies out of reach far below it.
Static geoms do not move in MuJoCo Warp, so their place is written into each world's data; which heightfield a world has is its
``geom_dataid``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
import torch
import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.scene import Scene
from torch import Tensor

from gaussgym_sim.ground.terrain import Ground, ground_of, is_flat

PLANE, FIELD, BOX = "ground_plane", "ground_field", "ground_box_{}"
FAR_BELOW_M = -1e6
PER_WORLD = ("geom_dataid", "geom_size", "geom_aabb", "geom_rbound")
"""Fields of the model that need a value for each world."""
MAX_BOXES = 512
"""Of one scene. Every box is a pair with every shape of every robot in each substep's first pass."""
_BOX_STEP = 16  # room for boxes comes in such portions
_BASE_THICKNESS_M = 0.5
_SURFACE: dict[str, Any] = {"contype": 0, "conaffinity": 1, "priority": 0, "friction": [1, 0.005, 0.0001]}


def add_ground_geoms(spec: mujoco.MjSpec, num_boxes: int) -> None:
    """Add the geoms that `WorldGrounds` puts in place."""
    far, world = [0, 0, FAR_BELOW_M], spec.worldbody
    world.add_geom(name=PLANE, type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], pos=far, **_SURFACE)
    spec.add_hfield(name=FIELD, nrow=2, ncol=2, size=[1, 1, 1, _BASE_THICKNESS_M], userdata=[0, 0, 0, 0])
    world.add_geom(name=FIELD, type=mujoco.mjtGeom.mjGEOM_HFIELD, hfieldname=FIELD, pos=far, **_SURFACE)
    for i in range(num_boxes):
        world.add_geom(
            name=BOX.format(i), type=mujoco.mjtGeom.mjGEOM_BOX, pos=far, size=[0.1, 0.1, 0.1], **_SURFACE
        )


def checked_ground(scene: Scene, mode: str) -> Ground:
    """`ground_of` a scene.

    Raises:
        InputError: more boxes than `MAX_BOXES`, or what `ground_of` finds.
    """
    ground = ground_of(scene, mode)
    if len(ground.boxes) > MAX_BOXES:
        raise InputError(
            f"scene {scene.name!r} has {len(ground.boxes)} boxes, expected at most {MAX_BOXES} on backend 'mjwarp'; "
            "use terrain='heightfield'"
        )
    return ground


def box_room(grounds: Sequence[Ground]) -> int:
    """How many boxes a model for these grounds holds."""
    most = max(len(ground.boxes) for ground in grounds)
    return -(-most // _BOX_STEP) * _BOX_STEP


class WorldGrounds:
    """The grounds of K scene slots on the device, and which of them each world has.

    Args:
        grounds: one a slot.
        num_boxes: how many boxes a world can have.
        device: of everything.
    """

    def __init__(self, grounds: Sequence[Ground], num_boxes: int, device: torch.device) -> None:
        self.grounds, self.num_boxes, self._device = list(grounds), num_boxes, device
        count = len(self.grounds)
        self._capacity = max(g.heightfield.height_m.size for g in self.grounds)
        self._heights = torch.zeros(count, self._capacity, device=device)
        self._size = torch.zeros(count, 4, device=device)
        self._rows = torch.zeros(count, dtype=torch.int32, device=device)
        self._cols = torch.zeros(count, dtype=torch.int32, device=device)
        # Places of a slot's geoms: plane, heightfield, boxes; and the boxes' half lengths.
        self._place = torch.zeros(count, 2 + num_boxes, 3, device=device)
        self._half = torch.zeros(count, num_boxes, 3, device=device)
        for slot, ground in enumerate(self.grounds):
            self._fill(slot, ground)

    def replace(self, slot: int, ground: Ground) -> bool:
        """Put another ground into a slot; returns whether arrays were replaced, so that `bind` is needed.

        The ground must have at most ``num_boxes`` boxes.
        """
        self.grounds[slot] = ground
        size = ground.heightfield.height_m.size
        grown = size > self._capacity
        if grown:
            heights = torch.zeros(len(self.grounds), size, device=self._device)
            heights[:, : self._capacity] = self._heights
            self._heights, self._capacity = heights, size
        self._fill(slot, ground)
        return grown

    def _fill(self, slot: int, ground: Ground) -> None:
        field, place = ground.heightfield, np.zeros((2 + self.num_boxes, 3))
        place[:, 2] = FAR_BELOW_M
        z_min = float(field.height_m.min())
        if is_flat(field):
            place[0, 2] = z_min
            size, heights = np.array([1.0, 1.0, 1.0, _BASE_THICKNESS_M]), np.zeros((2, 2), np.float32)
        else:
            place[1], size, heights = _field_geom(field)
        boxes = ground.boxes
        place[2 : 2 + len(boxes)] = boxes.centre_m
        half = np.full((self.num_boxes, 3), 0.1)
        half[: len(boxes)] = boxes.half_m
        self._rows[slot], self._cols[slot] = heights.shape
        self._heights[slot, : heights.size] = torch.from_numpy(heights.ravel()).to(self._device)
        for table, row in ((self._size, size), (self._place, place), (self._half, half)):
            table[slot] = torch.as_tensor(row, dtype=torch.float32, device=self._device)

    def bind(self, model: Any, mj_model: mujoco.MjModel) -> None:
        """Give a MuJoCo Warp model the heightfields of all slots."""
        geom = [mj_model.geom(n).id for n in (PLANE, FIELD, *(BOX.format(i) for i in range(self.num_boxes)))]
        self._geoms = torch.tensor(geom, device=self._device)
        count = len(self.grounds)
        model.hfield_data = wp.from_torch(self._heights.view(-1))
        model.hfield_size = wp.from_torch(self._size, dtype=wp.vec4)
        model.hfield_nrow, model.hfield_ncol = wp.from_torch(self._rows), wp.from_torch(self._cols)
        address = torch.arange(count, dtype=torch.int32, device=self._device) * self._capacity
        model.hfield_adr = wp.from_torch(address)
        model.nhfield, model.nhfielddata = count, self._heights.numel()

    def assign(self, model: Any, data: Any, env_ids: Tensor, slots: Tensor) -> None:
        """Put the geoms of worlds ``env_ids`` [R] where their ``slots`` [R] have them; bounds are to be derived anew then."""
        ids, geoms = env_ids[:, None], self._geoms
        wp.to_torch(data.geom_xpos)[ids, geoms] = self._place[slots]
        wp.to_torch(model.geom_size)[ids, geoms[2:]] = self._half[slots]
        wp.to_torch(model.geom_dataid)[env_ids, geoms[1]] = slots.to(torch.int32)


def _field_geom(field: Heightfield) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A heightfield in MuJoCo's terms: place of the geom, sizes (half x, half y, range, base), heights in 0..1.

    Minimum 0 and maximum ``size[2]``, rows along +y, as in `gaussgym_sim.ground.terrain.add_ground`.
    """
    size_x, size_y = field.size_m
    z_min, z_max = float(field.height_m.min()), float(field.height_m.max())
    centre = np.asarray(field.origin_xy_m, dtype=np.float64) + np.array([size_x, size_y]) / 2
    place = np.array([centre[0], centre[1], z_min])
    heights = ((field.height_m - z_min) / (z_max - z_min)).astype(np.float32)
    return place, np.array([size_x / 2, size_y / 2, z_max - z_min, _BASE_THICKNESS_M]), heights
