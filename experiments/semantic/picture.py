"""Draws where robots walk among patches, seen from above: `python experiments/semantic/picture.py runs/semantic tracks.png`.

Each row is one start in a street that no policy was trained in; all policies have the same start and the same patches.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from gaussgym_learn.acting import load_policy, reads
from gaussgym_learn.commanding import make_policy_env
from gaussgym_learn.evaluate import evaluation_cfg, fixed_starts
from gaussgym_learn.recipes import with_images
from semantic import COMMANDING, HELD_OUT, TASK, PathAlone, streets

COLORS = {"path": "0.45", "teacher": "tab:green", "depth": "tab:red", "rgb": "tab:blue"}


@dataclass
class Tracks:
    """Way of one policy from each start, in the path's frame at the start: x along it, y to its left.

    Attributes:
        xy_m: of each start `[T, 2]`, until its episode ends.
        patches: centres, half sides and the angle of their sides [rad], of each start.
        inside_s: time with a foot in a patch, of each start.
    """

    xy_m: list[np.ndarray]
    patches: list[tuple[np.ndarray, np.ndarray, float]]
    inside_s: np.ndarray


def walk(policy: Any, scenes: list[Any], count: int) -> Tracks:
    """Run a policy once from each of ``count`` starts."""
    cfg = with_images(evaluation_cfg(TASK), reads(policy))
    starts = fixed_starts(scenes, count, task=TASK)
    env: Any = make_policy_env(
        COMMANDING, TASK, scenes, count, renderer="auto" if policy.sees else None, cfg=cfg, starts=starts
    )
    policy.check(env)
    policy.reset()
    inner, state = env.env, env.env.task_state
    origin = env.sim.state.root_pos_w[:, :2].clone()
    yaw = inner.network.travel_yaw(inner.follower.index, inner.follower.direction)
    turn = torch.stack((torch.stack((yaw.cos(), yaw.sin()), 1), torch.stack((-yaw.sin(), yaw.cos()), 1)), 1)

    def local(xy: torch.Tensor) -> torch.Tensor:
        return torch.einsum("eij,ekj->eki", turn, xy - origin[:, None])

    centres, half = local(state.patches.xy_m).numpy(), state.patches.half_m.clone().numpy()
    steps, alive, inside = (
        [local(origin[:, None])[:, 0]],
        [torch.ones(count, dtype=torch.bool)],
        torch.zeros(count),
    )
    obs = env.get_observations()
    for _ in range(env.max_episode_length):
        obs, _, dones, extras = env.step(policy.act(obs))
        ended = (dones != 0) & alive[-1]
        if bool(ended.any()):
            inside[ended] = extras["metrics"]["patch_s"][ended]
        alive.append(alive[-1] & ~ended)
        steps.append(local(env.sim.state.root_pos_w[:, None, :2])[:, 0])
        if not bool(alive[-1].any()):
            break
    way, there = torch.stack(steps).numpy(), torch.stack(alive).numpy()
    tracks = [way[there[:, e], e] for e in range(count)]
    return Tracks(tracks, [(centres[e], half[e], -float(yaw[e])) for e in range(count)], inside.numpy())


def main() -> None:
    """Walk and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="output folder of semantic.py")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the students")
    args = parser.parse_args()
    torch.set_num_threads(1)
    scenes = streets(HELD_OUT, args.runs / "scenes")
    policies: dict[str, Any] = {
        "path": PathAlone(),
        "teacher": load_policy(args.runs / "teacher"),
        "depth": load_policy(args.runs / f"depth_{args.seed}"),
        "rgb": load_policy(args.runs / f"rgb_{args.seed}"),
    }
    walked = {name: walk(policy, scenes, len(scenes)) for name, policy in policies.items()}
    figure, axes = plt.subplots(len(scenes), 1, figsize=(8, 1.9 * len(scenes)), constrained_layout=True)
    for row, (axis, scene) in enumerate(zip(axes, scenes, strict=True)):
        for centre, half in zip(*walked["path"].patches[row][:2], strict=True):
            corners = half * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
            angle = walked["path"].patches[row][2]
            turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
            axis.fill(*(centre + corners @ turn.T).T, color=(0.95, 0.85, 0.05))
        for name, tracks in walked.items():
            label = f"{name}: {tracks.inside_s[row]:.1f} s in patches"
            axis.plot(*tracks.xy_m[row].T, color=COLORS[name], label=label, lw=1.5)
        axis.set_title(scene.name, fontsize=8, loc="left")
        axis.set_aspect("equal")
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(args.picture, dpi=110)
    print(args.picture)


if __name__ == "__main__":
    main()
