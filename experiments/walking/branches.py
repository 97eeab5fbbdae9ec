"""Controlled comparisons on stairs: train by a clock of steps, keep checkpoints on the way, go on from one of them with other settings, judge.

    python experiments/walking/branches.py runs/control --stop 6.5 --save 1.1 3.0
    python experiments/walking/branches.py runs/changed --stop 6.5 --start runs/control/at_3.0 --set ppo.gamma=0.99
    python experiments/walking/branches.py runs/changed --judge --json changed.json

Schedules run over `--total` million steps whatever a branch changes, and a branch without changes continues bit for bit as its control.
`--judge` runs 256 robots x 20 s (0.5 to 1 m/s, deterministic) on flat ground and on two kinds of 10 cm stairs that no training has:
`stairs`, treads of 26 to 36 cm in cells of 5 cm; `ramps`, treads of 30 cm in cells of 10 cm, whose risers are slopes of 45 degrees.
It tells error and falls, the share of time that robots stand where they should walk, and the error without that time.
`--noise` adds observation noise and kicks of 0.3 m/s.
"""

import argparse
import contextlib
import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import torch
from gates import AVERAGE, HELD_OUT_SEED, STEP_M, Enough, Snapshot, change
from gaussgym_learn import courses
from gaussgym_learn.checkpoint import load_checkpoint
from gaussgym_learn.env import make_env
from gaussgym_learn.evaluate import evaluation_cfg, run_episodes
from gaussgym_learn.recipes import get_recipe
from gaussgym_learn.run import Budget, torch_threads
from gaussgym_learn.train import train
from gaussgym_sim.randomize import RandomizeCfg

ROBOTS, SEED = 256, 1234
SNAPSHOTS = "snapshots.pt"
STANDS, WINDOW = 0.3, 25
"""A robot stands where its speed over half a second is less than this share of the command."""


class Motion:
    """Speeds and commands of every step, as `run_episodes` lets one watch."""

    def __init__(self, env):
        self.env, self.rows = env, []

    def add(self, obs, row, done):
        """Keep the state before a step."""
        env = self.env.env
        command = getattr(env, "command_before", env.commands.command)
        self.rows.append((env.lin_vel_b[:, :2].clone(), command[:, :2].clone(), ~done[row]))

    def end(self, row, dones, over, extras):
        """Nothing to do."""

    def summary(self):
        """Share of time that robots stand, and mean error of the rest [m/s]; the first second is left out."""
        velocity, command, counts = (torch.stack(x) for x in zip(*self.rows, strict=True))
        counts[:50] = False
        ahead = torch.nn.functional.pad(velocity[..., 0].T[:, None], (WINDOW // 2,) * 2, mode="replicate")
        speed = torch.nn.functional.avg_pool1d(ahead, WINDOW, 1)[:, 0].T
        stands = (speed < STANDS * command[..., 0]) & (command[..., 0] > 0.3) & counts
        walks = counts & ~stands
        error = (velocity - command).norm(dim=-1)
        return {"stands": float(stands.sum() / counts.sum()), "error_walking": float(error[walks].mean())}


def grounds():
    """Where policies are judged."""
    stairs = courses.stairs_course((STEP_M,), lanes=16, length_m=26.0, rubble=False, seed=HELD_OUT_SEED)
    with mock.patch.object(courses, "CELL_M", 0.10):
        ramps = courses.stairs_course(
            (STEP_M,), lanes=16, length_m=26.0, treads_m=(0.3, 0.3), rubble=False, seed=HELD_OUT_SEED
        )
    return {"flat": courses.flat_course(), "stairs": stairs, "ramps": ramps}


def judge(policy, recipe, scene, *, noise):
    """What 256 robots do on a ground."""
    cfg = evaluation_cfg("velocity", recipe.env)
    if noise:
        kicks = dataclasses.replace(RandomizeCfg.none(), kick_m_s=0.3, kick_interval_s=5.0)
        cfg = dataclasses.replace(cfg, noisy_observations=True, randomize=kicks)
    env = make_env("velocity", [scene], ROBOTS, renderer=None, seed=SEED, cfg=cfg)
    motion = Motion(env)
    table = run_episodes(policy, env, episodes=ROBOTS, observers=[motion])
    found = {"error": float(table["velocity_error_m_s"].mean()), "fell": float(table["fell"].mean())}
    return {name: round(value, 4) for name, value in (found | motion.summary()).items()}


def branch(args, recipe):
    """Train, from nothing or from a checkpoint."""
    args.run.mkdir(parents=True, exist_ok=True)
    marks, saves = sorted(args.marks or [args.stop]), sorted(args.save)
    done, average, snapshots = {"steps": 0}, {}, []

    def keep(trainer, scalars):
        done["steps"] = trainer.steps
        with torch.no_grad():
            for name, value in trainer.alg.actor.named_parameters():
                first = trainer.alg.average.get(name, value)
                average.setdefault(name, first.clone()).lerp_(value, 1.0 - AVERAGE)
        m_steps = trainer.steps / 1e6
        if marks and m_steps >= marks[0]:
            marks.pop(0)
            row = {"m_steps": round(m_steps, 3), "std": round(scalars["Policy/mean_std"], 3)}
            snapshots.append((Snapshot.of(trainer, average), row))
            torch.save(snapshots, args.run / SNAPSHOTS)
        if saves and m_steps >= saves[0]:
            shutil.copytree(out, args.run / f"at_{saves.pop(0)}", dirs_exist_ok=True)
        if m_steps >= args.stop:
            raise Enough

    def fraction(budget, seconds, iteration):
        return min(1.0, done["steps"] / (1e6 * args.total))

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Budget, "fraction", fraction):
        out = Path(folder) / "run"
        if args.start is not None:
            shutil.copytree(args.start, out)
            done["steps"] = int(load_checkpoint(out).fields["steps"])
        options = {"save_iterations": 40 if saves else None, "save_minutes": 600.0, "threads": args.threads}
        scenes = courses.default_course(args.recipe, seed=args.seed)
        with contextlib.suppress(Enough):
            train(
                recipe, scenes, out, iterations=10**9, seed=args.seed, resume=args.start is not None,
                on_iteration=keep, **options,
            )  # fmt: skip


def judged(args, recipe):
    """The rows of a run's snapshots."""
    rows, where = [], grounds()
    for kept, row in torch.load(args.run / SNAPSHOTS, weights_only=True):
        policy = Snapshot(recipe.network, kept, "average" if recipe.ppo.average else "weights")
        found = {name: judge(policy, recipe, where[name], noise=args.noise) for name in args.grounds}
        rows.append({**row, **found})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main():
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--recipe", default="velocity")
    parser.add_argument("--start", type=Path, help="run folder to go on from")
    parser.add_argument("--total", type=float, default=6.5, help="million steps over which schedules run")
    parser.add_argument("--stop", type=float, default=6.5, help="million steps")
    parser.add_argument("--marks", type=float, nargs="*", help="million steps at which to keep the policy")
    parser.add_argument(
        "--save", type=float, nargs="*", default=[], help="million steps after which to keep the run"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of physics")
    parser.add_argument("--set", nargs="*", default=[], dest="changes")
    parser.add_argument(
        "--judge", action="store_true", help="judge the policies that were kept, and train none"
    )
    parser.add_argument("--grounds", nargs="+", default=["flat", "stairs", "ramps"])
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    recipe = get_recipe(args.recipe)
    for text in args.changes:
        recipe = change(recipe, text)
    with torch_threads(1):
        if not args.judge:
            branch(args, recipe)
            return
        rows = judged(args, recipe)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"machine": "2 cores, no GPU", "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
