import numpy as np
import pytest
from gaussgym_recon.posed import PosedCapture, Similarity
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from scipy.spatial.transform import Rotation

ROTATION = Rotation.from_euler("zyx", [0.7, -0.4, 1.9]).as_matrix()


CAMERA = Intrinsics(
    width=64, height=48, fx=50, fy=50, cx=32, cy=24, distortion=(-0.1, 0, 0, 0), focal_source="exif"
)


def make_posed(directory):
    rng = np.random.default_rng(0)
    return PosedCapture(
        capture_dir=directory,
        names=["images/1.jpg", "images/2.jpg"],
        unregistered=["images/3.jpg"],
        intrinsics=[CAMERA, CAMERA.resized(32, 24)],
        c2w=rng.normal(size=(2, 4, 4)),
        points=rng.normal(size=(5, 3)),
        colors=rng.integers(0, 255, (5, 3)).astype(np.uint8),
        errors_px=rng.random(5),
        track_lengths=np.full(5, 2, np.int32),
        visible=[np.array([0, 3], np.int32), np.array([1, 2, 4], np.int32)],
        world_from_capture=Similarity(2.5, ROTATION, np.array([1.0, 2.0, 3.0])),
        scale_source="gps",
        gravity_source="plane",
        camera_height_m=1.5,
        scale_std_fraction=0.03,
        gravity_std_rad=0.01,
        reprojection_error_px=0.5,
        registered_fraction=2 / 3,
        seeds_tried=3,
        gps_residual_median_m=1.0,
        gps_residual_max_m=2.0,
        max_step_m=0.7,
        gps_xy_m=np.array([[0.0, 1.0], [np.nan, np.nan]]),
        quality={"num_points": 5},
    )


def test_similarity_inverse_and_composition():
    first = Similarity(2.0, ROTATION, np.array([1.0, -2.0, 0.5]))
    second = Similarity(
        0.3, Rotation.from_euler("xzx", [2.0, 0.3, -1.0]).as_matrix(), np.array([0.0, 4.0, 1.0])
    )
    points = np.random.default_rng(1).normal(size=(7, 3))
    np.testing.assert_allclose(first.inverse().apply(first.apply(points)), points, atol=1e-12)
    np.testing.assert_allclose(
        second.compose(first).apply(points), second.apply(first.apply(points)), atol=1e-12
    )


def test_similarity_of_a_hand_computed_point():
    quarter_turn = Similarity(
        2.0, Rotation.from_euler("z", 90, degrees=True).as_matrix(), np.array([1.0, 0, 0])
    )
    np.testing.assert_allclose(quarter_turn.apply(np.array([3.0, 0, 1.0])), [1.0, 6.0, 2.0], atol=1e-12)


def test_moved_camera_sees_moved_points_in_the_same_direction():
    rng = np.random.default_rng(2)
    c2w = np.eye(4)[None].copy()
    c2w[0, :3, :3] = Rotation.random(random_state=3).as_matrix()
    c2w[0, :3, 3] = rng.normal(size=3)
    point = rng.normal(size=3)
    move = Similarity(3.0, ROTATION, np.array([5.0, 6.0, 7.0]))
    moved = move.apply_c2w(c2w)[0]
    before = np.linalg.inv(c2w[0]) @ [*point, 1]
    after = np.linalg.inv(moved) @ [*move.apply(point), 1]
    np.testing.assert_allclose(after[:3], 3.0 * before[:3], atol=1e-12)
    np.testing.assert_allclose(moved[:3, :3] @ moved[:3, :3].T, np.eye(3), atol=1e-12)


def test_saved_poses_read_back(tmp_path):
    posed = make_posed(tmp_path)
    posed.save(tmp_path / "posed.npz")
    back = PosedCapture.load(tmp_path / "posed.npz", tmp_path)
    assert back.names == posed.names
    assert back.unregistered == posed.unregistered
    assert back.intrinsics == posed.intrinsics
    assert back.quality == posed.quality
    for key in ("c2w", "points", "colors", "errors_px", "track_lengths", "gps_xy_m"):
        np.testing.assert_array_equal(getattr(back, key), getattr(posed, key))
    for a, b in zip(back.visible, posed.visible):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(back.world_from_capture.rotation, ROTATION)
    assert back.image_paths[1] == tmp_path / "images/2.jpg"
    assert [path.name for path in tmp_path.iterdir()] == ["posed.npz"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"no zip at all"])
def test_damaged_poses_are_refused(tmp_path, content):
    path = tmp_path / "posed.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"posed\.npz.*build again"):
        PosedCapture.load(path, tmp_path)
