"""Opaque objects among the splats, on the device: triangles into a depth buffer, and splats blended as far as it.

A warp draws an instance, each thread a triangle at a time, or some rows of one where there are few: homogeneous rasterization
in float64 with the formulas of `gaussgym_render.zbuffer`. A pixel of the depth buffer is one integer, the bits of the depth above
the number of the triangle: its minimum is the nearest surface, the first of equally near ones, in whatever order threads come.
Then every pixel's surface is shaded, once.
"""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: UP018, RUF046  (loop variables are declared by a call; `and` evaluates both sides)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import warp as wp  # noqa: TID253  (this package is imported only where the backend is asked for)

from gaussgym_render.cuda.bins import Segments
from gaussgym_render.cuda.blend import MIN_TRANSMITTANCE, Images, alpha_at, pixel_of, write_pixel
from gaussgym_render.cuda.cameras import Cameras, Wave, first_above, is_rotation, wave_camera
from gaussgym_render.cuda.edits import prepare_offsets
from gaussgym_render.cuda.graphs import before_growth
from gaussgym_render.cuda.project import Records
from gaussgym_render.cuda.scan import Scan

if TYPE_CHECKING:
    from gaussgym_render.cuda.frame import Frame
    from gaussgym_render.objects import Instances, ObjectSet

wp.set_module_options({"enable_backward": False})

LANES = 32
"""Threads that share an instance's triangles."""
_LANES = wp.constant(LANES)
EMPTY = wp.constant(wp.int64(0x7FFFFFFFFFFFFFFF))
"""A pixel of the depth buffer without a surface."""
_SHIFT = wp.constant(wp.int64(32))
_LOW = wp.constant(wp.int64(0xFFFFFFFF))
_SLACK_PX = wp.constant(wp.float64(1e-6))  # boxes only have to contain every pixel that passes the edge tests
_HALF = wp.constant(wp.float64(0.5))
_ZERO = wp.constant(wp.float64(0.0))
_ONE = wp.constant(wp.float64(1.0))
_FAR_PX = wp.constant(wp.float64(1e30))


@wp.struct
class Shapes:
    """N objects as kernels take them: a `gaussgym_render.objects.ObjectSet`."""

    vertices_o: wp.array[wp.vec3d]
    """Corners in the frame of their object [m], `[V]`."""
    faces: wp.array[wp.vec3i]
    """Corners of each triangle, counted within its object, `[F]`."""
    colors: wp.array[wp.vec3]
    """Of each face, `[F]`."""
    vertex_offsets: wp.array[wp.int32]
    """`[N + 1]`."""
    face_offsets: wp.array[wp.int32]
    """`[N + 1]`."""
    bounds_o: wp.array[wp.vec4d]
    """Centre and radius of a sphere round each [m], `[N]`."""
    light: wp.vec4d
    """Unit vector towards the light in the world, then the ambient share."""


@wp.struct
class Surfaces:
    """I instances of a call, and the depth buffer of W cameras' images with K pixels each."""

    places: wp.array[wp.int32]
    """Place of each camera among those that are rendered, -1 for those that are not, `[C]`."""
    offsets: wp.array[wp.int32]
    """Instances of each camera, `[C + 1]`."""
    objects: wp.array[wp.int32]
    """What each instance is, -1 where its camera does not see it, `[I]`."""
    cameras: wp.array[wp.int32]
    """Whose it is, `[I]`."""
    rotations: wp.array[wp.mat33d]
    """Object to camera, `[I]`."""
    translations: wp.array[wp.vec3d]
    """Likewise [m], `[I]`."""
    num_faces: wp.array[wp.int32]
    """Triangles of each, `[I + 1]`."""
    face_starts: wp.array[wp.int32]
    """Their sum before each: the number of its first triangle, `[I + 1]`."""
    num_cameras: int
    """C."""
    count: int
    """I."""
    nearest: wp.array2d[wp.int64]
    """Bits of the nearest surface's depth, times 2^32, plus the number of its triangle, `[W, K]`."""
    shown: wp.array2d[wp.vec4]
    """Its shaded colour and its depth, infinite where there is none, `[W, K]`; empty without objects."""


@wp.func
def surface_at(shown: wp.array2d[wp.vec4], w: int, pixel: int) -> wp.vec4:
    """Colour and depth of a pixel's surface; infinitely far where there is none."""
    if shown.shape[0] == 0:
        return wp.vec4(0.0, 0.0, 0.0, wp.inf)
    return shown[w, pixel]


@wp.kernel
def place_cameras(wave: Wave, places: wp.array[wp.int32]) -> None:
    """Where each camera of the call comes in the order of rendering."""
    i = wp.tid()
    places[wave.order[i]] = wp.where(i < wave.active[0], i, -1)


@wp.func
def sphere_visible(
    sphere: wp.vec4d, r: wp.mat33d, t: wp.vec3d, k: wp.vec4, size: wp.vec2i, near: float
) -> bool:
    """Whether a sphere in an object's frame can reach into the frustum of an image."""
    middle = r * wp.vec3d(sphere[0], sphere[1], sphere[2]) + t
    reach = sphere[3] * wp.float64(1.0001) + wp.float64(1e-6)  # poses are only rigid up to float32
    seen = middle[2] + reach >= wp.float64(near)
    for axis in range(2):
        focal, center = wp.float64(k[axis]), wp.float64(k[2 + axis])
        low, high = center, wp.float64(size[axis]) - center
        offset = focal * middle[axis]
        seen = seen and offset + low * middle[2] >= -reach * wp.sqrt(focal * focal + low * low)
        seen = seen and high * middle[2] - offset >= -reach * wp.sqrt(focal * focal + high * high)
    return seen


@wp.kernel
def place_instances(
    ids: wp.array[Any],
    poses_w: wp.array3d[Any],
    cameras: Cameras,
    shapes: Shapes,
    surfaces: Surfaces,
    near: float,
    refused: wp.array[wp.int32],
) -> None:
    """Turn instances into their cameras' frames and count their triangles; those that are not rigid are left out, and counted.

    Args:
        ids: Object of each `[I]`, int32 or int64.
        poses_w: Object to world `[I, 4, 4]`, float32 or float64.
        cameras: Of the call.
        shapes: The objects.
        surfaces: Filled; `places` and `offsets` are so already.
        near: Nothing nearer than this along +Z is drawn [m].
        refused: Instances of rendered cameras with a bad pose or object so far, `[1]`.
    """
    i = wp.tid()
    surfaces.num_faces[i] = 0
    if i >= surfaces.count:
        return
    surfaces.objects[i] = -1
    camera = first_above(surfaces.offsets, surfaces.num_cameras + 1, i) - 1
    if camera < 0 or camera >= surfaces.num_cameras:
        return
    if surfaces.places[camera] < 0:
        return
    r = wp.mat33d(
        wp.float64(poses_w[i, 0, 0]), wp.float64(poses_w[i, 0, 1]), wp.float64(poses_w[i, 0, 2]),
        wp.float64(poses_w[i, 1, 0]), wp.float64(poses_w[i, 1, 1]), wp.float64(poses_w[i, 1, 2]),
        wp.float64(poses_w[i, 2, 0]), wp.float64(poses_w[i, 2, 1]), wp.float64(poses_w[i, 2, 2]),
    )  # fmt: skip
    at = wp.vec3d(wp.float64(poses_w[i, 0, 3]), wp.float64(poses_w[i, 1, 3]), wp.float64(poses_w[i, 2, 3]))
    n = int(ids[i])
    good = n >= 0 and n < shapes.bounds_o.shape[0] and is_rotation(r) and wp.isfinite(at)
    if not good:
        wp.atomic_add(refused, 0, 1)
        return
    to_camera = cameras.exact_rotations[camera]
    rotation, translation = to_camera * r, to_camera * (at - cameras.centers_w[camera])
    if not sphere_visible(
        shapes.bounds_o[n], rotation, translation, cameras.intrinsics[camera], cameras.sizes[camera], near
    ):
        return
    surfaces.objects[i] = n
    surfaces.cameras[i] = camera
    surfaces.rotations[i] = rotation
    surfaces.translations[i] = translation
    surfaces.num_faces[i] = shapes.face_offsets[n + 1] - shapes.face_offsets[n]


for _real in (wp.float32, wp.float64):
    for _integer in (wp.int32, wp.int64):
        wp.overload(place_instances, {"ids": wp.array(dtype=_integer), "poses_w": wp.array3d(dtype=_real)})


@wp.kernel
def clear(surfaces: Surfaces) -> None:
    """Empty the depth buffer."""
    w, pixel = wp.tid()
    surfaces.nearest[w, pixel] = EMPTY


@wp.func
def corner(shapes: Shapes, surfaces: Surfaces, i: int, vertex: int) -> wp.vec3d:
    """A vertex of an instance in its camera's frame [m]."""
    return surfaces.rotations[i] * shapes.vertices_o[vertex] + surfaces.translations[i]


@wp.func
def widened(box: wp.vec4d, p: wp.vec3d, k: wp.vec4) -> wp.vec4d:
    """A box on the image (lowest and highest u, lowest and highest v) that also holds a point."""
    u = wp.float64(k[0]) * p[0] / p[2] + wp.float64(k[2])
    v = wp.float64(k[1]) * p[1] / p[2] + wp.float64(k[3])
    return wp.vec4d(wp.min(box[0], u), wp.max(box[1], u), wp.min(box[2], v), wp.max(box[3], v))


@wp.func
def widened_by_edge(box: wp.vec4d, p: wp.vec3d, q: wp.vec3d, k: wp.vec4, near: wp.float64) -> wp.vec4d:
    """A box that also holds where an edge crosses the near plane, and its end, if that lies before it."""
    grown = box
    if (p[2] >= near) != (q[2] >= near):
        share = (near - p[2]) / (q[2] - p[2])
        grown = widened(grown, wp.vec3d(p[0] + share * (q[0] - p[0]), p[1] + share * (q[1] - p[1]), near), k)
    if q[2] >= near:
        grown = widened(grown, q, k)
    return grown


@wp.func
def first_pixel(low: wp.float64, count: int) -> int:
    """The first of `count` pixels whose centre is not below a coordinate; clamped before it becomes an integer."""
    return int(wp.min(wp.max(wp.ceil(low - _HALF - _SLACK_PX), _ZERO), wp.float64(count)))


@wp.func
def last_pixel(high: wp.float64, count: int) -> int:
    """The last whose centre is not above it."""
    return int(wp.max(wp.min(wp.floor(high - _HALF + _SLACK_PX), wp.float64(count - 1)), -_ONE))


@wp.func
def draw_triangle(
    a: wp.vec3d,
    b: wp.vec3d,
    c: wp.vec3d,
    k: wp.vec4,
    size: wp.vec2i,
    near: wp.float64,
    number: int,
    w: int,
    width: int,
    part: int,
    num_parts: int,
    surfaces: Surfaces,
) -> None:
    """Put one triangle, either side of it, into the depth buffer of the wave's w-th camera: every `num_parts`-th row."""
    box = wp.vec4d(_FAR_PX, -_FAR_PX, _FAR_PX, -_FAR_PX)
    box = widened_by_edge(box, c, a, k, near)
    box = widened_by_edge(box, a, b, k, near)
    box = widened_by_edge(box, b, c, k, near)
    x0, x1 = first_pixel(box[0], size[0]), last_pixel(box[1], size[0])
    y0, y1 = first_pixel(box[2], size[1]), last_pixel(box[3], size[1])
    if x0 > x1 or y0 > y1:  # most triangles fall between the pixel centres
        return
    n = wp.cross(b - a, c - a)
    volume = wp.dot(n, a)
    if volume == _ZERO:  # edge-on, or without area
        return
    side = wp.where(volume > _ZERO, _ONE, -_ONE)  # makes the normal point away from the camera
    n, volume = side * n, side * volume
    p, q, s = side * wp.cross(b, c), side * wp.cross(c, a), side * wp.cross(a, b)
    step_x, step_y = _ONE / wp.float64(k[0]), _ONE / wp.float64(k[1])
    for y in range(y0 + part, y1 + 1, num_parts):
        dy = (wp.float64(y) + _HALF - wp.float64(k[3])) * step_y
        for x in range(x0, x1 + 1):
            ray = wp.vec3d((wp.float64(x) + _HALF - wp.float64(k[2])) * step_x, dy, _ONE)
            facing = wp.dot(n, ray)
            inside = wp.dot(p, ray) >= _ZERO and wp.dot(q, ray) >= _ZERO and wp.dot(s, ray) >= _ZERO
            if inside and facing > _ZERO:
                z = volume / facing
                if z >= near:
                    bits = wp.int64(wp.cast(wp.float32(z), wp.int32))
                    key = (bits << _SHIFT) + wp.int64(number)
                    if key < surfaces.nearest[w, y * width + x]:
                        wp.atomic_min(surfaces.nearest, w, y * width + x, key)


@wp.kernel
def draw(cameras: Cameras, wave: Wave, shapes: Shapes, surfaces: Surfaces, width: int, near: float) -> None:
    """Draw the instances of a wave's cameras into the cleared depth buffer; 32 threads an instance."""
    i, lane = wp.tid()
    n = surfaces.objects[i]
    if n < 0:
        return
    camera = surfaces.cameras[i]
    w = surfaces.places[camera] - wave.start
    if w < 0 or w >= surfaces.nearest.shape[0]:
        return
    k, size = cameras.intrinsics[camera], cameras.sizes[camera]
    first_vertex, first_face = shapes.vertex_offsets[n], shapes.face_offsets[n]
    num_faces = shapes.face_offsets[n + 1] - first_face
    num_parts = wp.max(_LANES // wp.max(num_faces, 1), 1)  # of a triangle, where there are fewer than threads
    for f in range(lane // num_parts, num_faces, _LANES // num_parts):
        face = shapes.faces[first_face + f]
        draw_triangle(
            corner(shapes, surfaces, i, first_vertex + face[0]),
            corner(shapes, surfaces, i, first_vertex + face[1]),
            corner(shapes, surfaces, i, first_vertex + face[2]),
            k,
            size,
            wp.float64(near),
            surfaces.face_starts[i] + f,
            w,
            width,
            lane % num_parts,
            num_parts,
            surfaces,
        )


@wp.func
def shaded(cameras: Cameras, shapes: Shapes, surfaces: Surfaces, i: int, number: int) -> wp.vec3:
    """Colour of a triangle of instance i, given by its number, on the side that the camera sees."""
    n, camera = surfaces.objects[i], surfaces.cameras[i]
    f = shapes.face_offsets[n] + number - surfaces.face_starts[i]
    face, first = shapes.faces[f], shapes.vertex_offsets[n]
    a = corner(shapes, surfaces, i, first + face[0])
    b = corner(shapes, surfaces, i, first + face[1])
    c = corner(shapes, surfaces, i, first + face[2])
    normal = wp.cross(b - a, c - a)
    towards = cameras.exact_rotations[camera] * wp.vec3d(shapes.light[0], shapes.light[1], shapes.light[2])
    cosine = wp.dot(normal, towards) / wp.length(normal)
    if wp.dot(normal, a) > _ZERO:
        cosine = -cosine
    ambient = shapes.light[3]
    return wp.float32(ambient + (_ONE - ambient) * wp.max(cosine, _ZERO)) * shapes.colors[f]


@wp.kernel
def shade(
    cameras: Cameras, wave: Wave, shapes: Shapes, surfaces: Surfaces, width: int, seen: wp.array3d[wp.int32]
) -> None:
    """Turn the depth buffer of a wave into `Surfaces.shown`, and say in `seen` which instance each pixel's surface belongs to."""
    w, pixel = wp.tid()
    camera = wave_camera(wave, w)
    if camera < 0:
        return
    size = cameras.sizes[camera]
    x, y = pixel % width, pixel // width
    if x >= size[0] or y >= size[1]:
        return
    key, owner = surfaces.nearest[w, pixel], int(-1)
    surface = wp.vec4(0.0, 0.0, 0.0, wp.inf)
    if key != EMPTY:
        number = wp.int32(key & _LOW)
        owner = first_above(surfaces.face_starts, surfaces.count + 1, number) - 1
        color = shaded(cameras, shapes, surfaces, owner, number)
        surface = wp.vec4(color[0], color[1], color[2], wp.cast(wp.int32(key >> _SHIFT), wp.float32))
    surfaces.shown[w, pixel] = surface
    if seen.shape[0] > 0:
        seen[camera, y, x] = owner


@wp.kernel
def blend_before_surfaces(
    cameras: Cameras,
    wave: Wave,
    records: Records,
    segments: Segments,
    images: Images,
    surfaces: wp.array2d[wp.vec4],
    seen: wp.array3d[wp.int32],
) -> None:
    """`blend.blend` as far as each pixel's surface, which what is left shows; instances that are mostly veiled give it up."""
    w, thread = wp.tid()
    camera = wave_camera(wave, w)
    if camera < 0:
        return
    width, size = images.depth.shape[2], cameras.sizes[camera]
    pixel = pixel_of(thread, width)
    x, y = pixel[0], pixel[1]
    if x >= size[0] or y >= size[1]:
        return
    surface = surface_at(surfaces, w, y * width + x)
    closing = surface[3]
    segment = (w * segments.rows + y // segments.tile_height) * segments.columns + x // segments.tile_width
    color, depth, left = wp.vec3(0.0, 0.0, 0.0), float(0.0), float(1.0)
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
                    depth += left * alpha * shade[3]
                    left = after
    if closing < wp.inf:
        if left <= 0.5 and seen.shape[0] > 0:
            seen[camera, y, x] = -1
        color += left * wp.vec3(surface[0], surface[1], surface[2])
        depth += left * closing
        left = 0.0
    write_pixel(images, camera, y, x, color, depth, left)


def upload_objects(objects: ObjectSet, device: Any) -> Any:
    """Copy an object set to a Warp device."""
    shapes = Shapes()
    values: dict[str, tuple[Any, Any]] = {
        "vertices_o": (objects.vertices_o, wp.vec3d),
        "faces": (objects.faces.astype(np.int32), wp.vec3i),
        "colors": (objects.colors, wp.vec3),
        "vertex_offsets": (objects.vertex_offsets.astype(np.int32), wp.int32),
        "face_offsets": (objects.face_offsets.astype(np.int32), wp.int32),
        "bounds_o": (objects.bounds_o, wp.vec4d),
    }
    for name, (array, dtype) in values.items():
        setattr(shapes, name, wp.array(np.ascontiguousarray(array), dtype=dtype, device=device))
    shapes.light = wp.vec4d(*objects.light)
    return shapes


def make_surfaces(num_cameras: int, num_instances: int, pixels: tuple[int, int], device: Any) -> Any:
    """Room for instances, and for the depth buffer of a wave's images."""
    surfaces = Surfaces()
    surfaces.places = wp.zeros(num_cameras, dtype=wp.int32, device=device)
    surfaces.offsets = wp.zeros(num_cameras + 1, dtype=wp.int32, device=device)
    for name in ("objects", "cameras"):
        setattr(surfaces, name, wp.zeros(num_instances, dtype=wp.int32, device=device))
    surfaces.rotations = wp.zeros(num_instances, dtype=wp.mat33d, device=device)
    surfaces.translations = wp.zeros(num_instances, dtype=wp.vec3d, device=device)
    for name in ("num_faces", "face_starts"):
        setattr(surfaces, name, wp.zeros(num_instances + 1, dtype=wp.int32, device=device))
    surfaces.num_cameras, surfaces.count = 0, 0
    surfaces.nearest = wp.zeros(pixels, dtype=wp.int64, device=device)
    surfaces.shown = wp.zeros(pixels, dtype=wp.vec4, device=device)
    return surfaces


class DeviceObjects:
    """Instances of one call after the other, and their depth buffer; owns the buffers, which grow and never shrink.

    Args:
        device: Warp device.
        limit: Most object sets to hold; the ones used longest ago go.
    """

    def __init__(self, device: Any, limit: int = 4) -> None:
        self.device, self.limit = device, limit
        self.num_allocations = 0
        self.none = make_surfaces(0, 0, (0, 0), device)
        self.held = self.none
        self.refused = wp.zeros(1, dtype=wp.int32, device=device)
        self._scan = Scan(1, device)
        self._sets: dict[int, tuple[ObjectSet, Any]] = {}  # by identity; the last is the one used last

    def reserve(self, frame: Frame, num_cameras: int, instances: Instances) -> bool:
        """Make room, and bring the shapes to the device; returns whether anything that a graph may use has gone."""
        gone = self._upload(instances.objects)
        held, count = self.held, instances.object_ids.shape[0]
        pixels = (frame.wave_size, frame.width * frame.height)
        cameras, room = len(held.places), len(held.objects)
        if num_cameras <= cameras and count <= room and held.nearest.shape == pixels:
            return gone
        before_growth(self.device, "these objects")
        self.num_allocations += 1
        self.held = make_surfaces(max(num_cameras, cameras), max(count, room), pixels, self.device)
        self._scan = Scan(max(count, room) + 1, self.device)
        return True

    def _upload(self, objects: ObjectSet) -> bool:
        """Hold an object set; returns whether another one had to go."""
        own = self._sets.pop(id(objects), None)
        if own is None:
            before_growth(self.device, "these shapes")
            self.num_allocations += 1
            own = (objects, upload_objects(objects, self.device))
        self._sets[id(objects)] = own
        if len(self._sets) <= self.limit:
            return False
        del self._sets[next(iter(self._sets))]
        return True

    def prepare(self, frame: Frame, num_cameras: int, instances: Instances) -> None:
        """Take over a call's instances, whose arrays are Warp's, on the device."""
        held, count = self.held, instances.object_ids.shape[0]
        held.num_cameras, held.count = num_cameras, count
        frame.launch(place_cameras, num_cameras, [frame.wave, held.places])
        frame.launch(prepare_offsets, num_cameras + 1, [instances.camera_offsets, count, held.offsets])
        frame.launch(
            place_instances,
            count + 1,
            [
                instances.object_ids, instances.poses_w, frame.cameras, self._shapes(instances), held, frame.near,
                self.refused,
            ],
        )  # fmt: skip
        self._scan.run(held.num_faces[: count + 1], held.face_starts[: count + 1])

    def draw(self, frame: Frame, instances: Instances, seen: Any) -> None:
        """Draw the objects of the frame's wave; `seen` is filled, or empty."""
        held, shapes = self.held, self._shapes(instances)
        pixels = (frame.wave_size, frame.width * frame.height)
        frame.launch(clear, pixels, [held])
        frame.launch(
            draw, (held.count, LANES), [frame.cameras, frame.wave, shapes, held, frame.width, frame.near]
        )
        frame.launch(shade, pixels, [frame.cameras, frame.wave, shapes, held, frame.width, seen])

    def _shapes(self, instances: Instances) -> Any:
        """The shapes of a call's objects, on the device."""
        return self._sets[id(instances.objects)][1]
