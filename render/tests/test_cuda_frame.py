"""The renderer on CUDA without a GPU: its kernels on Warp's CPU device against the oracle, and compiled for GPUs."""

from importlib import import_module

import numpy as np
import pytest
from gaussgym_render import SplatRenderer
from gaussgym_render.atlas import build_atlas
from gaussgym_render.testing import pinhole, random_cameras, random_splats

wp = pytest.importorskip("warp")

from gaussgym_render.cuda.device_atlas import upload  # noqa: E402
from gaussgym_render.cuda.frame import CudaCfg, Frame, FrameInputs, make_images  # noqa: E402

BACKGROUND = (0.2, 0.4, 0.6)
MODULES = {
    "cameras": ["prepare_cameras", "count_active", "group_cameras"],
    "project": ["cull", "mark", "count_visible", "project"],
    "scan": ["scan_tiles", "scan_sums", "add_sums"],
    "overflow": ["histogram_chunks", "find_cut", "drop_chunks"],
    "bins": ["camera_segments", "visit_pairs", "clear_counts", "rank_ties", "keep_ties"],
    "blend": ["blend"],
}


def skewed_pinhole(width, height):
    """Different focal lengths and a principal point off the middle."""
    k = pinhole(width, height)
    k[0, 2], k[1, 2], k[1, 1] = 0.41 * width, 0.57 * height, 1.15 * k[1, 1]
    return k


def render(scenes, width, height, c2w, ks, ids, **cfg):
    """Images of the plain path on Warp's CPU device."""
    frame = Frame(
        upload(build_atlas(scenes), "cpu"),
        len(c2w),
        width,
        height,
        near=0.01,
        antialiased=True,
        cfg=CudaCfg(**cfg),
    )
    inputs = FrameInputs(
        wp.array(c2w, dtype=wp.float64, device="cpu"),
        wp.array(ks, dtype=wp.float64, device="cpu"),
        wp.array(ids, dtype=wp.int64, device="cpu"),
        wp.zeros(0, dtype=wp.bool, device="cpu"),
        wp.zeros((0, 2), dtype=wp.int64, device="cpu"),
    )
    shape = (len(c2w), height, width)
    rgb = wp.zeros((*shape, 3), dtype=wp.uint8, device="cpu")
    depth, alpha = (wp.zeros(shape, dtype=wp.float32, device="cpu") for _ in range(2))
    frame.render(inputs, make_images(rgb, depth, alpha, BACKGROUND))
    return rgb.numpy(), depth.numpy(), alpha.numpy()


@pytest.mark.parametrize(("width", "height"), [(64, 48), (150, 110)])
def test_parity_of_several_scenes_in_waves(width, height):
    """One macro-tile and several; a wave of three cameras holds more than one scene."""
    rng = np.random.default_rng(3)
    scenes = [random_splats(n, rng, sh_degree=d) for n, d in ((2000, 3), (300, 1), (257, 0))]
    c2w, ids = random_cameras(7, rng), np.array([2, 0, 1, 0, 0, 2, 1])
    ks = np.tile(skewed_pinhole(width, height), (7, 1, 1))
    rgb, depth, alpha = render(scenes, width, height, c2w, ks, ids, wave_cameras=3)
    for backend, least_db in (("cpu", 85.0), ("reference", 60.0)):
        other = SplatRenderer(scenes, width, height, backend=backend, background=BACKGROUND).render(
            c2w, ks, ids
        )
        error = rgb.astype(float) - other.rgb
        assert np.abs(error).max() <= 1
        assert 10 * np.log10(255.0**2 / max(np.mean(error**2), 1e-12)) >= least_db
        assert np.mean(np.abs(alpha - other.alpha) <= 2 / 255) >= 0.9999
        both = (other.alpha > 0.02) & (np.abs(alpha - other.alpha) < 1e-3)
        assert np.median(np.abs(depth - other.depth)[both] / other.depth[both]) <= 1e-3


@pytest.mark.parametrize("arch", [80, 120, *(pytest.param(n, marks=pytest.mark.slow) for n in (86, 89, 90))])
def test_kernels_compile_for_gpus(arch, tmp_path):
    """NVRTC comes with Warp and needs no driver, so that a machine without a GPU sees what would not compile for one."""
    for name, kernels in MODULES.items():
        module = import_module(f"gaussgym_render.cuda.{name}")
        folder = tmp_path / name
        wp.compile_aot_module(module.__name__, arch=arch, module_dir=folder, use_ptx=True)
        (ptx,) = folder.glob("*.ptx")
        text = ptx.read_text()
        assert f".target sm_{arch}" in text
        for kernel in kernels:
            assert f".entry {kernel}_" in text
