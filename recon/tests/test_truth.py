"""Errors against truth, on grounds whose errors are known because they were put there."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from gaussgym_recon.posed import Similarity
from gaussgym_recon.truth import TrueGround, align_cameras, ground_marks, lines_over, step_edges
from gaussgym_recon.walks import camera_rotation
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.capture import Capture
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth import synthesize
from PIL import Image

STEP_X, STEP_M = 1.003, 0.15


def quads(*corners):
    """Mesh of quads given by four corners each, counter-clockwise from the front."""
    faces = [
        [4 * n + k for k in triangle] for n in range(len(corners)) for triangle in ((0, 1, 2), (0, 2, 3))
    ]
    return Mesh(np.concatenate(corners), np.array(faces))


def one_step():
    """Ground that rises by STEP_M at x = STEP_X, 3 m long and 2 m wide, under a ceiling at 2 m."""
    y, e, h = 1.0, STEP_X, STEP_M
    return quads(
        [(0, -y, 0), (e, -y, 0), (e, y, 0), (0, y, 0)],
        [(e, y, 0), (e, -y, 0), (e, -y, h), (e, y, h)],
        [(e, -y, h), (3, -y, h), (3, y, h), (e, y, h)],
        [(3, -y, 2), (0, -y, 2), (0, y, 2), (3, y, 2)],
    )


def field(height, *, cell=0.01, known=None):
    x, y = np.meshgrid(np.arange(0, 3 + 1e-9, cell), np.arange(-1, 1 + 1e-9, cell))
    mask = np.ones(x.shape, bool) if known is None else known(x, y)
    return Heightfield(height(x, y), cell, np.array([0.0, -1.0]), mask)


def step_at(x0, h=STEP_M):
    return lambda x, y: np.where(x > x0, h, 0.0)


def straight_path(half_width=0.6):
    x = np.arange(0.25, 2.76, 0.25)
    points = np.column_stack([x, 0 * x, step_at(STEP_X)(x, 0), 0 * x])
    return Paths(points, np.zeros(len(x), int), np.full(len(x), half_width))


def true_scene():
    return Scene("step", None, one_step(), field(step_at(STEP_X), cell=0.05), straight_path())


def found(built, lines=None, to_truth=None):
    scene = true_scene()
    return step_edges(
        TrueGround(scene.mesh, scene.heightfield), built, lines or lines_over(scene.paths), to_truth
    )


def test_true_heights_are_those_of_the_triangles_below_the_ceiling():
    scene = true_scene()
    z = TrueGround(scene.mesh, scene.heightfield).height(
        np.array([[0.5, 0], [STEP_X + 1e-3, 0], [2.5, 0.9], [5, 0]])
    )
    np.testing.assert_allclose(z[:3], [0, STEP_M, STEP_M], atol=1e-6)
    assert np.isnan(z[3])


@pytest.mark.parametrize("shift", [-0.03, 0.0, 0.012])
def test_an_edge_that_was_moved_is_found_that_far_off(shift):
    # On a grid of 1 cm with a jump between 1.00 + shift and 1.01 + shift the profile passes the middle half-way.
    edges = found(field(step_at(1.0 + shift + 1e-4)))
    x = np.arange(0, 3, 0.01)
    last_low = x[x <= 1.0 + shift + 1e-4].max()
    assert len(edges.error_m) >= 9  # a line every 15 cm over 1.2 m of width, none of those across
    np.testing.assert_allclose(edges.error_m, last_low + 0.005 - STEP_X, atol=0.003)
    np.testing.assert_allclose(edges.height_m, STEP_M, atol=1e-6)
    assert not edges.unknown.any()


def test_a_line_the_other_way_and_a_slanted_one_see_the_same_error_across_the_edge():
    built = field(step_at(1.0 + 0.02 + 1e-4))
    there = np.array([[0.3, 0.0], [2.0, 0.0]])
    slanted = np.array([[0.5, -0.5], [1.5, 0.5]])
    one, back, askew = (found(built, [line]).error_m for line in (there, there[::-1], slanted))
    assert one[0] == pytest.approx(0.022, abs=0.004)
    assert back[0] == pytest.approx(-one[0], abs=0.003)  # positive along the line
    assert askew[0] == pytest.approx(one[0], abs=0.004)


def test_an_edge_that_was_smoothed_away_is_missed_and_an_unknown_one_is_a_hole():
    ramp = found(field(lambda x, y: np.clip((x - 0.5) / 1.0, 0, 1) * STEP_M))
    assert ramp.summary()["step_edges_missed_fraction"] == 1.0
    assert ramp.summary()["step_edge_error_m"] is None
    hole = found(field(step_at(STEP_X), known=lambda x, y: np.abs(x - 1) > 0.05))
    assert hole.unknown.all()
    assert hole.summary()["step_edges_missed_fraction"] is None


def test_the_built_frame_may_be_another():
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    to_truth = Similarity(1.02, turn, np.array([0.5, -0.2, 0.1]))
    x, y = np.meshgrid(np.arange(-4, 4, 0.01), np.arange(-4, 4, 0.01))
    true_xyz = to_truth.apply(np.stack([x, y, np.zeros_like(x)], axis=-1))
    height = (step_at(STEP_X)(true_xyz[..., 0], true_xyz[..., 1]) - 0.1) / 1.02
    built = Heightfield(height, 0.01, np.array([-4.0, -4.0]), np.ones(x.shape, bool))
    summary = found(built, to_truth=to_truth).summary()
    assert summary["step_edge_rms_m"] < 0.008
    marks = ground_marks(true_scene(), built, to_truth)
    assert marks["height_rmse_off_edges_m"] < 1e-6
    assert marks["hole_fraction"] == 0.0


def test_marks_are_what_was_put_in():
    def rough(x, y):
        return step_at(STEP_X)(x, y) + np.where(np.round(x / 0.01) % 2 == 0, 0.02, 0.0)

    built = field(rough, known=lambda x, y: ~((x > 1.5) & (x < 2.0)))
    marks = ground_marks(true_scene(), built)
    assert marks["height_rmse_off_edges_m"] == pytest.approx(0.02 / np.sqrt(2), rel=0.02)
    assert marks["hole_fraction"] == pytest.approx(0.5 / 2.9, abs=0.03)
    sunk = ground_marks(true_scene(), field(lambda x, y: step_at(STEP_X)(x, y) - 0.01))
    assert sunk["height_bias_m"] == pytest.approx(-0.01, abs=1e-6)
    assert sunk["height_rmse_m"] == pytest.approx(0.01, abs=1e-5)
    assert sunk["step_edge_error_m"] < 0.005


CAMERA = Intrinsics(width=100, height=100, fx=100, fy=100, cx=50, cy=50)


def looking(x, z, yaw, pitch):
    """Camera over the middle line; with f = width it sees 26.6 degrees to all sides."""
    c2w = np.eye(4)
    c2w[:3, :3] = camera_rotation(np.radians(yaw), np.radians(pitch), 0.0)
    c2w[:3, 3] = [x, 0, z]
    return c2w


def test_cameras_see_what_lies_in_their_image_and_behind_nothing():
    scene = true_scene()
    ground = TrueGround(scene.mesh, scene.heightfield)
    at = np.array([[STEP_X - 0.05, 0, 0], [STEP_X + 0.05, 0, STEP_M], [0.1, 0, 0.0]])
    # From the low side, 80 cm away and 1.15 m up, the step lies 55 degrees below the horizon; the floor behind is not in the image.
    below, above = looking(0.2, 1.15, 0, -50), looking(2.0, 1.15, 180, -40)
    assert ground.visible(at, below[None], [CAMERA]).tolist() == [1, 1, 0]
    # From the high side a ray that grazes the edge falls 1 m a metre: it meets the low side 15 cm behind, not 5; and far behind.
    assert ground.visible(at, above[None], [CAMERA]).tolist() == [0, 1, 1]
    far = looking(-9.0, 1.5, 0, -9)
    assert ground.visible(at, far[None], [CAMERA]).tolist() == [0, 0, 0]


def test_edges_that_no_two_cameras_saw_are_counted_apart():
    scene, ramp = true_scene(), field(lambda x, y: np.clip((x - 0.5) / 1.0, 0, 1) * STEP_M)
    above, below = looking(2.0, 1.15, 180, -40), looking(0.2, 1.15, 0, -50)

    def marks(*poses):
        return ground_marks(scene, ramp, c2w=np.stack(poses), cameras=[CAMERA] * len(poses))

    unseen = marks(above, above, below)
    assert unseen["step_edges_not_photographed_fraction"] == 1.0
    assert unseen["step_edges_photographed_missed_fraction"] is None
    seen = marks(above, below, below)
    assert seen["step_edges_not_photographed_fraction"] < 0.3  # some lie beside what is in the image
    assert seen["step_edges_photographed_missed_fraction"] == 1.0
    assert seen["step_edges_missed_fraction"] == unseen["step_edges_missed_fraction"] == 1.0


@pytest.fixture(scope="module")
def matrix():
    """The script that makes the table of places times sources."""
    script = Path(__file__).parents[2] / "experiments" / "recon" / "truth.py"
    spec = importlib.util.spec_from_file_location("recon_truth_matrix", script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


LAYOUTS_NEED = {"record3d": "liblzfse", "grandtour": "zarr"}


@pytest.mark.parametrize(
    "source", ["polycam", "record3d", "arkitscenes", "grandtour", "colmap", "nerfstudio", "tum"]
)
def test_captures_of_every_layout_come_with_their_truth(matrix, source, tmp_path):
    """Same images in the same order, poses that differ from the truth by one similarity, depth where the layout has it."""
    if source in LAYOUTS_NEED:
        pytest.importorskip(LAYOUTS_NEED[source])
    from gaussgym_recon.synthetic import read_truth

    settings = matrix.Settings(images=12, width=64)
    scene = synthesize("room", 0)
    capture = Capture.load(matrix.capture_of("room", source, scene, tmp_path, settings))
    truth = read_truth(capture.directory)
    assert [image.file for image in capture.images] == truth.names
    assert len(truth.names) == 12
    c2w = np.stack([np.asarray(image.c2w) for image in capture.images])
    to_truth = align_cameras(c2w, truth.c2w)
    residual = to_truth.apply(c2w[:, :3, 3]) - truth.c2w[:, :3, 3]
    assert np.abs(residual).max() < 1e-3
    if source in matrix.METRIC:
        assert to_truth.scale == pytest.approx(1.0, abs=1e-4)
    if source in matrix.WITH_DEPTH:
        assert all(image.depth is not None for image in capture.images)
        if source not in ("tum", "nerfstudio"):  # these keep the size of the photographs
            with Image.open(capture.directory / capture.images[0].depth) as depth:
                assert depth.size == matrix.LAYOUT_DEPTH_SIZE
