"""`RobotCamera`: a splat renderer seen through the lens, shutter and sensor of a real camera."""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from gaussgym_scene import InputError
from numpy.typing import NDArray

from gaussgym_render import lens, sensor, shutter
from gaussgym_render.arrays import Array, device_of, to_numpy
from gaussgym_render.backends import DeviceRasterizer
from gaussgym_render.cpu import available_cores
from gaussgym_render.edits import AppearanceCfg, SceneEdits, check_edits, draw_edits, numpy_edits
from gaussgym_render.frames import FrameArrays, Frames, deliver, frame_arrays, seen_array
from gaussgym_render.lens import LensCfg
from gaussgym_render.objects import Instances
from gaussgym_render.packed import SceneSource
from gaussgym_render.renderer import SplatRenderer
from gaussgym_render.sensor import SensorCfg
from gaussgym_render.shutter import ShutterCfg

if TYPE_CHECKING:
    from gaussgym_render.cuda.camera_calls import CameraCalls

BLOCK_PIXELS = 1 << 23
"""Pixels of pinhole images that are held at once, 11 B each (15 B with objects); larger batches are rendered in blocks."""
_NO_INSTANCES = np.zeros((0, 1, 1), np.int32), np.zeros(0, np.int64)
_COMPILING = threading.Lock()
_TWO_LOOKS = "found edits and a camera that draws its own appearance; give one of them (draw_edits(...) can be extended)"


@dataclass(frozen=True, kw_only=True)
class RobotCameraCfg:
    """A kind of camera; each camera of that kind draws its own from the ranges. The defaults are an ideal pinhole.

    Attributes:
        lens: Distortion.
        shutter: Motion blur and rolling shutter.
        sensor: Exposure, white balance, vignette, gamma, noise, depth.
        appearance: How the scene before it looks: light, paint, weather.
    """

    lens: LensCfg = field(default_factory=LensCfg)
    shutter: ShutterCfg = field(default_factory=ShutterCfg)
    sensor: SensorCfg = field(default_factory=SensorCfg)
    appearance: AppearanceCfg = field(default_factory=AppearanceCfg)

    @property
    def ideal(self) -> bool:
        """Whether nothing is to be done."""
        return self.lens.ideal and self.shutter.ideal and self.sensor.ideal and self.appearance.ideal

    @classmethod
    def typical(cls) -> RobotCameraCfg:
        """Everything at once, as a small rolling-shutter camera with a field of view of 90° has it.

        Chosen by hand from data sheets' orders of magnitude, not fitted to one camera.
        """
        return cls(
            lens=LensCfg(
                model="opencv",
                coefficients=(-0.05, 0.01, 0.0, 0.0, 0.0),
                spread=(0.03, 0.005, 0.001, 0.001, 0.0),
            ),
            shutter=ShutterCfg(exposure_s=(0.002, 0.012), readout_s=(0.005, 0.025)),
            sensor=SensorCfg(
                exposure_ev=(-0.7, 0.7),
                white_balance_ev=(-0.15, 0.15),
                vignette=(0.0, 0.6),
                gamma=(0.9, 1.1),
                shot_noise=(0.005, 0.03),
                read_noise=(0.001, 0.01),
                depth_noise_m=(0.0, 0.003),
                depth_noise_per_m=(0.001, 0.004),
                depth_dropout=(0.0, 0.03),
            ),
        )


def _varied() -> RobotCameraCfg:
    """A robot's camera in a world that looks different to each."""
    return replace(RobotCameraCfg.typical(), appearance=AppearanceCfg.typical())


CAMERA_MODELS: dict[str, Callable[[], RobotCameraCfg]] = {
    "ideal": RobotCameraCfg,
    "robot": RobotCameraCfg.typical,
    "varied": _varied,
}
"""Kinds of camera by name; a package adds its own entry."""


def get_camera_model(name: str) -> RobotCameraCfg:
    """A kind of camera by name, or of a file ``name`` that ends in .json (`gaussgym_render.camera_file`).

    Raises:
        InputError: No such kind (the message lists those that exist), or a file that does not do.
    """
    if name.endswith(".json"):
        from gaussgym_render.camera_file import read_camera_model

        return read_camera_model(name)
    if name not in CAMERA_MODELS:
        raise InputError(f"unknown camera model {name!r}; choose one of: {', '.join(sorted(CAMERA_MODELS))}")
    return CAMERA_MODELS[name]()


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _gather_row(
    y, images, seen_jobs, names, first, times, decode, ray_table, focal, light, depth, alpha, seen
):
    """Collect the light of one row from the images that its exposure overlaps; depth and instance are those of its middle."""
    rgb_jobs, depth_jobs, alpha_jobs = images
    exposure_s, readout_s, samples = times
    rows, columns = light.shape[0], light.shape[1]
    height, width = rgb_jobs.shape[1], rgb_jobs.shape[2]
    duration_s = exposure_s + readout_s
    begin, end = shutter.row_window(y, rows, exposure_s, readout_s)
    middle = shutter.cell_at(0.5 * (begin + end), duration_s, samples)
    distorted = ray_table.shape[0] > 0
    for x in range(columns):
        alpha[y, x] = np.float32(0.0)
        for c in range(3):
            light[y, x, c] = np.float32(0.0)
    for cell in range(samples):
        weight = shutter.cell_weight(cell, samples, begin, end, duration_s)
        if weight == 0.0 and cell != middle:
            continue
        job = first + cell
        if distorted:
            lens.add_row(rgb_jobs[job], decode, ray_table, focal, y, weight, light[y])
        for x in range(columns):
            i, j = x, y
            if distorted:
                i, j = lens.nearest_pixel(ray_table, focal, x, y, width, height)
            else:
                for c in range(3):
                    light[y, x, c] += np.float32(weight * decode[rgb_jobs[job, j, i, c]])
            alpha[y, x] += np.float32(weight * alpha_jobs[job, j, i])
            if cell == middle:
                depth[y, x] = depth_jobs[job, j, i]
                if len(seen) > 0:
                    instance = seen_jobs[job, j, i]
                    seen[y, x] = names[instance] if instance >= 0 else -1


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _develop(
    span,
    rows,
    images,
    seen_jobs,
    names,
    first,
    times,
    rays,
    table,
    source_focals,
    focals,
    sensors,
    keys,
    decode,
    scratch,
    frames,
    seen,
):
    """Make the frames of cameras `span[0]` to `span[1]` of a block from its pinhole images.

    `seen_jobs` names the instance in each pixel of these, by its place in `names`, which gives its place in the call; both,
    and `seen`, are empty where nobody asks.
    """
    light, curve, no_rays, no_instances = scratch
    exposure_s, readout_s = times
    for c in range(span[0], span[1]):
        row = rows[c]
        rgb, depth, alpha = frames[0][row], frames[1][row], frames[2][row]
        shutter_times = (exposure_s[c], readout_s[c], first[c + 1] - first[c])
        ray_table = rays[table[c]] if len(rays) > 0 else no_rays
        instances = seen[row] if len(seen) > 0 else no_instances
        for y in range(light.shape[0]):
            _gather_row(
                y, images, seen_jobs, names, first[c], shutter_times, decode, ray_table, source_focals[c],
                light, depth, alpha, instances,
            )  # fmt: skip
        sensor.expose(light, focals[c], sensors[c], keys[c], curve, rgb)
        sensor.measure_depth(sensors[c], keys[c], depth)


class RobotCamera:
    """Renders as `SplatRenderer` does, through a camera with distortion, motion blur, rolling shutter and noise.

    What a camera is like follows from `seed` and its id alone, its noise from its id and the number of the frame: an image does
    not depend on the batch that it is rendered in. With an ideal `cfg` the frames are those of the wrapped renderer, bit for bit.

    Args:
        renderer: Renders the pinhole images; with distortion at the size that `lens.source_size` gives (see
            `make_robot_camera`). Splats are blended gamma-encoded, as they were trained; light is linear from there on.
        cfg: The kind of camera.
        width: Of the frames [px]; default: that of `renderer`. Only distortion allows another one.
        height: Of the frames [px]; likewise.
        seed: Of everything random.

    Attributes:
        takes_motion: That `render` wants to know how cameras move and which they are.
        num_calls: Calls of `render` so far.
        num_images: Pinhole images rendered for them, less those of calls whose arrays stayed on a device: there only it knows.

    Raises:
        InputError: Another size without distortion.
    """

    takes_motion = True

    def __init__(
        self,
        renderer: SplatRenderer,
        cfg: RobotCameraCfg,
        *,
        width: int | None = None,
        height: int | None = None,
        seed: int = 0,
    ) -> None:
        self.renderer, self.cfg, self.seed = renderer, cfg, int(seed)
        self.width, self.height = int(width or renderer.width), int(height or renderer.height)
        if cfg.lens.ideal and (self.width, self.height) != (renderer.width, renderer.height):
            raise InputError(
                f"frames of {self.width}x{self.height} px from a renderer of {renderer.width}x{renderer.height} px without "
                "distortion; expected the same size"
            )
        self.num_calls = 0
        self.num_images = 0
        self.num_threads = renderer.cfg.num_threads or available_cores()
        self._decode = sensor.decode_table()
        self._source = frame_arrays(0, renderer.width, renderer.height, None)
        self._source_seen = np.zeros((0, renderer.height, renderer.width), np.int32)
        self._scratch = [
            (
                np.empty((self.height, self.width, 3), np.float32),
                np.empty(sensor.CURVE_SIZE, np.float32),
                np.empty((0, 1, 2)),
                np.empty((0, 1), np.int32),
            )
            for _ in range(self.num_threads)
        ]
        self._lenses = np.zeros((0, 0))
        self._rays, self._source_focals = np.zeros((0, 1, 1, 2)), np.zeros((0, 4))
        self._pool: ThreadPoolExecutor | None = None
        self._pool_pid = -1
        self._there: CameraCalls | None = None
        with _COMPILING:  # two threads must not compile the same function at once
            self._render_block(np.zeros(0, np.int64), *self._nothing())

    def stays_on(self, device: Any) -> bool:
        """See `SplatRenderer.stays_on`."""
        return self.renderer.stays_on(device)

    def prefetch(self, scene_ids: Iterable[int]) -> None:
        """See `SplatRenderer.prefetch`."""
        self.renderer.prefetch(scene_ids)

    def _nothing(self) -> tuple[Any, ...]:
        """Arguments of a block without cameras."""
        none = np.zeros(0, np.int64)
        frames = frame_arrays(0, self.width, self.height, None)
        return (
            np.zeros((0, 4, 4)),
            np.zeros((0, 3, 3)),
            none,
            np.zeros((0, 6)),
            none,
            none,
            frames,
            None,
            None,
        )

    def render(
        self,
        c2w: Array,
        K: Array,
        scene_ids: Array,
        *,
        mask: Array | None = None,
        out: Frames | None = None,
        twist_c: Array | None = None,
        camera_ids: Array | None = None,
        frame_ids: Array | None = None,
        objects: Instances | None = None,
        edits: SceneEdits | None = None,
    ) -> Frames:
        """Render one image per camera.

        Arrays on the device of a backend that takes them there stay there, as with `SplatRenderer.render`; the effects run there
        too.

        Args:
            c2w: Camera to world at the end of the frame's exposure `[C, 4, 4]`, OpenCV axes, rigid.
            K: Calibration matrices of the distorted cameras `[C, 3, 3]` [px], pixel centres at +0.5, no skew.
            scene_ids: Scene of each camera, integers `[C]`.
            mask: Which cameras to render, bool `[C]`; None: all. The others keep what `out` holds, or are 0.
            out: Frames to write into; None: new ones.
            twist_c: Velocity of each camera in its own frame `[C, 6]`, linear [m/s] then angular [rad/s]; None: they rest.
                `shutter.twist_between` gives it from two poses.
            camera_ids: Which camera each one is, integers `[C]`; None: its place in the batch.
            frame_ids: Number of each camera's frame, integers `[C]`; None: the number of calls so far.
            objects: Opaque meshes at the end of the frame's exposure, which until then move by their `twists_o`; None: there
                are none. How many poses a frame is rendered from does not depend on how fast they are.
            edits: How each camera's scene looks; None: as the camera draws it from its `appearance`.

        Returns:
            `out`, or new frames, as `SplatRenderer.render` does. Depth and instances are those of the middle of a row's
            exposure, under the middle of the pixel: they are not averaged.

        Raises:
            InputError: As `SplatRenderer.render`; also a twist that is not finite, a lens that the pinhole cannot cover, or
                edits of cameras that draw their own.
        """
        call, self.num_calls = self.num_calls, self.num_calls + 1
        if self.cfg.ideal:
            return self.renderer.render(c2w, K, scene_ids, mask=mask, out=out, objects=objects, edits=edits)
        rasterizer = self.renderer.rasterizer
        if isinstance(rasterizer, DeviceRasterizer) and rasterizer.takes(c2w):
            return self._render_there(
                (c2w, K, scene_ids), mask, out, (twist_c, camera_ids, frame_ids), objects, edits
            )
        torch_device = device_of(c2w) if self.renderer.device is None else self.renderer.device
        poses, ks, scenes = to_numpy(c2w, np.float64), to_numpy(K, np.float64), to_numpy(scene_ids, None)
        chosen = self.renderer.check(poses, ks, scenes, mask)
        count = len(poses)
        twist = _twists(twist_c, count, chosen)
        cameras = _integers("camera_ids", camera_ids, np.arange(count))
        numbers = _integers("frame_ids", frame_ids, np.full(count, call))
        frames, seen = frame_arrays(count, self.width, self.height, out), None
        if objects is not None:
            objects = self.renderer.check_objects(objects, count, chosen)
            seen = seen_array(count, self.width, self.height, out)
        if edits is not None:
            if not self.cfg.appearance.ideal:
                raise InputError(_TWO_LOOKS)
            edits = check_edits(numpy_edits(edits), count)
        per_block = max(
            1, BLOCK_PIXELS // (self.renderer.width * self.renderer.height * self.cfg.shutter.max_samples)
        )
        for start in range(0, len(chosen), per_block):
            self._render_block(
                chosen[start : start + per_block],
                poses,
                ks,
                scenes,
                twist,
                cameras,
                numbers,
                frames,
                objects,
                seen,
                edits,
            )
        return deliver(frames, {"instances": seen}, out, torch_device)

    def _render_there(
        self,
        cameras: tuple[Array, Array, Array],
        mask: Array | None,
        out: Frames | None,
        motion: tuple[Array | None, Array | None, Array | None],
        objects: Instances | None,
        edits: SceneEdits | None,
    ) -> Frames:
        """`render` from and into arrays on the rasterizer's device, none of which passes through main memory."""
        for ability, given in (("objects", objects), ("edits", edits)):
            if given is not None:
                self.renderer.need(ability)
        if not self.cfg.appearance.ideal:
            self.renderer.need("edits")
            if edits is not None:
                raise InputError(_TWO_LOOKS)
        if self._there is None:
            from gaussgym_render.cuda.camera_calls import CameraCalls

            self._there = CameraCalls(self.renderer, self.cfg, (self.width, self.height), seed=self.seed)
        seen = None
        if objects is not None:
            seen = self._there.new_seen(cameras[0]) if out is None else out.instances
        target = None if out is None else (out.rgb, out.depth, out.alpha)
        frames = self._there.render(*cameras, mask, target, *motion, objects, edits, seen)
        return Frames(*frames, seen) if out is None else out

    def _render_block(
        self,
        rows: NDArray[np.int64],
        poses: NDArray[np.float64],
        ks: NDArray[np.float64],
        scenes: NDArray[Any],
        twist: NDArray[np.float64],
        cameras: NDArray[Any],
        numbers: NDArray[Any],
        frames: FrameArrays,
        objects: Instances | None,
        seen: NDArray[np.int32] | None,
        edits: SceneEdits | None = None,
    ) -> None:
        """Render the cameras `rows` of a batch into `frames` and `seen`."""
        cfg, keys = self.cfg, sensor.camera_keys(self.seed, cameras[rows])
        draws = sensor.NUM_SENSOR_DRAWS
        exposure_s = sensor.uniform(keys, draws, *cfg.shutter.exposure_s)
        readout_s = sensor.uniform(keys, draws + 1, *cfg.shutter.readout_s)
        focals = np.ascontiguousarray(ks[rows][:, [0, 1, 0, 1], [0, 1, 2, 2]])
        rays, table, source_focals = self._lens_tables(keys, focals)
        duration_s = exposure_s + readout_s
        samples = shutter.num_samples(cfg.shutter, twist[rows], duration_s, focals[:, :2].max(1, initial=0.0))
        time, owner, first = shutter.sample_times(duration_s, samples)
        path = shutter.moved(poses[rows[owner]], twist[rows[owner]], time)
        along, names = (
            (None, _NO_INSTANCES[1]) if objects is None else _along_path(objects, rows[owner], time)
        )
        if edits is not None:
            edits = edits.take(rows[owner])
        elif not cfg.appearance.ideal:
            edits = draw_edits(cfg.appearance, keys).take(owner)
        source_ks = np.zeros((len(rows), 3, 3))
        source_ks[:, [0, 1, 0, 1], [0, 1, 2, 2]] = source_focals
        source_ks[:, 2, 2] = 1.0
        images = self._images(len(path))
        seen_jobs = _NO_INSTANCES[0] if seen is None else self._seen_images(len(path))
        self.num_images += len(path)
        out = Frames(*images, None if seen is None else seen_jobs)
        self.renderer.render(path, source_ks[owner], scenes[rows][owner], out=out, objects=along, edits=edits)
        frame_keys = sensor.child_keys(sensor.child_keys(keys, sensor.FRAME_STREAM), numbers[rows])
        sensors = sensor.draw_sensors(cfg.sensor, keys)

        def work(thread: int, begin: int, end: int) -> None:
            _develop(
                (begin, end), rows, images, seen_jobs, names, first, (exposure_s, readout_s), rays, table, source_focals,
                focals, sensors, frame_keys, self._decode, self._scratch[thread], frames,
                _NO_INSTANCES[0] if seen is None else seen,
            )  # fmt: skip

        self._in_threads(work, len(rows))

    def _lens_tables(
        self, keys: NDArray[np.uint64], focals: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """Ray tables of the distinct lenses, the table of each camera, and each camera's pinhole; kept while lenses repeat."""
        cfg, count = self.cfg.lens, len(keys)
        if cfg.ideal:
            return self._rays, np.zeros(count, np.int64), focals
        spread = np.asarray(cfg.spread or (0.0,) * len(cfg.coefficients))
        first = sensor.NUM_SENSOR_DRAWS + 2
        drawn = [sensor.uniform(keys, first + i, -half, half) for i, half in enumerate(spread)]
        coefficients = np.asarray(cfg.coefficients) + np.stack(drawn, -1)
        lenses, table = np.unique(np.concatenate([focals, coefficients], 1), axis=0, return_inverse=True)
        if not np.array_equal(lenses, self._lenses):
            self._rays = lens.corner_rays(cfg.model, lenses[:, 4:], lenses[:, :4], self.width, self.height)
            self._source_focals = lens.source_focals(self._rays, self.renderer.width, self.renderer.height)
            self._lenses = lenses
        table = table.reshape(-1)
        return self._rays, table, self._source_focals[table]

    def _images(self, count: int) -> FrameArrays:
        """Buffers for that many pinhole images, kept between calls."""
        if len(self._source[0]) < count:
            self._source = frame_arrays(count, self.renderer.width, self.renderer.height, None)
        return self._source[0][:count], self._source[1][:count], self._source[2][:count]

    def _seen_images(self, count: int) -> NDArray[np.int32]:
        """Buffer for the instances in that many pinhole images, kept between calls."""
        if len(self._source_seen) < count:
            self._source_seen = np.empty((count, self.renderer.height, self.renderer.width), np.int32)
        return self._source_seen[:count]

    def _in_threads(self, work: Callable[[int, int, int], None], count: int) -> None:
        """Share cameras 0 to `count` out between the threads; threads of a forked parent are not ours."""
        threads = max(1, min(self.num_threads, count))
        bounds = np.linspace(0, count, threads + 1).astype(np.int64).tolist()
        if threads > 1 and (self._pool is None or self._pool_pid != os.getpid()):
            self._pool = ThreadPoolExecutor(self.num_threads - 1, thread_name_prefix="sensor")
            self._pool_pid = os.getpid()
        futures = [self._pool.submit(work, i, bounds[i], bounds[i + 1]) for i in range(1, threads)]  # type: ignore[union-attr]
        work(0, bounds[0], bounds[1])
        for future in futures:
            future.result()


def make_robot_camera(
    splats: Sequence[SceneSource],
    K: Any,
    width: int,
    height: int,
    cfg: RobotCameraCfg,
    *,
    seed: int = 0,
    **options: Any,
) -> RobotCamera:
    """A `RobotCamera` with a renderer of the size that its lens needs.

    Args:
        splats: The scenes.
        K: Calibration matrix that the cameras have, or nearly have `[3, 3]` [px].
        width: Of the frames [px].
        height: Of the frames [px].
        cfg: The kind of camera.
        seed: Of everything random.
        options: Of `SplatRenderer`.

    Raises:
        InputError: See `SplatRenderer` and `lens.source_size`.
    """
    size = lens.source_size(cfg.lens, K, width, height)
    return RobotCamera(SplatRenderer(splats, *size, **options), cfg, width=width, height=height, seed=seed)


def _along_path(
    objects: Instances, cameras: NDArray[np.int64], time: NDArray[np.float64]
) -> tuple[Instances, NDArray[np.int64]]:
    """What the images of a camera's path show.

    Args:
        objects: Of the call, checked.
        cameras: Camera of each image `[J]`.
        time: Of each image, before the end of the frame `[J]` [s].

    Returns:
        The instances of each image, where they were then, and which instance of the call each of them is.
    """
    begin = objects.camera_offsets[cameras]
    counts = objects.camera_offsets[cameras + 1] - begin
    offsets = np.concatenate([[0], np.cumsum(counts)])
    image = np.repeat(np.arange(len(cameras)), counts)
    names = np.arange(offsets[-1]) + (begin - offsets[:-1])[image]
    poses = objects.poses_w[names]
    if objects.twists_o is not None:
        poses = shutter.moved(poses, objects.twists_o[names], time[image])
    return Instances(objects.objects, offsets, objects.object_ids[names], poses), names


def _twists(twist_c: Array | None, count: int, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Checked twists `[C, 6]`, zeros for None."""
    if twist_c is None:
        return np.zeros((count, 6))
    twist = to_numpy(twist_c, np.float64)
    if twist.shape != (count, 6):
        raise InputError(
            f"twist_c has shape {twist.shape}, expected {(count, 6)} (linear [m/s], angular [rad/s])"
        )
    bad = chosen[~np.isfinite(twist[chosen]).all(1)]
    if len(bad):
        raise InputError(
            f"camera {int(bad[0])}: twist_c has NaN or infinite entries; found {twist[bad[0]].tolist()}"
        )
    return twist


def _integers(name: str, values: Array | None, default: NDArray[np.int64]) -> NDArray[Any]:
    """Checked integers `[C]`."""
    if values is None:
        return default
    array = to_numpy(values, None)
    if array.shape != default.shape or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} are {array.dtype} {array.shape}, expected integers {default.shape}")
    return array
