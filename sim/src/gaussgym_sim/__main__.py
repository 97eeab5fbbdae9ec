"""Command `gaussgym-sim`: check a physics backend, measure its speed."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from gaussgym_scene.command import run
from gaussgym_scene.errors import InputError, StageError
from gaussgym_scene.scene import Scene
from tqdm import tqdm

from gaussgym_sim.bench.command import Bench
from gaussgym_sim.grounds import flat_scene
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

        make([flat_scene()], 1)  # a wrong name is told before the bar starts
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


def main() -> None:
    """Entry point of `gaussgym-sim`."""
    chosen = tyro.extras.subcommand_cli_from_dict({"check": Check, "bench": Bench}, prog="gaussgym-sim")
    sys.exit(run(chosen.run))


if __name__ == "__main__":
    main()
