"""Scenes that take turns in a Warp device's memory, on the CPU device: the same images, and the order that a GPU keeps."""

import threading
import time

import numpy as np
import pytest
import torch
from gaussgym_render import RobotCameraCfg, SplatRenderer, cuda_backend, make_robot_camera
from gaussgym_render.atlas import CHUNK, build_atlas
from gaussgym_render.lod import LodSplats
from gaussgym_render.packed import PackedCache
from gaussgym_render.testing import pinhole, random_cameras, random_splats
from gaussgym_scene import InputError, Splats

wp = pytest.importorskip("warp")
wp.config.quiet = True

from gaussgym_render.cuda import paging  # noqa: E402
from gaussgym_render.cuda.copies import CopyStream, PlainCopies  # noqa: E402
from gaussgym_render.cuda.device_atlas import upload  # noqa: E402
from gaussgym_render.cuda.frame import CudaCfg, Frame, FrameInputs, make_images  # noqa: E402
from gaussgym_render.cuda.paging import DeviceScenePool, PagedCalls, device_chunk_bytes  # noqa: E402

SIZE = (48, 36)
KINDS = ("rgb", "depth", "alpha")


def lod_scene(rng):
    """Two leaves' worth of splats under a merged root, by hand: the node's splats are every eighth of its leaves'."""
    leaves = [random_splats(CHUNK, rng, sh_degree=1) for _ in range(2)]
    leaves[1].means[:] += [3.0, 0.0, 0.0]
    columns = {
        name: np.concatenate([getattr(part, name) for part in leaves])
        for name in ("means", "quats_wxyz", "scales", "opacities", "sh")
    }
    both = {name: np.concatenate([values[::8], values]) for name, values in columns.items()}
    size = len(columns["means"][::8])
    source = np.concatenate([np.arange(size) + 2 * CHUNK, np.arange(2 * CHUNK)])
    return LodSplats(
        **both,
        source=source,
        node_sizes=[size, CHUNK, CHUNK],
        skip=[3, 2, 3],
        errors_m=[0.05, 0.0, 0.0],
        threshold_px=1.0,
    )


def ragged(rng):
    """Scenes of 0, 1 and many splats, of all degrees, two with levels of detail."""
    sizes = ((2000, 3), (0, 1), (1, 2), (CHUNK, 1), (CHUNK + 1, 0), (900, 2), (1300, 3), (40, 0))
    scenes = [random_splats(n, rng, sh_degree=d) if n else Splats.empty(d) for n, d in sizes]
    return [lod_scene(rng), *scenes, lod_scene(rng)]


def make_pool(scenes, folder, chunks, num_rest=15, **options):
    cache = PackedCache(folder)
    budget = chunks * device_chunk_bytes(
        num_rest, labels=any(getattr(s, "labels", None) is not None for s in scenes)
    )
    return DeviceScenePool(cache.pack_all(scenes, None), budget, cache, device="cpu", **options)


class Drawn:
    """Frames of C cameras of an atlas on the CPU device."""

    def __init__(self, atlas, count):
        self.frame = Frame(atlas, count, *SIZE, near=0.01, antialiased=True, cfg=CudaCfg())
        shape = (count, SIZE[1], SIZE[0])
        self.rgb = wp.zeros((*shape, 3), dtype=wp.uint8, device="cpu")
        self.depth, self.alpha = (wp.zeros(shape, dtype=wp.float32, device="cpu") for _ in range(2))

    def draw(self, c2w, ks, ids, mask):
        inputs = FrameInputs(
            wp.array(c2w, dtype=wp.float64, device="cpu"),
            wp.array(ks, dtype=wp.float64, device="cpu"),
            wp.array(ids, dtype=wp.int64, device="cpu"),
            mask,
            wp.zeros((0, 2), dtype=wp.int64, device="cpu"),
        )
        self.frame.render(inputs, make_images(self.rgb, self.depth, self.alpha, (0.1, 0.2, 0.3)))


def cameras_in(ids, rng):
    return random_cameras(len(ids), rng), np.tile(pinhole(*SIZE), (len(ids), 1, 1)), np.asarray(ids)


def bools(values):
    return wp.array(np.asarray(values, bool), dtype=wp.bool, device="cpu")


@pytest.mark.parametrize("budget_chunks", [8, 11, 200])
def test_images_are_those_of_scenes_that_stay(tmp_path, budget_chunks):
    """8 chunks are those of the largest scene alone: then nearly every call evicts."""
    rng = np.random.default_rng(0)
    scenes = ragged(rng)
    pool, count = make_pool(scenes, tmp_path, budget_chunks), 6
    calls = PagedCalls(pool)
    whole, paged = Drawn(upload(build_atlas(scenes), "cpu"), count), Drawn(pool.device_atlas, count)
    shown = 0.0
    for _ in range(8):
        batch = cameras_in(rng.integers(0, len(scenes), count), rng)
        due = rng.random(count) < 0.8
        if rng.random() < 0.3:
            pool.prefetch(rng.integers(0, len(scenes), 2))
        whole.draw(*batch, bools(due))
        ids = wp.array(batch[2], dtype=wp.int64, device="cpu")
        calls.render(batch[2].tolist(), ids, bools(due), lambda mask, batch=batch: paged.draw(*batch, mask))
        for name in KINDS:
            np.testing.assert_array_equal(getattr(paged, name).numpy(), getattr(whole, name).numpy(), name)
        shown += whole.alpha.numpy().sum()
    assert shown > 1000
    assert calls.missed.numpy()[0] == 0
    stats = pool.stats
    assert (stats.evictions > 5) == (budget_chunks < 20)
    assert 0 < stats.bytes_resident <= stats.bytes_capacity <= budget_chunks * device_chunk_bytes(15)


def test_arrays_on_the_device_hold_their_scenes(tmp_path):
    """Every array, against an atlas that was uploaded whole, wherever a scene lies."""
    rng = np.random.default_rng(1)
    scenes = ragged(rng)
    pool, whole = make_pool(scenes, tmp_path, 14, num_loaders=2), upload(build_atlas(scenes), "cpu").scenes
    ranges, bands = whole.chunk_ranges.numpy(), whole.rest_offsets.numpy()
    calls, moved = PagedCalls(pool), 0
    for _ in range(30):
        wanted = rng.choice(len(scenes), rng.integers(1, 5), replace=False).tolist()
        ids = wp.array(wanted, dtype=wp.int32, device="cpu")
        seen = []

        def look(mask, wanted=wanted, seen=seen):
            nonlocal moved
            here = pool.device_atlas.scenes
            places, own_bands = here.chunk_ranges.numpy(), here.rest_offsets.numpy()
            for scene in np.array(wanted)[mask.numpy()]:
                (first, end), (own, stop) = places[scene], ranges[scene]
                assert end - first == stop - own
                moved += first != own
                for name, (_, length) in paging._COLUMNS.items():
                    if name == "parents":
                        a, b = here.parents.numpy()[first:end], whole.parents.numpy()[own:stop]
                        np.testing.assert_array_equal(
                            np.where(a < 0, -1, a - first), np.where(b < 0, -1, b - own)
                        )
                        continue
                    a = getattr(here, name).numpy()[first * length : end * length]
                    np.testing.assert_array_equal(
                        a, getattr(whole, name).numpy()[own * length : stop * length], name
                    )
                size = (end - first) * here.num_rest.numpy()[scene] * 3 * CHUNK
                a = here.rest.numpy()[own_bands[scene] : own_bands[scene] + size]
                np.testing.assert_array_equal(a, whole.rest.numpy()[bands[scene] : bands[scene] + size])
                seen.append(int(scene))

        calls.render(wanted, ids, bools([]), look)
        assert sorted(seen) == sorted(wanted)
    assert moved > 20
    np.testing.assert_array_equal(pool.device_atlas.scenes.num_rest.numpy(), whole.num_rest.numpy())
    np.testing.assert_array_equal(pool.device_atlas.scenes.thresholds_px.numpy(), whole.thresholds_px.numpy())


def test_labels_come_along(tmp_path):
    rng = np.random.default_rng(2)
    plain = [random_splats(n, rng, sh_degree=0) for n in (300, 200, 500)]
    labels = [np.arange(300, dtype=np.int32), None, np.arange(500, dtype=np.int32) + 1000]
    scenes = [
        Splats(s.means, s.quats_wxyz, s.scales, s.opacities, s.sh, own) for s, own in zip(plain, labels)
    ]
    pool = make_pool(scenes, tmp_path, 3, num_rest=0)
    for scene in (0, 1, 2, 1, 0):
        pool.begin_call()
        (taken,) = pool.take([scene])
        first, end = pool.atlas.chunk_ranges[taken]
        source = pool.device_atlas.scenes.source.numpy()[first * CHUNK : end * CHUNK]
        own = -1 if labels[scene] is None else np.where(source >= 0, labels[scene][source], -1)
        np.testing.assert_array_equal(
            pool.device_labels.numpy()[first * CHUNK : end * CHUNK], own + 0 * source
        )
        pool.give_back([taken])


def test_cameras_in_scenes_that_were_not_announced_are_left_out_and_counted(tmp_path):
    rng = np.random.default_rng(3)
    pool = make_pool([random_splats(100, rng, sh_degree=0) for _ in range(3)], tmp_path, 10, num_rest=0)
    calls, masks = PagedCalls(pool), []
    ids = wp.array([0, 1, 2, 7, -1, 2], dtype=wp.int64, device="cpu")
    due = bools([True, True, True, True, True, False])
    calls.render([0, 1], ids, due, lambda mask: masks.append(mask.numpy().copy()))
    assert np.any(masks, axis=0).tolist() == [True, True, False, False, False, False]
    assert calls.missed.numpy()[0] == 3  # scene 2, and two that do not exist
    calls.render([0, 1, 2], ids, due, lambda mask: None)
    assert calls.missed.numpy()[0] == 5


def test_what_cannot_be_read_ends_the_call(tmp_path):
    rng = np.random.default_rng(4)
    scenes = [random_splats(300, rng, sh_degree=0) for _ in range(2)]
    pool = make_pool(scenes, tmp_path, 10, num_rest=0)
    for file in tmp_path.glob("*.packed"):
        file.unlink()
    ids = wp.zeros(1, dtype=wp.int64, device="cpu")
    with pytest.raises(InputError, match="scene 0 cannot be paged in"):
        PagedCalls(pool).render([0], ids, bools([]), lambda mask: None)
    PackedCache(tmp_path).pack_all(scenes, None)  # files that come back serve the next call
    drawn = []
    PagedCalls(pool).render([0], ids, bools([]), lambda mask: drawn.append(mask.numpy().tolist()))
    assert drawn == [[True]]
    with pytest.raises(InputError, match="the memory budget is 1000"):
        DeviceScenePool(pool._scenes, 1000, pool._cache, device="cpu")


def renderers(scenes, folder, chunks):
    """One whose scenes take turns, and one that holds them all."""
    paged = SplatRenderer(
        scenes,
        *SIZE,
        backend="warp-cpu",
        memory_budget_bytes=chunks * device_chunk_bytes(15),
        cache_dir=folder,
    )
    return paged, SplatRenderer(scenes, *SIZE, backend="warp-cpu")


def assert_same(a, b):
    for name in KINDS:
        np.testing.assert_array_equal(np.asarray(getattr(a, name)), np.asarray(getattr(b, name)), name)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_a_renderer_with_a_budget_renders_the_same(tmp_path, kind):
    rng = np.random.default_rng(6)
    scenes = ragged(rng)
    paged, whole = renderers(scenes, tmp_path, 9)
    assert paged.paging.bytes_capacity <= 9 * device_chunk_bytes(15)
    for _ in range(4):
        batch = [kind(a) for a in cameras_in(rng.integers(0, len(scenes), 5), rng)]
        mask = kind(rng.random(5) < 0.7)
        paged.prefetch(rng.integers(0, len(scenes), 2))
        frames = paged.render(*batch, mask=mask)
        assert isinstance(frames.rgb, torch.Tensor) == (kind is torch.as_tensor)
        assert_same(frames, whole.render(*batch, mask=mask))
    assert paged.paging.evictions > 2
    assert paged.paging.calls == 4


def test_labels_of_paged_scenes_are_an_output(tmp_path):
    rng = np.random.default_rng(11)
    plain = [random_splats(n, rng, sh_degree=0) for n in (300, 500)]
    scenes = [
        Splats(
            s.means, s.quats_wxyz, s.scales, s.opacities, s.sh, np.arange(len(s), dtype=np.int32) + 1000 * i
        )
        for i, s in enumerate(plain)
    ]
    paged = SplatRenderer(
        scenes, *SIZE, backend="warp-cpu", cache_dir=tmp_path,
        memory_budget_bytes=2 * device_chunk_bytes(0, labels=True),
    )  # fmt: skip
    whole = SplatRenderer(scenes, *SIZE, backend="warp-cpu")
    for ids in ([0, 0], [1, 1], [0, 1]):
        batch = cameras_in(ids, rng)
        expected = whole.render(*batch, outputs=["labels"])
        for kind in (np.asarray, torch.as_tensor):
            frames = paged.render(*(kind(a) for a in batch), outputs=["labels"])
            np.testing.assert_array_equal(np.asarray(frames.labels), expected.labels)
        assert expected.labels.max() > 0
    assert paged.paging.evictions > 1


def test_tensors_of_scenes_are_looked_at_once(tmp_path):
    """And again once they were written to."""
    rng = np.random.default_rng(7)
    scenes = [random_splats(200, rng, sh_degree=0) for _ in range(4)]
    paged, whole = renderers(scenes, tmp_path, 2)
    batch = [torch.as_tensor(a) for a in cameras_in([0, 1, 1], rng)]
    calls, looked = paged.rasterizer.paged, []
    for _ in range(3):
        assert_same(paged.render(*batch), whole.render(*batch))
        looked.append(id(calls._looked_at))
    assert len(set(looked)) == 1
    batch[2][0] = 3
    assert_same(paged.render(*batch), whole.render(*batch))
    assert calls._looked_at[2] == [1, 3]
    batch[2].numpy()[1] = 2  # behind torch's back: the camera is left out, and counted
    assert not paged.render(*batch).alpha[1].any()
    assert calls.missed.numpy()[0] == 1
    same = batch[2].clone()  # another tensor, perhaps at the same place
    assert_same(paged.render(*batch[:2], same), whole.render(*batch[:2], same))


def test_a_robots_camera_over_scenes_that_take_turns(tmp_path):
    rng = np.random.default_rng(8)
    scenes = [random_splats(600, rng, sh_degree=1) for _ in range(4)]
    size = pinhole(*SIZE), *SIZE, RobotCameraCfg.typical()
    paged = make_robot_camera(
        scenes, *size, backend="warp-cpu", memory_budget_bytes=7 * device_chunk_bytes(3), cache_dir=tmp_path
    )
    whole = make_robot_camera(scenes, *size, backend="warp-cpu")
    motion = {"twist_c": torch.as_tensor(rng.normal(size=(5, 6)))}
    for ids in ([0, 1, 2, 3, 0], [3, 3, 1, 1, 1]):
        batch = [torch.as_tensor(a) for a in cameras_in(ids, rng)]
        assert_same(paged.render(*batch, **motion), whole.render(*batch, **motion))
    assert paged.renderer.paging.evictions > 1


@pytest.mark.gpu
@pytest.mark.skipif(cuda_backend.missing() is not None, reason="no CUDA device")
def test_scenes_take_turns_on_a_gpu(tmp_path):
    """While frames are rendered on a stream of torch's, through pinned memory and a stream of copies: the same images."""
    rng = np.random.default_rng(12)
    scenes = [random_splats(int(n), rng, sh_degree=1) for n in rng.integers(1000, 60000, 12)]
    chunks = 3 * max(-(-len(scene) // CHUNK) for scene in scenes)
    paged = SplatRenderer(
        scenes, *SIZE, backend="cuda", memory_budget_bytes=chunks * device_chunk_bytes(3), cache_dir=tmp_path
    )
    whole = SplatRenderer(scenes, *SIZE, backend="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(60):
            batch = [torch.as_tensor(a, device="cuda") for a in cameras_in(rng.integers(0, 12, 16), rng)]
            paged.prefetch(rng.integers(0, 12, 2))
            ours, expected = paged.render(*batch), whole.render(*batch)
            for name in KINDS:
                assert torch.equal(getattr(ours, name), getattr(expected, name)), name
    assert paged.paging.evictions > 30
    assert paged.rasterizer.paged.missed.numpy()[0] == 0


class Logged(PlainCopies):
    """Keeps a log of what a GPU would be told; events are over only when the test says so."""

    def __init__(self, device):
        super().__init__(device)
        self.log, self.over, self._numbers = [], set(), {"copy": 0, "frame": 0}
        self.lock = threading.Lock()

    def _event(self, kind):
        with self.lock:
            self._numbers[kind] += 1
            event = f"{kind} {self._numbers[kind]}"
            self.log.append(event)
            return event

    def after_copies(self):
        return self._event("copy")

    def after_frame(self):
        return self._event("frame")

    def copies_wait(self, event):
        self.log.append(f"copies wait for {event}")

    def frame_waits(self, event):
        self.log.append(f"frame waits for {event}")

    def host_waits(self, event):
        self.log.append(f"host waits for {event}")

    def is_over(self, event):
        return event in self.over

    def taken(self):
        log, self.log = self.log, []
        return log


def test_a_loader_waits_while_another_thread_captures(monkeypatch):
    """Warp's own wait raises then: an event is looked at until it is over."""
    looks = iter([False, False, True])

    class Event:
        @property
        def is_complete(self):
            return next(looks)

    monkeypatch.setattr(wp, "synchronize_event", None)
    CopyStream.host_waits(PlainCopies(wp.get_device("cpu")), Event())
    assert list(looks) == []


def test_frames_wait_for_their_scenes_and_copies_for_the_frames_they_overwrite(tmp_path):
    """Room for two scenes of three; what a GPU is told, step by step."""
    rng = np.random.default_rng(5)
    scenes = [random_splats(200, rng, sh_degree=0) for _ in range(4)]
    copies = Logged(wp.get_device("cpu"))
    pool = make_pool(scenes, tmp_path, 2, num_rest=0, copies=copies)

    def load(scene):
        pool.prefetch([scene])
        end = time.monotonic() + 20
        while not pool.is_resident(scene):
            assert time.monotonic() < end
            time.sleep(0.002)
        return copies.taken()

    def call(*group):
        pool.begin_call()
        assert sorted(pool.take(list(group))) == sorted(group)
        pool.begin_frame(group)
        pool.end_frame(group)
        pool.give_back(group)
        return copies.taken()

    copies.taken()
    assert load(0) == ["copy 1"]  # into memory that nobody used
    assert load(1) == ["host waits for copy 1", "copy 2"]  # there is one pinned buffer
    assert call(1) == ["frame waits for copy 2", "frame 2"]  # and not for scene 0's
    copies.over.add("copy 2")
    assert call(0, 1) == ["frame waits for copy 1", "frame 3"]
    assert call(1) == ["frame 4"]
    copies.over |= {"copy 1"}
    # Scene 0 gives way: its last user was frame 3, so that frame 4 need not be over.
    assert load(2) == [
        "host waits for copy 2",
        "copies wait for frame 2",
        "copies wait for frame 3",
        "copy 3",
    ]
    copies.over |= {"frame 2", "frame 3", "frame 4"}
    assert call(2) == ["frame waits for copy 3", "frame 5"]
    copies.over |= {"copy 3"}
    # Scene 1's last user, frame 4, is known to be over: nothing to wait for.
    assert load(3) == ["host waits for copy 3", "copy 4"]


@pytest.mark.parametrize("arch", [80, 120, *(pytest.param(n, marks=pytest.mark.slow) for n in (86, 89, 90))])
def test_kernels_compile_for_gpus(arch, tmp_path):
    wp.compile_aot_module(paging.__name__, arch=arch, module_dir=tmp_path, use_ptx=True)
    text = next(tmp_path.glob("*.ptx")).read_text()
    assert f".target sm_{arch}" in text
    for kernel in (paging.set_places, paging.choose, paging.count_missed):
        assert f".entry {kernel.key}_" in text
