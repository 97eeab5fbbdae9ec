"""Captures are written whole or not at all, and hooks see every image."""

import numpy as np
import pytest
from gaussgym_recon.exif import exif_block, read_photo
from gaussgym_recon.sources import SOURCES, hooks
from gaussgym_recon.sources.source import Source, SourceCfg
from gaussgym_recon.sources.writing import Frame, depth_mm, write_capture
from gaussgym_recon.views import read_grey
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.capture import Capture
from gaussgym_scene.errors import InputError
from PIL import Image

CAMERA = Intrinsics(width=8, height=6, fx=7, fy=7, cx=4, cy=3)
KNOWN = {"source": "test", "ordered": True}


def pixels(value=90):
    return np.full((6, 8, 3), value, np.uint8)


def frames(**others):
    return [Frame(f"{number}.jpg", pixels(), CAMERA, c2w=np.eye(4), **others) for number in range(2)]


def test_everything_comes_back(tmp_path):
    depth = np.array([[0.5, 65.5], [np.nan, 70.0]])
    mask = np.zeros((6, 8), bool)
    mask[:, 3:] = True
    written = write_capture(
        tmp_path / "c",
        frames(depth_m=depth, confidence=np.array([[0, 1], [2, 0]]), mask=mask, timestamp_s=3.5),
        {**KNOWN, "metric": True, "gravity_source": "sensor", "up": [0, 1, 0]},
        np.array([[1.0, 2, 3]]),
        colors=np.array([[9, 8, 7]], np.uint8),
    )
    capture = Capture.load(written)
    image = capture.images[1]
    assert (image.file, image.depth, image.mask) == ("images/1.jpg", "depth/1.png", "masks/1.png")
    np.testing.assert_array_equal(read_grey(written / image.depth), [[500, 65500], [0, 0]])
    np.testing.assert_array_equal(read_grey(written / image.confidence), [[0, 1], [2, 0]])
    np.testing.assert_array_equal(read_grey(written / image.mask) == 255, mask)
    np.testing.assert_array_equal(capture.points()[0], [[1, 2, 3]])
    assert capture.metadata["scale_source"] is None
    assert capture.posed


def test_depth_in_millimetres_keeps_no_nonsense():
    np.testing.assert_array_equal(
        depth_mm(np.array([0.0004, 0.0006, -1, np.inf, 65.535])), [0, 1, 0, 0, 65535]
    )


def test_a_file_is_copied_as_it_is_and_a_name_may_hold_dots(tmp_path):
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    both = [Frame(f"front/12.{number}", tmp_path / "a.png", CAMERA) for number in (5, 6)]
    capture = Capture.load(write_capture(tmp_path / "c", both, KNOWN))
    assert [image.file for image in capture.images] == ["images/front/12.5.png", "images/front/12.6.png"]
    assert capture.path(0).read_bytes() == (tmp_path / "a.png").read_bytes()


def test_hooks_change_and_mask_every_image(tmp_path, monkeypatch):
    for number in (1, 2):
        Image.fromarray(pixels()).save(tmp_path / f"{number}.jpg", exif=exif_block(focal_35mm=26))

    def blacken(image):
        image[:, :4] = 0
        return image

    found = {hooks.REDACTORS: blacken, hooks.SEGMENTERS: lambda image: image[..., 0] > 100}
    monkeypatch.setattr("gaussgym_recon.sources.writing.load_hook", lambda group, name: found[group])
    mine = np.ones((6, 8), bool)
    mine[0] = False
    both = [Frame(f"{number}.jpg", tmp_path / f"{number}.jpg", CAMERA, mask=mine) for number in (1, 2)]
    capture = Capture.load(write_capture(tmp_path / "c", both, KNOWN, cfg=SourceCfg(redact="a", segment="b")))
    image = np.asarray(Image.open(capture.path(0)))
    assert image[:, :3].max() < 30
    assert abs(int(image[3, 7, 0]) - 90) < 12
    assert not read_grey(capture.directory / capture.images[0].mask).any()  # 90 is not above 100
    assert capture.metadata["redacted_by"] == "a"
    assert read_photo(capture.path(0)).focal_px is not None


def test_a_hook_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(InputError, match=r"unknown redactor 'faces'; choose one of: \(none\)"):
        write_capture(tmp_path / "c", frames(), KNOWN, cfg=SourceCfg(redact="faces"))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: frames()[:1], "1 images to write"),
        (lambda: [frames()[0], frames()[0]], r"images/0\.jpg: two images of this name"),
        (lambda: [Frame("../x.jpg", pixels(), CAMERA)], r"'\.\./x\.jpg' leaves the capture"),
        (lambda: [Frame("x.jpg", pixels()[:5], CAMERA)], r"x\.jpg: is 8x5, its camera 8x6"),
        (lambda: [Frame("x.jpg", pixels(), CAMERA, c2w=2 * np.eye(4))], r"x\.jpg: its pose is no rotation"),
        (lambda: frames(mask=np.ones((8, 6), bool)), "its mask is 6x8, expected 8x6"),
        (lambda: frames(depth_m=np.ones((2, 2)), confidence=np.ones((2, 3))), "confidence"),
    ],
)
def test_contradictions_are_refused_and_leave_nothing(tmp_path, make, match):
    with pytest.raises(InputError, match=match):
        write_capture(tmp_path / "c", make(), KNOWN)
    assert not list(tmp_path.iterdir())


def test_points_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(InputError, match="1 of 2 points"):
        write_capture(tmp_path / "c", frames(), KNOWN, np.array([[0, 0, 0], [np.nan, 0, 0]]))


@pytest.mark.parametrize("name", SOURCES.names())
def test_every_source_is_one(name):
    source = SOURCES.get(name)
    assert isinstance(source, Source)
    assert issubclass(source.cfg, SourceCfg)
    source.cfg()


def test_an_unknown_source_lists_the_others():
    with pytest.raises(InputError, match="unknown source 'polaroid'; choose one of: images, video"):
        SOURCES.get("polaroid")
