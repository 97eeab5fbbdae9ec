"""Damaged exports of phones and robots each end in one clear line; odd but sound ones are read."""

import importlib.util
import json
import shutil
import sys
import zipfile

import numpy as np
import pytest
from gaussgym_recon.sources.arkitscenes import ArkitScenesCfg, import_arkitscenes
from gaussgym_recon.sources.grandtour import GrandTourCfg, import_grandtour
from gaussgym_recon.sources.polycam import PolycamCfg, import_polycam
from gaussgym_recon.sources.record3d import Record3dCfg, import_record3d
from gaussgym_recon.sources.trajectory import Trajectory, orthonormal
from gaussgym_scene.capture import Capture
from gaussgym_scene.errors import InputError
from layouts import arkitscenes, grandtour, polycam, record3d
from layouts.truth import axis_angle, make_truth, pose
from PIL import Image

TRUTH = make_truth()
needs_lzfse = pytest.mark.skipif(
    importlib.util.find_spec("liblzfse") is None, reason="pyliblzfse is not installed"
)
needs_zarr = pytest.mark.skipif(importlib.util.find_spec("zarr") is None, reason="zarr is not installed")
GRANDTOUR = GrandTourCfg(cameras=("hdr_front", "hdr_left"), spacing_m=0.0)


def refused(call, *words):
    """The error's text: one line that holds all the words."""
    with pytest.raises(InputError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def edit_json(file, change):
    fields = json.loads(file.read_text())
    change(fields)
    file.write_text(json.dumps(fields))


def first(folder, pattern="*"):
    return sorted(folder.glob(pattern))[0]


# Polycam -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def polycam_export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("polycam") / "export"
    polycam.write(folder, TRUTH)
    return folder


POLYCAM = {
    "no folder": (shutil.rmtree, ("not found", "raw export")),
    "no keyframes": (lambda f: shutil.rmtree(f / "keyframes"), ("keyframes", "developer mode")),
    "no images": (lambda f: [p.unlink() for p in (f / "keyframes/corrected_images").iterdir()], ("holds no images",)),
    "no corrected images": (
        lambda f: shutil.rmtree(f / "keyframes/corrected_images"), ("corrected_cameras", "corrected_images")),
    "image without camera": (
        lambda f: first(f / "keyframes/corrected_cameras").unlink(), ("1 of 8", "`corrected_cameras`", "1234500000")),
    "image without depth": (lambda f: first(f / "keyframes/depth").unlink(), ("1 of 8", "not in `depth`")),
    "depth without image": (
        lambda f: shutil.copy(first(f / "keyframes/depth"), f / "keyframes/depth/77.png"), ("1 of 9", "`depth`", "77")),
    "confidence without depth": (lambda f: shutil.rmtree(f / "keyframes/depth"), ("`confidence` but no `depth`",)),
    "camera is no JSON": (
        lambda f: first(f / "keyframes/corrected_cameras").write_text("{"), ("1234500000.json", "no camera")),
    "camera lacks fx": (
        lambda f: edit_json(first(f / "keyframes/corrected_cameras"), lambda c: c.pop("fx")), ("lacks 'fx'",)),
    "pose not finite": (
        lambda f: edit_json(first(f / "keyframes/corrected_cameras"), lambda c: c.update(t_03=float("nan"))),
        ("not finite", "1234500000")),
    "pose mirrors": (
        lambda f: edit_json(first(f / "keyframes/corrected_cameras"), lambda c: [
            c.update({f"t_{r}0": -c[f"t_{r}0"]}) for r in range(3)]), ("mirrors",)),
    "pose scales": (
        lambda f: edit_json(first(f / "keyframes/corrected_cameras"), lambda c: [
            c.update({f"t_{r}{k}": 2 * c[f"t_{r}{k}"]}) for r in range(3) for k in range(3)]), ("orthonormal",)),
    "focal length zero": (
        lambda f: edit_json(first(f / "keyframes/corrected_cameras"), lambda c: c.update(fx=0)), ("not a camera",)),
    "image of another shape": (
        lambda f: Image.new("RGB", (64, 64)).save(first(f / "keyframes/corrected_images")), ("64x48", "64x64")),
    "image cut short": (
        lambda f: first(f / "keyframes/corrected_images").write_bytes(b"\xff\xd8\xff"), ("readable image",)),
    "depth of 8 bits": (
        lambda f: Image.new("L", (32, 24)).save(first(f / "keyframes/depth")), ("uint8", "16-bit")),
    "confidence of another size": (
        lambda f: Image.new("L", (31, 24)).save(first(f / "keyframes/confidence")), ("(24, 31)", "(24, 32)")),
    "mesh without transform": (lambda f: (f / "mesh_info.json").unlink(), ("mesh_info.json", "raw.glb")),
    "transform of 15 numbers": (
        lambda f: edit_json(f / "mesh_info.json", lambda m: m["alignmentTransform"].pop()), ("16 numbers",)),
    "mesh is none": (lambda f: (f / "raw.glb").write_bytes(b"glTF"), ("raw.glb", "no finite vertices")),
}  # fmt: skip


@pytest.mark.parametrize("damage", POLYCAM)
def test_damaged_polycam_exports_are_refused(polycam_export, tmp_path, damage):
    shutil.copytree(polycam_export, tmp_path / "made")
    change, words = POLYCAM[damage]
    change(tmp_path / "made")
    refused(lambda: import_polycam(tmp_path / "made", tmp_path / "capture"), *words)
    assert not (tmp_path / "capture").exists()


def test_a_zipped_polycam_export_is_read(polycam_export, tmp_path):
    shutil.make_archive(str(tmp_path / "share"), "zip", polycam_export.parent, "export")
    capture = Capture.load(import_polycam(tmp_path / "share.zip", tmp_path / "capture"))
    assert len(capture.images) == 8
    (tmp_path / "no.zip").write_text("no")
    refused(lambda: import_polycam(tmp_path / "no.zip", tmp_path / "other"), "no zip")


def test_the_sharpest_of_polycams_images_are_kept(polycam_export, tmp_path):
    # The scores rise with time, so the last of each span of two is the sharpest.
    capture = Capture.load(import_polycam(polycam_export, tmp_path / "capture", PolycamCfg(frames=4)))
    assert [image.timestamp_s for image in capture.images] == pytest.approx(list(TRUTH.times_s[1::2]))


def test_polycams_own_poses_can_be_asked_for(polycam_export, tmp_path):
    cfg = PolycamCfg(optimised=False)
    own = Capture.load(import_polycam(polycam_export, tmp_path / "own", cfg))
    best = Capture.load(import_polycam(polycam_export, tmp_path / "best"))
    assert np.linalg.norm(own.images[0].c2w[:3, 3] - best.images[0].c2w[:3, 3]) > 0.02
    assert own.images[0].mask is None
    assert best.images[0].mask is not None


# Record3D ------------------------------------------------------------------------------------------------------------


def rezip(path, change):
    """Rewrite a recording: `change` maps its files to others."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files = change(files) or files
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def metadata(change):
    def apply(files):
        fields = json.loads(files["metadata"])
        change(fields)
        files["metadata"] = json.dumps(fields).encode()

    return lambda path: rezip(path, apply)


RECORD3D = {
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:2000]), ("no zip", "cut short")),
    "no metadata": (lambda p: rezip(p, lambda f: f.pop("metadata") and None), ("no file `metadata`",)),
    "EXR export": (
        lambda p: rezip(p, lambda f: {"metadata.json": b"{}", "depth/0.exr": b"x"}), ("EXR export", ".r3d")),
    "metadata is no JSON": (lambda p: rezip(p, lambda f: f.update(metadata=b"[")), ("metadata",)),
    "metadata is a list": (lambda p: rezip(p, lambda f: f.update(metadata=b"[]")), ("metadata",)),
    "no poses": (metadata(lambda m: m.pop("poses")), ("'poses'",)),
    "a pose too few": (metadata(lambda m: m["poses"].pop()), ("8 images, 7 poses",)),
    "a time too few": (metadata(lambda m: m["frameTimestamps"].pop()), ("7 times",)),
    "poses of six numbers": (metadata(lambda m: [p.pop() for p in m["poses"]]), ("reshape",)),
    "pose not finite": (metadata(lambda m: m["poses"][3].__setitem__(5, float("inf"))), ("pose 3 of 8",)),
    "quaternion of length zero": (metadata(lambda m: m["poses"].__setitem__(2, [0.0] * 7)), ("pose 2 of 8",)),
    "no intrinsics": (
        metadata(lambda m: (m.pop("K"), m.pop("perFrameIntrinsicCoeffs"))), ("intrinsics of image 0", "'K'")),
    "intrinsics of fewer images": (
        metadata(lambda m: m["perFrameIntrinsicCoeffs"].pop()), ("intrinsics of image 7",)),
    "size of another shape": (metadata(lambda m: m.update(w=50)), ("50x48", "64x48")),
    "a depth is missing": (lambda p: rezip(p, lambda f: f.pop("rgbd/3.depth") and None), ("7 depth images",)),
    "an image is missing": (
        lambda p: rezip(p, lambda f: f.update({"rgbd/99.jpg": f.pop("rgbd/3.jpg")})), ("frame 3 of 8",)),
    "depth size": (metadata(lambda m: m.update(dw=31)), ("768 values", "24x31")),
    "depth is no LZFSE": (lambda p: rezip(p, lambda f: f.update({"rgbd/0.depth": b"nothing"})), ("decompress",)),
    "confidence size": (
        lambda p: rezip(p, lambda f: f.update({"rgbd/0.conf": record3d.stored_lzfse(b"\1" * 5)})), ("5 values",)),
    "image is none": (lambda p: rezip(p, lambda f: f.update({"rgbd/0.jpg": b"no"})), ("image 0 is damaged",)),
}  # fmt: skip


@needs_lzfse
@pytest.mark.parametrize("damage", RECORD3D)
def test_damaged_recordings_are_refused(tmp_path, damage):
    path = tmp_path / "made.r3d"
    record3d.write(path, TRUTH)
    change, words = RECORD3D[damage]
    change(path)
    refused(lambda: import_record3d(path, tmp_path / "capture"), *words)
    assert not (tmp_path / "capture").exists()


def test_without_the_decoder_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "liblzfse", None)
    record3d.write(tmp_path / "made.r3d", TRUTH)
    refused(
        lambda: import_record3d(tmp_path / "made.r3d", tmp_path / "capture"),
        "pip install pyliblzfse",
        "--no-depth",
    )
    cfg = Record3dCfg(depth=False)
    capture = Capture.load(import_record3d(tmp_path / "made.r3d", tmp_path / "capture", cfg))
    assert all(image.depth is None for image in capture.images)


@needs_lzfse
def test_really_compressed_depth_is_read(tmp_path):
    import liblzfse

    written = record3d.write(tmp_path / "made.r3d", TRUTH, compress=liblzfse.compress)
    capture = Capture.load(import_record3d(written.path, tmp_path / "capture"))
    depth_m = np.asarray(Image.open(capture.directory / capture.images[5].depth)) * 1e-3
    np.testing.assert_allclose(depth_m, TRUTH.depth_m(5, *written.depth_size), atol=0.0006)


@needs_lzfse
def test_what_the_sensor_did_not_see_has_no_depth(tmp_path):
    values = TRUTH.depth_m(0, 32, 24).astype("<f4")
    values[3, 4], values[5, 6], values[7, 8] = np.nan, -1.0, np.inf
    path = tmp_path / "made.r3d"
    record3d.write(path, TRUTH)
    rezip(path, lambda f: f.update({"rgbd/0.depth": record3d.stored_lzfse(values.tobytes())}))
    capture = Capture.load(import_record3d(path, tmp_path / "capture"))
    depth = np.asarray(Image.open(capture.directory / capture.images[0].depth))
    assert [depth[3, 4], depth[5, 6], depth[7, 8]] == [0, 0, 0]
    assert (depth == 0).sum() == 3


@needs_lzfse
def test_old_recordings_that_do_not_say_the_depths_size_are_read(tmp_path):
    path = tmp_path / "made.r3d"
    record3d.write(path, TRUTH)
    large = record3d.stored_lzfse(TRUTH.depth_m(0, 256, 192).astype("<f4").tobytes())

    def old(files):
        fields = json.loads(files["metadata"])
        for key in ("dw", "dh", "frameTimestamps", "initPose"):
            del fields[key]
        files["metadata"] = json.dumps(fields).encode()
        return {
            name: large if name.endswith(".depth") else data
            for name, data in files.items()
            if not name.endswith(".conf")
        }

    rezip(path, old)
    capture = Capture.load(import_record3d(path, tmp_path / "capture"))
    assert Image.open(capture.directory / capture.images[0].depth).size == (256, 192)
    assert capture.images[0].confidence is None
    assert [image.timestamp_s for image in capture.images] == pytest.approx(list(np.arange(8) / 5))


# ARKitScenes ---------------------------------------------------------------------------------------------------------


def frames_of(folder):
    return folder / f"{arkitscenes.VIDEO}_frames"


def edit_traj(folder, change):
    file = frames_of(folder) / "lowres_wide.traj"
    lines = file.read_text().splitlines()
    change(lines)
    file.write_text("\n".join(lines) + "\n")


ARKIT = {
    "no folder": (shutil.rmtree, ("not found",)),
    "no assets": (lambda f: shutil.rmtree(frames_of(f)), ("holds no video", "unpack its zips")),
    "no intrinsics": (
        lambda f: shutil.rmtree(frames_of(f) / "lowres_wide_intrinsics"), ("`lowres_wide_intrinsics`", "download")),
    "no images": (
        lambda f: [p.unlink() for p in (frames_of(f) / "lowres_wide").iterdir()], ("holds no images",)),
    "depth without images": (lambda f: shutil.rmtree(frames_of(f) / "lowres_wide"), ("no images", "`lowres_wide`")),
    "no trajectory": (lambda f: (frames_of(f) / "lowres_wide.traj").unlink(), ("lowres_wide.traj", "download")),
    "empty trajectory": (lambda f: edit_traj(f, list.clear), ("holds no pose",)),
    "six numbers a line": (
        lambda f: edit_traj(f, lambda x: x.__setitem__(slice(None), [" ".join(y.split()[:6]) for y in x])),
        ("seven numbers",)),
    "a word in the trajectory": (
        lambda f: edit_traj(f, lambda x: x.__setitem__(2, "1 2 3 four 5 6 7")), ("seven numbers", "four")),
    "pose not finite": (
        lambda f: edit_traj(f, lambda x: x.__setitem__(2, x[2].rsplit(" ", 1)[0] + " nan")), ("pose 2 of 8",)),
    "rotation not finite": (
        lambda f: edit_traj(f, lambda x: x.__setitem__(1, "1234.7 inf 0 0 0 0 0")), ("pose 1 of 8",)),
    "trajectory of another time": (
        lambda f: edit_traj(f, lambda x: x.__setitem__(slice(None), ["9" + y for y in x])),
        ("8 of 8", "no pose", "do not go together")),
    "most depth is missing": (
        lambda f: [p.unlink() for p in sorted((frames_of(f) / "lowres_depth").iterdir())[:5]], ("5 of 8", "no depth")),
    "pincam of five numbers": (
        lambda f: first(frames_of(f) / "lowres_wide_intrinsics").write_text("64 48 50 50 32"), ("six numbers",)),
    "pincam not finite": (
        lambda f: first(frames_of(f) / "lowres_wide_intrinsics").write_text("64 48 50 nan 32 24"), ("not a camera",)),
    "pincam of another shape": (
        lambda f: first(frames_of(f) / "lowres_wide_intrinsics").write_text("64 64 50 50 32 24"), ("64x64", "64x48")),
    "a file without a time": (
        lambda f: (frames_of(f) / "lowres_wide/cover.png").write_bytes(b""), ("cover.png", "<time>")),
    "mesh is none": (
        lambda f: (f / f"{arkitscenes.VIDEO}_3dod_mesh.ply").write_text("ply"), ("3dod_mesh.ply", "vertices")),
}  # fmt: skip


@pytest.mark.parametrize("damage", ARKIT)
def test_damaged_arkitscenes_are_refused(tmp_path, damage):
    written = arkitscenes.write(tmp_path / "root", TRUTH)
    change, words = ARKIT[damage]
    change(written.path)
    refused(lambda: import_arkitscenes(written.path, tmp_path / "capture"), *words)
    assert not (tmp_path / "capture").exists()


def test_arkitscenes_are_found_in_any_letter_case_and_from_above(tmp_path):
    written = arkitscenes.write(tmp_path / "root", TRUTH, split="Training")
    for index, path in enumerate(
        (
            tmp_path / "root",
            tmp_path / "root" / "3DOD" / "training" / arkitscenes.VIDEO,
            tmp_path / "root" / "3dod" / "TRAINING",
            written.path / f"{arkitscenes.VIDEO}_frames",
        )
    ):
        capture = Capture.load(import_arkitscenes(path, tmp_path / f"capture{index}"))
        assert len(capture.images) == 8
        assert capture.metadata["sky_direction"] == "Up"


def test_of_several_videos_one_must_be_named(tmp_path):
    written = arkitscenes.write(tmp_path / "root", TRUTH)
    other = written.path.parent / "41069042"
    shutil.copytree(written.path, other)
    (other / f"{arkitscenes.VIDEO}_frames").rename(other / "41069042_frames")
    refused(
        lambda: import_arkitscenes(tmp_path / "root", tmp_path / "capture"), "2 videos", "41069042", "--video"
    )
    cfg = ArkitScenesCfg(video="41069042")
    assert len(Capture.load(import_arkitscenes(tmp_path / "root", tmp_path / "capture", cfg)).images) == 8
    refused(
        lambda: import_arkitscenes(tmp_path / "root", tmp_path / "no", ArkitScenesCfg(video="7")),
        "video 7",
        "41069021",
    )


def test_images_between_two_poses_get_one_between_and_others_none(tmp_path):
    written = arkitscenes.write(tmp_path / "root", TRUTH)
    edit_traj(written.path, lambda lines: lines.__delitem__(slice(0, 2)))
    capture = Capture.load(import_arkitscenes(written.path, tmp_path / "capture"))
    assert capture.metadata["left_out"] == {"pose": 2, "intrinsics": 0, "depth": 0}
    assert [image.timestamp_s for image in capture.images] == pytest.approx(list(TRUTH.times_s[2:]))


def test_a_sky_direction_is_needed_where_it_is_asked_for(tmp_path):
    written = arkitscenes.write(tmp_path / "root", TRUTH)
    (tmp_path / "root/3dod/metadata.csv").unlink()
    cfg = ArkitScenesCfg(upright="metadata")
    refused(
        lambda: import_arkitscenes(written.path, tmp_path / "capture", cfg), "metadata.csv", "--upright poses"
    )


# GrandTour -----------------------------------------------------------------------------------------------------------


def attributes(mission, tag, change):
    edit_json(mission / "data" / tag / "zarr.json", lambda head: change(head["attributes"]))


def chunk(mission, name):
    return next(file for file in sorted((mission / "data" / name / "c").rglob("0")) if file.is_file())


def static(mission, change):
    attributes(mission, "tf", lambda a: change(a["tf"]))


MISSION = {
    "no folder": (shutil.rmtree, ("not found",)),
    "no images folder": (lambda m: shutil.rmtree(m / "images"), ("no folder `images`",)),
    "still packed": (
        lambda m: (shutil.rmtree(m / "data"), (m / "data.tar").write_bytes(b"")), ("no folder `data`", "still packed")),
    "no zarr": (lambda m: (m / "data/zarr.json").unlink(), ("no zarr group",)),
    "unknown zarr version": (
        lambda m: edit_json(m / "data/zarr.json", lambda h: h.update(zarr_format=9)), ("no zarr group",)),
    "no odometry": (lambda m: shutil.rmtree(m / "data/dlio_map_odometry"), ("dlio_map_odometry", "found hdr_front")),
    "no camera": (lambda m: shutil.rmtree(m / "data/hdr_left"), ("'hdr_left'", "found")),
    "no LiDAR": (lambda m: shutil.rmtree(m / "data/hesai_points_undistorted"), ("'hesai_points_undistorted'",)),
    "no times": (lambda m: shutil.rmtree(m / "data/hdr_left/timestamp"), ("hdr_left", "`timestamp`")),
    "no positions": (lambda m: shutil.rmtree(m / "data/dlio_map_odometry/pose_pos"), ("`pose_pos`",)),
    "a pose too few": (
        lambda m: edit_json(m / "data/dlio_map_odometry/pose_orien/zarr.json", lambda h: h.update(shape=[15, 4])),
        ("16 times", "(15, 4)")),
    "pose not finite": (
        lambda m: chunk(m, "dlio_map_odometry/pose_pos").write_bytes(np.full((3, 3), np.nan).tobytes()), ("pose 0",)),
    "quaternions of zero": (
        lambda m: chunk(m, "dlio_map_odometry/pose_orien").write_bytes(bytes(96)), ("pose 0", "unit quaternion")),
    "a chunk cut short": (
        lambda m: chunk(m, "dlio_map_odometry/pose_pos").write_bytes(b"123"), ("pose_pos is damaged",)),
    "times that do not overlap": (
        lambda m: [f.write_bytes((np.frombuffer(f.read_bytes()) + 1e5).tobytes())
                   for f in (m / "data/hdr_left/timestamp/c").iterdir()], ("no image of hdr_left", "overlap")),
    "an image is missing": (lambda m: (m / "images/hdr_left/000002.jpeg").unlink(), ("lacks image 000002",)),
    "an image of another size": (
        lambda m: Image.new("RGB", (60, 48)).save(m / "images/hdr_front/000001.jpeg"), ("60x48", "64x48")),
    "no camera_info": (
        lambda m: attributes(m, "hdr_front", lambda a: a.pop("camera_info")), ("hdr_front", "camera_info")),
    "unknown lens": (
        lambda m: attributes(m, "hdr_front", lambda a: a["camera_info"].update(distortion_model="omni")),
        ("'omni'", "equidistant")),
    "lens of three numbers": (
        lambda m: attributes(m, "hdr_front", lambda a: a["camera_info"]["D"].pop()), ("3 numbers",)),
    "lens not finite": (
        lambda m: attributes(m, "hdr_front", lambda a: a["camera_info"]["K"].__setitem__(0, float("nan"))),
        ("is no camera",)),
    "no mount": (
        lambda m: (attributes(m, "hdr_front", lambda a: a.pop("transform")), static(m, lambda t: t.pop("hdr_front"))),
        ("hdr_front", "mounted")),
    "mounted elsewhere": (
        lambda m: attributes(m, "hdr_front", lambda a: a["transform"].update(base_frame_id="arm")), ("'arm'",)),
    "no box": (lambda m: static(m, lambda t: t.pop("box_base")), ("box_base", "tf")),
    "mount of half a quaternion": (
        lambda m: attributes(m, "hdr_front", lambda a: a["transform"]["rotation"].update(w=0.0, x=0.1)),
        ("rigid motion",)),
    "more valid points than points": (
        lambda m: chunk(m, "livox_points_undistorted/valid").write_bytes(np.full((3, 1), 999, np.uint32).tobytes()),
        ("livox_points_undistorted", "999")),
}  # fmt: skip


@pytest.fixture(scope="module")
def mission(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grandtour") / "2024-11-04-10-57-34"
    grandtour.write(folder, TRUTH)
    return folder


@needs_zarr
@pytest.mark.parametrize("damage", MISSION)
def test_damaged_missions_are_refused(mission, tmp_path, damage):
    shutil.copytree(mission, tmp_path / "made")
    change, words = MISSION[damage]
    change(tmp_path / "made")
    refused(lambda: import_grandtour(tmp_path / "made", tmp_path / "capture", GRANDTOUR), *words)
    assert not (tmp_path / "capture").exists()


def test_without_zarr_the_error_says_how_to_get_it(mission, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    refused(
        lambda: import_grandtour(mission, tmp_path / "capture", GRANDTOUR),
        "pip install zarr",
    )


@needs_zarr
def test_cameras_that_hardly_move_give_fewer_images(mission, tmp_path):
    still = GrandTourCfg(cameras=("hdr_front",), spacing_m=1.6, spacing_rad=10.0, lidars=())
    capture = Capture.load(import_grandtour(mission, tmp_path / "capture", still))
    assert len(capture.images) == 2
    assert capture.points() is None
    refused(
        lambda: import_grandtour(mission, tmp_path / "no", GrandTourCfg(odometry="gps")),
        "'gps'",
        "dlio_map_odometry",
    )


@needs_zarr
def test_people_masked_in_the_mission_stay_masked(mission, tmp_path):
    shutil.copytree(mission, tmp_path / "made")
    folder = tmp_path / "made/images/hdr_front_mask"
    folder.mkdir()
    use = np.ones((48, 64), np.uint8)
    use[:, :32] = 0  # the left half of the fisheye image
    for row in range(4):
        Image.fromarray(use).save(folder / f"{row:06d}.png")
    capture = Capture.load(import_grandtour(tmp_path / "made", tmp_path / "capture", GRANDTOUR))
    front = [image for image in capture.images if "hdr_front" in image.file]
    assert len(front) == 4
    for image in front:
        mask = np.asarray(Image.open(capture.directory / image.mask))
        assert set(np.unique(mask)) == {0, 255}
        edge = np.flatnonzero(mask[24])[0]
        # The fisheye's principal point is left of column 32; the pinhole magnifies the middle.
        k = image.intrinsics
        theta = np.arctan(abs(edge + 0.5 - k.cx) / k.fx)
        assert 31.0 * theta * (1 + 0.05 * theta**2) + 30.2 == pytest.approx(32, abs=1.0)
        assert (mask[:, edge + 3 :] == 255).all()


# Trajectories --------------------------------------------------------------------------------------------------------


def test_poses_between_two_are_on_the_straight_and_the_great_circle():
    start, end = pose(np.eye(3), [0, 0, 0]), pose(axis_angle([1, 2, 2], 0.9), [3, -6, 9])
    trajectory = Trajectory.sorted(np.array([11.0, 10.0]), np.stack([end, start]), what="made")
    poses, known = trajectory.at(np.array([10 + 1 / 3, 10.999, 9.9, 11.2]), exact_s=0.01, max_gap_s=1.5)
    assert known.tolist() == [True, True, False, False]
    np.testing.assert_allclose(poses[0], pose(axis_angle([1, 2, 2], 0.3), [1, -2, 3]), atol=1e-12)
    np.testing.assert_allclose(poses[1], end, atol=1e-12)
    _, known = trajectory.at(np.array([10.5, 10.005]), exact_s=0.01, max_gap_s=0.5)
    assert known.tolist() == [False, True]


def test_a_trajectory_of_one_pose_holds_at_its_time():
    trajectory = Trajectory.sorted(np.array([5.0]), pose(np.eye(3), [1, 2, 3])[None], what="made")
    poses, known = trajectory.at(np.array([5.0, 5.1]), exact_s=0.01, max_gap_s=1.0)
    assert known.tolist() == [True, False]
    np.testing.assert_allclose(poses[0, :3, 3], [1, 2, 3])


def test_rounded_rotations_are_made_orthonormal():
    exact = pose(axis_angle([3, -1, 2], 1.2), [1, 2, 3])
    rounded = orthonormal(np.round(exact, 4), "made")
    np.testing.assert_allclose(rounded[:3, :3] @ rounded[:3, :3].T, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(rounded, exact, atol=1e-4)
