"""Runs with every encoder: trained a little in the simulator, evaluated, exported, and checked as the robot would."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from gaussgym_learn.acting import load_policy
from gaussgym_learn.checkpoint import load_checkpoint
from gaussgym_learn.encoders import build_encoder
from gaussgym_learn.evaluate import evaluate
from gaussgym_learn.export import export_policy
from gaussgym_learn.photometric import PhotometricCfg
from gaussgym_learn.recipes import NetworkCfg, PPOCfg, Recipe, with_images
from gaussgym_learn.train import train
from gaussgym_scene import synthesize
from gaussgym_scene.errors import InputError
from gaussgym_sim.env import EnvCfg

NETWORK = NetworkCfg(
    actor_groups=("proprio", "rgb"),
    critic_groups=("proprio", "base_vel", "scan"),
    actor_hidden=(16,),
    critic_hidden=(16,),
    rnn_hidden=16,
    feature_dim=16,
    aux_group="scan",
)
PPO = PPOCfg(num_envs=4, steps=6, mini_batches=2, epochs=1)


def test_the_camera_gives_what_the_networks_read():
    env = EnvCfg()
    assert with_images(env, ("proprio", "scan")) is env
    assert with_images(env, ("proprio", "depth", "scan")).camera.images == ("depth",)
    recipe = Recipe(
        "r", network=NetworkCfg(actor_groups=("proprio", "depth"), critic_groups=("proprio", "rgb"))
    )
    assert recipe.env_cfg().camera.images == ("depth", "rgb")
    assert recipe.env.camera.images == ("rgb",)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene") / "flat"
    synthesize("flat", seed=0, max_splats=3000).save(folder)
    return folder


def run(network, scene, out, iterations=1, **options):
    recipe = Recipe("tiny", network=network, ppo=PPO)
    train(recipe, scene, out, iterations=iterations, renderer="cpu", **options)
    return load_checkpoint(out)


@pytest.mark.slow
@pytest.mark.parametrize("images", [("depth",), ("rgb", "depth")])
def test_depth_trains_and_is_evaluated_but_not_exported(images, scene, tmp_path):
    network = replace(
        NETWORK,
        actor_groups=("proprio", *images),
        aux_kind="voxels",
        rnn_layers=2,
        photometric=PhotometricCfg(),
    )
    before = run(network, scene, tmp_path / "run").state["actor_state_dict"]
    after = run(network, scene, tmp_path / "run", iterations=2, resume=True).state["actor_state_dict"]
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not torch.equal(after["encoder.net.0.0.weight"], before["encoder.net.0.0.weight"])
    result = evaluate(tmp_path / "run", [scene], episodes=2, task="velocity", renderer="cpu")
    assert len(result["per_episode"]["success"]) == 2
    with pytest.raises(InputError, match="reads depth"):
        export_policy(tmp_path / "run", tmp_path / "bundle", scene, renderer="cpu")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "rnn_type"), [("small_cnn", "lstm"), ("resnet18", "gru"), ("dinov2_vits14", "lstm")]
)
def test_every_encoder_becomes_a_bundle_that_passes_its_check(encoder, rnn_type, scene, tmp_path):
    torch.manual_seed(0)
    weights = build_encoder(encoder, (3, 48, 64), 16)
    published = getattr(weights, "backbone", weights).state_dict()
    torch.save(published, tmp_path / "weights.pth")
    network = replace(
        NETWORK,
        encoder=encoder,
        encoder_weights=str(tmp_path / "weights.pth"),
        encoder_freeze=True,
        rnn_type=rnn_type,
    )
    trained = run(network, scene, tmp_path / "run")
    prefix = "encoder." if encoder == "small_cnn" else "encoder.backbone."
    state = trained.state["actor_state_dict"]
    assert all(torch.equal(state[prefix + name], value) for name, value in published.items())
    (tmp_path / "weights.pth").unlink()  # a checkpoint holds them
    assert load_policy(tmp_path / "run").sees
    run(network, scene, tmp_path / "run", iterations=2, resume=True)
    export_policy(tmp_path / "run", tmp_path / "bundle", scene, renderer="cpu", steps=40)
    command = ["-m", "gaussgym_deploy", "check", tmp_path / "bundle", "--json", tmp_path / "check.json"]
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False)
    report = json.loads((tmp_path / "check.json").read_text())
    assert report["golden_max_abs_error"] <= 1e-5
    assert done.returncode == 0 or encoder != "small_cnn", (
        done.stderr
    )  # large ones may be too slow for 50 Hz here
