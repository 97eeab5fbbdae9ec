import numpy as np
import torch
from gaussgym_scene.frames import matrix_from_quat_wxyz
from gaussgym_sim import frames

QUAT = torch.nn.functional.normalize(
    torch.tensor([[0.7, 0.2, -0.5, 0.35], [0.1, -0.8, 0.3, 0.2], [1.0, 0, 0, 0]]), dim=1
)


def test_rotations_agree_with_the_scene_packages():
    vector = torch.tensor([[0.3, -1.2, 2.0]]).repeat(3, 1)
    matrices = matrix_from_quat_wxyz(QUAT.numpy())
    np.testing.assert_allclose(frames.matrix_from_quat(QUAT).numpy(), matrices, atol=1e-6)
    np.testing.assert_allclose(
        frames.rotate(QUAT, vector).numpy(), np.einsum("eij,ej->ei", matrices, vector.numpy()), atol=1e-5
    )
    np.testing.assert_allclose(
        frames.rotate_inverse(QUAT, vector).numpy(),
        np.einsum("eji,ej->ei", matrices, vector.numpy()),
        atol=1e-5,
    )
    down = np.tile([0.0, 0.0, -1.0], (3, 1))
    np.testing.assert_allclose(
        frames.gravity_in_base(QUAT).numpy(), np.einsum("eji,ej->ei", matrices, down), atol=1e-6
    )


def test_yaw():
    yaw = torch.tensor([-3.0, -1.0, 0.0, 0.7, 3.1])
    assert torch.allclose(frames.yaw_of(frames.quat_from_yaw(yaw)), yaw, atol=1e-6)
    # Pitching up by 30 degrees after turning keeps the heading.
    pitch = torch.tensor([0.9659, 0.0, -0.2588, 0.0])
    x = frames.rotate(
        frames.quat_from_yaw(yaw), frames.rotate(pitch.expand(5, 4), torch.tensor([[1.0, 0, 0]]).expand(5, 3))
    )
    assert torch.allclose(torch.atan2(x[:, 1], x[:, 0]), yaw, atol=1e-5)


def test_wrap_angle():
    assert torch.allclose(
        frames.wrap_angle(torch.tensor([0.0, 4.0, -4.0, 7.0])),
        torch.tensor([0.0, 4 - 2 * np.pi, 2 * np.pi - 4, 7 - 2 * np.pi]),
        atol=1e-6,
    )


def test_rotation_vectors():
    r = frames.matrix_from_rotation_vector(torch.tensor([[0.0, 0.0, np.pi / 2], [0.0, 0.0, 0.0]]))
    assert torch.allclose(r[0] @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]), atol=1e-6)
    assert torch.allclose(r[1], torch.eye(3))


def test_base_frame_is_the_functions_it_stands_for():
    g = torch.Generator().manual_seed(1)
    quat = torch.nn.functional.normalize(torch.randn(200, 4, generator=g), dim=1)
    vector = torch.randn(200, 3, generator=g)
    yaw, gravity, vector_b = frames.BaseFrame(torch.device("cpu"))(quat, vector)
    torch.testing.assert_close(
        frames.wrap_angle(yaw - frames.yaw_of(quat)), torch.zeros(200), atol=2e-5, rtol=0
    )
    torch.testing.assert_close(gravity, frames.gravity_in_base(quat), atol=1e-6, rtol=0)
    torch.testing.assert_close(vector_b, frames.rotate_inverse(quat, vector), atol=2e-6, rtol=0)


def test_base_frame_kernel_equals_the_tensor_code():
    quat, vector = torch.nn.functional.normalize(torch.randn(50, 4), dim=1), torch.randn(50, 3)
    frame = frames.BaseFrame(torch.device("cpu"))
    for found, twin in zip(frame(quat, vector), frame._by_tensors(quat, vector), strict=True):
        assert torch.allclose(found, twin, atol=1e-5)
