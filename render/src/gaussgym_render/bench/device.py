"""Timing on a GPU: events around calls, medians and spread, single kernels, memory, and whether a call waits for the device.

On a CPU device the same functions use the host's clock, so that what a machine with a GPU is to run once can be rehearsed
without one; what only a GPU can answer is None there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

WARM_UP = 3
SLEEP_CYCLES = 1_000_000_000
"""Keeps the device busy while a call is looked at: about half a second."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Time of one call [ms]: median over the repeats, and their spread.

    Attributes:
        median_ms: Half of the repeats were faster.
        min_ms: Fastest.
        max_ms: Slowest.
        quartile_ms: A quarter and three quarters were faster.
        repeats: Calls timed, each on its own.
    """

    median_ms: float
    min_ms: float
    max_ms: float
    quartile_ms: tuple[float, float]
    repeats: int

    @classmethod
    def of(cls, milliseconds: Any) -> Timing:
        """Summary of single times [ms]."""
        ms = np.asarray(milliseconds, np.float64)
        low, high = np.percentile(ms, [25, 75])
        return cls(
            median_ms=float(np.median(ms)),
            min_ms=float(ms.min()),
            max_ms=float(ms.max()),
            quartile_ms=(float(low), float(high)),
            repeats=len(ms),
        )


def on_gpu(device: Any) -> bool:
    """Whether a torch device is a GPU."""
    return torch.device(device).type == "cuda"


def numbered(device: Any) -> torch.device:
    """The device with its number: Warp knows no other."""
    found = torch.device(device)
    if found.type != "cuda" or found.index is not None:
        return found
    return torch.device("cuda", torch.cuda.current_device())


def synchronize(device: Any) -> None:
    """Wait for a device."""
    if on_gpu(device):
        torch.cuda.synchronize(device)


def time_calls(
    call: Callable[[], object],
    device: Any,
    *,
    seconds: float = 1.0,
    repeats: tuple[int, int] = (5, 50),
    warm_up: int = WARM_UP,
) -> Timing:
    """Time calls, each by a pair of events on the current stream.

    Args:
        call: What to time; launches work and does not wait for it.
        device: Where it runs.
        seconds: Time to spend on it, as far as the bounds on repeats allow [s].
        repeats: Fewest and most repeats.
        warm_up: Calls before, which compile, allocate and record.
    """
    for _ in range(warm_up):
        call()
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    count = int(np.clip(seconds / max(time.perf_counter() - start, 1e-6), *repeats))
    if not on_gpu(device):
        return Timing.of([1e3 * _host_seconds(call) for _ in range(count)])
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for begin, end in events:
        begin.record()
        call()
        end.record()
    synchronize(device)
    return Timing.of([begin.elapsed_time(end) for begin, end in events])


def _host_seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_in_turns(
    calls: dict[str, Callable[[], object]], device: Any, *, seconds: float, rounds: int = 5
) -> dict[str, Timing]:
    """Time several calls in turns, so that a drift of the clocks reaches all alike.

    Args:
        calls: By name.
        device: Where they run.
        seconds: For each in all [s].
        rounds: Turns.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name, call in calls.items():
            timing = time_calls(
                call, device, seconds=seconds / rounds, repeats=(1, 10), warm_up=WARM_UP if turn == 0 else 1
            )
            times[name].append(timing.median_ms)
    return {name: Timing.of(values) for name, values in times.items()}


def kernel_times(call: Callable[[], object], device: Any, *, repeats: int = 5) -> dict[str, dict[str, float]]:
    """Device time of a call by kernel, copies and fills included, longest first: `{name: {"ms": …, "launches": …}}` per call.

    On a GPU torch's profiler sees every kernel, those of Warp and of graphs too. On a CPU the launches of Warp are timed one by
    one.
    """
    call()
    synchronize(device)
    rows = _profiled(call, repeats) if on_gpu(device) else _launched(call, repeats)
    rows = {name: {"ms": ms / repeats, "launches": count / repeats} for name, (ms, count) in rows.items()}
    return dict(sorted(rows.items(), key=lambda item: -item[1]["ms"]))


def _profiled(call: Callable[[], object], repeats: int) -> dict[str, tuple[float, int]]:
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    rows: dict[str, tuple[float, int]] = {}
    for event in profiler.events() or []:
        if event.device_type == DeviceType.CUDA:
            ms, count = rows.get(event.name, (0.0, 0))
            rows[event.name] = (ms + event.time_range.elapsed_us() / 1e3, count + 1)
    return rows or _timed_by_warp(call, repeats)


def _timed_by_warp(call: Callable[[], object], repeats: int) -> dict[str, tuple[float, int]]:
    """By Warp's own events, where the profiler sees nothing; a graph is one entry then, and what is not Warp's is missing."""
    import warp as wp

    wp.timing_begin()
    for _ in range(repeats):
        call()
    rows: dict[str, tuple[float, int]] = {}
    for result in wp.timing_end():
        ms, count = rows.get(result.name, (0.0, 0))
        rows[result.name] = (ms + result.elapsed, count + 1)
    return rows


def _launched(call: Callable[[], object], repeats: int) -> dict[str, tuple[float, int]]:
    import warp as wp

    rows: dict[str, tuple[float, int]] = {}

    def timed(real: Callable[..., Any], name_of: Callable[..., str]) -> Callable[..., Any]:
        def launch(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = real(*args, **options)
            name = name_of(*args, **options)
            ms, count = rows.get(name, (0.0, 0))
            rows[name] = (ms + 1e3 * (time.perf_counter() - start), count + 1)
            return result

        return launch

    def kernel_name(*args: Any, **options: Any) -> str:
        return (args[0] if args else options["kernel"]).key

    with (
        _replaced(wp, "launch", timed(wp.launch, kernel_name)),
        _replaced(wp, "launch_tiled", timed(wp.launch_tiled, kernel_name)),
        _replaced(wp.Launch, "launch", timed(wp.Launch.launch, lambda self, *_, **__: self.kernel.key)),
    ):
        for _ in range(repeats):
            call()
    return rows


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def waits_for_device(call: Callable[[], object], device: Any) -> bool | None:
    """Whether a call waits for the device, None on a CPU.

    The device is put to sleep first: a call that returns while it still sleeps has waited for nothing.
    """
    if not on_gpu(device):
        return None
    for _ in range(WARM_UP):
        call()
    torch.cuda.synchronize(device)
    awake = torch.cuda.Event()
    torch.cuda._sleep(SLEEP_CYCLES)
    awake.record()
    call()
    waited = awake.query()
    torch.cuda.synchronize(device)
    return waited


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of a device [B].

    Attributes:
        used_bytes: In use on the whole device, by anyone.
        torch_bytes: Allocated through torch, now.
        torch_allocations: Through torch, ever.
        warp_bytes: Allocated from Warp's pool, now.
        warp_high_bytes: The most that was.
    """

    used_bytes: int
    torch_bytes: int
    torch_allocations: int
    warp_bytes: int
    warp_high_bytes: int


def memory_of(device: Any) -> Memory | None:
    """What is in use, None on a CPU."""
    if not on_gpu(device):
        return None
    import warp as wp

    wp.init()
    free, total = torch.cuda.mem_get_info(device)
    stats, pool = torch.cuda.memory_stats(device), wp.device_from_torch(numbered(device))
    return Memory(
        used_bytes=total - free,
        torch_bytes=stats.get("allocated_bytes.all.current", 0),
        torch_allocations=stats.get("allocation.all.allocated", 0),
        warp_bytes=wp.get_mempool_used_mem_current(pool),
        warp_high_bytes=wp.get_mempool_used_mem_high(pool),
    )


def allocates(call: Callable[[], object], device: Any, *, calls: int = 10) -> dict[str, int] | None:
    """What so many calls allocate after warm-up, None on a CPU: allocations through torch, and bytes on the device."""
    for _ in range(WARM_UP):
        call()
    synchronize(device)
    before = memory_of(device)
    for _ in range(calls):
        call()
    synchronize(device)
    after = memory_of(device)
    if before is None or after is None:
        return None
    return {
        "calls": calls,
        "torch_allocations": after.torch_allocations - before.torch_allocations,
        "warp_high_bytes": after.warp_high_bytes - before.warp_high_bytes,
        "device_bytes": after.used_bytes - before.used_bytes,
    }


def measured_ceilings(device: Any, *, seconds: float = 0.5, copy_bytes: int = 2**32) -> dict[str, float]:
    """What the device does at most: a large copy [B/s, read and written], and multiply-adds in single precision [FLOP/s].

    Data is random: zeros can run faster.
    """
    source = torch.randint(0, 255, (copy_bytes // 2,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = time_calls(lambda: target.copy_(source), device, seconds=seconds)
    return {
        "copy_bytes_per_s": 2e3 * source.numel() / copied.median_ms,
        "flop_per_s": _multiply_adds(device, seconds),
    }


def _multiply_adds(device: Any, seconds: float) -> float:
    import warp as wp

    from gaussgym_render.bench import ceiling_kernels as kernels

    wp.init()

    threads = 2**22 if on_gpu(device) else 2**6
    place = wp.device_from_torch(numbered(device))
    out = wp.zeros(threads, dtype=wp.float32, device=place)
    start = wp.array(np.random.default_rng(0).uniform(0.1, 0.9, threads).astype(np.float32), device=place)

    def call() -> None:
        stream = wp.stream_from_torch(torch.cuda.current_stream(device)) if on_gpu(device) else None
        wp.launch(kernels.multiply_adds, threads, [start, kernels.ROUNDS, out], device=place, stream=stream)

    timing = time_calls(call, device, seconds=seconds)
    return 1e3 * threads * kernels.ROUNDS * kernels.FLOP_PER_ROUND / timing.median_ms
