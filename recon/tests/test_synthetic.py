import hashlib

import numpy as np
import pytest
from gaussgym_recon.exif import read_photo
from gaussgym_recon.georegister import enu_from_gps
from gaussgym_recon.synthetic import (
    SKY_RGB,
    MeshCaster,
    SynthesizeCfg,
    noisy_gps,
    read_truth,
    synthesize_capture,
    true_camera,
    truth_path,
    walk,
)
from gaussgym_recon.testing import board, look_down
from gaussgym_recon.truth import TrueGround, lines_over, on_paths, step_edges
from gaussgym_recon.walks import camera_rotation
from gaussgym_scene.cameras import Intrinsics, distort
from gaussgym_scene.capture import Capture
from gaussgym_scene.errors import InputError
from gaussgym_scene.synth import synthesize

SMALL = SynthesizeCfg(images=8, turn_images=2, width=64, height=48)


def test_colours_stand_where_they_project():
    camera = Intrinsics(width=100, height=80, fx=60, fy=60, cx=50, cy=40)
    image = MeshCaster(board(), camera).render(look_down(2.0))
    # 60 px * 1 m / 2 m: the square spans 20..80 and 10..70; its top left quarter (-x, +y) is red.
    assert image.shape == (80, 100, 3)
    for (row, column), color in {(20, 30): (255, 0, 0), (20, 70): (0, 255, 0), (60, 30): (0, 0, 255)}.items():
        np.testing.assert_allclose(image[row, column], color, atol=1)
    np.testing.assert_allclose(image[60, 70], 255, atol=1)
    for row, column in ((5, 50), (75, 50), (40, 15), (40, 85)):
        np.testing.assert_allclose(image[row, column], SKY_RGB, atol=1e-3)
    covered = np.abs(image - SKY_RGB).max(axis=2) > 3
    assert covered.sum() == 60 * 60


def test_turned_camera_turns_the_picture():
    camera = Intrinsics(width=90, height=90, fx=60, fy=60, cx=45, cy=45)
    caster = MeshCaster(board(), camera)
    turned = caster.render(look_down(2.0, turn_rad=np.pi / 2))
    np.testing.assert_allclose(turned, np.rot90(caster.render(look_down(2.0)), k=-1), atol=2.0)


def test_lens_distortion_moves_the_corner_as_opencv_says():
    distortion = (-0.1, 0.0, 0.0, 0.0)
    camera = Intrinsics(width=200, height=200, fx=150, fy=150, cx=100, cy=100, distortion=distortion)
    image = MeshCaster(board(), camera, supersample=4).render(look_down(2.0))
    corner = 150 * distort(np.array([0.5, 0.5]), distortion) + 100
    assert corner[0] == pytest.approx(100 + 0.95 * 75)  # r² = 0.5, so 5 % less than 75 px
    diagonal = np.array([np.abs(image[k, k] - SKY_RGB).max() > 10 for k in range(100, 200)])
    assert 100 + diagonal.sum() == pytest.approx(corner[0], abs=1.0)


def test_far_textures_are_averaged():
    camera = Intrinsics(width=9, height=9, fx=9, fy=9, cx=4.5, cy=4.5)
    image = MeshCaster(board(), camera).render(look_down(9.0))
    assert np.ptp(image[4, 4]) < 90
    assert image[4, 4].mean() == pytest.approx(127, abs=25)


def test_camera_rotation_by_hand():
    level = camera_rotation(np.array(0.0), np.array(0.0), np.array(0.0))
    np.testing.assert_allclose(level @ [0, 0, 1], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(level @ [1, 0, 0], [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(level @ [0, 1, 0], [0, 0, -1], atol=1e-12)
    rotation = camera_rotation(np.array(0.4), np.array(-0.3), np.array(0.2))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(
        rotation[:, 2], [np.cos(0.3) * np.cos(0.4), np.cos(0.3) * np.sin(0.4), -np.sin(0.3)], atol=1e-12
    )
    assert rotation[2, 0] < 0  # a positive roll lowers the right side


def test_walk_is_at_the_height_of_a_hand_and_goes_there_and_back():
    cfg = SynthesizeCfg(images=40, turn_images=6)
    c2w = walk(board(), cfg, np.random.default_rng(0))
    assert c2w[:, 2, 3].mean() == pytest.approx(1.5, abs=0.03)
    assert (c2w[:15, 2, 2] < 0.1).all()
    assert c2w[3, 0, 2] > 0.7
    assert c2w[-3, 0, 2] < -0.7
    assert np.abs(c2w[:, 0, 3]).max() < 1.0


def test_whoever_walks_over_stairs_photographs_every_step_from_below():
    scene = synthesize("stairs", 0)
    cfg = SynthesizeCfg(images=100, turn_images=14)
    c2w = walk(scene, cfg, np.random.default_rng(0))
    ground = TrueGround(scene.mesh, scene.heightfield)
    edges = step_edges(ground, scene.heightfield, lines_over(scene.paths))
    seen = ground.visible(edges.sides_w.reshape(-1, 3), c2w, [true_camera(cfg)] * len(c2w)).reshape(-1, 2)
    assert len(edges.sides_w) > 300
    # A third of them on a walk that turns before the feet are in the picture; one of sixteen may be seen once only.
    assert (seen.min(axis=1) < 2).mean() < 0.07
    ends = scene.paths.points[:, 0].min(), scene.paths.points[:, 0].max()
    assert c2w[:, 0, 3].min() - ends[0] < 0.3
    assert ends[1] - c2w[:, 0, 3].max() < 0.3
    assert c2w[-1, 0, 2] > 0.6  # turned round at the near end too


def test_whoever_walks_a_loop_photographs_the_ground_inside_its_corners():
    scene = synthesize("room", 0)
    cfg = SynthesizeCfg(images=84, turn_images=12)
    c2w = walk(scene, cfg, np.random.default_rng([0, 20251]))
    ground = TrueGround(scene.mesh, scene.heightfield)
    xy = scene.heightfield.grid_xy().reshape(-1, 2)
    xy = xy[on_paths(scene.paths, xy)][::4]
    seen = ground.visible(np.column_stack([xy, ground.height(xy)]), c2w, [true_camera(cfg)] * len(c2w))
    # An eighth on a walk that looks straight ahead.
    assert (seen < 2).mean() < 0.04


def test_gps_noise_is_shared_by_neighbours():
    cfg = SynthesizeCfg(gps_std_m=2.0)
    errors = noisy_gps(np.zeros((4000, 3)), cfg, np.random.default_rng(0))
    np.testing.assert_allclose(errors.std(axis=0), [2, 2, 6], rtol=0.15)
    assert np.corrcoef(errors[:-1, 0], errors[1:, 0])[0, 1] == pytest.approx(0.8 * np.exp(-1 / 8), abs=0.06)


def hashes(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "images").iterdir())
    }


def test_capture_and_truth(tmp_path):
    output = synthesize_capture(board(), tmp_path / "capture", seed=4, cfg=SMALL)
    capture, truth = Capture.load(output), read_truth(output)
    assert [image.file for image in capture.images] == truth.names
    assert all(image.c2w is None for image in capture.images)
    assert not list(output.rglob("*truth*"))
    assert truth_path(output) == tmp_path / "capture.truth" / "truth.npz"
    assert truth.intrinsics.fx / capture.images[0].intrinsics.fx == pytest.approx(1.002)
    assert truth.intrinsics.distortion[0] == -0.03
    assert capture.images[0].intrinsics.distortion == (0, 0, 0, 0)
    photo = read_photo(output / capture.images[2].file)
    assert photo.gps_lat_lon_alt == pytest.approx(capture.images[2].gps_lat_lon_alt, abs=2e-8)
    assert photo.focal_px == pytest.approx(capture.images[2].intrinsics.fx, rel=1e-9)
    fix = enu_from_gps(capture.images[2].gps_lat_lon_alt, SMALL.origin_lat_lon_alt)
    assert 0.01 < np.linalg.norm(fix[:2] - truth.c2w[2, :2, 3]) < 8.0


def test_same_seed_same_images_other_seed_others(tmp_path):
    first, again, other = (
        synthesize_capture(board(), tmp_path / name, seed=seed, cfg=SMALL)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert hashes(first) == hashes(again)
    assert not set(hashes(first).values()) & set(hashes(other).values())


def test_scene_without_textures_is_refused(tmp_path):
    scene = board()
    scene.appearance = None
    with pytest.raises(InputError, match="no textured mesh"):
        synthesize_capture(scene, tmp_path / "capture")
    assert not list(tmp_path.iterdir())


def test_a_rolling_shutter_gives_each_row_its_own_pose():
    caster = MeshCaster(board(), Intrinsics(width=40, height=30, fx=25, fy=25, cx=20, cy=15))
    first, last = look_down(2.0), look_down(2.0, turn_rad=0.3)
    rows = np.concatenate([np.tile(first, (15, 1, 1)), np.tile(last, (15, 1, 1))])
    rolled = caster.render(rows)
    np.testing.assert_allclose(rolled[:15], caster.render(first)[:15], atol=1e-3)
    np.testing.assert_allclose(rolled[15:], caster.render(last)[15:], atol=1e-3)
