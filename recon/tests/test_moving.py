"""Splats moved by similarities whose rotation is its own inverse nowhere."""

import numpy as np
import pytest
from gaussgym_recon.moving import move_splats, proper_rotation, turn_harmonics
from gaussgym_recon.posed import Similarity
from gaussgym_render import SplatRenderer
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import look_at, matrix_from_quat_wxyz
from gaussgym_scene.testing import random_splats
from scipy.spatial.transform import Rotation

TURN = Rotation.from_rotvec([0.7, -1.1, 0.4]).as_matrix()


def bands_by_recurrence(d, coefficients):
    """Sum of a degree-3 expansion, written out with Legendre functions: nothing of the code under test."""
    from scipy.special import sph_harm_y

    polar, azimuth = np.arccos(np.clip(d[2], -1, 1)), np.arctan2(d[1], d[0])
    total = 0.0
    for degree in range(4):
        for order in range(-degree, degree + 1):
            y = sph_harm_y(degree, abs(order), polar, azimuth)
            if order == 0:
                value = y.real
            else:  # 3DGS keeps the Condon-Shortley phase
                value = np.sqrt(2) * (y.imag if order < 0 else y.real)
            total += coefficients[degree * degree + degree + order] * value
    return total


@pytest.mark.parametrize("rotation", [TURN, Rotation.from_euler("z", 90, degrees=True).as_matrix()])
def test_colours_turn_with_the_splats(rotation):
    sh = random_splats(6, sh_degree=3, seed=2).sh
    turned = turn_harmonics(sh, rotation)
    for d in random_splats(5, seed=3).means:
        d = d.astype(np.float64) / np.linalg.norm(d)
        for n in range(6):
            for channel in range(3):
                before = bands_by_recurrence(d, sh[n, :, channel].astype(float))
                after = bands_by_recurrence(rotation @ d, turned[n, :, channel].astype(float))
                assert after == pytest.approx(before, abs=2e-6)


def test_a_turn_by_90_degrees_about_z_by_hand():
    sh = np.zeros((1, 4, 3), np.float32)
    sh[0, 3] = 1.0  # −x: brighter from the side where d points to −x
    quarter = turn_harmonics(sh, [[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert np.allclose(quarter[0, :, 0], [0, 1, 0, 0], atol=1e-6)  # now −y


def test_moved_cameras_see_the_same_image():
    splats = random_splats(300, sh_degree=3, seed=4)
    similarity = Similarity(2.5, TURN, np.array([3.0, -2.0, 7.0]))
    c2w = np.stack([look_at([4.0, 0.5, 1.0], [0, 0, 0]), look_at([-2.0, 3.0, -2.5], [0, 0, 0])])
    k = np.broadcast_to([[40.0, 0, 24], [0, 40.0, 16], [0, 0, 1]], (2, 3, 3))
    ids = np.zeros(2, int)
    before = SplatRenderer([splats], 48, 32).render(c2w, k, ids)
    moved = move_splats(splats, similarity)
    after = SplatRenderer([moved], 48, 32).render(similarity.apply_c2w(c2w), k, ids)
    assert np.abs(before.rgb.astype(int) - after.rgb).max() <= 1
    assert np.abs(2.5 * before.depth - after.depth).max() < 0.02  # of some 10 m; faint splats come and go
    # the transpose would show: the same with the inverse rotation does not match
    wrong = move_splats(splats, Similarity(2.5, TURN.T, similarity.translation))
    other = SplatRenderer([wrong], 48, 32).render(similarity.apply_c2w(c2w), k, ids)
    assert np.abs(before.rgb.astype(int) - other.rgb).max() > 50


def test_covariances_turn_on_both_sides():
    splats = random_splats(20, seed=5)
    moved = move_splats(splats, Similarity(0.5, TURN, np.zeros(3)))
    for quat, scale, new_quat, new_scale in zip(
        splats.quats_wxyz, splats.scales, moved.quats_wxyz, moved.scales
    ):
        axes, new_axes = matrix_from_quat_wxyz(quat), matrix_from_quat_wxyz(new_quat)
        expected = 0.25 * TURN @ (axes * scale.astype(float) ** 2) @ axes.T @ TURN.T
        assert np.allclose((new_axes * new_scale.astype(float) ** 2) @ new_axes.T, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("matrix", "word"),
    [
        (np.diag([1.0, 1.0, -1.0]), "a reflection"),
        (2 * np.eye(3), "orthonormal"),
        (np.eye(4), "shape"),
        ("north", "no table"),
        (np.full((3, 3), np.nan), "not finite"),
    ],
)
def test_what_is_no_rotation_is_refused(matrix, word):
    with pytest.raises(InputError, match=word):
        proper_rotation(matrix, "file.json: transform")
