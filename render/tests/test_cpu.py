"""The CPU backend against the float64 oracle, and what must not change its images."""

import numba
import numpy as np
import pytest
from gaussgym_render import SplatRenderer, cpu, harmonics, lanes, oracle, projection, sorting
from gaussgym_render.atlas import CHUNK, build_atlas
from gaussgym_render.testing import pinhole, random_cameras, random_splats, street_cameras, street_splats
from gaussgym_scene import Splats
from gaussgym_scene.morton import morton_order
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

BACKGROUND = (0.2, 0.4, 0.6)


def psnr_db(a, b):
    return 10 * np.log10(255.0**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-12))


def assert_parity(fast, slow, *, depth_m=5e-3):
    """The gate: PSNR >= 50 dB, |difference| <= 2/255 on >= 99.99 % of pixels, median relative depth error <= 1e-3."""
    difference = np.abs(fast.rgb.astype(int) - slow.rgb.astype(int)).max(-1)
    assert psnr_db(fast.rgb, slow.rgb) >= 50
    assert np.mean(difference <= 2) >= 0.9999
    assert np.mean(np.abs(fast.alpha - slow.alpha) <= 2 / 255) >= 0.9999
    both = (slow.alpha > 0.02) & (np.abs(fast.alpha - slow.alpha) < 1e-3)
    error = np.abs(fast.depth - slow.depth)[both]
    assert np.median(error / slow.depth[both]) <= 1e-3
    assert np.quantile(error / (1 + slow.depth[both]), 0.999) < depth_m


def ragged_scenes(rng, *, log_scale_std=1.0):
    """Scenes of very different sizes and SH degrees, one of them empty, one a single splat."""
    sizes = ((2000, 3), (0, 1), (1, 2), (CHUNK, 1), (CHUNK + 1, 0), (900, 2))
    return [
        random_splats(n, rng, sh_degree=degree, log_scale_std=log_scale_std) if n else Splats.empty(degree)
        for n, degree in sizes
    ]


def skewed_pinhole(width, height):
    """Different focal lengths and a principal point off the middle."""
    k = pinhole(width, height)
    k[0, 2], k[1, 2], k[1, 1] = 0.41 * width, 0.57 * height, 1.15 * k[1, 1]
    return k


def render_both(scenes, width, height, c2w, k, ids, **settings):
    frames = [
        SplatRenderer(scenes, width, height, backend=name, background=BACKGROUND, **settings).render(
            c2w, k, ids
        )
        for name in ("cpu", "reference")
    ]
    assert frames[1].alpha.max() > 0.5
    return frames


@pytest.mark.parametrize("log_scale_std", [0.5, 1.0, 1.6])
@pytest.mark.parametrize("antialiased", [True, False])
def test_parity_on_random_ragged_scenes(log_scale_std, antialiased):
    rng = np.random.default_rng(int(10 * log_scale_std))
    scenes = ragged_scenes(rng, log_scale_std=log_scale_std)
    c2w, ids = random_cameras(18, rng), np.arange(18) % len(scenes)
    k = np.tile(skewed_pinhole(64, 48), (18, 1, 1))
    assert_parity(*render_both(scenes, 64, 48, c2w, k, ids, antialiased=antialiased))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 5), (3, 65), (84, 48), (130, 9)])
def test_parity_at_odd_sizes(width, height):
    rng = np.random.default_rng(width)
    scenes = [random_splats(1500, rng, log_scale_mean=-1.8)]
    k = np.tile(skewed_pinhole(width, height), (6, 1, 1))
    assert_parity(*render_both(scenes, width, height, random_cameras(6, rng), k, np.zeros(6, int)))


def test_parity_in_tiles_of_a_large_image():
    rng = np.random.default_rng(5)
    assert len(cpu.tile_grid(320, 240)) > 1
    k = np.tile(skewed_pinhole(320, 240), (2, 1, 1))
    assert_parity(
        *render_both([random_splats(1500, rng)], 320, 240, random_cameras(2, rng), k, np.zeros(2, int))
    )


def test_parity_with_big_near_splats():
    rng = np.random.default_rng(6)
    near = random_splats(300, rng, size_m=(0.4, 0.4, 0.4), log_scale_mean=-0.5, log_scale_std=1.2)
    c2w = random_cameras(8, rng)
    c2w[:, :3, 3] *= 0.1  # among the splats: many are nearer than their own size
    k = np.tile(skewed_pinhole(64, 48), (8, 1, 1))
    assert_parity(*render_both([near], 64, 48, c2w, k, np.zeros(8, int)))


def test_parity_on_surfaces():
    rng = np.random.default_rng(7)
    k = np.tile(pinhole(64, 48), (4, 1, 1))
    assert_parity(
        *render_both([street_splats(20000, rng)], 64, 48, street_cameras(4, rng), k, np.zeros(4, int))
    )


def test_parity_where_all_depths_are_equal():
    # A wall seen straight on: the order is that of the input, in the oracle and through the atlas's Morton order.
    rng = np.random.default_rng(8)
    wall = random_splats(3000, rng, size_m=(2.0, 2.0, 0.0))
    wall.means[:, 2] = 1.5
    k = np.tile(pinhole(48, 48), (1, 1, 1))
    assert_parity(*render_both([wall], 48, 48, np.eye(4)[None], k, np.zeros(1, int)))


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_parity_with_sh_cut_to_a_lower_degree(degree):
    rng = np.random.default_rng(degree)
    k = np.tile(pinhole(32, 24), (4, 1, 1))
    scenes = [random_splats(800, rng, sh_degree=3), random_splats(300, rng, sh_degree=1)]
    assert_parity(
        *render_both(scenes, 32, 24, random_cameras(4, rng), k, np.array([0, 1, 0, 1]), sh_degree=degree)
    )


def test_one_splat_is_the_formula():
    f, s, z, opacity = 60.0, 0.078125, 2.0, 0.703125  # exact in half precision
    one = Splats([[0, 0, z]], [[1, 0, 0, 0]], [[s, s, s]], [opacity], np.zeros((1, 1, 3)))
    k = np.array([[[f, 0, 16.5], [0, f, 12.25], [0, 0, 1]]])
    frames = SplatRenderer([one], 32, 24, backend="cpu").render(np.eye(4)[None], k, np.zeros(1, int))
    var = (f * s / z) ** 2
    u, v = np.meshgrid(np.arange(32) + 0.5 - 16.5, np.arange(24) + 0.5 - 12.25)
    alpha = opacity * var / (var + 0.3) * np.exp(-0.5 * (u**2 + v**2) / (var + 0.3))
    alpha[alpha < 1 / 255] = 0
    np.testing.assert_allclose(frames.alpha[0], alpha, atol=2e-6)
    np.testing.assert_allclose(frames.depth[0], np.where(alpha > 0, z, 0), rtol=1e-4)
    np.testing.assert_array_equal(frames.rgb[0, ..., 0], np.floor(alpha * 0.5 * 255 + 0.5).astype(np.uint8))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(11)
    scenes = ragged_scenes(rng)
    c2w, ids = random_cameras(24, rng), rng.integers(0, len(scenes), 24)
    k = np.tile(skewed_pinhole(64, 48), (24, 1, 1))
    renderer = SplatRenderer(scenes, 64, 48, backend="cpu", background=BACKGROUND)
    return scenes, c2w, k, ids, renderer.render(c2w, k, ids)


def assert_same(a, b):
    for name in ("rgb", "depth", "alpha"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_a_camera_alone_equals_itself_in_any_batch(batch):
    scenes, c2w, k, ids, together = batch
    renderer = SplatRenderer(scenes, 64, 48, backend="cpu", background=BACKGROUND)
    for c in (0, 7, 23):
        alone = renderer.render(c2w[c : c + 1], k[c : c + 1], ids[c : c + 1])
        np.testing.assert_array_equal(alone.rgb[0], together.rgb[c])
        np.testing.assert_array_equal(alone.depth[0], together.depth[c])
    order = np.random.default_rng(0).permutation(24)
    shuffled = renderer.render(c2w[order], k[order], ids[order])
    np.testing.assert_array_equal(shuffled.rgb, together.rgb[order])
    np.testing.assert_array_equal(shuffled.depth, together.depth[order])


def test_images_do_not_depend_on_threads_or_other_scenes(batch):
    scenes, c2w, k, ids, together = batch
    for threads in (1, 2, 5):
        renderer = SplatRenderer(scenes, 64, 48, backend="cpu", background=BACKGROUND, num_threads=threads)
        for _ in range(2):
            assert_same(renderer.render(c2w, k, ids), together)
    longer = SplatRenderer(
        [random_splats(700, np.random.default_rng(1)), *scenes], 64, 48, backend="cpu", background=BACKGROUND
    )
    assert_same(longer.render(c2w, k, ids + 1), together)


def test_images_do_not_depend_on_the_order_of_splats(batch):
    scenes, c2w, k, ids, together = batch
    rng = np.random.default_rng(2)
    shuffled = [scene.subset(rng.permutation(len(scene))) for scene in scenes]
    assert_same(
        SplatRenderer(shuffled, 64, 48, backend="cpu", background=BACKGROUND).render(c2w, k, ids), together
    )


def test_tiles_do_not_show():
    rng = np.random.default_rng(12)
    scene, c2w, k = random_splats(4000, rng), random_cameras(1, rng), skewed_pinhole(200, 120)[None]
    whole = SplatRenderer([scene], 200, 120, backend="cpu").render(c2w, k, np.zeros(1, int))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "MAX_TILE_PIXELS", 1000)
        assert len(cpu.tile_grid(200, 120)) >= 24
        tiled = SplatRenderer([scene], 200, 120, backend="cpu").render(c2w, k, np.zeros(1, int))
    assert np.abs(whole.rgb.astype(int) - tiled.rgb).max() <= 1
    np.testing.assert_allclose(whole.alpha, tiled.alpha, atol=1e-5)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (640, 480), (1920, 1080), (100000, 3)])
def test_tiles_cover_the_image_once(width, height):
    tiles = cpu.tile_grid(width, height)
    assert (tiles[:, 2] * tiles[:, 3]).max() <= cpu.MAX_TILE_PIXELS * 1.1
    assert (tiles[:, 2] * tiles[:, 3]).sum() == width * height
    assert tiles[:, 0].min() == tiles[:, 1].min() == 0
    assert (tiles[:, 0] + tiles[:, 2]).max() == width
    assert (tiles[:, 1] + tiles[:, 3]).max() == height


def test_sorted_by_depth_with_ties_by_input():
    rng = np.random.default_rng(13)
    runs = np.repeat(
        rng.uniform(0.01, 300, 400), rng.integers(2, 40, 400)
    )  # sorted by insertion, and the long ones not
    depths = np.concatenate(
        [
            rng.uniform(0.01, 300, 5000),
            np.full(700, 2.0),
            rng.choice([0.5, 1.0, 7.0], 900),
            rng.permutation(runs),
        ]
    ).astype(np.float32)
    n = len(depths)
    keys, order = depths.view(np.uint32).copy(), np.empty(n, np.int32)
    source = rng.permutation(n).astype(np.int32)
    sorting.sort(keys, n, order, *sort_scratch(n))
    sorting.break_ties(keys, n, order, source)
    np.testing.assert_array_equal(order, np.lexsort((source, depths)))
    np.testing.assert_array_equal(keys.view(np.float32), np.sort(depths))


def sort_scratch(n):
    return np.empty(n, np.uint64), np.zeros(sorting.HISTOGRAM, np.int32)


@pytest.mark.parametrize(("wall", "sorted_by_insertion"), [(0.0, True), (1e-4, False)])
def test_depths_that_differ_in_their_last_bits_only_are_sorted(wall, sorted_by_insertion):
    """A wall seen straight on and something far behind it: 20 bits tell the wall's splats hardly apart."""
    rng = np.random.default_rng(20)
    depths = rng.uniform(0.02, 300, 6000) if wall == 0 else np.append(5 + rng.uniform(0, wall, 6000), 900)
    keys = rng.permutation(depths).astype(np.float32).view(np.uint32)
    n, given, order = len(keys), keys.copy(), np.empty(len(keys), np.int32)
    scratch = sort_scratch(n)
    sorting.sort(keys, n, order, *scratch)
    assert (scratch[1][-1] == 0) == sorted_by_insertion
    np.testing.assert_array_equal(order, np.argsort(given, kind="stable"))
    again = given.copy()
    sorting.sort(again, n, order, *scratch)  # now by all bits at once
    np.testing.assert_array_equal(again, keys)
    np.testing.assert_array_equal(order, np.argsort(given, kind="stable"))
    np.testing.assert_array_equal(keys, np.sort(given))
    coarse = np.argsort(given >> 9, kind="stable").astype(np.int32)
    assert sorting.insert(given[coarse], n, coarse) == sorted_by_insertion


def test_chunk_culling_drops_nothing_that_shows():
    """Every splat that the oracle finds visible lies in a chunk that passes the frustum test."""
    rng = np.random.default_rng(14)
    scene = random_splats(5000, rng, size_m=(8, 8, 8), log_scale_std=1.3)
    atlas = build_atlas([scene])
    chunk_of = np.empty(len(scene), int)
    used = atlas.source >= 0
    chunk_of[atlas.source[used]] = np.flatnonzero(used) // CHUNK
    k = skewed_pinhole(64, 48)
    view, limits = np.empty(12), np.empty(6)
    projection.tan_limits(k, np.array([64, 48, 0]), limits)
    culled = 0
    for c2w in random_cameras(12, rng):
        projection.place_camera(c2w, view)
        tile = np.array([0, 0, 64, 48])
        passed = np.array([projection.chunk_visible(b, view, k, 0.01, limits, tile) for b in atlas.bounds_w])
        assert passed[chunk_of[oracle.project(scene, c2w, k, 64, 48).index]].all()
        culled += (~passed).sum()
    assert culled > 0


def test_morton_order_keeps_neighbours_together():
    rng = np.random.default_rng(15)
    points = rng.uniform(size=(4096, 3))
    order = morton_order(points)
    assert sorted(order) == list(range(4096))
    blocks = points[order].reshape(-1, 64, 3)
    assert np.median(np.ptp(blocks, axis=1).max(-1)) < 0.5
    # Eight corners of a cube: x is the lowest bit of the curve.
    corners = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)], float)
    np.testing.assert_array_equal(morton_order(corners), np.arange(8))


def test_atlas_layout():
    rng = np.random.default_rng(16)
    scenes = ragged_scenes(rng)
    atlas = build_atlas(scenes)
    np.testing.assert_array_equal(np.diff(atlas.chunk_ranges).ravel(), [8, 0, 1, 1, 2, 4])
    first = atlas.chunk_ranges[5, 0] * CHUNK
    last = atlas.source[first:]
    assert sorted(last[last >= 0]) == list(range(900))
    slot = first + 300
    chunk, i, source = slot // CHUNK, slot % CHUNK, atlas.source[slot]
    np.testing.assert_array_equal(atlas.means[chunk, :, i], scenes[5].means[source])
    start = atlas.rest_offsets[5] + (300 // CHUNK) * CHUNK * 24
    bands = atlas.rest[start : start + CHUNK * 24].reshape(8, 3, CHUNK)
    np.testing.assert_array_equal(bands[..., 300 % CHUNK], scenes[5].sh[source, 1:9].astype(np.float16))
    np.testing.assert_allclose(
        atlas.base_colors[chunk, :, i], 0.5 + harmonics.C0 * scenes[5].sh[source, 0], rtol=5e-4
    )
    assert (atlas.shapes[:, 9].reshape(-1)[atlas.source < 0] == 0).all()


@pytest.mark.parametrize("native", sorted({False, lanes.HAS_HALF}))
def test_every_half_widens_to_its_value(native):
    halves = np.arange(1 << 16, dtype=np.uint16)
    halves = halves[np.isfinite(halves.view(np.float16))]
    halves = halves[: len(halves) // 16 * 16]

    @intrinsic
    def widen(typing_context, halves, at, out):
        def codegen(context, builder, signature, arguments):
            source = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
            target = cgutils.create_struct_proxy(signature.args[2])(context, builder, arguments[2]).data
            bits = ir.VectorType(ir.IntType(16), 16).as_pointer()
            bits = builder.load(builder.bitcast(builder.gep(source, [arguments[1]]), bits), align=2)
            values = lanes.widen_bits(builder, bits, native=native)
            pointer = builder.bitcast(builder.gep(target, [arguments[1]]), values.type.as_pointer())
            builder.store(values, pointer, align=4)
            return context.get_dummy_value()

        return types.void(halves, types.int64, out), codegen

    @numba.njit
    def every(halves, out):
        for i in range(0, len(halves), 16):
            widen(halves, np.int64(i), out)

    out = np.empty(len(halves), np.float32)
    every(halves, out)
    np.testing.assert_array_equal(out, halves.view(np.float16).astype(np.float32))


def test_extreme_splats_stay_finite():
    n = 40
    rng = np.random.default_rng(17)
    s = random_splats(n, rng)
    s.scales[:] = np.exp(rng.uniform(np.log(1e-7), np.log(1e5), (n, 3)))
    s.means[:5] *= 1e6
    s.opacities[:3] = [0.0, 1.0, 1e-30]
    k = np.tile(pinhole(32, 24), (8, 1, 1))
    frames = SplatRenderer([s], 32, 24, backend="cpu").render(random_cameras(8, rng), k, np.zeros(8, int))
    assert np.isfinite(frames.depth).all()
    assert ((frames.alpha >= 0) & (frames.alpha <= 1)).all()


def test_rendering_goes_on_in_a_forked_child(batch):
    import os

    if not hasattr(os, "fork"):
        pytest.skip("no fork on this platform")
    scenes, c2w, k, ids, together = batch
    renderer = SplatRenderer(scenes, 64, 48, backend="cpu", background=BACKGROUND, num_threads=2)
    renderer.render(c2w, k, ids)
    child = os.fork()
    if child == 0:
        same = np.array_equal(renderer.render(c2w, k, ids).rgb, together.rgb)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_inputs_of_any_layout_use_the_one_compiled_kernel(batch):
    scenes, c2w, k, ids, together = batch
    renderer = SplatRenderer(scenes, 64, 48, backend="cpu", background=BACKGROUND)
    before = len(cpu._render_jobs.signatures)
    frozen = [a.copy() for a in (c2w, k, ids)]
    for array in frozen:
        array.flags.writeable = False
    strided = [np.repeat(a, 2, axis=0)[::2] for a in (c2w, k, ids)]
    for inputs in (
        frozen,
        strided,
        [np.asfortranarray(a) for a in (c2w, k, ids)],
        [c2w, k, ids.astype(np.int32)],
    ):
        assert_same(renderer.render(*inputs), together)
    assert len(cpu._render_jobs.signatures) == before == 1
