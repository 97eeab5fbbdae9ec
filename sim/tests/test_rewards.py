import math
from dataclasses import replace

import pytest
import torch
from gaussgym_sim.rewards import TERMS, RewardCfg, RewardInputs, Rewards


def inputs(**changes):
    """Two robots walking with round numbers; robot 1 stands still and perfectly."""
    two = dict(
        command=[[1.0, 0.5, 0.2], [0.0, 0.0, 0.0]],
        lin_vel_b=[[0.8, 0.1, 0.3], [0.0, 0.0, 0.0]],
        ang_vel_b=[[0.1, -0.2, 0.6], [0.0, 0.0, 0.0]],
        gravity_b=[[0.3, 0.4, -0.866], [0.0, 0.0, -1.0]],
        joint_pos_offset=[[0.1] * 12, [0.2] + [0.0] * 11],
        joint_vel=[[1.0] * 12, [0.0] * 12],
        last_joint_vel=[[0.5] * 12, [0.0] * 12],
        torque=[[2.0] * 12, [0.0] * 12],
        action=[[0.3] * 12, [0.0] * 12],
        last_action=[[0.1] * 12, [0.0] * 12],
        foot_vel_w=[[[1.0, 2.0, 9.0]] * 4, [[0.0, 0.0, 0.0]] * 4],
        foot_contact=[[True, False, False, True], [True] * 4],
        touch_down=[[True, True, False, False], [True, False, False, False]],
        foot_air_s=[[0.3, 0.9, 0.5, 0.5], [0.1, 0.0, 0.0, 0.0]],
        thigh_contact=[[True, False, True, False], [False] * 4],
        base_height_error_m=[0.05, 0.0],
        moving=[1.0, 0.0],
    )
    tensors = {k: torch.tensor(v) for k, v in (two | changes).items()}
    return RewardInputs(**tensors, control_s=0.02, sigma=0.2)


BY_HAND = {
    "track_lin_vel": (math.exp(-(0.2**2 + 0.4**2) / 0.2), 1.0),
    "track_ang_vel": (math.exp(-(0.4**2) / 0.2), 1.0),
    "lin_vel_z": (0.09, 0.0),
    "ang_vel_xy": (0.05, 0.0),
    "orientation": (0.25, 0.0),
    "torque": (48.0, 0.0),
    "joint_acc": (12 * 25.0**2, 0.0),
    "action_rate": (12 * 0.04, 0.0),
    "feet_air_time": (0.1 + 0.2, 0.0),  # 0.3 - 0.2, and 0.9 capped at 0.4; standing robots get none
    "thigh_contact": (2.0, 0.0),
    "pose": (0.12, 3 * 0.04),  # three times when standing
    "foot_slip": (2 * 5.0, 0.0),
    "base_height": (0.0025, 0.0),
    "alive": (1.0, 1.0),
}


@pytest.mark.parametrize("name", TERMS)
def test_terms_by_hand(name):
    assert TERMS[name](inputs()).tolist() == pytest.approx(BY_HAND[name], rel=1e-5)


def test_total_by_hand():
    cfg = RewardCfg()
    rewards = Rewards(cfg, torch.tensor([False, False]), {"mine": 0.5})
    reward = rewards.compute(inputs(), [torch.tensor([0.0, 2.0])])
    want = [max(0.0, 0.02 * sum(getattr(cfg, n) * BY_HAND[n][e] for n in TERMS)) for e in (0, 1)]
    assert want[0] == 0.0  # clipped
    want[1] += 0.02 * 0.5 * 2.0
    assert reward.tolist() == pytest.approx(want, abs=1e-6)
    assert want[1] == pytest.approx(0.02 * (1.5 + 0.75 + 0.2 - 0.1 * 0.12 + 1.0))
    assert rewards.terms[-1].tolist() == [0.0, 1.0]
    assert rewards.names[-1] == "mine"
    assert rewards.terms.shape == (len(rewards.names), 2)


def test_rough_weights_go_to_rough_envs():
    cfg = RewardCfg()
    rough = cfg.on_rough_ground()
    rewards = Rewards(cfg, torch.tensor([True, False]), {})
    row = rewards.names.index("base_height")
    assert rewards._weights[row].tolist() == [-3.0, -10.0]
    assert (rough.lin_vel_z, rough.orientation, rough.thigh_contact, rough.pose) == (-0.7, -0.7, -0.3, -0.05)
    assert rewards._weights[rewards.names.index("torque")].tolist() == pytest.approx([-1e-4, -1e-4])
    rewards.set_rough(torch.tensor([False, False]))
    assert rewards._weights[row].tolist() == [-10.0, -10.0]


def test_terms_without_weight_are_not_computed(monkeypatch):
    def never(_):
        raise AssertionError

    monkeypatch.setitem(TERMS, "foot_slip", never)
    Rewards(replace(RewardCfg(), foot_slip=0.0), torch.tensor([False, True]), {}).compute(inputs())
    with pytest.raises(AssertionError):
        Rewards(RewardCfg(), torch.tensor([False, True]), {}).compute(inputs())
