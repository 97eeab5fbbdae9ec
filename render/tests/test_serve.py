"""Rendering over shared memory: equal images, several clients, and what happens when either side is killed."""

import ast
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from gaussgym_render import SplatRenderer, client, make_robot_camera
from gaussgym_render import __main__ as cli
from gaussgym_render.client import RenderClient, RenderServerError, RequestError
from gaussgym_render.lod import LodSplats, build_tree
from gaussgym_render.robot_camera import get_camera_model
from gaussgym_render.serve import RenderServer, RenderServerCfg, make_camera, remove_leftovers
from gaussgym_render.sources import open_splats
from gaussgym_render.testing import pinhole, random_cameras, random_splats, street_cameras, street_splats
from gaussgym_scene import InputError, synthesize
from gaussgym_scene.formats import save_splats

pytestmark = pytest.mark.skipif(
    not os.path.isdir(client.SHM), reason="needs Linux's shared memory in /dev/shm, which this system lacks"
)
WIDTH, HEIGHT = 24, 16
COUNTER = iter(range(10**6))


@pytest.fixture
def name():
    name = f"test-{os.getpid()}-{next(COUNTER)}"
    yield name
    path = Path(client.segment_path(name))
    left = path.exists()
    path.unlink(missing_ok=True)
    assert not left, "shared memory leaked"


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [random_splats(500, rng), random_splats(200, rng, sh_degree=0)]


@pytest.fixture(scope="module")
def renderer(scenes):
    return SplatRenderer(scenes, WIDTH, HEIGHT)


def cameras(count=6, seed=1):
    c2w = random_cameras(count, np.random.default_rng(seed))
    return c2w, np.tile(pinhole(WIDTH, HEIGHT), (count, 1, 1)), np.arange(count) % 2


@contextlib.contextmanager
def serving(camera, name, *, scenes=("a", "b"), **options):
    """A server in a thread of this process."""
    with RenderServer(camera, RenderServerCfg(name=name, **options), scenes) as server:
        stop = threading.Event()
        thread = threading.Thread(target=server.serve, args=(stop.is_set,))
        thread.start()
        try:
            yield server
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def server_process(*arguments):
    """`gaussgym-render serve` as a process; gives it and the lines that it printed until it was ready."""
    command = [sys.executable, "-m", "gaussgym_render", "serve", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("connect:"):
                break
        yield process, lines
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def splat_file(scenes, tmp_path_factory):
    path = tmp_path_factory.mktemp("splats") / "place.ply"
    save_splats(scenes[0], path)
    return path


def assert_same(frames, expected):
    for field in ("rgb", "depth", "alpha"):
        got, wanted = getattr(frames, field), getattr(expected, field)
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)


def test_the_command_serves_scenes_of_every_kind_with_the_images_of_this_process(name, splat_file, tmp_path):
    scene = synthesize("flat", 0, max_splats=2000)
    scene.save(tmp_path / "flat")
    lod = build_tree(scene.splats, threshold_px=2.0)
    lod.save(tmp_path / "flat-lod")
    sources = (tmp_path / "flat", tmp_path / "flat-lod", splat_file)
    size = ("--width", WIDTH, "--height", HEIGHT, "--max-cameras", 8)
    with server_process(*sources, "--name", name, *size) as (process, lines):
        assert lines[0] == f"scene 0: {scene.name}, {len(scene.splats)} splats"
        assert lines[1] == f"scene 1: flat-lod, {len(lod)} splats with levels of detail"
        assert "scene 2: place.ply, 500 splats" in lines[2]
        assert (
            f"serving 24x16 px as {name!r}: 8 cameras a request, 4 clients, ideal camera, backend cpu"
            in lines[3]
        )
        c2w = np.concatenate(
            [street_cameras(6, np.random.default_rng(1)), random_cameras(2, np.random.default_rng(2))]
        )
        ks, ids = np.tile(pinhole(WIDTH, HEIGHT), (8, 1, 1)), np.array([0, 1, 0, 1, 0, 1, 2, 2])
        here = SplatRenderer([open_splats(path).splats for path in sources], WIDTH, HEIGHT)
        with RenderClient(name) as remote:
            assert remote.scenes == [scene.name, "flat-lod", "place.ply"]
            assert (remote.width, remote.height, remote.max_cameras) == (WIDTH, HEIGHT, 8)
            expected = here.render(c2w, ks, ids)
            assert (expected.alpha.max((1, 2)) > 0.1).all()
            assert_same(remote.render(c2w, ks, ids), expected)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == "stopped; 1 requests, 8 images\n"
    assert "Traceback" not in err


def test_sigterm_is_a_normal_end(name, splat_file):
    with server_process(splat_file, "--name", name) as (process, _), RenderClient(name) as remote:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert not Path(client.segment_path(name)).exists()
        with pytest.raises(RenderServerError, match="was stopped"):
            remote.render(*cameras())


def test_masked_cameras_keep_their_images_and_batches_may_be_empty(name, renderer):
    c2w, ks, ids = cameras()
    mask = np.array([True, False, True, True, False, False])
    expected = renderer.render(c2w, ks, ids)
    bad = c2w.copy()
    bad[~mask] = np.nan  # a camera that is not rendered is not looked at
    with serving(renderer, name), RenderClient(name) as remote:
        frames = remote.render(bad, ks, ids, mask=mask)
        np.testing.assert_array_equal(frames.rgb[mask], expected.rgb[mask])
        assert (frames.rgb[~mask] == 0).all()
        assert_same(remote.render(c2w, ks, ids), expected)
        assert_same(remote.render(bad, ks, ids, mask=mask), expected)
        assert remote.render(c2w[:0], ks[:0], ids[:0]).rgb.shape == (0, HEIGHT, WIDTH, 3)
        assert_same(remote.render(c2w.astype(np.float32).tolist(), ks.tolist(), ids.tolist()), renderer.render(c2w.astype(np.float32), ks, ids))  # fmt: skip


def test_robot_cameras_are_those_of_this_process(name, scenes):
    c2w, ks, ids = cameras()
    rng = np.random.default_rng(3)
    twist = rng.normal(size=(6, 6)) * 0.3
    camera_ids = rng.permutation(100)[:6]
    served = make_camera(scenes, WIDTH, HEIGHT, camera_model="robot", seed=4)
    here = make_robot_camera(scenes, pinhole(WIDTH, HEIGHT), WIDTH, HEIGHT, get_camera_model("robot"), seed=4)
    with serving(served, name):
        for _ in range(2):  # each client's frames are counted by itself
            here.num_calls = 0
            with RenderClient(name) as remote:
                assert_same(remote.render(c2w, ks, ids), here.render(c2w, ks, ids))
                more = {"twist_c": twist, "camera_ids": camera_ids}
                assert_same(remote.render(c2w, ks, ids, **more), here.render(c2w, ks, ids, **more))
                numbers = np.arange(6) + 40
                assert_same(
                    remote.render(c2w, ks, ids, frame_ids=numbers),
                    here.render(c2w, ks, ids, frame_ids=numbers),
                )
                with pytest.raises(RequestError, match="camera 2: twist_c has NaN"):
                    remote.render(c2w, ks, ids, twist_c=np.where(np.arange(6)[:, None] == 2, np.nan, twist))


def test_frames_are_views_that_the_next_request_overwrites(name, renderer):
    first, second = cameras(seed=1), cameras(seed=2)
    with serving(renderer, name), RenderClient(name) as remote:
        frames = remote.render(*first)
        kept = frames.rgb.copy()
        again = remote.render(*second)
        assert np.shares_memory(frames.rgb, again.rgb)
        np.testing.assert_array_equal(frames.rgb, renderer.render(*second).rgb)
        assert (kept != frames.rgb).any()
        remote.close()
        remote.close()
        with pytest.raises(RenderServerError, match="closed"):
            remote.render(*first)


def test_clients_have_slots_of_their_own_and_one_too_many_is_refused(name, renderer):
    expected = [renderer.render(*cameras(seed=seed)) for seed in range(2)]
    failures = []

    def work(seed):
        try:
            with RenderClient(name) as remote:
                barrier.wait(10.0)
                for _ in range(30):
                    assert_same(remote.render(*cameras(seed=seed)), expected[seed])
                barrier.wait(10.0)
        except Exception as error:
            failures.append(error)
            barrier.abort()

    barrier = threading.Barrier(3)
    with serving(renderer, name, num_clients=2) as server:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
        for thread in threads:
            thread.start()
        barrier.wait(10.0)
        with pytest.raises(RenderServerError, match=r"all 2 slots.*--clients 3"):
            RenderClient(name)
        barrier.wait(30.0)
        for thread in threads:
            thread.join()
        assert not failures
        assert server.num_requests == 60
        with RenderClient(name) as first, RenderClient(name) as second:
            assert_same(first.render(*cameras(seed=0)), expected[0])
            assert_same(second.render(*cameras(seed=1)), expected[1])
            np.testing.assert_array_equal(first.result().rgb, expected[0].rgb)  # not the other's


CLIENT = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(client.__file__).parent)!r})
import numpy as np
from client import RenderClient
remote = RenderClient(sys.argv[1])
c2w, K = np.tile(np.eye(4), (3, 1, 1)), np.tile([[12.0, 0, 12], [0, 12, 8], [0, 0, 1]], (3, 1, 1))
"""


def test_a_killed_client_frees_its_slot(name, renderer):
    code = CLIENT + "remote.request(c2w, K, [0, 1, 0])\nos.kill(os.getpid(), signal.SIGKILL)"
    with serving(renderer, name, num_clients=1) as server:
        process = subprocess.run([sys.executable, "-c", code, name], check=False)
        assert process.returncode == -signal.SIGKILL
        with RenderClient(name) as remote:  # waits for what the dead one asked for
            assert server.num_requests == 1
            assert_same(remote.render(*cameras()), renderer.render(*cameras()))


def test_a_killed_server_is_noticed_and_what_it_left_is_replaced(name, splat_file, renderer):
    path = Path(client.segment_path(name))
    with server_process(splat_file, "--name", name) as (process, _), RenderClient(name) as remote:
        process.send_signal(signal.SIGSTOP)  # in the middle of a request
        remote.request(np.eye(4)[None], pinhole(64, 48)[None], [0])
        killer = threading.Timer(0.3, process.kill)
        killer.start()
        start_s = time.perf_counter()
        with pytest.raises(RenderServerError, match=rf"{process.pid}\) died"):
            remote.result()
        assert time.perf_counter() - start_s < 20.0  # far below the timeout of 60 s
    assert path.exists()
    with pytest.raises(RenderServerError, match="killed one left behind"):
        RenderClient(name, connect_timeout_s=0.1)
    with serving(renderer, name), RenderClient(name) as remote:
        assert_same(remote.render(*cameras()), renderer.render(*cameras()))


def test_leftovers_of_any_name_are_removed_but_nothing_else(name, renderer, tmp_path):
    stale, foreign = tmp_path / f"{client.PREFIX}stale", tmp_path / f"{client.PREFIX}foreign"
    stale.write_bytes(client.MAGIC + bytes(200))
    foreign.write_bytes(b"something else")
    held = tmp_path / f"{client.PREFIX}held"
    held.write_bytes(client.MAGIC + bytes(200))
    fd = os.open(held, os.O_RDWR)
    assert client.try_lock(fd, client.SERVER_BYTE)
    assert remove_leftovers(tmp_path) == [stale]
    os.close(fd)
    assert remove_leftovers(tmp_path) == [held]
    assert foreign.exists()


def test_a_second_server_of_that_name_is_refused(name, renderer, splat_file, monkeypatch, capsys):
    with serving(renderer, name):
        monkeypatch.setattr(sys, "argv", ["gaussgym-render", "serve", str(splat_file), "--name", name])
        assert cli.main() == 2
        assert f"process {os.getpid()} serves under the name {name!r} already" in capsys.readouterr().err
        with RenderClient(name) as remote:
            assert_same(remote.render(*cameras()), renderer.render(*cameras()))


def test_bad_input_of_the_command(name, splat_file, tmp_path, monkeypatch, capsys):
    (tmp_path / "notes.txt").write_text("no splats")
    for arguments, text in (
        ((splat_file, "--name", "a/b"), "server name 'a/b'"),
        ((splat_file, "--name", name, "--clients", 0), "expected at least 1 of each"),
        ((splat_file, "--name", name, "--camera-model", "fish"), "unknown camera model 'fish'"),
        ((splat_file, "--name", name, "--camera-model", "robot", "--fov", 190), "field of view 190"),
        ((splat_file, "--name", name, "--width", 0), "image size 0x48"),
        ((splat_file, "--name", name, "--max-cameras", 10**8), "--shm-size"),
        ((tmp_path / "notes.txt", "--name", name), "expected a scene folder"),
        ((tmp_path / "none.ply", "--name", name), "none.ply"),
        (("--name", name), "found no scenes"),
    ):
        monkeypatch.setattr(sys, "argv", ["gaussgym-render", "serve", *map(str, arguments)])
        assert cli.main() == 2, arguments
        assert text in capsys.readouterr().err, arguments


def test_another_version_and_foreign_files_are_refused(name, renderer):
    with serving(renderer, name) as server:
        server._header["version"] = client.VERSION + 1
        with pytest.raises(
            RenderServerError, match=f"version {client.VERSION + 1}, this client version {client.VERSION}"
        ):
            RenderClient(name)
        server._header["version"] = client.VERSION
        RenderClient(name).close()
    path = Path(client.segment_path(name))
    for content in (b"", b"something else" * 100):
        path.write_bytes(content)
        with pytest.raises(RenderServerError, match="not a render server's memory"):
            RenderClient(name)
        with pytest.raises(InputError, match="no render server's memory"):
            RenderServer(renderer, RenderServerCfg(name=name), ["a", "b"])
    path.unlink()


def test_no_server_is_said_after_the_time_given(name):
    start_s = time.perf_counter()
    with pytest.raises(RenderServerError, match=f"no render server.*--name {name}"):
        RenderClient(name, connect_timeout_s=0.2)
    assert 0.2 <= time.perf_counter() - start_s < 10.0


def test_a_client_may_come_before_the_server(name, renderer):
    found = []
    thread = threading.Thread(target=lambda: found.append(RenderClient(name, connect_timeout_s=30.0)))
    thread.start()
    time.sleep(0.1)
    with serving(renderer, name):
        thread.join()
        assert_same(found[0].render(*cameras()), renderer.render(*cameras()))
        found[0].close()


@pytest.mark.parametrize(
    "change",
    [
        {"c2w": ((1, 0, 3), np.nan)},
        {"c2w": (3, np.diag([2.0, 2, 2, 1]))},
        {"K": ((1, 0, 0), -5.0)},
        {"ids": (2, 2)},
    ],
)
def test_what_the_renderer_refuses_is_raised_at_the_client_in_its_words(name, renderer, change):
    batch = dict(zip(("c2w", "K", "ids"), cameras()))
    good = [array.copy() for array in batch.values()]
    for key, (index, value) in change.items():
        batch[key][index] = value
    with pytest.raises(InputError) as here:
        renderer.render(*batch.values())
    with serving(renderer, name), RenderClient(name) as remote:
        for _ in range(2):
            with pytest.raises(RequestError) as there:
                remote.render(*batch.values())
            assert str(there.value) == str(here.value)
            assert_same(remote.render(*good), renderer.render(*good))


def test_wrong_shapes_and_types_are_refused_before_they_are_sent(name, renderer):
    c2w, ks, ids = cameras()
    with serving(renderer, name, max_cameras=6) as server, RenderClient(name) as remote:
        for arguments, options, text in (
            ((c2w[0], ks, ids), {}, r"c2w has shape \(4, 4\), expected \(4, 4, 4\)"),
            ((c2w, ks[:3], ids), {}, r"K has shape \(3, 3, 3\), expected \(6, 3, 3\)"),
            ((c2w, ks, ids[:, None]), {}, r"scene_ids has shape \(6, 1\)"),
            ((np.float64(1), ks, ids), {}, "c2w has shape"),
            ((c2w, ks, ids.astype(float)), {}, "scene_ids are float64, expected integers"),
            ((c2w.astype(str), ks, ids), {}, "c2w are <U.*, expected numbers"),
            ((c2w, ks, ids), {"mask": np.ones(6)}, "mask are float64, expected bool"),
            ((c2w, ks, ids), {"twist_c": np.zeros((6, 6))}, "--camera-model robot"),
            (cameras(7), {}, "7 cameras, the server takes at most 6.*--max-cameras 7"),
        ):
            with pytest.raises(RequestError, match=text):
                remote.render(*arguments, **options)
        assert server.num_requests == 0
        assert_same(remote.render(c2w, ks, ids), renderer.render(c2w, ks, ids))


def test_a_slow_server_times_out_and_the_answer_can_be_fetched_later(name, renderer):
    c2w, ks, ids = cameras()
    cfg = RenderServerCfg(name=name)
    with RenderServer(renderer, cfg, ["a", "b"]) as server, RenderClient(name, timeout_s=0.2) as remote:
        with pytest.raises(RenderServerError, match=r"did not answer for 0.2 s; it last looked"):
            remote.render(c2w, ks, ids)
        with pytest.raises(RenderServerError, match=r"call result\(\) first"):
            remote.request(c2w, ks, ids)
        stop = threading.Event()
        thread = threading.Thread(target=server.serve, args=(stop.is_set,))
        thread.start()
        remote.timeout_s = 60.0
        assert_same(remote.result(), renderer.render(c2w, ks, ids))
        stop.set()
        thread.join()


def test_a_failing_renderer_does_not_end_the_server(name, scenes, caplog):
    broken = SplatRenderer(scenes, WIDTH, HEIGHT)
    render, broken.render = broken.render, lambda *_, **__: 1 / 0
    with serving(broken, name), RenderClient(name) as remote:
        with pytest.raises(RenderServerError, match="failed: ZeroDivisionError"):
            remote.render(*cameras())
        assert "ZeroDivisionError" in caplog.text
        broken.render = render
        expected = SplatRenderer(scenes, WIDTH, HEIGHT).render(*cameras())
        assert_same(remote.render(*cameras()), expected)


def test_a_request_that_bypasses_the_client_is_checked_again(name, renderer):
    with serving(renderer, name, max_cameras=6), RenderClient(name) as remote:
        remote.max_cameras = 100
        remote.render(*cameras())
        remote._slot.head["count"] = 7
        remote._number += 1
        remote._slot.request[0] = remote._number
        with pytest.raises(RequestError, match="7 cameras, expected at most 6"):
            remote.result()


def test_a_forked_child_does_not_use_its_parents_client(name, renderer):
    with serving(renderer, name), RenderClient(name) as remote:
        remote._pid += 1
        with pytest.raises(RenderServerError, match="make one here"):
            remote.render(*cameras())
        remote._pid -= 1


def test_the_client_file_is_python_3_8_with_numpy_alone():
    source = Path(client.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
    assert imported - {"numpy"} <= set(sys.stdlib_module_names)
    with pytest.raises(SyntaxError):
        ast.parse("match x:\n  case 1: pass", feature_version=(3, 8))  # that the check can fail


def interpreters():
    """This Python, and others found on the path that have numpy."""
    found = [sys.executable]
    for minor in (8, 9, 10, 12, 13):
        path = shutil.which(f"python3.{minor}")
        if (
            path
            and subprocess.run([path, "-c", "import numpy"], capture_output=True, check=False).returncode == 0
        ):
            found.append(path)
    return found


def test_a_copied_client_runs_alone_and_leaves_the_server_its_memory(name, renderer, tmp_path):
    shutil.copy(client.__file__, tmp_path / "client.py")
    code = CLIENT.replace(str(Path(client.__file__).parent), str(tmp_path)) + (
        "frames = remote.render(c2w, K, [0, 1, 0])\n"
        "assert not any(m.startswith('gaussgym') for m in sys.modules)\n"
        "sys.stdout.buffer.write(frames.rgb.tobytes() + frames.depth.tobytes())\n"  # ends without close()
    )
    c2w, ks = np.tile(np.eye(4), (3, 1, 1)), np.tile([[12.0, 0, 12], [0, 12, 8], [0, 0, 1]], (3, 1, 1))
    expected = renderer.render(c2w, ks, np.array([0, 1, 0]))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with serving(renderer, name, num_clients=1):
        for python in interpreters():
            run = subprocess.run(
                [python, "-c", code, name], capture_output=True, check=False, env=environment
            )
            print(
                python,
                subprocess.run([python, "-V"], capture_output=True, check=True).stdout.decode().strip(),
            )
            assert run.returncode == 0, run.stderr.decode()
            assert run.stderr == b""
            assert run.stdout == expected.rgb.tobytes() + expected.depth.tobytes()
            assert Path(client.segment_path(name)).exists()


@pytest.mark.slow
def test_an_idle_server_sleeps(name, splat_file):
    psutil = pytest.importorskip("psutil")
    with server_process(splat_file, "--name", name) as (process, _):
        with RenderClient(name) as remote:
            remote.render(np.eye(4)[None], pinhole(64, 48)[None], [0])
            time.sleep(0.5)
            watched = psutil.Process(process.pid)
            before = sum(watched.cpu_times()[:2])
            time.sleep(10.0)
            share = (sum(watched.cpu_times()[:2]) - before) / 10.0
        process.terminate()
        process.wait()
    print(f"idle: {100 * share:.1f} % of a core")
    assert share < 0.05


@pytest.mark.slow
def test_what_the_way_through_shared_memory_costs(name, tmp_path):
    psutil = pytest.importorskip("psutil")
    rng = np.random.default_rng(0)
    save_splats(street_splats(40_000, rng), tmp_path / "street.ply")
    here = SplatRenderer([open_splats(tmp_path / "street.ply").splats], 64, 48)
    ratios = {}
    with server_process(tmp_path / "street.ply", "--name", name) as (process, _):
        watched = psutil.Process(process.pid)
        with RenderClient(name) as remote:
            nothing = np.zeros((0, 4, 4)), np.zeros((0, 3, 3)), np.zeros(0, int)
            for pause_s in (0.0, 0.02):
                took = []
                for _ in range(100):
                    time.sleep(pause_s)
                    start = time.perf_counter()
                    remote.render(*nothing)
                    took.append(1e3 * (time.perf_counter() - start))
                low, middle, high = np.quantile(took, (0.25, 0.5, 0.75))
                print(
                    f"no cameras, {pause_s} s after the last: {middle:.2f} ms (quartiles {low:.2f}, {high:.2f})"
                )
            for count, repeats in ((64, 12), (256, 3)):
                batch = (
                    street_cameras(count, rng),
                    np.tile(pinhole(64, 48), (count, 1, 1)),
                    np.zeros(count, int),
                )
                out = here.render(*batch)
                assert_same(remote.render(*batch), out)
                rows = []
                for _ in range(15):
                    start, cpu = time.perf_counter(), time.process_time()
                    for _ in range(repeats):
                        here.render(*batch, out=out)
                    local = time.perf_counter() - start, time.process_time() - cpu
                    start, cpu, theirs = (
                        time.perf_counter(),
                        time.process_time(),
                        sum(watched.cpu_times()[:2]),
                    )
                    for _ in range(repeats):
                        remote.render(*batch)
                    wall, own = time.perf_counter() - start, time.process_time() - cpu
                    used = own + sum(watched.cpu_times()[:2]) - theirs
                    rows.append((wall / local[0], used / local[1], own / wall))
                ratios[count] = np.quantile(rows, (0.25, 0.5, 0.75), axis=0)
                low, middle, high = ratios[count]
                print(
                    f"{count} cameras at 64x48: wall {middle[0]:.3f} (quartiles {low[0]:.3f}, {high[0]:.3f}), CPU "
                    f"{middle[1]:.3f} ({low[1]:.3f}, {high[1]:.3f}) times in-process, the client's share of a core "
                    f"{middle[2]:.3f}"
                )
        process.terminate()
        process.wait()
    for low, _, _ in ratios.values():
        assert low[1] < 1.2


def test_loaded_levels_of_detail_are_those_saved(tmp_path, scenes):
    build_tree(scenes[0]).save(tmp_path / "lod")
    for path in (tmp_path / "lod", tmp_path / "lod" / "lod.json"):
        source = open_splats(path)
        assert isinstance(source.splats, LodSplats)
        assert source.name == "lod"
        assert source.scene is None
