"""Blur and rolling shutter of films whose blur and shutter are known."""

import cv2
import numpy as np
import pytest
from gaussgym_recon.sources.video_motion import (
    FilmMotion,
    band_motions,
    burst_starts_s,
    edge_blur_px,
    readout_of,
)
from scipy.ndimage import gaussian_filter, map_coordinates


def texture(seed=0, size=(220, 900)):
    rng = np.random.default_rng(seed)
    sum_of = sum(gaussian_filter(rng.normal(size=size), s) * s for s in (1.5, 4.0, 9.0))
    return np.clip(128 + 50 * sum_of / sum_of.std(), 0, 255)


def film(readout, *, frames=60, parallax=0.0, seed=0):
    """A camera that swings over a wall, each row exposed a little later than the one above; parallax moves lower rows more."""
    wall = texture(seed)
    rng = np.random.default_rng(seed)
    phase, hertz = rng.uniform(0, 6, 3), np.array([0.06, 0.11, 0.17])

    def x(t):
        return 300 + 40 * np.sin(hertz[0] * 6 * t + phase[0]) + 10 * np.sin(hertz[1] * 6 * t + phase[1])

    rows, columns = np.mgrid[:120, :240].astype(float)
    out = []
    for index in range(frames):
        t = index + readout * (rows / 120)
        at = x(t) * (1 + parallax * (rows / 120 - 0.5))
        out.append(map_coordinates(wall, [rows + 40, columns + at], order=1))
    return np.rint(out).astype(np.uint8)


@pytest.mark.parametrize("readout", [0.3, 0.7])
@pytest.mark.parametrize("parallax", [0.0, 0.2])
def test_the_readout_of_a_rolling_shutter_is_measured(readout, parallax):
    bursts = [band_motions(film(readout, parallax=parallax, seed=seed)) for seed in range(2)]
    found = readout_of(bursts)
    assert found is not None
    assert found[0] == pytest.approx(readout, abs=max(0.08, 4 * found[1]))
    assert found[1] < 0.1


@pytest.mark.parametrize("parallax", [0.0, 0.2])
def test_a_global_shutter_has_none(parallax):
    assert readout_of([band_motions(film(0.0, parallax=parallax, seed=seed)) for seed in range(3)]) is None


def test_runs_of_frames_share_none():
    # Overlapping runs had counted the same frames several times and found a shutter where there was none.
    for seconds, rate in ((15.0, 3.0), (2.0, 30.0), (60.0, 30.0), (0.5, 30.0)):
        starts = burst_starts_s(seconds, rate)
        assert 1 <= len(starts) <= 12
        assert (np.diff(starts) >= 24 / rate - 1e-9).all()


def test_large_motions_are_left_out():
    steady = band_motions(film(0.5))
    assert readout_of([steady], largest_px=1e-3) is None


def test_a_still_camera_tells_nothing():
    still = np.repeat(film(0.5, frames=1), 40, axis=0)
    assert readout_of([band_motions(still)]) is None
    assert readout_of([]) is None
    assert readout_of([band_motions(still[:1])]) is None


@pytest.mark.parametrize("blur", [1.0, 2.0, 4.0])
def test_blur_of_edges_is_measured(blur):
    step = np.zeros((200, 200), np.float32)
    step[:, 60:120] = 200
    step[90:, 120:] = 150
    found = edge_blur_px(cv2.GaussianBlur(step, (0, 0), blur))
    assert found == pytest.approx(blur, rel=0.15)


def test_an_image_without_edges_has_no_blur():
    assert edge_blur_px(np.full((50, 50), 90, np.float32)) is None


def test_warnings_name_numbers():
    fine = FilmMotion(blur_px=0.8, motion_px=5, readout_fraction=None, readout_std=None, skew_px=None)
    assert fine.warnings(640) == []
    bad = FilmMotion(blur_px=2.4, motion_px=12, readout_fraction=0.6, readout_std=0.02, skew_px=7.2)
    blur, shutter = bad.warnings(640)
    assert "2.4 px" in blur
    assert "7.2 px" in shutter
    assert "0.60 +- 0.02" in shutter
