import numpy as np
import pytest
from gaussgym_recon.plumb import PlumbCfg, block_normals, up_from_surfaces
from gaussgym_recon.walks import camera_rotation
from gaussgym_scene.cameras import Intrinsics, pixel_rays_c
from scipy.spatial.transform import Rotation

LENS = Intrinsics(
    width=320, height=240, fx=250.0, fy=252.0, cx=158.0, cy=122.0, distortion=(-0.03, 0.01, 0.001, -0.001)
)
ROOM = np.array([[-3.0, -2.0, 0.0], [3.0, 2.5, 2.6]])


def depth_of_the_room(c2w, width=128, height=96):
    """Depth along +Z [m] from inside a box of three pairs of planes."""
    rays = pixel_rays_c(LENS.resized(width, height)) @ c2w[:3, :3].T
    with np.errstate(divide="ignore"):
        far = np.where(rays > 0, (ROOM[1] - c2w[:3, 3]) / rays, (ROOM[0] - c2w[:3, 3]) / rays)
    return far.min(axis=-1)


def cameras(rng, count):
    c2w = np.tile(np.eye(4), (count, 1, 1))
    yaw = rng.uniform(-np.pi, np.pi, count)
    c2w[:, :3, :3] = camera_rotation(yaw, rng.normal(-0.3, 0.15, count), rng.normal(0, 0.05, count))
    c2w[:, :3, 3] = rng.uniform([-2, -1, 1.3], [2, 1.5, 1.7], (count, 3))
    return c2w


def normals_of_the_room(rng, count=8, noise=0.004, turn=None):
    c2w = cameras(rng, count)
    parts = []
    for pose in c2w:
        depth = depth_of_the_room(pose)
        depth = depth * (1 + noise * rng.normal(size=depth.shape))
        rotation = pose[:3, :3] if turn is None else turn @ pose[:3, :3]
        parts.append(block_normals(depth.astype(np.float32), LENS) @ rotation.T)
    return np.concatenate(parts)


def degrees_between(a, b):
    return np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


def test_blocks_of_a_slanted_plane_have_its_normal_through_a_distorted_lens():
    normal = np.array([0.3, -0.5, -0.8]) / np.linalg.norm([0.3, -0.5, -0.8])
    rays = pixel_rays_c(LENS.resized(128, 96))
    depth = -1.7 / (rays @ normal)
    depth[depth < 0] = 0
    depth[40:44] = 0  # blocks with a hole are left out, not fitted to what is left
    found = block_normals(depth.astype(np.float32), LENS)
    side = round(PlumbCfg().block_px / 2)
    assert len(found) == (128 // side) * (96 // side) - 2 * (128 // side)
    np.testing.assert_allclose(found, np.tile(normal, (len(found), 1)), atol=1e-4)


def test_blocks_across_an_edge_are_not_flat():
    depth = np.full((96, 128), 2.0, np.float32)
    depth[:, 45:] = 3.0
    side = round(PlumbCfg().block_px / 2)
    assert len(block_normals(depth, LENS)) == (96 // side) * (128 // side - 1)


@pytest.mark.parametrize("seed", range(6))
def test_a_room_tells_up_whatever_its_frame_and_however_cameras_are_held(seed):
    rng = np.random.default_rng([seed, 3])
    turn = Rotation.random(random_state=seed).as_matrix()
    normals = normals_of_the_room(rng, turn=turn)
    lean = Rotation.from_rotvec(np.radians(12) * np.array([np.cos(seed), np.sin(seed), 0])).as_matrix()
    found = up_from_surfaces(normals, turn @ lean @ [0, 0, 1.0])
    assert found is not None
    error = degrees_between(found.up, turn[:, 2])
    assert error < 0.2
    # The deviation is that of buildings, a third of a degree along either tilt, and the noise of 8 images.
    assert 0.35 * np.sqrt(2) < np.degrees(found.std_rad) < 0.7


def test_walls_alone_tell_up_where_they_stand_across_each_other():
    rng = np.random.default_rng(0)
    normals = normals_of_the_room(rng)
    walls = normals[np.abs(normals[:, 2]) < 0.5]
    found = up_from_surfaces(walls, np.array([0.1, 0.15, 1.0]))
    assert degrees_between(found.up, np.array([0, 0, 1.0])) < 0.2
    one = walls[np.abs(walls[:, 0]) > 0.9]
    assert up_from_surfaces(one, np.array([0.1, 0.15, 1.0])) is None  # free to turn about the wall's normal


def test_heaps_and_single_slopes_between_them_say_nothing():
    rng = np.random.default_rng(1)
    heap = rng.normal(size=(4000, 3))
    heap /= np.linalg.norm(heap, axis=1, keepdims=True)
    heap[:, 2] = np.abs(heap[:, 2])
    assert up_from_surfaces(heap, np.array([0, 0, 1.0])) is None
    assert up_from_surfaces(normals_of_the_room(rng, count=1)[:100], np.array([0, 0, 1.0])) is None


def test_a_start_on_its_side_is_refused():
    rng = np.random.default_rng(2)
    normals = normals_of_the_room(rng)
    assert up_from_surfaces(normals, np.array([0.0, 0.6, 0.8])) is None
