"""Does training from pixels wait on anything? Physics, rendering and learning within a run against each of them alone, in turns.

    python experiments/throughput/train_alone.py --json train_alone.json

PPO from pixels (recipe `pixels`, 64 environments, images of 84 x 48) on a splat street. Each round is one update as a run makes it, whose
times the trainer itself reports; one more that is recorded; then the recorded physics steps (from the recorded states), the recorded
camera poses and the recorded rollout's update, each by itself with nothing between. What is left of the whole is the
policy's own part and rewards, observations and episode starts.
"""

import argparse
import copy
import dataclasses
import json
import os
import statistics
import time
from pathlib import Path

import torch
from gaussgym_learn.env import make_env
from gaussgym_learn.ppo_trainer import PPOTrainer
from gaussgym_learn.recipes import get_recipe
from gaussgym_learn.run import torch_threads
from gaussgym_scene.synth import synthesize

PARTS = ("physics", "render", "learning")


class Recorder:
    """Remembers every physics step and every render call of a trainer's environment while it is on."""

    def __init__(self, env):
        self.sim, self.renderer = env.sim, env.env.camera._renderer
        self.steps, self.frames = [], []

    def __enter__(self):
        self.steps, self.frames = [], []
        step, render = self.sim.step, self.renderer.render

        def recorded_step(target, **options):
            self.steps.append((copy.deepcopy(self.sim.state_dict()), target.clone(), options))
            step(target, **options)

        def recorded_render(*cameras, **options):
            self.frames.append((tuple(torch.as_tensor(c).clone() for c in cameras), options))
            return render(*cameras, **options)

        self.sim.step, self.renderer.render = recorded_step, recorded_render
        return self

    def __exit__(self, *_):
        del self.sim.step, self.renderer.render

    def physics(self):
        """Seconds of the recorded steps alone."""
        seconds = 0.0
        for state, target, options in self.steps:
            self.sim.load_state_dict(state)
            started = time.perf_counter()
            self.sim.step(target, **options)
            seconds += time.perf_counter() - started
        return seconds

    def render(self):
        """Seconds of the recorded images alone."""
        started = time.perf_counter()
        for cameras, options in self.frames:
            self.renderer.render(*cameras, **options)
        return time.perf_counter() - started


def learning(trainer):
    """Seconds of an update on the rollout that is stored, without its effect."""
    before = copy.deepcopy(trainer.alg.save())
    started = time.perf_counter()
    trainer.alg.update()
    seconds = time.perf_counter() - started
    trainer.alg.load(before)
    return seconds


def measured_round(trainer, recorder):
    """One round: seconds of each part within training and alone, and the whole update's."""
    started = time.perf_counter()
    scalars = trainer.iterate()
    whole = time.perf_counter() - started
    within = {part: scalars[f"Perf/{part}_time"] for part in PARTS}
    with recorder:
        trainer.iterate()
    with torch.inference_mode():  # as rollouts are
        after = copy.deepcopy(trainer.env.state_dict())
        alone = {"physics": recorder.physics(), "render": recorder.render()}
        trainer.env.load_state_dict(after)
    alone["learning"] = learning(trainer)
    frames = sum(len(cameras[0]) for cameras, _ in recorder.frames)
    return {"whole_s": whole, "frames": frames, "within_s": within, "alone_s": alone}


def summary(rounds, steps):
    """Medians and ranges of ratios, and speeds."""
    out = {"steps_per_s": statistics.median(steps / r["whole_s"] for r in rounds)}
    for part in PARTS:
        ratios = sorted(r["within_s"][part] / r["alone_s"][part] for r in rounds)
        share = statistics.median(r["within_s"][part] / r["whole_s"] for r in rounds)
        out[part] = {
            "within_over_alone": statistics.median(ratios),
            "range": [ratios[0], ratios[-1]],
            "share_of_update": share,
            "within_s": statistics.median(r["within_s"][part] for r in rounds),
        }
    out["rest_share"] = 1.0 - sum(out[part]["share_of_update"] for part in PARTS)
    return out


def main():
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--envs", type=int, default=64, help="environments")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, after one that does not count")
    parser.add_argument("--json", type=Path, help="write the result here")
    args = parser.parse_args()
    recipe = get_recipe("pixels")
    env_cfg = recipe.env_cfg()
    cfg = dataclasses.replace(env_cfg, camera=dataclasses.replace(env_cfg.camera, width=84, height=48))
    recipe = dataclasses.replace(recipe, env=cfg, ppo=dataclasses.replace(recipe.ppo, num_envs=args.envs))
    with torch_threads(1):
        env = make_env(recipe.task, synthesize("street", 0), args.envs, cfg=cfg, clearance=recipe.clearance)
        trainer = PPOTrainer(recipe, env)
        recorder = Recorder(env)
        rounds = [measured_round(trainer, recorder) for _ in range(args.rounds + 1)][1:]
    result = {
        "machine": f"{torch.get_num_threads()} torch thread, {len(os.sched_getaffinity(0))} cores, no GPU",
        "envs": args.envs, "image": [84, 48], "steps_per_update": recipe.ppo.steps, "rounds": rounds,
        **summary(rounds, args.envs * recipe.ppo.steps),
    }  # fmt: skip
    print(json.dumps({k: v for k, v in result.items() if k != "rounds"}, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
