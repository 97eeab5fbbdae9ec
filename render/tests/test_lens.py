"""Distortion against OpenCV's own functions, and against a finer pinhole image resampled by brute force."""

import cv2
import numpy as np
import pytest
from gaussgym_render import RobotCamera, RobotCameraCfg, SplatRenderer, make_robot_camera
from gaussgym_render.lens import LensCfg, corner_rays, distort, source_focals, source_size
from gaussgym_render.sensor import decode_table
from gaussgym_render.testing import pinhole, random_cameras, street_cameras, street_splats
from gaussgym_scene import InputError, Splats

OPENCV = (-0.08, 0.03, 0.006, -0.009, 0.002)
PINCUSHION = (0.12, -0.02, -0.004, 0.003, 0.001)
FISHEYE = (0.03, -0.02, 0.006, -0.001)
LENSES = [("opencv", OPENCV), ("opencv", PINCUSHION), ("fisheye", FISHEYE)]
DECODE = decode_table()


def cv_project(model, coefficients, points_c, k):
    zero = np.zeros(3)
    points = np.ascontiguousarray(points_c)[:, None]
    project = cv2.fisheye.projectPoints if model == "fisheye" else cv2.projectPoints
    if model == "fisheye":
        return project(points, zero, zero, k, np.array(coefficients))[0][:, 0]
    return project(points, zero, zero, k, np.array(coefficients))[0][:, 0]


def camera_matrix(width, height, focal):
    """Not square, not centred."""
    return np.array([[focal, 0, 0.52 * width], [0, 1.03 * focal, 0.47 * height], [0, 0, 1.0]])


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_distort_is_opencvs(model, coefficients):
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-1.2, 1.2, (200, 2)), np.ones((200, 1))], 1) * rng.uniform(
        1, 5, (200, 1)
    )
    k = camera_matrix(320, 240, 150.0)
    ours = distort(model, coefficients, points[:, :2] / points[:, 2:]) * [k[0, 0], k[1, 1]] + k[:2, 2]
    np.testing.assert_allclose(ours, cv_project(model, coefficients, points, k), atol=1e-9)


def test_a_hand_computed_point():
    """r² = 0.25 + 0.0625 = 0.3125: radial 1 - 0.1·0.3125 = 0.96875."""
    x, y = distort("opencv", (-0.1, 0, 0.01, 0.02, 0), (0.5, 0.25))
    assert x == pytest.approx(0.5 * 0.96875 + 2 * 0.01 * 0.125 + 0.02 * (0.3125 + 0.5))
    assert y == pytest.approx(0.25 * 0.96875 + 0.01 * (0.3125 + 0.125) + 2 * 0.02 * 0.125)
    np.testing.assert_allclose(distort("fisheye", (0, 0, 0, 0), (1.0, 0.0)), (np.pi / 4, 0.0))


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
@pytest.mark.parametrize("centre", [(0.52, 0.47), (0.0, 1.0), (1.2, -0.3)])
def test_corner_rays_invert_the_lens(model, coefficients, centre):
    width, height, focal = 32, 24, 20.0
    focals = np.array([[focal, 1.1 * focal, centre[0] * width, centre[1] * height]])
    if centre != (0.52, 0.47):
        focals[:, :2] *= 2  # off the middle the far corners would see too much
    rays = corner_rays(model, [coefficients], focals, width, height)[0]
    i, j = np.meshgrid(np.arange(width + 1), np.arange(height + 1))
    np.testing.assert_allclose(
        distort(model, coefficients, rays) * focals[0, :2] + focals[0, 2:], np.stack([i, j], -1), atol=1e-7
    )


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_corner_rays_are_opencvs(model, coefficients):
    k = camera_matrix(32, 24, 22.0)
    rays = corner_rays(model, [coefficients], [[k[0, 0], k[1, 1], k[0, 2], k[1, 2]]], 32, 24)[0]
    i, j = np.meshgrid(np.arange(33.0), np.arange(25.0))
    pixels = np.stack([i, j], -1).reshape(-1, 1, 2)
    if model == "fisheye":
        expected = cv2.fisheye.undistortPoints(pixels, k, np.array(coefficients))
    else:
        stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 500, 1e-12)
        expected = cv2.undistortPoints(pixels, k, np.array(coefficients), criteria=stop)
    np.testing.assert_allclose(rays.reshape(-1, 2), expected[:, 0], atol=2e-5)


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_bright_points_lie_where_opencv_projects_them(model, coefficients):
    width, height = 320, 240
    k = camera_matrix(width, height, 160.0)
    rng = np.random.default_rng(3)
    pixels = np.stack(np.meshgrid(np.linspace(12, 308, 7), np.linspace(12, 228, 6)), -1).reshape(-1, 2)
    pixels += rng.uniform(-3, 3, pixels.shape)
    rays = corner_rays(model, [coefficients], [[k[0, 0], k[1, 1], k[0, 2], k[1, 2]]], width, height)[0]
    depth = rng.uniform(1.5, 4.0, (len(pixels), 1))
    xy = rays[pixels[:, 1].astype(int), pixels[:, 0].astype(int)]
    points_c = np.concatenate([xy, np.ones_like(depth)], 1) * depth
    c2w = random_cameras(1, np.random.default_rng(5))
    splats = Splats(
        points_c @ c2w[0, :3, :3].T + c2w[0, :3, 3],
        np.tile([1.0, 0, 0, 0], (len(xy), 1)),
        np.tile(depth / 160.0, (1, 3)),  # about a pixel wide
        np.full(len(xy), 0.95),
        np.full((len(xy), 1, 3), 0.5 / 0.28209479177387814),
    )
    camera = make_robot_camera(
        [splats], k, width, height, RobotCameraCfg(lens=LensCfg(model=model, coefficients=coefficients))
    )
    light = DECODE[camera.render(c2w, k[None], np.zeros(1, int)).rgb[0, ..., 0]]
    predicted = cv_project(model, coefficients, points_c, k)
    off = []
    for u, v in predicted:
        i, j = round(u), round(v)
        window = light[j - 6 : j + 7, i - 6 : i + 7]
        y, x = np.mgrid[j - 6 : j + 7, i - 6 : i + 7] + 0.5
        assert window.sum() > 0.2
        off.append(np.hypot((window * x).sum() / window.sum() - u, (window * y).sum() / window.sum() - v))
    assert max(off) < 0.1
    undistorted = points_c[:, :2] / points_c[:, 2:] * [k[0, 0], k[1, 1]] + k[:2, 2]
    assert np.abs(undistorted - predicted).max() > 5  # a pinhole would fail


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_the_image_is_that_of_a_fine_pinhole_resampled_by_opencv(model, coefficients):
    width, height, fine = 80, 60, 4
    k = camera_matrix(width, height, 45.0)
    scene = street_splats(20000, np.random.default_rng(0))
    c2w = street_cameras(2, np.random.default_rng(1))
    cfg = LensCfg(model=model, coefficients=coefficients)
    camera = make_robot_camera([scene], k, width, height, RobotCameraCfg(lens=cfg))
    image = DECODE[camera.render(c2w, np.stack([k, k]), np.zeros(2, int)).rgb]
    # Truth: four times as many pixels a side, looked up by OpenCV's inverse, then averaged over each pixel.
    large = k * [[fine], [fine], [1]]
    rays = corner_rays(
        model,
        [coefficients],
        [[large[0, 0], large[1, 1], large[0, 2], large[1, 2]]],
        width * fine,
        height * fine,
    )
    size = tuple(
        int(1.1 * s)
        for s in source_size(
            LensCfg(model=model, coefficients=coefficients, oversample=1.0),
            large,
            width * fine,
            height * fine,
        )
    )
    focals = source_focals(rays, *size)[0]
    source = SplatRenderer([scene], *size)
    source_k = np.array([[focals[0], 0, focals[2]], [0, focals[1], focals[3]], [0, 0, 1]])
    pinholes = DECODE[source.render(c2w, np.stack([source_k] * 2), np.zeros(2, int)).rgb]
    middles = 0.25 * (rays[0, 1:, 1:] + rays[0, :-1, 1:] + rays[0, 1:, :-1] + rays[0, :-1, :-1])
    lookup = (middles * focals[:2] + focals[2:] - 0.5).astype(np.float32)  # OpenCV's pixel centres are at 0
    for ours, pinhole_image in zip(image, pinholes):
        truth = cv2.remap(pinhole_image, lookup, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        truth = truth.reshape(height, fine, width, fine, 3).mean((1, 3))
        error = np.sqrt(np.mean((ours - truth) ** 2))
        assert error < 0.03 * np.ptp(truth), error


def test_no_distortion_is_as_sharp_as_the_pinhole():
    """What `oversample` promises: an identity lens neither blurs nor sharpens."""
    k = pinhole(64, 48)
    scene, c2w = street_splats(20000, np.random.default_rng(0)), street_cameras(8, np.random.default_rng(2))
    ks, ids = np.tile(k, (8, 1, 1)), np.zeros(8, int)
    plain = DECODE[SplatRenderer([scene], 64, 48).render(c2w, ks, ids).rgb]
    cfg = RobotCameraCfg(lens=LensCfg(model="opencv", coefficients=(0, 0, 0, 0, 0)))
    lens = DECODE[make_robot_camera([scene], k, 64, 48, cfg).render(c2w, ks, ids).rgb]
    assert np.sqrt(np.mean((plain - lens) ** 2)) < 0.02
    sharpness = [np.mean(np.diff(image, axis=2) ** 2) for image in (plain, lens)]
    assert 0.85 < sharpness[1] / sharpness[0] < 1.2


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_the_source_covers_the_lens_at_the_asked_density(model, coefficients):
    k = camera_matrix(64, 48, 40.0)
    cfg = LensCfg(model=model, coefficients=coefficients, oversample=2.0)
    width, height = source_size(cfg, k, 64, 48)
    rays = corner_rays(model, [coefficients], [[k[0, 0], k[1, 1], k[0, 2], k[1, 2]]], 64, 48)
    focals = source_focals(rays, width, height)[0]
    at = rays[0] * focals[:2] + focals[2:]
    np.testing.assert_allclose(at.min((0, 1)), 1.0)
    np.testing.assert_allclose(at.max((0, 1)), [width - 1, height - 1])
    assert np.diff(at[..., 0], axis=1).min() >= 2.0
    assert np.diff(at[..., 1], axis=0).min() >= 2.0
    assert source_size(LensCfg(), k, 64, 48) == (64, 48)


def test_copies_of_a_lens_differ_by_camera_and_not_by_batch():
    k = pinhole(32, 24)
    scene, c2w = street_splats(5000, np.random.default_rng(0)), street_cameras(1, np.random.default_rng(2))
    cfg = LensCfg(model="opencv", coefficients=(-0.05, 0.01, 0, 0, 0), spread=(0.03, 0.005, 0.002, 0.002, 0))
    camera = make_robot_camera([scene], k, 32, 24, RobotCameraCfg(lens=cfg))
    args = np.tile(c2w, (3, 1, 1)), np.tile(k, (3, 1, 1)), np.zeros(3, int)
    frames = camera.render(*args, camera_ids=np.array([4, 9, 4]))
    np.testing.assert_array_equal(frames.rgb[0], frames.rgb[2])
    assert np.abs(frames.rgb[0].astype(int) - frames.rgb[1]).max() > 5
    alone = camera.render(*(a[:1] for a in args), camera_ids=np.array([9]))
    np.testing.assert_array_equal(alone.rgb[0], frames.rgb[1])
    np.testing.assert_array_equal(alone.depth[0], frames.depth[1])


def test_a_lens_that_folds_back_is_refused():
    with pytest.raises(InputError, match="folds back before the corners of a 64x48 image"):
        source_size(LensCfg(model="opencv", coefficients=(-0.3, 0, 0, 0, 0)), pinhole(64, 48), 64, 48)


def test_a_lens_that_sees_too_much_is_refused():
    k = np.array([[20.0, 0, 32], [0, 20, 24], [0, 0, 1]])  # 2 rad at the corner
    with pytest.raises(InputError, match="75° off its axis"):
        source_size(LensCfg(model="fisheye", coefficients=(0, 0, 0, 0)), k, 64, 48)
    k[0, 0] = k[1, 1] = 31.0  # 1.29 rad = 74°: just fits
    assert source_size(LensCfg(model="fisheye", coefficients=(0, 0, 0, 0)), k, 64, 48)[0] > 200


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"model": "brown"}, "unknown lens model 'brown'"),
        ({"model": "opencv", "coefficients": (0.1,)}, "expected 5 finite numbers"),
        ({"model": "fisheye", "coefficients": (0, 0, 0, np.nan)}, "expected 4 finite numbers"),
        ({"coefficients": (0.1,)}, "expected 0 finite numbers"),
        ({"model": "fisheye", "coefficients": (0, 0, 0, 0), "spread": (0.1,)}, "spread of the lens"),
        ({"model": "fisheye", "coefficients": (0, 0, 0, 0), "oversample": 0.0}, "oversample is 0"),
    ],
)
def test_bad_lenses(settings, text):
    with pytest.raises(InputError, match=text):
        LensCfg(**settings)


def test_another_size_needs_a_lens():
    renderer = SplatRenderer([street_splats(100, np.random.default_rng(0))], 16, 12)
    with pytest.raises(InputError, match="frames of 32x12 px from a renderer of 16x12 px"):
        RobotCamera(renderer, RobotCameraCfg(), width=32)
