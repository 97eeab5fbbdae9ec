"""Isaac Gym behind the bridge: ``python isaacgym_worker.py SOCKET_FD MEMORY_FD`` under the Python that Isaac Gym wants (3.6 to
3.8), with numpy, torch and `isaacgym` there, and bridge_wire.py and isaacgym_actuators.py beside this file.

It owns the simulation: the triangle meshes of all scenes side by side in one world, one actor an environment in a collision
group of its own, actuators every substep. What goes through the bridge is in the frame of each environment's scene, quaternions
wxyz, velocities of the base's origin; what Isaac Gym holds is in one world, xyzw, velocities of centres of mass.
`gaussgym_sim.engines.isaacgym_sim` is the other end and says what PhysX does otherwise than the contract.
"""

import importlib.util
import io
import os
import signal
import socket
import sys
import tempfile
from typing import Any, Dict, List, Optional, Sequence, Tuple

HERE = os.path.dirname(os.path.abspath(__file__))
# Names in here are not top-level modules.
sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != HERE]

from isaacgym import gymapi, gymtorch  # noqa: E402, I001  (has to come before torch)
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402


def _beside(name: str) -> Any:
    """A file of this folder as a module."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(HERE, name + ".py"))
    if spec is None or spec.loader is None:
        raise ImportError(f"{name}.py is not beside {__file__}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


wire = _beside("bridge_wire")
Actuators = _beside("isaacgym_actuators").Actuators

CONTACT_FORCE_N = 0.1
"""A body touches something when its net contact force is above this."""
_RESET = ("root_pos_w", "root_quat_wxyz", "root_lin_vel_w", "root_ang_vel_b", "joint_pos", "joint_vel")
_CONTACT_FIELDS = (
    "joint_torque",
    "foot_force_w",
    "foot_contact",
    "thigh_contact",
    "trunk_contact",
    "invalid",
)
_SHAPE_PARAMS = frozenset(("friction", "restitution"))
_BODY_PARAMS = frozenset(("trunk_mass_kg", "trunk_com_b", "link_mass_factor"))


def rotate(quat_xyzw: Tensor, vector: Tensor) -> Tensor:
    """Vectors [..., 3] from the body's axes to the world's."""
    xyz, w = quat_xyzw[..., :3], quat_xyzw[..., 3:]
    t = 2.0 * torch.cross(xyz, vector, dim=-1)
    return vector + w * t + torch.cross(xyz, t, dim=-1)


def rotate_inverse(quat_xyzw: Tensor, vector: Tensor) -> Tensor:
    """Vectors [..., 3] from the world's axes to the body's."""
    xyz, w = quat_xyzw[..., :3], quat_xyzw[..., 3:]
    t = 2.0 * torch.cross(xyz, vector, dim=-1)
    return vector - w * t + torch.cross(xyz, t, dim=-1)


class World:
    """The simulation as Isaac Gym has it: terrain, actors, tensors. One actor an environment, rows in their order.

    Attributes:
        root: [E, 13] position, quaternion xyzw, velocity of the base's centre of mass, angular velocity, of the world.
        dof: [E, J, 2] position, velocity, in the asset's order.
        bodies: [E, B, 13] like ``root``.
        contact_force: [E, B, 3] net [N].
        body_index: which body is which, by name.
        dof_names: in the asset's order.
    """

    def __init__(self, spec: Dict[str, Any], scenes: Any) -> None:
        """Build everything; ``scenes`` holds arrays by name (see `gaussgym_sim.engines.isaacgym_sim.pack_scenes`)."""
        self.gym = gymapi.acquire_gym()
        self.device = spec["pipeline_device"]
        self._sim = self._create_sim(spec)
        self._add_terrain(scenes)
        asset = self._load_asset(spec)
        self.dof_names = self.gym.get_asset_dof_names(asset)
        self.body_index = self.gym.get_asset_rigid_body_dict(asset)
        self.num_bodies = self.gym.get_asset_rigid_body_count(asset)
        self.envs: List[gymapi.Env] = []
        self.actors: List[int] = []
        self._create_actors(asset, spec, scenes["spawn_w"])
        first = self.gym.get_actor_rigid_body_properties(self.envs[0], self.actors[0])
        self.nominal_mass = [body.mass for body in first]
        self.nominal_inertia = [matrix_of(body.inertia) for body in first]
        self.nominal_com = [(body.com.x, body.com.y, body.com.z) for body in first]
        self.gym.prepare_sim(self._sim)
        self._acquire(spec["num_envs"])

    def _create_sim(self, spec: Dict[str, Any]) -> gymapi.Sim:
        params = gymapi.SimParams()
        params.dt, params.substeps = spec["substep_s"], 1
        params.up_axis = gymapi.UP_AXIS_Z
        params.gravity = gymapi.Vec3(0.0, 0.0, spec["gravity_z"])
        params.use_gpu_pipeline = self.device != "cpu"
        for name, value in spec["physx"].items():
            setattr(params.physx, name, value)
        params.physx.contact_collection = gymapi.CC_ALL_SUBSTEPS
        sim = self.gym.create_sim(spec["compute_device"], -1, gymapi.SIM_PHYSX, params)
        if sim is None:
            raise RuntimeError("Isaac Gym made no simulation; its log says why (no GPU, no driver?)")
        return sim

    def _add_terrain(self, scenes: Any) -> None:
        for k in range(len(scenes["offset_xy_m"])):
            vertices, triangles = scenes[f"vertices_{k}"], scenes[f"triangles_{k}"]
            params = gymapi.TriangleMeshParams()
            params.nb_vertices, params.nb_triangles = len(vertices), len(triangles)
            params.transform.p.x, params.transform.p.y = (float(x) for x in scenes["offset_xy_m"][k])
            params.transform.p.z = 0.0
            # PhysX takes the mean of two materials: with 0 here and twice its friction, the robot's is in force.
            params.static_friction = params.dynamic_friction = params.restitution = 0.0
            flat: Any = np.ascontiguousarray(vertices, dtype=np.float32).ravel()
            corners: Any = np.ascontiguousarray(triangles, dtype=np.uint32).ravel()
            self.gym.add_triangle_mesh(self._sim, flat, corners, params)

    def _load_asset(self, spec: Dict[str, Any]) -> gymapi.Asset:
        options = gymapi.AssetOptions()
        options.default_dof_drive_mode = int(gymapi.DOF_MODE_EFFORT)
        options.collapse_fixed_joints = True  # soles say dont_collapse
        options.replace_cylinder_with_capsule = True
        options.fix_base_link = False
        options.use_physx_armature = True
        options.angular_damping = options.linear_damping = 0.0
        options.max_angular_velocity = options.max_linear_velocity = 1000.0
        options.armature, options.thickness, options.disable_gravity = 0.0, spec["thickness_m"], False
        with tempfile.TemporaryDirectory(prefix="gaussgym-isaacgym-") as folder:
            with open(os.path.join(folder, "robot.urdf"), "w") as file:
                file.write(spec["urdf"])
            asset = self.gym.load_asset(self._sim, folder, "robot.urdf", options)
        if asset is None:
            raise RuntimeError("Isaac Gym cannot load the robot's URDF; its log says why")
        return asset

    def _create_actors(self, asset: gymapi.Asset, spec: Dict[str, Any], spawn_w: np.ndarray) -> None:
        zero, per_row = gymapi.Vec3(0.0, 0.0, 0.0), max(1, int(spec["num_envs"] ** 0.5))
        for i in range(spec["num_envs"]):
            env = self.gym.create_env(self._sim, zero, zero, per_row)
            pose = gymapi.Transform()
            pose.p = gymapi.Vec3(*(float(x) for x in spawn_w[i]))
            # A collision group of its own keeps it from the others; a filter bit that all its shapes share, from itself.
            actor = self.gym.create_actor(env, asset, pose, "robot", i, 1, 0)
            if self.gym.get_actor_index(env, actor, gymapi.DOMAIN_SIM) != i:
                raise RuntimeError("Isaac Gym numbers actors otherwise than environments")
            props = self.gym.get_actor_dof_properties(env, actor)
            props["driveMode"].fill(gymapi.DOF_MODE_EFFORT)
            for name in ("stiffness", "damping", "friction"):
                props[name].fill(0.0)
            self.gym.set_actor_dof_properties(env, actor, props)
            self.envs.append(env)
            self.actors.append(actor)

    def _acquire(self, num_envs: int) -> None:
        gym, sim = self.gym, self._sim
        self.root: Tensor = gymtorch.wrap_tensor(gym.acquire_actor_root_state_tensor(sim)).view(num_envs, 13)
        self._dof: Tensor = gymtorch.wrap_tensor(gym.acquire_dof_state_tensor(sim))
        self.dof = self._dof.view(num_envs, len(self.dof_names), 2)
        self.bodies: Tensor = gymtorch.wrap_tensor(gym.acquire_rigid_body_state_tensor(sim)).view(
            num_envs, -1, 13
        )
        contacts: Tensor = gymtorch.wrap_tensor(gym.acquire_net_contact_force_tensor(sim))
        self.contact_force = contacts.view(num_envs, -1, 3)
        self.refresh()
        gym.refresh_dof_state_tensor(sim)

    def refresh(self) -> None:
        """Bring base, bodies and contacts up to date."""
        self.gym.refresh_actor_root_state_tensor(self._sim)
        self.gym.refresh_rigid_body_state_tensor(self._sim)
        self.gym.refresh_net_contact_force_tensor(self._sim)

    def put_states(self, roots: Tensor, dofs: Tensor) -> None:
        """Hand rows of ``root`` and ``dof`` to the engine; at most once between two steps, as its setters want it."""
        for ids, tensor, put in (
            (roots, self.root, self.gym.set_actor_root_state_tensor_indexed),
            (dofs, self._dof, self.gym.set_dof_state_tensor_indexed),
        ):
            if len(ids):
                ids32 = ids.to(torch.int32)
                put(self._sim, gymtorch.unwrap_tensor(tensor), gymtorch.unwrap_tensor(ids32), len(ids32))

    def substep(self, efforts: Tensor, wrench: Optional[Tuple[Tensor, Tensor]]) -> None:
        """One step with torques [E, J] in the asset's order and force and torque [E, B, 3] of the world on the bodies."""
        gym, sim = self.gym, self._sim
        gym.set_dof_actuation_force_tensor(sim, gymtorch.unwrap_tensor(efforts))
        if wrench is not None:
            force, torque = (gymtorch.unwrap_tensor(w.view(-1, 3)) for w in wrench)
            gym.apply_rigid_body_force_tensors(sim, force, torque, gymapi.ENV_SPACE)
        gym.simulate(sim)
        if self.device == "cpu":
            gym.fetch_results(sim, True)
        gym.refresh_dof_state_tensor(sim)

    def set_shapes(self, env: int, friction: float, restitution: float) -> None:
        """Material of all shapes of a robot; the friction is that in force on the ground."""
        props = self.gym.get_actor_rigid_shape_properties(self.envs[env], self.actors[env])
        for shape in props:
            shape.friction, shape.restitution = 2.0 * friction, restitution
        self.gym.set_actor_rigid_shape_properties(self.envs[env], self.actors[env], props)

    def set_bodies(self, env: int, factors: Sequence[float], base: int, base_com: Sequence[float]) -> None:
        """Mass and inertia of each body as a factor [B] on the nominal, and the base's centre of mass."""
        props = self.gym.get_actor_rigid_body_properties(self.envs[env], self.actors[env])
        for body, factor, mass, inertia in zip(props, factors, self.nominal_mass, self.nominal_inertia):
            body.mass, body.invMass = mass * factor, 1.0 / (mass * factor)
            body.inertia, body.invInertia = (
                as_mat33(inertia * factor),
                as_mat33(np.linalg.inv(inertia * factor)),
            )
        if tuple(base_com) != (props[base].com.x, props[base].com.y, props[base].com.z):
            props[base].com = gymapi.Vec3(*base_com)
        self.gym.set_actor_rigid_body_properties(self.envs[env], self.actors[env], props, False)

    def set_armature(self, env: int, armature: np.ndarray) -> None:
        """[J] in the asset's order."""
        props = self.gym.get_actor_dof_properties(self.envs[env], self.actors[env])
        props["armature"][:] = armature
        self.gym.set_actor_dof_properties(self.envs[env], self.actors[env], props)

    def close(self) -> None:
        """End the simulation."""
        self.gym.destroy_sim(self._sim)


def matrix_of(m: gymapi.Mat33) -> np.ndarray:
    """[3, 3] of an inertia."""
    return np.array([[v.x, v.y, v.z] for v in (m.x, m.y, m.z)], dtype=np.float64)


def as_mat33(matrix: np.ndarray) -> gymapi.Mat33:
    """The inverse of `matrix_of`."""
    m = gymapi.Mat33()
    m.x, m.y, m.z = (gymapi.Vec3(*(float(v) for v in row)) for row in matrix)
    return m


class Simulation:
    """The world in the contract's words: answers requests and fills the block."""

    def __init__(self, spec: Dict[str, Any], scenes: Any, arrays: Dict[str, np.ndarray]) -> None:
        """Build the world and publish its first state."""
        robot = spec["robot"]
        self.world = World(spec, scenes)
        self.device, self.num_envs = self.world.device, int(spec["num_envs"])
        self._inputs = {k[3:]: torch.from_numpy(a) for k, a in arrays.items() if k.startswith("in/")}
        self._out = {k[6:]: torch.from_numpy(a) for k, a in arrays.items() if k.startswith("state/")}
        self._param_out = {k[6:]: torch.from_numpy(a) for k, a in arrays.items() if k.startswith("param/")}
        self._invalid_count = arrays["invalid_count"]
        scene_of_env = torch.from_numpy(scenes["scene_of_env"].astype(np.int64))
        arrays["scene_of_env"][:] = scenes["scene_of_env"]
        offsets = torch.from_numpy(scenes["offset_xy_m"].astype(np.float32))
        self._offset = torch.cat((offsets, torch.zeros(len(offsets), 1)), dim=1)[scene_of_env].to(self.device)
        self._index(robot)
        nominal = dict(spec["nominal"], trunk_com_b=self.world.nominal_com[self._base])
        self.params = {name: self._per_env(value) for name, value in nominal.items()}
        self.actuators = Actuators(
            robot, self.params, int(spec["max_delay"]), float(spec["substep_s"]), scenes.get("actuator_net")
        )
        self._everyone = torch.arange(self.num_envs, device=self.device)
        self._root_set, self._dof_set, self._invalid, self._parked = (
            torch.zeros(self.num_envs, dtype=torch.bool, device=self.device) for _ in range(4)
        )
        self._safe_root, self._safe_dof = self.world.root.clone(), torch.zeros_like(self.world.dof)
        self._safe_dof[:, self._dofs, 0] = torch.tensor(robot["default_joint_pos"], device=self.device)
        zeros = torch.zeros(self.num_envs, self.world.num_bodies, 3, device=self.device)
        self._push, self._pushing = (zeros, zeros.clone()), False
        self._efforts = torch.zeros(self.num_envs, len(self._dofs), device=self.device)
        self._set_engine(range(self.num_envs), set(self.params))
        self._publish_motion(self._everyone)
        self._publish_params(self._everyone, self.params)

    def _per_env(self, value: Any) -> Tensor:
        value = torch.tensor(value, dtype=torch.float32, device=self.device)
        return value.repeat(self.num_envs, *([1] * value.dim()))

    def _index(self, robot: Dict[str, Any]) -> None:
        """Places of the robot's joints and bodies in the asset."""
        dofs, bodies = list(self.world.dof_names), self.world.body_index
        missing = [n for n in robot["joint_names"] if n not in dofs]
        missing += [n for n in robot["bodies"] + robot["feet"] if n not in bodies]
        if missing or len(dofs) != len(robot["joint_names"]):
            raise RuntimeError("Isaac Gym's asset lacks {}; it has joints {} and bodies {}".format(
                ", ".join(missing) or "nothing but has too many joints", dofs, sorted(bodies)))  # fmt: skip
        self._dofs = torch.tensor([dofs.index(n) for n in robot["joint_names"]], device=self.device)
        self._feet = [bodies[n] for n in robot["feet"]]
        self._thighs = [bodies[n] for n in robot["thighs"]]
        self._trunk = [bodies[n] for n in robot["trunk"]]
        self._base = bodies[robot["base"]]
        # Which link's factor each body follows, -1 for the base's: a sole follows the body that carries it.
        follows = {name: i for i, name in enumerate(robot["links"])}
        follows.update({foot: follows.get(body, -1) for foot, body in robot["foot_body"].items()})
        self._follows = [0] * self.world.num_bodies
        for name, i in bodies.items():
            self._follows[i] = follows.get(name, -1)

    # ------------------------------------------------------------------ what is published

    def _publish_motion(self, ids: Tensor) -> None:
        """Base, joints and feet of environments, as the world has them."""
        root, dof = self.world.root[ids], self.world.dof[ids][:, self._dofs]
        quat, spin = root[:, 3:7], root[:, 10:13]
        arm = rotate(quat, self.params["trunk_com_b"][ids])
        feet = self.world.bodies[ids][:, self._feet]
        offset = self._offset[ids]
        self._put(ids, {
            "root_pos_w": root[:, :3] - offset,
            "root_quat_wxyz": quat[:, [3, 0, 1, 2]],
            "root_lin_vel_w": root[:, 7:10] - torch.cross(spin, arm, dim=-1),
            "root_ang_vel_b": rotate_inverse(quat, spin),
            "joint_pos": dof[..., 0],
            "joint_vel": dof[..., 1],
            "foot_pos_w": feet[..., :3] - offset[:, None],
            "foot_vel_w": feet[..., 7:10],
        })  # fmt: skip

    def _publish_contacts(self, ids: Tensor) -> None:
        force = self.world.contact_force[ids]
        touches = force.norm(dim=-1) > CONTACT_FORCE_N
        self._put(ids, {
            "joint_torque": self.actuators.torque[ids],
            "foot_force_w": force[:, self._feet],
            "foot_contact": touches[:, self._feet],
            "thigh_contact": touches[:, self._thighs],
            "trunk_contact": touches[:, self._trunk].any(dim=1),
            "invalid": self._invalid[ids],
        })  # fmt: skip

    def _put(self, ids: Tensor, values: Dict[str, Tensor]) -> None:
        everyone = len(ids) == self.num_envs
        rows = ids.cpu()
        for name, value in values.items():
            if everyone:
                self._out[name].copy_(value)
            else:
                self._out[name][rows] = value.to(self._out[name].device)

    def _publish_params(self, ids: Tensor, names: Any) -> None:
        rows = ids.cpu()
        for name in names:
            self._param_out[name][rows] = self.params[name][ids].cpu()

    def _replace_invalid(self) -> None:
        """States that are no numbers: told, replaced in the engine, and told again until their reset."""
        finite = torch.isfinite(self.world.root).all(dim=1) & torch.isfinite(self.world.dof).flatten(1).all(
            dim=1
        )
        self._invalid |= ~finite
        count = int((self._invalid & ~self._parked).sum())
        self._invalid_count[0] += count
        if count:
            self._put_state(self._invalid.nonzero()[:, 0], self._safe_root, self._safe_dof)

    def _put_state(self, ids: Tensor, root: Tensor, dof: Tensor) -> None:
        """Rows of a state [E, ...] become the world's."""
        self.world.root[ids], self.world.dof[ids] = root[ids], dof[ids]
        self._root_set[ids] = self._dof_set[ids] = True

    # ------------------------------------------------------------------ requests

    def step(self, message: Any) -> None:
        """See `gaussgym_sim.vecsim.VecSim.step`."""
        target = self._inputs["target"].to(self.device)
        parked = self._parked.nonzero()[:, 0]
        if len(parked):
            self._put_state(parked, self._frozen[0], self._frozen[1])
        for k in range(message.number):
            dof = self.world.dof[:, self._dofs]
            self._efforts[:, self._dofs] = self.actuators.efforts(target, dof[..., 0], dof[..., 1])
            if k == 0:
                self.world.put_states(self._root_set.nonzero()[:, 0], self._dof_set.nonzero()[:, 0])
                self._root_set[:] = self._dof_set[:] = False
            self.world.substep(self._efforts, self._push if self._pushing else None)
        self.world.refresh()
        self._replace_invalid()
        moving = (~self._parked).nonzero()[:, 0] if len(parked) else self._everyone
        self._publish_motion(moving)
        self._publish_contacts(moving)
        bad = self._invalid.cpu()
        if bool(bad.any()):
            # The feet are still those of the state that was replaced.
            for name in ("foot_pos_w", "foot_vel_w", "foot_force_w", "joint_torque"):
                self._out[name][bad] = torch.nan_to_num(self._out[name][bad], nan=0.0, posinf=0.0, neginf=0.0)

    def reset(self, message: Any) -> None:
        """See `VecSim.reset`; feet are the client's to place."""
        ids = self._ids(message)
        pos, quat, lin, spin_b, q, qd = (self._input(name, len(ids)) for name in _RESET)
        given = torch.cat((pos, quat, lin, spin_b, q, qd), dim=1)
        finite = torch.isfinite(given).all(dim=1)
        self._invalid[ids] = ~finite
        xyzw = quat[:, [1, 2, 3, 0]]
        spin = rotate(xyzw, spin_b)
        arm = rotate(xyzw, self.params["trunk_com_b"][ids])
        root = torch.cat((pos + self._offset[ids], xyzw, lin + torch.cross(spin, arm, dim=-1), spin), dim=1)
        self.world.root[ids] = torch.where(finite[:, None], root, self._safe_root[ids])
        dof = torch.zeros(len(ids), len(self._dofs), 2, device=self.device)
        dof[:, self._dofs] = torch.stack((q, qd), dim=-1)
        self.world.dof[ids] = torch.where(finite[:, None, None], dof, self._safe_dof[ids])
        self._root_set[ids] = self._dof_set[ids] = True
        self.actuators.reset(ids, torch.where(finite[:, None], q, self._safe_dof[ids][:, self._dofs, 0]))
        for part in self._push:
            part[ids] = 0.0
        self._pushing = self._pushing and bool((self._push[0] != 0).any() | (self._push[1] != 0).any())
        self._freeze(ids[self._parked[ids]])
        rows = ids.cpu()
        for name, value in zip(_RESET, (pos, quat, lin, spin_b, q, qd)):
            self._out[name][rows] = value.cpu()
        for name in _CONTACT_FIELDS:
            self._out[name][rows] = 0

    def kick(self, message: Any) -> None:
        """See `VecSim.kick`."""
        ids = self._ids(message)
        root = self.world.root[ids]
        root[:, 7:10] += self._input("lin", len(ids))
        if message.body["ang"]:
            spin = rotate(root[:, 3:7], self._input("ang", len(ids)))
            root[:, 10:13] += spin
            root[:, 7:10] += torch.cross(spin, rotate(root[:, 3:7], self.params["trunk_com_b"][ids]), dim=-1)
        self.world.root[ids] = root
        self._root_set[ids] = True
        rows, arm = ids.cpu(), rotate(root[:, 3:7], self.params["trunk_com_b"][ids])
        self._out["root_lin_vel_w"][rows] = (root[:, 7:10] - torch.cross(root[:, 10:13], arm, dim=-1)).cpu()
        self._out["root_ang_vel_b"][rows] = rotate_inverse(root[:, 3:7], root[:, 10:13]).cpu()

    def push(self, message: Any) -> None:
        """See `VecSim.push`."""
        ids = self._ids(message)
        self._push[0][ids, self._base] = self._input("lin", len(ids))
        self._push[1][ids, self._base] = self._input("ang", len(ids)) if message.body["ang"] else 0.0
        self._pushing = bool((self._push[0] != 0).any() | (self._push[1] != 0).any())

    def park(self, message: Any) -> None:
        """See `VecSim.park`: the engine has no such thing, so the state is put back before every step."""
        ids = self._ids(message)
        if not bool(self._parked.any()):
            self._frozen = (self.world.root.clone(), self.world.dof.clone())
        self._parked[ids] = True
        self._freeze(ids)

    def _freeze(self, ids: Tensor) -> None:
        if len(ids):
            self._frozen[0][ids], self._frozen[1][ids] = self.world.root[ids], self.world.dof[ids]

    def set_params(self, message: Any) -> None:
        """See `VecSim.set_params`."""
        ids, names = self._ids(message), message.body["names"]
        values = {name: self._input("param/" + name, len(ids)) for name in names}
        if "restitution" in values:
            low, high = float(values["restitution"].min()), float(values["restitution"].max())
            if low < 0.0 or high > 1.0:
                raise wire.BadInput(f"restitution of {low:g} to {high:g}, expected 0 to 1")
        if "delay_s" in values:
            substeps = (values["delay_s"] / self.actuators.dt_s).round().long()
            most = self.actuators.max_delay
            if int(substeps.min()) < 0 or int(substeps.max()) > most:
                raise wire.BadInput(f"actuator delays beyond 0 to {most} substeps")
            self.actuators.delay[ids] = substeps
        for name, value in values.items():
            self.params[name][ids] = value
        self._set_engine(ids.tolist(), set(names))
        self._publish_params(ids, names)

    def _set_engine(self, ids: Any, names: Any) -> None:
        """Properties that the engine keeps for each actor; it takes them actor by actor."""
        shapes, bodies, armature = names & _SHAPE_PARAMS, names & _BODY_PARAMS, "armature" in names
        if not (shapes or bodies or armature):
            return
        p = {name: value.cpu() for name, value in self.params.items()}
        for i in ids:
            if shapes:
                self.world.set_shapes(i, float(p["friction"][i]), float(p["restitution"][i]))
            if bodies:
                base_factor = float(p["trunk_mass_kg"][i]) / self.world.nominal_mass[self._base]
                links = p["link_mass_factor"][i].tolist()
                factors = [base_factor if k < 0 else links[k] for k in self._follows]
                self.world.set_bodies(i, factors, self._base, p["trunk_com_b"][i].tolist())
            if armature:
                ordered = np.zeros(len(self._dofs), dtype=np.float32)
                ordered[self._dofs.cpu().numpy()] = p["armature"][i].numpy()
                self.world.set_armature(i, ordered)

    def _ids(self, message: Any) -> Tensor:
        return self._inputs["ids"][: message.number].to(self.device, copy=True)

    def _input(self, name: str, count: int) -> Tensor:
        return self._inputs[name][:count].to(self.device, copy=True)


def serve(channel: Any, memory_fd: int) -> None:
    """Answer one client; the simulation is built by its first request."""
    made: List[Simulation] = []

    def start(message: Any) -> Tuple[Dict[str, Any], bytes]:
        arrays = wire.map_block(memory_fd, wire.as_layout(message.body["layout"]))
        with np.load(io.BytesIO(message.blob), allow_pickle=False) as file:
            scenes = {name: file[name] for name in file.files}
        spec = message.body["spec"]
        torch.set_num_threads(max(1, int(spec["torch_threads"])))
        made.append(Simulation(spec, scenes, arrays))
        masses = made[0].world.nominal_mass
        return {
            "link_names": spec["robot"]["links"], "total_mass_kg": float(sum(masses)), "substep_s": spec["substep_s"],
            "capabilities": spec["capabilities"], "params": list(made[0].params),
        }, b""  # fmt: skip

    names = {wire.STEP: "step", wire.RESET: "reset", wire.SET_PARAMS: "set_params", wire.KICK: "kick",
             wire.PUSH: "push", wire.PARK: "park"}  # fmt: skip

    def call(name: str) -> Any:
        return lambda message: getattr(made[0], name)(message)

    handlers: Dict[int, Any] = {op: call(name) for op, name in names.items()}
    handlers[wire.START] = start
    try:
        wire.serve(channel, handlers)
    finally:
        for simulation in made:
            simulation.world.close()


def main(arguments: Sequence[str]) -> None:
    """Serve the client that started this process, until it closes or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's to answer
    channel = wire.Channel(socket.socket(fileno=int(arguments[0])))
    try:
        serve(channel, int(arguments[1]))
    finally:
        channel.close()


if __name__ == "__main__":
    main(sys.argv[1:])
