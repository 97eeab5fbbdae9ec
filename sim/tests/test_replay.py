"""What a recorder remembers is repeated to the bit, from a folder, at any number of threads."""

import numpy as np
import pytest
import torch
from gaussgym_scene.command import run
from gaussgym_scene.errors import InputError
from gaussgym_sim.__main__ import Replay as ReplayCommand
from gaussgym_sim.grounds import flat_scene, heights_scene, place, wavy_scene
from gaussgym_sim.vecsim import VecSim, make_sim
from gaussgym_sim.views.recorder import SimRecorder
from gaussgym_sim.views.replay import Repetition, load_replay, save_replay

FINDING = {"step": 0, "env": 3, "envs": 1, "kind": "action", "term": "of joint FR_hip"}


def eventful(sim, steps, *, other=None):
    """Random targets with resets, kicks, pushes, parameters and a change of scene in between."""
    rng = torch.Generator().manual_seed(0)
    joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 1.2]]).repeat(6, 1))
    for i in range(steps):
        if i % 5 == 1:
            ids = torch.tensor([1, 3, 4])
            sim.kick(ids, torch.randn(3, 3, generator=rng))
            sim.push(ids[:1], 20 * torch.randn(1, 3, generator=rng), torch.randn(1, 3, generator=rng))
            sim.set_params(
                ids, friction=torch.rand(3, generator=rng), delay_s=torch.tensor([0.0, 0.01, 0.03])
            )
        if i % 7 == 2:
            place(sim, pos_w=torch.tensor([[1.0, 0.0, 1.3]]), env_ids=torch.tensor([2]))
        if i == steps // 2 and other is not None:
            sim.set_scene(torch.tensor([3, 4, 5]), other)
            place(sim, pos_w=torch.tensor([[0.0, 0.0, 1.0]]).repeat(3, 1), env_ids=torch.tensor([3, 4, 5]))
        sim.step(joints + 0.4 * torch.randn(6, 12, generator=rng), substeps=3 if i % 4 == 0 else 4)


def recorded(keep_steps=10, steps=34):
    sim = SimRecorder.make("mujoco", "go1", [flat_scene(), wavy_scene()], 6, keep_steps=keep_steps)
    eventful(sim, steps, other=heights_scene(lambda x, y: 0.1 * x))
    return sim


def test_a_recorder_is_a_sim_that_changes_nothing():
    sim, plain = recorded(), make_sim("mujoco", "go1", [flat_scene(), wavy_scene()], 6)
    assert isinstance(sim, VecSim)
    eventful(plain, 34, other=heights_scene(lambda x, y: 0.1 * x))
    for name, value in vars(plain.state).items():
        assert torch.equal(value, getattr(sim.state, name)), name


@pytest.mark.parametrize(("steps", "kept"), [(7, 7), (10, 10), (11, 11), (20, 20), (21, 11), (34, 14)])
def test_it_remembers_between_one_and_two_stretches(steps, kept):
    sim = recorded(steps=steps)
    assert sum(s.steps for s in sim.stretches) == kept
    assert sim.stretches[0].first_step == steps - kept


@pytest.mark.parametrize("threads", [1, 3])
def test_repeated_to_the_bit_from_the_folder(threads, tmp_path):
    sim = recorded()
    heights = sim.state.root_pos_w[3, 2].clone()
    save_replay(sim, tmp_path / "r", FINDING)
    eventful(sim, 5)  # what comes later is not in it
    replay = load_replay(tmp_path / "r" / "replay.json")
    assert [s.name for s in replay.stretches[0].scenes] == ["flat", "heights"]
    repetition = Repetition(replay, num_threads=threads)
    rows = list(repetition)
    assert [row.step for row in rows] == list(range(20, 34))
    assert rows[-1].base_height_m == float(heights)
    assert repetition.differences() == []


def test_a_repetition_that_differs_is_told(tmp_path, capsys):
    sim = recorded(steps=12)
    save_replay(sim, tmp_path / "r", FINDING)
    replay = load_replay(tmp_path / "r")
    replay.stretches[-1].targets[0, 3, 0] += 1e-3
    repetition = Repetition(replay)
    list(repetition)
    assert "joint_pos" in repetition.differences()
    assert run(ReplayCommand(tmp_path / "r", last=2).run) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("step")] == ["10", "11"]
    assert lines[-1] == "repeated to the bit"


def test_bad_folders_are_told(tmp_path):
    with pytest.raises(InputError, match="not found"):
        load_replay(tmp_path)
    save_replay(recorded(steps=3), tmp_path / "r", FINDING)
    with np.load(tmp_path / "r" / "arrays.npz") as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(tmp_path / "r" / "arrays.npz", **dict(list(arrays.items())[:-1]))
    with pytest.raises(InputError, match=r"damaged|changed"):
        load_replay(tmp_path / "r")


def test_a_state_of_another_version_is_told(tmp_path):
    save_replay(recorded(steps=3), tmp_path / "r", FINDING)
    replay = load_replay(tmp_path / "r")
    params = replay.stretches[0].snapshot["params"]
    params["link_mass_factor"] = params["link_mass_factor"][:, 1:]
    with pytest.raises(InputError, match="does not fit this version's simulator"):
        Repetition(replay)


def test_a_sim_without_state_cannot_be_recorded():
    sim = make_sim("mujoco", "go1", [flat_scene()], 1)
    sim.capabilities = sim.capabilities - {"state_dict"}
    with pytest.raises(InputError, match="cannot save its state"):
        SimRecorder(sim, {})
    with pytest.raises(InputError, match="keep_steps is 0"):
        SimRecorder.make("mujoco", "go1", [flat_scene()], 1, keep_steps=0)
