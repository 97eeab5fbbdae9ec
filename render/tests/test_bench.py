"""`gaussgym-render bench`: that it measures what it says, on scenes that are what it says."""

import inspect
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from gaussgym_render import SplatRenderer, lod, oracle
from gaussgym_render import __main__ as cli
from gaussgym_render.bench import effects, matrix, rivals, steps, training
from gaussgym_render.bench.comparison import psnr_db
from gaussgym_render.bench.scenes import Place, exact_count, make_workload, synthetic_place
from gaussgym_render.cpu import CpuRasterizer
from gaussgym_render.testing import pinhole, random_cameras, random_splats
from gaussgym_render.viewpoints import path_viewpoints
from gaussgym_scene import InputError, Scene, Splats, synthesize


@pytest.fixture(scope="module")
def scene():
    return synthesize("flat", 0, max_splats=3000)


@pytest.fixture(scope="module")
def place(scene):
    return Place("flat", scene.splats, path_viewpoints(scene))


@pytest.fixture(scope="module")
def scene_dir(scene, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "flat"
    scene.save(folder)
    return folder


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gaussgym-render", *map(str, arguments)])
    return cli.main()


@pytest.mark.parametrize("n", [400, 1000, 2500])
def test_scenes_have_exactly_the_splats_asked_for_and_keep_their_surface(n):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-2, 2, (2, 1000))
    wall = Splats(
        np.stack([x, y, np.full(1000, 3.0)], -1),
        np.tile([1.0, 0, 0, 0], (1000, 1)),
        np.tile([0.12, 0.12, 0.001], (1000, 1)),
        np.full(1000, 0.9),
        np.zeros((1000, 1, 3)),
    )
    made = exact_count(wall, n, rng)
    assert len(made) == n
    np.testing.assert_allclose(made.means[:, 2], 3.0, atol=0.01)  # copies lie in the disc that they came from
    area = [(s.scales[:, 0] * s.scales[:, 1]).sum() for s in (made, wall)]
    np.testing.assert_allclose(area[0], area[1], rtol=1e-5)
    np.testing.assert_allclose(made.scales[:, 2], 0.001, rtol=1e-6)
    alpha = oracle.render(made, np.eye(4), pinhole(16, 16), 16, 16).alpha
    assert alpha[4:12, 4:12].mean() > 0.9


def test_a_synthetic_scene_has_the_number_asked_for():
    assert len(synthetic_place("flat", 5000).splats) == 5000
    with pytest.raises(InputError, match=r"unknown scene kind 'moon'; choose one of"):
        synthetic_place("moon", 5000)


def test_copies_of_a_scene_show_the_same_pictures(place):
    workload = make_workload(place, 3, 12, 32, 24)
    assert len(workload.scenes) == 3
    np.testing.assert_array_equal(workload.scene_ids, np.arange(12) % 3)
    first = replace(workload, scenes=workload.scenes[:1])
    own = make_workload(place, 1, 12, 32, 24)
    images = [
        SplatRenderer(load.scenes, 32, 24).render(load.c2w, load.K, load.scene_ids).rgb
        for load in (workload, own)
    ]
    assert psnr_db(*images).min() > 45  # moved by float32
    assert len(first.scenes) == 1


@pytest.mark.parametrize(("degree", "width", "height"), [(0, 40, 30), (2, 40, 30), (1, 320, 240)])
def test_the_steps_together_draw_what_the_backend_draws(degree, width, height):
    """Else the time by step would be that of something else."""
    rng = np.random.default_rng(degree)
    c2w, ids, k = random_cameras(5, rng), np.arange(5) % 2, np.tile(pinhole(width, height), (5, 1, 1))
    scenes = [random_splats(700, rng, sh_degree=degree), random_splats(300, rng, sh_degree=degree)]
    load = rivals.Workload(scenes, c2w, k, ids, width, height)
    renderer = SplatRenderer(scenes, width, height, backend="cpu", num_threads=1)
    expected = renderer.render(c2w, k, ids)
    images = tuple(np.zeros_like(getattr(expected, name)) for name in ("rgb", "depth", "alpha"))
    assert isinstance(renderer.rasterizer, CpuRasterizer)
    for last in range(len(steps.STEPS)):
        assert not images[0].any()
        steps.run_steps(renderer.rasterizer, load, images, last)
    for image, name in zip(images, ("rgb", "depth", "alpha")):
        np.testing.assert_array_equal(image, getattr(expected, name))


def test_the_time_by_step_adds_up_to_the_backends(place):
    times = steps.time_steps(make_workload(place, 1, 16, 64, 48), cameras=16, repeats=5)
    assert list(times.milliseconds) == list(steps.STEPS)
    assert times.backend_milliseconds > 0
    assert 0.5 < sum(times.milliseconds.values()) / times.backend_milliseconds < 2


def test_the_matrix_is_measured_written_and_drawn(scene_dir, tmp_path, monkeypatch, capsys):
    path, plot = tmp_path / "bench.json", tmp_path / "bench.png"
    arguments = ("--sizes", "64x48", "24x16", "--cameras", 1, 8, "--scenes", 1, 2, "--seconds", 0.05)
    assert run(monkeypatch, "bench", scene_dir, *arguments, "--json", path, "--plot", plot) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == str(plot)
    assert plot.read_bytes()[:4] == b"\x89PNG"
    result = json.loads(path.read_text())
    assert result["machine"]["cores"] >= 1
    cells = result["cells"]
    assert {(c["width_px"], c["cameras"], c["scenes"]) for c in cells} == {
        (w, c, s) for w in (64, 24) for c in (1, 8) for s in (1, 2)
    }
    for cell in cells:
        assert cell["skipped"] is None
        assert 0 < cell["frames_per_s_min"] <= cell["frames_per_s"] <= cell["frames_per_s_max"]
        assert 0 < cell["visible_splats"] <= cell["splats"] == result["splats"]
    assert [s["width_px"] for s in result["steps"]] == [64, 24]


def test_a_scene_with_levels_of_detail_or_a_splat_file_needs_viewpoints(
    scene_dir, tmp_path, monkeypatch, capsys
):
    folder, path = tmp_path / "flat-lod", tmp_path / "bench.json"
    lod.build_tree(Scene.load(scene_dir).splats, threshold_px=1.0).save(folder)
    size = ("--sizes", "24x16", "--cameras", 4, "--scenes", 1, 2, "--seconds", 0.02)
    for source in (folder, scene_dir / "splats.ply"):
        assert run(monkeypatch, "bench", source, *size) == 2
        assert "brings no paths to place cameras on; give --viewpoints FILE" in capsys.readouterr().err
        assert run(monkeypatch, "bench", source, "--viewpoints", scene_dir, *size, "--json", path) == 0
        result = json.loads(path.read_text())
        assert result["scene"] == source.name
        assert all(cell["frames_per_s"] > 0 for cell in result["cells"])
    assert result["splats"] == len(Scene.load(scene_dir).splats)
    arguments = (folder, "--viewpoints", scene_dir)
    for more, text in (
        (("--splats", 100), "omit --splats"),
        (("--rivals", "yardstick"), "give the scene itself, and these with --lod"),
        (("--differentiable",), "expected a scene that can be trained"),
    ):
        assert run(monkeypatch, "bench", *arguments, *more) == 2
        assert text in capsys.readouterr().err


def test_cells_that_do_not_fit_are_skipped_and_say_why(place, monkeypatch):
    cfg = matrix.MatrixCfg(
        sizes=[(64, 48)], cameras=[2], scenes=[1], splats=[None], backend="cpu", limit_s=1e-9
    )
    (slow,) = matrix.run_matrix(lambda n: place, cfg, on_cell=lambda cell: None)
    assert "the limit is 1e-09 s" in slow.skipped
    assert slow.frames_per_s is None
    monkeypatch.setattr(matrix, "available_bytes", lambda: 1000)
    (large,) = matrix.run_matrix(lambda n: place, cfg, on_cell=lambda cell: None)
    assert "0.0 GB are free" in large.skipped


def test_scaling_compares_batches_and_scenes(place):
    rows = matrix.measure_scaling(
        place, (16, 12), backend="cpu", threads=1, cameras=(4, 64), scenes=(1, 4), repeats=2
    )
    assert [(row.what, row.few, row.many) for row in rows] == [("cameras", 4, 64), ("scenes", 1, 4)]
    for row in rows:
        assert 0 < row.time_ratio_min <= row.time_ratio <= row.time_ratio_max


def test_a_rival_is_timed_on_the_same_pictures_or_said_to_be_absent(scene_dir, tmp_path, monkeypatch, capsys):
    path = tmp_path / "bench.json"
    absent = replace(rivals.RIVALS[2], packages=("no-such-renderer",), install="pip install no-such-renderer")
    monkeypatch.setattr(rivals, "RIVALS", (*rivals.RIVALS[:2], absent))
    assert (
        run(
            monkeypatch,
            "bench",
            scene_dir,
            "--rivals",
            "all",
            "--sizes",
            "24x24",
            "--seconds",
            0.02,
            "--json",
            path,
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "mujoco_warp: absent, no-such-renderer not installed: pip install no-such-renderer" in out
    yardstick, torch, _ = json.loads(path.read_text())["rivals"]
    for row in (yardstick, torch):
        assert row["psnr_db"] > 50
        assert row["wall_ratio"] > 1
    assert run(monkeypatch, "bench", scene_dir, "--rivals", "nobody") == 2


def test_rivals_can_meet_levels_of_detail(scene, scene_dir, tmp_path, monkeypatch):
    tree, path = lod.build_tree(scene.splats), tmp_path / "bench.json"
    replace(tree, threshold_px=8.0).save(tmp_path / "lod")
    arguments = ("--rivals", "yardstick", "--sizes", "24x24", "--seconds", 0.02, "--json", path)
    assert run(monkeypatch, "bench", scene_dir, *arguments, "--lod", tmp_path / "lod") == 0
    (row,) = json.loads(path.read_text())["rivals"]
    assert 15 < row["psnr_db"] < 50  # coarser than the scene, which the yardstick draws
    assert run(monkeypatch, "bench", scene_dir, *arguments, "--lod", tmp_path / "lod", "--scenes", 2) == 2


def test_gsplat_is_asked_for_the_same_pictures(monkeypatch):
    """Both adapters against gsplat's own signature, with a stand-in that draws by the oracle: gsplat itself needs CUDA."""
    gsplat = pytest.importorskip("gsplat")
    import torch

    signature, calls = inspect.signature(gsplat.rasterization), []

    def stand_in(*args, **kwargs):
        asked = signature.bind(*args, **kwargs)
        asked.apply_defaults()
        a = asked.arguments
        assert (a["rasterize_mode"], a["render_mode"], a["near_plane"]) == ("antialiased", "RGB+ED", 0.01)
        calls.append(tuple(a["means"].shape))
        arrays = [a[name] for name in ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks")]
        if a["means"].dim() == 2:
            return draw(a, *(x[None] for x in arrays))[0], None, None
        return draw(a, *arrays), None, None

    def draw(a, means, quats, scales, opacities, colors, viewmats, ks):
        images = [
            [
                oracle.render(
                    Splats(*(x[b].numpy() for x in (means, quats, scales, opacities, colors))),
                    np.linalg.inv(viewmats[b, c].double().numpy()), ks[b, c].numpy(), a["width"], a["height"],
                    sh_degree=a["sh_degree"],
                ).rgb
                for c in range(viewmats.shape[1])
            ]
            for b in range(len(means))
        ]  # fmt: skip
        return torch.tensor(np.array(images))

    monkeypatch.setattr(gsplat, "rasterization", stand_in)
    monkeypatch.setattr(rivals, "_gsplat_device", lambda: "cpu")
    rng = np.random.default_rng(0)
    scenes = [random_splats(150, rng), random_splats(150, rng)]
    c2w, ids = random_cameras(4, rng), np.array([1, 0, 0, 1])
    load = rivals.Workload(scenes, c2w, np.tile(pinhole(20, 16), (4, 1, 1)), ids, 20, 16)
    expected = SplatRenderer(scenes, 20, 16, backend="reference").render(c2w, load.K, ids).rgb
    for make in (rivals._gsplat_batched, rivals._gsplat_scene_loop):
        assert np.abs(make(load)().astype(int) - expected).max() <= 1
    assert calls == [(2, 150, 3), (150, 3), (150, 3)]


def test_a_training_step_is_timed(place):
    step = training.time_training_step(place, repeats=2, size=(48, 32))
    assert 0 < step.forward_milliseconds < step.milliseconds <= step.milliseconds_max
    assert (step.width_px, step.height_px, step.splats) == (48, 32, len(place.splats))


def test_effects_are_compared_with_the_plain_renderer(scene_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(effects, "EFFECTS_BATCH", 8)
    monkeypatch.setattr(effects, "EFFECTS_REPEATS", 2)
    path = tmp_path / "bench.json"
    assert run(monkeypatch, "bench", scene_dir, "--json", path, "--effects") == 0
    assert "CPU time over none" in capsys.readouterr().out
    timings = {t["effects"]: t for t in json.loads(path.read_text())["timings"]}
    assert list(timings) == ["none", "lens", "shutter", "sensor", "all"]
    assert timings["none"]["time_ratio"] == 1.0
    assert timings["lens"]["images_per_frame"] == timings["sensor"]["images_per_frame"] == 1.0
    assert timings["all"]["images_per_frame"] > 1.0
    for t in timings.values():
        assert 0 < t["time_ratio_min"] <= t["time_ratio"] <= t["time_ratio_max"]


def test_objects_are_compared_with_none(scene_dir, tmp_path, monkeypatch, capsys):
    path = tmp_path / "bench.json"
    assert run(monkeypatch, "bench", scene_dir, "--objects", "--json", path, "--seconds", 0.2) == 0
    assert "13 parts" in capsys.readouterr().out
    (timing,) = json.loads(path.read_text())["timings"]
    assert timing["parts_per_camera"] == 13
    assert 0.01 < timing["covered_pixels"] < 0.2
    low, high = timing["time_ratio_quartiles"]
    assert 0 < low <= timing["time_ratio"] <= high


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--sizes", "64"), "--sizes 64: expected WIDTHxHEIGHT"),
        (("--sizes", "0x4"), "--sizes 0x4: expected at least 1x1"),
        (("--cameras", 0), "expected one or more numbers of at least 1"),
        (("--seconds", 0), "expected positive times"),
        (("--plot", "bench.gif", "--sizes", "8x8", "--cameras", 1, "--scenes", 1, "--seconds", 0.01), "ending in .png"),
    ],
)  # fmt: skip
def test_bad_arguments_end_in_one_line(scene_dir, arguments, text, monkeypatch, capsys):
    assert run(monkeypatch, "bench", scene_dir, *arguments) == 2
    assert text in capsys.readouterr().err
