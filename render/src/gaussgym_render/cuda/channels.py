"""Outputs beside colour, expected depth and opacity, on the device; `gaussgym_render.channels` says what they are.

The sorted splats of a wave are blended once more, plainly, and only when a call asks: images stay what they are without. Splats'
normals are computed once a record. Feature channels are blended eight at a time, each eight by threads of their own.
"""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportInvalidTypeForm=false
# ruff: noqa: UP018, RUF046  (loop variables are declared by a call; `and` evaluates both sides)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import warp as wp  # noqa: TID253  (this package is imported only where the backend is asked for)
from gaussgym_scene import Splats
from numpy.typing import NDArray

from gaussgym_render.atlas import CHUNK, Atlas
from gaussgym_render.channels import by_slot
from gaussgym_render.cuda.bins import Segments, camera_of_record
from gaussgym_render.cuda.blend import MIN_TRANSMITTANCE, alpha_at, num_threads, pixel_of
from gaussgym_render.cuda.cameras import Cameras, Wave, wave_camera
from gaussgym_render.cuda.device_atlas import Scenes
from gaussgym_render.cuda.edits import Edits, patch_label, unit_normal
from gaussgym_render.cuda.graphs import before_growth
from gaussgym_render.cuda.objects import surface_at
from gaussgym_render.cuda.project import Records, factor_of, mean_of

if TYPE_CHECKING:
    from gaussgym_render.cuda.frame import Frame

wp.set_module_options({"enable_backward": False})

GROUP = 8
"""Feature channels that a thread blends."""
_GROUP = wp.constant(GROUP)
_CHUNK = wp.constant(CHUNK)
vec8 = wp.types.vector(length=GROUP, dtype=wp.float32)


@wp.struct
class Channels:
    """What to fill for C cameras, as in `gaussgym_render.channels.ChannelArrays` but for features; empty: not wanted."""

    rgb_float: wp.array4d[wp.float32]
    """`[C, H, W, 3]`."""
    median_depth: wp.array3d[wp.float32]
    """`[C, H, W]` [m]."""
    normals: wp.array4d[wp.float32]
    """`[C, H, W, 3]`, camera frame."""
    labels: wp.array3d[wp.int32]
    """`[C, H, W]`."""
    background: wp.vec3
    """Linear RGB behind the splats."""
    slot_labels: wp.array[wp.int32]
    """Label of each slot of the atlas, or empty."""
    record_normals: wp.array[wp.vec3]
    """Normal of each record, camera frame, if normals are wanted."""


@wp.kernel
def find_normals(
    scenes: Scenes,
    cameras: Cameras,
    wave: Wave,
    records: Records,
    normals: wp.array[wp.vec3],
    num_threads: int,
) -> None:
    """Write the normals of a wave's records in their cameras' frames, facing the camera; threads take records in turn."""
    record = int(wp.tid())
    while record < wave.offsets[wave.offsets.shape[0] - 1]:
        camera = wave_camera(wave, camera_of_record(wave, record))
        slot, at, k = records.slot[record], records.geometry[record], cameras.intrinsics[camera]
        normal = cameras.rotations[camera] * unit_normal(factor_of(scenes, slot // _CHUNK, slot % _CHUNK))
        if wp.dot(normal, wp.vec3((at[0] - k[2]) / k[0], (at[1] - k[3]) / k[1], 1.0)) > 0.0:
            normal = -normal
        normals[record] = normal
        record += num_threads


@wp.func
def label_of(channels: Channels, scenes: Scenes, edits: Edits, camera: int, slot: int) -> int:
    """Label of a splat as a camera sees it, -1 for none."""
    own = int(-1)
    if channels.slot_labels.shape[0] > 0:
        own = channels.slot_labels[slot]
    return patch_label(edits, camera, mean_of(scenes, slot // _CHUNK, slot % _CHUNK), own)


@wp.kernel
def blend_channels(
    scenes: Scenes,
    cameras: Cameras,
    wave: Wave,
    records: Records,
    segments: Segments,
    surfaces: wp.array2d[wp.vec4],
    edits: Edits,
    width: int,
    channels: Channels,
) -> None:
    """Blend every pixel's segment front to back, as `objects.blend_before_surfaces`, and write what is wanted of it."""
    w, thread = wp.tid()
    camera = wave_camera(wave, w)
    if camera < 0:
        return
    size = cameras.sizes[camera]
    pixel = pixel_of(thread, width)
    x, y = pixel[0], pixel[1]
    if x >= size[0] or y >= size[1]:
        return
    surface = surface_at(surfaces, w, y * width + x)
    closing = surface[3]
    with_normals = channels.normals.shape[0] > 0
    segment = (w * segments.rows + y // segments.tile_height) * segments.columns + x // segments.tile_width
    color, normal, left = wp.vec3(0.0, 0.0, 0.0), wp.vec3(0.0, 0.0, 0.0), float(1.0)
    median, middle = float(0.0), int(-1)
    pair, end = int(segments.offsets[segment]), int(segments.offsets[segment + 1])
    while pair < end:
        record = segments.values[pair]
        pair += 1
        shade = records.color[record]
        if shade[3] >= closing:
            pair = end
        else:
            alpha = alpha_at(records.geometry[record], records.peak[record], x, y)
            if alpha > 0.0:
                after = left * (1.0 - alpha)
                if after <= MIN_TRANSMITTANCE:
                    pair = end
                else:
                    color += (left * alpha) * wp.vec3(shade[0], shade[1], shade[2])
                    if with_normals:
                        normal += (left * alpha) * channels.record_normals[record]
                    if left > 0.5 and after <= 0.5:
                        median = shade[3]
                        middle = record
                    left = after
    if closing < wp.inf:
        if left > 0.5:
            median = closing
        color += left * wp.vec3(surface[0], surface[1], surface[2])
        left = 0.0
    if channels.median_depth.shape[0] > 0:
        channels.median_depth[camera, y, x] = median
    if channels.labels.shape[0] > 0:
        label = int(-1)
        if middle >= 0:
            label = label_of(channels, scenes, edits, camera, records.slot[middle])
        channels.labels[camera, y, x] = label
    length = wp.length(normal)
    for c in range(3):
        if with_normals:
            channels.normals[camera, y, x, c] = wp.where(
                length > 1.0e-6, normal[c] / wp.max(length, 1.0e-6), 0.0
            )
        if channels.rgb_float.shape[0] > 0:
            shown = color[c] + left * channels.background[c]
            channels.rgb_float[camera, y, x, c] = wp.min(wp.max(shown, 0.0), 1.0)


@wp.kernel
def blend_features(
    cameras: Cameras,
    wave: Wave,
    records: Records,
    segments: Segments,
    surfaces: wp.array2d[wp.vec4],
    table: wp.array2d[vec8],
    width: int,
    features: wp.array4d[wp.float32],
) -> None:
    """Blend eight feature channels of every pixel, over alpha.

    Args:
        cameras: Of the call.
        wave: Whose cameras they are.
        records: Of the wave.
        segments: Sorted.
        surfaces: Of the wave, see `objects.Surfaces.shown`.
        table: Features by slot, eight in a row, `[slots, ceil(F/8)]`.
        width: Of the images [px].
        features: Filled, `[C, H, W, F]`.
    """
    w, group, thread = wp.tid()
    camera = wave_camera(wave, w)
    if camera < 0:
        return
    size = cameras.sizes[camera]
    pixel = pixel_of(thread, width)
    x, y = pixel[0], pixel[1]
    if x >= size[0] or y >= size[1]:
        return
    surface = surface_at(surfaces, w, y * width + x)
    closing = surface[3]
    segment = (w * segments.rows + y // segments.tile_height) * segments.columns + x // segments.tile_width
    total, left = vec8(), float(1.0)
    pair, end = int(segments.offsets[segment]), int(segments.offsets[segment + 1])
    while pair < end:
        record = segments.values[pair]
        pair += 1
        if records.color[record][3] >= closing:
            pair = end
        else:
            alpha = alpha_at(records.geometry[record], records.peak[record], x, y)
            if alpha > 0.0:
                after = left * (1.0 - alpha)
                if after <= MIN_TRANSMITTANCE:
                    pair = end
                else:
                    total += (left * alpha) * table[records.slot[record], group]
                    left = after
    if closing < wp.inf:
        left = 0.0
    scale = wp.where(left < 1.0, 1.0 / wp.max(1.0 - left, 1.0e-30), 0.0)
    for f in range(_GROUP):
        if group * _GROUP + f < features.shape[3]:
            features[camera, y, x, group * _GROUP + f] = total[f] * scale


def label_table(atlas: Atlas, labels: Sequence[NDArray[np.int32] | None], device: Any) -> Any:
    """Labels of scenes' splats `[N]` by slot, on a device; empty if no scene has any."""
    if all(own is None for own in labels):
        return wp.zeros(0, dtype=wp.int32, device=device)
    return wp.array(by_slot(atlas, labels, (), np.int32, -1), dtype=wp.int32, device=device)


def feature_table(atlas: Atlas, features: Sequence[NDArray[np.float32]], device: Any) -> Any:
    """Feature channels of scenes' splats `[N, F]` by slot, in eights, on a device."""
    width = features[0].shape[1]
    table = by_slot(atlas, features, (width,), np.float32, 0.0)
    padded = np.zeros((len(table), -(-width // GROUP) * GROUP), np.float32)
    padded[:, :width] = table
    return wp.array(padded.reshape(len(table), -1, GROUP), dtype=vec8, device=device)


def make_channels(
    atlas: Atlas, scenes: Sequence[Any], features: Sequence[NDArray[np.float32]] | None, device: Any
) -> DeviceChannels:
    """What scenes' splats carry; those with levels of detail carry no labels."""
    labels = [scene.labels if isinstance(scene, Splats) else None for scene in scenes]
    width = 0 if features is None else features[0].shape[1]
    table = None if features is None else feature_table(atlas, features, device)
    return DeviceChannels(label_table(atlas, labels, device), width, table, device)


class DeviceChannels:
    """What splats carry for further outputs, and room for normals.

    Args:
        labels: By slot, or empty.
        num_features: F.
        features: By slot; see `feature_table`. None: there are none.
        device: Warp device.
    """

    def __init__(self, labels: Any, num_features: int, features: Any, device: Any) -> None:
        self.labels, self.num_features, self.features, self.device = labels, num_features, features, device
        self.num_allocations = 0
        self.normals = wp.zeros(0, dtype=wp.vec3, device=device)
        self._none = {n: wp.zeros((0,) * n, dtype=wp.float32, device=device) for n in (3, 4)}
        self._no_labels = wp.zeros((0, 0, 0), dtype=wp.int32, device=device)

    def reserve(self, frame: Frame, outputs: Mapping[str, Any]) -> bool:
        """Make room; returns whether the buffer is a new one."""
        if "normals" not in outputs or len(self.normals) >= frame.capacity.records:
            return False
        before_growth(self.device, "normals")
        self.num_allocations += 1
        self.normals = wp.zeros(frame.capacity.records, dtype=wp.vec3, device=self.device)
        return True

    def blend(self, frame: Frame, outputs: Mapping[str, Any], images: Any, surfaces: Any, edits: Any) -> None:
        """Write further outputs of the frame's wave, whose names are those of `gaussgym_render.channels.OUTPUTS`."""
        if not outputs:
            return
        wave, threads = frame.wave, num_threads(frame.width, frame.height)
        if "features" in outputs:
            frame.launch(
                blend_features,
                (frame.wave_size, self.features.shape[1], threads),
                [
                    frame.cameras, wave, frame.records, frame.segments, surfaces, self.features, frame.width,
                    outputs["features"],
                ],
            )  # fmt: skip
        if set(outputs) <= {"features"}:
            return
        if "normals" in outputs:
            frame.launch(
                find_normals,
                frame.num_threads,
                [frame.atlas.scenes, frame.cameras, wave, frame.records, self.normals, frame.num_threads],
            )
        channels = Channels()
        channels.rgb_float = outputs.get("rgb_float", self._none[4])
        channels.median_depth = outputs.get("median_depth", self._none[3])
        channels.normals = outputs.get("normals", self._none[4])
        channels.labels = outputs.get("labels", self._no_labels)
        channels.background = images.background
        channels.slot_labels, channels.record_normals = self.labels, self.normals
        frame.launch(
            blend_channels,
            (frame.wave_size, threads),
            [
                frame.atlas.scenes, frame.cameras, wave, frame.records, frame.segments, surfaces, edits,
                frame.width, channels,
            ],
        )  # fmt: skip
