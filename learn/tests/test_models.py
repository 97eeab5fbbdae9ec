"""The vision model: encoding each frame once, padding, aux loss, ONNX parity."""

import numpy as np
import pytest
import torch
from gaussgym_learn.models import TerrainMLPModel, build_actor, sample_observations
from gaussgym_learn.recipes import NetworkCfg
from rsl_rl.utils import split_and_pad_trajectories
from tensordict import TensorDict

LAYOUT = {"proprio": [45], "base_vel": [3], "scan": [6], "rgb": [3, 48, 64], "rgb_new": [1]}
VISION = NetworkCfg(actor_groups=("proprio", "rgb"), actor_hidden=(32,), rnn_hidden=24, aux_group="scan")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_actor(VISION, LAYOUT, 12)


def random_rollout(steps=11, envs=4, seed=0):
    """Observations [T, E] with frames held for a few steps, and episode ends."""
    g = torch.Generator().manual_seed(seed)
    new = torch.rand(steps, envs, generator=g) < 0.3
    dones = torch.rand(steps, envs, generator=g) < 0.15
    new[0] = True
    new[1:] |= dones[:-1]
    frames = torch.randint(0, 256, (steps, envs, 3, 48, 64), generator=g, dtype=torch.uint8)
    for t in range(1, steps):
        frames[t][~new[t]] = frames[t - 1][~new[t]]
    obs = TensorDict(
        {
            "proprio": torch.randn(steps, envs, 45, generator=g),
            "scan": torch.randn(steps, envs, 6, generator=g),
            "rgb": frames,
            "rgb_new": new[..., None].to(torch.uint8),
        },
        batch_size=[steps, envs],
    )
    return obs, dones


def test_padded_trajectories_give_what_step_by_step_gives(model):
    obs, dones = random_rollout()
    stepped = []
    with torch.no_grad():
        for t in range(len(dones)):
            stepped.append(model.get_latent(obs[t]))
            model.reset(dones[t])
    padded, masks = split_and_pad_trajectories(obs, dones[..., None].byte())
    hidden = torch.zeros(1, padded.shape[1], 24)
    with torch.no_grad():
        batched = model.get_latent(padded, masks, hidden)
    assert torch.allclose(batched.reshape(len(dones), -1, 24 + 45), torch.stack(stepped), atol=1e-5)


def test_only_new_frames_are_encoded(model):
    obs, dones = random_rollout()
    padded, masks = split_and_pad_trajectories(obs, dones[..., None].byte())
    seen = []
    model.encoder.register_forward_hook(lambda _m, args, _o: seen.append(len(args[0])))
    with torch.no_grad():
        model.encode(padded, masks)
    # A trajectory begins at the first step and after every episode's end; its first frame counts even if it is held.
    starts = torch.ones_like(dones)
    starts[1:] = dones[:-1]
    assert seen == [int((starts | (obs["rgb_new"][..., 0] != 0)).sum())]


def test_images_matter_and_the_first_layer_sees_zero_centred_values(model):
    obs = sample_observations(LAYOUT, 2)
    obs["rgb"][1] += 200
    with torch.no_grad():
        out = model(obs)
    assert not torch.allclose(out[0], out[1])


def test_aux_head_reads_the_memory_only(model):
    latent = torch.randn(5, 24 + 45)
    other = latent.clone()
    other[:, 24:] = 0
    assert torch.equal(model.predict_aux(latent), model.predict_aux(other))


def test_teacher_scan_starts_without_weight_and_is_never_normalized():
    torch.manual_seed(0)
    teacher = build_actor(NetworkCfg(), LAYOUT, 12)
    assert isinstance(teacher, TerrainMLPModel)
    obs = sample_observations(LAYOUT, 50)
    obs["proprio"] = torch.randn(50, 45) * 3 + 1
    before = teacher(obs)
    obs["scan"] += 1.7
    assert torch.equal(before, teacher(obs))
    teacher.update_normalization(obs)
    assert torch.equal(teacher.obs_normalizer.mean[48:], torch.zeros(6))
    assert torch.equal(teacher.obs_normalizer.std[48:], torch.ones(6))
    assert teacher.obs_normalizer.std[:45].mean() > 2


def test_onnx_graphs_equal_torch_over_500_recurrent_steps(model):
    import onnxruntime
    from gaussgym_learn.export import policy_graphs

    model.eval()
    model.obs_normalizer._mean += 0.3  # a normalizer that does something
    model.obs_normalizer._std *= 1.7
    policy, encoder, recurrence, feature = policy_graphs(model)
    assert (recurrence.layers, recurrence.hidden, feature) == (1, 24, 64)
    run_policy, run_encoder = (onnxruntime.InferenceSession(b) for b in (policy, encoder))
    rng = np.random.default_rng(0)
    worst = 0.0
    for step in range(500):
        if step % 180 == 0:  # episodes begin
            h = np.zeros((1, 1, 24), np.float32)
            model.reset(torch.ones(1, dtype=torch.bool) if step else None)
        if step % 5 == 0:
            image = rng.integers(0, 256, (1, 3, 48, 64), dtype=np.uint8)
            features = run_encoder.run(["feature"], {"rgb": image})[0]
        proprio = rng.normal(size=(1, 45)).astype(np.float32)
        actions, h = run_policy.run(
            ["actions", "h_out"], {"proprio": proprio, "feature": features, "h_in": h}
        )
        obs = TensorDict(
            {
                "proprio": torch.from_numpy(proprio),
                "rgb": torch.from_numpy(image),
                "rgb_new": torch.tensor([[step % 5 == 0]], dtype=torch.uint8),
            },
            batch_size=[1],
        )
        with torch.no_grad():
            worst = max(worst, float((model(obs) - torch.from_numpy(actions)).abs().max()))
    assert worst <= 1e-5
    assert np.abs(h).max() > 0.01  # a memory that an error could show in
