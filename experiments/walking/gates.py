"""Minutes of training until a recipe's policy walks: train with several seeds, judge snapshots on fixed starts.

    python experiments/walking/gates.py --recipe velocity --minutes 2.5 --seeds 0 1 2 3 4 --json walking.json

While a run trains, copies of its actor are kept at fixed times of the training's own clock; they are judged when it is over, so that
judging costs the training nothing. Flat ground: 64 robots x 20 s, 0.5 to 1 m/s along curved tracks; stairs: as many on lanes of 10 cm
steps up and down that were not trained on. Deterministic policy, no noise. The gate: error at most 0.1 m/s and at most 2 % fell.

`--keep DIR` also writes the snapshots there, and `--judge DIR` judges them later, when the machine need not be quiet: training alone is timed.
`--set` changes one setting of the recipe, for controlled comparisons: `--set ppo.num_envs=512 env.randomize=light`.
"""

import argparse
import ast
import contextlib
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from gaussgym_learn.courses import default_course, flat_course, stairs_course
from gaussgym_learn.evaluate import evaluate
from gaussgym_learn.models import build_actor
from gaussgym_learn.recipes import get_recipe
from gaussgym_learn.run import torch_threads
from gaussgym_learn.train import train
from gaussgym_sim.randomize import RandomizeCfg

ERROR_M_S, FELL = 0.1, 0.02
AVERAGE = 0.95
"""Share that the running average of an actor's parameters keeps at each update."""
EPISODES, HELD_OUT_SEED, STEP_M = 64, 1000, 0.10
RANDOMIZE = {"light": RandomizeCfg.light(), "full": RandomizeCfg(), "none": RandomizeCfg.none()}


class Enough(Exception):
    """The run has trained as long as its clock should."""


class Snapshot:
    """A copy of a training actor, as a policy that `evaluate` takes."""

    sees = False

    def __init__(self, network, kept, which="weights"):
        self.network, self.kept, self.which = network, kept, which
        self.name = f"update {kept['iteration']}"

    @staticmethod
    def of(trainer, average):
        """What to keep of a trainer's actor, and of the running average of its parameters."""
        weights = {key: value.clone() for key, value in trainer.alg.actor.state_dict().items()}
        env = trainer.env
        return {
            "iteration": trainer.iteration,
            "layout": env.layout,
            "actions": env.num_actions,
            "weights": weights,
            "average": weights | {name: value.clone() for name, value in average.items()},
        }

    def check(self, env):
        """Build the network, with the kept weights."""
        self.model = build_actor(self.network, self.kept["layout"], self.kept["actions"])
        self.model.load_state_dict(self.kept[self.which])
        self.model.eval()

    def act(self, obs):
        """Mean actions."""
        with torch.no_grad():
            return self.model(obs)

    def reset(self, dones=None):
        """Nothing is remembered."""


def ground(name):
    """The scenes of an evaluation: `flat`, or `up` and `down` 10 cm stairs that end where the walk does."""
    if name == "flat":
        return [flat_course()]
    return [stairs_course((STEP_M,), lanes=16, length_m=26.0, rubble=False, seed=HELD_OUT_SEED)]


def judge(policy, recipe, grounds):
    """Errors and falls of a policy on each ground."""
    out = {}
    for name in grounds:
        result = evaluate(policy, ground(name), task="velocity", episodes=EPISODES, cfg=recipe.env, seed=1234)
        out[name] = {
            "error": result["velocity_error_m_s"],
            "fell": result["fell"],
            "seconds": result["seconds_mean"],
        }
    return out


def change(recipe, text):
    """A recipe with `path.to.field=value`."""
    path, value = text.split("=", 1)
    try:
        value = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        value = RANDOMIZE[value] if path == "env.randomize" else value

    def put(node, names):
        inner = value if len(names) == 1 else put(getattr(node, names[0]), names[1:])
        return dataclasses.replace(node, **{names[0]: inner})

    return put(recipe, path.split("."))


def clocks():
    """Wall seconds, and CPU seconds of the process over its two cores: what is left on a machine that others load too."""
    return {"wall": time.perf_counter(), "cpu2": time.process_time() / 2}


def run(recipe, scenes, *, seed, minutes, clock, marks, out, budget):
    """Train once; returns the snapshots, each with its row of times.

    `budget` bounds the run, so that schedules over its progress know its length; by CPU time there is no such bound.
    """
    bound = {"minutes": budget} if clock == "wall" else {"minutes": 600.0}
    if clock == "m_steps":
        bound = {"iterations": round(budget * 1e6 / (recipe.ppo.num_envs * recipe.ppo.steps))}
    snapshots, due = [], sorted(marks)
    start = {}
    average = {}

    def keep(trainer, scalars):
        with torch.no_grad():
            for name, value in trainer.alg.actor.named_parameters():
                average.setdefault(name, value.clone()).lerp_(value, 1.0 - AVERAGE)
        spent = trainer.steps / 1e6 if clock == "m_steps" else (clocks()[clock] - start[clock]) / 60
        if due and spent >= due[0]:
            while due and spent >= due[0]:
                due.pop(0)
            times = {f"minutes_{name}": round((now - start[name]) / 60, 3) for name, now in clocks().items()}
            m_steps = round(trainer.steps / 1e6, 3)
            row = {**times, "m_steps": m_steps, "std": round(scalars["Policy/mean_std"], 3)}
            row |= {k.split("/")[-1]: round(scalars[k], 4) for k in ("Loss/kl", "Loss/learning_rate")}
            row |= {
                k: round(scalars[k], 3) for k in ("Curriculum/level", "Train/mean_reward") if k in scalars
            }
            snapshots.append((Snapshot.of(trainer, average), row))
        if spent >= minutes:
            raise Enough

    def begin(trainer, scalars):
        if not start:
            # The first update is over: what it took is counted, compiling kernels and opening files is not.
            took = sum(scalars[f"Perf/{part}_time"] for part in ("collection", "learning"))
            start.update({name: now - took for name, now in clocks().items()})
        keep(trainer, scalars)

    with contextlib.suppress(Enough):
        train(recipe, scenes, out, **bound, seed=seed, save_minutes=600.0, on_iteration=begin)
    return snapshots


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="velocity")
    parser.add_argument("--minutes", type=float, default=2.0, help="or million steps, by that clock")
    parser.add_argument("--marks", type=float, nargs="*", help="minutes at which to judge; default: six")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--clock", choices=("wall", "cpu2", "m_steps"), default="wall")
    parser.add_argument(
        "--budget", type=float, help="length of the run that is stopped after --minutes; default: the same"
    )
    parser.add_argument("--grounds", nargs="+", default=["flat"])
    parser.add_argument("--set", nargs="*", default=[], dest="changes")
    parser.add_argument("--label")
    parser.add_argument("--keep", type=Path, help="write snapshots here and do not judge them")
    parser.add_argument(
        "--judge", type=Path, help="judge the snapshots that lie here; give the arguments of the training"
    )
    parser.add_argument(
        "--average", action="store_true", help="judge the running average of the actor's parameters"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    recipe = get_recipe(args.recipe)
    for text in args.changes:
        recipe = change(recipe, text)
    runs = []
    for seed in args.seeds:
        file = f"seed_{seed}.pt"
        with torch_threads(1):
            if args.judge is None:
                snapshots = trained(args, recipe, seed)
            else:
                snapshots = torch.load(args.judge / file, weights_only=True)
            if args.keep is not None:
                args.keep.mkdir(parents=True, exist_ok=True)
                torch.save(snapshots, args.keep / file)
                continue
            rows = [
                {
                    **row,
                    **judge(
                        Snapshot(recipe.network, kept, "average" if args.average else "weights"),
                        recipe,
                        args.grounds,
                    ),
                }
                for kept, row in snapshots
            ]
        passed = [row for row in rows if all(good(row[ground]) for ground in args.grounds)]
        gate = (
            passed[0]["m_steps" if args.clock == "m_steps" else f"minutes_{args.clock}"] if passed else None
        )
        runs.append({"seed": seed, "gate_minutes": gate, "rows": rows})
        print(
            args.label or args.changes,
            "seed",
            seed,
            "gate",
            gate,
            *map(json.dumps, rows),
            sep="\n    ",
            flush=True,
        )
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(report(args, recipe, runs), indent=1) + "\n")


def trained(args, recipe, seed):
    """The snapshots of one seed."""
    marks = args.marks or [args.minutes * k / 6 for k in range(1, 7)]
    scenes = default_course(args.recipe, seed=seed)
    with tempfile.TemporaryDirectory() as out:
        return run(
            recipe,
            scenes,
            seed=seed,
            minutes=args.minutes,
            clock=args.clock,
            marks=marks,
            out=out,
            budget=args.budget or args.minutes,
        )


def good(result):
    """Whether a policy passes the gate."""
    return result["error"] <= ERROR_M_S and result["fell"] <= FELL


def report(args, recipe, runs):
    """What is written."""
    gates = sorted(float("inf") if r["gate_minutes"] is None else r["gate_minutes"] for r in runs)
    middle = statistics.median(gates)
    return {
        "machine": "2 cores, no GPU",
        "label": args.label,
        "arguments": {k: v for k, v in vars(args).items() if k not in ("json", "label", "keep", "judge")},
        "gate": {
            "error_m_s": ERROR_M_S,
            "fell": FELL,
            "median_minutes": middle if middle < float("inf") else None,
        },
        "runs": runs,
        "recipe": recipe.to_dict(),
    }


if __name__ == "__main__":
    main()
