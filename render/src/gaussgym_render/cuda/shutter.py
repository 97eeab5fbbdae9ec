"""`gaussgym_render.shutter` on a Warp device: when rows are exposed, and from which poses a frame is rendered.

A camera has `max_samples` places for images, whether it needs them or not: image k of camera c of a block lies at place
`c·max_samples + k`, and a mask says which are rendered. So no count has to be known on the host.
"""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportReturnType=false
# ruff: noqa: UP018, D103  (a variable that a loop changes is declared by a call)

from __future__ import annotations

import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)

from gaussgym_render import sensor, shutter
from gaussgym_render.cuda.sensor import uniform

wp.set_module_options({"enable_backward": False, "fuse_fp": False})

_FIRST_DRAW = wp.constant(sensor.NUM_SENSOR_DRAWS)
_REFERENCE_DEPTH = wp.constant(wp.float64(shutter.REFERENCE_DEPTH_M))
_SMALL_RAD = wp.constant(wp.float64(1e-4))


@wp.func
def norm3(x: wp.float64, y: wp.float64, z: wp.float64) -> wp.float64:
    return wp.sqrt(x * x + y * y + z * z)


@wp.kernel
def draw_times(
    keys: wp.array[wp.uint64],
    ranges: wp.vec4d,
    most: int,
    sample_px: wp.float64,
    twist_c: wp.array2d[wp.float64],
    focals: wp.array[wp.vec4d],
    due: wp.array[wp.bool],
    times_s: wp.array[wp.vec2d],
    samples: wp.array[int],
) -> None:
    """What cameras `[C]` draw for their shutter, and how many poses a frame needs: `gaussgym_render.shutter.num_samples`.

    Args:
        keys: Generators of cameras.
        ranges: Lowest and highest exposure time, then readout time [s].
        most: `ShutterCfg.max_samples`.
        sample_px: Image motion that is worth another pose [px].
        twist_c: Linear [m/s], then angular [rad/s].
        focals: fx, fy, cx, cy [px].
        due: Which cameras are rendered; empty: all.
        times_s: Exposure and readout time, written.
        samples: Written; 0 for cameras that are not rendered.
    """
    c = wp.tid()
    exposure_s = uniform(keys[c], _FIRST_DRAW, ranges[0], ranges[1])
    readout_s = uniform(keys[c], _FIRST_DRAW + 1, ranges[2], ranges[3])
    times_s[c] = wp.vec2d(exposure_s, readout_s)
    if due.shape[0] > 0 and not due[c]:
        samples[c] = 0
        return
    speed = norm3(twist_c[c, 3], twist_c[c, 4], twist_c[c, 5])
    speed += norm3(twist_c[c, 0], twist_c[c, 1], twist_c[c, 2]) / _REFERENCE_DEPTH
    focal = wp.max(focals[c][0], focals[c][1])
    steps = wp.ceil(speed * (exposure_s + readout_s) * focal / sample_px)
    samples[c] = int(wp.min(wp.max(steps, wp.float64(1.0)), wp.float64(most)))


@wp.func
def se3_exp(linear: wp.vec3d, angular: wp.vec3d) -> wp.mat44d:
    """See `gaussgym_render.shutter.se3_exp`."""
    one, zero, two = wp.float64(1.0), wp.float64(0.0), wp.float64(2.0)
    angle = norm3(angular[0], angular[1], angular[2])
    square = angle * angle
    sine = one - square / wp.float64(6.0)
    cosine = wp.float64(0.5) - square / wp.float64(24.0)
    rest = one / wp.float64(6.0) - square / wp.float64(120.0)
    if angle >= _SMALL_RAD:
        half = wp.sin(angle / two) / angle
        sine = wp.sin(angle) / angle
        cosine = two * half * half
        rest = (angle - wp.sin(angle)) / (square * angle)
    cross = wp.skew(angular)
    cross_sq = cross * cross
    eye = wp.identity(n=3, dtype=wp.float64)
    turn = eye + sine * cross + cosine * cross_sq
    shift = (eye + cosine * cross + rest * cross_sq) * linear
    return wp.mat44d(
        turn[0, 0], turn[0, 1], turn[0, 2], shift[0],
        turn[1, 0], turn[1, 1], turn[1, 2], shift[1],
        turn[2, 0], turn[2, 1], turn[2, 2], shift[2],
        zero, zero, zero, one,
    )  # fmt: skip


@wp.func
def moved(pose: wp.mat44d, twists: wp.array2d[wp.float64], i: int, time_s: wp.float64) -> wp.mat44d:
    """Where a thing with row i of `twists [N, 6]` was at a time before the end of the frame; at rest its pose, bit for bit."""
    linear = wp.vec3d(twists[i, 0], twists[i, 1], twists[i, 2])
    angular = wp.vec3d(twists[i, 3], twists[i, 4], twists[i, 5])
    return pose * se3_exp(time_s * linear, time_s * angular)


@wp.func
def cell_time(times_s: wp.vec2d, cell: int, samples: int) -> wp.float64:
    """The middle of a cell of a camera's time [s], 0 being the end of the frame."""
    duration_s = times_s[0] + times_s[1]
    return (wp.float64(cell) + wp.float64(0.5)) / wp.float64(samples) * duration_s - duration_s


@wp.kernel
def place(
    begin: int,
    count: int,
    most: int,
    poses: wp.array[wp.mat44d],
    twist_c: wp.array2d[wp.float64],
    scene_ids: wp.array[int],
    times_s: wp.array[wp.vec2d],
    samples: wp.array[int],
    pinholes: wp.array[wp.vec4d],
    path: wp.array3d[wp.float64],
    path_ks: wp.array3d[wp.float64],
    path_scenes: wp.array[int],
    path_due: wp.array[wp.bool],
) -> None:
    """Cameras of the pinhole images of a block of cameras, from camera `begin` on.

    Args:
        begin: First camera.
        count: Cameras of the block; the B - count places beyond them stay unused.
        most: Places a camera.
        poses: Camera to world at the end of the exposure `[C]`.
        twist_c: `[C, 6]`.
        scene_ids: `[C]`.
        times_s: See `draw_times`, `[C]`.
        samples: `[C]`.
        pinholes: fx, fy, cx, cy of each camera's pinhole `[C]` [px].
        path: Camera to world, written, `[B·most, 4, 4]`.
        path_ks: Written, `[B·most, 3, 3]`.
        path_scenes: Written, `[B·most]`.
        path_due: Whether a place is used, written, `[B·most]`.
    """
    b, cell = wp.tid()
    c, at = begin + b, b * most + cell
    path_due[at] = False
    if b >= count:
        return
    if cell >= samples[c]:
        return
    path_due[at] = True
    pose = moved(poses[c], twist_c, c, cell_time(times_s[c], cell, samples[c]))
    for row in range(4):
        for column in range(4):
            path[at, row, column] = pose[row, column]
    path_scenes[at] = scene_ids[c]
    focal = pinholes[c]
    for row in range(3):
        for column in range(3):
            path_ks[at, row, column] = wp.float64(0.0)
    path_ks[at, 0, 0] = focal[0]
    path_ks[at, 1, 1] = focal[1]
    path_ks[at, 0, 2] = focal[2]
    path_ks[at, 1, 2] = focal[3]
    path_ks[at, 2, 2] = wp.float64(1.0)


@wp.kernel
def place_objects(
    begin: int,
    count: int,
    most: int,
    offsets: wp.array[wp.int64],
    object_ids: wp.array[wp.int64],
    poses_w: wp.array[wp.mat44d],
    twists_o: wp.array2d[wp.float64],
    times_s: wp.array[wp.vec2d],
    samples: wp.array[int],
    path_offsets: wp.array[wp.int64],
    path_ids: wp.array[wp.int64],
    path_poses_w: wp.array[wp.mat44d],
) -> None:
    """Instances of the images of a block: those of camera c, `most` times, each where it was in the middle of its cell.

    Instance i of camera c stands for image k at `most·offsets[c] + k·n + i` with n instances in all, less `most·offsets[begin]`.

    Args:
        begin: First camera.
        count: Cameras of the block; those of the B beyond them have no instances.
        most: Places a camera.
        offsets: As in `gaussgym_render.objects.Instances`, `[C + 1]`.
        object_ids: `[I]`.
        poses_w: At the end of the exposure `[I]`.
        twists_o: `[I, 6]`; empty: all rest.
        times_s: See `draw_times`, `[C]`.
        samples: `[C]`.
        path_offsets: Written, `[B·most + 1]`.
        path_ids: Written, `[B·most·n]` at most.
        path_poses_w: Written, likewise.
    """
    b, cell = wp.tid()
    c, at = begin + b, b * most + cell
    if b >= count:
        path_offsets[at + 1] = wp.int64(most) * (offsets[begin + count] - offsets[begin])
        return
    first, length = offsets[c], offsets[c + 1] - offsets[c]
    start = wp.int64(most) * (first - offsets[begin]) + wp.int64(cell) * length
    path_offsets[at + 1] = start + length
    if at == 0:
        path_offsets[0] = start
    if cell >= samples[c]:
        return
    time_s = cell_time(times_s[c], cell, samples[c])
    for i in range(int(length)):
        source, target = int(first) + i, int(start) + i
        path_ids[target] = object_ids[source]
        if twists_o.shape[0] > 0:
            path_poses_w[target] = moved(poses_w[source], twists_o, source, time_s)
        else:
            path_poses_w[target] = poses_w[source]


@wp.func
def row_window(y: int, height: int, times_s: wp.vec2d) -> wp.vec2d:
    """See `gaussgym_render.shutter.row_window`."""
    end = -times_s[1] * (wp.float64(1.0) - (wp.float64(y) + wp.float64(0.5)) / wp.float64(height))
    return wp.vec2d(end - times_s[0], end)


@wp.func
def cell_at(time_s: wp.float64, duration_s: wp.float64, samples: int) -> int:
    """See `gaussgym_render.shutter.cell_at`."""
    if duration_s <= wp.float64(0.0):
        return 0
    return wp.clamp(int((time_s + duration_s) / duration_s * wp.float64(samples)), 0, samples - 1)


@wp.func
def cell_weight(cell: int, samples: int, window: wp.vec2d, duration_s: wp.float64) -> float:
    """See `gaussgym_render.shutter.cell_weight`."""
    if samples == 1:
        return 1.0
    if window[1] <= window[0]:
        if cell == cell_at(window[1], duration_s, samples):
            return 1.0
        return 0.0
    width = duration_s / wp.float64(samples)
    low = wp.float64(cell) * width - duration_s
    overlap = wp.min(low + width, window[1]) - wp.max(low, window[0])
    return float(wp.max(overlap, wp.float64(0.0)) / (window[1] - window[0]))


@wp.kernel
def row_weights(
    begin: int,
    times_s: wp.array[wp.vec2d],
    samples: wp.array[int],
    weights: wp.array3d[float],
    middles: wp.array2d[int],
) -> None:
    """What each image of a camera of a block counts for each row.

    Args:
        begin: First camera.
        times_s: See `draw_times`, `[C]`.
        samples: `[C]`.
        weights: Written, `[B, H, most]`; 0 for places that are not used.
        middles: The image in the middle of each row's exposure, written, `[B, H]`.
    """
    b, y = wp.tid()
    c = begin + b
    used, times = samples[c], times_s[c]
    duration_s = times[0] + times[1]
    window = row_window(y, weights.shape[1], times)
    middles[b, y] = cell_at(wp.float64(0.5) * (window[0] + window[1]), duration_s, used)
    for cell in range(weights.shape[2]):
        weight = float(0.0)
        if cell < used:
            weight = cell_weight(cell, used, window, duration_s)
        weights[b, y, cell] = weight
