import numpy as np
import pytest
from gaussgym_recon.control_points import ControlPoint, align_to_control_points, read_control_points
from gaussgym_recon.georegister import gps_from_enu, level_rotation
from gaussgym_recon.posed import Similarity
from gaussgym_recon.sightings import project
from gaussgym_recon.walks import camera_rotation
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from scipy.spatial.transform import Rotation

LENS = Intrinsics(width=960, height=720, fx=800, fy=800, cx=480, cy=360)
PLACES = np.array([[0.0, 0, 0], [14, 3, 0.5], [6, 12, -0.4], [15, 13, 1.0], [-2, 9, 0.2]])


def cameras():
    c2w = np.tile(np.eye(4), (6, 1, 1))
    c2w[:, :3, 3] = [[0, 0, 30], [8, 0, 31], [16, 0, 30], [0, 12, 29], [8, 12, 30], [16, 12, 31]]
    c2w[:, :3, :3] = camera_rotation(np.full(6, 0.4), np.full(6, -1.5), np.zeros(6))
    return c2w


def seen(noise_px=0.0, survey_m=0.0, rng=None):
    """Control points with their sightings from all cameras."""
    rng = rng or np.random.default_rng(0)
    points = []
    for number, place in enumerate(PLACES):
        sightings = []
        for camera, pose in enumerate(cameras()):
            u, v = project(place[None], pose, LENS)[0][0] + rng.normal(0, noise_px, 2)
            if 0 < u < 960 and 0 < v < 720:
                sightings.append((f"{camera}.JPG", u, v))
        points.append(ControlPoint(str(number), place + rng.normal(0, survey_m, 3), sightings))
    return points


NAMES = [f"images/{i}.jpg" for i in range(6)]


def test_scale_and_gravity_are_exact_without_noise():
    model = Similarity(0.13, Rotation.from_euler("zyx", [2.0, 1.0, -0.7]).as_matrix(), np.array([1.0, 2, 3]))
    scale, up = align_to_control_points(seen(), NAMES, model.apply_c2w(cameras()), [LENS] * 6)
    assert scale.value == pytest.approx(1 / 0.13, rel=1e-6)
    np.testing.assert_allclose(up.up, model.rotation[:, 2], atol=1e-6)


def test_stated_deviations_cover_the_truth():
    errors, tilts = [], []
    for seed in range(24):
        rng = np.random.default_rng([seed, 8])
        model = Similarity(
            rng.uniform(0.1, 4), Rotation.random(random_state=seed).as_matrix(), rng.normal(size=3)
        )
        scale, up = align_to_control_points(
            seen(0.7, 0.03, rng), NAMES, model.apply_c2w(cameras()), [LENS] * 6
        )
        errors.append((scale.value * model.scale - 1) / scale.std_fraction)
        tilt = level_rotation(up.up)[:2]
        off = tilt @ (model.rotation[:, 2] - up.up)
        tilts.append(np.sqrt(off @ (tilt @ up.information @ tilt.T) @ off / 2))
    for values in (errors, tilts):
        assert np.mean(np.abs(values) < 2) >= 0.85
        assert 0.4 < np.sqrt(np.mean(np.square(values))) < 1.5


def test_points_on_one_line_or_too_few_are_refused():
    with pytest.raises(InputError, match="2 of 2 control points"):
        align_to_control_points(seen()[:2], NAMES, cameras(), [LENS] * 6)
    line = []
    for number in range(4):
        place = np.array([4.0 * number, 2.0 * number, 0.0])
        sightings = [
            (f"{c}.jpg", *project(place[None], pose, LENS)[0][0]) for c, pose in enumerate(cameras())
        ]
        line.append(ControlPoint(str(number), place, sightings))
    with pytest.raises(InputError, match="on one line"):
        align_to_control_points(line, NAMES, cameras(), [LENS] * 6)


def test_a_file_in_degrees_equals_one_in_metres(tmp_path):
    places = PLACES + [3.0, -2.0, 0.0]
    degrees = gps_from_enu(places, (47.0, 8.5, 400.0))
    rows = [
        f"{lon:.10f} {lat:.10f} {alt:.4f} 10.5 20 a.jpg p{i}" for i, (lat, lon, alt) in enumerate(degrees)
    ]
    (tmp_path / "geographic.txt").write_text("EPSG:4326\n" + "\n".join(rows) + "\n# a remark\n")
    rows = [f"{x} {y} {z} 10.5 20 a.jpg p{i}" for i, (x, y, z) in enumerate(places)]
    (tmp_path / "local.txt").write_text("WGS84 UTM 32N\n" + "\n".join(rows) + "\n")
    one, two = (read_control_points(tmp_path / f"{n}.txt") for n in ("geographic", "local"))
    for a, b in zip(one, two):
        np.testing.assert_allclose(a.position_m, b.position_m, atol=1e-3)
        assert a.sightings == b.sightings == [("a.jpg", 10.5, 20.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("EPSG:2056\n1 2 3 4 5 a.jpg\n", "coordinate system 'EPSG:2056'"),
        ("local\n1 2 three 4 5 a.jpg\n", "line 2"),
        ("local\n1 2 3 4 5\n", "line 2"),
        ("local\n", "names no sighting"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, text, message):
    (tmp_path / "gcp_list.txt").write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        read_control_points(tmp_path / "gcp_list.txt")
    assert "\n" not in str(raised.value)
