import numpy as np
import pytest
from gaussgym_recon.georegister import level_rotation
from gaussgym_recon.gravity import UpEstimate, fuse_up, ground_plane, up_from_cameras, up_from_gps
from gaussgym_recon.posed import Similarity
from gaussgym_recon.walks import camera_rotation
from scipy.spatial.transform import Rotation


def frame(seed):
    """A general similarity from the world to a model's frame."""
    rng = np.random.default_rng([seed, 1])
    return Similarity(
        rng.uniform(0.05, 5.0), Rotation.random(random_state=seed).as_matrix(), rng.normal(size=3) * 3
    )


def degrees_between(a, b):
    return np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


def drifting(count, images, std, rng):
    """Errors `[count, 3]` of a receiver: four fifths of the variance drift with a time constant of that many images."""
    keep = np.exp(-1.0 / images) if images else 0.0
    drift = np.empty((count, 3))
    drift[0] = rng.normal(size=3)
    for i in range(1, count):
        drift[i] = keep * drift[i - 1] + np.sqrt(1 - keep**2) * rng.normal(size=3)
    return std * (np.sqrt(0.8) * drift + np.sqrt(0.2) * rng.normal(size=(count, 3)))


def flight(lines=5, along=9, *, height=60.0, pitch_deg=-90.0, seed=0, step=12.0):
    """Cameras `[n, 4, 4]` of a drone that flies lines to and fro."""
    rng = np.random.default_rng(seed)
    i, j = np.divmod(np.arange(lines * along), along)
    x = step * np.where(i % 2, along - 1 - j, j)
    c2w = np.tile(np.eye(4), (len(x), 1, 1))
    yaw = np.where(i % 2, np.pi, 0.0) + rng.normal(0, 0.05, len(x))
    pitch = np.radians(pitch_deg) + rng.normal(0, 0.02, len(x))
    c2w[:, :3, :3] = camera_rotation(yaw, pitch, rng.normal(0, 0.02, len(x)))
    c2w[:, :3, 3] = np.c_[x, 2.5 * step * i, height + rng.normal(0, 0.5, len(x))]
    return c2w


def land(slope_x, slope_y, *, seed=0, count=1500, low=-40, high=140):
    rng = np.random.default_rng([seed, 3])
    xy = rng.uniform(low, high, (count, 2))
    return np.c_[xy, xy @ [np.tan(slope_x), np.tan(slope_y)] + rng.normal(0, 0.2, count)]


def test_two_directions_known_alike_meet_halfway():
    a, b = UpEstimate.within(np.array([0.1, 0, 1.0]), 0.02), UpEstimate.within(np.array([-0.1, 0, 1.0]), 0.02)
    found = fuse_up([a, b])
    np.testing.assert_allclose(found.up, [0, 0, 1], atol=1e-9)
    # One tilt of 0.02 each: both together are off by 0.02 sqrt(2), half as much in square for two estimates.
    assert a.std_rad == pytest.approx(0.02 * np.sqrt(2), rel=1e-6)
    assert found.std_rad == pytest.approx(0.02, rel=0.02)


def test_estimates_that_know_one_tilt_each_are_complete_together():
    turn = Rotation.from_euler("zyx", [0.4, -1.1, 2.0]).as_matrix()
    one = UpEstimate(
        turn @ [0.02, 0.3, 1.0] / np.linalg.norm([0.02, 0.3, 1.0]), turn @ np.diag([1e4, 0, 0]) @ turn.T
    )
    two = UpEstimate(
        turn @ [-0.3, 0.01, 1.0] / np.linalg.norm([-0.3, 0.01, 1.0]), turn @ np.diag([0, 1e4, 0]) @ turn.T
    )
    assert one.std_rad == np.inf
    found = fuse_up([one, two])
    assert found.std_rad == pytest.approx(0.01 * np.sqrt(2), rel=0.02)
    assert degrees_between(found.up, turn @ np.array([0.02, 0.01, 1.0])) < 0.1


def test_up_by_gps_is_exact_without_noise():
    world = frame(3)
    c2w = flight()
    found = up_from_gps(
        world.apply(c2w[:, :3, 3]), c2w[:, :3, 3], world.rotation @ [0.1, -0.2, 0.97], 1 / world.scale
    )
    assert degrees_between(found.up, world.rotation[:, 2]) < 1e-3


def test_a_straight_track_leaves_one_tilt_open():
    world, rng = frame(4), np.random.default_rng(0)
    track = np.c_[np.linspace(0, 180, 40), np.zeros((40, 2))]
    found = up_from_gps(
        world.apply(track), track + rng.normal(0, [2, 2, 5], (40, 3)), world.rotation[:, 2], 1 / world.scale
    )
    assert np.degrees(found.std_rad) > 45


@pytest.mark.parametrize("pitch_deg", [-90.0, -55.0])
def test_flights_over_sloping_land_come_out_gravity_right(pitch_deg):
    """With GPS, nadir and oblique: the land slopes by five degrees, which the plane alone would call level."""
    world, rng = frame(5), np.random.default_rng(2)
    slope = np.radians([3.0, -4.0])
    c2w, points = flight(pitch_deg=pitch_deg), land(*slope)
    fixes = c2w[:, :3, 3] + drifting(len(c2w), 4, 0.8, rng)
    model = world.apply_c2w(c2w)
    gps_up = up_from_gps(model[:, :3, 3], fixes, world.rotation @ [0.1, 0.05, 1.0], 1 / world.scale)
    plane = ground_plane(model, world.apply(points), gps_up=gps_up)
    error = np.radians(degrees_between(plane.up, world.rotation[:, 2]))
    assert np.degrees(error) < 2.0
    assert error < 2.5 * plane.up_std_rad
    assert "gps" in plane.source
    normal = world.rotation @ [-np.tan(slope[0]), -np.tan(slope[1]), 1]
    assert degrees_between(plane.normal, normal) < 0.2


def test_known_gravity_is_taken_as_it_is_and_the_ground_found_below():
    world = frame(6)
    c2w, points = flight(height=30.0), land(0.05, 0.0)
    known = UpEstimate.within(world.rotation[:, 2], 0.01)
    plane = ground_plane(world.apply_c2w(c2w), world.apply(points), known_up=(known, "sensor"))
    np.testing.assert_allclose(plane.up, world.rotation[:, 2], atol=1e-12)
    assert plane.source == "sensor"
    assert np.degrees(plane.slope_rad) == pytest.approx(np.degrees(0.05), abs=0.2)
    assert plane.up_std_rad == pytest.approx(0.01 * np.sqrt(2), rel=1e-6)


def normalized_errors(found, truth):
    """Tilt error over its standard deviation, along both tilts together: mean square one where the estimate is honest."""
    tilt = level_rotation(found.up)[:2]
    off = tilt @ (truth - found.up)
    return float(np.sqrt(off @ (tilt @ found.information @ tilt.T) @ off / 2))


def test_stated_deviation_of_gps_gravity_covers_the_truth():
    errors = []
    for seed in range(24):
        rng = np.random.default_rng([seed, 11])
        world, c2w = frame(seed), flight(seed=seed)
        fixes = c2w[:, :3, 3] + drifting(len(c2w), (0, 3, 8)[seed % 3], 1.5, rng)
        start = world.rotation @ [*rng.normal(0, 0.05, 2), 1.0]
        found = up_from_gps(world.apply(c2w[:, :3, 3]), fixes, start / np.linalg.norm(start), 1 / world.scale)
        errors.append(normalized_errors(found, world.rotation[:, 2]))
    assert np.mean(np.array(errors) < 2) >= 0.9
    assert 0.2 < np.sqrt(np.mean(np.square(errors))) < 1.4


def walker(seed, *, turn):
    """Someone who walks 25 m up a slope and looks where they like: habits are drawn as the estimate supposes them."""
    rng = np.random.default_rng([seed, 5])
    count = 40
    slope = np.radians(rng.normal(0, 2.0, 2))
    x = np.linspace(0, 25, count)
    back = (np.arange(count) >= count // 2) if turn else np.zeros(count, bool)
    yaw = 0.25 * np.sin(0.9 * np.arange(count)) + np.pi * back
    pitch = np.radians(rng.normal(0, 6.0)) + np.radians(3.0) * rng.normal(size=count)
    roll = np.radians(rng.normal(0, 1.0)) + np.radians(1.5) * rng.normal(size=count)
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, :3, :3] = camera_rotation(yaw, pitch, roll)
    y = 0.3 * np.sin(x)
    c2w[:, :3, 3] = np.c_[x, y, 1.5 + x * np.tan(slope[0]) + y * np.tan(slope[1])]
    xy = rng.uniform([-3, -4], [30, 4], (600, 2))
    points = np.c_[xy, xy @ np.tan(slope) + rng.normal(0, 0.01, 600)]
    return c2w, points


@pytest.mark.parametrize("turn", [False, True])
def test_stated_deviation_of_cameras_and_ground_covers_the_truth(turn):
    from_cameras, together = [], []
    for seed in range(16):
        world = frame(seed)
        c2w, points = walker(seed, turn=turn)
        model = world.apply_c2w(c2w)
        up = world.rotation[:, 2]
        from_cameras.append(normalized_errors(up_from_cameras(model), up))
        plane = ground_plane(model, world.apply(points))
        together.append(np.radians(degrees_between(plane.up, up)) / plane.up_std_rad)
    for errors in (from_cameras, together):
        assert np.mean(np.array(errors) < 2) >= 0.85
        assert 0.2 < np.sqrt(np.mean(np.square(errors))) < 1.5


@pytest.mark.parametrize("seed", range(4))
def test_ground_on_two_levels_does_not_lean_from_one_to_the_other(seed):
    """Half of a room lies a step of 12 cm higher: two thresholds of the search for a plane."""
    rng = np.random.default_rng([seed, 9])
    world, count = frame(seed), 30
    angle = np.linspace(0, 2 * np.pi, count)
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, :3, :3] = camera_rotation(angle + np.pi / 2, np.radians(-12) + rng.normal(0, 0.03, count), 0.0)
    c2w[:, :3, 3] = np.c_[2 * np.cos(angle), 2 * np.sin(angle), np.full(count, 1.5)]
    xy = rng.uniform(-3, 3, (1200, 2))
    floor = np.c_[xy, 0.12 * (xy[:, 0] > 0.3) + rng.normal(0, 0.004, 1200)]
    walls = np.c_[
        np.where(rng.random(1500) < 0.5, -3, 3), rng.uniform(-3, 3, 1500), rng.uniform(0, 2.5, 1500)
    ]
    plane = ground_plane(world.apply_c2w(c2w), world.apply(np.concatenate([floor, walls])), level=True)
    assert plane.source == "plane"
    assert degrees_between(plane.up, world.rotation[:, 2]) < 0.15
    # The circle lies over the lower half for longer, and that is the ground that cameras are over.
    assert plane.camera_height / world.scale == pytest.approx(1.5, abs=0.02)


def test_ground_is_found_where_walls_have_nearly_all_points():
    """Three points of the ground come together in one of 10^5 draws."""
    rng, world, count = np.random.default_rng(4), frame(2), 24
    c2w = np.tile(np.eye(4), (count, 1, 1))
    x = np.linspace(0, 12, count)
    c2w[:, :3, :3] = camera_rotation(0.4 * np.sin(x), rng.normal(-0.1, 0.02, count), 0.0)
    c2w[:, :3, 3] = np.c_[x, 0.2 * np.sin(2 * x), 1.5 + rng.normal(0, 0.02, count)]
    walls = np.c_[rng.uniform(-1, 16, 6000), rng.choice([-1.3, 1.3], 6000), rng.uniform(0, 2.6, 6000)]
    walls[:, 1] += rng.normal(0, 0.05, 6000)
    ground = np.c_[rng.uniform([-1, -1.2], [16, 1.2], (120, 2)), rng.normal(0, 0.005, 120)]
    plane = ground_plane(world.apply_c2w(c2w), world.apply(np.concatenate([walls, ground])), level=True)
    assert plane.source == "plane"
    assert degrees_between(plane.up, world.rotation[:, 2]) < 0.5
    assert plane.camera_height / world.scale == pytest.approx(1.5, abs=0.05)
