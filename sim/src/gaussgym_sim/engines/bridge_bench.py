"""What the bridge itself costs: steps of physics that does nothing, in this process and behind the bridge."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from gaussgym_scene.scene import Scene
from torch import Tensor

from gaussgym_sim.engines.bridge import BridgedSim, block_layout
from gaussgym_sim.engines.bridge_wire import block_bytes
from gaussgym_sim.grounds import flat_scene
from gaussgym_sim.robot import RobotCfg, get_robot
from gaussgym_sim.vecsim import BACKENDS, SUBSTEP_S, SimState


class NullSim:
    """As much of a `gaussgym_sim.vecsim.VecSim` as steps need: joints jump to their targets, nothing else moves."""

    def __init__(self, robot: RobotCfg, scenes: Sequence[Scene], num_envs: int, **_: Any) -> None:
        """Arguments as any backend's."""
        joints, legs = robot.num_joints, len(robot.leg_names)
        shapes = {
            "root_pos_w": (3,), "root_quat_wxyz": (4,), "root_lin_vel_w": (3,), "root_ang_vel_b": (3,),
            "joint_pos": (joints,), "joint_vel": (joints,), "joint_torque": (joints,),
            "foot_pos_w": (legs, 3), "foot_vel_w": (legs, 3), "foot_force_w": (legs, 3),
        }  # fmt: skip
        flags = {"foot_contact": (legs,), "thigh_contact": (legs,), "trunk_contact": (), "invalid": ()}
        tensors = {name: torch.zeros(num_envs, *shape) for name, shape in shapes.items()}
        tensors |= {name: torch.zeros(num_envs, *shape, dtype=torch.bool) for name, shape in flags.items()}
        self.state = SimState(**tensors)
        self.robot, self.scenes, self.num_envs = robot, list(scenes), num_envs
        self.substep_s, self.total_mass_kg, self.invalid_count = SUBSTEP_S, 0.0, 0
        self.link_names: tuple[str, ...] = ()
        self.capabilities: frozenset[str] = frozenset()
        self.params: dict[str, Tensor] = {}
        self.scene_of_env = torch.zeros(num_envs, dtype=torch.long)

    def step(self, target_joint_pos: Tensor, *, substeps: int = 4) -> None:
        """See `VecSim.step`; ``substeps`` do not matter."""
        self.state.joint_pos.copy_(target_joint_pos)


def bench_bridge(num_envs: int = 4096, *, steps: int = 300, robot: str = "go1") -> dict[str, Any]:
    """Time steps of `NullSim` in this process and through the bridge, turn by turn.

    Returns:
        Median and least milliseconds of each, of what the bridge adds, and the block's size.
    """
    cfg, scene = get_robot(robot), flat_scene()
    command = (sys.executable, "-m", "gaussgym_sim.engines.bridge_bench")
    device = torch.device("cpu")
    near = NullSim(cfg, [scene], num_envs)
    far = BridgedSim("null", cfg, [scene], num_envs, device=device, command=command)
    target = torch.rand(num_envs, cfg.num_joints)
    times: dict[str, list[float]] = {"in_process": [], "bridged": []}
    try:
        for _ in range(steps):
            for name, sim in (("in_process", near), ("bridged", far)):
                start = time.perf_counter()
                sim.step(target)
                times[name].append(1e3 * (time.perf_counter() - start))
        if not torch.equal(far.state.joint_pos, target):
            raise RuntimeError("the bridge lost the targets")
    finally:
        far.close()
    row: dict[str, Any] = {
        "num_envs": num_envs,
        "block_mb": round(block_bytes(block_layout(cfg, num_envs)) / 1e6, 2),
    }
    for name, values in times.items():
        row |= {f"{name}_ms": round(median(values), 3), f"{name}_least_ms": round(min(values), 3)}
    row["bridge_adds_ms"] = round(median(times["bridged"]) - median(times["in_process"]), 3)
    return row


if __name__ == "__main__":  # the worker's side
    from gaussgym_sim.engines.bridge_worker import main

    BACKENDS.own["null"] = NullSim  # type: ignore[assignment]
    main(sys.argv[1:])
