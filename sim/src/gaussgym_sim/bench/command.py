"""`gaussgym-sim bench`: what is measured, as tables and JSON."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mujoco
import torch
from gaussgym_scene.artifact import write_json
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from tqdm import tqdm

from gaussgym_sim.bench.rivals import AsyncRun, missing_modules
from gaussgym_sim.bench.runs import EnvRun, SimRun, standard_grounds
from gaussgym_sim.bench.timing import Contestant, Results, Spread, ratio, summary, take_turns
from gaussgym_sim.engines.bridge_bench import bench_bridge
from gaussgym_sim.engines.mujoco_sim import effective_cpus
from gaussgym_sim.robot import RobotCfg, get_robot
from gaussgym_sim.vecsim import VecSim, make_sim

_QUICK_SIZES, _FULL_SIZES = (64, 1024), (64, 256, 1024, 4096)
_WARP_ENVS = 64


@dataclass
class Bench:
    """Measure physics steps (200 Hz) and control steps (50 Hz) a second, and what the environment costs on top of physics.

    All contestants of a table take turns in this process; numbers are medians over the rounds, with the least and the largest.
    With --full also: how cost grows to 4096 environments, the bridge, gymnasium's AsyncVectorEnv, MuJoCo Warp on the CPU.
    """

    backend: str = "mujoco"
    """Physics backend."""
    robot: str = "go1"
    """Registered robot."""
    num_envs: int = 256
    """Robots."""
    steps: int = 20
    """Control steps of a round."""
    rounds: int = 3
    """Counted rounds, after one to warm up."""
    threads: int | None = None
    """Physics threads; by default the CPUs this process may use."""
    device: str = "cpu"
    """Where physics is computed."""
    terrain: str = "boxes"
    """What the ground is made of: heightfield, boxes or mesh."""
    randomize: str = "default"
    """Preset of randomization: none, light, default, gaussgym_a1, gaussgym_t1, gaussgym_anymal_c or extreme."""
    scene: tuple[Path, ...] = ()
    """Scene folders; by default a plane and 10 cm stairs on 5 cm cells."""
    full: bool = False
    """Everything; several minutes."""
    json: Path | None = None
    """File for the numbers."""

    def run(self) -> Path | None:
        """Print the tables; return the JSON's path if one was written."""
        if min(self.num_envs, self.steps, self.rounds) < 1:
            raise InputError(
                f"{self.num_envs} environments, {self.steps} steps, {self.rounds} rounds: each must be at least 1"
            )
        torch.set_num_threads(1)
        bench = _Tables(
            self, get_robot(self.robot), [Scene.load(p) for p in self.scene] or standard_grounds()
        )
        if self.full:
            bench.against_gymnasium()  # first: its processes are forks, and no thread runs yet
        bench.rates()
        bench.scaling()
        if self.full:
            bench.bridge()
            bench.against_warp()
        print("\n".join(bench.lines))
        if self.json is None:
            return None
        report = {"settings": asdict(self) | {"scene": [str(p) for p in self.scene]}, "machine": _machine()}
        write_json(self.json, report | bench.report)
        return self.json


@dataclass
class _Tables:
    """The measurements, each of which adds its lines and its part of the report."""

    options: Bench
    robot: RobotCfg
    grounds: list[Scene]
    lines: list[str] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)

    def _sim(self, scene: Scene, num_envs: int, *, backend: str | None = None) -> VecSim:
        o = self.options
        return make_sim(
            backend or o.backend, self.robot, [scene], num_envs, device=o.device, num_threads=o.threads, terrain=o.terrain
        )  # fmt: skip

    def _measure(self, title: str, contestants: dict[str, Contestant]) -> Results:
        total = (self.options.rounds + 1) * len(contestants)
        with tqdm(total=total, desc=title, unit="run") as bar:
            return take_turns(contestants, rounds=self.options.rounds, done=bar.update)

    def _tell(self, title: str, results: Results, keys: tuple[str, ...], **ratios: Spread | str) -> None:
        numbers = summary(results)
        self.report[title] = {
            name: {key: asdict(s) for key, s in part.items()} for name, part in numbers.items()
        }
        self.lines.append(f"\n{title}")
        for name, part in numbers.items():
            self.lines.append(
                f"  {name:<28}" + "   ".join(f"{k} {_shown(part[k])}" for k in keys if k in part)
            )
        for name, value in ratios.items():
            self.report[title][name] = asdict(value) if isinstance(value, Spread) else value
            self.lines.append(f"  {name}: {_shown(value) if isinstance(value, Spread) else value}")

    def rates(self) -> None:
        """Steps a second, and the environment's share, on each ground."""
        o = self.options
        with _closing([self._sim(scene, o.num_envs) for scene in self.grounds]) as sims:
            runs = {
                s.name: EnvRun(sim, steps=o.steps, randomize=o.randomize)
                for s, sim in zip(self.grounds, sims, strict=True)
            }
            results = self._measure("rates", dict(runs))
        keys = ("control_steps_per_s", "physics_steps_per_s", "engine_ms", "physics_ms", "environment_ms")
        self._tell(
            f"{self.robot.name}, {o.num_envs} environments", results,
            (*keys, "overhead_percent", "control_steps_per_cpu_s"),
        )  # fmt: skip

    def scaling(self) -> None:
        """Cost of an environment's step over the number of environments."""
        o, scene = self.options, self.grounds[-1]
        sizes = _FULL_SIZES if o.full else _QUICK_SIZES
        with _closing([self._sim(scene, size) for size in sizes]) as sims:
            runs: dict[str, Contestant] = {
                str(size): EnvRun(sim, steps=max(2, max(sizes) * 2 // size), settle=60, randomize=o.randomize)
                for size, sim in zip(sizes, sims, strict=True)
            }
            results = self._measure("scaling", runs)
        few, many = str(sizes[0]), str(sizes[-1])
        self._tell(
            f"cost by number of environments, {scene.name}", results,
            ("us_per_env_step", "cpu_us_per_env_step", "overhead_percent"),
            cost_of_most_over_fewest=ratio(results, many, few, "us_per_env_step"),
            cpu_cost_of_most_over_fewest=ratio(results, many, few, "cpu_us_per_env_step"),
        )  # fmt: skip

    def bridge(self) -> None:
        """What a step costs more where physics runs in another process, without the physics."""
        row = bench_bridge(_FULL_SIZES[-1], steps=100 * self.options.rounds, robot=self.robot.name)
        self.report["bridge"] = row
        self.lines.append("\nbridge: " + "   ".join(f"{name} {value}" for name, value in row.items()))

    def against_gymnasium(self) -> None:
        """Whole environments, against processes around plain MuJoCo."""
        o, scene = self.options, self.grounds[0]
        if missing := missing_modules("gymnasium"):
            self._skip("gymnasium", f"{missing[0]} is not installed")
            return
        cpus = o.threads or effective_cpus()
        processes = (cpus, 8 * cpus)
        rivals = [
            AsyncRun(self.robot, scene, n, steps=max(10, 400 // n), terrain=o.terrain) for n in processes
        ]
        try:
            with _closing([self._sim(scene, o.num_envs)]) as sims:
                runs: dict[str, Contestant] = {"ours": EnvRun(sims[0], steps=o.steps, randomize=o.randomize)}
                runs |= {f"AsyncVectorEnv, {n} processes": r for n, r in zip(processes, rivals, strict=True)}
                results = self._measure("gymnasium", runs)
        finally:
            for rival in rivals:
                rival.close()
        key = "control_steps_per_s"
        best = max((n for n in runs if n != "ours"), key=lambda name: Spread.of(results[name][key]).median)
        self._tell(
            f"against gymnasium, {scene.name}, {cpus} threads", results, (key,),
            ours_over_the_best=ratio(results, "ours", best, key),
        )  # fmt: skip

    def against_warp(self) -> None:
        """Physics alone, against MuJoCo Warp on its CPU device."""
        o, scene = self.options, self.grounds[0]
        if missing := missing_modules("mujoco_warp", "gaussgym_sim.engines.mjwarp_sim"):
            self._skip("MuJoCo Warp", f"{missing[0]} is not installed")
            return
        warp = make_sim("mjwarp", self.robot, [scene], _WARP_ENVS, device="cpu", terrain=o.terrain)
        with _closing([self._sim(scene, _WARP_ENVS), warp]) as sims:
            runs: dict[str, Contestant] = {
                o.backend: SimRun(sims[0], steps=20),
                "mjwarp on the CPU": SimRun(sims[1], steps=20),
            }
            results = self._measure("MuJoCo Warp", runs)
        key = "control_steps_per_s"
        self._tell(
            f"against MuJoCo Warp on the CPU, {scene.name}, {_WARP_ENVS} environments", results,
            (key, "control_steps_per_cpu_s"), ours_over_warp=ratio(results, o.backend, "mjwarp on the CPU", key),
        )  # fmt: skip

    def _skip(self, what: str, why: str) -> None:
        self.lines.append(f"\n{what}: not measured, {why}")
        self.report[what] = {"not_measured": why}


@contextmanager
def _closing(sims: list[VecSim]) -> Iterator[list[VecSim]]:
    try:
        yield sims
    finally:
        for sim in sims:
            sim.close()


def _shown(s: Spread) -> str:
    return f"{s.median:.4g} ({s.low:.4g}..{s.high:.4g})"


def _machine() -> dict[str, Any]:
    return {
        "cpus": effective_cpus(), "machine": platform.machine(), "system": platform.system(),
        "python": platform.python_version(), "torch": torch.__version__, "mujoco": mujoco.__version__,
    }  # fmt: skip
