"""One synthetic capture, written in every layout by independent writers, comes back with the same cameras, depth, points."""

import importlib.util

import numpy as np
import pytest
from gaussgym_recon.sources import SOURCES
from gaussgym_recon.sources.arkitscenes import ArkitScenesCfg
from gaussgym_recon.sources.grandtour import GrandTourCfg
from gaussgym_recon.sources.tum import TumCfg
from gaussgym_scene.cameras import pixel_rays_c
from gaussgym_scene.capture import Capture
from layouts import arkitscenes, colmap, grandtour, nerfstudio, polycam, record3d, tum
from layouts.truth import cast, make_truth
from PIL import Image

EXTRAS = {"record3d": "liblzfse", "grandtour": "zarr"}
ZOOMING, FIXED = make_truth(), make_truth(zoom_step=0.0)
EVERY_GRANDTOUR = {
    "cameras": ("hdr_front", "hdr_left"),
    "voxel_m": 0.0,
    "spacing_m": 0.0,
    "lidar_range_m": (0.0, 99.0),
}


def ark(dataset, sky, **options):
    asset = {"3dod": "lowres_wide", "raw": "vga_wide"}[dataset]
    return lambda at, t: arkitscenes.write(at, t, dataset=dataset, sky=sky, asset=asset, **options)


CASES = {
    "polycam": ("polycam", ZOOMING, polycam.write, None),
    "polycam, not optimised": ("polycam", ZOOMING, lambda at, t: polycam.write(at, t, corrected=False, mesh=False), None),
    "record3d": ("record3d", ZOOMING, record3d.write, None),
    "record3d, one K": ("record3d", FIXED, lambda at, t: record3d.write(at, t, per_frame=False), None),
    "record3d, relative": ("record3d", ZOOMING, lambda at, t: record3d.write(at, t, relative=True), None),
    "record3d, initPose": (
        "record3d", ZOOMING, lambda at, t: record3d.write(at, t, relative=True, init_pose=True), None),
    "arkitscenes 3dod": ("arkitscenes", ZOOMING, ark("3dod", "Up"), None),
    "arkitscenes raw, sky left": ("arkitscenes", ZOOMING, ark("raw", "Left"), None),
    "arkitscenes raw, sky down": ("arkitscenes", ZOOMING, ark("raw", "Down"), ArkitScenesCfg(upright="metadata")),
    "arkitscenes 3dod, sky right": ("arkitscenes", ZOOMING, ark("3dod", "Right"), None),
    "grandtour zarr 3": ("grandtour", ZOOMING, grandtour.write, GrandTourCfg(**EVERY_GRANDTOUR)),
    "grandtour zarr 2, all of the fisheye": (
        "grandtour", ZOOMING, lambda at, t: grandtour.write(at, t, zarr_format=2),
        GrandTourCfg(**EVERY_GRANDTOUR, balance=1.0)),
    "colmap binary": ("colmap", ZOOMING, colmap.write, None),
    "colmap text": ("colmap", ZOOMING, lambda at, t: colmap.write(at, t, binary=False), None),
    "nerfstudio": ("nerfstudio", ZOOMING, nerfstudio.write, None),
    "tum": ("tum", FIXED, tum.write, TumCfg(camera=tum.CAMERA)),
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """Truth, what was written, and the capture that was made of it."""
    source, truth, write, cfg = CASES[request.param]
    if source in EXTRAS and importlib.util.find_spec(EXTRAS[source]) is None:
        pytest.skip(f"{EXTRAS[source]} is not installed")
    folder = tmp_path_factory.mktemp("layout")
    written = write(folder / ("made.r3d" if source == "record3d" else "made"), truth)
    return truth, written, Capture.load(SOURCES.get(source).read(written.path, folder / "capture", cfg))


def test_poses_are_those_of_the_sources_frame(case):
    truth, written, capture = case
    expected = written.c2w_source(truth.c2w)
    assert len(capture.images) == len(truth)
    for image, pose in zip(capture.images, expected):
        np.testing.assert_allclose(image.c2w, pose, atol=2e-6)
        np.testing.assert_allclose(image.c2w[:3, :3].T @ image.c2w[:3, :3], np.eye(3), atol=1e-12)


def test_cameras_are_those_of_the_images(case):
    _truth, written, capture = case
    if written.lenses is None:
        assert capture.metadata["undistorted_from"]
    for index, image in enumerate(capture.images):
        with Image.open(capture.directory / image.file) as pixels:
            assert pixels.size == (image.intrinsics.width, image.intrinsics.height)
        if written.lenses is not None:
            for name in ("width", "height", "fx", "fy", "cx", "cy"):
                expected = getattr(written.lenses[index], name)
                assert getattr(image.intrinsics, name) == pytest.approx(expected, rel=1e-9)
            assert not any(image.intrinsics.distortion)


def test_pixels_show_what_their_rays_hit(case):
    """Half a pixel beside would add 2.2 to 4.4 to the mean absolute difference."""
    truth, written, capture = case
    errors = []
    for index, image in enumerate(capture.images):
        pixels = np.asarray(Image.open(capture.directory / image.file).convert("RGB"), dtype=float)
        error = np.abs(pixels - truth.render(index, pixel_rays_c(image.intrinsics))).mean(axis=-1)
        if image.mask is not None:
            error = error[np.asarray(Image.open(capture.directory / image.mask)) > 0]
        errors.append(error.mean())
    assert np.mean(errors) <= written.pixel_error + 0.02


def test_depth_and_confidence(case):
    truth, written, capture = case
    for index, image in enumerate(capture.images):
        if image.depth is None:
            assert written.depth_size is None
            assert image.confidence is None
            continue
        depth_m = np.asarray(Image.open(capture.directory / image.depth)) * 1e-3
        if written.depth_size is None:
            _check_sparse(truth, index, image, depth_m)
            continue
        assert depth_m.shape == written.depth_size[::-1]
        np.testing.assert_allclose(
            depth_m, truth.depth_m(index, *written.depth_size), atol=written.depth_error_m
        )
        assert (image.confidence is not None) == written.confidence
        if written.confidence:
            levels = np.asarray(Image.open(capture.directory / image.confidence))
            np.testing.assert_array_equal(levels, truth.confidence(index, *written.depth_size))


def _check_sparse(truth, index, image, depth_m):
    """A LiDAR's return lies between the least and the greatest depth within its pixel."""
    fine = image.intrinsics.resized(4 * depth_m.shape[1], 4 * depth_m.shape[0])
    rays = pixel_rays_c(fine)
    depth = cast(truth.c2w[index, :3, 3], rays @ truth.c2w[index, :3, :3].T)
    blocks = (
        depth.reshape(depth_m.shape[0], 4, depth_m.shape[1], 4).swapaxes(1, 2).reshape(*depth_m.shape, 16)
    )
    hit = depth_m > 0
    assert hit.sum() > 25
    slack = 0.25 * (blocks.max(-1) - blocks.min(-1)) + 0.001
    assert (depth_m >= blocks.min(-1) - slack)[hit].all()
    assert (depth_m <= blocks.max(-1) + slack)[hit].all()


def test_points_lie_where_they_were_put(case):
    _truth, written, capture = case
    found = capture.points()
    if written.points is None:
        assert found is None
        return
    points, colors = found
    distances = np.linalg.norm(written.points_source(written.points)[:, None] - points[None], axis=-1)
    assert distances.min(axis=0).max() < 2e-6
    assert distances.min(axis=1).max() < 2e-6
    if written.colors is not None:
        nearest = distances.argmin(axis=0)
        assert np.abs(colors.astype(int) - written.colors[nearest].astype(int)).max() <= 1


def test_what_the_source_knows_is_said(case):
    _truth, written, capture = case
    metadata = capture.metadata
    assert bool(metadata.get("metric")) == written.metric
    assert metadata.get("scale_source") == ("sensor" if written.metric else None)
    assert metadata.get("gravity_source") == ("sensor" if written.gravity else None)
    if written.gravity:
        np.testing.assert_allclose(metadata["up"], written.rotation @ [0, 0, 1], atol=1e-12)
    else:
        assert metadata.get("up") is None
    assert metadata["poses_source"] in ("arkit", "slam", "sfm")
    times = [image.timestamp_s for image in capture.images]
    if written.times_s is not None:
        np.testing.assert_allclose(times, written.times_s, atol=1e-5)
        assert metadata["ordered"]
