"""The rollout's storage: memory by formula, frames once, advantages by the textbook, the same minibatches on many processes."""

import subprocess
import sys

import pytest
import torch
from gaussgym_learn.rollout import RolloutBuffer, RolloutLayout, rollout_bytes

SHAPES = {"proprio": [5], "scan": [7], "rgb": [3, 6, 8], "depth": [1, 6, 8], "rgb_new": [1]}
LAYOUT = RolloutLayout.of(SHAPES, 2, frame_period=5)


def observation(envs, new=None, fill=0):
    obs = {
        "proprio": torch.randn(envs, 5),
        "scan": torch.randn(envs, 7),
        "rgb": torch.full((envs, 3, 6, 8), fill, dtype=torch.uint8),
        "depth": torch.full((envs, 1, 6, 8), 100 + fill, dtype=torch.uint8),
    }
    return obs if new is None else {**obs, "rgb_new": torch.tensor(new, dtype=torch.uint8)[:, None]}


def test_bytes_by_hand():
    # 12 observation values, 3 * 2 for actions, 5 of each step; 2 flags and 4 bytes for the frame's number; 3 frames in 10 steps.
    expected = 4 * (10 * (4 * (12 + 6 + 5) + 2 + 4) + 3 * 4 * 6 * 8)
    assert rollout_bytes(4, 10, LAYOUT) == expected
    taught = RolloutLayout.of(SHAPES, 2, frame_period=5, teacher=True, teacher_latent=9)
    assert rollout_bytes(4, 10, taught) == expected + 4 * 10 * 4 * (2 + 9)
    blind = RolloutLayout.of({"proprio": [5]}, 2)
    assert rollout_bytes(3, 10, blind) == 3 * 10 * (4 * (5 + 6 + 5) + 2)


def test_frames_of_a_period():
    for steps, period, frames in ((25, 5, 6), (24, 5, 6), (10, 1, 10), (3, 10, 2), (1, 4, 1)):
        assert RolloutLayout({}, {}, 1, frame_period=period).frames_per_env(steps) == frames


MEMORY = """
import resource, torch
from gaussgym_learn.rollout import RolloutBuffer, RolloutLayout, rollout_bytes

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

shapes = {"proprio": [45], "base_vel": [3], "scan": [187], "rgb": [3, 48, 84], "rgb_new": [1]}
layout = RolloutLayout.of(shapes, 12, frame_period=5, teacher=True)
steps = 25

def rolled_out(envs, obs):
    buffer = RolloutBuffer(envs, steps, layout)
    rows = {"actions": torch.ones(envs, 12), "teacher_actions": torch.ones(envs, 12)}
    scalars = {k: torch.ones(envs) for k in ("rewards", "values", "log_prob")}
    for rollout in range(3):
        buffer.begin()
        for t in range(steps):
            obs["rgb_new"].fill_(t % 5 == 2)
            buffer.observe(obs, torch.zeros(envs, dtype=torch.bool))
            buffer.record(**rows, **scalars, on_policy=torch.ones(envs, dtype=torch.bool))
            buffer.record_params((rows["actions"], rows["actions"]))
            buffer.advance(torch.zeros(envs))
        buffer.compute_returns(torch.ones(envs), 0.9, 0.9)
    return buffer, buffer.whole()

def observations(envs):
    types = {3: torch.uint8, 1: torch.float32}
    return {k: torch.ones(envs, *s, dtype=types[len(s)]) for k, s in shapes.items()}

small = rolled_out(8, observations(8))  # loads what torch loads at first use
obs = observations(256)
before = resident()
kept = rolled_out(256, obs)
print((resident() - before) / rollout_bytes(256, steps, layout))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident size from /proc")
def test_a_process_grows_by_the_formula():
    ratio = float(subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, check=True).stdout)
    assert ratio == pytest.approx(1.0, abs=0.1)


def test_every_frame_is_stored_once_and_groups_are_stacked():
    buffer = RolloutBuffer(2, 4, LAYOUT)
    none = torch.zeros(2, dtype=torch.bool)
    for rollout in range(2):
        buffer.begin()
        flags = ([0, 0], [0, 1], [0, 0], [1, 1])  # at first all that is in view counts, flagged or not
        for t, new in enumerate(flags):
            buffer.observe(observation(2, new, fill=10 * rollout + t), none)
            buffer.advance(none)
        assert buffer.frame_index.tolist() == [[0, 1], [0, 2], [0, 2], [3, 4]]
        assert buffer.frames.shape == (5, 4, 6, 8)
        assert buffer.frames.dtype == torch.uint8
        assert buffer.frames[:, 0, 0, 0].tolist() == [10 * rollout + t for t in (0, 0, 1, 3, 3)]
        assert buffer.frames[:, 3, 5, 7].tolist() == [100 + 10 * rollout + t for t in (0, 0, 1, 3, 3)]
    with pytest.raises(ValueError, match="is full"):
        buffer.observe(observation(2), none)


def test_without_the_flag_every_image_is_new():
    buffer = RolloutBuffer(3, 4, RolloutLayout.of(SHAPES, 2))
    buffer.begin()
    for _ in range(4):
        buffer.observe(observation(3), torch.zeros(3, dtype=torch.bool))
        buffer.advance(torch.zeros(3))
    assert buffer.frame_index.flatten().tolist() == list(range(12))


def test_more_frames_than_the_formula_has_room_for_are_kept():
    buffer = RolloutBuffer(2, 20, RolloutLayout.of(SHAPES, 2, frame_period=10))
    buffer.begin()
    for t in range(20):  # episodes end all the time, the camera starts anew each time
        buffer.observe(observation(2, [1, t % 2], fill=t), torch.zeros(2, dtype=torch.bool))
        buffer.advance(torch.zeros(2))
    seen = buffer.frames[buffer.frame_index.long()][..., 0, 0, 0]
    assert seen[:, 0].tolist() == list(range(20))
    assert seen[:, 1].tolist() == [t - 1 if t % 2 == 0 and t > 0 else t for t in range(20)]
    assert len(buffer.frames) == 20 + 11


def filled(envs=4, steps=9, seed=0):
    torch.manual_seed(seed)
    buffer = RolloutBuffer(envs, steps, RolloutLayout.of({"proprio": [5], "scan": [7]}, 2))
    buffer.begin()
    starts = torch.zeros(envs, dtype=torch.bool)
    for _ in range(steps):
        buffer.observe({"proprio": torch.randn(envs, 5), "scan": torch.randn(envs, 7)}, starts)
        buffer.record(actions=torch.randn(envs, 2), rewards=torch.randn(envs), values=torch.randn(envs))
        buffer.record_params((torch.randn(envs, 2), torch.rand(envs, 2)))
        starts = torch.rand(envs) < 0.2
        buffer.advance(starts)
    return buffer


def test_advantages_are_the_textbooks_double_sum():
    buffer = filled()
    last, gamma, lam = torch.randn(4), 0.93, 0.8
    buffer.compute_returns(last, gamma, lam)
    ends = buffer.ends()
    assert ends.any()
    values = torch.cat([buffer.values, last[None]]).double()
    for e in range(4):
        for t in range(9):
            advantage, weight = 0.0, 1.0
            for k in range(t, 9):
                goes_on = 0.0 if ends[k, e] else 1.0
                delta = buffer.rewards[k, e].double() + gamma * goes_on * values[k + 1, e] - values[k, e]
                advantage += weight * delta
                if not goes_on:
                    break
                weight *= gamma * lam
            assert buffer.advantages[t, e].item() == pytest.approx(float(advantage), abs=1e-5)
            assert buffer.returns[t, e].item() == pytest.approx(float(advantage + values[t, e]), abs=1e-5)


def test_minibatches_by_steps_and_by_environments():
    buffer = filled()
    whole = buffer.whole()
    seen = torch.cat(list(buffer.orders(3, recurrent=False, shards=1, seed=3)))
    assert sorted(seen.tolist()) == list(range(36))
    part = buffer.of_steps(seen[:5])
    for row, number in enumerate(seen[:5].tolist()):
        assert torch.equal(part.group("scan")[row], whole.group("scan")[number // 4, number % 4])
        assert torch.equal(part.old_params[1][row], whole.old_params[1][number // 4, number % 4])
    part = buffer.of_envs(torch.tensor([2, 0]))
    assert torch.equal(part.actions, whole.actions[:, [2, 0]])
    assert torch.equal(part.starts, whole.starts[:, [2, 0]])
    assert torch.equal(part.groups(["proprio", "scan"]), part.flat)
    assert torch.equal(part.groups(["scan", "proprio"])[..., :7], part.group("scan"))


@pytest.mark.parametrize("recurrent", [False, True])
def test_one_process_can_split_as_two_do(recurrent):
    one, half = RolloutBuffer(8, 3, LAYOUT), RolloutBuffer(4, 3, LAYOUT)
    wholes = one.orders(2, recurrent=recurrent, shards=2, seed=7)
    halves = half.orders(2, recurrent=recurrent, shards=1, seed=7)
    for whole, part in zip(wholes, halves, strict=True):
        expected = []
        for rank in range(2):  # rank r's environment e is number 4 r + e
            for n in part.tolist():
                expected.append(4 * rank + n if recurrent else n // 4 * 8 + 4 * rank + n % 4)
        assert whole.tolist() == expected
