"""Synthetic sensors: what they say of known scenes, and how wrong they are by their own statement."""

import numpy as np
import pytest
from gaussgym_recon.meshcast import MeshCaster
from gaussgym_recon.sensors import DepthSensorCfg, OdometryCfg, depth_noise_std_m, odometry_poses, sense_depth
from gaussgym_recon.synthetic import SynthesizeCfg, read_truth, synthesize_capture
from gaussgym_recon.synthetic_video import SHARP, FilmCfg, Trajectory, synthesize_video
from gaussgym_recon.testing import board, look_down
from gaussgym_recon.views import read_grey, read_rgb
from gaussgym_recon.walks import camera_rotation, walk
from gaussgym_scene.cameras import Intrinsics, pixel_rays_c
from gaussgym_scene.capture import Capture
from gaussgym_scene.synth import synthesize

CAMERA = Intrinsics(width=96, height=72, fx=80, fy=80, cx=48, cy=36)
QUIET = OdometryCfg(scale_error_fraction=0, tilt_rad=0, drift_m=0, drift_rad=0, jitter_m=0, jitter_rad=0)


def line(n=40):
    c2w = np.tile(np.eye(4), (n, 1, 1))
    c2w[:, :3, :3] = camera_rotation(np.linspace(0, 2, n), np.full(n, -0.2), np.zeros(n))
    c2w[:, 0, 3], c2w[:, 2, 3] = np.linspace(3, 13, n), 1.5
    return c2w


def test_depth_of_a_board_is_right_up_to_the_stated_noise():
    cfg = DepthSensorCfg(width=96, height=72)
    errors, edges = [], []
    for index in range(8):
        depth, confidence = sense_depth(
            MeshCaster(board(), CAMERA), look_down(2.0), cfg, np.random.default_rng(index)
        )
        inside = np.zeros((72, 96), bool)
        inside[4:68, 12:84] = True  # the board spans 8..88 and all rows but those beside 36 +- 40
        assert (confidence[inside] == 2).all()
        errors.append(depth[inside] - 2.0)
        edges.append(confidence[36, 8:10])
        assert (depth[:, :6] == 0).all()  # beside the board there is nothing
    std = float(depth_noise_std_m(np.array(2.0), cfg))
    assert std == pytest.approx(0.0012 + 0.0019 * 1.6**2)
    assert np.concatenate(errors).std() == pytest.approx(std, rel=0.05)
    assert abs(np.concatenate(errors).mean()) < 0.1 * std
    assert np.min(edges) == 0


def test_nothing_lies_beyond_the_range():
    depth, confidence = sense_depth(
        MeshCaster(board(), CAMERA), look_down(3.0), DepthSensorCfg(range_m=2.5), np.random.default_rng(0)
    )
    assert not depth.any()
    assert not confidence.any()


def test_odometry_without_errors_is_the_truth_in_a_frame_with_y_up():
    truth = line()
    found = odometry_poses(truth, QUIET, np.random.default_rng(3))
    np.testing.assert_allclose(found[0, :3, 3], 0, atol=1e-12)
    to_frame = found[0, :3, :3] @ truth[0, :3, :3].T
    np.testing.assert_allclose(to_frame @ [0, 0, 1], [0, 1, 0], atol=1e-12)
    assert np.linalg.det(to_frame) == pytest.approx(1)
    np.testing.assert_allclose(found[:, :3, :3], to_frame @ truth[:, :3, :3], atol=1e-12)
    np.testing.assert_allclose(found[:, :3, 3], (truth[:, :3, 3] - truth[0, :3, 3]) @ to_frame.T, atol=1e-12)


def test_odometry_errs_as_stated():
    truth = line()
    cfg = OdometryCfg()
    ends, tilts = [], []
    for seed in range(200):
        found = odometry_poses(truth, cfg, np.random.default_rng(seed))
        way = np.linalg.norm(found[-1, :3, 3] - found[0, :3, 3])
        ends.append(way / 10.0 - 1)
        up = found[0, :3, :3] @ truth[0, :3, :3].T @ [0, 0, 1]
        tilts.append(np.degrees(np.arccos(up[1])))
    # Over 10 m: 2 mm times the root of 10 along the way, and a millimetre of jitter at each end.
    assert np.mean(ends) == pytest.approx(cfg.scale_error_fraction, abs=3e-4)
    assert np.std(ends) == pytest.approx(np.hypot(0.002 * np.sqrt(10), 0.001 * np.sqrt(2)) / 10, rel=0.2)
    assert np.mean(tilts) == pytest.approx(0.2, abs=0.03)


def test_a_capture_with_depth_and_poses(tmp_path):
    small = SynthesizeCfg(
        images=8, turn_images=2, width=64, height=48, gps=False, depth=DepthSensorCfg(width=32, height=24),
        odometry=QUIET,
    )  # fmt: skip
    output = synthesize_capture(board(), tmp_path / "capture", cfg=small)
    capture, truth = Capture.load(output), read_truth(output)
    assert capture.posed
    known = {
        key: capture.metadata[key]
        for key in ("metric", "scale_source", "gravity_source", "up", "poses_source")
    }
    assert known == {
        "metric": True, "scale_source": "sensor", "gravity_source": "sensor", "up": [0.0, 1.0, 0.0], "poses_source": "slam",
    }  # fmt: skip
    assert capture.images[0].intrinsics == truth.intrinsics
    assert capture.images[0].gps_lat_lon_alt is None
    # Points of the depth images, moved by source poses and back to the true world, lie on the board: z = 0.
    frame = truth.c2w[0] @ np.linalg.inv(capture.images[0].c2w)
    for image in capture.images:
        depth = read_grey(output / image.depth) / 1000.0
        sure = read_grey(output / image.confidence) == 2

        rays = pixel_rays_c(image.intrinsics.resized(32, 24))
        points = (rays * depth[..., None])[sure] @ (frame @ image.c2w)[:3, :3].T + (frame @ image.c2w)[:3, 3]
        assert np.abs(points[:, 2]).max(initial=0) < 0.1


def test_a_film_is_blurred_where_its_truth_is_sharp(tmp_path):
    photos = SynthesizeCfg(
        images=10, turn_images=2, width=96, height=72, yaw_rad=0.1, noise_std=0.5, exposure_std=0.0
    )
    cfg = FilmCfg(photos=photos, exposure_s=0.1, shots=4)
    output = synthesize_video(synthesize("room"), tmp_path / "capture", cfg=cfg)
    capture, truth = Capture.load(output), read_truth(output)
    assert len(capture.images) == 10
    assert capture.metadata["source"] == "video"
    assert [image.file for image in capture.images] == truth.names
    folder = tmp_path / "capture.truth"
    assert (folder / "film.mp4").stat().st_size > 1000
    sharp = np.stack([read_rgb(folder / SHARP / f"{i + 1:04d}.png") for i in range(10)]).astype(float)
    film = np.stack([read_rgb(capture.path(i)) for i in range(10)]).astype(float)
    own = np.abs(film - sharp).mean(axis=(1, 2, 3))
    other = np.abs(film - np.roll(sharp, 1, axis=0)).mean(axis=(1, 2, 3))
    assert (own < other).all()  # each frame is of its own place
    detail = [np.abs(np.diff(images, axis=2)).mean() for images in (film, sharp)]
    assert detail[0] < 0.95 * detail[1]


def test_a_trajectory_passes_through_the_walk_but_for_the_shake():
    nodes = line()
    still = Trajectory(nodes, 10.0, FilmCfg(shake_rad=0.0), np.random.default_rng(0))
    np.testing.assert_allclose(still.at(np.linspace(0, 10, 40)), nodes, atol=1e-9)
    shaken = Trajectory(nodes, 10.0, FilmCfg(shake_rad=0.01), np.random.default_rng(0))
    times = np.linspace(0, 10, 4000)
    relative = still.at(times)[:, :3, :3].transpose(0, 2, 1) @ shaken.at(times)[:, :3, :3]
    angle = np.arccos(np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert np.sqrt((angle**2).mean()) == pytest.approx(0.01 * np.sqrt(3), rel=0.15)


@pytest.mark.parametrize("kind", ["street", "stairs", "rubble", "room"])
def test_walks_stay_clear_of_what_stands_around(kind):
    o3d = pytest.importorskip("open3d")
    scene = synthesize(kind)
    for seed in range(3):
        c2w = walk(scene, SynthesizeCfg(images=84), np.random.default_rng([seed, 20251]))
        caster = o3d.t.geometry.RaycastingScene()
        caster.add_triangles(
            o3d.core.Tensor(scene.mesh.vertices), o3d.core.Tensor(scene.mesh.faces.astype(np.uint32))
        )
        clear = caster.compute_distance(o3d.core.Tensor(c2w[:, :3, 3].astype(np.float32))).numpy()
        assert clear.min() > 0.4
        height = c2w[:, 2, 3] - scene.heightfield.sample(c2w[:, :2, 3])
        assert abs(height.mean() - 1.5) < 0.05
        assert np.abs(height - 1.5).max() < 0.3
        assert np.linalg.norm(np.diff(c2w[:, :3, 3], axis=0), axis=1).max() < 1.3
