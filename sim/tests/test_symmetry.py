from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.frames import gravity_in_base, matrix_from_quat, rotate
from gaussgym_sim.mdp.symmetry import (
    PSEUDOVECTOR,
    VECTOR,
    Symmetry,
    mirror_camera_pose,
    mirror_image,
    mirror_intrinsics,
    mirror_quat_wxyz,
)
from gaussgym_sim.robot import get_robot, robot_names
from gaussgym_sim.sensors.camera import CameraCfg, camera_to_world, intrinsics, mount_pose
from gaussgym_sim.sensors.observations import ObservationCfg
from gaussgym_sim.task import get_task
from gaussgym_sim.vecsim import make_sim

torch.set_num_threads(1)
FLIP = torch.tensor(VECTOR)


def rough_scene(side):
    """Ground without symmetry, and a path that bends; ``side`` -1: its mirror image."""
    x, y = np.meshgrid(np.arange(-6, 6.01, 0.1), np.arange(-3, 3.01, 0.1))
    y = side * y
    height = (0.05 * x - 0.1 * y + 0.05 * np.sin(2 * x + y)).astype(np.float32)
    field = Heightfield(height, 0.1, np.array([-6.0, -3.0]), np.ones_like(height, bool))
    along = np.arange(-4, 4.01, 0.25)
    points = np.stack([along, side * 0.1 * along**2, 0 * along, side * np.arctan(0.2 * along)], 1)
    paths = Paths(points, np.zeros(len(along), int), np.full(len(along), 0.5))
    return Scene("rough", heightfield=field, paths=paths)


def random_state(robot, count):
    g = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=g)

    quat = torch.nn.functional.normalize(torch.tensor([1.0, 0, 0, 0]) + 0.4 * draw(count, 4), dim=1)
    joints = torch.tensor(robot.default_joint_pos) + 0.2 * draw(count, robot.num_joints)
    return dict(
        root_pos_w=torch.cat((0.5 * draw(count, 2), 0.7 + 0.1 * draw(count, 1)), 1), root_quat_wxyz=quat,
        root_lin_vel_w=draw(count, 3), root_ang_vel_b=draw(count, 3), joint_pos=joints,
        joint_vel=draw(count, robot.num_joints),
    )  # fmt: skip


def mirrored(state, symmetry):
    pseudo = torch.tensor(PSEUDOVECTOR)
    return dict(
        root_pos_w=state["root_pos_w"] * FLIP, root_quat_wxyz=mirror_quat_wxyz(state["root_quat_wxyz"]),
        root_lin_vel_w=state["root_lin_vel_w"] * FLIP, root_ang_vel_b=state["root_ang_vel_b"] * pseudo,
        joint_pos=symmetry.actions(state["joint_pos"]), joint_vel=symmetry.actions(state["joint_vel"]),
    )  # fmt: skip


def observe(robot, side, state, action, task):
    """Observations of robots in a given state, 16 points along the path, on their way back."""
    count = len(action)
    cfg = replace(EnvCfg().for_evaluation(), task=task, gait_hz=(1.0, 2.0))
    env = Env(make_sim("mujoco", robot, [rough_scene(side)], count, num_threads=1), cfg)
    ids = torch.arange(count)
    env.sim.reset(ids, **state)
    env.action = action
    env.follower.start(ids, torch.full((count,), 16), torch.full((count,), -1), torch.full((count,), 2))
    if task == "navigate":
        env.commands.give(torch.tensor([[0.5, side * 0.2, side * 0.3]] * count))
    else:
        commands = env.commands
        if task == "goal_semantic_steered":
            commands.give(torch.tensor([[-0.1, side * 0.1, side * 0.3]] * count))
            commands = commands.path
        commands._sampled[:] = torch.tensor([0.5, side * 0.2, side * 0.3])
        commands._heading[:], commands._standing[:] = True, False
    env.gait.phase[:] = torch.linspace(-3, 3, count) + (torch.pi if side < 0 else 0.0)
    if task != "goal" and task != "velocity":
        patches = env.task_state.patches
        shape = patches.half_m.shape
        patches.xy_m[:] = FLIP[:2].pow(0 if side > 0 else 1) * torch.linspace(
            -1, 1, 2 * patches.half_m.numel()
        ).view(*shape, 2)
        patches.half_m[:] = torch.linspace(0.2, 0.6, patches.half_m.numel()).view(shape)
    env._refresh()
    env.commands.update(env.sim.state.root_pos_w[:, :2], env.yaw)
    return env, env.get_observations()


PAIRS = [(robot, task) for robot in robot_names() for task in ("velocity", "goal")]


@pytest.mark.parametrize(
    ("robot", "task"),
    [*PAIRS, ("go1", "goal_semantic"), ("go1", "goal_semantic_steered"), ("go1", "navigate")],
)
def test_the_mirrored_robot_in_the_mirrored_world_observes_the_mirror_image(robot, task):
    cfg = get_robot(robot)
    symmetry = Symmetry(cfg, task=get_task(task))
    state, action = random_state(cfg, 6), torch.linspace(-1, 1, 6 * cfg.num_joints).view(6, -1)
    env, seen = observe(robot, 1, state, action, task)
    other, seen_there = observe(robot, -1, mirrored(state, symmetry), symmetry.actions(action), task)
    for name, value in symmetry.observations(seen).items():
        torch.testing.assert_close(
            value, seen_there[name], atol=2e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert name == "rgb_new" or (value - seen[name]).abs().max() > 0.01  # it does say something
    # The joints' signs are those of the body: feet are where the mirror shows them.
    feet = symmetry.legs(env.sim.state.foot_pos_w) * FLIP
    torch.testing.assert_close(feet, other.sim.state.foot_pos_w, atol=2e-3, rtol=0)


def test_twice_is_nothing():
    robot = get_robot("go1")
    symmetry = Symmetry(robot)
    groups = {
        "proprio": torch.randn(4, 45), "base_vel": torch.randn(4, 3), "scan": torch.randn(4, 63), "gait": torch.randn(4, 2),
        "rgb": torch.randint(0, 255, (4, 3, 6, 8), dtype=torch.uint8), "rgb_new": torch.ones(4, 1),
    }  # fmt: skip
    twice = symmetry.observations(symmetry.observations(groups))
    assert all(torch.equal(twice[name], groups[name]) for name in groups)
    for name in robot_names():
        cfg = get_robot(name)
        action = torch.randn(3, cfg.num_joints)
        assert torch.equal(Symmetry(cfg).actions(Symmetry(cfg).actions(action)), action)
    K = torch.tensor([[30.0, 0.2, 13.0], [0.0, 31.0, 20.0], [0.0, 0.0, 1.0]])
    assert torch.equal(mirror_intrinsics(mirror_intrinsics(K, 64), 64), K)
    pose = mount_pose(robot)
    assert torch.equal(mirror_camera_pose(mirror_camera_pose(pose)), pose)


def test_signs_by_hand():
    """Rolling to the right and turning left, seen in the mirror: rolling to the left and turning right; pitching stays."""
    seen = torch.zeros(1, 45)
    seen[0, :9] = torch.tensor(
        [0.1, 0.2, 0.3, 0.4, 0.5, -0.6, 0.7, 0.8, 0.9]
    )  # ang_vel_b, gravity_b, command
    seen[0, 9:12] = torch.tensor([1.0, 2.0, 3.0])  # front right hip, thigh, calf
    out = Symmetry(get_robot("go1")).observations({"proprio": seen})["proprio"][0]
    want = [-0.1, 0.2, -0.3, 0.4, -0.5, -0.6, 0.7, -0.8, -0.9, 0, 0, 0, -1.0, 2.0, 3.0]
    assert out[:15].tolist() == pytest.approx(want)
    assert not out[15:].any()


def test_quaternions_mirror_as_matrices_do():
    quat = torch.nn.functional.normalize(
        torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), dim=1
    )
    s = torch.diag(FLIP)
    torch.testing.assert_close(matrix_from_quat(mirror_quat_wxyz(quat)), s @ matrix_from_quat(quat) @ s)
    torch.testing.assert_close(gravity_in_base(mirror_quat_wxyz(quat)), gravity_in_base(quat) * FLIP)


def test_images_are_flipped_along_their_width():
    """A point left of the robot appears in the mirrored image where its mirror image does in the mirrored camera's."""
    cfg = CameraCfg(width=20, height=10)
    K, mount = intrinsics(cfg), mount_pose(get_robot("go1"))
    mount[:3, 3] += torch.tensor([0.0, 0.04, 0.0])  # a camera off the middle, turned a little
    mount[:3, :3] = matrix_from_quat(torch.tensor([0.999, 0.02, 0.02, 0.03])) @ mount[:3, :3]
    K[0, 2] += 1.3
    pos, quat = (
        torch.tensor([[1.0, 2.0, 0.4]]),
        torch.nn.functional.normalize(torch.tensor([[0.9, 0.1, 0.1, 0.3]]), dim=1),
    )
    c2w = camera_to_world(pos, quat, mount[None])[0]
    point = pos[0] + rotate(quat[0], torch.tensor([2.0, 0.4, -0.5]))

    def pixel(c2w, K, point):
        local = torch.linalg.solve(c2w, torch.cat((point, torch.ones(1))))[:3]
        assert local[2] > 0.5
        return (K @ local)[:2] / local[2]

    there = camera_to_world(pos * FLIP, mirror_quat_wxyz(quat), mirror_camera_pose(mount)[None])[0]
    torch.testing.assert_close(there, mirror_camera_pose(c2w), atol=1e-5, rtol=0)
    u, v = pixel(c2w, K, point)
    u_there, v_there = pixel(there, mirror_intrinsics(K, cfg.width), point * FLIP)
    assert float(u_there) == pytest.approx(cfg.width - float(u), abs=1e-3)
    assert float(v_there) == pytest.approx(float(v), abs=1e-3)
    image = torch.zeros(1, 3, cfg.height, cfg.width)
    image[0, :, int(v), int(u)] = 1.0
    assert mirror_image(image)[0, 0].nonzero().tolist() == [[int(v_there), int(u_there)]]


def test_what_has_no_mirror_image():
    with pytest.raises(InputError, match="observation group 'smell'"):
        Symmetry(get_robot("go1")).observations({"smell": torch.zeros(1)})
    with pytest.raises(InputError, match=r"scan_y_m reaches from -0.4 to 0.5 m"):
        Symmetry(get_robot("go1"), replace(ObservationCfg(), scan_y_m=(-0.4, 0.5, 7)))
