import subprocess
import sys

import numpy as np
import pytest
from gaussgym_scene import Scene
from gaussgym_scene.formats import load_splats
from gaussgym_scene.splats import Splats
from gaussgym_scene.testing import random_splats


def run(*args):
    return subprocess.run(
        [sys.executable, "-m", "gaussgym_scene", *map(str, args)], capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def stairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "stairs"
    done = run(
        "synth", "stairs", "--output", folder, "--seed", 2, "--step-height-m", 0.1, "--max-splats", 3000
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == str(folder / "scene.json")
    return folder


def test_synth_passes_parameters_on(stairs):
    scene = Scene.load(stairs)
    assert scene.metadata["params"]["step_height_m"] == 0.1
    assert scene.metadata["seed"] == 2
    assert len(scene.splats) <= 3000


def test_check_prints_counts_and_says_hashes_are_ok(stairs):
    done = run("check", stairs)
    assert done.returncode == 0, done.stderr
    table = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert table["splats"].startswith(f"{len(Scene.load(stairs).splats)} of degree 0")
    assert table["hashes"] == "ok"
    assert "steps up to 0.100 m" in table["paths"]


def test_check_of_a_changed_file_fails_in_one_line(stairs, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(stairs, broken)
    data = bytearray((broken / "splats.ply").read_bytes())
    data[-1] ^= 1
    (broken / "splats.ply").write_bytes(data)
    done = run("check", broken)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "splats.ply" in done.stderr
    assert done.stderr.count("\n") == 1


def test_bad_parameter_fails_in_one_line_and_writes_nothing(tmp_path):
    done = run("synth", "stairs", "--output", tmp_path / "out", "--tread-m", 9)
    assert done.returncode == 2
    assert done.stderr == "error: tread_m is 9.0, expected 0.15 to 1.0\n"
    assert not list(tmp_path.iterdir())


def test_convert_writes_a_scene_for_other_tools(stairs, tmp_path):
    done = run("convert", stairs, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    scene = Scene.load(stairs)
    assert len(Splats.load_ply(tmp_path / "out" / "splats.ply")) == len(scene.splats)
    lines = (tmp_path / "out" / "mesh.obj").read_text().splitlines()
    vertices = np.array([line.split()[1:] for line in lines if line.startswith("v ")], float)
    np.testing.assert_allclose(vertices, scene.mesh.vertices, atol=1e-3)
    assert sum(line.startswith("f ") for line in lines) == len(scene.mesh.faces)
    assert len(list((tmp_path / "out").glob("texture_*.png"))) == len(scene.appearance.textures)


def test_convert_cuts_degree_and_faint_splats(tmp_path):
    splats = random_splats(50, sh_degree=3, seed=1)
    splats.save_ply(tmp_path / "in.ply")
    done = run(
        "convert",
        tmp_path / "in.ply",
        "--output",
        tmp_path / "out",
        "--max-sh-degree",
        1,
        "--min-opacity",
        0.5,
    )
    assert done.returncode == 0, done.stderr
    again = Splats.load_ply(tmp_path / "out" / "splats.ply")
    keep = splats.opacities >= 0.5
    assert again.sh_degree == 1
    np.testing.assert_allclose(again.means, splats.means[keep], atol=1e-6)
    np.testing.assert_allclose(again.sh, splats.sh[keep][:, :4], atol=1e-6)


def test_convert_between_splat_files(tmp_path):
    splats = random_splats(300, sh_degree=1, seed=2)
    splats.save_ply(tmp_path / "in.ply")
    before = tmp_path / "in.ply"
    for name in ("a.spz", "b.sog", "c.compressed.ply", "d.splat", "e.ply"):
        done = run("convert", before, "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr
        before = tmp_path / name
    again = load_splats(tmp_path / "e.ply")
    assert len(again) == 300
    np.testing.assert_allclose(np.sort(again.means[:, 0]), np.sort(splats.means[:, 0]), atol=0.05)


@pytest.mark.parametrize("name", ["missing.ply", "missing", "missing.spz"])
def test_convert_of_nothing_fails_in_one_line(name, tmp_path):
    done = run("convert", tmp_path / name, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_convert_does_not_overwrite_its_source(stairs):
    done = run("convert", stairs, "--output", stairs)
    assert done.returncode == 2
    assert "choose another name" in done.stderr
    assert Scene.load(stairs)
