"""Sweeps: what is measured, what is kept, and the range that comes out, from points made by hand."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
from gaussgym_deploy.bundle import BundleError, PolicyBundle
from gaussgym_deploy.commands.envelope import table
from gaussgym_deploy.envelope import EnvelopeCfg, Sweep, envelope_of, measure_envelope, parse_sweeps
from gaussgym_deploy.envelope.plot import envelope_svg
from gaussgym_deploy.metrics import wilson_interval
from gaussgym_deploy.testing import make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return PolicyBundle.load(make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=6))


@pytest.fixture
def scene(tmp_path):
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "scene.json").write_text("{}")
    return tmp_path / "scene"


def point(parameter, value, successes, episodes=100):
    return {
        "parameter": parameter,
        "value": value,
        "episodes": episodes,
        "success": successes / episodes,
        "success_wilson95": list(wilson_interval(successes, episodes)),
    }


def test_the_range_is_contiguous_around_nominal_and_ends_where_success_drops():
    points = [point("nominal", 0.0, 95)] + [
        point("friction", value, n) for value, n in ((0.2, 90), (0.4, 60), (0.6, 86), (1.5, 85), (2.0, 84))
    ]
    found = envelope_of(points, "friction", 1.0)
    # 85 % is just enough; 0.2 works again but lies beyond a value that does not.
    assert found["works"] == [0.6, 1.5]
    assert found["open"] == [False, False]
    # Of 100 with 86 successes the interval is 0.779 ... 0.915: it may be below 85 %, and 84 of 100 may be above.
    assert found["surely"] == [1.0, 1.0]
    assert found["possibly"] == [0.6, 2.0]


def test_a_sweep_that_ends_before_the_policy_fails_is_open():
    points = [point("nominal", 0.0, 99), point("noise", 1.0, 97), point("noise", 2.0, 95)]
    assert envelope_of(points, "noise", 0.0)["works"] == [0.0, 2.0]
    assert envelope_of(points, "noise", 0.0)["open"] == [True, True]


def test_too_few_episodes_prove_nothing():
    points = [point("nominal", 0.0, 4, 4), point("noise", 1.0, 4, 4)]
    assert envelope_of(points, "noise", 0.0)["surely"] is None


def measure(counts, seen):
    def one(task):
        seen.append((task.parameter, task.value))
        return point(task.parameter, task.value, counts.get((task.parameter, task.value), 100))

    return one


CFG = EnvelopeCfg((Sweep("noise", (0.0, 1.0, 2.0)), Sweep("camera_hz", (5.0, 10.0))), episodes=100)


def test_points_are_measured_once_and_a_stopped_run_goes_on(bundle, scene, tmp_path):
    path, seen, told = tmp_path / "out" / "envelope.json", [], []

    def stops_at_the_third(task):
        if len(seen) == 2:
            raise KeyboardInterrupt
        return measure({}, seen)(task)

    with pytest.raises(KeyboardInterrupt):
        measure_envelope(bundle, scene, path, CFG, measure=stops_at_the_third)
    assert seen == [("nominal", 0.0), ("noise", 1.0)]
    report = measure_envelope(
        bundle, scene, path, CFG, measure=measure({("noise", 2.0): 50}, seen),
        progress=lambda so_far, total: told.append((len(so_far["points"]), total)),
    )  # fmt: skip
    # The nominal values, noise 0 and the bundle's 10 frames a second, are the nominal point and not measured again.
    assert seen == [("nominal", 0.0), ("noise", 1.0), ("noise", 2.0), ("camera_hz", 5.0)]
    assert told == [(2, 4), (3, 4), (4, 4)]
    assert report["envelope"]["noise"]["works"] == [0.0, 1.0]
    assert report["envelope"]["camera_hz"]["works"] == [5.0, 10.0]
    assert json.loads(path.read_text()) == report
    assert "noise" in table(report)
    assert "0 ... 1" in table(report)


def test_points_of_another_run_are_refused(bundle, scene, tmp_path):
    path = tmp_path / "envelope.json"
    measure_envelope(bundle, scene, path, CFG, measure=measure({}, []))
    with pytest.raises(BundleError, match="another episodes"):
        measure_envelope(bundle, scene, path, EnvelopeCfg(CFG.sweeps, episodes=7), measure=measure({}, []))
    (scene / "scene.json").write_text("{ }")
    with pytest.raises(BundleError, match="another scene_sha256"):
        measure_envelope(bundle, scene, path, CFG, measure=measure({}, []))
    path.write_text("[")
    with pytest.raises(BundleError, match="not valid JSON"):
        measure_envelope(bundle, scene, path, CFG, measure=measure({}, []))


def test_the_plot_is_a_picture_with_a_panel_for_every_sweep(bundle, scene, tmp_path):
    report = measure_envelope(
        bundle, scene, tmp_path / "e.json", CFG, measure=measure({("noise", 2.0): 40}, [])
    )
    root = ElementTree.fromstring(envelope_svg(report, "a < b & c"))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}g")) == 2
    circles = root.find(f"{space}g").findall(f"{space}circle")
    assert len(circles) == 3
    heights = [float(circle.get("cy")) for circle in circles]
    assert heights[0] == heights[1] < heights[2]


@pytest.mark.parametrize("word", ["noise", "colour=1", "noise=a", "noise=-1"])
def test_sweeps_that_make_no_sense(word):
    with pytest.raises(BundleError):
        parse_sweeps([word])


def test_sweeps_from_words():
    assert parse_sweeps(["state-latency-ms=0,20"]) == (Sweep("state_latency_ms", (0.0, 20.0)),)
    assert len(parse_sweeps([])) == 8
    with pytest.raises(BundleError, match="same quantity"):
        parse_sweeps(["noise=1", "noise=2"])
