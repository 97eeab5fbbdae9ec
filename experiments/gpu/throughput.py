"""Physics, pixels and a policy together on a GPU: how many steps and frames a second, counted apart.

    python experiments/gpu/throughput.py --output throughput.json

4096 Go1 in 128 procedural scenes with ground of their own (MuJoCo Warp), 200,000 splats a scene, a CNN and GRU that act on pixels. For images of
84x48 and 640x480 px, and for a camera at 10 Hz and at every control step (50 Hz):

physics   physics steps/s of 5 ms (four a control step) and control steps/s, of physics alone
simulate  the same with observations, rewards, resets, pixels and the policy's decisions; rendered frames/s; time by part
train     the same with what PPO stores and learns: training steps/s (control steps of robots that were learned from)

The policy sees images of 640x480 averaged down to 160x120, on the device. Scenes: so many are made, and repeated in memory of their own.
Rehearsal without a GPU: ``--rehearse`` (Warp's CPU device, a few robots).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gaussgym_learn.models import build_actor, build_critic
from gaussgym_learn.objective import LearnerCfg
from gaussgym_learn.ppo import Learner
from gaussgym_learn.recipes import get_recipe
from gaussgym_learn.rollout import RolloutBuffer, RolloutLayout
from gaussgym_learn.schedules import Objective
from gaussgym_render.bench import device as timing
from gaussgym_scene import Scene
from gaussgym_scene.artifact import write_json
from gaussgym_scene.errors import GaussgymError
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.presets import randomize_preset
from gaussgym_sim.sensors.camera import CameraCfg
from gaussgym_sim.vecsim import VecSim, make_sim
from tensordict import TensorDict
from throughput_world import TINY, Camera, Plan, fastest_backend, open_scenes

GOALS = {
    "physics_steps_per_s": ("640x480 at 10 Hz", 100_000.0),
    "control_steps_per_s": ("84x48 at 50 Hz", 100_000.0),
}


# ---------------------------------------------------------------------- clocks


class Parts:
    """Device time by part of the loop: events round calls, read when all is done. On a CPU the host's clock."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.on = device, False
        self._spans: dict[str, list[Any]] = {}

    def watch(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, with its time counted to a part while `on`."""

        def watched(*args: Any, **options: Any) -> Any:
            if not self.on:
                return call(*args, **options)
            begin = self._mark()
            result = call(*args, **options)
            self._spans.setdefault(name, []).append((begin, self._mark()))
            return result

        return watched

    def _mark(self) -> Any:
        if not timing.on_gpu(self.device):
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def take(self) -> dict[str, float]:
        """Milliseconds of each part since the last call."""
        timing.synchronize(self.device)
        cuda = timing.on_gpu(self.device)
        spans, self._spans = self._spans, {}
        return {
            name: sum(begin.elapsed_time(end) if cuda else 1e3 * (end - begin) for begin, end in marks)
            for name, marks in spans.items()
        }


def median(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Median of each number, and the least and greatest of the rates."""
    found: dict[str, Any] = {name: float(np.median([row[name] for row in rows])) for name in rows[0]}
    rate = [row["control_steps_per_s"] for row in rows if "control_steps_per_s" in row]
    return found | ({"control_steps_per_s_range": [min(rate), max(rate)]} if rate else {})


# ---------------------------------------------------------------------- what is measured


def physics_alone(sim: VecSim, plan: Plan) -> dict[str, Any]:
    """The simulator's own step; robots where an environment puts them, shaken a little round their default pose."""
    Env(sim, walking(sim), seed=0)
    pose = torch.tensor(sim.robot.default_joint_pos, device=sim.device).repeat(sim.num_envs, 1)
    shake = 0.1 * torch.randn(8, *pose.shape, generator=torch.Generator().manual_seed(0)).to(sim.device)

    def steps(count: int) -> float:
        timing.synchronize(sim.device)
        begin = time.perf_counter()
        for k in range(count):
            sim.step(pose + shake[k % 8])
        timing.synchronize(sim.device)
        return time.perf_counter() - begin

    steps(10)
    rates = [plan.steps * plan.robots / steps(plan.steps) for _ in range(plan.rounds)]
    return median([{"control_steps_per_s": rate, "physics_steps_per_s": 4 * rate} for rate in rates])


def walking(sim: VecSim) -> EnvCfg:
    """Following velocities along the scenes' paths, with the randomization that training has."""
    varied, _ = randomize_preset("default").supported_by(sim.capabilities)
    return replace(EnvCfg.for_task("velocity"), randomize=varied)


class Contestant:
    """Environment, camera and policy at one image size and camera rate."""

    def __init__(
        self,
        sim: VecSim,
        shown: list[Any],
        size: tuple[int, int, int],
        rate_hz: float,
        plan: Plan,
        backend: str,
    ) -> None:
        width, height, factor = size
        self.plan, self.device, self.parts = plan, sim.device, Parts(sim.device)
        self.camera = Camera(shown, width, height, factor, plan.robots, sim.device, backend)
        seen = CameraCfg(width=width // factor, height=height // factor, rate_hz=rate_hz)
        cfg = replace(walking(sim), camera=seen)
        for name, owner in (("physics", sim), ("render", self.camera)):
            method = "step" if owner is sim else "render"
            setattr(owner, method, self.parts.watch(name, getattr(owner, method)))
        self.sim, self.env = sim, Env(sim, cfg, seed=0, renderer=self.camera)
        self.recipe = get_recipe("pixels")
        obs = self.env.get_observations()
        self.layout = {name: list(value.shape[1:]) for name, value in obs.items()}
        self.actor = build_actor(self.recipe.network, self.layout, self.env.num_actions).to(self.device)
        self.obs = self.packed(obs)

    def close(self) -> None:
        """Give the simulator its own step back."""
        del self.sim.step  # type: ignore[attr-defined]

    def packed(self, obs: dict[str, torch.Tensor]) -> TensorDict:
        return TensorDict(obs, batch_size=[self.plan.robots])  # type: ignore[arg-type]

    def simulate(self) -> dict[str, Any]:
        """Steps on the policy's own decisions."""
        act = self.parts.watch("policy", lambda obs: self.actor(obs))

        def steps(count: int) -> None:
            with torch.inference_mode():
                for _ in range(count):
                    obs, _, dones, _ = self.env.step(act(self.obs))
                    self.obs = self.packed(obs)
                    self.actor.reset(dones)

        steps(10)
        return median([self.round(steps) for _ in range(self.plan.rounds)])

    def round(self, steps: Callable[[int], None]) -> dict[str, float]:
        """Rates of one round of steps, once without clocks in it and once by part."""
        frames = self.camera.frames
        timing.synchronize(self.device)
        begin = time.perf_counter()
        steps(self.plan.steps)
        timing.synchronize(self.device)
        seconds = time.perf_counter() - begin
        rate = self.plan.steps * self.plan.robots / seconds
        found = {
            "control_steps_per_s": rate, "physics_steps_per_s": 4 * rate,
            "frames_per_s": (self.camera.frames - frames) / seconds, "ms_per_control_step": 1e3 * seconds / self.plan.steps,
        }  # fmt: skip
        self.parts.on = True
        steps(self.plan.steps)
        self.parts.on = False
        return found | {f"{name}_ms": ms / self.plan.steps for name, ms in self.parts.take().items()}

    def learner(self) -> Learner:
        """PPO as the recipe has it, all of it on the device."""
        network, plan = self.recipe.network, self.plan
        cfg = replace(self.recipe.ppo, steps=plan.rollout, mini_batches=plan.mini_batches)
        names = dict.fromkeys((*network.actor_groups, *network.critic_groups, str(network.aux_group)))
        layout = RolloutLayout.of({name: self.layout[name] for name in names}, self.env.num_actions)
        buffer = RolloutBuffer(plan.robots, plan.rollout, layout, device=self.device)
        return Learner(self.actor, build_critic(network, self.layout), buffer, LearnerCfg(cfg))

    def train(self) -> dict[str, Any]:
        """Rollouts and updates."""
        learner, plan = self.learner(), self.plan
        obs, rows = self.obs, []
        for _ in range(1 + plan.rounds):
            timing.synchronize(self.device)
            begin = time.perf_counter()
            learner.train_mode()
            with torch.inference_mode():
                learner.begin(Objective())
                for _ in range(plan.rollout):
                    groups, rewards, dones, extras = self.env.step(learner.act(obs))
                    obs = self.packed(groups)
                    learner.process_env_step(rewards, dones, extras)
                learner.compute_returns(obs)
            timing.synchronize(self.device)
            collected = time.perf_counter()
            losses = learner.update()
            timing.synchronize(self.device)
            if not all(np.isfinite(value) for value in losses.values()):
                raise RuntimeError(f"the update diverged: {losses}")
            seconds = time.perf_counter() - begin
            row = {"collect_s": collected - begin, "learn_s": seconds - (collected - begin)}
            row |= {"training_steps_per_s": plan.rollout * plan.robots / seconds}
            rows.append(row)
        return median(rows[1:])  # the first one warms up


def measure(
    plan: Plan,
    device: torch.device,
    scenes: list[Scene],
    shown: list[Any],
    report: dict[str, Any],
    output: Path,
    choices: Path | None,
) -> list[str]:
    """Everything, in order; what fails is reported, and its name returned."""
    begin = time.perf_counter()
    sim = make_sim("mjwarp", "go1", scenes, plan.robots, device=device)
    report["simulator_made_s"] = time.perf_counter() - begin
    failed = []
    attempt("physics", report, output, failed, lambda: physics_alone(sim, plan))
    for size in plan.sizes:
        for rate_hz in plan.rates_hz:
            name = f"{size[0]}x{size[1]} at {rate_hz:g} Hz"

            def both(
                size: tuple[int, int, int] = size, rate_hz: float = rate_hz, name: str = name
            ) -> dict[str, Any]:
                backend = fastest_backend(choices, size[0] * size[1])
                contestant = Contestant(sim, shown, size, rate_hz, plan, backend)
                try:
                    row: dict[str, Any] = {
                        "backend": contestant.camera.renderer.backend,
                        "policy_px": [size[0] // size[2], size[1] // size[2]],
                        "simulate": contestant.simulate(),
                    }
                    report["rows"][name] = {"result": row}
                    write_json(output, report)  # a run that is cut short keeps what it has
                    return row | {"train": contestant.train()}
                finally:
                    contestant.close()
                    del contestant
                    free(device)

            attempt(name, report, output, failed, both)
    sim.close()
    return failed


def free(device: torch.device) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if timing.on_gpu(device):
        torch.cuda.empty_cache()


def attempt(
    name: str, report: dict[str, Any], output: Path, failed: list[str], call: Callable[[], Any]
) -> None:
    """Add a call's result, or what it raised, to the report."""
    begin = time.perf_counter()
    try:
        row: dict[str, Any] = {"result": call()}
    except Exception as error:  # the next ones tell as much
        traceback.print_exc()
        row = report["rows"].get(name, {}) | {"error": f"{type(error).__name__}: {error}"}
        failed.append(name)
    row["seconds"] = time.perf_counter() - begin
    report["rows"][name] = row
    memory = timing.memory_of(report_device(report))
    row["memory_bytes"] = None if memory is None else memory.used_bytes
    write_json(output, report)
    print_row(name, row)


def report_device(report: dict[str, Any]) -> torch.device:
    return torch.device(report["settings"]["device"])


def print_row(name: str, row: dict[str, Any]) -> None:
    for what, numbers in {"": row.get("result", {})}.items():
        for part in ("simulate", "train"):
            if part in numbers:
                shown = ", ".join(f"{k} {v:,.1f}" for k, v in numbers[part].items() if isinstance(v, float))
                print(f"  {name}, {part}{what}: {shown}", flush=True)
        if "control_steps_per_s" in numbers:
            shown = f"{numbers['control_steps_per_s']:,.0f} control, {numbers['physics_steps_per_s']:,.0f} physics steps/s"
            print(f"  {name}: {shown}", flush=True)
    if "error" in row:
        print(f"  {name}: {row['error']}", flush=True)


def verdicts(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What is to be reached, beside what was; None where it was not measured."""
    rows = []
    for what, (name, least) in GOALS.items():
        found = report["rows"].get(name, {}).get("result", {}).get("simulate", {}).get(what)
        rows.append(
            {
                "what": f"{what}, {name}",
                "found": found,
                "least": least,
                "passed": None if found is None else found >= least,
            }
        )
    return rows


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default=None, help="default cuda; with --rehearse cpu")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes")
    parser.add_argument("--robots", type=int)
    parser.add_argument(
        "--choices",
        type=Path,
        help="output of renderer.py, whose fastest kernels are taken; default: the plain ones",
    )
    parser.add_argument(
        "--lod-px",
        type=float,
        help="show levels of detail at this threshold [px]; default: the scenes themselves",
    )
    parser.add_argument(
        "--scenes-dir", type=Path, help="where scenes are kept for the next run; default: nowhere"
    )
    parser.add_argument(
        "--workers", type=int, default=min(16, os.cpu_count() or 1), help="processes that make scenes"
    )
    folder = Path(os.environ.get("OUT", "."))
    parser.add_argument("--output", type=Path, default=folder / "throughput_gpu.json")
    return parser.parse_args()


def main() -> None:
    args = settings()
    plan = TINY if args.rehearse else Plan()
    if args.robots is not None:
        plan = replace(plan, robots=args.robots, scenes=min(plan.scenes, args.robots))
    device = torch.device(args.device or ("cpu" if args.rehearse else "cuda"))
    if timing.on_gpu(device) and not torch.cuda.is_available():
        raise SystemExit(
            f"error: device {str(device)!r}: torch {torch.__version__} finds no CUDA device; --rehearse needs none"
        )
    device = timing.numbered(device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.scenes_dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        begin = time.perf_counter()
        scenes, shown = open_scenes(plan, folder, args.lod_px, min(args.workers, plan.distinct))
        report: dict[str, Any] = {
            "machine": {
                "device": torch.cuda.get_device_name(device) if timing.on_gpu(device) else platform.processor(),
                "torch": torch.__version__, "python": platform.python_version(),
            },
            "settings": {"device": str(device), "lod_px": args.lod_px, "plan": asdict(plan)}, "rows": {},
            "scenes_made_s": time.perf_counter() - begin,
        }  # fmt: skip
        print(json.dumps(report["machine"]))
        failed = measure(plan, device, scenes, shown, report, args.output, args.choices)
    report["verdicts"] = verdicts(report)
    for row in report["verdicts"]:
        print(
            f"{ {True: 'ok', False: 'MISSED', None: 'not run'}[row['passed']]:<8}{row['what']}: {row['found']} (at least {row['least']:g})"
        )
    write_json(args.output, report)
    print(args.output)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    try:
        main()
    except GaussgymError as error:
        raise SystemExit(f"error: {error}") from None
