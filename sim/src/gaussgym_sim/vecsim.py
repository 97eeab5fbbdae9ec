"""What every physics backend offers: `VecSim`, its state, and `make_sim`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from torch import Tensor

from gaussgym_sim.robot import RobotCfg, get_robot
from gaussgym_sim.terrain import TerrainLookup

BACKENDS = ("mujoco",)
SUBSTEP_S = 0.005


@dataclass
class SimState:
    """State of E robots after the last `VecSim.step` or `VecSim.reset`, float32 views that the next call overwrites.

    Positions, velocities and orientation of root and joints are current; feet and contacts are those that the last substep
    started from (one substep, 5 ms, old), as physics engines compute them on the way.

    Attributes:
        root_pos_w: [E, 3] base origin [m] in the frame of the env's scene.
        root_quat_wxyz: [E, 4] base to world.
        root_lin_vel_w: [E, 3] [m/s].
        root_ang_vel_b: [E, 3] [rad/s] in the BASE frame (as a gyroscope measures it).
        joint_pos, joint_vel: [E, J] [rad], [rad/s], in the robot's joint order.
        joint_torque: [E, J] applied in the last substep [Nm].
        foot_pos_w, foot_vel_w, foot_force_w: [E, L, 3] centre [m], velocity [m/s] and ground reaction [N] of each foot.
        foot_contact, thigh_contact: [E, L] bool, touching anything.
        trunk_contact: [E] bool.
        invalid: [E] bool, physics became non-finite in the last step; such an env must be reset.
    """

    root_pos_w: Tensor
    root_quat_wxyz: Tensor
    root_lin_vel_w: Tensor
    root_ang_vel_b: Tensor
    joint_pos: Tensor
    joint_vel: Tensor
    joint_torque: Tensor
    foot_pos_w: Tensor
    foot_vel_w: Tensor
    foot_force_w: Tensor
    foot_contact: Tensor
    thigh_contact: Tensor
    trunk_contact: Tensor
    invalid: Tensor


@runtime_checkable
class VecSim(Protocol):
    """E independent copies of one robot, each on the ground of one scene.

    Contract: tensors live on ``device``; ``state`` is updated in place; results depend on the inputs alone, never on the
    number of threads; an env's trajectory does not depend on the other envs; nothing here draws random numbers.
    """

    robot: RobotCfg
    scenes: list[Scene]
    num_envs: int
    substep_s: float
    device: torch.device
    scene_of_env: Tensor
    """[E] long, index into ``scenes``; fixed for the sim's life (`replace_scene` changes what lies there), envs of a scene are
    consecutive."""
    terrain: TerrainLookup
    state: SimState
    invalid_count: int
    """How often a state became non-finite since the start."""

    def step(self, target_joint_pos: Tensor, *, substeps: int = 4) -> None:
        """Advance all envs; every substep applies tau = clip(strength (kp (target - q) - kd qd), limit).

        Args:
            target_joint_pos: [E, J] position targets [rad], held during the call.
            substeps: number of 5 ms steps.
        """
        ...

    def reset(
        self, env_ids: Tensor, *, root_pos_w: Tensor, root_quat_wxyz: Tensor, root_lin_vel_w: Tensor,
        root_ang_vel_b: Tensor, joint_pos: Tensor, joint_vel: Tensor,
    ) -> None:  # fmt: skip
        """Put envs ``env_ids`` [R] (sorted, unique) into a state; contacts and torques read zero until the next step."""
        ...

    def park(self, env_ids: Tensor) -> None:
        """Stop simulating envs ``env_ids`` [R] for good: `step` leaves their state as it is (evaluations whose episodes end)."""
        ...

    def replace_scene(self, index: int, scene: Scene) -> None:
        """Put another scene in the place of ``scenes[index]``; its envs get nominal physics and must then be reset.

        Raises:
            InputError: heights that are not finite; nothing has changed then.
        """
        ...

    def kick(self, env_ids: Tensor, delta_lin_vel_w: Tensor) -> None:
        """Add [R, 3] m/s to the base velocity of envs ``env_ids`` [R]."""
        ...

    def set_actuators(self, env_ids: Tensor, *, kp: Tensor, kd: Tensor, strength: Tensor) -> None:
        """Set gains [R, J] and motor strength [R, J] (factor on the torque before the limit)."""
        ...

    def set_friction(self, env_ids: Tensor, friction: Tensor) -> None:
        """Set the sliding friction [R] of all robot geoms; the ground's own value does not enter."""
        ...

    def set_payload(self, env_ids: Tensor, *, trunk_mass_kg: Tensor, trunk_com_b: Tensor) -> None:
        """Set the trunk's mass [R] and centre of mass [R, 3]; its inertia scales with the mass."""
        ...


def make_sim(
    backend: str,
    robot: str | RobotCfg,
    scenes: Sequence[Scene],
    num_envs: int,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
    num_threads: int | None = None,
) -> VecSim:
    """Make a vectorized simulator; envs are split over the scenes as evenly as possible, in order.

    Args:
        backend: 'mujoco' (CPU).
        robot: registered name or a cfg.
        scenes: at least one.
        num_envs: at least ``len(scenes)``.
        device: where the tensors live; 'mujoco' wants 'cpu'.
        seed: reserved for backends that draw random numbers; 'mujoco' does not.
        num_threads: physics threads; None = CPUs this process may use.

    Raises:
        InputError: unknown backend or robot, no scene, too few envs, wrong device.
    """
    if backend not in BACKENDS:
        raise InputError(f"unknown physics backend {backend!r}; this version has: {', '.join(BACKENDS)}")
    cfg = get_robot(robot) if isinstance(robot, str) else robot
    if not scenes:
        raise InputError("no scene given; physics needs at least one scene with a heightfield")
    if num_envs < len(scenes):
        raise InputError(
            f"{num_envs} environments for {len(scenes)} scenes; give at least one environment a scene"
        )
    if torch.device(device).type != "cpu":
        raise InputError(f"physics backend 'mujoco' runs on the CPU, not on {device!r}; use device='cpu'")
    from gaussgym_sim.mujoco_sim import MujocoSim

    return MujocoSim(cfg, scenes, num_envs, num_threads=num_threads)
