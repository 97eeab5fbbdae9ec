"""Seeds: how many are kept, and where."""

import numpy as np
import pytest
from gaussgym_recon.seeding import VOXELS_PER_OCTAVE, thin_out


def noisy_wall(count=40_000, seed=0):
    """Points of a wall of 4 x 3 m; those on its left were seen from near, those on its right from afar."""
    rng = np.random.default_rng(seed)
    points = np.stack([rng.uniform(0, 4, count), rng.uniform(0, 3, count), rng.normal(0, 0.002, count)], 1)
    return points, 0.005 + 0.01 * points[:, 0]


@pytest.mark.parametrize("count", [300, 1500, 5000, 12_000])
def test_seeds_reach_their_number(count):
    points, sizes = noisy_wall()
    keep, _ = thin_out(points, sizes, count)
    assert 0.98 * count <= len(keep) <= count
    assert len(np.unique(keep)) == len(keep)


def test_few_points_are_all_kept_where_they_lie_apart():
    points = np.stack([0.5 * np.arange(20.0), np.zeros(20), np.zeros(20)], 1)
    keep, voxel = thin_out(points, np.full(20, 0.01), 100)
    assert sorted(keep) == list(range(20))
    assert (voxel >= 0.005).all()
    assert (voxel <= 0.005 * 2 ** (1 / VOXELS_PER_OCTAVE) + 1e-9).all()


def test_no_seed_lies_in_the_voxel_of_a_finer_one():
    points, sizes = noisy_wall(6000)
    keep, voxel = thin_out(points, sizes, 900)
    assert (voxel[keep] >= 0.5 * sizes[keep]).all()
    order = keep[np.argsort(voxel[keep], kind="stable")]
    for n, i in enumerate(order):
        finer = order[:n]
        same = (np.floor(points[finer] / voxel[i]) == np.floor(points[i] / voxel[i])).all(1)
        assert not same.any()
