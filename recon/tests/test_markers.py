import cv2
import numpy as np
import pytest
from gaussgym_recon.markers import MarkerSighting, find_markers, scale_from_markers
from gaussgym_recon.posed import Similarity
from gaussgym_recon.sightings import project
from gaussgym_recon.walks import camera_rotation
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from scipy.spatial.transform import Rotation

LENS = Intrinsics(width=320, height=240, fx=300, fy=300, cx=160, cy=120)
SQUARE = np.array([[-1, 1, 0], [1, 1, 0], [1, -1, 0], [-1, -1, 0]]) / 2


def cameras(count=5, distance=1.2):
    """Cameras on an arc that look at the origin from above."""
    angle = np.linspace(-0.7, 0.7, count)
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, :3, 3] = distance * np.c_[-0.7 * np.cos(angle), -0.7 * np.sin(angle), np.full(count, 0.71)]
    c2w[:, :3, :3] = camera_rotation(angle, np.full(count, -np.arctan2(0.71, 0.7)), np.zeros(count))
    return c2w


def photograph(c2w, side, family=cv2.aruco.DICT_4X4_50, identity=7):
    """A marker on a grey floor as the camera sees it, `[240, 320]` uint8."""
    marker = cv2.aruco.generateImageMarker(cv2.aruco.getPredefinedDictionary(family), identity, 180)
    sheet = cv2.copyMakeBorder(marker, 60, 60, 60, 60, cv2.BORDER_CONSTANT, value=255)
    corners = project(SQUARE * side * 300 / 180, c2w, LENS)[0] - 0.5
    drawn = np.array([[0, 0], [300, 0], [300, 300], [0, 300]]) - 0.5
    turn = cv2.getPerspectiveTransform(drawn.astype(np.float32), corners.astype(np.float32))
    image = np.full((240, 320), 120, np.uint8)
    return cv2.warpPerspective(
        sheet, turn, (320, 240), dst=image, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_TRANSPARENT
    )


@pytest.mark.parametrize("family", [cv2.aruco.DICT_4X4_50, cv2.aruco.DICT_APRILTAG_36h11])
def test_a_photographed_marker_of_known_side_gives_the_scale(family):
    c2w = cameras()
    sightings = find_markers((i, photograph(pose, 0.2, family)) for i, pose in enumerate(c2w))
    mine = [s for s in sightings if s.key.endswith(":7")]
    assert len(mine) >= 4
    model = Similarity(3.7, Rotation.random(random_state=1).as_matrix(), np.array([1.0, -2.0, 0.5]))
    found = scale_from_markers(mine, 0.2, model.apply_c2w(c2w), [LENS] * len(c2w))
    assert found.source == "marker"
    assert found.value * 3.7 == pytest.approx(1.0, abs=0.01)
    assert abs(found.value * 3.7 - 1) < 2.5 * found.std_fraction
    assert found.std_fraction < 0.02


def sightings_of(c2w, side, noise, rng, key="a:1"):
    return [
        MarkerSighting(key, i, project(SQUARE * side, pose, LENS)[0] + rng.normal(0, noise, (4, 2)))
        for i, pose in enumerate(c2w)
    ]


def test_stated_deviation_covers_the_truth():
    errors = []
    for seed in range(24):
        rng = np.random.default_rng([seed, 2])
        model = Similarity(
            rng.uniform(0.1, 5), Rotation.random(random_state=seed).as_matrix(), rng.normal(size=3)
        )
        c2w, side = cameras(6, rng.uniform(0.8, 2.0)), 0.2 * (1 + rng.normal(0, 0.005))
        found = scale_from_markers(sightings_of(c2w, side, 1.0, rng), 0.2, model.apply_c2w(c2w), [LENS] * 6)
        errors.append((found.value * model.scale - 1) / found.std_fraction)
    assert np.mean(np.abs(errors) < 2) >= 0.9
    assert 0.3 < np.sqrt(np.mean(np.square(errors))) < 1.4


def test_what_is_no_square_or_seen_too_seldom_does_not_count():
    rng, c2w = np.random.default_rng(0), cameras()
    with pytest.raises(InputError, match="in 2 registered images"):
        scale_from_markers(sightings_of(c2w[:2], 0.2, 0.1, rng), 0.2, c2w, [LENS] * 5)
    oblong = [
        MarkerSighting("a:1", i, project(SQUARE * [0.3, 0.2, 1], pose, LENS)[0]) for i, pose in enumerate(c2w)
    ]
    with pytest.raises(InputError, match="sides that differ by"):
        scale_from_markers(oblong, 0.2, c2w, [LENS] * 5)
    wild = [MarkerSighting("a:1", i, rng.uniform(0, 200, (4, 2))) for i in range(5)]
    with pytest.raises(InputError, match="no marker gives a scale"):
        scale_from_markers(wild, 0.2, c2w, [LENS] * 5)
    with pytest.raises(InputError, match="none was found"):
        scale_from_markers([], 0.2, c2w, [LENS] * 5)
    with pytest.raises(InputError, match=r"marker side 16 m"):
        scale_from_markers([], 16, c2w, [LENS] * 5)
