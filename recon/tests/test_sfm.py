import numpy as np
import psutil
import pytest
from gaussgym_recon.exif import exif_block
from gaussgym_recon.georegister import umeyama
from gaussgym_recon.matching import reason, run_job, sequential_pairs, similar_pairs
from gaussgym_recon.posed import PosedCapture
from gaussgym_recon.poses import PoseCfg, pose
from gaussgym_recon.sfm import SfmCfg, map_job
from gaussgym_recon.sfm_model import read_model
from gaussgym_recon.sources.images import import_images
from gaussgym_recon.synthetic import SynthesizeCfg, read_truth, synthesize_capture
from gaussgym_scene.capture import Capture
from gaussgym_scene.errors import InputError, StageError
from gaussgym_scene.synth import synthesize
from PIL import Image


def test_sequential_pairs_by_hand():
    pairs = sequential_pairs(7, 2)
    assert [pair for pair in pairs if pair[0] == 0] == [(0, 1), (0, 2), (0, 4)]
    assert [pair for pair in pairs if pair[0] == 5] == [(5, 6)]
    assert len(set(pairs)) == len(pairs)


def test_sequential_pairs_reach_far_with_few():
    pairs = sequential_pairs(200, 8)
    assert max(j - i for i, j in pairs) == 128
    assert len(pairs) < 200 * 12


def textured(path, seed, *, gps=None, focal=26):
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(0, 255, (40, 50, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=95, exif=exif_block(focal_35mm=focal, gps_lat_lon_alt=gps))


def test_images_that_do_not_overlap(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(5):
        gps = (47.0 + 1e-4 * number, 8.0, 400.0)
        textured(tmp_path / "photos" / f"{number}.jpg", number, gps=gps)
    capture = Capture.load(import_images(tmp_path / "photos", tmp_path / "capture"))
    with pytest.raises(InputError, match="its 5 images do not overlap"):
        pose(capture, tmp_path / "work", PoseCfg(sfm=SfmCfg(max_attempts=1)))


def test_interrupted_work_goes_on(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(4):
        textured(tmp_path / "photos" / f"{number}.jpg", number)
    capture = Capture.load(import_images(tmp_path / "photos", tmp_path / "capture"))

    def interrupt(step, fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pose(capture, tmp_path / "work", PoseCfg(camera_height_m=1.5), progress=interrupt)
    assert not list((tmp_path / "work").glob("sfm-*/extracted.json"))
    steps = []
    with pytest.raises(InputError, match="do not overlap"):
        pose(
            capture,
            tmp_path / "work",
            PoseCfg(camera_height_m=1.5, sfm=SfmCfg(max_attempts=1, mapper="incremental")),
            progress=lambda step, fraction: steps.append(step),
        )
    assert set(steps) == {"features", "matches", "map"}


def test_neither_gps_nor_camera_height(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        textured(tmp_path / "photos" / f"{number}.jpg", number)
    capture = Capture.load(import_images(tmp_path / "photos", tmp_path / "capture"))
    with pytest.raises(InputError, match=r"no GPS.*--camera-height"):
        pose(capture, tmp_path / "work")


def test_reason_of_a_failed_job_is_one_line():
    text = "terminate called\n  what():  [database.cc:1] SQLite error: database or disk is full\n    @ 0x7f\n"
    assert "the disk is full" in reason(text, -6)
    assert reason("a\n what():  [x] bad thing\n @ 0x1\n", -6).endswith("bad thing")
    assert "\n" not in reason(text, -6)


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """A small synthetic capture of a street and where its poses are made."""
    folder = tmp_path_factory.mktemp("walk")
    scene = synthesize("street", seed=3, length_m=14.0, grade=0.015, max_splats=2000)
    cfg = SynthesizeCfg(images=28, turn_images=8, width=320, height=240, gps_std_m=0.5, yaw_rad=0.15)
    return Capture.load(synthesize_capture(scene, folder / "capture", seed=1, cfg=cfg)), folder / "work"


@pytest.mark.slow
def test_poses_of_a_synthetic_walk_against_the_truth(walk):
    capture, workdir = walk
    posed = pose(capture, workdir, PoseCfg(camera_height_m=1.5))
    truth = read_truth(capture.directory)
    there = [truth.names.index(name) for name in posed.names]
    true = truth.c2w[there]
    align = umeyama(posed.c2w[:, :3, 3], true[:, :3, 3])
    errors = np.linalg.norm(align.apply(posed.c2w[:, :3, 3]) - true[:, :3, 3], axis=1)
    assert posed.registered_fraction >= 0.9
    assert np.sqrt((errors**2).mean()) < 0.03
    assert align.scale == pytest.approx(1.0, abs=0.05)
    up = align.rotation @ [0, 0, 1]
    assert np.degrees(np.arccos(up[2])) < 1.5
    assert posed.scale_source == "camera_height"
    assert posed.quality["gps_scale_over_scale"] == pytest.approx(1.0, abs=0.2)
    np.testing.assert_allclose(posed.c2w[0, :2, 3], 0, atol=0.05)
    # Every point projects where the cameras that see it say, so that poses, points and intrinsics fit together.
    seen = posed.visible[3]
    w2c = np.linalg.inv(posed.c2w[3])
    local = posed.points[seen] @ w2c[:3, :3].T + w2c[:3, 3]
    assert (local[:, 2] > 0).all()


@pytest.mark.slow
def test_finished_poses_are_not_made_again(walk, monkeypatch):
    capture, workdir = walk
    first = pose(capture, workdir, PoseCfg(camera_height_m=1.5))
    monkeypatch.setattr("gaussgym_recon.sfm.run_job", lambda *arguments: pytest.fail("work was done again"))
    again = pose(capture, workdir, PoseCfg(camera_height_m=1.5))
    assert isinstance(again, PosedCapture)
    np.testing.assert_array_equal(first.c2w, again.c2w)
    # Another height changes the scale only: no images are matched or mapped again.
    taller = pose(capture, workdir, PoseCfg(camera_height_m=3.0))
    assert taller.world_from_capture.scale == pytest.approx(2 * first.world_from_capture.scale)


@pytest.mark.slow
def test_a_killed_pycolmap_is_one_line_and_the_next_run_goes_on(walk, tmp_path):
    capture, _ = walk
    steps = []

    def kill_once(step, fraction):
        steps.append(step)
        if 0.2 < fraction < 1 and "killed" not in steps:
            steps.append("killed")
            for child in psutil.Process().children():
                if "gaussgym_recon.colmap_jobs" in child.cmdline():
                    child.kill()

    with pytest.raises(StageError, match="pycolmap was killed by signal 9"):
        pose(capture, tmp_path / "work", PoseCfg(camera_height_m=1.5), progress=kill_once)
    assert "killed" in steps
    posed = pose(capture, tmp_path / "work", PoseCfg(camera_height_m=1.5))
    assert posed.registered_fraction >= 0.9


@pytest.mark.slow
def test_lookalikes_of_an_image_are_its_neighbours(walk):
    capture, workdir = walk
    pose(capture, workdir, PoseCfg(camera_height_m=1.5))
    names = [image.file for image in capture.images]
    pairs = similar_pairs(next(workdir.glob("sfm-*")) / "database.db", names, 2, 0)
    near = [abs(i - j) <= 2 or i + j in range(24, 30) for i, j in pairs]
    assert np.mean(near) > 0.6


@pytest.mark.slow
def test_a_map_whose_second_half_has_another_scale_is_pulled_straight(walk, tmp_path):
    import pycolmap

    capture, workdir = walk
    pose(capture, workdir, PoseCfg(camera_height_m=1.5))
    (given,) = workdir.glob("sfm-*/maps-sequential/00-0.5/best")
    truth = read_truth(capture.directory)
    model = pycolmap.Reconstruction(str(given))
    place = {name: index for index, name in enumerate(truth.names)}
    images = sorted(model.images.values(), key=lambda image: place[image.name])
    turn = images[16].projection_center()
    for image in images[16:]:
        w2c = np.array(image.cam_from_world().matrix())
        w2c[:, 3] = -w2c[:, :3] @ (turn + 0.4 * (image.projection_center() - turn))
        model.frames[image.frame_id].rig_from_world = pycolmap.Rigid3d(w2c)
    (tmp_path / "bent").mkdir()
    model.write(str(tmp_path / "bent"))

    def error_m(path):
        found = read_model(path, capture)
        true = truth.c2w[[place[name] for name in found.names], :3, 3]
        centers = found.c2w[:, :3, 3]
        return np.sqrt(((umeyama(centers, true).apply(centers) - true) ** 2).sum(1).mean())

    assert error_m(tmp_path / "bent") > 1.0
    job = map_job(capture, given.parents[2], tmp_path, 0.5, 0)
    run_job("straighten", {**job, "map": str(tmp_path / "bent")}, "map", lambda step, fraction: None)
    assert error_m(tmp_path / "best") < 0.03
