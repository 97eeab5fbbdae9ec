"""Isaac Gym as a `VecSim`: its worker runs under another Python, behind the bridge; this is the trainer's end.

What PhysX does otherwise than the contract, and so what ``capabilities`` leave out or say in another way:

- gravity is one for all, contacts have no compliance (PhysX ignores the shape's), environments stay in their scene, and there is
  no state to save and go on from; on its GPU pipeline Isaac Gym does not move centres of mass either.
- Results need not be the same bits twice.
- A contact is that of a body: a sole is a body of its own here, a thigh and the trunk count whatever touches their bodies.
- PhysX takes the mean of two materials and the ground's are 0. Robots get twice the friction, so that it is in force as asked
  for, and the restitution itself (1 at most), so that half of it comes back.
- Damping and dry friction of joints are worked out by the worker (`isaacgym_actuators`), with a motor's torque apart from them.
- A parked environment is put back to where it was before every step; a level scene ends `LEVEL_MARGIN_M` beyond its heightfield.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray
from torch import Tensor

from gaussgym_sim.engines.bridge import BridgeCfg, BridgedSim, BridgeError
from gaussgym_sim.engines.mujoco_sim import effective_cpus
from gaussgym_sim.frames import rotate_inverse
from gaussgym_sim.ground.terrain import Ground, ground_of
from gaussgym_sim.mdp.starts import scene_of_env
from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.robot_import.urdf import foot_links, urdf_of
from gaussgym_sim.robots.geoms import load_model
from gaussgym_sim.robots.kinematics import BodyKinematics
from gaussgym_sim.vecsim import MAX_DELAY_SUBSTEPS, PARAMS, SUBSTEP_S

logger = logging.getLogger(__name__)

PYTHON_VARIABLE = "GAUSSGYM_ISAACGYM_PYTHON"
PATH_VARIABLE = "GAUSSGYM_ISAACGYM_PYTHONPATH"
PIPELINE_VARIABLE = "GAUSSGYM_ISAACGYM_PIPELINE"
MADE_PYTHON = Path(__file__).parents[4] / ".isaacgym" / "bin" / "python"
"""Where ``make isaacgym`` puts it."""
WORKER = Path(__file__).with_name("isaacgym_worker.py")
LEVEL_MARGIN_M = 40.0
GAP_M = 5.0
"""Between scenes in the one world that they share."""
_LEVEL_CELL_M = 5.0
_FAR_M = 1000.0  # float32 is 0.06 mm coarse there
_NEVER = frozenset({"gravity_w", "compliance"})


@dataclass(frozen=True)
class PhysxCfg:
    """Isaac Gym's parameters of the solver, by its names; values as legged robots are trained with."""

    solver_type: int = 1
    num_position_iterations: int = 4
    num_velocity_iterations: int = 0
    contact_offset: float = 0.01
    rest_offset: float = 0.0
    bounce_threshold_velocity: float = 0.5
    max_depenetration_velocity: float = 1.0
    max_gpu_contact_pairs: int = 2**23
    default_buffer_size_multiplier: float = 5.0


@dataclass(frozen=True)
class IsaacGymCfg:
    """How Isaac Gym runs.

    Attributes:
        python: interpreter that has `isaacgym` and torch; None looks at ``GAUSSGYM_ISAACGYM_PYTHON``, then at what
            ``make isaacgym`` made.
        python_path: further places where that interpreter finds packages (``GAUSSGYM_ISAACGYM_PYTHONPATH``).
        physics_on_gpu: PhysX on the GPU; None: when the sim's device is one.
        gpu_pipeline: state in tensors on the GPU; None: as ``GAUSSGYM_ISAACGYM_PIPELINE`` says ('gpu' or 'cpu'), else as
            ``physics_on_gpu``. With False PhysX may still run on the GPU, and no torch for that GPU is needed there.
        physx: the solver.
        bridge: timeouts.
    """

    python: str | None = None
    python_path: str | None = None
    physics_on_gpu: bool | None = None
    gpu_pipeline: bool | None = None
    physx: PhysxCfg = field(default_factory=PhysxCfg)
    bridge: BridgeCfg = field(default_factory=BridgeCfg)

    def interpreter(self) -> str:
        """Path of the interpreter.

        Raises:
            InputError: there is none.
        """
        given = (
            self.python
            or os.environ.get(PYTHON_VARIABLE)
            or (str(MADE_PYTHON) if MADE_PYTHON.exists() else None)
        )
        if given is None:
            raise InputError(
                "no Python with Isaac Gym: run `make isaacgym ISAACGYM_TARBALL=<NVIDIA's IsaacGym_Preview_4_Package.tar.gz>`, or "
                f"set {PYTHON_VARIABLE} to an interpreter that imports isaacgym"
            )
        found = shutil.which(given)
        if found is None:
            raise InputError(
                f"{given}: no such program, expected a Python that imports isaacgym ({PYTHON_VARIABLE})"
            )
        return found

    def placed(self, device: torch.device) -> tuple[bool, bool]:
        """Whether physics, and whether its tensors, are on the GPU.

        Raises:
            InputError: an unknown pipeline, or a GPU pipeline with physics on the CPU.
        """
        on_gpu = device.type == "cuda" if self.physics_on_gpu is None else self.physics_on_gpu
        said = os.environ.get(PIPELINE_VARIABLE, "")
        if said not in ("", "gpu", "cpu"):
            raise InputError(f"{PIPELINE_VARIABLE} is {said!r}, expected 'gpu' or 'cpu'")
        pipeline = self.gpu_pipeline if self.gpu_pipeline is not None else said == "gpu" if said else on_gpu
        if pipeline and not on_gpu:
            raise InputError("Isaac Gym's GPU pipeline wants physics on the GPU; use device='cuda'")
        return on_gpu, pipeline

    def environment(self, python: str) -> dict[str, str]:
        """Variables of the worker: ours, less what would lead its Python to our packages, and with its own libraries."""
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        path = self.python_path or os.environ.get(PATH_VARIABLE)
        if path:
            env["PYTHONPATH"] = path
        # isaacgym's library wants libpython3.8.so, which lies beside the interpreter and nowhere that is looked at.
        libraries = str(Path(python).resolve().parents[1] / "lib")
        env["LD_LIBRARY_PATH"] = ":".join(filter(None, (libraries, env.get("LD_LIBRARY_PATH"))))
        return env


class IsaacGymSim(BridgedSim):
    """`VecSim` on Isaac Gym. See the module for what is different."""

    def __init__(
        self,
        robot: RobotCfg,
        scenes: Sequence[Scene],
        num_envs: int,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        num_threads: int | None = None,
        terrain: str = "boxes",
        cfg: IsaacGymCfg | None = None,
    ) -> None:
        """Start the worker; arguments as `make_sim`, and ``cfg`` says how Isaac Gym runs.

        Raises:
            InputError: what `make_sim` refuses, no interpreter, a robot that URDF cannot say.
            BridgeError: the worker does not come up; its last words are in the text.
        """
        cfg, device = cfg or IsaacGymCfg(), torch.device(device)
        python = cfg.interpreter()
        grounds = [ground_of(scene, terrain) for scene in scenes]
        spec = make_spec(robot, num_envs, device, cfg, num_threads or effective_cpus())
        arrays = pack_scenes(grounds, scene_of_env(len(scenes), num_envs))
        if robot.actuator.kind == "net" and robot.actuator.net is not None:
            arrays["actuator_net"] = np.frombuffer(robot.actuator.net.read_bytes(), np.uint8)
        file = io.BytesIO()
        np.savez(file, **arrays)  # type: ignore[arg-type]
        try:
            self._open(
                robot, scenes, grounds, num_envs, device=device, terrain=terrain, cfg=cfg.bridge, name="isaacgym",
                command=(python, str(WORKER)), body={"spec": spec}, blob=file.getvalue(), env=cfg.environment(python),
            )  # fmt: skip
        except BridgeError as error:
            raise BridgeError(f"{error} (worker's interpreter: {python})") from None
        self._kinematics = BodyKinematics(robot, num_envs, device=device)
        self._sole_bodies, self._sole_pos_b = _soles(robot, device)
        self._place_feet(torch.arange(num_envs, device=device))

    def reset(
        self, env_ids: Tensor, *, root_pos_w: Tensor, root_quat_wxyz: Tensor, root_lin_vel_w: Tensor,
        root_ang_vel_b: Tensor, joint_pos: Tensor, joint_vel: Tensor,
    ) -> None:  # fmt: skip
        """See `VecSim.reset`."""
        super().reset(
            env_ids, root_pos_w=root_pos_w, root_quat_wxyz=root_quat_wxyz, root_lin_vel_w=root_lin_vel_w,
            root_ang_vel_b=root_ang_vel_b, joint_pos=joint_pos, joint_vel=joint_vel,
        )  # fmt: skip
        self._place_feet(env_ids)

    def _place_feet(self, ids: Tensor) -> None:
        """Feet from base and joints: the engine moves its bodies in steps only."""
        if len(ids) == 0:
            return
        s, tree = self.state, self._kinematics
        quat, q = s.root_quat_wxyz[ids], s.joint_pos[ids]
        poses = tree.poses(s.root_pos_w[ids], quat, q)[:, self._sole_bodies]
        lin_b = rotate_inverse(quat, s.root_lin_vel_w[ids])
        twists = tree.twists(lin_b, s.root_ang_vel_b[ids], q, s.joint_vel[ids])[:, self._sole_bodies]
        arm = self._sole_pos_b.expand(len(ids), -1, -1)
        speed_b = twists[..., :3] + torch.linalg.cross(twists[..., 3:], arm)
        turn = poses[..., :3, :3]
        # Into the block, so that the next call, which may copy it as a whole, does not undo it.
        rows, shared = ids.cpu(), self._shared
        shared["state/foot_pos_w"][rows] = (poses[..., :3, 3] + (turn @ arm[..., None])[..., 0]).float().cpu()
        shared["state/foot_vel_w"][rows] = (turn @ speed_b[..., None])[..., 0].float().cpu()
        self._pull_state()


def _soles(robot: RobotCfg, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which body carries each sole [L], as `BodyKinematics` counts, and where in it [L, 3]."""
    model = load_model(robot.mjcf)
    geoms = [model.geom(name).id for name in robot.foot_geoms]
    bodies = torch.as_tensor(model.geom_bodyid[geoms] - 1, dtype=torch.long, device=device)
    return bodies, torch.as_tensor(model.geom_pos[geoms], dtype=torch.float64, device=device)


def make_spec(
    robot: RobotCfg, num_envs: int, device: torch.device, cfg: IsaacGymCfg, num_threads: int
) -> dict[str, Any]:
    """What the worker is told beside the scenes, as JSON can say it.

    Raises:
        InputError: see `IsaacGymCfg.placed`, `gaussgym_sim.robot_import.urdf.urdf_of`,
                `gaussgym_sim.actuation.actuator_cfg.ActuatorCfg.check`.
    """
    robot.actuator.check(robot.num_joints)
    on_gpu, pipeline = cfg.placed(device)
    index = device.index or 0
    without = _NEVER | ({"trunk_com_b"} if pipeline else set())
    return {
        "num_envs": num_envs,
        "substep_s": SUBSTEP_S,
        "gravity_z": float(load_model(robot.mjcf).opt.gravity[2]),
        "max_delay": MAX_DELAY_SUBSTEPS,
        "compute_device": index,
        "pipeline_device": f"cuda:{index}" if pipeline else "cpu",
        "physx": {**asdict(cfg.physx), "use_gpu": on_gpu, "num_threads": num_threads},
        "torch_threads": num_threads,
        "thickness_m": 0.0,
        "urdf": urdf_of(robot),
        "robot": describe_robot(robot),
        "nominal": nominal_params(robot),
        "capabilities": [*(name for name in PARAMS if name not in without), "mesh", "park"],
    }


def describe_robot(robot: RobotCfg) -> dict[str, Any]:
    """Names and numbers of a robot that its URDF does not say."""
    model = load_model(robot.mjcf)

    def body_of(geom: str) -> str:
        return model.body(int(model.geom(geom).bodyid[0])).name

    names = [model.body(i).name for i in range(1, model.nbody)]
    feet = foot_links(robot)
    actuator = robot.actuator
    return {
        "joint_names": list(robot.joint_names),
        "torque_limit_nm": list(robot.torque_limit_nm),
        "default_joint_pos": list(robot.default_joint_pos),
        "actuator": {
            "kind": actuator.kind,
            "stall_torque_nm": list(actuator.stall_torque_nm),
            "no_load_speed_rad_s": list(actuator.no_load_speed_rad_s),
        },
        "base": names[0],
        "links": names[1:],
        "bodies": names,
        "feet": list(feet),
        "foot_body": {link: body_of(geom) for link, geom in zip(feet, robot.foot_geoms, strict=True)},
        "thighs": [body_of(geom) for geom in robot.thigh_geoms],
        "trunk": sorted({body_of(geom) for geom in robot.trunk_geoms}),
    }


def nominal_params(robot: RobotCfg) -> dict[str, Any]:
    """Values of `PARAMS` before anything is set."""
    model = load_model(robot.mjcf)
    dofs = [int(model.joint(name).dofadr[0]) for name in robot.joint_names]
    shape = int(np.flatnonzero(model.geom_bodyid > 0)[0])
    joints = robot.num_joints
    return {
        "kp": list(robot.kp),
        "kd": list(robot.kd),
        "strength": [1.0] * joints,
        "offset": [0.0] * joints,
        "delay_s": 0.0,
        "armature": model.dof_armature[dofs].tolist(),
        "joint_damping": model.dof_damping[dofs].tolist(),
        "joint_friction": model.dof_frictionloss[dofs].tolist(),
        "friction": float(model.geom_friction[shape, 0]),
        "restitution": 0.0,
        "trunk_mass_kg": float(model.body_mass[1]),
        "trunk_com_b": model.body_ipos[1].tolist(),
        "link_mass_factor": [1.0] * (model.nbody - 2),
    }


def pack_scenes(grounds: Sequence[Ground], owner: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Triangles of all grounds, and where they lie in the world that they share.

    Args:
        grounds: one a scene.
        owner: [E] scene of each environment.

    Returns:
        ``vertices_<k>`` [V, 3] float32 and ``triangles_<k>`` [T, 3] uint32 of each scene in its own frame, ``offset_xy_m``
        [K, 2] of each scene's origin in the world, ``scene_of_env`` [E], and ``spawn_w`` [E, 3], a place in the world over the
        middle of each environment's scene.
    """
    meshes = [ground_triangles(ground) for ground in grounds]
    low = np.stack([v.min(axis=0) for v, _ in meshes]).astype(np.float64)
    high = np.stack([v.max(axis=0) for v, _ in meshes]).astype(np.float64)
    offset = _spread(low[:, :2], high[:, :2])
    over = np.concatenate([offset + (low[:, :2] + high[:, :2]) / 2, high[:, 2:] + 1.0], axis=1)
    arrays: dict[str, NDArray[Any]] = {
        "offset_xy_m": offset.astype(np.float32), "scene_of_env": owner, "spawn_w": over[owner].astype(np.float32),
    }  # fmt: skip
    for k, (vertices, triangles) in enumerate(meshes):
        arrays |= {f"vertices_{k}": vertices, f"triangles_{k}": triangles}
    return arrays


def _spread(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shifts [K, 2] that lay rectangles out on a square grid around the origin, one a cell, `GAP_M` apart."""
    pitch = (high - low).max(axis=0) + GAP_M
    per_row = int(np.ceil(np.sqrt(len(low))))
    k = np.arange(len(low))
    centre = (np.stack([k % per_row, k // per_row], axis=1) - (per_row - 1) / 2) * pitch
    if np.abs(centre).max() > _FAR_M:
        logger.warning(
            "%d scenes reach %.0f m into Isaac Gym's world, where positions are coarse; take fewer scenes a process",
            len(low), np.abs(centre).max(),
        )  # fmt: skip
    return centre - (low + high) / 2


def ground_triangles(ground: Ground) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """A ground's surface, corners counter-clockwise from outside.

    Cells of a heightfield are split along the diagonal from their lowest x and y to their highest, as
    `TerrainLookup.raycast` splits them; an infinite plane ends `LEVEL_MARGIN_M` beyond the heightfield.
    """
    if ground.mesh is not None:
        return ground.mesh.vertices.astype(np.float32), ground.mesh.faces.astype(np.uint32)
    field = ground.heightfield
    if ground.is_plane:
        parts = [_grid(*_level(ground))]
    else:
        ny, nx = field.height_m.shape
        x = field.origin_xy_m[0] + field.cell_m * np.arange(nx)
        y = field.origin_xy_m[1] + field.cell_m * np.arange(ny)
        parts = [_grid(x, y, field.height_m)]
    parts += [_box(c, h) for c, h in zip(ground.boxes.centre_m, ground.boxes.half_m, strict=True)]
    starts = np.cumsum([0, *(len(v) for v, _ in parts)])
    vertices = np.concatenate([v for v, _ in parts]).astype(np.float32)
    triangles = np.concatenate([t + start for (_, t), start in zip(parts, starts)]).astype(np.uint32)
    return vertices, triangles


_Part = tuple[NDArray[np.float64], NDArray[np.int64]]


def _level(ground: Ground) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Grid lines and heights of a plane, wider than its heightfield."""
    field = ground.heightfield
    lines = []
    for start, size in zip(field.origin_xy_m, field.size_m, strict=True):
        width = size + 2 * LEVEL_MARGIN_M
        lines.append(
            np.linspace(
                start - LEVEL_MARGIN_M, start + size + LEVEL_MARGIN_M, int(np.ceil(width / _LEVEL_CELL_M)) + 1
            )
        )
    x, y = lines
    return x, y, np.full((len(y), len(x)), float(field.height_m.min()))


def _grid(x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[Any]) -> _Part:
    """Triangles of heights [ny, nx] over grid lines."""
    nx, ny = len(x), len(y)
    vertices = np.stack([*np.meshgrid(x, y), z], axis=-1).reshape(-1, 3)
    corner = (np.arange(ny - 1)[:, None] * nx + np.arange(nx - 1)).reshape(-1)
    right, up, across = corner + 1, corner + nx, corner + nx + 1
    lower, upper = np.stack([corner, right, across], axis=1), np.stack([corner, across, up], axis=1)
    return vertices, np.stack([lower, upper], axis=1).reshape(-1, 3)


_BOX_CORNERS = np.array([[x, y, z] for z in (-1, 1) for y in (-1, 1) for x in (-1, 1)], dtype=np.float64)
_BOX_FACES = np.array(
    [[0, 2, 3], [0, 3, 1], [4, 5, 7], [4, 7, 6], [0, 1, 5], [0, 5, 4], [2, 6, 7], [2, 7, 3], [0, 4, 6], [0, 6, 2], [1, 3, 7],
     [1, 7, 5]]
)  # fmt: skip


def _box(centre: NDArray[np.float64], half: NDArray[np.float64]) -> _Part:
    return centre + half * _BOX_CORNERS, _BOX_FACES
