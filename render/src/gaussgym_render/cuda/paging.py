"""Scenes that take turns in a fixed amount of device memory, read by way of pinned host memory and a stream for copies.

The policy is that of `gaussgym_render.paging.ScenePool`. A thread reads a packed file into pinned memory, then enqueues copies
on a stream of their own; the host waits for none of them. Events keep the order: copies over a scene that gave way wait for the
last call that used it, and a call waits for the copies of its own scenes, on the device.

Which scenes a call may need is known to the host, since that is where they are read from. A camera that turns out to be in
another one is left out and counted, on the device.
"""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)
from gaussgym_scene import InputError
from numpy.typing import NDArray

from gaussgym_render.arrays import to_numpy, version_of
from gaussgym_render.atlas import CHUNK, CHUNK_ARRAYS, NUM_SHAPE
from gaussgym_render.cuda.copies import CopyStream, PlainCopies
from gaussgym_render.cuda.device_atlas import DeviceAtlas, Scenes, nested_boxes, tree_parents
from gaussgym_render.packed import PackedCache, PackedScene, rest_shape
from gaussgym_render.paging import PoolAtlas, ScenePool

if TYPE_CHECKING:
    from gaussgym_render.backends import RasterizerCfg
    from gaussgym_render.packed import SceneSource

wp.set_module_options({"enable_backward": False})

_COLUMNS: dict[str, tuple[Any, int]] = {
    "centers_w": (wp.vec3, 1),
    "halves_w": (wp.vec3, 1),
    "sigmas_m": (wp.float32, 1),
    "parents": (wp.int32, 1),
    "lows_w": (wp.vec3d, 1),
    "highs_w": (wp.vec3d, 1),
    "errors_m": (wp.float32, 1),
    "means": (wp.float32, 3 * CHUNK),
    "shapes": (wp.float16, NUM_SHAPE * CHUNK),
    "base_colors": (wp.float16, 3 * CHUNK),
    "source": (wp.int32, CHUNK),
}
"""Arrays of `Scenes` with something for each chunk: their type, and how many a chunk has."""
_READ_STRAIGHT = ("errors_m", "means", "shapes", "base_colors", "source")
"""Those that a packed file holds as they are."""
_MAX_LENGTH = 2**31 - 1
"""Of an array."""


def device_chunk_bytes(num_rest: int, *, labels: bool = False) -> int:
    """Bytes of one chunk in all arrays on the device."""
    columns = sum(wp.types.type_size_in_bytes(dtype) * length for dtype, length in _COLUMNS.values())
    return columns + 2 * int(np.prod(rest_shape(num_rest))) + 4 * CHUNK * labels


class _Staging:
    """Host memory for one scene on its way to the device: pinned where there is a GPU."""

    def __init__(self, chunks: int, rest: int, with_labels: bool, pinned: bool) -> None:
        def make(length: int, dtype: Any) -> Any:
            return wp.empty(length, dtype=dtype, device="cpu", pinned=pinned)

        self.columns = {name: make(chunks * length, dtype) for name, (dtype, length) in _COLUMNS.items()}
        self.rest = make(rest, wp.float16)
        self.labels = make(chunks * CHUNK, wp.int32) if with_labels else None
        self.copied: Any = None  # the event after its last copy


class DeviceScenePool(ScenePool):
    """A `ScenePool` whose arrays lie on a Warp device.

    Args:
        scenes: All scenes, packed.
        budget_bytes: Most that the arrays may take on the device [B].
        cache: Where `scenes` come from; makes damaged files again.
        device: A Warp device.
        num_loaders: Threads that read; each has pinned memory for the largest scene.
        copies: Keeps the order of copies and frames; None: made for the device.

    Attributes:
        device_atlas: What to render from. Its tables of places are brought up to date by `PagedCalls`.
        device_labels: Labels by slot, int32 on the device, -1 for none; empty if no scene has any.

    Raises:
        InputError: A scene does not fit into the budget.
    """

    def __init__(
        self,
        scenes: Sequence[PackedScene],
        budget_bytes: int,
        cache: PackedCache,
        *,
        device: Any,
        num_loaders: int = 1,
        copies: CopyStream | None = None,
    ) -> None:
        self.device = wp.get_device(device)
        kind = CopyStream if self.device.is_cuda else PlainCopies
        self.copies = kind(self.device) if copies is None else copies
        self._ready: dict[int, Any] = {}  # event after a scene's copies, until they are known to be over
        self._calls: dict[int, Any] = {}  # events after calls, until they are known to be over
        self._staging: queue.SimpleQueue[_Staging] = queue.SimpleQueue()
        super().__init__(scenes, budget_bytes, cache, num_loaders=num_loaders)

    def _chunk_bytes(self, max_rest: int, with_labels: bool) -> int:
        return device_chunk_bytes(max_rest, labels=with_labels)

    def _max_chunks(self, max_rest: int) -> int:
        longest = max(NUM_SHAPE * CHUNK, int(np.prod(rest_shape(max_rest))))
        return min(super()._max_chunks(max_rest), _MAX_LENGTH // longest)

    def _make_room(self, max_rest: int, with_labels: bool) -> None:
        capacity, count = self._capacity, len(self._scenes)
        self._max_rest = max_rest
        self.atlas = _places(self._scenes)
        self._last_call = np.full(capacity, -1, np.int64)  # that used a chunk
        on_device = Scenes()
        for name, (dtype, length) in _COLUMNS.items():
            setattr(on_device, name, wp.empty(capacity * length, dtype=dtype, device=self.device))
        on_device.rest = wp.empty(capacity * self._rest_stride, dtype=wp.float16, device=self.device)
        on_device.chunk_ranges = wp.zeros((count, 2), dtype=wp.int32, device=self.device)
        on_device.rest_offsets = wp.zeros(count, dtype=wp.int64, device=self.device)
        on_device.thresholds_px = wp.array(self.atlas.thresholds_px, dtype=wp.float64, device=self.device)
        on_device.num_rest = wp.array(self.atlas.num_rest, dtype=wp.int32, device=self.device)
        slots = capacity * CHUNK if with_labels else 0
        self.device_labels = wp.full(slots, -1, dtype=wp.int32, device=self.device)
        self.labels = self.device_labels
        self.device_atlas = DeviceAtlas(
            on_device, count, max(self.atlas.max_chunks, 1), capacity * self.bytes_per_chunk, self.device
        )
        self.copies.copies_wait(self.copies.after_frame())  # what was filled above
        for _ in range(self._num_loaders):
            self._staging.put(
                _Staging(
                    self.atlas.max_chunks,
                    self.atlas.max_chunks * self._rest_stride,
                    with_labels,
                    self.device.is_cuda,
                )
            )

    def places(self) -> NDArray[np.int64]:
        """Where scenes lie now: first chunk and one past its last, and where its bands begin, `[S, 3]`."""
        with self._changed:
            return np.concatenate([self.atlas.chunk_ranges, self.atlas.rest_offsets[:, None]], 1)

    def begin_frame(self, scenes: Sequence[int]) -> None:
        """Let the device's current stream wait for the copies of pinned scenes."""
        with self._changed:
            for scene in scenes:
                event = self._ready.get(scene)
                if event is None:
                    continue
                if self.copies.is_over(event):
                    del self._ready[scene]
                else:
                    self.copies.frame_waits(event)

    def end_frame(self, scenes: Sequence[int]) -> None:
        """Note that what the current stream was given so far uses pinned scenes; what gives way later waits for it."""
        with self._changed:
            self._calls = {n: event for n, event in self._calls.items() if not self.copies.is_over(event)}
            number = int(self._last_call.max(initial=-1)) + 1
            self._calls[number] = self.copies.after_frame()
            for first, end in self.atlas.chunk_ranges[list(scenes)]:
                self._last_call[first:end] = number

    def _read(self, scene: int, first: int) -> None:
        """Read one scene and enqueue its copies, in a thread of its own."""
        staging = self._staging.get()
        try:
            if staging.copied is not None:
                self.copies.host_waits(staging.copied)
            self._fill(staging, scene, first)
            size = self._sizes[scene]
            with self._changed:
                number = int(self._last_call[first : first + size].max(initial=-1))
                users = [event for n, event in self._calls.items() if n <= number]
            for event in users:
                self.copies.copies_wait(event)
            self._copy(staging, scene, first)
            staging.copied = self.copies.after_copies()
            with self._changed:
                self._ready.pop(scene, None)
                if staging.copied is not None:
                    self._ready[scene] = staging.copied
        finally:
            self._staging.put(staging)

    def _fill(self, staging: _Staging, scene: int, first: int) -> None:
        """Read a scene's file into host memory, and make what only the device's kernels want."""
        packed, chunks = self._scenes[scene], self._sizes[scene]
        views = {name: column.numpy() for name, column in staging.columns.items()}
        arrays = {
            name: np.empty((chunks, *shape), dtype)
            for name, (dtype, shape) in CHUNK_ARRAYS.items()
            if name not in _READ_STRAIGHT
        }
        for name in _READ_STRAIGHT:
            dtype, shape = CHUNK_ARRAYS[name]
            length = chunks * int(np.prod(shape, initial=1))
            arrays[name] = views[name][:length].view(dtype).reshape(chunks, *shape)
        rest = staging.rest.numpy()[: chunks * int(np.prod(rest_shape(packed.num_rest)))]
        labels = None if staging.labels is None else staging.labels.numpy()[: chunks * CHUNK]
        self._read_packed(scene, arrays, rest, labels)
        parents = tree_parents(np.array([[0, chunks]]), arrays["skip"])
        views["lows_w"][:chunks], views["highs_w"][:chunks] = nested_boxes(arrays["bounds_w"], parents)
        views["parents"][:chunks] = np.where(parents >= 0, parents + first, -1)
        views["centers_w"][:chunks] = arrays["bounds_w"][:, :3]
        views["halves_w"][:chunks] = arrays["bounds_w"][:, 3:6]
        views["sigmas_m"][:chunks] = arrays["bounds_w"][:, 6]

    def _copy(self, staging: _Staging, scene: int, first: int) -> None:
        """Enqueue the copies of a scene that was read."""
        chunks, stream = self._sizes[scene], self.copies.stream
        target = self.device_atlas.scenes
        for name, (_, length) in _COLUMNS.items():
            wp.copy(
                getattr(target, name),
                staging.columns[name],
                dest_offset=first * length,
                count=chunks * length,
                stream=stream,
            )
        if count := chunks * int(np.prod(rest_shape(self._scenes[scene].num_rest))):
            wp.copy(
                target.rest, staging.rest, dest_offset=first * self._rest_stride, count=count, stream=stream
            )
        if staging.labels is not None:
            wp.copy(
                self.device_labels,
                staging.labels,
                dest_offset=first * CHUNK,
                count=chunks * CHUNK,
                stream=stream,
            )


def _places(scenes: Sequence[PackedScene]) -> PoolAtlas:
    """An atlas that says where scenes lie, and holds nothing of them."""
    count = len(scenes)
    nothing = {name: np.empty((0, *shape), dtype) for name, (dtype, shape) in CHUNK_ARRAYS.items()}
    return PoolAtlas(
        **{**nothing, "source": nothing["source"].reshape(-1)},
        chunk_ranges=np.zeros((count, 2), np.int64),
        thresholds_px=np.array([scene.threshold_px for scene in scenes], np.float64),
        rest=np.empty(0, np.float16),
        rest_offsets=np.zeros(count, np.int64),
        num_rest=np.array([scene.num_rest for scene in scenes], np.int64),
        num_splats=np.array([scene.num_splats for scene in scenes], np.int64),
        largest=max((scene.num_chunks for scene in scenes), default=0),
    )


def make_paged(
    sources: Sequence[SceneSource], cfg: RasterizerCfg, device: Any, *, num_loaders: int = 2
) -> PagedCalls:
    """Calls of scenes that take turns within `cfg.memory_budget_bytes` on a Warp device.

    Raises:
        InputError: A scene cannot be read, is larger than the budget, or has levels of detail that need antialiasing.
    """
    from gaussgym_render.backends import LEVELS_ALIASED

    cache = PackedCache(cfg.cache_dir)
    scenes = cache.pack_all(sources, cfg.sh_degree)
    if not cfg.antialiased and any(scene.levels for scene in scenes):
        raise InputError(LEVELS_ALIASED)
    budget = cfg.memory_budget_bytes or 0
    return PagedCalls(DeviceScenePool(scenes, budget, cache, device=device, num_loaders=num_loaders))


@wp.kernel
def set_places(table: wp.array2d[wp.int64], scenes: Scenes) -> None:
    """Say where scenes lie, from `table [S, 4]`: first chunk, one past the last, first of the bands, whether it may be used."""
    s = wp.tid()
    scenes.chunk_ranges[s, 0] = int(table[s, 0])
    scenes.chunk_ranges[s, 1] = int(table[s, 1])
    scenes.rest_offsets[s] = table[s, 2]


@wp.kernel
def choose(
    table: wp.array2d[wp.int64],
    scene_ids: wp.array[Any],
    due: wp.array[wp.bool],
    chosen: wp.array[wp.bool],
) -> None:
    """Which cameras `[C]` are rendered with the scenes of a group: those that are due (empty: all) and in one of them."""
    c = wp.tid()
    chosen[c] = False
    if due.shape[0] > 0 and not due[c]:
        return
    scene = int(scene_ids[c])
    if scene >= 0 and scene < table.shape[0]:
        chosen[c] = table[scene, 3] != wp.int64(0)


@wp.kernel
def count_missed(
    announced: wp.array[wp.bool],
    scene_ids: wp.array[Any],
    due: wp.array[wp.bool],
    missed: wp.array[int],
) -> None:
    """Count cameras that are due but in a scene that the host was not told of, into `missed [1]`."""
    c = wp.tid()
    if due.shape[0] > 0 and not due[c]:
        return
    scene = int(scene_ids[c])
    if scene >= 0 and scene < announced.shape[0] and announced[scene]:
        return
    wp.atomic_add(missed, 0, 1)


for _kind in (wp.int32, wp.int64):
    wp.overload(choose, {"scene_ids": wp.array[_kind]})
    wp.overload(count_missed, {"scene_ids": wp.array[_kind]})


class _Table:
    """A table on the device that the host rewrites: two pinned copies take turns, so that none is changed while it is copied."""

    def __init__(self, rows: int, columns: int, pool: DeviceScenePool) -> None:
        self._copies, pinned = pool.copies, pool.device.is_cuda
        self.on_device = wp.zeros((rows, columns), dtype=wp.int64, device=pool.device)
        self._hosts = [
            wp.zeros((rows, columns), dtype=wp.int64, device="cpu", pinned=pinned) for _ in range(2)
        ]
        self._copied: list[Any] = [None, None]
        self._turn = 0

    def set(self, values: NDArray[np.int64]) -> bool:
        """Enqueue a copy on the current stream if the values differ from the last ones; returns whether they do."""
        if np.array_equal(self._hosts[self._turn].numpy(), values):
            return False
        self._turn ^= 1
        if self._copied[self._turn] is not None:
            self._copies.host_waits(self._copied[self._turn])
        self._hosts[self._turn].numpy()[:] = values
        wp.copy(self.on_device, self._hosts[self._turn])
        self._copied[self._turn] = self._copies.after_frame()
        return True


class PagedCalls:
    """Renders calls in groups of scenes that are in the pool together, while the next ones are read.

    Args:
        pool: The scenes.

    Attributes:
        missed: How many due cameras were in a scene that their call did not announce, int32 `[1]` on the device.
    """

    def __init__(self, pool: DeviceScenePool) -> None:
        self.pool = pool
        count = len(pool.atlas.num_splats)
        self._table, self._announced = (
            _Table(count, 4, pool),
            wp.zeros(count, dtype=wp.bool, device=pool.device),
        )
        self._last_announced: list[int] = []
        self._looked_at: tuple[Any, Any, list[int]] = None, None, []
        self._chosen = wp.zeros(0, dtype=wp.bool, device=pool.device)
        self.missed = wp.zeros(1, dtype=wp.int32, device=pool.device)
        self._last: Any = None  # event after the last call, which the next one's tables must not overtake

    def render(self, scenes: Sequence[int], scene_ids: Any, due: Any, draw: Callable[[Any], None]) -> None:
        """Render a call on the device's current stream.

        Args:
            scenes: Those that its cameras may be in.
            scene_ids: Scene of each camera on the device, int32 or int64 `[C]`.
            due: Which cameras to render, bool `[C]`; empty: all.
            draw: Renders the cameras of a mask, bool `[C]`, whose scenes are then in the pool's `device_atlas`.

        Raises:
            InputError: A scene cannot be read, or the call is being captured.
        """
        pool, count = self.pool, scene_ids.shape[0]
        if pool.device.is_capturing:
            raise InputError(
                "found a renderer whose scenes take turns in a captured graph; expected one that holds them all"
            )
        if self._chosen.shape[0] != count:
            self._chosen = wp.zeros(count, dtype=wp.bool, device=pool.device)
        if self._last is not None:
            pool.copies.frame_waits(self._last)
        left, first = sorted(set(scenes)), True
        self._announce(left)
        self._launch(count_missed, count, [self._announced, scene_ids, due, self.missed])
        pool.begin_call()
        while left:
            group = pool.take(left, first=first)
            try:
                self._set_places(group)
                pool.begin_frame(group)
                self._launch(choose, count, [self._table.on_device, scene_ids, due, self._chosen])
                draw(self._chosen)
                pool.end_frame(group)
            finally:
                pool.give_back(group)
            left, first = [scene for scene in left if scene not in set(group)], False
        self._last = pool.copies.after_frame()

    def scenes_of(self, scene_ids: Any) -> list[int]:
        """The scenes that an array `[C]` on the device names, ascending.

        Looks at it on the host, which waits for the device; but not if it is the very tensor that was looked at last and nobody
        has written to it since by torch. (What is written to its memory in other ways shows in `missed`.)
        """
        version = version_of(scene_ids)
        if version is None or self._looked_at[0] is not scene_ids or self._looked_at[1] != version:
            array = scene_ids if isinstance(scene_ids, wp.array) else to_numpy(scene_ids, None)
            values = np.unique(array.numpy() if isinstance(array, wp.array) else array)
            valid = values[(values >= 0) & (values < self._announced.shape[0])]
            self._looked_at = scene_ids, version, valid.tolist()
        return self._looked_at[2]

    def _launch(self, kernel: Any, dim: int, inputs: list[Any]) -> None:
        wp.launch(kernel, dim, inputs, device=self.pool.device)

    def _announce(self, scenes: list[int]) -> None:
        """Tell the device which scenes a call may need, where that changed."""
        if scenes != self._last_announced:
            self._last_announced = scenes
            flags = np.zeros(self._announced.shape[0], bool)
            flags[scenes] = True
            self._announced.assign(flags)

    def _set_places(self, group: list[int]) -> None:
        """Tell the device where scenes lie, and which of them may be used, where that changed."""
        values = np.zeros((len(self.pool.atlas.num_splats), 4), np.int64)
        values[:, :3] = self.pool.places()
        values[group, 3] = 1
        if self._table.set(values):
            self._launch(set_places, len(values), [self._table.on_device, self.pool.device_atlas.scenes])
