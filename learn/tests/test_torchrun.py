"""Real runs of two processes under torchrun, on the CPU by gloo: what they compute, and what is left when one dies."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gaussgym_learn.checkpoint import load_checkpoint
from gaussgym_learn.metrics import read_curve

pytestmark = pytest.mark.slow

SOURCES = [
    str(Path(__file__).parents[2] / name / "src") for name in ("scene", "render", "sim", "learn", "deploy")
]
TOY = """
import os, signal, sys
from gaussgym_learn.recipes import NetworkCfg, PPOCfg, Recipe
from gaussgym_learn.testing import ToyEnv
from gaussgym_learn.train import train
from gaussgym_scene import command

out, iterations, victim, when = sys.argv[1], *map(int, sys.argv[2:])
rank = int(os.environ["RANK"])
network = NetworkCfg(
    actor_groups=("proprio", "rgb"), critic_groups=("proprio", "scan"), actor_hidden=(8,), critic_hidden=(8,), rnn_hidden=8,
    aux_group="scan",
)
recipe = Recipe("toy", network=network, ppo=PPOCfg(num_envs=16, steps=4, mini_batches=2, epochs=1))

def die(trainer, _):
    if rank == victim and trainer.iteration == when and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)

sys.exit(command.run(lambda: train(recipe, None, out, make=lambda: ToyEnv(8, seed=rank), renderer=None, resume=True,
                                   iterations=iterations, save_iterations=2, on_iteration=die)))
"""


def torchrun(*words, restarts=0):
    path = ":".join([*SOURCES, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        environment.pop(name, None)
    start = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        f"--max-restarts={restarts}",
    ]
    return subprocess.run(
        [sys.executable, *start, *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "toy.py"
    path.write_text(TOY)
    return path


@pytest.fixture(scope="module")
def whole(script, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    result = torchrun(script, out, 8, -1, 0)
    assert result.returncode == 0, result.stderr
    return out


def assert_same_run(a, b):
    for one, other in zip(read_curve(a), read_curve(b), strict=True):
        for name in one.keys() | other.keys():
            if name != "minutes" and not name.startswith("Perf/"):
                assert one[name] == other[name], name
    first, second = (load_checkpoint(run).state for run in (a, b))
    for group in ("actor_state_dict", "critic_state_dict"):
        for name, value in first[group].items():
            assert torch.equal(value, second[group][name]), name


def test_two_processes_train_one_policy_on_different_episodes(whole):
    assert [row["iteration"] for row in read_curve(whole)] == list(range(1, 9))
    assert read_curve(whole)[-1]["steps"] == 8 * 4 * 16
    checkpoint = load_checkpoint(whole)
    one, other = checkpoint.state["processes"]
    assert not torch.equal(one["torch_rng"], other["torch_rng"])
    proprio = [part["episodes"]["env"]["observations"]["proprio"] for part in (one, other)]
    assert not torch.equal(*proprio)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_run_which_then_resumes(script, whole, tmp_path, victim):
    out = tmp_path / "killed"
    result = torchrun(script, out, 8, victim, 5)
    assert result.returncode != 0
    said = re.findall(r"^error: .*$", result.stderr, re.MULTILINE)
    assert len(said) == 1, result.stderr
    # torchrun also ends the process that is left, which may be before that one notices.
    assert re.search(f"process {1 - victim} of 2 (lost another one|was told to end)", said[0])
    assert "start the run again with --resume" in said[0]
    assert "gaussgym_learn/" not in result.stderr  # no traceback of ours
    assert load_checkpoint(out).fields["iteration"] == 4
    assert torchrun(script, out, 8, -1, 0).returncode == 0
    assert_same_run(whole, out)


def test_torchrun_itself_restarts_it_from_the_last_checkpoint(script, whole, tmp_path):
    result = torchrun(script, tmp_path / "again", 8, 1, 5, restarts=1)
    assert result.returncode == 0, result.stderr
    assert_same_run(whole, tmp_path / "again")


def test_the_command_trains_in_two_processes_and_one_goes_on_alone(tmp_path):
    command = [
        "-m",
        "gaussgym_learn",
        "train",
        "teacher_flat",
        "--output",
        tmp_path,
        "--num-envs",
        "16",
        "--resume",
    ]
    result = torchrun(*command, "--iterations", "2")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(tmp_path / "checkpoint.json")]
    assert load_checkpoint(tmp_path).fields["steps"] == 2 * 16 * 20
    odd = torchrun(*command[:-3], "--num-envs", "15", "--iterations", "1")
    assert "15 environments for 2 processes; expected a multiple of 2" in odd.stderr
    alone = subprocess.run(
        [sys.executable, *map(str, command), "--iterations", "3"],
        env={**os.environ, "PYTHONPATH": ":".join([*SOURCES, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert alone.returncode == 0, alone.stderr
    assert "episodes and curricula begin anew" in alone.stderr
    assert load_checkpoint(tmp_path).fields["iteration"] == 3
