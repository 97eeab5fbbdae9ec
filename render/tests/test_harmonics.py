"""The SH basis against hand values and orthonormality, and its compiled twin."""

import numpy as np
import pytest
from gaussgym_render import harmonics


def test_hand_values_along_the_axes():
    # Y00 = 1/(2 sqrt(pi)); Y1 = sqrt(3/(4 pi)) (-y, z, -x); Y20 = sqrt(5/(16 pi)) (3 z² - 1).
    axes = np.eye(3)
    values = harmonics.basis(axes, 3)
    np.testing.assert_allclose(values[:, 0], 0.5 / np.sqrt(np.pi))
    c1 = np.sqrt(3 / (4 * np.pi))
    np.testing.assert_allclose(values[:, 1:4], [[0, 0, -c1], [-c1, 0, 0], [0, c1, 0]])
    c20 = np.sqrt(5 / (16 * np.pi))
    np.testing.assert_allclose(values[:, 6], [-c20, -c20, 2 * c20])
    # Y30 = sqrt(7/(16 pi)) z (5 z² - 3), which is 2 sqrt(7/(16 pi)) at the pole.
    np.testing.assert_allclose(values[2, 12], 2 * np.sqrt(7 / (16 * np.pi)))
    # x² - y² terms: sqrt(15/(16 pi)) and, times z, 0 on the equator.
    np.testing.assert_allclose(values[:2, 8], [np.sqrt(15 / (16 * np.pi)), -np.sqrt(15 / (16 * np.pi))])
    np.testing.assert_allclose(values[:2, 14], 0, atol=1e-15)


def test_basis_is_orthonormal_on_the_sphere():
    # Gauss-Legendre in z times uniform in azimuth integrates degree 6 exactly.
    z, wz = np.polynomial.legendre.leggauss(8)
    phi = np.arange(16) * 2 * np.pi / 16
    zz, pp = np.meshgrid(z, phi, indexing="ij")
    r = np.sqrt(1 - zz**2)
    directions = np.stack([r * np.cos(pp), r * np.sin(pp), zz], -1).reshape(-1, 3)
    weights = (wz[:, None] * np.full(16, 2 * np.pi / 16)).reshape(-1)
    y = harmonics.basis(directions, 3)
    np.testing.assert_allclose((y * weights[:, None]).T @ y, np.eye(16), atol=1e-12)


def test_colors_clamp_below_only():
    sh = np.zeros((2, 1, 3))
    sh[0], sh[1] = -5.0, 5.0
    rgb = harmonics.colors(sh, np.array([[0.0, 0, 1], [0, 0, 1]]))
    np.testing.assert_allclose(rgb[0], 0)
    np.testing.assert_allclose(rgb[1], 0.5 + 5 * harmonics.C0)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_compiled_bands_equal_the_basis(degree):
    rng = np.random.default_rng(degree)
    k = harmonics.num_coefficients(degree)
    sh = rng.normal(size=(20, k, 3)).astype(np.float32)
    directions = rng.normal(size=(20, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    expected = np.einsum("nk,nkc->nc", harmonics.basis(directions, degree)[:, 1:], sh[:, 1:])
    rest = np.concatenate([np.zeros(7), sh[:, 1:].transpose(1, 2, 0).reshape(-1)]).astype(np.float32)
    out = np.ones(3 * 20, np.float32)
    planes = np.ascontiguousarray(directions.T.astype(np.float32)).reshape(-1)
    harmonics.add_bands(planes, rest, 7, k - 1, np.empty(15 * 20, np.float32), out)
    np.testing.assert_allclose(out.reshape(3, 20).T - 1, expected, atol=2e-6)


def test_wrong_number_of_coefficients():
    with pytest.raises(ValueError, match="found 5 SH"):
        harmonics.degree_of(5)
    with pytest.raises(ValueError, match="degree 4"):
        harmonics.basis(np.eye(3), 4)
