import math

import numpy as np
import torch
from gaussgym_sim.mdp.feet import Feet, Gait, leg_phases
from gaussgym_sim.mdp.placing import footprint_m
from gaussgym_sim.randomize import Uniform
from gaussgym_sim.robot import get_robot

CPU = torch.device("cpu")


def test_footprint_of_go1():
    want = [(0.0, 0.0), (0.2, -0.15), (0.2, 0.15), (-0.2, -0.15), (-0.2, 0.15)]
    np.testing.assert_allclose(footprint_m(get_robot("go1")), want, atol=1e-12)


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
