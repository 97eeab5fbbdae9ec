"""nerfstudio itself, in its own environment: a tiny capture trained without a GPU, exported, and compared with the built-in trainer.

`make test-nerfstudio` runs it. Skipped, with the reason, where that environment is not installed.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from gaussgym_recon.nerfstudio import child
from gaussgym_recon.nerfstudio.dataset import write_dataset
from gaussgym_recon.nerfstudio.environment import METHOD, find_environment
from gaussgym_recon.nerfstudio.export import TRANSFORMS, model_from_world
from gaussgym_recon.nerfstudio.stage import model_from_splats, trained_by_nerfstudio
from gaussgym_recon.nerfstudio.training import (
    NerfstudioCfg,
    last_checkpoint,
    train_by_nerfstudio,
    training_arguments,
)
from gaussgym_recon.seeding import seed_splats
from gaussgym_recon.stereo import StereoCfg, dense_depths
from gaussgym_recon.synthetic import SynthesizeCfg, synthesize_capture
from gaussgym_recon.trainer import Trainer, TrainerCfg
from gaussgym_recon.views import load_views
from gaussgym_recon.warmup import posed_by_truth
from gaussgym_scene.capture import Capture
from gaussgym_scene.errors import InputError
from gaussgym_scene.synth import synthesize

pytestmark = [pytest.mark.nerfstudio, pytest.mark.slow, pytest.mark.timeout(3600)]
STEPS = 300


@pytest.fixture(scope="module")
def environment():
    try:
        return find_environment()
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """Views of a flat scene, seed splats on it, stereo depth."""
    scene = synthesize("flat")
    cfg = SynthesizeCfg(images=18, width=200, height=150, turn_images=2)
    folder = synthesize_capture(scene, tmp_path_factory.mktemp("nerfstudio") / "capture", cfg=cfg)
    capture = Capture.load(folder)
    posed = posed_by_truth(scene, capture)
    views = load_views(posed, capture.images, long_sides_px=(50, 100, 200))
    depths = dense_depths(posed, views, StereoCfg(iterations=2), level=1)
    seeds = seed_splats(posed, views, depths, count=6000, level=1, sh_degree=1)
    return views, seeds, {i: found.depth_m for i, found in depths.items()}


def test_it_trains_without_a_gpu_nearly_as_well_as_the_built_in_trainer(environment, capture, tmp_path):
    """Equal seeds, splats and steps, nothing densified on either side; scored by the same renderer."""
    views, seeds, depths = capture
    told = []
    cfg = NerfstudioCfg(steps=STEPS, densify=False)
    ours = trained_by_nerfstudio(
        views, seeds, tmp_path / "work", cfg, TrainerCfg(), on_progress=lambda f, s: told.append(s)
    )
    theirs_db = ours.held_out_psnr_db()
    builtin = Trainer(views, seeds, TrainerCfg(iterations=STEPS, densify_every=10 * STEPS), depths_m=depths)
    builtin.run()
    built_in_db = builtin.held_out_psnr_db()
    print(f"nerfstudio {theirs_db:.2f} dB with {len(ours.model)} splats in {ours.elapsed_s:.0f} s, "
          f"built in {built_in_db:.2f} dB with {len(builtin.model)} in {builtin.elapsed_s:.0f} s")  # fmt: skip
    assert f"step {STEPS - STEPS % 10 - 9} of {STEPS}" in told
    assert len(ours.model) == pytest.approx(len(seeds), rel=0.01)
    assert theirs_db > built_in_db - 1.0
    run = tmp_path / "work" / "runs" / "data" / METHOD / "run"
    assert last_checkpoint(run / "nerfstudio_models") == STEPS - 1
    # nerfstudio did move and scale the scene, and the splats lie again where the seeds were.
    moved = model_from_world(run / TRANSFORMS)
    assert moved.scale < 0.5
    assert np.linalg.norm(moved.translation) > 0.1
    offset = np.median(
        np.linalg.norm(ours.model.means[: len(seeds)] - seeds.means[: len(ours.model)], axis=1)
    )
    assert offset < 0.5  # [m]; in nerfstudio's own frame they would be metres away


def test_a_killed_training_goes_on_and_densifies(environment, capture, tmp_path):
    """Killed like a machine that loses power after the first checkpoint, then finished by another call."""
    views, seeds, _ = capture
    work, cfg = tmp_path / "work", NerfstudioCfg(steps=200, bilateral_grid=False)
    code = (
        "import pickle, sys\nfrom pathlib import Path\nfrom gaussgym_recon.nerfstudio.training import *\n"
        "views, seeds, work, cfg = pickle.load(open(sys.argv[1], 'rb'))\ntrain_by_nerfstudio(views, seeds, work, cfg)"
    )
    (tmp_path / "job.pkl").write_bytes(pickle.dumps((views, seeds.splats(), work, cfg)))
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "job.pkl")])
    checkpoints = work / "runs" / "data" / METHOD / "run" / "nerfstudio_models"
    deadline = time.monotonic() + 1500
    while not list(checkpoints.glob("*.ckpt")) and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = last_checkpoint(checkpoints)
    assert done is not None
    assert done < 199
    told = []
    result = train_by_nerfstudio(views, seeds.splats(), work, cfg, on_progress=lambda f, s: told.append(s))
    assert f"going on from step {last_checkpoint_named(told)}" in told
    assert last_checkpoint(checkpoints) == 199
    assert "GSs duplicated" in (work / "train.log").read_text()
    assert Trainer(views, model_from_splats(result.splats), TrainerCfg()).held_out_psnr_db() > 15


def last_checkpoint_named(told):
    return next(int(s.rsplit(" ", 1)[1]) for s in told if s.startswith("going on from step"))


def test_evaluation_does_not_hang(environment, capture, tmp_path):
    """nerfstudio's own evaluation, single images and all of them: it compiled ten lines anew when it first evaluated."""
    views, seeds, _ = capture
    data = write_dataset(views, seeds.splats(), tmp_path / "data")
    words = training_arguments(data, tmp_path, NerfstudioCfg(), 12)
    for name in ("--steps-per-eval-image", "--steps-per-eval-all-images"):
        words[words.index(name) + 1] = "5"
    # The program ends when its stdin does, which `run` would close at once were it a pipe of its own.
    stdin, held = os.pipe()
    result = subprocess.run(
        [environment.python, child.__file__, "train", *words], env=environment.variables(), stdin=stdin,
        capture_output=True, text=True, timeout=1500, check=False,
    )  # fmt: skip
    os.close(held)
    os.close(stdin)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "Caching / undistorting eval images" in result.stdout
    assert (
        tmp_path / "runs" / "data" / METHOD / "run" / "nerfstudio_models" / "step-000000011.ckpt"
    ).exists()


def test_our_packages_import_beside_an_older_numpy(environment):
    code = (
        "import json, numpy, torch, torchvision, gaussgym_scene.scene, gaussgym_render.differentiable\n"
        "from torchvision.models import resnet18\n"
        "print(json.dumps([numpy.__version__, list(resnet18().eval()(torch.zeros(1, 3, 32, 32)).shape)]))"
    )
    result = subprocess.run(
        [environment.python, "-c", code],
        env=environment.variables(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    numpy_version, shape = json.loads(result.stdout)
    assert int(numpy_version.split(".")[0]) == 1
    assert shape == [1, 1000]


def test_the_programs_of_nerfstudio_know_the_method(environment):
    """As a user types it, without our driver."""
    program = Path(environment.python).with_name("ns-train")
    result = subprocess.run(
        [program, METHOD, "--help"], env=environment.variables(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "antialiased" in result.stdout
    assert os.access(program.with_name("ns-export"), os.X_OK)
