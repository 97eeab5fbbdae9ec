"""Command `gaussgym-sim`: check a physics backend, measure its speed."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from gaussgym_scene.command import run
from gaussgym_scene.errors import InputError, StageError
from gaussgym_scene.scene import Scene
from tqdm import tqdm

from gaussgym_sim.bench import bench_env, standard_grounds
from gaussgym_sim.testing import CONFORMANCE, missing
from gaussgym_sim.vecsim import make_sim


@dataclass
class Check:
    """Compare a physics backend with analytic truth: fall, stance, friction, terrain, frames, determinism, bad states."""

    backend: str = "mujoco"
    """Physics backend."""
    robot: str = "go1"
    """Registered robot."""

    def run(self) -> None:
        """Print one line a check; fail if one fails."""

        def make(scenes: list[Scene], num_envs: int, *, num_threads: int | None = None) -> object:
            return make_sim(self.backend, self.robot, scenes, num_envs, num_threads=num_threads)

        make(standard_grounds()[:1], 1)  # a wrong name is told before the bar starts
        results = []
        for check in tqdm(CONFORMANCE, desc="check", unit="check"):
            if lacking := missing(check, make):  # type: ignore[arg-type]
                print(f"skip  {check.__name__}: {self.backend} has no {', '.join(sorted(lacking))}")
            else:
                results += check(make)  # type: ignore[arg-type]
        for r in results:
            mark = "ok  " if r.passed else "FAIL"
            print(
                f"{mark}  {r.name:<44} {r.measured:10.5g}  expected {r.expected:.5g} +- {r.tolerance:.2g} {r.unit}"
            )
        failed = [r.name for r in results if not r.passed]
        if failed:
            raise StageError(f"{len(failed)} of {len(results)} checks failed: {', '.join(failed)}")


@dataclass
class Bench:
    """Measure control steps (50 Hz) and physics steps (200 Hz) a second, per wall second and per CPU second."""

    num_envs: int = 256
    """Robots."""
    steps: int = 200
    """Control steps to time on each ground."""
    threads: int | None = None
    """Physics threads; by default the CPUs this process may use."""
    robot: str = "go1"
    """Registered robot."""
    scene: tuple[Path, ...] = ()
    """Scene folders; by default a plane and 10 cm stairs on 5 cm cells."""
    json: Path | None = None
    """File for the numbers."""

    def run(self) -> Path | None:
        """Print the numbers; return the JSON's path if one was written."""
        if self.num_envs < 1 or self.steps < 1:
            raise InputError(f"{self.num_envs} environments, {self.steps} steps: both must be at least 1")
        torch.set_num_threads(1)
        grounds = [Scene.load(path) for path in self.scene] or standard_grounds()
        rows = []
        for ground in tqdm(grounds, desc="bench", unit="ground"):
            rows.append(
                bench_env(
                    ground,
                    num_envs=self.num_envs,
                    steps=self.steps,
                    robot=self.robot,
                    num_threads=self.threads,
                )
            )
        for row in rows:
            print("  ".join(f"{key} {value}" for key, value in row.items()))
        if self.json is None:
            return None
        partial = self.json.with_name(self.json.name + ".partial")
        partial.write_text(json.dumps(rows, indent=1))
        partial.replace(self.json)
        return self.json


@dataclass
class ImportActuator:
    """Turn a TorchScript actuator network (MLP or LSTM) into a file for a robot's ActuatorCfg(kind="net", net=FILE)."""

    file: tyro.conf.Positional[Path]
    """What torch.jit.save wrote. An MLP takes [N, 2n]: n position errors [rad], newest first, then n velocities [rad/s]; an LSTM
    takes [N, 1, 2] and its memory, and returns torque and memory."""
    output: Path
    """File to write (.npz)."""
    kind: Literal["auto", "mlp", "lstm"] = "auto"
    """What it must be."""
    history: tuple[int, ...] | None = None
    """An MLP's times in substeps of 5 ms ago; by default 0 1 2 ..."""
    order: Literal["error_first", "velocity_first"] = "error_first"
    """Of the inputs."""
    activation: Literal["auto", "identity", "relu", "elu", "tanh", "sigmoid", "softsign"] = "auto"
    """Between dense layers; by default the one with which the torques agree."""
    error_scale: float = 1.0
    """Factor on errors outside the module."""
    velocity_scale: float = 1.0
    """Factor on velocities outside the module."""
    torque_scale: float = 1.0
    """Factor on the module's output that gives Nm."""

    def run(self) -> Path:
        """Write the file; return its path."""
        from gaussgym_sim.import_actuator import import_torchscript

        options = {k: v for k, v in vars(self).items() if k not in ("file", "output")}
        net = import_torchscript(self.file, self.output, **options)
        print(
            f"{len(net.lstm)} LSTM and {len(net.dense)} dense layers, {net.activation}, torques as the module's"
        )
        return self.output


def main() -> None:
    """Entry point of `gaussgym-sim`."""
    chosen = tyro.extras.subcommand_cli_from_dict(
        {"check": Check, "bench": Bench, "import-actuator": ImportActuator}, prog="gaussgym-sim"
    )
    sys.exit(run(chosen.run))


if __name__ == "__main__":
    main()
