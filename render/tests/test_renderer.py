"""`SplatRenderer`'s contract: kinds and devices of arrays, masks, buffers, backends, bad input."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from gaussgym_render import Frames, SplatRenderer, available_backends, cuda_backend, register_backend
from gaussgym_render.backends import _BACKENDS
from gaussgym_render.testing import pinhole, random_cameras, random_splats
from gaussgym_scene import InputError


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [random_splats(500, rng), random_splats(200, rng, sh_degree=0)]


@pytest.fixture(scope="module")
def cameras():
    return (
        random_cameras(4, np.random.default_rng(1)),
        np.tile(pinhole(24, 16), (4, 1, 1)),
        np.array([0, 1, 1, 0]),
    )


@pytest.fixture(scope="module")
def renderer(scenes):
    return SplatRenderer(scenes, 24, 16, background=(1.0, 0.0, 0.5))


def test_numpy_in_numpy_out(renderer, cameras):
    frames = renderer.render(*cameras)
    assert [(type(a), a.dtype, a.shape) for a in (frames.rgb, frames.depth, frames.alpha)] == [
        (np.ndarray, np.uint8, (4, 16, 24, 3)),
        (np.ndarray, np.float32, (4, 16, 24)),
        (np.ndarray, np.float32, (4, 16, 24)),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_in_torch_out_on_the_same_device(renderer, cameras, dtype):
    c2w, k, ids = (torch.as_tensor(a) for a in cameras)
    frames = renderer.render(c2w.to(dtype), k.to(dtype), ids)
    assert frames.rgb.dtype == torch.uint8
    assert frames.depth.dtype == frames.alpha.dtype == torch.float32
    assert frames.rgb.device == c2w.device
    rounded = renderer.render(c2w.to(dtype).numpy(), k.to(dtype).numpy(), cameras[2])
    np.testing.assert_array_equal(frames.rgb.numpy(), rounded.rgb)
    np.testing.assert_array_equal(frames.depth.numpy(), rounded.depth)


def test_device_argument_asks_for_tensors(scenes, cameras):
    frames = SplatRenderer(scenes, 24, 16, device="cpu").render(*cameras)
    assert isinstance(frames.rgb, torch.Tensor)


def test_out_is_filled_in_place(renderer, cameras):
    expected = renderer.render(*cameras)
    for kind in (np.asarray, torch.as_tensor):
        out = Frames(*(kind(np.zeros_like(a)) for a in (expected.rgb, expected.depth, expected.alpha)))
        rgb = out.rgb
        assert renderer.render(*cameras, out=out) is out
        assert out.rgb is rgb
        np.testing.assert_array_equal(np.asarray(out.rgb), expected.rgb)
        np.testing.assert_array_equal(np.asarray(out.depth), expected.depth)


def test_mask_leaves_other_cameras_alone(renderer, cameras):
    c2w, k, ids = (a.copy() for a in cameras)
    expected = renderer.render(c2w, k, ids)
    c2w[2], ids[2] = np.nan, 99  # a camera that is not rendered is not looked at
    out = Frames(*(np.full_like(a, 7) for a in (expected.rgb, expected.depth, expected.alpha)))
    renderer.render(c2w, k, ids, mask=np.array([True, True, False, False]), out=out)
    np.testing.assert_array_equal(out.rgb[:2], expected.rgb[:2])
    assert (out.rgb[2:] == 7).all()
    assert (out.depth[2:] == 7).all()


def test_no_cameras(renderer):
    assert renderer.render(np.zeros((0, 4, 4)), np.zeros((0, 3, 3)), np.zeros(0, int)).rgb.shape == (
        0,
        16,
        24,
        3,
    )


def test_background_shows_through_the_transmittance(scenes, cameras):
    black, blue = (
        SplatRenderer(scenes, 24, 16, background=b).render(*cameras) for b in ((0, 0, 0), (0, 0, 1))
    )
    np.testing.assert_array_equal(black.rgb[..., :2], blue.rgb[..., :2])
    unsaturated = blue.rgb[..., 2] < 255
    expected = black.rgb[..., 2] + 255 * (1 - black.alpha)
    assert np.abs(blue.rgb[..., 2] - expected)[unsaturated].max() <= 1.01
    np.testing.assert_array_equal(black.alpha, blue.alpha)


def test_auto_says_what_it_took(scenes, caplog, monkeypatch):
    monkeypatch.setattr(cuda_backend, "count_devices", lambda: 0)
    with caplog.at_level(logging.INFO, logger="gaussgym_render"):
        renderer = SplatRenderer(scenes, 8, 8)
    assert renderer.backend == "cpu"
    assert "'auto' took 'cpu'" in caplog.text


def test_missing_backend_names_those_that_exist(scenes):
    with pytest.raises(InputError, match=r"'nonsense' is not available.*cpu, reference"):
        SplatRenderer(scenes, 8, 8, backend="nonsense")


def test_cuda_says_what_it_lacks_and_auto_passes_it_by(scenes, monkeypatch):
    monkeypatch.setattr(cuda_backend, "count_devices", lambda: 0)
    with pytest.raises(
        InputError, match=r"'cuda' cannot run here: .*; available: cpu, reference.*\(or 'auto'\)"
    ):
        SplatRenderer(scenes, 8, 8, backend="cuda")
    assert SplatRenderer(scenes, 8, 8).backend == "cpu"
    assert "cuda" not in available_backends()


@pytest.mark.parametrize(
    ("devices", "driver", "warp", "text"),
    [
        (1, 13, "1.19.0", None),
        (1, 12, "1.19.0+cu12", None),
        (1, 12, "1.19.0", "the NVIDIA driver is for CUDA 12, Warp 1.19.0 needs one for 13"),
        (0, 13, "1.19.0", "there is no CUDA device, or no driver for it"),
    ],
)
def test_what_cuda_lacks(monkeypatch, devices, driver, warp, text):
    monkeypatch.setattr(cuda_backend, "missing_warp", lambda: None)
    monkeypatch.setattr(cuda_backend, "count_devices", lambda: devices)
    monkeypatch.setattr(cuda_backend, "driver_version", lambda: driver)
    monkeypatch.setattr(cuda_backend, "version", lambda name: warp)
    assert cuda_backend.missing() == text


def test_without_warp_cuda_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(cuda_backend.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'gaussgym-render[cuda]'" in cuda_backend.missing()


def test_a_package_can_register_a_backend(scenes, cameras):
    class White:
        def __init__(self, splats, cfg):
            self.cfg = cfg

        def render(self, c2w, ks, scene_ids, cameras, background, frames):
            frames[0][cameras] = 255

    register_backend("white", White)
    try:
        assert "white" in available_backends()
        assert (SplatRenderer(scenes, 24, 16, backend="white").render(*cameras).rgb == 255).all()
    finally:
        del _BACKENDS["white"]


def change(cameras, **changes):
    named = dict(zip(("c2w", "k", "ids"), (a.copy() for a in cameras)))
    for name, (index, value) in changes.items():
        named[name][index] = value
    return named.values()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"c2w": ((1, 0, 3), np.nan)}, "camera 1: c2w has NaN"),
        ({"c2w": ((2, 1, 1), np.inf)}, "camera 2: c2w has NaN or infinite"),
        ({"c2w": (3, np.diag([2.0, 2, 2, 1]))}, "camera 3: c2w is not a rigid pose"),
        ({"c2w": (0, np.diag([1.0, 1, -1, 1]))}, "camera 0: c2w is not a rigid pose"),
        ({"k": ((1, 0, 0), -5.0)}, "camera 1: K needs positive focal"),
        ({"k": ((1, 0, 2), np.nan)}, "camera 1: K has NaN"),
        ({"k": ((1, 0, 1), 0.5)}, "camera 1: K has skew"),
        ({"ids": (2, 2)}, "camera 2: scene_ids is out of range, expected 0 to 1; found 2"),
        ({"ids": (2, -1)}, "camera 2: scene_ids is out of range"),
    ],
)
def test_bad_cameras(renderer, cameras, changes, text):
    with pytest.raises(InputError, match=text):
        renderer.render(*change(cameras, **changes))


def test_bad_shapes(renderer, cameras):
    c2w, k, ids = cameras
    for bad in (
        (c2w[0], k, ids),
        (c2w[:, :3], k, ids),
        (c2w, k[:3], ids),
        (c2w, k, ids[:, None]),
        (np.float64(1), k, ids),
    ):
        with pytest.raises(InputError, match=r"has shape .* expected"):
            renderer.render(*bad)
    with pytest.raises(InputError, match="expected integers"):
        renderer.render(c2w, k, ids.astype(float))
    with pytest.raises(InputError, match="expected bool"):
        renderer.render(c2w, k, ids, mask=np.ones(4))
    good = renderer.render(c2w, k, ids)
    with pytest.raises(InputError, match=r"out.rgb is uint8 \(3, 16"):
        renderer.render(c2w, k, ids, out=Frames(good.rgb[:3], good.depth, good.alpha))
    with pytest.raises(InputError, match=r"out\.depth is float64"):
        renderer.render(c2w, k, ids, out=Frames(good.rgb, good.depth.astype(float), good.alpha))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"width": 0}, "image size 0x16"),
        ({"near": 0.0}, "near plane"),
        ({"near": float("nan")}, "near plane"),
        ({"sh_degree": 4}, "SH degree 4"),
        ({"background": (1.0, 2.0)}, "background"),
        ({"num_threads": 0}, "num_threads is 0"),
        ({"splats": []}, "no scenes"),
    ],
)
def test_bad_settings(scenes, settings, text):
    with pytest.raises(InputError, match=text):
        SplatRenderer(**{"splats": scenes, "width": 24, "height": 16, **settings})


def test_near_plane(scenes, cameras):
    frames = SplatRenderer(scenes, 24, 16, near=1000.0).render(*cameras)
    assert frames.alpha.max() == 0
    assert frames.depth.max() == 0


def test_import_needs_no_torch():
    code = "import sys, gaussgym_render; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_cameras_of_different_sizes_share_a_call(backend):
    """Each image is the one that a renderer of its size gives; the rest of its frame is left alone."""
    rng = np.random.default_rng(31)
    scene, c2w = random_splats(600, rng, sh_degree=1), random_cameras(4, rng)
    sizes = np.array([[200, 150], [64, 48], [1, 1], [131, 149]])
    k = np.stack([pinhole(*size) for size in sizes])
    big = SplatRenderer([scene], 200, 150, backend=backend)
    out = Frames(
        np.full((4, 150, 200, 3), 9, np.uint8), np.full((4, 150, 200), 9.0, np.float32),
        np.full((4, 150, 200), 9.0, np.float32),
    )  # fmt: skip
    frames = big.render(c2w, k, np.zeros(4, int), sizes=sizes, out=out, outputs=("median_depth",))
    for c, (width, height) in enumerate(sizes):
        own = SplatRenderer([scene], int(width), int(height), backend=backend).render(
            c2w[c : c + 1], k[c : c + 1], np.zeros(1, int), outputs=("median_depth",)
        )
        for name in ("rgb", "depth", "alpha", "median_depth"):
            np.testing.assert_array_equal(getattr(frames, name)[c, :height, :width], getattr(own, name)[0])
        assert (frames.rgb[c, height:] == 9).all()
        assert (frames.rgb[c, :, width:] == 9).all()


def test_sizes_beyond_the_frame_are_refused():
    renderer = SplatRenderer([random_splats(3, np.random.default_rng(0))], 8, 6, backend="cpu")
    with pytest.raises(InputError, match="camera 1: image of 8x7 px, expected 1x1 to 8x6"):
        renderer.render(
            np.tile(np.eye(4), (2, 1, 1)),
            np.tile(pinhole(8, 6), (2, 1, 1)),
            np.zeros(2, int),
            sizes=[[8, 6], [8, 7]],
        )
