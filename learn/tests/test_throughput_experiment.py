"""`experiments/gpu/throughput.py`, which a machine with a GPU is to run once: rehearsed, and its parts."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "experiments" / "gpu" / "throughput.py"
if not SCRIPT.exists():
    pytest.skip("the package alone, without the experiments beside it", allow_module_level=True)
for needed in ("warp", "mujoco_warp"):
    pytest.importorskip(needed)


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPT.parent))
    yield importlib.import_module("throughput")
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def world(script):
    return importlib.import_module("throughput_world")


def test_images_are_averaged_over_boxes(world):
    rgb = torch.randint(0, 256, (3, 8, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    small = world.averaged(rgb, 4)
    for c, y, x, channel in ((0, 0, 0, 0), (1, 1, 2, 1), (2, 1, 0, 2)):
        box = rgb[c, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4, channel].double()
        assert int(small[c, y, x, channel]) == int(box.mean() + 0.5)
    assert small.shape == (3, 2, 3, 3)
    white = torch.full((1, 4, 4, 3), 255, dtype=torch.uint8)
    assert int(world.averaged(white, 4).min()) == 255
    assert world.averaged(rgb, 1) is rgb


def test_the_camera_draws_any_number_from_the_same_buffers(world, monkeypatch):
    """Fewer cameras than a batch: the rest are masked out, and images are those of a renderer of its own."""
    import numpy as np
    from gaussgym_render import SplatRenderer
    from gaussgym_render.testing import pinhole, random_cameras, random_splats

    rng = np.random.default_rng(0)
    scenes = [random_splats(60, rng), random_splats(40, rng)]
    poses = torch.tensor(random_cameras(7, rng), dtype=torch.float32)
    k = torch.tensor(pinhole(12, 8), dtype=torch.float32).repeat(7, 1, 1)
    ids = torch.arange(7) % 2
    monkeypatch.setattr(world, "BATCH_ROUNDING", 4)
    camera = world.Camera(scenes, 24, 16, 2, 7, torch.device("cpu"))
    full = k.clone()
    full[:, :2] *= 2
    expected = world.averaged(SplatRenderer(scenes, 24, 16, backend="cpu").render(poses, full, ids).rgb, 2)
    for rows in (torch.arange(7), torch.tensor([6, 1, 3]), torch.tensor([2, 4, 5, 0, 1])):
        got = camera.render(poses[rows], k[rows], ids[rows]).rgb
        assert (got.int() - expected[rows].int()).abs().max() <= 1
    assert camera.frames == 15
    assert k[0, 0, 0] == pytest.approx(pinhole(12, 8)[0, 0])  # what was given is left alone


def test_the_kernels_that_won_nearby_are_taken(world, tmp_path):
    rows = [
        {"width_px": w, "height_px": h, "chosen": {"kernels": kernels}}
        for w, h, kernels in ((84, 48, "plain"), (640, 480, "half"))
    ]
    found = tmp_path / "renderer.json"
    found.write_text(json.dumps({"steps": {"variants": {"result": rows}}}))
    assert [world.fastest_backend(found, pixels) for pixels in (64 * 48, 320 * 240, 640 * 480)] == [
        "cuda",
        "cuda-half",
        "cuda-half",
    ]
    found.write_text(json.dumps({"steps": {}}))
    assert world.fastest_backend(found, 1000) == world.fastest_backend(None, 1000) == "cuda"
    assert world.fastest_backend(tmp_path / "none.json", 1000) == "cuda"


def test_rates_are_medians_with_their_range(script):
    rows = [{"control_steps_per_s": rate, "ms": 1000 / rate} for rate in (10.0, 40.0, 20.0)]
    assert script.median(rows) == {
        "control_steps_per_s": 20.0,
        "ms": 50.0,
        "control_steps_per_s_range": [10.0, 40.0],
    }


@pytest.mark.slow
def test_the_gpu_experiment_rehearses_on_the_cpu(tmp_path):
    output = tmp_path / "out.json"
    command = [
        sys.executable,
        str(SCRIPT),
        "--rehearse",
        "--workers",
        "1",
        "--output",
        str(output),
        "--lod-px",
        "0.5",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(output.read_text())["rows"]
    assert list(rows) == ["physics", "40x36 at 10 Hz", "40x36 at 50 Hz", "80x72 at 10 Hz", "80x72 at 50 Hz"]
    for name, row in rows.items():
        assert "error" not in row
        simulate = row["result"].get("simulate", row["result"])
        assert simulate["physics_steps_per_s"] == pytest.approx(4 * simulate["control_steps_per_s"])
        if name == "physics":
            continue
        frames_a_step = simulate["frames_per_s"] / simulate["control_steps_per_s"]
        assert frames_a_step == pytest.approx(1.0) if "50 Hz" in name else 0.1 < frames_a_step < 0.5
        assert row["result"]["train"]["training_steps_per_s"] > 0
        assert simulate["physics_ms"] > 0
        assert simulate["render_ms"] > 0
        assert simulate["policy_ms"] > 0
