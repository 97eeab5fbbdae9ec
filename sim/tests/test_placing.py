import math

import mujoco
import numpy as np
import pytest
import torch
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.mdp.feet import Feet, Gait, leg_phases
from gaussgym_sim.mdp.placing import footprint_m
from gaussgym_sim.randomize import RandomizeCfg, Uniform
from gaussgym_sim.robot import get_robot
from gaussgym_sim.testing import heights_scene
from gaussgym_sim.vecsim import make_sim

CPU = torch.device("cpu")


def test_footprint_of_go1():
    want = [(0.0, 0.0, 0.0), (0.2, -0.15, 0.0), (0.2, 0.15, 0.0), (-0.2, -0.15, 0.0), (-0.2, 0.15, 0.0)]
    found = footprint_m(get_robot("go1"))
    np.testing.assert_allclose(found[:5], want, atol=1e-12)
    # Calves are 21.3 cm long and lean back by 0.9 rad from knees 13.2 cm over the soles: their points lie behind the feet's.
    assert 0.0 < found[5:, 2].min() < 0.03
    assert 0.12 < found[5:, 2].max() < 0.16


@pytest.mark.parametrize("robot", ["go1", "a1", "go2"])
def test_nothing_begins_inside_a_step(robot):
    """Wherever on a flight of stairs robots start, MuJoCo finds no shape that reaches into the ground."""
    scene = heights_scene(lambda x, y: 0.1 * np.floor(x / 0.3), cell_m=0.05)
    env = Env(make_sim("mujoco", robot, [scene], 240), EnvCfg().for_evaluation(), seed=0)
    xy = torch.stack((torch.linspace(-3.0, 3.0, 240), torch.zeros(240)), 1)
    env._placer.place(torch.arange(240), xy, math.pi * (torch.arange(240) % 2), RandomizeCfg.none())
    slot = env.sim._slots[0]
    data, deepest = mujoco.MjData(slot.model), 0.0
    for row in range(240):
        data.qpos[:] = slot.qpos[row]
        mujoco.mj_forward(slot.model, data)
        deepest = min([deepest, *data.contact.dist[: data.ncon]])
    assert deepest == 0.0
    feet = env.sim.state.foot_pos_w
    gap = (
        feet[..., 2]
        - env.sim.robot.foot_radius_m
        - env.sim.terrain.sample(feet[..., :2], env.sim.scene_of_env)
    )
    assert (gap.amin(dim=1) < 0.1).all()  # none is dropped from higher than a step


def test_feet_by_hand():
    """Up at step 2, a contact at step 4 that lasts for two steps."""
    feet = Feet(1, 2, CPU)
    seen = []
    for contact in (True, False, False, True, False, False):
        feet.update(torch.tensor([[contact, True]]), 0.02)
        seen.append(
            (
                round(float(feet.air_s[0, 0]), 4),
                bool(feet.touch_down[0, 0]),
                round(float(feet.touch_air_s[0, 0]), 4),
            )
        )
    assert seen == [
        (0, False, 0.02),
        (0, False, 0.02),
        (0.02, False, 0.02),
        (0, True, 0.04),
        (0, False, 0.02),
        (0.02, False, 0.02),
    ]
    assert not feet.air_s[0, 1].any()
    feet.start(torch.tensor([0]))
    assert float(feet.air_s.sum()) == 0.0


def test_gait_phases():
    assert leg_phases(get_robot("go1")) == (0.0, math.pi, math.pi, 0.0)  # a trot: diagonal legs together


def test_gait_runs_at_its_frequency_and_lifts_legs_in_turn():
    gait = Gait(get_robot("go1"), 3, (2.0, 2.0), Uniform(torch.Generator().manual_seed(0), CPU))
    gait.start(torch.arange(3))
    start = gait.phase.clone()
    for _ in range(25):
        gait.update(0.02)
    torch.testing.assert_close(
        gait.observation(), torch.stack((start.sin(), start.cos()), 1), atol=1e-5, rtol=0
    )
    gait.phase[:] = torch.tensor([0.0, math.pi / 2, -math.pi])
    want = [[0.1, 0.0, 0.0, 0.1], [0.05] * 4, [0.0, 0.1, 0.1, 0.0]]  # a smooth step: half the height half way
    torch.testing.assert_close(gait.foot_height_m(0.1), torch.tensor(want), atol=1e-6, rtol=0)
