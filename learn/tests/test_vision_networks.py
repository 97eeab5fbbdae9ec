"""Depth and RGB-D policies, LSTMs, decoders and colours in the vision model; its settings in manifests; its ONNX graphs."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from gaussgym_learn.encoders import ENCODERS, DinoV2Encoder
from gaussgym_learn.export import policy_graphs, require_deployable
from gaussgym_learn.models import build_actor, images_of, load_actor_weights, sample_observations
from gaussgym_learn.photometric import PhotometricCfg
from gaussgym_learn.recipes import NetworkCfg, network_from_dict
from gaussgym_learn.recurrence import zero_state
from gaussgym_scene.errors import InputError
from gaussgym_sim.robot import get_robot
from tensordict import TensorDict

LAYOUT = {"proprio": [9], "scan": [63], "rgb": [3, 48, 64], "depth": [1, 48, 64], "rgb_new": [1]}
POLICIES = Path(__file__).parents[1] / "src/gaussgym_learn/policies"


def network(*images, **settings):
    groups = ("proprio", *(images or ("rgb",)))
    return NetworkCfg(actor_groups=groups, actor_hidden=(16,), rnn_hidden=12, feature_dim=8, **settings)


def actor(cfg, seed=0):
    torch.manual_seed(seed)
    return build_actor(cfg, LAYOUT, 4)


def observations(envs, seed=0, new=True):
    g = torch.Generator().manual_seed(seed)
    return TensorDict(
        {
            "proprio": torch.randn(envs, 9, generator=g),
            "rgb": torch.randint(0, 256, (envs, 3, 48, 64), generator=g, dtype=torch.uint8),
            "depth": torch.randint(0, 256, (envs, 1, 48, 64), generator=g, dtype=torch.uint8),
            "rgb_new": torch.full((envs, 1), int(new), dtype=torch.uint8),
        },
        batch_size=[envs],
    )


# --- image groups -----------------------------------------------------------------------------------------------------


def test_image_groups_are_stacked_in_the_actors_order():
    obs = observations(2)
    both = images_of(obs, ("proprio", "depth", "rgb"))
    assert both.dtype == torch.uint8
    assert torch.equal(both, torch.cat([obs["depth"], obs["rgb"]], dim=1))
    assert images_of(obs, ("proprio", "rgb")) is obs["rgb"]
    assert actor(network("depth", "rgb")).image_shape == (4, 48, 64)


@pytest.mark.parametrize("images", [("depth",), ("rgb", "depth")])
def test_every_image_matters_and_held_frames_are_not_encoded_again(images):
    model = actor(network(*images)).eval()
    obs = observations(3)
    with torch.no_grad():
        first = model.encode(obs)
        for group in images:
            other = obs.clone()
            other[group] = 255 - other[group]
            changed = model.encode(other)
            assert (changed - first).abs().amax(1).min() > 1e-4
            assert torch.equal(model.encode(obs), first)
        held = observations(3, seed=1, new=False)
        held["rgb_new"][1] = 1
        again = model.encode(held)
    assert torch.equal(again[[0, 2]], first[[0, 2]])
    assert not torch.allclose(again[1], first[1])


def test_images_of_several_sizes_and_none_are_refused():
    layout = {**LAYOUT, "depth": [1, 24, 32]}
    with pytest.raises(InputError, match=r"images of one size expected, found .*'depth': \(1, 24, 32\)"):
        build_actor(network("rgb", "depth"), layout, 4)


# --- recurrent networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{"rnn_type": "lstm"}, {"rnn_type": "lstm", "rnn_layers": 2}, {"rnn_layers": 2}]
)
def test_unrolling_gives_what_stepping_gives(settings):
    model = actor(network("rgb", "depth", **settings)).eval()
    steps, envs = 7, 3
    rollout = [observations(envs, seed=t) for t in range(steps)]
    starts = torch.rand(steps, envs, generator=torch.Generator().manual_seed(3)) < 0.3
    stepped = []
    with torch.no_grad():
        for obs, start in zip(rollout, starts, strict=True):
            model.reset(start)
            stepped.append(model.get_latent(obs))
        frames = torch.cat([images_of(obs, model.image_groups) for obs in rollout])
        index = torch.arange(steps * envs).view(steps, envs)
        proprio = torch.stack([obs["proprio"] for obs in rollout])
        latent, end = model.unroll(proprio, frames, index, starts, zero_state(model.rnn.rnn, envs))
    assert torch.allclose(latent, torch.stack(stepped), atol=1e-5)
    ends, own = (x if isinstance(x, tuple) else (x,) for x in (end, model.get_hidden_state()))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ends, own, strict=True))


def test_unknown_recurrent_network_is_refused():
    with pytest.raises(InputError, match="unknown rnn_type 'rnn'; choose one of: gru, lstm"):
        actor(network(rnn_type="rnn"))


# --- decoders and colours ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vector", "height_map", "voxels"])
def test_auxiliary_loss_reaches_the_encoder_and_predictions_are_heights(kind):
    model = actor(network(aux_group="scan", aux_kind=kind))
    frames = images_of(observations(4), ("rgb",))
    args = (torch.randn(2, 2, 9), frames, torch.arange(4).view(2, 2), torch.zeros(2, 2, dtype=torch.bool))
    latent, _ = model.unroll(*args, zero_state(model.rnn.rnn, 2))
    assert model.predict_aux(latent).shape == (2, 2, 63)
    model.aux_loss(latent, torch.randn(2, 2, 63)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.encoder.parameters())


@pytest.mark.parametrize(("encoder", "kind"), [("small_cnn", "vector"), ("resnet18", "voxels")])
def test_bfloat16_autocast_runs_whole_and_stays_near(encoder, kind):
    model = actor(network("rgb", "depth", encoder=encoder, rnn_type="lstm", aux_group="scan", aux_kind=kind))
    frames = images_of(observations(4), model.image_groups)
    starts = torch.tensor([[False, False], [True, False], [False, False]])
    args = (torch.randn(3, 2, 9), frames, torch.tensor([[0, 1], [2, 1], [2, 3]]), starts)
    target, losses = torch.randn(3, 2, 63), []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            latent, _ = model.unroll(*args, zero_state(model.rnn.rnn, 2))
            losses.append(model.aux_loss(latent, target))
    losses[1].backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=0.02)
    assert all(torch.isfinite(p.grad).all() for p in model.encoder.parameters())


def test_a_vector_decoder_is_the_old_head():
    assert {k for k in actor(network(aux_group="scan")).state_dict() if k.startswith("aux_")} == {
        f"aux_head.{n}.{p}" for n in (0, 2) for p in ("weight", "bias")
    }


def test_colours_change_in_updates_alone_and_depth_never():
    cfg = network("rgb", "depth", photometric=PhotometricCfg(probability=1.0))
    model = actor(cfg)
    seen = []
    model.encoder.register_forward_hook(lambda _m, args, _o: seen.append(args[0].detach()))
    obs = observations(4)
    frames = images_of(obs, model.image_groups)
    args = (obs["proprio"][None], frames, torch.arange(4)[None], torch.zeros(1, 4, dtype=torch.bool))
    for _ in range(2):
        torch.manual_seed(7)
        model.unroll(*args, zero_state(model.rnn.rnn, 4))
    with torch.no_grad():
        model.unroll(*args, zero_state(model.rnn.rnn, 4))
        model(obs)
    model.eval().unroll(*args, zero_state(model.rnn.rnn, 4))
    changed, again, *others = seen
    assert torch.equal(changed, again)
    assert torch.equal(changed[:, 3:], frames[:, 3:] / 255.0)
    assert ((changed[:, :3] - frames[:, :3] / 255.0).abs().amax((1, 2, 3)) > 0.02).all()
    assert len(others) == 3
    assert all(torch.equal(x, frames) for x in others)


# --- settings in manifests --------------------------------------------------------------------------------------------


def test_settings_survive_a_manifest():
    cfg = network("rgb", encoder="resnet18", encoder_freeze=True, rnn_type="lstm", aux_group="scan", aux_kind="voxels",
                  photometric=PhotometricCfg(hue=0.1))  # fmt: skip
    assert network_from_dict(json.loads(json.dumps(asdict(cfg)))) == cfg


@pytest.mark.parametrize("name", ["student", "stairs_teacher"])
def test_shipped_manifests_mean_what_they_meant(name):
    fields = json.loads((POLICIES / name / "checkpoint.json").read_text())
    cfg = network_from_dict(fields["recipe"]["network"])
    assert (cfg.encoder, cfg.encoder_weights, cfg.rnn_type, cfg.rnn_layers) == ("small_cnn", "none", "gru", 1)
    assert (cfg.aux_kind, cfg.photometric) == ("vector", None)
    model = build_actor(cfg, fields["observations"], fields["num_actions"])
    state = torch.load(POLICIES / name / fields["model"], weights_only=True)
    load_actor_weights(model, state["actor_state_dict"])  # all names, all shapes


def test_settings_of_a_later_version_are_refused():
    with pytest.raises(InputError, match="settings that this version does not: attention; use the version"):
        network_from_dict({**asdict(network()), "attention": 3})


def test_weights_are_loaded_for_a_new_actor_and_not_before_a_checkpoint(tmp_path):
    source = actor(network())
    torch.save(source.encoder.state_dict(), tmp_path / "w.pth")
    cfg = network(encoder_weights=str(tmp_path / "w.pth"))
    new = actor(cfg, seed=1)
    assert torch.equal(new.encoder.net[1].weight, source.encoder.net[1].weight)
    (tmp_path / "w.pth").unlink()
    build_actor(cfg, LAYOUT, 4, pretrained=False)
    with pytest.raises(InputError, match="no such file"):
        actor(cfg)
    with pytest.raises(InputError, match="put rgb before the others"):
        actor(replace(cfg, actor_groups=("proprio", "depth", "rgb")))


# --- export -----------------------------------------------------------------------------------------------------------


def small_dino(channels, height, width, feature_dim):
    """DINOv2 with three narrow blocks: the same operators, exported in a second."""
    return DinoV2Encoder(channels, height, width, feature_dim, token_dim=48, depth=3, heads=4)


@pytest.mark.parametrize(
    ("encoder", "rnn_type", "layers", "images"),
    [
        ("small_cnn", "lstm", 2, ("rgb",)),
        pytest.param("resnet18", "gru", 1, ("rgb", "depth"), marks=pytest.mark.slow),
        pytest.param("small_dino", "lstm", 1, ("depth",), marks=pytest.mark.slow),
    ],
)
def test_onnx_graphs_equal_torch_over_recurrent_steps(encoder, rnn_type, layers, images, monkeypatch):
    monkeypatch.setitem(ENCODERS.own, "small_dino", small_dino)
    model = actor(network(*images, encoder=encoder, rnn_type=rnn_type, rnn_layers=layers)).eval()
    policy, encoder_file, recurrence, feature_size = policy_graphs(model)
    assert (recurrence.layers, recurrence.hidden) == (layers * (2 if rnn_type == "lstm" else 1), 12)
    assert feature_size == 8
    run_policy, run_encoder = (onnxruntime.InferenceSession(b) for b in (policy, encoder_file))
    worst = 0.0
    for step in range(60):
        if step % 25 == 0:
            h = np.zeros((recurrence.layers, 1, 12), np.float32)
            model.reset(torch.ones(1, dtype=torch.bool) if step else None)
        obs = observations(1, seed=step)
        image = images_of(obs, model.image_groups).numpy()
        feature = run_encoder.run(["feature"], {"rgb": image})[0]
        feeds = {"proprio": obs["proprio"].numpy(), "feature": feature, "h_in": h}
        actions, h = run_policy.run(["actions", "h_out"], feeds)
        with torch.no_grad():
            worst = max(worst, float((model(obs) - torch.from_numpy(actions)).abs().max()))
    assert worst <= 1e-5
    assert np.abs(h).max() > 0.01


def test_depth_is_not_deployable_and_says_why():
    with pytest.raises(InputError, match="run: reads depth; a bundle's camera delivers rgb"):
        require_deployable({"num_actions": 12}, ("proprio", "depth"), get_robot("go1"), "run")


def test_sampled_observations_have_images_of_bytes():
    obs = sample_observations(LAYOUT, 2)
    assert obs["rgb"].dtype == obs["depth"].dtype == torch.uint8
