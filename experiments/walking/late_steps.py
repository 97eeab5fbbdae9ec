"""Do smaller steps late in training keep the walker on its feet on stairs? Continue one checkpoint with changed settings and judge.

    gaussgym-learn train velocity --iterations 1717 --output runs/walker
    python experiments/walking/late_steps.py runs/walker --updates 196 --set ppo.target_kl=0.06
    python experiments/walking/late_steps.py runs/walker --updates 98 --set ppo.steps=20 ppo.mini_batches=4 ppo.target_kl=0.02 ppo.gamma=0.985

Prints error and falls on 10 cm stairs before and after.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from gates import change, judge
from gaussgym_learn.acting import load_policy
from gaussgym_learn.checkpoint import load_checkpoint
from gaussgym_learn.courses import default_course
from gaussgym_learn.recipes import get_recipe
from gaussgym_learn.run import torch_threads
from gaussgym_learn.train import train


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--updates", type=int, default=196)
    parser.add_argument("--set", nargs="*", default=[], dest="changes")
    args = parser.parse_args()
    recipe = get_recipe("velocity")
    for text in args.changes:
        recipe = change(recipe, text)
    fields = load_checkpoint(args.run).fields
    with torch_threads(1), tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / args.run.name
        shutil.copytree(args.run, out)
        print("before", judge(load_policy(out), recipe, ["stairs"]), flush=True)
        last = int(fields["iteration"]) + args.updates
        scenes = default_course("velocity", seed=int(fields["seed"]))
        train(recipe, scenes, out, iterations=last, resume=True, seed=int(fields["seed"]), save_minutes=600.0)
        print("after", args.changes, judge(load_policy(out), recipe, ["stairs"]), flush=True)


if __name__ == "__main__":
    main()
