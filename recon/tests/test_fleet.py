"""Fleets of builds: what is planned, what is kept, and on Ray itself what a killed process and bad captures do."""

import json
import os
import shutil
import signal
import threading
import time
from dataclasses import asdict, dataclass, replace

import numpy as np
import pytest
from gaussgym_recon.fleet import FleetCfg, fleet
from gaussgym_recon.fleet.job import run_job
from gaussgym_recon.fleet.plan import find_captures, plan
from gaussgym_scene.artifact import ArtifactWriter
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.capture import Capture, CaptureImage
from gaussgym_scene.collection import Collection
from gaussgym_scene.errors import InputError, StageError
from gaussgym_scene.scene import Scene
from PIL import Image


def settings(**values):
    """Settings of a build; a class of its own travels to Ray's processes without them loading what a true build needs."""

    @dataclass(frozen=True)
    class Settings:
        seed: int = 0
        sizes: tuple[int, ...] = (8, 16)

    return Settings(**values)


CFG = settings()


def make_capture(folder, seed):
    camera = Intrinsics.from_fov(16, 12, 1.0)
    with ArtifactWriter(folder, manifest="capture.json", format="gaussgym-capture", version=1) as writer:
        (writer.path / "images").mkdir()
        images = []
        for n in range(2):
            noise = np.random.default_rng(100 * seed + n).integers(0, 255, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).save(writer.path / "images" / f"{n}.png")
            images.append(CaptureImage(file=f"images/{n}.png", intrinsics=camera))
        writer.fields.update(Capture(folder, images, {"source": "images"}).manifest_fields())
    return folder


@pytest.fixture
def captures(tmp_path):
    """Forty captures, three of them bad in different ways."""
    root = tmp_path / "captures"
    for n in range(40):
        make_capture(root / f"place_{n:02d}", n)
    (root / "place_05" / "capture.json").write_text("{ not json")
    (root / "place_17" / "images" / "1.png").unlink()
    (root / "place_31" / "images" / "0.png").write_bytes(b"damaged")
    return root


def builder(notes):
    """A cheap true build: reads the capture with every check, writes a scene, and keeps notes of what it did."""

    def build(capture_dir, output, cfg, *, progress=None):
        import json
        import os
        import time
        from dataclasses import asdict

        import numpy as np
        from gaussgym_scene.artifact import ArtifactWriter, provenance, sha256_of
        from gaussgym_scene.capture import Capture
        from gaussgym_scene.heightfield import Heightfield
        from gaussgym_scene.mesh import Mesh
        from gaussgym_scene.paths import Paths
        from gaussgym_scene.scene import Scene
        from gaussgym_scene.splats import Splats
        from PIL import Image

        name = output.name
        with (notes / f"{name}.begun").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if name == "place_11" and len((notes / f"{name}.begun").read_text().split()) == 1:
            (notes / "kill_me").write_text(str(os.getpid()))
            time.sleep(60)  # until somebody kills this process
        capture = Capture.load(capture_dir)
        progress("poses", 0.5, "half")
        pixels = (
            np.concatenate([np.asarray(Image.open(capture.path(n))).reshape(-1, 3) for n in range(2)]) / 255.0
        )
        n = len(pixels)
        means = np.column_stack([np.arange(n) % 16, np.arange(n) // 16, 0 * pixels[:, 0]])
        splats = Splats(
            means,
            np.tile([1.0, 0, 0, 0], (n, 1)),
            np.full((n, 3), 0.1),
            np.full(n, 0.9),
            pixels[:, None] - 0.5,
        )
        mesh = Mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
        ground = Heightfield(np.zeros((4, 4)), 0.5, np.zeros(2), np.ones((4, 4), bool))
        paths = Paths(np.zeros((2, 4)), np.zeros(2, int), np.ones(2))
        scene = Scene(name, splats, mesh, ground, paths, {})
        with ArtifactWriter(output, manifest="scene.json", format="gaussgym-scene", version=1) as writer:
            scene.write_members(writer.path)
            writer.fields.update(scene.manifest_fields())
            settings = json.loads(json.dumps(asdict(cfg), default=str))
            writer.fields["provenance"] = provenance(
                capture_sha256=sha256_of(capture_dir / "capture.json"), settings=settings
            )
        with (notes / f"{name}.built").open("a") as file:
            file.write(f"{os.getpid()}\n")

    return build


def counted(notes, what):
    return {file.stem: len(file.read_text().split()) for file in sorted(notes.glob(f"*.{what}"))}


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'gaussgym-recon[fleet]')")
    for attempt in range(4):  # its 30 s to start are too few where many tests run at once
        try:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            break
        except Exception:
            ray.shutdown()
            if attempt == 3:
                raise
    yield ray
    ray.shutdown()


def kill_when_asked(notes, killed):
    """Kills the process that says so, once."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
        file = notes / "kill_me"
        if file.exists() and file.read_text():
            pid = int(file.read_text())
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            return
        time.sleep(0.05)


def test_forty_captures_two_workers_one_killed_three_bad(ray, captures, tmp_path):
    notes, output = tmp_path / "notes", tmp_path / "scenes"
    notes.mkdir()
    killed, told = [], []
    killer = threading.Thread(target=kill_when_asked, args=(notes, killed))
    killer.start()
    report = fleet(
        captures,
        output,
        CFG,
        FleetCfg(workers=2),
        build=builder(notes),
        progress=lambda *words: told.append(words),
    )
    killer.join()
    bad = ["place_05", "place_17", "place_31"]
    good = [f"place_{n:02d}" for n in range(40) if f"place_{n:02d}" not in bad]
    assert len(killed) == 1
    assert report.named("built") == good
    assert report.named("failed") == bad
    # Nothing was built twice; the killed one was begun twice, the bad ones once.
    assert counted(notes, "built") == dict.fromkeys(good, 1)
    assert counted(notes, "begun") == {**dict.fromkeys(good, 1), **dict.fromkeys(bad, 1), "place_11": 2}
    assert (
        len({pid for file in notes.glob("*.begun") for pid in file.read_text().split()}) >= 2
    )  # two workers
    # Failures are named, with their reasons.
    written = json.loads((output / "fleet.json").read_text())["scenes"]
    assert "not valid JSON" in written["place_05"]["reason"]
    assert "missing, though the manifest lists it" in written["place_17"]["reason"]
    assert "bytes, the manifest says" in written["place_31"]["reason"]
    assert written["place_11"]["attempts"] == 2
    assert "its process died" in (output / "logs" / "place_11.log").read_text()
    assert all((output / "logs" / f"{name}.log").exists() for name in good + bad)
    # The collection has all scenes, whole captures on one side, and can be read.
    collection = Collection.load(output / "collection.json")
    assert sorted(entry.folder.name for entry in collection.scenes) == good
    assert 0 < len(collection.of("held_out")) < 20
    assert all(len(Scene.load(entry.folder).splats) == 384 for entry in collection.scenes[:3])
    with pytest.raises(
        StageError,
        match=r"3 of 40 captures failed: place_05, place_17, place_31 \(place_05: .*the others are in",
    ):
        report.require_all()
    assert told[-1][1] == 1.0
    assert told[-1][2].startswith("37 scenes, 3 failed, 0 to go")

    # Again: nothing is built, the bad ones are tried once more.
    again = fleet(captures, output, CFG, FleetCfg(workers=2), build=builder(notes))
    assert again.named("there") == good
    assert counted(notes, "built") == dict.fromkeys(good, 1)
    assert {name: counted(notes, "begun")[name] for name in bad} == dict.fromkeys(bad, 2)

    # One is repaired, one scene lost: these two are built, and no other.
    shutil.rmtree(captures / "place_05")
    make_capture(captures / "place_05", 5)
    shutil.rmtree(output / "place_20")
    last = fleet(captures, output, CFG, FleetCfg(workers=2), build=builder(notes))
    assert last.named("built") == ["place_05", "place_20"]
    assert counted(notes, "built") == {**dict.fromkeys(good, 1), "place_05": 1, "place_20": 2}
    before = {e.folder.name: e.split for e in collection.scenes}
    after = {e.folder.name: e.split for e in Collection.load(output / "collection.json").scenes}
    assert len(after) == 38
    assert all(after[name] == split for name, split in before.items())  # a new scene moves none


def test_a_process_that_dies_every_time(ray, tmp_path):
    make_capture(tmp_path / "c" / "a", 1)
    make_capture(tmp_path / "c" / "b", 2)
    notes = tmp_path / "notes"
    notes.mkdir()
    cheap = builder(notes)

    def build(capture_dir, output, cfg, *, progress=None):
        import os

        if output.name == "a":
            os._exit(9)
        cheap(capture_dir, output, cfg, progress=progress)

    report = fleet(tmp_path / "c", tmp_path / "s", CFG, FleetCfg(retries=1), build=build)
    assert report.attempts == {"a": 2, "b": 1}
    assert report.named("crashed") == ["a"]
    assert report.named("built") == ["b"]
    assert report.collection is not None


def test_a_second_fleet_is_kept_out(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    make_capture(tmp_path / "c" / "a", 1)
    (tmp_path / "s").mkdir()
    with (tmp_path / "s" / ".fleet.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another fleet works here"):
            fleet(tmp_path / "c", tmp_path / "s", CFG)


def test_a_plan_names_and_finds(tmp_path):
    root = tmp_path / "c"
    make_capture(root / "town" / "street", 1)
    make_capture(root / "town_street", 2)
    make_capture(root / "half.partial", 3)
    shutil.copytree(root / "town_street", root / "copy")
    made = plan(root, tmp_path / "s", {"seed": 0})
    assert [job.name for job in made.jobs] == ["copy", "town_street"]
    assert made.duplicates == {"town_street_2": "copy"}
    assert [folder.name for folder in find_captures(root / "copy")] == ["copy"]
    with pytest.raises(InputError, match="lies inside the capture"):
        plan(root, root / "copy" / "scenes", {})
    with pytest.raises(InputError, match="holds no capture"):
        plan(tmp_path / "c" / "copy" / "images", tmp_path / "s", {})


def test_a_scene_counts_as_built_only_with_its_capture_and_settings(tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    make_capture(tmp_path / "c" / "a", 1)
    (job,) = plan(tmp_path / "c", tmp_path / "s", asdict(CFG)).jobs
    assert not job.is_built()
    assert run_job(job, CFG, builder(notes), 1, 1).state == "built"
    assert job.is_built()
    assert run_job(job, CFG, builder(notes), 1, 2).state == "there"
    (other,) = plan(tmp_path / "c", tmp_path / "s", asdict(settings(seed=1))).jobs
    assert not other.is_built()
    (tmp_path / "s" / "a" / "mesh.ply").unlink()
    assert not job.is_built()


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (FleetCfg(workers=0), "workers is 0"),
        (FleetCfg(cpus=0.0), "0 cores"),
        (FleetCfg(gpus=-1.0), "-1 GPUs"),
        (FleetCfg(retries=-1), "retries is -1"),
        (FleetCfg(held_out=1.5), "held_out is 1.5"),
    ],
)
def test_numbers_that_cannot_be(tmp_path, cfg, words):
    with pytest.raises(InputError, match=words):
        fleet(tmp_path, tmp_path / "s", CFG, cfg)


@pytest.mark.slow
def test_true_builds_of_tiny_captures(ray, tmp_path):
    """Two captures through every stage but structure from motion, whose poses are the true ones."""
    from gaussgym_recon.build import BuildCfg
    from gaussgym_recon.stereo import StereoCfg
    from gaussgym_recon.synthetic import SynthesizeCfg, synthesize_capture
    from gaussgym_recon.trainer import TrainerCfg
    from gaussgym_scene.synth import synthesize

    truth = synthesize("flat")
    truth.save(tmp_path / "truth")
    tiny = SynthesizeCfg(images=18, width=160, height=120, turn_images=2, supersample=1)
    for seed in range(2):
        synthesize_capture(truth, tmp_path / "captures" / f"walk_{seed}", seed=seed, cfg=tiny)
    (tmp_path / "captures" / "bad").mkdir()
    (tmp_path / "captures" / "bad" / "capture.json").write_text("{}")
    truth_dir = tmp_path / "truth"

    def build_with_true_poses(capture_dir, output, cfg, *, progress=None):
        from gaussgym_recon import build as build_module
        from gaussgym_recon.warmup import posed_by_truth
        from gaussgym_scene.capture import Capture
        from gaussgym_scene.scene import Scene

        def poses(*args, **kwargs):
            return posed_by_truth(Scene.load(truth_dir), Capture.load(capture_dir))

        build_module._poses = poses
        return build_module.build(capture_dir, output, cfg, progress=progress)

    cfg = BuildCfg(
        long_sides_px=(60, 120),
        stereo=StereoCfg(sources=3, iterations=2),
        trainer=replace(TrainerCfg(), iterations=30, max_splats=6000, final_splats=5000, densify_every=10),
    )
    report = fleet(
        tmp_path / "captures", tmp_path / "scenes", cfg, FleetCfg(workers=2), build=build_with_true_poses
    )
    assert report.named("built") == ["walk_0", "walk_1"], report.outcomes
    assert report.named("failed") == ["bad"]
    for name in report.named("built"):
        scene = Scene.load(tmp_path / "scenes" / name)
        assert len(scene.splats) > 1000
        assert scene.metadata["psnr_db_heldout"] > 10
        log = (tmp_path / "scenes" / "logs" / f"{name}.log").read_text()
        assert "splats 100%" in log
        assert "built after" in log
    assert report.collection is not None
    before = [(tmp_path / "scenes" / name / "scene.json").stat().st_mtime_ns for name in ("walk_0", "walk_1")]
    again = fleet(
        tmp_path / "captures", tmp_path / "scenes", cfg, FleetCfg(workers=2), build=build_with_true_poses
    )
    assert again.named("there") == ["walk_0", "walk_1"]
    assert [
        (tmp_path / "scenes" / name / "scene.json").stat().st_mtime_ns for name in ("walk_0", "walk_1")
    ] == before
