"""Cameras of a call, prepared on the device, and their waves: those of a scene together, in groups that share its chunks."""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: UP018, RUF046  (loop variables are declared by a call; `and` evaluates both sides)

from __future__ import annotations

from typing import Any

import warp as wp  # noqa: TID253  (this package is imported only where the backend is asked for)

from gaussgym_render import oracle
from gaussgym_render.cuda.device_atlas import Scenes

wp.set_module_options({"enable_backward": False})

GROUP = 32
"""Most cameras of a work item: one bit each."""
_GROUP = wp.constant(GROUP)
_TAN_MARGIN = wp.constant(wp.float64(oracle.TAN_MARGIN))


@wp.struct
class Cameras:
    """C prepared cameras."""

    scenes: wp.array[wp.int32]
    """Scene of each, S for those that are not rendered, `[C]`."""
    rotations: wp.array[wp.mat33]
    """World to camera, `[C]`."""
    exact_rotations: wp.array[wp.mat33d]
    """The same in float64, `[C]`."""
    centers_w: wp.array[wp.vec3d]
    """Camera centres [m], `[C]`."""
    intrinsics: wp.array[wp.vec4]
    """fx, fy, cx, cy [px], `[C]`."""
    tan_limits: wp.array[wp.vec4]
    """Clamp of the Jacobian: lowest and highest x/z, lowest and highest y/z, `[C]`."""
    sizes: wp.array[wp.vec2i]
    """Width and height of each image [px], `[C]`."""


@wp.struct
class Wave:
    """W cameras that are rendered together, in order of their scene, and the work items that they make."""

    order: wp.array[wp.int32]
    """All cameras of the call, those of a scene together, `[C]`; a wave is a run of it."""
    active: wp.array[wp.int32]
    """How many of them are rendered, `[1]`."""
    start: int
    """Where in `order` the wave begins."""
    max_chunks: int
    """M, chunks of the largest scene."""
    num_items: wp.array[wp.int32]
    """Items that begin at each camera of the wave: the chunks of its scene if a group begins there, else 0, `[W + 1]`."""
    item_starts: wp.array[wp.int32]
    """Their sum before each, and at the end all items, `[W + 1]`."""
    group_sizes: wp.array[wp.int32]
    """Cameras of the group that begins at each camera, `[W]`."""
    masks: wp.array[wp.uint32]
    """Which cameras of its group see an item's chunk, `[W · M]`."""
    origins_c: wp.array[wp.vec3]
    """Chunk centres in the camera's frame [m], from float64, where the camera sees the chunk, `[W · M]`."""
    bits: wp.array[wp.uint32]
    """Which splats a camera sees: word `(w · M + chunk in scene) · 8 + i // 32`, bit `i % 32`, `[W · M · 8]`."""
    counts: wp.array[wp.int32]
    """How many of a chunk a camera sees, `[W · M + 1]`, the last 0."""
    offsets: wp.array[wp.int32]
    """Their sum before each: the first record of a camera's chunk, and at the end all records, `[W · M + 1]`."""


@wp.kernel
def prepare_cameras(
    c2w: wp.array3d[Any],
    ks: wp.array3d[Any],
    ids: wp.array[Any],
    mask: wp.array[wp.bool],
    sizes: wp.array2d[Any],
    width: int,
    height: int,
    num_scenes: int,
    cameras: Cameras,
    keys: wp.array[wp.int32],
    order: wp.array[wp.int32],
    refused: wp.array[wp.int32],
) -> None:
    """Turn poses and calibrations into what kernels need; cameras that cannot be rendered are counted and left out.

    Args:
        c2w: Camera to world `[C, 4, 4]`, float32 or float64.
        ks: Calibration matrices `[C, 3, 3]`, the same.
        ids: Scenes `[C]`, int32 or int64.
        mask: Which to render `[C]`; empty: all.
        sizes: Width and height of each image `[C, 2]`, as `ids`; empty: the frame's.
        width: Of the frame [px].
        height: Of the frame [px].
        num_scenes: S.
        cameras: Filled.
        keys: Their scenes, to sort by, `[2 C]`.
        order: Their numbers, `[2 C]`.
        refused: Cameras with a bad pose, calibration, scene or size so far, `[1]`.
    """
    c = wp.tid()
    order[c] = c
    wanted = bool(True)
    if mask.shape[0] > 0:
        wanted = mask[c]
    scene = int(ids[c])
    size = wp.vec2i(width, height)
    if sizes.shape[0] > 0:
        size = wp.vec2i(int(sizes[c, 0]), int(sizes[c, 1]))
    rotation = wp.mat33d(
        wp.float64(c2w[c, 0, 0]), wp.float64(c2w[c, 0, 1]), wp.float64(c2w[c, 0, 2]),
        wp.float64(c2w[c, 1, 0]), wp.float64(c2w[c, 1, 1]), wp.float64(c2w[c, 1, 2]),
        wp.float64(c2w[c, 2, 0]), wp.float64(c2w[c, 2, 1]), wp.float64(c2w[c, 2, 2]),
    )  # fmt: skip
    center = wp.vec3d(wp.float64(c2w[c, 0, 3]), wp.float64(c2w[c, 1, 3]), wp.float64(c2w[c, 2, 3]))
    fx, fy = wp.float64(ks[c, 0, 0]), wp.float64(ks[c, 1, 1])
    cx, cy = wp.float64(ks[c, 0, 2]), wp.float64(ks[c, 1, 2])
    good = scene >= 0 and scene < num_scenes
    good = good and size[0] >= 1 and size[1] >= 1 and size[0] <= width and size[1] <= height
    good = good and is_rotation(rotation) and wp.isfinite(center)
    good = good and wp.isfinite(fx) and wp.isfinite(fy) and wp.isfinite(cx) and wp.isfinite(cy)
    good = good and fx > wp.float64(0.0) and fy > wp.float64(0.0) and ks[c, 0, 1] == ks.dtype(0.0)
    if wanted and not good:
        wp.atomic_add(refused, 0, 1)
    if not (wanted and good):
        scene = num_scenes
    keys[c] = scene
    cameras.scenes[c] = scene
    if scene == num_scenes:
        return
    inverse = wp.inverse(rotation)
    cameras.exact_rotations[c] = inverse
    cameras.rotations[c] = wp.mat33(inverse)
    cameras.centers_w[c] = center
    cameras.intrinsics[c] = wp.vec4(float(fx), float(fy), float(cx), float(cy))
    cameras.sizes[c] = size
    margin_x = _TAN_MARGIN * wp.float64(0.5) * wp.float64(size[0]) / fx
    margin_y = _TAN_MARGIN * wp.float64(0.5) * wp.float64(size[1]) / fy
    cameras.tan_limits[c] = wp.vec4(
        float(-(cx / fx + margin_x)),
        float((wp.float64(size[0]) - cx) / fx + margin_x),
        float(-(cy / fy + margin_y)),
        float((wp.float64(size[1]) - cy) / fy + margin_y),
    )


for _real in (wp.float32, wp.float64):
    for _integer in (wp.int32, wp.int64):
        wp.overload(
            prepare_cameras,
            {
                "c2w": wp.array3d(dtype=_real),
                "ks": wp.array3d(dtype=_real),
                "ids": wp.array(dtype=_integer),
                "sizes": wp.array2d(dtype=_integer),
            },
        )


@wp.func
def is_rotation(m: wp.mat33d) -> bool:
    """As `gaussgym_render.objects.is_rigid`; NaN is none."""
    worst = wp.float64(0.0)
    for i in range(3):
        for j in range(3):
            dot = m[i, 0] * m[j, 0] + m[i, 1] * m[j, 1] + m[i, 2] * m[j, 2]
            if i == j:
                dot = dot - wp.float64(1.0)
            if not wp.abs(dot) < wp.float64(1e-2):
                worst = wp.float64(1.0)
    return worst == wp.float64(0.0) and wp.determinant(m) > wp.float64(0.0)


@wp.func
def wave_camera(wave: Wave, w: int) -> int:
    """The camera at a place of the wave, -1 past the last that is rendered."""
    if wave.start + w >= wave.active[0]:
        return -1
    return wave.order[wave.start + w]


@wp.kernel
def count_active(
    sorted_scenes: wp.array[wp.int32], num_cameras: int, num_scenes: int, active: wp.array[wp.int32]
) -> None:
    """How many cameras are rendered, from their sorted scenes `[C]`: those before the first S; `active` is 0 before."""
    c = wp.tid()
    if sorted_scenes[c] >= num_scenes:
        return
    if c + 1 < num_cameras and sorted_scenes[c + 1] < num_scenes:
        return
    active[0] = c + 1


@wp.kernel
def group_cameras(scenes: Scenes, sorted_scenes: wp.array[wp.int32], wave: Wave) -> None:
    """Cut the cameras of each scene in the wave into groups of up to 32, and count their work items."""
    w = wp.tid()
    wave.num_items[w] = 0
    wave.group_sizes[w] = 0
    if wave_camera(wave, w) < 0:
        return
    at = wave.start + w
    scene = sorted_scenes[at]
    first, last = int(at), int(at)
    while first > wave.start and sorted_scenes[wp.max(first - 1, 0)] == scene:
        first -= 1
    if (at - first) % _GROUP != 0:
        return
    stop = wp.min(wp.min(wave.start + wave.group_sizes.shape[0], wave.active[0]), at + _GROUP)
    while last < stop and sorted_scenes[wp.min(last, stop - 1)] == scene:
        last += 1
    wave.group_sizes[w] = last - at
    wave.num_items[w] = scenes.chunk_ranges[scene, 1] - scenes.chunk_ranges[scene, 0]


@wp.func
def first_above(ends: wp.array[wp.int32], count: int, value: int) -> int:
    """The first of `count` ascending numbers that is above a value."""
    low, high = int(0), int(count)
    while low < high:
        middle = (low + high) // 2
        if ends[middle] > value:
            high = middle
        else:
            low = middle + 1
    return low


@wp.func
def group_of_item(wave: Wave, item: int) -> int:
    """Place in the wave of the camera at which an item's group begins."""
    return first_above(wave.item_starts, wave.item_starts.shape[0], item) - 1
