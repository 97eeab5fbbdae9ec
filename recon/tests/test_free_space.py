"""Free space and ways over it, on floors drawn by hand."""

import numpy as np
import pytest
from gaussgym_recon.free_space import RoutesCfg, free_routes, free_space, spots_of
from gaussgym_recon.robot_sizes import ROBOT_SIZES, robot_size
from gaussgym_recon.walkable import WalkableCfg, scene_paths
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh

GO2, T1 = ROBOT_SIZES["go2"], ROBOT_SIZES["t1"]


def floor(height=lambda x, y: 0 * x, *, known=None, size=(12.0, 6.0), cell=0.05):
    nx, ny = round(size[0] / cell) + 1, round(size[1] / cell) + 1
    x, y = np.meshgrid(np.arange(nx) * cell, np.arange(ny) * cell)
    mask = np.ones(x.shape, bool) if known is None else known(x, y)
    return Heightfield(height(x, y), cell, np.zeros(2), mask)


def board(x0, x1, y0, y1, z):
    """A level plate, seen from above."""
    corners = [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]
    return Mesh(np.array(corners, float), np.array([[0, 1, 2], [0, 2, 3]]))


def test_room_is_the_distance_to_what_is_in_the_way():
    free = free_space(floor(known=lambda x, y: x < 9.0), None, GO2)
    assert free.at(free.clear_m, np.array([6.0, 3.0])) == pytest.approx(3.0, abs=0.06)
    assert free.at(free.clear_m, np.array([3.0, 1.0])) == pytest.approx(1.0, abs=0.06)  # the grid's border
    expected = (9.0 - 2 * GO2.half_width_m) * (6.0 - 2 * GO2.half_width_m)
    assert free.area_m2 == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("step", "dog", "human"), [(0.05, True, True), (0.14, True, False), (0.25, False, False)]
)
def test_who_climbs_which_step(step, dog, human):
    ground = floor(lambda x, y: np.where(x > 6, step, 0.0))
    for robot, climbs in ((GO2, dog), (T1, human)):
        assert bool(free_space(ground, None, robot).open[:, 119].any()) is climbs


def test_stairs_are_open_for_dogs_and_a_steep_slope_is_not():
    stairs = floor(lambda x, y: 0.15 * np.clip(np.floor((x - 4) / 0.3), 0, 6))
    assert free_space(stairs, None, GO2).open[60].sum() == free_space(floor(), None, GO2).open[60].sum()
    steep = floor(lambda x, y: np.tan(np.radians(42)) * np.clip(x - 4, 0, 3))
    assert not free_space(steep, None, GO2).open[:, 110].any()  # in the middle of the slope
    # Over half a metre; it is less steep where it begins and ends.
    free = free_space(steep, None, GO2)
    assert np.degrees(free.slope_rad[60, 110]) == pytest.approx(42, abs=0.5)


def test_a_table_is_in_the_way_of_those_who_do_not_fit_below():
    table = board(4.0, 6.0, 2.0, 4.0, 0.8)
    assert free_space(floor(), table, GO2).open[60, 100]
    assert not free_space(floor(), table, T1).open[60, 100]
    bench = board(4.0, 6.0, 2.0, 4.0, 0.4)
    assert not free_space(floor(), bench, GO2).open[60, 100]


def test_ways_go_round_a_wall_and_keep_their_distance():
    ground = floor(lambda x, y: np.where((np.abs(x - 6) < 0.2) & (y < 4.5), 1.0, 0.0))
    free = free_space(ground, None, GO2)
    lines = free_routes(free, np.array([[1.0, 1.0]]), [], RoutesCfg())
    assert lines
    for line in lines:
        assert free.at(free.open, line).all()
        assert np.linalg.norm(np.diff(line, axis=0), axis=1).max() < 0.2
    crossing = [line for line in lines if line[:, 0].min() < 5 and line[:, 0].max() > 7]
    assert crossing
    for line in crossing:
        assert line[np.abs(line[:, 0] - 6) < 0.2, 1].min() > 4.5
    ends = [np.linalg.norm(line[0] - line[-1]) for line in lines]
    assert max(ends) >= 10.0


def test_ground_that_nobody_could_have_walked_to_does_not_count():
    island = floor(known=lambda x, y: np.abs(x - 6) > 0.5)
    lines = free_routes(free_space(island, None, GO2), np.array([[2.0, 3.0]]), [], RoutesCfg(goal_m=4.0))
    assert lines
    assert max(line[:, 0].max() for line in lines) < 5.5
    assert free_routes(free_space(island, None, GO2), np.zeros((0, 2)), [], RoutesCfg()) == []


def test_paths_of_a_scene_are_the_walk_and_more():
    walk = np.stack([np.linspace(0.5, 11.5, 30), np.full(30, 1.0)], axis=1)
    paths, spots, report = scene_paths(walk, floor(), None, WalkableCfg())
    walked = paths.line(0)
    np.testing.assert_allclose(walked[:, 1], 1.0, atol=1e-5)
    others = [paths.line(n) for n in np.unique(paths.path_id) if n > 1]
    assert len(others) >= 4
    assert max(line[:, 1].max() for line in others) > 3.0
    free = free_space(floor(), None, GO2)
    assert free.at(free.open, paths.points[:, :2].astype(float)).all()
    spacing = np.linalg.norm(np.diff(walked[:, :2], axis=0), axis=1)
    np.testing.assert_allclose(spacing, 0.25, atol=0.01)
    assert report["go2"]["longest_path_m"] >= 10.0
    assert report["go2"]["area_m2"] > report["t1"]["area_m2"] > 50
    assert report["go2"]["spots"] == spots.fits["go2"].sum() > 200
    assert (np.diff(paths.path_id) >= 0).all()


def test_spots_are_spread_and_fit(tmp_path):
    spaces = [free_space(floor(lambda x, y: np.where(x > 6, 0.12, 0.0)), None, robot) for robot in (GO2, T1)]
    spots = spots_of(spaces)
    assert (spots.fits["go2"] >= spots.fits["t1"]).all()
    near_step = np.abs(spots.points[:, 0] - 6) < 0.25
    assert spots.fits["go2"][near_step].any()
    assert not spots.fits["t1"][near_step].any()
    np.testing.assert_allclose(spots.points[spots.points[:, 0] > 6.1, 2], 0.12, atol=1e-6)
    spots.save_npz(tmp_path / "spots.npz")
    with np.load(tmp_path / "spots.npz") as data:
        assert data["fits_t1"].shape == data["clear_m"].shape


def test_an_unknown_robot_is_named():
    with pytest.raises(InputError, match="go1, go2, t1"):
        robot_size("spot")
