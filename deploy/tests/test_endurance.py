"""Endurance runs, short ones: what is measured and that it is written."""

import json
import subprocess
import sys

import numpy as np
import pytest
from gaussgym_deploy import endurance as module
from gaussgym_deploy.bundle import PolicyBundle
from gaussgym_deploy.endurance import MovingCard, bare_lateness
from gaussgym_deploy.testing import make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return PolicyBundle.load(make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=6))


def test_the_bare_loop_wakes_up_on_time_and_never_early():
    lateness_ms = bare_lateness(0.01, 0.5)
    assert 0.0 <= lateness_ms["p50"] <= lateness_ms["p99"] <= lateness_ms["max"]
    assert lateness_ms["p50"] < 20.0


def test_the_card_moves_by_a_pixel_a_frame_at_the_cameras_rate(bundle):
    card = MovingCard(bundle)
    frames = [card.read() for _ in range(4)]
    np.testing.assert_array_equal(frames[1].rgb, np.roll(frames[0].rgb, 1, axis=1))
    assert [frame.number for frame in frames] == [1, 2, 3, 4]
    assert frames[3].t_s - frames[0].t_s > 0.25


def test_memory_is_read_from_the_system():
    watch = module._MemoryWatch({"me": module.os.getpid(), "nobody": 2**22 + 1}, period_s=0.01)
    block = np.ones(10_000_000)
    while len(watch._seen["me"]) < 3:
        pass
    watch.close()
    found = watch.summary()
    assert list(found) == ["me"]
    assert found["me"]["max"] > 8e-6 * block.size


def test_a_run_and_its_replay_by_command(bundle, tmp_path):
    command = [sys.executable, "-m", "gaussgym_deploy"]
    done = subprocess.run(
        [*command, "endurance", str(bundle.path), "--seconds", "5", "--json", str(tmp_path / "e.json"), "--flight", str(tmp_path / "f")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    report = json.loads((tmp_path / "e.json").read_text())
    assert report["run"]["ticks"] > 200
    assert report["images"] == "link"
    assert report["run"]["thread_ms"]["p50"] > 0.0
    assert report["lateness_over_bare_ms"] == pytest.approx(
        report["run"]["lateness_ms"]["p99"] - report["bare_ms"]["p99"]
    )
    assert set(report["memory_mb"]) == {"runtime", "supervisor"}
    assert report["memory_mb"]["runtime"]["end"] > 10.0
    assert (done.returncode == 0) == (report["run"]["fault"] is None)  # a busy machine may stop us for 40 ms
    done = subprocess.run(
        [*command, "replay", str(tmp_path / "f"), str(bundle.path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "identical, bit for bit" in done.stdout
    other = make_bundle(tmp_path / "other", steps=6, seed=3)
    done = subprocess.run(
        [*command, "replay", str(tmp_path / "f"), str(other)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "give the bundle that flew" in done.stderr
