"""A shipped walker carries out another policy's commands."""

from pathlib import Path

import gaussgym_learn
import pytest
import torch
from gaussgym_learn.acting import load_policy
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.tasks.navigate import NavigateCfg
from gaussgym_sim.testing import flat_scene
from gaussgym_sim.vecsim import make_sim
from gaussgym_sim.views.command_env import CommandEnv
from tensordict import TensorDict


class Walker:
    """The shipped teacher, each control step."""

    def __init__(self):
        self.policy = load_policy(Path(gaussgym_learn.__file__).parent / "policies" / "stairs_teacher")

    def __call__(self, obs):
        return self.policy.act(TensorDict(obs, batch_size=[len(obs["proprio"])]))

    def reset(self, dones):
        self.policy.reset(dones)


def straight_on(env, obs):
    """Actions of somebody who knows where the goal is and turns and walks there."""
    angle = torch.atan2(obs["target_b"][:, 1], obs["target_b"][:, 0])
    command = torch.stack(
        (0.9 * angle.cos().clamp(min=0.0), 0.0 * angle, (2 * angle).clamp(-1.0, 1.0)), dim=1
    )
    low, high = torch.tensor(env.command_cfg.low), torch.tensor(env.command_cfg.high)
    return (command - (low + high) / 2) / ((high - low) / 2)


@pytest.mark.parametrize("hazards", [0, 3])
def test_a_walker_goes_straight_to_the_goal_and_through_what_lies_there(hazards):
    task_cfg = NavigateCfg(areas=hazards, obstacles=0, area_lateral_m=0.1)
    cfg = EnvCfg.for_task("navigate", task_cfg=task_cfg).for_evaluation()
    env = CommandEnv(Env(make_sim("mujoco", "go1", [flat_scene()], 8, num_threads=1), cfg), Walker())
    obs, logs = env.get_observations(), []
    over = torch.zeros(8, dtype=torch.bool)
    for _ in range(60):
        obs, _, dones, extras = env.step(straight_on(env, obs))
        assert not extras["fell"].any()
        logs += [extras["log"]] if extras["log"] else []
        over |= dones & extras["success"]
        if over.all():
            break
    assert over.all()
    assert min(float(log["episode/spl"]) for log in logs) > 0.9
    assert all((float(log["episode/no_go_s"]) > 1.0) == (hazards > 0) for log in logs)
