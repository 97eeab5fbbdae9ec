"""The driver of nerfstudio: its data set, its processes, its export; with a stand-in for nerfstudio itself."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from gaussgym_recon.nerfstudio import child
from gaussgym_recon.nerfstudio.dataset import write_dataset
from gaussgym_recon.nerfstudio.environment import find_environment
from gaussgym_recon.nerfstudio.export import model_from_world, read_export
from gaussgym_recon.nerfstudio.process import run_program
from gaussgym_recon.nerfstudio.training import (
    NerfstudioCfg,
    last_checkpoint,
    learning_rates,
    schedule,
    train_by_nerfstudio,
)
from gaussgym_recon.views import View, Views
from gaussgym_render.differentiable import raster_forward
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import GaussgymError, InputError
from gaussgym_scene.ply import read_ply
from gaussgym_scene.splats import Splats
from PIL import Image
from scipy.spatial.transform import Rotation

STAND_IN = Path(__file__).with_name("nerfstudio_stand_in")


def two_views(masks=False):
    camera = Intrinsics(width=8, height=6, fx=7.0, fy=7.5, cx=4.25, cy=3.0)
    wide = Intrinsics(width=8, height=6, fx=5.0, fy=5.0, cx=4.0, cy=3.0)
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3)).astype(np.uint8)
    views = [View(f"{k}.jpg", np.eye(4), [images[k]], k == 2) for k in range(3)]
    views[1].c2w = np.array([[0.0, 0, 1, 5], [-1, 0, 0, 6], [0, -1, 0, 7], [0, 0, 0, 1]])
    views[0].cameras, views[1].cameras, views[2].cameras = [camera], [wide], [camera]
    if masks:
        views[1].masks = [np.arange(48).reshape(6, 8) % 2 == 0]
    return Views(views, [camera], [np.zeros(0, np.int32)] * 3)


def seeds(count=5):
    rng = np.random.default_rng(1)
    return Splats(
        rng.normal(size=(count, 3)), np.tile([1.0, 0, 0, 0], (count, 1)), np.full((count, 3), 0.1), np.full(count, 0.5),
        rng.normal(0, 0.5, (count, 4, 3)),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- data set


def test_the_data_set_says_what_nerfstudio_reads(tmp_path):
    folder = write_dataset(two_views(), seeds(), tmp_path / "data")
    manifest = json.loads((folder / "transforms.json").read_text())
    assert manifest["camera_model"] == "OPENCV"
    assert manifest["orientation_override"] == "none"
    frames = manifest["frames"]
    # OpenGL: y up, z back, so the second and third columns change sign.
    assert frames[0]["transform_matrix"] == [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]
    assert frames[1]["transform_matrix"] == [[0, 0, -1, 5], [-1, 0, 0, 6], [0, 1, 0, 7], [0, 0, 0, 1]]
    assert [frames[k]["fl_x"] for k in range(3)] == [7.0, 5.0, 7.0]
    assert (frames[0]["fl_y"], frames[0]["cx"], frames[0]["cy"], frames[0]["w"], frames[0]["h"]) == (
        7.5,
        4.25,
        3,
        8,
        6,
    )
    assert manifest["train_filenames"] == ["images/000000.png", "images/000001.png"]
    assert manifest["val_filenames"] == manifest["test_filenames"] == ["images/000002.png"]
    for k, view in enumerate(two_views().views):
        np.testing.assert_array_equal(
            np.asarray(Image.open(folder / frames[k]["file_path"])), view.pyramid[-1]
        )
    assert "mask_path" not in frames[0]


def test_seed_points_keep_places_and_colours(tmp_path):
    points = seeds()
    folder = write_dataset(two_views(), points, tmp_path / "data")
    rows = read_ply(folder / json.loads((folder / "transforms.json").read_text())["ply_file_path"])["vertex"]
    np.testing.assert_array_equal(np.stack([rows[a] for a in "xyz"], axis=1), points.means)
    colors = np.stack([rows[c] for c in ("red", "green", "blue")], axis=1)
    np.testing.assert_allclose(colors / 255, points.colors, atol=0.002)


def test_masks_are_there_for_all_views_or_none(tmp_path):
    folder = write_dataset(two_views(masks=True), seeds(), tmp_path / "data")
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    masks = [np.asarray(Image.open(folder / frame["mask_path"])) for frame in frames]
    assert (masks[0] == 255).all()
    np.testing.assert_array_equal(masks[1] > 0, two_views(masks=True).views[1].masks[0])
    assert set(np.unique(masks[1])) == {0, 255}


def test_no_seeds_are_refused_as_nerfstudio_would_make_up_some(tmp_path):
    with pytest.raises(InputError, match="sparse points"):
        write_dataset(two_views(), Splats.empty(), tmp_path / "data")


# --------------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_an_export_looks_the_same_in_the_metric_world(tmp_path, degree):
    rng = np.random.default_rng(degree)
    rotation, offset, scale = (
        Rotation.from_rotvec([0.7, -1.9, 0.4]).as_matrix(),
        np.array([3.0, -8, 2]),
        0.173,
    )
    n = 60
    model = Splats(
        rng.normal([0, 0, 0.6], [0.25, 0.2, 0.08], (n, 3)), Rotation.random(n, random_state=3).as_quat(),
        rng.uniform(0.01, 0.09, (n, 3)), rng.uniform(0.2, 0.95, n), rng.normal(0, 0.4, (n, (degree + 1) ** 2, 3)),
    )  # fmt: skip
    model.save_ply(tmp_path / "splat.ply")
    transform = np.column_stack([rotation, offset])
    fields = {"transform": transform.tolist(), "scale": scale}
    (tmp_path / "dataparser_transforms.json").write_text(json.dumps(fields))
    world = read_export(tmp_path / "splat.ply", tmp_path / "dataparser_transforms.json")
    k = np.array([[60.0, 0, 32], [0, 55, 24], [0, 0, 1]])

    def draw(splats, c2w, near):
        return raster_forward(
            splats.means, splats.quats_wxyz, splats.scales, splats.opacities, splats.sh, np.linalg.inv(c2w), k, 64, 48,
            sh_degree=degree, near=near,
        )[0]  # fmt: skip

    for turn in ([0, 0, 0], [0.1, -0.3, 0.8]):
        # A camera of nerfstudio's frame, and the one of the metric world that its parser made it of: x_m = s (R x_w + t).
        c2w_model = np.eye(4)
        c2w_model[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
        c2w_world = np.eye(4)
        c2w_world[:3, :3] = rotation.T @ c2w_model[:3, :3]
        c2w_world[:3, 3] = rotation.T @ (c2w_model[:3, 3] / scale - offset)
        expected = draw(model, c2w_model, 1e-3)
        assert expected.std() > 0.1
        np.testing.assert_allclose(draw(world, c2w_world, 1e-3), expected, atol=3e-3)


@pytest.mark.parametrize(
    "fields",
    [{}, {"transform": [[1, 0, 0]], "scale": 1}, {"transform": np.eye(3, 4).tolist(), "scale": 0.0},
     {"transform": np.eye(3, 4).tolist(), "scale": "x"}, {"transform": (2 * np.eye(3, 4)).tolist(), "scale": 1.0}],
)  # fmt: skip
def test_a_damaged_transform_is_named(tmp_path, fields):
    path = tmp_path / "dataparser_transforms.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(InputError, match="dataparser_transforms"):
        model_from_world(path)


# ------------------------------------------------------------------------------------------------ the timetable


def test_the_timetable_of_a_full_training_is_splatfactos_own():
    assert schedule(30_000) == {
        "resolution-schedule": 3000, "sh-degree-interval": 1000, "warmup-length": 500, "refine-every": 100,
        "reset-alpha-every": 30, "stop-split-at": 15_000, "stop-screen-size-at": 4000,
    }  # fmt: skip
    short = schedule(3000)
    assert (short["resolution-schedule"], short["sh-degree-interval"], short["stop-split-at"]) == (
        300,
        100,
        1500,
    )
    assert short["refine-every"] * short["reset-alpha-every"] == 3000
    assert schedule(3000, densify=False)["stop-split-at"] == 0
    full, short = learning_rates(30_000), learning_rates(300)
    assert full["means.optimizer.lr"] == 1.6e-4
    assert full["features-dc.optimizer.lr"] == 0.0025
    assert short["means.optimizer.lr"] == pytest.approx(1.6e-3)
    assert short["scales.optimizer.lr"] == pytest.approx(0.01)
    assert learning_rates(60_000) == full


# ----------------------------------------------------------------------------------------------------- processes


def run(code, tmp_path, *, env=None, **limits):
    lines = []
    run_program(
        [sys.executable, "-c", code], env={**os.environ, **(env or {})}, log=tmp_path / "log", on_line=lines.append,
        **{"silence_s": 60.0, **limits},
    )  # fmt: skip
    return lines


def test_lines_arrive_and_stay_in_the_log(tmp_path):
    assert run("print('\\x1b[1mone'); print('two')", tmp_path) == ["one", "two"]
    assert "two" in (tmp_path / "log").read_text()


def test_a_failure_is_told_in_its_own_words(tmp_path):
    with pytest.raises(GaussgymError, match=r"ValueError: the lens cap is on; see .*log"):
        run("print('x'); raise ValueError('the lens cap is on')", tmp_path)


@pytest.mark.parametrize(("limit", "word"), [("silence_s", "said nothing"), ("timeout_s", "took longer")])
def test_what_hangs_is_ended(tmp_path, limit, word):
    started = time.monotonic()
    code = "import os,time\nopen('pid','w').write(str(os.getpid()))\nprint(1, flush=True)\ntime.sleep(50)"
    code = f"import os\nos.chdir({str(tmp_path)!r})\n" + code
    with pytest.raises(GaussgymError, match=word):
        run(code, tmp_path, **{limit: 4.0})
    assert time.monotonic() - started < 45
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_child_ends_with_its_parent(tmp_path):
    """A parent that is killed, without a chance to tidy up, leaves no training behind."""
    code = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, {child.__file__!r}, 'train', 'm', 'nerfstudio-data', '--output-dir', "
        f"{str(tmp_path)!r}, '--experiment-name', 'data', '--timestamp', 'run', '--data', {str(tmp_path)!r}, "
        "'--steps-per-save', '1', '--max-num-iterations', '9'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "p.stdout.readline(); print(p.pid, flush=True); time.sleep(60)"
    )
    (tmp_path / "transforms.json").write_text('{"train_filenames": ["a"]}')
    env = {**os.environ, "PYTHONPATH": str(STAND_IN), "STAND_IN": "silent"}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env, text=True)
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and "Z" not in _state(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists() or "Z" in _state(pid)


def _state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


# ------------------------------------------------------------------------------------------------ a whole training


@pytest.fixture
def stand_in(tmp_path):
    """An interpreter that finds the stand-in."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{STAND_IN}" exec "{sys.executable}" "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def train(tmp_path, python, points=None, **settings):
    told = []
    cfg = NerfstudioCfg(steps=40, python=python, **settings)
    result = train_by_nerfstudio(
        two_views(), points or seeds(), tmp_path / "work", cfg, on_progress=lambda f, s: told.append((f, s))
    )
    return result, told


def test_a_training_comes_back_in_the_metric_world(tmp_path, stand_in):
    result, told = train(tmp_path, stand_in)
    np.testing.assert_allclose(result.splats.means, seeds().means, atol=1e-4)
    np.testing.assert_allclose(result.splats.scales, 0.1, rtol=1e-4)
    np.testing.assert_allclose(result.splats.colors, seeds().colors, atol=0.003)
    assert [s for _, s in told if s.startswith("step ")] == [f"step {k} of 40" for k in (1, 11, 21, 31)]
    assert all(0 <= f <= 1 for f, _ in told)
    assert result.environment.nerfstudio == "1.1.5"
    # Again: nothing is trained anew.
    log = (tmp_path / "work" / "train.log").read_text()
    train(tmp_path, stand_in)
    assert (tmp_path / "work" / "train.log").read_text() == log


def test_a_killed_training_goes_on_from_its_last_whole_checkpoint(tmp_path, stand_in, monkeypatch):
    monkeypatch.setenv("STAND_IN", "die")
    with pytest.raises(GaussgymError, match="train failed"):
        train(tmp_path, stand_in)
    monkeypatch.setenv("STAND_IN", "")
    result, told = train(tmp_path, stand_in)
    assert "going on from step 25" in [
        s for _, s in told
    ]  # step 25 itself was cut short: 24 is the last whole one
    assert "beginning at 25" in (tmp_path / "work" / "train.log").read_text()
    assert len(result.splats) == 5


def test_other_settings_or_seeds_start_over(tmp_path, stand_in):
    train(tmp_path, stand_in)
    train(tmp_path, stand_in, sh_degree=1)
    train(tmp_path, stand_in, sh_degree=1, points=seeds(7))
    assert (tmp_path / "work" / "train.log").read_text().count("beginning at 0") == 3


def test_a_failing_training_says_why(tmp_path, stand_in, monkeypatch):
    monkeypatch.setenv("STAND_IN", "fail")
    with pytest.raises(
        GaussgymError, match="nerfstudio's train failed: ValueError: the data set is upside down"
    ):
        train(tmp_path, stand_in)


def test_splatfacto_itself_is_refused_without_a_gpu(tmp_path, stand_in):
    with pytest.raises(InputError, match="GPU"):
        train(tmp_path, stand_in, method="splatfacto")


def test_an_environment_without_nerfstudio_is_refused(monkeypatch, tmp_path):
    with pytest.raises(InputError, match=r"expected 1\.1\.5"):
        find_environment(sys.executable)
    with pytest.raises(InputError, match="no such program"):
        find_environment("/nowhere/python")
    with pytest.raises(InputError, match="is no Python"):
        find_environment("/bin/true")
    monkeypatch.setattr("gaussgym_recon.nerfstudio.environment.MADE_PYTHON", tmp_path / "none")
    monkeypatch.delenv("GAUSSGYM_NERFSTUDIO_PYTHON", raising=False)
    with pytest.raises(InputError, match="make setup-nerfstudio"):
        find_environment()


def test_broken_checkpoints_are_passed_over(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
    (tmp_path / "step-000000007.ckpt").write_bytes(b"half")
    assert last_checkpoint(tmp_path) is None
