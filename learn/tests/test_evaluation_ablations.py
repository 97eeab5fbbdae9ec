"""What a policy is shown in place of its images, by hand on tiny tensors."""

import pytest
import torch
from gaussgym_learn.evaluation.ablations import ImageAblation
from gaussgym_learn.evaluation.sweeps import AXES, Condition, conditions
from gaussgym_scene.errors import InputError
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.randomize import RandomizeCfg
from tensordict import TensorDict


def step(values, new):
    """Images of one pixel each with these values, and whether they are new."""
    count = len(values)
    image = torch.tensor(values, dtype=torch.uint8).view(count, 1, 1, 1)
    groups = {
        "rgb": image.expand(count, 3, 1, 1).clone(),
        "depth": 255 - image,
        "rgb_new": torch.tensor(new, dtype=torch.uint8)[:, None],
        "proprio": torch.tensor(values, dtype=torch.float32)[:, None],
    }
    return TensorDict(groups, batch_size=[count])


def shown(ablation, steps):
    """What comes out: (rgb, depth, flag) of each environment at each step; truth must stay as it was."""
    found = []
    for values, new, started in steps:
        obs = step(values, new)
        out = ablation.show(obs, torch.tensor(started))
        assert obs["rgb"][:, 0, 0, 0].tolist() == values
        assert out["proprio"][:, 0].tolist() == values
        found.append(
            (
                out["rgb"][:, 0, 0, 0].tolist(),
                out["depth"][:, 0, 0, 0].tolist(),
                out["rgb_new"][:, 0].tolist(),
            )
        )
    return found


# Two environments; the second's episode begins anew at the fourth step.
RUN = [
    ([10, 50], [1, 1], [True, True]),
    ([10, 50], [0, 0], [False, False]),
    ([11, 51], [1, 1], [False, False]),
    ([11, 90], [0, 1], [False, True]),
    ([12, 90], [1, 0], [False, False]),
    ([12, 91], [0, 1], [False, False]),
]


def test_frozen_holds_the_first_frame_of_each_episode():
    found = shown(ImageAblation("frozen"), RUN)
    assert [rgb for rgb, _, _ in found] == [[10, 50]] * 3 + [[10, 90]] * 3
    assert [depth for _, depth, _ in found] == [[245, 205]] * 3 + [[245, 165]] * 3


def test_delayed_by_two_steps():
    """Frames and their flags come two steps later; an episode's first frame is there from its beginning, and flagged."""
    found = shown(ImageAblation("delayed", delay_steps=2), RUN)
    assert [rgb for rgb, _, _ in found] == [[10, 50], [10, 50], [10, 50], [10, 90], [11, 90], [11, 90]]
    assert [depth for _, depth, _ in found][3:] == [[245, 165], [244, 165], [244, 165]]
    assert [new for _, _, new in found] == [[1, 1], [0, 0], [0, 0], [0, 1], [1, 0], [0, 0]]


def test_blank_and_shuffled_change_with_frames_only():
    found = shown(ImageAblation("blank"), RUN)
    assert all(rgb == [127, 127] and depth == [127, 127] for rgb, depth, _ in found)
    found = shown(ImageAblation("shuffled", seed=1), RUN)
    assert [rgb for rgb, _, _ in found] == [[50, 10], [50, 10], [51, 11], [90, 11], [90, 12], [91, 12]]
    held = shown(ImageAblation("shuffled"), [RUN[0], ([99, 99], [0, 0], [False, False])])
    assert held[1][0] == [50, 10]


def test_nothing_and_no_images_pass_through():
    obs = step([1, 2], [1, 1])
    assert ImageAblation().show(obs, torch.tensor([True, True])) is obs
    blind = TensorDict({"proprio": torch.zeros(2, 1)}, batch_size=[2])
    assert ImageAblation("blank").show(blind, torch.tensor([True, True])) is blind
    with pytest.raises(
        InputError, match="unknown ablation 'grey'; choose one of: none, blank, shuffled, frozen, delayed"
    ):
        ImageAblation("grey")
    with pytest.raises(InputError, match="delayed by 0 control steps"):
        ImageAblation("delayed")


def test_conditions_of_an_evaluation():
    found = conditions(("blank", "none", "blank"), ("friction",), "mjwarp")
    names = [c.name for c in found]
    assert names == ["none", "blank", "engine=mjwarp", *(f"friction={x:g}" for x in AXES["friction"].levels)]
    assert [c.of_images for c in found[:3]] == [False, True, False]
    assert len(conditions((), ("all", "mass"), None)) == 1 + sum(len(axis.levels) for axis in AXES.values())
    with pytest.raises(InputError, match="unknown sweep 'fog'; choose from: all, light, blur"):
        conditions((), ("fog",), None)
    with pytest.raises(InputError, match="unknown ablation 'grey'"):
        conditions(("grey",), (), None)


@pytest.mark.parametrize("axis", list(AXES))
def test_each_axis_changes_one_thing(axis):
    """At its level the world differs from the nominal one, in camera or in settings, and only there where images are concerned."""
    from gaussgym_render.robot_camera import RobotCameraCfg

    plain = EnvCfg(randomize=RandomizeCfg.none())
    cfg, camera = Condition(axis, axis=axis, level=AXES[axis].levels[-1]).apply(plain, RobotCameraCfg())
    assert (cfg != plain) != (camera != RobotCameraCfg())
    assert camera == RobotCameraCfg() or AXES[axis].of_images
    assert Condition().apply(plain, RobotCameraCfg()) == (plain, RobotCameraCfg())
    assert AXES[axis].nominal not in AXES[axis].levels


def test_levels_by_hand():
    from gaussgym_render.robot_camera import RobotCameraCfg

    def at(axis, level):
        return Condition(axis, axis=axis, level=level).apply(
            EnvCfg(randomize=RandomizeCfg.none()), RobotCameraCfg()
        )

    assert at("friction", 0.4)[0].randomize.friction == (0.4, 0.4)
    assert at("mass", 1.3)[0].randomize.trunk_mass_factor == (1.3, 1.3)
    clock = at("latency", 0.2)[0].randomize.camera_clock
    assert (clock.latency_s, clock.period_s) == ((0.2, 0.2), (0.1, 0.1))
    assert at("light", -3.0)[1].sensor.exposure_ev == (-3.0, -3.0)
    assert at("blur", 0.04)[1].shutter.exposure_s == (0.04, 0.04)
    assert at("noise", 0.1)[1].sensor.read_noise == (0.1, 0.1)
    assert at("sensor_latency", 0.04)[0].randomize.sensing.max_latency_s == 0.04
