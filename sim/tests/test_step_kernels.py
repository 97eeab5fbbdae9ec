"""What the CPU does in one pass an env equals the tensor code that GPUs run."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.ground.terrain import TerrainLookup
from gaussgym_sim.grounds import flat_scene, wavy_scene
from gaussgym_sim.mdp.commands import PathNetwork
from gaussgym_sim.mdp.episodes import EpisodeSums, multiples_of
from gaussgym_sim.mdp.feet import Feet
from gaussgym_sim.mdp.placing import Placer
from gaussgym_sim.mdp.posture import Posture
from gaussgym_sim.mdp.starts import StartSampler, _Drawn
from gaussgym_sim.mdp.terminations import Reasons, TerminationCfg, _find_ends_by_tensors, find_ends
from gaussgym_sim.randomize import Uniform
from gaussgym_sim.robot import get_robot
from gaussgym_sim.sensors.observations import ObservationCfg, Observations
from gaussgym_sim.vecsim import make_sim

CPU = torch.device("cpu")


def seeded(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape):
        return torch.randn(*shape, generator=generator)

    return numbers


def test_actions():
    env = Env(make_sim("mujoco", "go1", [flat_scene()], 5), EnvCfg())
    action = 8.0 * seeded()(5, 12)
    action[1, 3], action[2, 0], action[3, 11] = math.nan, math.inf, -math.inf
    target = env._take(action)
    made = env.action, env._bad_action
    torch.testing.assert_close(env._take_by_tensors(action), target)
    assert torch.equal(env.action, made[0])
    assert torch.equal(env._bad_action, made[1])
    assert made[1].tolist() == [False, True, True, True, False]
    assert env.action.abs().max() == 10.0


@pytest.mark.parametrize("scenes", [[flat_scene()], [flat_scene(), wavy_scene()]])
def test_posture(scenes):
    sim = make_sim("mujoco", "go1", scenes, 32)
    numbers = seeded()
    for tensor in (
        sim.state.root_pos_w,
        sim.state.root_quat_wxyz,
        sim.state.root_lin_vel_w,
        sim.state.joint_pos,
    ):
        tensor.copy_(numbers(*tensor.shape))
    sim.state.root_quat_wxyz.div_(sim.state.root_quat_wxyz.norm(dim=1, keepdim=True))
    grid = numbers(20, 2) * 0.2
    columns = grid.T.contiguous()

    def scan(pos, yaw, scenes):
        return sim.terrain.sample_grid(pos[:, :2], yaw, columns, scenes)

    made, twin = (Posture(sim, grid, scan) for _ in range(2))
    names = ("yaw", "gravity_b", "lin_vel_b", "joint_pos_offset", "height_m", "ground")
    made.update()
    twin._update_by_tensors()
    for name in names:
        torch.testing.assert_close(getattr(made, name), getattr(twin, name), atol=2e-5, rtol=1e-5)
    before = made.yaw.clone()
    some = torch.tensor([0, 3, 4, 31])
    sim.state.root_quat_wxyz[some] = torch.tensor([0.6, 0.0, 0.0, 0.8])
    sim.state.root_pos_w[some] += 0.5
    made.update_rows(some)
    twin._update_rows_by_tensors(some)
    for name in names:
        torch.testing.assert_close(getattr(made, name), getattr(twin, name), atol=2e-5, rtol=1e-5)
    assert (made.yaw != before).nonzero().squeeze(1).tolist() == some.tolist()


def test_feet():
    made, twin = (Feet(16, 4, CPU) for _ in range(2))
    numbers = seeded()
    for _ in range(30):
        contact = numbers(16, 4) > 0.5
        made.update(contact, 0.02)
        twin._update_by_tensors(contact, 0.02)
        for name in ("air_s", "touch_air_s", "touch_down", "_was_contact"):
            assert torch.equal(getattr(made, name), getattr(twin, name))
    assert made.touch_down.any()
    assert not made.touch_down.all()


def test_sums():
    made, twin = (EpisodeSums(("a", "b"), 9, CPU) for _ in range(2))
    numbers, steps = seeded(), torch.arange(9)
    for _ in range(5):
        rewards, command = numbers(2, 9), numbers(9, 3)
        made.add(rewards, command, 0.02)
        twin._add_by_tensors(rewards, command, 0.02)
        made.count(steps, 0.02)
    torch.testing.assert_close(made._rewards, twin._rewards)
    torch.testing.assert_close(made.commanded_m, twin.commanded_m)
    assert steps.tolist() == list(range(5, 14))
    some = torch.tensor([1, 4, 8])
    means = made.means(some, 0.02)
    assert list(means) == ["reward/a", "reward/b", "episode/seconds"]
    torch.testing.assert_close(torch.stack(list(means.values())), made._means_by_tensors(some, 0.02))
    assert made.seconds.tolist() == pytest.approx([0.1] * 9)


def test_multiples():
    assert multiples_of(torch.tensor([0, 3, 4, 8, 9, 400]), 4).tolist() == [0, 2, 3, 5]
    assert multiples_of(torch.tensor([1, 2, 3]), 4).tolist() == []


def ring():
    """A scene with a line that is closed, one that is not, and two levels."""
    angle = np.linspace(0, 2 * np.pi, 40)
    circle = np.stack((3 * np.cos(angle), 3 * np.sin(angle), 0 * angle, angle + np.pi / 2), axis=1)
    straight = np.stack([(0.25 * k - 4, 1.0, 0.0, 0.0) for k in range(30)])
    paths = Paths(np.concatenate((circle, straight)), np.repeat([0, 1], (40, 30)), np.full(70, 0.4))
    return Scene(
        "ring", heightfield=flat_scene().heightfield, paths=paths, metadata={"path_level": {"0": 0, "1": 1}}
    )


@pytest.mark.parametrize("to_goal", [False, True])
def test_starts(to_goal):
    network = PathNetwork([flat_scene(), ring()], device=CPU)
    sampler, count = StartSampler(network, use_levels=True), 300
    generator = torch.Generator().manual_seed(1)
    to_go = 1.0 + 9.0 * torch.rand(count, generator=generator)
    drawn = _Drawn(
        torch.rand(4, count, generator=generator), torch.randn(count, generator=generator), to_go,
        to_go if to_goal else torch.full_like(to_go, 1.5), to_goal, 0.5, (0.6, 0.9),
    )  # fmt: skip
    scenes, levels = torch.arange(count) % 2, torch.arange(count) % 3
    found, twin = (
        vars(f(scenes, levels, drawn)) for f in (sampler._starts_by_kernel, sampler._starts_by_tensors)
    )
    for name in ("index", "direction", "goal"):
        assert torch.equal(found[name], twin[name]), name
    for name in ("xy", "yaw", "speed"):
        torch.testing.assert_close(found[name], twin[name], atol=2e-5, rtol=1e-5)
    assert network.closed[found["index"]].any()
    assert {-1, 1} == set(found["direction"].tolist())


def test_placing():
    sim = make_sim("mujoco", "go1", [flat_scene(), wavy_scene()], 40)
    placer, numbers = Placer(sim, Uniform(torch.Generator(), CPU)), seeded()
    xy, yaw = 3.0 * numbers(40, 2), 4.0 * numbers(40)
    pos, quat = placer._stand(xy, yaw, sim.scene_of_env)
    twin = placer._stand_by_tensors(xy, yaw, sim.scene_of_env, sim.robot.base_height_m + 0.02)
    torch.testing.assert_close(pos, twin[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(quat, twin[1], atol=1e-6, rtol=1e-6)
    assert pos[20:, 2].std() > 0.01


@pytest.mark.parametrize("plane", [False, True])
def test_observations(plane):
    obs = Observations(get_robot("go1"), ObservationCfg(), device=CPU, generator=torch.Generator())
    numbers = seeded()
    terms = tuple(numbers(20, n) for n in (3, 3, 3, 12, 12, 12))
    found = obs.proprio(terms, noisy=False)
    torch.testing.assert_close(found, torch.cat(terms, dim=1) * obs._scale)
    pos, ground = numbers(20, 3), numbers(20, 1).expand(-1, 63) if plane else numbers(20, 63)
    found = obs.scan(pos, ground, noisy=False)
    torch.testing.assert_close(found, obs._scan_by_tensors(pos, ground))
    assert found.shape == (20, 63)


def test_noise_is_uniform_and_follows_the_generator():
    """100 draws of a thousand places: moments of each, of neighbours and of successive draws, to five standard errors."""
    made, again = (
        Observations(
            get_robot("go1"), ObservationCfg(), device=CPU, generator=torch.Generator().manual_seed(5)
        )
        for _ in range(2)
    )
    ones = torch.ones(50)
    draws = torch.stack([made._noisy(torch.zeros(20, 50), ones) for _ in range(100)])
    assert torch.equal(draws[0], again._noisy(torch.zeros(20, 50), ones))
    assert draws.abs().max() <= 1.0
    assert draws.mean().abs() < 5 * 3**-0.5 / 1e5**0.5
    assert float(draws.square().mean()) == pytest.approx(1 / 3, abs=5 * 0.3 / 1e5**0.5)
    for a, b in ((draws[1:], draws[:-1]), (draws[:, 1:], draws[:, :-1]), (draws[..., 1:], draws[..., :-1])):
        assert (a * b).mean().abs() < 5 / 3 / a.numel() ** 0.5
    counts = torch.histc(draws, 16, -1.0, 1.0)
    assert ((counts - 6250).square() / 6250).sum() < 45.0  # chi squared of 15 degrees: 1 in 10 000
    amplitude = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    each = made._noisy(torch.zeros(2, 2), amplitude)
    assert ((each == 0) == (amplitude == 0)).all()
    assert (each.abs() <= amplitude).all()


def test_ends():
    """Every combination of seven reasons."""
    flags = ((torch.arange(256)[:, None] >> torch.arange(8)) & 1).bool().T.contiguous()
    numbers = seeded()
    gravity, height, age = numbers(256, 3), numbers(256), torch.randint(0, 12, (256,))
    gravity[5], height[6] = math.nan, math.nan
    state, cfg = SimpleNamespace(trunk_contact=flags[0], invalid=flags[1]), TerminationCfg()
    for upright in (gravity, torch.tensor([0.0, 0.0, -1.0]).repeat(256, 1)):
        reasons = Reasons(*flags[2:])
        args = (state, upright, height.abs() if upright is not gravity else height, cfg, age, 10, reasons)
        found, twin = vars(find_ends(*args)), vars(_find_ends_by_tensors(*args))
        assert all(torch.equal(found[name], twin[name]) for name in twin)
    assert 0 < found["success"].sum() < 256


def test_borders():
    lookup = TerrainLookup([flat_scene().heightfield, wavy_scene().heightfield], device=CPU)
    scenes = torch.arange(400) % 2
    edge = lookup.max_xy_m[1]
    xy = (
        edge
        * 1.2
        * torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, -1.0])
    )
    found = lookup.outside(xy, scenes, margin_m=0.15)
    assert torch.equal(found, lookup._outside_by_tensors(xy, scenes, 0.15))
    assert found[1::2].any()
    assert not found[1::2].all()
    assert not found[::2].any()
