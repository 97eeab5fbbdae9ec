"""Does an off-policy learner walk sooner? On the same environment, reward and clock as the recipe `velocity` on flat ground.

    python experiments/walking/off_policy.py --minutes 1.5 --seeds 0 --clock cpu2
    python experiments/walking/off_policy.py --learner td3 --envs 128 --batch 1024 --n-step 1 --lr 3e-4 ...

`sac`: soft actor-critic (Haarnoja et al., arXiv 1812.05905) as parallel simulation wants it: many environments, large batches, two critics with
layer normalization, n-step targets, observations normalized by running statistics, time-outs bootstrapped. `td3`: what makes FastTD3
(arXiv 2505.22642), at the size of two cores: a deterministic actor whose noise differs by environment, and two critics that tell the
distribution of returns (C51, Bellemare et al., arXiv 1707.06887), of which the one with the lower mean is the target. Judged as `gates.py` judges.
"""

import argparse
import copy
import json
from pathlib import Path

import torch
from gates import clocks, good, judge
from gaussgym_learn.courses import flat_course
from gaussgym_learn.env import make_env
from gaussgym_learn.recipes import get_recipe
from torch import nn

LOG_STD = (-5.0, 0.5)
ACTION_LIMIT = 3.0
"""Squashed actions reach this far; PPO's trots stay within it."""


def mlp(inputs, outputs, width, *, norm):
    """Two hidden layers."""
    layers = []
    for n in (inputs, width):
        layers += [nn.Linear(n, width), *([nn.LayerNorm(width)] if norm else []), nn.ELU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


class Actor(nn.Module):
    """Squashed Gaussian."""

    def __init__(self, obs_dim, actions, width):
        super().__init__()
        self.net = mlp(obs_dim, 2 * actions, width, norm=False)
        self.register_buffer("mean", torch.zeros(obs_dim))
        self.register_buffer("std", torch.ones(obs_dim))

    def normalized(self, obs):
        """Observations by the statistics so far."""
        return (obs - self.mean) / self.std

    def forward(self, obs):
        """Actions in -1..1, their log probability, and the mean action."""
        mean, log_std = self.net(obs).chunk(2, dim=-1)
        log_std = LOG_STD[0] + 0.5 * (LOG_STD[1] - LOG_STD[0]) * (torch.tanh(log_std) + 1)
        drawn = mean + log_std.exp() * torch.randn_like(mean)
        action = torch.tanh(drawn)
        log_prob = -0.5 * ((drawn - mean) / log_std.exp()).square() - log_std - 0.919
        log_prob = log_prob - torch.log(1 - action.square() + 1e-6)
        return action, log_prob.sum(-1), torch.tanh(mean)


class Deterministic(nn.Module):
    """Actions without a distribution; who explores adds noise."""

    def __init__(self, obs_dim, actions, width):
        super().__init__()
        self.net = mlp(obs_dim, actions, width, norm=False)
        with torch.no_grad():
            self.net[-1].weight.mul_(0.1)
        self.register_buffer("mean", torch.zeros(obs_dim))
        self.register_buffer("std", torch.ones(obs_dim))

    normalized = Actor.normalized

    def forward(self, obs):
        """Actions in -1..1, twice, as `Actor` gives them."""
        action = torch.tanh(self.net(obs))
        return action, None, action


class Replay:
    """The newest transitions of every environment, [T, E, ...]."""

    def __init__(self, length, envs, obs_dim, actions, n_step, gamma):
        self.obs, self.action = torch.zeros(length, envs, obs_dim), torch.zeros(length, envs, actions)
        self.reward, self.ended = torch.zeros(length, envs), torch.zeros(length, envs)
        self.cut = torch.zeros(length, envs)
        self.n_step, self.gamma, self.count = n_step, gamma, 0

    def add(self, obs, action, reward, dones, time_outs):
        """One step of all environments."""
        row = self.count % len(self.obs)
        self.obs[row], self.action[row], self.reward[row] = obs, action, reward
        self.ended[row], self.cut[row] = dones.float(), time_outs
        self.count += 1

    def sample(self, batch):
        """Observation, action, n-step return, observation after it, its discount (0 after a fall)."""
        stored = min(self.count, len(self.obs))
        first = self.count - stored
        t = first + torch.randint(0, stored - self.n_step, (batch,))
        e = torch.randint(0, self.obs.shape[1], (batch,))
        total, discount = torch.zeros(batch), torch.ones(batch)
        alive, last = torch.ones(batch, dtype=torch.bool), t.clone()
        for k in range(self.n_step):
            row = (t + k) % len(self.obs)
            total += torch.where(alive, discount * self.reward[row, e], 0.0)
            fell = alive & (self.ended[row, e] > 0) & (self.cut[row, e] == 0)
            stop = alive & (self.ended[row, e] > 0)
            # An episode that is cut short bootstraps from the state before its end: the one after belongs to the next.
            discount = torch.where(fell, 0.0, torch.where(alive & ~stop, discount * self.gamma, discount))
            alive &= ~stop
            last = torch.where(alive, t + k + 1, torch.where(stop, t + k, last))
        return (
            self.obs[t % len(self.obs), e],
            self.action[t % len(self.obs), e],
            total,
            self.obs[last % len(self.obs), e],
            discount,
        )


class Sac:
    """The learner."""

    def __init__(self, obs_dim, actions, args):
        self.actor = Actor(obs_dim, actions, args.width)
        self.critics = nn.ModuleList(mlp(obs_dim + actions, 1, args.width, norm=True) for _ in range(2))
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = torch.tensor(args.alpha).log().requires_grad_()
        self.wanted_entropy = -args.entropy * actions
        self.actor_step = torch.optim.Adam(self.actor.parameters(), lr=args.lr)
        self.critic_step = torch.optim.Adam(self.critics.parameters(), lr=args.lr)
        self.alpha_step = torch.optim.Adam([self.log_alpha], lr=args.lr)

    def update(self, batch, *, with_actor):
        """One gradient step."""
        obs, action, reward, after, discount = batch
        obs, after = self.actor.normalized(obs), self.actor.normalized(after)
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            following, log_prob, _ = self.actor(after)
            joined = torch.cat([after, following], 1)
            value = torch.min(*(q(joined)[:, 0] for q in self.targets)) - alpha * log_prob
            target = reward + discount * value
        joined = torch.cat([obs, action], 1)
        loss = sum((q(joined)[:, 0] - target).square().mean() for q in self.critics)
        self.critic_step.zero_grad()
        loss.backward()
        self.critic_step.step()
        if with_actor:
            self.improve(obs, alpha)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.targets.parameters()), list(self.critics.parameters()), 0.01)

    def explore(self, obs):
        """Actions of all environments."""
        return self.actor(obs)[0]

    def improve(self, obs, alpha):
        """The actor's and the temperature's step."""
        action, log_prob, _ = self.actor(obs)
        self.critics.requires_grad_(False)
        value = torch.min(*(q(torch.cat([obs, action], 1))[:, 0] for q in self.critics))
        loss = (alpha * log_prob - value).mean()
        self.actor_step.zero_grad()
        loss.backward()
        self.actor_step.step()
        self.critics.requires_grad_(True)
        loss = -(self.log_alpha.exp() * (log_prob.detach() + self.wanted_entropy).mean())
        self.alpha_step.zero_grad()
        loss.backward()
        self.alpha_step.step()


class Td3:
    """The learner without entropy."""

    def __init__(self, obs_dim, actions, args):
        self.actor = Deterministic(obs_dim, actions, args.width)
        self.atoms = torch.linspace(*args.returns, 51)
        self.critics = nn.ModuleList(mlp(obs_dim + actions, 51, args.width, norm=True) for _ in range(2))
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.actor_step = torch.optim.AdamW(self.actor.parameters(), lr=args.lr, weight_decay=0.1)
        self.critic_step = torch.optim.AdamW(self.critics.parameters(), lr=args.lr, weight_decay=0.1)
        # Each environment explores as much as it always does (FastTD3's mixed noise).
        self.noise = torch.empty(args.envs, 1).uniform_(0.001, args.noise)

    def explore(self, obs):
        """Actions of all environments."""
        action = self.actor(obs)[0]
        return (action + self.noise * torch.randn_like(action)).clamp(-1.0, 1.0)

    def projected(self, reward, discount, chances):
        """The distribution `[N, 51]` of reward + discount x a return whose distribution is `chances`, on the atoms."""
        low, step = self.atoms[0], self.atoms[1] - self.atoms[0]
        moved = (reward[:, None] + discount[:, None] * self.atoms).clamp(low, self.atoms[-1])
        place = ((moved - low) / step).clamp(0, len(self.atoms) - 1)
        below = place.floor().clamp(max=len(self.atoms) - 2)
        upper = chances * (place - below)
        below = below.long()
        out = torch.zeros_like(chances)
        return out.scatter_add_(1, below, chances - upper).scatter_add_(1, below + 1, upper)

    def update(self, batch, *, with_actor):
        """One gradient step."""
        obs, action, reward, after, discount = batch
        obs, after = self.actor.normalized(obs), self.actor.normalized(after)
        with torch.no_grad():
            following = self.actor(after)[0]
            joined = torch.cat([after, following], 1)
            chances = torch.stack([q(joined).softmax(-1) for q in self.targets])
            worse = (chances @ self.atoms).argmin(0)
            target = self.projected(reward, discount, chances[worse, torch.arange(len(worse))])
        joined = torch.cat([obs, action], 1)
        loss = sum(-(target * q(joined).log_softmax(-1)).sum(-1).mean() for q in self.critics)
        self.critic_step.zero_grad()
        loss.backward()
        self.critic_step.step()
        if with_actor:
            self.critics.requires_grad_(False)
            joined = torch.cat([obs, self.actor(obs)[0]], 1)
            value = torch.stack([q(joined).softmax(-1) @ self.atoms for q in self.critics]).min(0).values
            self.actor_step.zero_grad()
            (-value.mean()).backward()
            self.actor_step.step()
            self.critics.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.targets.parameters()), list(self.critics.parameters()), 0.05)


LEARNERS = {"sac": Sac, "td3": Td3}


class Snapshot:
    """A copy of the actor, as a policy that `evaluate` takes."""

    sees = False

    def __init__(self, actor, groups, name):
        self.actor, self.groups, self.name = copy.deepcopy(actor), groups, name

    def check(self, env):
        """Nothing to check."""

    def act(self, obs):
        """Mean actions."""
        with torch.no_grad():
            flat = torch.cat([obs[g] for g in self.groups], 1)
            return ACTION_LIMIT * self.actor(self.actor.normalized(flat))[2]

    def reset(self, dones=None):
        """Nothing is remembered."""


def run(args, seed):
    """Train once; snapshots with their times."""
    torch.manual_seed(seed)
    recipe = get_recipe("velocity")
    groups = ("proprio", "base_vel")  # the scan says nothing on flat ground
    env = make_env(
        "velocity",
        [flat_course()],
        args.envs,
        renderer=None,
        seed=seed,
        cfg=recipe.env,
        clearance=recipe.clearance,
    )

    def read(obs):
        return torch.cat([obs[g] for g in groups], 1)

    obs = read(env.get_observations())
    learner = LEARNERS[args.learner](obs.shape[1], env.num_actions, args)
    replay = Replay(
        args.replay // args.envs, args.envs, obs.shape[1], env.num_actions, args.n_step, args.gamma
    )
    snapshots, due, start, step = [], sorted(args.marks), clocks(), 0
    seen, total, squares = 1e-4, torch.zeros(obs.shape[1]), torch.ones(obs.shape[1]) * 1e-4
    while due:
        with torch.no_grad():
            action = learner.explore(learner.actor.normalized(obs))
        new, reward, dones, extras = env.step(ACTION_LIMIT * action)
        replay.add(obs, action, args.reward_scale * reward, dones, extras["time_outs"])
        seen, total, squares = seen + len(obs), total + obs.sum(0), squares + obs.square().sum(0)
        obs = read(new)
        step += 1
        if step % 50 == 0:
            learner.actor.mean.copy_(total / seen)
            learner.actor.std.copy_((squares / seen - (total / seen).square()).clamp_min(1e-4).sqrt())
        if step * args.envs >= args.random:
            for k in range(args.updates):
                learner.update(replay.sample(args.batch), with_actor=k % 2 == 0)
        now = clocks()
        if (now[args.clock] - start[args.clock]) / 60 >= due[0]:
            due.pop(0)
            row = {f"minutes_{k}": round((v - start[k]) / 60, 3) for k, v in now.items()}
            row["m_steps"] = round(step * args.envs / 1e6, 3)
            if args.learner == "sac":
                row["alpha"] = round(float(learner.log_alpha.exp()), 4)
            row["reward_s"] = round(
                float(replay.reward[max(0, step % len(replay.reward) - 20) : step].mean()) * 50, 3
            )
            snapshots.append((Snapshot(learner.actor, groups, f"{args.learner} {step}"), row))
    return recipe, snapshots


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learner", choices=tuple(LEARNERS), default="sac")
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--marks", type=float, nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--clock", choices=("wall", "cpu2"), default="wall")
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument(
        "--updates", type=int, default=2, help="gradient steps a control step of all environments"
    )
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--gamma", type=float, default=0.97)
    parser.add_argument("--n-step", type=int, default=3)
    parser.add_argument("--alpha", type=float, default=0.01)
    parser.add_argument(
        "--entropy", type=float, default=1.0, help="wanted: minus this times the number of joints"
    )
    parser.add_argument("--reward-scale", type=float, default=10.0)
    parser.add_argument("--noise", type=float, default=0.4, help="td3: of the environment that explores most")
    parser.add_argument(
        "--returns", type=float, nargs=2, default=(-5.0, 15.0), help="td3: lowest and highest, scaled"
    )
    parser.add_argument("--replay", type=int, default=400_000)
    parser.add_argument("--random", type=int, default=5_000, help="steps before the first update")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.marks = args.marks or [args.minutes * k / 4 for k in range(1, 5)]
    torch.set_num_threads(1)
    runs = []
    for seed in args.seeds:
        recipe, snapshots = run(args, seed)
        rows = [{**row, **judge(policy, recipe, ["flat"])} for policy, row in snapshots]
        gate = next((r[f"minutes_{args.clock}"] for r in rows if good(r["flat"])), None)
        runs.append({"seed": seed, "gate_minutes": gate, "rows": rows})
        print(args.learner, "seed", seed, "gate", gate, *map(json.dumps, rows), sep="\n    ", flush=True)
    if args.json:
        settings = {k: v for k, v in vars(args).items() if k != "json"}
        args.json.write_text(
            json.dumps({"machine": "2 cores, no GPU", "arguments": settings, "runs": runs}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
