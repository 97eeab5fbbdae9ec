"""Intervals and summaries against what can be computed by hand."""

import numpy as np
import pytest
from gaussgym_deploy.metrics import summarize, table_of_rows, wilson_interval


def test_wilson_by_hand():
    # 8 of 10, z = 1.96: centre (0.8 + 0.19208) / 1.38416, half 1.96 sqrt(0.016 + 0.009604) / 1.38416.
    assert wilson_interval(8, 10, z=1.96) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_wilson_covers_as_promised():
    rng = np.random.default_rng(0)
    for share in (0.5, 0.9, 0.98):
        successes = rng.binomial(64, share, 4000)
        intervals = [wilson_interval(int(n), 64) for n in successes]
        covered = np.mean([low <= share <= high for low, high in intervals])
        assert covered == pytest.approx(0.95, abs=0.035)


def test_summary_of_rows_by_hand():
    rows = [
        {"start_index": 0, "success": 1.0, "fell": 0.0, "seconds": 10.0, "path_m": 9.0, "moved": [1, 2]},
        {"start_index": 1, "success": 0.0, "fell": 1.0, "seconds": 2.0, "path_m": 1.0, "moved": [1, 2]},
    ]
    out = summarize(table_of_rows(rows), ["street"])
    assert (out["success"], out["fell"], out["timeout"], out["seconds_mean"]) == (0.5, 0.5, 0.0, 6.0)
    assert out["falls_per_km"] == pytest.approx(100.0)
    assert out["per_scene"] == {"street": {"success": 0.5, "fell": 0.5}}
    assert "moved" not in out
    assert "start_index" not in out
