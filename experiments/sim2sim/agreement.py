"""Does the exported policy on the robot's runtime do what the checkpoint does in training's simulator? Shipped policies, same starts.

    python experiments/sim2sim/agreement.py --output build/sim2sim            # what is finished is kept, the rest goes on

For each shipped policy that a robot can run: export it, evaluate the checkpoint (batched physics, torch), run the bundle through the
real runtime (plain MuJoCo and splat camera in a process of their own, onnxruntime) from the same starts, and compare. Fails (exit
status 1) if the success of any scene differs by more than 5 points. Teachers read what no robot measures; `export` refuses them,
and their line says so.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gaussgym_learn
import numpy as np
import tyro
from gaussgym_deploy.bundle import BundleError, PolicyBundle
from gaussgym_deploy.metrics import bootstrap_interval
from gaussgym_deploy.reporting import ProgressLine
from gaussgym_deploy.sim2sim import sim2sim_in_scene
from gaussgym_learn.evaluate import evaluate, fixed_starts
from gaussgym_learn.export import export_policy
from gaussgym_learn.run import torch_threads
from gaussgym_scene import synthesize
from gaussgym_scene.artifact import write_json
from gaussgym_scene.command import run
from gaussgym_scene.errors import InputError, StageError
from gaussgym_scene.scene import Scene

POLICIES = Path(gaussgym_learn.__file__).parent / "policies"
SCENES: dict[str, tuple[str, dict[str, Any]]] = {
    "street_0": ("street", {"seed": 0, "max_splats": 60000}),
    "stairs15_11": ("stairs", {"seed": 11, "step_height_m": 0.15, "max_splats": 25000}),
}
"""None of them was trained on."""
POINTS = 5.0
COMPARED = ("velocity_error_m_s", "yaw_rate_error_rad_s", "cost_of_transport", "seconds_mean", "path_m_mean")


@dataclass
class Agreement:
    """Compare sim2sim with evaluate for the shipped policies and write DIR/sim2sim.json."""

    output: Path
    """Folder for scenes, bundles and results."""
    episodes: int = 128
    """Starts in each scene."""
    scenes: tuple[str, ...] = tuple(SCENES)
    """Which scenes."""

    def run(self) -> Path:
        """Return the report's path."""
        self.output.mkdir(parents=True, exist_ok=True)
        for name in self.scenes:
            if name not in SCENES:
                raise InputError(f"unknown scene {name!r}; choose from: {', '.join(SCENES)}")
        report: dict[str, Any] = {"episodes_per_scene": self.episodes, "policies": {}}
        for policy in sorted(path.parent for path in POLICIES.glob("*/checkpoint.json")):
            report["policies"][policy.name] = self._policy(policy)
        rows = [row for p in report["policies"].values() for row in p.get("scenes", {}).values()]
        report["passed"] = bool(rows) and all(abs(row["difference_points"]) <= POINTS for row in rows)
        path = self.output / "sim2sim.json"
        write_json(path, report)
        for name, policy in report["policies"].items():
            for scene, row in policy.get("scenes", {}).items():
                print(
                    f"{name:<16} {scene:<12} evaluate {row['evaluate']['success']:.1%}  sim2sim {row['sim2sim']['success']:.1%}"
                    f"  difference {row['difference_points']:+.1f} points {row['difference_points_ci95']}"
                )
            if "not_exported" in policy:
                print(f"{name:<16} {policy['not_exported']}")
        if not report["passed"]:
            raise StageError(f"sim2sim and evaluate differ by more than {POINTS:g} points, see {path}")
        return path

    def _policy(self, checkpoint: Path) -> dict[str, Any]:
        bundle = self.output / f"{checkpoint.name}_bundle"
        if not (bundle / "policy.json").is_file():
            try:
                export_policy(checkpoint, bundle, self._scene(self.scenes[0]))
            except InputError as error:
                return {"not_exported": str(error).removeprefix(f"{checkpoint}: ")}
        return {"scenes": {name: self._compare(checkpoint, bundle, name) for name in self.scenes}}

    def _scene(self, name: str) -> Path:
        folder = self.output / name
        if not (folder / "scene.json").is_file():
            kind, parameters = SCENES[name]
            synthesize(kind, **parameters).save(folder)
        return folder

    def _compare(self, checkpoint: Path, bundle: Path, scene: str) -> dict[str, Any]:
        both: dict[str, dict[str, Any]] = {}
        for side, measure in (("evaluate", self._evaluate), ("sim2sim", self._sim2sim)):
            path = self.output / f"{checkpoint.name}_{scene}_{self.episodes}_{side}.json"
            if not path.is_file():
                source = checkpoint if side == "evaluate" else bundle
                write_json(path, measure(source, self._scene(scene)))
            both[side] = json.loads(path.read_text(encoding="utf-8"))
        return compare(both["evaluate"], both["sim2sim"])

    def _evaluate(self, checkpoint: Path, scene: Path) -> dict[str, Any]:
        return evaluate(checkpoint, scene, episodes=self.episodes, starts=self._starts(scene), progress=True)

    def _sim2sim(self, bundle: Path, scene: Path) -> dict[str, Any]:
        starts = scene.with_name(f"{scene.name}_starts.json")
        write_json(starts, self._starts(scene).to_dict())
        line = ProgressLine(self.episodes, f"sim2sim {scene.name}")
        report = sim2sim_in_scene(
            PolicyBundle.load(bundle),
            scene,
            episodes=self.episodes,
            starts=starts,
            progress=lambda so_far: line.show(so_far.episodes, f", success {so_far.success_rate:.0%}"),
        )
        fields = asdict(report)
        return {**fields.pop("metrics"), "runtime": {k: v for k, v in fields.items() if k != "results"}}

    def _starts(self, scene: Path) -> Any:
        return fixed_starts([Scene.load(scene)], self.episodes)


def compare(evaluated: dict[str, Any], simulated: dict[str, Any]) -> dict[str, Any]:
    """Success side by side; the interval is that of the mean difference over starts, since both ran the same ones.

    Args:
        evaluated: what `evaluate` returns.
        simulated: the same names from sim2sim.
    """
    pairs = [np.array(side["per_episode"]["success"], float) for side in (simulated, evaluated)]
    difference = 100 * (pairs[0] - pairs[1])
    keys = ("episodes", "success", "success_ci95", "fell", "timeout", "falls_per_km", *COMPARED)
    return {
        "evaluate": {key: evaluated[key] for key in keys},
        "sim2sim": {key: simulated[key] for key in keys},
        "difference_points": round(float(difference.mean()), 2),
        "difference_points_ci95": [round(x, 2) for x in bootstrap_interval(difference)],
        "same_outcome": round(float((difference == 0).mean()), 4),
        "runtime": {
            key: simulated["runtime"][key]
            for key in ("faults_by_result", "interventions", "inference_ms", "control_steps")
        },
    }


def main() -> None:
    """Entry point."""

    def body() -> Path:
        try:
            with torch_threads(1):
                return tyro.cli(Agreement, description=__doc__).run()
        except BundleError as error:
            raise StageError(str(error)) from None

    raise SystemExit(run(body))


if __name__ == "__main__":
    main()
