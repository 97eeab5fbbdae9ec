"""Scenes that take turns in a fixed amount of memory while frames are rendered.

`ScenePool` owns an atlas with room for a fixed number of chunks. A scene occupies a contiguous run of them; when one has to
come in, the run goes where what it displaces was used longest ago (any number of smaller scenes, or part of a free stretch).
Threads of its own read packed files straight into the arrays, with the interpreter lock released. A scene in use is pinned:
nothing moves or overwrites it. `PagedRasterizer` renders a call in groups of scenes that are in memory together, while the next
ones are read.

An image does not depend on where its scene lies or on what else is in memory, so paging changes none.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from gaussgym_scene import GaussgymError, InputError
from numpy.typing import NDArray

from gaussgym_render.atlas import CHUNK, CHUNK_ARRAYS, Atlas
from gaussgym_render.packed import DamagedError, PackedCache, PackedScene, chunk_bytes, rest_shape

_ABSENT, _LOADING, _RESIDENT = range(3)
_NEVER = -1
_MAX_CHUNKS = (1 << 31) // CHUNK - 1  # rasterizers count splats' places in 32 bits


@dataclass
class PagingStats:
    """What paging did since the renderer was made.

    Attributes:
        calls: Render calls.
        hits: Scenes that a call needed and found in memory.
        misses: Scenes that a call needed and did not.
        loads: Scenes read, for a call or ahead of one.
        evictions: Scenes that gave up their place.
        waits: Times that a call had nothing to render before a scene was read.
        wait_s: How long all of these took [s].
        bytes_resident: Of the scenes in memory now.
        bytes_capacity: Of the arrays.
    """

    calls: int = 0
    hits: int = 0
    misses: int = 0
    loads: int = 0
    evictions: int = 0
    waits: int = 0
    wait_s: float = 0.0
    bytes_resident: int = 0
    bytes_capacity: int = 0


@dataclass
class PoolAtlas(Atlas):
    """An atlas whose scenes come and go; `chunk_ranges` and `rest_offsets` hold for those that are in."""

    largest: int = 0

    @property
    def max_chunks(self) -> int:
        """Chunks of the largest scene, in or out."""
        return self.largest


class ScenePool:
    """Room for a fixed number of chunks, and the threads that fill it.

    Args:
        scenes: All scenes, packed.
        budget_bytes: Most that the arrays may take [B].
        cache: Where `scenes` come from; makes damaged files again.
        num_loaders: Threads that read.

    Attributes:
        atlas: What to render from; only scenes between `take` and `give_back` may be read.
        labels: Labels by the atlas's slots, int32 `[slots]`, -1 for none; empty if no scene has any.

    Raises:
        InputError: A scene does not fit into the budget.
    """

    def __init__(
        self, scenes: Sequence[PackedScene], budget_bytes: int, cache: PackedCache, *, num_loaders: int = 1
    ) -> None:
        self._scenes, self._cache, self._num_loaders = list(scenes), cache, num_loaders
        self._sizes = [scene.num_chunks for scene in scenes]
        max_rest = max((scene.num_rest for scene in scenes), default=0)
        with_labels = any(scene.labels for scene in scenes)
        per_chunk = self._chunk_bytes(max_rest, with_labels)
        self._capacity = min(budget_bytes // per_chunk, sum(self._sizes), self._max_chunks(max_rest))
        largest = int(np.argmax(self._sizes))
        if self._sizes[largest] > self._capacity:
            raise InputError(
                f"scene {largest} ({scenes[largest].num_splats} splats) takes {self._sizes[largest] * per_chunk} bytes, "
                f"the memory budget is {budget_bytes}; give more, or fewer colour bands with sh_degree"
            )
        self.bytes_per_chunk = per_chunk
        self._rest_stride = int(np.prod(rest_shape(max_rest)))
        self._make_room(max_rest, with_labels)
        self._state = [_ABSENT if size else _RESIDENT for size in self._sizes]
        self._pins, self._errors = [0] * len(scenes), {}
        self._last_use = [_NEVER] * len(scenes)
        self._runs: list[tuple[int, int]] = []  # (first chunk, scene), ascending
        self._clock = 0
        self._stats = PagingStats(bytes_capacity=self._capacity * per_chunk)
        self._start_threads()

    def _chunk_bytes(self, max_rest: int, with_labels: bool) -> int:
        """What a chunk takes."""
        return chunk_bytes(max_rest, labels=with_labels)

    def _max_chunks(self, max_rest: int) -> int:
        """Most chunks that can be told apart."""
        return _MAX_CHUNKS

    def _make_room(self, max_rest: int, with_labels: bool) -> None:
        """Make the arrays."""
        self.atlas = _empty_atlas(self._scenes, self._capacity, max_rest)
        self.labels = np.full(self._capacity * CHUNK if with_labels else 0, -1, np.int32)

    def _start_threads(self) -> None:
        self._changed = threading.Condition()
        self._loaders = ThreadPoolExecutor(self._num_loaders, thread_name_prefix="scenes")
        self._pid = os.getpid()

    def _check_process(self) -> None:
        """A forked child has none of its parent's threads: what these were reading or rendering is not."""
        if self._pid != os.getpid():
            self._start_threads()
            self._pins = [0] * len(self._scenes)
            for first, scene in list(self._runs):
                if self._state[scene] == _LOADING:
                    self._drop(first, scene)

    @property
    def stats(self) -> PagingStats:
        """A copy of the counters."""
        self._check_process()
        with self._changed:
            chunks = sum(self._sizes[s] for _, s in self._runs if self._state[s] == _RESIDENT)
            return replace(self._stats, bytes_resident=chunks * self.bytes_per_chunk)

    def bytes_of(self, scenes: Iterable[int]) -> int:
        """What scenes take while they are in memory."""
        return sum(self._sizes[s] for s in scenes) * self.bytes_per_chunk

    def is_resident(self, scene: int) -> bool:
        """Whether a scene is in memory."""
        self._check_process()
        with self._changed:
            return self._state[scene] == _RESIDENT

    def prefetch(self, scenes: Iterable[int]) -> None:
        """Start reading scenes that calls to come will need, as far as there is room.

        No room is made at the cost of scenes that the last call used or that were prefetched since. An error is kept for the call
        that needs the scene.
        """
        self._check_process()
        with self._changed:
            for scene in scenes:
                self._last_use[scene] = max(self._last_use[scene], self._clock)
                if self._state[scene] == _ABSENT and scene not in self._errors:
                    self._load_if_room(scene, spared_since=self._clock)

    def begin_call(self) -> None:
        """A new call: what it uses counts as used later than what earlier ones did."""
        self._check_process()
        with self._changed:
            self._clock += 1
            self._stats.calls += 1

    def take(self, wanted: Sequence[int], *, first: bool = True) -> list[int]:
        """Pin those of some scenes that are in memory, and start reading the others; waits if none is.

        Args:
            wanted: At least one scene, distinct.
            first: Whether the call asks for these scenes for the first time.

        Returns:
            The pinned scenes, for `give_back`.

        Raises:
            InputError: One of them cannot be read.
        """
        self._check_process()
        began = None
        with self._changed:
            while True:
                self._raise_errors(wanted)
                ready = [s for s in wanted if self._state[s] == _RESIDENT]
                for scene in ready:
                    self._pins[scene] += 1
                for scene in wanted:
                    self._last_use[scene] = self._clock
                    if self._state[scene] == _ABSENT:
                        self._load_if_room(scene)
                if first:
                    first = False
                    self._stats.hits += len(ready)
                    self._stats.misses += len(wanted) - len(ready)
                if ready:
                    break
                began = time.perf_counter() if began is None else began
                self._changed.wait()
            if began is not None:
                self._stats.waits += 1
                self._stats.wait_s += time.perf_counter() - began
            return ready

    def give_back(self, scenes: Iterable[int]) -> None:
        """Unpin scenes."""
        with self._changed:
            for scene in scenes:
                self._pins[scene] -= 1
            self._changed.notify_all()

    def _raise_errors(self, wanted: Sequence[int]) -> None:
        """Raise what reading a scene met; the next call tries again."""
        for scene in wanted:
            error = self._errors.pop(scene, None)
            if error is None:
                continue
            if isinstance(error, GaussgymError | OSError):
                raise InputError(f"scene {scene} cannot be paged in: {error}") from error
            raise error

    def _load_if_room(self, scene: int, *, spared_since: int | None = None) -> None:
        """Make room and start reading; neither pinned nor half-read scenes give way, nor those used since a time."""

        def age(other: int) -> int | None:
            if self._pins[other] or self._state[other] == _LOADING:
                return None
            return (
                None
                if spared_since is not None and self._last_use[other] >= spared_since
                else self._last_use[other]
            )

        place = find_place(self._sizes[scene], list(self._stretches()), age)
        if place is None:
            return
        start, evicted = place
        for other in evicted:
            self._drop(next(first for first, s in self._runs if s == other), other)
            self._stats.evictions += 1
        self._runs.append((start, scene))
        self._runs.sort()
        self._state[scene] = _LOADING
        self._loaders.submit(self._load, scene, start)

    def _stretches(self) -> Iterator[tuple[int, int, int | None]]:
        """The room from end to end: first chunk, length, and the scene or None where it is free."""
        at = 0
        for first, scene in self._runs:
            if first > at:
                yield at, first - at, None
            yield first, self._sizes[scene], scene
            at = first + self._sizes[scene]
        if at < self._capacity:
            yield at, self._capacity - at, None

    def _drop(self, first: int, scene: int) -> None:
        self._runs.remove((first, scene))
        self._state[scene] = _ABSENT
        self.atlas.chunk_ranges[scene] = 0

    def _load(self, scene: int, first: int) -> None:
        """Read one scene into its run, in a thread of its own."""
        error: BaseException | None = None
        try:
            self._read(scene, first)
        except BaseException as problem:  # of any kind: the call that needs the scene raises it
            error = problem
        with self._changed:
            if error is None:
                self.atlas.chunk_ranges[scene] = first, first + self._sizes[scene]
                self.atlas.rest_offsets[scene] = first * self._rest_stride
                self._state[scene] = _RESIDENT
                self._stats.loads += 1
            else:
                self._drop(first, scene)
                self._errors[scene] = error
            self._changed.notify_all()

    def _read(self, scene: int, first: int) -> None:
        packed, atlas = self._scenes[scene], self.atlas
        chunks = slice(first, first + packed.num_chunks)
        arrays = {name: getattr(atlas, name)[chunks] for name in CHUNK_ARRAYS if name != "source"}
        slots = slice(CHUNK * chunks.start, CHUNK * chunks.stop)
        arrays["source"] = atlas.source[slots]
        labels = self.labels[slots] if len(self.labels) else None
        at = first * self._rest_stride
        rest = atlas.rest[at : at + packed.num_chunks * int(np.prod(rest_shape(packed.num_rest)))]
        self._read_packed(scene, arrays, rest, labels)

    def _read_packed(
        self,
        scene: int,
        arrays: dict[str, NDArray[Any]],
        rest: NDArray[np.float16],
        labels: NDArray[np.int32] | None,
    ) -> None:
        """Fill arrays from a scene's file, which is made again if it is missing or damaged."""
        packed, in_order = self._scenes[scene], {name: arrays[name] for name in CHUNK_ARRAYS}
        try:
            packed.read_into(in_order, rest, labels)
        except (FileNotFoundError, DamagedError):
            self._scenes[scene] = self._cache.repack(packed)
            self._scenes[scene].read_into(in_order, rest, labels)


class _Age(Protocol):
    def __call__(self, scene: int, /) -> int | None:
        """When a scene was last used; None: it stays."""
        ...


def find_place(
    size: int, stretches: Sequence[tuple[int, int, int | None]], age: _Age
) -> tuple[int, list[int]] | None:
    """Where a run displaces what was used longest ago.

    Of all places that begin where a stretch does, the one whose most recently used scene was used longest ago; of equal ones the
    one that displaces fewest chunks, then the first.

    Args:
        size: Chunks, at least 1.
        stretches: First chunk, length and scene (None: free), without gaps, ascending.
        age: When a scene was last used, or None if it must stay.

    Returns:
        The first chunk and the scenes to displace; None if there is no such place.
    """
    ages = [_NEVER - 1 if scene is None else age(scene) for _, _, scene in stretches]
    best: tuple[int, int, int, int] | None = None  # newest, displaced chunks, first, end
    for begin in range(len(stretches)):
        length, newest, displaced, end = 0, _NEVER - 1, 0, begin
        while length < size and end < len(stretches):
            used = ages[end]
            if used is None or (best is not None and used > best[0]):
                break
            length += stretches[end][1]
            newest = max(newest, used)
            displaced += 0 if stretches[end][2] is None else stretches[end][1]
            end += 1
        if length >= size and (best is None or (newest, displaced) < best[:2]):
            best = (newest, displaced, begin, end)
    if best is None:
        return None
    chosen = stretches[best[2] : best[3]]
    return chosen[0][0], [scene for _, _, scene in chosen if scene is not None]


class _Renders(Protocol):
    num_visible: NDArray[np.int64]

    def render(self, *args: Any, **options: Any) -> None: ...


class PagedRasterizer:
    """A rasterizer of a pool's atlas behind the interface of one whose scenes are all in memory.

    Args:
        pool: The scenes.
        rasterizer: Made for `pool.atlas`.

    Attributes:
        num_visible: As that of `rasterizer`, of the last group of a call.
    """

    def __init__(self, pool: ScenePool, rasterizer: _Renders) -> None:
        self.pool, self._rasterizer = pool, rasterizer
        self._one_call = threading.Lock()

    @property
    def num_visible(self) -> NDArray[np.int64]:
        """See the class."""
        return self._rasterizer.num_visible

    def render(
        self,
        c2w: NDArray[np.float64],
        ks: NDArray[np.float64],
        scene_ids: NDArray[np.int64],
        cameras: NDArray[np.int64],
        *args: Any,
        **options: Any,
    ) -> None:
        """See `gaussgym_render.cpu.CpuRasterizer.render`.

        Raises:
            InputError: A scene cannot be read.
        """
        with self._one_call:
            self.pool.begin_call()
            owner = scene_ids[cameras]
            left, first = np.unique(owner).tolist(), True
            while left:
                group = self.pool.take(left, first=first)
                try:
                    mine = cameras if len(group) == len(left) and first else cameras[np.isin(owner, group)]
                    self._rasterizer.render(c2w, ks, scene_ids, mine, *args, **options)
                finally:
                    self.pool.give_back(group)
                left, first = [scene for scene in left if scene not in set(group)], False


def _empty_atlas(scenes: Sequence[PackedScene], capacity: int, max_rest: int) -> PoolAtlas:
    """An atlas with room for some chunks; pages of memory that were never written take none."""
    arrays = {name: np.empty((capacity, *shape), dtype) for name, (dtype, shape) in CHUNK_ARRAYS.items()}
    count = len(scenes)
    return PoolAtlas(
        **{**arrays, "source": arrays["source"].reshape(-1)},
        chunk_ranges=np.zeros((count, 2), np.int64),
        thresholds_px=np.array([scene.threshold_px for scene in scenes], np.float64),
        rest=np.empty(capacity * int(np.prod(rest_shape(max_rest))), np.float16),
        rest_offsets=np.zeros(count, np.int64),
        num_rest=np.array([scene.num_rest for scene in scenes], np.int64),
        num_splats=np.array([scene.num_splats for scene in scenes], np.int64),
        largest=max((scene.num_chunks for scene in scenes), default=0),
    )
