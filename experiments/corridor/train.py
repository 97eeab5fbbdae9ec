"""Train for real: two lanes, and only colour says which is safe. Resumable: what is finished is not done again.

    python experiments/corridor/train.py                       # all of it: hours on two busy cores, less than one on quiet ones
    python experiments/corridor/train.py --recipes corridor_pixels --seeds 0
    python experiments/corridor/train.py --report-only         # the report of what is there

Of each training seed: a teacher that is told which lane is safe, a blind policy that is told all but that, PPO end to end from
pixels, and a student of that seed's teacher. Each is evaluated in halls that none was trained in, from the same starts, each start
once with either lane safe, so that who does not see passes in half of the episodes at most.
"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from gaussgym_deploy.metrics import bootstrap_interval, wilson_interval
from gaussgym_learn.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gaussgym_learn.distill import distill
from gaussgym_learn.evaluate import evaluate
from gaussgym_learn.recipes import get_recipe
from gaussgym_learn.run import torch_threads
from gaussgym_learn.train import train
from gaussgym_scene.artifact import write_json
from gaussgym_scene.synth import synthesize
from numpy import array

HERE = Path(__file__).parent
UPDATES = {"corridor_teacher": 28, "corridor_student": 14, "corridor_blind": 28, "corridor_pixels": 56}
"""Updates of a run; one is `PPOCfg.num_envs` x `PPOCfg.steps` decisions."""
TRAINING_HALLS = tuple(range(8))
EVALUATION_HALLS = tuple(range(100, 104))
"""Seeds of the halls: floors, walls and posters differ."""
ABLATIONS = {
    "corridor_pixels": ("none", "blank", "shuffled"),
    "corridor_student": ("none", "blank", "shuffled"),
}
EVALUATION_SEED = 1234


@dataclass
class Corridor:
    """Train, evaluate, report."""

    runs: Path = Path("runs/corridor")
    """Folder of the runs."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training."""
    recipes: tuple[str, ...] = tuple(UPDATES)
    """Which of them."""
    episodes: int = 256
    """Of an evaluation; half as many starts."""
    output: Path = HERE.parent / "results" / "corridor.json"
    """The report."""
    checkpoints: Path = HERE / "checkpoints"
    """Where actors go, without what only training needs."""
    report_only: bool = False
    """Neither train nor evaluate."""
    progress: bool = field(default=True)
    """Show bars on stderr."""

    def run(self) -> None:
        """All of it."""
        with torch_threads(1):
            for seed in self.seeds:
                for name in UPDATES:
                    if name in self.recipes and not self.report_only:
                        self._train(name, seed)
                        self._evaluate(name, seed)
        report(self.runs, self.output)

    def _train(self, name: str, seed: int) -> None:
        out, recipe = self.runs / f"{name}_{seed}", get_recipe(name)
        scenes = [synthesize("hall", hall) for hall in TRAINING_HALLS]
        options: dict[str, Any] = {
            "iterations": UPDATES[name], "seed": seed, "resume": True, "progress": self.progress, "save_minutes": 1.0,
        }  # fmt: skip
        if name == "corridor_student":
            distill(self.runs / f"corridor_teacher_{seed}", scenes, out, recipe=recipe, **options)
        else:
            train(recipe, scenes, out, **options)
        slim(load_checkpoint(out), self.checkpoints / f"{name}_{seed}")

    def _evaluate(self, name: str, seed: int) -> None:
        run = self.runs / f"{name}_{seed}"
        model = load_checkpoint(run).fields["files"]
        halls = [synthesize("hall", hall) for hall in EVALUATION_HALLS]
        for ablate in ABLATIONS.get(name, ("none",)):
            file = run / f"evaluation_{ablate}.json"
            if file.is_file() and json.loads(file.read_text())["model"] == model:
                continue
            result = evaluate(
                run, halls, task="corridor", episodes=self.episodes, ablate=ablate, seed=EVALUATION_SEED,
                progress=self.progress,
            )  # fmt: skip
            write_json(file, {"recipe": name, "training_seed": seed, "model": model, **result})


def slim(checkpoint: Checkpoint, out: Path) -> None:
    """Write an actor's weights alone, as a checkpoint that can be evaluated."""
    kept = (
        "robot",
        "recipe",
        "environment",
        "observations",
        "num_actions",
        "scenes",
        "seed",
        "steps",
        "train_seconds",
        "teacher",
    )
    fields = {name: checkpoint.fields[name] for name in kept if name in checkpoint.fields}
    weights = {
        name: value.to(torch.float32) if value.is_floating_point() else value
        for name, value in checkpoint.state["actor_state_dict"].items()
    }
    for old in out.glob("model_*"):
        old.unlink()
    save_checkpoint(out, {"actor_state_dict": weights}, fields, iteration=int(checkpoint.fields["iteration"]))
    for twin in out.glob("model_*.json"):  # the same as checkpoint.json, for runs that go on
        twin.unlink()


def pool(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Success of all episodes of several evaluations together."""
    success = array([s for r in results for s in r["per_episode"]["success"]], dtype=float)
    low, high = wilson_interval(int(success.sum()), len(success))
    return {
        "episodes": len(success),
        "seeds": len({r["training_seed"] for r in results}),
        "success": round(float(success.mean()), 4),
        "wilson_95": [round(low, 4), round(high, 4)],
        "bootstrap_95": [round(v, 4) for v in bootstrap_interval(success)],
    }


def claims(pooled: dict[str, Any]) -> dict[str, bool]:
    """What the experiment is to show, of those policies that are there."""
    share = {name: row["success"] for name, row in pooled.items()}
    wanted = {
        "PPO from pixels passes in at least 90 %": ("corridor_pixels", lambda s: s["corridor_pixels"] >= 0.9),
        "blind in at most 55 %": ("corridor_blind", lambda s: s["corridor_blind"] <= 0.55),
        "the student in at least 90 % of what its teacher does": (
            "corridor_student",
            lambda s: s["corridor_student"] >= 0.9 * s["corridor_teacher"],
        ),
        "blank images bring PPO from pixels down to chance": (
            "corridor_pixels blank",
            lambda s: s["corridor_pixels blank"] <= 0.55,
        ),
        "blank images bring the student down to chance": (
            "corridor_student blank",
            lambda s: s["corridor_student blank"] <= 0.55,
        ),
        "shuffled images bring both down to chance": (
            "corridor_student shuffled",
            lambda s: max(s["corridor_pixels shuffled"], s["corridor_student shuffled"]) <= 0.55,
        ),
    }
    return {text: bool(holds(share)) for text, (needs, holds) in wanted.items() if needs in share}


def report(runs: Path, output: Path) -> None:
    """Write what was evaluated, per seed and of all seeds together, and print it."""
    found = [json.loads(file.read_text()) for file in sorted(runs.glob("*/evaluation_*.json"))]
    groups: dict[str, list[dict[str, Any]]] = {}
    rows = []
    for one in found:
        label = one["recipe"] + ("" if one["ablate"] == "none" else f" {one['ablate']}")
        groups.setdefault(label, []).append(one)
        manifest = load_checkpoint(runs / f"{one['recipe']}_{one['training_seed']}").fields
        rows.append({
            "policy": label, "training_seed": one["training_seed"], **pool([one]), "dangerous_lane": one["danger"],
            "fell_or_dangerous_lane": one["fell"], "timeout": one["timeout"], "seconds_mean": one["seconds_mean"],
            "decisions_trained": manifest["steps"], "train_seconds": round(manifest["train_seconds"], 1),
        })  # fmt: skip
    pooled = {label: pool(results) for label, results in sorted(groups.items())}
    write_json(
        output,
        {
            "command": "python experiments/corridor/train.py",
            "machine": f"2 cores, no GPU; {platform.machine()}, torch {torch.__version__}",
            "note": "train_seconds were taken beside other work and say little; each start is run twice, with either lane safe",
            "updates": UPDATES,
            "training_halls": list(TRAINING_HALLS),
            "evaluation_halls": list(EVALUATION_HALLS),
            "evaluation_seed": EVALUATION_SEED,
            "pooled": pooled,
            "claims": claims(pooled),
            "per_seed": rows,
        },
    )
    for row in rows:
        low, high = row["wilson_95"]
        print(f"{row['policy']:28} seed {row['training_seed']}: {row['success']:.3f} [{low:.3f}, {high:.3f}]")
    for label, row in pooled.items():
        low, high = row["wilson_95"]
        print(f"{label:28} all   : {row['success']:.3f} [{low:.3f}, {high:.3f}] of {row['episodes']}")
    for text, holds in claims(pooled).items():
        print(f"{'holds' if holds else 'FAILS'}: {text}")


if __name__ == "__main__":
    tyro.cli(Corridor).run()
    sys.exit(0)
