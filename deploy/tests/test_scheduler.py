"""The scheduler on a clock that obeys."""

import subprocess
import sys

import numpy as np
import pytest
from gaussgym_deploy.scheduler import JITTER_EDGES_US, FixedRate, Samples
from gaussgym_deploy.testing import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


def test_wake_ups_do_not_drift_whatever_a_step_takes(clock):
    rate = FixedRate(0.02, clock=clock, sleep=clock.sleep)
    woken = []
    for step in range(100):
        rate.wait()
        woken.append(clock())
        clock.now_s += 0.001 * (step % 19)  # the step's own work, up to 18 ms
    np.testing.assert_allclose(np.diff(woken), 0.02, atol=1e-9)
    assert rate.misses == 0


def test_jitter_goes_into_the_right_bin(clock):
    rate = FixedRate(0.02, clock=clock, sleep=clock.sleep)
    rate.wait()
    for oversleep_s in (30e-6, 70e-6, 1500e-6, 1600e-6):
        clock.oversleep_s = oversleep_s
        rate.wait()
    edges = list(JITTER_EDGES_US)
    expected = np.zeros(len(edges))
    expected[edges.index(0)], expected[edges.index(50)], expected[edges.index(1000)] = 1, 1, 2
    np.testing.assert_array_equal(rate.lateness_counts, expected)
    assert rate.worst_lateness_s == pytest.approx(1.6e-3)


def test_missed_periods_are_counted_and_never_made_up_for(clock):
    rate = FixedRate(0.02, clock=clock, sleep=clock.sleep)
    first_s = clock()
    rate.wait()
    clock.now_s += 0.075  # misses the wake-ups at 20, 40 and 60 ms
    assert rate.wait() == pytest.approx(0.015)
    assert rate.misses == rate.misses_in_a_row == 3
    rate.wait()
    assert clock() - first_s == pytest.approx(0.08)
    assert rate.misses_in_a_row == 0


def test_samples_keep_the_newest_and_never_grow():
    samples = Samples(4)
    assert samples.summary() == {}
    for value in range(10):
        samples.add(value)
    assert (samples.count, samples.newest, sorted(samples.values)) == (10, 9, [6, 7, 8, 9])
    assert samples.summary(10.0) == pytest.approx({"p50": 75.0, "p99": 89.7, "max": 90.0})


def test_real_time_scheduling_is_this_threads_alone():
    """Run in a process of its own: the test must not stay prompt."""
    code = (
        "import subprocess, sys\n"
        "from gaussgym_deploy.scheduler import be_prompt, is_prompt\n"
        "assert not is_prompt()\n"
        "agreed = be_prompt(10)\n"
        "assert is_prompt() == agreed\n"
        "child = 'from gaussgym_deploy.scheduler import is_prompt; print(is_prompt())'\n"
        "print(subprocess.run([sys.executable, '-c', child], capture_output=True, text=True).stdout)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
