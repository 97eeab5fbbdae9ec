"""`SplatRenderer(backend='cuda')`: batches of cameras in many scenes, in one pass, from arrays on the device to frames there.

The same class renders on Warp's CPU device, under a name of its own ('warp-cpu') that nothing takes by itself: a rehearsal for
machines without a GPU, slower than the 'cpu' backend.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import warp as wp  # noqa: TID253  (this package is imported only where the backend is asked for)
from gaussgym_scene import InputError, Splats
from numpy.typing import NDArray

from gaussgym_render.arrays import device_of
from gaussgym_render.atlas import build_atlas
from gaussgym_render.channels import OUTPUTS, shapes_of
from gaussgym_render.cuda.channels import DeviceChannels, feature_table, label_table
from gaussgym_render.cuda.device_atlas import upload
from gaussgym_render.cuda.extras import Extras, Wanted, take_edits, take_instances, take_outputs
from gaussgym_render.cuda.frame import CudaCfg, Frame, FrameInputs, make_images
from gaussgym_render.cuda.graphs import GraphCache
from gaussgym_render.cuda.overflow import Counters
from gaussgym_render.edits import SceneEdits
from gaussgym_render.objects import Instances

if TYPE_CHECKING:
    from gaussgym_render.channels import ChannelArrays
    from gaussgym_render.renderer import AnySplats, FrameArrays, RasterizerCfg

_REALS, _INTEGERS = (wp.float32, wp.float64), (wp.int32, wp.int64)


def make_cuda(splats: Sequence[AnySplats], cfg: RasterizerCfg) -> CudaRasterizer:
    """The rasterizer on a CUDA device, `cfg.device` or the current one.

    Raises:
        InputError: There is no such device.
    """
    wanted = "cuda" if cfg.device is None else cfg.device
    try:
        device = wp.get_device(wanted)
    except (ValueError, RuntimeError) as error:
        found = ", ".join(str(d) for d in wp.get_cuda_devices()) or "none"
        raise InputError(f"renderer device {wanted!r} does not exist; CUDA devices here: {found}") from error
    if not device.is_cuda:
        raise InputError(
            f"renderer device is {wanted!r}, expected 'cuda' or 'cuda:N' (backend 'warp-cpu' for the CPU)"
        )
    return CudaRasterizer(splats, cfg, device)


def make_warp_cpu(splats: Sequence[AnySplats], cfg: RasterizerCfg) -> CudaRasterizer:
    """The same rasterizer on Warp's CPU device."""
    return CudaRasterizer(splats, cfg, wp.get_device("cpu"))


class CudaRasterizer:
    """Renders batches of cameras from scenes on a Warp device.

    Args:
        splats: The scenes.
        cfg: Image size and conventions.
        device: Warp device.
        cuda_cfg: Capacities and choices of kernels.
    """

    def __init__(
        self,
        splats: Sequence[AnySplats],
        cfg: RasterizerCfg,
        device: Any,
        cuda_cfg: CudaCfg | None = None,
    ) -> None:
        self.cfg, self.cuda_cfg, self.device = cfg, cuda_cfg or CudaCfg(), device
        atlas = build_atlas(splats, sh_degree=cfg.sh_degree)
        self.atlas = upload(atlas, device)
        labels = [scene.labels if isinstance(scene, Splats) else None for scene in splats]
        self.num_features = 0 if cfg.features is None else cfg.features[0].shape[1]
        channels = DeviceChannels(
            label_table(atlas, labels, device), feature_table(atlas, cfg.features, device), device
        )
        self.extras = Extras(channels, device)
        graphs = self.cuda_cfg.graphs
        self.graphs = GraphCache(device, enabled=device.is_cuda if graphs is None else graphs)
        self.frame: Frame | None = None
        self._staging: dict[str, Any] = {}
        self._none = {
            wp.bool: wp.zeros(0, dtype=wp.bool, device=device),
            wp.int32: wp.zeros((0, 2), dtype=wp.int32, device=device),
            wp.int64: wp.zeros((0, 2), dtype=wp.int64, device=device),
        }

    def counters(self) -> Counters:
        """What went wrong since the last call of this; waits for the device."""
        if self.frame is None:
            return Counters(0, 0, 0, 0)
        counters, (instances, edits) = self.frame.counters(), self.extras.refused()
        return replace(counters, refused_instances=instances, refused_edits=edits)

    def reserve(self, num_cameras: int) -> Frame:
        """Make room for calls of up to that many cameras, if there is none yet."""
        if self.frame is None or self.frame.num_cameras < num_cameras:
            self.graphs.clear()
            self.frame = None  # before the new buffers come, so that both need not fit
            self.frame = Frame(
                self.atlas,
                num_cameras,
                self.cfg.width,
                self.cfg.height,
                near=self.cfg.near,
                antialiased=self.cfg.antialiased,
                cfg=self.cuda_cfg,
            )
        return self.frame

    def takes(self, array: Any) -> bool:
        """Whether an array lies on the device, so that `render_arrays` can take it as it is; numpy arrays never do."""
        if isinstance(array, np.ndarray):
            return False
        if isinstance(array, wp.array):
            return array.device == self.device
        tensor_device = device_of(array)
        if tensor_device is not None:
            return wp.device_from_torch(tensor_device) == self.device
        if hasattr(array, "__dlpack_device__"):
            kind, number = array.__dlpack_device__()
            return kind == 2 and self.device.is_cuda and number == self.device.ordinal
        return hasattr(array, "__cuda_array_interface__") and self.device.is_cuda

    def render_arrays(
        self,
        c2w: Any,
        ks: Any,
        scene_ids: Any,
        mask: Any,
        sizes: Any,
        background: NDArray[np.float32],
        out: tuple[Any, Any, Any] | None,
        objects: Instances | None = None,
        edits: SceneEdits | None = None,
        outputs: Mapping[str, Any] | None = None,
        edit_rows: tuple[int, int] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Render from arrays on the device into arrays there: no copy, no wait, no look at a value.

        Work goes to torch's current stream if `c2w` is a tensor, to Warp's otherwise. Cameras, instances and patches that cannot
        be rendered are left out, and counted: see `counters`.

        Args:
            c2w: Camera to world `[C, 4, 4]`, float32 or float64.
            ks: Calibration matrices `[C, 3, 3]`, of the same type.
            scene_ids: Scene of each camera, int32 or int64 `[C]`.
            mask: Which to render, bool `[C]`; None: all.
            sizes: Width and height of each image, of the type of `scene_ids` `[C, 2]`; None: the frame's.
            background: Linear RGB `[3]`.
            out: rgb, depth and alpha to write into; None: new ones, tensors or Warp arrays as `c2w` is one.
            objects: Opaque objects, with arrays on the device; the shapes are brought there when they first come.
            edits: Edits, likewise.
            outputs: More to write into, by its name in `Frames`; see `new_output`.
            edit_rows: Row of the edits that camera 0 has, and how many cameras that follow each other share one; None: each
                has its own.

        Returns:
            rgb uint8 `[C, H, W, 3]`, depth and alpha float32 `[C, H, W]`: `out` or new ones.

        Raises:
            InputError: On wrong shapes, types or devices.
        """
        with self.stream_of(c2w):
            inputs = self._inputs(c2w, ks, scene_ids, mask, sizes)
            count = inputs.c2w.shape[0]
            given = self._new_frames(count, c2w) if out is None else out
            shape = (count, self.cfg.height, self.cfg.width)
            rgb = self._array("out.rgb", given[0], (*shape, 3), (wp.uint8,), contiguous=True)
            depth, alpha = (
                self._array(f"out.{name}", array, shape, (wp.float32,), contiguous=True)
                for name, array in zip(("depth", "alpha"), given[1:])
            )
            size, rows = (self.cfg.width, self.cfg.height), (0, 1) if edit_rows is None else edit_rows
            wanted = Wanted(
                None if objects is None else take_instances(self._array, objects, count),
                None if edits is None else take_edits(self._array, edits, _rows_of(edits, count, rows)),
                take_outputs(self._array, outputs or {}, count, size, self.num_features),
                *rows,
            )
            if count > 0:
                self._launch(inputs, make_images(rgb, depth, alpha, background), wanted)
        return given

    def new_output(self, name: str, count: int, like: Any) -> Any:
        """An array for one of `OUTPUTS`, or 'instances', of the kind of another array: -1 where that means nothing, else 0."""
        shapes = {**shapes_of(count, self.cfg.width, self.cfg.height, self.num_features)}
        shapes["instances"] = ((count, self.cfg.height, self.cfg.width), np.int32)
        shape, dtype = shapes[name]
        missing = -1 if name in ("labels", "instances") else 0
        if device_of(like) is not None:
            torch = sys.modules["torch"]
            kind = torch.int32 if dtype is np.int32 else torch.float32
            return torch.full(shape, missing, dtype=kind, device=like.device)
        return wp.full(shape, missing, dtype=wp.dtype_from_numpy(dtype), device=self.device)

    def render(
        self,
        c2w: NDArray[np.float64],
        ks: NDArray[np.float64],
        scene_ids: NDArray[np.int64],
        cameras: NDArray[np.int64],
        background: NDArray[np.float32],
        frames: FrameArrays,
        objects: Instances | None = None,
        seen: NDArray[np.int32] | None = None,
        changes: SceneEdits | None = None,
        extra: ChannelArrays | None = None,
        sizes: NDArray[np.int64] | None = None,
    ) -> None:
        """See `gaussgym_render.cpu.CpuRasterizer.render`; frames go through main memory."""
        if len(cameras) == 0:
            return
        mask = np.zeros(len(c2w), np.bool_)
        mask[cameras] = True
        inputs = FrameInputs(
            self._staged("c2w", np.ascontiguousarray(c2w, np.float64), wp.float64),
            self._staged("ks", np.ascontiguousarray(ks, np.float64), wp.float64),
            self._staged("ids", np.ascontiguousarray(scene_ids, np.int64), wp.int64),
            self._staged("mask", mask, wp.bool),
            self._none[wp.int64] if sizes is None else self._staged("sizes", sizes, wp.int64),
        )
        staged = [
            self._staged(name, frame, dtype)
            for name, frame, dtype in zip(
                ("rgb", "depth", "alpha"), frames, (wp.uint8, wp.float32, wp.float32)
            )
        ]
        outputs = {} if extra is None else dict(zip(OUTPUTS, extra.astuple()))
        outputs = {name: array for name, array in outputs.items() if len(array) > 0}
        if seen is not None:
            outputs["instances"] = seen
        wanted = self._staged_extras(objects, changes, outputs)
        self._launch(inputs, make_images(staged[0], staged[1], staged[2], background), wanted)
        for frame, array in zip(
            (*frames, *outputs.values()), (*staged, *(wanted.outputs[n] for n in outputs))
        ):
            frame[cameras] = array.numpy()[cameras]

    def _staged_extras(
        self, objects: Instances | None, changes: SceneEdits | None, outputs: Mapping[str, NDArray[Any]]
    ) -> Wanted:
        """Objects, edits and outputs out of numpy arrays, on the device."""
        instances = edits = None
        if objects is not None:
            instances = Instances(
                objects.objects,
                self._staged("offsets", objects.camera_offsets, wp.int64),
                self._staged("object_ids", objects.object_ids, wp.int64),
                self._staged("poses_w", objects.poses_w, wp.float64),
            )
        if changes is not None:
            arrays = {field.name: getattr(changes, field.name) for field in fields(changes)}
            edits = SceneEdits(
                **{n: self._staged(n, a, wp.dtype_from_numpy(a.dtype)) for n, a in arrays.items()}
            )
        more = {n: self._staged(n, a, wp.dtype_from_numpy(a.dtype)) for n, a in outputs.items()}
        return Wanted(instances, edits, more)

    def _launch(self, inputs: FrameInputs, images: Any, wanted: Wanted) -> None:
        """Render, by a graph where this was done before with the same arrays."""
        frame = self.reserve(inputs.c2w.shape[0])
        if self.extras.reserve(frame, inputs.c2w.shape[0], wanted):
            self.graphs.clear()
        arrays = [*vars(inputs).values(), images.rgb, images.depth, images.alpha]
        key = tuple((a.ptr, a.shape, a.strides, a.dtype) for a in arrays)
        key = (key, tuple(images.background), wanted.key())
        self.graphs.run(key, lambda: frame.render(inputs, images, self.extras))

    def _inputs(self, c2w: Any, ks: Any, scene_ids: Any, mask: Any, sizes: Any) -> FrameInputs:
        """Arrays of a call as Warp's, checked for shape, type and device."""
        count = tuple(c2w.shape)[:1]
        poses = self._array("c2w", c2w, (*count, 4, 4), _REALS)
        ids = self._array("scene_ids", scene_ids, count, _INTEGERS)
        return FrameInputs(
            poses,
            self._array("K", ks, (*count, 3, 3), (poses.dtype,)),
            ids,
            self._none[wp.bool] if mask is None else self._array("mask", mask, count, (wp.bool,)),
            self._none[ids.dtype]
            if sizes is None
            else self._array("sizes", sizes, (*count, 2), (ids.dtype,)),
        )

    def _array(
        self,
        name: str,
        array: Any,
        shape: tuple[int, ...],
        dtypes: tuple[Any, ...],
        *,
        contiguous: bool = False,
    ) -> Any:
        """An array of the caller as Warp's, without a copy."""
        if not self.takes(array):
            where = getattr(array, "device", "main memory")
            raise InputError(
                f"{name} is a {type(array).__name__} on {where}, expected it beside c2w on {self.device}"
            )
        held = as_warp(array)
        if held.shape != shape or held.dtype not in dtypes or (contiguous and not held.is_contiguous):
            kinds = " or ".join(dtype.__name__ for dtype in dtypes)
            raise InputError(
                f"{name} is {held.dtype.__name__} {held.shape}{'' if held.is_contiguous else ', strided'}, "
                f"expected {'contiguous ' if contiguous else ''}{kinds} {shape}"
            )
        return held

    def _new_frames(self, count: int, like: Any) -> tuple[Any, Any, Any]:
        """Empty frames of the kind of an array."""
        shape = (count, self.cfg.height, self.cfg.width)
        if device_of(like) is not None:
            torch = sys.modules["torch"]
            kinds = (((*shape, 3), torch.uint8), (shape, torch.float32), (shape, torch.float32))
            return tuple(torch.zeros(s, dtype=d, device=like.device) for s, d in kinds)  # type: ignore[return-value]
        kinds = (((*shape, 3), wp.uint8), (shape, wp.float32), (shape, wp.float32))
        return tuple(wp.zeros(s, dtype=d, device=self.device) for s, d in kinds)  # type: ignore[return-value]

    def stream_of(self, array: Any) -> Any:
        """Context in which launches go to the stream that the caller works on."""
        stream = None
        if self.device.is_cuda and device_of(array) is not None:
            stream = wp.stream_from_torch(sys.modules["torch"].cuda.current_stream(array.device))
        return wp.ScopedStream(stream, sync_enter=False)

    def _staged(self, name: str, array: NDArray[Any], dtype: Any) -> Any:
        """A copy of a numpy array on the device, in a buffer that is kept; the array itself where the device is the CPU."""
        if not self.device.is_cuda:
            return wp.array(array, dtype=dtype, device=self.device, copy=False)
        held = self._staging.get(name)
        if held is None or held.shape != array.shape:
            held = self._staging[name] = wp.empty(array.shape, dtype=dtype, device=self.device)
        held.assign(array)
        return held


def _rows_of(edits: SceneEdits, count: int, rows: tuple[int, int]) -> int:
    """How many rows edits must have: one a camera, or as many as they have, if that is enough.

    Raises:
        InputError: They have too few.
    """
    if rows == (0, 1):
        return count
    held, needed = int(edits.view_dependence.shape[0]), rows[0] + -(-count // rows[1])
    if rows[0] < 0 or rows[1] < 1 or held < needed:
        raise InputError(f"edits have {held} rows, expected at least {needed} for edit_rows {rows}")
    return held


def as_warp(array: Any) -> Any:
    """An array on a device as Warp's, sharing its memory: a tensor, or one that speaks DLPack or the CUDA array interface."""
    if isinstance(array, wp.array):
        return array
    if device_of(array) is not None:
        return wp.from_torch(array.detach(), requires_grad=False)
    if hasattr(array, "__dlpack__"):
        return wp.from_dlpack(array)
    return wp.array(array, copy=False)
