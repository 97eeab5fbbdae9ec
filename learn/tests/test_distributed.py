"""What processes of one run exchange: by hand in one process, for real in two that talk by gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gaussgym_learn.distributed import World, _buckets, agreed_name
from gaussgym_scene.errors import InputError

PAIR = """
import torch
from gaussgym_learn.distributed import World

world = World.from_environment()
r = world.rank
assert world.size == 2 and world.writes == (r == 0)
assert world.sum(torch.tensor([1.0, 2.0]) * (r + 1)).tolist() == [3.0, 6.0]
assert world.sum(torch.tensor([True, r == 1])).tolist() == [2, 1]
assert world.mean(torch.tensor([1.0 + 2.0 * r])).item() == 2.0
assert world.any(r == 1) and not world.any(False)
parameters = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(1))]
parameters[0].grad = torch.arange(6.0).view(2, 3) * (r + 1)
parameters[1].grad = torch.full((4,), float(r), dtype=torch.float32)
world.mean_gradients(parameters)
assert torch.equal(parameters[0].grad, torch.arange(6.0).view(2, 3) * 1.5)
assert torch.equal(parameters[1].grad, torch.full((4,), 0.5)) and parameters[2].grad is None
given = torch.full((3,), float(r + 7))
world.share([given])
assert given.tolist() == [7.0] * 3
assert world.gather(b"ab" * (r + 1)) == ([b"ab", b"abab"] if r == 0 else [])
assert world.gather(b"") == ([b"", b""] if r == 0 else [])
assert world.part_of("abcde") == (list("ace") if r == 0 else list("bd"))
assert world.part_of("a") == ["a"] and world.share_of(6) == 3
world.barrier()
print("done", r, flush=True)
world.close()
"""

LOST = """
import os, sys, torch
from gaussgym_learn.distributed import PeerLost, World

world = World.from_environment()
world.barrier()
if world.rank == 1:
    os._exit(9)
try:
    for _ in range(3):
        world.sum(torch.zeros(1))
except PeerLost as error:
    print(error, flush=True)
    os._exit(3)
"""

TOLD = """
import os, signal
from gaussgym_learn.distributed import PeerLost, World

world = World.from_environment()
world.barrier()
if world.rank == 1:
    os._exit(9)
try:
    os.kill(os.getpid(), signal.SIGTERM)
    print("went on")
except PeerLost as error:
    os.kill(os.getpid(), signal.SIGTERM)  # a second one does not disturb
    print(error, flush=True)
    os._exit(3)
"""


def pair(script: str, port: int) -> list[subprocess.CompletedProcess]:
    """Run a script as ranks 0 and 1, as torchrun would start them."""
    source = Path(__file__).parents[1] / "src"
    common = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": f"{source}:{os.environ.get('PYTHONPATH', '')}",
        "CUDA_VISIBLE_DEVICES": "",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=120) for process in started]
    return [
        subprocess.CompletedProcess(p.args, p.returncode, *output)
        for p, output in zip(started, outputs, strict=True)
    ]


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_processes_add_share_and_gather():
    for result in pair(PAIR, free_port()):
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("done")


def test_a_process_that_dies_ends_the_other_with_one_line():
    left, died = pair(LOST, free_port())
    assert died.returncode == 9
    assert left.returncode == 3, left.stderr
    assert "lost another one" in left.stdout
    assert "--resume" in left.stdout
    assert left.stdout.strip().count("\n") == 0


def test_a_process_that_is_told_to_end_says_so():
    left, _ = pair(TOLD, free_port())
    assert left.returncode == 3, left.stderr
    assert "told to end" in left.stdout
    assert "--resume" in left.stdout
    assert left.stdout.strip().count("\n") == 0


def test_a_new_meeting_does_not_take_the_old_ones_word(tmp_path):
    """The store of before is full of its names and answers; whoever comes first, the new processes find one another."""
    import threading

    store = torch.distributed.HashStore()
    names = []
    for early in (0, 1, 2):
        found = {}

        def meet(rank, found=found):
            found[rank] = agreed_name(store, rank, 3)

        threads = [threading.Thread(target=meet, args=(rank,)) for rank in range(3)]
        threads[early].start()
        threads[early].join(0.2)
        assert not found  # nobody goes on alone
        for thread in threads:
            if not thread.is_alive():
                thread.start()
        for thread in threads:
            thread.join(10)
        assert len(found) == 3
        assert len(set(found.values())) == 1
        names.append(found[0])
    assert len(set(names)) == 3


def test_one_process_exchanges_nothing(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    world = World.from_environment()
    given = torch.tensor([1.0])
    parameter = torch.nn.Parameter(given.clone())
    parameter.grad = torch.tensor([4.0])
    world.mean_gradients([parameter])
    assert world == World(0, 1)
    assert world.sum(given) is given
    assert world.mean(given) is given
    assert parameter.grad.item() == 4.0
    assert world.gather(b"x") == [b"x"]
    assert world.part_of([1, 2]) == [1, 2]


def test_half_of_torchruns_variables_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(InputError, match=r"found RANK without WORLD_SIZE.*torchrun"):
        World.from_environment()


def test_environments_that_cannot_be_split_evenly_are_refused():
    with pytest.raises(InputError, match="9 environments for 2 processes; expected a multiple of 2"):
        World(0, 2).share_of(9)


def test_scenes_are_dealt_by_rank():
    assert [World(r, 3).part_of("abcdefg") for r in range(3)] == [list("adg"), list("be"), list("cf")]
    assert World(2, 3).part_of("ab") == ["a", "b"]


def test_gradients_are_sent_in_pieces_of_one_kind(monkeypatch):
    monkeypatch.setattr("gaussgym_learn.distributed.BUCKET_BYTES", 16)
    sizes = [(2, torch.float32), (2, torch.float32), (1, torch.float32), (1, torch.float64)]
    gradients = [torch.zeros(n, dtype=kind) for n, kind in sizes]
    assert [len(bucket) for bucket in _buckets(gradients)] == [2, 1, 1]
    assert [g for bucket in _buckets(gradients) for g in bucket] == gradients
