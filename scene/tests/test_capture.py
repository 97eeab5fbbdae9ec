import json

import numpy as np
import pytest
from gaussgym_scene import Capture, CaptureImage, InputError, Intrinsics
from gaussgym_scene.artifact import ArtifactWriter, write_manifest
from gaussgym_scene.capture import FORMAT, MANIFEST, VERSION, png_header, read_points, write_points
from PIL import Image

CAMERA = Intrinsics(width=4, height=3, fx=5, fy=5, cx=2, cy=1.5, focal_source="exif")
POSE = np.array(
    [[0, 0, 1, 2], [-1, 0, 0, 3], [0, -1, 0, 4], [0, 0, 0, 1]], float
)  # looks along +X, down is -Z


def grey(path, size, value, dtype=np.uint8):
    Image.fromarray(np.full(size[::-1], value, dtype)).save(path)


def write(directory, images, metadata, *, extra=None):
    with ArtifactWriter(directory, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        (writer.path / "images").mkdir()
        for image in images:
            (writer.path / image.file).write_bytes(b"not a real photograph")
        if extra is not None:
            extra(writer.path)
        writer.fields.update(Capture(writer.path, images, metadata).manifest_fields())
    return directory


@pytest.fixture
def folder(tmp_path):
    images = [
        CaptureImage("images/a.jpg", CAMERA, (55.7, 13.2, 40.0), POSE, 1.5),
        CaptureImage("images/b.jpg", CAMERA),
    ]
    return write(tmp_path / "c", images, {"source": "images"})


def rgbd(
    directory, *, depth_dtype=np.uint16, confidence_size=(2, 2), mask_size=(4, 3), c2w=POSE, metadata=None
):
    """A capture of one image with everything."""

    def extra(path):
        grey(path / "d.png", (2, 2), 150, depth_dtype)
        grey(path / "k.png", confidence_size, 2)
        grey(path / "m.png", mask_size, 255)
        write_points(
            path / "points.ply", np.array([[1.0, 2, 3], [1e6, 0, 0.125]]), np.array([[1, 2, 3], [4, 5, 6]])
        )

    image = CaptureImage("images/a.jpg", CAMERA, None, c2w, 1.5, "d.png", "k.png", "m.png")
    known = {
        "source": "test",
        "points_file": "points.ply",
        "metric": True,
        "up": [0, 0, 1],
        **(metadata or {}),
    }
    return write(directory, [image], known, extra=extra)


def test_round_trip(folder):
    capture = Capture.load(folder)
    first, second = capture.images
    assert first.gps_lat_lon_alt == (55.7, 13.2, 40.0)
    assert first.intrinsics.focal_source == "exif"
    np.testing.assert_array_equal(first.c2w, POSE)
    assert (second.gps_lat_lon_alt, second.c2w, second.timestamp_s) == (None, None, None)
    assert (second.depth, second.confidence, second.mask) == (None, None, None)
    assert capture.path(1).read_bytes() == b"not a real photograph"
    assert capture.points() is None
    assert not capture.posed


def test_entries_without_depth_read_like_those_of_older_captures(folder):
    assert set(json.loads((folder / MANIFEST).read_text())["images"][0]) == {
        "file", "intrinsics", "gps_lat_deg_lon_deg_alt_m", "c2w", "timestamp_s",
    }  # fmt: skip


def test_depth_confidence_mask_and_points_come_back(tmp_path):
    capture = Capture.load(rgbd(tmp_path / "c"))
    image = capture.images[0]
    assert (image.depth, image.confidence, image.mask) == ("d.png", "k.png", "m.png")
    assert png_header(tmp_path / "c" / "d.png") == (2, 2, 16, 0)
    assert capture.posed
    points, colors = capture.points()
    np.testing.assert_array_equal(points, [[1, 2, 3], [1e6, 0, 0.125]])
    np.testing.assert_array_equal(colors, [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"depth_dtype": np.uint8}, r"d\.png: 8 bits of PNG colour type 0, expected a grey PNG of 16 bits"),
        ({"confidence_size": (3, 2)}, r"k\.png: is 3x2, expected 2x2"),
        ({"mask_size": (3, 4)}, r"m\.png: is 3x4, expected 4x3"),
        ({"c2w": 2.0 * POSE}, r"a\.jpg: its pose is no rotation and translation"),
        ({"c2w": POSE * [[-1], [1], [1], [1]]}, r"determinant -1\.00"),
        ({"c2w": np.where(POSE == 3, np.nan, POSE)}, r"a\.jpg: its pose holds NaN"),
        ({"metadata": {"up": [0, 0, 2]}}, r"'up' is \[0, 0, 2\], expected a unit vector"),
        ({"metadata": {"up": "z"}}, r"'up' is 'z', expected a unit vector"),
        (
            {"metadata": {"points_file": "cloud.ply"}},
            r"names the points 'cloud\.ply', which is not among its files",
        ),
    ],
)
def test_entries_that_contradict_their_files_are_refused(tmp_path, change, match):
    with pytest.raises(InputError, match=match) as caught:
        Capture.load(rgbd(tmp_path / "c", **change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"file": None}, "image entry 0 lacks or misuses file None"),
        ({"depth": "images/none.png"}, r"names 'images/none\.png', which is not among its files"),
        ({"depth": 5}, "image entry 0 lacks or misuses depth 5"),
        ({"c2w": [1, 2, 3]}, "image entry 0 lacks or misuses cannot reshape"),
        ({"timestamp_s": "noon"}, "image entry 0 lacks or misuses could not convert"),
        ({"confidence": "images/b.jpg"}, r"b\.jpg: a confidence without a depth"),
    ],
)
def test_misused_entries_are_named(folder, change, match):
    fields = json.loads((folder / MANIFEST).read_text())
    fields["images"][0].update(change)
    (folder / MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(InputError, match=match):
        Capture.load(folder)


def test_an_entry_without_its_file_is_refused(folder):
    manifest = folder / MANIFEST
    fields = json.loads(manifest.read_text())
    del fields["images"][0]["file"]
    manifest.write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"capture\.json: image entry 0 lacks"):
        Capture.load(folder)


def test_a_manifest_without_images_is_refused(tmp_path):
    tmp_path.joinpath("c").mkdir()
    write_manifest(tmp_path / "c", MANIFEST, {"format": FORMAT, "version": VERSION, "metadata": {}})
    with pytest.raises(InputError, match="lacks its list of images"):
        Capture.load(tmp_path / "c")


def test_points_that_are_not_finite_are_refused(tmp_path):
    write_points(tmp_path / "p.ply", np.array([[1.0, 2, np.inf], [0, 0, 0]]))
    with pytest.raises(InputError, match="1 of 2 points are NaN or infinite"):
        read_points(tmp_path / "p.ply")
    write_points(tmp_path / "q.ply", np.zeros((2, 3)))
    assert read_points(tmp_path / "q.ply")[1] is None
