"""Outputs beside colour, expected depth and opacity: hand-computed pixels, and every one against the oracle."""

import numpy as np
import pytest
from gaussgym_render import Instances, SplatRenderer, build_objects, cuda_backend
from gaussgym_render.frames import Frames
from gaussgym_render.lod import build_tree
from gaussgym_render.objects import box
from gaussgym_render.testing import (
    ONE_PIXEL,
    covering_splat,
    join_splats,
    pinhole,
    random_cameras,
    random_splats,
)
from gaussgym_scene import InputError, Splats

WARP = [
    pytest.param("warp-cpu", marks=pytest.mark.skipif(bool(cuda_backend.missing_warp()), reason="no Warp")),
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(bool(cuda_backend.missing()), reason="no CUDA")]
    ),
]
EVERY = pytest.mark.parametrize("backend", ["cpu", "reference", *WARP])
FAST = pytest.mark.parametrize("backend", ["cpu", *WARP])
ALL = ("rgb_float", "median_depth", "normals", "labels", "features")


def one_pixel(splats, backend, *, features=None, **options):
    renderer = SplatRenderer(
        [splats], 1, 1, backend=backend, antialiased=False, features=None if features is None else [features]
    )
    return renderer.render(np.eye(4)[None], ONE_PIXEL, np.zeros(1, int), **options)


@EVERY
def test_the_median_is_where_half_of_the_light_is_used_up(backend):
    # Left after each: 0.625, 0.3125, 0.15625; half is passed at the second.
    splats = join_splats(
        covering_splat(1.0, 0.375, 7), covering_splat(2.0, 0.5, 8), covering_splat(3.0, 0.5, 9)
    )
    frames = one_pixel(splats, backend, outputs=("median_depth", "labels"))
    assert frames.median_depth[0, 0, 0] == 2.0
    assert frames.labels[0, 0, 0] == 8
    assert frames.features is None
    assert frames.normals is None


@EVERY
def test_a_pixel_that_keeps_more_than_half_has_no_median(backend):
    frames = one_pixel(covering_splat(1.0, 0.375, 7), backend, outputs=ALL[:4])
    assert frames.median_depth[0, 0, 0] == 0
    assert frames.labels[0, 0, 0] == -1
    assert frames.depth[0, 0, 0] == 1.0
    np.testing.assert_allclose(frames.normals[0, 0, 0], [0, 0, -1], atol=1e-6)


@EVERY
def test_features_and_float_colours_are_weighted_means(backend):
    splats = join_splats(
        covering_splat(1.0, 0.375, 0, color=(1, 0, 0)), covering_splat(2.0, 0.5, 1, color=(0, 1, 0))
    )
    features = np.array([[1.0, 10.0], [3.0, -2.0]], np.float32)
    frames = one_pixel(splats, backend, features=features, outputs=("features", "rgb_float"))
    w = np.array([0.375, 0.625 * 0.5])
    np.testing.assert_allclose(frames.features[0, 0, 0], w @ features / w.sum(), rtol=1e-4)
    np.testing.assert_allclose(frames.rgb_float[0, 0, 0], [w[0], w[1], 0], atol=2e-4)


@EVERY
def test_normals_face_the_camera_in_its_own_frame(backend):
    # A wall whose normal is the world's x, seen from +x and from -x by a camera that is rolled.
    splats = covering_splat(0.0, 0.75, 0, normal_axis=0)
    c2w = np.tile(np.eye(4), (2, 1, 1))
    for pose, side in zip(c2w, (1.0, -1.0)):
        forward, right = np.array([-side, 0, 0]), np.array([0, 0.6, 0.8])
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
        pose[:3, 3] = [side, 0, 0]
    frames = SplatRenderer([splats], 1, 1, backend=backend, antialiased=False).render(
        c2w, np.repeat(ONE_PIXEL, 2, 0), np.zeros(2, int), outputs=("normals",)
    )
    np.testing.assert_allclose(frames.normals[:, 0, 0], [[0, 0, -1]] * 2, atol=1e-5)


@EVERY
def test_an_object_ends_the_channels(backend):
    splats = join_splats(covering_splat(1.0, 0.25, 3), covering_splat(3.0, 0.9, 4))
    cube = build_objects([box((1.0, 1.0, 1.0))])
    pose = np.eye(4)
    pose[2, 3] = 2.5
    objects = Instances.dense(cube, [0], pose[None, None])
    frames = one_pixel(splats, backend, outputs=ALL[:4], objects=objects)
    face = float(frames.median_depth[0, 0, 0])
    assert 1.0 < face < 2.5  # the near side of the box, not the splat behind it
    np.testing.assert_allclose(frames.depth[0, 0, 0], 0.25 * 1.0 + 0.75 * face, rtol=1e-3)
    assert frames.labels[0, 0, 0] == -1
    np.testing.assert_allclose(frames.normals[0, 0, 0], [0, 0, -1], atol=1e-6)  # of the splat before it


def scenes_with_channels(rng, count=3):
    scenes = []
    for n in (700, 0, 1500)[:count]:
        splats = random_splats(n, rng, sh_degree=1) if n else Splats.empty(1)
        splats.scales[:, 1] *= 0.2  # no doubt about which axis is shortest
        splats.scales[:, 0] *= 2.0
        splats.labels = rng.integers(0, 9, n).astype(np.int32)
        scenes.append(splats)
    return scenes, [rng.normal(size=(len(s), 4)).astype(np.float32) for s in scenes]


@FAST
@pytest.mark.parametrize("size", [(64, 48), (200, 170)])
def test_every_output_agrees_with_the_oracle(size, backend):
    rng = np.random.default_rng(3)
    scenes, features = scenes_with_channels(rng)
    c2w, ids = random_cameras(6, rng), np.arange(6) % 3
    k = np.tile(pinhole(*size), (6, 1, 1))
    fast, slow = (
        SplatRenderer(scenes, *size, backend=name, features=features).render(c2w, k, ids, outputs=ALL)
        for name in (backend, "reference")
    )
    assert np.abs(fast.rgb_float - slow.rgb_float).max() < 0.01
    same = np.abs(fast.median_depth - slow.median_depth) <= 1e-4 * slow.median_depth
    assert same.mean() > 0.999
    assert (slow.median_depth > 0).mean() > 0.05
    assert (fast.labels == slow.labels).mean() > 0.999
    solid = slow.alpha > 0.05
    assert solid.mean() > 0.2
    cosine = (fast.normals * slow.normals).sum(-1)[solid]
    assert np.quantile(cosine, 0.01) > 0.999
    # Where a faint pixel gains or loses a splat at the limit of 1/255, its mean jumps.
    assert np.quantile(np.abs(fast.features - slow.features)[solid], 0.999) < 0.02


@FAST
def test_more_outputs_leave_the_images_as_they_are_and_write_into_what_is_given(backend):
    rng = np.random.default_rng(4)
    scenes, features = scenes_with_channels(rng)
    c2w, ids = random_cameras(5, rng), np.array([0, 2, 1, 2, 0])
    k = np.tile(pinhole(64, 48), (5, 1, 1))
    renderer = SplatRenderer(scenes, 64, 48, backend=backend, features=features)
    plain, rich = renderer.render(c2w, k, ids), renderer.render(c2w, k, ids, outputs=ALL)
    for name in ("rgb", "depth", "alpha"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(rich, name))
    np.testing.assert_array_equal(np.floor(rich.rgb_float * np.float32(255) + np.float32(0.5)), rich.rgb)
    out = Frames(plain.rgb, plain.depth, plain.alpha, labels=np.full((5, 48, 64), -5, np.int32))
    labels = out.labels
    again = renderer.render(c2w, k, ids, mask=np.arange(5) == 3, out=out, outputs=("labels", "normals"))
    assert again.labels is labels
    assert (labels[[0, 1, 2, 4]] == -5).all()
    np.testing.assert_array_equal(labels[3], rich.labels[3])
    np.testing.assert_array_equal(again.normals[3], rich.normals[3])
    alone = renderer.render(c2w[3:4], k[3:4], ids[3:4], outputs=ALL)
    for name in ALL:
        np.testing.assert_array_equal(getattr(alone, name)[0], getattr(rich, name)[3])


@FAST
def test_levels_of_detail_have_medians_and_normals(backend):
    rng = np.random.default_rng(5)
    scene = scenes_with_channels(rng, 1)[0][0]
    c2w, k = random_cameras(3, rng), np.tile(pinhole(64, 48), (3, 1, 1))
    frames = [
        SplatRenderer([s], 64, 48, backend=backend).render(
            c2w, k, np.zeros(3, int), outputs=("median_depth", "normals")
        )
        for s in (scene, build_tree(scene))
    ]
    # On a device splats are projected relative to the middle of their chunk, which differs.
    slack = 0.0 if backend == "cpu" else 1e-4
    np.testing.assert_allclose(frames[0].median_depth, frames[1].median_depth, atol=slack)
    np.testing.assert_allclose(frames[0].normals, frames[1].normals, atol=slack)


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        (("depths",), "unknown output 'depths'"),
        (("features",), "output 'features' without features"),
        (("labels",), "no scene and no patch has labels"),
    ],
)
def test_what_is_not_there_is_refused(outputs, found):
    scene = random_splats(10, np.random.default_rng(0))
    with pytest.raises(InputError, match=found):
        SplatRenderer([scene], 8, 8, backend="cpu").render(
            np.eye(4)[None], pinhole(8, 8)[None], np.zeros(1, int), outputs=outputs
        )


def test_features_must_fit_the_splats():
    scene = random_splats(10, np.random.default_rng(0))
    with pytest.raises(InputError, match=r"features of scene 0 have shape \(9, 2\)"):
        SplatRenderer([scene], 8, 8, backend="cpu", features=[np.zeros((9, 2))])
    with pytest.raises(InputError, match="features of 2 scenes, expected 1"):
        SplatRenderer([scene], 8, 8, backend="cpu", features=[np.zeros((10, 2))] * 2)
