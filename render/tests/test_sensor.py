"""Photometry against formulas, noise against its statistics."""

import numpy as np
import pytest
from gaussgym_render import RobotCamera, RobotCameraCfg, SplatRenderer, sensor
from gaussgym_render.sensor import SensorCfg
from gaussgym_render.testing import pinhole, random_cameras
from gaussgym_scene import InputError, Splats

DECODE = sensor.decode_table().astype(float)
WIDTH, HEIGHT = 64, 48
K = pinhole(WIDTH, HEIGHT)
FOCAL = np.array([K[0, 0], K[1, 1], K[0, 2], K[1, 2]])
NOTHING = Splats(np.zeros((0, 3)), np.zeros((0, 4)), np.zeros((0, 3)), np.zeros(0), np.zeros((0, 1, 3)))


def grey(code, cameras=1, frames=1, rgb=None, seed=0, **settings):
    """Images `[frames, C, H, W, 3]` of a scene of one colour."""
    color = [c / 255 for c in (rgb or (code, code, code))]
    renderer = SplatRenderer([NOTHING], WIDTH, HEIGHT, background=color)
    camera = RobotCamera(renderer, RobotCameraCfg(sensor=SensorCfg(**settings)), seed=seed)
    args = (
        random_cameras(cameras, np.random.default_rng(0)),
        np.tile(K, (cameras, 1, 1)),
        np.zeros(cameras, int),
    )
    return np.stack([camera.render(*args).rgb for _ in range(frames)])


def expose(light, key=1, **settings):
    """One image of light `[H, W, 3]`."""
    table = sensor.draw_sensors(SensorCfg(**settings), sensor.camera_keys(0, [0]))
    rgb = np.zeros(light.shape, np.uint8)
    curve = np.empty(sensor.CURVE_SIZE, np.float32)
    sensor.expose(light.astype(np.float32), FOCAL, table[0], np.uint64(key), curve, rgb)
    return rgb


def test_splitmix64_of_seed_0():
    """The published first outputs of the reference implementation."""
    outputs = [int(sensor.child_keys(0, n)[0]) for n in range(3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert int(sensor._child(np.uint64(0), np.uint64(2))) == outputs[2]


def test_all_codes_survive_decoding_and_encoding():
    codes = np.resize(np.arange(256), (16, 16, 3)).astype(np.uint8)
    np.testing.assert_array_equal(expose(DECODE[codes]), codes)


def test_encoding_is_that_of_the_standard():
    light = np.linspace(0, 1, 64 * 48 * 3).reshape(48, 64, 3)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    assert np.abs(expose(light) - encoded).max() < 0.505
    assert np.abs(expose(light, gamma=(1.3, 1.3)) - 255 * (encoded / 255) ** 1.3).max() < 0.505


@pytest.mark.parametrize(("ev", "factor"), [(1.0, 2.0), (-1.5, 2**-1.5)])
def test_an_ev_doubles_the_light(ev, factor):
    image = grey(120, exposure_ev=(ev, ev))
    assert len(np.unique(image)) == 1
    assert DECODE[image.flat[0]] == pytest.approx(factor * DECODE[120], rel=0.01)


def test_overexposure_saturates():
    assert (grey(200, exposure_ev=(3.0, 3.0)) == 255).all()


def test_white_balance_multiplies_red_and_blue():
    image = grey(0, rgb=(60, 80, 100), white_balance_ev=(-0.5, 0.5), cameras=6)
    light = DECODE[image[0, :, 0, 0]]
    gains = light / DECODE[[60, 80, 100]]
    np.testing.assert_allclose(gains[:, 1], 1.0)
    table = sensor.draw_sensors(SensorCfg(white_balance_ev=(-0.5, 0.5)), sensor.camera_keys(0, np.arange(6)))
    np.testing.assert_allclose(gains[:, [0, 2]], table[:, [sensor.RED, sensor.BLUE]], rtol=0.03)
    assert (np.abs(np.log2(gains[:, [0, 2]])) < 0.55).all()
    assert len(np.unique(table[:, [sensor.RED, sensor.BLUE]])) == 12


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_vignetting_is_cos4(strength):
    light = DECODE[grey(230, vignette=(strength, strength))[0, 0, ..., 1]]
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    angle = np.arctan(np.hypot((x - FOCAL[2]) / FOCAL[0], (y - FOCAL[3]) / FOCAL[1]))
    expected = DECODE[230] * (1 - strength * (1 - np.cos(angle) ** 4))
    np.testing.assert_allclose(light, expected, atol=0.005)
    # The corner pixel looks 31.5 right and 23.5 down at a focal length of 32: cos² = 1 / (1 + 0.969 + 0.539).
    ratio = 1 - strength * (1 - (1 / (1 + (31.5**2 + 23.5**2) / 32**2)) ** 2)
    assert light[-1, -1] / light[23:25, 31:33].mean() == pytest.approx(ratio, rel=0.04)


def test_noise_has_the_variance_of_photons_and_electronics():
    """EMVA 1288's photon transfer: variance over mean is a line of slope shot² that starts at read²."""
    shot, read = 0.05, 0.01
    means, variances = [], []
    for code in (95, 120, 140, 160, 180):
        light = DECODE[grey(code, cameras=4, frames=15, shot_noise=(shot, shot), read_noise=(read, read))]
        means.append(light.mean())
        variances.append(light.var())
        assert light.mean() == pytest.approx(DECODE[code], rel=0.005)
    slope, offset = np.polyfit(means, variances, 1)
    assert slope == pytest.approx(shot**2, rel=0.05)
    np.testing.assert_allclose(variances, shot**2 * np.array(means) + read**2, rtol=0.05)
    assert offset == pytest.approx(read**2, abs=0.3 * read**2)


def test_exposure_brings_photons():
    """More light has less relative noise: noise is of the light on the sensor, not of the scene."""
    relative = []
    for ev in (-1.0, 1.0):
        light = DECODE[grey(110, cameras=8, shot_noise=(0.04, 0.04), exposure_ev=(ev, ev))]
        relative.append(light.std() / light.mean())
    assert relative[0] / relative[1] == pytest.approx(2.0, rel=0.05)


def test_noise_is_white_and_normal():
    images = DECODE[grey(150, cameras=2, frames=20, read_noise=(0.05, 0.05))]
    noise = (images - images.mean()) / images.std()
    pairs = {
        "columns": (noise[..., :-1, :], noise[..., 1:, :]),
        "rows": (noise[:, :, :-1], noise[:, :, 1:]),
        "channels": (noise[..., 0], noise[..., 1]),
        "other channels": (noise[..., 0], noise[..., 2]),
        "frames": (noise[:-1], noise[1:]),
        "cameras": (noise[:, 0], noise[:, 1]),
    }
    for name, (a, b) in pairs.items():
        assert abs(np.mean(a * b)) < 0.012, name
    assert abs(np.mean(noise**3)) < 0.03
    assert np.mean(noise**4) == pytest.approx(3.0, abs=0.06)


def depths(z, key=3, shape=(200, 200), **settings):
    table = sensor.draw_sensors(SensorCfg(**settings), sensor.camera_keys(0, [0]))
    depth = np.full(shape, z, np.float32)
    sensor.measure_depth(table[0], np.uint64(key), depth)
    return depth


def test_depth_noise_grows_with_the_square_of_the_range():
    for z in (0.5, 1.0, 2.0, 4.0, 8.0):
        error = depths(z, depth_noise_m=(0.002, 0.002), depth_noise_per_m=(0.003, 0.003)) - z
        assert error.std() == pytest.approx(0.002 + 0.003 * z * z, rel=0.02)
        assert abs(error.mean()) < 0.02 * error.std() + 1e-6


def test_dropout_loses_its_share_of_the_pixels():
    depth = depths(2.0, depth_dropout=(0.1, 0.1))
    assert (depth == 0).mean() == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / depth.size))
    assert np.unique(depth[depth > 0]).tolist() == [2.0]
    assert (depths(0.0, depth_noise_m=(0.1, 0.1)) == 0).all()  # nothing was hit: nothing is measured
    assert (depths(2.0, depth_dropout=(1.0, 1.0)) == 0).all()


def test_parameters_are_uniform_and_independent():
    cfg = SensorCfg(exposure_ev=(-1.0, 1.0), vignette=(0.2, 0.6), gamma=(0.8, 1.2), depth_dropout=(0.0, 0.1))
    table = sensor.draw_sensors(cfg, sensor.camera_keys(7, np.arange(20000)))
    columns = np.stack(
        [np.log2(table[:, sensor.GAIN]) / 2 + 0.5, (table[:, sensor.VIGNETTE] - 0.2) / 0.4,
         (table[:, sensor.GAMMA] - 0.8) / 0.4, table[:, sensor.DROPOUT] * 10]
    )  # fmt: skip
    assert columns.min() > -1e-5
    assert columns.max() < 1 + 1e-5
    np.testing.assert_allclose(columns.mean(1), 0.5, atol=0.01)
    np.testing.assert_allclose(columns.var(1), 1 / 12, atol=0.002)
    assert np.abs(np.corrcoef(columns) - np.eye(4)).max() < 0.03
    others = sensor.draw_sensors(cfg, sensor.camera_keys(8, np.arange(20000)))
    assert abs(np.corrcoef(table[:, sensor.VIGNETTE], others[:, sensor.VIGNETTE])[0, 1]) < 0.03


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"vignette": (0.0, 1.5)}, r"vignette is \(0.0, 1.5\), expected \(lowest, highest\) within 0 to 1"),
        ({"gamma": (0.0, 1.0)}, "gamma is"),
        ({"shot_noise": (-0.1, 0.1)}, "shot_noise is"),
        ({"depth_dropout": (0.0, 1.1)}, "depth_dropout is"),
        ({"exposure_ev": (1.0, -1.0)}, "exposure_ev is"),
        ({"read_noise": (np.nan, 0.1)}, "read_noise is"),
    ],
)
def test_bad_sensors(settings, text):
    with pytest.raises(InputError, match=text):
        SensorCfg(**settings)
