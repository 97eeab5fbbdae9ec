"""The demo's list of stages, its options, and the two small measurements of its own."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gaussgym import choice, fingerprints, walking
from gaussgym.demo import Demo, check_options, demo_stages, shipped_policies
from gaussgym.layout import Layout
from gaussgym.stages import in_order, needs, producer_of
from gaussgym.summary import SOURCES, source_file
from gaussgym_scene.artifact import ArtifactWriter
from gaussgym_scene.errors import InputError


@pytest.fixture
def shipped(tmp_path):
    """A folder with the two policies' manifests."""
    for name in ("student", "stairs_teacher"):
        (tmp_path / "policies" / name).mkdir(parents=True)
        (tmp_path / "policies" / name / "checkpoint.json").write_text("{}")
    return tmp_path / "policies"


@pytest.mark.parametrize("own", [False, True])
def test_stages_have_an_order_and_every_input_is_given_or_made(tmp_path, shipped, own):
    capture = tmp_path / "photos"
    capture.mkdir()
    options = Demo(output=tmp_path / "run", shipped=shipped, capture=capture if own else None)
    stages = in_order(demo_stages(options, Layout(options.output)))
    producers = producer_of(stages)
    for stage in stages:
        for path in stage.inputs:
            assert path in producers or path.exists(), f"{stage.name} reads {path}, which nothing makes"
        for path in stage.outputs:
            assert path.is_relative_to(options.output)
            assert any(str(path).startswith(word) for word in stage.command)
    # everything that the summary reads is made, but the truth of a place that has none
    layout, made = Layout(options.output), {path for stage in stages for path in stage.outputs}
    wanted = {name: source_file(layout, name) for name, _ in SOURCES.values()}
    missing = {name for name, path in wanted.items() if path not in made and path.parent not in made}
    assert missing == ({"truth"} if own else set())


def test_truth_is_read_by_its_comparison_only(tmp_path, shipped):
    layout = Layout(tmp_path / "run")
    stages = demo_stages(Demo(output=layout.root, shipped=shipped), layout)
    readers = {stage.name for stage in stages if layout.truth_scene in stage.inputs}
    assert readers == {"photos", "truth"}


def test_independent_stages_may_run_side_by_side(tmp_path, shipped):
    stages = demo_stages(Demo(output=tmp_path / "run", shipped=shipped), Layout(tmp_path / "run"))
    producers = producer_of(stages)
    by_name = {stage.name: stage for stage in stages}
    assert needs(by_name["teacher-flat"], producers) == set()
    assert needs(by_name["sim2sim"], producers) == {"export", "build"}


def test_video_is_imported_as_video(tmp_path, shipped):
    film = tmp_path / "walk.MP4"
    film.write_bytes(b"")
    stages = demo_stages(
        Demo(output=tmp_path / "run", shipped=shipped, capture=film), Layout(tmp_path / "run")
    )
    command = next(stage.command for stage in stages if stage.name == "photos")
    assert command[1:3] == ("import", "video")


def test_code_of_every_stage_exists(tmp_path, shipped):
    for stage in demo_stages(Demo(output=tmp_path / "run", shipped=shipped), Layout(tmp_path / "run")):
        for name in stage.code:
            assert fingerprints._of_sources(name), f"{stage.name}: {name} has no source"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"capture": Path("/no/such/photos")}, "/no/such/photos: not found"),
        ({"minutes_teacher": 0.0}, "--minutes-teacher is 0, expected more than 0 min"),
        ({"minutes_splats": -1.0}, "--minutes-splats is -1"),
        ({"episodes": 0}, "--episodes is 0, expected at least 1"),
        ({"episodes": 8}, "--sim2sim-episodes is 64, expected at most the 8"),
        ({"camera_height": 150.0}, "--camera-height is 150 m, expected 0.05 to 20 m"),
        ({"output": Path(__file__)}, "is a file, expected a folder"),
    ],
)
def test_bad_options_are_one_clear_line(options, words):
    with pytest.raises(InputError) as caught:
        check_options(Demo(**options))
    assert words in str(caught.value)


def test_missing_shipped_policy_is_named(tmp_path):
    with pytest.raises(InputError, match=r"student: no checkpoint\.json"):
        shipped_policies(tmp_path)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["demo", "--capture", "/no/such/photos"],
            "error: /no/such/photos: not found; give a folder of photos or a video",
        ),
        (
            ["report", "/no/such/run"],
            "error: /no/such/run: holds no state.json, expected the run folder of a demo",
        ),
    ],
)
def test_command_exits_2_with_one_line(words, line):
    answer = subprocess.run(
        [sys.executable, "-m", "gaussgym", *words], capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 2
    assert answer.stderr.strip() == line
    assert answer.stdout == ""


# Which student is delivered


def run_folder(path, weights):
    path.mkdir(parents=True)
    (path / "checkpoint.json").write_text(json.dumps({"files": {"model_7.pt": {}}}))
    (path / "model_7.pt").write_text(weights)
    (path / "model_6.pt").write_text("an older one, which is not delivered")
    return path


def deliver(tmp_path, before, after, **changes):
    results = {}
    for name, success in (("before", before), ("tuned", after)):
        run_folder(tmp_path / name, name)
        results[name] = tmp_path / f"{name}.json"
        fields = {"episodes": 256, "seed": 1234, "task": "goal", "success": success}
        results[name].write_text(json.dumps({**fields, **(changes if name == "tuned" else {})}))
    choice.deliver_better(
        tmp_path / "before",
        tmp_path / "tuned",
        results["before"],
        results["tuned"],
        tmp_path / "out",
        tmp_path / "r.json",
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"checkpoint.json", "model_7.pt"}
    return (tmp_path / "out" / "model_7.pt").read_text(), json.loads((tmp_path / "r.json").read_text())


@pytest.mark.parametrize(
    ("before", "after", "who"), [(0.8, 0.9, "tuned"), (0.8, 0.8, "tuned"), (0.8, 0.79, "before")]
)
def test_better_student_is_delivered_with_its_own_numbers(tmp_path, before, after, who):
    weights, result = deliver(tmp_path, before, after)
    assert (weights, result["delivered"]) == (who, who)
    assert result["success"] == max(before, after)
    assert (result["success_before"], result["success_tuned"]) == (before, after)


def test_evaluations_of_other_starts_are_refused(tmp_path):
    with pytest.raises(InputError, match="not evaluations of the same starts"):
        deliver(tmp_path, 0.8, 0.9, seed=5)


# Since when a teacher walks


def write_snapshots(folder, minutes):
    with ArtifactWriter(folder, manifest=walking.MANIFEST, format=walking.FORMAT, version=1) as writer:
        for minute in minutes:
            (writer.path / walking.snapshot_name(minute)).mkdir()
        writer.fields.update(recipe="teacher_flat", minutes=minutes, seed=0)


def measure(tmp_path, monkeypatch, errors, falls):
    """Run the measurement with an evaluation that answers from tables by minute."""
    write_snapshots(tmp_path / "snapshots", sorted(errors))
    asked = []

    def evaluate(policy, scenes, *, task, episodes):
        minute = int(policy.name.removeprefix("minute_")) / 100
        asked.append((minute, episodes))
        share = falls[minute] if isinstance(falls[minute], float) else falls[minute][episodes]
        return {"episodes": episodes, "velocity_error_m_s": errors[minute], "fell": share}

    monkeypatch.setattr("gaussgym_learn.evaluate.evaluate", evaluate)
    path = walking.minutes_to_walk(tmp_path / "snapshots", [Path("scene")], tmp_path / "walk.json")
    return json.loads(path.read_text()), asked


def test_snapshot_lies_where_the_manifest_says(tmp_path, monkeypatch):
    """0.75483 min is 0.755 in the manifest: the folder must be that of 0.755, not of 0.75483."""
    made = []
    monkeypatch.setattr("gaussgym_learn.run.run_fields", lambda recipe, env, seed: {})
    monkeypatch.setattr(
        "gaussgym_learn.checkpoint.save_checkpoint", lambda folder, *args, **fields: made.append(folder.name)
    )
    trainer = SimpleNamespace(recipe=None, env=None, state=dict, iteration=0)
    for seconds in np.arange(45.27, 45.34, 0.01):
        keeper = walking.SnapshotKeeper(tmp_path, every_minutes=0.25, first_minutes=0.5, seed=0)
        keeper(trainer, {"Perf/collection_time": seconds, "Perf/learning_time": 0.0})
        assert made[-1] == walking.snapshot_name(keeper.minutes[-1])


def test_first_snapshot_that_neither_errs_nor_falls_counts(tmp_path, monkeypatch):
    errors = {0.5: 0.4, 0.75: 0.08, 1.0: 0.09, 1.25: 0.05}
    falls = {0.5: 0.0, 0.75: 0.2, 1.0: 0.02, 1.25: 0.0}  # standing still falls never, an early trot often
    found, asked = measure(tmp_path, monkeypatch, errors, falls)
    assert found["minutes_to_walk"] == 1.0
    assert asked == [(0.5, 64), (0.75, 64), (1.0, 64), (1.0, 256)]


def test_lucky_screening_does_not_count(tmp_path, monkeypatch):
    found, _ = measure(
        tmp_path, monkeypatch, {0.5: 0.05, 0.75: 0.05}, {0.5: {64: 0.0, 256: 0.03}, 0.75: 0.01}
    )
    assert found["minutes_to_walk"] == 0.75
    assert found["checkpoints"][0]["fell"] == 0.03


def test_teacher_that_never_walks_gives_null(tmp_path, monkeypatch):
    found, _ = measure(tmp_path, monkeypatch, {0.5: 0.4, 0.75: 0.3}, {0.5: 1.0, 0.75: 0.5})
    assert found["minutes_to_walk"] is None
    assert len(found["checkpoints"]) == 2
