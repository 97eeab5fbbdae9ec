"""Fault injection: the table, each kind once on the bench, and the judge, who must also find what is wrong."""

import dataclasses
import json
import subprocess
import sys
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from gaussgym_deploy.bundle import BundleError, PolicyBundle
from gaussgym_deploy.faults.injection import Injection
from gaussgym_deploy.faults.live import LiveRig
from gaussgym_deploy.faults.state_faults import STATE_FAULTS
from gaussgym_deploy.faults.table import KINDS, TABLE, FaultKind, allowed_s, select_kinds
from gaussgym_deploy.faults.trials import Observed, judge
from gaussgym_deploy.faults.virtual import BenchSource, VirtualRig
from gaussgym_deploy.faults.wire_faults import WIRE_FAULTS
from gaussgym_deploy.guards import FAULT_KINDS, GuardLimits
from gaussgym_deploy.testing import DEFAULT_POSE, make_bundle

SUPERVISOR_KINDS = {"heartbeat", "runtime_gone", "bad_command"}
VIRTUAL = [kind for kind in TABLE if not kind.real_time]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return PolicyBundle.load(make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=6))


@pytest.fixture(scope="module")
def rig(bundle):
    return VirtualRig("bench", bundle, BenchSource(bundle))


# ---------------------------------------------------------------------------------------------------- the table


def test_there_are_enough_kinds_and_each_is_made_by_something():
    assert len(TABLE) == len(KINDS) >= 25
    assert {kind.run for kind in TABLE} == {"ride", "damp"}
    for kind in TABLE:
        made = kind.name in STATE_FAULTS or kind.side in (
            "policy",
            "operator",
            "process",
            "log",
            "link",
        )
        assert made, kind.name
        if "damp" in (kind.run, kind.stand):
            assert kind.words, kind.name
            assert set(kind.words) <= set(FAULT_KINDS) | SUPERVISOR_KINDS, kind.name


def test_bounds_by_hand():
    limits = GuardLimits()
    assert allowed_s(KINDS["tilt"], limits, 0.02) == pytest.approx(0.04)  # at once + 2 periods
    assert allowed_s(KINDS["state_dropped"], limits, 0.02) == pytest.approx(0.1 + 0.04)
    assert allowed_s(KINDS["joint_limit"], limits, 0.02) == pytest.approx(
        2 * 0.02 + 0.04
    )  # the third step in a row
    assert allowed_s(KINDS["state_lag_grows"], limits, 0.02) == pytest.approx(2.1 * 0.1 + 0.04)
    assert allowed_s(KINDS["runtime_killed"], limits, 0.02) == pytest.approx(0.02 + 0.04)
    assert allowed_s(KINDS["camera_black"], limits, 0.02) == 0.5
    assert allowed_s(KINDS["operator_lost"], limits, 0.02) == 0.3


def test_unknown_kinds_are_named():
    assert [kind.name for kind in select_kinds(("tilt",), "bench")] == ["tilt"]
    with pytest.raises(BundleError, match="'tild' is unknown; there is state_dropped_once"):
        select_kinds(("tild",), "bench")


# ---------------------------------------------------------------------------------------------------- each kind once


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(kind, mode) for kind in VIRTUAL for mode in kind.modes],
    ids=lambda part: getattr(part, "name", part),
)
def test_each_kind_goes_as_the_table_says(rig, kind, mode):
    trial = rig.trial(kind, mode, np.random.default_rng(1))
    assert trial.failures == ()
    assert trial.finite
    assert (trial.reaction_s is not None) == (trial.expected == "damp")


def test_trials_repeat(bundle, rig):
    kind = KINDS["joint_limit"]
    first = rig.trial(kind, "run", np.random.default_rng(7))
    again = VirtualRig("bench", bundle, BenchSource(bundle)).trial(kind, "run", np.random.default_rng(7))
    assert first.reaction_s == pytest.approx(again.reaction_s, abs=1e-6)
    assert first.moment == pytest.approx(again.moment, abs=1e-6)
    assert first.cause == again.cause


@pytest.mark.parametrize(
    ("name", "guards"),
    [
        ("state_dropped", {"state_age_s": 9.0, "camera_age_s": 9.0}),
        ("camera_black", {"camera_age_s": 9.0}),
        ("joint_limit", {"joint_pos_margin_rad": 9.0}),
        ("tilt", {"tilt_rad": 3.0}),
        ("operator_lost", {"operator_age_s": 9.0}),
        ("battery_low", {"battery_fraction": 0.001}),
    ],
)
def test_a_runtime_without_its_guard_fails(tmp_path, name, guards):
    weak = PolicyBundle.load(make_bundle(tmp_path / "policy", steps=6, guards=guards))
    rig = VirtualRig("bench", weak, BenchSource(weak))
    # Judged by what the documentation promises, not by the weakened thresholds.
    kind = dataclasses.replace(KINDS[name], threshold="", known_s=0.5)
    assert "no damping" in rig.trial(kind, "run", np.random.default_rng(1)).failures


def test_a_runtime_that_is_too_careful_fails(tmp_path):
    strict = PolicyBundle.load(make_bundle(tmp_path / "policy", steps=6, guards={"joint_ticks": 1}))
    rig = VirtualRig("bench", strict, BenchSource(strict))
    trial = rig.trial(KINDS["joint_spike"], "run", np.random.default_rng(1))
    assert any("expected to ride" in failure for failure in trial.failures)


# ---------------------------------------------------------------------------------------------------- the judge

DAMP = FaultKind("made_up", "", "state", words=("tilt",))
RIDE = dataclasses.replace(DAMP, run="ride")


def commands(damped_from, until=50, *, period_s=0.02):
    """Commands at 50 Hz from t = 0: stiff at the default pose, damping from step ``damped_from`` on."""
    rows = np.zeros((until, 37))
    rows[:, 0] = period_s * np.arange(until)
    rows[:, 1:13], rows[:, 13:25], rows[:, 25:] = DEFAULT_POSE, 20.0, 0.5
    rows[damped_from:, 1:13], rows[damped_from:, 13:25], rows[damped_from:, 25:] = 0.0, 0.0, 3.0
    return rows


def verdict(bundle, rows, kind=DAMP, **seen):
    seen = {"causes": ["tilt: over"], "runs": True, **seen}
    observed = Observed(start_s=0.39, end_s=rows[-1, 0], commands=rows, **seen)
    return judge(kind, "bench", "run", observed, bundle, GuardLimits(), moment=0.0, damping_kd=3.0)


def test_a_good_reaction_passes_and_is_timed(bundle):
    trial = verdict(bundle, commands(21))
    assert trial.failures == ()
    assert trial.reaction_s == pytest.approx(0.03)
    assert trial.longest_gap_s == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda rows: commands(50), "no damping"),
        (lambda rows: commands(23), "damped after 70 ms, allowed are 40 ms"),
        (lambda rows: np.delete(rows, slice(30, 34), axis=0), "damping was not sent for 100 ms"),
        (lambda rows: np.concatenate([rows, commands(50)[:5]]), "not latched"),
        (lambda rows: np.where(np.arange(37) == 4, np.nan, rows), "not finite"),
        (lambda rows: rows + np.where(np.arange(37) == 1, 2.0, 0.0), "beyond a joint limit"),
        (lambda rows: rows * np.where(np.arange(37) == 14, 1.5, 1.0), "a gain was 1.5 times"),
        (lambda rows: commands(5), "not on its feet"),
    ],
)
def test_the_judge_finds(bundle, change, expected):
    rows = commands(21)
    changed = change(rows)
    if expected == "not latched":
        changed[-5:, 0] = rows[-1, 0] + 0.02 * np.arange(1, 6)
    assert any(expected in failure for failure in verdict(bundle, changed).failures)


def test_the_judge_wants_the_cause_by_its_name(bundle):
    assert any(
        "expected tilt" in text for text in verdict(bundle, commands(21), causes=["battery: low"]).failures
    )
    assert any("names nothing" in text for text in verdict(bundle, commands(21), causes=[]).failures)


def test_the_judge_of_what_must_ride_through(bundle):
    assert verdict(bundle, commands(50), RIDE, causes=[]).failures == ()
    assert any("expected to ride" in text for text in verdict(bundle, commands(21), RIDE, causes=[]).failures)
    assert any(
        "does not run" in text for text in verdict(bundle, commands(50), RIDE, causes=[], runs=False).failures
    )
    assert any(
        "raised" in text
        for text in verdict(bundle, commands(50), RIDE, causes=[], exceptions=["x raised"]).failures
    )


# ---------------------------------------------------------------------------------------------------- the command


def faults(*arguments):
    command = [sys.executable, "-m", "gaussgym_deploy", "faults", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_the_command_prints_a_table_and_writes_json(bundle, tmp_path):
    done = faults(
        bundle.path,
        "--kinds",
        "tilt",
        "joint_spike",
        "--moments",
        3,
        "--jobs",
        1,
        "--json",
        tmp_path / "faults.json",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "faults.json")
    report = json.loads((tmp_path / "faults.json").read_text())
    assert report["trials"] == 6
    assert report["failed_trials"] == 0
    tilt, spike = report["rows"]
    assert 0 < tilt["reaction_ms"]["max"] <= tilt["allowed_ms"] == 40.0
    assert tilt["causes"] == {"tilt": 3}
    assert spike["reaction_ms"] is None
    assert report["worst_beyond_joint_limit_rad"] <= 0.5


def test_the_command_fails_when_a_row_does(tmp_path):
    weak = make_bundle(tmp_path / "policy", steps=6, guards={"tilt_rad": 3.0})
    done = faults(weak, "--kinds", "tilt", "--moments", 1, "--jobs", 1)
    assert done.returncode == 1
    assert "FAILED bench tilt: 1/1" in done.stdout


def test_bad_input_is_one_line(bundle):
    for arguments, expected in (
        (["--kinds", "tild"], "'tild' is unknown"),
        (["--links", "moon"], "no faults on a link 'moon'; there is: bench"),
        (["--links", "sim"], "needs --scene"),
        (["--moments", 0], "--moments is 0"),
    ):
        done = faults(bundle.path, *arguments)
        assert done.returncode == 2
        assert expected in done.stderr
        assert done.stderr.count("\n") == 1


# ---------------------------------------------------------------------------------------------------- in real time


@pytest.fixture(scope="module")
def live(bundle):
    rig = LiveRig("bench", bundle)
    yield rig
    rig.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals and /proc")
@pytest.mark.parametrize(
    "name", ["runtime_paused", "runtime_killed", "supervisor_killed", "runtime_busy_once"]
)
def test_processes_that_stop_or_die(live, name):
    trial = live.trial(KINDS[name], "run", np.random.default_rng(1))
    assert not [
        failure for failure in trial.failures if "ms, allowed" not in failure
    ]  # a busy machine may be late
    assert (trial.reaction_s is not None) == (trial.expected == "damp")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals and /proc")
@pytest.mark.parametrize(
    "kind", [kind for kind in TABLE if "dds-sim" in kind.links], ids=lambda kind: kind.name
)
def test_each_kind_over_dds(dds, kind):
    trial = dds.trial(kind, "run", np.random.default_rng(1))
    assert not [failure for failure in trial.failures if "ms, allowed" not in failure]


@pytest.fixture(scope="module")
def dds(bundle):
    pytest.importorskip("cyclonedds")
    from gaussgym_deploy.unitree.simulated import free_domain

    rig = LiveRig("dds-sim", bundle, domain=free_domain())
    yield rig
    rig.close()


def test_frames_on_a_wire_are_spoilt_as_named(bundle):
    frames = [bytes([number]) * 40 for number in range(30)]

    def sent(name):
        injection, history, out = Injection(KINDS[name], bundle), deque(), []
        for number, frame in enumerate(frames):
            history.append((0.002 * number, frame))
            injection.calls += 1
            out += WIRE_FAULTS[name](frame, 0.002 * number, injection, b"last", history)
        return out

    assert sent("state_dropped_once") == frames[10:]  # nothing for 20 ms
    assert sent("state_dropped") == []
    assert sent("state_repeated") == [b"last"] * 30
    assert sent("state_swapped_once") == [frames[1], frames[0], *frames[2:]]
    assert sent("out_of_order")[:12] == [frames[1], frames[0], *frames[2:10], frames[11], frames[10]]
    assert [frame in frames for frame in sent("crc_once")] == [False] + [True] * 29
    assert sum(frame not in frames for frame in sent("crc_often")) == 3
    assert not set(sent("crc_burst")) & set(frames)
    assert sent("state_lag_grows") == frames[:15]  # half as fast
    assert set(sent("state_stale")) == {frames[0]}  # 0.3 s ago there was nothing yet


def test_the_readme_lists_every_kind():
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    faults_section = text[text.index("## Faults") : text.index("## Limits")]
    assert [kind.name for kind in TABLE if f"`{kind.name}`" not in faults_section] == []
