"""What the CPU does in one pass an env equals the tensor code that GPUs run."""

import math
from types import SimpleNamespace

import pytest
import torch
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.ground.terrain import TerrainLookup
from gaussgym_sim.grounds import flat_scene, wavy_scene
from gaussgym_sim.mdp.episodes import EpisodeSums
from gaussgym_sim.mdp.feet import Feet
from gaussgym_sim.mdp.posture import Posture
from gaussgym_sim.mdp.terminations import Reasons, TerminationCfg, _find_ends_by_tensors, find_ends
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
    assert made.seconds.tolist() == pytest.approx([0.1] * 9)


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
