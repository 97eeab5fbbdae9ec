"""MuJoCo on the CPU: one `mujoco.batch.Batch` a scene, the robot's actuators every substep."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from torch import Tensor

from gaussgym_sim.actuation.actuators import Actuators
from gaussgym_sim.engines.contact_law import CONTACT_PARAMS, contact_solref
from gaussgym_sim.engines.inputs import check_restitution, check_saved_state, delay_substeps, slot_for
from gaussgym_sim.engines.mujoco_bounce import FootBounces
from gaussgym_sim.engines.mujoco_model import robot_bodies
from gaussgym_sim.engines.mujoco_slot import JointColumns, Slot, StateBuffers, read_state
from gaussgym_sim.ground.terrain import TerrainLookup, ground_of
from gaussgym_sim.mdp.starts import scene_of_env
from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.vecsim import MAX_DELAY_SUBSTEPS, PARAMS, SUBSTEP_S, SimState, check_param_names

_ACTUATOR_PARAMS = ("kp", "kd", "strength", "offset")


def effective_cpus() -> int:
    """CPUs that this process may use: affinity and the container's quota where the system tells them."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota_file = Path("/sys/fs/cgroup/cpu.max")
    try:
        quota, period = quota_file.read_text().split()
        count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass  # no quota, or no such file on this system
    return count


class MujocoSim:
    """`VecSim` on MuJoCo. All buffers are numpy; the tensors of ``state`` and ``params`` are views of them."""

    capabilities = frozenset(PARAMS) | {"mesh", "park", "set_scene", "state_dict", "deterministic"}

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
    ) -> None:
        """Compile one model a scene. See `make_sim` for the arguments.

        Raises:
            InputError: a device other than the CPU; a ground that is no good.
        """
        if torch.device(device).type != "cpu":
            raise InputError(
                f"physics backend 'mujoco' runs on the CPU, not on {str(device)!r}; use device='cpu'"
            )
        self.robot, self.scenes, self.num_envs = robot, list(scenes), num_envs
        self.substep_s, self.device = SUBSTEP_S, torch.device("cpu")
        self.num_threads = num_threads or effective_cpus()
        self.invalid_count = 0
        self._mode = terrain
        grounds = [ground_of(scene, terrain) for scene in self.scenes]
        self.terrain = TerrainLookup(grounds, device=self.device)
        owner = scene_of_env(len(self.scenes), num_envs)
        self.scene_of_env = torch.from_numpy(owner)
        self._slots = [
            Slot(robot, ground, np.flatnonzero(owner == k), self.num_threads)
            for k, ground in enumerate(grounds)
        ]
        model = self._slots[0].model
        self._columns = JointColumns.of(model, robot)
        base, *links = bodies = robot_bodies(model)
        self.total_mass_kg = float(model.body_mass[bodies].sum())
        self.link_names = tuple(model.body(i).name for i in links)
        self.actuators = Actuators(robot, num_envs, max_delay=MAX_DELAY_SUBSTEPS)
        slot = self._slots[0]  # the robot is the same on every ground
        self._feet = np.searchsorted(slot.shapes, slot.feet)
        self._solref = model.geom_solref[slot.shapes]
        self._bounces = FootBounces(model.geom_solref[slot.feet], num_envs)
        self._parked = np.zeros(num_envs, dtype=bool)
        self._bad = np.zeros(num_envs, dtype=bool)
        self._buffers = StateBuffers.zeros(num_envs, robot.num_joints, len(robot.leg_names))
        self.state = SimState(
            **{name: torch.from_numpy(array) for name, array in vars(self._buffers).items()}
        )
        self._nominal = nominal_params(robot, model, base, links)
        self.params = {
            name: torch.tensor(value, dtype=torch.float32).expand(num_envs, *np.shape(value)).clone()
            for name, value in self._nominal.items()
        }

    # ------------------------------------------------------------------ step and reset

    def step(self, target_joint_pos: Tensor, *, substeps: int = 4) -> None:
        """See `VecSim.step`."""
        self._bad[:] = False
        self.actuators.begin(target_joint_pos.numpy(), substeps)
        for slot in self._slots:
            if slot.batch is None:
                continue
            for substep in range(substeps):
                self.actuators.apply(
                    substep, slot.envs, slot.qpos, slot.qvel, self._columns.joints, slot.ctrl
                )
                slot.step_once(self._bad)
                if self._bounces.used:
                    slot.follow_feet(self._bounces, self._columns.foot_contact[:, 0])
            self._read(slot, slot.every_row, contacts=True)
            slot.find_invalid(self._bad)
        self._mark_invalid()

    def _read(self, slot: Slot, rows: np.ndarray, *, contacts: bool) -> None:
        read_state(slot, rows, self._columns, self.actuators.torque, self._buffers, contacts=contacts)

    def _mark_invalid(self) -> None:
        invalid = self._buffers.invalid
        invalid[:] = self._bad
        if not invalid.any():
            return
        self.invalid_count += int(invalid.sum())
        for array in vars(self._buffers).values():
            if array.dtype == np.float32:
                array[invalid] = np.nan_to_num(array[invalid], nan=0.0, posinf=0.0, neginf=0.0)
        self._buffers.root_quat_wxyz[invalid] = (1.0, 0.0, 0.0, 0.0)

    def reset(
        self, env_ids: Tensor, *, root_pos_w: Tensor, root_quat_wxyz: Tensor, root_lin_vel_w: Tensor,
        root_ang_vel_b: Tensor, joint_pos: Tensor, joint_vel: Tensor,
    ) -> None:  # fmt: skip
        """See `VecSim.reset`."""
        tensors = (root_pos_w, root_quat_wxyz, root_lin_vel_w, root_ang_vel_b, joint_pos, joint_vel)
        motion = [tensor.numpy() for tensor in tensors]
        self.actuators.reset(env_ids.numpy(), motion[4])
        self._bounces.reset(env_ids.numpy())
        for slot, rows, picked in self._split(env_ids):
            slot.write(rows, picked, self._columns, motion)
            if self._bounces.used:
                slot.put_feet(rows, self._bounces)
            slot.batch.forward(rows, stage=mujoco.mjtStage.mjSTAGE_VEL)
            self._read(slot, rows, contacts=False)

    def park(self, env_ids: Tensor) -> None:
        """See `VecSim.park`."""
        self._parked[env_ids.numpy()] = True
        for slot in self._slots:
            slot.moving = np.flatnonzero(~self._parked[slot.envs]).astype(np.int32)

    def close(self) -> None:
        """See `VecSim.close`; nothing outlives the process here."""

    # ------------------------------------------------------------------ disturbances and parameters

    def kick(self, env_ids: Tensor, delta_lin_vel_w: Tensor, delta_ang_vel_b: Tensor | None = None) -> None:
        """See `VecSim.kick`."""
        for slot, rows, picked in self._split(env_ids):
            slot.kick(rows, picked, delta_lin_vel_w.numpy(), 0, self._buffers.root_lin_vel_w)
            if delta_ang_vel_b is not None:
                slot.kick(rows, picked, delta_ang_vel_b.numpy(), 3, self._buffers.root_ang_vel_b)

    def push(self, env_ids: Tensor, force_w: Tensor, torque_w: Tensor | None = None) -> None:
        """See `VecSim.push`."""
        for slot, rows, picked in self._split(env_ids):
            wrench = slot.wrench
            wrench[rows[:, None], slot.base, np.arange(3)] = force_w.numpy()[picked]
            torque = 0.0 if torque_w is None else torque_w.numpy()[picked]
            wrench[rows[:, None], slot.base, np.arange(3, 6)] = torque

    def raycast(self, origin_w: Tensor, direction_w: Tensor) -> Tensor:
        """See `VecSim.raycast`."""
        return self.terrain.raycast(origin_w, direction_w, self.scene_of_env)

    def set_params(self, env_ids: Tensor, **values: Tensor) -> None:
        """See `VecSim.set_params`. Robot shapes have contact priority over the ground: theirs is the friction in force."""
        check_param_names(list(values), self.capabilities, "mujoco")
        if "restitution" in values:
            check_restitution(values["restitution"])
        ids = env_ids.numpy()
        if "delay_s" in values:
            self.actuators.delay[ids] = delay_substeps(values["delay_s"]).numpy()
        given = {name: value.numpy() for name, value in values.items() if name != "delay_s"}
        for name, value in values.items():
            self.params[name][env_ids] = value
        for name in _ACTUATOR_PARAMS:
            if name in given:
                getattr(self.actuators, name)[ids] = given.pop(name)
        if not given.keys().isdisjoint(CONTACT_PARAMS):
            given = {name: value for name, value in given.items() if name not in CONTACT_PARAMS}
            given["solref"] = self._contacts(env_ids)
        if given:
            for slot, rows, picked in self._split(env_ids):
                slot.set_params(rows, {name: value[picked] for name, value in given.items()}, self._columns)

    def _contacts(self, env_ids: Tensor) -> np.ndarray:
        """``solref`` [R, S, 2] of shapes by the parameters in force; the feet's comes and goes from now on."""
        ids = env_ids.numpy()
        compliance, restitution = (self.params[name].numpy()[ids] for name in CONTACT_PARAMS)
        solref = contact_solref(self._solref, compliance, restitution)
        firm = contact_solref(self._solref[self._feet], compliance, np.zeros_like(restitution))
        self._bounces.set(ids, firm, solref[:, self._feet])
        solref[:, self._feet] = self._bounces.current(ids)
        return solref

    # ------------------------------------------------------------------ scenes

    def set_scene(self, env_ids: Tensor, scene: Scene) -> None:
        """See `VecSim.set_scene`. Compiles a model where the scene is new, and moves the state of envs that stay."""
        ids = env_ids.numpy()
        owner = self.scene_of_env.numpy()
        index = slot_for(scene, ids, self.scenes, owner)
        new = self.scenes[index] is not scene
        ground = ground_of(scene, self._mode) if new else self._slots[index].ground
        left = set(owner[ids].tolist()) - {index}
        if new:
            self._slots[index] = Slot(self.robot, ground, ids, self.num_threads)
            self.terrain.replace(index, ground)
            self.scenes[index] = scene
        else:
            joined = np.union1d(np.setdiff1d(self._slots[index].envs, ids), ids)
            self._slots[index] = self._slots[index].with_envs(joined, fresh=ids)
        for other in left:
            stay = np.setdiff1d(self._slots[other].envs, ids)
            self._slots[other] = self._slots[other].with_envs(stay)
        self.scene_of_env[env_ids] = index  # by torch, so that renderers see that it has changed
        for name in _ACTUATOR_PARAMS:
            getattr(self.actuators, name)[ids] = self._nominal[name]
        self.actuators.delay[ids] = 0
        for name, value in self._nominal.items():
            self.params[name][env_ids] = torch.tensor(value, dtype=torch.float32)
        self._contacts(env_ids)
        for slot in self._slots:
            slot.moving = np.flatnonzero(~self._parked[slot.envs]).astype(np.int32)

    # ------------------------------------------------------------------ whole state

    def state_dict(self) -> dict[str, Any]:
        """See `VecSim.state_dict`."""
        return {
            "robot": self.robot.name,
            "scene_of_env": self.scene_of_env.clone(),
            "invalid_count": self.invalid_count,
            "parked": torch.from_numpy(self._parked.copy()),
            "state": {name: tensor.clone() for name, tensor in vars(self.state).items()},
            "params": {name: tensor.clone() for name, tensor in self.params.items()},
            "actuators": _tensors(self.actuators.state_dict()),
            "bounces": _tensors(self._bounces.state_dict()),
            "slots": [_tensors(slot.state_dict()) for slot in self._slots],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `VecSim.load_state_dict`."""
        check_saved_state(state, self.robot, self.num_envs)
        self.scene_of_env[:] = state["scene_of_env"]
        self.invalid_count = int(state["invalid_count"])
        self._parked[:] = state["parked"].numpy()
        self.actuators.load_state_dict({name: value.numpy() for name, value in state["actuators"].items()})
        for name, tensor in vars(self.state).items():
            tensor[:] = state["state"][name]
        for name, tensor in self.params.items():
            tensor[:] = state["params"][name]
        self._contacts(torch.arange(self.num_envs))
        self._bounces.load_state_dict({name: value.numpy() for name, value in state["bounces"].items()})
        for index, (slot, saved) in enumerate(zip(self._slots, state["slots"], strict=True)):
            envs = np.flatnonzero(self.scene_of_env.numpy() == index)
            # A slot from its model alone: fields that the saved one did not vary must be the model's again.
            fresh = Slot(self.robot, slot.ground, envs, self.num_threads, model=slot.model)
            fresh.load_state_dict({name: value.numpy() for name, value in saved.items()})
            fresh.moving = np.flatnonzero(~self._parked[envs]).astype(np.int32)
            self._slots[index] = fresh

    def _split(self, env_ids: Tensor) -> Iterator[tuple[Slot, np.ndarray, np.ndarray]]:
        """Yield (slot, its rows, which of ``env_ids`` they are) for the slots concerned."""
        ids = env_ids.numpy()
        if len(ids) == 0:
            return
        if len(self._slots) == 1:
            yield self._slots[0], ids, np.arange(len(ids))
            return
        owner = self.scene_of_env.numpy()[ids]
        for index in np.unique(owner):
            slot, picked = self._slots[index], np.flatnonzero(owner == index)
            yield slot, np.searchsorted(slot.envs, ids[picked]), picked


def nominal_params(
    robot: RobotCfg, model: mujoco.MjModel, base: int, links: list[int]
) -> dict[str, np.ndarray]:
    """Values of all `PARAMS` before anything was set."""
    joints = JointColumns.of(model, robot).joints[1]
    shapes = np.flatnonzero(np.isin(model.geom_bodyid, [base, *links]))
    count = robot.num_joints
    return {
        "kp": np.array(robot.kp), "kd": np.array(robot.kd), "strength": np.ones(count), "offset": np.zeros(count),
        "delay_s": np.array(0.0), "armature": model.dof_armature[joints].copy(),
        "joint_damping": model.dof_damping[joints].copy(), "joint_friction": model.dof_frictionloss[joints].copy(),
        "friction": model.geom_friction[shapes[0], 0].copy(), "restitution": np.array(0.0), "compliance": np.array(0.0),
        "trunk_mass_kg": model.body_mass[base].copy(), "trunk_com_b": model.body_ipos[base].copy(),
        "link_mass_factor": np.ones(len(links)), "gravity_w": model.opt.gravity.copy(),
    }  # fmt: skip


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
