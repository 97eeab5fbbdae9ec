"""The doctor's table: right on a good machine, and with one line to type for each problem."""

import json
import subprocess
import sys

import psutil
import pytest
from gaussgym import doctor
from gaussgym.doctor import FAIL, OK, WARN, Check


def by_name(rows):
    return {row.name: row for row in rows}


def test_this_machine_is_fit(tmp_path):
    rows = by_name(doctor.diagnose(tmp_path))
    assert [name for name, row in rows.items() if row.status == FAIL] == []
    assert {"Python", "packages", "stages", "ffmpeg", "cores", "memory", "disk", "GPU", "captures"} <= set(
        rows
    )
    assert rows["GPU"].found


def test_missing_ffmpeg_says_what_to_type(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    (row,) = doctor.check_ffmpeg()
    assert row.status == FAIL
    assert row.fix.endswith("apt-get install -y ffmpeg")


def test_missing_package_and_library(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    (row,) = doctor.check_packages()
    assert (row.status, row.found, row.fix) == (FAIL, "missing: no-such-package", "make setup")
    monkeypatch.setattr(doctor, "LIBRARIES", (("nosuch", "libnosuch.so.1", "libnosuch1"),))
    (row,) = doctor.check_libraries()
    assert row.status == FAIL
    assert row.fix.endswith("apt-get install -y libnosuch1")


def test_small_machine_is_told(monkeypatch, tmp_path):
    memory = psutil.virtual_memory()
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: memory._replace(available=2_000_000_000))
    monkeypatch.setattr(doctor, "usable_cores", lambda: 1)
    monkeypatch.setattr(doctor, "DISK_MB", 1e12)
    assert doctor.check_memory()[0].status == WARN
    assert doctor.check_cores()[0].status == WARN
    assert doctor.check_disk(tmp_path / "not" / "there")[0].status == FAIL


def test_damaged_capture_is_named(tmp_path):
    folder = tmp_path / "garden"
    folder.mkdir()
    (folder / "capture.json").write_text(
        json.dumps({"format": "gaussgym-capture", "version": 7, "files": {}})
    )
    (row,) = doctor.check_captures(tmp_path)
    assert (row.name, row.status) == ("capture garden", FAIL)
    assert "version 7 is unknown" in row.found


def test_table_shows_the_fix_below_its_problem():
    text = doctor.table(
        [Check("disk", OK, "9 GB"), Check("ffmpeg", FAIL, "not found", "apt-get install ffmpeg")]
    )
    lines = text.splitlines()
    assert lines[0].startswith("ok")
    assert lines[2].strip() == "→ apt-get install ffmpeg"
    assert lines[-1] == "1 problem(s) to repair"


@pytest.mark.parametrize("words", [["doctor"], ["--help"]])
def test_commands_run(words):
    answer = subprocess.run(
        [sys.executable, "-m", "gaussgym", *words], capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    expected = "ready: make demo" if words == ["doctor"] else "gaussgym-recon"
    assert expected in answer.stdout
