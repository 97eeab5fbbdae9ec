from types import SimpleNamespace

import numpy as np
import pytest
from gaussgym_recon.overrides import parse_scale_from, parse_up_from
from gaussgym_recon.posed import Similarity
from gaussgym_recon.scale import (
    MetricScale,
    choose_scale,
    scale_from_camera_height,
    scale_from_depth,
    scale_from_distance,
    scale_from_gps,
    scale_from_sensor,
)
from gaussgym_recon.sightings import depth_at, locate_by_depth, project, rays_w, triangulate
from gaussgym_recon.walks import camera_rotation
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from scipy.spatial.transform import Rotation

LENS = Intrinsics(
    width=640, height=480, fx=520, fy=515, cx=322, cy=238, distortion=(-0.12, 0.03, 0.001, -0.002)
)


def frame(seed):
    rng = np.random.default_rng([seed, 1])
    return Similarity(
        rng.uniform(0.05, 5.0), Rotation.random(random_state=seed).as_matrix(), rng.normal(size=3) * 3
    )


def ring(count=8, radius=3.0, height=1.5):
    """Cameras on an arc that look at the origin."""
    angle = np.linspace(-0.8, 0.8, count)
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, :3, 3] = np.c_[-radius * np.cos(angle), -radius * np.sin(angle), np.full(count, height)]
    c2w[:, :3, :3] = camera_rotation(angle, np.full(count, -np.arctan2(height, radius)), np.zeros(count))
    return c2w


def test_projection_and_rays_are_inverse():
    c2w = ring()[2]
    points = np.random.default_rng(0).normal(0, 0.4, (20, 3))
    pixels, depth = project(points, c2w, LENS)
    np.testing.assert_allclose(c2w[:3, 3] + depth[:, None] * rays_w(pixels, c2w, LENS), points, atol=1e-6)
    behind, depth = project(c2w[:3, 3] - c2w[:3, 2][None], c2w, LENS)
    assert np.isnan(behind).all()
    assert depth[0] < 0


def test_triangulation_is_exact_and_knows_its_error():
    rng, world = np.random.default_rng(1), frame(1)
    c2w = world.apply_c2w(ring())
    truth = world.apply(np.array([0.3, -0.2, 0.1]))
    pixels = np.concatenate([project(truth[None], pose, LENS)[0] for pose in c2w])
    exact = triangulate(c2w, [LENS] * 8, pixels)
    np.testing.assert_allclose(exact.point, truth, atol=1e-6 * world.scale)
    assert exact.residual_px < 1e-4
    squared = []
    for _ in range(60):
        found = triangulate(c2w, [LENS] * 8, pixels + rng.normal(0, 1.0, pixels.shape))
        off = found.point - truth
        squared.append(off @ np.linalg.solve(found.covariance, off) / 3)
    assert 0.6 < np.mean(squared) < 1.4


def test_parallel_rays_meet_nowhere():
    c2w = np.tile(np.eye(4), (2, 1, 1))
    assert triangulate(c2w, [LENS] * 2, np.full((2, 2), 300.0)) is None


def test_depth_between_points_of_a_slanted_plane_is_exact():
    pixels = np.random.default_rng(2).uniform(100, 300, (40, 2))
    inverse = 0.2 + 4e-4 * pixels[:, 0] - 2e-4 * pixels[:, 1]
    depth, std = depth_at(np.array([200.0, 210.0]), pixels, 1 / inverse, 80.0)
    assert depth == pytest.approx(1 / (0.2 + 0.08 - 0.042), rel=1e-6)
    assert std < 1e-4 * depth
    with pytest.raises(InputError, match="within 20 px"):
        depth_at(np.array([600.0, 20.0]), pixels, 1 / inverse, 20.0)


def test_stated_camera_height_has_the_deviation_of_people():
    plane = SimpleNamespace(camera_height=0.3, height_std_fraction=0.01)
    found = scale_from_camera_height(plane, 1.5)
    assert found.value == pytest.approx(5.0)
    assert found.std_fraction == pytest.approx(np.hypot(0.05, 0.01))


def test_sensor_scale_is_one_with_a_deviation():
    assert scale_from_sensor("slam") == MetricScale(1.0, "sensor", 0.005)
    assert scale_from_sensor(None).std_fraction == 0.02


def test_the_highest_clear_source_is_chosen_and_the_best_where_none_is_clear():
    gps, depth, height = (
        MetricScale(1.0, "gps", 0.2),
        MetricScale(1.1, "depth", 0.02),
        MetricScale(1.2, "camera_height", 0.05),
    )
    assert choose_scale([height, depth, gps]) is depth
    assert choose_scale([MetricScale(1.0, "gps", 0.03), depth]).source == "gps"
    assert choose_scale([gps, MetricScale(1.0, "depth", 0.1)]).source == "depth"
    with pytest.raises(InputError, match="--camera-height"):
        choose_scale([])


def drifting(count, images, std, rng):
    keep = np.exp(-1.0 / images) if images else 0.0
    drift = np.empty((count, 2))
    drift[0] = rng.normal(size=2)
    for i in range(1, count):
        drift[i] = keep * drift[i - 1] + np.sqrt(1 - keep**2) * rng.normal(size=2)
    return std * (np.sqrt(0.8) * drift + np.sqrt(0.2) * rng.normal(size=(count, 2)))


def test_stated_deviation_of_gps_scale_covers_the_truth():
    errors = []
    for seed in range(24):
        rng = np.random.default_rng([seed, 3])
        t = np.linspace(0, 1, 60)
        true = np.c_[180 * t, 6 * np.sin(5 * t)] if seed % 2 else 50 * np.c_[np.cos(6 * t), np.sin(6 * t)]
        angle = rng.uniform(0, 6)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        scale = rng.uniform(0.2, 9)
        found = scale_from_gps(true @ turn / scale, true + drifting(60, (0, 3, 8)[seed % 3], 2.0, rng))
        errors.append((found.value / scale - 1) / found.std_fraction)
    assert np.mean(np.abs(errors) < 2) >= 0.9
    assert 0.25 < np.sqrt(np.mean(np.square(errors))) < 1.4


def test_stated_deviation_of_a_known_distance_covers_the_truth():
    errors = []
    for seed in range(30):
        rng, world = np.random.default_rng([seed, 4]), frame(seed)
        c2w = world.apply_c2w(ring())
        ends = []
        for place in rng.uniform([-0.5, -0.6, -0.3], [0.5, 0.6, 0.3], (2, 3)):
            pixels = np.concatenate(
                [project(world.apply(place)[None], pose, LENS)[0] for pose in c2w[[1, 6]]]
            )
            ends.append((place, triangulate(c2w[[1, 6]], [LENS] * 2, pixels + rng.normal(0, 1.0, (2, 2)))))
        length = np.linalg.norm(ends[0][0] - ends[1][0])
        if length < 0.3:
            continue
        stated = length * (1 + rng.normal(0, 0.01))
        found = scale_from_distance(ends[0][1], ends[1][1], stated, std_m=0.01 * length)
        errors.append((found.value * world.scale - 1) / found.std_fraction)
    assert len(errors) > 20
    assert np.mean(np.abs(errors) < 2) >= 0.9
    assert 0.4 < np.sqrt(np.mean(np.square(errors))) < 1.4


def test_a_distance_between_one_place_and_itself_is_refused():
    here = locate_by_depth(np.array([300.0, 200.0]), 2.0, 0.01, ring()[0], LENS)
    with pytest.raises(InputError, match="farther apart"):
        scale_from_distance(here, here, 1.0)


def test_stated_deviation_of_depth_scale_covers_the_truth():
    errors = []
    for seed in range(30):
        rng = np.random.default_rng([seed, 6])
        scale, bias = rng.uniform(0.2, 9), 1 + rng.normal(0, 0.015)
        measured, model = [], []
        for _ in range(20):
            depth = rng.uniform(0.5, 4.0, 60)
            # Points of an image share an error of their own, some are plainly wrong, some have no depth.
            off = 1 + rng.normal(0, 0.01) + rng.normal(0, 0.03, 60)
            off[:6] = rng.uniform(0.3, 3.0, 6)
            measured.append(np.where(rng.random(60) < 0.2, 0.0, depth * bias * off))
            model.append(depth / scale)
        found = scale_from_depth(measured, model)
        errors.append((found.value / scale - 1) / found.std_fraction)
    assert np.mean(np.abs(errors) < 2) >= 0.9
    assert 0.4 < np.sqrt(np.mean(np.square(errors))) < 1.4


def test_depth_that_has_nothing_to_do_with_the_points_is_refused():
    rng = np.random.default_rng(0)
    parts = [rng.uniform(0.5, 5.0, 50) for _ in range(8)]
    with pytest.raises(InputError, match="not aligned"):
        scale_from_depth(parts, [rng.uniform(0.5, 5.0, 50) for _ in range(8)])
    with pytest.raises(InputError, match="expected 20 or more"):
        scale_from_depth([np.zeros(50)] * 8, parts)


def test_overrides_are_read():
    assert parse_scale_from("auto").kind == "auto"
    assert parse_scale_from("marker=0.16").value_m == 0.16
    assert parse_scale_from("camera-height=1.5").value_m == 1.5
    assert str(parse_scale_from("gcp=a/gcp_list.txt").path) == "a/gcp_list.txt"
    found = parse_scale_from("distance=A.jpg:10,20.5+C.jpg:3,4:sub/B.jpg:5,6=2.25")
    assert found.value_m == 2.25
    assert found.ends == ((("A.jpg", 10.0, 20.5), ("C.jpg", 3.0, 4.0)), (("sub/B.jpg", 5.0, 6.0),))
    np.testing.assert_array_equal(parse_up_from("axis=-y").axis, [0, -1, 0])


@pytest.mark.parametrize(
    "text",
    ["", "marker", "marker=-1", "marker=x", "camera-height=0", "distance=2", "distance=A.jpg:1,2=2", "gps=3",
     "distance=A.jpg:1,2:B.jpg:3=2", "gcp=", "height=2", "distance=A:1,2:B:3,4=nan"],
)  # fmt: skip
def test_wrong_overrides_are_one_clear_line(text):
    with pytest.raises(InputError, match="expected auto, sensor, gps") as raised:
        parse_scale_from(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "axis", "axis=z", "axis=+w", "down", "plane=1"])
def test_wrong_up_directions_are_one_clear_line(text):
    with pytest.raises(InputError, match="expected auto, sensor, plane"):
        parse_up_from(text)
