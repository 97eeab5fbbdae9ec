"""Whole rollouts through a recurrent network against one step at a time."""

import pytest
import torch
from gaussgym_learn.models import build_actor
from gaussgym_learn.recipes import NetworkCfg
from gaussgym_learn.recurrence import map_state, run_sequence, select_state, zero_state
from gaussgym_learn.rollout import RolloutBuffer, RolloutLayout
from tensordict import TensorDict

STEPS, ENVS = 13, 5


def stepped(rnn, inputs, starts, state):
    out = []
    for t in range(len(inputs)):
        state = map_state(lambda s, t=t: s * (~starts[t]).float()[None, :, None], state)
        row, state = rnn(inputs[t : t + 1], state)
        out.append(row)
    return torch.cat(out), state


def close(a, b):
    pairs = zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]
    return all(torch.allclose(x, y, atol=1e-6) for x, y in pairs)


@pytest.mark.parametrize("cell", [torch.nn.GRU, torch.nn.LSTM])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_a_sequence_gives_what_single_steps_give(cell, layers, rate):
    torch.manual_seed(1)
    rnn = cell(7, 6, layers)
    inputs = torch.randn(STEPS, ENVS, 7, requires_grad=True)
    starts = torch.rand(STEPS, ENVS) < rate
    state = map_state(torch.randn_like, zero_state(rnn, ENVS))
    out, last = run_sequence(rnn, inputs, starts, state)
    (gradient,) = torch.autograd.grad(out.square().sum(), inputs)
    expected, expected_last = stepped(rnn, inputs, starts, state)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), inputs)
    assert torch.allclose(out, expected, atol=1e-6)
    assert close(last, expected_last)
    assert torch.allclose(gradient, expected_gradient, atol=1e-5)


def test_states_are_selected_by_environment():
    state = (torch.arange(6.0).view(1, 3, 2), -torch.arange(6.0).view(1, 3, 2))
    h, c = select_state(state, torch.tensor([2, 0]))
    assert h.tolist() == [[[4.0, 5.0], [0.0, 1.0]]]
    assert torch.equal(c, -h)
    assert zero_state(torch.nn.GRU(3, 4, 2), 5).shape == (2, 5, 4)


SHAPES = {"proprio": [45], "scan": [6], "rgb": [3, 48, 64], "rgb_new": [1]}


def test_unrolled_model_gives_what_acting_gave():
    """Two rollouts, so that the second begins with a memory; frames are held for some steps, episodes end."""
    torch.manual_seed(0)
    network = NetworkCfg(actor_groups=("proprio", "rgb"), actor_hidden=(32,), rnn_hidden=24, aux_group="scan")
    model = build_actor(network, SHAPES, 12)
    buffer = RolloutBuffer(ENVS, STEPS, RolloutLayout.of(SHAPES, 12))
    starts, image = torch.ones(ENVS, dtype=torch.bool), torch.zeros(ENVS, 3, 48, 64, dtype=torch.uint8)
    model.reset(hidden_state=zero_state(model.rnn.rnn, ENVS))
    for rollout in range(2):
        hidden = model.get_hidden_state()
        buffer.begin(hidden)
        taken = []
        for _ in range(STEPS):
            new = (torch.rand(ENVS) < 0.3) | starts
            image[new] = torch.randint(0, 256, (int(new.sum()), 3, 48, 64), dtype=torch.uint8)
            obs = TensorDict(
                {
                    "proprio": torch.randn(ENVS, 45),
                    "scan": torch.randn(ENVS, 6),
                    "rgb": image,
                    "rgb_new": new[:, None],
                },
                batch_size=[ENVS],
            )
            buffer.observe(obs, starts)
            with torch.no_grad():
                taken.append(model.get_latent(obs))
            starts = torch.rand(ENVS) < 0.15
            model.reset(starts)
            buffer.advance(starts)
        envs = torch.tensor([4, 1, 2])
        batch = buffer.of_envs(envs)
        latent, last = model.unroll(
            batch.groups(["proprio"]), batch.frames, batch.frame_index, batch.starts, batch.hidden
        )
        assert torch.allclose(latent, torch.stack(taken)[:, envs], atol=1e-5)
        kept = last * ~starts[envs][None, :, None]
        assert torch.allclose(kept, model.get_hidden_state()[:, envs], atol=1e-5)
        assert buffer.starts[1:].any()
        assert (buffer.hidden.abs().max() > 0.01) == (rollout == 1)
    latent.square().sum().backward()
    assert next(model.encoder.parameters()).grad.abs().max() > 0


def test_only_frames_in_view_are_encoded_and_a_mirrored_unroll_flips_them():
    torch.manual_seed(0)
    model = build_actor(NetworkCfg(actor_groups=("proprio", "rgb"), rnn_hidden=24), SHAPES, 12)
    seen = []
    model.encoder.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    frames = torch.randint(0, 256, (9, 3, 48, 64), dtype=torch.uint8)
    index = torch.tensor([[3, 5], [3, 7], [8, 7]])
    starts, hidden = torch.zeros(3, 2, dtype=torch.bool), zero_state(model.rnn.rnn, 2)
    flat = torch.randn(3, 2, 45)
    plain, _ = model.unroll(flat, frames, index, starts, hidden)
    mirrored, _ = model.unroll(flat, frames, index, starts, hidden, mirror=True)
    again, _ = model.unroll(flat, frames.flip(-1), index, starts, hidden)
    assert torch.equal(seen[0], frames[[3, 5, 7, 8]])
    assert torch.equal(seen[1], seen[0].flip(-1))
    assert torch.allclose(mirrored, again, atol=1e-6)
    assert not torch.allclose(mirrored, plain, atol=1e-3)
