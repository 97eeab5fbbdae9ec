"""The stage graph: skip, rebuild, interruption, kill, full disk, with real tiny processes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from gaussgym import pipeline
from gaussgym.pipeline import Pipeline, covered_s
from gaussgym.processes import StageProcess
from gaussgym.stages import RunState, StageRecord, in_order
from gaussgym.testing import tiny_stage
from gaussgym_scene.errors import InputError, StageError


def chain(run_dir, *options, sleep_s=0.0):
    """a → b → c, and d beside them."""
    a = tiny_stage("a", run_dir, *options, sleep_s=sleep_s)
    b = tiny_stage("b", run_dir, inputs=a.outputs, sleep_s=sleep_s)
    c = tiny_stage("c", run_dir, inputs=b.outputs, sleep_s=sleep_s)
    d = tiny_stage("d", run_dir, sleep_s=sleep_s)
    return [c, d, b, a]


def starts(run_dir):
    log = run_dir / "starts.log"
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def test_builds_in_the_order_of_inputs_and_then_keeps_everything(tmp_path):
    first = Pipeline(tmp_path, chain(tmp_path), cores=1).run()
    assert [name for name in first.built if name != "d"] == ["a", "b", "c"]
    assert (tmp_path / "c.txt").read_text() == "text text text "
    second = Pipeline(tmp_path, chain(tmp_path), cores=1).run()
    assert second.built == []
    assert sorted(second.kept) == ["a", "b", "c", "d"]
    assert len(starts(tmp_path)) == 4


def test_changed_argument_rebuilds_what_lies_behind_it_only(tmp_path):
    Pipeline(tmp_path, chain(tmp_path), cores=1).run()
    outcome = Pipeline(tmp_path, chain(tmp_path, "--text", "other"), cores=1).run()
    assert outcome.built == ["a", "b", "c"]
    assert outcome.kept == ["d"]
    assert (tmp_path / "c.txt").read_text() == "text text other "


def test_equal_result_of_a_rebuild_stops_the_rebuilding(tmp_path):
    Pipeline(tmp_path, chain(tmp_path), cores=1).run()
    outcome = Pipeline(
        tmp_path, chain(tmp_path, "--crash", ""), cores=1
    ).run()  # another command, the same output
    assert outcome.built == ["a"]
    assert sorted(outcome.kept) == ["b", "c", "d"]


@pytest.mark.parametrize("damage", ["delete", "change"])
def test_damaged_output_is_built_again(tmp_path, damage):
    Pipeline(tmp_path, chain(tmp_path), cores=1).run()
    if damage == "delete":
        (tmp_path / "b.txt").unlink()
    else:
        (tmp_path / "b.txt").write_text("something else")
    outcome = Pipeline(tmp_path, chain(tmp_path), cores=1).run()
    assert outcome.built == ["b"]  # c's input is again what it was


def test_changed_input_file_and_changed_code_rebuild(tmp_path, monkeypatch):
    photo = tmp_path / "photo"
    photo.write_text("1")
    run_dir = tmp_path / "run"
    stages = [tiny_stage("a", run_dir, inputs=(photo,))]
    assert Pipeline(run_dir, stages, cores=1).run().built == ["a"]
    photo.write_text("2")
    assert Pipeline(run_dir, stages, cores=1).run().built == ["a"]
    monkeypatch.setattr("gaussgym.fingerprints.of_code", lambda packages: "edited")
    assert Pipeline(run_dir, stages, cores=1, trust_code=True).run().built == []
    assert Pipeline(run_dir, stages, cores=1).run().built == ["a"]


def test_run_folder_may_move(tmp_path):
    Pipeline(tmp_path / "here", chain(tmp_path / "here"), cores=1).run()
    (tmp_path / "here").rename(tmp_path / "there")
    assert Pipeline(tmp_path / "there", chain(tmp_path / "there"), cores=1).run().built == []


def test_stages_run_side_by_side_within_the_cores(tmp_path):
    alone = [tiny_stage(name, tmp_path / "one", sleep_s=0.8) for name in "ab"]
    Pipeline(tmp_path / "one", alone, cores=1).run()
    pair = [tiny_stage(name, tmp_path / "two", sleep_s=0.8) for name in "ab"]
    Pipeline(tmp_path / "two", pair, cores=2).run()

    def overlap(run_dir):
        a, b = (RunState.load(run_dir).stages[name] for name in "ab")
        return min(a.ended_s, b.ended_s) - max(a.started_s, b.started_s)

    assert overlap(tmp_path / "one") <= 0
    assert overlap(tmp_path / "two") > 0.4


def test_wide_stages_go_first_and_then_the_longest_chain(tmp_path):
    a, b = tiny_stage("a", tmp_path), tiny_stage("b", tmp_path)
    behind = tiny_stage("c", tmp_path, inputs=b.outputs)
    wide = replace(tiny_stage("wide", tmp_path), cores=0)
    Pipeline(tmp_path, [a, b, behind, wide], cores=2).run()
    done = RunState.load(tmp_path).stages
    assert sorted(done, key=lambda name: done[name].started_s)[:2] == ["wide", "b"]


def test_a_narrow_stage_fills_what_a_wide_one_leaves_idle(tmp_path, monkeypatch):
    """One at a time, at the lowest priority, never in the way of the next wide stage, and brought forward at the end."""
    first = replace(tiny_stage("first", tmp_path, sleep_s=0.6), cores=0)
    second = replace(tiny_stage("second", tmp_path, inputs=first.outputs, sleep_s=0.6), cores=0)
    long, short = tiny_stage("long", tmp_path, sleep_s=2.5), tiny_stage("short", tmp_path, sleep_s=0.1)
    behind = tiny_stage("behind", tmp_path, inputs=long.outputs)
    seen: list[dict[str, tuple[bool, int]]] = []
    watch = Pipeline._watch

    def look(self):
        watch(self)
        seen.append(
            {
                p.stage.name: (p.in_background, psutil.Process(p.pid).nice()) for p in self._running
            }  # a zombie still has one
        )

    monkeypatch.setattr(Pipeline, "_watch", look)
    Pipeline(tmp_path, [first, second, long, short, behind], cores=2).run()
    done = RunState.load(tmp_path).stages
    assert done["long"].started_s < done["first"].ended_s
    assert done["second"].started_s < done["long"].ended_s  # it did not wait for the one in the background
    assert done["short"].started_s > done["second"].ended_s - 0.1  # one in the background at a time
    states = [moment["long"] for moment in seen if "long" in moment]
    assert states[0] == (True, 19)
    assert not states[-1][0]
    assert all(moment["first"] == (False, 0) for moment in seen if "first" in moment)


@pytest.mark.skipif(
    not Path("/proc/self/autogroup").exists(), reason="this system does not group tasks by session"
)
def test_background_weighs_the_whole_session(tmp_path):
    stage = tiny_stage("a", tmp_path, sleep_s=20.0)
    process = StageProcess(stage, stage.command, tmp_path, cores=1, in_background=True)
    group = Path(f"/proc/{process.pid}/autogroup")
    assert group.read_text().endswith("nice 19\n")
    process.bring_forward()
    assert group.read_text().endswith("nice 0\n")
    process.kill()


def test_records_time_and_memory(tmp_path):
    Pipeline(tmp_path, chain(tmp_path, sleep_s=0.6), cores=1).run()
    state = RunState.load(tmp_path)
    assert 0.6 < state.stages["a"].seconds < 20
    assert 10 < state.stages["a"].peak_rss_mb < 2000
    assert state.peak_rss_mb >= state.stages["a"].peak_rss_mb
    assert state.overhead_s > 0
    assert state.owner is None


def test_covered_time_counts_overlaps_once():
    def record(begin, end):
        return StageRecord(
            title="",
            key="",
            code="",
            outputs={},
            seconds=0,
            cpu_seconds=0,
            peak_rss_mb=0,
            started_s=begin,
            ended_s=end,
        )

    assert covered_s([record(10, 20), record(15, 30), record(40, 41), record(16, 17)]) == 21.0
    assert covered_s([]) == 0.0


def test_refused_input_stops_with_the_stage_own_line(tmp_path):
    stages = [
        tiny_stage("a", tmp_path, "--fail", "photo 3 is cut short; take it again"),
        tiny_stage("b", tmp_path),
    ]
    with pytest.raises(InputError, match=r"stage 'a': photo 3 is cut short; take it again"):
        Pipeline(tmp_path, stages, cores=1).run()


def test_crash_names_the_log(tmp_path):
    with pytest.raises(
        StageError, match=r"stage 'a' crashed \(status 1\): RuntimeError: boom; log: .*a\.log"
    ):
        Pipeline(tmp_path, [tiny_stage("a", tmp_path, "--crash", "boom")], cores=1).run()
    assert "Traceback" in (tmp_path / "logs" / "a.log").read_text()


def test_missing_input_is_named(tmp_path):
    stage = tiny_stage("a", tmp_path, inputs=(tmp_path / "nowhere.jpg",))
    with pytest.raises(InputError, match=r"reads .*nowhere\.jpg, which is missing"):
        Pipeline(tmp_path, [stage], cores=1).run()


def test_damaged_state_is_one_clear_line(tmp_path):
    (tmp_path / "state.json").write_text('{"format": "gaussgym-demo-state", "version": 9}')
    with pytest.raises(InputError, match=r"state\.json: not a state of this gaussgym"):
        Pipeline(tmp_path, chain(tmp_path), cores=1).run()


def test_circles_and_double_outputs_are_refused(tmp_path):
    a = tiny_stage("a", tmp_path, inputs=(tmp_path / "b.txt",))
    b = tiny_stage("b", tmp_path, inputs=(tmp_path / "a.txt",))
    with pytest.raises(ValueError, match="circle"):
        in_order([a, b])
    with pytest.raises(ValueError, match="written by both"):
        in_order([tiny_stage("a", tmp_path), tiny_stage("a", tmp_path)])


def test_too_little_disk_and_memory_are_told_before_the_start(tmp_path, monkeypatch):
    usage = pipeline.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda path: usage._replace(free=5_000_000))
    with pytest.raises(InputError, match=r"5 MB free on this disk, expected at least 304 MB"):
        Pipeline(tmp_path, chain(tmp_path), cores=1).run()
    monkeypatch.undo()
    memory = psutil.virtual_memory()
    monkeypatch.setattr(pipeline.psutil, "virtual_memory", lambda: memory._replace(available=1_000_000))
    with pytest.raises(InputError, match="1 MB of memory available, expected at least"):
        Pipeline(tmp_path, chain(tmp_path), cores=1).run()
    assert starts(tmp_path) == []


# The same from outside: a process that is stopped the hard ways.

DRIVER = """
import sys
from pathlib import Path
from gaussgym.pipeline import Pipeline
from gaussgym.testing import tiny_stage
from gaussgym_scene import command
run_dir = Path(sys.argv[1])
a = tiny_stage("a", run_dir)
b = tiny_stage("b", run_dir, *sys.argv[3:], inputs=a.outputs, sleep_s=float(sys.argv[2]))
c = tiny_stage("c", run_dir, inputs=b.outputs)
sys.exit(command.run(lambda: Pipeline(run_dir, [a, b, c], cores=1).run() and run_dir / "c.txt"))
"""


def drive(run_dir: Path, sleep_s: float, *options: str, **kwargs) -> subprocess.Popen:
    words = [sys.executable, "-c", DRIVER, str(run_dir), str(sleep_s), *options]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def wait_for_stage_b(run_dir: Path) -> psutil.Process:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if (run_dir / "logs" / "b.log").exists() and (run_dir / "logs" / "b.log").stat().st_size:
            for process in pipeline.leftovers(run_dir):
                return process
        time.sleep(0.02)
    raise AssertionError("stage b did not start")


def test_kill_9_loses_nothing_finished_and_leaves_nothing_running(tmp_path):
    process = drive(tmp_path, 60)
    child = wait_for_stage_b(tmp_path)
    process.kill()
    process.wait()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert (tmp_path / "a.txt").exists()
    assert not (tmp_path / "b.txt").exists()
    again = drive(tmp_path, 60)
    wait_for_stage_b(tmp_path)
    again.kill()
    again.communicate()
    assert starts(tmp_path) == ["a"]  # a was not built a second time
    final = drive(tmp_path, 0)
    assert final.communicate(timeout=60)[0].strip() == str(tmp_path / "c.txt")
    assert starts(tmp_path) == ["a", "b", "c"]


def test_kill_9_of_a_stage_is_told_and_the_next_run_goes_on(tmp_path):
    process = drive(tmp_path, 60)
    wait_for_stage_b(tmp_path).kill()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: stage 'b' was killed by signal 9")
    assert drive(tmp_path, 0).wait(timeout=60) == 0
    assert starts(tmp_path) == ["a", "b", "c"]


def test_ctrl_c_gives_130_and_the_next_run_goes_on(tmp_path):
    process = drive(tmp_path, 60)
    child = wait_for_stage_b(tmp_path)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in errors
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert drive(tmp_path, 0).wait(timeout=60) == 0
    assert starts(tmp_path) == ["a", "b", "c"]
    assert (tmp_path / "b.txt").read_text() == "text text "  # its arguments are others, so it began anew


def test_stopped_stage_is_told_to_resume_if_nothing_changed(tmp_path):
    process = drive(tmp_path, 3)
    wait_for_stage_b(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert drive(tmp_path, 3).wait(timeout=60) == 0
    assert (tmp_path / "b.txt").read_text() == "resumed text "
    again = drive(tmp_path, 3, "--fail", "")  # other arguments: from the start
    assert again.wait(timeout=60) == 0
    assert (tmp_path / "b.txt").read_text() == "text text "


def test_two_runs_in_one_folder_are_refused(tmp_path):
    first = drive(tmp_path, 60)
    wait_for_stage_b(tmp_path)
    second = drive(tmp_path, 0)
    _, errors = second.communicate(timeout=30)
    assert second.returncode == 2
    assert f"process {first.pid} already works here" in errors.splitlines()[-1]
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=30) == 130


@pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="mounting a small disk needs root on Linux"
)
def test_full_disk_gives_one_line_and_status_2(tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk here: {mounted.stderr.strip()}")
    try:
        # the check before the start would refuse so small a disk
        small = DRIVER.replace(
            "run_dir = ", "import gaussgym.pipeline as p; p.DISK_MARGIN_MB = -10; run_dir = ", 1
        )
        monkeypatch.setattr(sys.modules[__name__], "DRIVER", small)
        process = drive(disk, 0, "--fill-bytes", "1000000")
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 2
        last = errors.strip().splitlines()[-1]
        assert last.startswith("error: stage 'b': ")
        assert "No space left on device" in last
        assert "Traceback" not in errors
        assert json.loads((disk / "state.json").read_text())["stages"].keys() == {"a"}
        (disk / "b.partial").unlink(missing_ok=True)
        assert drive(disk, 0).wait(timeout=60) == 0
        assert starts(disk) == ["a", "b", "c"]
    finally:
        subprocess.run(["umount", disk], check=True)
