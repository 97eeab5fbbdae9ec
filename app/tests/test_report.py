"""Summary and page from a finished run folder."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from gaussgym import figures, summary
from gaussgym.demo import rewrite_report
from gaussgym.illustrate import illustrate
from gaussgym.report import evaluation_rows, timeline
from gaussgym.stages import RunState, StageRecord
from gaussgym.summary import Goal, collect, goals, lookup, wilson_interval
from gaussgym.testing import TINY_SUCCESS, write_tiny_run
from gaussgym_scene.errors import InputError

KEYS = {
    "seconds_total", "seconds_by_stage", "peak_rss_mb", "images_registered", "images_total", "seeds_tried",
    "psnr_db_heldout", "psnr_db_mean_image", "psnr_width_px", "scale_source", "gps_residual_median_m",
    "gps_residual_max_m", "max_step_m", "episodes", "sim2sim_episodes", "teacher_minutes_to_walk", "teacher_success",
    "student_success_before", "student_success", "student_success_stairs", "student_success_stairs_blank",
    "sim2sim_success", "golden_max_abs_error", "height_rmse_m", "gravity_error_deg", "scale_error",
}  # fmt: skip


@pytest.fixture
def layout(tmp_path):
    return write_tiny_run(tmp_path / "run")


def test_summary_has_exactly_its_keys_and_takes_values_from_the_results(layout):
    numbers = collect(layout, RunState.load(layout.root))
    assert set(numbers) == KEYS
    assert numbers["student_success"] == TINY_SUCCESS["student"]
    assert numbers["psnr_db_heldout"] == 26.4
    assert numbers["sim2sim_episodes"] == 64
    assert numbers["golden_max_abs_error"] == 2.4e-6
    # four stages of 75 s, one a minute, and 4 s between them
    assert numbers["seconds_total"] == 3 * 60 + 75 + 4
    assert numbers["seconds_by_stage"] == dict.fromkeys(("capture", "build", "teacher", "film"), 75)


def test_changed_result_changes_the_summary(layout):
    path = layout.result("sim2sim")
    path.write_text(json.dumps({**json.loads(path.read_text()), "success_rate": 0.5}))
    assert collect(layout, RunState.load(layout.root))["sim2sim_success"] == 0.5


def test_missing_required_number_is_named(layout):
    layout.result("check").unlink()
    with pytest.raises(InputError, match=r"check\.json: holds no golden_max_abs_error"):
        collect(layout, RunState.load(layout.root))


def test_damaged_result_is_named(layout):
    layout.result("student").write_text('{"success": 0.')
    with pytest.raises(InputError, match=r"student\.json: not valid JSON"):
        collect(layout, RunState.load(layout.root))


def test_optional_numbers_may_be_absent(layout):
    layout.result("truth").unlink()
    numbers = collect(layout, RunState.load(layout.root))
    assert numbers["height_rmse_m"] is None
    assert lookup({"a": {"b": float("nan")}}, "a.b") is None


class Page(HTMLParser):
    """Collects tags and what they point to."""

    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in {"meta", "img", "link", "br", "u"} or tag == "u":
            self.open.append(tag)
        self.links += [value for name, value in attributes if name in {"src", "href", "poster"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_self_contained(layout):
    path = rewrite_report(layout.root)
    text = path.read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    for link in page.links:
        assert link.startswith("data:image/") or (layout.root / link).exists(), link
    assert not re.search(r"https?://", text)
    assert json.loads(layout.summary.read_text())["student_success"] == TINY_SUCCESS["student"]
    for words in ("85.2&nbsp;%", "85.2 %"):
        if words in text:
            break
    else:
        raise AssertionError("the student's success is not on the page")
    assert "Nothing falls short" in text


def test_page_says_what_falls_short(layout):
    fields = json.loads(layout.result("student").read_text())
    layout.result("student").write_text(json.dumps({**fields, "success": 0.40625}))
    text = rewrite_report(layout.root).read_text()
    assert "What falls short" in text
    short = text.split('class="goals short"')[1].split('class="goals met"')[0]
    assert "student from pixels reaches its goal" in short
    assert "gain by fine-tuning" in short
    assert "sim2sim and evaluation differ" in short
    assert "gravity" not in short


def test_unfinished_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no state"):
        rewrite_report(tmp_path)


def test_page_escapes_what_it_shows(layout):
    path = layout.figures / "figures.json"
    fields = json.loads(path.read_text())
    fields["pairs"][0]["name"] = "<script>alert(1)</script>"
    path.write_text(json.dumps(fields))
    assert "<script>" not in rewrite_report(layout.root).read_text()


def test_evaluation_rows_have_intervals(layout):
    rows = {(row["policy"], row["scene"]): row for row in evaluation_rows(layout)}
    row = rows["student, fine-tuned here", "this place"]
    assert row["low"] < row["success"] < row["high"]
    assert len(rows) == len(TINY_SUCCESS) + 1


def test_student_that_tuning_made_worse_says_so(layout):
    fields = json.loads(layout.result("student").read_text())
    changed = {**fields, "delivered": "before", "success_tuned": 0.5}
    layout.result("student").write_text(json.dumps(changed))
    assert "tuning made it worse (50.0 %)" in rewrite_report(layout.root).read_text()


def test_wilson_interval_of_a_known_example():
    # Newcombe (1998), table I: 81 of 263 → 0.2553 to 0.3662; 0 of 20 → 0 to 0.1611
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(0.0, 0) == (0.0, 1.0)


def test_goals_judge_at_their_limits():
    goal = Goal("x", "3", lambda numbers: numbers.get("x"), most=3)
    assert [goal.verdict({"x": value})[0] for value in (3, 3.01, None)] == ["met", "short", "unmeasured"]
    blank = next(goal for goal in goals(synthetic=True) if "blank" in goal.what)
    enough = {"student_success_stairs": 0.75, "student_success_stairs_blank": 0.65}
    assert blank.verdict(enough)[0] == "met"
    assert blank.verdict({**enough, "student_success_stairs_blank": 0.66})[0] == "short"


def test_timeline_leaves_out_the_pause_between_two_runs():
    state = RunState.__new__(RunState)
    state.stages = {}
    for name, begin, seconds in (("a", 0, 10), ("b", 5, 10), ("c", 1000, 5)):
        state.stages[name] = StageRecord(
            title=name, key="", code="", outputs={}, seconds=seconds, cpu_seconds=0, peak_rss_mb=0,
            started_s=begin, ended_s=begin + seconds,
        )  # fmt: skip
    bars = {bar["name"]: (bar["left"], bar["width"]) for bar in timeline(state)}
    assert bars["a"] == pytest.approx((0, 50))
    assert bars["b"] == pytest.approx((25, 50))
    assert bars["c"] == pytest.approx((75, 25))


def test_curve_of_a_killed_run_is_read_up_to_its_last_whole_line(tmp_path):
    (tmp_path / "curve.jsonl").write_text(
        '{"minutes": 0.1, "a": 1.0}\n{"minutes": 0.2, "a": null}\n{"minutes": 0.'
    )
    curve = figures.read_curve(tmp_path)
    assert curve["minutes"].tolist() == [0.1, 0.2]
    assert np.isnan(curve["a"][1])
    (tmp_path / "curve.jsonl").write_text('{"minutes": 0.\n{"minutes": 0.2}\n')
    with pytest.raises(InputError, match="line 1 is not JSON"):
        figures.read_curve(tmp_path)


def test_smoothing_keeps_a_constant_and_skips_gaps():
    values = np.full(200, 3.0)
    values[50] = np.nan
    assert figures.smoothed(values) == pytest.approx(np.full(200, 3.0))


def test_summary_is_strict_json(layout):
    numbers = collect(layout, RunState.load(layout.root))
    path = summary.write(layout, {**numbers, "psnr_db_heldout": float("inf")})
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["psnr_db_heldout"] is None


def test_illustrations_of_a_real_scene(layout):
    from gaussgym_scene.synth import synthesize

    synthesize("flat", max_splats=2000).save(layout.scene)
    position = np.zeros((2, 5, 3))
    np.savez(layout.films / "place" / "trajectories.npz", position_w=position)
    layout.pixels.mkdir(parents=True)
    rows = [json.dumps({"minutes": 0.1 * i, "Train/mean_reward": i}) for i in range(20)]
    (layout.pixels / "curve.jsonl").write_text("\n".join(rows))
    fields = json.loads(illustrate(layout).read_text())
    assert {"terrain.png", "curves.png"} <= set(fields["files"])
