"""`gaussgym_render.robot_camera` on a Warp device: from poses to frames without the host in between.

A frame of C cameras takes the launches of `CameraEffects.render`, in blocks of cameras whose pinhole images fit into
`block_pixels`; their number follows from C alone, so that the host waits for nothing and a CUDA graph can hold all of it.
"""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)
from gaussgym_scene import InputError

from gaussgym_render import sensor
from gaussgym_render.cuda import lens as device_lens
from gaussgym_render.cuda import sensor as device_sensor
from gaussgym_render.cuda import shutter as device_shutter
from gaussgym_render.cuda.appearance import draw_looks, look_ranges
from gaussgym_render.cuda.develop import Images, Optics, count_call, develop, draw_keys
from gaussgym_render.edits import SceneEdits

if TYPE_CHECKING:
    from gaussgym_render.robot_camera import RobotCameraCfg

BLOCK_PIXELS = 1 << 27
"""Pixels of pinhole images that are held at once, 11 B each (15 B with objects); larger batches are rendered in blocks."""
TABLE_BYTES = 1 << 30
"""Most that the lenses' tables may take [B]; cameras beyond it share tables, which are then solved anew in each call."""


@dataclass(frozen=True)
class PathBatch:
    """A block's pinhole images to be rendered, as arrays on the device; J places, of which a mask says which are used.

    Attributes:
        poses: Camera to world, float64 `[J, 4, 4]`.
        ks: float64 `[J, 3, 3]` [px].
        scene_ids: int32 `[J]`.
        due: bool `[J]`.
        rgb: uint8 `[J, Hs, Ws, 3]`, to be written where due.
        depth: float32 `[J, Hs, Ws]`, likewise.
        alpha: float32 `[J, Hs, Ws]`, likewise.
        cameras: Camera of the call of place 0; place p belongs to camera `cameras + p // most`.
        most: Places a camera.
        seen: int32 `[J, Hs, Ws]`, likewise; empty without objects.
        object_offsets: int64 `[J + 1]`; empty without objects.
        object_ids: int64.
        object_poses_w: mat44d.
        edits: How the call's cameras see their scenes, arrays on the device; None: as captured.
    """

    poses: Any
    ks: Any
    scene_ids: Any
    due: Any
    rgb: Any
    depth: Any
    alpha: Any
    cameras: int
    most: int
    seen: Any
    object_offsets: Any
    object_ids: Any
    object_poses_w: Any
    edits: SceneEdits | None


@dataclass(frozen=True, kw_only=True)
class CameraBatch:
    """A call, as arrays on the device; C cameras.

    Attributes:
        poses: Camera to world at the end of the exposure, mat44d `[C]`.
        ks: float64 `[C, 3, 3]` [px].
        scene_ids: int32 `[C]`.
        due: bool `[C]`; empty: all.
        twist_c: float64 `[C, 6]`.
        camera_ids: int64 `[C]`; empty: places in the batch.
        frame_ids: int64 `[C]`; empty: the number of calls so far.
        rgb: uint8 `[C, H, W, 3]`, written.
        depth: float32 `[C, H, W]`, written.
        alpha: float32 `[C, H, W]`, written.
        seen: int32 `[C, H, W]`, written; empty if nobody asks.
        object_offsets: int64 `[C + 1]`; empty without objects.
        object_ids: int64 `[I]`.
        object_poses_w: mat44d `[I]`.
        object_twists: float64 `[I, 6]`; empty: all rest.
        edits: How cameras see their scenes, arrays on the device with `CameraEffects.rows` rows; None: as they draw it.
    """

    poses: Any
    ks: Any
    scene_ids: Any
    due: Any
    twist_c: Any
    camera_ids: Any
    frame_ids: Any
    rgb: Any
    depth: Any
    alpha: Any
    seen: Any
    object_offsets: Any
    object_ids: Any
    object_poses_w: Any
    object_twists: Any
    edits: SceneEdits | None = None

    @property
    def count(self) -> int:
        """C."""
        return self.poses.shape[0]


class CameraEffects:
    """The buffers and launches between poses and frames; what lies in between, pinhole images, `render_path` makes.

    Args:
        cfg: The kind of camera.
        size: Width and height of the frames [px].
        source_size: Width and height of the pinhole images [px].
        seed: Of everything random.
        device: A Warp device.
        render_path: Renders a block's pinhole images.
        block_pixels: See `BLOCK_PIXELS`; None: that.
        table_bytes: See `TABLE_BYTES`.

    Attributes:
        allocations: Buffers made so far; a call that is no larger than an earlier one makes none.
    """

    def __init__(
        self,
        cfg: RobotCameraCfg,
        size: tuple[int, int],
        source_size: tuple[int, int],
        *,
        seed: int,
        device: Any,
        render_path: Callable[[PathBatch], None],
        block_pixels: int | None = None,
        table_bytes: int = TABLE_BYTES,
    ) -> None:
        self.cfg, self.device, self._render_path = cfg, wp.get_device(device), render_path
        self._width, self._height = size
        self._source = source_size
        self._most = 1 if cfg.shutter.ideal else cfg.shutter.max_samples
        block_pixels = BLOCK_PIXELS if block_pixels is None else block_pixels
        self._per_block = max(1, block_pixels // (source_size[0] * source_size[1] * self._most))
        self._tables = max(self._per_block, table_bytes // (8 * (size[0] + 1) * (size[1] + 1)))
        self.allocations = 0
        self._seed_key = int(sensor.child_keys(np.array([seed % 2**64], np.uint64), 0)[0])
        self._calls = wp.zeros(1, dtype=wp.int64, device=self.device)
        self._decode = self._upload(sensor.decode_table(), float)
        self._sensor_ranges = self._upload(device_sensor.sensor_ranges(cfg.sensor), wp.float64)
        self._lens_numbers = self._upload(device_lens.lens_numbers(cfg.lens), wp.float64)
        self._look_ranges = self._upload(look_ranges(cfg.appearance), wp.float64)
        self._looks: SceneEdits | None = None
        self._nothing_seen = wp.zeros((0, 1, 1), dtype=int, device=self.device)
        self._no_offsets = wp.zeros(0, dtype=wp.int64, device=self.device)
        self._capacity = self._object_capacity = 0
        self._with_seen = False
        self.reserve(1)
        self._grow_objects(0)

    def _upload(self, values: np.ndarray, dtype: Any) -> Any:
        return wp.array(values, dtype=dtype, device=self.device)

    def _refuse_capture(self) -> None:
        if self.device.is_capturing:
            raise InputError(
                "found a graph being captured and no room for such a call yet; render it once before capturing"
            )

    def _new(self, shape: Any, dtype: Any) -> Any:
        self._refuse_capture()
        self.allocations += 1
        return wp.zeros(shape, dtype=dtype, device=self.device)

    def rows(self, count: int) -> int:
        """Rows that edits of `count` cameras have: of whole blocks."""
        return (-(-count // self._per_block) - 1) * self._per_block + self._block

    def reserve(self, count: int) -> None:
        """Make room for that many cameras.

        Raises:
            InputError: A graph is being captured: its buffers have to be there before.
        """
        if count <= self._capacity:
            return
        self._refuse_capture()
        wp.synchronize_device(self.device)  # launches that use the old buffers, on whatever stream
        self._capacity = 0  # should memory run out on the way, the next call begins anew
        self._keys, self._frame_keys = self._new(count, wp.uint64), self._new(count, wp.uint64)
        self._focals, self._views = self._new(count, wp.vec4d), self._new(count, wp.vec4f)
        self._times, self._samples = self._new(count, wp.vec2d), self._new(count, int)
        self._sensors = self._new((count, sensor.NUM_PARAMETERS), float)
        self._pinholes = self._focals if self.cfg.lens.ideal else self._new(count, wp.vec4d)
        self._block = block = min(count, self._per_block)
        places = block * self._most
        self._path, self._path_ks = (self._new((places, n, n), wp.float64) for n in (4, 3))
        self._path_scenes, self._path_due = self._new(places, int), self._new(places, wp.bool)
        source_width, source_height = self._source
        self._images = Images()
        self._images.rgb = self._new((places, source_height, source_width, 3), wp.uint8)
        self._images.depth = self._new((places, source_height, source_width), float)
        self._images.alpha = self._new((places, source_height, source_width), float)
        self._images.seen = self._nothing_seen
        self._images.weights = self._new((block, self._height, self._most), float)
        self._images.middles = self._new((block, self._height), int)
        self._curves = self._new((block, sensor.CURVE_SIZE), float)
        self._with_seen = False
        self._grow_tables(min(count, self._tables))
        self._join_optics()
        if not self.cfg.appearance.ideal:
            self._looks = self._new_looks(self.rows(count))
        self._capacity = count

    def _new_looks(self, rows: int) -> SceneEdits:
        """Edits to be drawn, without patches."""
        nothing = [
            wp.zeros(shape, dtype=wp.float64, device=self.device) for shape in ((0, 4, 4), (0, 3), (0, 4))
        ]
        return SceneEdits(
            self._new((rows, 3, 4), wp.float64),
            self._new(rows, wp.float64),
            self._new((rows, 3, 4), wp.float64),
            self._new(rows + 1, wp.int64),
            *nothing,
            wp.zeros(0, dtype=wp.int64, device=self.device),
        )

    def _grow_tables(self, tables: int) -> None:
        """Make room for the tables of that many lenses; none is solved yet."""
        tables = 0 if self.cfg.lens.ideal else tables
        self._num_tables = tables
        self._lenses = self._new((tables, 9), wp.float64)
        self._lenses_single = self._new((tables, 9), float)
        self._changed, self._codes = self._new(tables, wp.bool), self._new(tables, int)
        self._extents = self._new((tables, 4), wp.float64)
        self._rays = self._new((tables, self._height + 1, self._width + 1), wp.vec2f)

    def _join_optics(self) -> None:
        self._optics = Optics()
        for name in ("decode", "rays", "pinholes", "views", "sensors", "frame_keys", "curves"):
            setattr(self._optics, name, getattr(self, f"_{name}"))

    def _grow_objects(self, count: int) -> None:
        """Make room for that many instances in a call, and for the images of which is seen."""
        places = self._path.shape[0]
        if count > self._object_capacity or self._object_capacity == 0:
            self._object_capacity = max(count, self._object_capacity)
            room = self._most * self._object_capacity
            self._path_ids, self._path_poses = self._new(room, wp.int64), self._new(room, wp.mat44d)
            self._path_offsets = self._new(places + 1, wp.int64)
        if self._path_offsets.shape[0] < places + 1:
            self._path_offsets = self._new(places + 1, wp.int64)

    def _launch(self, kernel: Any, dim: Any, inputs: list[Any], block_dim: int = 256) -> None:
        wp.launch(kernel, dim=dim, inputs=inputs, device=self.device, block_dim=block_dim)

    def render(self, batch: CameraBatch) -> None:
        """Render the cameras that are due into the batch's frames, on Warp's current stream."""
        count, cfg = batch.count, self.cfg
        if count == 0:
            self._launch(count_call, 1, [self._calls])
            return
        self.reserve(count)
        with_objects = batch.object_offsets.shape[0] > 0
        if with_objects:
            self._grow_objects(batch.object_ids.shape[0])
        self._launch(
            draw_keys,
            count,
            [
                wp.uint64(self._seed_key), batch.camera_ids, batch.frame_ids, self._calls, batch.ks,
                self._keys, self._frame_keys, self._focals, self._views,
            ],
        )  # fmt: skip
        self._launch(count_call, 1, [self._calls])
        self._launch(
            device_sensor.draw_sensors,
            (count, sensor.NUM_PARAMETERS),
            [self._keys, self._sensor_ranges, self._sensors],
        )
        self._launch(
            device_shutter.draw_times,
            count,
            [
                self._keys, wp.vec4d(*cfg.shutter.exposure_s, *cfg.shutter.readout_s), self._most,
                wp.float64(cfg.shutter.sample_px), batch.twist_c, self._focals, batch.due, self._times, self._samples,
            ],
        )  # fmt: skip
        if self._looks is not None:
            looks = self._looks
            self._launch(
                draw_looks,
                count,
                [self._keys, self._look_ranges, looks.color, looks.view_dependence, looks.light],
            )
        for begin in range(0, count, self._per_block):
            self._render_block(batch, begin, min(self._per_block, count - begin), with_objects)

    def _render_block(self, batch: CameraBatch, begin: int, block: int, with_objects: bool) -> None:
        first_slot = self._solve_lenses(batch, begin, block)
        most, height = self._most, self._height
        self._launch(
            device_shutter.place,
            (self._block, most),
            [
                begin, block, most, batch.poses, batch.twist_c, batch.scene_ids, self._times, self._samples, self._pinholes,
                self._path, self._path_ks, self._path_scenes, self._path_due,
            ],
        )  # fmt: skip
        if with_objects:
            self._place_objects(batch, begin, block)
        edits = self._looks if batch.edits is None else batch.edits
        self._render_path(self._path_batch(begin, with_objects, edits))
        self._launch(
            device_shutter.row_weights,
            (block, height),
            [begin, self._times, self._samples, self._images.weights, self._images.middles],
        )
        self._launch(
            device_sensor.encoding_curves, (block, sensor.CURVE_SIZE), [begin, self._sensors, self._curves]
        )
        self._launch(
            develop,
            (block, height, self._width),
            [
                begin, first_slot, batch.due, self._images, self._optics, batch.object_offsets,
                batch.rgb, batch.depth, batch.alpha, batch.seen,
            ],
        )  # fmt: skip

    def _solve_lenses(self, batch: CameraBatch, begin: int, block: int) -> int:
        """Bring the tables of a block of cameras up to date; returns the camera whose table is the first."""
        if self.cfg.lens.ideal:
            return 0
        first_slot = 0 if self._num_tables >= batch.count else begin
        fisheye = self.cfg.lens.model == "fisheye"
        width, height, first = self._width, self._height, begin - first_slot
        self._launch(
            device_lens.draw_lenses,
            block,
            [
                begin, first_slot, self._keys, self._focals, self._lens_numbers, batch.due, self._lenses,
                self._lenses_single, self._changed, self._extents, self._codes,
            ],
        )  # fmt: skip
        self._launch(
            device_lens.trace_outline,
            (block, 2 * (width + height)),
            [first, fisheye, width, height, self._lenses, self._changed, self._extents, self._codes],
        )
        self._launch(
            device_lens.trace,
            (block, height + 1, width + 1),
            [first, fisheye, self._lenses_single, self._changed, self._rays, self._codes],
        )
        self._launch(
            device_lens.cover, block, [begin, first_slot, *self._source, self._extents, self._pinholes]
        )
        return first_slot

    def _place_objects(self, batch: CameraBatch, begin: int, block: int) -> None:
        self._launch(
            device_shutter.place_objects,
            (self._block, self._most),
            [
                begin, block, self._most, batch.object_offsets, batch.object_ids, batch.object_poses_w, batch.object_twists,
                self._times, self._samples, self._path_offsets, self._path_ids, self._path_poses,
            ],
        )  # fmt: skip
        if batch.seen.shape[0] > 0 and not self._with_seen:
            self._with_seen = True
            self._images.seen = self._new(self._images.depth.shape, int)

    def _path_batch(self, begin: int, with_objects: bool, edits: SceneEdits | None) -> PathBatch:
        images, with_seen = self._images, with_objects and self._with_seen
        return PathBatch(
            self._path, self._path_ks, self._path_scenes, self._path_due, images.rgb, images.depth, images.alpha, begin,
            self._most, images.seen if with_seen else self._nothing_seen,
            self._path_offsets if with_objects else self._no_offsets, self._path_ids, self._path_poses, edits,
        )  # fmt: skip

    def check_lenses(self) -> None:
        """Wait for the device and look at the lenses of the cameras rendered last.

        Raises:
            InputError: One folds back before the corners of the image, or sees further off its axis than a pinhole can.
        """
        codes = self._codes.numpy()
        if not codes.any():
            return
        first = int(np.flatnonzero(codes)[0])
        shown = np.round(self._lenses.numpy()[first], 5).tolist()
        model = self.cfg.lens.model
        problem = (
            "folds back before the corners"
            if codes[first] == device_lens.FOLDED
            else "sees too far off its axis"
        )
        raise InputError(
            f"{model} lens {shown[4:]} with fx, fy, cx, cy {shown[:4]} {problem} in a {self._width}x{self._height} image; "
            "expected a lens that is monotone and within 75° of its axis there"
        )
