"""Collections: what is held out, and what a file with an error says."""

import hashlib
import json
import shutil

import pytest
from gaussgym_scene import synthesize
from gaussgym_scene.artifact import write_json
from gaussgym_scene.collection import Collection, collect, refuse_held_out, scene_entry
from gaussgym_scene.errors import InputError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Ten flat scenes; 0 and 1 are built from one capture, 2 from another, as a reconstruction's manifests say."""
    root = tmp_path_factory.mktemp("scenes")
    for i in range(10):
        synthesize("flat", i, length_m=3.0, width_m=2.0, max_splats=1000).save(root / f"s{i}")
    for i, capture in ((0, "a" * 64), (1, "a" * 64), (2, "b" * 64)):
        file = root / f"s{i}" / "scene.json"
        fields = json.loads(file.read_text())
        fields["provenance"]["capture_sha256"] = capture
        del fields["metadata"]["kind"]
        write_json(file, fields)
    return [root / f"s{i}" for i in range(10)]


def sides(collection):
    return {e.folder.name: e.split for e in collection.scenes}


def draw(capture, seed):
    return int(hashlib.sha256(f"{seed}:{capture}".encode()).hexdigest()[:16], 16) / 16**16


def test_a_scene_says_what_it_is(folders):
    real, synthetic = scene_entry(folders[0]), scene_entry(folders[5] / "scene.json")
    assert (real.kind, real.capture, synthetic.kind) == ("real", "a" * 16, "synthetic")
    lines = []
    for name in ("splats.ply", "mesh.ply", "heightfield.npz", "paths.npz", "appearance.npz"):
        lines.append(f"{name} {hashlib.sha256((folders[5] / name).read_bytes()).hexdigest()}\n")
    assert synthetic.hash == synthetic.capture == hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def test_the_split_follows_from_hashes_and_seed(folders):
    for seed in range(6):
        split = sides(collect(folders, held_out=0.4, seed=seed))
        assert split == sides(collect(folders[::-1], held_out=0.4, seed=seed))
        assert split["s0"] == split["s1"] != split["s2"]  # two captures, so one on each side
        numbers = {f.name: draw(scene_entry(f).capture, seed) for f in folders[3:]}
        out = {name for name, number in numbers.items() if number < 0.4}
        if 0 < len(out) < 7:
            assert {name for name in numbers if split[name] == "held_out"} == out
    assert len({str(sides(collect(folders, held_out=0.4, seed=seed))) for seed in range(6)}) > 1


def test_a_scene_that_comes_later_moves_none(folders):
    """Where the draws alone leave some on both sides."""
    checked = 0
    for seed in range(12):
        before, after = (sides(collect(some, held_out=0.5, seed=seed)) for some in (folders[:9], folders))
        if 0 < sum(draw(scene_entry(f).capture, seed) < 0.5 for f in folders[3:9]) < 6:
            assert {name: after[name] for name in before} == before
            checked += 1
    assert checked >= 6


def test_each_kind_has_a_scene_on_both_sides(folders):
    for share in (0.001, 0.999):
        split = sides(collect(folders, held_out=share, seed=3))
        for names in (("s0", "s2"), tuple(f"s{i}" for i in range(3, 10))):
            assert {split[name] for name in names} == {"train", "held_out"}
    assert set(sides(collect(folders, held_out=0.0)).values()) == {"train"}
    assert set(sides(collect(folders, held_out=1.0)).values()) == {"held_out"}


def test_named_scenes_take_their_capture_along(folders):
    collection = collect(folders, named=[folders[1], folders[4]], weights={"real": 3.0})
    assert {e.folder.name for e in collection.of("held_out")} == {"s0", "s1", "s4"}
    assert {e.kind: e.weight for e in collection.scenes} == {"real": 3.0, "synthetic": 1.0}
    with pytest.raises(InputError, match=r"not among those given: .*s9"):
        collect(folders[:5], named=[folders[9]])


def test_a_file_is_read_back_and_moves_with_its_scenes(folders, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(folders[0].parent, root / "scenes")
    made = collect(sorted((root / "scenes").iterdir()), seed=2)
    file = made.save(root / "sets" / "all.json")
    rows = json.loads(file.read_text())["scenes"]
    assert rows[3]["folder"] == "../scenes/s3"
    root = root.rename(tmp_path / "elsewhere")
    read = Collection.load(root / "sets" / "all.json")
    assert [(e.folder.resolve(), e.hash, e.split, e.capture) for e in read.scenes] == [
        (root / "scenes" / e.folder.name, e.hash, e.split, e.capture) for e in made.scenes
    ]
    assert (read.seed, read.held_out) == (2, 0.2)


def test_scenes_of_the_other_side_are_refused(folders, tmp_path):
    file = collect(folders[:6], named=[folders[4]]).save(tmp_path / "c.json")
    collection = Collection.load(file)
    assert [e.folder.name for e in collection.chosen([], "train")] == ["s0", "s1", "s2", "s3", "s5"]
    assert [e.folder.name for e in collection.chosen([folders[5], folders[3] / "scene.json"], "train")] == [
        "s5",
        "s3",
    ]
    with pytest.raises(InputError, match=r"s4: .*c\.json lists it as held_out, expected a scene of train"):
        collection.chosen([folders[3], folders[4]], "train")
    with pytest.raises(InputError, match=r"s3: .*c\.json lists it as train, expected a scene of held_out"):
        collection.chosen([folders[3]], "held_out")
    with pytest.raises(InputError, match=r"s8: not listed in .*c\.json"):
        collection.chosen([folders[8]], "train")


def test_a_collection_beside_its_scenes_guards_them(folders, tmp_path):
    root = tmp_path / "scenes"
    shutil.copytree(folders[0].parent, root)
    refuse_held_out(sorted(root.iterdir()))
    collect(sorted(root.iterdir()), named=[root / "s4"]).save(root / "collection.json")
    refuse_held_out([root / "s3", root / "s5"])
    with pytest.raises(InputError, match=r"s4: .*collection\.json lists it as held_out"):
        refuse_held_out([root / "s3", root / "s4"])
    assert len(Collection.load(root).scenes) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(scenes=[]), r"lists no scenes, expected 'scenes'"),
        (lambda f: f.update(version=7), r"version 7 is unknown, this gaussgym reads 1"),
        (lambda f: f.update(format="x"), r"format is 'x', expected 'gaussgym-collection'"),
        (lambda f: f["scenes"][1].pop("split"), r"scenes\[1\] \(.*s6\): 'split' is None, expected one of: train, held_out"),
        (lambda f: f["scenes"][1].update(kind="odd"), r"'kind' is 'odd', expected one of: synthetic, real"),
        (lambda f: f["scenes"][1].update(weight=0), r"'weight' is 0, expected a positive number"),
        (lambda f: f["scenes"][1].update(weight=float("nan")), r"'weight' is nan, expected a positive number"),
        (lambda f: f["scenes"][1].update(folder="/tmp/s"), r"an absolute folder"),
        (lambda f: f["scenes"][1].update(hash="0" * 16), r"s6 is another scene \(hash .*\) than the one listed \(0{16}\)"),
        (lambda f: f["scenes"].append(f["scenes"][0]), r"s5 is the same scene as .*s5; list it once, with a weight"),
        (lambda f: f["scenes"].append(5), r"scenes\[2\] is 5, expected an object"),
        (lambda f: f["scenes"][1].update(folder="none"), r"none/scene\.json: not found"),
    ],
)  # fmt: skip
def test_a_file_with_an_error(folders, tmp_path, change, message):
    file = collect(folders[5:7]).save(tmp_path / "c.json")
    fields = json.loads(file.read_text())
    change(fields)
    file.write_text(json.dumps(fields))
    with pytest.raises(InputError, match=message):
        Collection.load(file)


def test_other_errors(folders, tmp_path):
    with pytest.raises(InputError, match="found no scene"):
        collect([])
    with pytest.raises(InputError, match=r"s3 is the same scene as .*s3"):
        collect([folders[3], folders[4], folders[3]])
    shutil.copytree(folders[3], tmp_path / "copy")
    with pytest.raises(InputError, match=r"copy is the same scene as .*s3"):
        collect([folders[3], tmp_path / "copy"])
    with pytest.raises(InputError, match=r"held_out is 1\.5, expected a share of 0 to 1"):
        collect(folders, held_out=1.5)
    with pytest.raises(InputError, match=r"weight odd=1\.0, expected a positive one of: synthetic, real"):
        collect(folders, weights={"odd": 1.0})
    collection = collect(folders, held_out=1.0)
    with pytest.raises(InputError, match="all 10 scenes are held out: nothing to train on"):
        collection.of("train")
    with pytest.raises(InputError, match="all 10 scenes are for training: none is held out"):
        collect(folders, held_out=0.0).of("held_out")
    with pytest.raises(InputError, match="not found, expected a gaussgym-collection file"):
        Collection.load(tmp_path / "nothing.json")
