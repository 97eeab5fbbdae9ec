"""What is held out in a collection is evaluated on and never trained on: as the commands see it."""

import json
import sys

import numpy as np
import pytest
from gaussgym_learn import __main__ as main_module
from gaussgym_learn.checkpoint import load_checkpoint
from gaussgym_learn.cli.collection import scenes_of
from gaussgym_learn.cli.options import RunOptions
from gaussgym_learn.courses import stairs_course
from gaussgym_render.testing import random_splats
from gaussgym_scene.collection import Collection
from gaussgym_scene.errors import InputError
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.scene import Scene


@pytest.fixture
def folders(tmp_path):
    root = tmp_path / "scenes"
    for i in range(4):
        made = stairs_course((0.01 * i,), lanes=1, rubble=False, length_m=14.0 + i, seed=i)
        mesh = Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32), None)
        splats = random_splats(20, np.random.default_rng(i), sh_degree=0)
        Scene(f"s{i}", splats, mesh, made.heightfield, made.paths, {"kind": "stairs_course"}).save(
            root / f"s{i}"
        )
    return sorted(root.iterdir())


def command(monkeypatch, capsys, *words):
    """Run `gaussgym-learn`; returns its exit status, what it printed and its complaint."""
    monkeypatch.setattr(sys, "argv", ["gaussgym-learn", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main_module.main()
    said = capsys.readouterr()
    return end.value.code, said.out, said.err


def test_a_collection_is_made_and_trained_on(folders, tmp_path, monkeypatch, capsys):
    file = tmp_path / "sets" / "all.json"
    status, out, _ = command(
        monkeypatch,
        capsys,
        "collection",
        *folders,
        "--hold-out",
        folders[2],
        "--synthetic-weight",
        2.5,
        "--output",
        file,
    )
    assert status in (0, None)
    assert out.splitlines()[-1] == str(file)
    assert "held_out synthetic 2.5" in out
    collection = Collection.load(file)
    assert [e.folder.name for e in collection.of("held_out")] == ["s2"]
    train = [
        "train",
        "teacher_flat",
        "--collection",
        file,
        "--iterations",
        1,
        "--num-envs",
        6,
        "--output",
        tmp_path / "run",
    ]
    status, _, error = command(monkeypatch, capsys, *train)
    assert status in (0, None), error
    checkpoint = load_checkpoint(tmp_path / "run")
    assert sorted(checkpoint.fields["scenes"]) == ["s0", "s1", "s3"]
    assert checkpoint.state is not None
    assert scenes_of([], file, "held_out")[0][0].resolve() == folders[2]
    assert scenes_of([], file, "train")[1] is None  # all alike
    fields = json.loads(file.read_text())
    fields["scenes"][1]["weight"] = 5.0
    file.write_text(json.dumps(fields))
    assert scenes_of([], file, "train")[1] == (2.5, 5.0, 2.5)
    assert scenes_of([folders[3], folders[1]], file, "train")[1] == (2.5, 5.0)


def test_held_out_scenes_are_refused(folders, tmp_path, monkeypatch, capsys):
    beside = folders[0].parent / "collection.json"
    command(monkeypatch, capsys, "collection", *folders, "--hold-out", folders[2], "--output", beside)
    bounds = ["--iterations", 1, "--num-envs", 4, "--output", tmp_path / "run"]
    for more in ([], ["--collection", beside]):
        status, _, error = command(
            monkeypatch, capsys, "train", "teacher_flat", "--scenes", folders[0], folders[2], *more, *bounds
        )
        assert status == 2
        assert f"{folders[2]}" in error
        assert "held_out" in error
        assert error.count("\n") == 1
    status, _, error = command(
        monkeypatch, capsys, "distill", tmp_path / "none", "--scenes", folders[2], *bounds
    )
    assert status == 2
    assert "held_out" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [r.update(split="held_out") for r in rows], "all 4 scenes are held out: nothing to train on"),
        (lambda rows: [r.update(split="train") for r in rows], "all 4 scenes are for training: none is held out"),
        (lambda rows: rows[1].pop("split"), "'split' is None, expected one of: train, held_out"),
        (lambda rows: rows.clear(), "lists no scenes"),
        (lambda rows: rows.append(rows[0]), "is the same scene as"),
    ],
)  # fmt: skip
def test_files_that_will_not_do(folders, tmp_path, monkeypatch, capsys, change, message):
    file = tmp_path / "c.json"
    command(monkeypatch, capsys, "collection", *folders, "--output", file)
    fields = json.loads(file.read_text())
    change(fields["scenes"])
    file.write_text(json.dumps(fields))
    if "for training" in message:
        words = ["evaluate", tmp_path / "none", "--collection", file]
    else:
        words = ["train", "teacher_flat", "--collection", file, "--iterations", 1]
    status, _, error = command(monkeypatch, capsys, *words)
    assert status == 2
    assert message in error
    assert error.count("\n") == 1


def test_no_scene_at_all(tmp_path, monkeypatch, capsys):
    for words in (["distill", tmp_path, "--iterations", 1], ["evaluate", tmp_path]):
        status, _, error = command(monkeypatch, capsys, *words)
        assert status == 2
        assert "no scene given; add --scenes DIR [DIR ...] or --collection FILE" in error
    with pytest.raises(InputError, match=r"none\.json: not found, expected a gaussgym-collection file"):
        RunOptions(collection=tmp_path / "none.json").training_scenes([])
