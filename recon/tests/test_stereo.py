"""Stereo, seeds and anchored depth on a textured ground and wall whose depth is known exactly."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gaussgym_recon.depth_views import DepthView, anchor_depths
from gaussgym_recon.posed import PosedCapture, Similarity
from gaussgym_recon.seeding import project, seed_splats, unproject
from gaussgym_recon.stereo import DepthMap, StereoCfg, dense_depths, load_depths, pick_sources, save_depths
from gaussgym_recon.views import View, Views
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from scipy.ndimage import gaussian_filter, map_coordinates

CAMERA = Intrinsics(width=96, height=72, fx=80.0, fy=80.0, cx=47.0, cy=37.0)
WALL_X = 9.0


def pose(x, y, yaw=0.0, pitch=0.35):
    forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), -np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0])
    c2w = np.eye(4)
    c2w[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    c2w[:3, 3] = [x, y, 1.5]
    return c2w


def true_depth(c2w, camera=CAMERA):
    """Depth of the ground z = 0 or the wall x = 9, whichever is nearer, and the point that is seen."""
    v, u = np.mgrid[: camera.height, : camera.width] + 0.5
    rays = (
        np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], -1)
        @ c2w[:3, :3].T
    )
    with np.errstate(divide="ignore"):
        ground = np.where(rays[..., 2] < 0, -c2w[2, 3] / rays[..., 2], np.inf)
        wall = np.where(rays[..., 0] > 0, (WALL_X - c2w[0, 3]) / rays[..., 0], np.inf)
    depth = np.minimum(ground, wall)
    return depth, c2w[:3, 3] + rays * depth[..., None]


def photograph(c2w, texture, camera=CAMERA):
    """Two textures, 2 cm a texel; the wall's is the ground's turned up."""
    _, at = true_depth(c2w, camera)
    on_wall = at[..., 2] > 1e-6
    s = np.where(on_wall, at[..., 2] + 40.0, at[..., 0])
    coordinates = np.stack([(at[..., 1] + 15) / 0.02, s / 0.02]) % (texture.shape[0] - 1)
    grey = map_coordinates(texture, coordinates, order=1)
    return np.repeat(np.round(grey * 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def texture():
    rng = np.random.default_rng(0)
    noise = sum(gaussian_filter(rng.normal(size=(3000, 3000)), s, mode="wrap") * s for s in (3.0, 8.0))
    return np.clip(0.5 + 0.2 * noise / noise.std(), 0, 1)


@pytest.fixture(scope="module")
def street(texture):
    rng = np.random.default_rng(0)
    poses = [pose(0.7 * i, 0.15 * np.sin(2 * i), 0.1 * np.sin(i)) for i in range(6)]
    views = [View(f"{i}.png", c, [photograph(c, texture)], held_out=i == 5) for i, c in enumerate(poses)]
    points = rng.uniform([1, -3, 0], [8.5, 3, 0], (400, 3))
    points = np.concatenate(
        [points, np.column_stack([np.full(100, WALL_X), rng.uniform([-3, 0], [3, 2.5], (100, 2))])]
    )
    seen = []
    for c in poses:
        at, z = project(points, c, CAMERA.K)
        seen.append(np.flatnonzero((z > 0.3) & (at > 0).all(1) & (at < [96, 72]).all(1)).astype(np.int32))
    posed = PosedCapture(
        Path("."), [v.name for v in views], [], [CAMERA] * len(views), np.stack(poses), points, np.full(points.shape, 128, np.uint8),
        np.ones(500), np.full(500, 3, np.int32), seen, Similarity.identity(), "user", "sensor", 1.5, None, 0.5, 1.0, 1, None,
        None, 0.7,
    )  # fmt: skip
    return posed, Views(views, [CAMERA], seen)


@pytest.fixture(scope="module")
def depths(street):
    posed, views = street
    return dense_depths(posed, views, StereoCfg(sources=3), level=0)


def test_sources_are_training_views_that_see_the_same(street):
    posed, views = street
    sources = pick_sources(posed, views, StereoCfg(sources=3))
    assert set(sources) == set(views.train)
    for i, chosen in sources.items():
        assert 1 <= len(chosen) <= 3
        assert i not in chosen
        assert 5 not in chosen  # held out


def test_depth_agrees_with_the_truth(street, depths):
    _, views = street
    covered, errors, up = [], [], []
    for i, found in depths.items():
        truth, at = true_depth(views.views[i].c2w)
        known = found.depth_m > 0
        covered.append(known.mean())
        errors.append(np.abs(found.depth_m / truth - 1)[known])
        up.append(found.normal_w[known & (at[..., 2] < 1e-6)][:, 2])
    errors = np.concatenate(errors)
    assert np.mean(covered) > 0.4
    assert np.median(errors) < 0.005
    assert (errors < 0.02).mean() > 0.9
    assert np.median(np.concatenate(up)) > 0.95


def errors_of(depths, views):
    truth = {i: true_depth(views.views[i].c2w)[0] for i in depths}
    return np.concatenate([np.abs(d.depth_m / truth[i] - 1)[d.depth_m > 0] for i, d in depths.items()])


def test_finer_images_make_depth_finer(street, texture):
    posed, coarse = street
    finer = CAMERA.resized(2 * CAMERA.width, 2 * CAMERA.height)
    pyramids = [[v.pyramid[0], photograph(v.c2w, texture, finer)] for v in coarse.views]
    views = Views(
        [View(v.name, v.c2w, p, v.held_out) for v, p in zip(coarse.views, pyramids)],
        [CAMERA, finer],
        coarse.points,
    )
    cfg = StereoCfg(sources=3)
    control = dense_depths(posed, views, replace(cfg, refine=0), level=0)
    refined = dense_depths(posed, views, cfg, level=0)
    assert {d.depth_m.shape for d in refined.values()} == {(CAMERA.height, CAMERA.width)}
    before, after = errors_of(control, views), errors_of(refined, views)
    assert np.median(after) < 0.7 * np.median(before)
    assert len(after) > 0.95 * len(before)  # none are lost


def test_depth_is_kept_on_disk(depths, tmp_path):
    path = tmp_path / "stereo.npz"
    save_depths(path, depths)
    again = load_depths(path)
    assert set(again) == set(depths)
    for i in depths:
        np.testing.assert_array_equal(again[i].depth_m, depths[i].depth_m)
        np.testing.assert_allclose(again[i].normal_w, depths[i].normal_w, atol=0.01)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"stereo\.npz"):
        load_depths(path)


def test_seeds_lie_on_the_surfaces(street, depths):
    posed, views = street
    model = seed_splats(posed, views, depths, count=1500, level=0)
    near = np.linalg.norm(model.means - np.array([4, 0, 0]), axis=1) < 6
    off = np.minimum(np.abs(model.means[near, 2]), np.abs(model.means[near, 0] - WALL_X))
    assert near.sum() > 500
    assert np.quantile(off, 0.8) < 0.05
    assert 1000 < len(model) < 1500 + 3100


def test_pixels_and_points_are_inverse_to_each_other():
    c2w = pose(1.0, 0.5, 0.4)
    pixels = np.array([[3.5, 7.0], [80.2, 60.1]])
    depth = np.array([2.0, 5.0])
    back, z = project(unproject(pixels, depth, c2w, CAMERA.K), c2w, CAMERA.K)
    np.testing.assert_allclose(back, pixels)
    np.testing.assert_allclose(z, depth)


def test_anchored_depth_takes_the_bias_out_of_the_splats():
    truth = np.tile(np.linspace(8, 2, 72, dtype=np.float32)[:, None], (1, 96))
    splats = truth * 0.97
    splats[:, 80:] = 0
    stereo = np.where(np.random.default_rng(0).random(truth.shape) < 0.3, truth, 0).astype(np.float32)
    stereo[:20] = 0
    view = DepthView(np.eye(4), CAMERA.K, splats, np.zeros((72, 96, 3), np.float32))
    other = DepthView(np.eye(4), CAMERA.K, splats, np.zeros((72, 96, 3), np.float32))
    found = DepthMap(stereo, np.zeros((72, 96, 3), np.float32), np.zeros((72, 96), np.float32))
    anchored, untouched = anchor_depths({0: view, 1: other}, {0: found})
    np.testing.assert_array_equal(untouched.depth_m, splats)
    np.testing.assert_array_equal(anchored.depth_m[stereo > 0], truth[stereo > 0])
    rest = (stereo == 0) & (splats > 0)
    rest[:10] = False
    np.testing.assert_allclose(anchored.depth_m[rest], truth[rest], rtol=2e-3)
    assert not anchored.depth_m[:, 90:][stereo[:, 90:] == 0].any()
