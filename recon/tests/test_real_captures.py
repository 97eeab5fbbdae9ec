"""Real captures, which lie beside the checkout where they may be used: `pytest -m real recon/tests`. Nothing is tuned to them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gaussgym_recon.georegister import umeyama
from gaussgym_recon.poses import PoseCfg, pose
from gaussgym_recon.sfm import SfmCfg
from gaussgym_recon.sources.images import import_images
from gaussgym_scene.capture import Capture
from PIL import Image

CAPTURES = Path(__file__).resolve().parents[3] / "shared" / "captures"

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(7200)]


def real_capture(name, folder, part=""):
    source = CAPTURES / name / part
    if not source.is_dir():
        pytest.skip(f"real capture {name} is not beside the checkout ({source})")
    return Capture.load(import_images(source, folder / name))


@pytest.fixture(scope="module")
def lund(tmp_path_factory):
    """The street of Lund and a folder for its features and maps."""
    folder = tmp_path_factory.mktemp("lund")
    return real_capture("lund", folder), folder / "work"


def test_lund_is_one_consistent_street(lund):
    capture, workdir = lund
    posed = pose(capture, workdir)
    assert len(posed.names) == len(capture.images) == 29
    assert posed.scale_source == "gps"
    assert posed.gps_residual_median_m <= 5.0
    assert posed.gps_residual_max_m <= 15.0
    assert posed.max_step_m <= 20.0
    gps = posed.gps_xy_m
    assert gps is not None
    # Sim(3) to GPS once more, from the poses that were handed over and with their own altitude.
    fixes = np.c_[gps, np.zeros(29)]
    level = posed.c2w[:, :3, 3] * [1, 1, 0]
    scales = [umeyama(level[part], fixes[part]).scale for part in (slice(0, 14), slice(15, 29))]
    assert scales[0] / scales[1] == pytest.approx(1.0, abs=0.1)
    residuals = np.linalg.norm((umeyama(level, fixes).apply(level) - fixes)[:, :2], axis=1)
    assert np.median(residuals) <= 5.0
    assert residuals.max() <= 15.0
    # The photographs state the phone's accelerometer, which nothing here reads: gravity from another source.
    down = []
    for name, c2w in zip(posed.names, posed.c2w):
        described = json.loads(Image.open(capture.directory / name).getexif()[270])["MAPAccelerometerVector"]
        down.append(c2w[:3, :3] @ [described["y"], described["x"], -described["z"]])
    measured = np.median(down, axis=0)
    assert np.degrees(np.arccos(-measured[2] / np.linalg.norm(measured))) < 3.0
    assert 1.0 < posed.camera_height_m < 2.2
    assert posed.gps_outliers == []


@pytest.mark.parametrize("seed", range(10))
def test_lund_is_consistent_with_every_seed(lund, seed):
    capture, workdir = lund
    posed = pose(capture, workdir, PoseCfg(sfm=SfmCfg(seed=seed)))
    assert len(posed.names) == 29
    assert posed.gps_residual_median_m <= 5.0
    assert posed.gps_residual_max_m <= 15.0
    assert posed.max_step_m <= 20.0
    assert posed.quality["half_scale_ratio"] == pytest.approx(1.0, abs=0.1)


def test_six_falsified_fixes_of_lund_are_named_and_move_nothing(lund):
    """60 to 300 m are four times and more what the receiver's worst fix is off, so that each of the six must be found.

    What the rest may move by: scale rests on 23 fixes in place of 29, which may change it by its standard deviation at most.
    """
    capture, workdir = lund
    before = pose(capture, workdir)
    rng = np.random.default_rng(0)
    wrong = np.sort(rng.choice(len(capture.images), 6, replace=False))
    angle, far = rng.uniform(0, 2 * np.pi, 6), rng.uniform(60, 300, 6)
    images = list(capture.images)
    for index, a, metres in zip(wrong, angle, far):
        lat, lon, alt = images[index].gps_lat_lon_alt
        north, east = metres * np.sin(a) / 111.2e3, metres * np.cos(a) / 111.2e3 / np.cos(np.radians(lat))
        images[index] = replace(images[index], gps_lat_lon_alt=(lat + north, lon + east, alt))
    falsified = Capture(capture.directory, images, capture.metadata)
    after = pose(falsified, workdir)
    assert after.gps_outliers == [capture.images[i].file for i in wrong]
    assert len(after.names) == 29
    change = after.world_from_capture.scale / before.world_from_capture.scale - 1.0
    assert abs(change) < before.scale_std_fraction
    # Gravity, ground, heading and the map itself are not touched by GPS here: all else stays to rounding.
    np.testing.assert_allclose(after.c2w[:, :3, 3], before.c2w[:, :3, 3] * (1.0 + change), atol=1e-6)
    assert after.gps_residual_max_m <= 15.0


def test_caliterra_comes_out_gravity_right_from_the_air(tmp_path):
    capture = real_capture("caliterra", tmp_path)
    posed = pose(capture, tmp_path / "work")
    assert len(posed.names) >= 74
    assert posed.scale_source == "gps"
    assert "gps" in posed.gravity_source or "nadir" in posed.gravity_source
    assert np.degrees(posed.gravity_std_rad) < 5.0
    # The drone's camera hangs plumb to a few degrees, which has a small part in the result at most.
    mean_view = posed.c2w[:, :3, 2].mean(axis=0)
    assert np.degrees(np.arccos(-mean_view[2] / np.linalg.norm(mean_view))) < 8.0
    assert 20.0 < posed.camera_height_m < 200.0
    # GPS is off by 10 m here and lags behind; another map of the same photographs, with a free lens, says which of the two is right.
    import pycolmap

    other = pycolmap.Reconstruction(str(CAPTURES / "caliterra" / "sparse_640"))
    place = {image.name.lower(): image.projection_center() for image in other.images.values()}
    mine = [k for k, name in enumerate(posed.names) if Path(name).name.lower() in place]
    theirs = np.array([place[Path(posed.names[k]).name.lower()] for k in mine])
    off = umeyama(posed.c2w[mine, :3, 3], theirs).apply(posed.c2w[mine, :3, 3]) - theirs
    assert np.linalg.norm(off) < 0.03 * np.linalg.norm(theirs - theirs.mean(axis=0))


def test_office_loop_is_one_loop(tmp_path):
    capture = real_capture("office_loop", tmp_path)
    posed = pose(capture, tmp_path / "work", PoseCfg(camera_height_m=1.5))
    assert len(posed.names) >= 190
    assert posed.reprojection_error_px < 1.0


def test_robot_floor_seen_from_knee_height(tmp_path):
    capture = real_capture("robot_floor", tmp_path, "rgb")
    posed = pose(capture, tmp_path / "work", PoseCfg(camera_height_m=0.4))
    assert len(posed.names) >= 47
    assert posed.reprojection_error_px < 1.5
