"""Coverage against scenes whose answer is known, the verdict's rules by hand, and the page."""

import json

import numpy as np
import pytest
from gaussgym_recon.report.coverage import (
    HOLE,
    SEEN,
    SKY,
    UNSEEN,
    Coverage,
    CoverageCfg,
    Photos,
    measure_coverage,
    unseen_spots,
)
from gaussgym_recon.report.page import assess, write_quality
from gaussgym_recon.report.verdict import RECAPTURE, TRAINABLE, WITH_CARE, judge
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_scene.splats import Splats

CFG = CoverageCfg(headings_rad=(0.0,), width=96, height=72, every_px=6, range_m=4.0)
CAMERA = Intrinsics.from_fov(320, 240, np.radians(70.0))


def floor(x_m=(-1.0, 8.0), hole_m=None):
    """A scene of opaque flat splats on z = 0, 4 m wide, with a path along +X."""
    x, y = np.meshgrid(np.arange(*x_m, 0.08), np.arange(-2.0, 2.0, 0.08), indexing="ij")
    means = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], 1).astype(np.float32)
    if hole_m is not None:
        means = means[(means[:, 0] < hole_m[0]) | (means[:, 0] > hole_m[1])]
    n = len(means)
    splats = Splats(
        means,
        np.tile(np.float32([1, 0, 0, 0]), (n, 1)),
        np.tile(np.float32([0.06, 0.06, 0.004]), (n, 1)),
        np.full(n, 0.97, np.float32),
        np.zeros((n, 1, 3), np.float32),
    )
    line = np.arange(0.0, 3.01, 0.25)
    points = np.stack([line, 0 * line, 0 * line, 0 * line], 1).astype(np.float32)
    paths = Paths(points, np.zeros(len(line), np.int32), np.full(len(line), 0.4, np.float32))
    ground = Heightfield(np.zeros((41, 91), np.float32), 0.1, np.array([-1.0, -2.0]), np.ones((41, 91), bool))
    mesh = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), None)
    return Scene("floor", splats, mesh, ground, paths, {})


def looking(x_m, z_m, pitch_rad, yaw_rad=0.0, *, times=2):
    """Photographs from above the path, looking down by a pitch."""
    ahead = np.array(
        [np.cos(yaw_rad) * np.cos(pitch_rad), np.sin(yaw_rad) * np.cos(pitch_rad), -np.sin(pitch_rad)]
    )
    right = np.array([np.sin(yaw_rad), -np.cos(yaw_rad), 0.0])
    poses = []
    for x in np.repeat(x_m, times):
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, np.cross(ahead, right), ahead, (x, 0, z_m)
        poses.append(pose)
    return Photos([f"images/{i:04d}.jpg" for i in range(len(poses))], np.array(poses), [CAMERA] * len(poses))


ALONG = np.arange(-1.0, 3.0, 0.5)


def test_what_was_photographed_from_the_robots_own_places_is_seen():
    coverage = measure_coverage(floor(), looking(ALONG, 0.4, 0.3), CFG)
    assert coverage.seen > 0.97
    assert coverage.holes == 0.0
    np.testing.assert_allclose(coverage.places[:, 0], np.arange(0.0, 3.01, 0.5))
    upper = coverage.pixels[:, :6]
    assert (upper == SKY).all()  # level cameras: nothing of the floor is above the horizon
    below = coverage.points[coverage.pixels == SEEN]
    # A splat has one depth all over: where views graze the floor its points lie up to its length off.
    assert np.median(np.abs(below[:, 2])) < 0.05
    assert np.abs(below[:, 2]).max() < 0.15


@pytest.mark.parametrize(
    "photos",
    [
        looking([0.0], 0.4, 0.3, times=1),
        looking(ALONG, 0.4, -0.8),  # into the sky
        looking(ALONG + 4.0, 0.4, 0.3, np.pi),  # from the other side: 120 degrees and more off
    ],
    ids=["one photograph", "sky", "other side"],
)
def test_what_was_not_photographed_from_about_there_is_unseen(photos):
    coverage = measure_coverage(floor(), photos, CFG)
    assert coverage.seen < 0.05
    assert (coverage.pixels == UNSEEN).sum() > 0


def test_coarse_photographs_do_not_count():
    high = looking(ALONG, 6.0, 1.2)
    fine = CoverageCfg(
        **{**CFG.__dict__, "max_angle_rad": np.pi, "max_coarseness": 100.0, "photo_width": 320}
    )
    coarse = CoverageCfg(**{**fine.__dict__, "max_coarseness": 0.05})
    assert measure_coverage(floor(), high, fine).seen > 0.8
    assert measure_coverage(floor(), high, coarse).seen < 0.2


def test_a_wall_hides_what_is_behind_it():
    scene = floor()
    y, z = np.meshgrid(np.arange(-2, 2, 0.08), np.arange(0, 2, 0.08), indexing="ij")
    wall = np.stack([np.full(y.size, -0.4), y.ravel(), z.ravel()], 1).astype(np.float32)
    s = scene.splats
    n = len(wall)
    walled = Splats(
        np.concatenate([s.means, wall]),
        np.concatenate([s.quats_wxyz, np.tile(np.float32([1, 0, 0, 0]), (n, 1))]),
        np.concatenate([s.scales, np.tile(np.float32([0.004, 0.06, 0.06]), (n, 1))]),
        np.concatenate([s.opacities, np.full(n, 0.97, np.float32)]),
        np.concatenate([s.sh, np.zeros((n, 1, 3), np.float32)]),
    )
    hidden = Scene("walled", walled, scene.mesh, scene.heightfield, scene.paths, {})
    behind = looking([-0.9, -0.8], 0.4, 0.1)
    assert measure_coverage(scene, behind, CFG).seen > 0.5
    assert measure_coverage(hidden, behind, CFG).seen < 0.02


def test_a_gap_in_the_floor_is_a_hole_and_the_sky_is_none():
    coverage = measure_coverage(floor(hole_m=(0.2, 1.5)), looking(ALONG, 0.4, 0.3), CFG)
    assert coverage.holes > 0.1
    at = np.argwhere(coverage.pixels[0] == HOLE)
    assert at[:, 0].min() >= 6


def test_unseen_places_are_named_by_the_nearest_photograph():
    photos = looking([0.0], 0.4, -0.8)
    spots = unseen_spots(measure_coverage(floor(), photos, CFG), photos, count=2)
    assert len(spots) == 2
    assert spots[0].share >= spots[1].share > 0
    assert spots[0].photo in photos.names
    assert spots[0].bearing in ("ahead", "left", "right")  # the robots look along +X, as the photographs do
    # one to the left of a photograph
    photos.c2w[:, :3, :3] = looking([0.0], 0.4, 0.0, -np.pi / 2).c2w[:, :3, :3]
    assert unseen_spots(measure_coverage(floor(), photos, CFG), photos, count=1)[0].bearing == "left"


GOOD = {
    "registered_fraction": 1.0, "reprojection_error_px": 0.5, "psnr_db_heldout": 29.0, "psnr_db_mean_image": 14.0,
    "scale_std_fraction": 0.01, "gravity_std_rad": 0.005, "hole_fraction": 0.01, "splat_mesh_disagreement_m": 0.01,
    "coverage_seen": 0.95, "coverage_holes": 0.0, "path_length_max_m": 20.0,
}  # fmt: skip


def test_the_verdict_by_hand():
    assert judge(GOOD).name == TRAINABLE
    assert judge(GOOD).findings == ()
    care = judge({**GOOD, "hole_fraction": 0.1})
    assert (care.name, [f.key for f in care.findings]) == (WITH_CARE, ["hole_fraction"])
    assert "10 %" in care.findings[0].text
    bad = judge({**GOOD, "hole_fraction": 0.1, "psnr_db_heldout": 15.0})
    assert bad.name == RECAPTURE
    assert [f.key for f in bad.findings] == ["psnr_gain_db", "psnr_db_heldout", "hole_fraction"]
    assert judge({**GOOD, "scale_std_fraction": None}).name == WITH_CARE  # unknown is never taken for good
    assert judge({k: v for k, v in GOOD.items() if k != "gravity_std_rad"}).name == WITH_CARE


def test_the_page_says_what_was_found(tmp_path):
    scene = floor()
    photos = looking(ALONG, 0.4, 0.3)
    camera = CAMERA.to_dict()
    scene.metadata |= {
        **GOOD,
        "images_total": 20,
        "scale_source": "<gps>",
        "cameras": {
            "names": photos.names,
            "c2w": photos.c2w.tolist(),
            "intrinsics": [camera] * len(photos.names),
        },
    }
    added, coverage, spots = assess(scene, CFG)
    scene.metadata |= added
    assert added["verdict"]["name"] == TRAINABLE
    page = write_quality(scene, tmp_path, coverage, spots, judge(scene.metadata)).read_text()
    assert "&lt;gps&gt;" in page
    assert "16 of 20 found their place" in page
    assert "<svg" in page
    numbers = json.loads((tmp_path / "quality.json").read_text())
    assert numbers["verdict"]["name"] == TRAINABLE
    assert numbers["measures"]["coverage_seen"] == added["coverage_seen"]


def test_a_scene_without_photographs_has_a_page_too(tmp_path):
    scene = floor()
    added, coverage, spots = assess(scene)
    assert added["coverage_seen"] is None
    assert write_quality(scene, tmp_path, coverage, spots, judge(added)).exists()


def test_the_command_keeps_other_folders(tmp_path):
    from gaussgym_recon.commands.report import Report
    from gaussgym_scene.errors import InputError

    scene = floor()
    scene.save(tmp_path / "scene")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("dear to me")
    with pytest.raises(InputError, match=r"exists and holds no quality\.html"):
        Report(tmp_path / "scene", tmp_path / "mine")()
    assert (tmp_path / "mine" / "notes.txt").exists()
    assert Report(tmp_path / "scene", tmp_path / "new")() == tmp_path / "new" / "quality.html"
    assert Report(tmp_path / "scene", tmp_path / "new")().exists()


def test_a_scene_without_paths_has_no_coverage():
    empty = np.zeros((0, 2, 3))
    coverage = Coverage(
        np.zeros((0, 4)),
        empty.astype(np.uint8),
        np.zeros((0, 4, 6, 3), np.uint8),
        np.zeros((0, 2, 3, 3)),
        CoverageCfg(),
    )
    assert coverage.by_place.shape == (0,)
    assert coverage.seen is None
