import cv2
import numpy as np
import pytest
from gaussgym_recon.plumb_lines import segment_planes, up_from_lines
from gaussgym_scene.cameras import Intrinsics, distort
from scipy.spatial.transform import Rotation

LENS = Intrinsics(
    width=640, height=480, fx=500.0, fy=503.0, cx=318.0, cy=243.0, distortion=(-0.05, 0.02, 0.001, -0.001)
)
TURN = Rotation.from_euler("xyz", [10.0, -7.0, 100.0], degrees=True).as_matrix()
"""A frame in which nothing is an axis, and which no transpose leaves alone."""


def degrees_between(a, b):
    return np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


def planes(rng, images=40, plumb=30, clutter=60, noise_deg=0.3, lean_deg=0.0, azimuths=(-np.pi, np.pi)):
    """Normals of planes that hold the vertical, and of others, in the turned frame; lengths; images."""
    azimuth = rng.uniform(*azimuths, images * plumb)
    level = np.c_[np.cos(azimuth), np.sin(azimuth), np.zeros(len(azimuth))]
    level[:, 2] = np.sin(np.radians(noise_deg * rng.normal(size=len(azimuth)) + lean_deg * np.cos(azimuth)))
    others = rng.normal(size=(images * clutter, 3))
    normals = np.concatenate([level, others])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    normals *= rng.choice([-1.0, 1.0], (len(normals), 1))
    index = np.concatenate([np.repeat(np.arange(images), plumb), np.repeat(np.arange(images), clutter)])
    return normals @ TURN.T, rng.uniform(0.03, 0.3, len(normals)), index


@pytest.mark.parametrize("tilt_deg", [0.0, 8.0])
def test_the_vertical_of_plumb_edges_among_clutter(tilt_deg):
    up = TURN @ [0.0, 0.0, 1.0]
    start = TURN @ Rotation.from_euler("xy", [tilt_deg, -tilt_deg / 2], degrees=True).apply([0.0, 0.0, 1.0])
    for seed in range(5):
        found = up_from_lines(*planes(np.random.default_rng(seed)), start)
        assert found is not None
        error = degrees_between(found.up, up)
        assert error < 0.1
        assert error < 3.0 * np.degrees(found.std_rad)
        assert found.std_rad < np.radians(0.5)


def test_the_stated_uncertainty_follows_how_photographs_differ():
    rng = np.random.default_rng(3)
    normals, lengths, images = planes(rng, images=12)
    start = TURN @ [0.0, 0.0, 1.0]
    steady = up_from_lines(normals, lengths, images, start)
    turns = Rotation.from_rotvec(np.radians(0.5) * rng.normal(size=(12, 3))).as_matrix()
    loose = up_from_lines(np.einsum("nij,nj->ni", turns[images], normals), lengths, images, start)
    assert steady is not None
    assert loose is not None
    assert loose.std_rad > 1.3 * steady.std_rad
    assert degrees_between(loose.up, start) < 3.0 * np.degrees(loose.std_rad)


@pytest.mark.parametrize(
    "settings",
    [
        {"plumb": 0, "clutter": 90},  # woods
        {"images": 5},
        {"images": 9, "plumb": 3},  # too few
        {"azimuths": (0.3, 0.3)},  # one edge seen from one direction: a tilt towards it stays open
        {"noise_deg": 5.0},  # nothing is straight
    ],
)
def test_where_edges_do_not_agree_nothing_is_said(settings):
    assert up_from_lines(*planes(np.random.default_rng(0), **settings), TURN @ [0.0, 0.0, 1.0]) is None


def test_segments_of_a_photograph_through_a_distorted_lens():
    picture = np.full((LENS.height, LENS.width), 200, np.uint8)
    # A long straight edge in space, its image bent by the lens, as the boundary of a dark region.
    ends = np.array([[-0.35, -0.4, 1.0], [-0.2, 0.4, 1.0]])
    along = np.linspace(0, 1, 200)[:, None] * (ends[1] - ends[0]) + ends[0]
    bent = distort(along[:, :2], LENS.distortion) * [LENS.fx, LENS.fy] + [LENS.cx, LENS.cy]
    corners = np.concatenate([bent, [[0.0, bent[-1, 1]], [0.0, bent[0, 1]]]])
    # fillPoly's pixel centres are whole numbers; 4 bits of fraction.
    cv2.fillPoly(picture, [np.round((corners - 0.5) * 16).astype(np.int32)], 60, cv2.LINE_AA, 4)
    wanted = np.cross(*ends) / np.linalg.norm(np.cross(*ends))
    for grey in (picture, cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)):
        found = segment_planes(grey, LENS)
        on_edge = np.abs(np.arcsin(np.abs(found.normals @ wanted)) - np.pi / 2) < np.radians(1.0)
        assert found.lengths[on_edge].sum() > 0.3
        assert np.all(found.lengths > 0.03)
        aligned = found.normals[on_edge] * np.sign(found.normals[on_edge] @ wanted)[:, None]
        assert degrees_between(np.average(aligned, axis=0, weights=found.lengths[on_edge]), wanted) < 0.1


def test_a_photograph_of_nothing_has_no_segments():
    found = segment_planes(np.full((48, 64), 128, np.uint8), LENS)
    assert found.normals.shape == (0, 3)
    assert found.lengths.shape == (0,)
