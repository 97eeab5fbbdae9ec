import numpy as np
import pytest
from gaussgym_recon.georegister import (
    enu_from_gps,
    gps_from_enu,
    level_rotation,
    robust_umeyama,
    umeyama,
    world_frame,
)
from gaussgym_recon.gravity import GravityCfg, ground_plane, up_from_cameras
from gaussgym_recon.posed import Similarity
from gaussgym_recon.scale import scale_from_camera_height, scale_from_gps
from gaussgym_recon.walks import camera_rotation
from gaussgym_scene.errors import InputError, StageError
from scipy.spatial.transform import Rotation

# A rotation without any symmetry, as structure from motion leaves it.
SFM_FROM_WORLD = Similarity(
    0.173, Rotation.from_euler("zyx", [2.1, -0.9, 0.6]).as_matrix(), np.array([3.0, -1.0, 2.0])
)


def walker(count=60, *, turn=False, pitch=-0.2, roll_std=0.02, slope=0.0, seed=0):
    """Cameras `[n, 4, 4]` of someone who walks 30 m along +X, 1.5 m above a ground that rises along +X."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 30, count)
    yaw = 0.2 * np.sin(np.arange(count)) + (np.pi * (np.arange(count) >= count // 2) if turn else 0.0)
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, :3, :3] = camera_rotation(yaw, np.full(count, pitch), rng.normal(0, roll_std, count))
    c2w[:, 0, 3], c2w[:, 1, 3] = x, 0.2 * np.sin(x)
    c2w[:, 2, 3] = 1.5 + np.tan(slope) * x
    return c2w


def street(count=4000, *, slope=0.0, seed=1, noise_m=0.01):
    """Points on a ground 6 m wide, two house fronts and something far away."""
    rng = np.random.default_rng(seed)
    ground = np.c_[rng.uniform(-5, 40, count), rng.uniform(-3, 3, count), np.zeros(count)]
    ground[:, 2] = np.tan(slope) * ground[:, 0] + rng.normal(0, noise_m, count)
    walls = np.c_[rng.uniform(-5, 40, count), rng.choice([-3.0, 3.0], count), rng.uniform(0, 8, count)]
    far = rng.uniform([60, -40, 0], [200, 40, 30], (count, 3))
    return np.concatenate([ground, walls, far])


def degrees_between(a, b):
    return np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


@pytest.mark.parametrize("dimension", [2, 3])
def test_umeyama_is_exact(dimension):
    rng = np.random.default_rng(4)
    source = rng.normal(size=(9, dimension))
    rotation = SFM_FROM_WORLD.rotation if dimension == 3 else np.array([[0.6, -0.8], [0.8, 0.6]])
    truth = Similarity(2.7, rotation, rng.normal(size=dimension))
    found = umeyama(source, truth.apply(source))
    assert found.scale == pytest.approx(2.7, rel=1e-12)
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-12)
    np.testing.assert_allclose(found.translation, truth.translation, atol=1e-12)


def test_umeyama_never_mirrors():
    source = np.random.default_rng(5).normal(size=(20, 3))
    found = umeyama(source, source * [1, 1, -1])
    assert np.linalg.det(found.rotation) == pytest.approx(1.0)


def test_umeyama_weights_equal_repetition():
    rng = np.random.default_rng(6)
    source, target = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    times = np.array([1, 3, 2, 1, 1, 4])
    weighted = umeyama(source, target, weights=times)
    repeated = umeyama(np.repeat(source, times, axis=0), np.repeat(target, times, axis=0))
    assert weighted.scale == pytest.approx(repeated.scale)
    np.testing.assert_allclose(weighted.rotation, repeated.rotation, atol=1e-10)


def test_umeyama_refuses_a_camera_that_does_not_move():
    with pytest.raises(InputError, match="coincide"):
        umeyama(np.ones((5, 3)), np.random.default_rng(0).normal(size=(5, 3)))


def test_robust_umeyama_ignores_a_fifth_of_wrong_fixes():
    rng = np.random.default_rng(7)
    source = rng.normal(size=(40, 2)) * 5
    truth = Similarity(3.0, np.array([[0.6, -0.8], [0.8, 0.6]]), np.array([10.0, -4.0]))
    target = truth.apply(source) + rng.normal(0, 0.1, (40, 2))
    target[:8] += rng.uniform(20, 60, (8, 2))
    found, weights = robust_umeyama(source, target, noise=0.5)
    assert found.scale == pytest.approx(3.0, rel=0.01)
    assert weights[:8].max() < 0.01 < 0.5 < weights[8:].min()
    assert abs(umeyama(source, target).scale / 3.0 - 1) > 0.05  # so that the test can fail


def test_enu_of_known_arcs():
    origin = (0.0, 10.0, 0.0)
    # On the equator a degree of longitude is a·π/180 of arc, chord and sagitta by plain trigonometry.
    angle = np.radians(0.01)
    east, north, up = enu_from_gps((0.0, 10.01, 0.0), origin)
    assert east == pytest.approx(6378137.0 * np.sin(angle), abs=1e-6)
    assert north == pytest.approx(0.0, abs=1e-9)
    assert up == pytest.approx(-6378137.0 * (1 - np.cos(angle)), abs=1e-6)
    # A metre of altitude is a metre up; north is the meridian's radius of curvature a(1 - e²) at the equator.
    np.testing.assert_allclose(enu_from_gps((0.0, 10.0, 7.0), origin), [0, 0, 7.0], atol=1e-9)
    assert enu_from_gps((1e-4, 10.0, 0.0), origin)[1] == pytest.approx(
        np.radians(1e-4) * 6335439.327, rel=1e-6
    )


def test_gps_round_trip():
    enu = np.random.default_rng(8).uniform(-3000, 3000, (30, 3)) * [1, 1, 0.01]
    origin = (47.4, -8.5, 400.0)
    np.testing.assert_allclose(enu_from_gps(gps_from_enu(enu, origin), origin), enu, atol=1e-6)


def test_level_rotation_turns_up_to_z():
    for up in (*np.eye(3), *-np.eye(3), SFM_FROM_WORLD.rotation[:, 2]):
        rotation = level_rotation(up)
        np.testing.assert_allclose(rotation @ up, [0, 0, 1], atol=1e-12)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_up_prior_of_a_walk_that_turns_round_does_not_care_how_far_it_looks_down():
    c2w = SFM_FROM_WORLD.apply_c2w(walker(turn=True, pitch=-0.4))
    found = up_from_cameras(c2w)
    assert degrees_between(found.up, SFM_FROM_WORLD.rotation[:, 2]) < 0.7
    assert np.degrees(found.std_rad) < 3.0


def test_up_prior_follows_the_exif_orientation():
    c2w = walker(roll_std=0.0, pitch=0.0)
    # Orientation 6: the stored pixels must be turned a quarter clockwise, so the stored image was taken with the
    # camera turned a quarter counter-clockwise: stored right is down.
    turned = c2w.copy()
    turned[:, :3, 0], turned[:, :3, 1] = c2w[:, :3, 1], -c2w[:, :3, 0]
    found = up_from_cameras(turned, [6] * len(c2w))
    assert degrees_between(found.up, np.array([0, 0, 1.0])) < 0.1


@pytest.mark.parametrize("slope_deg", [0.0, 3.0])
def test_ground_plane_of_a_street(slope_deg):
    slope = np.radians(slope_deg)
    c2w, points = walker(turn=True, slope=slope), street(slope=slope)
    plane = ground_plane(SFM_FROM_WORLD.apply_c2w(c2w), SFM_FROM_WORLD.apply(points))
    normal = SFM_FROM_WORLD.rotation @ [-np.sin(slope), 0, np.cos(slope)]
    assert degrees_between(plane.normal, normal) < 0.1
    assert plane.camera_height == pytest.approx(0.173 * 1.5 * np.cos(slope), rel=0.01)
    assert degrees_between(plane.up, SFM_FROM_WORLD.rotation[:, 2]) < 1.0
    assert plane.source == "plane+camera_down"
    assert np.degrees(plane.slope_rad) == pytest.approx(slope_deg, abs=1.0)


def test_level_floor_is_gravity():
    plane = ground_plane(
        SFM_FROM_WORLD.apply_c2w(walker(roll_std=0.05)), SFM_FROM_WORLD.apply(street()), level=True
    )
    assert degrees_between(plane.up, SFM_FROM_WORLD.rotation[:, 2]) < 0.1
    assert plane.source == "plane"


def test_walls_and_far_points_alone_are_no_ground():
    points = street()[4000:]
    points = points[points[:, 2] > 1.6]
    with pytest.raises(StageError, match="no ground plane"):
        ground_plane(walker(), points)


def test_flight_that_looks_down_is_recognized():
    rng = np.random.default_rng(9)
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(6.0), np.arange(5.0)))
    c2w = np.tile(np.eye(4), (30, 1, 1))
    c2w[:, :3, :3] = camera_rotation(np.full(30, 0.3), np.full(30, -np.pi / 2 + 0.05), np.zeros(30))
    c2w[:, :3, 3] = 10 * np.c_[x, y, np.full(30, 4.0)]
    points = np.c_[rng.uniform(-20, 70, (3000, 2)), rng.normal(0, 0.3, 3000)]
    plane = ground_plane(SFM_FROM_WORLD.apply_c2w(c2w), SFM_FROM_WORLD.apply(points))
    assert plane.source == "plane+nadir"
    assert degrees_between(plane.up, SFM_FROM_WORLD.rotation[:, 2]) < 0.5


def test_gps_gives_scale_and_heading_of_a_straight_walk_but_never_roll():
    rng = np.random.default_rng(10)
    c2w = walker(200)
    c2w[:, 0, 3] *= 6.0
    gps = c2w[:, :3, 3] + rng.normal(0, 2.0, (200, 3))
    turned = np.array([[0.8, -0.6], [0.6, 0.8]])
    scale = scale_from_gps(c2w[:, :2, 3] / 4.0 @ turned, gps[:, :2])
    assert scale.value == pytest.approx(4.0, rel=0.02)
    assert scale.source == "gps"
    assert scale.std_fraction is not None
    assert 0.001 < scale.std_fraction < 0.05
    assert scale.gps_heading_rad == pytest.approx(np.arctan2(0.6, 0.8), abs=0.02)


def test_gps_of_a_walk_shorter_than_its_noise_is_refused():
    rng = np.random.default_rng(11)
    xy = walker(20)[:, :2, 3] / 30.0
    with pytest.raises(InputError, match="camera height"):
        scale_from_gps(xy, xy + rng.normal(0, 3.0, xy.shape))


def test_stated_camera_height_gives_the_scale():
    plane = ground_plane(SFM_FROM_WORLD.apply_c2w(walker(turn=True)), SFM_FROM_WORLD.apply(street()))
    assert scale_from_camera_height(plane, 1.5).value == pytest.approx(1 / 0.173, rel=0.01)
    with pytest.raises(InputError, match="camera height"):
        scale_from_camera_height(plane, -1.0)


@pytest.mark.parametrize("slope_deg", [0.0, 3.0])
def test_world_has_the_ground_below_the_first_camera_at_the_origin_and_x_along_the_walk(slope_deg):
    slope = np.radians(slope_deg)
    c2w = walker(turn=True, slope=slope)
    sfm = SFM_FROM_WORLD.apply_c2w(c2w)
    plane = ground_plane(sfm, SFM_FROM_WORLD.apply(street(slope=slope)), cfg=GravityCfg(slope_std_rad=10.0))
    world = world_frame(sfm[:, :3, 3], plane, 1 / 0.173)
    centers = world.apply_c2w(sfm)[:, :3, 3]
    np.testing.assert_allclose(centers[0], [0, 0, 1.5], atol=0.03)
    assert centers[-1, 0] == pytest.approx(30.0, abs=0.1)
    assert abs(centers[-1, 1]) < 0.5
    ground = world.apply(SFM_FROM_WORLD.apply(np.array([0.0, 0.0, 0.0])))
    np.testing.assert_allclose(ground, [0, 0, 0], atol=0.03)
