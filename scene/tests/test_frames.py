import numpy as np
import pytest
from gaussgym_scene.frames import (
    inverse_rigid,
    look_at,
    matrix_from_quat_wxyz,
    multiply_quats_wxyz,
    quat_wxyz_from_matrix,
    rigid,
    rotation_between,
    transform_points,
)


def test_quarter_turn_about_z_by_hand():
    half = np.sqrt(0.5)
    expected = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]  # +X goes to +Y
    np.testing.assert_allclose(matrix_from_quat_wxyz([half, 0, 0, half]), expected, atol=1e-15)


def test_product_by_hand():
    # i ⊗ j = k, and j ⊗ i = −k: a transposed convention would swap them.
    np.testing.assert_allclose(multiply_quats_wxyz([0, 1, 0, 0], [0, 0, 1, 0]), [0, 0, 0, 1])
    np.testing.assert_allclose(multiply_quats_wxyz([0, 0, 1, 0], [0, 1, 0, 0]), [0, 0, 0, -1])


def test_quaternions_and_matrices_agree_for_any_rotation():
    rng = np.random.default_rng(1)
    quats = rng.normal(size=(200, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    quats[:4] = np.eye(4)  # the four pivots, half turns among them
    back = quat_wxyz_from_matrix(matrix_from_quat_wxyz(quats))
    sign = np.where(np.sum(back * quats, axis=1, keepdims=True) < 0, -1, 1)
    np.testing.assert_allclose(back * sign, quats, atol=1e-12)


def test_product_is_composition():
    a, b = np.random.default_rng(2).normal(size=(2, 30, 4))
    product = matrix_from_quat_wxyz(multiply_quats_wxyz(a, b))
    np.testing.assert_allclose(product, matrix_from_quat_wxyz(a) @ matrix_from_quat_wxyz(b), atol=1e-12)


def test_inverse_rigid_undoes_a_general_transform():
    t_a_b = rigid(matrix_from_quat_wxyz([0.5, -0.1, 0.7, 0.3]), [1.0, -2.0, 3.0])
    points = np.random.default_rng(3).normal(size=(10, 3))
    np.testing.assert_allclose(
        transform_points(inverse_rigid(t_a_b), transform_points(t_a_b, points)), points, atol=1e-12
    )


def test_look_at_is_opencv():
    c2w = look_at([1.0, 0.0, 1.5], [5.0, 0.0, 1.5])
    np.testing.assert_allclose(c2w[:3, 2], [1, 0, 0], atol=1e-15)  # forward
    np.testing.assert_allclose(c2w[:3, 1], [0, 0, -1], atol=1e-15)  # image down
    np.testing.assert_allclose(c2w[:3, 0], [0, -1, 0], atol=1e-15)  # image right
    assert np.linalg.det(c2w[:3, :3]) == pytest.approx(1.0)


@pytest.mark.parametrize("b", [[0.3, -0.2, 0.9], [-1.0, 2.0, -3.0]])
def test_rotation_between_is_a_rotation_onto_the_target(b):
    a = np.array([1.0, -2.0, 3.0])
    r = rotation_between(a, b)
    np.testing.assert_allclose(r @ a / np.linalg.norm(a), np.array(b) / np.linalg.norm(b), atol=1e-12)
    np.testing.assert_allclose(r @ r.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(r) == pytest.approx(1.0)
