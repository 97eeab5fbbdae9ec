"""What a call may ask for beyond images, and give beyond cameras: objects, edits, further outputs; in the order of a frame."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import warp as wp  # noqa: TID253  (this package is imported only where the backend is asked for)
from gaussgym_scene import InputError
from numpy.typing import NDArray

from gaussgym_render.arrays import device_of
from gaussgym_render.cuda.channels import DeviceChannels
from gaussgym_render.cuda.edits import DeviceEdits
from gaussgym_render.cuda.frame import Frame
from gaussgym_render.cuda.objects import DeviceObjects
from gaussgym_render.edits import SceneEdits
from gaussgym_render.objects import Instances

_REALS, _INTEGERS = (wp.float32, wp.float64), (wp.int32, wp.int64)
TakeArray = Callable[..., Any]
"""Takes a name, an array of the caller, a shape and types, gives the array as Warp's; see `CudaRasterizer`."""
StageArray = Callable[[str, NDArray[Any], Any], Any]
"""Takes a name, a numpy array and a type, gives a copy on the device, or the array itself if that is the CPU."""


@dataclass(frozen=True)
class Wanted:
    """A call of C cameras beyond images; all arrays are Warp's, on the device.

    Attributes:
        instances: Objects, or None.
        edits: Edits, or None.
        outputs: What to write, by its name in `gaussgym_render.frames.Frames`, 'instances' included.
        first_row: Row of the edits that camera 0 has.
        cameras_per_row: How many cameras that follow each other have the same row.
    """

    instances: Instances | None = None
    edits: SceneEdits | None = None
    outputs: Mapping[str, Any] = field(default_factory=dict)
    first_row: int = 0
    cameras_per_row: int = 1

    def key(self) -> tuple[Any, ...]:
        """What launches depend on: two calls with one key launch the same."""
        arrays = list(self.outputs.items())
        shapes = None
        if self.instances is not None:
            shapes = id(self.instances.objects)
            arrays += [
                (name, getattr(self.instances, name)) for name in ("camera_offsets", "object_ids", "poses_w")
            ]
        if self.edits is not None:
            arrays += [(f.name, getattr(self.edits, f.name)) for f in fields(self.edits)]
        return (
            shapes, self.first_row, self.cameras_per_row,
            *((name, a.ptr, a.shape, a.strides, a.dtype) for name, a in arrays),
        )  # fmt: skip


def take(
    array: TakeArray,
    shapes: Mapping[str, tuple[int, ...]],
    objects: Instances | None,
    edits: SceneEdits | None,
    outputs: Mapping[str, Any],
    edit_rows: tuple[int, int] | None,
) -> Wanted:
    """What a call wants, of arrays that the caller has on the device.

    Args:
        array: Takes each.
        shapes: Of everything that can be written, for C cameras.
        objects: As in `CudaRasterizer.render_arrays`.
        edits: Likewise.
        outputs: Likewise.
        edit_rows: Likewise.

    Raises:
        InputError: On wrong shapes, types or devices, or outputs that are not contiguous.
    """
    rows, count = (0, 1) if edit_rows is None else edit_rows, shapes["instances"][0]
    return Wanted(
        None if objects is None else take_instances(array, objects, count),
        None
        if edits is None
        else take_edits(array, edits, count if edit_rows is None else _rows_of(edits, count, rows)),
        {
            name: array(f"out.{name}", own, shapes[name], (_dtype_of(name),), contiguous=True)
            for name, own in outputs.items()
        },
        *rows,
    )


def stage(
    staged: StageArray,
    objects: Instances | None,
    edits: SceneEdits | None,
    outputs: Mapping[str, NDArray[Any]],
) -> Wanted:
    """What a call wants, of numpy arrays that were checked."""
    return Wanted(
        None
        if objects is None
        else _stage_fields(staged, objects, ("camera_offsets", "object_ids", "poses_w")),
        None if edits is None else _stage_fields(staged, edits, [f.name for f in fields(edits)]),
        {n: staged(n, a, wp.dtype_from_numpy(a.dtype)) for n, a in outputs.items()},
    )


def _stage_fields(staged: StageArray, holder: Any, names: Sequence[str]) -> Any:
    arrays = {name: getattr(holder, name) for name in names}
    return replace(holder, **{n: staged(n, a, wp.dtype_from_numpy(a.dtype)) for n, a in arrays.items()})


def _dtype_of(name: str) -> Any:
    """Type of what is written under a name."""
    return wp.int32 if name in ("instances", "labels") else wp.float32


def new_output(name: str, shape: tuple[int, ...], like: Any, device: Any) -> Any:
    """An array to write something into, of the kind of another array, full of what says nothing."""
    missing = -1 if name in ("labels", "instances") else 0
    if device_of(like) is not None:
        torch = sys.modules["torch"]
        kind = torch.int32 if _dtype_of(name) is wp.int32 else torch.float32
        return torch.full(shape, missing, dtype=kind, device=like.device)
    return wp.full(shape, missing, dtype=_dtype_of(name), device=device)


def _rows_of(edits: SceneEdits, count: int, rows: tuple[int, int]) -> int:
    """How many rows edits have, if that is enough for `count` cameras.

    Raises:
        InputError: They have too few.
    """
    held, needed = (
        _length("edits.view_dependence", edits.view_dependence),
        rows[0] + -(-count // max(rows[1], 1)),
    )
    if rows[0] < 0 or rows[1] < 1 or held < needed:
        raise InputError(f"edits have {held} rows, expected at least {needed} for edit_rows {rows}")
    return held


def take_instances(take: TakeArray, instances: Instances, num_cameras: int) -> Instances:
    """Objects whose arrays a caller has on the device, as Warp's; twists are left out, images take no time here.

    Raises:
        InputError: On wrong shapes, types or devices.
    """
    count = _length("objects.object_ids", instances.object_ids)
    poses = instances.poses_w
    if isinstance(poses, wp.array) and poses.dtype == wp.mat44d and poses.ndim == 1 and poses.is_contiguous:
        poses = wp.array(ptr=poses.ptr, shape=(len(poses), 4, 4), dtype=wp.float64, device=poses.device)
    return Instances(
        instances.objects,
        take("objects.camera_offsets", instances.camera_offsets, (num_cameras + 1,), _INTEGERS),
        take("objects.object_ids", instances.object_ids, (count,), _INTEGERS),
        take("objects.poses_w", poses, (count, 4, 4), _REALS),
    )


def take_edits(take: TakeArray, edits: SceneEdits, num_rows: int) -> SceneEdits:
    """Edits whose arrays a caller has on the device, as Warp's; reals of looks are of one type, and so are those of patches.

    Raises:
        InputError: On wrong shapes, types or devices.
    """
    color = take("edits.color", edits.color, (num_rows, 3, 4), _REALS)
    count = _length("edits.patch_labels", edits.patch_labels)
    poses = take("edits.patch_poses_w", edits.patch_poses_w, (count, 4, 4), _REALS)
    look, box = (color.dtype,), (poses.dtype,)
    return SceneEdits(
        color,
        take("edits.view_dependence", edits.view_dependence, (num_rows,), look),
        take("edits.light", edits.light, (num_rows, 3, 4), look),
        take("edits.patch_offsets", edits.patch_offsets, (num_rows + 1,), _INTEGERS),
        poses,
        take("edits.patch_half_sizes_m", edits.patch_half_sizes_m, (count, 3), box),
        take("edits.patch_colors", edits.patch_colors, (count, 4), box),
        take("edits.patch_labels", edits.patch_labels, (count,), _INTEGERS),
    )


def _length(name: str, array: Any) -> int:
    if len(array.shape) != 1:
        raise InputError(f"{name} has shape {tuple(array.shape)}, expected one dimension")
    return int(array.shape[0])


class Extras:
    """The buffers and launches of objects, edits and further outputs; `Frame.render` calls them where they belong.

    Args:
        channels: What splats carry for further outputs.
        device: Warp device.
    """

    def __init__(self, channels: DeviceChannels, device: Any) -> None:
        self.objects, self.edits, self.channels = DeviceObjects(device), DeviceEdits(device), channels
        self.wanted = Wanted()
        self._nothing_seen = wp.zeros((0, 0, 0), dtype=wp.int32, device=device)

    @property
    def num_allocations(self) -> int:
        """Buffers made so far; a call that is no larger than an earlier one makes none."""
        return self.objects.num_allocations + self.edits.num_allocations + self.channels.num_allocations

    def refused(self) -> tuple[int, int]:
        """Instances, and edits with patches, that were left out since the last call of this; waits for the device."""
        counts = [int(layer.refused.numpy()[0]) for layer in (self.objects, self.edits)]
        for layer in (self.objects, self.edits):
            layer.refused.zero_()
        return counts[0], counts[1]

    def reserve(self, frame: Frame, num_cameras: int, wanted: Wanted) -> bool:
        """Take a call on, and make room for it; returns whether buffers that a graph may use are gone."""
        self.wanted = wanted
        made = self.num_allocations
        gone = self.channels.reserve(frame, wanted.outputs)
        if wanted.instances is not None:
            gone = self.objects.reserve(frame, num_cameras, wanted.instances) or gone
        if wanted.edits is not None:
            rows, patches = wanted.edits.view_dependence.shape[0], wanted.edits.patch_labels.shape[0]
            gone = self.edits.reserve(rows, patches) or gone
        if self.num_allocations > made:
            wp.synchronize_device(frame.device)  # new arrays are filled on one stream and used on another
        return gone

    def prepare(self, frame: Frame, num_cameras: int) -> None:
        """What is done once a call, after the cameras are prepared."""
        wanted = self.wanted
        if wanted.instances is not None:
            self.objects.prepare(frame, num_cameras, wanted.instances)
        if wanted.edits is not None:
            self.edits.prepare(frame, wanted.edits, wanted.first_row, wanted.cameras_per_row)

    def recolor(self, frame: Frame) -> None:
        """What is done to the records of a wave."""
        if self.wanted.edits is not None:
            self.edits.recolor(frame)

    def blend(self, frame: Frame, images: Any) -> None:
        """Blend a wave's images and what is wanted beside them."""
        wanted, surfaces = self.wanted, self.objects.none.shown
        more = {name: array for name, array in wanted.outputs.items() if name != "instances"}
        if wanted.instances is None:
            frame.blend_wave(images)
        else:
            surfaces = self.objects.held.shown
            seen = wanted.outputs.get("instances", self._nothing_seen)
            self.objects.draw(frame, wanted.instances, seen)
            frame.blend_wave(images, surfaces, seen)
        edits = self.edits.none if wanted.edits is None else self.edits.held
        self.channels.blend(frame, more, images, surfaces, edits)
