import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.frames import matrix_from_rotation_vector, quat_from_yaw
from gaussgym_sim.randomize import RandomizeCfg
from gaussgym_sim.robot import get_robot
from gaussgym_sim.robots.kinematics import BodyKinematics
from gaussgym_sim.sensors.camera import CameraCfg, camera_to_world, camera_twist, intrinsics, mount_pose
from gaussgym_sim.testing import flat_scene, place, wavy_scene
from gaussgym_sim.vecsim import make_sim


class CountingRenderer:
    """Paints each image with its running number and keeps what it was asked."""

    def __init__(self, cfg):
        self.cfg, self.calls, self.drawn = cfg, [], 0

    def render(self, c2w, K, scene_ids, *, mask=None):
        self.calls.append((c2w.clone(), K.clone(), scene_ids.clone()))
        numbers = torch.arange(self.drawn, self.drawn + len(c2w), dtype=torch.uint8)
        self.drawn += len(c2w)
        return SimpleNamespace(
            rgb=numbers[:, None, None, None].expand(-1, self.cfg.height, self.cfg.width, 3)
        )


def make(num_envs=4, **changes):
    cfg = replace(EnvCfg().for_evaluation(), camera=CameraCfg(width=8, height=6), **changes)
    renderer = CountingRenderer(cfg.camera)
    env = Env(make_sim("mujoco", "go1", [flat_scene(), wavy_scene()], num_envs), cfg, renderer=renderer)
    return env, renderer


def test_intrinsics_give_the_field_of_view():
    k = intrinsics(CameraCfg(width=64, height=48))
    left_ray = np.linalg.inv(k.numpy()) @ [0.0, 24.0, 1.0]
    assert math.isclose(math.atan2(-left_ray[0], 1.0), math.radians(45), abs_tol=1e-6)
    assert left_ray[1] == 0.0


def test_a_point_on_the_ground_lands_where_geometry_says():
    """The robot at (2, 1) faces +y; the camera looks down 30 degrees from 0.31 m: its axis meets the ground 0.54 m ahead."""
    robot = get_robot("go1")
    c2w = camera_to_world(
        torch.tensor([[2.0, 1.0, 0.28]]), quat_from_yaw(torch.tensor([math.pi / 2])), mount_pose(robot)[None]
    )[0].numpy()
    x_b, _, z_b = robot.camera_pos_b
    height = 0.28 + z_b
    ahead = height / math.tan(robot.camera_tilt_rad)
    centre = np.array([2.0, 1.0 + x_b + ahead, 0.0, 1.0])
    k = intrinsics(CameraCfg()).numpy()

    def pixel(point):
        p = np.linalg.inv(c2w) @ point
        return (k @ p[:3])[:2] / p[2], p[2]

    (u, v), depth = pixel(centre)
    np.testing.assert_allclose((u, v), (32.0, 24.0), atol=1e-4)
    assert math.isclose(depth, height / math.sin(robot.camera_tilt_rad), rel_tol=1e-5)
    (u, _), _ = pixel(centre + [0.1, 0, 0, 0])  # facing +y, +x is to the right
    assert u > 33
    (_, v), _ = pixel(centre + [0, 0.3, 0, 0])  # further ahead is higher in the image
    assert v < 23
    assert np.isclose(np.linalg.det(c2w[:3, :3]), 1.0)


def test_frames_are_held_for_five_steps():
    env, renderer = make()
    assert renderer.drawn == 4
    zero = torch.zeros(4, 12)
    images, new = [], []
    for _ in range(11):
        obs, *_ = env.step(zero)
        images.append(obs["rgb"][:, 0, 0, 0].tolist())
        new.append(int(obs["rgb_new"].sum()))
    assert new == [0, 0, 0, 0, 4, 0, 0, 0, 0, 4, 0]
    assert images[0] == images[3] == [0, 1, 2, 3]
    assert images[4] == images[8] == [4, 5, 6, 7]
    assert obs["rgb"].shape == (4, 3, 6, 8)
    assert obs["rgb"].dtype == torch.uint8
    assert renderer.calls[0][2].tolist() == [0, 0, 1, 1]


def test_a_reset_asks_for_a_frame_at_once():
    env, _renderer = make(episode_s=0.06)
    new = [int(env.step(torch.zeros(4, 12))[0]["rgb_new"].sum()) for _ in range(6)]
    assert new == [0, 0, 4, 0, 0, 4]


def test_looking_again_renders_nothing():
    env, renderer = make()
    env.get_observations()
    assert renderer.drawn == 4


def test_what_nobody_watches_is_not_rendered_until_its_next_episode():
    env, renderer = make()
    env.camera.unwatched[1] = True
    before = env.camera.rgb[1].clone()
    for _ in range(5):
        env.step(torch.zeros(4, 12))
    assert len(renderer.calls[-1][0]) == 3
    assert torch.equal(env.camera.rgb[1], before)
    assert env.camera.new[1, 0] == env.camera.new[0, 0]  # the clock runs on
    env.camera.restart(torch.tensor([1]), env.cfg.randomize, env.uniform)
    assert not env.camera.unwatched[1]


def test_poses_follow_the_robot_and_jitter_within_bounds():
    cfg = replace(RandomizeCfg.none(), camera_pos_m=0.02, camera_rot_rad=0.03, camera_focal=0.02)
    env, renderer = make(num_envs=200, randomize=cfg)
    c2w, k, _ = renderer.calls[0]
    exact = camera_to_world(
        env.sim.state.root_pos_w, env.sim.state.root_quat_wxyz, mount_pose(env.sim.robot).repeat(200, 1, 1)
    )
    shift = torch.linalg.inv(exact) @ c2w
    assert 0.015 < shift[:, :3, 3].abs().max() <= 0.0201
    angle = torch.arccos(((shift[:, 0, 0] + shift[:, 1, 1] + shift[:, 2, 2] - 1) / 2).clamp(-1, 1))
    assert 0.03 < angle.max() <= 0.03 * math.sqrt(3) + 1e-3
    focal = k[:, 0, 0] / intrinsics(env.cfg.camera)[0, 0]
    assert 0.98 <= focal.min() < 0.985 < 1.015 < focal.max() <= 1.02
    assert torch.equal(k[:, 0, 0], k[:, 1, 1])


def test_training_spreads_the_frames_over_the_period():
    cfg = replace(EnvCfg(), camera=CameraCfg(width=8, height=6))
    env = Env(make_sim("mujoco", "go1", [flat_scene()], 100), cfg, renderer=CountingRenderer(cfg.camera))
    new = torch.stack([env.step(torch.zeros(100, 12))[0]["rgb_new"][:, 0] for _ in range(5)]).sum(dim=1)
    assert (new > 5).all()


def test_blind_env_has_no_image():
    env = Env(make_sim("mujoco", "go1", [flat_scene()], 1), EnvCfg())
    assert set(env.get_observations()) == {"proprio", "base_vel", "scan"}


class MovingRenderer(CountingRenderer):
    """Also asks which cameras these are and how they move."""

    takes_motion = True

    def __init__(self, cfg):
        super().__init__(cfg)
        self.motions = []

    def render(self, c2w, K, scene_ids, *, twist_c, camera_ids, frame_ids):
        self.motions.append((twist_c.clone(), camera_ids.clone(), frame_ids.clone()))
        return super().render(c2w, K, scene_ids)


def test_camera_twist_is_the_derivative_of_the_pose():
    generator = torch.Generator().manual_seed(0)
    lin_b, ang_b = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    mount = mount_pose(get_robot("go1")).double().repeat(5, 1, 1)
    mount[:, :3, :3] = mount[:, :3, :3] @ matrix_from_rotation_vector(
        torch.randn(5, 3, generator=generator).double()
    )
    start = torch.eye(4, dtype=torch.float64).repeat(5, 1, 1)
    start[:, :3, :3] = matrix_from_rotation_vector(torch.randn(5, 3, generator=generator).double())
    dt = 1e-6

    def pose(t):
        base = start.clone()
        base[:, :3, :3] = start[:, :3, :3] @ matrix_from_rotation_vector(ang_b * t)
        base[:, :3, 3] = (start[:, :3, :3] @ (lin_b * t)[..., None])[..., 0]
        return base @ mount

    rate = torch.linalg.inv(pose(0.0)) @ (pose(dt) - pose(-dt)) / (2 * dt)
    twist = camera_twist(lin_b, ang_b, mount)
    np.testing.assert_allclose(twist[:, :3], rate[:, :3, 3], atol=1e-6)
    np.testing.assert_allclose(
        twist[:, 3:], torch.stack((rate[:, 2, 1], rate[:, 0, 2], rate[:, 1, 0]), 1), atol=1e-6
    )


def test_a_renderer_that_takes_motion_is_told_who_and_how_fast():
    cfg = replace(EnvCfg().for_evaluation(), camera=CameraCfg(width=8, height=6), episode_s=0.06)
    renderers = [MovingRenderer(cfg.camera) for _ in range(2)]
    for renderer, seed in zip(renderers, (5, 5)):
        env = Env(make_sim("mujoco", "go1", [flat_scene()], 3), cfg, renderer=renderer, seed=seed)
        for _ in range(4):
            env.step(torch.zeros(3, 12))
    (_, first, numbers), (twist, second, more) = renderers[0].motions[0], renderers[0].motions[-1]
    assert numbers.tolist() == [0, 0, 0]
    assert more.tolist() == [1, 1, 1]
    assert len(set(first.tolist() + second.tolist())) == 6  # a new episode is a new camera
    assert torch.isfinite(twist).all()
    for a, b in zip(*(r.motions for r in renderers)):
        assert all(torch.equal(x, y) for x, y in zip(a, b))
    state = env.sim.state
    expected = camera_twist(env.lin_vel_b, state.root_ang_vel_b, env.camera.pose_b_c)
    env.camera.clock.wait[:] = 0.0
    env._capture()
    assert torch.equal(renderers[1].motions[-1][0], expected)


class PaintingRenderer:
    """Paints each image by all that it is told of its camera; with ``place`` it can be told which are due, on the device."""

    takes_motion = True

    def __init__(self, cfg, place=None):
        self.cfg, self.place, self.calls = cfg, place, []

    def stays_on(self, device):
        return self.place is not None and str(device) == self.place

    def render(self, c2w, K, scene_ids, *, twist_c, camera_ids, frame_ids, mask=None, out=None):
        told = (
            c2w.flatten(1),
            K.flatten(1),
            scene_ids[:, None],
            twist_c,
            camera_ids[:, None],
            frame_ids[:, None],
        )
        numbers = torch.cat([t.double() for t in told], dim=1)
        weights = torch.rand(
            numbers.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        codes = (torch.sin(numbers) @ weights * 1e3).remainder(256).to(torch.uint8)
        images = codes[:, None, None, None].repeat(1, self.cfg.height, self.cfg.width, 3)
        self.calls.append(len(c2w) if mask is None else int(mask.sum()))
        if mask is None:
            return SimpleNamespace(rgb=images)
        out = SimpleNamespace(rgb=torch.zeros_like(images)) if out is None else out
        out.rgb[mask] = images[mask]
        return out


def test_frames_rendered_in_place_are_those_of_the_chosen_envs():
    """Through resets, staggered clocks, unwatched envs and a saved state."""
    cfg = replace(EnvCfg(), camera=CameraCfg(width=8, height=6), episode_s=0.3)
    renderers = [PaintingRenderer(cfg.camera, place) for place in (None, "cpu")]
    envs = [
        Env(make_sim("mujoco", "go1", [flat_scene(), wavy_scene()], 6), cfg, renderer=renderer, seed=3)
        for renderer in renderers
    ]
    assert [env.camera._in_place for env in envs] == [False, True]
    generator = torch.Generator().manual_seed(1)
    saved = None
    for step in range(40):
        action = torch.randn(6, 12, generator=generator)
        if step == 20:
            saved = [env.state_dict() for env in envs]
        if step == 30:
            for env, state in zip(envs, saved):
                env.load_state_dict(state)
        for env in envs:
            env.camera.unwatched[step % 6] = step > 10
        (chosen, *_), (in_place, *_) = (env.step(action) for env in envs)
        assert torch.equal(chosen["rgb"], in_place["rgb"])
        assert torch.equal(chosen["rgb_new"], in_place["rgb_new"])
        assert in_place["rgb"].is_contiguous()
    asked = [[n for n in renderer.calls if n] for renderer in renderers]
    assert asked[0] == asked[1]
    assert 0 < min(asked[0]) < 6
    assert envs[1].camera.rgb.data_ptr() == envs[1].camera._frames.rgb.data_ptr()  # no image is copied


class SeeingRenderer(CountingRenderer):
    """Also asks where the robots are."""

    takes_bodies = True

    def __init__(self, cfg, *, others=0, motion=False):
        super().__init__(cfg)
        self.num_others, self.takes_motion, self.given = others, motion, []

    def render(self, c2w, K, scene_ids, **given):
        self.given.append({name: value.clone() for name, value in given.items()})
        return super().render(c2w, K, scene_ids)


def with_robots(num_envs=6, scenes=None, **options):
    cfg = replace(EnvCfg().for_evaluation(), camera=CameraCfg(width=8, height=6))
    renderer = SeeingRenderer(cfg.camera, **options)
    sim = make_sim("mujoco", "go1", scenes or [flat_scene(), wavy_scene()], num_envs)
    return Env(sim, cfg, renderer=renderer, seed=3), renderer


def test_a_renderer_that_takes_bodies_is_told_where_its_robots_are():
    env, renderer = with_robots(motion=True)
    for _ in range(5):
        env.step(torch.randn(6, 12, generator=torch.Generator().manual_seed(1)))
    given, s = renderer.given[-1], env.sim.state
    assert given["body_poses_w"].shape == (6, 1, 13, 4, 4)
    assert given["body_twists_b"].shape == (6, 1, 13, 6)
    assert given["robot_shown"].all()
    kinematics = BodyKinematics(env.sim.robot, 6)
    assert torch.equal(
        given["body_poses_w"][:, 0], kinematics.poses(s.root_pos_w, s.root_quat_wxyz, s.joint_pos)
    )
    # The camera is joined to the trunk, so that the trunk's velocity is that of the base.
    np.testing.assert_allclose(given["body_twists_b"][:, 0, 0, :3], env.lin_vel_b, atol=1e-5)
    np.testing.assert_allclose(given["body_twists_b"][:, 0, 0, 3:], s.root_ang_vel_b, atol=1e-5)
    env.camera.unwatched[[0, 1, 4]] = True
    for _ in range(5):
        env.step(torch.zeros(6, 12))
    assert renderer.given[-1]["body_poses_w"].shape[0] == 3
    watched = torch.tensor([2, 3, 5])
    trunk = renderer.given[-1]["body_poses_w"][:, 0, 0, :3, 3]
    np.testing.assert_allclose(trunk, env.sim.state.root_pos_w[watched], atol=1e-6)


def test_bodies_without_motion_have_no_velocity():
    _, renderer = with_robots()
    assert set(renderer.given[0]) == {"body_poses_w", "robot_shown"}


def test_the_nearest_robots_of_the_same_scene_are_shown():
    """Three robots on flat ground at x = 0, 1 and 3 and one at 0.3 (it overlaps the first); two on other ground."""
    env, renderer = with_robots(others=2)
    everyone = torch.arange(6)
    assert env.sim.scene_of_env.tolist() == [0, 0, 0, 1, 1, 1]
    place(env.sim, pos_w=torch.tensor([[x, 0.0, 1.0] for x in (0.0, 1.0, 3.0, 0.0, 1.0, 1.5)]))
    env.camera.clock.wait[:] = 0.0
    env._capture()
    given = renderer.given[-1]
    assert given["body_poses_w"].shape == (6, 3, 13, 4, 4)
    x = torch.where(given["robot_shown"], given["body_poses_w"][:, :, 0, 0, 3], torch.nan)
    nan = float("nan")
    np.testing.assert_allclose(
        x,
        [[0, 1, 3], [1, 0, 3], [3, 1, 0], [0, 1, 1.5], [1, 0, nan], [1.5, 0, nan]],
        atol=1e-6,
    )
    assert len(everyone) == len(x)
    few, renderer = with_robots(num_envs=2, scenes=[flat_scene()], others=5)  # more than there are
    place(few.sim, pos_w=torch.tensor([[0.0, 0, 1], [2.0, 0, 1]]))
    few.camera.clock.wait[:] = 0.0
    few._capture()
    assert renderer.given[-1]["body_poses_w"].shape == (2, 6, 13, 4, 4)
    assert renderer.given[-1]["robot_shown"].tolist() == [[True, True] + [False] * 4] * 2
