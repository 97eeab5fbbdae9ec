"""Schedules: values by hand, and text that is not one."""

import pytest
from gaussgym_learn.schedules import Schedule
from gaussgym_scene.errors import InputError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.5", {0.0: 0.5, 0.3: 0.5, 1.0: 0.5}),
        (2, {0.0: 2.0, 1.0: 2.0}),
        ("1->0@0.15", {0.0: 1.0, 0.075: 0.5, 0.15: 0.0, 0.5: 0.0, 1.0: 0.0}),
        ("0->1@0.5..0.75", {0.0: 0.0, 0.5: 0.0, 0.5625: 0.25, 0.75: 1.0, 1.0: 1.0}),
        ("0, 1@0.6, 0.5@0.8", {0.0: 0.0, 0.59: 0.0, 0.6: 1.0, 0.79: 1.0, 0.8: 0.5, 1.0: 0.5}),
        ("1, 1->0.2@0.4..0.8", {0.0: 1.0, 0.4: 1.0, 0.6: 0.6, 0.8: 0.2, 1.0: 0.2}),
        ("1e-1->.3@1", {0.0: 0.1, 0.5: 0.2, 1.0: 0.3}),
        ("0, 2->4@0.5..1", {0.25: 0.0, 0.5: 2.0, 0.75: 3.0}),
        ("1->0@0", {0.0: 0.0, 1.0: 0.0}),
    ],
)
def test_values(text, values):
    schedule = Schedule.parse(text)
    for progress, value in values.items():
        assert schedule.value(progress) == pytest.approx(value), progress


@pytest.mark.parametrize(
    "text",
    [
        "",
        "half",
        "1->0",
        "1@0.5",
        "0, 1",
        "0, 1@0.8, 2@0.5",
        "0, 1@1.5",
        "1->0@0.7..0.2",
        "1->0@",
        "0; 1@0.5",
    ],
)
def test_what_is_no_schedule_is_refused_in_one_line(text):
    with pytest.raises(InputError, match="schedule") as caught:
        Schedule.parse(text)
    assert "\n" not in str(caught.value)


def test_highest():
    assert Schedule.parse("0, 1@0.6, 0.5@0.8").highest == 1.0
    assert Schedule.parse("0").highest == 0.0
