"""Which cameras are due, on Warp's CPU device, against counting by hand."""

import math

import numpy as np
import pytest
from gaussgym_scene import InputError

wp = pytest.importorskip("warp")
wp.config.quiet = True

from gaussgym_render.cuda import clock  # noqa: E402
from gaussgym_render.cuda.clock import CameraClocks  # noqa: E402


def run(clocks, steps):
    """Which are due `[steps, C]`, and the numbers of their frames."""
    due, numbers = [], []
    for _ in range(steps):
        due.append(clocks.tick().numpy().copy())
        numbers.append(clocks.frame_ids.numpy().copy())
    return np.array(due), np.array(numbers)


def test_a_hand_computed_case():
    """70 ms at steps of 20 ms are 3.5 steps: frames at 0, 4, 7, 11, 14; the second camera starts at step 2, at each second."""
    due, numbers = run(CameraClocks([3.5, 2.0], 2, device="cpu", phase_steps=[0.0, 2.0]), 15)
    assert np.flatnonzero(due[:, 0]).tolist() == [0, 4, 7, 11, 14]
    assert np.flatnonzero(due[:, 1]).tolist() == [2, 4, 6, 8, 10, 12, 14]
    assert numbers[[0, 3, 4, 14], 0].tolist() == [0, 0, 1, 4]
    assert numbers[[0, 1, 2, 3, 4], 1].tolist() == [-1, -1, 0, 0, 1]


def test_every_frame_comes_in_the_first_step_at_or_after_its_time():
    rng = np.random.default_rng(0)
    period, phase = rng.uniform(1.0, 9.0, 50), rng.uniform(0.0, 20.0, 50)
    due, numbers = run(CameraClocks(period, 50, device="cpu", phase_steps=phase), 400)
    for c in range(50):
        times = [phase[c] + n * period[c] for n in range(500)]
        steps = [math.ceil(t - 1e-3) for t in times if math.ceil(t - 1e-3) < 400]
        assert np.flatnonzero(due[:, c]).tolist() == steps
        assert numbers[due[:, c], c].tolist() == list(range(len(steps)))


def test_single_precision_periods_do_not_drift():
    """0.1 s at steps of 0.02 s, in single precision: 5 steps, also after a million."""
    clocks = CameraClocks(np.float32(0.1) / np.float32(0.02), 1, device="cpu")
    clocks._steps.fill_(999_999)
    assert np.flatnonzero(run(clocks, 20)[0][:, 0]).tolist() == [0, 5, 10, 15]


def test_a_restart_is_due_at_once_and_counts_anew():
    clocks = CameraClocks(4.0, 3, device="cpu")
    run(clocks, 6)
    clocks.restart(wp.array([False, True, False], dtype=wp.bool, device="cpu"))
    due, numbers = run(clocks, 6)
    assert np.flatnonzero(due[:, 1]).tolist() == [0, 4]
    assert np.flatnonzero(due[:, 0]).tolist() == [2]
    assert numbers[:, 1].tolist() == [0, 0, 0, 0, 1, 1]


def test_cameras_that_nobody_watches_are_never_due():
    clocks = CameraClocks(1.0, 2, device="cpu")
    clocks.watched.assign(np.array([True, False]))
    assert run(clocks, 3)[0].all(0).tolist() == [True, False]
    assert not run(clocks, 3)[0][:, 1].any()


def test_bad_periods():
    with pytest.raises(InputError, match=r"period is 0\.5 steps, expected at least 1"):
        CameraClocks([2.0, 0.5], 2, device="cpu")


@pytest.mark.parametrize("arch", [80, 120, *(pytest.param(n, marks=pytest.mark.slow) for n in (86, 89, 90))])
def test_kernels_compile_for_gpus(arch, tmp_path):
    wp.compile_aot_module(clock.__name__, arch=arch, module_dir=tmp_path, use_ptx=True)
    text = next(tmp_path.glob("*.ptx")).read_text()
    assert f".target sm_{arch}" in text
    for kernel in (clock.find_due, clock.restart, clock.advance):
        assert f".entry {kernel.key}_" in text
