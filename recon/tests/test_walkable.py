"""Paths from a walk over known ground."""

import numpy as np
import pytest
from gaussgym_recon.walkable import longest_path_m, walkable_paths
from gaussgym_scene.heightfield import Heightfield


def ground(height, *, known=None, size=(12.0, 4.0), cell=0.05):
    nx, ny = int(size[0] / cell) + 1, int(size[1] / cell) + 1
    x, y = np.meshgrid(np.arange(nx) * cell, np.arange(ny) * cell - size[1] / 2)
    z = height(x, y)
    mask = np.ones(z.shape, bool) if known is None else known(x, y)
    return Heightfield(z, cell, np.array([0.0, -size[1] / 2]), mask)


def walk(n=25, length=11.0):
    x = np.linspace(0.5, 0.5 + length, n)
    return np.stack([x, 0.05 * np.sin(9 * x)], axis=1)


def test_a_slope_gives_one_line_each_way():
    paths = walkable_paths(walk(), ground(lambda x, y: 0.1 * x + 0 * y))
    assert set(paths.path_id.tolist()) == {0, 1}
    there, back = paths.line(0), paths.line(1)
    np.testing.assert_allclose(there[:, :3], back[::-1, :3], atol=1e-6)
    np.testing.assert_allclose(there[:, 2], 0.1 * there[:, 0], atol=1e-4)
    np.testing.assert_allclose(np.cos(there[:, 3]), 1, atol=0.05)
    np.testing.assert_allclose(np.cos(back[:, 3]), -1, atol=0.05)
    assert longest_path_m(paths) == pytest.approx(11.0, abs=0.3)
    spacing = np.linalg.norm(np.diff(there[:, :2], axis=0), axis=1)
    np.testing.assert_allclose(spacing, 0.25, atol=0.01)
    assert paths.half_width_m.min() > 1.3  # nothing in the way but the limit of 1.5 m


def test_a_kerb_limits_the_width():
    paths = walkable_paths(walk(), ground(lambda x, y: np.where(y > 0.8, 0.15, 0.0)))
    assert 0.6 < np.median(paths.half_width_m) < 0.85


def test_unknown_ground_breaks_the_line():
    paths = walkable_paths(walk(), ground(lambda x, y: 0 * x, known=lambda x, y: np.abs(x - 6) > 0.5))
    assert set(paths.path_id.tolist()) == {0, 1, 2, 3}
    assert np.abs(paths.points[:, 0] - 6).min() >= 0.5
    assert longest_path_m(paths) < 6


def test_a_short_unknown_stretch_does_not_break_the_line_unless_it_sinks():
    def hole(x, y):
        return np.abs(x - 6) > 0.2

    level = walkable_paths(walk(), ground(lambda x, y: 0 * x, known=hole))
    assert set(level.path_id.tolist()) == {0, 1}
    assert level.half_width_m.min() > 0.5
    sunk = walkable_paths(walk(), ground(lambda x, y: np.where(hole(x, y), 0.0, -0.4), known=hole))
    assert len(set(sunk.path_id.tolist())) > 2


def test_a_drop_breaks_the_line_but_stairs_do_not():
    drop = walkable_paths(walk(), ground(lambda x, y: np.where(x > 6, -0.6, 0.0)))
    assert len(set(drop.path_id.tolist())) == 4
    stairs = walkable_paths(
        walk(), ground(lambda x, y: 0.15 * np.floor(np.maximum(x - 4, 0) / 0.3).clip(0, 8))
    )
    assert len(set(stairs.path_id.tolist())) == 2


def test_standing_still_gives_no_path():
    paths = walkable_paths(np.zeros((5, 2)) + [3.0, 0.0], ground(lambda x, y: 0 * x))
    assert len(paths) == 0
    assert longest_path_m(paths) == 0.0


def test_turning_round_on_the_spot_ends_a_path_but_a_corner_does_not():
    there = np.stack([np.linspace(1, 10, 40), np.full(40, -0.25)], axis=1)
    back = np.stack([np.linspace(10, 1, 40), np.full(40, 0.25)], axis=1)
    flat = ground(lambda x, y: 0 * x, size=(12.0, 12.0))
    hairpin = walkable_paths(np.concatenate([there, back]), flat)
    assert set(hairpin.path_id.tolist()) == {0, 1, 2, 3}
    for line in map(hairpin.line, range(4)):
        assert np.abs(np.diff(np.unwrap(line[:, 3]))).sum() < 1.6
    corner = np.stack([np.full(20, 10.0), np.linspace(0, 5, 20)], axis=1)
    assert set(walkable_paths(np.concatenate([there, corner]), flat).path_id.tolist()) == {0, 1}
