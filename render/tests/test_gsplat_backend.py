"""The gsplat backend: its calls against a stand-in of gsplat's `rasterization`, itself where there is a GPU."""

import inspect

import numpy as np
import pytest
import torch
from gaussgym_render import SplatRenderer, available_backends, gsplat_backend, oracle, register_backend
from gaussgym_render.backends import _BACKENDS, RasterizerCfg
from gaussgym_render.bench.comparison import psnr_db
from gaussgym_render.gsplat_backend import GsplatCfg, GsplatRasterizer
from gaussgym_render.lod import build_tree
from gaussgym_render.testing import pinhole, random_cameras, random_splats
from gaussgym_scene import InputError, Splats

WIDTH, HEIGHT = 24, 16


def rasterization(
    means,
    quats,
    scales,
    opacities,
    colors,
    viewmats,
    Ks,
    width,
    height,
    near_plane=0.01,
    far_plane=1e10,
    radius_clip=0.0,
    eps2d=0.3,
    sh_degree=None,
    packed=True,
    tile_size=16,
    backgrounds=None,
    render_mode="RGB",
    sparse_grad=False,
    absgrad=False,
    rasterize_mode="classic",
    channel_chunk=32,
    distributed=False,
    camera_model="pinhole",
    segmented=False,
    covars=None,
    with_ut=False,
    with_eval3d=False,
    radial_coeffs=None,
    tangential_coeffs=None,
    thin_prism_coeffs=None,
    ftheta_coeffs=None,
    rolling_shutter=4,  # RollingShutterType.GLOBAL
    viewmats_rs=None,
):
    """The arguments and results that gsplat 1.5.3 documents, by the float64 reference; shapes are checked as gsplat does."""
    batch, n, c = means.shape[:-2], means.shape[-2], viewmats.shape[-3]
    assert quats.shape == (*batch, n, 4)
    assert scales.shape == (*batch, n, 3)
    assert opacities.shape == (*batch, n)
    assert viewmats.shape == (*batch, c, 4, 4)
    assert Ks.shape == (*batch, c, 3, 3)
    assert colors.shape[:-2] == (*batch, n)
    assert colors.shape[-1] == 3
    assert (sh_degree + 1) ** 2 <= colors.shape[-2]
    assert backgrounds.shape == (*batch, c, 3)
    assert all(
        t.dtype == torch.float32 for t in (means, quats, scales, opacities, colors, viewmats, Ks, backgrounds)
    )
    assert (eps2d, radius_clip, render_mode, packed) == (oracle.EPS_2D, 0.0, "RGB+ED", True)
    images = torch.zeros((*batch, c, height, width, 4))
    alphas = torch.zeros((*batch, c, height, width, 1))
    for b in np.ndindex(*batch):
        splats = Splats(*(t[b].numpy() for t in (means, quats, scales, opacities, colors)))
        for i in range(c):
            image = oracle.render(
                splats,
                np.linalg.inv(viewmats[b][i].numpy().astype(np.float64)),
                Ks[b][i].numpy(),
                width,
                height,
                near=near_plane,
                antialiased=rasterize_mode == "antialiased",
                sh_degree=sh_degree,
                background=tuple(backgrounds[b][i].tolist()),
            )
            images[b][i] = torch.from_numpy(np.concatenate([image.rgb, image.depth_m[..., None]], -1))
            alphas[b][i] = torch.from_numpy(image.alpha)[..., None]
    CALLS.append((batch, n, c))
    return images, alphas, {}


CALLS = []


@pytest.fixture(autouse=True)
def stand_in():
    """Backends with that function on the CPU, under names of their own."""
    for name, cfg in (
        ("loop", GsplatCfg(cameras_per_call=2)),
        ("batched", GsplatCfg(batch_scenes=True, cameras_per_call=6)),
    ):
        register_backend(
            name, lambda splats, cfg, how=cfg: GsplatRasterizer(splats, cfg, how, rasterization, "cpu")
        )
    CALLS.clear()
    yield
    del _BACKENDS["loop"], _BACKENDS["batched"]


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [
        random_splats(150, rng, sh_degree=0),
        Splats.empty(3),
        random_splats(220, rng, sh_degree=3),
        random_splats(60, rng, sh_degree=1),
    ]


CAMERAS = (
    random_cameras(9, np.random.default_rng(1)),
    np.tile(pinhole(WIDTH, HEIGHT), (9, 1, 1)),
    np.array([0, 2, 2, 1, 2, 0, 2, 3, 2]),
)


@pytest.mark.parametrize("name", ["loop", "batched"])
@pytest.mark.parametrize(
    "options",
    [{}, {"sh_degree": 1, "antialiased": False, "near": 0.5, "background": (0.21, 0.87, 0.43)}],
)
def test_calls_give_the_references_images(scenes, name, options):
    frames = SplatRenderer(scenes, WIDTH, HEIGHT, backend=name, **options).render(*CAMERAS)
    expected = SplatRenderer(scenes, WIDTH, HEIGHT, backend="reference", **options).render(*CAMERAS)
    # Poses go through float32, which moves a value now and then over the edge between two codes, or past a cut-off.
    difference = np.abs(frames.rgb.astype(int) - expected.rgb)
    assert (difference > 0).mean() < 2e-3
    assert difference.max() <= 2
    np.testing.assert_allclose(frames.depth, expected.depth, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(frames.alpha, expected.alpha, atol=5e-3)
    assert frames.alpha.max() > 0.8


def test_scenes_are_looped_over_or_padded_and_batched(scenes):
    SplatRenderer(scenes, WIDTH, HEIGHT, backend="loop").render(*CAMERAS)
    assert CALLS == [((), 150, 2), ((), 220, 2), ((), 220, 2), ((), 220, 1), ((), 60, 1)]
    CALLS.clear()
    SplatRenderer(scenes, WIDTH, HEIGHT, backend="batched").render(*CAMERAS)
    assert CALLS == [((3,), 220, 2), ((3,), 220, 2), ((3,), 220, 1)]  # the empty scene is not asked for
    CALLS.clear()
    everywhere = [np.concatenate([array, array[:1]]) for array in CAMERAS[:2]]
    only = SplatRenderer(scenes[:1] + scenes[2:], WIDTH, HEIGHT, backend="batched")
    only.render(*everywhere, np.array([0, 1, 1, 0, 2, 0, 0, 1, 1, 2]))
    assert CALLS == [((3,), 220, 2), ((3,), 220, 2)]


@pytest.mark.parametrize("name", ["loop", "batched"])
def test_masks_and_empty_batches(scenes, name):
    renderer = SplatRenderer(scenes, WIDTH, HEIGHT, backend=name)
    every = renderer.render(*CAMERAS)
    mask = np.array([True, False, True, True, False, False, False, True, False])
    some = renderer.render(*CAMERAS, mask=mask)
    np.testing.assert_array_equal(some.rgb[mask], every.rgb[mask])
    np.testing.assert_array_equal(some.depth[mask], every.depth[mask])
    assert (some.rgb[~mask] == 0).all()
    CALLS.clear()
    assert renderer.render(*CAMERAS, mask=np.zeros(9, bool)).rgb.shape == (9, HEIGHT, WIDTH, 3)
    assert not CALLS


def test_an_empty_scene_shows_the_background():
    renderer = SplatRenderer([Splats.empty()], WIDTH, HEIGHT, backend="batched", background=(1.0, 0.5, 0.0))
    frames = renderer.render(CAMERAS[0], CAMERAS[1], np.zeros(9, int))
    assert (frames.rgb == [255, 128, 0]).all()
    assert frames.alpha.max() == frames.depth.max() == 0


def test_levels_of_detail_are_refused(scenes):
    with pytest.raises(InputError, match="draws no levels of detail"):
        SplatRenderer([build_tree(scenes[0])], WIDTH, HEIGHT, backend="loop")


def test_objects_are_refused(scenes):
    from gaussgym_render.testing import quadruped_before

    renderer = SplatRenderer(scenes, WIDTH, HEIGHT, backend="loop")
    with pytest.raises(InputError, match="'loop' cannot take objects"):
        renderer.render(*CAMERAS, objects=quadruped_before(CAMERAS[0]))


@pytest.mark.skipif(gsplat_backend.missing() is None, reason="gsplat can run on this machine")
@pytest.mark.parametrize("name", ["gsplat", "gsplat-batched"])
def test_what_is_missing_is_said(scenes, name):
    assert name not in available_backends()
    with pytest.raises(
        InputError, match=rf"'{name}' cannot run here: .*needs an NVIDIA GPU.*available: .*cpu, "
    ):
        SplatRenderer(scenes, WIDTH, HEIGHT, backend=name)


def test_each_thing_missing_is_named(monkeypatch):
    monkeypatch.setattr(gsplat_backend.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(gsplat_backend, "version", lambda name: "1.6.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gsplat_backend.missing().startswith("gsplat 1.6.0 is installed; it needs")
    monkeypatch.setattr(gsplat_backend, "version", lambda name: "1.5.3+pt24cu124")
    assert gsplat_backend.missing() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "finds no CUDA device; it needs" in gsplat_backend.missing()
    monkeypatch.setattr(gsplat_backend.importlib.util, "find_spec", lambda name: None)
    assert gsplat_backend.missing().startswith("gsplat is not installed and torch")


def test_auto_never_takes_gsplat(scenes, monkeypatch):
    monkeypatch.setattr(gsplat_backend, "missing", lambda: None)
    assert SplatRenderer(scenes, WIDTH, HEIGHT).backend == "cpu"


def test_the_stand_in_has_the_signature_of_gsplat():
    gsplat = pytest.importorskip(
        "gsplat", reason="gsplat is not installed (pip install -r requirements/dev.txt)"
    )
    assert gsplat.__version__ == gsplat_backend.GSPLAT_VERSION
    real, ours = inspect.signature(gsplat.rasterization), inspect.signature(rasterization)
    assert list(real.parameters) == list(ours.parameters)
    for name, parameter in real.parameters.items():
        default = parameter.default
        assert getattr(default, "value", default) == ours.parameters[name].default, name
    assert RasterizerCfg(width=1, height=1).near == real.parameters["near_plane"].default
    assert real.parameters["eps2d"].default == oracle.EPS_2D


def fresh_gpu_reason():
    lacking = gsplat_backend.missing()
    return lacking and f"gsplat cannot run here: {lacking}"


@pytest.mark.gpu
@pytest.mark.skipif(gsplat_backend.missing() is not None, reason=str(fresh_gpu_reason()))
@pytest.mark.parametrize("name", ["gsplat", "gsplat-batched"])
@pytest.mark.parametrize("antialiased", [True, False])
def test_gsplat_agrees_with_the_reference(name, antialiased):
    rng = np.random.default_rng(0)
    scenes = [random_splats(4000, rng), Splats.empty(), random_splats(1500, rng, sh_degree=1)]
    cameras = random_cameras(24, rng), np.tile(pinhole(64, 48), (24, 1, 1)), np.arange(24) % 3
    options = {"antialiased": antialiased, "background": (0.1, 0.2, 0.3)}
    frames = SplatRenderer(scenes, 64, 48, backend=name, **options).render(*cameras)
    expected = SplatRenderer(scenes, 64, 48, backend="reference", **options).render(*cameras)
    quality = psnr_db(frames.rgb, expected.rgb)
    difference = np.abs(frames.rgb.astype(int) - expected.rgb)
    hit = expected.alpha > 0.05
    relative = np.abs(frames.depth - expected.depth)[hit] / expected.depth[hit]
    print(
        f"{name}, antialiased {antialiased}: PSNR {quality.min():.1f} dB at least, {(difference > 2).mean():.1e} of values off by "
        f"more than 2/255, depth {np.median(relative):.1e} relative (median)"
    )
    assert quality.min() >= 50.0
    assert (difference <= 2).mean() >= 0.9999
    assert np.median(relative) <= 1e-3
    assert np.abs(frames.alpha - expected.alpha).mean() < 1e-3
