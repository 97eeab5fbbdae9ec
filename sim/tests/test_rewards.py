import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_sim.mdp.feet import Gait
from gaussgym_sim.mdp.reward_kernels import STATE_TERMS
from gaussgym_sim.mdp.rewards import TERMS, RewardCfg, RewardInputs, Rewards, preset_names
from gaussgym_sim.randomize import Uniform
from gaussgym_sim.robot import get_robot


class Step:
    """Ground at 0, and at 0.2 m where x > 1."""

    @staticmethod
    def sample(xy, scene_ids):
        return 0.2 * (xy[..., 0] > 1.0).float()


def follower(goals, yaws):
    """Goals at points of a network that is nothing else."""
    points = torch.tensor([[*g, 0.0, yaw] for g, yaw in zip(goals, yaws)])
    network = SimpleNamespace(points=points, travel_yaw=lambda index, direction: points[index, 3])
    return SimpleNamespace(
        network=network, goal=torch.tensor([0, 1]), direction=1, goal_xy=lambda: points[:, :2]
    )


def inputs(cfg=None, **changes):
    """Two robots: the first walks, in round numbers, to the north; the second stands still and perfectly."""
    two = dict(
        command=[[1.0, 0.5, 0.2], [0.0, 0.0, 0.0]],
        lin_vel_b=[[0.8, 0.1, 0.3], [0.0, 0.0, 0.0]],
        ang_vel_b=[[0.1, -0.2, 0.6], [0.0, 0.0, 0.0]],
        gravity_b=[[0.3, 0.4, -0.866], [0.0, 0.0, -1.0]],
        yaw=[math.pi / 2, 0.0],
        root_pos_w=[[0.0, 0.0, 0.35], [5.0, 5.0, 0.3]],
        joint_pos_offset=[[0.1] * 12, [0.2] + [0.0] * 11],
        joint_vel=[[1.0] * 12, [0.0] * 12],
        last_joint_vel=[[0.5] * 12, [0.0] * 12],
        torque=[[2.0] * 12, [0.0] * 12],
        action=[[0.3] * 12, [0.0] * 12],
        last_action=[[0.1] * 12, [0.0] * 12],
        # Front right and left: 6 cm apart across the heading (x, as it faces north); rear: 30 cm. The rear right stands on the
        # step's edge at x = 1, half of its sole over the edge.
        foot_pos_w=[
            [[0.03, 0.2, 0.063], [-0.03, 0.2, 0.123], [1.001, -0.2, 0.223], [0.7, -0.2, 0.043]],
            [[5.2, 4.9, 0.223], [5.2, 5.1, 0.223], [4.8, 4.9, 0.223], [4.8, 5.1, 0.223]],
        ],
        foot_vel_w=[[[1.0, 2.0, 2.0]] * 4, [[0.0, 0.0, 0.0]] * 4],
        foot_force_w=[
            [[3.0, 4.0, 2.0], [3.0, 4.0, 2.6], [0.0, 0.0, 0.0], [3.0, 4.0, -2.0]],
            [[1.0, 0.0, 30.0]] * 4,
        ],
        foot_contact=[[True, False, True, False], [True] * 4],
        touch_down=[[True, True, False, False], [True, False, False, False]],
        foot_air_s=[[0.3, 0.9, 0.5, 0.5], [0.1, 0.0, 0.0, 0.0]],
        thigh_contact=[[True, False, True, False], [False] * 4],
        trunk_contact=[True, False],
        height_m=[get_robot("go1").base_height_m + error for error in (0.05, 0.0)],
        episode_steps=[980, 300],
        scene_ids=[0, 0],
    )
    tensors = {k: torch.tensor(v) for k, v in (two | changes).items()}
    gait = Gait(get_robot("go1"), 2, (1.0, 1.0), Uniform(torch.Generator(), torch.device("cpu")))
    gait.phase[:] = torch.tensor([math.pi / 2, -math.pi])
    return RewardInputs(
        **tensors, cfg=cfg or RewardCfg(pose_weights=(("hip", 2.0), ("calf", 0.5))), robot=get_robot("go1"),
        control_s=0.02, max_episode_steps=1000, terrain=Step(), gait=gait, goal_radius_m=0.5,
        follower=follower([[3.0, 4.0], [5.0, 5.3]], [math.pi, 0.0]),
    )  # fmt: skip


SPEED = 5**0.5  # of the first robot's feet, horizontally
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
    "target_rate": (12 * 0.05**2, 0.0),  # 0.2 x 0.25 rad
    "energy": (24.0, 0.0),
    "weighted_pose": (0.01 * (4 * 2.0 + 4 * 0.5), 0.04 * 2.0),
    "collision": (3.0, 0.0),
    "stumble": (2.0, 0.0),  # 5 N sideways against 2 N (twice) and against 2.6 N
    "foot_slide": (2 * 3.0, 0.0),
    # Soles at 0.04, 0.1, 0 and 0.02 m over the ground below their centres, wanted 0.08.
    "feet_clearance": (-SPEED * (0.04 + 0.0 + 0.08 + 0.06), 0.0),
    "feet_distance": (1.0, 0.0),
    # At a quarter of a cycle all feet should be half way up, at 2.5 cm.
    "feet_phase": (
        math.exp(-(0.015**2 + 0.075**2 + 0.025**2 + 0.005**2) / 0.01),
        math.exp(-(2 * 0.05**2) / 0.01),
    ),
    "foothold": (3 / 9, 0.0),
    "goal_pos": (1.0 - 2.5, 0.0),  # within a second of the end
    "goal_yaw": (1.0 - math.pi / 4, 0.0),
    # Forward is north and left is west: (-0.1, 0.8) in the world, to (3, 4).
    "move_in_direction": ((-0.3 + 3.2) / (5 * math.hypot(0.8, 0.1)), 0.0),
    "dont_wait": (0.0, 0.0),
    "stand_at_target": (0.0, 0.2),
    "lin_vel_error": (math.hypot(0.2, 0.4), 0.0),
    "base_height": (0.0025, 0.0),
    "alive": (1.0, 1.0),
}


@pytest.mark.parametrize("name", TERMS)
def test_terms_by_hand(name):
    assert TERMS[name](inputs()).tolist() == pytest.approx(BY_HAND[name], rel=1e-5)


def test_total_by_hand():
    cfg = RewardCfg()
    rewards = Rewards(cfg, torch.tensor([False, False]), {"mine": 0.5}, control_s=0.02)
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
    rewards = Rewards(cfg, torch.tensor([True, False]), {}, control_s=0.02)
    row = rewards.names.index("base_height")
    assert rewards._weights[row].tolist() == [-3.0, -10.0]
    assert (rough.lin_vel_z, rough.orientation, rough.thigh_contact, rough.pose) == (-0.7, -0.7, -0.3, -0.05)
    assert rewards._weights[rewards.names.index("torque")].tolist() == pytest.approx([-1e-4, -1e-4])
    rewards.set_rough(torch.tensor([False, False]))
    assert rewards._weights[row].tolist() == [-10.0, -10.0]


def test_a_term_may_count_on_rough_ground_alone():
    """It pulls as much at a robot that stands in front of a step as at one that is nearly right."""
    cfg = RewardCfg(rough=(("lin_vel_error", -1.5),), clip=False)
    rewards = Rewards(cfg, torch.tensor([True, False]), {}, control_s=0.02)
    rewards.compute(inputs(cfg, lin_vel_b=[[0.0, 0.5, 0.0]] * 2, command=[[1.0, 0.5, 0.0]] * 2))
    assert rewards.terms[rewards.names.index("lin_vel_error")].tolist() == [-1.5, 0.0]
    assert rewards._weights[rewards.names.index("base_height")].tolist() == [-10.0, -10.0]


def test_terms_without_weight_are_not_computed(monkeypatch):
    def never(_):
        raise AssertionError

    monkeypatch.setitem(TERMS, "feet_clearance", never)
    Rewards(RewardCfg(), torch.tensor([False, True]), {}, control_s=0.02).compute(inputs())
    with pytest.raises(AssertionError):
        Rewards(
            replace(RewardCfg(), feet_clearance=1.0), torch.tensor([False, True]), {}, control_s=0.02
        ).compute(inputs())


@pytest.mark.parametrize("clip", [False, True])
def test_kernels_equal_the_tensor_code(clip):
    """All terms at random, three of them NaN, with and without a command."""
    generator = torch.Generator().manual_seed(0)
    shapes = {k: v.shape[1:] for k, v in vars(inputs()).items() if torch.is_tensor(v)}
    flags = ("foot_contact", "touch_down", "thigh_contact", "trunk_contact")
    many = {
        name: torch.rand(200, *shape, generator=generator) < 0.5 if name in flags else torch.randn(200, *shape, generator=generator)
        for name, shape in shapes.items()
    }  # fmt: skip
    many["command"][::3] = 0.02
    many["foot_air_s"].abs_().mul_(0.3)
    many["gravity_b"][7, 0], many["torque"][8, 3], many["height_m"][9] = (math.nan,) * 3
    many |= {
        "episode_steps": torch.randint(1001, (200,), generator=generator),
        "scene_ids": torch.zeros(200, dtype=torch.long),
    }
    cfg = RewardCfg(**dict.fromkeys(STATE_TERMS, 0.3), clip=clip, pose_weights=(("hip", 2.0), ("calf", 0.5)))
    s = replace(inputs(cfg), **many)
    own, rough = torch.randn(200, generator=generator), torch.arange(200) % 2 == 0
    made, twin = (Rewards(cfg, rough, {"mine": -1.0}, control_s=0.02) for _ in range(2))
    torch.testing.assert_close(
        made._compute_by_kernels(s, [own]),
        twin._compute_by_tensors(s, [own]),
        rtol=2e-5,
        atol=1e-6,
        equal_nan=True,
    )
    torch.testing.assert_close(made.terms, twin.terms, rtol=2e-5, atol=1e-6, equal_nan=True)
    assert made.names == (*STATE_TERMS, "mine")
    assert made.terms.isnan().sum() == 4  # orientation; torque and energy; height


def test_waiting_far_from_the_goal():
    slow = inputs(lin_vel_b=[[0.1, 0.1, 0.9], [0.0, 0.0, 0.0]])
    assert TERMS["dont_wait"](slow).tolist() == [1.0, 0.0]  # the second has arrived


def test_presets():
    assert RewardCfg.preset("walking") == RewardCfg()
    a1 = RewardCfg.preset("gaussgym_a1")
    assert (a1.track_lin_vel, a1.track_ang_vel, a1.goal_pos) == (1.0, 0.5, 0.0)
    goal = RewardCfg.preset("gaussgym_go1", to_goal=True)
    assert (goal.track_lin_vel, goal.goal_pos, goal.goal_yaw, goal.dont_wait) == (0.0, 10.0, 5.0, -1.0)
    assert a1.on_rough_ground() == a1
    assert RewardCfg.preset("gaussgym_t1").feet_phase == 5.0
    assert RewardCfg.preset("gaussgym_anymal_c").joint_acc == -2.5e-7
    with pytest.raises(InputError, match="unknown reward preset 'a1'; choose one of: walking, gaussgym_a1"):
        RewardCfg.preset("a1")
    for name in preset_names():
        for to_goal in (False, True):
            Rewards(
                RewardCfg.preset(name, to_goal=to_goal), torch.tensor([False, True]), {}, control_s=0.02
            ).compute(inputs())


def test_the_originals_weights_are_per_step_and_may_be_negative():
    """Of its goal task on the first robot, by hand; the feet's terms are those above."""
    cfg = RewardCfg.preset("gaussgym_a1", to_goal=True)
    rewards = Rewards(cfg, torch.tensor([False, True]), {}, control_s=0.02)
    reward = rewards.compute(inputs(cfg))
    pose = 0.01 * 4 * (2.0 + 0.3 + 0.1)
    want = (
        10 * (1.0 - 2.5) + 5 * (1.0 - math.pi / 4) + BY_HAND["move_in_direction"][0] - 0.15 * 0.05 - 0.03 - 0.5 * pose
        + 0.0 - 3 * 2 - 0.1 * 6 + BY_HAND["feet_clearance"][0]
    )  # fmt: skip
    assert float(reward[0]) == pytest.approx(want, rel=1e-5)
    assert want < 0
    stumbles = rewards.terms[rewards.names.index("stumble"), 0]
    assert float(stumbles) == pytest.approx(-3.0 * 2 / 0.02)  # logged as rates a second
