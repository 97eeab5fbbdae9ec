"""`RobotCamera` over the backend of GPUs: tensors stay where they are, and images are those of numpy arrays.

Every test runs on Warp's CPU device; where there is a GPU they run there too (`pytest -m gpu`).
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_render import Frames, RobotCameraCfg, cuda_backend, make_robot_camera, sensor
from gaussgym_render.edits import AppearanceCfg, SceneEdits, draw_edits
from gaussgym_render.objects import Instances, box, build_objects
from gaussgym_render.testing import pinhole, random_cameras, random_splats, street_cameras, street_splats
from gaussgym_scene import InputError

wp = pytest.importorskip("warp")
wp.config.quiet = True

from gaussgym_render.cuda import robot_camera as device_camera  # noqa: E402

WIDTH, HEIGHT, COUNT = 32, 24, 6
TYPICAL = RobotCameraCfg.typical()
HAS_GPU = cuda_backend.missing() is None
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="no CUDA device")]


@pytest.fixture(scope="module", params=["warp-cpu", pytest.param("cuda", marks=ON_GPU)])
def backend(request):
    """The backend of GPUs on the CPU device, where tensors in main memory are its own; and on a GPU where there is one."""
    return request.param


@pytest.fixture(scope="module")
def rehearsal(scenes, backend):
    return make(scenes, backend)


def make(scenes, backend, cfg=TYPICAL):
    return make_robot_camera(scenes, pinhole(WIDTH, HEIGHT), WIDTH, HEIGHT, cfg, seed=3, backend=backend)


def place(camera):
    return "cuda" if camera.renderer.backend == "cuda" else "cpu"


def tensors(values, camera):
    to = place(camera)
    if isinstance(values, dict):
        return {name: torch.as_tensor(value, device=to) for name, value in values.items()}
    return [torch.as_tensor(value, device=to) for value in values]


def torch_frames(count, camera, fill=0):
    to = {"device": place(camera)}
    shape = (count, HEIGHT, WIDTH)
    return Frames(
        torch.full((*shape, 3), fill, dtype=torch.uint8, **to),
        torch.full(shape, float(fill), **to),
        torch.full(shape, float(fill), **to),
    )


def as_numpy(frames):
    return Frames(*(getattr(frames, name).cpu().numpy() for name in ("rgb", "depth", "alpha")))


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [street_splats(4000, rng), random_splats(300, rng)]


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    c2w = np.concatenate([street_cameras(3, rng), random_cameras(3, rng)])
    ks = np.tile(pinhole(WIDTH, HEIGHT), (COUNT, 1, 1))
    ks[:, 0, 0] *= rng.uniform(0.98, 1.02, COUNT)
    ks[:, 0, 2] += rng.uniform(-1, 1, COUNT)
    return c2w, ks, np.array([0, 0, 0, 1, 1, 1])


@pytest.fixture(scope="module")
def options():
    rng = np.random.default_rng(2)
    return {
        "twist_c": rng.normal(size=(COUNT, 6)) * 2 * np.array([1, 1, 0, 1, 1, 1])[:, None],  # one rests
        "camera_ids": np.array([5, 2**61 + 3, 17, 0, 9, 1]),
        "frame_ids": np.array([0, 3, 3, 100, 7, 1]),
    }


def assert_alike(ours, truth, cameras=slice(None)):
    """Codes one off at most; a depth or an instance may be its neighbour's where the middle of a pixel meets an edge."""
    assert np.abs(ours.rgb[cameras].astype(int) - truth.rgb[cameras]).max() <= 1
    assert (ours.rgb[cameras] != truth.rgb[cameras]).mean() < 2e-3
    for name in ("depth", "alpha"):
        a, b = getattr(ours, name)[cameras], getattr(truth, name)[cameras]
        assert (np.abs(a - b) > 1e-5 + 1e-5 * np.abs(b)).mean() < 2e-3, name


def moving_objects(batch):
    """Any number a camera, before it, each with a motion of its own."""
    rng = np.random.default_rng(5)
    shapes = build_objects([box((0.3, 0.2, 0.25), (200, 40, 30)), box((0.1, 0.5, 0.1), (20, 90, 220))])
    counts = np.array([2, 0, 3, 1, 1, 2])
    owner = np.repeat(np.arange(COUNT), counts)
    poses = batch[0][owner] @ random_cameras(len(owner), rng)
    poses[:, :3, 3] = (
        batch[0][owner, :3, 3] + 1.5 * batch[0][owner, :3, 2] + rng.normal(size=(len(owner), 3)) * 0.3
    )
    return Instances(
        shapes, np.concatenate([[0], np.cumsum(counts)]), rng.integers(0, 2, len(owner)), poses,
        rng.normal(size=(len(owner), 6)) * 3,
    )  # fmt: skip


def test_tensors_stay_where_they_are(batch, options, rehearsal):
    """Of either precision, against numpy arrays, which the processor's effects serve from the same pinhole images."""
    expected = rehearsal.render(*batch, **options)
    frames = rehearsal.render(*tensors(batch, rehearsal), **tensors(options, rehearsal))
    assert isinstance(frames.rgb, torch.Tensor)
    assert_alike(as_numpy(frames), expected)
    single = [t.float() if t.is_floating_point() else t.int() for t in tensors(batch, rehearsal)]
    motion = {
        name: t.float() if t.is_floating_point() else t for name, t in tensors(options, rehearsal).items()
    }
    expected = rehearsal.render(
        *(t.cpu().numpy() for t in single), **{k: v.cpu().numpy() for k, v in motion.items()}
    )
    assert_alike(as_numpy(rehearsal.render(*single, **motion)), expected)
    strided = [t.repeat_interleave(2, dim=0)[::2] for t in single]
    assert_alike(as_numpy(rehearsal.render(*strided, **motion)), expected)


def test_tensors_masked_into_given_frames(batch, options, rehearsal):
    expected = rehearsal.render(*batch, **options)
    mask = np.array([True, False, True, False, True, True])
    bad = batch[0].copy()
    bad[1] = np.nan  # nobody looks at it
    out = torch_frames(COUNT, rehearsal, 7)
    given = tensors((bad, *batch[1:]), rehearsal)
    assert (
        rehearsal.render(
            *given,
            **tensors(options, rehearsal),
            mask=torch.as_tensor(mask, device=place(rehearsal)),
            out=out,
        )
        is out
    )
    assert_alike(as_numpy(out), expected, mask)
    assert (out.rgb[torch.as_tensor(~mask, device=place(rehearsal))] == 7).all()
    assert (out.depth[torch.as_tensor(~mask, device=place(rehearsal))] == 7).all()


def test_tensors_without_motion_or_ids(scenes, batch, backend):
    cameras = [make(scenes, backend) for _ in range(2)]
    for _ in range(2):
        assert_alike(as_numpy(cameras[0].render(*tensors(batch, cameras[0]))), cameras[1].render(*batch))


def torch_objects(objects, rehearsal):
    names = ("camera_offsets", "object_ids", "poses_w", "twists_o")
    arrays = {n: getattr(objects, n) for n in names if getattr(objects, n) is not None}
    return replace(objects, **tensors(arrays, rehearsal))


def test_tensors_of_objects(batch, options, rehearsal, monkeypatch):
    objects = moving_objects(batch)
    mask = np.array([True, False, True, True, True, True])
    for given in (objects, replace(objects, twists_o=None), objects):
        expected = rehearsal.render(*batch, objects=given, **options)
        frames = rehearsal.render(
            *tensors(batch, rehearsal), objects=torch_objects(given, rehearsal), **tensors(options, rehearsal)
        )
        assert_alike(as_numpy(frames), expected)
        assert (frames.instances.cpu().numpy() != expected.instances).mean() < 2e-3
        assert len(np.unique(expected.instances)) >= 5
        out = torch_frames(COUNT, rehearsal, 7)
        out.instances = torch.full((COUNT, HEIGHT, WIDTH), 7, dtype=torch.int32, device=place(rehearsal))
        rehearsal.render(
            *tensors(batch, rehearsal),
            objects=torch_objects(given, rehearsal),
            **tensors(options, rehearsal),
            mask=torch.as_tensor(mask, device=place(rehearsal)),
            out=out,
        )
        assert_alike(as_numpy(out), expected, mask)
        assert (out.instances[1] == 7).all()
        assert (out.instances.cpu().numpy()[mask] != expected.instances[mask]).mean() < 2e-3
        out.instances = None
        rehearsal.render(
            *tensors(batch, rehearsal),
            objects=torch_objects(given, rehearsal),
            **tensors(options, rehearsal),
            out=out,
        )
        assert out.instances is None
    assert rehearsal.renderer.rasterizer.counters().refused_instances == 0


def patched_edits(batch):
    """Every camera sees its scene in colours of its own; some have a patch before them, one has two."""
    rng = np.random.default_rng(9)
    edits = draw_edits(AppearanceCfg.typical(), sensor.camera_keys(1, np.arange(COUNT)))
    owner = np.array([0, 2, 2, 5])
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, :3, 3] = batch[0][owner, :3, 3] + 2.0 * batch[0][owner, :3, 2]
    return replace(
        edits, patch_offsets=np.searchsorted(owner, np.arange(COUNT + 1)), patch_poses_w=poses,
        patch_half_sizes_m=rng.uniform(0.5, 1.5, (4, 3)), patch_colors=np.tile([1.0, 0.9, 0.0, 0.8], (4, 1)),
        patch_labels=np.arange(4),
    )  # fmt: skip


@pytest.mark.parametrize("real", [torch.float64, torch.float32])
def test_tensors_of_edits(batch, options, rehearsal, real):
    edits = patched_edits(batch)
    given = SceneEdits(
        **{k: t.to(real) if t.is_floating_point() else t for k, t in tensors(vars(edits), rehearsal).items()}
    )
    expected = rehearsal.render(*batch, edits=edits, **options)
    plain = rehearsal.render(*batch, **options)
    assert (np.abs(expected.rgb.astype(int) - plain.rgb).max((1, 2, 3)) > 10).all()
    assert_alike(
        as_numpy(rehearsal.render(*tensors(batch, rehearsal), edits=given, **tensors(options, rehearsal))),
        expected,
    )


def test_worlds_are_drawn_on_the_device(scenes, batch, options, backend, rehearsal):
    """In blocks, the last of which is not full."""
    cfg = replace(TYPICAL, appearance=AppearanceCfg.typical())
    camera = make(scenes, backend, cfg)
    expected = camera.render(*batch, **options)
    assert_alike(as_numpy(camera.render(*tensors(batch, rehearsal), **tensors(options, rehearsal))), expected)
    size = camera.renderer.width * camera.renderer.height * cfg.shutter.max_samples
    blocks = make(scenes, backend, cfg)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_camera, "BLOCK_PIXELS", 4 * size)
        frames = blocks.render(*tensors(batch, rehearsal), **tensors(options, rehearsal))
    assert blocks._there.effects.rows(COUNT) == 8
    assert_alike(as_numpy(frames), expected)
    edits = SceneEdits(**tensors(vars(patched_edits(batch)), rehearsal))
    with pytest.raises(InputError, match="found edits and a camera that draws its own appearance"):
        blocks.render(*tensors(batch, rehearsal), edits=edits)


def count_allocations(monkeypatch):
    """Sizes of what Warp allocates from here on, on any device."""
    from warp._src import context

    sizes = []
    for name in ("CpuDefaultAllocator", "CpuPinnedAllocator", "CudaDefaultAllocator", "CudaMempoolAllocator"):
        kind = getattr(context, name)

        def allocate(self, size, original=kind.allocate):
            sizes.append(size)
            return original(self, size)

        monkeypatch.setattr(kind, "allocate", allocate)
    return sizes


def test_no_memory_is_taken_after_the_first_call(batch, options, rehearsal, monkeypatch):
    given, motion, out = (
        tensors(batch, rehearsal),
        tensors(options, rehearsal),
        torch_frames(COUNT, rehearsal),
    )
    mask = torch.ones(COUNT, dtype=torch.bool, device=place(rehearsal))
    rehearsal.render(*given, **motion, mask=mask, out=out)
    taken = count_allocations(monkeypatch)
    wp.zeros(3, dtype=float, device="cpu")
    assert taken == [12]  # the counter counts
    taken.clear()
    for count in (COUNT, 4, COUNT):
        part = Frames(*(getattr(out, n)[:count] for n in ("rgb", "depth", "alpha")))
        rehearsal.render(
            *(t[:count] for t in given),
            **{k: t[:count] for k, t in motion.items()},
            mask=mask[:count],
            out=part,
        )
    assert taken == []


def test_nobody_waits_for_the_device(batch, options, rehearsal, monkeypatch):
    """No value is brought to the host: whatever does it fails."""
    given, motion, out = (
        tensors(batch, rehearsal),
        tensors(options, rehearsal),
        torch_frames(COUNT, rehearsal),
    )
    rehearsal.render(*given, **motion, out=out)

    def refuse(*args, **options):
        raise AssertionError("the host looked at the device")

    for kind, names in (
        (wp.array, ("numpy", "list")),
        (torch.Tensor, ("numpy", "cpu", "item", "tolist", "nonzero")),
    ):
        for name in names:
            monkeypatch.setattr(kind, name, refuse)
    for name in ("synchronize", "synchronize_device", "synchronize_stream", "synchronize_event"):
        monkeypatch.setattr(wp, name, refuse)
    rehearsal.render(*given, **motion, out=out)
    with pytest.raises(AssertionError, match="looked at"):
        rehearsal._there.effects.check_lenses()


def test_repeated_calls_become_a_graph(scenes, batch, options, backend):
    """Replayed with what the inputs hold by then, wherever they lie; calls by number go on counting."""
    camera, plain = make(scenes, backend), make(scenes, backend)
    rasterizer = camera.renderer.rasterizer
    rasterizer.graphs = type(rasterizer.graphs)(rasterizer.device, enabled=True)
    plain.renderer.rasterizer.graphs.enabled = False
    objects = moving_objects(batch)
    out, captures = torch_frames(COUNT, camera), []
    motion = {name: values for name, values in options.items() if name != "frame_ids"}
    for turn in range(5):
        moved = (batch[0].copy(), batch[1], (batch[2] + turn) % 2)
        moved[0][:, :3, 3] += 0.05 * turn
        posed = replace(objects, poses_w=objects.poses_w.copy())
        posed.poses_w[:, :3, 3] += 0.05 * turn
        camera.render(
            *tensors(moved, camera), **tensors(motion, camera), objects=torch_objects(posed, camera), out=out
        )
        captures.append(rasterizer.graphs.num_captures)
        expected = plain.render(
            *tensors(moved, plain), **tensors(motion, plain), objects=torch_objects(posed, plain)
        )
        for name in ("rgb", "depth", "alpha"):
            np.testing.assert_array_equal(*(getattr(f, name).cpu().numpy() for f in (out, expected)))
    assert captures[-1] == captures[-2] > 0
    # More cameras bring larger buffers: graphs that hold the old ones must be gone.
    twice = [np.concatenate([a, a]) for a in batch]
    for each in (camera, plain):
        each.render(*tensors(twice, each))
    ours, expected = (
        each.render(*tensors(batch, each), **tensors(motion, each), objects=torch_objects(objects, each))
        for each in (camera, plain)
    )
    np.testing.assert_array_equal(ours.rgb.cpu().numpy(), expected.rgb.cpu().numpy())


def test_a_capture_needs_room(scenes, batch, backend):
    """What would be allocated has to be there before, and a call that was refused leaves all as it was."""
    camera = make(scenes, backend)
    few = [t[:2] for t in tensors(batch, camera)]
    camera.render(*few)
    device = camera.renderer.rasterizer.device
    with pytest.raises(InputError, match="found a graph being captured"), wp.ScopedCapture(device=device):
        camera.render(*tensors(batch, camera), out=torch_frames(COUNT, camera))
    fresh = make(scenes, backend)
    fresh.render(*few)
    for _ in range(2):
        ours, expected = (each.render(*tensors(batch, each)) for each in (camera, fresh))
    np.testing.assert_array_equal(ours.depth.cpu().numpy() > 0, expected.depth.cpu().numpy() > 0)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no CUDA device")
def test_a_caller_captures_the_call_in_a_graph_of_torch(scenes, batch, options):
    camera = make(scenes, "cuda")
    given, motion, out = tensors(batch, camera), tensors(options, camera), torch_frames(COUNT, camera)
    camera.render(*given, **motion, out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        camera.render(*given, **motion, out=out)
    expected = camera.render(*batch, **options)
    out.rgb.zero_()
    graph.replay()
    assert_alike(as_numpy(out), expected)


def test_bad_tensors(batch, rehearsal):
    c2w, ks, ids = tensors(batch, rehearsal)
    for changes, text in (
        ({"K": ks[:3]}, r"K is float64 \(3, 3, 3\), expected float32 or float64 \(6, 3, 3\)"),
        ({"scene_ids": ids.double()}, "scene_ids is float64"),
        ({"twist_c": torch.zeros(COUNT, 3, device=place(rehearsal))}, r"twist_c is float32 \(6, 3\)"),
        ({"camera_ids": np.arange(COUNT)}, "camera_ids is a ndarray on cpu, expected it beside c2w on"),
        ({"mask": torch.ones(COUNT, device=place(rehearsal))}, "mask is float32"),
        (
            {
                "out": Frames(
                    *(t[:, ::2] for t in vars(torch_frames(2 * COUNT, rehearsal)).values() if t is not None)
                )
            },
            "out.rgb is",
        ),
    ):
        with pytest.raises(InputError, match=text):
            rehearsal.render(**{"c2w": c2w, "K": ks, "scene_ids": ids, **changes})
    wide = ks.clone()
    wide[2, :2, :2] *= 0.1
    fresh = make([random_splats(9, np.random.default_rng(0))], rehearsal.renderer.backend)
    with pytest.raises(InputError, match="opencv lens"):
        fresh.render(c2w, wide, torch.zeros_like(ids))
