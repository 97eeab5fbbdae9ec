"""The committed students of `experiments/semantic`: who sees colour goes around patches, who sees depth does not."""

import importlib
from pathlib import Path

import pytest
import torch
from gaussgym_learn.evaluate import evaluate
from gaussgym_scene.synth import synthesize

FOLDER = Path(__file__).parents[2] / "experiments" / "semantic"
POLICIES = FOLDER.parent / "results" / "goal_semantic" / "policies"
torch.set_num_threads(1)


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="experiments are not there")
def test_colour_avoids_patches_and_depth_does_not(monkeypatch):
    """64 starts in a street of another seed than any used so far; the path's own commands lead through patches for 5 s."""
    monkeypatch.syspath_prepend(FOLDER)
    semantic = importlib.import_module("semantic")
    street = synthesize("street", 200, max_splats=semantic.SPLATS)
    patch_s = {}
    for kind in ("rgb", "depth"):
        found = evaluate(POLICIES / f"{kind}_0", street, task=semantic.TASK, episodes=64)
        assert found["success"] >= 0.9
        patch_s[kind] = found["patch_s_ci95"]
    assert patch_s["rgb"][1] < 0.5 * patch_s["depth"][0]
