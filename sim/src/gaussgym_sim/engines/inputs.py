"""What several engines check of their inputs in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray
from torch import Tensor

from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.vecsim import MAX_DELAY_SUBSTEPS, SUBSTEP_S


def delay_substeps(delay_s: Tensor, *, look: bool = True) -> Tensor:
    """Whole substeps [R] of actuator delays [R] s; where nobody looks, those out of range are moved into it.

    Raises:
        InputError: a delay that is too long or less than 0.
    """
    substeps = torch.round(delay_s / SUBSTEP_S)
    if look and len(substeps) and not (substeps.min() >= 0 and substeps.max() <= MAX_DELAY_SUBSTEPS):
        low, high = (float(x) for x in delay_s.aminmax())
        raise InputError(
            f"actuator delays of {low:g} to {high:g} s, expected 0 to {MAX_DELAY_SUBSTEPS * SUBSTEP_S:g} s"
        )
    return substeps.clamp(0, MAX_DELAY_SUBSTEPS).to(torch.int32)


def check_restitution(restitution: Tensor) -> None:
    """Refuse what gives back more than there was.

    Raises:
        InputError: a value outside 0..1.
    """
    if len(restitution) and not (restitution.min() >= 0 and restitution.max() <= 1):
        low, high = (float(x) for x in restitution.aminmax())
        raise InputError(f"restitution of {low:g} to {high:g}, expected 0 to 1")


def slot_for(scene: Scene, ids: NDArray[np.int64], scenes: Sequence[Scene], owner: NDArray[np.int64]) -> int:
    """The slot of ``scenes`` that envs ``ids`` move to for a scene: its own, or one where no other env stands.

    Args:
        scene: the new one.
        ids: [R] who moves.
        scenes: one a slot.
        owner: [E] slot of each env.

    Raises:
        InputError: there is none.
    """
    for index, held in enumerate(scenes):
        if held is scene:
            return index
    free = np.setdiff1d(np.arange(len(scenes)), np.delete(owner, ids))
    if len(free) == 0:
        raise InputError(
            f"no slot for scene {scene.name!r}: other environments stand in each of the {len(scenes)} scenes; "
            "move all environments of one"
        )
    return int(free[0])


def check_saved_state(state: Mapping[str, Any], robot: RobotCfg, num_envs: int) -> None:
    """Refuse the `gaussgym_sim.vecsim.VecSim.state_dict` of another robot or number of envs.

    Raises:
        InputError: the state's robot and shape against those expected.
    """
    shape = tuple(state["state"]["joint_pos"].shape)
    if state["robot"] != robot.name or shape != (num_envs, robot.num_joints):
        raise InputError(
            f"physics state of robot {state['robot']!r} with joint positions {list(shape)}, expected "
            f"{robot.name!r} with {[num_envs, robot.num_joints]}; resume with the same settings"
        )
