"""Several processes that train one policy: what they exchange, and what happens when one of them dies.

`torchrun` starts the processes and says to each who it is; each has its own environments and scenes. What they exchange are
gradients and a few sums, so that together they compute what one process with all the environments would. Processes on the CPU
talk by gloo, tensors on a GPU go by NCCL.
"""

from __future__ import annotations

import datetime
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from gaussgym_scene.errors import InputError, StageError

T = TypeVar("T")

TIMEOUT_S = 600.0
"""How long a process waits for the others before it takes them for dead [s]; longer than the slowest rollout."""

BUCKET_BYTES = 16 << 20
"""Gradients are exchanged in pieces of at least this size (or one parameter) [bytes]: few messages, and a bounded copy."""

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class PeerLost(StageError):
    """Another process of the run is gone; the last checkpoint is whole."""


_ending = threading.Event()
"""Set once this process is about to end by itself, which no signal to do so must interrupt (torchrun kills it after 30 s)."""

RESUME = "the last checkpoint is whole: start the run again with --resume"


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them. Every method is a no-op where there is only one.

    All processes must call the same methods in the same order with tensors of the same shapes.

    Attributes:
        rank: which process this is, 0..size-1; 0 writes what is written.
        size: how many there are.
        local_rank: which of the processes on this machine; the number of its GPU.
        local_size: how many there are on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @staticmethod
    def from_environment() -> World:
        """The world that torchrun's variables describe, joined; one process where there are none.

        Raises:
            InputError: some of torchrun's variables are missing or no numbers.
            PeerLost: the others did not come.
        """
        found = [name for name in _VARIABLES if name in os.environ]
        if "RANK" not in found and "WORLD_SIZE" not in found:
            return World()
        if len(found) < len(_VARIABLES):
            missing = ", ".join(name for name in _VARIABLES if name not in found)
            raise InputError(
                f"found {', '.join(found)} without {missing}; start several processes with torchrun"
            )
        rank, size, local, here = (
            _number(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        )
        if size == 1:
            return World()
        if not dist.is_initialized():
            cuda = torch.cuda.is_available()
            if cuda:
                torch.cuda.set_device(local % torch.cuda.device_count())
            try:
                _join(rank, size, "cpu:gloo,cuda:nccl" if cuda else "gloo")
            except RuntimeError as error:
                raise PeerLost(f"process {rank} of {size} found no other: {_reason(error)}") from None
            _say_when_told_to_end(rank, size)
        return World(rank, size, local, max(here, 1))

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def close(self) -> None:
        """Leave; the world cannot be used any more."""
        if self.size > 1 and dist.is_initialized():
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            dist.destroy_process_group()

    # ------------------------------------------------------------------ tensors

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the processes, a new tensor; the same bits in each of them.

        Args:
            tensor: of any shape; bool and integers stay integers.
        """
        if self.size == 1:
            return tensor
        total = tensor.detach().to(torch.int64 if tensor.dtype == torch.bool else tensor.dtype).clone()
        self._reduce(total)
        return total

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """Mean over the processes of a floating-point tensor, a new one; the same bits in each of them."""
        return tensor if self.size == 1 else self.sum(tensor) / self.size

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(int(flag))) > 0)

    def mean_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes, in place.

        Parameters without a gradient are left out: they must be the same ones in every process.
        """
        if self.size == 1:
            return
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            self._reduce(flat)
            flat /= self.size
            for gradient, mean in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite tensors with those of process 0."""
        if self.size == 1:
            return
        for tensor in tensors:
            self._guarded(dist.broadcast, tensor.detach(), src=0)

    def gather(self, data: bytes) -> list[bytes]:
        """What each process gives, by rank; only process 0 gets the list, the others an empty one."""
        if self.size == 1:
            return [data]
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(data)
        lengths = self.sum(lengths)
        mine = torch.zeros(max(int(lengths.max()), 1), dtype=torch.uint8)
        mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else 0
        parts = [torch.empty_like(mine) for _ in range(self.size)] if self.writes else None
        self._guarded(dist.gather, mine, parts, dst=0)
        if parts is None:
            return []
        return [part[:n].numpy().tobytes() for part, n in zip(parts, lengths.tolist(), strict=True)]

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            self._guarded(dist.barrier)

    def _reduce(self, tensor: torch.Tensor) -> None:
        self._guarded(dist.all_reduce, tensor)

    def _guarded(self, call: Any, *args: Any, **options: Any) -> None:
        try:
            call(*args, **options)
        except RuntimeError as error:
            _ending.set()
            raise PeerLost(
                f"process {self.rank} of {self.size} lost another one ({_reason(error)}); {RESUME}"
            ) from None

    # ------------------------------------------------------------------ shares

    def share_of(self, count: int) -> int:
        """This process's share of a number of environments.

        Raises:
            InputError: they cannot be split evenly: gradients are means over environments, so shares must be equal.
        """
        if count % self.size:
            raise InputError(
                f"{count} environments for {self.size} processes; expected a multiple of {self.size} (--num-envs)"
            )
        return count // self.size

    def part_of(self, items: Sequence[T]) -> list[T]:
        """This process's part of scenes: every size-th from its rank on, all of them where there are fewer than processes."""
        return list(items) if len(items) < self.size else list(items[self.rank :: self.size])


def _join(rank: int, size: int, backend: str) -> None:
    """Make the group of all processes.

    After a restart torchrun offers the store of before, in which the dead processes' addresses still stand: this meeting's
    are kept apart by a name of its own.
    """
    wait = datetime.timedelta(seconds=TIMEOUT_S)
    store, _, _ = next(dist.rendezvous("env://", timeout=wait))
    name = agreed_name(store, rank, size)
    dist.init_process_group(
        backend, store=dist.PrefixStore(name, store), rank=rank, world_size=size, timeout=wait
    )


def agreed_name(store: Any, rank: int, size: int) -> str:
    """A new name that all processes that are here now agree on, whatever earlier ones have left in the store.

    Process 0 proposes one. Each other one answers under this name with a number of its own, until it finds that process 0 has
    heard it: an answer to a name of before is never heard.

    Args:
        store: with get (waits for a key), set and check.
        rank: of this process.
        size: how many must agree.

    Raises:
        RuntimeError: the others do not come in time.
    """
    own, proposal = uuid.uuid4().hex, "gaussgym/proposal"
    if rank == 0:
        store.set(proposal, own)
        answers = [store.get(f"gaussgym/{own}/{other}").decode() for other in range(1, size)]
        store.set(f"gaussgym/{own}/heard", ",".join(answers))
        return own
    answered, end = "", time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        name = store.get(proposal).decode()
        if name != answered:
            store.set(f"gaussgym/{name}/{rank}", own)
            answered = name
        heard = f"gaussgym/{name}/heard"
        if store.check([heard]) and store.get(heard).decode().split(",")[rank - 1] == own:
            return name
        time.sleep(0.02)
    raise RuntimeError(f"not all of {size} processes came within {TIMEOUT_S:.0f} s")


def _say_when_told_to_end(rank: int, size: int) -> None:
    """Let SIGTERM, which torchrun sends to those that are left when one dies, raise `PeerLost`: they say so, and clean up.

    It may come before this process notices by itself. Handlers can be set by the main thread only; elsewhere nothing changes.
    """

    def end(*_: Any) -> None:
        if not _ending.is_set():
            _ending.set()
            raise PeerLost(f"process {rank} of {size} was told to end, as one is when another dies; {RESUME}")

    _ending.clear()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def _number(name: str) -> int:
    text = os.environ.get(name, "0")
    try:
        return int(text)
    except ValueError:
        raise InputError(
            f"{name} is {text!r}, expected a number; start several processes with torchrun"
        ) from None


def _buckets(gradients: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Consecutive gradients of one kind, together about `BUCKET_BYTES`."""
    buckets: list[list[torch.Tensor]] = []
    full = True
    for gradient in gradients:
        last = buckets[-1][0] if buckets else None
        if last is None or full or (last.dtype, last.device) != (gradient.dtype, gradient.device):
            buckets.append([])
        buckets[-1].append(gradient)
        full = sum(g.numel() * g.element_size() for g in buckets[-1]) >= BUCKET_BYTES
    return buckets


def _reason(error: BaseException) -> str:
    """The first line of what torch says, without addresses of its own sources."""
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return line.split("] ", 1)[-1].split(". ")[0][:120]
