import io
import math

import pytest
from gaussgym_recon.exif import EXIF_IFD, GPS_IFD, exif_block, focal_length_px, gps_position, read_photo
from gaussgym_scene.errors import InputError
from PIL import Image


def save(path, exif=None, size=(64, 48)):
    image = Image.new("RGB", size, (90, 120, 60))
    image.save(path, exif=exif) if exif is not None else image.save(path)
    return path


def test_35mm_equivalent_is_taken_over_the_diagonal():
    # 35 mm of a 43.27 mm diagonal, 1280 px of diagonal at 1024x768: 1035.4 px.
    assert focal_length_px({0xA405: 35}, 1024, 768) == pytest.approx(1035.44, abs=0.05)
    assert focal_length_px({0xA405: 35}, 768, 1024) == pytest.approx(1035.44, abs=0.05)
    assert focal_length_px({0xA405: 35}, 960, 720) == pytest.approx(1035.44 * 960 / 1024, abs=0.05)


def test_focal_length_from_the_resolution_of_the_sensor_follows_a_resize():
    # 4.5 mm at 16393.44 px per inch: 2904.3 px at 4000 px of width, 697 px at 960.
    tags = {0x920A: 4.5, 0xA20E: 16393.44262295082, 0xA210: 2, 0xA002: 4000}
    assert focal_length_px(tags, 4000, 3000) == pytest.approx(4.5 / 25.4 * 16393.4426, rel=1e-6)
    assert focal_length_px(tags, 960, 720) == pytest.approx(4.5 / 25.4 * 16393.4426 * 0.24, rel=1e-6)


@pytest.mark.parametrize("tags", [{}, {0xA405: 0}, {0x920A: 4.3}, {0xA405: "n/a"}, {0xA405: 100000}])
def test_focal_length_that_the_tags_do_not_give(tags):
    assert focal_length_px(tags, 960, 720) is None


@pytest.mark.parametrize(
    "place", [(47.3769, 8.5417, 408.5), (-33.8688, -70.25, -12.25), (0.001, 179.9999, 0.0)]
)
def test_what_is_written_is_read(tmp_path, place):
    path = save(
        tmp_path / "a.jpg", exif_block(focal_35mm=26, gps_lat_lon_alt=place, timestamp_s=1.7e9 + 0.25)
    )
    photo = read_photo(path)
    # A hundred-millionth of a degree is a millimetre.
    assert photo.gps_lat_lon_alt == pytest.approx(place, abs=2e-8)
    assert photo.focal_px == pytest.approx(26 / math.hypot(36, 24) * 80)
    assert photo.timestamp_s == pytest.approx(1.7e9 + 0.25)
    assert (photo.width, photo.height, photo.orientation) == (64, 48, 1)


def test_degrees_minutes_seconds_of_the_standard():
    tags = {1: "S", 2: (55.0, 41.0, 53.4), 3: "W", 4: (13.0, 11.0, 43.4), 5: b"\x01", 6: 37.0}
    assert gps_position(tags) == pytest.approx((-55.698166667, -13.195388889, -37.0))


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {1: "N", 2: (1.0, 2.0)},
        {2: (float("nan"), 0.0, 0.0), 4: (1.0, 0.0, 0.0)},
        {2: (95.0, 0, 0), 4: (0, 0, 1)},
        {2: (0, 0, 0), 4: (0, 0, 0)},
    ],
)
def test_no_fix(tags):
    assert gps_position(tags) is None


def test_fix_without_altitude():
    latitude, longitude, altitude = gps_position({1: "N", 2: (1.0, 30.0, 0.0), 3: "E", 4: (2.0, 0.0, 0.0)})
    assert (latitude, longitude) == (1.5, 2.0)
    assert math.isnan(altitude)


def test_orientation_is_kept_and_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = read_photo(save(tmp_path / "a.jpg", exif))
    assert (photo.orientation, photo.width, photo.height) == (6, 64, 48)


def test_image_without_exif(tmp_path):
    photo = read_photo(save(tmp_path / "a.png"))
    assert (photo.focal_px, photo.gps_lat_lon_alt, photo.timestamp_s, photo.orientation) == (
        None,
        None,
        None,
        1,
    )


def test_block_survives_pillow(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(
        buffer, "JPEG", exif=exif_block(focal_35mm=26, gps_lat_lon_alt=(1.0, 2.0, 3.0))
    )
    exif = Image.open(buffer).getexif()
    assert exif.get_ifd(EXIF_IFD)[0xA405] == 26
    assert exif.get_ifd(GPS_IFD)[1] == "N"


def test_truncated_jpeg_is_named(tmp_path):
    path = save(tmp_path / "cut.jpg", size=(400, 300))
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(InputError, match=r"cut\.jpg: does not decode"):
        read_photo(path)


def test_text_is_no_image(tmp_path):
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(InputError, match=r"a\.jpg: not an image"):
        read_photo(tmp_path / "a.jpg")
