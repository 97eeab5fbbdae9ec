"""Two lanes of which only colour says which is safe: by hand, and that nothing else tells."""

import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.synth import synthesize
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.mdp.starts import Starts, sample_starts
from gaussgym_sim.task import get_task
from gaussgym_sim.tasks.corridor import CorridorCfg, in_danger, passed
from gaussgym_sim.testing import flat_scene, heights_scene, place
from gaussgym_sim.vecsim import make_sim
from gaussgym_sim.views.command_env import CommandEnv, CommandEnvCfg

torch.set_num_threads(1)
LUMA = torch.tensor([0.2126, 0.7152, 0.0722])  # of linear RGB, ITU-R BT.709


@pytest.fixture(scope="module")
def hall():
    return synthesize("hall", 0)


def make(scene, num_envs=2, *, starts=None, seed=0, renderer=None, **changes):
    cfg = EnvCfg.for_task("corridor", **changes).for_evaluation()
    sim = make_sim("mujoco", "go1", [scene], num_envs, num_threads=1)
    return Env(sim, cfg, starts=starts, seed=seed, renderer=renderer)


def pairs(scene, count):
    """Each of `count` starts twice."""
    starts = sample_starts([scene], count, seed=5)
    return Starts(**{name: np.repeat(values, 2, axis=0) for name, values in vars(starts).items()})


def test_lanes_by_hand(hall):
    """Robots at both ends look at the lanes' middle, in the middle of the hall, from 1.5 m."""
    env = make(hall, 32)
    state, xy = env.task_state, env.sim.state.root_pos_w[:, :2]
    eastward = xy[:, 0] < 2.4
    assert 0 < eastward.sum() < 32
    torch.testing.assert_close(state.along_m, torch.zeros(32), atol=1e-5, rtol=0)
    middle = state.patches.xy_m.mean(dim=1)
    torch.testing.assert_close(middle, torch.tensor([[2.4, 0.0]]).expand(32, 2), atol=1e-5, rtol=0)
    left_is_north = torch.where(eastward, 1.0, -1.0)
    torch.testing.assert_close(
        state.patches.xy_m[:, 1, 1], 0.6 * state.safe_side * left_is_north, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        state.patches.xy_m[:, 0], 2 * middle - state.patches.xy_m[:, 1], atol=1e-5, rtol=0
    )
    assert (state.patches.half_m == 0.6).all()


@pytest.mark.parametrize(
    ("along", "to_safe_side", "danger", "success"),
    [(0.85, -0.5, False, False), (0.95, -0.5, True, False), (1.5, -0.02, True, False), (1.5, 0.02, False, False),
     (2.05, -1.0, True, False), (2.05, 1.0, False, False), (2.15, 0.4, False, True)],
)  # fmt: skip
def test_where_a_robot_fails_and_where_it_has_passed(hall, along, to_safe_side, danger, success):
    env = make(hall, 8)
    state = env.task_state
    left = torch.stack((-state.ahead[:, 1], state.ahead[:, 0]), dim=1)
    xy = state._origin + along * state.ahead + (to_safe_side * state.safe_side)[:, None] * left
    place(env.sim, pos_w=torch.cat((xy, torch.full((8, 1), 0.5)), dim=1))
    state.update()
    assert in_danger(env).tolist() == [danger] * 8
    assert passed(env).tolist() == [success] * 8
    torch.testing.assert_close(state.across_m, to_safe_side * state.safe_side, atol=1e-4, rtol=0)
    _, reward, dones, extras = env.step(torch.zeros(8, 12))
    assert dones.tolist() == [danger or success] * 8
    assert extras["fell"].tolist() == [danger] * 8
    assert extras["success"].tolist() == [success] * 8
    bonus = -4.0 if danger else 5.0 if success else 0.0
    torch.testing.assert_close(reward, torch.full((8,), bonus), atol=0.05, rtol=0)


def test_nothing_but_images_and_the_teachers_group_tells_which_lane_is_safe(hall):
    """The two cases of each start, under the same actions, are the same to the bit until an episode ends."""
    env = make(hall, 8, starts=pairs(hall, 4))
    side = env.task_state.safe_side
    assert (side[0::2] == 1.0).all()
    assert (side[1::2] == -1.0).all()
    rng, running, told = torch.Generator().manual_seed(0), torch.ones(4, dtype=torch.bool), set()
    for _ in range(40):
        push = torch.tensor([0.4, 0.1, 0.0]) * torch.randn(4, 1, generator=rng)
        env.sim.kick(torch.arange(8), push.repeat_interleave(2, dim=0))
        joints = 0.3 * torch.randn(4, 12, generator=rng).repeat_interleave(2, dim=0)
        obs, _, dones, _ = env.step(joints)
        running &= ~(dones[0::2] | dones[1::2])
        for name, values in obs.items():
            if not torch.equal(values[0::2][running], values[1::2][running]):
                told.add(name)
    assert running.any()
    assert told == {"safe_side"}


def test_sides_are_even_and_have_nothing_to_do_with_starts(hall):
    """Drawn: half and half, without correlation to where the robot starts and how it looks (4 standard deviations of n draws)."""
    sim = make_sim("mujoco", "go1", [hall], 1024, num_threads=1)
    env = Env(sim, EnvCfg.for_task("corridor"), seed=3)
    side, n = env.task_state.safe_side, 1024
    assert abs(float(side.mean())) < 4 / n**0.5
    groups = env.get_observations()
    known = torch.cat([groups[name] for name in ("proprio", "base_vel", "way")], dim=1)
    varying = known[:, known.std(dim=0) > 1e-6]
    assert varying.shape[1] >= 3 + 12
    z = (varying - varying.mean(dim=0)) / varying.std(dim=0)
    assert float((z * side[:, None]).mean(dim=0).abs().max()) < 4 / n**0.5


def test_brightness_does_not_tell_either_and_no_colour_is_always_the_same(hall):
    rgb = make(hall, 1024).task_state.patches.rgb
    light = (rgb * LUMA).sum(dim=2)
    brighter = float((light[:, 0] > light[:, 1]).float().mean())
    assert 0.4 < brighter < 0.6
    assert (rgb.std(dim=0) > 0.02).all()
    redder = rgb[..., 0] > rgb[..., 2]
    assert redder[:, 0].all()  # yet to an eye for colour they are never alike
    assert not redder[:, 1].any()


class Walker:
    """Stands."""

    def __call__(self, obs):
        return torch.zeros(len(obs["proprio"]), 12)


class Painter:
    """Counts images, and shows each camera's height in its own."""

    takes_patches = True

    def __init__(self):
        self.images, self.poses = 0, None

    def render(self, c2w, K, scene_ids, **given):
        self.images += len(c2w)
        self.poses = c2w.clone()
        self.rgb = torch.zeros(len(c2w), 48, 84, 3, dtype=torch.uint8)
        return self


@pytest.mark.parametrize("rate_hz", [5.0, 10.0])
def test_one_frame_a_decision_taken_at_its_end(hall, rate_hz):
    painter = Painter()
    camera = EnvCfg.for_task("corridor").camera.__class__(width=84, height=48, rate_hz=rate_hz)
    env = make(hall, 3, renderer=painter, camera=camera, episode_s=0.5)
    commander = CommandEnv(env, Walker(), CommandEnvCfg())
    assert painter.images == 3
    for decision in range(1, 8):  # episodes end in the middle of some
        obs, _, _, _ = commander.step(torch.zeros(3, 3))
        assert painter.images == 3 * (1 + decision)
        assert obs["rgb_new"].all()
        expected = env.sim.state.root_pos_w[:, :2]
        assert float((painter.poses[:, :2, 3] - expected).norm(dim=1).max()) < 0.5


def test_a_slower_camera_gives_a_frame_every_other_decision(hall):
    painter = Painter()
    camera = EnvCfg.for_task("corridor").camera.__class__(width=84, height=48, rate_hz=2.5)
    env = make(hall, 3, renderer=painter, camera=camera)
    commander = CommandEnv(env, Walker(), CommandEnvCfg())
    new = [bool(commander.step(torch.zeros(3, 3))[0]["rgb_new"].all()) for _ in range(6)]
    assert sum(new) == 3
    assert painter.images == 3 * 4


def test_paths_must_be_straight_along_an_axis():
    cfg = EnvCfg.for_task("corridor")
    Env(make_sim("mujoco", "go1", [flat_scene()], 1), cfg)
    slanted = heights_scene(lambda x, y: 0.0 * x)
    points = slanted.paths.points.copy()
    points[:, 1] = points[:, 0]
    slanted.paths.points[:] = points
    with pytest.raises(InputError, match="is not straight along x or y; expected one of kind hall"):
        Env(make_sim("mujoco", "go1", [slanted], 1), cfg)


def test_the_mirrored_robot_sees_the_mirrored_lanes():
    mirrors = get_task("corridor").mirrors
    way = torch.tensor([[1.0, 0.3, 0.9, 0.2]])
    assert mirrors["way"](None, way).tolist() == torch.tensor([[1.0, -0.3, 0.9, -0.2]]).tolist()
    assert mirrors["safe_side"](None, torch.tensor([[1.0]])).item() == -1.0


def test_state_goes_on_where_it_was(hall):
    env, other = make(hall, 4), make(hall, 4, seed=9)
    env.step(torch.zeros(4, 12))
    other.load_state_dict(env.state_dict())
    for name in ("safe_side", "ahead", "_origin"):
        assert torch.equal(getattr(env.task_state, name), getattr(other.task_state, name))
    assert torch.equal(env.get_observations()["way"], other.get_observations()["way"])
    assert CorridorCfg() == env.task_cfg
