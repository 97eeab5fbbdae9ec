"""What a call may ask for beyond images, and give beyond cameras: objects, edits, further outputs; in the order of a frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import warp as wp  # noqa: TID253  (this package is imported only where the backend is asked for)
from gaussgym_scene import InputError

from gaussgym_render.channels import shapes_of
from gaussgym_render.cuda.channels import DeviceChannels
from gaussgym_render.cuda.edits import DeviceEdits
from gaussgym_render.cuda.frame import Frame
from gaussgym_render.cuda.objects import DeviceObjects
from gaussgym_render.edits import SceneEdits
from gaussgym_render.objects import Instances

_REALS, _INTEGERS = (wp.float32, wp.float64), (wp.int32, wp.int64)
_DTYPES = {"instances": wp.int32, "labels": wp.int32}
TakeArray = Callable[..., Any]
"""Takes a name, an array of the caller, a shape and types, gives the array as Warp's; see `CudaRasterizer`."""


@dataclass(frozen=True)
class Wanted:
    """A call of C cameras beyond images; all arrays are Warp's, on the device.

    Attributes:
        instances: Objects, or None.
        edits: Edits, or None.
        outputs: What to write, by its name in `gaussgym_render.renderer.Frames`, 'instances' included.
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


def take_outputs(
    take: TakeArray, outputs: Mapping[str, Any], count: int, size: tuple[int, int], num_features: int
) -> dict[str, Any]:
    """Arrays to write into, as Warp's.

    Raises:
        InputError: On wrong shapes, types or devices, or arrays that are not contiguous.
    """
    shapes = {name: shape for name, (shape, _) in shapes_of(count, *size, num_features).items()}
    shapes["instances"] = (count, size[1], size[0])
    return {
        name: take(f"out.{name}", array, shapes[name], (_DTYPES.get(name, wp.float32),), contiguous=True)
        for name, array in outputs.items()
    }


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
        gone = self.channels.reserve(frame, wanted.outputs)
        if wanted.instances is not None:
            gone = self.objects.reserve(frame, num_cameras, wanted.instances) or gone
        if wanted.edits is not None:
            rows, patches = wanted.edits.view_dependence.shape[0], wanted.edits.patch_labels.shape[0]
            gone = self.edits.reserve(rows, patches) or gone
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
        wanted, surfaces = self.wanted, self.objects.none
        more = {name: array for name, array in wanted.outputs.items() if name != "instances"}
        if wanted.instances is None:
            frame.blend_wave(images)
        else:
            surfaces = self.objects.held
            self.objects.blend(
                frame, wanted.instances, images, wanted.outputs.get("instances", self._nothing_seen)
            )
        edits = self.edits.none if wanted.edits is None else self.edits.held
        self.channels.blend(frame, more, images, self.objects.shapes(wanted.instances), surfaces, edits)
