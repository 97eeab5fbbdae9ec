"""Objects through a robot's camera: which ride, which stay, where a lens puts them, and nothing new when all is off."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_render import (
    Instances,
    RobotCamera,
    RobotCameraCfg,
    SplatRenderer,
    build_objects,
    make_robot_camera,
    objects,
)
from gaussgym_render.lens import LensCfg, distort
from gaussgym_render.shutter import ShutterCfg
from gaussgym_render.testing import pinhole, random_cameras, random_splats, rigid
from gaussgym_scene import InputError, Splats
from scipy.spatial.transform import Rotation

WIDTH, HEIGHT = 64, 48
K = pinhole(WIDTH, HEIGHT)
EMPTY = Splats(np.zeros((0, 3)), np.zeros((0, 4)), np.zeros((0, 3)), np.zeros(0), np.zeros((0, 1, 3)))
SHAPES = build_objects(
    [
        objects.box((0.15, 0.1, 0.05), (230, 120, 20)),
        objects.sphere(0.2, (40, 90, 220)),
        objects.box((0.5, 2.0, 0.01), (200, 200, 200)),
    ]
)


def shutter_only(exposure_s, readout_s, **changes):
    times = ShutterCfg(exposure_s=(exposure_s,) * 2, readout_s=(readout_s,) * 2, **changes)
    return RobotCamera(SplatRenderer([EMPTY], WIDTH, HEIGHT), RobotCameraCfg(shutter=times))


def render(camera, c2w, instances, **options):
    count = len(c2w)
    return camera.render(c2w, np.tile(K, (count, 1, 1)), np.zeros(count, int), objects=instances, **options)


def velocity_at(pose_c, twist_c):
    """Twist, in the frame of a body at `pose_c` in the camera's frame, of one rigidly joined to that camera."""
    rotation, place = pose_c[:3, :3], pose_c[:3, 3]
    linear = twist_c[:3] + np.cross(twist_c[3:], place)
    return np.concatenate([rotation.T @ linear, rotation.T @ twist_c[3:]])


def random_instances(cameras, rng, *, most=4):
    """Zero to `most` boxes and spheres before each camera, that move."""
    counts = rng.integers(0, most + 1, len(cameras))
    counts[0] = most
    total = int(counts.sum())
    pose_c = np.tile(np.eye(4), (total, 1, 1))
    pose_c[:, :3, :3] = Rotation.random(total, random_state=1).as_matrix()
    pose_c[:, :3, 3] = rng.uniform(-0.6, 0.6, (total, 3)) + [0, 0, 1.2]
    poses = np.repeat(cameras, counts, axis=0) @ pose_c
    return Instances(
        SHAPES,
        np.concatenate([[0], np.cumsum(counts)]),
        rng.integers(0, 2, total),
        poses,
        rng.normal(size=(total, 6)),
    )


def only(instances, camera):
    begin, end = instances.camera_offsets[camera : camera + 2]
    part = slice(begin, end)
    return Instances(
        SHAPES,
        np.array([0, end - begin]),
        instances.object_ids[part],
        instances.poses_w[part],
        instances.twists_o[part],
    )


def test_off_is_bit_identical():
    rng = np.random.default_rng(0)
    scenes, cameras = [random_splats(300, rng)], random_cameras(5, rng)
    instances = random_instances(cameras, rng)
    plain = SplatRenderer(scenes, WIDTH, HEIGHT)
    a = render(plain, cameras, instances)
    b = render(RobotCamera(plain, RobotCameraCfg()), cameras, instances)
    for name in ("rgb", "depth", "alpha", "instances"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert (a.instances >= 0).any()


def test_what_rides_on_the_camera_is_not_blurred():
    """However the camera turns, a body joined to it looks as it does to a camera at rest; one in the world is smeared."""
    rng = np.random.default_rng(1)
    c2w = random_cameras(1, rng)
    shapes = build_objects(
        [objects.box((0.15, 0.1, 0.05), (230, 120, 20))], ambient=1.0
    )  # light stays with the world
    pose_c = rigid(Rotation.random(random_state=3).as_matrix(), (0.1, -0.05, 0.5))
    twist = np.array([1.0, -0.5, 2.0, 3.0, -2.0, 4.0])
    camera = shutter_only(0.02, 0.03)
    riding = Instances.dense(shapes, [0], (c2w @ pose_c)[:, None], velocity_at(pose_c, twist)[None, None])
    moving = render(camera, c2w, riding, twist_c=twist[None])
    plain = render(camera.renderer, c2w, riding)
    assert camera.num_images == 8
    assert 100 < (plain.instances == 0).sum() < 2000
    np.testing.assert_array_equal(moving.instances, plain.instances)
    np.testing.assert_array_equal(moving.depth > 0, plain.depth > 0)
    np.testing.assert_allclose(moving.depth, plain.depth, atol=1e-5)
    np.testing.assert_array_equal(moving.rgb, plain.rgb)
    resting = replace(riding, twists_o=None)
    smeared = render(camera, c2w, resting, twist_c=twist[None])
    outside = (smeared.rgb > 0).any(-1) & (plain.instances < 0)
    assert outside.sum() > 0.25 * (plain.instances == 0).sum()


def test_a_moving_object_is_where_it_was_in_the_middle_of_the_exposure():
    """A camera at rest takes one image, at -(10 ms + 30 ms)/2; a sphere flies at 3 m/s across it."""
    c2w = np.eye(4)[None]
    pose = rigid(Rotation.random(random_state=4).as_matrix(), (0.1, 0.0, 1.0))
    velocity_w = np.array([3.0, 0.0, 0.0])
    twist = np.concatenate([pose[:3, :3].T @ velocity_w, np.zeros(3)])
    seen = render(
        shutter_only(0.01, 0.03), c2w, Instances.dense(SHAPES, [1], pose[None, None], twist[None, None])
    )
    earlier = rigid(pose[:3, :3], pose[:3, 3] - 0.02 * velocity_w)
    there = render(
        SplatRenderer([EMPTY], WIDTH, HEIGHT), c2w, Instances.dense(SHAPES, [1], earlier[None, None])
    )
    for name in ("rgb", "depth", "alpha", "instances"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(there, name), err_msg=name)


def test_rolling_shutter_slants_an_upright_edge():
    """The camera flies to the right at v: in row y, read at time t(y) < 0, it stood at v t, and an edge at X, Z shows at
    u = f (X - v t)/Z + cx.
    """
    speed, readout, depth = 4.0, 0.03, 1.0
    camera = shutter_only(0.0, readout, max_samples=256, sample_px=0.02)
    plate = Instances.dense(SHAPES, [2], rigid(np.eye(3), (0.5, 0.0, depth + 0.01))[None, None])
    frames = render(camera, np.eye(4)[None], plate, twist_c=np.array([[speed, 0, 0, 0, 0, 0]]))
    t = -readout * (1 - (np.arange(HEIGHT) + 0.5) / HEIGHT)
    edge = K[0, 0] * (0.0 - speed * t) / depth + K[0, 2]  # the plate's left edge is at x = 0
    covered = frames.instances[0] == 0
    first = covered.argmax(axis=1)  # its first pixel whose centre lies right of the edge
    assert np.abs(first - (edge - 0.5)).max() < 1.02
    assert np.ptp(edge) > 3.5
    assert (frames.depth[0][covered] - depth).min() + 1e-5 >= 0
    assert np.median(frames.depth[0][covered]) == pytest.approx(depth, abs=1e-6)


@pytest.mark.parametrize(
    "lens",
    [
        LensCfg(model="opencv", coefficients=(-0.2, 0.03, 0.002, -0.001, 0.0)),
        LensCfg(model="fisheye", coefficients=(0.05, -0.01, 0.0, 0.0)),
    ],
)
def test_a_lens_puts_objects_where_it_puts_points(lens):
    width, height = 160, 120
    k = pinhole(width, height, np.radians(80))
    camera = make_robot_camera([EMPTY], k, width, height, RobotCameraCfg(lens=lens))
    ball = build_objects([objects.sphere(0.05, around=32)])
    for point in ((0.0, 0.0, 1.0), (0.5, -0.35, 1.0), (-0.6, 0.4, 1.1)):
        seen = Instances.dense(ball, [0], rigid(np.eye(3), point)[None, None])
        frames = camera.render(np.eye(4)[None], k[None], np.zeros(1, int), objects=seen)
        rows, columns = np.nonzero(frames.instances[0] == 0)
        # The outline of a small ball is nearly centred on its middle's ray.
        expected = distort(lens.model, lens.coefficients, np.divide(point[:2], point[2]))
        expected = expected * [k[0, 0], k[1, 1]] + [k[0, 2], k[1, 2]]
        assert len(rows) > 30
        assert np.hypot(columns.mean() + 0.5 - expected[0], rows.mean() + 0.5 - expected[1]) < 0.35


def test_a_camera_alone_equals_itself_in_the_batch():
    rng = np.random.default_rng(5)
    cameras = random_cameras(6, rng)
    instances = random_instances(cameras, rng)
    twist = rng.normal(size=(6, 6))
    numbers = np.arange(6)
    cfg = RobotCameraCfg.typical()
    camera = make_robot_camera([random_splats(300, rng)], K, WIDTH, HEIGHT, cfg, seed=2)

    def one(c):
        return render(
            camera, cameras[c : c + 1], only(instances, c), twist_c=twist[c : c + 1],
            camera_ids=numbers[c : c + 1], frame_ids=numbers[c : c + 1],
        )  # fmt: skip

    mask = np.array([True, True, False, True, True, True])
    whole = render(
        camera, cameras, instances, twist_c=twist, camera_ids=numbers, frame_ids=numbers, mask=mask
    )
    for c in np.flatnonzero(mask):
        alone = one(c)
        for name in ("rgb", "depth", "alpha"):
            np.testing.assert_array_equal(getattr(whole, name)[c], getattr(alone, name)[0], err_msg=name)
        named = whole.instances[c]
        np.testing.assert_array_equal(
            np.where(named >= 0, named - instances.camera_offsets[c], -1), alone.instances[0]
        )
    assert (whole.instances[2] == -1).all()
    assert len(np.unique(whole.instances)) > 5


def test_tensors_and_a_call_without_objects_after_one_with():
    rng = np.random.default_rng(6)
    cameras = random_cameras(3, rng)
    instances = random_instances(cameras, rng)
    camera = make_robot_camera([random_splats(100, rng)], K, WIDTH, HEIGHT, RobotCameraCfg.typical(), seed=2)
    options = {"twist_c": rng.normal(size=(3, 6)), "frame_ids": np.zeros(3, int)}
    before = camera.render(cameras, np.tile(K, (3, 1, 1)), np.zeros(3, int), **options)
    drawn = render(camera, cameras, instances, **options)
    after = camera.render(cameras, np.tile(K, (3, 1, 1)), np.zeros(3, int), **options)
    np.testing.assert_array_equal(before.rgb, after.rgb)
    assert before.instances is None
    as_tensors = Instances(
        SHAPES,
        *(
            torch.from_numpy(np.asarray(a))
            for a in (instances.camera_offsets, instances.object_ids, instances.poses_w, instances.twists_o)
        ),
    )
    same = camera.render(
        torch.from_numpy(cameras), torch.from_numpy(np.tile(K, (3, 1, 1))), torch.zeros(3, dtype=torch.long),
        objects=as_tensors, twist_c=torch.from_numpy(options["twist_c"]), frame_ids=torch.zeros(3).long(),
    )  # fmt: skip
    assert isinstance(same.instances, torch.Tensor)
    np.testing.assert_array_equal(same.instances.numpy(), drawn.instances)
    np.testing.assert_array_equal(same.rgb.numpy(), drawn.rgb)


def test_bad_twists():
    rng = np.random.default_rng(7)
    cameras = random_cameras(2, rng)
    instances = random_instances(cameras, rng)
    camera = shutter_only(0.01, 0.0)
    with pytest.raises(InputError, match=r"objects.twists_o has shape \(1, 6\)"):
        render(camera, cameras, replace(instances, twists_o=instances.twists_o[:1]))
    twists = instances.twists_o.copy()
    twists[1, 2] = np.nan
    with pytest.raises(InputError, match=r"instance 1: objects.twists_o has NaN"):
        render(camera, cameras, replace(instances, twists_o=twists))
    with pytest.raises(InputError, match=r"twists_o has shape \(2, 6\), expected \(2, 1, 6\)"):
        Instances.dense(SHAPES, [0], np.tile(np.eye(4), (2, 1, 1, 1)), np.zeros((2, 6)))
