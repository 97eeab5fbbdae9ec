"""Depth as an observation group: the numbers in it, and that it is of the same frame as the colours."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.mdp.symmetry import Symmetry
from gaussgym_sim.presets import randomize_preset
from gaussgym_sim.robot import get_robot
from gaussgym_sim.sensors.camera import CameraCfg, camera_to_world, intrinsics
from gaussgym_sim.sensors.images import quantize_depth
from gaussgym_sim.testing import flat_scene, wavy_scene
from gaussgym_sim.vecsim import make_sim


class PlaneRenderer:
    """Ray-casts the plane z = 0: exact depth, 0 over the horizon; colour is the running number of the image, from 1."""

    def __init__(self, cfg, place=None):
        self.cfg, self.place, self.drawn, self.poses = cfg, place, 1, []

    def stays_on(self, device):
        return self.place is not None and str(device) == self.place

    def render(self, c2w, K, scene_ids, *, mask=None, out=None):
        rows = torch.arange(len(c2w)) if mask is None else mask.nonzero().squeeze(1)
        if len(rows):
            self.poses.append(c2w[rows].clone())
        depth = plane_depth(c2w, K, self.cfg)
        rgb = torch.zeros(len(c2w), self.cfg.height, self.cfg.width, 3, dtype=torch.uint8)
        rgb[rows] = (self.drawn + torch.arange(len(rows))).to(torch.uint8)[:, None, None, None]
        self.drawn += len(rows)
        if mask is None:
            return SimpleNamespace(rgb=rgb, depth=depth)
        out = (
            SimpleNamespace(rgb=torch.zeros_like(rgb), depth=torch.zeros_like(depth)) if out is None else out
        )
        out.rgb[mask], out.depth[mask] = rgb[mask], depth[mask]
        return out


def plane_depth(c2w, K, cfg):
    """Depth [C, H, W] along +Z of the plane z = 0, 0 where a pixel's ray misses it."""
    v, u = torch.meshgrid(torch.arange(cfg.height) + 0.5, torch.arange(cfg.width) + 0.5, indexing="ij")
    rays_c = torch.stack((u, v, torch.ones_like(u)), dim=-1) @ torch.linalg.inv(K)[:, None].mT  # z = 1
    falls = -(rays_c @ c2w[:, None, :3, :3].mT)[..., 2]
    return torch.where(falls > 1e-6, c2w[:, 2, 3, None, None] / falls, 0.0).clamp(max=1e4)


def make(images=("rgb", "depth"), *, num_envs=4, place=None, seed=0, **changes):
    camera = CameraCfg(width=8, height=6, images=images)
    cfg = replace(EnvCfg(), camera=camera, **changes)
    renderer = PlaneRenderer(camera, place)
    sim = make_sim("mujoco", "go1", [flat_scene(), wavy_scene()], num_envs)
    return Env(sim, cfg, renderer=renderer, seed=seed), renderer


def test_levels_by_hand():
    """5 m are 255 levels of 19.6 mm; nothing, and everything beyond, is white."""
    depth = torch.tensor([[[0.0, 0.001, 1.0], [2.5, 5.0, 80.0]]])
    assert quantize_depth(depth, 5.0).tolist() == [[[[255, 0, 51], [128, 255, 255]]]]
    assert quantize_depth(depth, 2.0).tolist() == [[[[255, 0, 128], [255, 255, 255]]]]
    assert depth[0, 0, 0] == 0.0  # what is given stays as it was


def test_a_plane_from_the_robots_pose():
    """The robot stands on flat ground: the row through the optical axis is as deep as trigonometry says."""
    env, _ = make(randomize=EnvCfg().for_evaluation().randomize, random_initial_age=False)
    depth = env.get_observations()["depth"]
    assert depth.shape == (4, 1, 6, 8)
    assert depth.dtype == torch.uint8
    camera, s, robot = env.camera, env.sim.state, env.sim.robot
    c2w = camera_to_world(s.root_pos_w, s.root_quat_wxyz, camera.pose_b_c)
    down = math.asin(-float(c2w[0, 2, 2]))
    assert down == pytest.approx(robot.camera_tilt_rad, abs=0.05)
    height = float(c2w[0, 2, 3])
    focal = float(intrinsics(env.cfg.camera)[1, 1])
    for row in range(6):
        below = down + math.atan2(row + 0.5 - 3.0, focal)
        along_z = height / math.sin(below) * math.cos(below - down) if below > 0 else math.inf
        level = round(255 * min(along_z, 5.0) / 5.0)
        assert depth[0, 0, row].tolist() == pytest.approx([level] * 8, abs=1.5)


def test_colour_and_depth_are_of_one_frame_and_colour_is_as_without_depth():
    """Depth seen is that of the pose at which the colours (a running number) were taken."""
    both, renderer = make(seed=2)
    alone, _ = make(("rgb",), seed=2)
    deep, _ = make(("depth",), seed=2)
    assert set(alone.get_observations()) == set(both.get_observations()) - {"depth"}
    generator, checked = torch.Generator().manual_seed(1), 0
    for _ in range(15):
        action = 0.5 * torch.randn(4, 12, generator=generator)
        seen, colour, depth = (env.step(action)[0] for env in (both, alone, deep))
        assert torch.equal(seen["rgb"], colour["rgb"])
        assert torch.equal(seen["rgb_new"], colour["rgb_new"])
        assert torch.equal(seen["depth"], depth["depth"])
        assert "rgb" not in depth
        poses = [pose for batch in renderer.poses for pose in batch]
        for env in range(4):
            number = int(seen["rgb"][env, 0, 0, 0])
            if number == 0:
                assert not seen["depth"][env].any()  # no frame yet
                continue
            truth = plane_depth(poses[number - 1][None], both.camera.K[env][None], both.cfg.camera)
            assert torch.equal(seen["depth"][env], quantize_depth(truth, 5.0)[0])
            checked += 1
    assert checked > 30


def test_frames_rendered_in_place_have_the_same_depth():
    """Through resets, unwatched envs and a saved state."""
    for images in (("rgb", "depth"), ("depth",)):
        envs = [make(images, num_envs=6, place=place, episode_s=0.3, seed=3)[0] for place in (None, "cpu")]
        assert [env.camera._in_place for env in envs] == [False, True]
        generator, saved = torch.Generator().manual_seed(1), []
        for step in range(40):
            if step == 20:
                saved = [env.state_dict() for env in envs]
            if step == 30:
                for env, state in zip(envs, saved):
                    env.load_state_dict(state)
            for env in envs:
                env.camera.unwatched[step % 6] = step > 10
            action = torch.randn(6, 12, generator=generator)
            (chosen, *_), (in_place, *_) = (env.step(action) for env in envs)
            assert all(torch.equal(chosen[name], in_place[name]) for name in (*images, "rgb_new"))
            assert in_place["depth"].is_contiguous()


def test_depth_is_late_and_goes_on_from_a_saved_state():
    """With everything varied, colour and depth share one ring."""
    randomize = randomize_preset("extreme")
    envs = []
    for seed in (1, 2):
        sim = make_sim("mujoco", "go1", [flat_scene()], 6)
        cfg = replace(
            EnvCfg(), randomize=randomize.supported_by(sim.capabilities)[0], episode_s=0.8,
            camera=CameraCfg(width=8, height=6, images=("rgb", "depth")),
        )  # fmt: skip
        envs.append(Env(sim, cfg, seed=seed, renderer=PlaneRenderer(cfg.camera)))
    image, on_way = 6 * 8, len(envs[0].camera._late._frames)
    assert envs[0].camera.image_bytes == 6 * (1 + on_way) * 4 * image
    generator = torch.Generator().manual_seed(0)
    for step in range(60):
        if step == 30:
            envs[1].load_state_dict(envs[0].state_dict())
            envs[1].camera._renderer.drawn = envs[0].camera._renderer.drawn
        action = 0.5 * torch.randn(6, 12, generator=generator)
        got = [env.step(action)[0] for env in envs[: 1 + (step >= 30)]]
        if step >= 30:
            assert all(torch.equal(got[0][name], got[1][name]) for name in got[0])


def test_a_mirrored_depth_image_is_flipped():
    env, _ = make(seed=1)
    groups = env.get_observations()
    groups["depth"] = torch.arange(48, dtype=torch.uint8).view(1, 1, 6, 8).repeat(4, 1, 1, 1)
    mirrored = Symmetry(get_robot("go1")).observations(groups)
    assert mirrored["depth"][0, 0, 0].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": ()}, "one or more of rgb, depth"),
        ({"images": ("rgb", "lidar")}, "'lidar'"),
        ({"images": ("rgb", "rgb")}, "each once"),
        ({"depth_max_m": 0.0}, "depth_max_m is 0.0"),
    ],
)
def test_images_that_no_camera_gives(settings, message):
    cfg = replace(EnvCfg(), camera=CameraCfg(width=8, height=6, **settings))
    with pytest.raises(InputError, match=message):
        Env(make_sim("mujoco", "go1", [flat_scene()], 1), cfg, renderer=PlaneRenderer(cfg.camera))


def test_a_state_saved_without_depth():
    env, _ = make()
    state = make(("rgb",))[0].state_dict()
    with pytest.raises(InputError, match="saved cameras without depth images"):
        env.load_state_dict(state)
