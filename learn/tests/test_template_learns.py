"""`experiments/template` once more: its encoder, loss and recipe, found by entry point, train its robot on its task."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from gaussgym_learn import __main__ as main_module
from gaussgym_learn.checkpoint import load_checkpoint
from gaussgym_learn.encoders import ENCODERS
from gaussgym_learn.losses import LOSSES, LossInputs
from gaussgym_learn.metrics import read_curve
from gaussgym_learn.recipes import RECIPES
from gaussgym_scene import synthesize
from gaussgym_sim.robot import get_robot

torch.set_num_threads(1)
TEMPLATE = Path(__file__).parents[2] / "experiments" / "template"
pytestmark = pytest.mark.skipif(not TEMPLATE.exists(), reason="runs in the repository's checkout")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The template, installed into a folder of its own as a user would."""
    if find_spec("pip") is None or find_spec("hatchling") is None:
        pytest.skip("pip and hatchling are needed to install it")
    folder, source = tmp_path / "site", tmp_path / "template"
    shutil.copytree(TEMPLATE, source)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(folder), str(source)], check=True)
    monkeypatch.syspath_prepend(folder)
    get_robot.cache_clear()
    yield folder
    for name in [n for n in sys.modules if n.split(".")[0] == "pup_dash"]:
        del sys.modules[name]
    get_robot.cache_clear()


def test_a_package_from_outside_trains(installed, tmp_path, monkeypatch, capsys):
    assert "columns" in ENCODERS.names()
    assert "small_actions" in LOSSES.names()
    assert "dash_pixels" in RECIPES.names()
    humps = tmp_path / "humps"
    synthesize("humps", 1, max_splats=3000).save(humps)
    words = ["train", "dash_pixels", "--robot", "pup", "--scenes", humps, "--iterations", 2, "--output", tmp_path / "run",
             "--renderer", "cpu", "--set", "ppo.num_envs=4", "ppo.steps=6", "network.rnn_hidden=8", "ppo.mini_batches=1"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["gaussgym-learn", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main_module.main()
    assert end.value.code in (0, None), capsys.readouterr().err
    checkpoint = load_checkpoint(tmp_path / "run")
    assert (checkpoint.robot, checkpoint.fields["iteration"]) == ("pup", 2)
    assert checkpoint.fields["recipe"]["network"]["encoder"] == "columns"
    weight = checkpoint.state["actor_state_dict"]["encoder.head.0.weight"]
    assert tuple(weight.shape) == (64, 3 * 64)
    row = read_curve(tmp_path / "run")[-1]
    assert row["Loss/small_actions"] > 0
    assert row["Gradient/actor.encoder"] > 0


def test_its_loss_by_hand(installed):
    params = (torch.tensor([[0.5, -1.0], [2.0, 0.0]], requires_grad=True), torch.ones(2, 2))
    inputs = LossInputs(batch=None, actor=None, latent=torch.zeros(2, 1), params=params)
    loss = LOSSES.get("small_actions")(inputs)
    loss.backward()
    assert loss.item() == pytest.approx((0.25 + 1.0 + 4.0) / 4)
    assert params[0].grad.tolist() == [[0.25, -0.5], [1.0, 0.0]]
