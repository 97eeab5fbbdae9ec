"""Edits of how scenes look, camera by camera, on the device: records get other colours before they are binned.

What each edit does, and in which order, is said in `gaussgym_render.edits`. A splat's colour is computed anew here, since the
first edit needs its bands apart; calls without edits pay nothing.
"""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportInvalidTypeForm=false
# ruff: noqa: UP018, RUF046, SIM102  (loop variables are declared by a call; `and` evaluates both sides)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import warp as wp  # noqa: TID253  (this package is imported only where the backend is asked for)

from gaussgym_render.atlas import CHUNK
from gaussgym_render.cuda.bins import camera_of_record
from gaussgym_render.cuda.cameras import Cameras, Wave, is_rotation, wave_camera
from gaussgym_render.cuda.device_atlas import Scenes
from gaussgym_render.cuda.graphs import before_growth
from gaussgym_render.cuda.project import Records, factor_of, mean_of, shown_color

if TYPE_CHECKING:
    from gaussgym_render.cuda.frame import Frame
    from gaussgym_render.edits import SceneEdits

wp.set_module_options({"enable_backward": False})

_CHUNK = wp.constant(CHUNK)
_COLOR = wp.constant(3 * CHUNK)
mat34d = wp.types.matrix(shape=(3, 4), dtype=wp.float64)
_NOTHING = wp.constant(wp.vec3d(-1.0, -1.0, -1.0))  # half sizes of a box without inside


@wp.struct
class Edits:
    """Edits as kernels take them: D rows, one for each camera or for several that follow each other, and P patches."""

    color: wp.array3d[wp.float32]
    """Affine map of colours `[D, 3, 4]`."""
    view_dependence: wp.array[wp.float32]
    """Gain of the bands above the first `[D]`."""
    light: wp.array3d[wp.float32]
    """`l0` and `l` (world frame) of each channel, `[D, 3, 4]`."""
    lit: wp.array[wp.int32]
    """Whether the light changes anything `[D]`."""
    patch_offsets: wp.array[wp.int32]
    """Row d has the patches from entry d to entry d + 1; none at all if there is one entry, `[D + 1]`."""
    to_patch: wp.array[mat34d]
    """World to patch `[P]`."""
    half_sizes_m: wp.array[wp.vec3d]
    """Half sizes of the boxes, negative for patches that are left out `[P]`."""
    patch_colors: wp.array[wp.vec4]
    """Colour and share of it `[P]`."""
    patch_labels: wp.array[wp.int32]
    """-1 keeps the splats' `[P]`."""
    first_row: int
    """Row of camera 0."""
    cameras_per_row: int
    """How many cameras that follow each other share a row."""


@wp.kernel
def prepare_looks(
    color: wp.array3d[Any],
    view_dependence: wp.array[Any],
    light: wp.array3d[Any],
    edits: Edits,
    refused: wp.array[wp.int32],
) -> None:
    """Take over what each row does to all colours; rows with NaN or infinity change nothing, and are counted.

    Args:
        color: `[D, 3, 4]`, float32 or float64.
        view_dependence: `[D]`, the same.
        light: `[D, 3, 4]`, the same.
        edits: Filled.
        refused: Rows that were left out so far, `[1]`.
    """
    d = wp.tid()
    good = wp.isfinite(view_dependence[d])
    for row in range(3):
        for column in range(4):
            good = good and wp.isfinite(color[d, row, column]) and wp.isfinite(light[d, row, column])
    gain, lit = float(1.0), int(0)
    if good:
        gain = float(view_dependence[d])
    else:
        wp.atomic_add(refused, 0, 1)
    for row in range(3):
        for column in range(4):
            own = wp.where(row == column, 1.0, 0.0)
            plain = wp.where(column == 0, 1.0, 0.0)
            shine = plain
            if good:
                own, shine = float(color[d, row, column]), float(light[d, row, column])
            edits.color[d, row, column] = own
            edits.light[d, row, column] = shine
            if shine != plain:
                lit = 1
    edits.view_dependence[d] = gain
    edits.lit[d] = lit


@wp.kernel
def prepare_offsets(offsets: wp.array[Any], count: int, out: wp.array[wp.int32]) -> None:
    """Take over offsets into `count` things, int32 or int64 `[N]`; none leads outside."""
    i = wp.tid()
    value = offsets[i]
    kept = count
    if value < offsets.dtype(count):
        kept = wp.max(int(value), 0)
    out[i] = kept


@wp.kernel
def prepare_patches(
    poses_w: wp.array3d[Any],
    half_sizes_m: wp.array2d[Any],
    colors: wp.array2d[Any],
    labels: wp.array[Any],
    edits: Edits,
    refused: wp.array[wp.int32],
) -> None:
    """Take over patches; those that are not rigid or not finite are left out, and counted.

    Args:
        poses_w: Patch to world `[P, 4, 4]`, float32 or float64.
        half_sizes_m: `[P, 3]`, the same.
        colors: `[P, 4]`, the same.
        labels: `[P]`, int32 or int64.
        edits: Filled.
        refused: Patches and rows that were left out so far, `[1]`.
    """
    p = wp.tid()
    r = wp.mat33d(
        wp.float64(poses_w[p, 0, 0]), wp.float64(poses_w[p, 0, 1]), wp.float64(poses_w[p, 0, 2]),
        wp.float64(poses_w[p, 1, 0]), wp.float64(poses_w[p, 1, 1]), wp.float64(poses_w[p, 1, 2]),
        wp.float64(poses_w[p, 2, 0]), wp.float64(poses_w[p, 2, 1]), wp.float64(poses_w[p, 2, 2]),
    )  # fmt: skip
    at = wp.vec3d(wp.float64(poses_w[p, 0, 3]), wp.float64(poses_w[p, 1, 3]), wp.float64(poses_w[p, 2, 3]))
    half = wp.vec3d(
        wp.float64(half_sizes_m[p, 0]), wp.float64(half_sizes_m[p, 1]), wp.float64(half_sizes_m[p, 2])
    )
    color = wp.vec4(float(colors[p, 0]), float(colors[p, 1]), float(colors[p, 2]), float(colors[p, 3]))
    good = is_rotation(r) and wp.isfinite(at) and wp.isfinite(half) and wp.isfinite(color)
    if not good:
        wp.atomic_add(refused, 0, 1)
        edits.half_sizes_m[p] = _NOTHING
        return
    inverse = wp.inverse(r)
    shift = inverse * at
    edits.to_patch[p] = mat34d(
        inverse[0, 0], inverse[0, 1], inverse[0, 2], -shift[0],
        inverse[1, 0], inverse[1, 1], inverse[1, 2], -shift[1],
        inverse[2, 0], inverse[2, 1], inverse[2, 2], -shift[2],
    )  # fmt: skip
    edits.half_sizes_m[p] = half
    edits.patch_colors[p] = color
    edits.patch_labels[p] = int(labels[p])


for _real in (wp.float32, wp.float64):
    wp.overload(
        prepare_looks,
        {
            "color": wp.array3d(dtype=_real),
            "view_dependence": wp.array(dtype=_real),
            "light": wp.array3d(dtype=_real),
        },
    )
    for _integer in (wp.int32, wp.int64):
        wp.overload(
            prepare_patches,
            {
                "poses_w": wp.array3d(dtype=_real),
                "half_sizes_m": wp.array2d(dtype=_real),
                "colors": wp.array2d(dtype=_real),
                "labels": wp.array(dtype=_integer),
            },
        )
for _integer in (wp.int32, wp.int64):
    wp.overload(prepare_offsets, {"offsets": wp.array(dtype=_integer)})


@wp.func
def row_of(edits: Edits, camera: int) -> int:
    """The row that a camera's edits are in."""
    return edits.first_row + camera // edits.cameras_per_row


@wp.func
def in_patch(edits: Edits, p: int, mean: wp.vec3) -> bool:
    """Whether a point of the world lies in a patch's box."""
    half = edits.half_sizes_m[p]
    if half[0] < wp.float64(0.0):
        return False
    x, y, z = wp.float64(mean[0]), wp.float64(mean[1]), wp.float64(mean[2])
    m = edits.to_patch[p]
    inside = bool(True)
    for row in range(3):
        own = m[row, 0] * x + m[row, 1] * y + m[row, 2] * z + m[row, 3]
        inside = inside and wp.abs(own) <= half[row]
    return inside


@wp.func
def patch_label(edits: Edits, camera: int, mean: wp.vec3, label: int) -> int:
    """Label of a splat after a camera's patches."""
    shown = int(label)
    if edits.patch_offsets.shape[0] > 1:
        d = row_of(edits, camera)
        for p in range(edits.patch_offsets[d], edits.patch_offsets[d + 1]):
            if edits.patch_labels[p] >= 0:
                if in_patch(edits, p, mean):
                    shown = edits.patch_labels[p]
    return shown


@wp.func
def axis_of(factor: wp.mat33, j: int) -> wp.vec3:
    """A splat's j-th axis, as long as its standard deviation [m]."""
    return wp.vec3(factor[0, j], factor[1, j], factor[2, j])


@wp.func
def shortest_axis(factor: wp.mat33) -> int:
    """Which of a splat's axes is the shortest, the first of several."""
    a, b, c = axis_of(factor, 0), axis_of(factor, 1), axis_of(factor, 2)
    shortest, least = int(0), wp.dot(a, a)
    if wp.dot(b, b) < least:
        shortest, least = 1, wp.dot(b, b)
    if wp.dot(c, c) < least:
        shortest = 2
    return shortest


@wp.func
def unit_normal(factor: wp.mat33) -> wp.vec3:
    """A splat's normal, to either side: the cross product of its two longest axes to unit length, 0 if they have none."""
    shortest = shortest_axis(factor)
    normal = wp.cross(axis_of(factor, (shortest + 1) % 3), axis_of(factor, (shortest + 2) % 3))
    length = wp.length(normal)
    return normal * wp.where(length > 0.0, 1.0 / wp.max(length, 1.0e-37), 0.0)


@wp.func
def flatness(factor: wp.mat33) -> float:
    """`1 - shortest/middle axis`: a round splat has no normal."""
    shortest = shortest_axis(factor)
    s, a = axis_of(factor, shortest), axis_of(factor, (shortest + 1) % 3)
    b = axis_of(factor, (shortest + 2) % 3)
    second = wp.min(wp.dot(a, a), wp.dot(b, b))
    return wp.where(second > 0.0, 1.0 - wp.sqrt(wp.dot(s, s) / wp.max(second, 1.0e-37)), 0.0)


@wp.func
def relight(edits: Edits, d: int, normal: wp.vec3, strength: float, color: wp.vec3) -> wp.vec3:
    """Multiply a colour by the light of degree 0 and 1 on a normal."""
    lit = color
    for c in range(3):
        towards = wp.vec3(edits.light[d, c, 1], edits.light[d, c, 2], edits.light[d, c, 3])
        lit[c] = color[c] * wp.max(edits.light[d, c, 0] + strength * wp.dot(towards, normal), 0.0)
    return lit


@wp.func
def edited_color(
    edits: Edits,
    scenes: Scenes,
    chunk: int,
    i: int,
    scene: int,
    camera: int,
    mean: wp.vec3,
    center_w: wp.vec3d,
) -> wp.vec3:
    """A splat's colour as one camera sees it, edits included, at least 0."""
    d = row_of(edits, camera)
    away = wp.vec3(wp.vec3d(mean) - center_w)
    direction = away / wp.sqrt(wp.max(wp.dot(away, away), 1.0e-30))
    color = shown_color(scenes, chunk, i, scene, direction)
    gain = edits.view_dependence[d]
    if gain != 1.0:
        at = chunk * _COLOR + i
        base = wp.vec3(
            float(scenes.base_colors[at]),
            float(scenes.base_colors[at + _CHUNK]),
            float(scenes.base_colors[at + 2 * _CHUNK]),
        )
        color = base + gain * (color - base)
    color = wp.max(color, wp.vec3(0.0))
    if edits.lit[d] != 0:
        factor = factor_of(scenes, chunk, i)
        normal = unit_normal(factor)
        if wp.dot(normal, away) > 0.0:
            normal = -normal
        color = relight(edits, d, normal, flatness(factor), color)
    mapped = color
    for c in range(3):
        own = edits.color[d, c, 0] * color[0] + edits.color[d, c, 1] * color[1]
        mapped[c] = wp.max(own + edits.color[d, c, 2] * color[2] + edits.color[d, c, 3], 0.0)
    for p in range(edits.patch_offsets[d], edits.patch_offsets[d + 1]):
        if in_patch(edits, p, mean):
            paint = edits.patch_colors[p]
            mapped = mapped + paint[3] * (wp.vec3(paint[0], paint[1], paint[2]) - mapped)
    return mapped


@wp.kernel
def recolor(
    scenes: Scenes, cameras: Cameras, wave: Wave, records: Records, edits: Edits, num_threads: int
) -> None:
    """Give the records of a wave the colours that their cameras' edits make; threads take records in turn."""
    record = int(wp.tid())
    while record < wave.offsets[wave.offsets.shape[0] - 1]:
        camera = wave_camera(wave, camera_of_record(wave, record))
        slot, old = records.slot[record], records.color[record]
        chunk, i = slot // _CHUNK, slot % _CHUNK
        mean = mean_of(scenes, chunk, i)
        color = edited_color(
            edits, scenes, chunk, i, cameras.scenes[camera], camera, mean, cameras.centers_w[camera]
        )
        records.color[record] = wp.vec4(color[0], color[1], color[2], old[3])
        record += num_threads


def make_edits(num_rows: int, num_patches: int, device: Any) -> Any:
    """Room for edits; with no rows they are those of a call without any."""
    edits = Edits()
    edits.color = wp.zeros((num_rows, 3, 4), dtype=wp.float32, device=device)
    edits.view_dependence = wp.zeros(num_rows, dtype=wp.float32, device=device)
    edits.light = wp.zeros((num_rows, 3, 4), dtype=wp.float32, device=device)
    edits.lit = wp.zeros(num_rows, dtype=wp.int32, device=device)
    edits.patch_offsets = wp.zeros(num_rows + 1, dtype=wp.int32, device=device)
    edits.to_patch = wp.zeros(num_patches, dtype=mat34d, device=device)
    edits.half_sizes_m = wp.zeros(num_patches, dtype=wp.vec3d, device=device)
    edits.patch_colors = wp.zeros(num_patches, dtype=wp.vec4, device=device)
    edits.patch_labels = wp.zeros(num_patches, dtype=wp.int32, device=device)
    edits.first_row, edits.cameras_per_row = 0, 1
    return edits


class DeviceEdits:
    """Edits of one call after the other, as kernels take them; owns their buffers, which grow and never shrink.

    Args:
        device: Warp device.
    """

    def __init__(self, device: Any) -> None:
        self.device = device
        self.num_allocations = 0
        self.none = make_edits(0, 0, device)
        self.held = self.none
        self.refused = wp.zeros(1, dtype=wp.int32, device=device)

    def reserve(self, num_rows: int, num_patches: int) -> bool:
        """Make room; returns whether the buffers are new ones."""
        rows, patches = len(self.held.lit), len(self.held.patch_labels)
        if num_rows <= rows and num_patches <= patches:
            return False
        before_growth(self.device, "these edits")
        self.num_allocations += 1
        self.held = make_edits(max(num_rows, rows), max(num_patches, patches), self.device)
        return True

    def prepare(self, frame: Frame, edits: SceneEdits, first_row: int, cameras_per_row: int) -> None:
        """Take over a call's edits, whose arrays are Warp's, on the device."""
        held = self.held
        held.first_row, held.cameras_per_row = first_row, cameras_per_row
        rows, patches = edits.view_dependence.shape[0], edits.patch_labels.shape[0]
        looks = [edits.color, edits.view_dependence, edits.light]
        frame.launch(prepare_looks, rows, [*looks, held, self.refused])
        frame.launch(prepare_offsets, rows + 1, [edits.patch_offsets, patches, held.patch_offsets])
        boxes = [edits.patch_poses_w, edits.patch_half_sizes_m, edits.patch_colors, edits.patch_labels]
        frame.launch(prepare_patches, patches, [*boxes, held, self.refused])

    def recolor(self, frame: Frame) -> None:
        """Edit the records of the frame's wave."""
        frame.launch(
            recolor,
            frame.num_threads,
            [frame.atlas.scenes, frame.cameras, frame.wave, frame.records, self.held, frame.num_threads],
        )
