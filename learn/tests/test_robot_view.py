"""Robots in the images: their own legs, other robots, nothing else changed; levels of detail in place of scenes."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_learn.camera_renderer import make_camera_renderer
from gaussgym_learn.courses import stairs_course
from gaussgym_learn.env import make_env
from gaussgym_learn.evaluate import EPISODE_S, evaluate
from gaussgym_learn.ppo_trainer import PPOTrainer
from gaussgym_learn.recipes import get_recipe
from gaussgym_learn.robot_view import RobotRenderer, robot_shapes
from gaussgym_learn.run import torch_threads
from gaussgym_render import SplatRenderer
from gaussgym_render.lod import build_tree
from gaussgym_render.optimize import digest
from gaussgym_render.testing import random_splats
from gaussgym_scene.errors import InputError
from gaussgym_scene.splats import Splats
from gaussgym_scene.synth import synthesize
from gaussgym_sim import robot as robots
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.robot import get_robot
from gaussgym_sim.robots.kinematics import BodyKinematics
from gaussgym_sim.sensors.camera import CameraCfg, camera_to_world, intrinsics, mount_pose

SIZE = (64, 48)
LOOKS_DOWN = replace(get_robot("go1"), name="go1_down", camera_tilt_rad=1.4)
"""A Go1 whose camera looks down at its feet; the real tilt shows them in no usual pose."""
EMPTY = Splats(np.zeros((0, 3)), np.zeros((0, 4)), np.zeros((0, 3)), np.zeros(0), np.zeros((0, 1, 3)))


@pytest.fixture(scope="module")
def course():
    scene = stairs_course((0.0, 0.1), lanes=1, rubble=False, length_m=14.0)
    scene.__dict__["splats"] = ground_of_splats()
    return scene


@pytest.fixture
def looks_down(monkeypatch):
    monkeypatch.setitem(robots.ROBOTS.own, "go1_down", lambda: LOOKS_DOWN)
    robots.get_robot.cache_clear()
    yield "go1_down"
    robots.get_robot.cache_clear()


def ground_of_splats():
    """Splats below the ground, so that nothing stands before a robot."""
    rng = np.random.default_rng(0)
    splats = random_splats(400, rng)
    means = np.column_stack([rng.uniform(-2, 16, 400), rng.uniform(-2, 8, 400), rng.uniform(-2.0, -1.0, 400)])
    return replace(splats, means=means.astype(np.float32))


def poses_of(robot, joints, *, xy=(0.0, 0.0), height=0.28):
    """Body poses [C, 1, 13, 4, 4] of level robots at one place, and their cameras [C, 4, 4]."""
    joints = torch.as_tensor(np.atleast_2d(joints), dtype=torch.float64)
    count = len(joints)
    position = torch.tensor([[*xy, height]], dtype=torch.float64).expand(count, -1)
    upright = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64).expand(count, -1)
    bodies = BodyKinematics(robot, count).poses(position, upright, joints)[:, None]
    mount = mount_pose(robot).double().expand(count, -1, -1)
    return bodies, camera_to_world(position, upright, mount)


def look(renderer, c2w, bodies, **options):
    count = len(c2w)
    k = intrinsics(CameraCfg()).double().expand(count, -1, -1)
    shown = torch.ones(bodies.shape[:2], dtype=torch.bool)
    return renderer.render(
        c2w, k, torch.zeros(count, dtype=torch.long), body_poses_w=bodies, robot_shown=shown, **options
    )


def test_a_body_is_an_object_and_the_camera_does_not_see_its_housing():
    shapes = robot_shapes(get_robot("go1"))
    assert shapes.whole_bodies.tolist() == shapes.own_bodies.tolist() == list(range(13))
    assert len(shapes.objects) == 14  # the trunk twice, with and without the head
    reach = [shapes.objects.vertices_o[slice(*shapes.objects.vertex_offsets[i : i + 2]), 0].max()
             for i in (shapes.whole[0], shapes.own[0])]  # fmt: skip
    np.testing.assert_allclose(reach, [0.285, 0.19], atol=1e-6)
    assert shapes.whole[1:].tolist() == shapes.own[1:].tolist()


def test_legs_are_in_view_of_a_camera_that_looks_down_and_move_in_the_image():
    renderer = RobotRenderer(SplatRenderer([EMPTY], *SIZE), LOOKS_DOWN, own=True, num_others=0)
    default = np.array(LOOKS_DOWN.default_joint_pos)
    stretched = default.copy()
    stretched[[1, 4]], stretched[[2, 5]] = 0.2, -0.9  # both front legs ahead
    bodies, c2w = poses_of(LOOKS_DOWN, [default, stretched])
    seen = look(renderer, c2w, bodies).instances.numpy()
    names = BodyKinematics(LOOKS_DOWN, 1).body_names
    assert len(names) == 13
    for image, first in zip(seen, (0, 13)):
        in_view = {names[i - first] for i in np.unique(image) if i >= 0}
        assert {"FR_calf", "FL_calf"} <= in_view
        assert "trunk" not in in_view
        left = np.nonzero(image - first == names.index("FL_calf"))[1].mean()
        right = np.nonzero(image - first == names.index("FR_calf"))[1].mean()
        assert left < 32 < right
    shares = (seen >= 0).mean((1, 2))
    assert shares.min() > 0.01
    assert shares[1] > 1.3 * shares[0]


def test_a_foot_is_seen_where_it_projects():
    """Against the pinhole equation, for the joint angles that put the feet well into view."""
    renderer = RobotRenderer(SplatRenderer([EMPTY], *SIZE), LOOKS_DOWN, own=True, num_others=0)
    joints = np.array(LOOKS_DOWN.default_joint_pos)
    joints[[1, 4]], joints[[2, 5]] = 0.2, -0.9
    bodies, c2w = poses_of(LOOKS_DOWN, joints)
    image = look(renderer, c2w, bodies)
    calf = BodyKinematics(LOOKS_DOWN, 1).body_names.index("FR_calf")
    foot_w = bodies[0, 0, calf] @ torch.tensor([0, 0, -0.213, 1.0], dtype=torch.float64)
    foot_c = torch.linalg.inv(c2w[0]) @ foot_w
    u, v = ((intrinsics(CameraCfg()).double() @ foot_c[:3])[:2] / foot_c[2]).tolist()
    assert 2 < u < 62
    assert 2 < v < 46
    assert int(image.instances[0, int(v), int(u)]) == calf
    depth = float(image.depth[0, int(v), int(u)])
    assert float(foot_c[2]) - 0.03 < depth < float(foot_c[2])  # the ball's near side, radius 23 mm


def test_the_mounts_error_never_puts_the_robot_before_its_camera():
    """Within the position error that training draws, and at the real tilt, a standing Go1 does not see itself."""
    robot = get_robot("go1")
    renderer = RobotRenderer(SplatRenderer([EMPTY], *SIZE), robot, own=True, num_others=0)
    bodies, c2w = poses_of(robot, np.tile(robot.default_joint_pos, (27, 1)))
    grid = torch.tensor([[x, y, z] for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]).double()
    c2w[:, :3, 3] += EnvCfg().randomize.camera_pos_m * grid
    assert (look(renderer, c2w, bodies).instances == -1).all()
    whole = RobotRenderer(
        SplatRenderer([EMPTY], *SIZE), replace(robot, camera_housing=()), own=True, num_others=0
    )
    assert (look(whole, c2w, bodies).instances >= 0).all(dim=2).all(dim=1).any()  # from inside its head


@pytest.mark.parametrize("model", ["ideal", "robot"])
def test_an_image_does_not_depend_on_its_batch(course, model):
    rng = np.random.default_rng(1)
    joints = np.array(LOOKS_DOWN.default_joint_pos) + rng.normal(size=(5, 12)) * 0.3
    bodies, c2w = poses_of(LOOKS_DOWN, joints, xy=(3.0, 2.0))
    renderer = make_camera_renderer(
        [course], EnvCfg(), "cpu", camera_model=model, robot=LOOKS_DOWN, show_robot=True
    )
    options = {}
    if model == "robot":
        options = {
            "camera_ids": torch.arange(5), "frame_ids": torch.arange(5),
            "twist_c": torch.from_numpy(rng.normal(size=(5, 6))),
            "body_twists_b": torch.from_numpy(rng.normal(size=(5, 1, 13, 6))),
        }  # fmt: skip
    together = look(renderer, c2w, bodies, **options)
    for c in range(5):
        alone = look(
            renderer, c2w[c : c + 1], bodies[c : c + 1], **{n: v[c : c + 1] for n, v in options.items()}
        )
        assert torch.equal(alone.rgb[0], together.rgb[c])
    assert (together.instances >= 0).any()


def roll(env, steps=12):
    """Images, base poses and joints of a few random steps from a fixed start."""
    env.reset(seed=4)
    generator = torch.Generator().manual_seed(0)
    images = []
    for _ in range(steps):
        obs, *_ = env.step(torch.randn(env.num_envs, 12, generator=generator) * 0.5)
        images.append(obs["rgb"].clone())
    return torch.stack(images), obs["proprio"]


def test_showing_the_robot_changes_the_pixels_that_it_covers_and_nothing_else(course, looks_down):
    plain = make_env("velocity", [course, course], 4, robot=looks_down, renderer="cpu")
    shown = make_env("velocity", [course, course], 4, robot=looks_down, renderer="cpu", show_robot=True)
    alone = make_env("velocity", [course, course], 4, robot=looks_down, renderer="cpu", show_robot=True)
    alone._renderer = RobotRenderer(SplatRenderer([EMPTY] * 2, *SIZE), LOOKS_DOWN, own=True, num_others=0)
    (before, proprio), (after, same), (cover, _) = roll(plain), roll(shown), roll(alone)
    assert torch.equal(proprio, same)
    covered, changed = (cover > 0).any(dim=2), (before != after).any(dim=2)
    assert not (changed & ~covered).any()
    assert changed.sum() > 0.9 * covered.sum() > 100
    shares = covered[-1].float().mean(dim=(1, 2))
    assert len(shares.unique()) > 1  # legs differ from robot to robot


def test_other_robots_stand_where_they_are(course):
    """Robot 1 stands 1.2 m before robot 0's camera; the one seen is whole, without the camera's own."""
    robot = replace(get_robot("go1"), camera_tilt_rad=0.0)
    renderer = RobotRenderer(SplatRenderer([EMPTY], *SIZE), robot, own=False, num_others=2)
    near, c2w = poses_of(robot, robot.default_joint_pos)
    ahead, _ = poses_of(robot, robot.default_joint_pos, xy=(0.29 + 1.2, 0.0), height=0.28 + 0.03)
    bodies = torch.cat((near, ahead, near), dim=1)
    k = intrinsics(CameraCfg()).double()[None]
    shown = torch.tensor([[True, True, False]])
    frames = renderer.render(c2w, k, torch.zeros(1, dtype=torch.long), body_poses_w=bodies, robot_shown=shown)
    cover = frames.instances[0].numpy() >= 0
    assert frames.instances.max() < 13
    columns = np.nonzero(cover)[1]
    assert abs(columns.mean() + 0.5 - 32) < 0.5  # straight ahead, symmetric
    back = 32 * 0.047 / (1.2 - 0.19)  # the back of its trunk: half width 47 mm, 1.01 m away
    trunk = (frames.instances[0].numpy() == 0).sum(axis=1).max()
    assert abs(trunk - 2 * back) <= 2
    hidden = renderer.render(
        c2w, k, torch.zeros(1, dtype=torch.long), body_poses_w=bodies, robot_shown=torch.zeros(1, 3).bool()
    )
    assert (hidden.instances == -1).all()


def test_environments_show_each_other(course):
    """Two robots on one track: with others shown, images differ where the other one is, physics does not."""
    env = make_env("velocity", course, 6, renderer="cpu", seed=2)
    shown = make_env("velocity", course, 6, renderer="cpu", seed=2, show_others=3, camera_model="robot")
    plain = make_env("velocity", course, 6, renderer="cpu", seed=2, camera_model="robot")
    images, proprio = roll(shown)
    without, same = roll(plain)
    assert torch.equal(proprio, same)
    assert torch.equal(proprio, roll(env)[1])
    assert (images != without).any()
    assert torch.equal(roll(shown)[0], images)


class Watcher:
    """A policy that sees and holds the default pose."""

    sees = True
    name = "watcher"

    def check(self, env):
        pass

    def act(self, obs):
        assert obs["rgb"].shape[1:] == (3, 48, 64)
        return torch.zeros(len(obs["rgb"]), 12)

    def reset(self, dones=None):
        pass


def test_evaluation_says_what_its_camera_saw(course, monkeypatch):
    monkeypatch.setitem(EPISODE_S, "goal", 0.4)
    result = evaluate(
        Watcher(), course, episodes=3, renderer="cpu", show_robot=True, show_others=1, camera_model="robot"
    )
    assert (result["camera_model"], result["show_robot"], result["show_others"]) == ("robot", True, 1)
    assert result["timeout"] == 1.0
    json.dumps(result)
    plain = evaluate(Watcher(), course, episodes=3, renderer="cpu")
    assert (plain["show_robot"], plain["show_others"], plain["lod"]) == (False, 0, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"camera_model": "robot"}, "found camera_model 'robot' for a policy without a camera"),
        ({"camera_model": "phone"}, "unknown camera model 'phone'"),
        ({"show_robot": True, "show_others": 2}, "found show_robot, show_others 2 for a policy without"),
        ({"lod": ["x"]}, "found lod for a policy without"),
    ],
)
def test_settings_that_nobody_would_see_are_refused(course, settings, message):
    with pytest.raises(InputError, match=message):
        make_env("velocity", course, 1, renderer=None, **settings)


def test_less_than_no_robots(course):
    with pytest.raises(InputError, match="show_others is -1"):
        make_env("velocity", course, 1, renderer="cpu", show_others=-1)


def test_levels_of_detail_take_the_place_of_their_scene(course, tmp_path):
    tree = build_tree(course.splats)  # as it is, it draws every splat
    replace(tree, recipe={"source": {"sha256": digest(course.splats)}}).save(tmp_path / "lod")
    plain = roll(make_env("velocity", [course, course], 4, renderer="cpu"), steps=6)[0]
    folders = [tmp_path / "lod", str(tmp_path / "lod")]
    env = make_env("velocity", [course, course], 4, renderer="cpu", lod=folders)
    assert env._renderer._renderer.num_scenes == 1  # a folder that is named twice is read once
    assert torch.equal(roll(env, steps=6)[0], plain)
    other = stairs_course((0.0, 0.1), lanes=1, rubble=False, length_m=14.0)
    other.__dict__["splats"] = replace(course.splats, opacities=course.splats.opacities * 0.5)
    with pytest.raises(InputError, match="made from other splats than those of scene"):
        make_env("velocity", other, 1, renderer="cpu", lod=[tmp_path / "lod"])
    with pytest.raises(InputError, match="found 1 folders of levels of detail for 2 scenes"):
        make_env("velocity", [course, other], 2, renderer="cpu", lod=[tmp_path / "lod"])


class Timed:
    """A camera rig's `capture`, with the CPU time that it takes."""

    def __init__(self, rig):
        self.capture, self.seconds, rig.capture = rig.capture, 0.0, self

    def __call__(self, *arguments):
        start = time.process_time()
        self.capture(*arguments)
        self.seconds += time.process_time() - start


@pytest.mark.slow
def test_cost_of_showing_robots():
    """Prints CPU time of camera frames and of whole training iterations with robots over without, in turns of one run."""
    scene = synthesize("street", seed=0)
    base = get_recipe("pixels")
    kinds = {
        "none": {},
        "own": {"show_robot": True},
        "own, 1 other": {"show_robot": True, "show_others": 1},
        "own, 4 others": {"show_robot": True, "show_others": 4},
    }
    trainers, rigs = [], []
    with torch_threads(1):
        for settings in kinds.values():
            recipe = replace(base, **settings)
            env = make_env(
                "velocity", scene, base.ppo.num_envs, renderer="cpu", cfg=recipe.env, num_threads=1,
                **recipe.camera_options(),
            )  # fmt: skip
            trainers.append(PPOTrainer(recipe, env, seed=0))
            rigs.append(Timed(env.env.camera))
        frames, whole = np.zeros((9, len(kinds))), np.zeros((9, len(kinds)))
        for turn in range(len(frames)):
            for i, trainer in enumerate(trainers):
                before, start = rigs[i].seconds, time.process_time()
                trainer.iterate()
                frames[turn, i], whole[turn, i] = rigs[i].seconds - before, time.process_time() - start
    for name, seconds in (("camera", frames[1:]), ("training", whole[1:])):  # the first warms up
        ratios = seconds / seconds[:, :1]
        for i, kind in enumerate(kinds):
            low, middle, high = np.quantile(ratios[:, i], (0.0, 0.5, 1.0))
            print(
                f"{name}, {kind}: {middle:.3f} ({low:.3f} to {high:.3f}) of {np.median(seconds[:, 0]):.2f} s"
            )
    assert np.median(frames[1:, 1] / frames[1:, 0]) < 1.3
