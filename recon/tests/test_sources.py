import subprocess

import numpy as np
import pytest
from gaussgym_recon.exif import exif_block
from gaussgym_recon.sources.images import GUESSED_FOCAL_OF_LONG_SIDE, ImagesCfg, import_images
from gaussgym_recon.sources.selection import sharpest_of_spans
from gaussgym_recon.sources.video import VideoCfg, import_video
from gaussgym_scene.capture import Capture
from gaussgym_scene.errors import InputError
from PIL import Image, ImageFilter


def photograph(path, *, size=(96, 72), focal=26, gps=None, time_s=None, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    exif = exif_block(focal_35mm=focal, gps_lat_lon_alt=gps, timestamp_s=time_s)
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    for number in (2, 10, 1):
        photograph(
            source / f"IMG_{number}.jpg",
            gps=(47.0 + number * 1e-5, 8.0, 400.0),
            time_s=1e9 + number,
            seed=number,
        )
    return source


def test_photographs_become_a_capture(folder, tmp_path):
    capture = Capture.load(import_images(folder, tmp_path / "capture"))
    assert [image.file for image in capture.images] == [
        "images/IMG_1.jpg",
        "images/IMG_2.jpg",
        "images/IMG_10.jpg",
    ]
    assert capture.images[2].gps_lat_lon_alt == pytest.approx((47.0001, 8.0, 400.0))
    assert capture.images[2].timestamp_s == 1e9 + 10
    camera = capture.images[0].intrinsics
    assert camera.focal_source == "exif"
    assert camera.fx == pytest.approx(26 / 43.2666 * 120, rel=1e-4)
    assert (camera.cx, camera.cy) == (48, 36)
    assert capture.metadata["ordered"]
    assert capture.metadata["exif_orientation"] == [1, 1, 1]
    for image in capture.images:
        name = image.file.removeprefix("images/")
        assert (capture.directory / image.file).read_bytes() == (folder / name).read_bytes()


def test_photographs_in_a_subfolder_images_are_found(folder, tmp_path):
    (tmp_path / "outer").mkdir()
    folder.rename(tmp_path / "outer" / "images")
    (tmp_path / "outer" / "SOURCE.txt").write_text("notes")
    assert len(Capture.load(import_images(tmp_path / "outer", tmp_path / "capture")).images) == 3


def test_names_out_of_time_order_are_no_sequence(folder, tmp_path):
    for number, time_s in ((1, 30.0), (2, 10.0), (10, 20.0)):
        photograph(folder / f"IMG_{number}.jpg", time_s=1e9 + time_s, seed=number)
    assert not Capture.load(import_images(folder, tmp_path / "capture")).metadata["ordered"]


def test_without_exif_the_focal_length_is_a_guess(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (80, 60), (number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    camera = Capture.load(import_images(tmp_path / "photos", tmp_path / "capture")).images[0].intrinsics
    assert camera.focal_source == "guess"
    assert camera.fx == 80 * GUESSED_FOCAL_OF_LONG_SIDE


def refused(folder, tmp_path, match):
    with pytest.raises(InputError, match=match) as caught:
        import_images(folder, tmp_path / "capture")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "capture").exists()
    assert not (tmp_path / "capture.partial").exists()


def test_no_folder(tmp_path):
    refused(tmp_path / "nowhere", tmp_path, "not a folder")


def test_no_images(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").write_text("none here")
    refused(tmp_path / "photos", tmp_path, "holds no images")


def test_one_image(folder, tmp_path):
    for name in ("IMG_1.jpg", "IMG_2.jpg"):
        (folder / name).unlink()
    refused(folder, tmp_path, "holds one image, IMG_10.jpg")


def test_truncated_jpeg(folder, tmp_path):
    path = folder / "IMG_2.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(folder, tmp_path, r"IMG_2\.jpg: does not decode")


def test_several_cameras_each_get_their_own_focal_length(folder, tmp_path):
    photograph(folder / "IMG_3.jpg", size=(72, 96))
    photograph(folder / "IMG_4.jpg", focal=52)
    Image.new("RGB", (64, 64)).save(folder / "IMG_5.png")
    capture = Capture.load(import_images(folder, tmp_path / "capture"))
    focal = {image.file.removeprefix("images/"): image.intrinsics for image in capture.images}
    main = 26 / 43.2666 * 120
    assert focal["IMG_1.jpg"].fx == pytest.approx(main, rel=1e-4)
    assert focal["IMG_3.jpg"].fx == pytest.approx(main, rel=1e-4)
    assert (focal["IMG_3.jpg"].width, focal["IMG_3.jpg"].height) == (72, 96)
    assert focal["IMG_4.jpg"].fx == pytest.approx(2 * main, rel=1e-4)
    assert focal["IMG_5.png"].focal_source == "guess"
    assert focal["IMG_1.jpg"] == focal["IMG_2.jpg"] == focal["IMG_10.jpg"]


def test_a_photograph_without_a_focal_length_takes_that_of_its_only_likeness(folder, tmp_path):
    Image.new("RGB", (96, 72)).save(folder / "IMG_3.png")
    cameras = [image.intrinsics for image in Capture.load(import_images(folder, tmp_path / "c")).images]
    assert len(set(cameras)) == 1
    photograph(folder / "IMG_4.jpg", focal=52)  # now there are two zooms to choose from
    cameras = {i.file: i.intrinsics for i in Capture.load(import_images(folder, tmp_path / "d")).images}
    assert cameras["images/IMG_3.png"].focal_source == "guess"


def test_frames_keeps_the_sharpest_of_equal_spans(folder, tmp_path):
    for number in (1, 10):
        Image.open(folder / "IMG_2.jpg").filter(ImageFilter.GaussianBlur(3)).save(
            folder / f"IMG_{number}.jpg"
        )
    photograph(folder / "IMG_11.jpg", seed=5)
    capture = Capture.load(import_images(folder, tmp_path / "capture", ImagesCfg(frames=2)))
    assert [image.file for image in capture.images] == ["images/IMG_2.jpg", "images/IMG_11.jpg"]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Two seconds of a moving picture, 30 frames per second, every fourth frame sharp and the others blurred."""
    folder = tmp_path_factory.mktemp("film")
    pixels = np.random.default_rng(0).integers(0, 255, (120, 400, 3), dtype=np.uint8)
    for number in range(60):
        frame = Image.fromarray(pixels[:, number * 2 : number * 2 + 160])
        frame = frame if number % 4 == 1 else frame.filter(ImageFilter.GaussianBlur(3))
        frame.save(folder / f"{number:03d}.png")
    path = folder / "film.mp4"
    command = [
        "ffmpeg",
        "-loglevel",
        "error",
        "-framerate",
        "30",
        "-i",
        str(folder / "%03d.png"),
        "-crf",
        "12",
    ]
    subprocess.run([*command, "-pix_fmt", "yuv420p", str(path)], check=True)
    return path


def test_the_sharp_frames_of_a_film_are_kept(film, tmp_path):
    output = import_video(film, tmp_path / "capture", cfg=VideoCfg(frames=15, candidates_per_frame=4))
    capture = Capture.load(output)
    assert len(capture.images) == 15
    assert capture.metadata["source"] == "video"
    assert capture.images[0].intrinsics.width == 160
    assert capture.images[0].intrinsics.focal_source == "guess"
    frames = np.array([image.timestamp_s * 30 for image in capture.images])
    np.testing.assert_allclose(frames % 4, 1, atol=0.1)


def test_a_short_film_does_not_get_frames_twice(film, tmp_path):
    capture = Capture.load(import_video(film, tmp_path / "capture", cfg=VideoCfg(frames=500)))
    assert len(capture.images) <= 61


def test_long_side_is_bounded(film, tmp_path):
    cfg = VideoCfg(frames=10, max_long_side_px=80)
    camera = Capture.load(import_video(film, tmp_path / "capture", cfg=cfg)).images[0].intrinsics
    assert (camera.width, camera.height) == (80, 60)


def test_text_is_no_film(tmp_path):
    (tmp_path / "a.mp4").write_text("hello")
    with pytest.raises(InputError, match=r"a\.mp4: not a readable video"):
        import_video(tmp_path / "a.mp4", tmp_path / "capture")
    assert not (tmp_path / "capture").exists()


def test_missing_ffmpeg_is_named(film, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"not installed.*apt-get install ffmpeg"):
        import_video(film, tmp_path / "capture")


def test_missing_film(tmp_path):
    with pytest.raises(InputError, match="not found"):
        import_video(tmp_path / "none.mp4", tmp_path / "capture")


def test_sharpest_of_spans():
    np.testing.assert_array_equal(sharpest_of_spans(np.array([1.0, 5, 2, 0, 3, 9]), 3), [1, 2, 5])
    np.testing.assert_array_equal(sharpest_of_spans(np.array([1.0, 5]), 3), [0, 1])
