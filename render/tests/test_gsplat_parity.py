"""The oracle against gsplat's own pure-torch functions (the ones that gsplat tests its kernels against), which need no CUDA."""

import numpy as np
import pytest
import torch
from gaussgym_render import harmonics, oracle
from gaussgym_render.testing import pinhole, random_cameras, random_splats

torch_impl = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat is not installed")


def tensor(array):
    return torch.tensor(np.asarray(array, np.float64))


def test_covariances():
    """Not one rotation is symmetric: a transposed matrix would show."""
    s = random_splats(500, np.random.default_rng(0))
    rotations = oracle.rotation_matrices(s.quats_wxyz.astype(np.float64))
    assert np.abs(rotations - rotations.transpose(0, 2, 1)).max((1, 2)).min() > 1e-3
    factor = rotations * s.scales[:, None, :].astype(np.float64)
    expected, precision = torch_impl._quat_scale_to_covar_preci(tensor(s.quats_wxyz), tensor(s.scales))
    ours = factor @ factor.transpose(0, 2, 1)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)
    sharp = s.scales.min(1) > 0.02  # the inverse of a disc is large
    np.testing.assert_allclose(np.linalg.inv(ours[sharp]), precision[sharp], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spherical_harmonics(degree):
    rng = np.random.default_rng(degree)
    directions = rng.normal(size=(400, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    sh = rng.normal(size=(400, 16, 3))
    # gsplat adds the 0.5 and clamps outside of the function.
    expected = np.maximum(
        torch_impl._spherical_harmonics(degree, tensor(directions), tensor(sh)).numpy() + 0.5, 0.0
    )
    np.testing.assert_allclose(harmonics.colors(sh, directions, degree), expected, atol=1e-6)
    assert (expected == 0).any()


@pytest.mark.parametrize("seed", range(8))
def test_projection(seed):
    """Centres, depths, covariances, compensation, and which splats are seen; cameras rolled, off-centre, fx ≠ fy."""
    rng = np.random.default_rng(seed)
    s = random_splats(5000, rng, size_m=(3, 3, 3))
    c2w, k, width, height = random_cameras(1, rng)[0], pinhole(84, 48), 84, 48
    c2w[:3, 3] *= 0.3
    k[0, 2], k[1, 2], k[1, 1] = 33.0, 29.0, 1.2 * k[1, 1]
    near = 0.2
    covariances, _ = torch_impl._quat_scale_to_covar_preci(
        tensor(s.quats_wxyz), tensor(s.scales), compute_preci=False
    )
    radii, means_px, depths, conics, compensations = (
        x[0].numpy()
        for x in torch_impl._fully_fused_projection(
            tensor(s.means), covariances, tensor(np.linalg.inv(c2w))[None], tensor(k)[None], width, height,
            near_plane=near, calc_compensations=True,
        )
    )  # fmt: skip
    p = oracle.project(s, c2w, k, width, height, near=near)
    i = p.index
    assert len(i) > 150
    np.testing.assert_allclose(p.means_px, means_px[i], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(p.depths_m, depths[i], rtol=1e-9)
    ours = np.linalg.inv(p.covariances_px)
    scale = np.abs(ours).max((1, 2))
    for column, entry in enumerate((ours[:, 0, 0], ours[:, 0, 1], ours[:, 1, 1])):
        assert (np.abs(entry - conics[i, column]) / scale).max() < 1e-9
    # gsplat's torch function lacks the floor of its CUDA kernel, which the oracle has.
    expected = s.opacities[i].astype(np.float64) * np.maximum(compensations[i], oracle.MIN_COMPENSATION)
    np.testing.assert_allclose(p.opacities, expected, rtol=1e-6)
    # It takes 3.33 standard deviations for any opacity: the oracle's are those of its splats whose faint rim reaches the image.
    seen = (radii > 0).all(-1)
    assert seen[i].all()
    missed = np.setdiff1d(np.flatnonzero(seen), i)
    opacities = s.opacities[missed] * np.maximum(compensations[missed], oracle.MIN_COMPENSATION)
    extent = np.sqrt(2 * np.log(np.maximum(opacities * 255, 1.0)))
    variance = np.linalg.inv(
        np.stack([conics[missed][:, [0, 1]], conics[missed][:, [1, 2]]], 1)
    ).diagonal(axis1=1, axis2=2)  # fmt: skip
    reach = np.ceil(np.minimum(extent, 3.33)[:, None] * np.sqrt(variance))
    outside = (means_px[missed] + reach <= 0).any(1) | (means_px[missed] - reach >= [width, height]).any(1)
    assert ((opacities < 1 / 255) | outside).all()
