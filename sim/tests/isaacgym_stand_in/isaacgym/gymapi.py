"""`Gym`, as far as the worker uses it. Every method has the name and the arguments of NVIDIA's documented interface."""

import os

import numpy as np
import torch

from . import _types
from ._physics import Actor, Asset
from ._terrain import TriangleMesh
from ._types import (
    AssetOptions,
    ContactCollection,
    CoordinateSpace,
    DofDriveMode,
    IndexDomain,
    Mat33,
    Misuse,
    PhysXParams,
    Quat,
    RigidBodyProperties,
    RigidShapeProperties,
    SimParams,
    SimType,
    Transform,
    TriangleMeshParams,
    UpAxis,
    Vec3,
)  # fmt: skip

__all__ = [
    "AssetOptions", "Gym", "Mat33", "PhysXParams", "Quat", "RigidBodyProperties", "RigidShapeProperties", "SimParams",
    "Tensor", "Transform", "TriangleMeshParams", "Vec3", "acquire_gym",
]  # fmt: skip

UP_AXIS_Z = UpAxis.UP_AXIS_Z
SIM_PHYSX = SimType.SIM_PHYSX
CC_ALL_SUBSTEPS = ContactCollection.CC_ALL_SUBSTEPS
DOF_MODE_EFFORT = DofDriveMode.DOF_MODE_EFFORT
ENV_SPACE, LOCAL_SPACE, GLOBAL_SPACE = CoordinateSpace
DOMAIN_ACTOR, DOMAIN_ENV, DOMAIN_SIM = IndexDomain


class Tensor:
    """Descriptor of memory; it keeps nothing alive in the real package."""

    def __init__(self, tensor):
        self._torch = tensor

    @property
    def shape(self):
        return tuple(self._torch.shape)


class Env:
    """Handle."""

    def __init__(self, sim, index):
        self.sim, self.index, self.actors = sim, index, []


class Sim:
    """Handle, and everything behind it."""

    def __init__(self, params, device):
        self.params, self.device = params, device
        self.meshes, self.envs, self.actors, self.groups = [], [], [], []
        self.models = {}
        self.prepared = self.destroyed = False
        self.unfetched = self.stepped = False
        self.tensors = {}
        self.pending = {}
        self.efforts = self.wrench = None


def _require(condition, text):
    if not condition:
        raise Misuse(text)


class Gym:
    """The one object that all functions belong to."""

    # ------------------------------------------------------------------ setting up

    def create_sim(self, compute_device=0, graphics_device=0, type=SimType.SIM_FLEX, params=None):
        _require(type == SIM_PHYSX, "the tensor interface works with SIM_PHYSX alone")
        _require(
            params.up_axis == UP_AXIS_Z and params.gravity.z < 0, "up is +z here, and gravity points down"
        )
        _require(params.substeps == 1, "the stand-in takes one substep")
        _require(
            not params.use_gpu_pipeline or params.physx.use_gpu, "the GPU pipeline wants PhysX on the GPU"
        )
        if params.use_gpu_pipeline and not torch.cuda.is_available():
            return None
        return Sim(params, f"cuda:{compute_device}" if params.use_gpu_pipeline else "cpu")

    def add_triangle_mesh(self, sim, vertices, triangles, params):
        self._building(sim)
        _require(not sim.envs, "terrain comes before environments")
        for array, dtype, count in (
            (vertices, np.float32, params.nb_vertices),
            (triangles, np.uint32, params.nb_triangles),
        ):
            _require(
                isinstance(array, np.ndarray) and array.dtype == dtype,
                f"expected an array of {dtype.__name__}",
            )
            _require(array.ndim == 1 and array.flags.c_contiguous, "expected a flat, contiguous array")
            _require(len(array) == 3 * count, f"{len(array)} values for {count} vertices or triangles")
        corners = triangles.reshape(-1, 3).astype(np.int64)
        _require(corners.max() < params.nb_vertices, "a triangle has a corner that is no vertex")
        r = params.transform.r
        _require((r.x, r.y, r.z, r.w) == (0, 0, 0, 1), "the stand-in does not turn meshes")
        place = vertices.reshape(-1, 3).astype(np.float64) + params.transform.p.array()
        _require(params.static_friction == params.dynamic_friction, "the stand-in knows one friction")
        sim.meshes.append(TriangleMesh(place, corners, params.static_friction, params.restitution))

    def load_asset(self, sim, rootpath, filename, options=None):
        self._building(sim)
        path = os.path.join(rootpath, filename)
        if not os.path.exists(path) or not filename.endswith(".urdf"):
            return None
        return Asset(path, options or AssetOptions())

    def get_asset_dof_names(self, asset):
        return list(asset.dofs)

    def get_asset_rigid_body_dict(self, asset):
        return {name: i for i, name in enumerate(asset.bodies)}

    def get_asset_rigid_body_count(self, asset):
        return len(asset.bodies)

    def create_env(self, sim, lower, upper, per_row):
        self._building(sim)
        _require(
            isinstance(lower, Vec3) and isinstance(upper, Vec3) and per_row >= 1,
            "bounds are Vec3, rows hold at least 1",
        )
        _require(
            (lower.array() == 0).all() and (upper.array() == 0).all(),
            "the stand-in puts all environments at the origin",
        )
        sim.envs.append(Env(sim, len(sim.envs)))
        return sim.envs[-1]

    def create_actor(self, env, asset, pose, name="", group=-1, filter=-1, segmentationId=0):
        sim = env.sim
        self._building(sim)
        _require(env.index == len(sim.envs) - 1, "actors belong to the environment made last")
        _require(
            group >= 0 and group not in sim.groups,
            "robots of different environments would touch: give each a group",
        )
        place = pose.p.array()
        under = [k for k, mesh in enumerate(sim.meshes) if mesh.holds(place[:2])]
        _require(len(under) <= 1, "scenes overlap")
        key = (id(asset), tuple(under), filter == 0)
        if key not in sim.models:
            meshes = [sim.meshes[k] for k in under]
            sim.models[key] = asset.compile(sim.params, meshes, place, self_collision=filter == 0)
        actor = Actor(asset, sim.models[key], [sim.meshes[k] for k in under])
        actor.data.qpos[:3] = place
        sim.groups.append(group)
        sim.actors.append(actor)
        env.actors.append(actor)
        return len(env.actors) - 1

    def get_actor_index(self, env, actor, domain):
        index = env.sim.actors.index(env.actors[actor])
        return {DOMAIN_SIM: index, DOMAIN_ENV: actor}[domain]

    def prepare_sim(self, sim):
        self._building(sim)
        _require(sim.actors, "nothing to simulate")
        sim.prepared = True
        sim.dof_count = sum(len(a.q) for a in sim.actors)
        sim.body_count = sum(len(a.bodies) for a in sim.actors)
        for actor in sim.actors:
            _require(
                (actor.dof_props["driveMode"] == DOF_MODE_EFFORT).all(), "efforts act in effort mode alone"
            )
        return True

    def destroy_sim(self, sim):
        self._alive(sim)
        sim.destroyed = True

    # ------------------------------------------------------------------ properties of actors

    def get_actor_dof_properties(self, env, actor):
        return env.actors[actor].dof_props.copy()

    def set_actor_dof_properties(self, env, actor, props):
        self._alive(env.sim)
        it = env.actors[actor]
        _require(
            props.dtype == _types.DOF_PROPERTIES and props.shape == it.dof_props.shape,
            "other properties than were got",
        )
        it.set_dofs(props)
        return True

    def get_actor_rigid_body_properties(self, env, actor):
        return _copies(env.actors[actor].body_props)

    def set_actor_rigid_body_properties(self, env, actorHandle, props, recomputeInertia=False):
        self._alive(env.sim)
        it = env.actors[actorHandle]
        _require(len(props) == len(it.bodies), f"{len(props)} bodies, expected {len(it.bodies)}")
        _require(not recomputeInertia, "the stand-in does not derive inertia from shapes")
        it.set_bodies(props, com_may_move=not env.sim.params.use_gpu_pipeline)
        return True

    def get_actor_rigid_shape_properties(self, env, actor):
        return _copies(env.actors[actor].shapes)

    def set_actor_rigid_shape_properties(self, env, actor, props):
        self._alive(env.sim)
        it = env.actors[actor]
        _require(len(props) == len(it.geoms), f"{len(props)} shapes, expected {len(it.geoms)}")
        it.set_shapes(props)
        return True

    # ------------------------------------------------------------------ tensors

    def _acquire(self, sim, name, rows, columns):
        self._alive(sim)
        _require(sim.prepared, f"prepare_sim comes before acquire_{name}_tensor")
        if name not in sim.tensors:  # nothing to be read before a refresh
            sim.tensors[name] = torch.full((rows, columns), float("nan"), device=sim.device)
        return Tensor(sim.tensors[name])

    def acquire_actor_root_state_tensor(self, sim):
        return self._acquire(sim, "actor_root_state", len(sim.actors), 13)

    def acquire_dof_state_tensor(self, sim):
        return self._acquire(sim, "dof_state", getattr(sim, "dof_count", 0), 2)

    def acquire_rigid_body_state_tensor(self, sim):
        return self._acquire(sim, "rigid_body_state", getattr(sim, "body_count", 0), 13)

    def acquire_net_contact_force_tensor(self, sim):
        return self._acquire(sim, "net_contact_force", getattr(sim, "body_count", 0), 3)

    def _refresh(self, sim, name, rows):
        self._alive(sim)
        _require(name in sim.tensors, f"refresh_{name}_tensor comes after acquire_{name}_tensor")
        _require(not sim.unfetched, "on the CPU pipeline fetch_results comes before a refresh")
        _require(not sim.pending, f"refresh_{name}_tensor would undo states that were set: simulate first")
        sim.tensors[name].copy_(torch.from_numpy(np.asarray(rows, dtype=np.float32)))
        return True

    def refresh_actor_root_state_tensor(self, sim):
        return self._refresh(sim, "actor_root_state", [a.root_state() for a in sim.actors])

    def refresh_dof_state_tensor(self, sim):
        rows = [np.stack([a.data.qpos[a.q], a.data.qvel[a.v]], axis=1) for a in sim.actors]
        return self._refresh(sim, "dof_state", np.concatenate(rows))

    def refresh_rigid_body_state_tensor(self, sim):
        return self._refresh(sim, "rigid_body_state", np.concatenate([a.body_states() for a in sim.actors]))

    def refresh_net_contact_force_tensor(self, sim):
        return self._refresh(sim, "net_contact_force", np.concatenate([a.forces for a in sim.actors]))

    def _array(self, sim, tensor, shape, dtype=torch.float32):
        _require(isinstance(tensor, Tensor), "expected a gymapi.Tensor (gymtorch.unwrap_tensor)")
        given = tensor._torch
        _require(given.dtype == dtype, f"a tensor of {given.dtype}, expected {dtype}")
        _require(
            given.numel() == int(np.prod(shape)), f"a tensor of {tuple(given.shape)}, expected {shape} in all"
        )
        _require(str(given.device) == sim.device, f"a tensor on {given.device}, expected {sim.device}")
        return given.detach().cpu().numpy().reshape(shape).copy()

    def _set_indexed(self, sim, name, values, ids, count):
        self._alive(sim)
        _require(sim.prepared, "states are set after prepare_sim")
        _require(name not in sim.pending, f"set_{name}_tensor_indexed twice before a step: the first is lost")
        numbers = self._array(sim, ids, (count,), torch.int32)
        _require(
            count >= 1 and len(set(numbers.tolist())) == count, "indices are at least one, and each once"
        )
        _require(numbers.min() >= 0 and numbers.max() < len(sim.actors), "an index that is no actor's")
        sim.pending[name] = (values, numbers)
        return True

    def set_actor_root_state_tensor_indexed(self, sim, tensor, ids, count):
        values = self._array(sim, tensor, (len(sim.actors), 13))
        return self._set_indexed(sim, "actor_root_state", values, ids, count)

    def set_dof_state_tensor_indexed(self, sim, tensor, ids, count):
        values = self._array(sim, tensor, (len(sim.actors), sim.dof_count // len(sim.actors), 2))
        return self._set_indexed(sim, "dof_state", values, ids, count)

    def set_dof_actuation_force_tensor(self, sim, tensor):
        self._alive(sim)
        sim.efforts = self._array(sim, tensor, (len(sim.actors), sim.dof_count // len(sim.actors)))
        return True

    def apply_rigid_body_force_tensors(self, sim, forceTensor=None, torqueTensor=None, space=ENV_SPACE):
        self._alive(sim)
        _require(space in (ENV_SPACE, GLOBAL_SPACE), "the stand-in takes forces in the world's axes")
        shape = (len(sim.actors), sim.body_count // len(sim.actors), 3)
        parts = [
            np.zeros(shape) if t is None else self._array(sim, t, shape) for t in (forceTensor, torqueTensor)
        ]
        sim.wrench = np.concatenate(parts, axis=2)
        return True

    # ------------------------------------------------------------------ time

    def simulate(self, sim):
        self._alive(sim)
        _require(sim.prepared, "prepare_sim comes before simulate")
        _require(not sim.unfetched, "simulate twice without fetch_results")
        for name, put in (("actor_root_state", Actor.set_root_state), ("dof_state", Actor.set_dof_state)):
            values, ids = sim.pending.pop(name, (None, ()))
            for i in ids:
                put(sim.actors[i], values[i])
        for i, actor in enumerate(sim.actors):
            actor.step(
                0.0 if sim.efforts is None else sim.efforts[i], 0.0 if sim.wrench is None else sim.wrench[i]
            )
        sim.efforts = sim.wrench = None  # they act in one step
        sim.unfetched = not sim.params.use_gpu_pipeline

    def fetch_results(self, sim, wait):
        self._alive(sim)
        _require(wait is True, "without waiting there are no results")
        _require(sim.unfetched or sim.params.use_gpu_pipeline, "fetch_results without simulate")
        sim.unfetched = False

    def _alive(self, sim):
        _require(isinstance(sim, Sim) and not sim.destroyed, "the simulation was destroyed")

    def _building(self, sim):
        self._alive(sim)
        _require(not sim.prepared, "nothing is added after prepare_sim")


def _copies(props):
    import copy

    return copy.deepcopy(props)


_GYM = Gym()


def acquire_gym():
    """The one `Gym`."""
    return _GYM
