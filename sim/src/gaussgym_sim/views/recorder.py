"""`SimRecorder`: a `VecSim` that remembers what it was told lately, so that it can be told again, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from torch import Tensor

from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.vecsim import VecSim, make_sim


@dataclass
class Call:
    """One call of a sim: its name and arguments; a step's targets are row ``row`` of its `Stretch`."""

    name: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    row: int = -1
    substeps: int = 0
    scene: Scene | None = None


@dataclass
class Stretch:
    """A stretch of time: the sim's state at its beginning, and every call since.

    Attributes:
        first_step: number of `VecSim.step` calls before it.
        snapshot: `VecSim.state_dict` then.
        scenes: in the slots then.
        targets: [N, E, J] of its steps, those that there have been.
        calls: in order.
        steps: how many of them are steps.
    """

    first_step: int
    snapshot: dict[str, Any]
    scenes: list[Scene]
    targets: Tensor
    calls: list[Call] = field(default_factory=list)
    steps: int = 0


class SimRecorder:
    """Passes everything on to another sim, and remembers the calls of the last ``keep_steps`` to twice as many steps.

    Recording costs a copy of the targets a step, of the other arguments where there are any, and the sim's whole state once in
    ``keep_steps``.

    Attributes:
        sim: the other sim. All attributes of `VecSim` that are not here are its own.
        settings: what `make_sim` needs to make such a sim again, beside robot and scenes.
        stretches: one or two, the last being the one that runs.
        num_steps: `step` calls so far.
    """

    def __init__(self, sim: VecSim, settings: dict[str, Any], *, keep_steps: int = 100) -> None:
        """Take the first snapshot.

        Raises:
            InputError: a backend without 'state_dict', or ``keep_steps`` below 1.
        """
        if "state_dict" not in sim.capabilities:
            raise InputError(
                f"{type(sim).__name__} cannot save its state, which a recording starts from; use 'mujoco'"
            )
        if keep_steps < 1:
            raise InputError(f"keep_steps is {keep_steps}, expected at least 1")
        self.sim, self.settings, self.keep_steps = sim, dict(settings), keep_steps
        self.num_steps = 0
        self.stretches: list[Stretch] = []
        self._begin_stretch()

    @classmethod
    def make(
        cls,
        backend: str,
        robot: str | RobotCfg,
        scenes: Sequence[Scene],
        num_envs: int,
        *,
        keep_steps: int = 100,
        terrain: str = "boxes",
        **options: Any,
    ) -> SimRecorder:
        """`make_sim` with the same arguments, recorded."""
        sim = make_sim(backend, robot, scenes, num_envs, terrain=terrain, **options)
        return cls(sim, {"backend": backend, "terrain": terrain}, keep_steps=keep_steps)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sim, name)

    def _begin_stretch(self) -> None:
        if len(self.stretches) == 2:
            targets = self.stretches.pop(0).targets
        else:
            shape = (self.keep_steps, self.sim.num_envs, self.sim.robot.num_joints)
            targets = torch.zeros(shape, device=self.sim.device)
        self.stretches.append(Stretch(self.num_steps, self.sim.state_dict(), list(self.sim.scenes), targets))

    def _record(self, name: str, tensors: dict[str, Tensor | None], scene: Scene | None = None) -> None:
        copies = {key: value.clone() for key, value in tensors.items() if value is not None}
        self.stretches[-1].calls.append(Call(name, copies, scene=scene))

    def step(self, target_joint_pos: Tensor, *, substeps: int = 4) -> None:
        """See `VecSim.step`."""
        if self.stretches[-1].steps == self.keep_steps:
            self._begin_stretch()
        stretch = self.stretches[-1]
        stretch.targets[stretch.steps] = target_joint_pos
        stretch.calls.append(Call("step", row=stretch.steps, substeps=substeps))
        stretch.steps += 1
        self.num_steps += 1
        self.sim.step(target_joint_pos, substeps=substeps)

    def reset(self, env_ids: Tensor, **state: Tensor) -> None:
        """See `VecSim.reset`."""
        self._record("reset", {"env_ids": env_ids, **state})
        self.sim.reset(env_ids, **state)

    def set_params(self, env_ids: Tensor, **values: Tensor) -> None:
        """See `VecSim.set_params`."""
        self._record("set_params", {"env_ids": env_ids, **values})
        self.sim.set_params(env_ids, **values)

    def kick(self, env_ids: Tensor, delta_lin_vel_w: Tensor, delta_ang_vel_b: Tensor | None = None) -> None:
        """See `VecSim.kick`."""
        given = {"delta_lin_vel_w": delta_lin_vel_w, "delta_ang_vel_b": delta_ang_vel_b}
        self._record("kick", {"env_ids": env_ids, **given})
        self.sim.kick(env_ids, delta_lin_vel_w, delta_ang_vel_b)

    def push(self, env_ids: Tensor, force_w: Tensor, torque_w: Tensor | None = None) -> None:
        """See `VecSim.push`."""
        self._record("push", {"env_ids": env_ids, "force_w": force_w, "torque_w": torque_w})
        self.sim.push(env_ids, force_w, torque_w)

    def park(self, env_ids: Tensor) -> None:
        """See `VecSim.park`."""
        self._record("park", {"env_ids": env_ids})
        self.sim.park(env_ids)

    def set_scene(self, env_ids: Tensor, scene: Scene) -> None:
        """See `VecSim.set_scene`."""
        self._record("set_scene", {"env_ids": env_ids}, scene)
        self.sim.set_scene(env_ids, scene)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `VecSim.load_state_dict`; the recording begins anew."""
        self.sim.load_state_dict(state)
        self.stretches.clear()
        self._begin_stretch()


def repeat(call: Call, sim: VecSim, targets: Tensor) -> None:
    """Make a recorded call again.

    Args:
        call: which.
        sim: of the same robot and number of envs.
        targets: [N, E, J] of the stretch it belongs to.
    """
    if call.name == "step":
        sim.step(targets[call.row], substeps=call.substeps)
    elif call.name == "set_scene":
        assert call.scene is not None
        sim.set_scene(call.tensors["env_ids"], call.scene)
    else:
        getattr(sim, call.name)(**call.tensors)
