"""Scenes that take turns in memory: the same images, the promised memory, clear errors."""

import gc
import os
import threading
import time
import zipfile

import numpy as np
import pytest
from gaussgym_render import RobotCameraCfg, SplatRenderer, make_robot_camera, packed
from gaussgym_render.atlas import CHUNK, build_atlas
from gaussgym_render.edits import SceneEdits
from gaussgym_render.lod import LodSplats
from gaussgym_render.packed import PackedCache, chunk_bytes
from gaussgym_render.paging import ScenePool, find_place
from gaussgym_render.testing import pinhole, quadruped_before, random_cameras, random_splats
from gaussgym_scene import InputError, Splats, synthesize
from gaussgym_scene.formats import save_splats
from gaussgym_scene.scene import Scene

SIZE = (48, 36)


def lod_scene(rng, n=1500):
    """Two leaves' worth of splats under a merged root, by hand: the node's splats are every eighth of its leaves'."""
    leaves = [random_splats(CHUNK, rng, sh_degree=1) for _ in range(2)]
    leaves[1].means[:] += [3.0, 0.0, 0.0]
    columns = {
        name: np.concatenate([getattr(part, name) for part in leaves])
        for name in ("means", "quats_wxyz", "scales", "opacities", "sh")
    }
    root = {name: values[::8] for name, values in columns.items()}
    both = {name: np.concatenate([root[name], columns[name]]) for name in columns}
    sizes = [len(root["means"]), CHUNK, CHUNK]
    source = np.concatenate([np.arange(sizes[0]) + 2 * CHUNK, np.arange(2 * CHUNK)])
    return LodSplats(
        **both, source=source, node_sizes=sizes, skip=[3, 2, 3], errors_m=[0.05, 0.0, 0.0], threshold_px=1.0
    )


def ragged(rng):
    """Scenes of 0, 1 and many splats, of all degrees, one with levels of detail."""
    sizes = ((2000, 3), (0, 1), (1, 2), (CHUNK, 1), (CHUNK + 1, 0), (900, 2), (1300, 3), (40, 0), (700, 1))
    scenes = [random_splats(n, rng, sh_degree=d) if n else Splats.empty(d) for n, d in sizes]
    return [*scenes, lod_scene(rng)]


def bytes_of_chunks(count, num_rest=15):
    return count * chunk_bytes(num_rest)


def paged(scenes, cache, budget, **options):
    return SplatRenderer(scenes, *SIZE, memory_budget_bytes=budget, cache_dir=cache, **options)


def cameras_in(ids, rng):
    return random_cameras(len(ids), rng), np.tile(pinhole(*SIZE), (len(ids), 1, 1)), np.asarray(ids)


def assert_equal(a, b):
    for name in ("rgb", "depth", "alpha"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize("budget_chunks", [8, 11, 17, 200])
def test_images_are_those_of_an_unpaged_renderer(tmp_path, budget_chunks):
    """8 chunks are those of the largest scene alone: then nearly every call evicts."""
    rng = np.random.default_rng(0)
    scenes = ragged(rng)
    unpaged = SplatRenderer(scenes, *SIZE)
    renderer = paged(scenes, tmp_path, bytes_of_chunks(budget_chunks))
    shown = 0.0
    for _ in range(15):
        ids = rng.integers(0, len(scenes), rng.integers(1, 9))
        if rng.random() < 0.3:
            renderer.prefetch(rng.integers(0, len(scenes), 2))
        batch = cameras_in(ids, rng)
        mask = rng.random(len(ids)) < 0.8
        expected = unpaged.render(*batch, mask=mask)
        assert_equal(renderer.render(*batch, mask=mask), expected)
        shown += expected.alpha.sum()
    assert shown > 0
    stats = renderer.paging
    # A scene without splats has nothing to load.
    assert stats.bytes_resident <= stats.bytes_capacity <= bytes_of_chunks(budget_chunks)
    assert stats.loads >= len(scenes) - 1
    assert stats.hits > 0
    assert (stats.evictions > 0) == (budget_chunks < 30)


def test_levels_of_detail_are_chosen_as_unpaged(tmp_path):
    """Both the merged root and the leaves are drawn from somewhere, and pages hold both."""
    rng = np.random.default_rng(1)
    scenes = [lod_scene(rng), random_splats(400, rng), lod_scene(rng)]
    unpaged = SplatRenderer(scenes, *SIZE)
    renderer = paged(scenes, tmp_path, bytes_of_chunks(3))
    drawn = set()
    for distance_m in (0.0, 6.0, 60.0):
        c2w, k, ids = cameras_in([0, 1, 2], rng)
        c2w[:, :3, 3] = -distance_m * c2w[:, :3, 2]
        drawn.add(len(scenes[0].select(c2w[0], k[0])))
        assert_equal(renderer.render(c2w, k, ids), unpaged.render(c2w, k, ids))
    assert drawn == {1, 2}


def test_objects_edits_and_outputs_go_through(tmp_path):
    rng = np.random.default_rng(2)
    scenes = [random_splats(n, rng) for n in (900, 700, 800)]
    c2w, k, ids = cameras_in([2, 0, 1, 0, 2, 1], rng)
    objects = quadruped_before(c2w)
    edits = SceneEdits.none(6)
    edits.light[:] *= rng.uniform(0.5, 1.5, (6, 1, 1))
    outputs = ("rgb_float", "median_depth", "normals")
    options = {"objects": objects, "edits": edits, "outputs": outputs}
    expected = SplatRenderer(scenes, *SIZE).render(c2w, k, ids, **options)
    got = paged(scenes, tmp_path, bytes_of_chunks(4)).render(c2w, k, ids, **options)
    assert_equal(got, expected)
    for name in ("instances", *outputs):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
    assert (got.instances >= 0).any()
    assert not np.array_equal(got.rgb, SplatRenderer(scenes, *SIZE).render(c2w, k, ids, objects=objects).rgb)


def test_labels_page_with_their_splats(tmp_path):
    """A scene without labels may take the place of one with them."""
    rng = np.random.default_rng(18)
    scenes = [random_splats(700, rng, sh_degree=0) for _ in range(3)]
    for i in (0, 2):
        scenes[i].labels = rng.integers(0, 9, 700).astype(np.int32)
    relabelled = Splats(
        *(getattr(scenes[0], n) for n in ("means", "quats_wxyz", "scales", "opacities", "sh"))
    )
    relabelled.labels = scenes[0].labels[::-1].copy()
    scenes.append(relabelled)  # the same splats with other labels are another file
    scenes[2].save_ply(tmp_path / "2.ply")
    sources = [scenes[0], scenes[1], tmp_path / "2.ply", relabelled]
    unpaged = SplatRenderer([*scenes[:2], Splats.load_ply(tmp_path / "2.ply"), relabelled], *SIZE)
    renderer = paged(sources, tmp_path / "cache", 6 * chunk_bytes(0, labels=True))
    assert renderer.paging.bytes_capacity == 6 * chunk_bytes(0, labels=True)
    found = set()
    for _ in range(6):
        batch = cameras_in(rng.integers(0, 4, 5), rng)
        expected = unpaged.render(*batch, outputs=["labels"])
        got = renderer.render(*batch, outputs=["labels"])
        assert_equal(got, expected)
        np.testing.assert_array_equal(got.labels, expected.labels)
        found.update(np.unique(got.labels).tolist())
    assert found == set(range(-1, 9))
    assert renderer.paging.evictions > 3


def test_robot_camera_pages(tmp_path):
    rng = np.random.default_rng(3)
    scenes = [random_splats(600, rng) for _ in range(3)]
    c2w, k, ids = cameras_in([0, 1, 2, 0], rng)
    twist = rng.normal(size=(4, 6))
    options = ({}, {"memory_budget_bytes": bytes_of_chunks(3), "cache_dir": tmp_path})
    frames = [
        make_robot_camera(scenes, k[0], *SIZE, RobotCameraCfg.typical(), seed=5, **o).render(
            c2w, k, ids, twist_c=twist
        )
        for o in options
    ]
    assert_equal(*frames)


def test_every_kind_of_source(tmp_path):
    rng = np.random.default_rng(4)
    scene = synthesize("stairs", seed=0)
    scene.save(tmp_path / "scene")
    plain, levels = random_splats(500, rng, sh_degree=2), lod_scene(rng)
    plain.save_ply(tmp_path / "plain.ply")
    levels.save(tmp_path / "levels")
    sources = [tmp_path / "scene", str(tmp_path / "plain.ply"), tmp_path / "levels", scene]
    splats = [
        Scene.load(tmp_path / "scene").splats,
        Splats.load_ply(tmp_path / "plain.ply"),
        levels,
        scene.splats,
    ]
    batch = cameras_in([0, 1, 2, 3], rng)
    expected = SplatRenderer(splats, *SIZE).render(*batch)
    assert_equal(SplatRenderer(sources, *SIZE).render(*batch), expected)
    assert_equal(paged(sources, tmp_path / "cache", 200_000_000).render(*batch), expected)


def test_an_unbundled_sog_is_known_by_all_its_files(tmp_path):
    rng = np.random.default_rng(19)
    save_splats(random_splats(300, rng, sh_degree=0), tmp_path / "a.sog")
    folder, cache = tmp_path / "a", PackedCache(tmp_path / "cache")
    with zipfile.ZipFile(tmp_path / "a.sog") as bundle:
        bundle.extractall(folder)
    first = cache.pack(folder)
    assert cache.pack(folder / "meta.json").key == first.key
    save_splats(random_splats(300, rng, sh_degree=0), tmp_path / "b.sog")
    with zipfile.ZipFile(tmp_path / "b.sog") as bundle:
        bundle.extract("sh0.webp", folder)
    assert cache.pack(folder / "meta.json").key != first.key


def test_scenes_without_splats_alone(tmp_path):
    rng = np.random.default_rng(17)
    renderer = paged([Splats.empty(0), Splats.empty(2)], tmp_path, 1)
    frames = renderer.render(*cameras_in([0, 1], rng))
    assert not frames.alpha.any()
    none = np.zeros(0, np.int64)
    assert len(renderer.render(np.zeros((0, 4, 4)), np.zeros((0, 3, 3)), none).rgb) == 0


def test_sh_degree_is_part_of_the_packed_file(tmp_path):
    rng = np.random.default_rng(5)
    scenes = [random_splats(500, rng)]
    batch = cameras_in([0, 0], rng)
    for degree in (None, 0, 2):
        expected = SplatRenderer(scenes, *SIZE, sh_degree=degree).render(*batch)
        assert_equal(paged(scenes, tmp_path, bytes_of_chunks(9), sh_degree=degree).render(*batch), expected)
    assert len(list(tmp_path.glob("*.packed"))) == 3


# ---------------------------------------------------------------------------- where a run goes


def test_a_run_displaces_what_was_used_longest_ago():
    ages = {0: 5, 1: 2, 2: 3, 3: 9}
    stretches = [(0, 4, 0), (4, 2, 1), (6, 2, 2), (8, 4, 3)]
    assert find_place(2, stretches, ages.get) == (4, [1])
    assert find_place(3, stretches, ages.get) == (4, [1, 2])
    assert find_place(5, stretches, ages.get) == (0, [0, 1])  # newest is 5; from scene 1 on it would be 9
    assert find_place(9, stretches, ages.get) == (0, [0, 1, 2, 3])
    assert find_place(13, stretches, ages.get) is None
    # Scene 1 must stay: 3 chunks fit over scene 0 or over scenes 2 and 3.
    assert find_place(3, stretches, {**ages, 1: None}.get) == (0, [0])
    assert find_place(5, stretches, {**ages, 1: None}.get) == (6, [2, 3])
    assert find_place(7, stretches, {**ages, 1: None}.get) is None
    # A free stretch is taken first, and helps its neighbours.
    free = [(0, 4, 0), (4, 2, None), (6, 2, 2), (8, 4, 3)]
    assert find_place(2, free, ages.get) == (4, [])
    assert find_place(4, free, ages.get) == (4, [2])


def test_find_place_against_trying_everything():
    rng = np.random.default_rng(6)
    for _ in range(300):
        sizes = rng.integers(1, 6, rng.integers(1, 8))
        starts = np.concatenate([[0], np.cumsum(sizes)])
        scenes = [None if rng.random() < 0.3 else i for i in range(len(sizes))]
        ages = [None if rng.random() < 0.2 else int(rng.integers(0, 4)) for _ in sizes]
        stretches = list(zip(starts.tolist(), sizes.tolist(), scenes))
        size = int(rng.integers(1, 12))
        options = []
        for begin in range(len(sizes)):
            for end in range(begin + 1, len(sizes) + 1):
                inside = [s for s in scenes[begin:end] if s is not None]
                if starts[end] - starts[begin] >= size and all(ages[s] is not None for s in inside):
                    cost = (max((ages[s] for s in inside), default=-2), sum(int(sizes[s]) for s in inside))
                    options.append((*cost, begin, end))
        found = find_place(size, stretches, lambda s, ages=ages: ages[s])
        if not options:
            assert found is None
            continue
        best = min(options, key=lambda option: option[:2])
        assert found is not None
        evicted = found[1]
        cost = (max((ages[s] for s in evicted), default=-2), sum(int(sizes[s]) for s in evicted))
        assert cost == best[:2]


def test_runs_never_overlap_and_hold_their_scenes(tmp_path):
    """A pool worked at random, by hand: what is pinned stays where it is and holds what the packed scene holds."""
    rng = np.random.default_rng(7)
    scenes = [random_splats(int(n), rng, sh_degree=0) for n in rng.integers(1, 2500, 12)]
    whole = build_atlas(scenes)
    cache = PackedCache(tmp_path)
    pool = ScenePool(cache.pack_all(scenes, None), bytes_of_chunks(14, 0), cache, num_loaders=2)
    for _ in range(60):
        pool.begin_call()
        wanted = rng.choice(12, rng.integers(1, 5), replace=False).tolist()
        pool.prefetch(rng.integers(0, 12, 2).tolist())
        while wanted:
            group = pool.take(wanted)
            ranges = pool.atlas.chunk_ranges[group]
            order = np.argsort(ranges[:, 0])
            assert (ranges[order][1:, 0] >= ranges[order][:-1, 1]).all()
            for scene, (first, end) in zip(group, ranges):
                own = slice(*whole.chunk_ranges[scene])
                assert end - first == own.stop - own.start
                np.testing.assert_array_equal(pool.atlas.means[first:end], whole.means[own])
                np.testing.assert_array_equal(pool.atlas.shapes[first:end], whole.shapes[own])
            pool.give_back(group)
            wanted = [scene for scene in wanted if scene not in group]
    assert pool.stats.evictions > 20


# ---------------------------------------------------------------------------- asynchrony


def test_prefetched_scenes_are_there_without_waiting(tmp_path):
    rng = np.random.default_rng(8)
    scenes = [random_splats(600, rng, sh_degree=0) for _ in range(8)]  # 3 chunks each
    renderer = paged(scenes, tmp_path, bytes_of_chunks(9, 0))
    renderer.render(*cameras_in([0, 1], rng))
    renderer.prefetch([5, 6, 7])  # room for one beside those of the last call
    wait_until(lambda: renderer.pool.is_resident(5))
    assert [renderer.pool.is_resident(s) for s in range(8)] == [
        True,
        True,
        False,
        False,
        False,
        True,
        False,
        False,
    ]
    before = renderer.paging
    renderer.render(*cameras_in([0, 1, 5], rng))
    after = renderer.paging
    assert (after.hits, after.misses, after.waits, after.loads) == (
        before.hits + 3,
        before.misses,
        before.waits,
        3,
    )


def test_a_call_renders_what_is_there_while_the_rest_is_read(tmp_path, monkeypatch):
    rng = np.random.default_rng(9)
    scenes = [random_splats(300, rng, sh_degree=0) for _ in range(3)]
    renderer = paged(scenes, tmp_path, bytes_of_chunks(6, 0))
    batch = cameras_in([0, 1, 1], rng)
    expected = SplatRenderer(scenes, *SIZE).render(*batch)
    renderer.render(*cameras_in([0], rng))
    rendered_first = threading.Event()
    read_into, render = packed.PackedScene.read_into, renderer.rasterizer._rasterizer.render

    def slow_read(self, *args):
        assert rendered_first.wait(20)
        read_into(self, *args)

    def spied_render(c2w, ks, ids, cameras, *args, **options):
        render(c2w, ks, ids, cameras, *args, **options)
        groups.append(cameras.tolist())
        rendered_first.set()

    groups = []
    monkeypatch.setattr(packed.PackedScene, "read_into", slow_read)
    monkeypatch.setattr(renderer.rasterizer._rasterizer, "render", spied_render)
    assert_equal(renderer.render(*batch), expected)
    assert groups == [[0], [1, 2]]
    assert renderer.paging.waits == 2  # the very first call, and for scene 1


def test_many_threads_at_once(tmp_path):
    """Two threads render and two prefetch while everything is evicted all the time."""
    rng = np.random.default_rng(10)
    scenes = ragged(rng)
    unpaged = SplatRenderer(scenes, *SIZE, num_threads=1)
    renderer = paged(scenes, tmp_path, bytes_of_chunks(12), num_threads=2)
    jobs = [cameras_in(rng.integers(0, len(scenes), 5), rng) for _ in range(12)]
    expected = [unpaged.render(*job) for job in jobs]
    problems, done = [], threading.Event()

    def work(seed):
        own = np.random.default_rng(seed)
        try:
            for _ in range(25):
                i = own.integers(len(jobs))
                assert_equal(renderer.render(*jobs[i]), expected[i])
        except BaseException as error:
            problems.append(error)

    def ask(seed):
        own = np.random.default_rng(seed)
        while not done.is_set():
            renderer.prefetch(own.integers(0, len(scenes), 3))
            time.sleep(0.0005)

    workers = [threading.Thread(target=work, args=(s,)) for s in range(2)]
    askers = [threading.Thread(target=ask, args=(s,)) for s in (7, 8)]
    for thread in (*workers, *askers):
        thread.start()
    for thread in workers:
        thread.join(120)
    done.set()
    for thread in askers:
        thread.join(20)
    assert not problems, problems[0]
    assert renderer.paging.evictions > 30


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_starts_its_own_loaders(tmp_path):
    rng = np.random.default_rng(11)
    scenes = [random_splats(300, rng, sh_degree=0) for _ in range(4)]
    renderer = paged(scenes, tmp_path, bytes_of_chunks(4, 0), num_threads=1)
    batch = cameras_in([3, 2, 0], rng)
    expected = renderer.render(*batch)
    child = os.fork()
    if child == 0:
        same = np.array_equal(renderer.render(*batch).rgb, expected.rgb)
        os._exit(0 if same else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_memory_is_that_of_the_budget_not_of_the_scenes(tmp_path):
    rng = np.random.default_rng(12)
    for i in range(6):
        random_splats(4000, rng, sh_degree=0).save_ply(tmp_path / f"{i}.ply")
    paths = sorted(tmp_path.glob("*.ply"))
    renderer = paged(paths, tmp_path / "cache", bytes_of_chunks(32, 0))
    renderer.render(*cameras_in(range(6), rng))
    atlas = renderer.pool.atlas
    held = sum(getattr(atlas, name).nbytes for name in (*packed.CHUNK_ARRAYS, "rest"))
    assert held == renderer.paging.bytes_capacity <= bytes_of_chunks(32, 0)
    gc.collect()
    assert not [o for o in gc.get_objects() if type(o) is Splats and len(o) == 4000]


# ---------------------------------------------------------------------------- what goes wrong


def test_bad_budgets_and_backends(tmp_path):
    rng = np.random.default_rng(13)
    scenes = [random_splats(100, rng, sh_degree=0), random_splats(3000, rng, sh_degree=0)]
    with pytest.raises(
        InputError, match=r"scene 1 \(3000 splats\) takes 129504 bytes, the memory budget is 100000"
    ):
        paged(scenes, tmp_path, 100_000)
    with pytest.raises(InputError, match="memory budget is 0 bytes"):
        paged(scenes, tmp_path, 0)
    with pytest.raises(InputError, match="'reference' cannot take memory_budget_bytes; those that can: cpu"):
        paged(scenes, tmp_path, 10**6, backend="reference")
    with pytest.raises(InputError, match="levels of detail and antialiased=False"):
        paged([lod_scene(rng)], tmp_path, 10**7, antialiased=False)
    with pytest.raises(InputError, match="scenes that take turns carry no features"):
        paged(scenes, tmp_path, 10**6, features=[np.zeros((100, 2)), np.zeros((3000, 2))])
    with pytest.raises(InputError, match="no scene and no patch has labels"):
        paged(scenes, tmp_path, 10**6).render(*cameras_in([0], rng), outputs=["labels"])
    with pytest.raises(InputError, match="prefetch of scene 2, expected 0 to 1"):
        paged(scenes, tmp_path, 10**6).prefetch([0, 2])
    with pytest.raises(InputError, match=r"nothing: not found, expected a scene folder or a splat file"):
        paged([tmp_path / "nothing"], tmp_path, 10**6)


def test_a_damaged_or_missing_packed_file_is_made_again(tmp_path):
    rng = np.random.default_rng(14)
    random_splats(700, rng, sh_degree=1).save_ply(tmp_path / "a.ply")
    random_splats(700, rng, sh_degree=1).save_ply(tmp_path / "b.ply")
    paths = [tmp_path / "a.ply", tmp_path / "b.ply"]
    batch = cameras_in([0, 1], rng)
    expected = SplatRenderer(paths, *SIZE).render(*batch)
    paged(paths, tmp_path / "cache", 10**7)
    files = sorted((tmp_path / "cache").glob("*.packed"))
    contents = [file.read_bytes() for file in files]
    for trial in range(60):
        damaged = bytearray(contents[0])
        if trial % 3 == 0:
            del damaged[rng.integers(0, len(damaged)) :]
        else:
            at = rng.integers(0, 400 if trial % 3 == 1 else len(damaged))
            damaged[at] ^= 1 << int(rng.integers(8))
        files[0].write_bytes(damaged)
        if trial % 10 == 0:
            files[1].unlink()
        # Before the renderer is made, or after.
        if trial % 2:
            renderer = paged(paths, tmp_path / "cache", 10**7)
        else:
            for file, content in zip(files, contents):
                file.write_bytes(content)
            renderer = paged(paths, tmp_path / "cache", 10**7)
            files[0].write_bytes(damaged)
        assert_equal(renderer.render(*batch), expected)
    assert [file.read_bytes() for file in files] == contents


def test_scenes_that_cannot_be_made_again_end_the_call_that_needs_them(tmp_path):
    rng = np.random.default_rng(15)
    scenes = [random_splats(300, rng, sh_degree=0) for _ in range(3)]
    scenes[2].save_ply(tmp_path / "c.ply")
    renderer = paged([*scenes[:2], tmp_path / "c.ply"], tmp_path / "cache", 10**7)
    batch = cameras_in([0, 1, 2], rng)
    for file in (tmp_path / "cache").glob("*.packed"):
        file.unlink()
    renderer.prefetch([1])  # an error ahead of time waits for its call
    with pytest.raises(
        InputError, match=r"scene 0 cannot be paged in: .*given in memory; make the renderer again"
    ):
        renderer.render(*cameras_in([0], rng))
    (tmp_path / "c.ply").unlink()
    with pytest.raises(InputError, match=r"scene 2 cannot be paged in: .*c\.ply: not found"):
        renderer.render(*cameras_in([2], rng))
    random_splats(300, rng, sh_degree=0).save_ply(tmp_path / "c.ply")
    with pytest.raises(InputError, match=r"c\.ply: has changed since the renderer was made"):
        renderer.render(*cameras_in([2], rng))
    # Files that come back serve the next call.
    cache = PackedCache(tmp_path / "cache")
    cache.pack_all(scenes[:2], None)
    renderer.prefetch([0])
    with pytest.raises(InputError, match="scene 1 cannot"):
        renderer.render(*cameras_in([0, 1], rng))
    scenes[2].save_ply(tmp_path / "c.ply")
    assert_equal(
        renderer.render(*batch), SplatRenderer([*scenes[:2], tmp_path / "c.ply"], *SIZE).render(*batch)
    )


def test_the_cache_folder_keeps_within_its_limit(tmp_path):
    rng = np.random.default_rng(16)
    scenes = [random_splats(256, rng, sh_degree=0) for _ in range(5)]
    cache = PackedCache(tmp_path)
    files = [cache.pack(scene).path for scene in scenes]
    for i, file in enumerate(files):
        os.utime(file, (1000 + i, 1000 + i))
    (tmp_path / "somebody_elses.txt").write_text("x")
    size = files[0].stat().st_size
    PackedCache(tmp_path, limit_bytes=3 * size).prune([cache.pack(scenes[0])])  # found: used just now
    assert [file.exists() for file in files] == [True, False, False, True, True]
    assert (tmp_path / "somebody_elses.txt").exists()
    kept = [cache.pack(scene) for scene in scenes]
    PackedCache(tmp_path, limit_bytes=0).prune(kept)
    assert all(file.exists() for file in files)
