"""`RobotCamera`'s effects as Warp kernels, on Warp's CPU device, against the compiled ones of the processor."""

from dataclasses import replace

import numpy as np
import pytest

wp = pytest.importorskip("warp")
wp.config.quiet = True

from gaussgym_render import (  # noqa: E402
    Frames,
    RobotCamera,
    RobotCameraCfg,
    SplatRenderer,
    lens,
    make_robot_camera,
    sensor,
    shutter,
)
from gaussgym_render.cuda import appearance, camera_calls, develop  # noqa: E402
from gaussgym_render.cuda import lens as device_lens  # noqa: E402
from gaussgym_render.cuda import sensor as device_sensor  # noqa: E402
from gaussgym_render.cuda import shutter as device_shutter  # noqa: E402
from gaussgym_render.cuda.robot_camera import CameraBatch, CameraEffects  # noqa: E402
from gaussgym_render.edits import AppearanceCfg, draw_edits  # noqa: E402
from gaussgym_render.lens import LensCfg  # noqa: E402
from gaussgym_render.objects import Instances, box, build_objects  # noqa: E402
from gaussgym_render.sensor import SensorCfg  # noqa: E402
from gaussgym_render.shutter import ShutterCfg  # noqa: E402
from gaussgym_render.testing import (  # noqa: E402
    pinhole,
    random_cameras,
    random_splats,
    street_cameras,
    street_splats,
)
from gaussgym_scene import InputError  # noqa: E402

WIDTH, HEIGHT, COUNT = 32, 24, 6
TYPICAL = RobotCameraCfg.typical()
LENSES = [
    ("opencv", (-0.08, 0.03, 0.006, -0.009, 0.002)),
    ("opencv", (0.12, -0.02, -0.004, 0.003, 0.001)),
    ("fisheye", (0.03, -0.02, 0.006, -0.001)),
]
CFGS = {
    "typical": TYPICAL,
    "sensor": RobotCameraCfg(sensor=TYPICAL.sensor),
    "shutter": RobotCameraCfg(
        shutter=ShutterCfg(exposure_s=(0.0, 0.03), readout_s=(0.0, 0.03), max_samples=5)
    ),
    "global shutter": RobotCameraCfg(shutter=ShutterCfg(exposure_s=(0.02, 0.02), max_samples=7)),
    "readout alone": RobotCameraCfg(shutter=ShutterCfg(readout_s=(0.01, 0.03), max_samples=4)),
    "fisheye": RobotCameraCfg(
        lens=LensCfg(
            model="fisheye", coefficients=(0.12, -0.02, 0.006, -0.001), spread=(0.01, 0.01, 0.0, 0.0)
        ),
        sensor=SensorCfg(gamma=(0.8, 1.2), vignette=(1.0, 1.0)),
    ),
}


def device(values, dtype):
    return wp.array(np.ascontiguousarray(values), dtype=dtype, device="cpu")


def launch(kernel, dim, *inputs):
    wp.launch(kernel, dim=dim, inputs=list(inputs), device="cpu")


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [street_splats(4000, rng), random_splats(300, rng)]


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    c2w = np.concatenate([street_cameras(3, rng), random_cameras(3, rng)])
    ks = np.tile(pinhole(WIDTH, HEIGHT), (COUNT, 1, 1))
    ks[:, 0, 0] *= rng.uniform(0.98, 1.02, COUNT)
    ks[:, 0, 2] += rng.uniform(-1, 1, COUNT)
    return c2w, ks, np.array([0, 0, 0, 1, 1, 1])


@pytest.fixture(scope="module")
def options():
    rng = np.random.default_rng(2)
    return {
        "twist_c": rng.normal(size=(COUNT, 6)) * 2 * np.array([1, 1, 0, 1, 1, 1])[:, None],  # one rests
        "camera_ids": np.array([5, 2**61 + 3, 17, 0, 9, 1]),
        "frame_ids": np.array([0, 3, 3, 100, 7, 1]),
    }


def empty_frames(count, fill=0):
    shape = (count, HEIGHT, WIDTH)
    return Frames(
        np.full((*shape, 3), fill, np.uint8), np.full(shape, fill, np.float32), np.full(shape, fill, np.float32),
        np.full(shape, fill, np.int32),
    )  # fmt: skip


def through_cpu(renderer, objects=None):
    """Renders pinhole images with the processor's renderer, so that what differs are the effects."""

    def render_path(path):
        along = None
        if path.object_offsets.shape[0]:
            offsets = path.object_offsets.numpy()
            end = offsets[-1]
            due = np.repeat(path.due.numpy(), np.diff(offsets))
            poses = np.where(due[:, None, None], path.object_poses_w.numpy()[:end], np.eye(4))
            ids = np.where(due, path.object_ids.numpy()[:end], 0)
            along = Instances(objects, offsets, ids, poses)
        out = Frames(path.rgb.numpy(), path.depth.numpy(), path.alpha.numpy())
        out.instances = path.seen.numpy() if path.seen.shape[0] else None
        renderer.render(
            path.poses.numpy(),
            path.ks.numpy(),
            path.scene_ids.numpy(),
            mask=path.due.numpy(),
            out=out,
            objects=along,
        )

    return render_path


def make_effects(camera, objects=None, **sizes):
    return CameraEffects(
        camera.cfg, (camera.width, camera.height), (camera.renderer.width, camera.renderer.height), seed=camera.seed,
        device="cpu", render_path=through_cpu(camera.renderer, objects), **sizes,
    )  # fmt: skip


def render(
    effects, c2w, ks, ids, out, *, mask=None, twist_c=None, camera_ids=None, frame_ids=None, objects=None
):
    count = len(c2w)
    none = np.zeros(0, np.int64)
    twist_c = np.zeros((count, 6)) if twist_c is None else twist_c
    twists = np.zeros((0, 6)) if objects is None or objects.twists_o is None else objects.twists_o
    effects.render(
        CameraBatch(
            poses=device(c2w, wp.mat44d),
            ks=device(ks, wp.float64),
            scene_ids=device(ids, int),
            due=device(np.zeros(0, bool) if mask is None else mask, wp.bool),
            twist_c=device(twist_c, wp.float64),
            camera_ids=device(none if camera_ids is None else camera_ids, wp.int64),
            frame_ids=device(none if frame_ids is None else frame_ids, wp.int64),
            rgb=wp.array(out.rgb, dtype=wp.uint8, device="cpu", copy=False),
            depth=wp.array(out.depth, dtype=float, device="cpu", copy=False),
            alpha=wp.array(out.alpha, dtype=float, device="cpu", copy=False),
            seen=wp.array(
                out.instances if objects else out.instances[:0], dtype=int, device="cpu", copy=False
            ),
            object_offsets=device(none if objects is None else objects.camera_offsets, wp.int64),
            object_ids=device(none if objects is None else objects.object_ids, wp.int64),
            object_poses_w=device(np.zeros((0, 4, 4)) if objects is None else objects.poses_w, wp.mat44d),
            object_twists=device(twists, wp.float64),
        )
    )
    return out


def assert_alike(ours, truth, cameras=slice(None)):
    """Codes one off at most; a depth or an instance may be its neighbour's where the middle of a pixel meets an edge."""
    assert np.abs(ours.rgb[cameras].astype(int) - truth.rgb[cameras]).max() <= 1
    assert (ours.rgb[cameras] != truth.rgb[cameras]).mean() < 2e-3
    for name in ("depth", "alpha"):
        a, b = getattr(ours, name)[cameras], getattr(truth, name)[cameras]
        assert (np.abs(a - b) > 1e-5 + 1e-5 * np.abs(b)).mean() < 2e-3, name


@pytest.mark.parametrize("arch", [80, 120, *(pytest.param(n, marks=pytest.mark.slow) for n in (86, 89, 90))])
def test_kernels_compile_for_gpus(arch, tmp_path):
    """NVRTC comes with Warp and needs no driver, so that a machine without a GPU sees what would not compile for one."""
    for module, launched in (
        (appearance, (appearance.draw_looks,)),
        (device_sensor, (device_sensor.draw_sensors, device_sensor.encoding_curves)),
        (
            device_shutter,
            (
                device_shutter.draw_times,
                device_shutter.place,
                device_shutter.place_objects,
                device_shutter.row_weights,
            ),
        ),
        (
            device_lens,
            (device_lens.draw_lenses, device_lens.trace_outline, device_lens.trace, device_lens.cover),
        ),
        (
            camera_calls,
            (
                camera_calls.widen_matrices,
                camera_calls.widen_rows,
                camera_calls.widen_values,
                camera_calls.copy_offsets,
                camera_calls.copy_ids,
                camera_calls.copy_scenes,
            ),
        ),
        (develop, (develop.draw_keys, develop.count_call, develop.develop)),
    ):
        folder = tmp_path / module.__name__
        wp.compile_aot_module(module.__name__, arch=arch, module_dir=folder, use_ptx=True)
        (ptx,) = folder.glob("*.ptx")
        text = ptx.read_text()
        assert f".target sm_{arch}" in text
        for kernel in launched:
            assert f".entry {kernel.key}_" in text


def test_cameras_draw_the_same_sensors():
    cfg = replace(TYPICAL.sensor, depth_dropout=(0.1, 0.3))
    keys = sensor.camera_keys(7, [0, 1, 5, 2**62, -3])
    drawn = wp.zeros((5, sensor.NUM_PARAMETERS), dtype=float, device="cpu")
    ranges = device(device_sensor.sensor_ranges(cfg), wp.float64)
    launch(device_sensor.draw_sensors, drawn.shape, device(keys, wp.uint64), ranges, drawn)
    np.testing.assert_allclose(drawn.numpy(), sensor.draw_sensors(cfg, keys), rtol=1e-7)


def test_worlds_look_the_same_to_the_same_cameras():
    cfg = AppearanceCfg.typical()
    keys = sensor.camera_keys(7, [0, 1, 5, 2**62, -3])
    color, light = (wp.zeros((5, 3, 4), dtype=wp.float64, device="cpu") for _ in range(2))
    gain = wp.zeros(5, dtype=wp.float64, device="cpu")
    ranges = device(appearance.look_ranges(cfg), wp.float64)
    launch(appearance.draw_looks, 5, device(keys, wp.uint64), ranges, color, gain, light)
    expected = draw_edits(cfg, keys)
    np.testing.assert_allclose(color.numpy(), expected.color, atol=1e-14)
    np.testing.assert_allclose(light.numpy(), expected.light, atol=1e-14)
    np.testing.assert_allclose(gain.numpy(), expected.view_dependence, atol=1e-14)


@pytest.mark.parametrize("gamma", [1.0, 0.7, 1.4])
def test_the_encoding_curve(gamma):
    sensors = np.zeros((3, sensor.NUM_PARAMETERS), np.float32)
    sensors[2, sensor.GAMMA] = gamma
    curves = wp.zeros((1, sensor.CURVE_SIZE), dtype=float, device="cpu")
    launch(device_sensor.encoding_curves, curves.shape, 2, device(sensors, float), curves)
    expected = np.empty(sensor.CURVE_SIZE, np.float32)
    sensor.encoding_curve(np.float32(gamma), expected)
    np.testing.assert_allclose(curves.numpy()[0], expected, atol=2e-4)


@pytest.mark.parametrize(
    "cfg", [CFGS["shutter"].shutter, CFGS["readout alone"].shutter, CFGS["global shutter"].shutter]
)
def test_times_poses_and_weights_of_rows(cfg, batch, options):
    keys, most = sensor.camera_keys(3, options["camera_ids"]), cfg.max_samples
    draws = sensor.NUM_SENSOR_DRAWS
    exposure, readout = (
        sensor.uniform(keys, draws + i, *span) for i, span in enumerate((cfg.exposure_s, cfg.readout_s))
    )
    twist = options["twist_c"] * np.array([1e-6, 0.1, 1, 1, 1, 1])[:, None]
    focals = np.tile([20.0, 22.0, 16.0, 12.0], (COUNT, 1))
    expected = shutter.num_samples(cfg, twist, exposure + readout, focals[:, :2].max(1))
    due = np.array([True, True, True, False, True, True])
    times, samples = wp.zeros(COUNT, dtype=wp.vec2d, device="cpu"), wp.zeros(COUNT, dtype=int, device="cpu")
    launch(
        device_shutter.draw_times, COUNT, device(keys, wp.uint64), wp.vec4d(*cfg.exposure_s, *cfg.readout_s), most,
        wp.float64(cfg.sample_px), device(twist, wp.float64), device(focals, wp.vec4d), device(due, wp.bool), times, samples,
    )  # fmt: skip
    np.testing.assert_allclose(times.numpy(), np.stack([exposure, readout], -1), rtol=1e-15)
    expected[3] = 0
    np.testing.assert_array_equal(samples.numpy(), expected)
    assert expected.max() > 1

    begin, block = 1, COUNT - 1
    path, path_ks = (wp.zeros((block * most, n, n), dtype=wp.float64, device="cpu") for n in (4, 3))
    path_scenes, path_due = wp.zeros(block * most, dtype=int), wp.zeros(block * most, dtype=wp.bool)
    launch(
        device_shutter.place, (block, most), begin, block, most, device(batch[0], wp.mat44d), device(twist, wp.float64),
        device(batch[2], int), times, samples, device(focals, wp.vec4d), path, path_ks, path_scenes, path_due,
    )  # fmt: skip
    time, owner, first = shutter.sample_times(exposure + readout, np.maximum(expected, 1))
    poses = shutter.moved(batch[0][owner], twist[owner], time)
    weights, middles = wp.zeros((block, HEIGHT, most), dtype=float), wp.zeros((block, HEIGHT), dtype=int)
    launch(device_shutter.row_weights, (block, HEIGHT), begin, times, samples, weights, middles)
    for c in range(begin, COUNT):
        at = (c - begin) * most
        np.testing.assert_array_equal(path_due.numpy()[at : at + most], np.arange(most) < expected[c])
        for cell in range(expected[c]):
            np.testing.assert_allclose(path.numpy()[at + cell], poses[first[c] + cell], atol=1e-14)
            assert path_scenes.numpy()[at + cell] == batch[2][c]
            np.testing.assert_array_equal(path_ks.numpy()[at + cell], [[20, 0, 16], [0, 22, 12], [0, 0, 1]])
        for y in range(HEIGHT if expected[c] else 0):
            window = shutter.row_window(y, HEIGHT, exposure[c], readout[c])
            own = [
                shutter.cell_weight(n, expected[c], *window, exposure[c] + readout[c])
                for n in range(expected[c])
            ]
            np.testing.assert_allclose(weights.numpy()[c - begin, y, : expected[c]], own, atol=1e-6)
            assert (weights.numpy()[c - begin, y, expected[c] :] == 0).all()
            middle = shutter.cell_at(sum(window) / 2, exposure[c] + readout[c], expected[c])
            assert middles.numpy()[c - begin, y] == middle


def test_a_camera_at_rest_keeps_its_pose_bit_for_bit(batch):
    path = wp.zeros((COUNT, 4, 4), dtype=wp.float64, device="cpu")
    launch(
        device_shutter.place, (COUNT, 1), 0, COUNT, 1, device(batch[0], wp.mat44d), device(np.zeros((COUNT, 6)), wp.float64),
        device(batch[2], int), device(np.full((COUNT, 2), 0.01), wp.vec2d), device(np.ones(COUNT), int),
        device(np.ones((COUNT, 4)), wp.vec4d), path, wp.zeros((COUNT, 3, 3), dtype=wp.float64), wp.zeros(COUNT, dtype=int),
        wp.zeros(COUNT, dtype=wp.bool),
    )  # fmt: skip
    np.testing.assert_array_equal(path.numpy(), batch[0])


def solve_tables(model, lenses, width, height, source):
    """Tables, pinholes and codes of lenses `[U, 9]`."""
    count, fisheye = len(lenses), model == "fisheye"
    table, changed = device(lenses, wp.float64), device(np.ones(count, bool), wp.bool)
    extents, codes = device(np.full((count, 4), np.inf), wp.float64), wp.zeros(count, dtype=int, device="cpu")
    rays = wp.zeros((count, height + 1, width + 1), dtype=wp.vec2f, device="cpu")
    pinholes = wp.zeros(count, dtype=wp.vec4d, device="cpu")
    launch(
        device_lens.trace_outline,
        (count, 2 * (width + height)),
        0,
        fisheye,
        width,
        height,
        table,
        changed,
        extents,
        codes,
    )
    launch(device_lens.trace, rays.shape, 0, fisheye, device(lenses, float), changed, rays, codes)
    launch(device_lens.cover, count, 0, 0, *source, extents, pinholes)
    return rays.numpy(), pinholes.numpy(), codes.numpy()


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
@pytest.mark.parametrize("centre", [(0.52, 0.47), (0.0, 1.0), (1.2, -0.3)])
def test_tables_are_those_of_the_processor(model, coefficients, centre):
    focals = np.array([[20.0, 22.0, centre[0] * WIDTH, centre[1] * HEIGHT]])
    if centre != (0.52, 0.47):
        focals[:, :2] *= 2  # off the middle the far corners would see too much
    expected = lens.corner_rays(model, [coefficients], focals, WIDTH, HEIGHT)
    padded = np.concatenate([focals[0], coefficients, np.zeros(5 - len(coefficients))])[None]
    rays, pinholes, codes = solve_tables(model, padded, WIDTH, HEIGHT, (60, 50))
    np.testing.assert_allclose(rays, expected, atol=3e-6)
    np.testing.assert_allclose(pinholes, lens.source_focals(expected, 60, 50), rtol=1e-9)
    assert codes.tolist() == [device_lens.SEEN]


@pytest.mark.parametrize(
    ("model", "coefficients", "focal", "text"),
    [
        ("opencv", (-0.3, 0, 0, 0, 0), 32.0, "folds back"),
        ("opencv", (-0.3, 0, 0, 0, 0), 80.0, None),
        ("opencv", (0.0, 0.0, 0.2, 0.3, 0), 20.0, "folds back"),
        ("opencv", (0.0, 0.0, 0.03, 0.02, 0), 32.0, None),
        ("fisheye", (0, 0, 0, 0), 20.0, "off its axis"),
        ("fisheye", (0, 0, 0, 0), 31.0, None),
        ("fisheye", (-0.3, 0, 0, 0), 32.0, "folds back"),
    ],
)
def test_lenses_are_refused_as_by_the_processor(model, coefficients, focal, text):
    focals = np.array([[focal, focal, 32.0, 24.0]])
    padded = np.concatenate([focals[0], coefficients, np.zeros(5 - len(coefficients))])[None]
    code = solve_tables(model, padded, 64, 48, (60, 50))[2][0]
    try:
        lens.corner_rays(model, [coefficients], focals, 64, 48)
        expected = device_lens.SEEN
    except InputError as problem:
        expected = device_lens.FOLDED if "folds back" in str(problem) else device_lens.TOO_WIDE
    assert code == expected
    assert (text is None) == (code == device_lens.SEEN)


@pytest.mark.parametrize("name", CFGS)
def test_frames_are_those_of_the_processor(name, scenes, batch, options):
    camera = make_robot_camera(scenes, pinhole(WIDTH, HEIGHT), WIDTH, HEIGHT, CFGS[name], seed=3)
    effects = make_effects(camera)
    expected = camera.render(*batch, **options)
    assert_alike(render(effects, *batch, empty_frames(COUNT), **options), expected)
    # Cameras that are not due keep what they had; the others do not notice.
    mask = np.array([True, False, True, False, True, True])
    masked = render(effects, *batch, empty_frames(COUNT, 7), mask=mask, **options)
    assert_alike(masked, expected, mask)
    assert (masked.rgb[~mask] == 7).all()
    assert (masked.depth[~mask] == 7).all()
    # In blocks, with as few tables of rays as can be.
    small = make_effects(camera, block_pixels=1, table_bytes=1)
    assert_alike(render(small, *batch, empty_frames(COUNT), **options), expected)


def test_an_image_does_not_depend_on_its_batch(scenes, batch, options):
    camera = make_robot_camera(scenes, pinhole(WIDTH, HEIGHT), WIDTH, HEIGHT, TYPICAL, seed=3)
    effects = make_effects(camera, block_pixels=3 * camera.renderer.width * camera.renderer.height * 8)
    whole = render(effects, *batch, empty_frames(COUNT), **options)
    order = np.array([4, 0, 5, 2])
    part = render(
        effects, *(a[order] for a in batch), empty_frames(4), **{k: v[order] for k, v in options.items()}
    )
    for name in ("rgb", "depth", "alpha"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[order])


def test_without_ids_places_and_calls_count(scenes, batch):
    camera = make_robot_camera(scenes, pinhole(WIDTH, HEIGHT), WIDTH, HEIGHT, TYPICAL)
    effects = make_effects(camera)
    for _ in range(2):
        expected = camera.render(*batch)
        assert_alike(render(effects, *batch, empty_frames(COUNT)), expected)


def test_tables_are_solved_for_changed_lenses_only(scenes, batch, options):
    camera = make_robot_camera(scenes, pinhole(WIDTH, HEIGHT), WIDTH, HEIGHT, TYPICAL)
    effects = make_effects(camera)
    render(effects, *batch, empty_frames(COUNT), **options)
    assert effects._changed.numpy().tolist() == [True] * COUNT
    effects._rays.zero_()  # would be seen
    ids = options["camera_ids"].copy()
    ids[4] = 77
    render(effects, *batch, empty_frames(COUNT), **{**options, "camera_ids": ids})
    assert effects._changed.numpy().tolist() == [c == 4 for c in range(COUNT)]
    assert effects._rays.numpy().any((1, 2, 3)).tolist() == [c == 4 for c in range(COUNT)]


def test_a_lens_that_cannot_be_covered_is_reported_when_asked(scenes, batch, options):
    camera = make_robot_camera(scenes, pinhole(WIDTH, HEIGHT), WIDTH, HEIGHT, CFGS["fisheye"])
    effects = make_effects(camera)
    render(effects, *batch, empty_frames(COUNT), **options)
    effects.check_lenses()
    wide = batch[1].copy()
    wide[2, :2, :2] *= 0.5
    render(effects, batch[0], wide, batch[2], empty_frames(COUNT), **options)
    with pytest.raises(InputError, match=r"fisheye lens .* sees too far off its axis in a 32x24 image"):
        effects.check_lenses()


def moving_objects(batch):
    """Any number a camera, before it, each with a motion of its own."""
    rng = np.random.default_rng(5)
    shapes = build_objects([box((0.3, 0.2, 0.25), (200, 40, 30)), box((0.1, 0.5, 0.1), (20, 90, 220))])
    counts = np.array([2, 0, 3, 1, 1, 2])
    owner = np.repeat(np.arange(COUNT), counts)
    poses = batch[0][owner] @ random_cameras(len(owner), rng)
    poses[:, :3, 3] = (
        batch[0][owner, :3, 3] + 1.5 * batch[0][owner, :3, 2] + rng.normal(size=(len(owner), 3)) * 0.3
    )
    return Instances(
        shapes, np.concatenate([[0], np.cumsum(counts)]), rng.integers(0, 2, len(owner)), poses,
        rng.normal(size=(len(owner), 6)) * 3,
    )  # fmt: skip


def test_objects_move_while_a_frame_is_exposed(scenes, batch, options):
    """In blocks that begin in their midst."""
    objects = moving_objects(batch)
    shapes = objects.objects
    camera = make_robot_camera(scenes, pinhole(WIDTH, HEIGHT), WIDTH, HEIGHT, TYPICAL, seed=3)
    effects = make_effects(
        camera, shapes, block_pixels=2 * camera.renderer.width * camera.renderer.height * 8
    )
    for given in (objects, replace(objects, twists_o=None)):
        expected = camera.render(*batch, objects=given, **options)
        ours = render(effects, *batch, empty_frames(COUNT), objects=given, **options)
        assert_alike(ours, expected)
        assert (ours.instances != expected.instances).mean() < 2e-3
        assert len(np.unique(expected.instances)) >= 5


def test_nothing_is_made_after_the_first_call(scenes, batch, options):
    camera = make_robot_camera(scenes, pinhole(WIDTH, HEIGHT), WIDTH, HEIGHT, TYPICAL)
    effects = make_effects(camera)
    render(effects, *batch, empty_frames(COUNT), **options)
    made = effects.allocations
    for count in (COUNT, 3, 1, 0, COUNT):
        render(
            effects,
            *(a[:count] for a in batch),
            empty_frames(count),
            **{k: v[:count] for k, v in options.items()},
        )
    assert effects.allocations == made


def test_memory_that_runs_out_leaves_no_half_made_buffers(scenes, batch, options, monkeypatch):
    """A larger call fails on its way; smaller ones then find buffers that fit each other."""
    camera = make_robot_camera(scenes, pinhole(WIDTH, HEIGHT), WIDTH, HEIGHT, TYPICAL, seed=3)
    effects = make_effects(camera)
    few = [a[:2] for a in batch], {k: v[:2] for k, v in options.items()}
    expected = render(effects, *few[0], empty_frames(2), **few[1])
    make, left = wp.zeros, iter(range(12))

    def zeros(*args, **named):
        if next(left, None) is None:
            raise RuntimeError("Failed to allocate memory")
        return make(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(wp, "zeros", zeros)
        with pytest.raises(RuntimeError, match="Failed to allocate"):
            effects.reserve(COUNT)
    again = render(effects, *few[0], empty_frames(2), **few[1])
    for name in ("rgb", "depth", "alpha"):
        np.testing.assert_array_equal(getattr(again, name), getattr(expected, name))


def test_ideal_parts_change_nothing(scenes, batch):
    """Everything runs, with nothing to do: the pinhole's own image, code by code."""
    renderer = SplatRenderer(scenes, WIDTH, HEIGHT, background=(0.2, 0.4, 0.1))
    idle = RobotCamera(renderer, RobotCameraCfg(shutter=ShutterCfg(exposure_s=(0.01, 0.01))))
    ours, plain = render(make_effects(idle), *batch, empty_frames(COUNT)), renderer.render(*batch)
    for name in ("rgb", "depth", "alpha"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(plain, name))
