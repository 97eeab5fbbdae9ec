"""Kill a training with SIGKILL at random moments, resume it each time, and compare it with one that nobody touched.

    python experiments/resume/kills.py --kills 20 --pixels-kills 8 --output experiments/results/cpu-2core/kills.json

Moments are uniform over the first few updates of each process; a checkpoint is written every second update, so some fall into
its writing. What is compared: every row of the curve but what a clock says, and every tensor of the last
checkpoint (networks, optimizer, statistics, physics, cameras, random numbers), bit for bit.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gaussgym_learn.checkpoint import load_checkpoint
from gaussgym_learn.courses import default_course
from gaussgym_learn.metrics import read_curve
from gaussgym_learn.recipes import Recipe, get_recipe
from gaussgym_learn.train import train
from gaussgym_scene.synth import synthesize

LONGEST_S = 120.0
"""A process that has done no update for this long hangs [s]."""


def recipe_of(kind: str) -> Recipe:
    """A small version of a recipe."""
    recipe = get_recipe("teacher_flat" if kind == "velocity" else "pixels")
    envs = 16 if kind == "velocity" else 6
    env = replace(recipe.env, episode_s=1.0)  # episodes that end within the run
    return replace(recipe, env=env, ppo=replace(recipe.ppo, num_envs=envs, steps=8, epochs=2, mini_batches=2))


def scenes_of(kind: str) -> list:
    """Where it trains."""
    return list(default_course("teacher_flat", seed=0)) if kind == "velocity" else [synthesize("flat", 0)]


def run(kind: str, out: Path, iterations: int, reached: Any) -> None:
    """Train, or go on, and tell the updates reached."""

    def tell(trainer: Any, _: dict[str, float]) -> None:
        reached.value = trainer.iteration

    # A checkpoint every second update: the updates between are done again.
    options = {"iterations": iterations, "save_iterations": 2, "resume": True, "on_iteration": tell}
    train(recipe_of(kind), scenes_of(kind), out, **options)


def started(kind: str, out: Path, iterations: int) -> tuple[Any, Any]:
    """A process of its own that does it, and the update it has reached. Forked: the imports are done."""
    context = multiprocessing.get_context("fork")
    reached = context.Value("i", 0, lock=False)
    process = context.Process(target=run, args=(kind, out, iterations, reached))
    process.start()
    return process, reached


def rows(out: Path) -> int:
    """Updates in the curve so far."""
    path = out / "curve.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def checkpoint_of(out: Path) -> int:
    """Updates in the newest checkpoint."""
    manifest = out / "checkpoint.json"
    return json.loads(manifest.read_text())["iteration"] if manifest.exists() else 0


def kill_once(kind: str, out: Path, iterations: int, moments: random.Random) -> dict | None:
    """Start or resume it and kill it at a random moment; None if it came to its end first."""
    before = checkpoint_of(out)
    process, reached = started(kind, out, iterations)
    wanted, begun = before + moments.randint(1, 6), time.monotonic()
    first = math.nan
    while process.is_alive() and reached.value < wanted:
        if reached.value > before and math.isnan(first):
            first = time.monotonic()
        if time.monotonic() - begun > LONGEST_S:
            process.kill()
            raise SystemExit(f"{wanted - before} updates took more than {LONGEST_S} s")
        time.sleep(0.001)
    spent = 0.3 if math.isnan(first) else time.monotonic() - first
    delay = (
        moments.uniform(0.0, 1.5) * spent / max(wanted - before - 1, 1)
    )  # up to one and a half updates later
    process.join(delay)
    ended = not process.is_alive()
    process.kill()
    process.join()
    if ended:
        return None
    return {
        "updates_reached": reached.value,
        "then_after_s": round(delay, 4),
        "updates_in_curve": rows(out),
        "checkpoint": checkpoint_of(out),
        "half_written": [path.name for path in out.glob("*.tmp")],
    }


def curve(out: Path) -> list[dict[str, float]]:
    """Rows without what a clock says."""
    return [
        {k: v for k, v in row.items() if k != "minutes" and not k.startswith("Perf/")}
        for row in read_curve(out)
    ]


def differing(a: object, b: object, path: str = "") -> list[str]:
    """Names of the values in which two states differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        names = [f"{path}/{key}" for key in a.keys() ^ b.keys()]
        return names + [d for key in a.keys() & b.keys() for d in differing(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        found = [] if len(a) == len(b) else [path]
        return found + [
            d for i, (x, y) in enumerate(zip(a, b, strict=False)) for d in differing(x, y, f"{path}/{i}")
        ]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
    else:
        same = a == b or (a != a and b != b)
    return [] if same else [path]


def compare(kind: str, kills: int, iterations: int, seed: int, folder: Path) -> dict:
    """One run left alone, one killed as often as asked, and what of them differs."""
    whole, killed = folder / f"{kind}_whole", folder / f"{kind}_killed"
    reference, _ = started(kind, whole, iterations)
    reference.join()
    moments, log = random.Random(seed), []
    while len(log) < kills:
        event = kill_once(kind, killed, iterations, moments)
        if event is None:
            break
        log.append(event)
        print(f"{kind}: kill {len(log)} of {kills}: {event}", file=sys.stderr, flush=True)
    last, _ = started(kind, killed, iterations)
    last.join()
    a, b = load_checkpoint(whole), load_checkpoint(killed)
    return {
        "kind": kind,
        "updates": iterations,
        "kills": len(log),
        "moments": log,
        "rows_equal": curve(whole) == curve(killed) and len(curve(whole)) == iterations,
        "differing_values": differing(a.state, b.state),
        "compared_values": _count(a.state),
    }


def _count(state: object) -> int:
    if isinstance(state, dict):
        return sum(_count(value) for value in state.values())
    return sum(_count(value) for value in state) if isinstance(state, list | tuple) else 1


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of the velocity run")
    parser.add_argument("--pixels-kills", type=int, default=8, help="of the run that sees")
    parser.add_argument("--iterations", type=int, default=120, help="updates of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kills"))
    torch.set_num_threads(1)
    results = [
        compare(kind, kills, options.iterations, options.seed, folder)
        for kind, kills in (("velocity", options.kills), ("pixels", options.pixels_kills))
        if kills
    ]
    shutil.rmtree(folder)
    text = json.dumps({"machine": "2 cores, no GPU", "seed": options.seed, "runs": results}, indent=1)
    if options.output is None:
        print(text)
    else:
        options.output.write_text(f"{text}\n")
        print(options.output)
    if any(not r["rows_equal"] or r["differing_values"] for r in results):
        sys.exit("a killed run differs from the one that was left alone")


if __name__ == "__main__":
    main()
