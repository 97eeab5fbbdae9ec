"""`SplatRenderer(backend='cuda')`: batches of cameras in many scenes, in one pass, from arrays on the device to frames there.

The same class renders on Warp's CPU device, under a name of its own ('warp-cpu') that nothing takes by itself: a rehearsal for
machines without a GPU, slower than the 'cpu' backend.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import warp as wp  # noqa: TID253  (this package is imported only where the backend is asked for)
from gaussgym_scene import InputError
from numpy.typing import NDArray

from gaussgym_render.arrays import device_of
from gaussgym_render.atlas import build_atlas
from gaussgym_render.channels import OUTPUTS, shapes_of
from gaussgym_render.cuda import paging
from gaussgym_render.cuda.channels import DeviceChannels, make_channels
from gaussgym_render.cuda.device_atlas import upload
from gaussgym_render.cuda.extras import Extras, Wanted, new_output, stage, take
from gaussgym_render.cuda.frame import CudaCfg, Frame, FrameInputs, make_images
from gaussgym_render.cuda.graphs import GraphCache
from gaussgym_render.cuda.overflow import Counters
from gaussgym_render.edits import SceneEdits
from gaussgym_render.objects import Instances

if TYPE_CHECKING:
    from gaussgym_render.backends import RasterizerCfg
    from gaussgym_render.channels import ChannelArrays
    from gaussgym_render.frames import FrameArrays
    from gaussgym_render.packed import SceneSource

_REALS, _INTEGERS = (wp.float32, wp.float64), (wp.int32, wp.int64)


def make_cuda(
    splats: Sequence[SceneSource], cfg: RasterizerCfg, *, kernels: Literal["plain", "fast", "half"] = "plain"
) -> CudaRasterizer:
    """The rasterizer on a CUDA device, `cfg.device` or the current one, with `CudaCfg.kernels`.

    Raises:
        InputError: There is no such device.
    """
    # Another kind of device is where the caller wants tensors, not where to render.
    wanted = cfg.device if cfg.device is not None and cfg.device.startswith("cuda") else "cuda"
    try:
        device = wp.get_device(wanted)
    except (ValueError, RuntimeError) as error:
        found = ", ".join(str(d) for d in wp.get_cuda_devices()) or "none"
        raise InputError(f"renderer device {wanted!r} does not exist; CUDA devices here: {found}") from error
    return CudaRasterizer(splats, cfg, device, CudaCfg(kernels=kernels))


def make_warp_cpu(splats: Sequence[SceneSource], cfg: RasterizerCfg) -> CudaRasterizer:
    """The same rasterizer on Warp's CPU device."""
    return CudaRasterizer(splats, cfg, wp.get_device("cpu"))


class CudaRasterizer:
    """Renders batches of cameras from scenes on a Warp device.

    Args:
        splats: The scenes.
        cfg: Image size and conventions; with a memory budget the scenes take turns on the device.
        device: Warp device.
        cuda_cfg: Capacities and choices of kernels.

    Attributes:
        paged: Brings scenes in as calls need them; None if all are there.
    """

    def __init__(
        self,
        splats: Sequence[SceneSource],
        cfg: RasterizerCfg,
        device: Any,
        cuda_cfg: CudaCfg | None = None,
    ) -> None:
        self.cfg, self.cuda_cfg, self.device = cfg, cuda_cfg or CudaCfg(), device
        with fitting(device, f"{len(splats)} scenes"):
            self.paged = None if cfg.memory_budget_bytes is None else paging.make_paged(splats, cfg, device)
            if self.paged is None:
                atlas = build_atlas(splats, sh_degree=cfg.sh_degree)  # type: ignore[arg-type]
                self.atlas, channels = (
                    upload(atlas, device),
                    make_channels(atlas, splats, cfg.features, device),
                )
            else:
                self.atlas = self.paged.pool.device_atlas
                channels = DeviceChannels(self.paged.pool.device_labels, 0, None, device)
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
        wp.synchronize_device(device)  # calls may come on other streams than the one that filled the arrays

    @property
    def pool(self) -> paging.DeviceScenePool | None:
        """Where scenes take turns, or None if all are on the device."""
        return None if self.paged is None else self.paged.pool

    def counters(self) -> Counters:
        """What went wrong since the last call of this; waits for the device."""
        if self.frame is None:
            return Counters(0, 0, 0, 0)
        counters, (instances, edits) = self.frame.counters(), self.extras.refused()
        return replace(counters, refused_instances=instances, refused_edits=edits)

    def reserve(self, num_cameras: int) -> Frame:
        """Make room for calls of up to that many cameras, if there is none yet; waits for the device then.

        Raises:
            InputError: They do not fit the device, or a graph is being captured.
        """
        if self.frame is not None and self.frame.num_cameras >= num_cameras:
            return self.frame
        if self.device.is_capturing:
            raise InputError(
                f"found a graph being captured and no room for {num_cameras} cameras yet; render as many once before capturing"
            )
        wp.synchronize_device(self.device)  # launches that use the old buffers, on whatever stream
        self.graphs.clear()
        self.frame = None  # before the new buffers come, so that both need not fit
        with fitting(self.device, f"buffers for {num_cameras} cameras"):
            self.frame = Frame(
                self.atlas,
                num_cameras,
                self.cfg.width,
                self.cfg.height,
                near=self.cfg.near,
                antialiased=self.cfg.antialiased,
                cfg=self.cuda_cfg,
            )
        wp.synchronize_device(self.device)
        return self.frame

    def takes(self, array: Any) -> bool:
        """Whether an array lies on the device, so that `render_arrays` can take it as it is; numpy arrays never do.

        Raises:
            InputError: It lies on another CUDA device than the one that renders.
        """
        if isinstance(array, np.ndarray):
            return False
        if isinstance(array, wp.array):
            where = str(array.device)
        elif device_of(array) is not None:
            where = str(wp.device_from_torch(device_of(array)))
        elif hasattr(array, "__dlpack_device__"):
            kind, number = array.__dlpack_device__()
            where = {1: "cpu", 2: f"cuda:{number}"}.get(int(kind), "another device")
        else:
            return hasattr(array, "__cuda_array_interface__") and self.device.is_cuda
        if self.device.is_cuda and where.startswith("cuda") and where != str(self.device):
            raise InputError(
                f"found an array on {where}, expected it on {self.device}, where this renderer is"
            )
        return where == str(self.device)

    def is_on(self, device: Any) -> bool:
        """Whether arrays of a torch device lie here."""
        try:
            return wp.device_from_torch(device) == self.device
        except (RuntimeError, ValueError):  # a device that Warp does not know
            return False

    def render_arrays(
        self,
        c2w: Any,
        ks: Any,
        scene_ids: Any,
        mask: Any,
        sizes: Any,
        background: NDArray[np.float32],
        out: tuple[Any, Any, Any] | None,
        *,
        scenes: Sequence[int] | None = None,
        objects: Instances | None = None,
        edits: SceneEdits | None = None,
        outputs: Mapping[str, Any] | None = None,
        edit_rows: tuple[int, int] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Render from arrays on the device into arrays there: no copy, no wait, no look at a value.

        Work goes to torch's current stream if `c2w` is a tensor, to Warp's otherwise; calls share buffers, so that those on one
        stream must be done before they come on another. Cameras, instances and patches that cannot be rendered are left out,
        and counted: see `counters`.

        Args:
            c2w: Camera to world `[C, 4, 4]`, float32 or float64.
            ks: Calibration matrices `[C, 3, 3]`, of the same type.
            scene_ids: Scene of each camera, int32 or int64 `[C]`.
            mask: Which to render, bool `[C]`; None: all.
            sizes: Width and height of each image, of the type of `scene_ids` `[C, 2]`; None: the frame's.
            background: Linear RGB `[3]`.
            out: rgb, depth and alpha to write into; None: new ones, tensors or Warp arrays as `c2w` is one.
            scenes: Which scenes cameras may be in, where scenes take turns; None: what `scene_ids` says, see
                `paging.PagedCalls.scenes_of`, which may wait.
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
            wanted = take(self._array, self._output_shapes(count), objects, edits, outputs or {}, edit_rows)
            if count > 0:
                if self.paged is not None and scenes is None:
                    scenes = self.paged.scenes_of(scene_ids)
                self._launch(inputs, make_images(rgb, depth, alpha, background), scenes, wanted)
        return given

    def new_output(self, name: str, count: int, like: Any) -> Any:
        """An array for one of `OUTPUTS`, or 'instances', of the kind of another array: -1 where that means nothing, else 0."""
        return new_output(name, self._output_shapes(count)[name], like, self.device)

    def _output_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        """Shapes of what can be written beside images."""
        size = (self.cfg.width, self.cfg.height)
        shapes = shapes_of(count, *size, self.extras.channels.num_features)
        return {"instances": (count, *size[::-1]), **{name: shape for name, (shape, _) in shapes.items()}}

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
        wp.synchronize_device(self.device)  # the last call may have been on a stream of torch's
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
        wanted = stage(self._staged, objects, changes, outputs)
        scenes = np.unique(scene_ids[cameras]).tolist()
        self._launch(inputs, make_images(staged[0], staged[1], staged[2], background), scenes, wanted)
        staged += [wanted.outputs[name] for name in outputs]
        for frame, array in zip((*frames, *outputs.values()), staged):
            frame[cameras] = array.numpy()[cameras]

    def _launch(self, inputs: FrameInputs, images: Any, scenes: Sequence[int] | None, wanted: Wanted) -> None:
        """Render, in turns of the scenes if they are paged."""
        if self.paged is None:
            self._draw(inputs, images, wanted)
            return

        def draw(mask: Any) -> None:
            self._draw(replace(inputs, mask=mask), images, wanted)

        self.paged.render(scenes or (), inputs.ids, inputs.mask, draw)

    def _draw(self, inputs: FrameInputs, images: Any, wanted: Wanted) -> None:
        """Render, by a graph where this was done before with the same arrays."""
        frame = self.reserve(inputs.c2w.shape[0])
        with fitting(self.device, "objects, edits and outputs"):
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


@contextmanager
def fitting(device: Any, what: str) -> Iterator[None]:
    """Say clearly that something does not fit a device, where Warp fails to allocate it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if "allocat" not in str(error):
            raise
        free = f"{device.free_memory / 2**30:.1f} GiB free" if device.is_cuda else "out of memory"
        raise InputError(
            f"{what} do not fit device {device} ({free}): {error}; take fewer cameras a call, or smaller scenes"
        ) from error


def as_warp(array: Any) -> Any:
    """An array on a device as Warp's, sharing its memory: a tensor, or one that speaks DLPack or the CUDA array interface."""
    if isinstance(array, wp.array):
        return array
    if device_of(array) is not None:
        return wp.from_torch(array.detach(), requires_grad=False)
    if hasattr(array, "__dlpack__"):
        return wp.from_dlpack(array)
    return wp.array(array, copy=False)
