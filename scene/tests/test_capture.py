import json

import numpy as np
import pytest
from gaussgym_scene import Capture, CaptureImage, InputError, Intrinsics
from gaussgym_scene.artifact import ArtifactWriter
from gaussgym_scene.capture import FORMAT, MANIFEST, VERSION


@pytest.fixture
def folder(tmp_path):
    camera = Intrinsics(width=4, height=3, fx=5, fy=5, cx=2, cy=1.5, focal_source="exif")
    pose = np.arange(16.0).reshape(4, 4)
    images = [
        CaptureImage("images/a.jpg", camera, (55.7, 13.2, 40.0), pose, 1.5),
        CaptureImage("images/b.jpg", camera),
    ]
    with ArtifactWriter(tmp_path / "c", manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        (writer.path / "images").mkdir()
        for image in images:
            (writer.path / image.file).write_bytes(b"not a real photograph")
        writer.fields.update(Capture(writer.path, images, {"source": "images"}).manifest_fields())
    return tmp_path / "c"


def test_round_trip(folder):
    capture = Capture.load(folder)
    first, second = capture.images
    assert first.gps_lat_lon_alt == (55.7, 13.2, 40.0)
    assert first.intrinsics.focal_source == "exif"
    np.testing.assert_array_equal(first.c2w, np.arange(16.0).reshape(4, 4))
    assert (second.gps_lat_lon_alt, second.c2w, second.timestamp_s) == (None, None, None)
    assert capture.path(1).read_bytes() == b"not a real photograph"


def test_an_entry_without_its_file_is_refused(folder):
    manifest = folder / MANIFEST
    fields = json.loads(manifest.read_text())
    del fields["images"][0]["file"]
    manifest.write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"capture\.json: an image entry lacks"):
        Capture.load(folder)
