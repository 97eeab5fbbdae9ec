"""COLMAP, nerfstudio, TUM and feed-forward captures: what they hold, and what each says when it is broken."""

import json

import cv2
import numpy as np
import pytest
from gaussgym_recon.sources.colmap import ColmapCfg, import_colmap
from gaussgym_recon.sources.colmap_files import read_model
from gaussgym_recon.sources.feed_forward import import_feed_forward
from gaussgym_recon.sources.nerfstudio import NerfstudioCfg, import_nerfstudio
from gaussgym_recon.sources.tum import TumCfg, associate, import_tum
from gaussgym_recon.views import read_grey
from gaussgym_scene.capture import Capture
from gaussgym_scene.errors import InputError
from layouts import colmap, nerfstudio, tum
from layouts.truth import make_truth
from PIL import Image

TRUTH = make_truth(4, zoom_step=0.0, points=40)


def refused(make, match):
    with pytest.raises(InputError, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)


# --- COLMAP ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path):
    return colmap.write(tmp_path / "project", TRUTH).path


def test_our_reader_and_pycolmap_agree_on_files_that_pycolmap_wrote(project, tmp_path):
    import pycolmap

    theirs = pycolmap.Reconstruction(project / "sparse" / "0")
    for name, write in (("bin", theirs.write_binary), ("txt", theirs.write_text)):
        (tmp_path / name).mkdir()
        write(str(tmp_path / name))
        ours = read_model(tmp_path / name)
        assert len(ours.points) == len(theirs.points3D)
        by_name = {image.name: image for image in theirs.images.values()}
        for image in ours.images:
            w2c = by_name[image.name].cam_from_world().matrix()
            np.testing.assert_allclose(np.linalg.inv(image.c2w)[:3], w2c, atol=1e-9)
            camera = theirs.cameras[by_name[image.name].camera_id]
            assert ours.cameras[image.camera_id].params == pytest.approx(camera.params.tolist())


def test_images_are_found_without_a_folder_by_name_and_in_any_case(project, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (project / "images").rename(elsewhere)
    for file in elsewhere.iterdir():
        file.rename(elsewhere / file.name.upper())
    refused(
        lambda: import_colmap(project, tmp_path / "c"),
        r"4 of its 4 images are missing \(frame_00\.png, .*--images",
    )
    capture = Capture.load(import_colmap(project, tmp_path / "c", ColmapCfg(images=elsewhere)))
    assert len(capture.images) == 4


def test_missing_images_are_named_or_left_out(project, tmp_path):
    (project / "images" / "frame_02.png").unlink()
    refused(
        lambda: import_colmap(project, tmp_path / "c"), r"1 of its 4 images are missing \(frame_02\.png\)"
    )
    capture = Capture.load(import_colmap(project, tmp_path / "c", ColmapCfg(skip_missing=True)))
    assert [image.file for image in capture.images] == [f"images/frame_{i:02d}.png" for i in (0, 1, 3)]


def test_cut_short_binaries_are_named_at_every_length(project):
    place = project / "sparse" / "0"
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        data = (place / name).read_bytes()
        for length in (0, 5, len(data) // 2, len(data) - 1):
            (place / name).write_bytes(data[:length])
            refused(lambda: read_model(place), rf"{name}: cut short after {length} bytes")
        (place / name).write_bytes(data)


def test_text_that_is_no_model_is_named(tmp_path):
    project = colmap.write(tmp_path / "project", TRUTH, binary=False).path
    place = project / "sparse" / "0"
    whole = (place / "images.txt").read_text()
    (place / "images.txt").write_text(whole.replace("frame_01.png", ""))
    refused(lambda: read_model(place), r"images\.txt: line .* is no image")
    (place / "images.txt").write_text(whole)
    lines = (place / "cameras.txt").read_text().splitlines()
    (place / "cameras.txt").write_text("\n".join(lines[:-1]))
    refused(
        lambda: read_model(place), r"images\.txt: frame_03\.png is of camera 17, which cameras\.txt lacks"
    )
    refused(lambda: import_colmap(tmp_path, tmp_path / "c"), "holds no COLMAP model")


def test_a_fisheye_model_becomes_pinhole_images(tmp_path):
    project = colmap.write(tmp_path / "project", TRUTH, binary=False).path
    cameras = project / "sparse" / "0" / "cameras.txt"
    text = cameras.read_text().replace("PINHOLE", "OPENCV_FISHEYE")
    cameras.write_text(
        "\n".join(line if line.startswith("#") else line + " 0.01 0 0 0" for line in text.splitlines())
    )
    capture = Capture.load(import_colmap(project, tmp_path / "c"))
    assert capture.metadata["undistorted_from"] == "OPENCV_FISHEYE"
    assert not any(capture.images[0].intrinsics.distortion)


# --- nerfstudio -----------------------------------------------------------------------------------------------------


@pytest.fixture
def transforms(tmp_path):
    return nerfstudio.write(tmp_path / "data", TRUTH).path


def edited(folder, change):
    path = folder / "transforms.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))
    return folder


def test_applied_scale_and_any_rotation_are_undone(transforms, tmp_path):
    plain = Capture.load(import_nerfstudio(transforms, tmp_path / "plain"))

    def move(meta):
        applied = np.vstack([meta["applied_transform"], [0, 0, 0, 1]])
        turn = np.array([[0, 1, 0, 3], [0, 0, 1, -2], [1, 0, 0, 5], [0, 0, 0, 1.0]])
        meta["applied_transform"], meta["applied_scale"] = (turn @ applied)[:3].tolist(), 0.25
        for frame in meta["frames"]:
            matrix = turn @ np.array(frame["transform_matrix"])
            matrix[:3, 3] *= 0.25
            frame["transform_matrix"] = matrix.tolist()

    moved = Capture.load(import_nerfstudio(edited(transforms, move), tmp_path / "moved"))
    for a, b in zip(plain.images, moved.images):
        np.testing.assert_allclose(a.c2w, b.c2w, atol=1e-9)


def test_instant_ngp_files_have_an_angle_and_no_suffix(transforms, tmp_path):
    def strip(meta):
        meta["camera_angle_x"] = 1.1
        for frame in meta["frames"]:
            for key in ("fl_x", "fl_y", "cx", "cy", "w", "h", "depth_file_path", "mask_path"):
                del frame[key]
            frame["file_path"] = "./" + frame["file_path"].removesuffix(".png")

    camera = Capture.load(import_nerfstudio(edited(transforms, strip), tmp_path / "c")).images[0].intrinsics
    assert camera.fx == pytest.approx(32 / np.tan(0.55))
    assert (camera.cx, camera.cy) == (32, 24)


def test_depths_are_scaled_and_masks_kept(transforms, tmp_path):
    capture = Capture.load(import_nerfstudio(transforms, tmp_path / "c"))
    np.testing.assert_allclose(
        read_grey(capture.directory / capture.images[1].depth) / 1000, TRUTH.depth_m(1, 64, 48), atol=1e-3
    )
    mask = read_grey(capture.directory / capture.images[1].mask)
    assert not mask[:6, :10].any()
    assert mask[7:].all()
    doubled = Capture.load(import_nerfstudio(transforms, tmp_path / "d", NerfstudioCfg(depth_unit_m=0.001)))
    assert read_grey(doubled.directory / doubled.images[1].depth)[20, 20] == pytest.approx(
        2 * TRUTH.depth_m(1, 64, 48)[20, 20] * 1000, abs=2
    )


def test_a_fisheye_panoramas_and_k3_are_undistorted(transforms, tmp_path):
    fisheye = edited(transforms, lambda meta: meta.update(camera_model="OPENCV_FISHEYE", k1=0.02))
    capture = Capture.load(import_nerfstudio(fisheye, tmp_path / "f"))
    assert capture.metadata["undistorted_from"] == "OPENCV_FISHEYE"
    assert capture.images[0].depth is not None
    k3 = edited(transforms, lambda meta: meta.update(camera_model="OPENCV", k1=0.0, k3=0.05))
    assert (
        Capture.load(import_nerfstudio(k3, tmp_path / "k")).metadata["undistorted_from"]
        == "OPENCV with k3, k4"
    )

    def around(meta):
        meta["camera_model"] = "EQUIRECTANGULAR"
        for frame in meta["frames"]:
            del frame["depth_file_path"]

    views = Capture.load(import_nerfstudio(edited(transforms, around), tmp_path / "p")).images
    assert len(views) == 16
    # The second of four looks to the right of the first.
    np.testing.assert_allclose(views[1].c2w[:3, 2], views[0].c2w[:3, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda meta: meta.pop("frames"), "lacks its frames"),
        (lambda meta: meta["frames"].clear(), "has 0 frames"),
        (lambda meta: meta.update(camera_model="ORTHOPHOTO"), "camera_model ORTHOPHOTO is not read"),
        (lambda meta: meta["frames"][0].pop("fl_x"), r"no focal length for .* \(lacks 'camera_angle_x'\)"),
        (lambda meta: meta["frames"][0].update(file_path="images/gone.png"), r"are missing \(images/gone\.png\)"),
        (lambda meta: meta["frames"][0].update(transform_matrix=[[1, 2]]), "transform_matrix misuses"),
        (lambda meta: meta["frames"][0].update(transform_matrix=(2 * np.eye(4)).tolist()), "its pose is no rotation"),
        (lambda meta: meta.update(applied_scale=0), "applied_scale 0.0 is not positive"),
        (lambda meta: meta.update(ply_file_path="none.ply"), r"none\.ply: not found"),
    ],
)  # fmt: skip
def test_broken_transforms_are_named(transforms, tmp_path, change, match):
    refused(lambda: import_nerfstudio(edited(transforms, change), tmp_path / "c"), match)


# --- TUM ------------------------------------------------------------------------------------------------------------


def test_association_takes_the_nearest_once():
    assert associate(np.array([0.0, 1.0, 2.0]), np.array([0.99, 1.02, 2.5]), 0.1).tolist() == [-1, 0, -1]
    assert associate(np.array([0.0, 0.05]), np.array([0.04]), 0.1).tolist() == [-1, 0]


def test_frames_without_depth_or_pose_are_left_out(tmp_path):
    folder = tum.write(tmp_path / "tum", TRUTH).path
    lines = (folder / "depth.txt").read_text().splitlines()
    (folder / "depth.txt").write_text("\n".join(lines[:-1]))
    capture = Capture.load(import_tum(folder, tmp_path / "c"))
    assert len(capture.images) == 3
    assert capture.posed
    assert capture.metadata["metric"]
    assert capture.images[0].intrinsics.focal_source == "guess"
    (folder / "groundtruth.txt").write_text("5000.0 0 0 0 0 0 0 1\n5001.0 0 0 0 0 0 0 1\n")
    refused(lambda: import_tum(folder, tmp_path / "d"), "0 images have what belongs to them within 0.02 s")
    (folder / "groundtruth.txt").write_text("1 2 3\n")
    refused(
        lambda: import_tum(folder, tmp_path / "d"),
        r"groundtruth\.txt: line '1 2 3' has 3 numbers, expected 8",
    )


def test_a_pair_of_folders_is_rgbd_without_poses(tmp_path):
    for name in ("rgb", "depth"):
        (tmp_path / "robot" / name).mkdir(parents=True)
    for index in range(3):
        Image.fromarray(TRUTH.render(index)).save(tmp_path / "robot" / "rgb" / f"{index:06d}.jpg")
        depth = np.full((24, 32), 1500, np.uint16)
        depth[:, 16:] = 3000
        cv2.imwrite(str(tmp_path / "robot" / "depth" / f"{index:06d}.png"), depth)
    (tmp_path / "robot" / "camera.txt").write_text("51.3 52.1 30.7 25.4 0.1 0 0 0")
    capture = Capture.load(import_tum(tmp_path / "robot", tmp_path / "c"))
    assert not capture.posed
    assert capture.metadata["scale_source"] == "sensor"
    assert capture.images[0].intrinsics.distortion == (0.1, 0, 0, 0)
    assert read_grey(capture.directory / capture.images[0].depth)[0, 0] == 1500
    # A depth camera of its own: pixel column 16 of 32 at fx 20, cx 16 lies straight ahead, where the colour camera's is 30.7.
    cfg = TumCfg(camera=(50.0, 50.0, 30.0, 24.0), depth_camera=(20.0, 20.0, 16.0, 12.0))
    other = Capture.load(import_tum(tmp_path / "robot", tmp_path / "d", cfg))
    depth = read_grey(other.directory / other.images[0].depth)
    assert depth.shape == (24, 32)
    assert depth[12, 14] == 1500  # column 14 of half the size is u = 29: left of the axis at 30
    assert depth[12, 16] == 3000


def test_folders_that_do_not_belong_together(tmp_path):
    refused(lambda: import_tum(tmp_path, tmp_path / "c"), "neither rgb.txt nor a folder rgb")
    for name, count in (("rgb", 3), ("depth", 2)):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.new("L", (8, 8)).save(tmp_path / name / f"{index + (name == 'depth') * 7}.png")
    refused(
        lambda: import_tum(tmp_path, tmp_path / "c"), "3 colour and 2 depth images whose names do not agree"
    )


# --- feed-forward ---------------------------------------------------------------------------------------------------


def arrays(folder):
    folder.mkdir()
    for index in range(4):
        Image.fromarray(TRUTH.render(index)).save(folder / f"{index}.png")
    lens = TRUTH.lenses[0]
    k = np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]]) / [[2], [2], [1]]
    return {
        "names": np.array([f"{index}.png" for index in range(4)]),
        "intrinsics": np.tile(k, (4, 1, 1)),
        "image_size": np.array([32, 24]),
        "w2c": np.linalg.inv(TRUTH.c2w)[:, :3],
        "points": TRUTH.points,
        "depth": np.stack([TRUTH.depth_m(index, 32, 24) for index in range(4)]),
        "metric": np.array(True),
    }


def test_arrays_of_a_feed_forward_model(tmp_path):
    data = arrays(tmp_path / "vggt")
    np.savez(tmp_path / "vggt" / "poses.npz", **data)
    capture = Capture.load(import_feed_forward(tmp_path / "vggt" / "poses.npz", tmp_path / "c"))
    assert capture.metadata["poses_source"] == "feed-forward"
    assert capture.metadata["metric"]
    for image, c2w in zip(capture.images, TRUTH.c2w):
        np.testing.assert_allclose(image.c2w, c2w, atol=1e-9)
        assert image.intrinsics.fx == pytest.approx(TRUTH.lenses[0].fx)
    np.testing.assert_allclose(capture.points()[0], TRUTH.points)
    np.testing.assert_allclose(
        read_grey(capture.directory / capture.images[2].depth) / 1000, data["depth"][2], atol=6e-4
    )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda data: data.pop("w2c"), "lacks c2w"),
        (
            lambda data: data.update(intrinsics=np.eye(3)),
            r"intrinsics has the shape \[3, 3\], expected \[4, 3, 3\]",
        ),
        (lambda data: data.update(w2c=3 * data["w2c"]), "its pose is no rotation"),
        (lambda data: data.update(image_size=np.array([32, 32])), r"0\.png: is 64x48, its camera 32x32"),
        (
            lambda data: data.update(names=np.array(["0.png", "1.png", "2.png", "9.png"])),
            r"missing \(9\.png\)",
        ),
    ],
)
def test_broken_arrays_are_named(tmp_path, change, match):
    data = arrays(tmp_path / "vggt")
    change(data)
    np.savez(tmp_path / "vggt" / "poses.npz", **data)
    refused(lambda: import_feed_forward(tmp_path / "vggt" / "poses.npz", tmp_path / "c"), match)


def test_the_colmap_folder_of_a_feed_forward_model(project, tmp_path):
    for file in (project / "sparse" / "0").iterdir():
        file.rename(project / "sparse" / file.name)  # as VGGT writes it
    capture = Capture.load(import_feed_forward(project, tmp_path / "c"))
    assert capture.metadata["poses_source"] == "feed-forward"
    assert len(capture.images) == 4
