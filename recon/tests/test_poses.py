from dataclasses import replace

import numpy as np
import pytest
from gaussgym_recon.consistency import RecaptureError
from gaussgym_recon.depth_images import depth_at_pixels
from gaussgym_recon.georegister import gps_from_enu, umeyama
from gaussgym_recon.matching import camera_groups
from gaussgym_recon.posed import PosedCapture, Similarity
from gaussgym_recon.poses import PoseCfg, pose
from gaussgym_recon.sfm import SfmCfg, ladder
from gaussgym_recon.sightings import project
from gaussgym_recon.synthetic import SynthesizeCfg, read_truth, synthesize_capture
from gaussgym_recon.triangulation import from_depth, from_source_points, visibility
from gaussgym_recon.walks import camera_rotation
from gaussgym_scene.artifact import ArtifactWriter
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.capture import FORMAT, MANIFEST, VERSION, Capture, CaptureImage, write_points
from gaussgym_scene.errors import InputError
from gaussgym_scene.synth import synthesize
from PIL import Image
from scipy.spatial.transform import Rotation

LENS = Intrinsics(
    width=48, height=36, fx=40, fy=40, cx=24, cy=18, distortion=(-0.05, 0, 0, 0), focal_source="calibrated"
)
# What a source's frame may be: no symmetry, its own scale.
SOURCE = Similarity(
    0.37, Rotation.from_euler("zyx", [1.3, -0.6, 2.4]).as_matrix(), np.array([5.0, -3.0, 8.0])
)
SLOPE = np.radians(2.0)


def walk(count=16):
    """Someone walks 24 m along +X over ground that rises by two degrees, and turns half way."""
    rng = np.random.default_rng(0)
    x = np.linspace(0, 24, count)
    yaw = 0.3 * np.sin(np.arange(count)) + np.pi * (np.arange(count) >= count // 2)
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, :3, :3] = camera_rotation(yaw, np.full(count, -0.35), rng.normal(0, 0.01, count))
    c2w[:, :3, 3] = np.c_[x, 0.5 * np.sin(x), 1.4 + np.tan(SLOPE) * x]
    return c2w


def ground_points(count=3000):
    rng = np.random.default_rng(1)
    xy = rng.uniform([-6, -5], [30, 5], (count, 2))
    return np.c_[xy, np.tan(SLOPE) * xy[:, 0] + rng.normal(0, 0.01, count)]


def depth_of_the_ground(pose):
    """Depth image [mm] of the slope, four times as fine as the photograph, without distortion."""
    v, u = np.mgrid[:144, :192] + 0.5
    rays = np.stack([(u - 96) / 160, (v - 72) / 160, np.ones_like(u)], -1) @ pose[:3, :3].T
    o = pose[:3, 3]
    depth = (np.tan(SLOPE) * o[0] - o[2]) / (rays[..., 2] - np.tan(SLOPE) * rays[..., 0])
    return np.where((depth > 0) & (depth < 20), 1000 * depth, 0).astype(np.uint16)


def make(folder, frame, *, points=True, gps=False, depth=False, kept=1.0, lens=LENS, **metadata):
    """A capture whose source knows the poses, in `frame`; `kept` is the share of depths that there are."""
    c2w = walk()
    rng = np.random.default_rng(2)
    with ArtifactWriter(folder, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        (writer.path / "images").mkdir()
        fixes = gps_from_enu(c2w[:, :3, 3] + rng.normal(0, 0.3, (len(c2w), 3)), (47.0, 8.5, 400.0))
        entries = []
        for i, (where, fix) in enumerate(zip(frame.apply_c2w(c2w), fixes)):
            Image.fromarray(rng.integers(0, 255, (36, 48, 3), dtype=np.uint8)).save(
                writer.path / f"images/{i}.png"
            )
            entry = CaptureImage(f"images/{i}.png", lens, tuple(fix.tolist()) if gps else None, where)
            if depth:
                counts = depth_of_the_ground(c2w[i])
                counts[rng.random(counts.shape) > kept] = 0
                Image.fromarray(counts).save(writer.path / f"images/{i}.depth.png")
                entry = replace(entry, depth=f"images/{i}.depth.png")
            entries.append(entry)
        if points:
            write_points(writer.path / "points.ply", frame.apply(ground_points()))
            metadata["points_file"] = "points.ply"
        writer.fields.update(Capture(writer.path, entries, {"ordered": True, **metadata}).manifest_fields())
    return Capture.load(folder)


def errors(posed):
    """Scale error and angle of gravity [deg] of a result."""
    true = walk()
    aligned = umeyama(posed.c2w[:, :3, 3], true[:, :3, 3])
    up = aligned.rotation @ [0.0, 0.0, 1.0]
    return aligned.scale - 1.0, np.degrees(np.arccos(np.clip(up[2], -1, 1)))


def metric(frame):
    return {
        "metric": True, "scale_source": "sensor", "gravity_source": "sensor", "poses_source": "arkit",
        "up": frame.rotation[:, 2].tolist(),
    }  # fmt: skip


def test_poses_of_sensors_are_taken_as_they_are_and_only_turned_and_moved(tmp_path):
    frame = replace(SOURCE, scale=1.0)
    capture = make(tmp_path / "capture", frame, **metric(frame))
    posed = pose(capture, tmp_path / "work")
    scale, angle = errors(posed)
    assert abs(scale) < 1e-9
    assert angle < 1e-6
    assert (posed.scale_source, posed.gravity_source) == ("sensor", "sensor")
    assert posed.scale_std_fraction == 0.01
    assert np.degrees(posed.gravity_std_rad) == pytest.approx(0.5 * np.sqrt(2))
    assert posed.registered_fraction == 1.0
    assert posed.reprojection_error_px is None
    # Ground below the first camera at the origin, the walk along +X.
    np.testing.assert_allclose(posed.c2w[0, :3, 3], [0, 0, 1.4], atol=0.03)
    assert posed.c2w[-1, 0, 3] == pytest.approx(24.0, abs=0.2)
    low = np.abs(posed.points[:, 2] - np.tan(SLOPE) * posed.points[:, 0] * posed.c2w[-1, 0, 3] / 24.0)
    assert np.median(low) < 0.03
    for image, seen in enumerate(posed.visible):
        pixels, distance = project(posed.points[seen], posed.c2w[image], LENS)
        assert (distance > 0).all()
        assert (pixels > 0).all()
    again = pose(capture, tmp_path / "work")
    assert isinstance(again, PosedCapture)
    np.testing.assert_array_equal(again.c2w, posed.c2w)
    assert again.gravity_std_rad == posed.gravity_std_rad


def test_a_source_without_metres_gets_them_and_gravity_by_rule(tmp_path):
    capture = make(tmp_path / "capture", SOURCE, gps=True)
    posed = pose(capture, tmp_path / "work")
    scale, angle = errors(posed)
    assert posed.scale_source == "gps"
    assert abs(scale) < 2.5 * posed.scale_std_fraction
    assert np.radians(angle) < 2.5 * posed.gravity_std_rad
    assert posed.world_from_capture.scale == pytest.approx(1 / 0.37, rel=0.1)


def test_without_anything_that_says_how_large_it_is_there_is_no_scale_of_one(tmp_path):
    capture = make(tmp_path / "capture", SOURCE)
    with pytest.raises(InputError, match=r"nothing says how large.*--camera-height") as raised:
        pose(capture, tmp_path / "work")
    assert "\n" not in str(raised.value)
    posed = pose(capture, tmp_path / "work", PoseCfg(camera_height_m=1.4))
    assert posed.scale_source == "camera_height"
    assert posed.scale_std_fraction == pytest.approx(0.05, abs=0.01)
    assert abs(errors(posed)[0]) < 0.03


def test_depth_of_a_network_says_nothing_of_metres(tmp_path):
    capture = make(tmp_path / "capture", SOURCE, depth=True, poses_source="feed-forward")
    with pytest.raises(InputError, match="nothing says how large"):
        pose(capture, tmp_path / "work")


def test_what_the_user_says_overrules(tmp_path):
    frame = replace(SOURCE, scale=1.0)
    capture = make(tmp_path / "capture", frame, gps=True, **metric(frame))
    twice = pose(capture, tmp_path / "work", PoseCfg(scale_from="camera-height=2.8"))
    assert errors(twice)[0] == pytest.approx(-0.5, abs=0.02)
    assert {c["source"] for c in twice.quality["scale_candidates"]} == {"camera_height", "sensor", "gps"}


def test_up_from_an_axis_turns_that_axis_up(tmp_path):
    frame = Similarity(1.0, Rotation.from_euler("x", -90, degrees=True).as_matrix(), np.zeros(3))  # y is up
    capture = make(tmp_path / "capture", frame, metric=True, poses_source="slam")
    posed = pose(capture, tmp_path / "work", PoseCfg(up_from="axis=+y"))
    assert errors(posed)[1] < 1e-6
    assert posed.gravity_source == "user"
    with pytest.raises(InputError, match="knows no gravity"):
        pose(capture, tmp_path / "work", PoseCfg(up_from="sensor"))
    level = pose(capture, tmp_path / "work", PoseCfg(up_from="plane"))
    assert errors(level)[1] == pytest.approx(2.0, abs=0.1)  # as was asked: the slope is taken to be level


def test_a_distance_between_two_pixels_gives_the_scale(tmp_path):
    capture = make(tmp_path / "capture", SOURCE)
    places = np.array([[4.0, -1.0, np.tan(SLOPE) * 4.0], [6.5, 1.0, np.tan(SLOPE) * 6.5]])
    true = walk()
    images = [
        k for k in range(8) if all(0 < p[0] < 48 and 0 < p[1] < 36 for p in project(places, true[k], LENS)[0])
    ][:1]
    (u, v), (x, y) = project(places, true[images[0]], LENS)[0]
    length = np.linalg.norm(places[0] - places[1])
    text = f"distance={images[0]}.png:{u},{v}:{images[0]}.png:{x},{y}={length}"
    posed = pose(capture, tmp_path / "work", PoseCfg(scale_from=text))
    assert posed.scale_source == "distance"
    assert abs(errors(posed)[0]) < min(2.5 * posed.scale_std_fraction, 0.1)
    with pytest.raises(InputError, match=r"nowhere.png is no image of"):
        pose(capture, tmp_path / "work", PoseCfg(scale_from="distance=nowhere.png:1,2:0.png:3,4=2"))


def test_points_of_depth_images_are_those_that_another_image_confirms(tmp_path):
    frame = replace(SOURCE, scale=1.0)
    lens = LENS.without_distortion()
    capture = make(tmp_path / "capture", frame, points=False, depth=True, lens=lens, **metric(frame))
    model = from_depth(capture)
    world = frame.inverse().apply(model.points)
    assert np.abs(world[:, 2] - np.tan(SLOPE) * world[:, 0]).max() < 0.02
    assert model.track_lengths.min() >= 2
    posed = pose(capture, tmp_path / "work")
    assert posed.quality["points_from"] == "depth"
    assert abs(errors(posed)[0]) < 1e-9
    # Poses that do not belong to these depths are found out.
    for number, image in enumerate(capture.images):
        image.c2w = image.c2w.copy()
        image.c2w[:3, :3] = Rotation.random(random_state=number).as_matrix()
    with pytest.raises(InputError, match="do not fit each other"):
        from_depth(capture)


def test_depth_is_not_read_at_edges_or_outside():
    depth = np.full((36, 48), 2.0, np.float32)
    depth[:, 24:] = 4.0
    at = depth_at_pixels(
        depth, np.array([[10.5, 10.5], [24.2, 10.0], [40.0, 30.0], [-3.0, 5.0], [np.nan, 1.0]]), LENS
    )
    np.testing.assert_allclose(at, [2.0, 0.0, 4.0, 0.0, 0.0])


def test_points_behind_a_wall_are_not_seen(tmp_path):
    frame = replace(SOURCE, scale=1.0)
    capture = make(tmp_path / "capture", frame, depth=True, lens=LENS.without_distortion(), **metric(frame))
    points = frame.apply(ground_points())
    wall = [np.full((36, 48), 0.5, np.float32)] * 16
    assert sum(len(seen) for seen in visibility(capture, points, [None] * 16)) > 1000
    assert sum(len(seen) for seen in visibility(capture, points, wall)) == 0


def test_scattered_depths_of_a_lidar_hide_no_points(tmp_path):
    frame = replace(SOURCE, scale=1.0)
    without = make(tmp_path / "without", frame, lens=LENS.without_distortion(), **metric(frame))
    sparse = make(
        tmp_path / "sparse", frame, depth=True, kept=0.02, lens=LENS.without_distortion(), **metric(frame)
    )
    seen = [len(points) for points in from_source_points(sparse).visible]
    assert seen == [len(points) for points in from_source_points(without).visible]
    assert min(seen) > 30


def test_some_poses_are_not_all(tmp_path):
    capture = make(tmp_path / "capture", SOURCE, gps=True)
    capture.images[3].c2w = None
    with pytest.raises(InputError, match=r"15 of its 16 images.*--poses sfm"):
        pose(capture, tmp_path / "work", PoseCfg(poses="source"))
    with pytest.raises(InputError, match="both a camera height"):
        pose(capture, tmp_path / "work", PoseCfg(scale_from="gps", camera_height_m=1.0))


def test_cameras_are_told_apart_by_their_intrinsics(tmp_path):
    capture = make(tmp_path / "capture", SOURCE, gps=True)
    for image in capture.images[10:]:
        image.intrinsics = replace(LENS, fx=55.0, fy=55.0, distortion=(0.0,) * 4, focal_source="guess")
    first, second = camera_groups(capture)
    assert (len(first["names"]), len(second["names"])) == (10, 6)
    assert (first["model"], first["params"]) == ("SIMPLE_RADIAL", "40,24,18,-0.05")
    assert second["params"] == ""
    assert second["focal_factor"] == pytest.approx(55 / 48)
    capture.images[0].intrinsics = replace(LENS, distortion=(-0.05, 0.01, 0.001, 0.0))
    assert camera_groups(capture)[0]["model"] == "OPENCV"


def test_the_ladder_ends_with_more_and_fainter_features():
    rungs = ladder(SfmCfg())
    assert [(r.pairs, r.mapper) for r in rungs] == [
        ("first", "incremental"), ("all", "incremental"), ("all", "global"), ("all", "incremental"),
    ]  # fmt: skip
    assert rungs[-1].features.max_features > rungs[0].features.max_features
    assert rungs[-1].features.peak_threshold < rungs[0].features.peak_threshold
    assert {r.mapper for r in ladder(SfmCfg(mapper="global"))} == {"global"}


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """A small synthetic walk, its truth, and a folder for its features."""
    folder = tmp_path_factory.mktemp("street")
    scene = synthesize("street", seed=3, length_m=14.0, max_splats=2000)
    cfg = SynthesizeCfg(images=24, turn_images=6, width=320, height=240, gps_std_m=0.5)
    capture = synthesize_capture(scene, folder / "capture", seed=1, cfg=cfg)
    return Capture.load(capture), read_truth(capture), folder / "work"


QUICK = SfmCfg(max_attempts=1, min_attempts=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_known_poses_are_kept_and_their_points_triangulated(street):
    capture, truth, work = street
    for image, where in zip(capture.images, SOURCE.apply_c2w(truth.c2w)):
        image.c2w, image.intrinsics = where, replace(truth.intrinsics, focal_source="calibrated")
    posed = pose(capture, work, PoseCfg(scale_from="camera-height=1.5", sfm=QUICK))
    assert posed.quality["points_from"] == "triangulated"
    assert posed.reprojection_error_px < 0.6
    assert len(posed.points) > 50 * len(posed)
    aligned = umeyama(posed.c2w[:, :3, 3], truth.c2w[:, :3, 3])
    np.testing.assert_allclose(aligned.apply_c2w(posed.c2w), truth.c2w, atol=1e-6)
    # Poses of other images do not fit, which is said.
    for image, where in zip(capture.images, truth.c2w[np.random.default_rng(0).permutation(len(truth.c2w))]):
        image.c2w = where
    with pytest.raises(RecaptureError, match=r"--poses sfm|contradict"):
        pose(capture, work, PoseCfg(scale_from="camera-height=1.5", sfm=QUICK))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_cameras_and_a_mask_in_one_capture(street, tmp_path):
    """Every second image is stored at three quarters of its size; the sky's half of all images is masked."""
    capture, truth, _ = street
    with ArtifactWriter(tmp_path / "mixed", manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        (writer.path / "images").mkdir()
        entries = []
        for index, image in enumerate(capture.images):
            with Image.open(capture.path(index)) as opened:
                size = (240, 180) if index % 2 else opened.size
                opened.resize(size, Image.Resampling.LANCZOS).save(writer.path / image.file, quality=95)
            mask = np.full((size[1], size[0]), 255, np.uint8)
            mask[: size[1] // 4] = 0
            Image.fromarray(mask).save(writer.path / f"images/{index}.mask.png")
            lens = replace(truth.intrinsics, focal_source="exif").resized(*size)
            entries.append(replace(image, intrinsics=lens, c2w=None, mask=f"images/{index}.mask.png"))
        writer.fields.update(Capture(writer.path, entries, {"ordered": True}).manifest_fields())
    mixed = Capture.load(tmp_path / "mixed")
    posed = pose(mixed, tmp_path / "work", PoseCfg(camera_height_m=1.5, sfm=QUICK))
    assert len(posed) >= 22
    assert {lens.width for lens in posed.intrinsics} == {320, 240}
    there = [truth.names.index(name) for name in posed.names]
    aligned = umeyama(posed.c2w[:, :3, 3], truth.c2w[there, :3, 3])
    off = np.linalg.norm(aligned.apply(posed.c2w[:, :3, 3]) - truth.c2w[there, :3, 3], axis=1)
    assert np.sqrt((off**2).mean()) < 0.05
    for image, lens, seen in zip(posed.c2w, posed.intrinsics, posed.visible):
        pixels, _ = project(posed.points[seen], image, lens)
        assert np.quantile(pixels[:, 1], 0.01) > 0.22 * lens.height
