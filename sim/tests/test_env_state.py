"""A resumed run is the run that was not interrupted, bit for bit."""

import io
from dataclasses import replace

import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.mdp.curriculum import GoalDistanceCfg
from gaussgym_sim.mdp.rewards import RewardCfg
from gaussgym_sim.mdp.starts import sample_starts
from gaussgym_sim.randomize import RandomizeCfg
from gaussgym_sim.testing import flat_scene, heights_scene, wavy_scene
from gaussgym_sim.vecsim import make_sim

torch.set_num_threads(1)


class Painter:
    """Images that say when, by whom and from where they were taken."""

    takes_motion = True

    def render(self, c2w, K, scene_ids, *, twist_c, camera_ids, frame_ids):
        value = (1000 * c2w[:, 0, 3] + camera_ids % 97 + 7 * frame_ids).long() % 256
        self.rgb = value.to(torch.uint8)[:, None, None, None].expand(-1, 48, 64, 3)
        return self


def holed_scene():
    """A gap across the path, which lies on the ground."""
    scene = heights_scene(lambda x, y: 0.05 * y - 0.5 * (abs(x - 1.0) < 0.15))
    scene.paths.points[:, 2] = scene.heightfield.sample(scene.paths.points[:, :2])
    return scene


def make(cfg, **options):
    scenes = [flat_scene(), wavy_scene()]
    if cfg.task == "gaps":
        scenes = [holed_scene(), holed_scene()]
    return Env(make_sim("mujoco", "go1", scenes, 6, num_threads=1), cfg, **options)


def roll(env, steps, first):
    out = []
    for i in range(first, first + steps):
        action = 1.5 * torch.randn(env.num_envs, env.num_actions, generator=torch.Generator().manual_seed(i))
        obs, reward, dones, extras = env.step(action)
        out.append(
            {
                **obs,
                "reward": reward,
                "dones": dones,
                "time_outs": extras["time_outs"],
                "level": env.level.clone(),
            }
        )
    return out


def equal(a, b):
    return all(torch.equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in x)


RANDOM = EnvCfg(randomize=RandomizeCfg(), episode_s=0.8)
CASES = {
    "velocity": RANDOM,
    "goal": replace(
        RANDOM,
        task="goal",
        goal_distance=GoalDistanceCfg(episodes=2),
        gait_hz=(1.0, 2.0),
        rewards=RewardCfg.preset("gaussgym_t1"),
    ),
    "goal_semantic": EnvCfg.for_task("goal_semantic", randomize=RandomizeCfg(), episode_s=0.8),
    "navigate": EnvCfg.for_task("navigate", randomize=RandomizeCfg(), episode_s=0.8),
    "gaps": EnvCfg.for_task("gaps", randomize=RandomizeCfg(), episode_s=0.8),
}


@pytest.mark.parametrize("case", CASES)
def test_resumed_runs_are_bit_identical(case):
    cfg = CASES[case]
    whole = make(cfg, seed=1, renderer=Painter())
    roll(whole, 30, 0)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)  # as a checkpoint would
    after = roll(whole, 50, 30)
    assert torch.stack([step["dones"] for step in after]).any(dim=0).sum() >= 4  # episodes ended on the way
    resumed = make(cfg, seed=2, renderer=Painter())
    roll(resumed, 7, 100)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert equal(roll(resumed, 50, 30), after)
    assert not equal(roll(make(cfg, seed=2, renderer=Painter()), 50, 30), after)


def test_fixed_starts_go_on_where_they_were():
    starts = sample_starts([flat_scene(), wavy_scene()], 12, seed=3)
    cfg = replace(EnvCfg().for_evaluation(), task="goal", episode_s=0.3)
    env = make(cfg, starts=starts)
    roll(env, 20, 0)
    other = make(cfg, starts=starts)
    other.load_state_dict(env.state_dict())
    roll(env, 20, 20), roll(other, 20, 20)
    assert torch.equal(env.start_id, other.start_id)
    assert len(set(env.start_id.tolist())) == 6


def test_state_of_another_environment():
    with pytest.raises(InputError, match="environment state differs in gait, goal_distance"):
        make(CASES["goal"]).load_state_dict(make(RANDOM).state_dict())
