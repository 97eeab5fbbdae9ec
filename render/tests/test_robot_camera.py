"""`RobotCamera`'s contract: nothing when off, the same image in any batch, kinds of arrays, bad input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_render import (
    Frames,
    RobotCamera,
    RobotCameraCfg,
    SplatRenderer,
    make_robot_camera,
    robot_camera,
)
from gaussgym_render.lens import LensCfg
from gaussgym_render.robot_camera import get_camera_model
from gaussgym_render.shutter import ShutterCfg, se3_exp, twist_between
from gaussgym_render.testing import pinhole, random_cameras, random_splats, street_cameras, street_splats
from gaussgym_scene import InputError

WIDTH, HEIGHT, COUNT = 32, 24, 6
NAMES = ("rgb", "depth", "alpha")


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [street_splats(4000, rng), random_splats(300, rng)]


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    c2w = np.concatenate([street_cameras(3, rng), random_cameras(3, rng)])
    return c2w, np.tile(pinhole(WIDTH, HEIGHT), (COUNT, 1, 1)), np.array([0, 0, 0, 1, 1, 1])


@pytest.fixture(scope="module")
def options():
    rng = np.random.default_rng(2)
    return {
        "twist_c": rng.normal(size=(COUNT, 6)) * 2,
        "camera_ids": np.array([5, 2**61 + 3, 17, 0, 9, 1]),
        "frame_ids": np.array([0, 3, 3, 100, 7, 1]),
    }


@pytest.fixture(scope="module")
def camera(scenes):
    return make_robot_camera(scenes, pinhole(WIDTH, HEIGHT), WIDTH, HEIGHT, RobotCameraCfg.typical(), seed=3)


def assert_same(a, b):
    for name in NAMES:
        np.testing.assert_array_equal(
            np.asarray(getattr(a, name)), np.asarray(getattr(b, name)), err_msg=name
        )


def take(arrays, rows):
    return (
        {k: v[rows] for k, v in arrays.items()}
        if isinstance(arrays, dict)
        else tuple(a[rows] for a in arrays)
    )


def test_off_is_bit_identical(scenes, batch, options):
    renderer = SplatRenderer(scenes, WIDTH, HEIGHT, background=(0.2, 0.4, 0.1))
    assert RobotCameraCfg().ideal
    assert not RobotCameraCfg.typical().ideal
    camera = RobotCamera(renderer, RobotCameraCfg())
    assert_same(camera.render(*batch, **options), renderer.render(*batch))
    mask = np.array([True, False, True, True, False, False])
    assert_same(camera.render(*batch, mask=mask), renderer.render(*batch, mask=mask))
    # And with the machinery running, as long as it has nothing to do.
    idle = RobotCamera(renderer, RobotCameraCfg(shutter=ShutterCfg(exposure_s=(0.01, 0.01))))
    assert_same(idle.render(*batch), renderer.render(*batch))


def test_the_same_seed_gives_the_same_images(scenes, batch, options, camera):
    again = make_robot_camera(
        scenes, batch[1][0], WIDTH, HEIGHT, RobotCameraCfg.typical(), seed=3, num_threads=1
    )
    assert_same(camera.render(*batch, **options), again.render(*batch, **options))
    other = make_robot_camera(scenes, batch[1][0], WIDTH, HEIGHT, RobotCameraCfg.typical(), seed=4)
    difference = other.render(*batch, **options).rgb.astype(int) - camera.render(*batch, **options).rgb
    assert (np.abs(difference).mean((1, 2, 3)) > 1).all()


def test_an_image_does_not_depend_on_its_batch(batch, options, camera, monkeypatch):
    expected = camera.render(*batch, **options)
    order = np.array([4, 0, 5, 2])
    part = camera.render(*take(batch, order), **take(options, order))
    assert_same(part, Frames(*(getattr(expected, name)[order] for name in NAMES)))
    for c in range(COUNT):
        alone = camera.render(*take(batch, [c]), **take(options, [c]))
        assert_same(alone, Frames(*(getattr(expected, name)[[c]] for name in NAMES)))
    monkeypatch.setattr(robot_camera, "BLOCK_PIXELS", 1)
    assert_same(camera.render(*batch, **options), expected)


def test_frames_of_a_camera_differ_by_their_noise_only(batch, options, camera):
    first, second = (camera.render(*batch, **{**options, "frame_ids": np.full(COUNT, n)}) for n in (1, 2))
    difference = first.rgb.astype(int) - second.rgb
    assert (np.abs(difference).max((1, 2, 3)) > 0).all()
    assert np.abs(difference).mean() < 8
    np.testing.assert_array_equal(first.alpha, second.alpha)
    assert (first.depth != second.depth).any()


def test_without_ids_places_and_calls_count(scenes, batch):
    cameras = [
        make_robot_camera(scenes, batch[1][0], WIDTH, HEIGHT, RobotCameraCfg.typical()) for _ in range(2)
    ]
    first, second = (cameras[0].render(*batch) for _ in range(2))
    assert (first.rgb != second.rgb).any()
    named = cameras[1].render(*batch, camera_ids=np.arange(COUNT), frame_ids=np.ones(COUNT, int))
    assert_same(named, second)


def test_mask_and_out(batch, options, camera):
    expected = camera.render(*batch, **options)
    c2w, twist = batch[0].copy(), options["twist_c"].copy()
    c2w[1], twist[1] = np.nan, np.inf  # a camera that is not rendered is not looked at
    mask = np.array([True, False, True, True, True, False])
    for kind in (np.asarray, torch.as_tensor):
        out = Frames(*(kind(np.full_like(getattr(expected, name), 7)) for name in NAMES))
        returned = camera.render(c2w, *batch[1:], **{**options, "twist_c": twist}, mask=mask, out=out)
        assert returned is out
        for name in NAMES:
            array = np.asarray(getattr(out, name))
            np.testing.assert_array_equal(array[mask], getattr(expected, name)[mask])
            assert (array[~mask] == 7).all()


def test_torch_in_torch_out(batch, options, camera):
    frames = camera.render(
        *(torch.as_tensor(a) for a in batch), **{k: torch.as_tensor(v) for k, v in options.items()}
    )
    assert isinstance(frames.rgb, torch.Tensor)
    assert_same(frames, camera.render(*batch, **options))


def test_no_cameras(camera):
    frames = camera.render(np.zeros((0, 4, 4)), np.zeros((0, 3, 3)), np.zeros(0, int))
    assert frames.rgb.shape == (0, HEIGHT, WIDTH, 3)


def test_poses_apart_in_time_are_as_good_as_velocities(batch, options, camera):
    previous = batch[0] @ se3_exp(-0.02 * options["twist_c"])
    twist = twist_between(previous, batch[0], 0.02)
    difference = camera.render(*batch, **{**options, "twist_c": twist}).rgb.astype(int)
    difference -= camera.render(*batch, **options).rgb
    assert np.abs(difference).max() <= 1


def test_every_effect_changes_the_image(scenes, batch, options):
    typical = RobotCameraCfg.typical()
    plain = SplatRenderer(scenes, WIDTH, HEIGHT).render(*batch)
    for part in ("lens", "shutter", "sensor"):
        cfg = replace(RobotCameraCfg(), **{part: getattr(typical, part)})
        frames = make_robot_camera(scenes, batch[1][0], WIDTH, HEIGHT, cfg).render(*batch, **options)
        assert np.abs(frames.rgb.astype(int) - plain.rgb).mean() > 0.5, part


def test_bad_arguments(batch, options, camera):
    for changes, text in (
        ({"twist_c": np.zeros((COUNT, 3))}, "twist_c has shape"),
        ({"twist_c": np.full((COUNT, 6), np.nan)}, "camera 0: twist_c has NaN"),
        ({"camera_ids": np.zeros(COUNT)}, "camera_ids are float64"),
        ({"frame_ids": np.zeros(2, int)}, "frame_ids are int64"),
    ):
        with pytest.raises(InputError, match=text):
            camera.render(*batch, **{**options, **changes})
    with pytest.raises(InputError, match="camera 2: scene_ids is out of range"):
        camera.render(*batch[:2], np.array([0, 0, 2, 0, 0, 0]))
    wide = batch[1].copy()
    wide[3, 0, 0] = wide[3, 1, 1] = 2.0
    with pytest.raises(InputError, match="opencv lens"):
        camera.render(batch[0], wide, batch[2])


def test_models_by_name():
    assert get_camera_model("ideal").ideal
    assert get_camera_model("robot") == RobotCameraCfg.typical()
    with pytest.raises(InputError, match="unknown camera model 'phone'; choose one of: ideal, robot"):
        get_camera_model("phone")


def test_no_typical_lens_is_refused(scenes):
    """Whatever a camera draws, over the field of view and focal lengths that the environments use."""
    k = pinhole(WIDTH, HEIGHT)
    camera = make_robot_camera(scenes, k, WIDTH, HEIGHT, RobotCameraCfg.typical())
    extreme = RobotCameraCfg.typical().lens
    corners = np.stack(np.meshgrid(*[(-1, 1)] * 4, indexing="ij"), -1).reshape(-1, 4)
    for signs in corners:
        drawn = np.array(extreme.coefficients) + np.append(signs, 0) * extreme.spread
        lens = LensCfg(model="opencv", coefficients=tuple(drawn.tolist()))
        robot_camera.lens.source_size(lens, k * [[0.97], [0.97], [1]], WIDTH, HEIGHT)
    assert camera.renderer.width > WIDTH
