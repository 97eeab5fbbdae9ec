"""One update of two processes that talk by gloo, against the same update of one with all their environments."""

import os
import socket
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import sys, torch
from tensordict import TensorDict
from gaussgym_learn.distributed import World
from gaussgym_learn.ppo_trainer import build_learner
from gaussgym_learn.recipes import NetworkCfg, PPOCfg, Recipe, SymmetryCfg
from gaussgym_learn.schedules import Objective
from gaussgym_learn.testing import ToyEnv

torch.set_num_threads(1)
folder = sys.argv[1]
world = World.from_environment()


def update(kind):
    groups = ("proprio", "rgb") if kind == "pixels" else ("proprio", "scan")
    network = NetworkCfg(
        actor_groups=groups, critic_groups=("proprio", "scan"), actor_hidden=(16,), critic_hidden=(16,), rnn_hidden=16,
        feature_dim=8, aux_group="scan" if kind == "pixels" else None, init_std=0.5,
    )
    ppo = PPOCfg(steps=6, mini_batches=1, epochs=1, aux_coef=0.5, aux_epochs=0)
    recipe = Recipe("t", network=network, ppo=ppo, symmetry=SymmetryCfg(augment=True, mirror_coef=0.1))
    torch.manual_seed(0)
    envs = 8 // world.size
    learner = build_learner(recipe, ToyEnv(envs), world=world, shards=2 // world.size)
    obs, rows = torch.load(f"{folder}/rollout.pt", weights_only=True)
    mine = slice(envs * world.rank, envs * (world.rank + 1))
    with torch.inference_mode():
        learner.begin(Objective())
        for t, (rewards, dones, time_outs) in enumerate(rows):
            torch.manual_seed(t)
            noise = torch.randn(8, 12)[mine]
            step = TensorDict({name: value[t][mine] for name, value in obs.items()}, batch_size=[envs])
            actor = learner.actor
            sample = actor.distribution.sample
            actor.distribution.sample = lambda: actor.output_mean + actor.output_std * noise
            learner.act(step)
            actor.distribution.sample = sample
            learner.process_env_step(rewards[mine], dones[mine], {"time_outs": time_outs[mine]})
        learner.compute_returns({name: value[len(rows)][mine] for name, value in obs.items()})
    found = learner.update()
    gradients = {f"{k}.{n}": p.grad for k, m in learner.models.items() for n, p in m.named_parameters() if p.grad is not None}
    normalizers = {k: m.obs_normalizer.state_dict() for k, m in learner.models.items()}
    return {"losses": found, "gradients": gradients, "normalizers": normalizers}


torch.save({kind: update(kind) for kind in ("pixels", "state")}, f"{folder}/{world.size}_{world.rank}.pt")
world.close()
"""


def started(folder, **variables):
    env = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], env=env)


def test_first_update_of_two_processes(tmp_path):
    torch.manual_seed(3)
    steps, envs = 6, 8
    obs = {
        "proprio": torch.randn(steps + 1, envs, 45) * 2 + 1,
        "scan": torch.randn(steps + 1, envs, 16),
        "rgb": torch.randint(0, 256, (steps + 1, envs, 3, 48, 64), dtype=torch.uint8),
        "rgb_new": torch.ones(steps + 1, envs, 1, dtype=torch.uint8),
    }
    dones = (torch.rand(steps, envs) < 0.2).long()
    rows = [(torch.randn(envs), d, d.float() * (torch.rand(envs) < 0.5)) for d in dones]
    torch.save((obs, rows), tmp_path / "rollout.pt")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [started(tmp_path)]
    processes += [started(tmp_path, RANK=str(r), LOCAL_RANK=str(r), **common) for r in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    one, first, second = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("1_0", "2_0", "2_1"))
    for two in (first, second):
        for kind, expected in one.items():
            assert two[kind]["losses"] == pytest.approx(expected["losses"], abs=1e-5)
            assert_equal(two[kind]["gradients"], expected["gradients"])
            for model, normalizer in expected["normalizers"].items():
                assert_equal(two[kind]["normalizers"][model], normalizer)
    assert max(g.abs().max() for g in one["pixels"]["gradients"].values()) > 1e-2


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-5), (name, (found[name] - value).abs().max())
