"""Edits of scenes' colours: what each does to one splat, and all of them against the oracle."""

import dataclasses

import numpy as np
import pytest
from gaussgym_render import RobotCameraCfg, SplatRenderer, cuda_backend, make_robot_camera, sensor
from gaussgym_render.edits import AppearanceCfg, SceneEdits, draw_edits, patch_pose
from gaussgym_render.robot_camera import get_camera_model
from gaussgym_render.testing import (
    ONE_PIXEL,
    covering_splat,
    join_splats,
    pinhole,
    random_cameras,
    random_splats,
)
from gaussgym_scene import InputError

WARP = [
    pytest.param("warp-cpu", marks=pytest.mark.skipif(bool(cuda_backend.missing_warp()), reason="no Warp")),
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(bool(cuda_backend.missing()), reason="no CUDA")]
    ),
]
EVERY = pytest.mark.parametrize("backend", ["cpu", "reference", *WARP])
FAST = pytest.mark.parametrize("backend", ["cpu", *WARP])


def one_pixel(splats, edits, backend="cpu", outputs=()):
    renderer = SplatRenderer([splats], 1, 1, backend=backend, antialiased=False)
    return renderer.render(np.eye(4)[None], ONE_PIXEL, np.zeros(1, int), edits=edits, outputs=outputs)


def color_of(splats, edits, backend="cpu"):
    frames = one_pixel(splats, edits, backend, ("rgb_float",))
    return frames.rgb_float[0, 0, 0] / frames.alpha[0, 0, 0]


@EVERY
def test_recolour_is_an_affine_map(backend):
    edits = SceneEdits.none(1)
    edits.color[0] = [[0, 0.5, 0, 0.25], [0, 0, 0.5, 0], [-2, 0, 0, 0]]
    splats = covering_splat(1.0, 0.75, 0, color=(0.25, 0.5, 0.75))
    np.testing.assert_allclose(color_of(splats, edits, backend), [0.5, 0.375, 0.0], atol=1e-3)


@EVERY
def test_view_dependence_scales_the_bands_above_the_first(backend):
    splats = covering_splat(1.0, 0.75, 0, color=(0.5, 0.5, 0.5))
    bands = np.zeros((1, 4, 3), np.float32)
    bands[0, 2] = [0.25 / 0.4886025119029199, 0, -0.25 / 0.4886025119029199]  # seen along +z
    splats = dataclasses.replace(splats, sh=bands)
    for gain, red, blue in ((1.0, 0.75, 0.25), (0.0, 0.5, 0.5), (2.0, 1.0, 0.0)):
        edits = SceneEdits.none(1)
        edits.view_dependence[:] = gain
        np.testing.assert_allclose(color_of(splats, edits, backend), [red, 0.5, blue], atol=1e-3)


@EVERY
def test_light_shades_by_the_normal_that_faces_the_camera(backend):
    splats = covering_splat(1.0, 0.75, 0, color=(0.5, 0.5, 0.5))  # seen from -z: its normal is -z
    edits = SceneEdits.none(1)
    edits.light[0, 0] = [1.0, 0.0, 0.0, 0.4]  # red light from +z: dark on this side
    edits.light[0, 1] = [0.8, 0.3, 0.3, -0.4]  # green light from -z and aslant
    np.testing.assert_allclose(color_of(splats, edits, backend), [0.3, 0.6, 0.5], atol=1e-3)
    ball = dataclasses.replace(splats, scales=np.full((1, 3), 50.0, np.float32))
    np.testing.assert_allclose(color_of(ball, edits, backend), [0.5, 0.4, 0.5], atol=1e-3)  # has no normal


@EVERY
def test_a_patch_colours_and_labels_what_lies_in_its_turned_box(backend):
    grey = covering_splat(2.0, 0.75, 3, color=(0.5, 0.5, 0.5))
    pose = patch_pose((0.3, 0.0, 2.0), yaw_rad=np.pi / 2)  # its own y points along the world's -x
    for half, hit in (((0.1, 0.31, 0.1), True), ((0.31, 0.1, 0.1), False)):
        edits = SceneEdits.none(1).with_patches(pose, half, color=(1.0, 1.0, 0.0), share=0.5, label=42)
        frames = one_pixel(grey, edits, backend, ("rgb_float", "labels"))
        color = frames.rgb_float[0, 0, 0] / frames.alpha[0, 0, 0]
        np.testing.assert_allclose(color, [0.75, 0.75, 0.25] if hit else [0.5] * 3, atol=1e-3)
        assert frames.labels[0, 0, 0] == (42 if hit else 3)
    both = edits.with_patches(patch_pose((0, 0, 2.0)), (1, 1, 1), color=(0, 0, 1)).with_patches(
        patch_pose((0, 0, 2.0)), (1, 1, 1), color=(1, 0, 0), label=5
    )
    frames = one_pixel(grey, both, backend, ("rgb_float", "labels"))
    np.testing.assert_allclose(frames.rgb_float[0, 0, 0] / 0.75, [1, 0, 0], atol=1e-3)  # the later one on top
    assert frames.labels[0, 0, 0] == 5


def edited_scene():
    rng = np.random.default_rng(6)
    splats = random_splats(1200, rng, sh_degree=2)
    splats.scales[:, 1] *= 0.2
    splats.scales[:, 0] *= 2.0
    splats.labels = rng.integers(0, 4, 1200).astype(np.int32)
    cameras = random_cameras(8, rng)
    cfg = AppearanceCfg.typical()
    edits = draw_edits(cfg, sensor.camera_keys(0, np.arange(8)))
    poses = np.stack([patch_pose(rng.uniform(-1, 1, 3), rng.uniform(0, 6)) for _ in range(8)])
    edits = edits.with_patches(poses, rng.uniform(0.3, 1.5, (8, 3)), color=(1, 1, 0), label=7)
    return splats, cameras, np.tile(pinhole(64, 48), (8, 1, 1)), np.zeros(8, int), edits


@FAST
def test_edits_agree_with_the_oracle(backend):
    splats, c2w, k, ids, edits = edited_scene()
    fast, slow, plain = (
        SplatRenderer([splats], 64, 48, backend=name).render(c2w, k, ids, edits=own, outputs=("labels",))
        for name, own in ((backend, edits), ("reference", edits), (backend, None))
    )
    difference = np.abs(fast.rgb.astype(int) - slow.rgb)
    assert (difference.max(-1) <= 2).mean() > 0.9999
    assert np.abs(plain.rgb.astype(int) - slow.rgb).mean() > 5
    assert (fast.labels == slow.labels).mean() > 0.999
    assert (slow.labels == 7).any()
    np.testing.assert_array_equal(fast.depth, plain.depth)  # colours change, nothing else
    np.testing.assert_array_equal(fast.alpha, plain.alpha)


@FAST
def test_edits_are_a_cameras_own(backend):
    splats, c2w, k, ids, edits = edited_scene()
    renderer = SplatRenderer([splats], 64, 48, backend=backend)
    together = renderer.render(c2w, k, ids, edits=edits)
    order = np.array([5, 0, 5, 3])
    some = renderer.render(c2w[order], k[order], ids[order], edits=edits.take(order))
    np.testing.assert_array_equal(some.rgb, together.rgb[order])
    none = renderer.render(c2w, k, ids, edits=SceneEdits.none(8))
    np.testing.assert_array_equal(none.rgb, renderer.render(c2w, k, ids).rgb)


def test_drawn_looks_stay_in_their_ranges_and_follow_the_key_alone():
    cfg = AppearanceCfg(exposure_ev=(1.0, 1.0))
    keys = sensor.camera_keys(3, np.arange(50))
    edits = draw_edits(cfg, keys)
    np.testing.assert_allclose(edits.color[:, :, :3], np.tile(np.eye(3) * 2 ** (1 / 2.2), (50, 1, 1)))
    np.testing.assert_array_equal(edits.light, SceneEdits.none(50).light)
    typical = draw_edits(AppearanceCfg.typical(), keys)
    strength = np.linalg.norm(typical.light[:, 0, 1:], axis=1)
    assert strength.max() <= 0.35
    assert strength.std() > 0.05
    assert ((typical.view_dependence >= 0) & (typical.view_dependence <= 1.2)).all()
    again = draw_edits(AppearanceCfg.typical(), keys[7:9])
    np.testing.assert_array_equal(again.color, typical.color[7:9])


def test_saturation_and_hue_keep_grey():
    cfg = AppearanceCfg(saturation=(0.0, 2.0), hue_rad=(-3.0, 3.0))
    edits = draw_edits(cfg, sensor.camera_keys(1, np.arange(20)))
    np.testing.assert_allclose(edits.color[:, :, :3].sum(-1), 1.0, atol=1e-12)
    grey = draw_edits(AppearanceCfg(saturation=(0.0, 0.0)), sensor.camera_keys(1, np.arange(1)))
    np.testing.assert_allclose(
        color_of(covering_splat(1, 0.75, 0, color=(1, 0, 0)), grey), [0.2126] * 3, atol=1e-3
    )


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"color": np.zeros((2, 3, 3))}, r"edits.color has shape \(2, 3, 3\), expected \(2, 3, 4\)"),
        ({"view_dependence": np.array([1.0, np.nan])}, "edits.view_dependence has NaN"),
        ({"patch_offsets": np.array([0, 1, 1])}, "expected to ascend from 0 to 0"),
        ({"patch_offsets": np.zeros(3)}, "edits.patch_offsets are float64"),
    ],
)
def test_bad_edits_are_refused(change, found):
    splats = join_splats(covering_splat(1.0, 0.5, 0), covering_splat(2.0, 0.5, 0))
    edits = dataclasses.replace(SceneEdits.none(2), **change)
    with pytest.raises(InputError, match=found):
        SplatRenderer([splats], 1, 1, backend="cpu").render(
            np.tile(np.eye(4), (2, 1, 1)), np.repeat(ONE_PIXEL, 2, 0), np.zeros(2, int), edits=edits
        )


def test_a_range_out_of_bounds_is_refused():
    with pytest.raises(InputError, match="light"):
        AppearanceCfg(light=(0.0, 1.5))
    assert AppearanceCfg().ideal
    assert not AppearanceCfg.typical().ideal


def moving_camera(cfg):
    splats, c2w, k, _, _ = edited_scene()
    return make_robot_camera([splats], k[0], 64, 48, cfg, seed=5), c2w, k


def test_a_robot_camera_draws_the_look_of_its_world_by_its_own_key():
    look = AppearanceCfg.typical()
    camera, c2w, k = moving_camera(RobotCameraCfg(appearance=look))
    ids, twist = np.array([70, 3, 3, 9, 0, 1, 2, 4]), np.zeros((8, 6))
    frames = camera.render(c2w, k, np.zeros(8, int), camera_ids=ids, twist_c=twist)
    edits = draw_edits(look, sensor.camera_keys(5, ids))
    plain = camera.renderer.render(c2w, k, np.zeros(8, int), edits=edits)
    # Through linear light and back: rounding alone.
    assert np.abs(frames.rgb.astype(int) - plain.rgb).max() <= 1
    alone = camera.render(c2w[3:4], k[3:4], np.zeros(1, int), camera_ids=[9])
    np.testing.assert_array_equal(alone.rgb[0], frames.rgb[3])


def test_a_robot_camera_shows_edits_along_its_shutter():
    camera, c2w, k = moving_camera(RobotCameraCfg.typical())
    edits = edited_scene()[-1]
    twist = np.tile([0.5, 0.0, 0.6, 0.0, 2.0, 0.0], (8, 1))
    options = {"twist_c": twist, "frame_ids": np.zeros(8, int)}
    with_patch = camera.render(c2w, k, np.zeros(8, int), edits=edits, **options)
    assert camera.num_images > 8  # a frame is made of several
    some = camera.render(
        c2w[4:6], k[4:6], np.zeros(2, int), edits=edits.take(np.array([4, 5])), twist_c=twist[4:6],
        frame_ids=np.zeros(2, int), camera_ids=[4, 5],
    )  # fmt: skip
    np.testing.assert_array_equal(some.rgb, with_patch.rgb[4:6])
    assert (
        np.abs(some.rgb.astype(int) - camera.render(c2w, k, np.zeros(8, int), **options).rgb[4:6]).mean() > 3
    )
    with pytest.raises(InputError, match="edits and a camera that draws its own appearance"):
        moving_camera(get_camera_model("varied"))[0].render(c2w, k, np.zeros(8, int), edits=edits)
