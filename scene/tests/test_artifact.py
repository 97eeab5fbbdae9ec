import json

import numpy as np
import pytest
from gaussgym_scene import InputError
from gaussgym_scene.artifact import ArtifactWriter, read_artifact, write_json


def write(directory, text="hello", version=1):
    with ArtifactWriter(directory, manifest="thing.json", format="thing", version=version) as writer:
        (writer.path / "sub").mkdir()
        (writer.path / "sub" / "a.txt").write_text(text)
        writer.fields["answer"] = np.float32(0.5)


def read(directory, **options):
    return read_artifact(directory, manifest="thing.json", format="thing", **options)


def write_half_and_fail(directory):
    with ArtifactWriter(directory, manifest="thing.json", format="thing", version=1) as writer:
        (writer.path / "b.txt").write_text("half")
        raise RuntimeError("boom")


def test_what_is_no_artifact_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds '1.jpg' and no thing.json, so it would be lost"):
        write(tmp_path / "photos")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        write(tmp_path / "notes.txt")
    assert (tmp_path / "photos" / "1.jpg").read_text() == (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert read(tmp_path / "empty")["answer"] == 0.5


def test_round_trip_and_replacement(tmp_path):
    write(tmp_path / "t")
    write(tmp_path / "t", text="second")
    fields = read(tmp_path / "t")
    assert fields["answer"] == 0.5
    assert fields["files"]["sub/a.txt"]["bytes"] == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t"]


def test_a_failed_writer_leaves_the_finished_one_alone(tmp_path):
    write(tmp_path / "t")
    with pytest.raises(RuntimeError, match="boom"):
        write_half_and_fail(tmp_path / "t")
    assert list(read(tmp_path / "t")["files"]) == ["sub/a.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t"]


def test_a_changed_file_is_found_by_its_hash(tmp_path):
    write(tmp_path / "t")
    (tmp_path / "t" / "sub" / "a.txt").write_text("jello")
    with pytest.raises(InputError, match=r"a\.txt: sha256 .* differs"):
        read(tmp_path / "t")


def test_a_shortened_file_is_found_by_its_size_even_unverified(tmp_path):
    write(tmp_path / "t")
    (tmp_path / "t" / "sub" / "a.txt").write_text("hell")
    with pytest.raises(InputError, match="4 bytes, the manifest says 5"):
        read(tmp_path / "t", verify=False)


def test_an_unknown_version_says_what_is_read(tmp_path):
    write(tmp_path / "t", version=7)
    with pytest.raises(InputError, match="version 7 is unknown, this gaussgym reads 1"):
        read(tmp_path / "t")


def test_a_file_name_cannot_leave_the_folder(tmp_path):
    write(tmp_path / "t")
    manifest = tmp_path / "t" / "thing.json"
    fields = json.loads(manifest.read_text())
    fields["files"]["../outside"] = {"bytes": 1, "sha256": "0"}
    manifest.write_text(json.dumps(fields))
    with pytest.raises(InputError, match="leaves the folder"):
        read(tmp_path / "t")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": "other"}', '{"format": "thing", "version": 1, "files": 3}']
)
def test_a_broken_manifest_is_one_clear_error(tmp_path, text):
    (tmp_path / "thing.json").write_text(text)
    with pytest.raises(InputError, match=r"thing\.json"):
        read(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="not found"):
        read(tmp_path / "nowhere")


def test_json_holds_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": float("nan"), "y": np.arange(2), "z": (1, np.float64("inf"))})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None, "y": [0, 1], "z": [1, None]}
