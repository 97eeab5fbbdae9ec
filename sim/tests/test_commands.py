import itertools
import math

import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_sim.frames import wrap_angle
from gaussgym_sim.mdp.commands import CommandCfg, PathFollower, PathNetwork, VelocityCommands, goal_point
from gaussgym_sim.randomize import Uniform
from gaussgym_sim.testing import flat_scene, straight_path

CPU = torch.device("cpu")


def line(points, path_id=0):
    """Points every 0.25 m along a polyline."""
    points = np.asarray(points, float)
    out = []
    for a, b in itertools.pairwise(points):
        n = round(np.linalg.norm(b - a) / 0.25)
        yaw = math.atan2(*(b - a)[::-1])
        out += [(*(a + (b - a) * k / n), 0.0, yaw) for k in range(n)]
    out.append((*points[-1], 0.0, out[-1][3]))
    return Paths(np.array(out), np.full(len(out), path_id), np.full(len(out), 0.6))


def scene_with(paths, **metadata):
    return Scene("s", heightfield=flat_scene().heightfield, paths=paths, metadata=metadata)


def join(*lines):
    return Paths(
        *(np.concatenate([getattr(p, k) for p in lines]) for k in ("points", "path_id", "half_width_m"))
    )


L_SHAPE = [(0, 0), (6, 0), (6, 8)]
LOOP = [(0, 0), (4, 0), (4, 3), (0, 3), (0, 0.25)]


def test_network_keeps_lines_apart():
    two = join(line([(0, 0), (2, 0)]), line([(0, 5), (0, 8)], path_id=7))
    net = PathNetwork([flat_scene(), scene_with(two, path_level={"7": 2})], device=CPU)
    offset = int(net.offset[1])
    end = offset + 8
    assert int(net.along(torch.tensor([end - 1]), torch.tensor([5]))) == end  # clamps at its own line's end
    assert int(net.along(torch.tensor([end + 1]), torch.tensor([-5]))) == end + 1
    assert float(net.distance_to_end_m(torch.tensor([end + 1]), torch.tensor([1]))) == pytest.approx(3.0)
    assert float(net.distance_to_end_m(torch.tensor([end + 3]), torch.tensor([-1]))) == pytest.approx(0.5)
    assert net.level[[offset, end + 1]].tolist() == [0, 2]
    assert net.num_levels == 3
    assert not net.closed.any()


def test_loops_go_round():
    net = PathNetwork([scene_with(line(LOOP))], device=CPU)
    assert net.closed.all()
    count = len(net.points)
    assert int(net.along(torch.tensor([count - 1]), torch.tensor([2]))) == 1
    assert int(net.along(torch.tensor([0]), torch.tensor([-1]))) == count - 1
    assert torch.isinf(net.distance_to_end_m(torch.tensor([3]), torch.tensor([1]))).all()
    goal = goal_point(net, torch.tensor([5]), torch.tensor([1]), 100.0)
    assert int(goal) == 5 + count // 2  # half way round at most


def test_scene_without_paths():
    with pytest.raises(InputError, match="0 path points"):
        PathNetwork([scene_with(Paths(np.zeros((0, 4)), np.zeros(0), np.zeros(0)))], device=CPU)


def test_goal_point_is_far_enough_or_the_end():
    net = PathNetwork([scene_with(line(L_SHAPE))], device=CPU)
    goal = goal_point(net, torch.tensor([0, 10, 50]), torch.tensor([1, 1, -1]), 10.0)
    assert goal.tolist() == [40, 50, 10]
    assert int(goal_point(net, torch.tensor([50]), torch.tensor([1]), 10.0)) == len(net.points) - 1


def test_follower_by_hand():
    follower = PathFollower(PathNetwork([scene_with(line(L_SHAPE))], device=CPU), 1, CPU)
    follower.start(torch.tensor([0]), torch.tensor([4]), torch.tensor([1]), torch.tensor([40]))
    off = follower.advance(torch.tensor([[1.8, 0.4]]))
    assert int(follower.index) == 7
    assert float(off) == pytest.approx(0.4)
    error = follower.heading_error(torch.tensor([[1.8, 0.4]]), torch.tensor([0.5]), 1.0, stop_at_goal=False)
    assert float(error) == pytest.approx(math.atan2(-0.4, 2.75 - 1.8) - 0.5, abs=1e-5)
    # Against the line's direction the target lies behind.
    follower.direction[:] = -1
    error = follower.heading_error(
        torch.tensor([[1.75, 0.0]]), torch.tensor([math.pi]), 1.0, stop_at_goal=False
    )
    assert abs(float(error)) < 1e-5
    # Beyond the end the line goes straight on; a goal holds the target.
    follower.start(torch.tensor([0]), torch.tensor([56]), torch.tensor([1]), torch.tensor([56]))
    xy, yaw = torch.tensor([[6.0, 7.9]]), torch.tensor([math.pi / 2])
    assert abs(float(follower.heading_error(xy, yaw, 1.0, stop_at_goal=False))) < 1e-5
    assert (
        abs(float(follower.heading_error(xy + torch.tensor([[0.1, 0.1]]), yaw, 1.0, stop_at_goal=True))) > 1.0
    )


def commands(scene, task, num_envs, rough=False, **changes):
    generator = torch.Generator().manual_seed(0)
    follower = PathFollower(PathNetwork([scene], device=CPU), num_envs, CPU)
    cfg = CommandCfg(**changes)
    return VelocityCommands(cfg, follower, torch.full((num_envs,), rough), Uniform(generator, CPU), task=task)


def drive(made, xy, yaw, steps, dt=0.02):
    """An ideal robot that does exactly as told."""
    for _ in range(steps):
        made.update(xy, yaw)
        v_x, v_y, turn = made.command.unbind(1)
        xy = xy + dt * torch.stack((v_x * yaw.cos() - v_y * yaw.sin(), v_x * yaw.sin() + v_y * yaw.cos()), 1)
        yaw = yaw + dt * turn
    return xy, yaw


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("shape", [L_SHAPE, LOOP])
def test_an_ideal_robot_reaches_its_goal(shape, direction):
    made = commands(scene_with(line(shape)), "goal", 8)
    net, ids = made._follower.network, torch.arange(8)
    index = torch.full((8,), 4 if direction > 0 else len(net.points) - 5)
    directions = torch.full((8,), direction)
    goal = goal_point(net, index, directions, 10.0)
    made._follower.start(ids, index, directions, goal)
    made.resample(ids, speed=torch.full((8,), 0.8))
    yaw = net.travel_yaw(index, directions) + torch.linspace(-2.5, 2.5, 8)
    xy, _ = drive(
        made,
        net.points[index, :2] + 0.3 * torch.randn(8, 2, generator=torch.Generator().manual_seed(1)),
        yaw,
        1200,
    )
    assert ((made._follower.goal_xy() - xy).norm(dim=1) < 0.5).all()


def test_an_open_line_goes_straight_on_for_ever():
    made = commands(scene_with(straight_path(4.0)), "velocity", 2, rough=True, standing_fraction=0.0)
    ids, directions = torch.arange(2), torch.tensor([1, -1])
    made._follower.start(ids, torch.tensor([14, 2]), directions, torch.tensor([16, 0]))
    made.resample(ids, speed=torch.tensor([0.8, 0.8]))
    xy, _ = drive(made, torch.tensor([[1.5, 0.1], [-1.5, 0.1]]), torch.tensor([0.0, torch.pi]), 900)
    assert xy[0, 0] > 14
    assert xy[1, 0] < -14
    assert (xy[:, 1].abs() < 0.05).all()
    assert (made.command[:, 0] > 0.79).all()


def test_velocity_task_keeps_to_the_path_on_rough_ground():
    made = commands(
        scene_with(straight_path(30.0, half_width_m=0.5)), "velocity", 16, rough=True, standing_fraction=0.0
    )
    ids = torch.arange(16)
    made._follower.start(ids, torch.full((16,), 20), torch.ones(16, dtype=torch.long), torch.full((16,), 60))
    made.resample(ids)
    xy, _ = drive(made, torch.tensor([[-10.0, 0.4]]).repeat(16, 1), torch.linspace(-1, 1, 16), 400)
    assert (xy[:, 1].abs() < 0.3).all()
    assert (made.command[:, 1] == 0).all()


def test_velocity_ranges_and_standing():
    made = commands(
        scene_with(straight_path(30.0)), "velocity", 4000, heading_fraction=0.0, standing_fraction=0.25
    )
    ids = torch.arange(4000)
    made._follower.start(
        ids, torch.full((4000,), 60), torch.ones(4000, dtype=torch.long), torch.full((4000,), 60)
    )
    made.resample(ids)
    made.update(torch.zeros(4000, 2), torch.zeros(4000))
    still = (made.command == 0).all(dim=1)
    assert 0.2 < still.float().mean() < 0.3
    moving = made.command[~still]
    for i, (low, high) in enumerate(((0.2, 1.0), (-0.2, 0.2), (-1.0, 1.0))):
        assert low <= moving[:, i].min() < low + 0.1
        assert high - 0.1 < moving[:, i].max() <= high


def test_leaving_the_path_switches_to_its_heading():
    made = commands(
        scene_with(straight_path(30.0)), "velocity", 1, heading_fraction=0.0, standing_fraction=0.0
    )
    made._follower.start(torch.tensor([0]), torch.tensor([60]), torch.tensor([1]), torch.tensor([60]))
    made.resample(torch.tensor([0]))
    made.update(torch.tensor([[0.0, 2.0]]), torch.tensor([1.5]))
    assert made._heading.all()
    assert float(made.command[0, 2]) == -1.0  # back, as fast as allowed


@pytest.mark.parametrize("stop_at_goal", [False, True])
def test_kernels_equal_the_tensor_code(stop_at_goal):
    """On open lines and on a round one, both ways, beyond their ends, all robots and some."""
    turn = np.linspace(0, 2 * np.pi, 33)[:-1]
    ring = np.stack([2 * np.cos(turn), 2 * np.sin(turn), 0 * turn, turn + np.pi / 2], 1).astype(np.float32)
    straight = straight_path(6.0).points
    points = np.concatenate([straight, ring])
    ids = np.repeat([0, 1], [len(straight), len(ring)]).astype(np.int32)
    scene = flat_scene()
    scene.__dict__["paths"] = Paths(points, ids, np.ones(len(points), np.float32))
    network = PathNetwork([scene], device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    twins = [PathFollower(network, 200, torch.device("cpu")) for _ in range(2)]
    index = torch.randint(len(points), (200,), generator=generator)
    direction = 2 * torch.randint(2, (200,), generator=generator) - 1
    goal = torch.minimum(torch.maximum(index + 5 * direction, network.first[index]), network.last[index])
    for follower in twins:
        follower.start(torch.arange(200), index, direction, goal)
    for some in (None, torch.arange(3, 200, 7)):
        rows = torch.arange(200) if some is None else some
        xy = network.points[twins[0].index[rows], :2] + 1.5 * torch.randn(len(rows), 2, generator=generator)
        yaw = 6 * torch.rand(len(rows), generator=generator) - 3
        off = twins[0].advance(xy, some), twins[1]._advance_by_tensors(xy, some)
        assert torch.allclose(*off, atol=1e-5)
        assert torch.equal(twins[0].index, twins[1].index)
        error = twins[0].heading_error(xy, yaw, 0.8, stop_at_goal=stop_at_goal, env_ids=some)
        twin = twins[1]._heading_error_by_tensors(xy, yaw, 0.8, stop_at_goal, some)
        assert wrap_angle(error - twin).abs().max() < 1e-4
    assert (twins[0].index != index).any()


@pytest.mark.parametrize("task", ["velocity", "goal"])
def test_commands_kernel_equals_the_tensor_code(task):
    made, twin = (commands(flat_scene(), task, 64) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    xy = made._follower.network.points[:64, :2] + torch.randn(64, 2, generator=generator)
    yaw = 6 * torch.rand(64, generator=generator) - 3
    for each in (made, twin):
        follower, count = each._follower, torch.arange(64)
        follower.start(
            count, count.clamp(max=len(follower.network.points) - 1), torch.ones_like(count), count
        )
        each._sampled[:] = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
        each._heading[:], each._standing[:] = count % 3 == 0, count % 5 == 0
    for some in (None, torch.arange(3, 64, 7)):
        at = (xy, yaw) if some is None else (xy[some] + 0.3, yaw[some] + 0.3)
        made.update(*at, some)
        off_line = twin._follower._advance_by_tensors(at[0], some)
        error = twin._follower._heading_error_by_tensors(*at, 0.8, task == "goal", some)
        twin._follow_by_tensors(off_line, error, task == "goal", some)
    assert torch.allclose(made.command, twin.command, atol=1e-5)
    assert torch.equal(made._heading, twin._heading)
    assert made.command.std(dim=0)[0] > 0.1


def test_drawn_commands_equal_the_tensor_code():
    made, twin = (commands(flat_scene(), "velocity", 64) for _ in range(2))
    ids, rough = torch.arange(1, 64, 2), torch.arange(64) % 4 == 1
    for each in (made, twin):
        each.set_rough(rough)
    numbers = torch.rand(5, 32, generator=torch.Generator().manual_seed(3))
    made._uniform = lambda low, high, *shape: numbers
    made.resample(ids)
    c = made.cfg
    twin._draw_by_tensors(ids, numbers, (c.lin_vel_x_m_s, c.lin_vel_y_m_s, c.ang_vel_rad_s))
    for name in ("_sampled", "_heading", "_standing"):
        torch.testing.assert_close(getattr(made, name), getattr(twin, name))
    assert 0 < made._standing.sum() < 32
    assert (made._heading[ids] | ~rough[ids]).all()


def test_ends_of_lines_equal_the_tensor_code():
    line = flat_scene()
    network = PathNetwork([line], device=torch.device("cpu"))
    last = len(network.points) - 1
    follower = PathFollower(network, 5, torch.device("cpu"))
    follower.start(
        torch.arange(5),
        torch.tensor([0, 0, last, last, last]),
        torch.tensor([1, -1, 1, -1, 1]),
        torch.zeros(5, dtype=torch.long),
    )
    rough = torch.tensor([True, True, True, True, False])
    assert follower.at_end(rough).tolist() == [False, True, True, False, False]
    assert torch.equal(follower._at_end_by_tensors(rough), follower.at_end(rough))
