"""Backend 'cuda' through `SplatRenderer`: parity, levels, what must not change images, overflow, arrays where they lie.

Every test runs on Warp's CPU device; where there is a GPU, those that take `backend` run there too (`pytest -m gpu`).
"""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gaussgym_render import Frames, SplatRenderer, cuda_backend, oracle
from gaussgym_render.atlas import CHUNK, build_atlas
from gaussgym_render.lod import build_tree
from gaussgym_render.testing import pinhole, random_cameras, random_splats, street_cameras, street_splats
from gaussgym_scene import InputError, Splats

wp = pytest.importorskip("warp")

from gaussgym_render.cuda.backend import CudaRasterizer  # noqa: E402
from gaussgym_render.cuda.device_atlas import nested_boxes, tree_parents, upload  # noqa: E402
from gaussgym_render.cuda.frame import CudaCfg, plan_capacity  # noqa: E402
from gaussgym_render.cuda.scan import Scan  # noqa: E402

BACKGROUND = (0.2, 0.4, 0.6)
HAS_GPU = cuda_backend.missing() is None
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="no CUDA device")]


@pytest.fixture(
    params=[
        "warp-cpu",
        pytest.param(
            "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="no CUDA device")]
        ),
    ]
)
def backend(request):
    return request.param


def place(backend):
    """Torch device of a backend."""
    return "cpu" if backend == "warp-cpu" else "cuda"


def psnr_db(a, b):
    return 10 * np.log10(255.0**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-12))


def skewed_pinhole(width, height):
    """Different focal lengths and a principal point off the middle."""
    k = pinhole(width, height)
    k[0, 2], k[1, 2], k[1, 1] = 0.41 * width, 0.57 * height, 1.15 * k[1, 1]
    return k


def ragged_scenes(rng):
    """Scenes of very different sizes and SH degrees, one of them empty, one a single splat."""
    sizes = ((2000, 3), (0, 1), (1, 2), (CHUNK, 1), (CHUNK + 1, 0), (900, 2))
    return [random_splats(n, rng, sh_degree=degree) if n else Splats.empty(degree) for n, degree in sizes]


def cameras_of(count, width, height, rng, num_scenes):
    return (
        random_cameras(count, rng),
        np.tile(skewed_pinhole(width, height), (count, 1, 1)),
        np.arange(count) % num_scenes,
    )


def tuned(renderer, **cfg):
    """The renderer with other capacities."""
    old = renderer.rasterizer
    renderer.rasterizer = CudaRasterizer.__new__(CudaRasterizer)
    renderer.rasterizer.__dict__.update(old.__dict__, cuda_cfg=replace(old.cuda_cfg, **cfg), frame=None)
    return renderer


def assert_close(fast, slow, *, least_db):
    """Byte images no more than a step apart, and alpha and depth of float32."""
    error = np.abs(fast.rgb.astype(int) - slow.rgb)
    assert error.max() <= 1
    assert psnr_db(fast.rgb, slow.rgb) >= least_db
    assert np.quantile(np.abs(fast.alpha - slow.alpha), 0.9999) <= 1e-4
    both = (slow.alpha > 0.02) & (np.abs(fast.alpha - slow.alpha) < 1e-4)
    assert np.quantile((np.abs(fast.depth - slow.depth) / (1 + slow.depth))[both], 0.999) <= 1e-4


def assert_same(a, b, rows=slice(None), other=slice(None)):
    for name in ("rgb", "depth", "alpha"):
        np.testing.assert_array_equal(
            np.asarray(getattr(a, name))[rows], np.asarray(getattr(b, name))[other], err_msg=name
        )


# ------------------------------------------------------------------------------------------------------------ parity


@pytest.mark.parametrize("antialiased", [True, False])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 5), (3, 65), (84, 48), (130, 9), (150, 110)])
def test_parity_with_the_cpu_backend(backend, width, height, antialiased):
    """Whose halfs it shares, so that what differs is rounding; the last size has six macro-tiles."""
    rng = np.random.default_rng(width)
    scenes = ragged_scenes(rng)
    batch = cameras_of(14, width, height, rng, len(scenes))
    settings = {"background": BACKGROUND, "antialiased": antialiased}
    ours, other = (
        SplatRenderer(scenes, width, height, backend=name, **settings).render(*batch)
        for name in (backend, "cpu")
    )
    assert other.alpha.max() > 0.5
    assert_close(ours, other, least_db=70 if width > 1 else 50)


def rounded(scene, monkeypatch):
    """The oracle's scene with the numbers that an atlas holds: shapes as halfs, which are no rotation times scale any more."""
    atlas = build_atlas([scene])
    order = np.argsort(np.where(atlas.source < 0, len(atlas.source), atlas.source))[: len(scene)]

    def by_splat(planes, count):
        return (
            planes.reshape(-1, count, CHUNK).transpose(0, 2, 1).reshape(-1, count)[order].astype(np.float64)
        )

    shapes, base = by_splat(atlas.shapes, 10), by_splat(atlas.base_colors, 3)
    sh = np.concatenate(
        [
            ((base - 0.5) / 0.28209479177387814)[:, None],
            by_splat(atlas.rest, 3 * int(atlas.num_rest[0])).reshape(len(scene), -1, 3),
        ],
        1,
    )
    monkeypatch.setattr(oracle, "rotation_matrices", lambda factors: factors.reshape(-1, 3, 3))
    return SimpleNamespace(
        means=scene.means,
        quats_wxyz=shapes[:, :9],
        scales=np.ones((len(scene), 3)),
        opacities=shapes[:, 9],
        sh=sh,
    )


@pytest.mark.parametrize(("width", "height"), [(64, 48), (150, 110)])
def test_parity_with_the_oracle_on_the_same_numbers(backend, width, height, monkeypatch):
    """The gate of the float32 path: 80 dB, and 1e-4 on alpha, whatever halfs did to the scene."""
    rng = np.random.default_rng(5)
    scene = random_splats(1500, rng, log_scale_std=0.7)
    c2w, ks, ids = cameras_of(3, width, height, rng, 1)
    ours = SplatRenderer([scene], width, height, backend=backend, background=BACKGROUND).render(c2w, ks, ids)
    exact = rounded(scene, monkeypatch)
    images = [
        oracle.composite(oracle.project(exact, pose, k, width, height), width, height, background=BACKGROUND)
        for pose, k in zip(c2w, ks)
    ]
    truth = Frames(
        np.floor(np.clip([i.rgb for i in images], 0, 1) * 255 + 0.5),
        np.array([i.depth_m for i in images]),
        np.array([i.alpha for i in images]),
    )
    assert_close(ours, truth, least_db=80)


def test_records_are_the_oracles_projections(monkeypatch):
    """Splat by splat: centre, covariance, opacity, colour, and the depth to the last bit."""
    scene = random_splats(6000, np.random.default_rng(15))
    c2w, ks, ids = cameras_of(2, 64, 48, np.random.default_rng(16), 1)
    c2w[:, :3, 3] *= 0.3
    renderer = SplatRenderer([scene], 64, 48, backend="warp-cpu")
    renderer.render(c2w, ks, ids)
    frame, exact = renderer.rasterizer.frame, rounded(scene, monkeypatch)
    geometry, peak, color, slot = (
        getattr(frame.records, name).numpy() for name in ("geometry", "peak", "color", "slot")
    )
    starts = frame.segments.offsets.numpy()
    source = frame.atlas.scenes.source.numpy()
    for c in range(2):
        truth = oracle.project(exact, c2w[c], ks[c], 64, 48)
        own = np.arange(starts[c], starts[c + 1])
        # The oracle's boxes are rounded up to whole pixels: some of its splats touch no pixel's centre.
        rank = {index: i for i, index in enumerate(truth.index)}
        rows = np.array([rank[index] for index in source[slot[own]]])
        assert len(own) > 0.8 * len(truth.index) > 100
        covariance = truth.covariances_px[rows]
        np.testing.assert_array_equal(color[own, 3], truth.depths_m[rows].astype(np.float32))
        np.testing.assert_allclose(color[own, :3], truth.colors[rows], atol=1e-5)
        np.testing.assert_allclose(geometry[own, :2], truth.means_px[rows], rtol=1e-4, atol=2e-3)
        # The precision matrix, its square completed in x.
        slope, falloff, row_falloff = geometry[own, 2], geometry[own, 3], peak[own, 0]
        np.testing.assert_allclose(slope, covariance[:, 0, 1] / covariance[:, 1, 1], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(row_falloff, 0.5 / np.log(2) / covariance[:, 1, 1], rtol=1e-3)
        precision = np.linalg.inv(covariance)[:, 0, 0]
        np.testing.assert_allclose(falloff, 0.5 / np.log(2) * precision, rtol=1e-3)
        np.testing.assert_allclose(peak[own, 1], np.log2(truth.opacities[rows]), atol=1e-3)


def test_parity_on_a_street(backend):
    """Flat splats, opaque walls, many of nearly equal depth."""
    rng = np.random.default_rng(2)
    scene, c2w = street_splats(9000, rng), street_cameras(6, rng)
    ks, ids = np.tile(pinhole(84, 48), (6, 1, 1)), np.zeros(6, int)
    ours, other = (
        SplatRenderer([scene], 84, 48, backend=name).render(c2w, ks, ids) for name in (backend, "cpu")
    )
    assert_close(ours, other, least_db=70)


def test_far_from_the_origin(backend):
    """A kilometre off, where float32 coordinates step by 0.06 mm: the subtraction is the exact one."""
    rng = np.random.default_rng(4)
    scene, c2w = street_splats(3000, rng), street_cameras(3, rng)
    away = np.array([1000.0, -800.0, 50.0])
    scene = Splats(
        scene.means + away.astype(np.float32), scene.quats_wxyz, scene.scales, scene.opacities, scene.sh
    )
    c2w[:, :3, 3] += away
    ks, ids = np.tile(pinhole(64, 48), (3, 1, 1)), np.zeros(3, int)
    ours, other = (
        SplatRenderer([scene], 64, 48, backend=name).render(c2w, ks, ids) for name in (backend, "cpu")
    )
    assert psnr_db(ours.rgb, other.rgb) >= 60


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_fewer_bands(backend, degree):
    rng = np.random.default_rng(degree)
    scenes, batch = [random_splats(600, rng)], cameras_of(3, 48, 32, rng, 1)
    ours, other = (
        SplatRenderer(scenes, 48, 32, backend=name, sh_degree=degree).render(*batch)
        for name in (backend, "cpu")
    )
    assert_close(ours, other, least_db=70)


@pytest.mark.parametrize("kernels", ["fast", "half"])
@pytest.mark.parametrize(("width", "height"), [(84, 48), (150, 110)])
def test_the_fast_kernels_give_the_same_images(kernels, width, height, monkeypatch):
    """On the CPU as fibers; half precision within its gate."""
    monkeypatch.setattr(wp.config, "enable_cpu_blocks", True)
    rng = np.random.default_rng(8)
    scenes, batch = [random_splats(1500, rng), random_splats(400, rng)], cameras_of(3, width, height, rng, 2)
    plain = SplatRenderer(scenes, width, height, backend="warp-cpu", background=BACKGROUND)
    before = plain.render(*batch)
    after = tuned(plain, kernels=kernels).render(*batch)
    assert np.abs(before.rgb.astype(int) - after.rgb).max() <= (1 if kernels == "fast" else 2)
    assert psnr_db(before.rgb, after.rgb) >= (70 if kernels == "fast" else 45)


# ------------------------------------------------------------------------------------------------------------ levels


def test_parents_of_a_tree_by_hand():
    """Scene 0 is a tree of five nodes (0 over 1 and 4, 1 over 2 and 3), scene 1 two chunks of a plain scene."""
    parents = tree_parents(np.array([[0, 5], [5, 7]]), np.array([5, 3, 1, 1, 1, 1, 1]))
    np.testing.assert_array_equal(parents, [-1, 0, 1, 1, 0, -1, -1])


def test_boxes_nest_exactly():
    tree = build_tree(random_splats(3000, np.random.default_rng(0)))
    atlas = build_atlas([tree])
    parents = tree_parents(atlas.chunk_ranges, atlas.skip)
    low, high = nested_boxes(atlas.bounds_w, parents)
    below = parents >= 0
    assert below.sum() > 10
    assert (low[below] >= low[parents[below]]).all()
    assert (high[below] <= high[parents[below]]).all()
    assert np.abs(low - (atlas.bounds_w[:, :3] - atlas.bounds_w[:, 3:6])).max() < 1e-5


@pytest.mark.parametrize("threshold_px", [0.0, 0.3, 2.0])
def test_levels_of_detail_are_those_of_the_cpu_backend(backend, threshold_px):
    """Beside a plain scene and another tree; a cut through the tree decided node by node draws what walking down draws."""
    street = street_splats(6000, np.random.default_rng(0))
    tree = build_tree(street, threshold_px=threshold_px)
    scenes = [tree, street, build_tree(random_splats(700, np.random.default_rng(11)), threshold_px=1.0)]
    c2w = street_cameras(9, np.random.default_rng(1))
    ks, ids = np.tile(pinhole(64, 48), (9, 1, 1)), np.arange(9) % 3
    renderers = [SplatRenderer(scenes, 64, 48, backend=name) for name in (backend, "cpu")]
    ours, other = (renderer.render(c2w, ks, ids) for renderer in renderers)
    assert_close(ours, other, least_db=70)
    frame = renderers[0].rasterizer.frame
    assert frame.wave.offsets.numpy()[-1] == renderers[1].rasterizer.num_visible.sum()


# ----------------------------------------------------------------------------------------- what must not change images


def test_an_image_depends_on_its_camera_alone(backend):
    """Alone, in a batch, in another order, in waves of another size, and rendered again: the same bits."""
    rng = np.random.default_rng(6)
    scenes = ragged_scenes(rng)
    renderer = SplatRenderer(scenes, 64, 48, backend=backend, background=BACKGROUND)
    batch = cameras_of(40, 64, 48, rng, len(scenes))
    together = renderer.render(*batch)
    assert_same(renderer.render(*batch), together)
    for c in (0, 5, 39):
        alone = SplatRenderer(scenes, 64, 48, backend=backend, background=BACKGROUND).render(
            *(a[c : c + 1] for a in batch)
        )
        assert_same(alone, together, other=slice(c, c + 1))
    order = rng.permutation(40)
    assert_same(renderer.render(*(a[order] for a in batch)), together, other=order)
    assert_same(tuned(renderer, wave_cameras=7).render(*batch), together)


def test_many_cameras_of_one_scene(backend):
    """More than a group of 32, more than a wave."""
    rng = np.random.default_rng(12)
    scenes = [random_splats(700, rng)]
    batch = cameras_of(83, 16, 12, rng, 1)
    renderer = tuned(SplatRenderer(scenes, 16, 12, backend=backend), wave_cameras=70)
    ours, other = renderer.render(*batch), SplatRenderer(scenes, 16, 12, backend="cpu").render(*batch)
    assert_close(ours, other, least_db=60)


def test_equal_depths_keep_the_order_of_the_input(backend):
    """A wall of three coats that is seen straight on: the first in the input is the one in front."""
    rng = np.random.default_rng(9)
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21)), -1).reshape(-1, 2)
    coats = [np.concatenate([grid, np.full((441, 1), 2.0)], 1) for _ in range(3)]
    means = np.concatenate(coats).astype(np.float32)
    n = len(means)
    quats, scales = np.tile([1.0, 0, 0, 0], (n, 1)), np.full((n, 3), 0.08)
    colors = rng.uniform(0, 1, (n, 3))
    order = rng.permutation(n)
    scene = Splats(
        means[order], quats, scales, np.full(n, 0.9), ((colors - 0.5) / 0.28209479177387814)[:, None]
    )
    for size in ((64, 48), (150, 110)):
        k = pinhole(*size)[None]
        ours, truth = (
            SplatRenderer([scene], *size, backend=name).render(np.eye(4)[None], k, np.zeros(1, int))
            for name in (backend, "reference")
        )
        assert len(np.unique(means[:, 2])) == 1
        assert np.abs(ours.rgb.astype(int) - truth.rgb).max() <= 2


# ------------------------------------------------------------------------------------------------------ masks and sizes


def test_masked_cameras_keep_what_they_hold(backend):
    rng = np.random.default_rng(1)
    scenes, batch = ragged_scenes(rng), cameras_of(12, 32, 24, rng, 6)
    renderer = SplatRenderer(scenes, 32, 24, backend=backend)
    expected = renderer.render(*batch)
    mask = rng.uniform(size=12) < 0.5
    batch[0][~mask], batch[2][~mask] = np.nan, 99  # a camera that is not rendered is not looked at
    out = Frames(*(np.full_like(a, 7) for a in (expected.rgb, expected.depth, expected.alpha)))
    renderer.render(*batch, mask=mask, out=out)
    assert_same(out, expected, mask, mask)
    assert (out.rgb[~mask] == 7).all()
    assert (out.depth[~mask] == 7).all()
    nobody = renderer.render(*batch, mask=np.zeros(12, bool))
    assert (nobody.rgb == 0).all()


@pytest.mark.parametrize(("width", "height"), [(64, 48), (150, 110)])
def test_sizes_of_each_camera(backend, width, height):
    rng = np.random.default_rng(3)
    scenes, batch = [random_splats(1200, rng)], cameras_of(5, width, height, rng, 1)
    sizes = np.array([[width, height], [1, 1], [width // 2, height], [width, 5], [17, 13]])
    batch[1][:, 0, 2], batch[1][:, 1, 2] = sizes[:, 0] * 0.45, sizes[:, 1] * 0.55
    ours, other = (
        SplatRenderer(scenes, width, height, backend=name).render(*batch, sizes=sizes)
        for name in (backend, "cpu")
    )
    assert_close(ours, other, least_db=65)
    for c, (w, h) in enumerate(sizes):
        assert (ours.alpha[c, h:] == 0).all()
        assert (ours.alpha[c, :, w:] == 0).all()


# ------------------------------------------------------------------------------------------------------------- overflow


def layers(depths, per_layer=CHUNK):
    """Chunks of splats, one layer of a colour of its own at each depth, none of which hides another."""
    rng, parts = np.random.default_rng(0), []
    for z in depths:
        means = np.concatenate([rng.uniform(-0.4, 0.4, (per_layer, 2)) * z, np.full((per_layer, 1), z)], 1)
        parts.append(means)
    means = np.concatenate(parts).astype(np.float32)
    n = len(means)
    scales = np.full((n, 3), 0.02) * means[:, 2:]
    return Splats(
        means,
        np.tile([1.0, 0, 0, 0], (n, 1)),
        scales,
        np.full(n, 0.05),
        rng.normal(size=(n, 1, 3)).astype(np.float32),
    )


def test_splats_beyond_the_room_go_farthest_first(backend):
    """Room for three of five layers: the image is that of the near three, and the counters say how many are gone."""
    near, far = layers([1.0, 2.0, 3.0]), layers([1.0, 2.0, 3.0, 40.0, 80.0])
    view = (np.eye(4)[None], pinhole(64, 48)[None], np.zeros(1, int))
    roomy = SplatRenderer([far], 64, 48, backend=backend)
    everything = roomy.render(*view)
    visible = int(roomy.rasterizer.frame.wave.offsets.numpy()[-1])
    assert roomy.rasterizer.counters().overflowed_waves == 0
    expected = SplatRenderer([near], 64, 48, backend=backend)
    wanted = expected.render(*view)
    kept = int(expected.rasterizer.frame.wave.offsets.numpy()[-1])
    tight = tuned(SplatRenderer([far], 64, 48, backend=backend), visible_per_camera=kept + 40)
    image = tight.render(*view)
    assert np.abs(image.rgb.astype(int) - everything.rgb).max() > 3
    # Chunks are cut along a Morton curve, so that one may hold splats of two layers.
    assert psnr_db(image.rgb, wanted.rgb) > psnr_db(image.rgb, everything.rgb) + 6
    counters = tight.rasterizer.counters()
    assert counters.dropped_splats >= visible - (kept + 40)
    assert counters.overflowed_waves == 1
    assert tight.rasterizer.counters().overflowed_waves == 0
    assert_same(tight.render(*view), image)


def test_pairs_beyond_the_room_go_farthest_first(backend):
    """Two opaque curtains over all macro-tiles; room for the pairs of the near one."""
    size = (192, 128)
    curtain = [np.array([[0.0, 0.0, z]], np.float32) for z in (2.0, 6.0)]
    sh = [np.full((1, 1, 3), value, np.float32) for value in (1.0, -1.0)]
    splats = [
        Splats(mean, [[1.0, 0, 0, 0]], [[30.0, 30.0, 0.01]], [0.6], color)  # type: ignore[arg-type]
        for mean, color in zip(curtain, sh)
    ]
    both = Splats(
        *(
            np.concatenate([getattr(s, name) for s in splats])
            for name in ("means", "quats_wxyz", "scales", "opacities", "sh")
        )
    )
    view = (np.eye(4)[None], pinhole(*size)[None], np.zeros(1, int))
    expected = SplatRenderer([splats[0]], *size, backend=backend).render(*view)
    # Three by two macro-tiles: six pairs a curtain, room for eleven.
    tight = tuned(SplatRenderer([both], *size, backend=backend), visible_per_camera=2, pairs_per_visible=5.5)
    assert_same(tight.render(*view), expected)
    counters = tight.rasterizer.counters()
    assert (counters.dropped_splats, counters.dropped_pairs, counters.overflowed_waves) == (0, 6, 1)


@pytest.mark.parametrize(
    ("cfg", "cameras", "slots", "tiles", "gib", "expected"),
    [
        ({}, 4096, 200_192, 1, 10, (256, 256 * 200_192, 256 * 200_192)),  # 3.3 GB
        ({}, 4096, 1_000_192, 1, 10, (167, 167 * 1_000_192, 167 * 1_000_192)),  # 64 B a splat
        ({}, 5, 1000, 1, 10, (5, 5000, 5000)),
        ({}, 4096, 200_192, 80, 10, (256, 256 * 200_192, 512 * 200_192)),  # 84 B, 4.3 GB
        ({}, 4096, 5_000_192, 1, 2, (32, 33_554_432, 33_554_432)),  # does not fit: all that there is
        ({"visible_per_camera": 100, "wave_cameras": 64}, 4096, 5_000_192, 1, 2, (64, 6400, 6400)),
    ],
)
def test_capacity_by_hand(cfg, cameras, slots, tiles, gib, expected):
    found = plan_capacity(CudaCfg(**cfg), cameras, slots, tiles, gib << 30)
    assert (found.wave_size, found.records, found.pairs) == expected


def test_no_room_at_all_is_an_empty_image(backend):
    scene = random_splats(600, np.random.default_rng(0))
    renderer = tuned(
        SplatRenderer([scene], 16, 12, backend=backend, background=BACKGROUND), visible_per_camera=1
    )
    image = renderer.render(np.eye(4)[None], pinhole(16, 12)[None], np.zeros(1, int))
    assert (image.alpha == 0).all()
    assert (image.rgb == np.floor(np.array(BACKGROUND) * 255 + 0.5)).all()
    assert renderer.rasterizer.counters().dropped_splats > 0


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 70_000])
def test_running_sums(count):
    values = np.random.default_rng(count).integers(0, 9, count).astype(np.int32)
    out = wp.zeros(count, dtype=wp.int32, device="cpu")
    scan = Scan(count, "cpu")
    scan.run(wp.array(values, device="cpu"), out)
    np.testing.assert_array_equal(out.numpy(), np.cumsum(values) - values)
    scan.run(
        wp.zeros(count, dtype=wp.int32, device="cpu"), out, wp.array([3], dtype=wp.int32, device="cpu"), 3
    )
    np.testing.assert_array_equal(out.numpy(), np.cumsum(values) - values)


# ------------------------------------------------------------------------------------------------- arrays where they lie


@pytest.fixture
def batch():
    rng = np.random.default_rng(3)
    return [random_splats(500, rng), random_splats(200, rng, sh_degree=0)], cameras_of(6, 40, 30, rng, 2)


@pytest.mark.parametrize("real", [torch.float32, torch.float64])
@pytest.mark.parametrize("integer", [torch.int32, torch.int64])
def test_tensors_in_tensors_out(backend, batch, real, integer):
    scenes, (c2w, ks, ids) = batch
    renderer = SplatRenderer(scenes, 40, 30, backend=backend, background=BACKGROUND)
    to = {"device": place(backend)}
    tensors = [torch.tensor(c2w, dtype=real, **to), torch.tensor(ks, dtype=real, **to)]
    tensors.append(torch.tensor(ids, dtype=integer, **to))
    mask = torch.tensor([True, False, True, True, False, True], **to)
    sizes = torch.tensor([[40, 30], [8, 8], [20, 30], [7, 9], [1, 1], [40, 2]], dtype=integer, **to)
    frames = renderer.render(*tensors, mask=mask, sizes=sizes)
    assert all(isinstance(a, torch.Tensor) for a in (frames.rgb, frames.depth, frames.alpha))
    assert frames.rgb.device == tensors[0].device
    rounded = [t.cpu().numpy() for t in (*tensors, mask, sizes)]
    expected = renderer.render(*rounded[:3], mask=rounded[3], sizes=rounded[4])
    assert_same(Frames(frames.rgb.cpu(), frames.depth.cpu(), frames.alpha.cpu()), expected)


class OnlyDlpack:
    """An array of a library of which nothing but DLPack is known."""

    def __init__(self, tensor):
        self.tensor, self.shape = tensor, tensor.shape

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


class OnlyCudaInterface:
    """An array of which nothing but the CUDA array interface is known."""

    def __init__(self, tensor):
        self.tensor, self.shape = tensor, tensor.shape
        self.__cuda_array_interface__ = tensor.__cuda_array_interface__


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no CUDA device")
@pytest.mark.parametrize("kind", [OnlyDlpack, OnlyCudaInterface])
def test_arrays_of_other_libraries(batch, kind):
    scenes, cameras = batch
    renderer = SplatRenderer(scenes, 40, 30, backend="cuda")
    frames = renderer.render(*(kind(torch.tensor(a, device="cuda")) for a in cameras))
    expected = renderer.render(*cameras)
    assert_same(Frames(*(wp.array.numpy(a) for a in (frames.rgb, frames.depth, frames.alpha))), expected)


def test_warp_arrays_in_warp_arrays_out(batch):
    scenes, cameras = batch
    renderer = SplatRenderer(scenes, 40, 30, backend="warp-cpu")
    frames = renderer.render(*(wp.array(a, device="cpu") for a in cameras))
    assert isinstance(frames.rgb, wp.array)
    expected = renderer.render(*cameras)
    np.testing.assert_array_equal(frames.rgb.numpy(), expected.rgb)
    np.testing.assert_array_equal(np.from_dlpack(frames.depth), expected.depth)


def test_out_is_written_in_place_without_a_copy(backend, batch, monkeypatch):
    """Nothing passes through numpy, and once buffers are there nothing is allocated."""
    scenes, cameras = batch
    renderer = SplatRenderer(scenes, 40, 30, backend=backend)
    tensors = [torch.tensor(a, device=place(backend)) for a in cameras]
    out = renderer.render(*tensors)
    expected = renderer.render(*cameras)
    renderer.render(*tensors, out=out)
    pointers = [a.data_ptr() for a in (out.rgb, out.depth, out.alpha)]
    monkeypatch.setattr(torch.Tensor, "cpu", None)
    monkeypatch.setattr(torch.Tensor, "numpy", None)
    monkeypatch.setattr(wp.array, "numpy", None)
    allocated = count_allocations(monkeypatch)
    for array in (out.rgb, out.depth, out.alpha):
        array.zero_()
    assert renderer.render(*tensors, out=out) is out
    assert allocated == []
    monkeypatch.undo()
    assert pointers == [a.data_ptr() for a in (out.rgb, out.depth, out.alpha)]
    assert_same(Frames(out.rgb.cpu(), out.depth.cpu(), out.alpha.cpu()), expected)


def count_allocations(monkeypatch):
    """Sizes of what Warp allocates from here on."""
    from warp._src import context

    sizes = []
    for name in ("CpuDefaultAllocator", "CpuPinnedAllocator", "CudaDefaultAllocator", "CudaMempoolAllocator"):
        kind = getattr(context, name)

        def allocate(self, size, original=kind.allocate):
            sizes.append(size)
            return original(self, size)

        monkeypatch.setattr(kind, "allocate", allocate)
    return sizes


def test_the_allocation_counter_counts(monkeypatch):
    sizes = count_allocations(monkeypatch)
    wp.zeros(10, dtype=wp.int32, device="cpu")
    assert sizes == [40]


def test_repeated_calls_become_a_graph(backend, batch):
    """The third call with the same arrays replays what the second captured, with what the arrays hold by then."""
    scenes, cameras = batch
    renderer = tuned(SplatRenderer(scenes, 40, 30, backend=backend, background=BACKGROUND), wave_cameras=4)
    renderer.rasterizer.graphs = type(renderer.rasterizer.graphs)(renderer.rasterizer.device, enabled=True)
    tensors = [torch.tensor(a, device=place(backend)) for a in cameras]
    out, captures = renderer.render(*tensors), []
    for turn in range(5):
        moved = [a.copy() for a in cameras]
        moved[0][:, :3, 3] += 0.05 * turn
        moved[2][:] = (cameras[2] + turn) % 2
        for tensor, array in zip(tensors, moved):
            tensor.copy_(torch.tensor(array))
        renderer.render(*tensors, out=out)
        captures.append(renderer.rasterizer.graphs.num_captures)
        plain = SplatRenderer(scenes, 40, 30, backend=backend, background=BACKGROUND).render(*moved)
        assert_same(Frames(out.rgb.cpu(), out.depth.cpu(), out.alpha.cpu()), plain)
    assert captures == [0, 1, 1, 1, 1] or captures == [1, 1, 1, 1, 1]
    more = [torch.cat([t, t]) for t in tensors]
    renderer.render(*more)
    renderer.render(*tensors, out=out)  # larger buffers came: the old graph must be gone
    assert_same(Frames(out.rgb.cpu(), out.depth.cpu(), out.alpha.cpu()), plain)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no CUDA device")
def test_a_caller_captures_the_call_in_a_graph_of_torch(batch):
    scenes, cameras = batch
    renderer = SplatRenderer(scenes, 40, 30, backend="cuda")
    tensors = [torch.tensor(a, device="cuda") for a in cameras]
    out = renderer.render(*tensors)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        renderer.render(*tensors, out=out)
    expected = renderer.render(*cameras)
    out.rgb.zero_()
    graph.replay()
    np.testing.assert_array_equal(out.rgb.cpu().numpy(), expected.rgb)


# ----------------------------------------------------------------------------------------------------------- bad input


def test_cameras_that_cannot_be_rendered_are_left_out_and_counted(backend, batch):
    """Nobody looks at values on the device: no error, but a count, and the others are rendered."""
    scenes, (c2w, ks, ids) = batch
    renderer = SplatRenderer(scenes, 40, 30, backend=backend)
    expected = renderer.render(c2w, ks, ids)
    c2w, ks, ids = c2w.copy(), ks.copy(), ids.copy()
    c2w[0, 1, 1], ks[1, 0, 0], ids[2] = np.nan, -3.0, 2
    c2w[3, :3, :3] *= 1.2
    ks[4, 0, 1] = 0.5
    tensors = [torch.tensor(a, device=place(backend)) for a in (c2w, ks, ids)]
    frames = renderer.render(*tensors)
    assert (frames.rgb[:5] == 0).all()
    np.testing.assert_array_equal(frames.rgb[5].cpu().numpy(), expected.rgb[5])
    assert renderer.rasterizer.counters().refused == 5
    assert renderer.rasterizer.counters().refused == 0
    renderer.render(*tensors, sizes=torch.tensor([[40, 31]] * 6, device=place(backend)))
    assert renderer.rasterizer.counters().refused == 6


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("K", lambda t: t[:3], r"K is float64 \(3, 3, 3\), expected float64 \(6, 3, 3\)"),
        ("K", lambda t: t.float(), r"K is float32 \(6, 3, 3\), expected float64"),
        (
            "c2w",
            lambda t: t[:, :3],
            r"c2w is float64 \(6, 3, 4\), strided|c2w is float64 \(6, 3, 4\), expected",
        ),
        ("scene_ids", lambda t: t.double(), r"scene_ids is float64 .*, expected int32 or int64 \(6,\)"),
        ("scene_ids", lambda t: t.numpy(), r"scene_ids is a ndarray on .*, expected it beside c2w on cpu"),
        ("mask", lambda t: t.int(), r"mask is int32 .*, expected bool \(6,\)"),
        ("out", lambda t: t.float(), r"out.rgb is float32 .*, expected contiguous uint8 \(6, 30, 40, 3\)"),
        ("out", lambda t: t[:, :, ::2], r"out.rgb is uint8 .*, strided, expected contiguous"),
    ],
)
def test_wrong_arrays_are_refused(batch, name, spoil, message):
    scenes, (c2w, ks, ids) = batch
    call = {"c2w": torch.tensor(c2w), "K": torch.tensor(ks), "scene_ids": torch.tensor(ids)}
    call["mask"] = torch.ones(6, dtype=torch.bool)
    renderer = SplatRenderer(scenes, 40, 30, backend="warp-cpu")
    if name == "out":
        good = renderer.render(**call)
        call["out"] = Frames(
            spoil(good.rgb.repeat(1, 1, 2, 1) if "strided" in message else good.rgb), good.depth, good.alpha
        )
    else:
        call[name] = spoil(call[name])
    with pytest.raises(InputError, match=message):
        renderer.render(**call)


def test_room_that_does_not_fit_is_said(batch, monkeypatch):
    scenes, cameras = batch
    renderer = SplatRenderer(scenes, 40, 30, backend="warp-cpu")

    def no_memory(*_, **__):
        raise RuntimeError("Failed to allocate 123 bytes on device 'cpu'")

    monkeypatch.setattr("gaussgym_render.cuda.frame.make_records", no_memory)
    with pytest.raises(
        InputError, match=r"buffers for 6 cameras do not fit device cpu .*123 bytes.*fewer cameras"
    ):
        renderer.render(*cameras)


def test_a_device_that_does_not_exist_is_said(batch, monkeypatch):
    monkeypatch.setattr(cuda_backend, "count_devices", lambda: 1)
    monkeypatch.setattr(cuda_backend, "driver_version", lambda: 13)
    with pytest.raises(InputError, match=r"renderer device 'cuda:99' does not exist; CUDA devices here: "):
        SplatRenderer(batch[0], 40, 30, backend="cuda", device="cuda:99")


@pytest.mark.parametrize(("device", "taken"), [((2, 0), True), ((1, 0), False), ((10, 0), False)])
def test_where_arrays_lie(device, taken):
    """As DLPack numbers devices: 1 is the CPU, 2 CUDA, 10 ROCm."""

    class Array:
        shape = (1,)

        def __dlpack_device__(self):
            return device

    class Device(SimpleNamespace):
        def __str__(self):
            return "cuda:0"

    rasterizer = SimpleNamespace(device=Device(is_cuda=True))
    assert CudaRasterizer.takes(rasterizer, Array()) is taken
    device = (2, 1)
    with pytest.raises(InputError, match="an array on cuda:1, expected it on cuda:0"):
        CudaRasterizer.takes(rasterizer, Array())


def test_more_splats_than_can_be_numbered_are_refused(monkeypatch):
    atlas = build_atlas([random_splats(1000, np.random.default_rng(0))])
    monkeypatch.setattr("gaussgym_render.cuda.device_atlas.MAX_CHUNKS", 3)
    with pytest.raises(InputError, match=r"4 chunks of 256 splats, expected at most 3 .*take turns"):
        upload(atlas, "cpu")


def test_what_it_cannot_do_it_says(batch):
    scenes, cameras = batch
    renderer = SplatRenderer(scenes, 40, 30, backend="warp-cpu")
    with pytest.raises(InputError, match="camera 0: scene_ids is out of range"):
        renderer.render(cameras[0], cameras[1], cameras[2] + 2)


def test_importing_the_renderer_imports_no_warp():
    code = "import sys, gaussgym_render as g; g.available_backends(); print('warp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
