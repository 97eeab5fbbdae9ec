"""Objects, edits and further outputs on the device: arrays that stay there, what is left out, and kernels compiled for GPUs.

What they look like is tested for every backend in `test_objects`, `test_edits` and `test_channels`.
"""

import dataclasses
from importlib import import_module

import numpy as np
import pytest
import torch
from gaussgym_render import Instances, SplatRenderer, build_objects, cuda_backend, objects
from gaussgym_render.edits import AppearanceCfg, draw_edits, patch_pose
from gaussgym_render.sensor import camera_keys
from gaussgym_render.testing import pinhole, quadruped_before, random_cameras, random_splats
from gaussgym_scene import InputError

wp = pytest.importorskip("warp")

from gaussgym_render.cuda.backend import CudaRasterizer  # noqa: E402
from gaussgym_render.cuda.frame import CudaCfg  # noqa: E402
from gaussgym_render.cuda.paging import device_chunk_bytes  # noqa: E402

HAS_GPU = cuda_backend.missing() is None
OUTPUTS = ("rgb_float", "median_depth", "normals", "labels", "features")
NAMES = ("rgb", "depth", "alpha", "instances", *OUTPUTS)
MODULES = {
    "objects": ["place_cameras", "place_instances", "clear", "draw", "shade", "blend_before_surfaces"],
    "edits": ["prepare_looks", "prepare_offsets", "prepare_patches", "recolor"],
    "channels": ["find_normals", "blend_channels", "blend_features"],
}
COUNT = 6


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


def edits_of(c2w):
    """A look for each camera, and two patches before each, one over the other."""
    edits = draw_edits(AppearanceCfg.typical(), camera_keys(1, np.arange(len(c2w))))
    far, near = (c2w @ patch_pose((0.3, 0.2, z), 0.4) for z in (4.0, 2.0))
    edits = edits.with_patches(far, (2.0, 2.5, 2.5), color=(1, 1, 0), share=0.7, label=7)
    return edits.with_patches(near, (1.0, 2.0, 1.0), color=(0, 0.2, 1), share=0.4, label=8)


@pytest.fixture(scope="module")
def world():
    """Two labelled scenes with eleven feature channels, and a call of six cameras with everything."""
    rng = np.random.default_rng(4)
    scenes = [random_splats(n, rng, sh_degree=2) for n in (1200, 400)]
    for scene in scenes:
        scene.scales[:, 1] *= 0.2
        scene.labels = rng.integers(0, 5, len(scene)).astype(np.int32)
    features = [rng.normal(size=(len(scene), 11)).astype(np.float32) for scene in scenes]
    c2w, ks = random_cameras(COUNT, rng), np.tile(pinhole(40, 30), (COUNT, 1, 1))
    cameras = (c2w, ks, np.arange(COUNT) % 2)
    return scenes, features, cameras, quadruped_before(c2w), edits_of(c2w)


def make(world, backend, **cfg):
    renderer = SplatRenderer(world[0], 40, 30, backend=backend, features=world[1], background=(0.2, 0.4, 0.6))
    if cfg:
        old = renderer.rasterizer
        renderer.rasterizer = CudaRasterizer(world[0], renderer.cfg, old.device, CudaCfg(**cfg))
    return renderer


def tensors(array, backend, *, single=False):
    """An array, or all of a dataclass, as tensors; of single precision if so wanted."""
    if dataclasses.is_dataclass(array):
        shown = {f.name: getattr(array, f.name) for f in dataclasses.fields(array)}
        return dataclasses.replace(
            array,
            **{n: tensors(a, backend, single=single) for n, a in shown.items() if isinstance(a, np.ndarray)},
        )
    made = torch.tensor(array, device="cuda" if backend == "cuda" else "cpu")
    if single:
        made = made.float() if made.is_floating_point() else made.int()
    return made


def call_of(world, backend, **kind):
    """The world's call with tensors."""
    _, _, cameras, instances, edits = world
    return (
        [tensors(a, backend, **kind) for a in cameras],
        {"objects": tensors(instances, backend, **kind), "edits": tensors(edits, backend, **kind)},
    )


def assert_same(frames, expected, rows=slice(None), *, atol=0.0):
    for name in NAMES:
        found, wanted = (
            np.asarray(torch.as_tensor(getattr(f, name)).cpu())[rows] for f in (frames, expected)
        )
        np.testing.assert_allclose(found.astype(float), wanted.astype(float), atol=atol, err_msg=name)


def test_everything_at_once_equals_the_cpu_backend(world, backend):
    _, _, cameras, instances, edits = world
    ours, other = (
        make(world, name).render(*cameras, objects=instances, edits=edits, outputs=OUTPUTS)
        for name in (backend, "cpu")
    )
    assert np.abs(ours.rgb.astype(int) - other.rgb).max() <= 1
    assert 0.02 < np.mean(other.instances >= 0) < 0.9
    assert (other.labels == 7).sum() > 20
    assert (other.labels == 8).sum() > 20
    for name, tolerance in (("rgb_float", 1e-4), ("alpha", 1e-4), ("depth", 1e-3), ("median_depth", 1e-4)):
        error = np.abs(getattr(ours, name) - getattr(other, name))
        assert np.quantile(error, 0.999) <= tolerance, name
    assert np.mean(ours.instances == other.instances) >= 0.9995
    assert np.mean(ours.labels == other.labels) >= 0.9995
    solid = other.alpha > 0.05
    assert np.quantile(np.abs(ours.normals - other.normals)[solid], 0.999) <= 1e-3
    assert np.quantile(np.abs(ours.features - other.features)[solid], 0.999) <= 1e-3


def test_waves_and_single_precision_and_a_mask_do_not_show(world, backend):
    _, _, cameras, instances, edits = world
    expected = make(world, backend).render(*cameras, objects=instances, edits=edits, outputs=OUTPUTS)
    call, more = call_of(world, backend)
    small = make(world, backend, wave_cameras=4)
    assert_same(small.render(*call, outputs=OUTPUTS, **more), expected)
    mask = np.arange(COUNT) % 3 != 1
    masked = small.render(*call, outputs=OUTPUTS, **more, mask=tensors(mask, backend))
    assert_same(masked, expected, mask)
    assert (masked.labels[~mask] == -1).all()
    assert (masked.instances[~mask] == -1).all()
    assert (masked.features[~mask] == 0).all()
    call, more = call_of(world, backend, single=True)
    rounded = make(world, backend).render(*call, outputs=OUTPUTS, **more)
    assert np.abs(rounded.rgb.cpu().numpy().astype(int) - expected.rgb).max() <= 1
    assert np.mean(rounded.labels.cpu().numpy() == expected.labels) > 0.999


def test_images_end_where_their_sizes_say(world, backend):
    _, _, cameras, instances, edits = world
    sizes = np.array([[40, 30], [21, 30], [40, 7], [1, 1], [33, 29], [40, 30]])
    ours, other = (
        make(world, name).render(*cameras, objects=instances, edits=edits, outputs=OUTPUTS, sizes=sizes)
        for name in (backend, "cpu")
    )
    for name in ("instances", "labels", "normals"):
        found = getattr(ours, name)
        assert np.mean(np.isclose(found, getattr(other, name), atol=1e-3)) > 0.999, name
        assert (found[1, :, 21:] == (0 if name == "normals" else -1)).all()
        assert (found[2, 7:] == (0 if name == "normals" else -1)).all()


def test_repeated_calls_allocate_nothing_and_never_leave_the_device(world, backend, monkeypatch):
    """And become a graph, which renders what the arrays hold by then."""
    renderer = make(world, backend, graphs=True, wave_cameras=4)
    call, more = call_of(world, backend)
    out = renderer.render(*call, outputs=OUTPUTS, **more)
    expected = make(world, backend).render(*call, outputs=OUTPUTS, **more)
    made = renderer.rasterizer.extras.num_allocations
    plain = make(world, backend, graphs=False)
    plain.render(*call, outputs=OUTPUTS, out=out, **more)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "cpu", None)
        patch.setattr(torch.Tensor, "numpy", None)
        patch.setattr(wp.array, "numpy", None)
        for _ in range(2):
            assert renderer.render(*call, outputs=OUTPUTS, out=out, **more) is out
        sizes = count_allocations(patch)
        plain.render(*call, outputs=OUTPUTS, out=out, **more)
        assert sizes == []
        wp.zeros(10, dtype=wp.int32, device="cpu")
        assert sizes == [40]
    assert renderer.rasterizer.graphs.num_captures == 1
    assert_same(out, expected)
    more["objects"].poses_w[:, :3, 3] += 0.05
    more["edits"].color[:] *= 0.5
    renderer.render(*call, outputs=OUTPUTS, out=out, **more)
    assert renderer.rasterizer.graphs.num_captures == 1
    assert_same(out, make(world, backend).render(*call, outputs=OUTPUTS, **more))
    assert np.abs(np.asarray(out.rgb.cpu()).astype(int) - np.asarray(expected.rgb.cpu())).mean() > 3
    assert renderer.rasterizer.extras.num_allocations == made


def count_allocations(patch):
    """Sizes of what Warp allocates from here on."""
    from warp._src import context

    sizes = []
    for name in ("CpuDefaultAllocator", "CpuPinnedAllocator", "CudaDefaultAllocator", "CudaMempoolAllocator"):
        kind = getattr(context, name)

        def allocate(self, size, original=kind.allocate):
            sizes.append(size)
            return original(self, size)

        patch.setattr(kind, "allocate", allocate)
    return sizes


def test_scenes_that_take_turns(world, backend, tmp_path):
    """Each turn draws its own cameras' objects, edits and outputs."""
    scenes, _, cameras, instances, edits = world
    outputs = OUTPUTS[:4]
    paged = SplatRenderer(
        scenes, 40, 30, backend=backend, cache_dir=tmp_path, background=(0.2, 0.4, 0.6),
        memory_budget_bytes=5 * device_chunk_bytes(8, labels=True),
    )  # fmt: skip
    expected = make(world, backend).render(*cameras, objects=instances, edits=edits, outputs=outputs)
    found = paged.render(*cameras, objects=instances, edits=edits, outputs=outputs)
    for name in NAMES[:-1]:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert paged.paging.evictions > 0


def test_larger_calls_make_new_buffers_and_forget_graphs(world, backend):
    renderer = make(world, backend, graphs=True)
    call, more = call_of(world, backend)
    few = Instances.dense(build_objects([objects.box((0.2, 0.2, 0.2))]), [0], world[2][0][:, None])
    out = renderer.render(*call, objects=tensors(few, backend))
    for _ in range(2):
        renderer.render(*call, objects=tensors(few, backend), out=out)
    larger = renderer.render(*call, outputs=OUTPUTS, **more)
    assert_same(larger, make(world, backend).render(*call, outputs=OUTPUTS, **more))
    kept = tensors(few, backend)
    for _ in range(3):
        renderer.render(*call, objects=kept, out=out)
    again = make(world, backend).render(*call, objects=kept)
    np.testing.assert_array_equal(out.rgb.cpu(), again.rgb.cpu())


def test_more_object_sets_than_are_held(world, backend):
    call, _ = call_of(world, backend)
    renderer = make(world, backend)
    ahead = world[2][0] @ patch_pose((0.0, 0.0, 1.0))
    sets = [build_objects([objects.box((0.1, 0.1, 0.1 * (i + 1)))]) for i in range(6)]
    calls = [tensors(Instances.dense(shapes, [0], ahead[:, None]), backend) for shapes in sets]
    first = [renderer.render(*call, objects=own).depth.clone() for own in calls]
    for own, depth in zip(calls, first):
        assert torch.equal(renderer.render(*call, objects=own).depth, depth)
    assert not torch.equal(first[0], first[5])


def test_instances_that_cannot_be_drawn_are_left_out_and_counted(world, backend):
    call, _ = call_of(world, backend)
    good = world[3]
    kept = np.ones(len(good.object_ids), bool)
    kept[[0, 14, 27]] = False
    renderer = make(world, backend)
    bad = dataclasses.replace(good, object_ids=good.object_ids.copy(), poses_w=good.poses_w.copy())
    bad.poses_w[0, 0, 0], bad.object_ids[14] = np.nan, 99
    bad.poses_w[27, :3, :3] *= 1.5
    found = renderer.render(*call, objects=tensors(bad, backend))
    assert renderer.rasterizer.counters().refused_instances == 3
    assert renderer.rasterizer.counters().refused_instances == 0
    counts = np.add.reduceat(kept, good.camera_offsets[:-1])
    fewer = Instances(
        good.objects,
        np.concatenate([[0], np.cumsum(counts)]),
        good.object_ids[kept],
        good.poses_w[kept],
    )
    expected = renderer.render(*call, objects=tensors(fewer, backend))
    np.testing.assert_array_equal(found.rgb.cpu(), expected.rgb.cpu())
    lost = dataclasses.replace(good, camera_offsets=good.camera_offsets + 1000)
    nothing = renderer.render(*call, objects=tensors(lost, backend))
    assert (nothing.instances == -1).all()


def test_edits_that_are_not_finite_change_nothing_and_are_counted(world, backend):
    call, _ = call_of(world, backend)
    edits = world[4]
    renderer = make(world, backend)
    bad = dataclasses.replace(edits, **{n: getattr(edits, n).copy() for n in ("color", "patch_poses_w")})
    bad.color[2, 1, 1], bad.patch_poses_w[7, :3, :3] = np.inf, 0.0
    good = dataclasses.replace(
        edits, **{n: getattr(edits, n).copy() for n in ("color", "light", "view_dependence", "patch_colors")}
    )
    good.color[2], good.light[2], good.view_dependence[2] = np.eye(3, 4), [1, 0, 0, 0], 1.0
    good.patch_colors[7, 3] = 0.0
    found = renderer.render(*call, edits=tensors(bad, backend))
    assert renderer.rasterizer.counters().refused_edits == 2
    expected = renderer.render(*call, edits=tensors(good, backend))
    np.testing.assert_array_equal(found.rgb.cpu(), expected.rgb.cpu())


def test_several_cameras_share_a_row_of_edits(world, backend):
    """Rows 1, 1, 1, 2, 2, 2 of the edits, as images along a shutter have them."""
    call, more = call_of(world, backend)
    renderer = make(world, backend)
    rows = np.array([1, 1, 1, 2, 2, 2])
    expected = renderer.render(*call, edits=tensors(world[4].take(rows), backend))
    rgb, _, _ = renderer.rasterizer.render_arrays(
        *call, None, None, renderer.background, None, edits=more["edits"], edit_rows=(1, 3)
    )
    assert torch.equal(rgb, expected.rgb)
    with pytest.raises(InputError, match=r"edits have 6 rows, expected at least 11 for edit_rows \(5, 1\)"):
        renderer.rasterizer.render_arrays(
            *call, None, None, renderer.background, None, edits=more["edits"], edit_rows=(5, 1)
        )


@pytest.mark.parametrize(("kernels", "most"), [("fast", 1), ("half", 2)])
@pytest.mark.parametrize("size", [(40, 30), (130, 70)])
def test_the_fast_kernels_blend_as_far_as_surfaces(world, kernels, most, size, monkeypatch):
    """On the CPU as fibers, one macro-tile and several; half precision within its gate."""
    scenes, _, (c2w, _, ids), instances, edits = world
    monkeypatch.setattr(wp.config, "enable_cpu_blocks", True)
    call = [torch.tensor(a) for a in (c2w[:3], np.tile(pinhole(*size), (3, 1, 1)), ids[:3])]
    more = {
        "objects": tensors(
            Instances.dense(instances.objects, np.arange(13), instances.poses_w[:39].reshape(3, 13, 4, 4)),
            "warp-cpu",
        ),
        "edits": tensors(edits.take(np.arange(3)), "warp-cpu"),
        "outputs": ("median_depth",),
    }
    renderer = SplatRenderer(scenes, *size, backend="warp-cpu", background=(0.2, 0.4, 0.6))
    plain = renderer.render(*call, **more)
    renderer.rasterizer = CudaRasterizer(
        scenes, renderer.cfg, renderer.rasterizer.device, CudaCfg(kernels=kernels, wave_cameras=2)
    )
    fast = renderer.render(*call, **more)
    assert 0.02 < (plain.instances >= 0).float().mean() < 0.9
    assert ((plain.alpha == 1) & (plain.instances < 0)).any()  # surfaces that are veiled
    assert (fast.rgb.int() - plain.rgb.int()).abs().max() <= most
    error = (fast.rgb.double() - plain.rgb.double()).square().mean()
    assert 10 * np.log10(255.0**2 / max(float(error), 1e-12)) >= (70 if kernels == "fast" else 45)
    assert (fast.instances == plain.instances).float().mean() > (0.9999 if kernels == "fast" else 0.995)
    slack = 1e-5 if kernels == "fast" else 1e-2
    assert ((fast.alpha - plain.alpha).abs() <= slack).all()
    solid = plain.alpha > (0.01 if kernels == "fast" else 0.5)
    assert ((fast.depth - plain.depth).abs() <= slack * (1 + plain.depth))[solid].float().mean() > 0.999
    assert torch.equal(fast.median_depth, plain.median_depth)


@pytest.mark.parametrize(
    ("part", "name", "spoil", "message"),
    [
        ("objects", "camera_offsets", lambda t: t[1:], r"objects.camera_offsets is int64 \(6,\), expected .* \(7,\)"),
        ("objects", "poses_w", lambda t: t[:3], r"objects.poses_w is float64 \(3, 4, 4\), expected .* \(78, 4, 4\)"),
        ("objects", "object_ids", lambda t: t.double(), "objects.object_ids is float64 .*, expected int32 or int64"),
        ("objects", "object_ids", lambda t: t.numpy(), "objects.object_ids is a ndarray on .*, expected it beside c2w"),
        ("objects", "object_ids", lambda t: t[:, None], r"objects.object_ids has shape \(78, 1\), expected one dim"),
        ("edits", "light", lambda t: t.float(), "edits.light is float32 .*, expected float64"),
        ("edits", "color", lambda t: t[:2], r"edits.color is float64 \(2, 3, 4\), expected .* \(6, 3, 4\)"),
        ("edits", "patch_colors", lambda t: t[:, :3], r"edits.patch_colors is float64 \(12, 3\), strided, expected"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_refused(world, part, name, spoil, message):
    call, more = call_of(world, "warp-cpu")
    more[part] = dataclasses.replace(more[part], **{name: spoil(getattr(more[part], name))})
    with pytest.raises(InputError, match=message):
        make(world, "warp-cpu").render(*call, **more)


def test_outputs_that_are_not_there_are_refused(world):
    call, _ = call_of(world, "warp-cpu")
    plain = SplatRenderer([random_splats(10, np.random.default_rng(0))] * 2, 40, 30, backend="warp-cpu")
    for output, message in (
        ("depths", "unknown output 'depths'"),
        ("features", "output 'features' without features"),
        ("labels", "no scene and no patch has labels"),
    ):
        with pytest.raises(InputError, match=message):
            plain.render(*call, outputs=(output,))
    out = make(world, "warp-cpu").render(*call)
    out.normals = torch.zeros((COUNT, 30, 40))
    with pytest.raises(InputError, match=r"out.normals is float32 \(6, 30, 40\), expected contiguous"):
        make(world, "warp-cpu").render(*call, out=out, outputs=("normals",))


@pytest.mark.parametrize("arch", [80, 120, *(pytest.param(n, marks=pytest.mark.slow) for n in (86, 89, 90))])
def test_kernels_compile_for_gpus(arch, tmp_path):
    for name, kernels in MODULES.items():
        module = import_module(f"gaussgym_render.cuda.{name}")
        folder = tmp_path / name
        wp.compile_aot_module(module.__name__, arch=arch, module_dir=folder, use_ptx=True)
        (ptx,) = folder.glob("*.ptx")
        text = ptx.read_text()
        assert f".target sm_{arch}" in text
        for kernel in kernels:
            assert f".entry {kernel}_" in text
        if name == "objects":
            assert (
                ".min.s64" in text
            )  # the depth buffer's minimum is one instruction, not a loop of exchanges
