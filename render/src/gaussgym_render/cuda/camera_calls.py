"""Calls of `RobotCamera` whose arrays lie on the device of a Warp backend: nothing of them passes through main memory."""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)
from gaussgym_scene import InputError

from gaussgym_render.arrays import Array, device_of
from gaussgym_render.cuda.backend import as_warp, fitting
from gaussgym_render.cuda.extras import new_output, take_edits
from gaussgym_render.cuda.graphs import joined_capture
from gaussgym_render.cuda.robot_camera import CameraBatch, CameraEffects, PathBatch
from gaussgym_render.edits import SceneEdits
from gaussgym_render.objects import Instances, ObjectSet

if TYPE_CHECKING:
    from gaussgym_render.cuda.backend import CudaRasterizer
    from gaussgym_render.renderer import SplatRenderer
    from gaussgym_render.robot_camera import RobotCameraCfg

wp.set_module_options({"enable_backward": False})

_REALS, _INTEGERS = (wp.float32, wp.float64), (wp.int32, wp.int64)


@wp.kernel
def widen_matrices(source: wp.array3d[Any], target: wp.array3d[wp.float64]) -> None:
    """Copy reals `[C, n, m]` as float64."""
    c, i, j = wp.tid()
    target[c, i, j] = wp.float64(source[c, i, j])


@wp.kernel
def widen_rows(source: wp.array2d[Any], target: wp.array2d[wp.float64]) -> None:
    """Copy reals `[C, n]` as float64."""
    c, i = wp.tid()
    target[c, i] = wp.float64(source[c, i])


@wp.kernel
def copy_ids(source: wp.array[Any], target: wp.array[wp.int64]) -> None:
    """Copy integers `[C]` as int64."""
    c = wp.tid()
    target[c] = wp.int64(source[c])


@wp.kernel
def widen_values(source: wp.array[Any], target: wp.array[wp.float64]) -> None:
    """Copy reals `[C]` as float64."""
    c = wp.tid()
    target[c] = wp.float64(source[c])


@wp.kernel
def copy_offsets(source: wp.array[Any], target: wp.array[wp.int64]) -> None:
    """Copy offsets `[C + 1]` as int64, and the last one again for the rows beyond: a launch over those of `target`."""
    r = wp.tid()
    target[r] = wp.int64(source[wp.min(r, source.shape[0] - 1)])


@wp.kernel
def copy_scenes(source: wp.array[Any], target: wp.array[int]) -> None:
    """Copy integers `[C]` as int32."""
    c = wp.tid()
    target[c] = int(source[c])


for _kind in _REALS:
    wp.overload(widen_matrices, {"source": wp.array3d[_kind]})
    wp.overload(widen_rows, {"source": wp.array2d[_kind]})
    wp.overload(widen_values, {"source": wp.array[_kind]})
for _kind in _INTEGERS:
    wp.overload(copy_ids, {"source": wp.array[_kind]})
    wp.overload(copy_offsets, {"source": wp.array[_kind]})
    wp.overload(copy_scenes, {"source": wp.array[_kind]})


class CameraCalls:
    """What `RobotCamera.render` does with arrays on the device.

    Args:
        renderer: Of the pinhole images, with a backend that takes arrays where they lie.
        cfg: The kind of camera.
        size: Width and height of the frames [px].
        seed: Of everything random.

    Attributes:
        effects: The buffers and launches.
    """

    def __init__(
        self, renderer: SplatRenderer, cfg: RobotCameraCfg, size: tuple[int, int], *, seed: int
    ) -> None:
        self._rasterizer: CudaRasterizer = renderer.rasterizer  # type: ignore[assignment]
        self._background, self.device = renderer.background, self._rasterizer.device
        self._width, self._height = size
        self.effects = CameraEffects(
            cfg,
            size,
            (renderer.width, renderer.height),
            seed=seed,
            device=self.device,
            render_path=self._render_path,
        )
        self._scenes: list[int] | None = None  # of a call, where scenes take turns
        self._objects: ObjectSet | None = None  # of a call
        self._held: dict[str, Any] = {}  # inputs as the kernels take them
        self._no_flags = wp.zeros(0, dtype=wp.bool, device=self.device)
        self._no_ids = wp.zeros(0, dtype=wp.int64, device=self.device)
        self._no_poses = wp.zeros(0, dtype=wp.mat44d, device=self.device)
        self._no_twists = wp.zeros((0, 6), dtype=wp.float64, device=self.device)
        self._nothing_seen = wp.zeros((0, 1, 1), dtype=int, device=self.device)
        wp.synchronize_device(
            self.device
        )  # calls may come on other streams than the one that filled the arrays

    def new_seen(self, like: Array) -> Array:
        """An array for the instances that as many cameras see as an array has rows, of its kind, -1 everywhere."""
        shape = (int(like.shape[0]), self._height, self._width)
        return new_output("instances", shape, like, self.device)

    def render(
        self,
        c2w: Array,
        ks: Array,
        scene_ids: Array,
        mask: Array | None,
        out: tuple[Array, Array, Array] | None,
        twist_c: Array | None,
        camera_ids: Array | None,
        frame_ids: Array | None,
        objects: Instances | None,
        edits: SceneEdits | None,
        seen: Array | None,
    ) -> tuple[Array, Array, Array]:
        """Render one image per camera, on the stream of the caller.

        Args:
            c2w: Camera to world `[C, 4, 4]`, float32 or float64; all arrays are on the device.
            ks: `[C, 3, 3]`, likewise.
            scene_ids: int32 or int64 `[C]`.
            mask: bool `[C]` or None.
            out: rgb, depth and alpha to write into; None: new ones of the kind of `c2w`.
            twist_c: `[C, 6]` or None.
            camera_ids: int32 or int64 `[C]` or None.
            frame_ids: Likewise.
            objects: With arrays on the device, or None.
            edits: Likewise.
            seen: Instances to write into, int32 `[C, H, W]`, or None.

        Returns:
            rgb uint8 `[C, H, W, 3]`, depth and alpha float32 `[C, H, W]`.

        Raises:
            InputError: On wrong shapes, types or devices; while a graph is captured, without room yet; in the first call of a
                size, also on a lens that no pinhole covers.
        """
        count = int(c2w.shape[0])
        shape = (count, self._height, self._width)
        with self._rasterizer.stream_of(c2w):
            given = self._new_frames(shape, c2w) if out is None else out
            frames = [
                self._array(
                    f"out.{name}", array, (*shape, 3) if name == "rgb" else shape, (dtype,), packed=True
                )
                for name, array, dtype in zip(
                    ("rgb", "depth", "alpha"), given, (wp.uint8, wp.float32, wp.float32)
                )
            ]
            arrays = {
                "c2w": self._array("c2w", c2w, (count, 4, 4), _REALS),
                "K": self._array("K", ks, (count, 3, 3), _REALS),
                "scene_ids": self._array("scene_ids", scene_ids, (count,), _INTEGERS),
            }
            for name, array, tail, dtypes in (
                ("mask", mask, (), (wp.bool,)),
                ("twist_c", twist_c, (6,), _REALS),
                ("camera_ids", camera_ids, (), _INTEGERS),
                ("frame_ids", frame_ids, (), _INTEGERS),
            ):
                if array is not None:
                    arrays[name] = self._array(name, array, (count, *tail), dtypes)
            if objects is not None:
                arrays |= self._take_objects(objects, count)
            if seen is not None:
                frames.append(self._array("out.instances", seen, shape, (wp.int32,), packed=True))
            changes = None if edits is None else take_edits(self._take, edits, count)
            if self._rasterizer.paged is not None:
                self._scenes = self._rasterizer.paged.scenes_of(scene_ids)
            self._objects = None if objects is None else objects.objects
            self._launch(count, arrays, frames, changes)
        return given

    def _take_objects(self, objects: Instances, count: int) -> dict[str, Any]:
        """Objects of a call as Warp's arrays."""
        number = tuple(objects.object_ids.shape)[:1]
        arrays = {
            "objects.camera_offsets": self._array(
                "objects.camera_offsets", objects.camera_offsets, (count + 1,), _INTEGERS
            ),
            "objects.object_ids": self._array("objects.object_ids", objects.object_ids, number, _INTEGERS),
            "objects.poses_w": self._array("objects.poses_w", objects.poses_w, (*number, 4, 4), _REALS),
        }
        if objects.twists_o is not None:
            arrays["objects.twists_o"] = self._array(
                "objects.twists_o", objects.twists_o, (*number, 6), _REALS
            )
        return arrays

    def _launch(
        self, count: int, arrays: dict[str, Any], frames: list[Any], edits: SceneEdits | None
    ) -> None:
        """Render, by a graph where this was done before with the same frames; inputs are copied, so that they may move."""
        made, graphs = self.effects.allocations, self._rasterizer.graphs
        try:
            with joined_capture(self.device):
                with fitting(self.device, f"buffers for {count} cameras"):
                    self.effects.reserve(count)
                batch = self._batch(count, arrays, frames, edits)
                if self._rasterizer.paged is None:
                    objects = (id(self._objects), batch.object_ids.shape[0])
                    patches = () if edits is None else tuple(a.ptr for a in vars(edits).values())
                    key = (id(self), count, *arrays, *(frame.ptr for frame in frames), objects, patches)
                    graphs.run(key, lambda: self.effects.render(batch))
                else:
                    self.effects.render(batch)
        finally:
            if self.effects.allocations > made:
                graphs.clear()  # which hold buffers that are gone
        if self.effects.allocations > made:
            wp.synchronize_device(self.device)  # calls to come may be on other streams
            self.effects.check_lenses()

    def _batch(
        self, count: int, arrays: dict[str, Any], frames: list[Any], edits: SceneEdits | None
    ) -> CameraBatch:
        """Launch what makes the kernels' inputs of the caller's arrays."""

        def held(name: str, kernel: Any, dtype: Any, nothing: Any) -> Any:
            if name not in arrays:
                return nothing
            return self._copy(kernel, arrays[name], self._hold(name, arrays[name].shape, dtype))

        twists = self._hold("twist_c", (count, 6), wp.float64)
        if "twist_c" in arrays:
            self._copy(widen_rows, arrays["twist_c"], twists)
        else:
            twists.zero_()
        due = self._no_flags
        if "mask" in arrays:
            due = self._hold("mask", (count,), wp.bool)
            wp.copy(due, arrays["mask"])
        poses_w = held("objects.poses_w", widen_matrices, wp.float64, None)
        return CameraBatch(
            poses=_as_matrices(held("c2w", widen_matrices, wp.float64, None)),
            ks=held("K", widen_matrices, wp.float64, None),
            scene_ids=held("scene_ids", copy_scenes, int, None),
            due=due,
            twist_c=twists,
            camera_ids=held("camera_ids", copy_ids, wp.int64, self._no_ids),
            frame_ids=held("frame_ids", copy_ids, wp.int64, self._no_ids),
            rgb=frames[0],
            depth=frames[1],
            alpha=frames[2],
            seen=frames[3] if len(frames) > 3 else self._nothing_seen,
            object_offsets=held("objects.camera_offsets", copy_ids, wp.int64, self._no_ids),
            object_ids=held("objects.object_ids", copy_ids, wp.int64, self._no_ids),
            object_poses_w=self._no_poses if poses_w is None else _as_matrices(poses_w),
            object_twists=held("objects.twists_o", widen_rows, wp.float64, self._no_twists),
            edits=None if edits is None else self._pad(edits),
        )

    def _pad(self, edits: SceneEdits) -> SceneEdits:
        """Edits with as many rows as the blocks of cameras want; patches are those of the caller."""
        rows = self.effects.rows(edits.view_dependence.shape[0])
        offsets = self._hold("edits.patch_offsets", (rows + 1,), wp.int64)
        wp.launch(copy_offsets, rows + 1, [edits.patch_offsets, offsets], device=self.device)
        looks = {}
        for name, kernel, tail in (
            ("color", widen_matrices, (3, 4)),
            ("view_dependence", widen_values, ()),
            ("light", widen_matrices, (3, 4)),
        ):
            looks[name] = self._hold(f"edits.{name}", (rows, *tail), wp.float64)
            self._copy(kernel, getattr(edits, name), looks[name])
        return replace(edits, **looks, patch_offsets=offsets)

    def _render_path(self, path: PathBatch) -> None:
        """Render a block's pinhole images."""
        objects = None
        if path.object_offsets.shape[0] > 0 and self._objects is not None:
            objects = Instances(self._objects, path.object_offsets, path.object_ids, path.object_poses_w)
        self._rasterizer.render_arrays(
            path.poses,
            path.ks,
            path.scene_ids,
            path.due,
            None,
            self._background,
            (path.rgb, path.depth, path.alpha),
            scenes=self._scenes,
            objects=objects,
            edits=path.edits,
            outputs={"instances": path.seen} if path.seen.shape[0] > 0 else None,
            edit_rows=None if path.edits is None else (path.cameras, path.most),
        )

    def _hold(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """A buffer for the first rows of a larger one that is kept."""
        held = self._held.get(name)
        if held is None or held.shape[0] < shape[0]:
            if self.device.is_capturing:
                raise InputError(
                    "found a graph being captured and other arguments than before; render once before capturing"
                )
            wp.synchronize_device(self.device)
            self.effects.allocations += 1
            held = self._held[name] = wp.zeros(shape, dtype=dtype, device=self.device)
        return held[: shape[0]] if 0 < shape[0] < held.shape[0] else held

    def _copy(self, kernel: Any, source: Any, target: Any) -> Any:
        wp.launch(kernel, source.shape, [source, target], device=self.device)
        return target

    def _array(
        self, name: str, array: Any, shape: tuple[int, ...], dtypes: tuple[Any, ...], *, packed: bool = False
    ) -> Any:
        """An array of the caller as Warp's, without a copy."""
        if not self._rasterizer.takes(array):
            where = getattr(array, "device", "main memory")
            raise InputError(
                f"{name} is a {type(array).__name__} on {where}, expected it beside c2w on {self.device}"
            )
        held = as_warp(array)
        if held.shape != shape or held.dtype not in dtypes or (packed and not held.is_contiguous):
            kinds = " or ".join(dtype.__name__ for dtype in dtypes)
            strided = "" if held.is_contiguous else ", strided"
            raise InputError(
                f"{name} is {held.dtype.__name__} {held.shape}{strided}, "
                f"expected {'contiguous ' if packed else ''}{kinds} {shape}"
            )
        return held

    def _take(self, name: str, array: Any, shape: tuple[int, ...], dtypes: tuple[Any, ...], **_: Any) -> Any:
        """As `_array`; what `extras.take_edits` calls."""
        return self._array(name, array, shape, dtypes)

    def _new_frames(self, shape: tuple[int, int, int], like: Any) -> tuple[Any, Any, Any]:
        """Empty frames of the kind of an array."""
        if device_of(like) is not None:
            torch = sys.modules["torch"]
            kinds = (((*shape, 3), torch.uint8), (shape, torch.float32), (shape, torch.float32))
            return tuple(torch.zeros(s, dtype=d, device=like.device) for s, d in kinds)  # type: ignore[return-value]
        kinds = (((*shape, 3), wp.uint8), (shape, wp.float32), (shape, wp.float32))
        return tuple(wp.zeros(s, dtype=d, device=self.device) for s, d in kinds)  # type: ignore[return-value]


def _as_matrices(array: Any) -> Any:
    """float64 `[C, 4, 4]` as mat44d `[C]`, the same memory."""
    return wp.array(ptr=array.ptr, shape=array.shape[:1], dtype=wp.mat44d, device=array.device, copy=False)
