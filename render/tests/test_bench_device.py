"""Measuring on a GPU: floors, counts, clocks, parity, rivals. What can be tested without one is."""

import inspect
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gaussgym_render import oracle
from gaussgym_render.atlas import build_atlas
from gaussgym_render.bench import counts, device, device_rivals, parity
from gaussgym_render.bench.comparison import psnr_db
from gaussgym_render.bench.floors import SPLAT_BYTES, STAGES, Counts, chip_of, floors, stage_floors, stage_of
from gaussgym_render.bench.scenes import Workload
from gaussgym_render.lod import build_tree
from gaussgym_render.testing import (
    ONE_PIXEL,
    covering_splat,
    join_splats,
    pinhole,
    random_cameras,
    random_splats,
    street_cameras,
    street_splats,
)
from gaussgym_scene import InputError

SCRIPT = Path(__file__).parents[2] / "experiments" / "gpu" / "renderer.py"


def test_chips_are_found_by_the_driver_s_name():
    names = [
        "NVIDIA H100 80GB HBM3",
        "NVIDIA H100 PCIe",
        "NVIDIA H200",
        "NVIDIA A100-SXM4-80GB",
        "NVIDIA A100-PCIE-40GB",
    ]
    assert [chip_of(name).name for name in names] == [
        "H100 SXM",
        "H100 PCIe",
        "H200",
        "A100 80GB",
        "A100 40GB",
    ]
    assert chip_of("NVIDIA GeForce RTX 4090").bytes_per_s == 1.008e12
    assert chip_of("Voodoo 2") is None


def test_floors_of_a_hand_computed_batch():
    """4096 frames of 640x480: 70,000 splats tested, 50,000 seen, 75,000 pairs, 46 million evaluations."""
    few = Counts(
        chunks_tested=800, tested=70_000, visible=50_000, pairs=75_000, evaluated=46e6, contributing=5e6
    )
    sizes = {"frames": 4096, "pixels": 640 * 480, "scene_bytes": 128 * 200_000 * 36.0, "bytes_per_pixel": 5.0}
    ada = floors(few, chip_of("NVIDIA GeForce RTX 4090"), **sizes)
    hopper = floors(few, chip_of("NVIDIA H100 80GB HBM3"), **sizes)
    # (40·70,000 + 450·50,000 + 28·46e6)·4096 / 82.6e12; half precision is no faster there, and twice as fast on the other.
    assert ada.half_ops_s == ada.single_ops_s == pytest.approx(65.12e-3, rel=1e-3)
    assert hopper.half_ops_s == pytest.approx((25.3e6 + 644e6) * 4096 / 66.9e12, rel=1e-6)
    assert hopper.floor_s == hopper.half_ops_s
    # 0.92 GB of scenes and 6.29 GB of images; between kernels 2·44·50,000 + 44·75,000 bytes a frame.
    assert ada.least_bytes_s == pytest.approx((921.6e6 + 6.291456e9) / 1.008e12)
    assert ada.design_bytes_s - ada.least_bytes_s == pytest.approx(4096 * 7.7e6 / 1.008e12)
    assert ada.floor_s == ada.single_ops_s
    idle = replace(few, evaluated=0.0, tested=0.0, visible=0.0, pairs=0.0)
    assert floors(idle, chip_of("NVIDIA H100 80GB HBM3"), **sizes).floor_s == hopper.least_bytes_s


def test_stages_have_floors_of_their_own():
    few = Counts(
        chunks_tested=800, tested=64_000, visible=50_000, pairs=75_000, evaluated=46e6, contributing=5e6
    )
    chip = chip_of("NVIDIA H100 80GB HBM3")
    found = stage_floors(few, chip, frames=1000, pixels=640 * 480, bytes_per_pixel=11.0, half=True)
    assert tuple(found) == STAGES
    assert found["project"]["bytes_s"] == pytest.approx(1000 * (2 * 64_000 * 42 / 32 + 44 * 50_000) / 3.35e12)
    assert found["blend"]["bytes_s"] == pytest.approx(1000 * (48 * 75_000 + 11 * 307_200) / 3.35e12)
    assert found["sort"]["bytes_s"] == pytest.approx(1000 * 36 * 75_000 / 3.35e12)
    whole = floors(few, chip, frames=1000, pixels=640 * 480, scene_bytes=0.0, bytes_per_pixel=11.0)
    assert sum(stage["ops_s"] for stage in found.values()) == pytest.approx(whole.half_ops_s)


def test_kernels_belong_to_stages():
    """All of the renderer's own, under the names that Warp gives them on a device, and what it sorts with."""
    names = {
        "blend_0f3a_cuda_kernel_forward": "blend", "rank_ties_1_cuda_kernel_forward": "sort", "mark": "project", "scan_tiles": "project",
        "cub::DeviceSegmentedRadixSortKernel<...>": "sort", "cub::DeviceRadixSortOnesweepKernel<...>": "prepare", "visit_pairs": "bin",
        "Memset (Device)": "other", "histogram_chunks": "project", "sort_plain": "sort",
    }  # fmt: skip
    assert {name: stage_of(name) for name in names} == names


def test_a_splat_in_the_atlas_is_as_large_as_the_floors_say():
    atlas = build_atlas([random_splats(2560, np.random.default_rng(0), sh_degree=0)])
    arrays = (atlas.means, atlas.shapes, atlas.base_colors, atlas.source)
    assert sum(array.nbytes for array in arrays) == 2560 * SPLAT_BYTES


def count(splats, c2w, k, width, height):
    return counts.count_frame(splats, build_atlas([splats]), c2w, k, width, height)


def test_one_splat_over_all_pixels():
    """Half of the light each: two splats, every pixel evaluated and counting; a macro-tile of 64 px needs four for 128x65..."""
    pair = join_splats(covering_splat(1.0, 0.5), covering_splat(2.0, 0.5))
    k = pinhole(16, 16)
    found = count(pair, np.eye(4), k, 16, 16)
    assert (found.visible, found.pairs, found.evaluated, found.contributing) == (2, 2, 512, 512)
    assert found.tested == 256  # one chunk, padding included
    wide = count(pair, np.eye(4), pinhole(320, 240), 320, 240)
    assert wide.pairs == 2 * 5 * 4  # 64 px tiles
    assert wide.evaluated == wide.contributing == 2 * 320 * 240


def test_pixels_close_where_the_light_is_used_up():
    """0.999, then 0.95 would take 1e-3 to 5e-5 and is left out: it closes the pixel, and what lies behind is not looked at."""
    stack = join_splats(covering_splat(1.0, 1.0), covering_splat(2.0, 0.95), covering_splat(3.0, 0.9))
    found = count(stack, np.eye(4), ONE_PIXEL[0], 1, 1)
    assert (found.visible, found.evaluated, found.contributing) == (3, 2, 1)


def dense_contributions(splats, c2w, k, width, height):
    """Pixels at which splats add to the image: all splats on all pixels."""
    p = oracle.project(splats, c2w, k, width, height)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    left, is_open, total = np.ones((height, width)), np.ones((height, width), bool), 0
    for mean, covariance, opacity in zip(p.means_px, p.covariances_px, p.opacities):
        (a, b), (_, c) = np.linalg.inv(covariance)
        dx, dy = x - mean[0], y - mean[1]
        alpha = np.minimum(0.999, opacity * np.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy))
        hit = is_open & (alpha >= 1 / 255)
        closing = hit & (left * (1 - alpha) <= 1e-4)
        is_open &= ~closing
        left = np.where(hit & ~closing, left * (1 - alpha), left)
        total += int((hit & ~closing).sum())
    return len(p.index), total


@pytest.mark.parametrize("seed", range(3))
def test_counts_against_all_splats_on_all_pixels(seed):
    rng = np.random.default_rng(seed)
    splats, c2w, k = random_splats(400, rng), random_cameras(1, rng)[0], pinhole(37, 22)
    found = count(splats, c2w, k, 37, 22)
    assert (found.visible, found.contributing) == dense_contributions(splats, c2w, k, 37, 22)
    assert found.contributing < found.evaluated <= found.visible * 37 * 22
    assert found.chunks_tested == 2


def test_levels_of_detail_are_counted_as_they_are_drawn():
    rng = np.random.default_rng(0)
    street, c2w, k = street_splats(3000, rng), street_cameras(1, rng)[0], pinhole(37, 22)
    full, coarse = (
        count(splats, c2w, k, 37, 22) for splats in (street, build_tree(street, threshold_px=3.0))
    )
    assert coarse.visible < 0.7 * full.visible
    assert coarse.evaluated < full.evaluated


def test_times_are_summed_up():
    timing = device.Timing.of([3.0, 1.0, 2.0, 10.0])
    assert (timing.median_ms, timing.min_ms, timing.max_ms, timing.repeats) == (2.5, 1.0, 10.0, 4)
    assert timing.quartile_ms == (1.75, 4.75)
    calls = []
    timing = device.time_calls(lambda: calls.append(1), "cpu", seconds=1e-9, repeats=(3, 5), warm_up=2)
    assert timing.repeats == 3
    assert len(calls) == 2 + 1 + 3
    both = device.time_in_turns({"one": lambda: None, "two": lambda: None}, "cpu", seconds=1e-6, rounds=3)
    assert [both[name].repeats for name in ("one", "two")] == [3, 3]
    assert device.waits_for_device(lambda: None, "cpu") is None
    assert device.allocates(lambda: None, "cpu") is None


def test_kernels_are_timed_one_by_one_on_the_cpu():
    wp = pytest.importorskip("warp")
    from gaussgym_render.bench import ceiling_kernels as kernels

    start = wp.array(np.full(4, 0.5, np.float32), device="cpu")
    out = wp.zeros(4, dtype=wp.float32, device="cpu")
    launch = wp.launch
    rows = device.kernel_times(
        lambda: [
            launch_twice()
            for launch_twice in [lambda: wp.launch(kernels.multiply_adds, 4, [start, 3, out], device="cpu")]
            * 2
        ],
        "cpu",
        repeats=3,
    )
    assert wp.launch is launch
    assert rows["multiply_adds"]["launches"] == 2
    assert rows["multiply_adds"]["ms"] > 0
    x = np.float32(0.5) * np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], np.float32)
    for _ in range(3):
        x = x * x - np.float32(0.0625)
    np.testing.assert_allclose(out.numpy(), x.sum(), rtol=1e-5)


def test_ceilings_are_positive():
    pytest.importorskip("warp")
    found = device.measured_ceilings("cpu", seconds=0.01, copy_bytes=2**20)
    assert all(value > 0 for value in found.values())


def test_parity_passes_what_is_alike_and_nothing_else():
    case = parity.cases([(20, 14)], 60)[0]
    cpu, reference = parity.drawn_by("cpu")(case), parity.drawn_by_oracle(case)
    found = parity.compare(case, cpu, reference, "reference")
    assert found.passed
    assert found.float_colors
    assert 50 < found.psnr_db < 200
    off = {**cpu, "rgb_float": cpu["rgb_float"] + 3 / 255}
    assert not parity.compare(case, off, reference, "reference").passed
    coarse = {**cpu, "rgb": (cpu["rgb"] & 0xF0)}  # the floats are right, the bytes are not
    assert not parity.compare(case, coarse, reference, "reference").passed
    deeper = {**cpu, "depth": cpu["depth"] * 1.02}
    assert not parity.compare(case, deeper, reference, "reference").passed
    rounded = {name: array for name, array in cpu.items() if name != "rgb_float"}
    assert parity.compare(case, rounded, reference, "reference").passed
    assert not parity.compare(
        case, {**rounded, "rgb": rounded["rgb"][::-1].copy()}, reference, "reference"
    ).passed


def test_a_renderer_whose_images_depend_on_the_batch_is_found():
    case = parity.cases([(20, 14)], 60)[0]
    honest = parity.drawn_by("cpu")
    assert all(parity.batch_checks(case, honest).values())

    def by_place(case):
        images = honest(case)
        images["alpha"][0] += 0.5
        return images

    assert parity.batch_checks(case, by_place) == {"drawn_again": True, "backwards": False, "alone": False}


def small_workload():
    rng = np.random.default_rng(0)
    scenes = [random_splats(50, rng, sh_degree=1) for _ in range(2)]
    return Workload(
        scenes, random_cameras(6, rng), np.tile(pinhole(18, 12), (6, 1, 1)), np.arange(6) % 2, 18, 12
    )


def test_gsplat_is_called_as_batches_and_as_gaussgym_calls_it(monkeypatch):
    """With gsplat's own signature, and a stand-in that draws by the oracle: gsplat itself needs CUDA."""
    gsplat = pytest.importorskip("gsplat")
    signature, calls = inspect.signature(gsplat.rasterization), []

    def draw_scene(splats, viewmats, k, width, height, antialiased):
        images = []
        for view in viewmats:
            image = oracle.render(splats, np.linalg.inv(view), k, width, height, antialiased=antialiased)
            images.append(np.concatenate([image.rgb, image.depth_m[..., None]], -1))
        return np.stack(images)

    def stand_in(*args, **options):
        given = signature.bind(*args, **options)
        given.apply_defaults()
        a = given.arguments
        calls.append(a)
        fields = [a[n].double().numpy() for n in ("means", "quats", "scales", "opacities", "colors")]
        lead = fields[0].shape[:-2]
        flat = [f.reshape(-1, *f.shape[len(lead) :]) for f in fields]
        viewmats = a["viewmats"].double().numpy().reshape(len(flat[0]), -1, 4, 4)
        images = [
            draw_scene(
                Arrays(*parts),
                views,
                a["Ks"].flatten(0, -3)[0].double().numpy(),
                a["width"],
                a["height"],
                a["rasterize_mode"] == "antialiased",
            )
            for parts, views in zip(zip(*flat), viewmats)
        ]
        return torch.tensor(np.stack(images).reshape(*lead, -1, a["height"], a["width"], 4)), None, {}

    class Arrays:
        def __init__(self, means, quats_wxyz, scales, opacities, sh):
            self.means, self.quats_wxyz, self.scales, self.opacities, self.sh = (
                means,
                quats_wxyz,
                scales,
                opacities,
                sh,
            )

    monkeypatch.setattr(gsplat, "rasterization", stand_in)
    load = small_workload()
    ours = {
        antialiased: np.stack([
            oracle.render(load.scenes[s], c, k, 18, 12, antialiased=antialiased).rgb
            for s, c, k in zip(load.scene_ids, load.c2w, load.K)
        ])
        for antialiased in (True, False)
    }  # fmt: skip
    expected = {mode: np.floor(np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8) for mode, rgb in ours.items()}

    batched = list(device_rivals._gsplat_batched(load, "cpu"))
    assert [drawn.setting for drawn in batched] == ["6 cameras a call"]
    batched[0].draw()
    assert psnr_db(batched[0].images(6), expected[True]).min() > 55
    assert len(calls) == 1
    assert (calls[0]["render_mode"], calls[0]["rasterize_mode"], calls[0]["radius_clip"]) == (
        "RGB+ED",
        "antialiased",
        0.0,
    )

    monkeypatch.setattr(device_rivals, "MINIBATCHES", (4096, 2))
    _, split = device_rivals._gsplat_batched(load, "cpu")
    assert split.setting == "2 cameras a call"
    calls.clear()
    split.draw()
    assert len(calls) == 3
    assert psnr_db(split.images(6), expected[True]).min() > 55

    monkeypatch.setattr(device_rivals, "GAUSSGYM_MINIBATCH", 2)
    (loop,) = device_rivals._gaussgym_loop(load, "cpu")
    calls.clear()
    loop.draw()
    assert [len(call["viewmats"]) for call in calls] == [2, 1, 2, 1]
    assert {(call["radius_clip"], call["rasterize_mode"], call["render_mode"]) for call in calls} == {
        (3.0, "classic", "RGB+D")
    }
    assert psnr_db(loop.images(6), expected[False]).min() > 55
    assert psnr_db(loop.images(3), expected[False][:3]).min() > 55
    assert len(loop.images(3)) == 3


def test_gsplat_s_inference_renderer_draws_a_camera_a_call(monkeypatch):
    """Stand-ins of the classes that gsplat's main branch has: one scene and one camera each, images in half precision."""
    made = []

    class InferenceScene:
        @classmethod
        def from_gaussian_tensors(
            cls, means, quats, scales, opacities, colors, sh_degree, sh_compression, *, id
        ):
            made.append((id, sh_degree, sh_compression))
            scene = cls()
            scene.arrays = (means, quats, scales, opacities, colors)
            return scene

    class InferenceRenderer:
        def __init__(self, scene, *, tile_size=8):
            self.arrays = scene.arrays

        def render(self, *, viewmat, K, width, height):
            names = ("means", "quats_wxyz", "scales", "opacities", "sh")
            splats = SimpleNamespace(**dict(zip(names, (array.numpy() for array in self.arrays))))
            image = oracle.render(
                splats, np.linalg.inv(viewmat.double().numpy()), K.numpy(), width, height, antialiased=False
            )
            rgbt = np.concatenate([image.rgb, 1.0 - image.alpha[..., None]], -1)
            return SimpleNamespace(frame=torch.tensor(rgbt, dtype=torch.float16)[None])

    parts = {
        "gsplat": {}, "gsplat.scene": {"GaussianInferenceScene": InferenceScene}, "gsplat.experimental": {},
        "gsplat.experimental.render": {"GaussianInferenceRenderer": InferenceRenderer},
    }  # fmt: skip
    for name, content in parts.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))
    load = small_workload()
    (drawn,) = device_rivals._gsplat_inference(load, "cpu")
    drawn.draw()
    assert made == [("scene0", 1, "none"), ("scene1", 1, "none")]
    expected = [
        oracle.render(load.scenes[s], c, k, 18, 12, antialiased=False).rgb
        for s, c, k in zip(load.scene_ids, load.c2w, load.K)
    ]
    expected = np.floor(np.clip(np.stack(expected), 0, 1) * 255 + 0.5).astype(np.uint8)
    assert psnr_db(drawn.images(6), expected).min() > 50


def test_rivals_that_cannot_run_here_say_why():
    for rival in device_rivals.DEVICE_RIVALS:
        absent = rival.absence()
        assert absent is None or "not installed" in absent or "CUDA device" in absent or "gsplat" in absent
    uneven = small_workload()
    uneven.scenes[0] = uneven.scenes[0].subset(np.arange(7))
    with pytest.raises(InputError, match="as many splats and cameras in each scene"):
        next(device_rivals._gsplat_batched(uneven, "cpu"))


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.exists(), reason="the package alone, without the experiments beside it")
def test_the_gpu_experiment_rehearses_on_the_cpu(tmp_path):
    """What a machine with a GPU is to run once must not fail there for a slip of the pen."""
    pytest.importorskip("warp")
    output, plot = tmp_path / "out.json", tmp_path / "out.png"
    command = [sys.executable, str(SCRIPT), "--rehearse", "--output", str(output), "--plot", str(plot)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads(output.read_text())["steps"]
    assert all("result" in step for step in steps.values())
    for name in ("correct", "cpu"):
        assert all(kernels["passed"] for kernels in steps[name]["result"]["kernels"].values())
    assert all(row["left_out"] == 0 for row in steps["headline"]["result"])
    assert all(row["frames_per_s"] > 0 and row["kernels"] for row in steps["headline"]["result"])
    assert all(tried["right"] for row in steps["variants"]["result"] for tried in row["tried"])
    assert all(len(row["tried"]) == 4 for row in steps["variants"]["result"])
    assert steps["lod"]["result"]["psnr_db"] >= 40
    assert {row["rival"] for row in steps["rivals"]["result"]} == {
        rival.name for rival in device_rivals.DEVICE_RIVALS
    }
    assert plot.stat().st_size > 10_000
    again = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert again.returncode == 0, again.stderr
    assert "matrix" not in again.stdout.split("\n")  # what the output has is not measured again


@pytest.mark.gpu
def test_waits_and_allocations_are_noticed_on_a_gpu():
    held = torch.randn(2**20, device="cuda")
    out = torch.empty_like(held)
    assert device.waits_for_device(lambda: torch.mul(held, 2.0, out=out), "cuda") is False
    assert device.waits_for_device(lambda: out.sum().item(), "cuda") is True
    assert device.allocates(lambda: torch.mul(held, 2.0, out=out), "cuda")["torch_allocations"] == 0
    assert device.allocates(lambda: held.clone(), "cuda", calls=4)["torch_allocations"] == 4


@pytest.mark.gpu
def test_times_and_kernels_of_a_gpu():
    held = torch.randn(2**26, device="cuda")
    timing = device.time_calls(lambda: held.mul_(1.0), "cuda", seconds=0.1)
    assert 2 * 4 * 2**26 / (timing.median_ms / 1e3) < 2e13  # bytes a second: less than any memory has
    kernels = device.kernel_times(lambda: held.mul_(1.0), "cuda")
    assert sum(row["ms"] for row in kernels.values()) == pytest.approx(timing.median_ms, rel=0.5)
    ceilings = device.measured_ceilings("cuda", seconds=0.2, copy_bytes=2**30)
    assert ceilings["copy_bytes_per_s"] > 1e11
    assert ceilings["flop_per_s"] > 1e12
