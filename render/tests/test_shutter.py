"""Motion blur against averages of many renders, rolling shutter against geometry."""

import numpy as np
import pytest
from gaussgym_render import RobotCamera, RobotCameraCfg, SplatRenderer
from gaussgym_render.sensor import decode_table
from gaussgym_render.shutter import (
    ShutterCfg,
    cell_at,
    cell_weight,
    moved,
    num_samples,
    row_window,
    sample_times,
    se3_exp,
    twist_between,
)
from gaussgym_render.testing import pinhole, random_cameras, street_cameras, street_splats
from gaussgym_scene import InputError, Splats

DECODE = decode_table()
WIDTH, HEIGHT = 64, 48
K = pinhole(WIDTH, HEIGHT)


def encode(light):
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255


def series(matrix, terms=40):
    """Matrix exponential by its definition."""
    total, power = np.eye(4), np.eye(4)
    for n in range(1, terms):
        power = power @ matrix / n
        total = total + power
    return total


def hat(twist):
    v, (x, y, z) = twist[:3], twist[3:]
    return np.block([[np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), v[:, None]], [np.zeros((1, 4))]])


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6, 0.0])
def test_se3_exp_is_the_matrix_exponential(scale):
    rng = np.random.default_rng(0)
    twists = rng.normal(size=(5, 6)) * [1, 1, 1, scale, scale, scale]
    np.testing.assert_allclose(se3_exp(twists), [series(hat(t)) for t in twists], atol=1e-13)


@pytest.mark.parametrize("scale", [1.0, 1e-5, 0.0])
def test_twist_between_leads_from_pose_to_pose(scale):
    rng = np.random.default_rng(1)
    previous = random_cameras(6, rng)
    twist = rng.normal(size=(6, 6)) * [1, 1, 1, scale, scale, scale]
    present = previous @ se3_exp(0.5 * twist)
    np.testing.assert_allclose(twist_between(previous, present, 0.5), twist, atol=1e-9)
    with pytest.raises(InputError, match="time between two poses"):
        twist_between(previous, present, 0.0)


def test_the_path_turns_the_camera_about_itself():
    """A camera far from the origin that only rotates stays where it is."""
    c2w = random_cameras(1, np.random.default_rng(2))
    c2w[0, :3, 3] = (100.0, -50.0, 3.0)
    time, camera, first = sample_times(np.array([0.1]), np.array([4]))
    poses = moved(c2w[camera], np.array([[0, 0, 0, 0.3, 2.0, -1.0]])[camera], time)
    np.testing.assert_allclose(poses[:, :3, 3], np.tile(c2w[0, :3, 3], (4, 1)))
    assert camera.tolist() == [0] * 4
    assert first.tolist() == [0, 4]
    angle = np.arccos((np.trace(np.linalg.inv(poses[:, :3, :3]) @ c2w[0, :3, :3], axis1=1, axis2=2) - 1) / 2)
    np.testing.assert_allclose(
        angle, np.array([0.0875, 0.0625, 0.0375, 0.0125]) * np.sqrt(0.09 + 4 + 1), rtol=1e-6
    )


def test_rows_are_exposed_one_after_the_other():
    """4 rows, 40 ms readout, 10 ms exposure: row 0 ends 35 ms before the end, row 3 ends 5 ms before it."""
    windows = [row_window(y, 4, 0.010, 0.040) for y in range(4)]
    np.testing.assert_allclose(
        windows, [(-0.045, -0.035), (-0.035, -0.025), (-0.025, -0.015), (-0.015, -0.005)]
    )
    assert row_window(2, 4, 0.010, 0.0) == (-0.010, 0.0)
    # Five cells of 10 ms: row 0 halves its exposure between the first and the second.
    np.testing.assert_allclose(
        [cell_weight(n, 5, *windows[0], 0.050) for n in range(5)], [0.5, 0.5, 0, 0, 0], atol=1e-12
    )
    assert cell_at(-0.050, 0.050, 5) == 0
    assert cell_at(0.0, 0.050, 5) == 4


@pytest.mark.parametrize(
    ("exposure", "readout"), [(0.01, 0.0), (0.0, 0.03), (0.004, 0.03), (0.02, 0.005), (1e-9, 0.03)]
)
@pytest.mark.parametrize("samples", [1, 2, 7, 48])
def test_weights_of_a_row_sum_to_one(exposure, readout, samples):
    for y in range(HEIGHT):
        window = row_window(y, HEIGHT, exposure, readout)
        weights = [cell_weight(n, samples, *window, exposure + readout) for n in range(samples)]
        assert sum(weights) == pytest.approx(1.0, abs=1e-6)


@pytest.fixture(scope="module")
def renderer():
    return SplatRenderer([street_splats(20000, np.random.default_rng(0))], WIDTH, HEIGHT)


def camera(renderer, **settings):
    return RobotCamera(renderer, RobotCameraCfg(shutter=ShutterCfg(**settings)))


TWISTS = {
    "translation": (0.8, -0.3, 2.0, 0, 0, 0),
    "rotation": (0, 0, 0, 1.0, -2.0, 3.0),
    "screw": (0.5, 0.2, 1.0, -1.5, 2.0, 0.7),
}


@pytest.mark.parametrize("name", TWISTS)
def test_blur_is_the_mean_of_many_renders(renderer, name):
    twist, exposure = np.array(TWISTS[name], float), 0.05
    c2w = street_cameras(2, np.random.default_rng(4)) @ se3_exp([0, 0, 0, 0.2, -0.1, 0.5])
    blurred = camera(renderer, exposure_s=(exposure, exposure), max_samples=16, sample_px=1e-3).render(
        c2w, np.stack([K, K]), np.zeros(2, int), twist_c=np.stack([twist, twist])
    )
    for count, tolerance in ((16, 1), (160, 8)):
        times = -(np.arange(count) + 0.5) / count * exposure
        steps = np.stack([series(hat(twist * t)) for t in times])
        for c in range(2):
            many = renderer.render(c2w[c] @ steps, np.tile(K, (count, 1, 1)), np.zeros(count, int)).rgb
            error = np.abs(encode(DECODE[many].astype(float).mean(0)) - blurred.rgb[c])
            assert error.max() <= tolerance + 0.51, (count, error.max())
    still = renderer.render(c2w, np.stack([K, K]), np.zeros(2, int)).rgb
    assert np.abs(still.astype(int) - blurred.rgb).mean() > 2  # there was something to blur


def half_plane(c2w, depth_m=2.0, step=0.03):
    """A white wall across the camera's axis, left of it."""
    x, y = np.meshgrid(np.arange(-4.0, 0.0, step), np.arange(-2.5, 2.5, step))
    points = np.stack([x.ravel(), y.ravel(), np.full(x.size, depth_m)], -1)
    n = len(points)
    return Splats(
        points @ c2w[:3, :3].T + c2w[:3, 3], np.tile([1.0, 0, 0, 0], (n, 1)), np.full((n, 3), step),
        np.full(n, 0.99), np.full((n, 1, 3), 0.5 / 0.28209479177387814),
    )  # fmt: skip


@pytest.mark.parametrize("yaw_rate", [1.5, -2.5])
@pytest.mark.parametrize("exposure", [0.0, 0.004])
def test_a_vertical_edge_slants_under_yaw(yaw_rate, exposure):
    """Rows further up are older: the edge lies at `f·tan(rate·age)` right of the middle, `f·rate·readout/H` px a row."""
    readout = 0.030
    c2w = random_cameras(1, np.random.default_rng(8))
    renderer = SplatRenderer([half_plane(c2w[0])], WIDTH, HEIGHT)
    rolling = camera(
        renderer,
        readout_s=(readout, readout),
        exposure_s=(exposure, exposure),
        max_samples=96,
        sample_px=0.01,
    )
    twist = np.array([[0, 0, 0, 0, yaw_rate, 0]])
    light = DECODE[rolling.render(c2w, K[None], np.zeros(1, int), twist_c=twist).rgb[0, ..., 1]]
    edge = light.sum(1) / light.max()
    rows = np.arange(HEIGHT)
    slope = np.polyfit(rows, edge, 1)[0]
    expected = -K[0, 0] * yaw_rate * readout / HEIGHT
    assert slope == pytest.approx(expected, rel=0.05)
    still = DECODE[renderer.render(c2w, K[None], np.zeros(1, int)).rgb[0, ..., 1]]
    age = readout * (1 - (rows + 0.5) / HEIGHT) + exposure / 2
    np.testing.assert_allclose(edge - still.sum(1) / still.max(), K[0, 0] * np.tan(yaw_rate * age), atol=0.15)


def test_row_bands_are_rendered_at_their_poses(renderer):
    """Readout without exposure: each band of rows is that of a plain render at the band's pose."""
    c2w, twist = street_cameras(1, np.random.default_rng(6)), np.array([TWISTS["screw"]])
    frames = camera(renderer, readout_s=(0.04, 0.04), max_samples=4, sample_px=1e-3).render(
        c2w, K[None], np.zeros(1, int), twist_c=twist
    )
    for band in range(4):
        pose = c2w[0] @ series(hat(twist[0] * (-0.04 + (band + 0.5) * 0.01)))
        plain = renderer.render(pose[None], K[None], np.zeros(1, int))
        rows = slice(band * 12, (band + 1) * 12)
        assert np.abs(frames.rgb[0, rows].astype(int) - plain.rgb[0, rows]).max() <= 1
        np.testing.assert_allclose(frames.depth[0, rows], plain.depth[0, rows], rtol=1e-3)
        np.testing.assert_allclose(frames.alpha[0, rows], plain.alpha[0, rows], atol=1e-3)


def test_depth_is_that_of_the_middle_of_the_exposure(renderer):
    c2w, twist = street_cameras(1, np.random.default_rng(6)), np.array([TWISTS["screw"]])
    frames = camera(renderer, exposure_s=(0.05, 0.05), max_samples=5, sample_px=1e-3).render(
        c2w, K[None], np.zeros(1, int), twist_c=twist
    )
    pose = c2w[0] @ series(hat(twist[0] * -0.025))
    plain = renderer.render(pose[None], K[None], np.zeros(1, int))
    np.testing.assert_allclose(frames.depth, plain.depth, rtol=1e-3)


def test_a_camera_at_rest_has_the_plain_image(renderer):
    c2w = street_cameras(2, np.random.default_rng(7))
    args = c2w, np.stack([K, K]), np.zeros(2, int)
    frames = camera(renderer, exposure_s=(0.01, 0.02), readout_s=(0.01, 0.02)).render(*args)
    for name in ("rgb", "depth", "alpha"):
        np.testing.assert_array_equal(getattr(frames, name), getattr(renderer.render(*args), name))


def test_a_pose_per_pixel_of_motion_is_enough(renderer):
    """The default step, on cameras that move as on a trotting robot, against a pose per 0.05 px: about one code off."""
    rng = np.random.default_rng(0)
    c2w, count = street_cameras(24, rng), 24
    twist = rng.normal(size=(count, 6)) * [0.2, 0.2, 0.2, 1, 1, 1] + [0, 0, 0.6, 0, 0, 0]
    args = c2w, np.tile(K, (count, 1, 1)), np.zeros(count, int)
    times = {"exposure_s": (0.002, 0.012), "readout_s": (0.005, 0.025)}
    fine = (
        camera(renderer, **times, sample_px=0.05, max_samples=64).render(*args, twist_c=twist).rgb.astype(int)
    )
    off = []
    for cfg in ({"sample_px": 0.5}, {}, {"sample_px": 1e6}):
        off.append(
            np.sqrt(np.mean((camera(renderer, **times, **cfg).render(*args, twist_c=twist).rgb - fine) ** 2))
        )
    assert off[0] < off[1] < 0.6 * off[2]
    assert off[1] < 2.0


def test_only_cameras_that_move_cost_more():
    """32 px focal length, 20 ms: 1 rad/s is 0.64 px, two steps of half a pixel."""
    twist = np.array([[0.0] * 6, [0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 50, 0, 0]])
    samples = num_samples(ShutterCfg(max_samples=8, sample_px=0.5), twist, np.full(4, 0.02), np.full(4, 32.0))
    assert samples.tolist() == [1, 2, 2, 8]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"exposure_s": (-0.1, 0.1)}, "exposure_s is"),
        ({"readout_s": (0.2, 0.1)}, "readout_s is"),
        ({"exposure_s": (0.0, np.nan)}, "exposure_s is"),
        ({"max_samples": 0}, "max_samples is 0"),
        ({"sample_px": 0.0}, "sample_px is 0"),
    ],
)
def test_bad_shutters(settings, text):
    with pytest.raises(InputError, match=text):
        ShutterCfg(**settings)
