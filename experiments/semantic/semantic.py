"""Who sees colour walks around what costs; who sees depth alone walks through it (`python experiments/semantic/semantic.py --help`).

A policy adds to the commands that lead a frozen walker along a street's path (task ``goal_semantic_steered``), five times a second.
A teacher that knows where the yellow patches lie is trained by PPO; students that see colour, depth or nothing are taught by it
(DAgger), with the same network, budget, seeds and scenes; all are then run from the same starts in streets that none was trained
in. Everything that is finished is kept: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gaussgym_learn.acting import load_policy
from gaussgym_learn.checkpoint import load_checkpoint, newest_whole, save_checkpoint
from gaussgym_learn.distill import distill
from gaussgym_learn.evaluate import evaluate
from gaussgym_learn.recipes import CommandingCfg, DistillCfg, NetworkCfg, PPOCfg, Recipe
from gaussgym_learn.train import train
from gaussgym_scene.artifact import write_json
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth import synthesize
from gaussgym_sim.env import EnvCfg

TASK = "goal_semantic_steered"
STUDENTS = {"rgb": ("rgb",), "depth": ("depth",), "blind": ()}
TRAINED_IN, HELD_OUT = range(6), range(100, 104)
"""Seeds of the streets."""
SPLATS = 25_000
COMMANDING = CommandingCfg(
    walker="stairs_teacher", decision_s=0.2, low=(-0.4, 0.0, -1.6), high=(0.4, 0.0, 1.6)
)
"""Sideways the walker is left alone: it was not trained for more than 0.2 m/s."""
PRIVILEGED = ("proprio", "base_vel", "path_command", "cost_map")
METRICS = ("patch_s", "patch_m", "success", "fell", "seconds_mean")


def teacher_recipe() -> Recipe:
    """Reads the cost map."""
    return Recipe(
        "semantic_teacher",
        task=TASK,
        network=NetworkCfg(PRIVILEGED, PRIVILEGED, (128, 64), (128, 64), init_std=0.5),
        ppo=PPOCfg(num_envs=128, steps=24, epochs=4, gamma=0.97, target_kl=0.03, entropy_coef=0.002),
        env=EnvCfg.for_task(TASK),
        commanding=COMMANDING,
    )


def student_recipe(kind: str) -> Recipe:
    """The same for all kinds but for what they see; blind it has no memory either."""
    images = STUDENTS[kind]
    network = NetworkCfg(
        actor_groups=("proprio", "path_command", *images), critic_groups=PRIVILEGED, actor_hidden=(64,), init_std=0.2,
        rnn_hidden=96, feature_dim=64, aux_group="cost_map" if images else None,
    )  # fmt: skip
    return Recipe(
        f"semantic_{kind}",
        task=TASK,
        network=network,
        distill=DistillCfg(num_envs=64, steps=24, epochs=4, action_noise=0.15),
        env=EnvCfg.for_task(TASK),
        commanding=COMMANDING,
    )


def streets(seeds: range, folder: Path) -> list[Scene]:
    """Cobbled streets between houses, made once and kept in a folder."""
    places = [folder / f"street_{seed}" for seed in seeds]
    for seed, place in zip(seeds, places, strict=True):
        if not (place / "scene.json").is_file():
            synthesize("street", seed, max_splats=SPLATS).save(place)
    return [Scene.load(place) for place in places]


class PathAlone:
    """The walker alone, on the path's own commands, as a policy that adds nothing."""

    sees, name, commanding = False, "path", COMMANDING

    def check(self, env: Any) -> None:
        """Fits everywhere."""

    def reset(self, dones: torch.Tensor | None = None) -> None:
        """Remembers nothing."""

    def act(self, obs: Any) -> torch.Tensor:
        """Zeros [E, 3]."""
        return torch.zeros(len(obs["proprio"]), 3)


def trained(run: Path, updates: int, make: Callable[[], Any]) -> None:
    """Train, or go on, unless a run has so many updates already."""
    newest = newest_whole(run)
    if newest is not None and int(newest.fields["iteration"]) >= updates:
        return
    begun = time.process_time()
    make()
    print(f"{run.name}: {updates} updates, {time.process_time() - begun:.0f} s of CPU time", flush=True)


def train_all(args: argparse.Namespace, say: Callable[..., None]) -> None:
    """The teacher, and of each seed a student of each kind."""
    out = args.output
    options: dict[str, Any] = {"resume": True, "save_iterations": 5, "on_iteration": say}
    scenes = streets(TRAINED_IN, out / "scenes")
    trained(out / "teacher", args.teacher_updates, lambda: train(
        teacher_recipe(), scenes, out / "teacher", iterations=args.teacher_updates, **options
    ))  # fmt: skip
    for seed in args.seeds:
        for kind in args.kinds:
            run = out / f"{kind}_{seed}"
            trained(run, args.updates, lambda kind=kind, run=run, seed=seed: distill(
                out / "teacher", scenes, run, recipe=student_recipe(kind), iterations=args.updates, seed=seed,
                renderer="auto" if STUDENTS[kind] else None, **options
            ))  # fmt: skip


def cells(args: argparse.Namespace) -> list[tuple[str, Any, str]]:
    """What is evaluated: name, policy, ablation."""
    out = args.output
    found: list[tuple[str, Any, str]] = [
        ("path", PathAlone(), "none"),
        ("teacher", out / "teacher", "none"),
    ]
    found += [
        (f"{kind}_{seed}", out / f"{kind}_{seed}", "none") for seed in args.seeds for kind in args.kinds
    ]
    if "rgb" in args.kinds:
        ablations = [(seed, how) for how in ("blank", "shuffled") for seed in args.seeds]
        found += [(f"rgb_{seed}_{how}", out / f"rgb_{seed}", how) for seed, how in ablations]
    return found


def evaluate_all(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Each of `cells` from the same starts; kept in files of their own."""
    scenes, results = streets(HELD_OUT, args.output / "scenes"), {}
    for name, policy, ablate in cells(args):
        file = args.output / f"evaluation_{name}.json"
        if not file.is_file():
            policy = policy if isinstance(policy, PathAlone) else load_policy(policy)
            found = evaluate(policy, scenes, task=TASK, episodes=args.episodes, ablate=ablate)
            write_json(file, found)
            print(name, {k: round(found[k], 3) for k in METRICS}, flush=True)
        results[name] = json.loads(file.read_text())
    return results


def pooled(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and of each seed its mean and its bootstrap interval over episodes."""
    row: dict[str, Any] = {"episodes": sum(f["episodes"] for f in found)}
    for name in ("patch_s", "patch_m", "success", "fell", "seconds_mean"):
        row[name] = round(float(np.mean([f[name] for f in found])), 4)
        row[f"{name}_by_seed"] = [f[name] for f in found]
        row[f"{name}_ci95_by_seed"] = [f[f"{name}_ci95"] for f in found]
    return row


def colour_against_depth(policies: dict[str, dict[str, Any]]) -> float:
    """By how much longer depth students are in patches at least [s]: the lowest end of their intervals less the highest of
    those that see colour.
    """
    low = min(interval[0] for interval in policies["depth"]["patch_s_ci95_by_seed"])
    return round(low - max(interval[1] for interval in policies["rgb"]["patch_s_ci95_by_seed"]), 3)


def report(args: argparse.Namespace, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The table as it is committed."""
    groups = {"path": ["path"], "teacher": ["teacher"]}
    groups |= {kind: [f"{kind}_{seed}" for seed in args.seeds] for kind in args.kinds}
    if "rgb" in args.kinds:
        groups |= {
            f"rgb {how}": [f"rgb_{seed}_{how}" for seed in args.seeds] for how in ("blank", "shuffled")
        }
    table: dict[str, Any] = {
        "task": TASK,
        "what": "seconds with a foot, metres with the base in patches, an episode; held-out streets; path: the walker on the path's own commands",
        "command": "python experiments/semantic/semantic.py --output runs/semantic --json experiments/results/goal_semantic.json",
        "machine": "2 cores, no GPU", "robot": "go1", "physics": "mujoco",
        "seeds": args.seeds, "student_updates": args.updates, "teacher_updates": args.teacher_updates,
        "trained_in": [f"street {s}" for s in TRAINED_IN], "held_out": [f"street {s}" for s in HELD_OUT],
        "policies": {name: pooled([results[cell] for cell in names]) for name, names in groups.items()},
    }  # fmt: skip
    if {"rgb", "depth"} <= set(args.kinds):
        table["depth_minus_rgb_patch_s_at_least"] = colour_against_depth(table["policies"])
    return table


def keep(run: Path, folder: Path) -> None:
    """Write the newest actor of a run, without what only training wants."""
    found = load_checkpoint(run)
    state = {"actor_state_dict": found.state["actor_state_dict"]}
    written = ("format", "version", "iteration", "model", "files", "provenance")
    fields = {name: value for name, value in found.fields.items() if name not in written}
    iteration = int(found.fields["iteration"])
    save_checkpoint(folder, state, fields, iteration=iteration)
    (folder / f"model_{iteration}.json").unlink()  # says what checkpoint.json says


def main() -> None:
    """Parse, train, evaluate, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of runs and evaluations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the students")
    parser.add_argument(
        "--kinds", nargs="+", choices=list(STUDENTS), default=list(STUDENTS), help="of students"
    )
    parser.add_argument("--updates", type=int, default=20, help="of each student, 1536 decisions each")
    parser.add_argument("--teacher-updates", type=int, default=55, help="of the teacher, 3072 decisions each")
    parser.add_argument(
        "--episodes", type=int, default=96, help="of each evaluation, from the same starts for all"
    )
    parser.add_argument("--json", type=Path, help="where the table goes")
    parser.add_argument(
        "--keep", type=Path, help="folder for the actors of the teacher and of the first seed's students"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)

    def say(trainer: Any, scalars: dict[str, float]) -> None:
        kept = {
            k.split("/")[-1]: round(v, 3)
            for k, v in scalars.items()
            if k.startswith(("Episode/patch", "Episode/success", "Loss/"))
        }
        print(trainer.recipe.name, trainer.iteration, kept, flush=True)

    train_all(args, say)
    table = report(args, evaluate_all(args))
    if args.json is not None:
        write_json(args.json, table)
    if args.keep is not None:
        for name in ("teacher", *(f"{kind}_{args.seeds[0]}" for kind in args.kinds)):
            keep(args.output / name, args.keep / name)
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
