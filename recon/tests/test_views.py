"""Views of several cameras, masks and sensor depth, on images whose content is a function of the ray."""

import cv2
import numpy as np
import pytest
from gaussgym_recon.posed import PosedCapture, Similarity
from gaussgym_recon.views import load_views, pinhole_cameras, read_grey, resample_depth_m
from gaussgym_scene.cameras import Intrinsics, pixel_rays_c
from gaussgym_scene.capture import CaptureImage
from gaussgym_scene.errors import InputError
from PIL import Image

LANDSCAPE = Intrinsics(
    width=80, height=60, fx=70, fy=72, cx=41, cy=29, distortion=(-0.1, 0.02, 0.003, -0.002)
)
PORTRAIT = Intrinsics(width=60, height=80, fx=75, fy=75, cx=30, cy=40, distortion=(0.05, 0, 0, 0))
REFOCUSED = Intrinsics(width=80, height=60, fx=71.5, fy=73.4, cx=40.5, cy=29.5, distortion=(-0.1, 0.02, 0, 0))


def slope(camera):
    """Brightness by the ray: 128 + 100 x, 128 + 100 y, 60."""
    rays = pixel_rays_c(camera)
    return np.stack([128 + 100 * rays[..., 0], 128 + 100 * rays[..., 1], np.full(rays.shape[:2], 60.0)], -1)


def capture(tmp_path, cameras):
    images = []
    for number, camera in enumerate(cameras):
        name = f"{number}.png"
        Image.fromarray(np.round(slope(camera)).astype(np.uint8)).save(tmp_path / name)
        images.append(CaptureImage(name, camera))
    n = len(images)
    empty = np.zeros((0, 3))
    posed = PosedCapture(
        tmp_path, [image.file for image in images], [], list(cameras), np.tile(np.eye(4), (n, 1, 1)), empty,
        empty.astype(np.uint8), np.zeros(0), np.zeros(0, np.int32), [np.zeros(0, np.int32)] * n, Similarity.identity(),
        "user", "sensor", 1.5, None, 0.5, 1.0, 1, None, None, 1.0,
    )  # fmt: skip
    return posed, images


def test_each_view_is_undistorted_by_its_own_camera(tmp_path):
    posed, images = capture(tmp_path, [LANDSCAPE, PORTRAIT, REFOCUSED])
    views = load_views(posed, images, long_sides_px=(40, 80))
    for index, view in enumerate(views.views):
        for level in (0, 1):
            camera = views.camera(index, level)
            assert view.pyramid[level].shape == (camera.height, camera.width, 3)
            off = np.abs(view.pyramid[level].astype(float) - slope(camera))[2:-2, 2:-2]
            assert off.max() < 2.5
    assert views.camera(0) == views.camera(2) == views.intrinsics[-1]
    assert views.camera(1) != views.camera(0)
    assert [views.camera(1, level).height for level in (0, 1)] == [40, 80]


def test_one_camera_is_shared_and_needs_no_cameras_of_views(tmp_path):
    posed, images = capture(tmp_path, [LANDSCAPE, LANDSCAPE])
    views = load_views(posed, images, long_sides_px=(80,))
    assert [view.cameras for view in views.views] == [None, None]


def test_the_shared_camera_sees_no_more_than_any_of_its_own():
    wide, tele = (
        Intrinsics(width=100, height=50, fx=f, fy=f, cx=c, cy=25) for f, c in ((100, 50), (104, 53))
    )
    (shared, other) = pinhole_cameras([wide, tele])
    assert shared == other
    # By hand: left max(-.5, -53/104), right min(.5, 47/104), so fx = 100 / (.5 + .4519) = 105.05, cx = .5 fx.
    assert shared.fx == pytest.approx(100 / (0.5 + 47 / 104))
    assert shared.cx == pytest.approx(0.5 * shared.fx)
    zoomed = Intrinsics(width=100, height=50, fx=120, fy=120, cx=50, cy=25)
    assert pinhole_cameras([wide, zoomed]) == [wide, zoomed]


def test_depth_of_a_plane_is_resampled_exactly():
    # The plane n . x = 2 with inverse depth linear in the ray, seen by a small distorted depth image.
    source, target = LANDSCAPE, Intrinsics(width=80, height=60, fx=85, fy=85, cx=40, cy=30)
    small = source.resized(40, 30)
    depth_mm = np.round(2000 / (1 + 0.3 * pixel_rays_c(small)[..., 0] - 0.2 * pixel_rays_c(small)[..., 1]))
    found = resample_depth_m(depth_mm.astype(np.uint16), source, target)
    rays = pixel_rays_c(target)
    np.testing.assert_allclose(found, 2 / (1 + 0.3 * rays[..., 0] - 0.2 * rays[..., 1]), rtol=2e-3)


def test_no_depth_between_two_surfaces():
    camera = Intrinsics(width=64, height=64, fx=60, fy=60, cx=32, cy=32)
    depth_mm = np.full((16, 16), 1000, np.uint16)
    depth_mm[:, 9:] = 3000
    depth_mm[:4] = 0
    found = resample_depth_m(depth_mm, camera, camera)
    assert set(np.unique(found.round(4)).tolist()) == {0.0, 1.0, 3.0}
    assert (found[16:, 36] > 2.9).all()
    assert (found[16:, 35] < 1.1).all()
    assert (found[:16] == 0).all()


def test_masks_and_confidences_follow_the_image(tmp_path):
    posed, images = capture(tmp_path, [LANDSCAPE])
    mask = np.full((60, 80), 255, np.uint8)
    mask[:, 50:] = 0
    cv2.imwrite(str(tmp_path / "m.png"), mask)
    cv2.imwrite(str(tmp_path / "d.png"), np.full((30, 40), 1234, np.uint16))
    cv2.imwrite(str(tmp_path / "k.png"), np.repeat([[0, 2]], 30, axis=0).repeat(20, axis=1).astype(np.uint8))
    images[0].mask, images[0].depth, images[0].confidence = "m.png", "d.png", "k.png"
    view = load_views(posed, images, long_sides_px=(40, 80)).views[0]
    camera = load_views(posed, images, long_sides_px=(80,)).intrinsics[0]
    used = (pixel_rays_c(camera)[..., 0] * 70 + 41) < 50  # near the middle row distortion is small
    assert (view.masks[1][30] != used[30]).sum() <= 1
    assert view.masks[0].shape == (30, 40)
    assert not view.masks[0][~view.masks[1][::2, ::2]].any()  # conservative
    np.testing.assert_allclose(view.depth_m, 1.234, rtol=1e-6)
    assert view.depth_confidence[30, 5] == 0
    assert view.depth_confidence[30, 75] == 2


def test_an_image_of_another_size_than_its_camera_is_named(tmp_path):
    posed, images = capture(tmp_path, [LANDSCAPE, PORTRAIT])
    posed.intrinsics.reverse()
    with pytest.raises(InputError, match=r"0\.png: is 80x60, its camera 60x80"):
        load_views(posed, images, long_sides_px=(80,))


def test_a_damaged_depth_is_named(tmp_path):
    (tmp_path / "d.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"d\.png: not readable as a grey image"):
        read_grey(tmp_path / "d.png")
    with pytest.raises(InputError, match=r"none\.png: not readable"):
        read_grey(tmp_path / "none.png")
