"""The first and the last kernel of a robot's camera: who the cameras are, and frames out of pinhole images."""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false
# ruff: noqa: UP018  (a variable that a loop changes is declared by a call)

from __future__ import annotations

import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)

from gaussgym_render.cuda.lens import distorted_pixel, nearest_pixel
from gaussgym_render.cuda.sensor import child, encode, expose, frame_key, measure_depth

# Sums and products stay apart, so that light rounds as that of `gaussgym_render.robot_camera` does.
wp.set_module_options({"enable_backward": False, "fuse_fp": False})


@wp.kernel
def draw_keys(
    seed_key: wp.uint64,
    camera_ids: wp.array[wp.int64],
    frame_ids: wp.array[wp.int64],
    calls: wp.array[wp.int64],
    ks: wp.array3d[wp.float64],
    keys: wp.array[wp.uint64],
    frame_keys: wp.array[wp.uint64],
    focals: wp.array[wp.vec4d],
    views: wp.array[wp.vec4f],
) -> None:
    """Generators of cameras `[C]` and of their frames, and their calibration.

    Args:
        seed_key: First output of the generator of the seed.
        camera_ids: Empty: places in the batch.
        frame_ids: Empty: the number of calls so far.
        calls: That number `[1]`.
        ks: `[C, 3, 3]`.
        keys: Written.
        frame_keys: Written.
        focals: fx, fy, cx, cy, written [px].
        views: 1/fx, 1/fy, cx, cy, written [px].
    """
    c = wp.tid()
    name, number = wp.int64(c), wp.int64(calls[0])
    if camera_ids.shape[0] > 0:
        name = camera_ids[c]
    if frame_ids.shape[0] > 0:
        number = frame_ids[c]
    keys[c] = child(seed_key, wp.uint64(name))
    frame_keys[c] = frame_key(keys[c], number)
    focals[c] = wp.vec4d(ks[c, 0, 0], ks[c, 1, 1], ks[c, 0, 2], ks[c, 1, 2])
    one = wp.float64(1.0)
    views[c] = wp.vec4f(
        float(one / ks[c, 0, 0]), float(one / ks[c, 1, 1]), float(ks[c, 0, 2]), float(ks[c, 1, 2])
    )


@wp.kernel
def count_call(calls: wp.array[wp.int64]) -> None:
    """One call more."""
    calls[0] = calls[0] + wp.int64(1)


@wp.struct
class Images:
    """Pinhole images of a block, see `gaussgym_render.cuda.shutter`."""

    rgb: wp.array4d[wp.uint8]
    depth: wp.array3d[float]
    alpha: wp.array3d[float]
    seen: wp.array3d[int]
    """Which of the block's instances; empty if nobody asks."""
    weights: wp.array3d[float]
    """See `shutter.row_weights`."""
    middles: wp.array2d[int]


@wp.struct
class Optics:
    """What cameras have drawn, and tables."""

    decode: wp.array[float]
    rays: wp.array3d[wp.vec2f]
    """Empty without distortion."""
    pinholes: wp.array[wp.vec4d]
    views: wp.array[wp.vec4f]
    sensors: wp.array2d[float]
    frame_keys: wp.array[wp.uint64]
    curves: wp.array2d[float]


@wp.kernel
def develop(
    begin: int,
    first_slot: int,
    due: wp.array[wp.bool],
    images: Images,
    optics: Optics,
    object_offsets: wp.array[wp.int64],
    rgb: wp.array4d[wp.uint8],
    depth: wp.array3d[float],
    alpha: wp.array3d[float],
    seen: wp.array3d[int],
) -> None:
    """Make the frames of a block of cameras from its pinhole images: a launch over `[B, H, W]`.

    Args:
        begin: First camera.
        first_slot: Camera c has the table of rays `c - first_slot`.
        due: Which cameras are rendered `[C]`; empty: all.
        images: Of the block.
        optics: Of the cameras.
        object_offsets: Instances of the call, `[C + 1]`; empty without objects.
        rgb: Written `[C, H, W, 3]`.
        depth: Written `[C, H, W]`.
        alpha: Written `[C, H, W]`.
        seen: Which of the call's instances, written `[C, H, W]`; empty if nobody asks.
    """
    b, y, x = wp.tid()
    c = begin + b
    if due.shape[0] > 0 and not due[c]:
        return
    places, height, width = images.weights.shape[2], images.rgb.shape[1], images.rgb.shape[2]
    distorted = optics.rays.shape[0] > 0
    pinhole = wp.vec4f()
    i, j = int(x), int(y)
    if distorted:
        wide = optics.pinholes[c]
        pinhole = wp.vec4f(float(wide[0]), float(wide[1]), float(wide[2]), float(wide[3]))
        pixel = nearest_pixel(optics.rays, c - first_slot, pinhole, y, x, width, height)
        i, j = pixel[0], pixel[1]
    light, cover = wp.vec3f(), float(0.0)
    for cell in range(places):
        weight = images.weights[b, y, cell]
        if weight > 0.0:
            at = b * places + cell
            if distorted:
                light += weight * distorted_pixel(
                    images.rgb, at, optics.decode, optics.rays, c - first_slot, pinhole, y, x
                )
            else:
                light += weight * wp.vec3f(
                    optics.decode[int(images.rgb[at, j, i, 0])],
                    optics.decode[int(images.rgb[at, j, i, 1])],
                    optics.decode[int(images.rgb[at, j, i, 2])],
                )
            cover += weight * images.alpha[at, j, i]
    middle = b * places + images.middles[b, y]
    key = optics.frame_keys[c]
    code = expose(light, optics.views[c], optics.sensors, c, key, y, x, rgb.shape[2])
    for channel in range(3):
        rgb[c, y, x, channel] = encode(code[channel], optics.curves, b)
    exact = images.depth[middle, j, i]
    depth[c, y, x] = measure_depth(exact, optics.sensors, c, key, y, x, rgb.shape[2])
    alpha[c, y, x] = cover
    if seen.shape[0] > 0:
        instance = images.seen[middle, j, i]
        if instance >= 0:
            first = object_offsets[c] - object_offsets[begin]
            length = int(object_offsets[c + 1] - object_offsets[c])
            own = instance - places * int(first) - images.middles[b, y] * length
            instance = int(object_offsets[c]) + own
        seen[c, y, x] = instance
