"""What every physics backend offers: `VecSim`, its state and parameters, and `make_sim`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.registry import Registry
from gaussgym_scene.scene import Scene
from torch import Tensor

from gaussgym_sim.ground.terrain import TERRAIN_MODES, TerrainLookup
from gaussgym_sim.robot import RobotCfg, get_robot

BRIDGE = "bridge:"
"""Before a backend's name: it runs in a process of its own, see `gaussgym_sim.engines.bridge`."""
SUBSTEP_S = 0.005
MAX_DELAY_SUBSTEPS = 12
"""Longest actuator delay, in substeps."""


@dataclass(frozen=True)
class Param:
    """One quantity of `VecSim.set_params`: ``shape`` per env is '' (a number), 'joints', 'links' or 'xyz'."""

    shape: str
    unit: str
    meaning: str


PARAMS: dict[str, Param] = {
    "kp": Param("joints", "Nm/rad", "position gain"),
    "kd": Param("joints", "Nm s/rad", "velocity gain"),
    "strength": Param("joints", "1", "factor on the torque, before its limit"),
    "offset": Param("joints", "rad", "error of a motor's zero: added to its target"),
    "delay_s": Param("", "s", "between a target and its effect, rounded to substeps, at most 60 ms"),
    "armature": Param("joints", "kg m^2", "inertia of the rotor, seen from the joint"),
    "joint_damping": Param("joints", "Nm s/rad", "viscous friction of the joint"),
    "joint_friction": Param("joints", "Nm", "dry friction of the joint"),
    "friction": Param("", "1", "sliding friction of all robot shapes; the ground's own does not enter"),
    "restitution": Param(
        "",
        "1",
        "of all robot shapes, 0 to 1; the mean with the ground's 0 is in force: half of it comes back",
    ),
    "compliance": Param(
        "", "1", "how much softer contacts are: 0 as the engine has them, 1 twice as slow to push back"
    ),
    "trunk_mass_kg": Param("", "kg", "mass of the base; its inertia scales with it"),
    "trunk_com_b": Param("xyz", "m", "centre of mass of the base, in its frame"),
    "link_mass_factor": Param(
        "links", "1", "factor on mass and inertia of each other body, as `VecSim.link_names`"
    ),
    "gravity_w": Param("xyz", "m/s^2", "acceleration of free fall"),
}
"""What can differ between environments. A backend's `VecSim.capabilities` name those that it has."""


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
    number of threads; an env's trajectory does not depend on the other envs; nothing here draws random numbers. Arguments named
    ``env_ids`` are [R] long, sorted and unique. `gaussgym_sim.testing.CONFORMANCE` is this contract as tests.
    """

    robot: RobotCfg
    scenes: list[Scene]
    """One a slot."""
    num_envs: int
    substep_s: float
    device: torch.device
    scene_of_env: Tensor
    """[E] long, the slot of ``scenes`` that each env stands in; `set_scene` changes it, in place."""
    terrain: TerrainLookup
    """Ground heights, walls and rays of all slots."""
    state: SimState
    params: dict[str, Tensor]
    """Values in force, float32 [E, ...], by the names of `PARAMS`; read only, changed in place by `set_params`."""
    link_names: tuple[str, ...]
    """Bodies other than the base."""
    total_mass_kg: float
    """Of the nominal robot."""
    capabilities: frozenset[str]
    """Names of `PARAMS` that `set_params` takes here, and 'mesh' (exact triangles), 'park', 'set_scene', 'state_dict',
    'deterministic' (the same inputs give the same bits)."""
    invalid_count: int
    """How often a state became non-finite since the start."""

    def step(self, target_joint_pos: Tensor, *, substeps: int = 4) -> None:
        """Advance all envs; every substep the robot's actuators turn targets into torques (`gaussgym_sim.actuation.actuators`).

        Args:
            target_joint_pos: [E, J] position targets [rad], held during the call.
            substeps: number of 5 ms steps.
        """
        ...

    def reset(
        self, env_ids: Tensor, *, root_pos_w: Tensor, root_quat_wxyz: Tensor, root_lin_vel_w: Tensor,
        root_ang_vel_b: Tensor, joint_pos: Tensor, joint_vel: Tensor,
    ) -> None:  # fmt: skip
        """Put envs ``env_ids`` into a state; contacts and torques read zero until the next step, pushes end, and delayed
        actuators have held ``joint_pos`` until then. Parameters stay.
        """
        ...

    def set_params(self, env_ids: Tensor, **values: Tensor) -> None:
        """Set parameters of envs ``env_ids``, each [R, ...] as `PARAMS` says.

        Raises:
            InputError: a name that this backend does not have; the message lists those that it has.
        """
        ...

    def kick(self, env_ids: Tensor, delta_lin_vel_w: Tensor, delta_ang_vel_b: Tensor | None = None) -> None:
        """Add [R, 3] m/s and, if given, [R, 3] rad/s to the base velocity of envs ``env_ids``."""
        ...

    def push(self, env_ids: Tensor, force_w: Tensor, torque_w: Tensor | None = None) -> None:
        """Force [R, 3] N at the base's centre of mass, and torque [R, 3] Nm, of envs ``env_ids``; held until the next call or
        reset.
        """
        ...

    def raycast(self, origin_w: Tensor, direction_w: Tensor) -> Tensor:
        """Distance [E, N] m along unit directions [E, N, 3] from origins [E, N, 3] to the ground of each env's scene; infinite
        where there is none. Robots are not hit.
        """
        ...

    def park(self, env_ids: Tensor) -> None:
        """Stop simulating envs ``env_ids`` for good: `step` leaves their state as it is (evaluations whose episodes end)."""
        ...

    def set_scene(self, env_ids: Tensor, scene: Scene) -> None:
        """Move envs ``env_ids`` to another scene; they get nominal parameters and must then be reset.

        A scene (the same object) that lies in a slot is moved to; else it takes a slot that no other env stands in.

        Raises:
            InputError: no slot is free, or the scene's ground is no good; nothing has changed then.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that the coming trajectories depend on, beside scenes and inputs, as tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly as the sim did whose `state_dict` this is; its scenes must lie in the same slots.

        Raises:
            InputError: of another robot or number of envs.
        """
        ...

    def close(self) -> None:
        """Free what the process does not free by itself (other processes, shared memory); safe to repeat."""
        ...


BACKENDS: Registry[Callable[..., VecSim]] = Registry(
    "physics backend",
    "gaussgym.sims",
    {
        "mujoco": "gaussgym_sim.engines.mujoco_sim:MujocoSim",
        "isaacgym": "gaussgym_sim.engines.isaacgym_sim:IsaacGymSim",
        "mjwarp": "gaussgym_sim.engines.mjwarp_sim:MjwarpSim",
    },
)
"""Called as (robot cfg, scenes, num_envs, device=, seed=, num_threads=, terrain=). Another package adds one by an entry point of
group ``gaussgym.sims``."""


def backend_names() -> list[str]:
    """Names of all physics backends."""
    return sorted(BACKENDS.names())


def _find_backend(name: str) -> Callable[..., VecSim]:
    if name.startswith(BRIDGE):
        inner = name.removeprefix(BRIDGE)
        BACKENDS.get(inner)
        return partial(import_module("gaussgym_sim.engines.bridge").BridgedSim, inner)
    return BACKENDS.get(name)


def make_sim(
    backend: str,
    robot: str | RobotCfg,
    scenes: Sequence[Scene],
    num_envs: int,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
    num_threads: int | None = None,
    terrain: str = "boxes",
) -> VecSim:
    """Make a vectorized simulator; envs are split over the scenes as evenly as possible, in order.

    Args:
        backend: 'mujoco' (CPU), 'mjwarp' (GPU), or another of `backend_names`; with 'bridge:' before it, in a process of its
            own.
        robot: registered name or a cfg.
        scenes: at least one.
        num_envs: at least ``len(scenes)``.
        device: where the tensors live; 'mujoco' wants 'cpu', 'mjwarp' takes 'cuda' or 'cpu'.
        seed: reserved for backends that draw random numbers; none here does.
        num_threads: physics threads; None = CPUs this process may use.
        terrain: what a scene's ground is made of, see `gaussgym_sim.ground.terrain.ground_of`: 'heightfield', 'boxes' (and walls
            and overhangs) or 'mesh' (its triangles).

    Raises:
        InputError: unknown backend, robot or kind of terrain, no scene, too few envs or threads, wrong device.
    """
    cfg = get_robot(robot) if isinstance(robot, str) else robot
    if not scenes:
        raise InputError("no scene given; physics needs at least one scene with a heightfield")
    if num_envs < len(scenes):
        raise InputError(
            f"{num_envs} environments for {len(scenes)} scenes; give at least one environment a scene"
        )
    if num_threads is not None and num_threads < 1:
        raise InputError(f"{num_threads} threads; expected at least 1")
    if terrain not in TERRAIN_MODES:
        raise InputError(f"unknown kind of terrain {terrain!r}; choose one of: {', '.join(TERRAIN_MODES)}")
    options = {"device": torch.device(device), "seed": seed, "num_threads": num_threads, "terrain": terrain}
    make = _find_backend(backend)
    return make(cfg, list(scenes), num_envs, **options)


def check_param_names(names: Sequence[str], capabilities: frozenset[str], backend: str) -> None:
    """Refuse parameters that a backend does not have.

    Raises:
        InputError: with the names that it has.
    """
    for name in names:
        if name not in PARAMS or name not in capabilities:
            have = ", ".join(p for p in PARAMS if p in capabilities)
            raise InputError(f"physics backend {backend!r} has no parameter {name!r}; it has: {have}")
