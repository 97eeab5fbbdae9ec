import numpy as np
import pytest
from gaussgym_scene import InputError, Splats
from gaussgym_scene.ply import write_ply
from gaussgym_scene.testing import random_splats


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_ply_round_trip(tmp_path, degree):
    splats = random_splats(40, sh_degree=degree, seed=degree)
    splats.labels = np.arange(40, dtype=np.int32)
    splats.save_ply(tmp_path / "a.ply")
    back = Splats.load_ply(tmp_path / "a.ply")
    assert back.sh_degree == degree
    np.testing.assert_array_equal(back.means, splats.means)
    np.testing.assert_array_equal(back.sh, splats.sh)
    np.testing.assert_array_equal(back.labels, splats.labels)
    np.testing.assert_allclose(back.scales, splats.scales, rtol=1e-5)
    np.testing.assert_allclose(back.opacities, splats.opacities, atol=1e-6)
    np.testing.assert_allclose(back.quats_wxyz, splats.quats_wxyz, atol=1e-6)


def test_file_layout_is_the_standard_one(tmp_path):
    splats = random_splats(1, sh_degree=1, seed=0)
    splats.save_ply(tmp_path / "a.ply")
    header, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
    names = [line.split()[2] for line in header.decode().splitlines() if line.startswith("property")]
    rest = [f"f_rest_{i}" for i in range(9)]
    assert names == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity",
                     "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]  # fmt: skip
    row = dict(zip(names, np.frombuffer(body, "<f4")))
    assert row["f_rest_0"] == splats.sh[0, 1, 0]  # channel-major: all of red first
    assert row["f_rest_1"] == splats.sh[0, 2, 0]
    assert row["f_rest_3"] == splats.sh[0, 1, 1]
    assert row["scale_1"] == pytest.approx(np.log(splats.scales[0, 1]), rel=1e-6)
    assert row["opacity"] == pytest.approx(np.log(splats.opacities[0] / (1 - splats.opacities[0])), rel=1e-5)


def test_unnormalised_quaternions_of_other_tools_are_normalised(tmp_path):
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"]
    names += [f"rot_{i}" for i in range(4)]
    rows = np.zeros(1, dtype=[(name, "<f4") for name in names])
    rows["rot_1"] = 3.0
    write_ply(tmp_path / "a.ply", {"vertex": rows})
    np.testing.assert_allclose(Splats.load_ply(tmp_path / "a.ply").quats_wxyz, [[0, 1, 0, 0]])


def test_a_file_cut_short_is_named(tmp_path):
    path = tmp_path / "a.ply"
    random_splats(10).save_ply(path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match=r"a\.ply: cut short"):
        Splats.load_ply(path)


def test_nan_is_refused_with_its_place(tmp_path):
    path = tmp_path / "a.ply"
    splats = random_splats(10)
    splats.means[3, 1] = np.nan
    splats.save_ply(path)
    with pytest.raises(InputError, match=r"1 of 10 splats have a NaN or infinite means \(first: 3\)"):
        Splats.load_ply(path)


def test_a_mesh_is_not_mistaken_for_splats(tmp_path):
    rows = np.zeros(3, dtype=[(name, "<f4") for name in "xyz"])
    write_ply(tmp_path / "a.ply", {"vertex": rows})
    with pytest.raises(InputError, match="expected a 3DGS PLY"):
        Splats.load_ply(tmp_path / "a.ply")


def test_shapes_are_checked():
    with pytest.raises(InputError, match="sh has shape"):
        Splats(np.zeros((2, 3)), np.ones((2, 4)), np.ones((2, 3)), np.ones(2), np.zeros((2, 2, 3)))


def test_no_splats_at_all(tmp_path):
    Splats.empty().save_ply(tmp_path / "a.ply")
    assert len(Splats.load_ply(tmp_path / "a.ply")) == 0
