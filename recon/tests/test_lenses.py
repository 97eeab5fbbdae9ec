"""Lenses of every model become pinhole images: what a pixel shows is checked against the ray it stands for."""

import numpy as np
import pytest
from gaussgym_recon.sources.colmap_files import PARAMETERS
from gaussgym_recon.sources.lenses import (
    EXACT,
    Lens,
    Undistorter,
    colmap_lens,
    panorama_lens,
    polynomial_lens,
    undistorters,
)
from gaussgym_scene.cameras import Intrinsics, distort, pixel_rays_c
from gaussgym_scene.errors import InputError

EXTRA = {
    "SIMPLE_PINHOLE": [], "PINHOLE": [], "SIMPLE_RADIAL": [-0.1], "RADIAL": [-0.1, 0.03],
    "OPENCV": [-0.1, 0.03, 0.002, -0.001], "OPENCV_FISHEYE": [0.05, -0.01, 0.002, 0.0],
    "FULL_OPENCV": [-0.2, 0.1, 0.001, 0.002, -0.03, 0.01, 0.005, 0.001], "FOV": [0.8],
    "SIMPLE_RADIAL_FISHEYE": [0.04], "RADIAL_FISHEYE": [0.04, -0.01],
    "THIN_PRISM_FISHEYE": [0.04, -0.01, 0.001, 0.002, 0.003, 0.0, 0.001, -0.001],
    "RAD_TAN_THIN_PRISM_FISHEYE": [0.03, -0.01, 0.002, 0, 0, 0, 0.001, 0.002, 0.001, 0, 0, 0.001],
    "SIMPLE_DIVISION": [-0.1], "DIVISION": [-0.1], "SIMPLE_FISHEYE": [], "FISHEYE": [], "EUCM": [0.6, 1.1],
}  # fmt: skip
SINGLE = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "SIMPLE_DIVISION",
          "SIMPLE_FISHEYE")  # fmt: skip


def params_of(model):
    return [*([70.0] if model in SINGLE else [70.0, 72.0]), 61.0, 47.0, *EXTRA[model]]


def ring(lens):
    """An image whose brightness is a smooth function of the pixel, and that function."""

    def at(u, v):
        return 128 + 60 * np.sin(u / 9.0) + 40 * np.cos(v / 11.0)

    u, v = np.meshgrid(np.arange(lens.width) + 0.5, np.arange(lens.height) + 0.5)
    return np.repeat(np.rint(at(u, v)).astype(np.uint8)[..., None], 3, axis=2), at


def test_all_models_of_colmap_are_known_with_their_parameters():
    import pycolmap

    ids = {
        int(model): name for name, model in pycolmap.CameraModelId.__members__.items() if name != "INVALID"
    }
    assert [ids[number] for number in sorted(ids)] == [name for name, _ in PARAMETERS]
    for number, (name, count) in enumerate(PARAMETERS):
        assert len(pycolmap.Camera.create_from_model_name(0, name, 100.0, 64, 32).params) == count, number


@pytest.mark.parametrize("model", [model for model in EXTRA if model in EXACT])
def test_exact_models_project_like_colmap(model):
    import pycolmap

    camera = colmap_lens(model, 120, 90, params_of(model))
    assert isinstance(camera, Intrinsics)
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (50, 2))
    theirs = pycolmap.Camera(model=model, width=120, height=90, params=params_of(model)).img_from_cam(
        np.column_stack([points, np.ones(50)])
    )
    ours = distort(points, camera.distortion) * [camera.fx, camera.fy] + [camera.cx, camera.cy]
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("model", [model for model in EXTRA if model not in EXACT])
def test_other_models_become_pinhole_images_that_show_what_the_lens_saw(model):
    import pycolmap

    lens = colmap_lens(model, 120, 90, params_of(model))
    assert isinstance(lens, Lens)
    undistorter = Undistorter(lens)
    pinhole = undistorter.pinhole
    assert pinhole.distortion == (0, 0, 0, 0)
    assert pinhole.width > 60
    pixels, at = ring(lens)
    rays = pixel_rays_c(pinhole)
    theirs = pycolmap.Camera(model=model, width=120, height=90, params=params_of(model)).img_from_cam(
        rays.reshape(-1, 3)
    )
    assert (theirs > -0.5).all()
    assert (theirs < [120.5, 90.5]).all()  # no pixel of the result lies outside the image
    expected = at(*theirs.T).reshape(rays.shape[:2])
    found = undistorter.image(pixels)[..., 0]
    assert np.abs(found - expected)[2:-2, 2:-2].max() < 4
    # In the middle one pixel of the result is one of the image.
    assert pinhole.fx == pytest.approx(lens.focal_px, rel=0.02)


def test_a_wide_fisheye_ends_at_fifty_degrees():
    lens = colmap_lens(
        "OPENCV_FISHEYE", 400, 400, [110.0, 110, 200, 200, 0, 0, 0, 0]
    )  # about 208 degrees across
    pinhole = Undistorter(lens).pinhole
    assert np.degrees(np.arctan(0.5 * pinhole.width / pinhole.fx)) == pytest.approx(50, abs=0.5)


def test_a_polynomial_lens_is_opencv_where_it_can_be():
    k = np.array([[70.0, 0, 61], [0, 72, 47], [0, 0, 1]])
    lens = polynomial_lens("x", 120, 90, k, (-0.1, 0.03, 0.0, 0.0), 0.002, -0.001)
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (50, 2))
    expected = distort(points, (-0.1, 0.03, 0.002, -0.001)) * [70, 72] + [61, 47]
    np.testing.assert_allclose(
        lens.project(np.column_stack([2 * points, np.full(50, 2.0)])), expected, atol=1e-9
    )
    eighth = polynomial_lens("x", 120, 90, k, (0.0, 0.0, 0.0, 0.5), 0, 0)
    np.testing.assert_allclose(
        eighth.project(np.array([[0.5, 0, 1]])), [[70 * 0.5 * (1 + 0.5 / 256) + 61, 47]]
    )


def test_a_panorama_becomes_four_views_whose_rays_meet_its_pixels():
    lens = panorama_lens(240, 120)
    pixels, _ = ring(lens)
    pixels[58:62, 118:122] = (255, 0, 0)  # straight ahead
    pixels[58:62, 178:182] = (0, 255, 0)  # to the right
    views = undistorters(lens)
    assert len(views) == 4
    ahead, right = (view.image(pixels) for view in views[:2])
    middle = ahead.shape[0] // 2
    assert ahead[middle, middle, 0] > 200 > 100 > ahead[middle, middle, 1]
    assert right[middle, middle, 1] > 200 > 100 > right[middle, middle, 0]
    np.testing.assert_allclose(views[1].lens_from_pinhole[:3, :3] @ [0, 0, 1], [1, 0, 0], atol=1e-12)


def test_depths_and_masks_are_not_mixed():
    lens = colmap_lens("OPENCV_FISHEYE", 120, 90, params_of("OPENCV_FISHEYE"))
    depth = np.where(np.arange(60) < 30, 1.0, 3.0) * np.ones((45, 1))
    assert set(np.unique(Undistorter(lens).nearest(depth))) == {1.0, 3.0}


@pytest.mark.parametrize(
    ("model", "params"), [("FISH", [1.0, 2, 3]), ("PINHOLE", [1.0, 2]), ("OPENCV", [np.nan] * 8)]
)
def test_models_that_are_none_are_named(model, params):
    with pytest.raises(InputError, match=f"camera model {model} with {len(params)} parameters"):
        colmap_lens(model, 10, 10, params)


def test_a_lens_that_sees_nothing_is_refused():
    blind = Lens("BLIND", 10, 10, 5.0, lambda rays: np.full((len(rays), 2), np.nan))
    with pytest.raises(InputError, match="BLIND sees nothing"):
        Undistorter(blind)
