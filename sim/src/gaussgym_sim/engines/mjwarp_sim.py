"""MuJoCo Warp: all environments of all scenes in one simulation on the GPU, each control step one CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from torch import Tensor

try:
    import warp as wp

    if wp.config.log_level == wp.LOG_INFO:  # one line for each of some hundred kernels, on standard output
        wp.config.log_level = wp.LOG_WARNING
    import mujoco_warp as mjw

    wp.init()
except ImportError as error:
    raise InputError(
        f"physics backend 'mjwarp' needs mujoco-warp and warp-lang ({error}); pip install 'gaussgym-sim[gpu]'"
    ) from error

from gaussgym_sim.actuation.actuator_net import ActuatorNet
from gaussgym_sim.engines import mjwarp_ground, mjwarp_params
from gaussgym_sim.engines.contact_law import CONTACT_PARAMS
from gaussgym_sim.engines.inputs import check_restitution, check_saved_state, delay_substeps, slot_for
from gaussgym_sim.engines.mjwarp_bounce import ContactLaw
from gaussgym_sim.engines.mjwarp_graphs import Graphs
from gaussgym_sim.engines.mjwarp_ground import WorldGrounds, box_room, checked_ground
from gaussgym_sim.engines.mjwarp_kernels import (
    Buffers,
    Gains,
    Parked,
    Robots,
    advance_clock,
    drive,
    limit,
    report,
    sense,
)
from gaussgym_sim.engines.mjwarp_net import NetLaunches
from gaussgym_sim.engines.mjwarp_overflow import OverflowWatch, Room
from gaussgym_sim.engines.mjwarp_params import WorldParams
from gaussgym_sim.engines.mjwarp_reset import Start, legs_of, restart
from gaussgym_sim.engines.mujoco_model import compile_model, robot_spec
from gaussgym_sim.engines.mujoco_sim import nominal_params
from gaussgym_sim.engines.mujoco_slot import JointColumns
from gaussgym_sim.ground.terrain import Ground, TerrainLookup
from gaussgym_sim.mdp.starts import scene_of_env
from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.vecsim import MAX_DELAY_SUBSTEPS, PARAMS, SUBSTEP_S, SimState, check_param_names

logger = logging.getLogger(__name__)

_MOST_ROOM = 4096  # contacts or constraints an environment: beyond this something else is wrong
_SENSOR_OFF = int(mjw.DisableBit.SENSOR)
_ACTUATOR_PARAMS = ("kp", "kd", "strength", "offset")
_STATE = ("qpos", "qvel", "qacc_warmstart", "xfrc_applied")
"""Everything that coming steps depend on, beside parameters, grounds and actuators."""


class MjwarpSim:
    """`VecSim` on MuJoCo Warp. Tensors of ``state`` are the arrays that its kernels write."""

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
        contacts_per_env: int | None = None,
        constraints_per_env: int | None = None,
    ) -> None:
        """Put robots and grounds on the device. See `make_sim` for the other arguments.

        Args:
            robot: with actuators of any kind.
            scenes: one a slot.
            num_envs: E.
            device: 'cuda' or 'cpu'; nothing falls back to the other.
            seed: not used: nothing here is random.
            num_threads: not used: Warp decides.
            terrain: 'heightfield' or 'boxes'.
            contacts_per_env: room to begin with, see `mjwarp_overflow.Room`; it grows when something did not fit.
            constraints_per_env: the same.

        Raises:
            InputError: no such device or kind of terrain, a ground that is no good, an actuator network that is none.
        """
        self.device = _checked_device(device)
        _check_robot_and_terrain(robot, terrain)
        self.robot, self.scenes, self.num_envs = robot, list(scenes), num_envs
        self.substep_s, self._mode = SUBSTEP_S, terrain
        grounds = [checked_ground(scene, terrain) for scene in self.scenes]
        self.terrain = TerrainLookup(grounds, device=self.device)
        self._owner = scene_of_env(len(self.scenes), num_envs)
        self.scene_of_env = torch.from_numpy(self._owner).to(self.device).clone()
        self._graphs = Graphs(self.device)
        self._room: Room | None = None
        self._given = (contacts_per_env, constraints_per_env)
        self.overflow_count = 0
        """How often an environment's contacts or constraints did not fit, as seen at resets."""
        self._grounds = WorldGrounds(grounds, box_room(grounds), self.device)
        self._build()
        self._allocate()
        self._place_everyone()

    # ------------------------------------------------------------------ building

    def _build(self) -> None:
        """Model and data on the device, for the room that is wanted now; all worlds nominal and without ground."""
        spec = robot_spec(self.robot)
        mjwarp_ground.add_ground_geoms(spec, self._grounds.num_boxes)
        model = compile_model(spec)
        # MuJoCo Warp never resets by itself, and refuses to be told so.
        model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        self._mj_model = model
        if self._room is None:
            self._room = Room.for_robot(model, self._grounds.num_boxes, *self._given)
        per_world = (*mjwarp_params.PER_WORLD, *mjwarp_ground.PER_WORLD)
        room = self._room
        with self._graphs.on_stream():
            self._model = mjw.put_model(model, batch_sizes=dict.fromkeys(per_world, self.num_envs))
            self._model.opt.warn_overflow = 0
            self._model.opt.contact_sensor_maxmatch = room.matches
            self._data = mjw.make_data(
                model, self.num_envs, nconmax=room.contacts, nccdmax=room.convex, njmax=room.constraints
            )
        self._views = {name: wp.to_torch(getattr(self._data, name)) for name in _STATE}
        self._columns = JointColumns.of(model, self.robot)
        self._world_params = WorldParams(
            self._model, model, self._columns.joints[1], self.num_envs, self.device
        )
        with self._graphs.on_stream():
            self._contacts = ContactLaw(self._model, model, self.robot, self.num_envs, self.device)
        self._grounds.bind(self._model, model)
        self._graphs.forget()

    def _allocate(self) -> None:
        """Buffers that outlive a `_rebuild`."""
        model, e, j = self._mj_model, self.num_envs, self.robot.num_joints
        self._base = int(model.jnt_bodyid[0])
        links = [i for i in range(1, model.nbody) if i != self._base]
        self.link_names = tuple(model.body(i).name for i in links)
        self.total_mass_kg = float(model.body_mass.sum())
        self._nominal = {
            name: torch.tensor(value, dtype=torch.float32, device=self.device)
            for name, value in nominal_params(self.robot, model, self._base, links).items()
        }
        self.params = {name: value.expand(e, *value.shape).clone() for name, value in self._nominal.items()}
        self.state = _zero_state(e, j, len(self.robot.leg_names), self.device)
        zeros = {"dtype": torch.float32, "device": self.device}
        self._target, self._torque = torch.zeros(e, j, **zeros), torch.zeros(e, j, **zeros)
        pose = torch.tensor(self.robot.default_joint_pos, **zeros)
        self._held = pose.repeat(MAX_DELAY_SUBSTEPS + 1, e, 1)
        self._delay = torch.zeros(e, dtype=torch.int32, device=self.device)
        self._clock = torch.zeros(1, dtype=torch.int32, device=self.device)
        self._parked = torch.zeros(e, dtype=torch.bool, device=self.device)
        self._parked_qpos, self._parked_qvel = self._views["qpos"].clone(), self._views["qvel"].clone()
        self._invalid_count = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._watch, self._told = OverflowWatch(self.device), 0
        self._net: NetLaunches | None = None
        with self._graphs.on_stream():
            self._pack_structs()
            if self.robot.actuator.kind == "net":
                net = ActuatorNet.load(self.robot.actuator.net)  # type: ignore[arg-type]  (`ActuatorCfg.check`)
                self._net = NetLaunches(net, e, j, self.device)

    def _pack_structs(self) -> None:
        """What the kernels get, by reference."""
        robot, columns = self.robot, self._columns

        def floats(values: Sequence[float]) -> Any:
            return wp.array(np.array(values, dtype=np.float32), dtype=float)

        gains = Gains()
        for name in _ACTUATOR_PARAMS:
            setattr(gains, name, wp.from_torch(self.params[name]))
        gains.delay, gains.limit = wp.from_torch(self._delay), floats(robot.torque_limit_nm)
        cfg, unlimited = robot.actuator, (1.0,) * robot.num_joints
        gains.dc = int(cfg.kind == "dc")
        gains.stall = floats(cfg.stall_torque_nm if gains.dc else unlimited)
        gains.no_load = floats(cfg.no_load_speed_rad_s if gains.dc else unlimited)
        robots, parked, buffers = Robots(), Parked(), Buffers()
        robots.columns = wp.array(np.stack(columns.joints).astype(np.int32), dtype=int)
        feet = (columns.foot_pos[:, 0], columns.foot_vel[:, 0], columns.foot_contact[:, 0], columns.thigh)
        robots.feet = wp.array(np.stack(feet).astype(np.int32), dtype=int)
        robots.trunk = wp.array(columns.trunk.astype(np.int32), dtype=int)
        parked.mask = wp.from_torch(self._parked)
        parked.qpos, parked.qvel = wp.from_torch(self._parked_qpos), wp.from_torch(self._parked_qvel)
        for name, tensor in vars(self.state).items():
            setattr(buffers, name, wp.from_torch(tensor))
        self._structs = (gains, robots, parked, buffers, legs_of(self._mj_model, robot))

    def _place_everyone(self) -> None:
        """Grounds and parameters of all worlds into a new model."""
        everyone = torch.arange(self.num_envs, device=self.device)
        self._grounds.assign(self._model, self._data, everyone, self.scene_of_env)
        self._world_params.set(everyone, {n: v for n, v in self.params.items() if n not in _ACTUATOR_PARAMS})
        self._contacts.set(everyone, *(self.params[name] for name in CONTACT_PARAMS))
        self._derive_constants()

    def _rebuild(self, room: Room | None = None, grounds: WorldGrounds | None = None) -> None:
        """Make model and data anew with other sizes; what the robots do goes on."""
        kept = {name: tensor.clone() for name, tensor in self._views.items()}
        feet = self._contacts.memory
        self._room, self._grounds = room or self._room, grounds or self._grounds
        self._build()
        for name, tensor in kept.items():
            self._views[name].copy_(tensor)
        for name, tensor in feet.items():
            self._contacts.memory[name].copy_(tensor)
        self._place_everyone()

    def _derive_constants(self) -> None:
        """What MuJoCo derives from masses, armatures and sizes, for all worlds."""
        groups = mjw.SetConstGroup.FIXED | mjw.SetConstGroup.INERT0
        self._graphs.run("constants", lambda: mjw.set_const(self._model, self._data, groups, restore=False))

    # ------------------------------------------------------------------ step and reset

    @property
    def capabilities(self) -> frozenset[str]:
        """See `VecSim.capabilities`. On a GPU sums of floats come in any order, so that bits differ between runs."""
        everywhere = frozenset(PARAMS) | {"park", "set_scene", "state_dict"}
        return everywhere | ({"deterministic"} if self.device.type == "cpu" else set())

    @property
    def invalid_count(self) -> int:
        """See `VecSim.invalid_count`. Waits for the GPU."""
        return int(self._invalid_count)

    def step(self, target_joint_pos: Tensor, *, substeps: int = 4) -> None:
        """See `VecSim.step`."""
        self._target.copy_(target_joint_pos)
        self._graphs.run(("step", substeps), lambda: self._launch_step(substeps))

    def _launch_step(self, substeps: int) -> None:
        model, data, e = self._model, self._data, self.num_envs
        gains, robots, parked, buffers, _ = self._structs
        target, clock, held, torque = (
            wp.from_torch(t) for t in (self._target, self._clock, self._held, self._torque)
        )
        for substep in range(substeps):
            seen = [data.qpos, data.qvel, robots.columns, gains, target, clock, substep, held]
            if self._net is None:
                wp.launch(drive, dim=torque.shape, inputs=[*seen, torque, data.ctrl])
            else:
                ends = [wp.from_torch(t) for t in (self._net.error, self._net.velocity)]
                wp.launch(sense, dim=torque.shape, inputs=[*seen, *ends])
                self._net.launch()
                given = wp.from_torch(self._net.torque)
                wp.launch(limit, dim=torque.shape, inputs=[given, robots.columns, gains, torque, data.ctrl])
            # Sensors are read once a control step, so only the last substep has them.
            off = 0 if substep == substeps - 1 else _SENSOR_OFF
            model.opt.disableflags |= off
            mjw.step(model, data)
            model.opt.disableflags &= ~off
            self._contacts.launch(data)
        counter = wp.from_torch(self._invalid_count)
        wp.launch(
            report,
            dim=e,
            inputs=[data.qpos, data.qvel, data.sensordata, torque, robots, parked, buffers, counter],
        )
        wp.launch(advance_clock, dim=1, inputs=[clock, substeps, held.shape[0]])

    def reset(
        self, env_ids: Tensor, *, root_pos_w: Tensor, root_quat_wxyz: Tensor, root_lin_vel_w: Tensor,
        root_ang_vel_b: Tensor, joint_pos: Tensor, joint_vel: Tensor,
    ) -> None:  # fmt: skip
        """See `VecSim.reset`."""
        if len(env_ids) == 0:
            return
        self._check_overflow()
        given = {
            "root_pos_w": root_pos_w, "root_quat_wxyz": root_quat_wxyz, "root_lin_vel_w": root_lin_vel_w,
            "root_ang_vel_b": root_ang_vel_b, "joint_pos": joint_pos, "joint_vel": joint_vel,
        }  # fmt: skip
        start, data = Start(), self._data
        with self._graphs.on_stream():
            start.env_ids = wp.from_torch(env_ids.contiguous())
            for name, value in given.items():
                setattr(start, name, wp.from_torch(value.to(torch.float32).contiguous()))
            _, robots, parked, buffers, legs = self._structs
            memory = (wp.from_torch(self._held), wp.from_torch(self._torque))
            wp.launch(
                restart, dim=len(env_ids),
                inputs=[
                    start, robots, legs, data.qpos, data.qvel, data.qacc_warmstart, data.xfrc_applied, *memory, parked,
                    buffers,
                ],
            )  # fmt: skip
        self._contacts.reset(env_ids)
        if self._net is not None:
            self._net.reset(env_ids)

    def _check_overflow(self) -> None:
        """Whether contacts were lost since the last look; then there shall be more room."""
        with self._graphs.on_stream():
            bits, envs = self._watch.poll(self._data)
        if not bits or self._room is None:
            return
        self.overflow_count += envs
        grown = self._room.grown(bits)
        full = max(grown.contacts, grown.constraints) > _MOST_ROOM or grown == self._room
        if full and not bits & ~self._told:
            return  # nothing that was not said before
        self._told |= bits
        logger.warning(
            "mjwarp: %d environments had more than %s; contacts were lost%s",
            envs, self._room.describe(bits), "" if full else f"; from now on there is room for twice as many: {grown}",
        )  # fmt: skip
        if not full:
            self._rebuild(room=grown)

    def park(self, env_ids: Tensor) -> None:
        """See `VecSim.park`. The GPU computes these steps with the others', and drops them."""
        self._parked_qpos[env_ids] = self._views["qpos"][env_ids]
        self._parked_qvel[env_ids] = self._views["qvel"][env_ids]
        self._parked[env_ids] = True

    def close(self) -> None:
        """See `VecSim.close`; nothing outlives the process here."""

    # ------------------------------------------------------------------ disturbances and parameters

    def kick(self, env_ids: Tensor, delta_lin_vel_w: Tensor, delta_ang_vel_b: Tensor | None = None) -> None:
        """See `VecSim.kick`."""
        qvel, state = self._views["qvel"], self.state
        qvel[env_ids, :3] += delta_lin_vel_w
        state.root_lin_vel_w[env_ids] = qvel[env_ids, :3]
        if delta_ang_vel_b is not None:
            qvel[env_ids, 3:6] += delta_ang_vel_b
            state.root_ang_vel_b[env_ids] = qvel[env_ids, 3:6]
        self._parked_qvel[env_ids] = qvel[env_ids]

    def push(self, env_ids: Tensor, force_w: Tensor, torque_w: Tensor | None = None) -> None:
        """See `VecSim.push`."""
        wrench = self._views["xfrc_applied"]
        wrench[env_ids, self._base, :3] = force_w
        wrench[env_ids, self._base, 3:] = torch.zeros_like(force_w) if torque_w is None else torque_w

    def raycast(self, origin_w: Tensor, direction_w: Tensor) -> Tensor:
        """See `VecSim.raycast`."""
        return self.terrain.raycast(origin_w, direction_w, self.scene_of_env)

    def set_params(self, env_ids: Tensor, **values: Tensor) -> None:
        """See `VecSim.set_params`. Constants that follow from masses are derived for all environments at once.

        On a GPU delays and restitution out of range are moved into it rather than refused, since looking at them would wait for
        the GPU.
        """
        check_param_names(list(values), self.capabilities, "mjwarp")
        look = self.device.type == "cpu"
        if "delay_s" in values:
            self._delay[env_ids] = delay_substeps(values["delay_s"], look=look)
        if "restitution" in values:
            if look:
                check_restitution(values["restitution"])
            values["restitution"] = values["restitution"].clamp(0.0, 1.0)
        for name, value in values.items():
            self.params[name][env_ids] = value.to(torch.float32)
        if not values.keys().isdisjoint(CONTACT_PARAMS):
            self._contacts.set(env_ids, *(self.params[name][env_ids] for name in CONTACT_PARAMS))
        stored = {name: self.params[name][env_ids] for name in values}
        if self._world_params.set(env_ids, stored):
            self._derive_constants()

    # ------------------------------------------------------------------ scenes

    def set_scene(self, env_ids: Tensor, scene: Scene) -> None:
        """See `VecSim.set_scene`. Copies a new scene's heights; a larger grid or more boxes than ever mean new buffers."""
        ids = env_ids.cpu().numpy()
        index = slot_for(scene, ids, self.scenes, self._owner)
        if self.scenes[index] is not scene:
            ground = checked_ground(scene, self._mode)
            self._put_ground(index, ground)
            self.terrain.replace(index, ground)
            self.scenes[index] = scene
        self._owner[ids] = index
        self.scene_of_env[env_ids] = index
        nominal = {name: value.expand(len(ids), *value.shape) for name, value in self._nominal.items()}
        self._grounds.assign(self._model, self._data, env_ids, self.scene_of_env[env_ids])
        self.set_params(env_ids, **nominal)  # derives the geoms' bounds too

    def _put_ground(self, index: int, ground: Ground) -> None:
        if len(ground.boxes) <= self._grounds.num_boxes:
            if self._grounds.replace(index, ground):
                self._grounds.bind(self._model, self._mj_model)
                self._graphs.forget()
            return
        grounds = list(self._grounds.grounds)
        grounds[index] = ground
        self._rebuild(grounds=WorldGrounds(grounds, box_room(grounds), self.device))

    # ------------------------------------------------------------------ whole state

    def state_dict(self) -> dict[str, Any]:
        """See `VecSim.state_dict`."""
        parts = self._saved()
        return {
            "robot": self.robot.name,
            **{
                part: {name: tensor.clone() for name, tensor in tensors.items()}
                for part, tensors in parts.items()
            },
        }

    def _saved(self) -> dict[str, dict[str, Tensor]]:
        names = (
            "scene_of_env",
            "_held",
            "_torque",
            "_delay",
            "_clock",
            "_parked",
            "_parked_qpos",
            "_parked_qvel",
        )
        return {
            "state": vars(self.state),
            "params": self.params,
            "physics": self._views,
            "feet": self._contacts.memory,
            "net": {} if self._net is None else self._net.memory,
            "sim": {name: getattr(self, name) for name in (*names, "_invalid_count")},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `VecSim.load_state_dict`."""
        check_saved_state(state, self.robot, self.num_envs)
        for part, tensors in self._saved().items():
            for name, tensor in tensors.items():
                tensor.copy_(state[part][name])
        self._owner[:] = self.scene_of_env.cpu().numpy()
        self._place_everyone()


def _checked_device(device: torch.device | str) -> torch.device:
    device = torch.device(device)
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise InputError(f"physics backend 'mjwarp' runs on 'cuda' or 'cpu', not on {str(device)!r}")
    if not torch.cuda.is_available() or not wp.is_cuda_available():
        raise InputError(
            f"device {str(device)!r}: no CUDA GPU that both torch {torch.__version__} and warp {wp.__version__} can use; "
            "use device='cpu' (slow), or the backend 'mujoco'"
        )
    return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)


def _check_robot_and_terrain(robot: RobotCfg, terrain: str) -> None:
    robot.actuator.check(robot.num_joints)
    if terrain == "mesh":
        raise InputError(
            "physics backend 'mjwarp' has no exact triangles; use terrain='boxes' or 'heightfield'"
        )


def _zero_state(envs: int, joints: int, legs: int, device: torch.device) -> SimState:
    def floats(*shape: int) -> Tensor:
        return torch.zeros(envs, *shape, device=device)

    def flags(*shape: int) -> Tensor:
        return torch.zeros(envs, *shape, dtype=torch.bool, device=device)

    state = SimState(
        floats(3), floats(4), floats(3), floats(3), floats(joints), floats(joints), floats(joints), floats(legs, 3),
        floats(legs, 3), floats(legs, 3), flags(legs), flags(legs), flags(), flags(),
    )  # fmt: skip
    state.root_quat_wxyz[:, 0] = 1.0
    return state
