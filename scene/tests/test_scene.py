import json

import numpy as np
import pytest
from gaussgym_scene import Heightfield, InputError, Mesh, Paths, Scene
from gaussgym_scene.testing import random_splats


@pytest.fixture
def scene():
    mesh = Mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0.5]], [[0, 1, 2]], np.full((3, 3), 7))
    heightfield = Heightfield(
        np.arange(6.0).reshape(2, 3), 0.5, [-1, 2], np.array([[1, 1, 0], [1, 1, 1]], bool)
    )
    return Scene(
        "yard",
        random_splats(5),
        mesh,
        heightfield,
        Paths(np.ones((3, 4)), [0, 0, 1], np.ones(3)),
        {"seed": 3},
    )


def test_round_trip(tmp_path, scene):
    manifest = scene.save(tmp_path / "yard")
    back = Scene.load(manifest)
    assert (back.name, back.metadata, back.appearance) == ("yard", {"seed": 3}, None)
    np.testing.assert_array_equal(back.mesh.colors, scene.mesh.colors)
    np.testing.assert_array_equal(back.heightfield.known, scene.heightfield.known)
    np.testing.assert_array_equal(back.paths.points, scene.paths.points)
    assert json.loads(manifest.read_text())["num_splats"] == 5


def test_a_wrong_hash_is_refused(tmp_path, scene):
    scene.save(tmp_path / "yard")
    path = tmp_path / "yard" / "mesh.ply"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"mesh\.ply: sha256"):
        Scene.load(tmp_path / "yard")


def test_a_missing_member_is_refused(tmp_path, scene):
    scene.save(tmp_path / "yard")
    (tmp_path / "yard" / "paths.npz").unlink()
    with pytest.raises(InputError, match=r"paths\.npz: missing"):
        Scene.load(tmp_path / "yard")


def test_a_scene_in_memory_says_which_member_it_lacks():
    with pytest.raises(InputError, match=r"without splats\.ply"):
        Scene("half").splats  # noqa: B018


def test_bilinear_heights_by_hand(scene):
    # Heights 0 1 2 / 3 4 5 at spacing .5 from (−1, 2): at (−.75, 2.25) half way along both axes: (0 + 1 + 3 + 4) / 4.
    assert scene.heightfield.sample([-0.75, 2.25]) == pytest.approx(2.0)
    assert scene.heightfield.sample([-0.9, 2.0]) == pytest.approx(0.2)
    assert scene.heightfield.sample([9.0, 9.0]) == pytest.approx(5.0)  # the border's value outside
    assert scene.heightfield.size_m == (1.0, 0.5)


def test_known_needs_all_four_corners(scene):
    known = scene.heightfield.is_known([[-0.75, 2.25], [-0.25, 2.25], [5.0, 2.25]])
    np.testing.assert_array_equal(known, [True, False, False])


def test_an_unfilled_heightfield_is_refused():
    with pytest.raises(InputError, match="fill unknown cells"):
        Heightfield(np.full((2, 2), np.nan), 0.1, [0, 0], np.ones((2, 2), bool))


def test_arc_length_restarts_with_each_line():
    points = np.array([[0, 0, 0, 0], [3, 4, 9, 0], [3, 5, 9, 0], [100, 0, 0, 0], [100, 2, 0, 0]], float)
    paths = Paths(points, [4, 4, 4, 7, 7], np.ones(5))
    np.testing.assert_allclose(paths.arc_length_m(), [0, 5, 6, 0, 2])
    np.testing.assert_allclose(paths.line(7), points[3:])


def test_faces_must_name_vertices():
    with pytest.raises(InputError, match="beyond the 3"):
        Mesh(np.zeros((3, 3)), [[0, 1, 3]])


def test_polygons_are_refused(tmp_path):
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    header += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    body = np.zeros(12, "<f4").tobytes() + b"\x04" + np.arange(4, dtype="<i4").tobytes()
    (tmp_path / "a.ply").write_bytes(header.encode() + body)
    with pytest.raises(InputError, match="not triangles"):
        Mesh.load_ply(tmp_path / "a.ply")
