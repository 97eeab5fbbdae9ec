"""The fast blend kernels, executed on Warp's CPU fibers, against the plain one and by hand."""

from functools import cache

import numpy as np
import pytest
from gaussgym_render import oracle
from gaussgym_render.atlas import build_atlas
from gaussgym_render.testing import pinhole, random_cameras, random_splats
from gaussgym_scene.errors import InputError

wp = pytest.importorskip("warp")

from gaussgym_render.cuda import blend, blend_fast, block, objects  # noqa: E402
from gaussgym_render.cuda.bins import Segments  # noqa: E402
from gaussgym_render.cuda.device_atlas import upload  # noqa: E402
from gaussgym_render.cuda.frame import CudaCfg, Frame, FrameInputs, make_cameras, make_images, make_wave  # noqa: E402
from gaussgym_render.cuda.project import Records  # noqa: E402

BACKGROUND = (0.2, 0.4, 0.6)
MODES = [
    pytest.param({}, id="single"),
    pytest.param({"stop_below": blend_fast.STOP_BELOW_8_BIT}, id="single-early"),
    pytest.param({"half_precision": True}, id="half"),
    pytest.param({"half_precision": True, "stop_below": blend_fast.STOP_BELOW_8_BIT}, id="half-early"),
]


DEVICE = {"name": "cpu"}


@pytest.fixture(
    autouse=True,
    params=[
        "forwards",
        pytest.param("backwards", marks=pytest.mark.slow),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
)
def blocks(request, monkeypatch):
    """Block kernels on CPU fibers, in either order of threads between barriers, and on a GPU."""
    monkeypatch.setattr(wp.config, "enable_cpu_blocks", True)
    monkeypatch.setitem(DEVICE, "name", "cuda" if request.param == "cuda" else "cpu")
    if request.param == "backwards":
        monkeypatch.setattr(blend_fast, "BLOCK_KERNELS", backwards_kernels())


@cache
def backwards_kernels():
    """Made once: they are compiled."""
    return blend_fast.make_block_kernels(block.BACKWARDS)


class Drawing:
    """What the blend kernels read, of one camera whose records are given by hand, in the order to blend."""

    def __init__(self, width, height, geometry, peaks, colors, *, tile=None):
        self.shape = (1, height, width)
        self.cameras = make_cameras(1, DEVICE["name"])
        self.cameras.sizes = wp.array([[width, height]], dtype=wp.vec2i, device=DEVICE["name"])
        order, active = (wp.array([n], dtype=wp.int32, device=DEVICE["name"]) for n in (0, 1))
        self.wave = make_wave(1, 1, order, active, DEVICE["name"])
        self.records, self.segments = Records(), Segments()
        # Every record twice, and the segment names the second ones: numbers are not places.
        for name, rows, dtype in (
            ("geometry", geometry, wp.vec4),
            ("peak", peaks, wp.vec2),
            ("color", colors, wp.vec4),
        ):
            rows = np.asarray(rows, np.float32).reshape(len(geometry), -1)
            setattr(
                self.records,
                name,
                wp.array(np.concatenate([0 * rows, rows]), dtype=dtype, device=DEVICE["name"]),
            )
        columns, rows = 1, 1
        self.segments.tile_width, self.segments.tile_height = tile or (width, height)
        if tile:
            columns, rows = -(-width // tile[0]), -(-height // tile[1])
        self.segments.columns, self.segments.rows = columns, rows
        count, tiles = len(geometry), columns * rows
        self.segments.offsets = wp.array(count * np.arange(tiles + 1, dtype=np.int32), device=DEVICE["name"])
        self.segments.values = wp.array(
            np.tile(np.arange(count, 2 * count, dtype=np.int32), tiles), device=DEVICE["name"]
        )

    def images(self):
        """Empty frames."""
        rgb = wp.zeros((*self.shape, 3), dtype=wp.uint8, device=DEVICE["name"])
        depth, alpha = (wp.zeros(self.shape, dtype=wp.float32, device=DEVICE["name"]) for _ in range(2))
        return make_images(rgb, depth, alpha, BACKGROUND)

    def fast(self, **mode):
        """RGB, depth and alpha of a fast kernel."""
        images = self.images()
        blend_fast.blend(self.cameras, self.wave, self.records, self.segments, images, **mode)
        return tuple(a.numpy()[0] for a in (images.rgb, images.depth, images.alpha))

    def plain(self):
        """The same of the plain kernel."""
        images = self.images()
        _, height, width = self.shape
        inputs = [self.cameras, self.wave, self.records, self.segments, images]
        wp.launch(blend.blend, (1, blend.num_threads(width, height)), inputs, device=DEVICE["name"])
        return tuple(a.numpy()[0] for a in (images.rgb, images.depth, images.alpha))


def random_drawing(rng, count, width, height, *, opacity=(0.02, 0.999), sizes=(0.5, 12.0), **kwargs):
    """Sheared ellipses all over the image and beyond its edges."""
    sigma_y = np.exp(rng.uniform(*np.log(sizes), count))
    sigma_across = np.exp(rng.uniform(*np.log(sizes), count))
    u, v = rng.uniform(-5, width + 5, count), rng.uniform(-5, height + 5, count)
    slope = rng.uniform(-3, 3, count)
    half_log2e = 0.5 / np.log(2.0)
    geometry = np.stack([u, v, slope, half_log2e / sigma_across**2], 1)
    peaks = np.stack([half_log2e / sigma_y**2, np.log2(rng.uniform(*opacity, count))], 1)
    colors = np.concatenate([rng.uniform(0, 1.2, (count, 3)), np.sort(rng.uniform(1, 30, (count, 1)), 0)], 1)
    return Drawing(width, height, geometry, peaks, colors, **kwargs)


def assert_close(found, wanted, mode):
    """The renderer's gates: to rounding in single precision, 45 dB and two steps of a byte in half precision."""
    error = found[0].astype(float) - wanted[0]
    if mode.get("half_precision"):
        assert np.abs(error).max() <= 2
        assert np.mean(error**2) <= 255.0**2 * 10**-4.5
        np.testing.assert_allclose(found[2], wanted[2], atol=8e-3)
    elif mode.get("stop_below"):
        assert np.abs(error).max() <= 1
        np.testing.assert_allclose(found[2], wanted[2], atol=2.1e-3)
    else:
        assert np.abs(error).max() <= 1
        assert np.mean(error != 0) < 1e-3
        np.testing.assert_allclose(found[1], wanted[1], rtol=2e-5)
        np.testing.assert_allclose(found[2], wanted[2], atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_two_round_splats_by_hand(mode):
    """Red in front of green: at the common centre 0.5 of red, then 0.5 · 0.8 of green, 0.1 left for the background.

    Four pixels below, where `falloff · 16 = 1` halves the red to 0.25, the green to 0.4: 0.25, 0.75 · 0.4 = 0.3, 0.45 left.
    """
    geometry = [[20.5, 10.5, 0.0, 1 / 16]] * 2
    peaks = [[1 / 16, -1.0], [1 / 16, np.log2(0.8)]]
    colors = [[1.0, 0.0, 0.0, 2.0], [0.0, 1.0, 0.0, 4.0]]
    rgb, depth, alpha = Drawing(48, 40, geometry, peaks, colors).fast(**mode)
    tolerance = 4e-3 if mode.get("half_precision") else 1e-6
    for y, red, green, left in ((10, 0.5, 0.4, 0.1), (14, 0.25, 0.3, 0.45)):
        wanted = np.array([red, green, 0.0]) + left * np.array(BACKGROUND)
        np.testing.assert_allclose(rgb[y, 20] / 255, wanted, atol=0.5 / 255 + tolerance)
        np.testing.assert_allclose(alpha[y, 20], 1 - left, atol=tolerance)
        np.testing.assert_allclose(depth[y, 20], (2 * red + 4 * green) / (1 - left), atol=2 * tolerance)
    # exp2(-(10² + 20²)/16) is far below 1/255.
    np.testing.assert_allclose(rgb[39, 40] / 255, BACKGROUND, atol=0.51 / 255)
    assert alpha[39, 40] == 0.0
    assert depth[39, 40] == 0.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("width", "height"), [(84, 48), (31, 70), (1, 1)])
def test_equals_the_plain_kernel(mode, width, height):
    """Several batches; images that end within a sub-tile."""
    drawing = random_drawing(np.random.default_rng(width), 700, width, height, opacity=(0.01, 0.4))
    assert_close(drawing.fast(**mode), drawing.plain(), mode)


@pytest.mark.parametrize("mode", MODES)
def test_several_macro_tiles(mode):
    drawing = random_drawing(np.random.default_rng(5), 300, 150, 110, tile=(64, 64), opacity=(0.1, 0.9))
    assert_close(drawing.fast(**mode), drawing.plain(), mode)


@pytest.mark.parametrize("mode", MODES)
def test_opaque_splats_close_pixels_where_the_oracle_does(mode):
    """A splat of alpha 0.999 over 0.05 left would take it to 5e-5: it is left out, and the background shows by 0.05."""
    geometry = [[16.0, 16.0, 0.0, 1e-6]] * 3
    peaks = [[1e-6, np.log2(0.95)], [1e-6, 0.0], [1e-6, 0.0]]
    colors = [[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 2.0], [0.0, 0.0, 1.0, 3.0]]
    rgb, depth, alpha = Drawing(32, 32, geometry, peaks, colors).fast(**mode)
    np.testing.assert_allclose(alpha, 0.95, atol=2e-3)
    np.testing.assert_allclose(depth, 1.0, atol=2e-3)
    np.testing.assert_allclose(rgb / 255, np.broadcast_to([0.96, 0.02, 0.03], rgb.shape), atol=1 / 255 + 2e-3)


@pytest.mark.parametrize("mode", MODES)
def test_what_lies_behind_closed_pixels_costs_and_changes_nothing(mode):
    """Pixels that close in the first batch look the same, whatever a thousand records behind hold."""
    rng = np.random.default_rng(2)
    drawing = random_drawing(rng, 1500, 40, 40, opacity=(0.7, 0.99), sizes=(30.0, 60.0))
    before = drawing.fast(**mode)
    colors = drawing.records.color.numpy()
    colors[-1200:] = np.nan
    drawing.records.color = wp.array(colors, dtype=wp.vec4, device=DEVICE["name"])
    for found, wanted in zip(drawing.fast(**mode), before):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("mode", MODES)
def test_thin_long_splats(mode):
    """Half a pixel thin and hundreds of pixels long, their centres far outside: half precision must not move them."""
    rng = np.random.default_rng(8)
    count = 60
    slope = rng.uniform(-2, 2, count)
    v = rng.uniform(-150, 250, count)
    u = 30 - slope * (30 - v) + rng.uniform(-25, 25, count)
    geometry = np.stack([u, v, slope, np.full(count, 0.7)], 1)
    peaks = np.stack([np.full(count, 1e-5), np.log2(rng.uniform(0.2, 0.9, count))], 1)
    colors = rng.uniform(0, 1, (count, 4)) + [0, 0, 0, 1]
    drawing = Drawing(64, 64, geometry, peaks, colors)
    assert_close(drawing.fast(**mode), drawing.plain(), mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_surfaces_end_the_splats_of_their_pixels(mode, tile):
    """At depths among the splats', in half of the pixels; which of them most of a pixel shows is told."""
    rng, width, height = np.random.default_rng(6), 90, 70
    drawing = random_drawing(rng, 400, width, height, tile=tile, opacity=(0.05, 0.7))
    shown = rng.uniform(0, 1, (1, height * width, 4))
    shown[..., 3] = np.where(rng.uniform(size=height * width) < 0.5, 5 + 20 * shown[..., 3], np.inf)
    owners = np.where(np.isfinite(shown[..., 3]), 5, -1).reshape(1, height, width)
    surfaces = wp.array(shown, dtype=wp.vec4, device=DEVICE["name"])
    results = []
    for fast in (True, False):
        images, seen = drawing.images(), wp.array(owners, dtype=wp.int32, device=DEVICE["name"])
        inputs = [drawing.cameras, drawing.wave, drawing.records, drawing.segments, images]
        if fast:
            blend_fast.blend(*inputs, **mode, surfaces=surfaces, seen=seen)
        else:
            threads = (1, blend.num_threads(width, height))
            wp.launch(
                objects.blend_before_surfaces, threads, [*inputs, surfaces, seen], device=DEVICE["name"]
            )
        results.append([a.numpy()[0] for a in (images.rgb, images.depth, images.alpha, seen)])
    assert_close(results[0], results[1], mode)
    ours, theirs = (result[3] for result in results)
    assert np.mean(ours == theirs) > 0.99 if mode else (ours == theirs).all()
    assert 0.1 < np.mean(theirs == 5) < 0.4
    assert (theirs[np.isinf(shown[0, :, 3]).reshape(height, width)] == -1).all()


@pytest.mark.parametrize("mode", MODES)
def test_numbers_that_no_half_holds(mode):
    """Centres a hundred thousand pixels away, falloffs that round to 0, depths of a thousand kilometres: no infinity, no NaN."""
    far = 7.9e4  # exp2(-1 - 1e-9 · 7.9e4²) is 0.0066: just visible
    geometry = [
        [16.0, 16.0, 0.0, 1e-3],
        [far, 20.0, 0.0, 1e-9],
        [20.0, -far, 0.0, 1e-9],
        [far, 20.0, 1.0, 1e-9],
    ]
    peaks = [[1e-3, -1.0], [1e-9, -1.0], [1e-9, -1.0], [1e-9, -1.0]]
    colors = [[0.5, 0.5, 0.5, 3.0], [1e6, 0.0, 0.0, 1e6], [0.0, 0.0, 0.0, 1e6], [0.0, 0.0, 1.0, 4.0]]
    drawing = Drawing(32, 32, geometry, peaks, colors)
    found, wanted = drawing.fast(**mode), drawing.plain()
    assert (wanted[0][..., 0] == 255).all()  # the second, of all colours, saturates
    assert np.isfinite(found[1]).all()
    assert np.isfinite(found[2]).all()
    if not mode.get("half_precision"):
        assert_close(found, wanted, mode)
    np.testing.assert_allclose(found[2], wanted[2], atol=0.02)


def test_empty_segments_show_the_background():
    drawing = random_drawing(np.random.default_rng(0), 4, 33, 33)
    drawing.segments.offsets.zero_()
    rgb, depth, alpha = drawing.fast()
    np.testing.assert_array_equal(rgb, np.broadcast_to(np.round(np.array(BACKGROUND) * 255), rgb.shape))
    assert not depth.any()
    assert not alpha.any()


@pytest.mark.parametrize("mode", MODES)
def test_projected_scenes(mode):
    """What the other kernels leave of a wave of cameras with two scenes, one of which is not to be rendered."""
    rng = np.random.default_rng(3)
    scenes = [random_splats(n, rng, sh_degree=1) for n in (2000, 300)]
    c2w, ids = random_cameras(3, rng), np.array([0, 1, 0])
    ks = np.tile(pinhole(100, 90), (3, 1, 1))
    wp.config.enable_cpu_blocks = False
    frame = Frame(
        upload(build_atlas(scenes), DEVICE["name"]), 3, 100, 90, near=0.01, antialiased=True, cfg=CudaCfg()
    )
    inputs = FrameInputs(
        wp.array(c2w, dtype=wp.float64, device=DEVICE["name"]),
        wp.array(ks, dtype=wp.float64, device=DEVICE["name"]),
        wp.array(ids, dtype=wp.int64, device=DEVICE["name"]),
        wp.array([True, True, False], dtype=wp.bool, device=DEVICE["name"]),
        wp.array([[100, 90], [70, 33], [100, 90]], dtype=wp.int64, device=DEVICE["name"]),
    )

    def images():
        rgb = wp.full((3, 90, 100, 3), 7, dtype=wp.uint8, device=DEVICE["name"])
        depth, alpha = (
            wp.full((3, 90, 100), -7.0, dtype=wp.float32, device=DEVICE["name"]) for _ in range(2)
        )
        return make_images(rgb, depth, alpha, BACKGROUND)

    plain, fast = images(), images()
    frame.render(inputs, plain)
    wp.config.enable_cpu_blocks = True
    blend_fast.blend(frame.cameras, frame.wave, frame.records, frame.segments, fast, **mode)
    found, wanted = ([i.rgb.numpy(), i.depth.numpy(), i.alpha.numpy()] for i in (fast, plain))
    assert_close(found, wanted, mode)
    assert np.all(fast.rgb.numpy()[2] == 7)  # not rendered
    assert np.all(fast.alpha.numpy()[1, 33:] == -7.0)  # outside a smaller image
    assert np.all(fast.alpha.numpy()[1, :33, :70] >= 0.0)


@pytest.mark.parametrize("arch", [80, 120, *(pytest.param(n, marks=pytest.mark.slow) for n in (86, 89, 90))])
def test_kernels_compile_ahead_of_time(tmp_path, arch):
    for kernel, threads in blend_fast.make_block_kernels().items():
        kernel.module.options["block_dim"] = threads
        folder = tmp_path / kernel.key
        wp.compile_aot_module(kernel.module, arch=arch, module_dir=folder, use_ptx=True)
        (ptx,) = folder.glob("*.ptx")
        text = ptx.read_text()
        assert f".target sm_{arch}" in text
        assert f".entry {kernel.key}_" in text
        assert ("ex2.approx.f16x2" in text) == kernel.key.startswith("blend_half")
        assert "__local_depot" not in text


def test_devices_without_blocks_are_refused():
    wp.config.enable_cpu_blocks = False
    if DEVICE["name"] == "cuda":
        pytest.skip("a GPU has blocks")
    with pytest.raises(InputError, match="enable_cpu_blocks"):
        random_drawing(np.random.default_rng(0), 4, 9, 9).fast()


def test_constants_are_the_oracle_s():
    for parts in (blend_fast._SINGLE, blend_fast._HALF):
        text = blend_fast._text(parts)
        for number in (oracle.MAX_ALPHA, float(np.log2(oracle.MIN_ALPHA)), oracle.MIN_TRANSMITTANCE):
            assert f"({number!r}f)" in text
