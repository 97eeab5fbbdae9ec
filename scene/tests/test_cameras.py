import numpy as np
import pytest
from gaussgym_scene import InputError, Intrinsics
from gaussgym_scene.cameras import distort, pixel_rays_c, undistort


def test_distortion_by_hand():
    # r² = .05; radial = 1 + .1·.05 + .2·.0025 = 1.0055
    # x: .1·1.0055 + 2·.01·.02 + .02·(.05 + .02) ; y: .2·1.0055 + .01·(.05 + .08) + 2·.02·.02
    x, y = distort([0.1, 0.2], [0.1, 0.2, 0.01, 0.02])
    assert x == pytest.approx(0.10055 + 0.0004 + 0.0014)
    assert y == pytest.approx(0.2011 + 0.0013 + 0.0008)


def test_undistort_inverts_distort():
    points = np.random.default_rng(0).uniform(-0.6, 0.6, size=(100, 2))
    coefficients = (-0.12, 0.03, 0.002, -0.001)
    np.testing.assert_allclose(undistort(distort(points, coefficients), coefficients), points, atol=1e-9)


def test_rays_of_a_90_degree_camera():
    camera = Intrinsics.from_fov(4, 2, np.pi / 2)
    assert camera.fx == pytest.approx(2.0)
    rays = pixel_rays_c(camera)
    np.testing.assert_allclose(rays[0, 0], [(0.5 - 2) / 2, (0.5 - 1) / 2, 1])
    np.testing.assert_allclose(rays[1, 3], [(3.5 - 2) / 2, (1.5 - 1) / 2, 1])


def test_resizing_keeps_the_rays_of_the_corners():
    camera = Intrinsics(width=640, height=480, fx=500, fy=510, cx=310, cy=250)
    small = camera.resized(320, 240)
    for corner in ([0, 0], [1, 1], [0.3, 0.8]):
        u, v = np.array(corner) * (640, 480)
        assert (u - camera.cx) / camera.fx == pytest.approx((u / 2 - small.cx) / small.fx)
        assert (v - camera.cy) / camera.fy == pytest.approx((v / 2 - small.cy) / small.fy)


def test_round_trip_through_plain_values():
    camera = Intrinsics(
        width=8, height=6, fx=5, fy=6, cx=4, cy=3, distortion=(0.1, 0, 0, 0.2), focal_source="exif"
    )
    assert Intrinsics.from_dict(camera.to_dict()) == camera


def test_a_camera_without_focal_length_is_refused():
    with pytest.raises(InputError, match="positive"):
        Intrinsics(width=8, height=6, fx=0, fy=6, cx=4, cy=3)
