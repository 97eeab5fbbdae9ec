"""The build from capture to scene, with poses taken from the truth so that structure from motion does not cost minutes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from gaussgym_recon import build as build_module
from gaussgym_recon.__main__ import Build
from gaussgym_recon.build import BuildCfg, build, require_goal_path
from gaussgym_recon.posed import Similarity
from gaussgym_recon.stereo import StereoCfg
from gaussgym_recon.synthetic import SynthesizeCfg, synthesize_capture
from gaussgym_recon.trainer import TrainerCfg
from gaussgym_recon.truth import align_cameras, compare_with_truth
from gaussgym_recon.warmup import compile_kernels, posed_by_truth
from gaussgym_scene.capture import Capture
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth import synthesize

CFG = BuildCfg(
    long_sides_px=(60, 120),
    stereo=StereoCfg(sources=3, iterations=2),
    trainer=TrainerCfg(iterations=30, max_splats=6000, final_splats=5000, densify_every=10),
)


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    root = tmp_path_factory.mktemp("build")
    scene = synthesize("flat")
    folder = synthesize_capture(
        scene,
        root / "capture",
        cfg=SynthesizeCfg(images=18, width=160, height=120, turn_images=2, supersample=1),
    )
    return scene, folder


@pytest.fixture
def poses(capture, monkeypatch):
    scene, folder = capture
    posed = posed_by_truth(scene, Capture.load(folder))
    monkeypatch.setattr(build_module, "pose", lambda *args, **kwargs: posed)
    return posed


@pytest.mark.slow
def test_a_scene_comes_out_and_agrees_with_the_truth(capture, poses, tmp_path):
    truth_scene, folder = capture
    stages = []
    manifest = build(
        folder, tmp_path / "scene", CFG, progress=lambda stage, fraction, status: stages.append(stage)
    )
    scene = Scene.load(manifest)
    assert {"stereo", "splats", "ground", "scene"} <= set(stages)
    m = scene.metadata
    for key in (
        "images_registered", "images_total", "seeds_tried", "psnr_db_heldout", "psnr_db_mean_image", "psnr_width_px",
        "scale_source", "gps_residual_median_m", "gps_residual_max_m", "max_step_m",
    ):  # fmt: skip
        assert key in m
    assert m["images_registered"] == 18
    assert m["psnr_width_px"] == 120
    errors = compare_with_truth(scene, folder, truth_scene)
    assert errors["height_rmse_m"] < 0.08  # from images of 120 px
    assert errors["gravity_error_deg"] < 0.01
    assert abs(errors["scale_error_fraction"]) < 1e-6
    assert (tmp_path / "scene" / "heldout" / "0008_photo.jpg").exists()
    assert (tmp_path / "scene" / "heldout" / "0016_splats.jpg").exists()
    require_goal_path(scene)

    # Again: nothing is trained anew, and the scene is the same.
    before = (tmp_path / "scene.work" / "training.npz").stat().st_mtime_ns
    trained = []
    build(
        folder,
        tmp_path / "scene",
        CFG,
        progress=lambda stage, fraction, status: trained.append((stage, status)),
    )
    assert not any("step" in status for _, status in trained)
    assert (tmp_path / "scene.work" / "training.npz").stat().st_mtime_ns >= before
    np.testing.assert_array_equal(Scene.load(manifest).splats.means, scene.splats.means)


@pytest.mark.slow
def test_a_killed_build_goes_on_and_other_settings_start_over(capture, poses, tmp_path, monkeypatch):
    _, folder = capture

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "fuse_mesh", killed)
        with pytest.raises(KeyboardInterrupt):
            build(folder, tmp_path / "scene", CFG)
    assert not (tmp_path / "scene").exists()
    work = tmp_path / "scene.work"
    kept = {name: (work / name).stat().st_mtime_ns for name in ("stereo.npz", "training.npz")}
    statuses = []
    build(folder, tmp_path / "scene", CFG, progress=lambda stage, fraction, status: statuses.append(status))
    assert not any("stereo 1" in s for s in statuses)
    assert (work / "stereo.npz").stat().st_mtime_ns == kept["stereo.npz"]

    other = BuildCfg(
        long_sides_px=(60, 120), stereo=StereoCfg(sources=2, iterations=1),
        trainer=TrainerCfg(iterations=5, max_splats=3000, final_splats=3000),
    )  # fmt: skip
    build(folder, tmp_path / "scene", other)
    assert (work / "stereo.npz").stat().st_mtime_ns != kept["stereo.npz"]
    assert json.loads((work / "build.json").read_text())["settings"]["stereo"]["sources"] == 2


def test_a_scene_without_a_long_path_is_refused_for_goals():
    scene = synthesize("flat")
    require_goal_path(scene)
    scene.paths.points[:, :2] *= 0.01
    with pytest.raises(InputError, match="10 m"):
        require_goal_path(scene)


def test_the_command_refuses_it_too_when_asked_and_keeps_the_scene(tmp_path, monkeypatch):
    scene = synthesize("flat")
    scene.paths.points[:, :2] *= 0.01
    scene.save(tmp_path / "scene")
    monkeypatch.setattr(build_module, "build", lambda *args, **kwargs: tmp_path / "scene" / "scene.json")
    command = Build(tmp_path / "capture", output=tmp_path / "scene")
    assert command() == tmp_path / "scene" / "scene.json"
    with pytest.raises(InputError, match="a goal needs 10 m"):
        replace(command, require_path=True)()
    assert Scene.load(tmp_path / "scene").name == scene.name


def test_a_folder_that_is_no_capture_is_named(tmp_path):
    with pytest.raises(InputError, match=r"capture\.json|capture"):
        build(tmp_path / "nothing", tmp_path / "scene")


def test_cameras_are_aligned_by_their_orientations_too():
    rng = np.random.default_rng(0)
    source = np.tile(np.eye(4), (6, 1, 1))
    for c in source:
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        c[:3, :3] = q * np.sign(np.linalg.det(q))
    source[:, 0, 3] = np.arange(6)  # a straight line: positions alone leave the roll loose
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    truth = Similarity(1.7, turn * np.sign(np.linalg.det(turn)), np.array([1.0, -2.0, 0.5]))
    found = align_cameras(source, truth.apply_c2w(source))
    assert found.scale == pytest.approx(1.7)
    np.testing.assert_allclose(found.rotation, truth.rotation, atol=1e-9)
    np.testing.assert_allclose(found.translation, truth.translation, atol=1e-9)


def test_the_capture_manifest_is_enough_for_the_loader(capture):
    _, folder = capture
    assert len(Capture.load(folder).images) == 18


def test_the_warm_up_trains():
    assert 100 < compile_kernels() <= 2000
