"""MuJoCo Warp on a GPU: is it the same physics, how fast, how much memory, how far do two runs part?

    python experiments/gpu/sim.py --output results.json

1. The whole conformance suite on the device.
2. Control steps a second (4 substeps of 5 ms) of 256 to 8192 Go1 under random targets, on a plane and on 10 cm stairs (5 cm cells),
   resets included and apart, beside numbers that others published.
3. Device memory of each size.
4. Two runs from one start: how far bases part in a second (sums of floats come in any order on a GPU).

Rehearsal without a GPU: ``--device cpu --num-envs 4 --steps 2``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import mujoco
import torch
from gaussgym_scene.artifact import write_json
from gaussgym_scene.errors import GaussgymError
from gaussgym_scene.scene import Scene
from gaussgym_sim.bench.runs import random_actions, standard_grounds
from gaussgym_sim.engines.host_view import HostView
from gaussgym_sim.testing import CONFORMANCE, missing, random_walk, wavy_scene
from gaussgym_sim.vecsim import VecSim, make_sim

SUBSTEPS = 4
PUBLISHED = [
    {"what": "mjlab, Go1 flat, 4096 (training)", "control_steps_per_s": 190_000, "source": "mujoco_warp issue 789"},
    {
        "what": "Isaac Lab 3, Newton with MuJoCo Warp, Go2 flat, 4096, L40",
        "control_steps_per_s": 741_682,
        "source": "IsaacLab PR 6607",
    },
    {"what": "UniLab, MuJoCo Warp, G1 tracking, 4096, RTX 4090", "control_steps_per_s": 237_813, "source": "UniLab 1364"},
    {"what": "MuJoCo C, Go1, 9950X, 16 cores", "physics_steps_per_s": 437_500, "source": "UniLab PR 500"},
    {"what": "Isaac Lab (PhysX), G1 rough, 4096, RTX 5090", "control_steps_per_s": 115_000, "source": "IsaacLab 3556"},
]  # fmt: skip
"""Protocols differ: orders of magnitude only."""


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--robot", default="go1")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096, 8192])
    parser.add_argument("--steps", type=int, default=100, help="control steps of a timed run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--checks", type=int, default=len(CONFORMANCE), help="how many conformance checks, from the first"
    )
    default = Path(os.environ.get("OUT", ".")) / "sim_gpu.json"
    parser.add_argument("--output", type=Path, default=default)
    return parser.parse_args()


def conformance(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every check's numbers, or what it raised."""

    def make(scenes: list[Scene], num_envs: int, *, num_threads: int | None = None) -> HostView:
        sim = make_sim("mjwarp", args.robot, scenes, num_envs, device=args.device, num_threads=num_threads)
        return HostView(sim, sim.device)

    rows: list[dict[str, Any]] = []
    for check in CONFORMANCE[: args.checks]:
        begin, name = time.perf_counter(), check.__name__
        try:
            lacking = sorted(missing(check, make))
            results = [] if lacking else check(make)
            row = {
                "check": name,
                "passed": all(r.passed for r in results),
                "skipped_for_want_of": lacking,
                "numbers": [vars(r) | {"passed": r.passed} for r in results],
            }
        except Exception as error:  # the next checks tell as much
            row = {"check": name, "passed": False, "raised": f"{type(error).__name__}: {error}"}
        row["seconds"] = time.perf_counter() - begin
        mark = "skip" if row.get("skipped_for_want_of") else "ok" if row["passed"] else "FAIL"
        print(f"  {mark:<5}{name}  {row['seconds']:.1f} s  {row.get('raised', '')}", flush=True)
        rows.append(row)
    return rows


def wait(sim: VecSim) -> None:
    if sim.device.type == "cuda":
        torch.cuda.synchronize(sim.device)


def used_bytes(device: torch.device) -> int | None:
    """Of the whole GPU, since Warp does not allocate through torch."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def place_all(sim: VecSim, env_ids: torch.Tensor) -> None:
    """On their feet, anywhere on the middle of the ground."""
    count, device = len(env_ids), sim.device
    generator = torch.Generator(device=device).manual_seed(1)
    xy = torch.rand(count, 2, generator=generator, device=device) * 4 - 2
    ground = sim.terrain.sample(xy[:, None], sim.scene_of_env[env_ids])
    height = ground + sim.robot.base_height_m + 0.05
    zero = torch.zeros(count, 3, device=device)
    joints = torch.tensor(sim.robot.default_joint_pos, device=device).repeat(count, 1)
    sim.reset(
        env_ids, root_pos_w=torch.cat((xy, height), 1),
        root_quat_wxyz=torch.tensor([1.0, 0.0, 0.0, 0.0], device=device).repeat(count, 1), root_lin_vel_w=zero,
        root_ang_vel_b=zero, joint_pos=joints, joint_vel=torch.zeros_like(joints),
    )  # fmt: skip


def rate(scene: Scene, num_envs: int, args: argparse.Namespace) -> dict[str, Any]:
    """Control steps a second; with 1 % of the robots reset each step, and by themselves."""
    device = torch.device(args.device)
    before, begin = used_bytes(device), time.perf_counter()
    sim = make_sim("mjwarp", args.robot, [scene], num_envs, device=args.device)
    everyone = torch.arange(num_envs, device=sim.device)
    pose = torch.tensor(sim.robot.default_joint_pos, device=sim.device)
    targets = pose + 0.25 * random_actions(num_envs, sim.robot.num_joints).to(sim.device).clamp(-1, 1)
    place_all(sim, everyone)
    for k in range(3):  # compiles, records, replays
        sim.step(targets[k], substeps=SUBSTEPS)
    wait(sim)
    made_s = time.perf_counter() - begin
    some = everyone[:: max(1, min(100, num_envs // 2))]
    times: dict[str, list[float]] = {"step": [], "step_and_reset": [], "set_masses": []}
    for _ in range(args.rounds):
        place_all(sim, everyone)
        for name, extra in (("step", None), ("step_and_reset", some)):
            wait(sim)
            begin = time.perf_counter()
            for k in range(args.steps):
                sim.step(targets[k % len(targets)], substeps=SUBSTEPS)
                if extra is not None:
                    place_all(sim, extra)
            wait(sim)
            times[name].append((time.perf_counter() - begin) / args.steps)
        begin = time.perf_counter()
        for _ in range(4):
            sim.set_params(everyone, trunk_mass_kg=sim.params["trunk_mass_kg"] + 0.01)
        wait(sim)
        times["set_masses"].append((time.perf_counter() - begin) / 4)
    fell = (sim.state.root_pos_w[:, 2] < -1).sum() + sim.state.invalid.sum()
    row: dict[str, Any] = {
        "ground": scene.name, "num_envs": num_envs, "first_steps_s": made_s, "lost_or_invalid": int(fell),
        "overflows": getattr(sim, "overflow_count", None),
        "memory_bytes": None if before is None else (used_bytes(device) or 0) - before,
    }  # fmt: skip
    for name, values in times.items():
        row[f"{name}_ms"] = {
            "median": 1e3 * sorted(values)[len(values) // 2], "low": 1e3 * min(values), "high": 1e3 * max(values)
        }  # fmt: skip
    row["control_steps_per_s"] = 1e3 * num_envs / row["step_ms"]["median"]
    row["physics_steps_per_s"] = SUBSTEPS * row["control_steps_per_s"]
    sim.close()
    return row


def parting(args: argparse.Namespace) -> dict[str, float]:
    """How far two runs of the same inputs part."""

    def walk() -> torch.Tensor:
        sim = make_sim("mjwarp", args.robot, [wavy_scene()], 16, device=args.device)
        return random_walk(HostView(sim, sim.device), control_steps=min(50, args.steps))

    gap = (walk() - walk()).abs().amax(dim=1)
    return {"median": float(gap.median()), "most": float(gap.max())}


def machine(device: str) -> dict[str, Any]:
    import mujoco_warp
    import warp

    cuda = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "torch": torch.__version__, "warp": warp.__version__, "mujoco": mujoco.__version__,
        "mujoco_warp": mujoco_warp.__version__, "cuda": torch.version.cuda,
    }  # fmt: skip


def main() -> None:
    args = settings()
    make_sim(
        "mjwarp", args.robot, [wavy_scene()], 1, device=args.device
    ).close()  # no GPU: said before anything else
    report: dict[str, Any] = {
        "machine": machine(args.device),
        "settings": vars(args) | {"output": str(args.output)},
    }
    print(json.dumps(report["machine"]))
    print("conformance")
    report["conformance"] = conformance(args)
    report["rates"], report["published"] = [], PUBLISHED
    print("rates: control steps/s, ms a step, with resets, setting masses, memory")
    for scene in standard_grounds():
        for num_envs in args.num_envs:
            row = rate(scene, num_envs, args)
            report["rates"].append(row)
            memory = "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**20:8.0f} MiB"
            print(
                f"  {row['ground']:<14}{num_envs:>6}{row['control_steps_per_s']:>12,.0f}{row['step_ms']['median']:>9.2f}"
                f"{row['step_and_reset_ms']['median']:>9.2f}{row['set_masses_ms']['median']:>9.2f} {memory}",
                flush=True,
            )
            write_json(args.output, report)  # a run that is cut short keeps what it has
    report["two_runs_part_by"] = parting(args)
    print(f"two runs part by {report['two_runs_part_by']}")
    write_json(args.output, report)
    failed = [row["check"] for row in report["conformance"] if not row["passed"]]
    print(args.output)
    if failed:
        raise SystemExit(f"conformance failed: {', '.join(failed)}")


if __name__ == "__main__":
    try:
        main()
    except GaussgymError as error:
        raise SystemExit(f"error: {error}") from None
