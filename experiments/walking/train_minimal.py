"""Train the Go1 from nothing on flat ground with the smallest possible PPO loop, and evaluate as it learns.

    python experiments/walking/train_minimal.py --minutes 2 --seed 0

Prints one line an evaluation: training minutes (evaluation excluded), million control steps, mean velocity error, share of robots that
fell. "Fell" is trunk contact or tilt > 60 degrees at least once in 20 s of 0.5-1 m/s forward commands, deterministic policy, no noise.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.vecsim import make_sim
from rsl_rl.algorithms import PPO
from rsl_rl.models import MLPModel
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict


class PPOWholeUpdateKL(PPO):
    """Learning rate set once per update from the KL of the whole update (per-minibatch adaptation stalls here)."""

    target_kl = 0.06

    def update(self):
        st = self.storage
        old = tuple(p.flatten(0, 1).clone() for p in st.distribution_params)
        normalize = self.actor.update_normalization

        def measure_then_normalize(obs):
            with torch.no_grad():
                self.actor(obs, stochastic_output=True)
                self.kl = (
                    self.actor.get_kl_divergence(old, self.actor.output_distribution_params).mean().item()
                )
            normalize(obs)

        self.actor.update_normalization = measure_then_normalize
        losses = super().update()
        self.actor.update_normalization = normalize
        if self.kl > 1.3 * self.target_kl:
            self.learning_rate = max(1e-5, self.learning_rate / 1.2)
        elif self.kl < self.target_kl / 1.3:
            self.learning_rate = min(1e-2, self.learning_rate * 1.1)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        return losses


def flat_scene():
    x = np.arange(-15, 15.01, 0.25, dtype=np.float32)
    points = np.stack([x, 0 * x, 0 * x, 0 * x], axis=1)
    heights = np.zeros((41, 161), np.float32)
    field = Heightfield(heights, 0.25, np.array([-20.0, -5.0]), np.ones_like(heights, bool))
    return Scene("flat", heightfield=field, paths=Paths(points, np.zeros(len(x)), np.full(len(x), 2.0)))


def to_td(obs, n):
    return TensorDict(obs, batch_size=[n])


@torch.no_grad()
def evaluate(actor, sim, env_cfg, seconds=20.0):
    commands = replace(
        env_cfg.commands,
        lin_vel_x_m_s=(0.5, 1.0),
        lin_vel_y_m_s=(0.0, 0.0),
        standing_fraction=0.0,
        heading_fraction=1.0,
        resample_s=1e6,
    )
    cfg = replace(env_cfg.for_evaluation(), commands=commands, episode_s=1e6)
    env = Env(sim, cfg, seed=1)
    fell = torch.zeros(env.num_envs, dtype=torch.bool)
    error, steps = 0.0, round(seconds / cfg.control_s)
    obs = env.get_observations()
    for i in range(steps):
        command = env.commands.command[:, :2].clone()
        obs, _, _, extras = env.step(actor(to_td(obs, env.num_envs)))
        fell |= extras["fell"]
        if i > 50:
            error += (env._lin_vel_b[:, :2] - command).norm(dim=1).mean().item() / (steps - 51)
    return error, fell.float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--evaluate-every", type=float, default=0.26, help="million steps")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu2"),
        default="wall",
        help="cpu2: CPU seconds / 2, for a loaded machine",
    )
    parser.add_argument("--json")
    parser.add_argument("--save")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    n, horizon, scenes = args.envs, 20, [flat_scene()]
    env_cfg = EnvCfg()
    env = Env(make_sim("mujoco", "go1", scenes, n), env_cfg, seed=args.seed)
    eval_sim = make_sim("mujoco", "go1", scenes, 64)
    obs = to_td(env.get_observations(), n)
    groups = {"actor": ["proprio", "base_vel", "scan"], "critic": ["proprio", "base_vel", "scan"]}
    shared = dict(hidden_dims=[128, 128], activation="elu", obs_normalization=True)
    noise = dict(class_name="GaussianDistribution", init_std=0.8)
    actor = MLPModel(obs, groups, "actor", 12, **shared, distribution_cfg=noise)
    critic = MLPModel(obs, groups, "critic", 1, **shared)
    ppo = PPOWholeUpdateKL(
        actor,
        critic,
        RolloutStorage("rl", n, horizon, obs, [12]),
        num_learning_epochs=3,
        num_mini_batches=4,
        gamma=0.98,
        lam=0.95,
        learning_rate=1e-3,
        entropy_coef=0.005,
        schedule="fixed",
    )
    clock = time.perf_counter if args.clock == "wall" else (lambda: time.process_time() / 2)
    spent = steps = since = 0.0
    rows = []
    while spent < 60 * args.minutes:
        t = clock()
        with torch.no_grad():
            for _ in range(horizon):
                action = ppo.act(obs)
                new, reward, dones, extras = env.step(action)
                obs = to_td(new, n)
                ppo.process_env_step(obs, reward, dones, extras)
            ppo.compute_returns(obs)
        ppo.update()
        spent += clock() - t
        steps += n * horizon / 1e6
        since += n * horizon / 1e6
        if since >= args.evaluate_every or spent >= 60 * args.minutes:
            since = 0.0
            error, fell = evaluate(actor, eval_sim, env_cfg)
            log = {k: round(float(v), 3) for k, v in extras["log"].items()}
            row = dict(
                minutes=spent / 60,
                m_steps=steps,
                error=error,
                fell=fell,
                lr=ppo.learning_rate,
                kl=ppo.kl,
                std=actor.output_std.mean().item(),
                reward=reward.mean().item(),
            )
            rows.append(row)
            print({k: round(v, 4) for k, v in row.items()}, flush=True)
            print("   ", log, flush=True)
            if args.json:
                Path(args.json).write_text(json.dumps(rows, indent=1))
    if args.save:
        torch.save(ppo.save(), args.save)


if __name__ == "__main__":
    main()
