"""The command `gaussgym-render images`, and camera files."""

import json
import sys

import numpy as np
import pytest
from gaussgym_render import SplatRenderer
from gaussgym_render import __main__ as cli
from gaussgym_render.lod import LodSplats, build_tree
from gaussgym_render.testing import random_splats
from gaussgym_render.viewpoints import Viewpoints, load_viewpoints, path_viewpoints, scene_viewpoints
from gaussgym_scene import Intrinsics, Scene, synthesize
from PIL import Image


@pytest.fixture(scope="module")
def scene_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "flat"
    synthesize("flat", 0, max_splats=3000).save(folder)
    return folder


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gaussgym-render", *map(str, arguments)])
    return cli.main()


def write_cameras(path, **changes):
    camera = {"name": "a", "c2w": np.eye(4).tolist(), "K": [[20, 0, 16], [0, 20, 12], [0, 0, 1]]}
    fields = {
        "format": "gaussgym-cameras",
        "version": 1,
        "width_px": 32,
        "height_px": 24,
        "cameras": [camera],
        **changes,
    }
    path.write_text(json.dumps(fields))
    return path


def test_images_of_the_scenes_own_cameras(scene_dir, tmp_path, monkeypatch, capsys):
    output = tmp_path / "images"
    assert (
        run(monkeypatch, "images", scene_dir, "--output", output, "--every", 8, "--width", 96, "--depth") == 0
    )
    assert capsys.readouterr().out.splitlines()[-1] == str(output)
    cameras = load_viewpoints(output / "cameras.json")
    assert (cameras.width, cameras.height) == (96, 72)
    scene = Scene.load(scene_dir)
    for name in cameras.names:
        rgb = np.asarray(Image.open(output / f"{name}.png"))
        assert rgb.shape == (72, 96, 3)
        assert rgb.std() > 5
    depth_mm = np.asarray(Image.open(output / f"{cameras.names[1]}.depth.png"))
    expected = (
        SplatRenderer([scene.splats], 96, 72)
        .render(cameras.c2w[1:2], cameras.K[1:2], np.zeros(1, int))
        .depth[0]
    )
    assert depth_mm.dtype == np.uint16
    assert np.abs(depth_mm - 1000 * expected).max() <= 0.51
    assert 200 < np.median(depth_mm) < 16000
    assert len(cameras) == len(scene_viewpoints(scene).names[::8])


def test_cameras_written_by_the_command_give_the_same_images(scene_dir, tmp_path, monkeypatch):
    first, second, third = (tmp_path / name for name in "abc")
    assert run(monkeypatch, "images", scene_dir, "--output", first, "--every", 16, "--width", 48) == 0
    again = ("images", scene_dir / "splats.ply", "--cameras", first / "cameras.json", "--output")
    assert run(monkeypatch, *again, second) == 0
    assert run(monkeypatch, *again, third, "--backend", "reference") == 0
    for path in first.glob("*.png"):
        image = np.asarray(Image.open(path)).astype(int)
        assert np.array_equal(image, np.asarray(Image.open(second / path.name)))
        assert np.abs(image - np.asarray(Image.open(third / path.name))).max() <= 2


def test_recorded_cameras_of_a_reconstruction_come_first():
    intrinsics = Intrinsics(width=64, height=48, fx=50, fy=51, cx=32, cy=24, distortion=(0.1, 0, 0, 0))
    recorded = {"names": ["images/x.jpg"], "c2w": [np.eye(4).tolist()], "intrinsics": intrinsics.to_dict()}
    cameras = scene_viewpoints(
        Scene("s", random_splats(3, np.random.default_rng(0)), metadata={"cameras": recorded})
    )
    assert cameras.names == ["x"]
    np.testing.assert_array_equal(cameras.K[0], intrinsics.K)


def test_resizing_keeps_rays():
    cameras = Viewpoints(["a"], np.eye(4)[None], np.array([[[50.0, 0, 30], [0, 60, 20], [0, 0, 1]]]), 64, 48)
    half = cameras.resized(32, 24)
    np.testing.assert_allclose(half.K[0], [[25, 0, 15], [0, 30, 10], [0, 0, 1]])


def test_path_cameras_stand_above_the_path_and_look_along_it():
    scene = synthesize("flat", 0, max_splats=3000)
    cameras = path_viewpoints(scene, camera_height_m=0.5, pitch_rad=0.2, step_m=2.0)
    first = np.flatnonzero(np.diff(scene.paths.path_id, prepend=-1))
    starts = cameras.c2w[
        [np.argmin(np.linalg.norm(cameras.c2w[:, :2, 3] - p[:2], axis=1)) for p in scene.paths.points[first]]
    ]
    np.testing.assert_allclose(starts[:, 2, 3], scene.paths.points[first, 2] + 0.5, atol=1e-5)
    np.testing.assert_allclose(
        cameras.c2w[:, 2, 2], -np.sin(0.2), atol=1e-6
    )  # forward axis points down by the pitch
    np.testing.assert_allclose(cameras.c2w[:, 2, 0], 0, atol=1e-9)  # right axis is level
    line = scene.paths.line(int(scene.paths.path_id[0]))
    length = np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1).sum()
    assert abs(len(cameras) - len(first) * (length / 2 + 1)) <= len(first)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"version": 7}, "format and version are ('gaussgym-cameras', 7)"),
        ({"cameras": []}, "holds 0 cameras"),
        ({"cameras": [{"c2w": [[1, 2]], "K": [[1]]}]}, "c2w (1, 2)"),
        ({"cameras": [{"K": np.eye(3).tolist()}]}, "lacks or misuses 'c2w'"),
        ({"cameras": [5]}, "a camera lacks or misuses"),
        ({"width_px": 0}, "image size 0x24"),
        (
            {"cameras": [{"name": "../x", "c2w": np.eye(4).tolist(), "K": np.eye(3).tolist()}]},
            "'../x' is no plain file name",
        ),
        (
            {"cameras": [{"name": "x", "c2w": np.eye(4).tolist(), "K": np.eye(3).tolist()}] * 2},
            "'x' occurs twice",
        ),
        ({"cameras": [{"c2w": (2 * np.eye(4)).tolist(), "K": np.eye(3).tolist()}]}, "not a rigid pose"),
    ],
)
def test_bad_camera_files(scene_dir, tmp_path, monkeypatch, capsys, changes, text):
    cameras = write_cameras(tmp_path / "c.json", **changes)
    status = run(monkeypatch, "images", scene_dir, "--cameras", cameras, "--output", tmp_path / "out")
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert status == 2
    assert len(error) == 1
    assert text in error[0]
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def lod_dir(scene_dir):
    folder = scene_dir.with_name("flat-lod")
    build_tree(Scene.load(scene_dir).splats, threshold_px=1.0).save(folder)
    return folder


def test_images_of_a_scene_with_levels_of_detail(scene_dir, lod_dir, tmp_path, monkeypatch, capsys):
    output, size = tmp_path / "images", ("--every", 8, "--width", 48)
    assert run(monkeypatch, "images", lod_dir, "--output", output, *size) == 2
    error = capsys.readouterr().err
    assert (
        "flat-lod: a folder with levels of detail brings no cameras; give --cameras FILE, or --cameras SCENE"
        in error
    )
    for cameras in (scene_dir, scene_dir / "scene.json"):
        assert run(monkeypatch, "images", lod_dir, "--cameras", cameras, "--output", output, *size) == 0
        viewpoints = load_viewpoints(output / "cameras.json")
        assert viewpoints.names == scene_viewpoints(Scene.load(scene_dir)).names[::8]
        here = SplatRenderer([LodSplats.load(lod_dir)], viewpoints.width, viewpoints.height)
        expected = here.render(viewpoints.c2w, viewpoints.K, np.zeros(len(viewpoints), int)).rgb
        for name, rgb in zip(viewpoints.names, expected):
            np.testing.assert_array_equal(np.asarray(Image.open(output / f"{name}.png")), rgb)
    cameras = output / "cameras.json"
    assert (
        run(monkeypatch, "images", lod_dir / "lod.json", "--cameras", cameras, "--output", tmp_path / "b")
        == 0
    )
    name = viewpoints.names[0] + ".png"
    assert (tmp_path / "b" / name).read_bytes() == (output / name).read_bytes()
    assert run(monkeypatch, "images", lod_dir, "--cameras", lod_dir, "--output", output) == 2
    assert "scene.json" in capsys.readouterr().err


def test_other_bad_input(scene_dir, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    (tmp_path / "cut.json").write_text('{"format": ')
    (tmp_path / "cut.ply").write_bytes((scene_dir / "splats.ply").read_bytes()[:5000])
    good = write_cameras(tmp_path / "good.json")
    for arguments, text in (
        (("images", scene_dir, "--cameras", tmp_path / "cut.json"), "not a JSON file"),
        (("images", scene_dir, "--cameras", tmp_path / "none.json"), "none.json: No such file"),
        (("images", scene_dir / "splats.ply"), "brings no cameras"),
        (("images", tmp_path / "cut.ply", "--cameras", good), "cut.ply"),
        (("images", tmp_path), "scene.json"),
        (("images", scene_dir, "--every", 0), "expected at least 1"),
        (
            ("images", scene_dir, "--backend", "opengl"),
            "renderer backend 'opengl' is not available here; available: cpu",
        ),
    ):
        assert run(monkeypatch, *arguments, "--output", out) == 2
        assert text in capsys.readouterr().err
        assert not out.exists()


def test_a_failed_run_keeps_the_earlier_result(scene_dir, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert run(monkeypatch, "images", scene_dir, "--output", out, "--width", 16, "--every", 30) == 0
    before = sorted(p.name for p in out.iterdir())
    bad = write_cameras(
        tmp_path / "c.json", cameras=[{"c2w": np.zeros((4, 4)).tolist(), "K": np.eye(3).tolist()}]
    )
    assert run(monkeypatch, "images", scene_dir, "--cameras", bad, "--output", out) == 2
    assert sorted(p.name for p in out.iterdir()) == before
