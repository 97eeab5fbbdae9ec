"""Sorted splats into pixels, front to back: the plain kernel, a thread a pixel."""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# ruff: noqa: UP018  (a variable that a loop changes is declared by a call)

from __future__ import annotations

import warp as wp  # noqa: TID253  (this package is imported only where the backend is asked for)

from gaussgym_render import oracle
from gaussgym_render.cuda.bins import Segments
from gaussgym_render.cuda.cameras import Cameras, Wave, wave_camera
from gaussgym_render.cuda.project import LOG2_MIN_ALPHA, MIN_ALPHA, Records

wp.set_module_options({"enable_backward": False})

MAX_ALPHA = wp.constant(oracle.MAX_ALPHA)
MIN_TRANSMITTANCE = wp.constant(oracle.MIN_TRANSMITTANCE)
_LN2 = wp.constant(0.6931471805599453)


@wp.struct
class Images:
    """Frames of C cameras, of height H and width W."""

    rgb: wp.array4d[wp.uint8]
    """`[C, H, W, 3]`."""
    depth: wp.array3d[wp.float32]
    """Expected depth along +Z [m], 0 where nothing was hit, `[C, H, W]`."""
    alpha: wp.array3d[wp.float32]
    """`[C, H, W]`."""
    background: wp.vec3
    """Linear RGB behind the splats."""


@wp.func
def alpha_at(geometry: wp.vec4, peak: wp.vec2, x: int, y: int) -> float:
    """A splat's alpha at the centre of a pixel, 0 where it is too small to count."""
    dx, dy = float(x) + 0.5 - geometry[0], float(y) + 0.5 - geometry[1]
    across = dx - geometry[2] * dy
    power = peak[1] - peak[0] * dy * dy - geometry[3] * across * across
    if power < LOG2_MIN_ALPHA - 1.0e-4:
        return 0.0
    alpha = wp.min(MAX_ALPHA, wp.exp(_LN2 * power))
    return wp.where(alpha >= MIN_ALPHA, alpha, 0.0)


@wp.func
def to_byte(value: float) -> wp.uint8:
    """0..1 as 0..255, rounded to the nearest."""
    return wp.uint8(wp.min(wp.max(value, 0.0), 1.0) * 255.0 + 0.5)


@wp.func
def write_pixel(
    images: Images, camera: int, y: int, x: int, color: wp.vec3, depth: float, left: float
) -> None:
    """Write what was blended into a pixel over the background, with the transmittance that is left."""
    shown = color + left * images.background
    for c in range(3):
        images.rgb[camera, y, x, c] = to_byte(shown[c])
    alpha = 1.0 - left
    images.alpha[camera, y, x] = alpha
    images.depth[camera, y, x] = wp.where(alpha > 0.0, depth / wp.max(alpha, 1.0e-30), 0.0)


def num_threads(width: int, height: int) -> int:
    """Threads that `blend` takes for an image: those of a warp are 8x4 pixels, which mostly see the same splats."""
    return -(-width // 8) * -(-height // 4) * 32


@wp.func
def pixel_of(thread: int, width: int) -> wp.vec2i:
    """The pixel of a thread, maybe beside the image."""
    across = (width + 7) // 8
    block, lane = thread // 32, thread % 32
    return wp.vec2i(block % across * 8 + lane % 8, block // across * 4 + lane // 8)


@wp.kernel
def blend(cameras: Cameras, wave: Wave, records: Records, segments: Segments, images: Images) -> None:
    """Blend every pixel's segment, front to back, up to where its transmittance is used up.

    Threads of a warp read the same records at the same time; see `num_threads`.
    """
    w, thread = wp.tid()
    camera = wave_camera(wave, w)
    if camera < 0:
        return
    width, size = images.depth.shape[2], cameras.sizes[camera]
    pixel = pixel_of(thread, width)
    x, y = pixel[0], pixel[1]
    if x >= size[0] or y >= size[1]:
        return
    segment = (w * segments.rows + y // segments.tile_height) * segments.columns + x // segments.tile_width
    color, depth, left = wp.vec3(0.0, 0.0, 0.0), float(0.0), float(1.0)
    pair, end = int(segments.offsets[segment]), int(segments.offsets[segment + 1])
    while pair < end:
        record = segments.values[pair]
        alpha = alpha_at(records.geometry[record], records.peak[record], x, y)
        pair += 1
        if alpha > 0.0:
            after = left * (1.0 - alpha)
            if after <= MIN_TRANSMITTANCE:
                pair = end
            else:
                shade = records.color[record]
                color += (left * alpha) * wp.vec3(shade[0], shade[1], shade[2])
                depth += left * alpha * shade[3]
                left = after
    write_pixel(images, camera, y, x, color, depth, left)
